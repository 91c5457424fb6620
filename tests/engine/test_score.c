/* What a session's options ask of the scores: defaults, shapes, refusals. No model is needed. */
#include "src/engine/score.h"

#include <math.h>
#include <string.h>

#include "tests/support/suite.h"

enum { D_HEAD = 32 };

static float any_number;

/* An engine with a projection, which checks look at and do not read. */
static aq_engine make_engine(void) {
    aq_engine engine;
    memset(&engine, 0, sizeof engine);
    engine.config.d_head = D_HEAD;
    engine.config.n_ctx = 1000;
    engine.projection.pq = &any_number;
    engine.projection.d_head = D_HEAD;
    return engine;
}

static const aq_session_options usual = {.n_ctx = 1000, .n_sink = 4, .n_recent = 64};

static void defaults(void) {
    const aq_engine engine = make_engine();
    aq_session_options options = usual;
    aq_test_ok(aq_score_check(&engine, &options));
    CU_ASSERT_EQUAL(options.n_batch, 2048);
    CU_ASSERT_EQUAL(options.k_ratio, 0.75);
    CU_ASSERT_EQUAL(options.s_ratio, 1);
    CU_ASSERT_EQUAL(options.mass, 0.98);
    CU_ASSERT_TRUE(options.n_page == 16 && options.page_share == 0.25);
}

static void shapes(void) {
    aq_session_options options = usual;
    options.k_ratio = 0.5;
    options.s_ratio = 0.75;
    aq_score_shape score = aq_score_full(&options, D_HEAD);
    CU_ASSERT_TRUE(score.n_col == D_HEAD && score.n_dim == D_HEAD && !score.projects);
    options.attn = AQ_ATTN_AQUA;
    score = aq_score_full(&options, D_HEAD);
    CU_ASSERT_TRUE(score.n_col == 24 && score.n_dim == 16 && score.projects && !score.prunes);
    options.rank_by = AQ_RANK_STATIC; /* the leading 16 are all that is stored */
    score = aq_score_full(&options, D_HEAD);
    CU_ASSERT_TRUE(score.n_col == 16 && score.n_dim == 16);
    options.rank_by = AQ_RANK_ENERGY;
    options.k_tau = 0.9;
    score = aq_score_full(&options, D_HEAD);
    CU_ASSERT_TRUE(score.n_col == 24 && score.n_dim == 24 && score.prunes);
    options.attn = AQ_ATTN_SELECT;
    score = aq_score_full(&options, D_HEAD);
    CU_ASSERT_TRUE(score.n_col == D_HEAD && score.n_dim == D_HEAD);
    CU_ASSERT_TRUE(score.projects && score.selects && !score.prunes);
    options.attn = AQ_ATTN_PAGES;
    options.n_page = 8;
    score = aq_score_full(&options, D_HEAD);
    CU_ASSERT_TRUE(score.n_col == D_HEAD && score.n_dim == D_HEAD && score.n_page == 8);
    CU_ASSERT_TRUE(!score.projects && score.selects && !score.prunes);
    score = aq_score_windowed(D_HEAD);
    CU_ASSERT_TRUE(score.n_col == D_HEAD && !score.projects && !score.selects);
}

/* Those of the options go before those of the projection, which go before the default. */
static void codes_of_the_selector(void) {
    aq_engine engine = make_engine();
    aq_session_options options = usual;
    char text[64];
    aq_code_layout codes = aq_score_codes(&engine, &options);
    CU_ASSERT_EQUAL(codes.n_segment, 0); /* dense: none */
    options.attn = AQ_ATTN_SELECT;
    codes = aq_score_codes(&engine, &options);
    CU_ASSERT_STRING_EQUAL(aq_code_layout_text(&codes, text, sizeof text), "8x4,16x2,8x1");
    aq_test_ok(aq_code_layout_parse("8x3", &engine.projection.codes));
    codes = aq_score_codes(&engine, &options);
    CU_ASSERT_STRING_EQUAL(aq_code_layout_text(&codes, text, sizeof text), "8x3");
    aq_test_ok(aq_code_layout_parse("4x8,2x1", &options.codes));
    codes = aq_score_codes(&engine, &options);
    CU_ASSERT_STRING_EQUAL(aq_code_layout_text(&codes, text, sizeof text), "4x8,2x1");
}

#define REFUSES(part, ...)                                                                         \
    do {                                                                                           \
        aq_session_options bad = {.n_ctx = 10, __VA_ARGS__};                                       \
        aq_test_fails(aq_score_check(&engine, &bad), AQ_ERR_USAGE, part);                          \
    } while (0)

static void no_pages(aq_backend *be, const aq_attn_pages_args *args) {
    (void)be;
    (void)args;
}

/* Which need no projection, and a backend that has them. */
static void refusals_of_pages(void) {
    aq_engine engine = make_engine();
    aq_backend_ops ops = {0};
    aq_backend be = {&ops, true};
    engine.be = &be;
    engine.projection.pq = NULL;
    REFUSES("--page", .n_page = 12);
    REFUSES("--page", .n_page = 128);
    REFUSES("--page", .n_page = -1);
    REFUSES("--attended", .page_share = 1.5);
    REFUSES("--hybrid", .attn = AQ_ATTN_PAGES, .hybrid = true);
    REFUSES("--h2o", .attn = AQ_ATTN_PAGES, .n_h2o = 100);
    aq_session_options pages = {.n_ctx = 10, .attn = AQ_ATTN_PAGES, .n_page = 64};
    aq_test_fails(aq_score_check(&engine, &pages), AQ_ERR_UNSUPPORTED, "CPU");
    ops.attn_pages = no_pages;
    aq_test_ok(aq_score_check(&engine, &pages));
}

static void refusals(void) {
    aq_engine engine = make_engine();
    aq_session_options longer = usual;
    longer.n_ctx = 1001;
    aq_test_fails(aq_score_check(&engine, &longer), AQ_ERR_LIMIT, "1001");
    REFUSES("(-b)", .n_batch = -1);
    REFUSES("(-ctk, -ctv)", .key_type = AQ_KV_TYPES);
    REFUSES("(-ctk, -ctv)", .value_type = AQ_KV_TYPES);
    REFUSES("--k-ratio", .k_ratio = 1.1);
    REFUSES("--k-ratio", .k_ratio = (double)NAN);
    REFUSES("--s-ratio", .s_ratio = -1);
    REFUSES("--k-tau", .k_tau = 2);
    REFUSES("use one", .k_tau = 0.5, .k_budget = true);
    REFUSES("static", .k_tau = 0.5, .rank_by = AQ_RANK_STATIC);
    REFUSES("--rank-by", .k_budget = true, .rank_by = AQ_RANK_MAGNITUDE);
    REFUSES("calibrate --k-budget", .attn = AQ_ATTN_AQUA, .k_budget = true,
            .rank_by = AQ_RANK_ENERGY);
    REFUSES("--mass", .mass = 1.5);
    REFUSES("--sinks", .n_sink = -1);
    REFUSES("--recent", .n_recent = -1);
    REFUSES("33 columns", .codes = {1, {{33, 2}}});
    REFUSES("0 to 8", .attn = AQ_ATTN_SELECT, .codes = {1, {{8, 2}}}, .n_dynamic = 9);
    REFUSES("0 to 32", .attn = AQ_ATTN_SELECT, .n_dynamic = 33); /* of the default */
    REFUSES("--selector-dynamic", .n_dynamic = -1);
    aq_backend_ops ops = {0};
    aq_backend be = {&ops, true};
    engine.be = &be;
    aq_session_options exchange = {.n_ctx = 10, .attn = AQ_ATTN_SELECT, .mass_exchange = true};
    aq_test_fails(aq_score_check(&engine, &exchange), AQ_ERR_UNSUPPORTED, "--mass-exchange");
    REFUSES("breakeven", .attn = AQ_ATTN_SELECT, .hybrid = true);
    engine.projection.break_even[1] = 100;
    aq_session_options hybrid = {.n_ctx = 10, .attn = AQ_ATTN_SELECT, .hybrid = true};
    aq_test_ok(aq_score_check(&engine, &hybrid));
    engine.projection.pq = NULL;
    REFUSES("projection", .attn = AQ_ATTN_SELECT);
    REFUSES("projection", .attn = AQ_ATTN_AQUA);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "defaults", defaults);
    CU_add_test(suite, "shapes", shapes);
    CU_add_test(suite, "codes of the selector", codes_of_the_selector);
    CU_add_test(suite, "refusals", refusals);
    CU_add_test(suite, "refusals of pages", refusals_of_pages);
}
