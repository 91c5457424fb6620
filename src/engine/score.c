#include "src/engine/score.h"

#include <math.h>

#define DEFAULT_N_BATCH 2048
#define MAX_N_BATCH     (1 << 20) /* the sizes of a step then fit int64_t, whatever the model */
#define DEFAULT_K_RATIO 0.75
#define DEFAULT_MASS    0.98
#define DEFAULT_PAGE    16
#define DEFAULT_PAGES   0.25
#define MAX_H2O_BATCH   256 /* a step's tokens need room beside those that are kept */

static bool is_share(double x) { /* written so that NaN fails */
    return x > 0 && x <= 1;
}

static aq_status check_sizes(const aq_engine *engine, const aq_session_options *options) {
    if (options->n_ctx < 1) return aq_fail(AQ_ERR_USAGE, "a context needs at least one token (-c)");
    if (options->n_ctx > engine->config.n_ctx)
        return aq_fail(AQ_ERR_LIMIT,
                       "the context needs %lld tokens, the model was made for %lld; shorten it or "
                       "stretch it with --rope-scaling",
                       (long long)options->n_ctx, (long long)engine->config.n_ctx);
    if (options->n_batch < 1 || options->n_batch > MAX_N_BATCH)
        return aq_fail(AQ_ERR_USAGE, "the batch (-b) must be 1 to %d tokens", MAX_N_BATCH);
    if ((unsigned)options->key_type >= AQ_KV_TYPES || (unsigned)options->value_type >= AQ_KV_TYPES)
        return aq_fail(AQ_ERR_USAGE, "a cache type (-ctk, -ctv) is unknown");
    if (options->value_type == AQ_KV_Q5M)
        return aq_fail(AQ_ERR_USAGE, "q5m is for keys, whose columns have an order (-ctk); values "
                                     "have none: use q6, q5 or q4 (-ctv)");
    return AQ_OK;
}

static aq_status check_merge(const aq_session_options *options) {
    if (options->merge != AQ_MERGE_TREE || !options->wire_bf16) return AQ_OK;
    return aq_fail(AQ_ERR_USAGE, "--merge tree adds up in fp32 on the way; leave --wire bf16 out, "
                                 "or take --merge alltoall");
}

static aq_status check_aqua(const aq_engine *engine, const aq_session_options *options) {
    if (!is_share(options->k_ratio))
        return aq_fail(AQ_ERR_USAGE, "--k-ratio must be above 0 and at most 1");
    if (!is_share(options->s_ratio))
        return aq_fail(AQ_ERR_USAGE, "--s-ratio must be above 0 and at most 1");
    if (options->k_tau != 0 && !is_share(options->k_tau))
        return aq_fail(AQ_ERR_USAGE, "--k-tau must be above 0 and at most 1");
    if (options->k_tau != 0 && options->k_budget)
        return aq_fail(AQ_ERR_USAGE, "--k-tau and --k-budget both say how many dimensions decide; "
                                     "use one");
    if (options->k_tau != 0 && options->rank_by == AQ_RANK_STATIC)
        return aq_fail(AQ_ERR_USAGE, "--k-tau chooses for each query; --rank-by static does not");
    if (options->k_budget && options->rank_by != AQ_RANK_ENERGY)
        return aq_fail(AQ_ERR_USAGE, "--k-budget goes by energy; leave --rank-by out");
    if (options->attn == AQ_ATTN_AQUA && options->k_budget && engine->projection.k_energy == 0)
        return aq_fail(AQ_ERR_USAGE, "the projection has no budget of dimensions; make one with "
                                     "aqua-dist calibrate --k-budget");
    return AQ_OK;
}

static aq_status check_select(const aq_engine *engine, const aq_session_options *options) {
    const int n_column = aq_code_layout_columns(&options->codes);
    if (!is_share(options->mass))
        return aq_fail(AQ_ERR_USAGE, "--mass must be above 0 and at most 1");
    if (options->n_sink < 0 || options->n_recent < 0)
        return aq_fail(AQ_ERR_USAGE, "--sinks and --recent must not be negative");
    if (n_column > engine->config.d_head)
        return aq_fail(AQ_ERR_USAGE, "the selector has %d columns, a head of this model %d",
                       n_column, engine->config.d_head);
    if (options->n_dynamic < 0)
        return aq_fail(AQ_ERR_USAGE, "--selector-dynamic must not be negative");
    if (options->attn == AQ_ATTN_SELECT && options->mass_exchange &&
        !engine->be->ops->select_totals)
        return aq_fail(AQ_ERR_UNSUPPORTED, "--mass-exchange runs on the CPU alone (--device cpu)");
    return AQ_OK;
}

static aq_status check_pages(const aq_engine *engine, const aq_session_options *options) {
    if (options->n_page < 1 || options->n_page > AQ_TILE || AQ_TILE % options->n_page != 0)
        return aq_fail(AQ_ERR_USAGE, "--page must divide %d", AQ_TILE);
    if (!is_share(options->page_share))
        return aq_fail(AQ_ERR_USAGE, "--attended must be above 0 and at most 1");
    if (options->attn != AQ_ATTN_PAGES) return AQ_OK;
    if (options->hybrid || options->n_h2o != 0)
        return aq_fail(AQ_ERR_USAGE, "--attn pages takes neither --hybrid nor --h2o");
    if (!engine->be->ops->attn_pages)
        return aq_fail(AQ_ERR_UNSUPPORTED, "--attn pages runs on the CPU alone (--device cpu)");
    return AQ_OK;
}

static aq_status check_h2o(aq_session_options *options) {
    if (options->n_h2o < 0) return aq_fail(AQ_ERR_USAGE, "--h2o must not be negative");
    if (options->n_h2o == 0) return AQ_OK;
    if (aq_kv_type_coded(options->key_type) || aq_kv_type_coded(options->value_type))
        return aq_fail(AQ_ERR_USAGE, "--h2o drops tokens one by one, and codes need whole tiles; "
                                     "use f32 or bf16 (-ctk, -ctv)");
    if (options->n_batch > MAX_H2O_BATCH) options->n_batch = MAX_H2O_BATCH;
    return AQ_OK;
}

aq_status aq_score_check_options(const aq_engine *engine, aq_session_options *options) {
    if (options->n_ctx_rope == 0) options->n_ctx_rope = options->n_ctx;
    if (options->n_batch == 0) options->n_batch = DEFAULT_N_BATCH;
    if (options->k_ratio == 0) options->k_ratio = DEFAULT_K_RATIO;
    if (options->s_ratio == 0) options->s_ratio = 1.0;
    if (options->mass == 0) options->mass = DEFAULT_MASS;
    if (options->n_page == 0) options->n_page = DEFAULT_PAGE;
    if (options->page_share == 0) options->page_share = DEFAULT_PAGES;
    AQ_TRY(check_sizes(engine, options));
    AQ_TRY(check_merge(options));
    AQ_TRY(check_aqua(engine, options));
    AQ_TRY(check_select(engine, options));
    AQ_TRY(check_pages(engine, options));
    return check_h2o(options);
}

aq_status aq_score_check(const aq_engine *engine, aq_session_options *options) {
    const aq_projection *projection = &engine->projection;
    AQ_TRY(aq_score_check_options(engine, options));
    if (options->attn == AQ_ATTN_DENSE || options->attn == AQ_ATTN_PAGES) return AQ_OK;
    if (!projection->pq)
        return aq_fail(AQ_ERR_USAGE, "--attn aqua and select need a projection; make one with "
                                     "aqua-dist calibrate, or name it with --projection");
    const aq_code_layout codes = aq_score_codes(engine, options);
    const int n_column = aq_code_layout_columns(&codes);
    if (options->attn == AQ_ATTN_SELECT && options->n_dynamic > n_column)
        return aq_fail(AQ_ERR_USAGE, "--selector-dynamic must be 0 to %d", n_column);
    if (options->hybrid && projection->break_even[options->attn == AQ_ATTN_SELECT] == 0)
        return aq_fail(AQ_ERR_USAGE, "--hybrid: the projection holds no break-even; measure it "
                                     "with aqua-dist-bench breakeven --store");
    return AQ_OK;
}

static int columns(double ratio, int d_head) {
    const int n = (int)lround(ratio * d_head);
    return n < 1 ? 1 : n;
}

aq_score_shape aq_score_windowed(int d_head) {
    return (aq_score_shape){.n_col = d_head, .n_dim = d_head};
}

aq_score_shape aq_score_full(const aq_session_options *options, int d_head) {
    aq_score_shape score = aq_score_windowed(d_head);
    if (options->attn == AQ_ATTN_DENSE) return score;
    score.projects = options->attn != AQ_ATTN_PAGES;
    score.selects = options->attn != AQ_ATTN_AQUA;
    if (!score.projects) score.n_page = (int)options->n_page;
    if (score.selects) return score;
    score.n_col = columns(options->s_ratio, d_head);
    score.prunes = options->k_tau != 0 || options->k_budget;
    score.n_dim = score.prunes ? score.n_col : columns(options->k_ratio, d_head);
    /* Columns that no query ever reads are not stored either. */
    if (options->rank_by == AQ_RANK_STATIC && score.n_dim < score.n_col) score.n_col = score.n_dim;
    if (score.n_dim > score.n_col) score.n_dim = score.n_col;
    return score;
}

size_t aq_score_asked_bytes(const aq_score_shape *score, const aq_model_config *config) {
    const size_t n_head = (size_t)config->n_head, n_kv_head = (size_t)config->n_kv_head;
    if (score->selects) return n_kv_head * 3 * sizeof(int32_t);
    if (score->prunes) return n_head * (size_t)score->n_col * sizeof(float);
    return score->n_dim < score->n_col ? n_head * (size_t)score->n_dim * sizeof(int16_t) : 0;
}

aq_code_layout aq_score_codes(const aq_engine *engine, const aq_session_options *options) {
    if (options->attn != AQ_ATTN_SELECT) return (aq_code_layout){0};
    if (options->codes.n_segment > 0) return options->codes;
    const aq_projection none = {.d_head = engine->config.d_head};
    return aq_projection_codes(engine->projection.pq ? &engine->projection : &none);
}

aq_kv_view aq_score_view(const aq_engine *engine, const aq_session_options *options) {
    const aq_model_config *config = &engine->config;
    const aq_score_shape score = aq_score_full(options, config->d_head);
    return (aq_kv_view){.key_type = options->key_type,
                        .value_type = options->value_type,
                        .key_order = score.selects ? AQ_KEYS_BY_TOKEN : AQ_KEYS_BY_COLUMN,
                        .codes = aq_score_codes(engine, options),
                        .n_kv_head = config->n_kv_head,
                        .n_col = score.n_col,
                        .d_head = config->d_head};
}
