/* aqua-dist-bench decode and prefill: both at several depths of context. */
#include "bench/bench_commands.h"
#include "bench/bench_setup.h"

/* One test: tokens in front, and of what is timed, one of the two. */
typedef struct {
    int64_t depth, n_prefill, n_decode;
} test_size;

/* Test i of those that the options ask for; false if there are fewer. `decode`: prefills of an
 * empty context, then decoding behind each depth; `prefill`: each length behind each depth. */
static bool size_of(const aq_bench_options *options, int i, test_size *out) {
    const aq_bench_list *depths = &options->depths, *prefills = &options->prefills;
    *out = (test_size){0, 0, 0};
    if (options->command == AQ_BENCH_PREFILL) {
        if (i >= depths->n * prefills->n) return false;
        out->depth = depths->values[i / prefills->n];
        out->n_prefill = prefills->values[i % prefills->n];
        return true;
    }
    if (i < prefills->n) {
        out->n_prefill = prefills->values[i];
        return true;
    }
    if (i >= prefills->n + depths->n) return false;
    out->depth = depths->values[i - prefills->n];
    out->n_decode = options->n_decode;
    return true;
}

/* Most tokens of any test. */
static int64_t longest(const aq_bench_options *options) {
    test_size size;
    int64_t most = 0;
    for (int i = 0; size_of(options, i, &size); i++) {
        const int64_t n = size.depth + size.n_prefill + size.n_decode;
        if (n > most) most = n;
    }
    return most;
}

static aq_status add_rows(const aq_bench *bench) {
    const aq_engine_info info = aq_engine_describe(bench->engine);
    for (int i = 0; i < bench->n_lane; i++) {
        const aq_lane *lane = &bench->lanes[i];
        const bool decode = bench->test.n_decode > 0;
        const aq_series *series = decode ? &lane->decode : &lane->prefill;
        char name[64];
        aq_bench_test_name(decode, series->n_tok, bench->test.n_depth, name, sizeof name);
        const aq_bench_row row = {.engine = &info,
                                  .lane = lane,
                                  .series = series,
                                  .test = name,
                                  .depth = bench->test.n_depth,
                                  .valid = lane->valid};
        AQ_TRY(aq_bench_table_add(&bench->table, &row));
    }
    return AQ_OK;
}

static aq_status run_test(aq_bench *bench, const test_size *size, bool *valid) {
    bench->test.n_depth = size->depth;
    bench->test.n_prefill = size->n_prefill;
    bench->test.n_decode = size->n_decode;
    AQ_TRY(
        aq_bench_step(bench->world, aq_bench_test_run(&bench->test, bench->lanes, bench->n_lane)));
    for (int i = 0; i < bench->n_lane; i++)
        if (!bench->lanes[i].valid) *valid = false;
    return aq_comm_agree(bench->world, bench->first ? add_rows(bench) : AQ_OK);
}

static aq_status run_all(const aq_bench_options *options, aq_comm *world, aq_bench *bench,
                         bool *valid) {
    test_size size;
    AQ_TRY(aq_bench_open(options, world, longest(options), bench));
    for (int i = 0; size_of(options, i, &size); i++)
        AQ_TRY(run_test(bench, &size, valid));
    return aq_comm_agree(world, aq_bench_table_close(&bench->table));
}

aq_status aq_bench_decode(const aq_bench_options *options, aq_comm *world, bool *valid) {
    aq_bench bench;
    *valid = true;
    const aq_status status = run_all(options, world, &bench, valid);
    aq_bench_close(&bench);
    return status;
}
