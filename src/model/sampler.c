#include "src/model/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "src/base/rng.h"

/* A token still in the choice. */
typedef struct {
    float logit;
    int32_t id;
} candidate;

struct aq_sampler {
    aq_sampler_options options;
    int32_t n_vocab;
    aq_rng rng;
    candidate *candidates; /* [n_vocab] largest logit first once sorted */
    double *weights;       /* [n_vocab] exp(logit - largest) */
    int32_t *recent;       /* [repeat_last_n] ring of ids */
    int n_recent;
    int next_recent;
    bool *penalised; /* [n_vocab] set while a draw marks recent ids, else all false */
};

aq_sampler_options aq_sampler_defaults(void) {
    return (aq_sampler_options){.temp = 0.8f,
                                .top_k = 40,
                                .top_p = 0.95f,
                                .min_p = 0.05f,
                                .repeat_penalty = 1.0f,
                                .repeat_last_n = 64,
                                .seed = 0};
}

static aq_status check_options(const aq_sampler_options *o, int32_t n_vocab) {
    if (n_vocab < 1) return aq_fail(AQ_ERR_USAGE, "a sampler needs at least one token");
    if (!isfinite(o->temp))
        return aq_fail(AQ_ERR_USAGE, "temp is %g, expected a finite number", (double)o->temp);
    if (o->top_k < 0)
        return aq_fail(AQ_ERR_USAGE, "top_k is %d, expected 0 (all) or more", o->top_k);
    if (!(o->top_p >= 0 && o->top_p <= 1))
        return aq_fail(AQ_ERR_USAGE, "top_p is %g, expected 0 to 1", (double)o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return aq_fail(AQ_ERR_USAGE, "min_p is %g, expected 0 to 1", (double)o->min_p);
    if (!(o->repeat_penalty > 0 && isfinite(o->repeat_penalty)))
        return aq_fail(AQ_ERR_USAGE, "repeat_penalty is %g, expected more than 0",
                       (double)o->repeat_penalty);
    if (o->repeat_last_n < 0)
        return aq_fail(AQ_ERR_USAGE, "repeat_last_n is %d, expected 0 or more", o->repeat_last_n);
    return AQ_OK;
}

aq_status aq_sampler_open(const aq_sampler_options *options, int32_t n_vocab, aq_sampler **out) {
    *out = NULL;
    AQ_TRY(check_options(options, n_vocab));
    aq_sampler *s = calloc(1, sizeof *s);
    if (!s) return aq_fail(AQ_ERR_MEMORY, "no memory for a sampler");
    s->options = *options;
    s->n_vocab = n_vocab;
    s->rng.state = options->seed;
    s->candidates = malloc((size_t)n_vocab * sizeof *s->candidates);
    s->weights = malloc((size_t)n_vocab * sizeof *s->weights);
    s->recent = malloc(((size_t)options->repeat_last_n + 1) * sizeof *s->recent);
    s->penalised = calloc((size_t)n_vocab, sizeof *s->penalised);
    if (!s->candidates || !s->weights || !s->recent || !s->penalised) {
        aq_sampler_close(s);
        return aq_fail(AQ_ERR_MEMORY, "no memory to sample from %d tokens", (int)n_vocab);
    }
    *out = s;
    return AQ_OK;
}

void aq_sampler_close(aq_sampler *sampler) {
    if (!sampler) return;
    free(sampler->candidates);
    free(sampler->weights);
    free(sampler->recent);
    free(sampler->penalised);
    free(sampler);
}

void aq_sampler_accept(aq_sampler *sampler, int32_t id) {
    const int size = sampler->options.repeat_last_n;
    if (size == 0 || id < 0 || id >= sampler->n_vocab) return;
    sampler->recent[sampler->next_recent] = id;
    sampler->next_recent = (sampler->next_recent + 1) % size;
    if (sampler->n_recent < size) sampler->n_recent++;
}

static void mark_recent(aq_sampler *s, bool penalised) {
    for (int i = 0; i < s->n_recent; i++)
        s->penalised[s->recent[i]] = penalised;
}

/* Logits of recent tokens move away from being chosen: positive ones are divided by the penalty,
 * the others multiplied (Keskar et al. 2019, arXiv 1909.05858, as usually done). */
static float penalise(float logit, float penalty) {
    return logit > 0 ? logit / penalty : logit * penalty;
}

/* Takes all tokens that may be chosen; NaN and -inf never are. Returns how many. */
static int32_t gather(aq_sampler *s, const float *logits) {
    const float penalty = s->options.repeat_penalty;
    int32_t n = 0;
    mark_recent(s, true);
    for (int32_t id = 0; id < s->n_vocab; id++) {
        const float logit = s->penalised[id] ? penalise(logits[id], penalty) : logits[id];
        if (logit > -INFINITY) s->candidates[n++] = (candidate){logit, id};
    }
    mark_recent(s, false);
    return n;
}

/* Larger logits first, of equal ones the lower id. */
static bool before(candidate a, candidate b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

/* Moves c[i] of the heap c[0 .. n) down to its place; the root is the last in order. */
static void sift_down(candidate *c, int32_t n, int32_t i) {
    const candidate moved = c[i];
    for (int64_t child; (child = 2 * (int64_t)i + 1) < n; i = (int32_t)child) {
        if (child + 1 < n && before(c[child], c[child + 1])) child++;
        if (!before(moved, c[child])) break;
        c[i] = c[child];
    }
    c[i] = moved;
}

/* Leaves the first k of n candidates in c[0 .. k), sorted: a heap of the best k so far. */
static void keep_top(candidate *c, int32_t n, int32_t k) {
    for (int32_t i = k / 2; i-- > 0;)
        sift_down(c, k, i);
    for (int32_t i = k; i < n; i++) {
        if (!before(c[i], c[0])) continue;
        c[0] = c[i];
        sift_down(c, k, 0);
    }
    for (int32_t left = k; left > 1; left--) {
        const candidate last = c[0];
        c[0] = c[left - 1];
        c[left - 1] = last;
        sift_down(c, left - 1, 0);
    }
}

/* weights[i] = exp((logit_i - logit_0) / temp) of sorted candidates; returns their sum. Infinite
 * logits, if any, share the whole weight. */
static double weigh(aq_sampler *s, int32_t n, double temp) {
    const double largest = s->candidates[0].logit;
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        const double logit = s->candidates[i].logit;
        s->weights[i] = logit == largest ? 1 : exp((logit - largest) / temp);
        sum += s->weights[i];
    }
    return sum;
}

/* The fewest of the first n candidates whose share of the weight reaches top_p, at least one.
 * Source: Holtzman et al. 2020, arXiv 1904.09751. */
static int32_t cut_top_p(const aq_sampler *s, int32_t n, double sum) {
    if (s->options.top_p >= 1) return n;
    double share = 0;
    for (int32_t i = 0; i < n; i++) {
        share += s->weights[i];
        if (share >= (double)s->options.top_p * sum) return i + 1;
    }
    return n;
}

/* Those at least min_p times as likely as the likeliest. Source: Nguyen et al. 2024, arXiv
 * 2407.01082. */
static int32_t cut_min_p(const aq_sampler *s, int32_t n) {
    while (n > 1 && s->weights[n - 1] < (double)s->options.min_p)
        n--;
    return n;
}

static candidate pick(aq_sampler *s, int32_t n) {
    const double sum = weigh(s, n, (double)s->options.temp);
    double left = aq_rng_uniform(&s->rng) * sum;
    for (int32_t i = 0; i < n - 1; i++) {
        left -= s->weights[i];
        if (left < 0) return s->candidates[i];
    }
    return s->candidates[n - 1];
}

static candidate largest(const candidate *c, int32_t n) {
    candidate best = c[0];
    for (int32_t i = 1; i < n; i++)
        if (before(c[i], best)) best = c[i];
    return best;
}

aq_status aq_sampler_draw(aq_sampler *sampler, const float *logits, int32_t *id) {
    const aq_sampler_options *o = &sampler->options;
    int32_t n = gather(sampler, logits);
    if (n == 0)
        return aq_fail(AQ_ERR_NUMERIC, "no token can be chosen: all %d logits are NaN or -inf",
                       (int)sampler->n_vocab);
    if (o->temp <= 0) {
        *id = largest(sampler->candidates, n).id;
    } else {
        const int32_t k = o->top_k > 0 && o->top_k < n ? o->top_k : n;
        keep_top(sampler->candidates, n, k);
        n = cut_top_p(sampler, k, weigh(sampler, k, 1.0));
        n = cut_min_p(sampler, n);
        *id = pick(sampler, n).id;
    }
    aq_sampler_accept(sampler, *id);
    return AQ_OK;
}
