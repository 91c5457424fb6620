/* A decoded token: no memory is asked for, one exchange a layer, and only the owner of the tile
 * keeps the key. That its logits are right: test_forward.c. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/engine/engine_case.h"
#include "tests/support/malloc_count.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

enum { N_STEP = 140, N_LAYER = 2 };

static aq_session_options ways[] = {
    {.n_ctx = 300, .key_dtype = AQ_F32, .value_dtype = AQ_F32},
    {.n_ctx = 300, .key_dtype = AQ_BF16, .value_dtype = AQ_BF16, .attn = AQ_ATTN_AQUA},
};

static aq_engine *open_engine(void) {
    const aq_case *c = aq_case_default();
    return aq_case_engine(aq_test_world(), c->model, c->projection);
}

/* Allocations of the process while N_STEP tokens, over two borders of tiles, are decoded. */
static int64_t count_decode(aq_session *session, float *logits, bool planted) {
    const int64_t before = aq_malloc_count();
    aq_status status = AQ_OK;
    for (int i = 0; i < N_STEP && status == AQ_OK; i++) {
        status = aq_session_decode(session, i);
        if (status == AQ_OK) status = aq_session_logits(session, logits);
        void *volatile block = planted && i == 70 ? malloc(100) : NULL;
        free(block);
    }
    const int64_t n = aq_malloc_count() - before;
    aq_test_ok(status);
    return n;
}

/* With one rank: MPI may allocate. Its own thread may do so at any time, so of three runs the
 * quietest counts: what a step allocates, it allocates in all three. */
static void decode_allocates_nothing(void) {
    aq_engine *engine = open_engine();
    float *logits = aq_case_floats(aq_case_default()->shape.n_vocab);
    for (int w = 0; w < 2 && engine && aq_comm_size(aq_test_world()) == 1; w++) {
        aq_session *session = aq_case_session(engine, &ways[w]);
        if (!session) break;
        int64_t least = INT64_MAX, least_planted = INT64_MAX;
        for (int run = 0; run < 3; run++) {
            aq_session_reset(session);
            const int64_t n = count_decode(session, logits, false);
            least = n < least ? n : least;
            aq_session_reset(session);
            const int64_t n_planted = count_decode(session, logits, true);
            least_planted = n_planted < least_planted ? n_planted : least_planted;
        }
        CU_ASSERT_EQUAL(least, 0);
        CU_ASSERT_EQUAL(least_planted, 1);
        aq_session_close(session);
    }
    free(logits);
    aq_engine_close(engine);
}

/* Bytes by hand: in each layer H (d + 2) floats to each other rank. */
static void a_token_costs_one_exchange_a_layer(void) {
    const int64_t n_rank = aq_comm_size(aq_test_world());
    aq_engine *engine = open_engine();
    for (int w = 0; w < 2 && engine; w++) {
        aq_session *session = aq_case_session(engine, &ways[w]);
        if (!session) break;
        const int32_t ids[] = {1, 2, 3};
        aq_test_ok(aq_session_prefill(session, ids, 3, NULL));
        const aq_session_stats before = aq_session_describe(session);
        for (int i = 0; i < 10; i++)
            aq_test_ok(aq_session_decode(session, i));
        const aq_session_stats after = aq_session_describe(session);
        CU_ASSERT_EQUAL(after.n_exchange - before.n_exchange, n_rank > 1 ? 10 * N_LAYER : 0);
        CU_ASSERT_EQUAL(after.sent_bytes - before.sent_bytes,
                        10 * N_LAYER * (n_rank - 1) * 4 * (16 + 2) * 4);
        aq_session_close(session);
    }
    aq_engine_close(engine);
}

/* Token after token, the rank whose turn it is holds one more, the others as many as before. */
static void the_owner_keeps_the_token(void) {
    const int n_rank = aq_comm_size(aq_test_world()), rank = aq_comm_rank(aq_test_world());
    aq_engine *engine = open_engine();
    aq_session *session = engine ? aq_case_session(engine, &ways[0]) : NULL;
    int64_t expected = 0;
    for (int64_t pos = 0; session && pos < 200; pos++) {
        aq_test_ok(aq_session_decode(session, 5));
        expected += pos / 64 % n_rank == rank;
        CU_ASSERT_EQUAL(aq_session_describe(session).n_tok_owned, expected);
        CU_ASSERT_EQUAL(aq_session_length(session), pos + 1);
    }
    aq_session_close(session);
    aq_engine_close(engine);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "decode allocates nothing", decode_allocates_nothing);
    CU_add_test(suite, "a token costs one exchange a layer", a_token_costs_one_exchange_a_layer);
    CU_add_test(suite, "the owner keeps the token", the_owner_keeps_the_token);
}
