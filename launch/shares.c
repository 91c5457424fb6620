#include "launch/shares.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/plan.h"
#include "src/engine/split.h"

static aq_status not_a_split(const char *text, int n_rank) {
    return aq_fail(AQ_ERR_USAGE,
                   "--split takes a whole number from 0 for each of %d ranks, commas between, or "
                   "auto; not \"%s\"",
                   n_rank, text);
}

/* Whether the weights can be dealt by. */
static aq_status try_weights(int n_rank, const int64_t *weights) {
    aq_plan plan;
    const aq_status status = aq_plan_open(n_rank, 0, weights, &plan);
    aq_plan_close(&plan);
    return status;
}

aq_status aq_shares_parse(const char *text, int n_rank, int64_t *weights) {
    const char *at = text;
    for (int r = 0; r < n_rank; r++) {
        char *end = NULL;
        errno = 0;
        weights[r] = strtoll(at, &end, 10);
        const char wanted = r + 1 < n_rank ? ',' : '\0';
        if (end == at || errno != 0 || weights[r] < 0 || *end != wanted)
            return not_a_split(text, n_rank);
        at = end + 1;
    }
    return try_weights(n_rank, weights);
}

bool aq_shares_are_measured(const aq_options *options) {
    return options->split && strcmp(options->split, "auto") == 0;
}

/* Zeroed memory for n numbers a rank; the caller frees. */
static aq_status alloc_for_ranks(int n_rank, size_t bytes, void **out) {
    *out = calloc((size_t)n_rank, bytes);
    return *out ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for the shares of %d ranks", n_rank);
}

aq_status aq_shares_weights(const aq_program *program, const aq_engine *engine, int64_t **out) {
    const aq_options *options = program->options;
    const int n_rank = aq_comm_size(program->world);
    void *weights = NULL;
    *out = NULL;
    if (!options->split) return AQ_OK;
    AQ_TRY(alloc_for_ranks(n_rank, sizeof(int64_t), &weights));
    aq_status status = AQ_OK;
    if (aq_shares_are_measured(options))
        aq_split_of(engine, weights);
    else
        status = aq_shares_parse(options->split, n_rank, weights);
    if (status == AQ_OK)
        *out = weights;
    else
        free(weights);
    return status;
}

aq_status aq_shares_check(const aq_program *program) {
    int64_t *weights = NULL;
    if (aq_shares_are_measured(program->options)) return AQ_OK;
    AQ_TRY(aq_shares_weights(program, NULL, &weights));
    free(weights);
    return AQ_OK;
}

static void print_rates(const aq_split_rates *rates, int n_rank) {
    for (int r = 0; r < n_rank; r++) {
        fprintf(stderr, "split: rank %d reads %.1f GB/s, makes %.1f G multiply-adds/s, ", r,
                (double)rates[r].read_bytes_per_s * 1e-9, (double)rates[r].product_per_s * 1e-9);
        if (rates[r].free_bytes == INT64_MAX)
            fprintf(stderr, "free memory not known\n");
        else
            fprintf(stderr, "%.2f GiB free\n", (double)rates[r].free_bytes / 1073741824.0);
    }
}

static void print_weights(const int64_t *weights, int n_rank) {
    int64_t all = 0;
    for (int r = 0; r < n_rank; r++)
        all += weights[r];
    fprintf(stderr, "split: of every %" PRId64 " tiles of %d tokens the ranks hold ", all, AQ_TILE);
    for (int r = 0; r < n_rank; r++)
        fprintf(stderr, "%s%" PRId64, r > 0 ? ", " : "", weights[r]);
    fputc('\n', stderr);
}

/* Weights by measurement. */
static aq_status measure(const aq_program *program, aq_engine *engine, int64_t n_ctx,
                         aq_split_rates *rates, int64_t *weights) {
    const int n_rank = aq_comm_size(program->world);
    const aq_session_options options = aq_program_session_options(program->options, n_ctx);
    int64_t cache_bytes = 0;
    AQ_TRY(aq_split_cache_bytes(engine, &options, &cache_bytes));
    AQ_TRY(aq_split_measure(engine, rates));
    aq_split_choose(rates, n_rank, cache_bytes, weights);
    if (program->first) print_rates(rates, n_rank);
    return AQ_OK;
}

aq_status aq_shares_apply(const aq_program *program, aq_engine *engine, int64_t n_ctx) {
    const aq_options *options = program->options;
    const int n_rank = aq_comm_size(program->world);
    void *weights = NULL, *rates = NULL;
    if (!options->split) return AQ_OK;
    aq_status status = alloc_for_ranks(n_rank, sizeof(int64_t), &weights);
    if (status == AQ_OK) status = alloc_for_ranks(n_rank, sizeof(aq_split_rates), &rates);
    status = aq_comm_agree(program->world, status);
    if (status == AQ_OK)
        status = aq_shares_are_measured(options) ? measure(program, engine, n_ctx, rates, weights)
                                                 : aq_shares_parse(options->split, n_rank, weights);
    if (status == AQ_OK) status = aq_engine_set_split(engine, weights);
    if (status == AQ_OK && program->first) print_weights(weights, n_rank);
    free(weights);
    free(rates);
    return status;
}
