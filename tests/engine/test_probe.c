/* What a profile is filled with: of the right types, ways and threads, within what a profile file
 * takes; counts, which do not depend on the clock, exactly. Times are not tested. */
#include "src/engine/probe.h"

#include <stdio.h>

#include "src/engine/engine.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

#define N_IDS 700

static aq_engine *open_engine(aq_comm *self) {
    const aq_case *c = aq_case_default();
    return aq_case_engine(self, c->model, c->projection);
}

/* A file takes only what is finite and in range. */
static void write_and_read(const aq_profile *profile) {
    char path[256];
    aq_profile read;
    snprintf(path, sizeof path, "%s/probe%d.json", aq_test_temp_dir(),
             aq_comm_rank(aq_test_world()));
    aq_test_ok(aq_profile_write(path, profile));
    aq_test_ok(aq_profile_read(path, &read));
}

static void a_point(void) {
    aq_comm *self = NULL;
    int32_t ids[N_IDS];
    aq_profile profile = {
        .n_read = 1, .reads = {{1, 1}}, .n_point = 1, .latency_us = 1, .bandwidth_gbs = 1};
    aq_profile_point *point = &profile.points[0];
    aq_session_options ways[3] = {aq_case_options(1, 0), aq_case_options(1, 0),
                                  aq_case_options(1, 0)};
    aq_test_ok(aq_comm_open_self(&self));
    aq_engine *engine = open_engine(self);
    ways[1].attn = ways[2].attn = AQ_ATTN_SELECT;
    ways[1].mass = ways[2].mass = 0.5;
    ways[1].n_recent = ways[2].n_recent = 1;
    ways[2].key_type = ways[2].value_type = AQ_KV_Q8;
    ways[2].mass = 1;
    aq_case_ids(3, N_IDS, ids);
    if (engine && aq_test_ok(aq_probe_point(engine, 1, ways, 3, ids, N_IDS, point))) {
        CU_ASSERT_TRUE(point->n_thread == 1 && point->n_way == 3);
        CU_ASSERT_EQUAL_FATAL(point->n_type, 1);
        CU_ASSERT_STRING_EQUAL(point->types[0].type, "F32");
        CU_ASSERT_STRING_EQUAL(point->ways[0].attn, "dense");
        CU_ASSERT_STRING_EQUAL(point->ways[1].attn, "select");
        CU_ASSERT_STRING_EQUAL(point->ways[1].key_type, "f32");
        CU_ASSERT_STRING_EQUAL(point->ways[2].value_type, "q8");
        CU_ASSERT_EQUAL(point->ways[0].share, 1);
        CU_ASSERT_TRUE(point->ways[1].share > 0 && point->ways[1].share < 1);
        CU_ASSERT_EQUAL(point->ways[2].share, 1);
        CU_ASSERT_TRUE(point->ways[0].scan_ns == 0 && point->ways[0].share_power == 0);
        CU_ASSERT_EQUAL(point->ways[0].share_at, N_IDS);
        point->n_rank_on_host = 1;
        write_and_read(&profile);
        CU_ASSERT_EQUAL(engine->config.n_layer, 2); /* of the engine itself nothing changes */
    }
    aq_engine_close(engine);
    aq_comm_close(self);
}

static void refusals(void) {
    aq_comm *self = NULL;
    int32_t ids[300] = {0};
    aq_profile_point point;
    const aq_session_options ways[1] = {aq_case_options(1, 0)};
    aq_test_ok(aq_comm_open_self(&self));
    aq_engine *engine = open_engine(self);
    if (engine)
        aq_test_fails(aq_probe_point(engine, 1, ways, 1, ids, 300, &point), AQ_ERR_USAGE,
                      "320 tokens");
    aq_engine_close(engine);
    aq_comm_close(self);
}

static void between_ranks(void) {
    aq_comm *world = aq_test_world();
    const int n_rank = aq_comm_size(world);
    aq_profile profile = {.latency_us = -1, .bandwidth_gbs = -2};
    if (!aq_test_ok(aq_probe_network(world, &profile))) return;
    CU_ASSERT_EQUAL(profile.network_measured, n_rank > 1);
    if (n_rank == 1) {
        CU_ASSERT_TRUE(profile.latency_us == -1 && profile.bandwidth_gbs == -2);
        return;
    }
    CU_ASSERT_TRUE(profile.latency_us > 0 && profile.bandwidth_gbs > 0);
    double sums[2] = {profile.latency_us, profile.bandwidth_gbs};
    aq_test_ok(aq_comm_sum_f64(world, sums, 2));
    CU_ASSERT_DOUBLE_EQUAL(sums[0], n_rank * profile.latency_us, 1e-9 * sums[0]);
    CU_ASSERT_DOUBLE_EQUAL(sums[1], n_rank * profile.bandwidth_gbs, 1e-9 * sums[1]);
}

static void reads(void) {
    aq_profile profile = {.n_read = -1};
    if (aq_comm_rank(aq_test_world()) != 0 || !aq_test_ok(aq_probe_reads(3, &profile))) return;
    CU_ASSERT_EQUAL(profile.n_read, 3);
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL(profile.reads[i].n_thread, i + 1);
        CU_ASSERT_TRUE(profile.reads[i].gbs > 0);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "a point", a_point);
    CU_add_test(suite, "refusals", refusals);
    CU_add_test(suite, "between ranks", between_ranks);
    CU_add_test(suite, "reads", reads);
}
