/* A session that takes over a dense one's tokens goes on as if it had seen them itself. */
#include <math.h>
#include <stdlib.h>

#include "src/engine/session.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

enum { N_TOK = 230, N_FIRST = 150, N_VOCAB = 288 };

/* Changes something of the projection for the time of the re-coding. */
typedef void (*plant_fn)(aq_projection *projection);

static void swap(float *a, float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float x = a[i];
        a[i] = b[i];
        b[i] = x;
    }
}

static void swap_heads(aq_projection *p) {
    const int64_t n = (int64_t)p->d_head * p->d_head;
    swap(p->pk, p->pk + n, n);
}

static void swap_layers(aq_projection *p) {
    const int64_t n = (int64_t)p->n_kv_head * p->d_head * p->d_head;
    swap(p->pk, p->pk + n, n);
}

static void plant_in(aq_engine *engine, plant_fn plant) {
    if (!plant) return;
    plant(&engine->projection);
    aq_test_ok(aq_engine_place_projection(engine));
}

/* Distance between dense attention throughout and: dense for the first tokens, then a session with
 * these options, which are to be exact, that took them over. */
static double distance(const aq_session_options *options, plant_fn plant) {
    const aq_case *c = aq_case_default();
    const aq_session_options dense = aq_case_options(N_TOK, 64);
    int32_t ids[N_TOK];
    const int64_t n_rest = N_TOK - N_FIRST;
    float *expected = aq_case_floats(n_rest * N_VOCAB), *got = aq_case_floats(n_rest * N_VOCAB);
    double d = INFINITY;
    aq_engine *engine = aq_case_engine(aq_test_world(), c->model, c->projection);
    aq_session *from = engine ? aq_case_session(engine, &dense) : NULL;
    aq_session *session = from ? aq_case_session(engine, options) : NULL;
    aq_case_ids(5, N_TOK, ids);
    if (session && aq_test_ok(aq_session_prefill(from, ids, N_FIRST, NULL))) {
        plant_in(engine, plant);
        aq_test_ok(aq_session_recode(session, from));
        plant_in(engine, plant);
        CU_ASSERT_EQUAL(aq_session_length(session), N_FIRST);
        float first[N_VOCAB], same[N_VOCAB];
        aq_test_ok(aq_session_logits(from, first));
        aq_test_ok(aq_session_logits(session, same));
        CU_ASSERT_EQUAL(aq_case_distance_f32(same, first, N_VOCAB), 0);
        aq_case_prefill(engine, aq_test_world(), from, ids + N_FIRST, n_rest, expected);
        aq_case_prefill(engine, aq_test_world(), session, ids + N_FIRST, n_rest, got);
        d = aq_case_distance_f32(got, expected, n_rest * N_VOCAB);
    }
    aq_session_close(from);
    aq_session_close(session);
    aq_engine_close(engine);
    free(expected);
    free(got);
    return d;
}

static aq_session_options exact_options(aq_attn_mode attn) {
    aq_session_options options = aq_case_options(N_TOK, 64);
    options.attn = attn;
    options.k_ratio = 1;
    options.mass = 1;
    return options;
}

static void exact_sessions_go_on_exactly(void) {
    aq_session_options options = exact_options(AQ_ATTN_AQUA);
    CU_ASSERT_TRUE(distance(&options, NULL) < 1e-5);
    options = exact_options(AQ_ATTN_SELECT);
    CU_ASSERT_TRUE(distance(&options, NULL) < 1e-5);
    options.key_type = options.value_type = AQ_KV_Q8;
    CU_ASSERT_TRUE(distance(&options, NULL) < 2e-2);
}

/* Keys projected by another head's or layer's matrix are no longer what queries meet. */
static void wrong_matrices_are_seen(void) {
    const aq_session_options options = exact_options(AQ_ATTN_AQUA);
    CU_ASSERT_TRUE(distance(&options, swap_heads) > 1e-2);
    CU_ASSERT_TRUE(distance(&options, swap_layers) > 1e-2);
}

static void refusals(void) {
    const aq_case *c = aq_case_default();
    const aq_session_options dense = aq_case_options(N_TOK, 64), small = aq_case_options(20, 20);
    const aq_session_options options = exact_options(AQ_ATTN_AQUA);
    int32_t ids[30];
    aq_case_ids(5, 30, ids);
    aq_engine *engine = aq_case_engine(aq_test_world(), c->model, c->projection);
    if (!engine) return;
    aq_session *from = aq_case_session(engine, &dense), *to = aq_case_session(engine, &options);
    aq_session *short_one = aq_case_session(engine, &small);
    aq_test_ok(aq_session_prefill(from, ids, 30, NULL));
    aq_test_ok(aq_session_prefill(to, ids, 3, NULL));
    aq_test_fails(aq_session_recode(to, from), AQ_ERR_USAGE, "empty");
    aq_session_reset(to);
    aq_test_fails(aq_session_recode(from, to), AQ_ERR_USAGE, "dense");
    aq_test_fails(aq_session_recode(short_one, from), AQ_ERR_LIMIT, "30");
    aq_session_close(from);
    aq_session_close(to);
    aq_session_close(short_one);
    aq_engine_close(engine);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "exact sessions go on exactly", exact_sessions_go_on_exactly);
    CU_add_test(suite, "wrong matrices are seen", wrong_matrices_are_seen);
    CU_add_test(suite, "refusals", refusals);
}
