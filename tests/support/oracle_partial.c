#include "tests/support/oracle_partial.h"

#include <math.h>

#include "tests/support/oracle_cache.h"

#define EPS (1.0 / 16777216.0)

int64_t aq_partial_place(const aq_attn_partial_args *a, int64_t tile) {
    return a->tile_at ? a->tile_at[tile] : tile;
}

static int64_t position_of(const aq_attn_partial_args *a, int64_t tile, int64_t s,
                           aq_partial_bug bug) {
    const int64_t first = a->tile_pos[tile];
    if (!a->slot_pos || bug == AQ_PARTIAL_SLOTS) return first < INT64_MAX - s ? first + s : first;
    return a->slot_pos[aq_partial_place(a, tile) * AQ_TILE + s];
}

static aq_partial_score score_of(const aq_attn_partial_args *a, int64_t t, int h, int64_t g,
                                 int64_t tile, int64_t s, aq_partial_bug bug) {
    const int n_in = a->dims ? a->n_dim : a->kv.n_col;
    const int64_t row = t * a->n_head + h,
                  place = bug == AQ_PARTIAL_PLACE ? tile : aq_partial_place(a, tile);
    double sum = 0.0, sum_abs = 0.0;
    for (int j = 0; j < n_in; j++) {
        const int64_t c = a->dims ? a->dims[row * n_in + j] : j;
        const int64_t swapped = bug == AQ_PARTIAL_DIMS && j < 2 && n_in > 1 ? 1 - j : j;
        const int64_t c_key = a->dims ? a->dims[row * n_in + swapped] : swapped;
        const int64_t at = ((place * a->kv.n_kv_head + g) * a->kv.n_col + c_key) * AQ_TILE + s;
        const double term = (double)a->scale * (double)a->q[row * a->kv.n_col + c] *
                            aq_cache_get(a->kv.keys, a->kv.key_type, at);
        sum += term;
        sum_abs += fabs(term);
    }
    return (aq_partial_score){sum, 4.0 * sqrt(n_in + 1.0) * EPS * sum_abs};
}

/* Scores of all visible tokens into scores[tile * AQ_TILE + s], -inf for the others; fills m. */
static void score_row(const aq_attn_partial_args *a, int64_t t, int h, aq_partial_bug bug,
                      bool exact, aq_partial_score *scores, aq_partial_row *ref) {
    const int group = a->n_head / a->kv.n_kv_head;
    const int64_t g = (bug == AQ_PARTIAL_HEAD ? h + group : h) / group % a->kv.n_kv_head;
    const int64_t last =
        a->q_pos[t] + (bug == AQ_PARTIAL_LOW ? -1 : 0) + (bug == AQ_PARTIAL_HIGH ? 1 : 0);
    const int64_t first = a->q_pos[t] - a->window + 1 + (bug == AQ_PARTIAL_WIDE ? -1 : 0) +
                          (bug == AQ_PARTIAL_NARROW ? 1 : 0);
    *ref = (aq_partial_row){.m = -INFINITY};
    for (int64_t i = 0; i < a->n_tile * AQ_TILE; i++) {
        const int64_t tile = i / AQ_TILE, s = i % AQ_TILE;
        scores[i] = (aq_partial_score){-INFINITY, 0.0};
        const int64_t pos = position_of(a, tile, s, bug);
        if (pos > last || (a->window > 0 && pos < first)) continue;
        scores[i] = score_of(a, t, h, g, tile, s, bug);
        if (exact) scores[i].allowed = 0.0;
        ref->m = fmax(ref->m, scores[i].a);
        ref->m_allowed = fmax(ref->m_allowed, scores[i].allowed);
    }
}

/* The weight of a token has, relative to itself: the error of its score;
 * the rounding of score minus maximum, and of the changes of the maximum, which sum up to at most
 * the range of the scores, once in the tiles and once in a merge (a weight that is not 0 has come
 * down by at most 104 each time); the errors of exp and a product, at most 4 eps, for the token,
 * for each tile after it and for 4 merges. Then o and l are reductions. */
void aq_partial_reference(const aq_attn_partial_args *a, int64_t t, int h, aq_partial_bug bug,
                          bool exact, aq_partial_score *scores, aq_partial_row *ref) {
    score_row(a, t, h, bug, exact, scores, ref);
    const int group = a->n_head / a->kv.n_kv_head;
    const int64_t g = (bug == AQ_PARTIAL_HEAD ? h + group : h) / group % a->kv.n_kv_head;
    double range = 0.0, running = -INFINITY;
    int64_t n_seen = 0;
    for (int64_t i = 0; i < a->n_tile * AQ_TILE; i++) {
        if (scores[i].a == -INFINITY) continue;
        range = fmax(range, ref->m - scores[i].a);
        n_seen++;
    }
    for (int64_t i = 0; i < a->n_tile * AQ_TILE; i++) {
        if (i % AQ_TILE == 0)
            for (int s = 0; s < AQ_TILE; s++)
                running = fmax(running, scores[i + s].a);
        if (scores[i].a == -INFINITY) continue;
        const double w = exp(scores[i].a - ref->m);
        const double w_mixed = bug == AQ_PARTIAL_NO_RESCALE ? exp(scores[i].a - running) : w;
        const double relative = scores[i].allowed +
                                EPS * (3.0 * fmin(range, 104.0) + 4.0 * ((double)a->n_tile + 5.0)) +
                                4.0 * sqrt((double)n_seen + 1.0) * EPS;
        ref->l += w;
        ref->l_allowed += relative * w;
        const int64_t place = aq_partial_place(a, i / AQ_TILE), s = i % AQ_TILE;
        const int64_t at = ((place * a->kv.n_kv_head + g) * AQ_TILE + s) * a->kv.d_head;
        for (int d = 0; d < a->kv.d_head; d++) {
            const double v = aq_cache_get(a->kv.values, a->kv.value_type, at + d);
            ref->o[d] += w_mixed * v;
            ref->o_allowed[d] += relative * w * fabs(v);
        }
    }
}

/* o and l of a part are relative to its own m: they are compared relative to the m of the
 * reference, so that an allowed error of m is not counted twice. */
static void check_row(const aq_attn_partial_args *a, int64_t row, const aq_partial_row *ref,
                      aq_bound *bound) {
    const float *part = a->part + row * (a->kv.d_head + 2);
    const float m = part[a->kv.d_head], l = part[a->kv.d_head + 1];
    const double tiny = ldexp(1.0, -120);
    const double factor = ref->m == -INFINITY ? 1.0 : exp((double)m - ref->m);
    aq_bound_element(bound, m, ref->m, 0.0, ref->m_allowed + tiny);
    aq_bound_element(bound, (float)(factor * (double)l), ref->l, 0.0, ref->l_allowed + tiny);
    for (int d = 0; d < a->kv.d_head; d++)
        aq_bound_element(bound, (float)(factor * (double)part[d]), ref->o[d], 0.0,
                         ref->o_allowed[d] + tiny);
}

void aq_partial_check(aq_backend *be, const aq_attn_partial_args *a, bool exact, aq_partial_bug bug,
                      aq_bound *bound) {
    aq_partial_score *scores = aq_test_alloc(be, (size_t)(a->n_tile * AQ_TILE) * sizeof *scores);
    for (int64_t row = 0; row < a->n_q * a->n_head; row++) {
        aq_partial_row ref;
        aq_partial_reference(a, row / a->n_head, (int)(row % a->n_head), bug, exact, scores, &ref);
        check_row(a, row, &ref, bound);
    }
    be->ops->release(be, scores);
}
