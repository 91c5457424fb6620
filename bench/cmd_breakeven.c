/* aqua-dist-bench breakeven: the length of context from which a way of attention decodes faster
 * than dense on this machine. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_commands.h"
#include "bench/bench_setup.h"
#include "bench/break_even.h"
#include "src/model/projection_file.h"

typedef struct {
    aq_bench bench; /* lanes: dense first */
    double *work;   /* [n_repeat] */
    /* Median time over dense's, by lane and length; rank 0 only. */
    double ratios[AQ_BENCH_LANES_MAX][AQ_BENCH_LIST_MAX];
    int64_t break_even[2]; /* as in a projection: aqua, select; rank 0 only */
    bool valid;
} even_state;

static aq_status add_rows(even_state *state, int length) {
    const aq_bench *bench = &state->bench;
    const aq_engine_info info = aq_engine_describe(bench->engine);
    const aq_series *dense = &bench->lanes[0].decode;
    const int64_t depth = bench->test.n_depth;
    char name[64];
    aq_bench_test_name(true, bench->test.n_decode, depth, name, sizeof name);
    for (int i = 0; i < bench->n_lane; i++) {
        const aq_lane *lane = &bench->lanes[i];
        const aq_bench_ratio ratio =
            aq_bench_ratio_of(lane->decode.seconds, dense->seconds, dense->n_sample, state->work);
        const aq_bench_row row = {.engine = &info,
                                  .lane = lane,
                                  .series = &lane->decode,
                                  .test = name,
                                  .depth = depth,
                                  .valid = lane->valid,
                                  .ratio = &ratio};
        state->ratios[i][length] = ratio.median;
        AQ_TRY(aq_bench_table_add(&bench->table, &row));
    }
    return AQ_OK;
}

static aq_status run_length(even_state *state, int length) {
    aq_bench *bench = &state->bench;
    bench->test.n_depth = bench->options->lengths.values[length];
    bench->test.n_decode = bench->options->n_decode;
    AQ_TRY(
        aq_bench_step(bench->world, aq_bench_test_run(&bench->test, bench->lanes, bench->n_lane)));
    for (int i = 0; i < bench->n_lane; i++)
        if (!bench->lanes[i].valid) state->valid = false;
    return aq_comm_agree(bench->world, bench->first ? add_rows(state, length) : AQ_OK);
}

/* Reads the file again: it may hold more than the engine's copy. */
static aq_status store(const char *path, const int64_t break_even[2]) {
    aq_projection projection;
    AQ_TRY(aq_projection_read(path, &projection));
    memcpy(projection.break_even, break_even, sizeof projection.break_even);
    const aq_status status = aq_projection_write(path, &projection);
    aq_projection_free(&projection);
    return status;
}

/* On rank 0. Times of a lane that failed its check are not worth keeping. */
static aq_status conclude(even_state *state) {
    const aq_bench *bench = &state->bench;
    const aq_bench_list *lengths = &bench->options->lengths;
    const aq_engine_info info = aq_engine_describe(bench->engine);
    for (int i = 1; i < bench->n_lane; i++) {
        const int64_t from = aq_break_even(lengths->values, state->ratios[i], lengths->n);
        state->break_even[bench->lanes[i].options.attn == AQ_ATTN_SELECT] = from;
        AQ_TRY(aq_bench_table_conclude(&bench->table, &info, &bench->lanes[i], from,
                                       lengths->values[lengths->n - 1]));
    }
    if (!bench->options->store || !state->valid) return AQ_OK;
    return store(bench->options->projection, state->break_even);
}

static aq_status run_all(even_state *state, const aq_bench_options *options, aq_comm *world) {
    const aq_bench_list *lengths = &options->lengths;
    const int64_t n_ctx = lengths->values[lengths->n - 1] + options->n_decode;
    aq_bench *bench = &state->bench;
    AQ_TRY(aq_bench_open(options, world, n_ctx, bench));
    state->work = malloc((size_t)options->n_repeat * sizeof *state->work);
    const aq_status opened =
        state->work ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for the measurements");
    AQ_TRY(aq_comm_agree(world, opened));
    for (int i = 0; i < lengths->n; i++)
        AQ_TRY(run_length(state, i));
    AQ_TRY(aq_comm_agree(world, bench->first ? conclude(state) : AQ_OK));
    return aq_comm_agree(world, aq_bench_table_close(&bench->table));
}

aq_status aq_bench_breakeven(const aq_bench_options *options, aq_comm *world, bool *valid) {
    even_state state = {.valid = true};
    const aq_status status = run_all(&state, options, world);
    aq_bench_close(&state.bench);
    free(state.work);
    *valid = state.valid;
    return status;
}
