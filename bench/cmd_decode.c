/* aqua-dist-bench decode: prefill and decode at several depths of context. */
#include <inttypes.h>

#include "bench/bench_commands.h"
#include "bench/bench_setup.h"

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

static aq_status add_row(const aq_bench *bench, const aq_lane *lane, const aq_series *series,
                         int64_t depth) {
    const aq_engine_info info = aq_engine_describe(bench->engine);
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
    return aq_bench_table_add(&bench->table, &row);
}

static aq_status add_rows(const aq_bench *bench) {
    for (int i = 0; i < bench->n_lane; i++)
        AQ_TRY(add_row(bench, &bench->lanes[i], &bench->lanes[i].prefill, 0));
    for (int i = 0; i < bench->n_lane; i++)
        AQ_TRY(add_row(bench, &bench->lanes[i], &bench->lanes[i].decode, bench->test.n_prefill));
    return AQ_OK;
}

static aq_status run_test(aq_bench *bench, int64_t n_prefill, int64_t n_decode, bool *valid) {
    bench->test.n_prefill = n_prefill;
    bench->test.n_decode = n_decode;
    AQ_TRY(
        aq_bench_step(bench->world, aq_bench_test_run(&bench->test, bench->lanes, bench->n_lane)));
    for (int i = 0; i < bench->n_lane; i++)
        if (!bench->lanes[i].valid) *valid = false;
    return aq_comm_agree(bench->world, bench->first ? add_rows(bench) : AQ_OK);
}

static aq_status run_all(const aq_bench_options *options, aq_comm *world, aq_bench *bench,
                         bool *valid) {
    AQ_TRY(aq_bench_open(options, world, longest(options), bench));
    for (int i = 0; i < options->prefills.n; i++)
        AQ_TRY(run_test(bench, options->prefills.values[i], 0, valid));
    for (int i = 0; i < options->depths.n; i++)
        AQ_TRY(run_test(bench, options->depths.values[i], options->n_decode, valid));
    return aq_comm_agree(world, aq_bench_table_close(&bench->table));
}

aq_status aq_bench_decode(const aq_bench_options *options, aq_comm *world, bool *valid) {
    aq_bench bench;
    *valid = true;
    const aq_status status = run_all(options, world, &bench, valid);
    aq_bench_close(&bench);
    return status;
}
