/* Shares by measurement: what numbers give which weights, how much a cache takes, and that ranks
 * measure themselves alike. */
#include "src/engine/split.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "src/engine/session.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

enum { MAX_RANK = 6 };

#define GIB ((int64_t)1 << 30)

/* Rates of memory and product in units of 1e9, and free GiB, -1: not known. */
static aq_split_rates rates_of(double read, double product, double free_gib) {
    return (aq_split_rates){(int64_t)(read * 1e9), (int64_t)(product * 1e9),
                            free_gib < 0 ? INT64_MAX : (int64_t)(free_gib * (double)GIB)};
}

static void expect(const aq_split_rates *rates, int n_rank, int64_t cache_bytes,
                   const int64_t *expected) {
    int64_t weights[MAX_RANK];
    aq_split_choose(rates, n_rank, cache_bytes, weights);
    for (int r = 0; r < n_rank; r++)
        CU_ASSERT_EQUAL(weights[r], expected[r]);
}

static void speeds_give_shares(void) {
    const aq_split_rates alike[] = {rates_of(12, 50, -1), rates_of(11.6, 51, -1),
                                    rates_of(12.2, 49, -1)};
    const aq_split_rates twice[] = {rates_of(10, 40, -1), rates_of(20, 80, -1)};
    const aq_split_rates mixed[] = {rates_of(10, 40, -1), rates_of(40, 40, -1)};
    const aq_split_rates slow[] = {rates_of(10, 40, -1), rates_of(0.5, 2, -1),
                                   rates_of(0.7, 2.8, -1)};
    const aq_split_rates nothing[] = {{0}, {0}};
    expect(alike, 3, GIB, (int64_t[]){1, 1, 1});
    expect(twice, 2, GIB, (int64_t[]){1, 2});
    expect(mixed, 2, GIB, (int64_t[]){1, 2}); /* 4 times in decode, once in prefill */
    expect(slow, 3, GIB, (int64_t[]){8, 0, 1});
    expect(nothing, 2, 0, (int64_t[]){1, 1});
}

static void memory_bounds_shares(void) {
    /* 8 GiB of cache on equal ranks: the first can hold 7/8 of 2 GiB, which is 0.219 of it, and 17
     * of 17 + 64 are 0.210. */
    const aq_split_rates one_small[] = {rates_of(10, 40, 2), rates_of(10, 40, 64)};
    const aq_split_rates none[] = {rates_of(10, 40, 0), rates_of(10, 40, 64)};
    const aq_split_rates all_small[] = {rates_of(10, 40, 1), rates_of(20, 80, 1)};
    expect(one_small, 2, 8 * GIB, (int64_t[]){17, 64});
    expect(one_small, 2, GIB, (int64_t[]){1, 1}); /* a short context fits */
    expect(none, 2, GIB, (int64_t[]){0, 1});
    expect(all_small, 2, 8 * GIB, (int64_t[]){1, 2}); /* fits nowhere: the session will say so */
}

/* Whether every rank's part fits into 7/8 of its memory. */
static bool all_fit(const aq_split_rates *rates, int n_rank, int64_t cache_bytes,
                    const int64_t *weights) {
    int64_t all = 0;
    for (int r = 0; r < n_rank; r++)
        all += weights[r];
    for (int r = 0; r < n_rank; r++)
        if ((double)weights[r] / (double)all * (double)cache_bytes >
            0.875 * (double)rates[r].free_bytes * (1 + 1e-9))
            return false;
    return true;
}

/* Wherever the memory of all is a quarter more than needed, every part fits; without looking at
 * memory many would not. Equal measurements give equal weights, whoever makes them. */
static void parts_fit(void) {
    int n_caught = 0;
    for (int i = 0; i < 300; i++) {
        aq_rng rng = {(uint64_t)i};
        aq_split_rates rates[MAX_RANK], blind[MAX_RANK];
        int64_t weights[MAX_RANK], again[MAX_RANK];
        const int n_rank = 2 + i % (MAX_RANK - 1);
        double room = 0;
        for (int r = 0; r < n_rank; r++) {
            rates[r] = rates_of(5 + 20 * aq_rng_uniform(&rng), 20 + 80 * aq_rng_uniform(&rng),
                                0.2 + 8 * aq_rng_uniform(&rng));
            blind[r] = rates[r];
            blind[r].free_bytes = INT64_MAX;
            room += 0.875 * (double)rates[r].free_bytes;
        }
        const int64_t cache_bytes = (int64_t)(room / 1.25);
        aq_split_choose(rates, n_rank, cache_bytes, weights);
        CU_ASSERT_TRUE(all_fit(rates, n_rank, cache_bytes, weights));
        aq_split_choose(rates, n_rank, cache_bytes, again);
        CU_ASSERT_EQUAL(memcmp(weights, again, (size_t)n_rank * sizeof *weights), 0);
        aq_split_choose(blind, n_rank, cache_bytes, again);
        n_caught += !all_fit(rates, n_rank, cache_bytes, again);
    }
    CU_ASSERT_TRUE(n_caught > 100);
}

/* What a session of one rank really takes, within the last tile. */
static void cache_bytes_are_those_of_sessions(void) {
    static const aq_attn_mode modes[] = {AQ_ATTN_DENSE, AQ_ATTN_AQUA, AQ_ATTN_SELECT};
    const aq_case *c = aq_case_default();
    aq_comm *self = NULL;
    if (!aq_test_ok(aq_comm_open_self(&self))) return;
    aq_engine *engine = aq_case_engine(self, c->model, c->projection);
    for (int i = 0; engine && i < 4; i++) {
        aq_session_options options = aq_case_options(1280, 100);
        int64_t bytes = 0;
        options.attn = modes[i % 3];
        options.s_ratio = 0.5;
        if (i == 2) options.key_type = options.value_type = AQ_KV_Q8;
        if (i == 3) options.n_h2o = 256;
        aq_test_ok(aq_split_cache_bytes(engine, &options, &bytes));
        aq_session *session = aq_case_session(engine, &options);
        if (!session) break;
        const aq_session_stats stats = aq_session_describe(session);
        const double held =
            (double)(stats.key_capacity + stats.value_capacity + stats.selector_capacity);
        /* 20 tiles, or 4 and those of a step; one more is counted */
        CU_ASSERT_TRUE((double)bytes >= held * (i == 3 ? 0.6 : 1) && (double)bytes < held * 1.06);
        aq_session_close(session);
    }
    aq_engine_close(engine);
    aq_comm_close(self);
}

static void ranks_are_measured(void) {
    const int n_rank = aq_comm_size(aq_test_world());
    aq_split_rates *rates = calloc((size_t)n_rank, sizeof *rates), first;
    aq_engine *engine = aq_case_engine(aq_test_world(), aq_case_default()->model, NULL);
    if (engine && rates && aq_test_ok(aq_split_measure(engine, rates)))
        for (int r = 0; r < n_rank; r++) {
            CU_ASSERT_TRUE(rates[r].read_bytes_per_s > 1000000);
            CU_ASSERT_TRUE(rates[r].product_per_s > 1000);
            CU_ASSERT_TRUE(rates[r].free_bytes > 1000000);
            first = rates[r];
            aq_test_ok(aq_comm_bcast(aq_test_world(), &first, sizeof first, 0));
            CU_ASSERT_EQUAL(memcmp(&first, &rates[r], sizeof first), 0);
        }
    aq_engine_close(engine);
    free(rates);
}

/* Equal at first, then as they were set, but for the common factor. */
static void an_engine_tells_its_shares(void) {
    const int n_rank = aq_comm_size(aq_test_world());
    int64_t set[MAX_RANK], told[MAX_RANK];
    aq_engine *engine = aq_case_engine(aq_test_world(), aq_case_default()->model, NULL);
    if (!engine) return;
    aq_split_of(engine, told);
    for (int r = 0; r < n_rank; r++)
        CU_ASSERT_EQUAL(told[r], 1);
    for (int r = 0; r < n_rank; r++)
        set[r] = 2 * (r + 1);
    aq_test_ok(aq_engine_set_split(engine, set));
    aq_split_of(engine, told);
    for (int r = 0; r < n_rank; r++)
        CU_ASSERT_EQUAL(told[r], r + 1);
    aq_engine_close(engine);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "an engine tells its shares", an_engine_tells_its_shares);
    CU_add_test(suite, "speeds give shares", speeds_give_shares);
    CU_add_test(suite, "memory bounds shares", memory_bounds_shares);
    CU_add_test(suite, "parts fit", parts_fit);
    CU_add_test(suite, "cache bytes are those of sessions", cache_bytes_are_those_of_sessions);
    CU_add_test(suite, "ranks are measured", ranks_are_measured);
}
