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
    double *bins;       /* [n_basis, AQ_BUDGET_BINS] of energies; NULL: no budget is asked for */
} choice;

static void close_choice(choice *c) {
    for (int b = 0; b < c->n_basis; b++)
        aq_projection_free(&c->projections[b]);
    free(c->selectors);
    free(c->sums);
    free(c->bins);
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
    if (options->k_budget != 0) {
        c->bins = calloc((size_t)MOST_BASES * AQ_BUDGET_BINS, sizeof *c->bins);
        if (!(options->k_budget * config->d_head >= 1 && options->k_budget <= 1))
            return aq_fail(AQ_ERR_USAGE, "--k-budget must be %.3g to 1 with %d dimensions",
                           1.0 / config->d_head, config->d_head);
    }
    if (!c->selectors || !c->sums || (options->k_budget != 0 && !c->bins))
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
    for (int b = 0; b < c->n_basis; b++) {
        AQ_TRY(aq_trial_add(sample, &c->projections[b], c->selectors, c->n_selector, &rule,
                            c->sums + b * c->n_selector));
        if (c->bins)
            AQ_TRY(
                aq_budget_count(sample, &c->projections[b], c->bins + (int64_t)b * AQ_BUDGET_BINS));
    }
    return AQ_OK;
}

/* Adds up what the ranks found. Collective. */
static aq_status join(aq_comm *comm, choice *c) {
    _Static_assert(sizeof(aq_trial_sum) == 2 * sizeof(double), "a trial's sums are two doubles");
    AQ_TRY(aq_comm_sum_f64(comm, &c->sums[0].loss, 2 * ((int64_t)c->n_basis * c->n_selector + 1)));
    if (!c->bins) return AQ_OK;
    return aq_comm_sum_f64(comm, c->bins, (int64_t)c->n_basis * AQ_BUDGET_BINS);
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

/* Tries everything on the held-out ids and moves the best projection to *out. Collective. */
static aq_status choose_held_out(aq_engine *engine, aq_comm *comm, const int32_t *ids, int64_t n,
                                 const aq_choose_options *options, choice *c, aq_projection *out,
                                 aq_choose_table *table) {
    const aq_sample_options how = {.bos = options->calibrate.bos};
    int best = 0;
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
    if (c->bins)
        out->k_energy =
            aq_budget_energy(c->bins + (int64_t)basis * AQ_BUDGET_BINS, options->k_budget);
    table->n_held_out = n;
    return AQ_OK;
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
                         "selector or a budget on; give at least 1024",
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
