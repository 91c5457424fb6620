#include "calib/trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Below this a mass is nothing: its logarithm would be infinite. */
#define LEAST_MASS 1e-30

/* Columns [c0, c1) with codes of `bits` bits. Selectors share their scores. */
typedef struct {
    int c0, c1, bits;
} piece;

typedef struct {
    const aq_group *group;
    const aq_selector *list;
    int n;
    const aq_mass_rule *rule;
    piece *pieces;
    int n_piece;
    int *uses;                    /* [n, n_interval] pieces of each selector, -1: no codes there */
    int n_interval;               /* between neighbouring borders of any selector */
    float *memory;                /* of the threads */
    int64_t thread_floats;        /* of each */
    aq_trial_sum *found;          /* [n_query, n] losses; NULL: recalls are asked for */
    aq_trial_recall_sum *recalls; /* [n_query] of the only selector */
} trial;

/* Working memory of one thread. */
typedef struct {
    float *exact;  /* [n_group, n_tok] scores */
    float *truth;  /* [n_group, n_tok] their softmax */
    float *z;      /* [n_group, n_tok] scores of a selector, then their softmax */
    float *pieces; /* [n_piece, n_group, n_tok] scores of the pieces, far tokens only */
    float *w;      /* [n_tok] weights of the group */
    float *sorted; /* [n_tok] */
    float *dims;   /* [2 d_head] */
    bool *chosen;  /* [n_tok] and at least d_head */
} scratch;

static int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t floats_needed(const trial *t) {
    const int64_t n_tok = t->group->n_tok, rows = t->group->n_group;
    return (3 + t->n_piece) * rows * n_tok + 2 * n_tok + 2 * t->group->d_head +
           most(n_tok, t->group->d_head);
}

static scratch scratch_of(const trial *t, int thread) {
    const int64_t n_tok = t->group->n_tok, n_row = t->group->n_group * n_tok;
    scratch s = {.exact = t->memory + thread * t->thread_floats};
    s.truth = s.exact + n_row;
    s.z = s.truth + n_row;
    s.pieces = s.z + n_row;
    s.w = s.pieces + t->n_piece * n_row;
    s.sorted = s.w + n_tok;
    s.dims = s.sorted + n_tok;
    s.chosen = (bool *)(s.dims + 2 * t->group->d_head);
    return s;
}

/* Scores of the codes of a few columns, for a selector that reads those that matter. */
static void score_dynamic(const trial *t, const scratch *s, int64_t i, const aq_selector *selector,
                          int64_t begin, int64_t end) {
    const aq_group *group = t->group;
    const int n_col = selector->codes.segments[0].n;
    const float *keys = group->coded[selector->codes.segments[0].bits];
    float *weight = s->dims, *work = s->dims + group->d_head;
    memset(weight, 0, (size_t)n_col * sizeof *weight);
    for (int h = 0; h < group->n_group; h++)
        for (int c = 0; c < n_col; c++)
            weight[c] += fabsf(aq_group_query(group, i, h)[c]) * group->sigma[c];
    aq_mass_best(weight, n_col, selector->n_dynamic, work, s->chosen);
    for (int h = 0; h < group->n_group; h++)
        for (int c = 0; c < n_col; c++)
            if (s->chosen[c])
                aq_group_score(group, keys, aq_group_query(group, i, h), c, c + 1, begin, end,
                               s->z + h * group->n_tok + begin);
}

static void score_static(const trial *t, const scratch *s, int which, int64_t begin, int64_t end) {
    const aq_group *group = t->group;
    for (int j = 0; j < t->n_interval; j++) {
        const int use = t->uses[which * t->n_interval + j];
        for (int h = 0; use >= 0 && h < group->n_group; h++) {
            const float *from = s->pieces + (use * group->n_group + h) * group->n_tok;
            float *z = s->z + h * group->n_tok;
            for (int64_t k = begin; k < end; k++)
                z[k] += from[k];
        }
    }
}

/* s->z = scores of a selector for query i, the near ones exact; all of them without codes. */
static void score_selector(const trial *t, const scratch *s, int64_t i, int which, int64_t begin,
                           int64_t end) {
    const aq_group *group = t->group;
    const size_t row_bytes = (size_t)(group->pos[i] + 1) * sizeof(float);
    const size_t far_bytes =
        t->list[which].codes.n_segment > 0 ? (size_t)(end - begin) * sizeof(float) : 0;
    for (int h = 0; h < group->n_group; h++) {
        float *z = s->z + h * group->n_tok;
        memcpy(z, s->exact + h * group->n_tok, row_bytes);
        memset(z + begin, 0, far_bytes);
    }
    if (t->list[which].n_dynamic > 0)
        score_dynamic(t, s, i, &t->list[which], begin, end);
    else
        score_static(t, s, which, begin, end);
}

/* Exact softmax mass of head h: of the near tokens among n and of the chosen far ones. */
static double mass_held(const trial *t, const scratch *s, int h, int64_t n, int64_t begin,
                        int64_t end) {
    const float *truth = s->truth + h * t->group->n_tok;
    double mass = 0;
    for (int64_t k = 0; k < n; k++)
        if (k < begin || k >= end || s->chosen[k - begin]) mass += (double)truth[k];
    return mass;
}

static int64_t count_from(const float *w, int64_t n, float least) {
    int64_t count = 0;
    for (int64_t k = 0; k < n; k++)
        count += w[k] >= least;
    return count;
}

/* The loss of a selector on query i, which chooses n_best far tokens. */
static void try_selector(const trial *t, const scratch *s, int64_t i, int which, int64_t n_best) {
    const aq_group *group = t->group;
    const int64_t n = group->pos[i] + 1;
    aq_trial_sum *out = &t->found[i * t->n + which];
    int64_t begin, end;
    aq_mass_far(t->rule, n, &begin, &end);
    score_selector(t, s, i, which, begin, end);
    aq_mass_weights(s->z, group->n_group, group->n_tok, n, t->rule->group_mean, s->w);
    aq_mass_best(s->w + begin, end - begin, n_best, s->sorted, s->chosen);
    for (int h = 0; h < group->n_group; h++)
        out->loss -= log(fmax(mass_held(t, s, h, n, begin, end), LEAST_MASS));
    out->n += group->n_group;
}

/* What the only selector takes of what query i sees, and holds. */
static void recall_query(const trial *t, const scratch *s, int64_t i) {
    const aq_group *group = t->group;
    const int64_t n = group->pos[i] + 1;
    aq_trial_recall_sum *out = &t->recalls[i];
    int64_t begin, end;
    aq_mass_far(t->rule, n, &begin, &end);
    score_selector(t, s, i, 0, begin, end);
    aq_mass_weights(s->z, group->n_group, group->n_tok, n, t->rule->group_mean, s->w);
    const float least = aq_mass_threshold(s->w, n, t->rule->mass, s->sorted);
    for (int64_t k = begin; k < end; k++)
        s->chosen[k - begin] = s->w[k] >= least;
    for (int h = 0; h < group->n_group; h++)
        out->mass += mass_held(t, s, h, n, begin, end);
    const int64_t n_attended = n - (end - begin) + count_from(s->w + begin, end - begin, least);
    out->attended += (double)(n_attended * group->n_group) / (double)n;
    out->n += group->n_group;
}

/* The exact scores of query i; returns how many far tokens they need. */
static int64_t score_exact(const trial *t, const scratch *s, int64_t i) {
    const aq_group *group = t->group;
    const int64_t n = group->pos[i] + 1;
    int64_t begin, end;
    memset(s->exact, 0, (size_t)(group->n_group * group->n_tok) * sizeof *s->exact);
    for (int h = 0; h < group->n_group; h++)
        aq_group_score(group, group->key, aq_group_query(group, i, h), 0, group->d_head, 0, n,
                       s->exact + h * group->n_tok);
    memcpy(s->truth, s->exact, (size_t)(group->n_group * group->n_tok) * sizeof *s->truth);
    aq_mass_weights(s->truth, group->n_group, group->n_tok, n, t->rule->group_mean, s->w);
    const float least = aq_mass_threshold(s->w, n, t->rule->mass, s->sorted);
    aq_mass_far(t->rule, n, &begin, &end);
    return count_from(s->w + begin, end - begin, least);
}

static void score_pieces(const trial *t, const scratch *s, int64_t i) {
    const aq_group *group = t->group;
    int64_t begin, end;
    aq_mass_far(t->rule, group->pos[i] + 1, &begin, &end);
    memset(s->pieces, 0, (size_t)(t->n_piece * group->n_group * group->n_tok) * sizeof *s->pieces);
    for (int j = 0; j < t->n_piece; j++)
        for (int h = 0; h < group->n_group; h++)
            aq_group_score(group, group->coded[t->pieces[j].bits], aq_group_query(group, i, h),
                           t->pieces[j].c0, t->pieces[j].c1, begin, end,
                           s->pieces + (j * group->n_group + h) * group->n_tok + begin);
}

static void try_share(void *arg, int thread, int n_thread) {
    const trial *t = arg;
    const scratch s = scratch_of(t, thread);
    for (int64_t i = thread; i < t->group->n_query; i += n_thread) {
        const int64_t n_best = score_exact(t, &s, i);
        score_pieces(t, &s, i);
        for (int which = 0; t->found && which < t->n; which++)
            try_selector(t, &s, i, which, n_best);
        if (t->recalls) recall_query(t, &s, i);
    }
}

/* The number of the piece with these columns and bits, a new one if need be. */
static int piece_of(trial *t, int c0, int c1, int bits) {
    for (int j = 0; j < t->n_piece; j++)
        if (t->pieces[j].c0 == c0 && t->pieces[j].bits == bits) return j;
    t->pieces[t->n_piece] = (piece){c0, c1, bits};
    return t->n_piece++;
}

/* Cuts the columns where any static selector does; borders[n_interval + 1] is sized d + 2. */
static void cut_columns(trial *t, int *borders) {
    const int d = t->group->d_head;
    memset(borders, 0, (size_t)(d + 2) * sizeof *borders);
    for (int i = 0; i < t->n; i++)
        for (int j = 0, c = 0; t->list[i].n_dynamic == 0 && j < t->list[i].codes.n_segment; j++) {
            c += t->list[i].codes.segments[j].n;
            borders[c] = 1;
        }
    t->n_interval = 0;
    for (int c = 1; c <= d; c++) /* from marks to a list; the list never overtakes the marks */
        if (borders[c]) borders[++t->n_interval] = c;
    borders[0] = 0;
}

static aq_status plan_pieces(trial *t) {
    const int d = t->group->d_head;
    int *borders = malloc((size_t)(d + 2) * sizeof *borders);
    if (!borders) return aq_fail(AQ_ERR_MEMORY, "no memory to try selectors");
    cut_columns(t, borders);
    t->uses = malloc((size_t)(t->n * t->n_interval + 1) * sizeof *t->uses);
    t->pieces = malloc((size_t)(AQ_GROUP_BITS * t->n_interval + 1) * sizeof *t->pieces);
    for (int i = 0; t->uses && t->pieces && i < t->n; i++)
        for (int j = 0; j < t->n_interval; j++) {
            const int bits = t->list[i].n_dynamic > 0
                                 ? 0
                                 : aq_code_layout_bits_at(&t->list[i].codes, borders[j]);
            t->uses[i * t->n_interval + j] =
                bits > 0 ? piece_of(t, borders[j], borders[j + 1], bits) : -1;
        }
    free(borders);
    return t->uses && t->pieces ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory to try selectors");
}

/* Tries the selectors on one group; results are in t->found or t->recalls. */
static aq_status try_group(trial *t, aq_threads *team) {
    const int n_thread = team ? aq_threads_count(team) : 1;
    AQ_TRY(plan_pieces(t));
    t->thread_floats = floats_needed(t);
    t->memory = malloc((size_t)(n_thread * t->thread_floats) * sizeof *t->memory);
    if (!t->memory) return aq_fail(AQ_ERR_MEMORY, "no memory to try selectors");
    if (team)
        aq_threads_run(team, try_share, t);
    else
        try_share(t, 0, 1);
    return AQ_OK;
}

static void close_trial(trial *t) {
    free(t->uses);
    free(t->pieces);
    free(t->memory);
    t->uses = NULL;
    t->pieces = NULL;
    t->memory = NULL;
    t->n_piece = 0;
}

/* All KV heads of a sample, one after the other. */
static aq_status try_sample(trial *t, const aq_sample *sample, const aq_projection *projection) {
    unsigned bits = 0;
    aq_status status = AQ_OK;
    for (int i = 0; i < t->n; i++)
        for (int j = 0; j < t->list[i].codes.n_segment; j++)
            bits |= 1u << t->list[i].codes.segments[j].bits;
    for (int head = 0; status == AQ_OK && head < sample->n_kv_head; head++) {
        aq_group group;
        status = aq_group_open(sample, projection, head, bits, &group);
        t->group = &group;
        if (status == AQ_OK) status = try_group(t, sample->team);
        close_trial(t);
        aq_group_close(&group);
    }
    return status;
}

aq_status aq_trial_add(const aq_sample *sample, const aq_projection *projection,
                       const aq_selector *list, int n, const aq_mass_rule *rule,
                       aq_trial_sum *sums) {
    const int64_t n_found = sample->n_query * n;
    trial t = {.list = list, .n = n, .rule = rule};
    t.found = calloc((size_t)n_found + 1, sizeof *t.found);
    if (!t.found) return aq_fail(AQ_ERR_MEMORY, "no memory to try selectors");
    const aq_status status = try_sample(&t, sample, projection);
    for (int64_t j = 0; status == AQ_OK && j < n_found; j++) {
        sums[j % n].loss += t.found[j].loss;
        sums[j % n].n += t.found[j].n;
    }
    free(t.found);
    return status;
}

aq_status aq_trial_recall(const aq_sample *sample, const aq_projection *projection,
                          const aq_selector *selector, const aq_mass_rule *rule,
                          aq_trial_recall_sum *sum) {
    trial t = {.list = selector, .n = 1, .rule = rule};
    t.recalls = calloc((size_t)sample->n_query + 1, sizeof *t.recalls);
    if (!t.recalls) return aq_fail(AQ_ERR_MEMORY, "no memory to try selectors");
    const aq_status status = try_sample(&t, sample, projection);
    for (int64_t i = 0; status == AQ_OK && i < sample->n_query; i++) {
        sum->mass += t.recalls[i].mass;
        sum->attended += t.recalls[i].attended;
        sum->n += t.recalls[i].n;
    }
    free(t.recalls);
    return status;
}
