/* Attention of the model's oracle: all ways of making scores, and what can be wrong with them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/dtype.h"
#include "tests/support/oracle_parts.h"

/* One layer. */
typedef struct {
    aq_oracle_pass *p;
    int index;
    bool windowed;
    const aq_projection *projection; /* NULL: dense */
    int n_col;
    double *q, *k, *v; /* [n, heads, n_col], v [n, n_kv_head, d_head] */
    double *chosen;    /* [n, n_head, n_col], 1 or 0 */
    double *got;       /* [n] attention that each token got, if tokens are dropped; else NULL */
    double *gone;      /* [n] the first query after it was dropped, 0: not yet */
} layer;

static bool has_bug(const layer *l, aq_oracle_bug bug) {
    return l->p->attention.bug == bug;
}

/* Turns the first n_rot dimensions of one head. */
static void turn(const layer *l, int64_t pos, double *head) {
    const int half = l->p->config->n_rot / 2;
    const bool local = l->windowed && !has_bug(l, AQ_ORACLE_ROPE_LOCAL);
    const bool pairs = has_bug(l, AQ_ORACLE_ROPE_PAIRS);
    for (int i = 0; i < half; i++) {
        const double *turned = l->p->cos_sin[local] + (pos * half + i) * 2;
        double *a = head + (pairs ? 2 * i : i), *b = pairs ? a + 1 : a + half;
        const double first = *a * turned[0] - *b * turned[1];
        *b = *b * turned[0] + *a * turned[1];
        *a = first;
    }
}

/* out[n_col] = in P, by the projection of one KV head. */
static void project(const layer *l, int64_t kv_head, bool of_pk, const double *in, double *out) {
    const int d = l->p->config->d_head;
    const int64_t at = ((int64_t)l->index * l->p->config->n_kv_head + kv_head) * d * d;
    const float *matrix = (of_pk ? l->projection->pk : l->projection->pq) + at;
    for (int j = 0; j < l->n_col; j++) {
        out[j] = 0;
        for (int i = 0; i < d; i++)
            out[j] += in[i] * (double)matrix[i * d + j];
    }
}

static void norm_heads(const layer *l, const float *w, int n_head, double *rows) {
    const aq_model_config *c = l->p->config;
    const int64_t width = (int64_t)n_head * c->d_head;
    const int64_t span = c->qk_norm_per_head ? c->d_head : width;
    if (!w || has_bug(l, AQ_ORACLE_HEAD_NORM)) return;
    for (int64_t at = 0; at < l->p->n * width; at += span)
        aq_oracle_normalise(AQ_NORM_RMS, (double)c->norm_eps, w, NULL, span, rows + at);
}

/* From what W_q or W_k gave to what scores are made of, in place: head h of token t moves from
 * width d to width n_col. */
static void prepare(const layer *l, double *rows, int n_head, bool of_keys) {
    const aq_model_config *c = l->p->config;
    const bool of_pk = of_keys != has_bug(l, AQ_ORACLE_SWAPPED);
    const bool early = l->projection && has_bug(l, AQ_ORACLE_UNTURNED);
    const int64_t shift = of_keys && has_bug(l, AQ_ORACLE_ROPE_SHIFT) ? 1 : 0;
    for (int64_t r = 0; r < l->p->n * n_head; r++) {
        const int64_t pos = r / n_head + shift;
        double head[AQ_ORACLE_MAX_D], out[AQ_ORACLE_MAX_D];
        memcpy(head, rows + r * c->d_head, (size_t)c->d_head * sizeof *head);
        if (!early) turn(l, pos, head);
        memcpy(out, head, sizeof out);
        if (l->projection) project(l, r % n_head / (n_head / c->n_kv_head), of_pk, head, out);
        if (early && l->n_col == c->d_head) turn(l, pos, out);
        memcpy(rows + r * l->n_col, out, (size_t)l->n_col * sizeof *out);
    }
}

/* How much column i of one query head counts. */
static double importance(const layer *l, int64_t kv_head, const double *q, int i) {
    const aq_model_config *c = l->p->config;
    const aq_oracle_choice choice = l->p->attention.choice;
    const bool other = has_bug(l, AQ_ORACLE_OTHER_RANK);
    const int64_t at = ((int64_t)l->index * c->n_kv_head + kv_head) * c->d_head + i;
    if (choice == AQ_ORACLE_LEADING) return other ? 1.0 + i : 1.0 / (1.0 + i);
    if ((choice == AQ_ORACLE_ENERGY) == other) return fabs(q[i]);
    return fabs(q[i]) * (double)l->projection->sigma[at];
}

/* Marks the n_dim columns of largest importance, one after the other. */
static void choose(const layer *l, int64_t kv_head, const double *q, double *chosen) {
    const aq_oracle_attention *a = &l->p->attention;
    double last = 0;
    for (int n = 0; n <= a->n_dim && n < l->n_col; n++) {
        int best = -1;
        double most = -1;
        for (int i = 0; i < l->n_col; i++) {
            const double here = importance(l, kv_head, q, i);
            if (chosen[i] > 0 || here <= most) continue;
            best = i;
            most = here;
        }
        if (n < a->n_dim) {
            chosen[best] = 1;
            last = most;
        } else if (a->choice != AQ_ORACLE_LEADING) {
            l->p->narrowest = fmin(l->p->narrowest, (last - most) / last);
        }
    }
}

static void choose_all(const layer *l) {
    const int n_head = l->p->config->n_head, group = n_head / l->p->config->n_kv_head;
    for (int64_t r = 0; r < l->p->n * n_head; r++) {
        const int h = (int)(r % n_head);
        const int64_t from = has_bug(l, AQ_ORACLE_SAME_DIMS) ? r - h % group : r;
        if (l->projection) choose(l, h / group, l->q + from * l->n_col, l->chosen + r * l->n_col);
        for (int i = 0; i < l->n_col && !l->projection; i++)
            l->chosen[r * l->n_col + i] = 1;
    }
}

static void round_bf16(double *rows, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        rows[i] = (double)aq_bf16_to_f32(aq_f32_to_bf16((float)rows[i]));
}

/* Whether the query at t sees the key at u. */
static bool sees(const layer *l, int64_t t, int64_t u) {
    const bool blind = has_bug(l, AQ_ORACLE_BLIND) && t > 0;
    const int64_t last = has_bug(l, AQ_ORACLE_FUTURE) ? t + 1 : blind ? t - 1 : t;
    int64_t window = l->p->config->window;
    if (has_bug(l, AQ_ORACLE_WIDE)) window++;
    if (has_bug(l, AQ_ORACLE_NARROW)) window--;
    if (u > last || (l->windowed && u <= t - window)) return false;
    if (l->got && l->gone[u] > 0 && (double)t >= l->gone[u]) return false;
    return !(l->windowed && has_bug(l, AQ_ORACLE_RING) && u / 64 == t / 64 - 1);
}

/* The rank that owns token u. */
static int owner_of(const aq_oracle_eviction *e, int64_t u) {
    return e->owners ? e->owners[u / 64 % e->n_period] : (int)(u / 64 % e->n_rank);
}

/* Adds what a query gave to each of n tokens, of which `total` is the sum. */
static void give(const layer *l, const double *weight, double total, int64_t n) {
    for (int64_t u = 0; u < n; u++) {
        double sum = total;
        if (has_bug(l, AQ_ORACLE_LOCAL_SUM)) {
            sum = 0;
            const aq_oracle_eviction *e = &l->p->attention.evict;
            for (int64_t v = 0; v < n; v++)
                sum += owner_of(e, u) == owner_of(e, v) ? weight[v] : 0;
        }
        if (weight[u] > 0) l->got[u] += weight[u] / sum;
    }
}

/* Whether u goes before v at the end of a step. */
static bool goes_before(const layer *l, int64_t u, int64_t v, int64_t end) {
    const int64_t recent =
        has_bug(l, AQ_ORACLE_NO_RECENT) ? end : end - l->p->attention.evict.n_keep / 2;
    if ((u >= recent) != (v >= recent)) return v >= recent;
    if (u < recent && l->got[u] != l->got[v]) return l->got[u] < l->got[v];
    return u < v;
}

/* The token of the rank that goes first, -1 without one; *n = tokens that it holds. */
static int64_t first_to_go(const layer *l, int rank, int64_t end, int64_t *n) {
    int64_t first = -1;
    *n = 0;
    for (int64_t u = 0; u < end; u++) {
        if (owner_of(&l->p->attention.evict, u) != rank || l->gone[u] > 0) continue;
        ++*n;
        if (u < 4) continue;
        if (first < 0 || goes_before(l, u, first, end)) first = u;
    }
    return first;
}

/* What a rank may hold: its part, or the tokens that it owns of the first n_keep. */
static int64_t share_of(const aq_oracle_eviction *e, int rank) {
    const int n_period = e->owners ? e->n_period : e->n_rank;
    int64_t n_owned = 0, part = 0, first = 0;
    for (int64_t tile = 0; tile < n_period; tile++)
        n_owned += owner_of(e, tile * 64) == rank;
    while (part * n_period < e->n_keep * n_owned)
        part++;
    for (int64_t u = 0; u < e->n_keep; u++)
        first += owner_of(e, u) == rank;
    return first > part ? first : part;
}

/* Drops what each rank holds over its share after a step that ends before `end`. */
static void evict(const layer *l, int64_t end) {
    const aq_oracle_eviction *e = &l->p->attention.evict;
    for (int rank = 0; rank < e->n_rank; rank++) {
        int64_t n, last = -1, next = first_to_go(l, rank, end, &n);
        while (next >= 0 && n > share_of(e, rank)) {
            l->gone[next] = (double)end;
            last = next;
            next = first_to_go(l, rank, end, &n);
        }
        if (last < 0 || next < 0 || next >= end - e->n_keep / 2) continue;
        l->p->narrowest = fmin(l->p->narrowest, (l->got[next] - l->got[last]) / l->got[next]);
    }
}

/* One query over the tokens it sees. */
static void attend_one(const layer *l, int64_t t, int h, double *weight, double *out) {
    const aq_model_config *c = l->p->config;
    const int group = c->n_head / c->n_kv_head;
    const int g = has_bug(l, AQ_ORACLE_HEADS) ? h % c->n_kv_head : h / group;
    const double scale = has_bug(l, AQ_ORACLE_SCALE) ? 1.0 : (double)c->attn_scale;
    const int64_t row = (t * c->n_head + h) * l->n_col;
    const int64_t end = t + 2 < l->p->n ? t + 2 : l->p->n; /* none sees further */
    double most = -INFINITY, total = 0;
    for (int64_t u = 0; u < end; u++) {
        const double *k = l->k + (u * c->n_kv_head + g) * l->n_col;
        weight[u] = -INFINITY;
        if (!sees(l, t, u)) continue;
        weight[u] = 0;
        for (int i = 0; i < l->n_col; i++)
            weight[u] += l->chosen[row + i] * l->q[row + i] * k[i] * scale;
        most = fmax(most, weight[u]);
    }
    for (int64_t u = 0; u < end; u++)
        total += weight[u] = exp(weight[u] - most);
    if (l->got) give(l, weight, total, end);
    for (int64_t u = 0; u < end; u++)
        for (int i = 0; i < c->d_head && weight[u] > 0; i++)
            out[i] += weight[u] / total * l->v[(u * c->n_kv_head + g) * c->d_head + i];
}

/* Whether token t is the last of its step. */
static bool ends_step(const aq_oracle_eviction *e, int64_t t) {
    return t + 1 >= e->n_prefill || (t + 1) % e->n_step == 0;
}

double *aq_oracle_attend(aq_oracle_pass *p, int index, const double *x) {
    const aq_model_config *c = p->config;
    const aq_layer_weights *w = &p->weights->layers[index];
    layer l = {.p = p, .index = index, .windowed = aq_model_windowed(c, index)};
    l.projection = l.windowed ? NULL : p->attention.projection;
    l.n_col = l.projection ? p->attention.n_col : c->d_head;
    l.q = aq_oracle_multiply(p, &w->wq, x, p->n);
    l.k = aq_oracle_multiply(p, &w->wk, x, p->n);
    l.v = aq_oracle_multiply(p, &w->wv, x, p->n);
    l.chosen = aq_oracle_rows(p->n, (int64_t)c->n_head * l.n_col);
    if (p->attention.evict.n_keep > 0 && !l.windowed) {
        l.got = aq_oracle_rows(p->n, 1);
        l.gone = aq_oracle_rows(p->n, 1);
    }
    norm_heads(&l, w->q_norm, c->n_head, l.q);
    norm_heads(&l, w->k_norm, c->n_kv_head, l.k);
    prepare(&l, l.q, c->n_head, false);
    prepare(&l, l.k, c->n_kv_head, true);
    choose_all(&l);
    if (p->attention.bf16) {
        round_bf16(l.k, p->n * c->n_kv_head * l.n_col);
        round_bf16(l.v, p->n * c->n_kv_head * c->d_head);
    }
    double *mixed = aq_oracle_rows(p->n, (int64_t)c->n_head * c->d_head);
    double *weight = aq_oracle_rows(1, p->n);
    for (int64_t r = 0; r < p->n * c->n_head; r++) {
        const int64_t t = r / c->n_head;
        attend_one(&l, t, (int)(r % c->n_head), weight, mixed + r * c->d_head);
        if (l.got && r % c->n_head == c->n_head - 1 && ends_step(&p->attention.evict, t))
            evict(&l, t + 1);
    }
    double *y = aq_oracle_multiply(p, &w->wo, mixed, p->n);
    double *const all[] = {l.q, l.k, l.v, l.chosen, l.got, l.gone, mixed, weight};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    return y;
}
