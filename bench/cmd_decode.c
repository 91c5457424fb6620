/* aqua-dist-bench decode: prefill and decode at several depths of context. */
#include <inttypes.h>
#include <stdlib.h>

#include "bench/bench_commands.h"
#include "bench/bench_row.h"
#include "bench/bench_setup.h"

typedef struct {
    const aq_bench_options *options;
    aq_comm *world;
    aq_engine *engine;
    int32_t *ids;
    aq_bench_test test;
    aq_lane lanes[AQ_BENCH_LANES_MAX];
    int n_lane;
    aq_bench_table table; /* rank 0 only */
    bool valid;
} decode_state;

/* Most tokens of any test. */
static int64_t longest(const aq_bench_options *options) {
    int64_t n = 0;
    for (int i = 0; i < options->depths.n; i++)
        if (options->depths.values[i] + options->n_decode > n)
            n = options->depths.values[i] + options->n_decode;
    for (int i = 0; i < options->prefills.n; i++)
        if (options->prefills.values[i] > n) n = options->prefills.values[i];
    return n;
}

static aq_status add_row(decode_state *state, const aq_lane *lane, const aq_series *series,
                         int64_t depth) {
    const aq_engine_info info = aq_engine_describe(state->engine);
    char name[64];
    if (series->n_tok == 0) return AQ_OK;
    if (series == &lane->prefill)
        snprintf(name, sizeof name, "pp%" PRId64, series->n_tok);
    else if (depth > 0)
        snprintf(name, sizeof name, "tg%" PRId64 " @ d%" PRId64, series->n_tok, depth);
    else
        snprintf(name, sizeof name, "tg%" PRId64, series->n_tok);
    const aq_bench_row row = {.engine = &info,
                              .lane = lane,
                              .series = series,
                              .test = name,
                              .depth = depth,
                              .valid = lane->valid};
    return aq_bench_table_add(&state->table, &row);
}

static aq_status add_rows(decode_state *state) {
    for (int i = 0; i < state->n_lane; i++)
        AQ_TRY(add_row(state, &state->lanes[i], &state->lanes[i].prefill, 0));
    for (int i = 0; i < state->n_lane; i++)
        AQ_TRY(add_row(state, &state->lanes[i], &state->lanes[i].decode, state->test.n_prefill));
    return AQ_OK;
}

static aq_status run_test(decode_state *state, int64_t n_prefill, int64_t n_decode) {
    state->test.n_prefill = n_prefill;
    state->test.n_decode = n_decode;
    AQ_TRY(
        aq_bench_step(state->world, aq_bench_test_run(&state->test, state->lanes, state->n_lane)));
    for (int i = 0; i < state->n_lane; i++)
        if (!state->lanes[i].valid) state->valid = false;
    const aq_status added = aq_comm_rank(state->world) == 0 ? add_rows(state) : AQ_OK;
    return aq_comm_agree(state->world, added);
}

static aq_status run_all(decode_state *state) {
    const aq_bench_options *options = state->options;
    const int n_thread = aq_bench_threads(options, state->world);
    const int64_t n_ctx = longest(options);
    const bool first = aq_comm_rank(state->world) == 0;
    AQ_TRY(aq_bench_read_ids(options, state->world, n_ctx, &state->ids));
    AQ_TRY(aq_bench_open_engine(options, state->world, n_thread, &state->engine));
    AQ_TRY(aq_bench_test_open(state->world, state->engine, (int)options->n_repeat, &state->test));
    state->test.ids = state->ids;
    AQ_TRY(aq_bench_open_lanes(options, &state->test, n_ctx, state->lanes, &state->n_lane));
    aq_status opened = AQ_OK;
    if (first) opened = aq_bench_table_open(options, aq_comm_host(state->world), &state->table);
    AQ_TRY(aq_comm_agree(state->world, opened));
    if (first) aq_bench_table_head(&state->table);
    for (int i = 0; i < options->prefills.n; i++)
        AQ_TRY(run_test(state, options->prefills.values[i], 0));
    for (int i = 0; i < options->depths.n; i++)
        AQ_TRY(run_test(state, options->depths.values[i], options->n_decode));
    return aq_comm_agree(state->world, aq_bench_table_close(&state->table));
}

aq_status aq_bench_decode(const aq_bench_options *options, aq_comm *world, bool *valid) {
    decode_state state = {.options = options, .world = world, .valid = true};
    const aq_status status = run_all(&state);
    if (state.table.file) fclose(state.table.file);
    for (int i = 0; i < state.n_lane; i++)
        aq_lane_close(&state.lanes[i]);
    aq_bench_test_close(&state.test);
    aq_engine_close(state.engine);
    free(state.ids);
    *valid = state.valid;
    return status;
}
