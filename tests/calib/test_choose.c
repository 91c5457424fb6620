/* Choices of calibration on a tiny model: ranks choose as one does, the least loss is kept, and
 * what was not asked for is not stored. */
#include "calib/choose.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/sample.h"
#include "calib/trial.h"
#include "tests/engine/engine_case.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

enum { N_TEXT = 1200, N_HELD = N_TEXT / 4, D = 16, N_PROBLEM = 4 };

static int32_t text[N_TEXT];

static aq_choose_options options_of(double selector_bytes, double k_budget) {
    return (aq_choose_options){.selector_bytes = selector_bytes,
                               .k_budget = k_budget,
                               .calibrate = {.basis = AQ_BASIS_JOINT,
                                             .n_tok = 700,
                                             .n_chunk_tok = 250,
                                             .bos = -1,
                                             .domain = "made up"}};
}

/* Runs `check` with an engine of this rank alone. */
static void with_engine(void (*check)(aq_engine *engine, aq_comm *self)) {
    const aq_case *c = aq_case_default();
    aq_comm *self;
    aq_case_ids(8, N_TEXT, text);
    if (!aq_test_ok(aq_comm_open_self(&self))) return;
    aq_engine *engine = aq_case_engine(self, c->model, NULL);
    if (engine) check(engine, self);
    aq_engine_close(engine);
    aq_comm_close(self);
}

static bool rows_near(const aq_choose_table *a, const aq_choose_table *b) {
    if (a->n_row != b->n_row || a->n_held_out != b->n_held_out) return false;
    for (int i = 0; i < a->n_row; i++)
        if (!(fabs(a->rows[i].loss - b->rows[i].loss) <= 1e-6 * b->rows[i].loss)) return false;
    return true;
}

static bool same_choice(const aq_projection *a, const aq_projection *b) {
    return a->basis == b->basis && a->n_dynamic == b->n_dynamic &&
           memcmp(&a->codes, &b->codes, sizeof a->codes) == 0 && a->k_energy == b->k_energy &&
           strcmp(a->domain, b->domain) == 0 &&
           memcmp(a->fingerprint, b->fingerprint, AQ_FINGERPRINT_BYTES) == 0;
}

typedef struct {
    const aq_projection *projection;
    aq_selector selector;
    aq_trial_sum sum;
} retrial;

static aq_status try_again(void *arg, const aq_sample *sample) {
    const aq_mass_rule rule = {.mass = 0.95, .n_sink = 4, .n_recent = 64};
    retrial *r = arg;
    return aq_trial_add(sample, r->projection, &r->selector, 1, &rule, &r->sum);
}

typedef struct {
    const aq_projection *projection;
    double n, n_reach;
} recount;

static aq_status count_again(void *arg, const aq_sample *sample) {
    recount *r = arg;
    const int group = sample->n_head / sample->n_kv_head;
    for (int64_t row = 0; row < sample->n_query * sample->n_head; row++) {
        const int h = (int)(row % sample->n_head);
        const int64_t at = (int64_t)sample->layer * sample->n_kv_head + h / group;
        const float *q = sample->q + (sample->pos[row / sample->n_head] * sample->n_head + h) * D;
        for (int c = 0; c < D; c++) {
            double x = 0;
            for (int i = 0; i < D; i++)
                x += (double)q[i] * (double)r->projection->pq[(at * D + i) * D + c];
            x *= (double)r->projection->sigma[at * D + c];
            r->n++;
            r->n_reach += x * x >= (double)r->projection->k_energy;
        }
    }
    return AQ_OK;
}

/* The loss in the table is that of the kept projection on the end of the text. */
static void check_best(aq_engine *engine, aq_comm *self, const aq_projection *p,
                       const aq_choose_table *table, const int32_t *held_out, bool expected) {
    retrial r = {.projection = p, .selector = {p->codes, p->n_dynamic}};
    const aq_sample_options how = {.bos = -1};
    aq_test_ok(aq_sample_run(engine, self, held_out, N_HELD, &how, try_again, &r));
    const double loss = r.sum.loss / r.sum.n;
    CU_ASSERT_EQUAL(fabs(loss - table->rows[0].loss) <= 1e-4 * loss, expected);
}

/* Half of the columns of the sampled queries have the energy that was found, within a bin. */
static void check_share(aq_engine *engine, aq_comm *self, const aq_projection *p,
                        const int32_t *held_out, bool expected) {
    const aq_sample_options how = {.bos = -1};
    recount r = {.projection = p};
    aq_test_ok(aq_sample_run(engine, self, held_out, N_HELD, &how, count_again, &r));
    const double share = r.n_reach / r.n;
    CU_ASSERT_EQUAL(share <= 0.5 && share > 0.5 - 0.01, expected);
}

static void check_ranks(aq_engine *engine, aq_comm *self) {
    const aq_choose_options options = options_of(5, 0.5);
    aq_projection many, one;
    aq_choose_table many_table, one_table;
    if (aq_test_ok(
            aq_choose(engine, aq_test_world(), text, N_TEXT, &options, &many, &many_table)) &&
        aq_test_ok(aq_choose(engine, self, text, N_TEXT, &options, &one, &one_table))) {
        CU_ASSERT_TRUE(same_choice(&many, &one));
        CU_ASSERT_TRUE(rows_near(&many_table, &one_table));
        CU_ASSERT_EQUAL(many_table.n_held_out, N_HELD);
        for (int i = 1; i < many_table.n_row; i++)
            CU_ASSERT_TRUE(many_table.rows[i].loss >= many_table.rows[i - 1].loss);
        CU_ASSERT_TRUE(many_table.exact_loss > 0 &&
                       many_table.exact_loss < many_table.rows[0].loss);
        CU_ASSERT_EQUAL(many.basis, many_table.rows[0].basis);
        CU_ASSERT_EQUAL(memcmp(&many.codes, &many_table.rows[0].selector.codes, sizeof many.codes),
                        0);
        check_best(engine, self, &many, &many_table, text + N_TEXT - N_HELD, true);
        check_best(engine, self, &many, &many_table, text, false); /* planted: text that was used */
        check_share(engine, self, &many, text + N_TEXT - N_HELD, true);
        many.k_energy *= 1.1f; /* planted */
        check_share(engine, self, &many, text + N_TEXT - N_HELD, false);
        CU_ASSERT_FALSE(same_choice(&many, &one));
    }
    aq_projection_free(&many);
    aq_projection_free(&one);
    free(many_table.rows);
    free(one_table.rows);
}

static void test_ranks_choose_as_one(void) {
    with_engine(check_ranks);
}

/* Only the basis is chosen, or nothing at all. */
static void check_unasked(aq_engine *engine, aq_comm *self) {
    aq_comm *world = aq_test_world();
    aq_choose_options options = options_of(0, 0);
    aq_projection p, plain;
    aq_choose_table table;
    (void)self;
    if (aq_test_ok(aq_choose(engine, world, text, N_TEXT, &options, &p, &table))) {
        CU_ASSERT_EQUAL(table.n_row, 3);
        CU_ASSERT_EQUAL(p.basis, table.rows[0].basis);
        CU_ASSERT_TRUE(p.codes.n_segment == 0 && p.n_dynamic == 0 && p.k_energy == 0);
        aq_projection_free(&p);
        free(table.rows);
    }
    options.basis_given = true;
    options.calibrate.basis = AQ_BASIS_KPCA;
    if (aq_test_ok(aq_choose(engine, world, text, N_TEXT, &options, &p, &table)) &&
        aq_test_ok(aq_calibrate(engine, world, text, N_TEXT, &options.calibrate, &plain))) {
        CU_ASSERT_EQUAL(table.n_row, 0);
        CU_ASSERT_EQUAL(p.basis, AQ_BASIS_KPCA);
        CU_ASSERT_EQUAL(memcmp(p.pq, plain.pq, N_PROBLEM * D * D * sizeof *p.pq), 0);
        aq_projection_free(&plain);
        aq_projection_free(&p);
    }
    options = options_of(0, 0); /* too short to hold anything out: joint */
    if (aq_test_ok(aq_choose(engine, world, text, 500, &options, &p, &table))) {
        CU_ASSERT_TRUE(p.basis == AQ_BASIS_JOINT && table.n_row == 0);
        aq_projection_free(&p);
    }
}

static void test_unasked(void) {
    with_engine(check_unasked);
}

static void expect_refusal(aq_engine *engine, double selector_bytes, double k_budget, int64_t n,
                           const char *part) {
    const aq_choose_options options = options_of(selector_bytes, k_budget);
    aq_projection p;
    aq_choose_table table;
    aq_test_fails(aq_choose(engine, aq_test_world(), text, n, &options, &p, &table), AQ_ERR_USAGE,
                  part);
    CU_ASSERT_TRUE(!p.pq && !table.rows);
}

static void check_refused(aq_engine *engine, aq_comm *self) {
    (void)self;
    expect_refusal(engine, 9, 0, N_TEXT, "a selector of 9 bytes is not possible");
    expect_refusal(engine, -1, 0, N_TEXT, "a selector of -1 bytes");
    expect_refusal(engine, 0, 1.01, N_TEXT, "--k-budget must be 0.0625 to 1");
    expect_refusal(engine, 0, 0.05, N_TEXT, "--k-budget");
    expect_refusal(engine, 5, 0, 900, "too short to choose");
    expect_refusal(engine, 0, 0.5, 900, "give at least 1024");
    expect_refusal(engine, 0, 0, 10, "is too short");
}

static void test_refused(void) {
    with_engine(check_refused);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "ranks choose as one", test_ranks_choose_as_one);
    CU_add_test(suite, "what was not asked for", test_unasked);
    CU_add_test(suite, "refusals", test_refused);
}
