/* aqua-dist plan: what a run would take, without running it. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/context.h"
#include "launch/fit.h"
#include "launch/profile.h"
#include "launch/prompt.h"
#include "launch/shares.h"
#include "src/base/memory.h"
#include "src/base/threads.h"
#include "src/engine/forecast.h"
#include "src/model/synth.h"

#define MAX_RANKS AQ_HOSTS_MAX

typedef struct {
    const aq_program *program; /* of this rank alone */
    aq_comm *world;            /* of all that were started */
    aq_engine *engine;
    aq_fit fit;
    aq_hosts hosts;
    int n_rank, n_tp;
    const char *split; /* --split, of n_rank ranks */
    int64_t *weights;  /* [n_rank], NULL: equal shares */
    aq_profile profile;
    bool has_profile;
} plan_state;

/* One number of ranks: where it runs, and how long it would take. */
typedef struct {
    int n_rank;
    aq_fit_verdict verdict;
    bool timed;
    aq_seconds prefill, decode;
    double total_s; /* prefill of the context, and the tokens to generate */
} plan_row;

/* ---- what is planned for ---- */

static aq_status read_hosts(plan_state *plan) {
    const aq_options *options = plan->program->options;
    AQ_TRY(aq_hosts_read(options->hosts, &plan->hosts));
    const int n = aq_hosts_ranks(&plan->hosts);
    plan->n_rank = options->n_rank > 0 ? (int)options->n_rank : n;
    if (plan->n_rank > n)
        return aq_fail(AQ_ERR_USAGE, "%s has %d ranks, --ranks asks for %d", options->hosts, n,
                       plan->n_rank);
    if (plan->n_rank <= MAX_RANKS) return AQ_OK;
    return aq_fail(AQ_ERR_USAGE, "%s has %d ranks, over the limit of %d", options->hosts, n,
                   MAX_RANKS);
}

static aq_status open_hosts(plan_state *plan) {
    const aq_options *options = plan->program->options;
    const int64_t asked = options->n_rank, available = aq_memory_available();
    if (asked < 0 || asked > MAX_RANKS)
        return aq_fail(AQ_ERR_USAGE, "--ranks must be 1 to %d", MAX_RANKS);
    if (options->hosts && options->memory)
        return aq_fail(AQ_ERR_USAGE, "--hosts says how much memory there is; leave --memory out");
    if (options->hosts) return read_hosts(plan);
    plan->n_rank = asked > 0 ? (int)asked : aq_comm_size(plan->world);
    if (options->memory) {
        int64_t bytes = 0;
        AQ_TRY(aq_memory_parse("--memory", options->memory, &bytes));
        return aq_hosts_each(plan->n_rank, bytes, &plan->hosts);
    }
    if (available == 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "this system does not tell how much memory is left; "
                                           "give --memory");
    aq_hosts_one(aq_comm_host(plan->world), plan->n_rank, available, &plan->hosts);
    return AQ_OK;
}

static aq_status check_options(const aq_options *options) {
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    if (options->profile && options->use_profile)
        return aq_fail(AQ_ERR_USAGE, "--profile measures and --use-profile reads: give one");
    if (strncmp(options->device, "cuda", 4) == 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "plan knows processors alone (--device cpu)");
    if (!(options->latency_us >= 0 && options->bandwidth_gbs > 0))
        return aq_fail(AQ_ERR_USAGE, "--latency must be 0 or more, --bandwidth above 0");
    if (options->n_predict < 0 || options->n_ctx < 0)
        return aq_fail(AQ_ERR_USAGE, "-n and -c must not be negative");
    return AQ_OK;
}

/* Shares that are measured are measured where they are used. */
static aq_status read_split(plan_state *plan) {
    if (!plan->split) return AQ_OK;
    if (strcmp(plan->split, "auto") == 0)
        return aq_fail(AQ_ERR_USAGE, "plan takes --split as a list; run says what auto has chosen");
    plan->weights = calloc((size_t)plan->n_rank, sizeof *plan->weights);
    if (!plan->weights)
        return aq_fail(AQ_ERR_MEMORY, "no memory for the shares of %d ranks", plan->n_rank);
    return aq_shares_parse(plan->split, plan->n_rank, plan->weights);
}

/* Bytes of this process before the model: the tokeniser's are of rank 0, and counted on all. A made
 * model (src/model/synth.h) has none. */
static aq_status weigh_program(const char *model, int64_t *bytes) {
    aq_tokenizer *tok = NULL;
    if (!aq_synth_is_name(model)) AQ_TRY(aq_prompt_open_tokenizer(model, &tok));
    *bytes = aq_memory_resident();
    aq_tokenizer_close(tok);
    return AQ_OK;
}

static aq_status open_plan(plan_state *plan) {
    const aq_options *options = plan->program->options;
    const aq_engine_options extra = {.unread = options->profile == NULL};
    AQ_TRY(check_options(options));
    AQ_TRY(open_hosts(plan));
    AQ_TRY(read_split(plan));
    if (plan->n_tp < 1 || plan->n_rank % plan->n_tp != 0)
        return aq_fail(AQ_ERR_USAGE, "--tp must divide the %d ranks", plan->n_rank);
    AQ_TRY(weigh_program(options->model, &plan->fit.program_bytes));
    AQ_TRY(aq_program_open_engine_as(plan->program, &extra, &plan->engine));
    const int64_t n_ctx =
        options->n_ctx > 0 ? options->n_ctx : aq_engine_describe(plan->engine).n_ctx_model;
    plan->fit.engine = plan->engine;
    plan->fit.n_tp = plan->n_tp;
    plan->fit.weights = plan->weights;
    plan->fit.options = aq_program_session_options(options, n_ctx);
    plan->fit.from_context =
        aq_context_makes_projection(plan->program, plan->engine, &plan->fit.options);
    return AQ_OK;
}

/* ---- the profile ---- */

static aq_status read_profile(plan_state *plan) {
    const aq_options *options = plan->program->options;
    AQ_TRY(aq_profile_read(options->use_profile, &plan->profile));
    if (!plan->profile.network_measured) {
        plan->profile.latency_us = options->latency_us;
        plan->profile.bandwidth_gbs = options->bandwidth_gbs;
    }
    return AQ_OK;
}

/* ---- rows of time ---- */

/* Threads of each of n_rank ranks: on one host they share its processors, unless -t says. */
static int threads_of(const plan_state *plan, int n_rank) {
    const int64_t asked = plan->program->options->n_thread;
    const int n_here = aq_hosts_used(&plan->hosts, 0, n_rank);
    const int n = aq_threads_available() / n_here;
    if (asked > 0) return (int)asked;
    return n > 0 ? n : 1;
}

/* The most ranks on a host, and the slowest link of those that are used; 0: not said. */
static int most_on_host(const plan_state *plan, int n_rank, double *link_gbs) {
    int most = 0;
    *link_gbs = 0;
    for (int i = 0; i < plan->hosts.n; i++) {
        const int n = aq_hosts_used(&plan->hosts, i, n_rank);
        const double gbs = plan->hosts.hosts[i].bandwidth_gbs;
        if (n > most) most = n;
        if (n > 0 && gbs > 0 && (*link_gbs == 0 || gbs < *link_gbs)) *link_gbs = gbs;
    }
    return most;
}

static const aq_way_rate *way_of(const plan_state *plan, int n_thread) {
    const aq_options *options = plan->program->options;
    return aq_way_for(aq_profile_for(&plan->profile, n_thread), options->attn, options->key_type,
                      options->value_type);
}

static aq_status forecast(const plan_state *plan, plan_row *row) {
    const int64_t n_ctx = plan->fit.options.n_ctx;
    const int64_t n_predict = plan->program->options->n_predict;
    aq_profile profile = plan->profile;
    aq_workload load;
    double link_gbs = 0;
    if (plan->fit.options.n_h2o > 0 || plan->fit.options.hybrid) return AQ_OK; /* not measured */
    AQ_TRY(aq_workload_of(plan->engine, row->n_rank, plan->n_tp, &plan->fit.options, &load));
    load.weights = plan->weights;
    load.n_thread = threads_of(plan, row->n_rank);
    load.n_rank_on_host = most_on_host(plan, row->n_rank, &link_gbs);
    if (link_gbs > 0) profile.bandwidth_gbs = link_gbs;
    const aq_way_rate *way = way_of(plan, load.n_thread);
    if (!way) return AQ_OK;
    AQ_TRY(aq_forecast_prefill(&profile, way, &load, n_ctx, &row->prefill));
    AQ_TRY(aq_forecast_decode(&profile, way, &load, n_ctx, &row->decode));
    row->timed = true;
    row->total_s = aq_seconds_sum(&row->prefill) + (double)n_predict * aq_seconds_sum(&row->decode);
    return AQ_OK;
}

static aq_status make_row(const plan_state *plan, int n_rank, plan_row *row) {
    *row = (plan_row){.n_rank = n_rank};
    AQ_TRY(aq_fit_hosts(&plan->fit, &plan->hosts, n_rank, plan->fit.options.n_ctx, &row->verdict));
    return plan->has_profile ? forecast(plan, row) : AQ_OK;
}

/* ---- telling ---- */

static double mib(int64_t bytes) {
    return (double)bytes / 1048576.0;
}

static void print_part(const char *name, int64_t bytes, const char *remark) {
    const char *gap = *remark ? "  " : "";
    if (bytes > 0) printf("  %-12s %10.2f MiB%s%s\n", name, mib(bytes), gap, remark);
}

static void print_setting(const plan_state *plan) {
    const aq_options *options = plan->program->options;
    const aq_engine_info info = aq_engine_describe(plan->engine);
    printf("model      %s, %d layers, %d query heads, %d KV heads of %d\n", info.name, info.n_layer,
           info.n_head, info.n_kv_head, info.d_head);
    printf("context    %" PRId64 " tokens (the model's longest: %" PRId64 ")\n",
           plan->fit.options.n_ctx, info.n_ctx_model);
    printf("attention  %s, keys %s, values %s\n", options->attn, options->key_type,
           options->value_type);
}

/* Of the rank that takes most on the host that lacks most. */
static aq_status print_memory(const plan_state *plan, const aq_fit_verdict *verdict) {
    const int r = verdict->rank;
    aq_fit_rank rank;
    AQ_TRY(aq_fit_rank_of(&plan->fit, plan->n_rank, r, plan->fit.options.n_ctx, &rank));
    const aq_footprint *parts = &rank.parts;
    const bool shared = plan->n_tp > 1;
    if (plan->weights)
        printf("\nmemory of rank %d (of %d, --split %s)\n", r, plan->n_rank, plan->split);
    else
        printf("\nmemory of a rank (of %d)\n", plan->n_rank);
    print_part("weights", parts->weights,
               shared ? "this rank's share" : "in the map of the file, once a host");
    print_part("moved", parts->moved, "weights in another order");
    print_part("projection", parts->projection, "");
    print_part("keys", parts->keys, "");
    print_part("values", parts->values, "");
    print_part("selector", parts->selector, "");
    print_part("open tile", parts->open_tile, "");
    print_part("step", parts->step, "buffers; smaller with -b");
    print_part("start", rank.start, "dense, until the projection is made from the context");
    print_part("other", parts->other, "");
    print_part("program", plan->fit.program_bytes, "with MPI and tokeniser, as this one");
    print_part("sum", rank.own + (shared ? 0 : parts->weights), "");
    return AQ_OK;
}

static void print_hosts(const plan_state *plan, const plan_row *row) {
    const aq_host *host = &plan->hosts.hosts[row->verdict.host];
    const int64_t longest = aq_fit_longest(&plan->fit, &plan->hosts, plan->n_rank);
    printf("\nhosts      %s needs %.2f MiB for %d of the ranks, has %.2f: %s\n", host->name,
           mib(row->verdict.need), aq_hosts_used(&plan->hosts, row->verdict.host, plan->n_rank),
           mib(host->memory), row->verdict.fits ? "fits" : "does not fit");
    printf("longest    %" PRId64 " tokens fit%s\n", longest,
           longest == aq_engine_describe(plan->engine).n_ctx_model ? ", the model's longest" : "");
}

static aq_status print_wire(const plan_state *plan) {
    aq_wire wire;
    AQ_TRY(aq_wire_of(plan->engine, plan->n_rank, plan->n_tp, &plan->fit.options, &wire));
    printf("\nwire       a decoded token: %.0f bytes from each rank, %d messages and its id\n",
           wire.decode_bytes, wire.decode_messages);
    printf("           a prefilled token: %.0f bytes from each rank; a chunk: %d messages\n",
           wire.prefill_bytes, wire.prefill_messages);
    if (plan->n_tp == 1) return AQ_OK;
    printf("weights    a decoded token: %.0f bytes from each of %d ranks, %d messages\n",
           wire.share_decode_bytes, plan->n_tp, wire.share_decode_messages);
    printf("           a chunk: %.0f bytes from each of them, %d messages\n",
           wire.share_chunk_bytes, wire.share_chunk_messages);
    return AQ_OK;
}

static void print_times(const plan_state *plan, const plan_row *rows, int n_row) {
    const aq_profile *profile = &plan->profile;
    const int64_t n_ctx = plan->fit.options.n_ctx;
    printf("\ntime       as measured on %s with %s; network: %.1f us, %.2f GB/s (%s)\n",
           profile->host, profile->model, profile->latency_us, profile->bandwidth_gbs,
           profile->network_measured ? "measured" : "as given");
    printf("  ranks threads   prefill s  tokens/s   decode ms  tokens/s   all s\n");
    for (int i = 0; i < n_row; i++) {
        const plan_row *row = &rows[i];
        const double prefill_s = aq_seconds_sum(&row->prefill);
        const double decode_s = aq_seconds_sum(&row->decode);
        printf("  %5d %7d %11.2f %9.1f %11.3f %9.1f %7.1f%s\n", row->n_rank,
               threads_of(plan, row->n_rank), prefill_s, (double)n_ctx / prefill_s, decode_s * 1e3,
               1 / decode_s, row->total_s, row->verdict.fits ? "" : "  does not fit");
    }
}

/* The fewest ranks that fit and take least time. */
static void print_verdict(const plan_state *plan, const plan_row *rows, int n_row) {
    const plan_row *best = NULL, *asked = &rows[n_row - 1];
    for (int i = 0; i < n_row; i++)
        if (rows[i].verdict.fits && (!best || rows[i].total_s < best->total_s)) best = &rows[i];
    if (!best) return;
    printf("\nverdict    %" PRId64 " tokens and %" PRId64 " more: ", plan->fit.options.n_ctx,
           plan->program->options->n_predict);
    if (best != asked)
        printf("use %d rank%s: %d would be slower, %.1f s in place of %.1f\n", best->n_rank,
               best->n_rank == 1 ? "" : "s", asked->n_rank, asked->total_s, best->total_s);
    else if (n_row > 1 && rows[0].verdict.fits)
        printf("use %d ranks: 1 would take %.2f times as long\n", best->n_rank,
               rows[0].total_s / best->total_s);
    else
        printf("use %d rank%s\n", best->n_rank, best->n_rank == 1 ? "" : "s");
}

/* Whether the first n_rank ranks hold anything by themselves. */
static bool hold_something(const plan_state *plan, int n_rank) {
    for (int r = 0; plan->weights && r < n_rank; r++)
        if (plan->weights[r] > 0) return true;
    return !plan->weights;
}

/* 1, 2, 4 .. and all ranks; where groups of n_tp share the weights 1, 2, 4 .. groups. */
static int list_ranks(const plan_state *plan, int ranks[16]) {
    int n = 0;
    for (int p = plan->n_tp; p < plan->n_rank; p *= 2)
        if (hold_something(plan, p)) ranks[n++] = p;
    ranks[n++] = plan->n_rank;
    return n;
}

static aq_status tell(const plan_state *plan) {
    plan_row rows[16];
    int ranks[16];
    const int n_row = list_ranks(plan, ranks);
    for (int i = 0; i < n_row; i++)
        AQ_TRY(make_row(plan, ranks[i], &rows[i]));
    const plan_row *asked = &rows[n_row - 1];
    print_setting(plan);
    AQ_TRY(print_memory(plan, &asked->verdict));
    print_hosts(plan, asked);
    AQ_TRY(print_wire(plan));
    if (asked->timed) {
        print_times(plan, rows, n_row);
        print_verdict(plan, rows, n_row);
    } else {
        printf("\ntime       not known: %s\n",
               plan->has_profile ? "the profile was not measured with this way of attention; "
                                   "select needs a text (-f) and a projection"
                                 : "measure a profile with --profile FILE");
    }
    if (asked->verdict.fits) return AQ_OK;
    return aq_fit_refuse(&plan->fit, &plan->hosts, plan->n_rank, &asked->verdict);
}

/* What is measured is measured on all ranks; the rest is rank 0's. Collective. */
static aq_status plan_all(plan_state *plan, bool first) {
    const aq_options *options = plan->program->options;
    const bool measures = options->profile != NULL;
    AQ_TRY(aq_comm_agree(plan->world, first || measures ? open_plan(plan) : AQ_OK));
    if (measures)
        AQ_TRY(aq_profile_make(plan->program, plan->world, plan->engine, &plan->fit.options,
                               &plan->profile));
    aq_status status = AQ_OK;
    if (first && options->use_profile) status = read_profile(plan);
    plan->has_profile = measures || options->use_profile != NULL;
    if (first && status == AQ_OK) status = tell(plan);
    return aq_comm_agree(plan->world, status);
}

aq_status aq_command_plan(const aq_program *program) {
    aq_options options = *program->options;
    aq_program alone = {.options = &options, .first = program->first};
    plan_state *plan = calloc(1, sizeof *plan);
    if (!plan) return aq_fail(AQ_ERR_MEMORY, "no memory for a plan");
    aq_status status = aq_comm_open_self(&alone.world);
    plan->program = &alone;
    plan->world = program->world;
    plan->n_tp = options.n_tp < INT_MAX ? (int)options.n_tp : 0;
    options.n_tp = 1; /* of the engine, which is one rank's */
    plan->split = options.split;
    options.split = NULL;
    if (strcmp(options.device, "auto") == 0) options.device = "cpu";
    if (status == AQ_OK) status = plan_all(plan, program->first);
    aq_engine_close(plan->engine);
    aq_comm_close(alone.world);
    free(plan->weights);
    free(plan);
    return status;
}
