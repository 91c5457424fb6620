/* Calibration on the context itself, against a session that had the same projection from its first
 * token on. */
#include "calib/incontext.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/calibrate.h"
#include "src/engine/engine.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

enum { N = 260, N_REST = 40, N_DECODE = 5, N_ALL = N + N_REST + N_DECODE, BATCH = 48 };

/* Of the range of the logits. Re-coded keys and projected ones differ by roundings of fp32. */
#define TOLERANCE 2e-5

static int32_t ids[N_ALL];

static aq_session_options options_of(aq_attn_mode attn) {
    aq_session_options options = aq_case_options(N_ALL, BATCH);
    options.attn = attn;
    options.rank_by = AQ_RANK_ENERGY;
    options.k_ratio = 1;
    return options;
}

/* Logits [N_REST + N_DECODE, n_vocab] of what follows the first N tokens; to be freed. */
static float *go_on(aq_engine *engine, aq_session *session) {
    const int64_t n_vocab = aq_engine_describe(engine).n_vocab;
    float *logits = aq_case_floats((N_REST + N_DECODE) * n_vocab);
    CU_ASSERT_EQUAL(aq_session_length(session), N);
    aq_case_prefill(engine, aq_test_world(), session, ids + N, N_REST, logits);
    aq_case_decode(engine, session, ids + N + N_REST, N_DECODE, logits + N_REST * n_vocab);
    return logits;
}

/* The same from a session opened by calibrating on its first N tokens. */
static float *by_context(aq_engine *engine, const aq_session_options *options, aq_basis basis) {
    aq_session *session = NULL;
    float *logits = NULL;
    int64_t n_done = 0;
    if (aq_test_ok(aq_incontext_open(engine, aq_test_world(), options, basis, ids, N, NULL,
                                     &session, &n_done, NULL))) {
        CU_ASSERT_EQUAL(n_done, N);
        logits = go_on(engine, session);
    }
    aq_session_close(session);
    return logits;
}

/* The same from a session that prefills everything itself. */
static float *by_session(aq_engine *engine, const aq_session_options *options) {
    aq_session *session = aq_case_session(engine, options);
    float *logits = NULL;
    if (session && aq_test_ok(aq_session_prefill(session, ids, N, NULL)))
        logits = go_on(engine, session);
    aq_session_close(session);
    return logits;
}

static double distance(const aq_engine *engine, const float *a, const float *b) {
    const int64_t n_vocab = aq_engine_describe(engine).n_vocab;
    return a && b ? aq_case_distance_f32(a, b, (N_REST + N_DECODE) * n_vocab) : 1;
}

static void with_engine(void (*check)(aq_engine *engine)) {
    aq_case_ids(17, N_ALL, ids);
    aq_engine *engine = aq_case_engine(aq_test_world(), aq_case_default()->model, NULL);
    if (engine) check(engine);
    aq_engine_close(engine);
}

/* All columns read: exact, whatever the basis. */
static void check_exact(aq_engine *engine) {
    const aq_session_options dense = options_of(AQ_ATTN_DENSE), aqua = options_of(AQ_ATTN_AQUA);
    float *expected = by_session(engine, &dense);
    for (int basis = 0; basis < AQ_BASIS_N; basis++) {
        float *got = by_context(engine, &aqua, (aq_basis)basis);
        CU_ASSERT_TRUE(distance(engine, got, expected) <= TOLERANCE);
        CU_ASSERT_STRING_EQUAL(aq_engine_describe(engine).basis, aq_basis_name((aq_basis)basis));
        CU_ASSERT_STRING_EQUAL(aq_engine_projection(engine)->domain, "the context itself");
        CU_ASSERT_EQUAL(aq_engine_projection(engine)->n_tok_calib, N - AQ_CALIBRATE_SINKS);
        free(got);
    }
    free(expected);
}

static void test_exact(void) {
    with_engine(check_exact);
}

/* The dense part, whose keys are then projected, re-coded by hand with the projection `other`. */
static float *recoded_with(aq_engine *engine, const aq_session_options *options,
                           const aq_projection *other, const aq_projection *right) {
    const aq_session_options dense = options_of(AQ_ATTN_DENSE);
    aq_session *staging = aq_case_session(engine, &dense), *session = NULL;
    float *logits = NULL;
    aq_test_ok(aq_session_prefill(staging, ids, N, NULL));
    aq_test_ok(aq_engine_set_projection(engine, other));
    session = aq_case_session(engine, options);
    aq_test_ok(aq_session_recode(session, staging));
    /* Behind the engine's back, while the session is open: only the cached keys are `other`'s. */
    const size_t n = (size_t)(right->n_layer * right->n_kv_head * right->d_head * right->d_head);
    memcpy(engine->projection.pq, right->pq, n * sizeof(float));
    memcpy(engine->projection.pk, right->pk, n * sizeof(float));
    aq_test_ok(aq_engine_place_projection(engine));
    if (session) logits = go_on(engine, session);
    aq_session_close(session);
    aq_session_close(staging);
    return logits;
}

/* The matrices of the two KV heads of each layer change places. */
static void swap_heads(aq_projection *p) {
    const size_t n = (size_t)(p->d_head * p->d_head);
    float *hold = aq_case_floats((int64_t)n);
    for (int layer = 0; layer < p->n_layer; layer++) {
        float *pk = p->pk + (size_t)layer * 2 * n, *pq = p->pq + (size_t)layer * 2 * n;
        memcpy(hold, pk, n * sizeof *hold);
        memcpy(pk, pk + n, n * sizeof *hold);
        memcpy(pk + n, hold, n * sizeof *hold);
        memcpy(hold, pq, n * sizeof *hold);
        memcpy(pq, pq + n, n * sizeof *hold);
        memcpy(pq + n, hold, n * sizeof *hold);
    }
    free(hold);
}

/* All columns are read, so what the dense part cached decides: keys re-coded with the neighbour's
 * matrix are told apart from keys re-coded rightly. */
static void check_recoded(aq_engine *engine) {
    const aq_session_options aqua = options_of(AQ_ATTN_AQUA);
    aq_projection right, wrong;
    float *got = by_context(engine, &aqua, AQ_BASIS_KQ);
    aq_test_ok(aq_projection_copy(aq_engine_projection(engine), &right));
    aq_test_ok(aq_projection_copy(&right, &wrong));
    swap_heads(&wrong);
    float *by_hand = recoded_with(engine, &aqua, &right, &right);
    float *planted = recoded_with(engine, &aqua, &wrong, &right);
    CU_ASSERT_TRUE(distance(engine, by_hand, got) <= TOLERANCE);
    CU_ASSERT_TRUE(distance(engine, planted, got) > 100 * TOLERANCE);
    free(got);
    free(by_hand);
    free(planted);
    aq_projection_free(&right);
    aq_projection_free(&wrong);
}

static void test_recoded(void) {
    with_engine(check_recoded);
}

/* Fewer columns: the calibrated part ran dense, what follows is scored from what decides. With
 * one layer that is all there is to tell, so a session that had the projection from the start
 * agrees. */
static void check_fewer_columns(void) {
    aq_tiny_model shape = aq_tiny_model_default();
    aq_case one_layer;
    shape.n_layer = 1;
    aq_case_make(&shape, "one_layer", &one_layer);
    aq_engine *engine = aq_case_engine(aq_test_world(), one_layer.model, NULL);
    aq_session_options aqua = options_of(AQ_ATTN_AQUA);
    aq_case_ids(17, N_ALL, ids);
    aqua.k_ratio = 0.75;
    float *got = by_context(engine, &aqua, AQ_BASIS_JOINT);
    float *expected = by_session(engine, &aqua);
    aqua.k_ratio = 0.5; /* planted: other columns */
    float *other = by_session(engine, &aqua);
    CU_ASSERT_TRUE(distance(engine, got, expected) <= TOLERANCE);
    CU_ASSERT_TRUE(distance(engine, got, other) > 100 * TOLERANCE);
    free(got);
    free(expected);
    free(other);
    aq_engine_close(engine);
}

static void test_fewer_columns(void) {
    check_fewer_columns();
}

/* Sums of queries and keys that are rotated here, in double precision, by (p mod n_shift) N more
 * positions than p; n_shift 1: not at all. */
typedef struct {
    aq_gram gram;
    double base;
    int64_t n_shift;
} rotated_sums;

static void rotate_on(const rotated_sums *sums, int64_t pos, int n_head, float *x) {
    const int d = sums->gram.d_head, half = d / 2;
    for (int h = 0; h < n_head; h++)
        for (int i = 0; i < half; i++) {
            const double angle =
                (double)(pos % sums->n_shift * N) * pow(sums->base, -2.0 * i / (double)d);
            float *a = x + h * d + i, *b = a + half;
            const double u = (double)*a, v = (double)*b;
            *a = (float)(u * cos(angle) - v * sin(angle));
            *b = (float)(v * cos(angle) + u * sin(angle));
        }
}

static aq_status sum_rotated(void *arg, int layer, const int64_t *pos, int64_t n_tok,
                             const float *q, const float *k) {
    rotated_sums *sums = arg;
    const int n_head = sums->gram.n_head, n_kv_head = sums->gram.n_kv_head;
    const int64_t d = sums->gram.d_head;
    for (int64_t t = 0; t < n_tok; t++) {
        if (pos[t] < AQ_CALIBRATE_SINKS) continue;
        float *a = aq_case_floats(n_head * d), *b = aq_case_floats(n_kv_head * d);
        memcpy(a, q + t * n_head * d, (size_t)(n_head * d) * sizeof *a);
        memcpy(b, k + t * n_kv_head * d, (size_t)(n_kv_head * d) * sizeof *b);
        rotate_on(sums, pos[t], n_head, a);
        rotate_on(sums, pos[t], n_kv_head, b);
        aq_gram_add(&sums->gram, layer, a, b, 1);
        free(a);
        free(b);
    }
    return AQ_OK;
}

/* Largest difference of sigma and spectrum from those of such sums, relative to the largest. */
static double spread_distance(aq_engine *engine, int64_t n_shift) {
    const aq_session_options dense = options_of(AQ_ATTN_DENSE);
    const aq_projection *got = aq_engine_projection(engine);
    const int64_t n = (int64_t)got->n_layer * got->n_kv_head * got->d_head;
    rotated_sums sums = {.base = engine->config.rope.base, .n_shift = n_shift};
    const aq_hooks hooks = {.arg = &sums, .tap = sum_rotated};
    aq_projection expected = {.pq = NULL};
    aq_test_ok(aq_gram_open(got->n_layer, engine->config.n_head, got->n_kv_head, got->d_head, NULL,
                            &sums.gram));
    aq_session *session = aq_case_session(engine, &dense);
    aq_test_ok(aq_session_prefill(session, ids, N, &hooks));
    aq_test_ok(aq_calibrate_solve(aq_test_world(), &sums.gram, AQ_BASIS_JOINT, &expected));
    double d = fmax(aq_case_distance_f32(got->sigma, expected.sigma, n),
                    aq_case_distance_f32(got->spectrum, expected.spectrum, n));
    aq_projection_free(&expected);
    aq_gram_close(&sums.gram);
    aq_session_close(session);
    return d;
}

/* The projection stands for positions all over the context, of which only the beginning is there.
 */
static void check_spread(aq_engine *engine) {
    aq_session_options aqua = options_of(AQ_ATTN_AQUA);
    aqua.n_ctx = 5 * N - 1; /* five times as long */
    free(by_context(engine, &aqua, AQ_BASIS_JOINT));
    CU_ASSERT_TRUE(spread_distance(engine, 5) < 1e-4);
    CU_ASSERT_TRUE(spread_distance(engine, 1) > 1e-2); /* planted: positions as they are */
    aqua.n_ctx = N_ALL;
    free(by_context(engine, &aqua, AQ_BASIS_JOINT));
    CU_ASSERT_TRUE(spread_distance(engine, 2) < 1e-4);
}

static void test_spread(void) {
    with_engine(check_spread);
}

typedef struct {
    int64_t n_done, n_all, n_row;
} watched;

static aq_status count_progress(void *arg, int64_t n_done, int64_t n_all) {
    watched *w = arg;
    w->n_done = n_done;
    w->n_all = n_all;
    return AQ_OK;
}

static aq_status count_rows(void *arg, const int64_t *pos, const float *hidden, int64_t n_tok) {
    watched *w = arg;
    (void)pos;
    (void)hidden;
    w->n_row += n_tok;
    return AQ_OK;
}

/* Contexts of a few tokens, the shortest without a token behind the sinks. */
static void check_short(aq_engine *engine) {
    const aq_session_options aqua = options_of(AQ_ATTN_AQUA);
    static const int64_t lengths[] = {1, 4, 5, 19, 20};
    const int64_t n_vocab = aq_engine_describe(engine).n_vocab;
    for (int i = 0; i < 5; i++) {
        watched w = {0, 0, 0};
        const aq_hooks hooks = {.arg = &w, .progress = count_progress, .rows = count_rows};
        aq_session *session = NULL;
        int64_t n_done;
        float *got = aq_case_floats(n_vocab), *expected = aq_case_floats(n_vocab);
        const aq_session_options dense = options_of(AQ_ATTN_DENSE);
        aq_session *other = aq_case_session(engine, &dense);
        aq_test_ok(aq_session_prefill(other, ids, lengths[i] + 1, NULL));
        aq_test_ok(aq_session_logits(other, expected));
        aq_session_close(other);
        if (aq_test_ok(aq_incontext_open(engine, aq_test_world(), &aqua, AQ_BASIS_KQ, ids,
                                         lengths[i], &hooks, &session, &n_done, NULL))) {
            CU_ASSERT_EQUAL(n_done, lengths[i]);
            aq_test_ok(aq_session_decode(session, ids[lengths[i]]));
            aq_test_ok(aq_session_logits(session, got));
            CU_ASSERT_TRUE(aq_case_distance_f32(got, expected, n_vocab) <= TOLERANCE);
            CU_ASSERT_STRING_EQUAL(aq_engine_describe(engine).basis,
                                   lengths[i] < 20 ? "joint" : "kq");
            aq_test_ok(aq_comm_sum_i64(aq_test_world(), &w.n_row, 1));
            CU_ASSERT_TRUE(w.n_done == lengths[i] && w.n_all == lengths[i] &&
                           w.n_row == lengths[i]);
        }
        aq_session_close(session);
        free(got);
        free(expected);
    }
}

static void test_short(void) {
    with_engine(check_short);
}

static void check_refused(aq_engine *engine) {
    aq_session_options aqua = options_of(AQ_ATTN_AQUA);
    aq_session *session;
    int64_t n_done;
    aq_test_fails(aq_incontext_open(engine, aq_test_world(), &aqua, AQ_BASIS_JOINT, ids, 0, NULL,
                                    &session, &n_done, NULL),
                  AQ_ERR_USAGE, "no context to calibrate on");
    aqua.n_ctx = 100;
    aq_test_fails(aq_incontext_open(engine, aq_test_world(), &aqua, AQ_BASIS_JOINT, ids, N, NULL,
                                    &session, &n_done, NULL),
                  AQ_ERR_LIMIT, "do not fit");
    aqua.n_ctx = N_ALL;
    aqua.k_ratio = 1.5;
    aq_test_fails(aq_incontext_open(engine, aq_test_world(), &aqua, AQ_BASIS_JOINT, ids, N, NULL,
                                    &session, &n_done, NULL),
                  AQ_ERR_USAGE, "--k-ratio");
    CU_ASSERT_TRUE(!session && n_done == 0);
}

static void test_refused(void) {
    with_engine(check_refused);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "all columns are exact", test_exact);
    CU_add_test(suite, "positions all over the context", test_spread);
    CU_add_test(suite, "keys re-coded with another head's matrix are told apart", test_recoded);
    CU_add_test(suite, "fewer columns", test_fewer_columns);
    CU_add_test(suite, "short contexts", test_short);
    CU_add_test(suite, "refusals", test_refused);
}
