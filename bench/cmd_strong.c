/* aqua-dist-bench strong: one context on 1, 2, ... of the ranks.
 *
 * Before anything is timed on p ranks, their logits are held against those of one rank: dense
 * attention over an fp32 cache, after the prefill and after each of a few decoded tokens. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "bench/bench_commands.h"
#include "bench/bench_row.h"
#include "bench/bench_setup.h"
#include "bench/statistics.h"

#define N_CHECK_DECODE 4 /* decoded tokens that are checked */
#define N_CHECK        (1 + N_CHECK_DECODE)
/* Ranks differ from one rank only in the order of fp32 sums; this is the error allowed relative to
 * the largest logit. */
#define RELATIVE_TOLERANCE 1e-5

typedef struct {
    const aq_bench_options *options;
    aq_comm *world;
    int32_t *ids; /* [n_ctx + n_decode or N_CHECK_DECODE] */
    int n_thread;
    aq_bench_table table;                 /* rank 0 only */
    float *logits;                        /* [N_CHECK, n_vocab] of one rank; rank 0 only */
    double largest;                       /* abs of them */
    double base_s[AQ_BENCH_LANES_MAX][2]; /* median seconds of one rank: prefill, decode */
    bool valid;
} strong_state;

/* The leading p ranks with what they need. */
typedef struct {
    aq_comm *comm;
    aq_engine *engine;
    aq_session *exact;
    aq_bench_test test;
    aq_lane lanes[AQ_BENCH_LANES_MAX];
    int n_lane;
} group;

/* Keeps logits number i of one rank, or compares with them. */
static aq_status check_logits(strong_state *state, group *g, int i, double *max_delta) {
    const int64_t n_vocab = aq_engine_describe(g->engine).n_vocab;
    const bool wanted = aq_comm_rank(g->comm) == 0;
    float *base = state->logits + i * n_vocab;
    AQ_TRY(aq_session_logits(g->exact, wanted ? g->test.logits : NULL));
    if (!wanted) return AQ_OK;
    for (int64_t v = 0; v < n_vocab; v++) {
        const float logit = g->test.logits[v];
        if (aq_comm_size(g->comm) == 1) {
            base[v] = logit;
            state->largest = fmax(state->largest, fabs((double)logit));
        }
        const double delta = fabs((double)logit - (double)base[v]);
        if (!(delta <= *max_delta)) *max_delta = isnan(delta) ? INFINITY : delta;
    }
    return AQ_OK;
}

static aq_status verify(strong_state *state, group *g, double *max_delta) {
    const int64_t n_ctx = state->options->n_ctx;
    const aq_session_options exact = {.n_ctx = n_ctx + N_CHECK_DECODE,
                                      .n_batch = state->options->n_batch,
                                      .attn = AQ_ATTN_DENSE,
                                      .key_type = AQ_KV_F32,
                                      .value_type = AQ_KV_F32};
    AQ_TRY(aq_session_open(g->engine, &exact, &g->exact));
    AQ_TRY(aq_session_prefill(g->exact, state->ids, n_ctx, NULL));
    AQ_TRY(check_logits(state, g, 0, max_delta));
    for (int i = 1; i < N_CHECK; i++) {
        AQ_TRY(aq_session_decode(g->exact, state->ids[n_ctx + i - 1]));
        AQ_TRY(check_logits(state, g, i, max_delta));
    }
    aq_session_close(g->exact);
    g->exact = NULL;
    return AQ_OK;
}

static aq_status add_row(strong_state *state, const group *g, int lane_index, bool decode,
                         double max_delta) {
    const aq_engine_info info = aq_engine_describe(g->engine);
    const aq_lane *lane = &g->lanes[lane_index];
    const aq_series *series = decode ? &lane->decode : &lane->prefill;
    double *sorted = malloc((size_t)series->n_sample * sizeof *sorted);
    if (!sorted) return aq_fail(AQ_ERR_MEMORY, "no memory for a row");
    for (int i = 0; i < series->n_sample; i++)
        sorted[i] = series->seconds[i];
    const double median_s = aq_statistics_of(sorted, (size_t)series->n_sample).median;
    free(sorted);

    double *base_s = &state->base_s[lane_index][decode];
    if (info.n_rank == 1) *base_s = median_s;
    const aq_bench_scaling scaling = {.speedup = *base_s / median_s,
                                      .efficiency = *base_s / median_s / info.n_rank,
                                      .max_delta = max_delta,
                                      .tolerance = RELATIVE_TOLERANCE * state->largest};
    const bool valid = lane->valid && max_delta <= scaling.tolerance;
    char name[64];
    const int64_t depth = decode ? g->test.n_prefill : 0;
    aq_bench_test_name(decode, series->n_tok, depth, name, sizeof name);
    if (!valid) state->valid = false;
    return aq_bench_table_add(&state->table, &(aq_bench_row){.engine = &info,
                                                             .lane = lane,
                                                             .series = series,
                                                             .test = name,
                                                             .depth = depth,
                                                             .valid = valid,
                                                             .scaling = &scaling});
}

static aq_status open_group(strong_state *state, group *g) {
    const aq_bench_options *options = state->options;
    AQ_TRY(aq_bench_open_engine(options, g->comm, state->n_thread, &g->engine));
    AQ_TRY(aq_bench_test_open(g->comm, g->engine, (int)options->n_repeat, &g->test));
    g->test.ids = state->ids;
    g->test.n_prefill = options->n_ctx;
    g->test.n_decode = options->n_decode;
    aq_status status = AQ_OK;
    if (aq_comm_rank(g->comm) == 0 && !state->logits) {
        const size_t n_vocab = (size_t)aq_engine_describe(g->engine).n_vocab;
        state->logits = malloc(N_CHECK * n_vocab * sizeof *state->logits);
        if (!state->logits) status = aq_fail(AQ_ERR_MEMORY, "no memory for the logits to check");
    }
    AQ_TRY(aq_comm_agree(g->comm, status));
    return aq_bench_open_lanes(options, &g->test, options->n_ctx + options->n_decode, g->lanes,
                               &g->n_lane);
}

static void close_group(group *g) {
    if (!g->comm) return;
    for (int i = 0; i < g->n_lane; i++)
        aq_lane_close(&g->lanes[i]);
    aq_session_close(g->exact);
    aq_bench_test_close(&g->test);
    aq_engine_close(g->engine);
    aq_comm_close(g->comm);
}

/* What the ranks of the group do while the others wait. */
static aq_status run_group(strong_state *state, group *g) {
    double max_delta = 0;
    if (!g->comm) return AQ_OK;
    AQ_TRY(open_group(state, g));
    AQ_TRY(aq_bench_step(state->world, verify(state, g, &max_delta)));
    AQ_TRY(aq_bench_step(state->world, aq_bench_test_run(&g->test, g->lanes, g->n_lane)));
    if (aq_comm_rank(g->comm) != 0) return AQ_OK;
    for (int i = 0; i < 2 * g->n_lane; i++)
        AQ_TRY(add_row(state, g, i % g->n_lane, i >= g->n_lane, max_delta));
    return AQ_OK;
}

static aq_status run_ranks(strong_state *state, int n_rank) {
    group g = {.comm = NULL};
    AQ_TRY(aq_comm_open_leading(state->world, n_rank, &g.comm));
    const aq_status status = aq_comm_agree(state->world, run_group(state, &g));
    close_group(&g);
    return status;
}

static aq_status check_ranks(const strong_state *state) {
    const aq_bench_list *ranks = &state->options->ranks;
    const int n_rank = aq_comm_size(state->world);
    if (ranks->n > 0 && ranks->values[ranks->n - 1] > n_rank)
        return aq_fail(AQ_ERR_USAGE, "--ranks asks for %" PRId64 " ranks, mpirun started %d",
                       ranks->values[ranks->n - 1], n_rank);
    return AQ_OK;
}

static aq_status run_all(strong_state *state) {
    const aq_bench_options *options = state->options;
    const bool first = aq_comm_rank(state->world) == 0;
    const int64_t n_more = options->n_decode > N_CHECK_DECODE ? options->n_decode : N_CHECK_DECODE;
    AQ_TRY(check_ranks(state));
    AQ_TRY(aq_bench_check_split(options, state->world));
    state->n_thread = aq_bench_threads(options, state->world);
    AQ_TRY(aq_bench_read_ids(options, state->world, options->n_ctx + n_more, &state->ids));
    aq_status opened = AQ_OK;
    if (first) opened = aq_bench_table_open(options, aq_comm_host(state->world), &state->table);
    AQ_TRY(aq_comm_agree(state->world, opened));
    if (first) aq_bench_table_head(&state->table);
    if (options->ranks.n == 0)
        for (int p = 1; p <= aq_comm_size(state->world); p++)
            AQ_TRY(run_ranks(state, p));
    for (int i = 0; i < options->ranks.n; i++)
        AQ_TRY(run_ranks(state, (int)options->ranks.values[i]));
    return aq_comm_agree(state->world, aq_bench_table_close(&state->table));
}

aq_status aq_bench_strong(const aq_bench_options *options, aq_comm *world, bool *valid) {
    strong_state state = {.options = options, .world = world, .valid = true};
    const aq_status status = run_all(&state);
    aq_bench_table_drop(&state.table);
    free(state.logits);
    free(state.ids);
    *valid = state.valid;
    if (status != AQ_OK) return status;
    return aq_comm_bcast(world, valid, sizeof *valid, 0);
}
