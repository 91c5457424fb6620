#include "tests/support/oracle_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/oracle.h"
#include "tests/support/oracle_parts.h"

typedef aq_oracle_pass pass;

static bool has_bug(const pass *p, aq_oracle_bug bug) {
    return p->attention.bug == bug;
}

double *aq_oracle_rows(int64_t n, int64_t width) {
    double *x = calloc((size_t)(n * width) + 1, sizeof *x);
    if (x) return x;
    fprintf(stderr, "no memory for the oracle\n");
    exit(1);
}

/* Row o of a matrix in double precision. */
static void load_row(const aq_weight *w, int64_t o, double *row) {
    const int64_t bytes = aq_dtype_row_bytes(w->dtype, w->n_in);
    for (int64_t i = 0; i < w->n_in; i++)
        row[i] = aq_ref_weight(w->dtype, (const uint8_t *)w->data + o * bytes, i);
}

double *aq_oracle_multiply(const pass *p, const aq_weight *w, const double *x, int64_t n) {
    double *y = aq_oracle_rows(n, w->n_out), *row = aq_oracle_rows(1, w->n_in);
    const bool biased = w->bias && !has_bug(p, AQ_ORACLE_BIAS);
    for (int64_t o = 0; o < w->n_out; o++) {
        load_row(w, o, row);
        for (int64_t t = 0; t < n; t++) {
            const double *from = x + t * w->n_in;
            double sum = biased ? (double)w->bias[o] : 0.0;
            for (int64_t i = 0; i < w->n_in; i++)
                sum += row[i] * from[i];
            y[t * w->n_out + o] = sum;
        }
    }
    free(row);
    return y;
}

void aq_oracle_normalise(aq_norm_kind kind, double eps, const float *w, const float *b, int64_t d,
                         double *x) {
    double mean = 0.0, square = 0.0;
    for (int64_t i = 0; i < d && kind == AQ_NORM_LAYER; i++)
        mean += x[i] / (double)d;
    for (int64_t i = 0; i < d; i++)
        square += (x[i] - mean) * (x[i] - mean) / (double)d;
    for (int64_t i = 0; i < d; i++)
        x[i] = (x[i] - mean) / sqrt(square + eps) * (double)w[i] + (b ? (double)b[i] : 0.0);
}

/* A normalised copy of n rows; a plain one if the norm is absent. */
static double *normalise(const pass *p, const aq_norm_weight *norm, const double *x) {
    const aq_model_config *c = p->config;
    const int64_t d = c->d_model;
    double *y = aq_oracle_rows(p->n, d);
    memcpy(y, x, (size_t)(p->n * d) * sizeof *y);
    for (int64_t t = 0; t < p->n && norm->w; t++)
        aq_oracle_normalise(c->norm, (double)c->norm_eps, norm->w, norm->b, d, y + t * d);
    return y;
}

static double activate(aq_activation kind, double x) {
    switch (kind) {
    case AQ_ACT_SILU:
        return x / (1.0 + exp(-x));
    case AQ_ACT_GELU:
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case AQ_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    default:
        return x > 0.0 ? x : 0.0;
    }
}

static double *feed(const pass *p, const aq_ffn_weights *w, const double *x, int64_t n) {
    const aq_activation kind = p->config->activation;
    const bool gated = w->w_gate.data != NULL, swapped = gated && has_bug(p, AQ_ORACLE_GATE);
    double *up = aq_oracle_multiply(p, swapped ? &w->w_gate : &w->w_up, x, n);
    double *gate = gated ? aq_oracle_multiply(p, swapped ? &w->w_up : &w->w_gate, x, n) : NULL;
    for (int64_t i = 0; i < n * w->w_up.n_out; i++)
        up[i] = gate ? activate(kind, gate[i]) * up[i] : activate(kind, up[i]);
    double *y = aq_oracle_multiply(p, &w->w_down, up, n);
    free(gate);
    free(up);
    return y;
}

/* share[n_expert]: what each expert counts for in one token; 0 for those it does not use. */
static void route(const pass *p, const double *score, double *share) {
    const aq_model_config *c = p->config;
    const bool renormalised = c->expert_renormalise != has_bug(p, AQ_ORACLE_SHARES);
    double total = 0.0, used = 0.0;
    for (int e = 0; e < c->n_expert; e++)
        total += exp(score[e]);
    for (int k = 0; k < c->n_expert_used; k++) {
        int best = -1;
        for (int e = 0; e < c->n_expert; e++)
            if (share[e] == 0.0 && (best < 0 || score[e] > score[best])) best = e;
        used += share[best] = exp(score[best]);
    }
    for (int e = 0; e < c->n_expert; e++)
        share[e] /= renormalised ? used : total;
}

/* y += what one expert gives the tokens that use it; shares of token t at share[t * n_expert]. */
static void feed_expert(const pass *p, const aq_ffn_weights *w, const double *share,
                        const double *x, double *y) {
    const int64_t d = p->config->d_model, n_expert = p->config->n_expert;
    double *used = aq_oracle_rows(p->n, d);
    int64_t n = 0;
    for (int64_t t = 0; t < p->n; t++)
        if (share[t * n_expert] > 0) memcpy(used + n++ * d, x + t * d, (size_t)d * sizeof *used);
    double *part = feed(p, w, used, n), *next = part;
    for (int64_t t = 0; t < p->n; t++)
        for (int64_t i = 0; i < d && share[t * n_expert] > 0; i++)
            y[t * d + i] += share[t * n_expert] * *next++;
    free(used);
    free(part);
}

static double *feed_experts(const pass *p, const aq_layer_weights *w, const double *x) {
    const int64_t n_expert = p->config->n_expert;
    double *score = aq_oracle_multiply(p, &w->router, x, p->n);
    double *share = aq_oracle_rows(p->n, n_expert), *y = aq_oracle_rows(p->n, p->config->d_model);
    for (int64_t t = 0; t < p->n; t++)
        route(p, score + t * n_expert, share + t * n_expert);
    for (int64_t e = 0; e < n_expert; e++)
        feed_expert(p, &w->experts[e], share + e, x, y);
    free(score);
    free(share);
    return y;
}

static void add(double *x, const double *y, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        x[i] += y[i];
}

static void run_layer(pass *p, int index, double *x) {
    const aq_layer_weights *w = &p->weights->layers[index];
    const bool parallel = p->config->parallel_residual && !has_bug(p, AQ_ORACLE_SERIAL);
    const bool unnormed = has_bug(p, AQ_ORACLE_POST_NORM);
    const aq_norm_weight none = {NULL, NULL};
    const int64_t n = p->n * p->config->d_model;
    double *h = normalise(p, &w->attn_norm, x);
    double *a = aq_oracle_attend(p, index, h);
    double *a_normed = normalise(p, unnormed ? &none : &w->attn_post_norm, a);
    free(h);
    if (!parallel) add(x, a_normed, n);
    h = normalise(p, has_bug(p, AQ_ORACLE_NORM) ? &w->attn_norm : &w->ffn_norm, x);
    double *f = w->router.data ? feed_experts(p, w, h) : feed(p, &w->ffn, h, p->n);
    double *f_normed = normalise(p, unnormed ? &none : &w->ffn_post_norm, f);
    if (parallel) add(x, a_normed, n);
    add(x, f_normed, n);
    double *const all[] = {h, a, a_normed, f, f_normed};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

static double *rotations(const pass *p, aq_rope_config rope, const float *divisors) {
    const int half = p->config->n_rot / 2;
    float inv_freq[AQ_ORACLE_MAX_D / 2], factor = 1.0f;
    double *table = aq_oracle_rows((p->n + 1) * half, 2);
    if (has_bug(p, AQ_ORACLE_ROPE_BASE)) rope.base *= 1.01;
    if (half > 0) aq_model_rope(&rope, p->config->n_rot, divisors, inv_freq, &factor);
    for (int64_t t = 0; t <= p->n; t++)
        for (int i = 0; i < half; i++) {
            const float angle = (float)t * inv_freq[i];
            table[(t * half + i) * 2] = (double)factor * cos((double)angle);
            table[(t * half + i) * 2 + 1] = (double)factor * sin((double)angle);
        }
    return table;
}

static double *embed(const pass *p, const int32_t *ids) {
    const aq_model_config *c = p->config;
    const int64_t d = c->d_model, shift = has_bug(p, AQ_ORACLE_POSITION) ? 1 : 0;
    const double scale = has_bug(p, AQ_ORACLE_EMBED) ? 1.0 : (double)c->embed_scale;
    double *x = aq_oracle_rows(p->n, d), *row = aq_oracle_rows(1, d);
    for (int64_t t = 0; t < p->n; t++) {
        load_row(&p->weights->embed, ids[t], row);
        for (int64_t i = 0; i < d; i++)
            x[t * d + i] = scale * row[i];
        if (!p->weights->pos_embed.data) continue;
        load_row(&p->weights->pos_embed, t + c->n_pos_offset + shift, row);
        add(x + t * d, row, d);
    }
    free(row);
    return x;
}

double aq_oracle_logits(const aq_model_config *config, const aq_model_weights *weights,
                        const aq_oracle_attention *attention, const int32_t *ids, int64_t n,
                        double *logits) {
    pass p = {.config = config, .weights = weights, .n = n, .narrowest = 1.0};
    const float *divisors = aq_model_rope_divisors(config, weights, n);
    if (attention) p.attention = *attention;
    p.cos_sin[0] = rotations(&p, config->rope, divisors);
    p.cos_sin[1] = rotations(&p, config->rope_local, config->two_ropes ? NULL : divisors);
    double *x = embed(&p, ids);
    for (int layer = 0; layer < config->n_layer; layer++)
        run_layer(&p, layer, x);
    double *normed = normalise(&p, &weights->output_norm, x);
    double *y = aq_oracle_multiply(&p, &weights->output, normed, n);
    memcpy(logits, y, (size_t)(n * config->n_vocab) * sizeof *logits);
    double *const all[] = {x, normed, y, p.cos_sin[0], p.cos_sin[1]};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    return p.narrowest;
}
