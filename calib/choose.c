#include "calib/choose.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/budget.h"
#include "calib/sample.h"
#include "calib/trial.h"
#include "src/engine/engine.h"

enum { MOST_BASES = 3 };

static const aq_basis all_bases[MOST_BASES] = {AQ_BASIS_JOINT, AQ_BASIS_KQ, AQ_BASIS_KPCA};
static const aq_mass_rule rule = {
    .mass = AQ_CHOOSE_MASS, .n_sink = AQ_CHOOSE_SINKS, .n_recent = AQ_CHOOSE_RECENT};

typedef struct {
    aq_projection projections[MOST_BASES];
    int n_basis;
    aq_selector *selectors;
    int n_selector;
    aq_trial_sum *sums; /* [n_basis, n_selector], then of exact scores */
    int grid[AQ_BUDGET_GRID];
    int n_grid;
    double *losses; /* [n_basis, n_layer, n_kv_head, n_grid]; NULL: no budgets are asked for */
    int64_t n_loss; /* of one basis */
} choice;

static void close_choice(choice *c) {
    for (int b = 0; b < c->n_basis; b++)
        aq_projection_free(&c->projections[b]);
    free(c->selectors);
    free(c->sums);
    free(c->losses);
}

/* What is to be found out on the held-out text. */
static aq_status plan_choice(const aq_engine *engine, const aq_choose_options *options, choice *c) {
    const aq_model_config *config = &engine->config;
    if (options->selector_bytes != 0) {
        AQ_TRY(aq_selector_list(config->d_head, options->selector_bytes, &c->selectors,
                                &c->n_selector));
    } else {
        const aq_projection sizes = {.d_head = config->d_head};
        c->n_selector = 1;
        c->selectors = calloc(1, sizeof *c->selectors);
        if (c->selectors) c->selectors[0].codes = aq_projection_codes(&sizes);
    }
    c->sums = calloc((size_t)(MOST_BASES * c->n_selector + 1), sizeof *c->sums);
    c->n_grid = aq_budget_grid(config->d_head, c->grid);
    c->n_loss = (int64_t)config->n_layer * config->n_kv_head * c->n_grid;
    if (options->k_budget != 0) {
        c->losses = calloc((size_t)(MOST_BASES * c->n_loss), sizeof *c->losses);
        if (!(options->k_budget * config->d_head >= c->grid[0] && options->k_budget <= 1))
            return aq_fail(AQ_ERR_USAGE, "--k-budget must be %.3g to 1 with %d dimensions",
                           (double)c->grid[0] / config->d_head, config->d_head);
    }
    if (!c->selectors || !c->sums || (options->k_budget != 0 && !c->losses))
        return aq_fail(AQ_ERR_MEMORY, "no memory to choose a selector");
    return AQ_OK;
}

/* The bases to choose from. One that these sums do not give, for want of text, is no choice, unless
 * there would be none. Collective. */
static aq_status solve_bases(aq_engine *engine, aq_comm *comm, const aq_gram *gram, bool all,
                             const aq_choose_options *options, choice *c) {
    const aq_basis *bases = all ? all_bases : &options->calibrate.basis;
    for (int b = 0; b < (all ? MOST_BASES : 1); b++) {
        aq_projection *p = &c->projections[c->n_basis];
        const aq_status status = aq_calibrate_solve_joined(comm, gram, bases[b], p);
        if (status == AQ_ERR_NUMERIC && c->n_basis > 0) continue;
        AQ_TRY(status);
        aq_calibrate_sign(engine, options->calibrate.domain, p);
        c->n_basis++;
    }
    return AQ_OK;
}

/* aq_sample_fn: one layer in every basis. */
static aq_status try_layer(void *arg, const aq_sample *sample) {
    static const aq_selector exact = {.codes = {.n_segment = 0}};
    choice *c = arg;
    AQ_TRY(aq_trial_add(sample, &c->projections[0], &exact, 1, &rule,
                        c->sums + c->n_basis * c->n_selector));
    const int64_t at = (int64_t)sample->layer * sample->n_kv_head * c->n_grid;
    for (int b = 0; b < c->n_basis; b++) {
        AQ_TRY(aq_trial_add(sample, &c->projections[b], c->selectors, c->n_selector, &rule,
                            c->sums + b * c->n_selector));
        if (c->losses)
            AQ_TRY(aq_budget_loss(sample, &c->projections[b], c->grid, c->n_grid,
                                  c->losses + b * c->n_loss + at));
    }
    return AQ_OK;
}

/* Adds up what the ranks found. Collective. */
static aq_status join(aq_comm *comm, choice *c) {
    _Static_assert(sizeof(aq_trial_sum) == 2 * sizeof(double), "a trial's sums are two doubles");
    AQ_TRY(aq_comm_sum_f64(comm, &c->sums[0].loss, 2 * ((int64_t)c->n_basis * c->n_selector + 1)));
    if (!c->losses) return AQ_OK;
    return aq_comm_sum_f64(comm, c->losses, c->n_basis * c->n_loss);
}

static int by_loss(const void *a, const void *b) {
    const aq_choose_row *x = a, *y = b;
    return (x->loss > y->loss) - (x->loss < y->loss);
}

static double mean_loss(const aq_trial_sum *sum) {
    return sum->n > 0 ? sum->loss / sum->n : 0;
}

/* The pairs by rising loss; returns the number of the best one in c->sums, of equals the first.
 * Fresh memory in the table. */
static aq_status rank_pairs(const choice *c, aq_choose_table *table, int *best) {
    const int n = c->n_basis * c->n_selector;
    table->rows = calloc((size_t)n, sizeof *table->rows);
    if (!table->rows) return aq_fail(AQ_ERR_MEMORY, "no memory to choose a selector");
    table->n_row = n;
    table->exact_loss = mean_loss(&c->sums[n]);
    *best = 0;
    for (int i = 0; i < n; i++) {
        const double loss = mean_loss(&c->sums[i]);
        table->rows[i] = (aq_choose_row){c->projections[i / c->n_selector].basis,
                                         c->selectors[i % c->n_selector], loss};
        if (loss < table->rows[*best].loss) *best = i;
    }
    qsort(table->rows, (size_t)n, sizeof *table->rows, by_loss);
    return AQ_OK;
}

/* Budgets of the layers that see everything; the others are dense and keep all columns. */
static aq_status deal_budgets(const aq_model_config *config, const choice *c, const double *losses,
                              double share, aq_projection *out) {
    const int64_t n_layer = config->n_layer, n_head = config->n_kv_head;
    const size_t row_bytes = (size_t)(n_head * c->n_grid) * sizeof(double);
    double *full = malloc((size_t)c->n_loss * sizeof *full);
    uint16_t *dealt = malloc((size_t)(n_layer * n_head) * sizeof *dealt);
    out->k_budget = malloc((size_t)(n_layer * n_head) * sizeof *out->k_budget);
    aq_status status = AQ_OK;
    int64_t n = 0;
    if (!full || !dealt || !out->k_budget)
        status = aq_fail(AQ_ERR_MEMORY, "no memory to deal budgets");
    for (int layer = 0; status == AQ_OK && layer < config->n_layer; layer++)
        if (!aq_model_windowed(config, layer))
            memcpy(full + n_head * c->n_grid * n++, losses + layer * n_head * c->n_grid, row_bytes);
    const int64_t n_col = (int64_t)floor(share * config->d_head * (double)(n * n_head) + 1e-6);
    if (status == AQ_OK && n > 0)
        status = aq_budget_deal(full, n * n_head, c->grid, c->n_grid, n_col, dealt);
    for (int64_t layer = 0, from = 0; status == AQ_OK && layer < n_layer; layer++)
        for (int64_t head = 0; head < n_head; head++)
            out->k_budget[layer * n_head + head] =
                aq_model_windowed(config, (int)layer) ? (uint16_t)config->d_head : dealt[from++];
    free(full);
    free(dealt);
    return status;
}

/* Tries everything on the held-out ids and moves the best projection to *out. Collective. */
static aq_status choose_held_out(aq_engine *engine, aq_comm *comm, const int32_t *ids, int64_t n,
                                 const aq_choose_options *options, choice *c, aq_projection *out,
                                 aq_choose_table *table) {
    const aq_sample_options how = {.bos = options->calibrate.bos};
    int best = 0;
    aq_status status = AQ_OK;
    AQ_TRY(aq_sample_run(engine, comm, ids, n, &how, try_layer, c));
    AQ_TRY(join(comm, c));
    AQ_TRY(aq_comm_agree(comm, rank_pairs(c, table, &best)));
    const int basis = best / c->n_selector;
    *out = c->projections[basis];
    c->projections[basis] = (aq_projection){.pq = NULL};
    if (options->selector_bytes != 0) {
        out->codes = c->selectors[best % c->n_selector].codes;
        out->n_dynamic = c->selectors[best % c->n_selector].n_dynamic;
    }
    if (c->losses)
        status =
            deal_budgets(&engine->config, c, c->losses + basis * c->n_loss, options->k_budget, out);
    table->n_held_out = n;
    return aq_comm_agree(comm, status);
}

static aq_status choose(aq_engine *engine, aq_comm *comm, const int32_t *ids, int64_t n,
                        const aq_choose_options *options, choice *c, aq_projection *out,
                        aq_choose_table *table) {
    const bool needed = options->selector_bytes != 0 || options->k_budget != 0;
    const bool wanted = needed || !options->basis_given;
    const int64_t n_held = wanted ? aq_sample_held_out(n, engine->config.n_ctx) : 0;
    aq_status status = plan_choice(engine, options, c);
    if (status == AQ_OK && needed && n_held == 0)
        status = aq_fail(AQ_ERR_USAGE,
                         "a text of %lld tokens, or a context of %lld, is too short to choose a "
                         "selector or budgets on; give at least 1024",
                         (long long)n, (long long)engine->config.n_ctx);
    AQ_TRY(aq_comm_agree(comm, status));
    aq_gram gram;
    AQ_TRY(aq_calibrate_sums(engine, comm, ids, n - n_held, &options->calibrate, &gram));
    status = solve_bases(engine, comm, &gram, n_held > 0 && !options->basis_given, options, c);
    aq_gram_close(&gram);
    if (status != AQ_OK) return status;
    if (n_held > 0)
        return choose_held_out(engine, comm, ids + n - n_held, n_held, options, c, out, table);
    *out = c->projections[0];
    c->projections[0] = (aq_projection){.pq = NULL};
    return AQ_OK;
}

aq_status aq_choose(aq_engine *engine, aq_comm *comm, const int32_t *ids, int64_t n,
                    const aq_choose_options *options, aq_projection *out, aq_choose_table *table) {
    choice c = {.n_basis = 0};
    memset(out, 0, sizeof *out);
    memset(table, 0, sizeof *table);
    const aq_status status = choose(engine, comm, ids, n, options, &c, out, table);
    close_choice(&c);
    if (status == AQ_OK) return AQ_OK;
    aq_projection_free(out);
    free(table->rows);
    memset(out, 0, sizeof *out);
    memset(table, 0, sizeof *table);
    return status;
}
