#include "src/engine/forecast.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/engine/engine.h"
#include "src/engine/score.h"

static int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The entry of a type, new if there is none; -1 if there is no room. */
static int entry_of(aq_products *products, const char *type) {
    for (int i = 0; i < products->n_type; i++)
        if (strcmp(products->types[i].type, type) == 0) return i;
    if (products->n_type == AQ_PROFILE_TYPES) return -1;
    snprintf(products->types[products->n_type].type, AQ_PROFILE_NAME, "%s", type);
    return products->n_type++;
}

/* Adds `times` times a matrix; false if its type is one too many. */
static bool add(aq_products *products, const aq_weight *w, int times, bool output) {
    if (!w->data || times == 0) return true;
    const int at = entry_of(products, aq_dtype_any_name((uint32_t)w->dtype));
    const int64_t bytes = times * w->n_out * aq_dtype_row_bytes(w->dtype, w->n_in);
    if (at < 0) return false;
    if (output) {
        products->types[at].output_bytes += bytes;
        return true;
    }
    products->types[at].layer_bytes += bytes;
    products->types[at].layer_elements += times * w->n_out * w->n_in;
    return true;
}

static bool add_ffn(aq_products *products, const aq_ffn_weights *w, int times) {
    return add(products, &w->w_gate, times, false) && add(products, &w->w_up, times, false) &&
           add(products, &w->w_down, times, false);
}

static bool add_layer(aq_products *products, const aq_layer_weights *w, int n_expert_used) {
    const aq_weight *const each[] = {&w->wq, &w->wk, &w->wv, &w->wo, &w->router};
    bool fits = add_ffn(products, &w->ffn, 1);
    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++)
        fits = fits && add(products, each[i], 1, false);
    return fits && (!w->experts || add_ffn(products, &w->experts[0], n_expert_used));
}

aq_status aq_products_of(const aq_engine *engine, aq_products *out) {
    *out = (aq_products){0};
    bool fits = add(out, &engine->weights.output, 1, true);
    for (int i = 0; fits && i < engine->config.n_layer; i++)
        fits = add_layer(out, &engine->weights.layers[i], engine->config.n_expert_used);
    if (fits) return AQ_OK;
    return aq_fail(AQ_ERR_LIMIT, "the model has weights of more than %d types", AQ_PROFILE_TYPES);
}

aq_status aq_workload_of(const aq_engine *engine, int n_rank, int n_tp,
                         const aq_session_options *options, aq_workload *out) {
    const aq_model_config *config = &engine->config;
    aq_session_options checked = *options;
    AQ_TRY(aq_score_check_options(engine, &checked));
    *out = (aq_workload){.n_layer = config->n_layer,
                         .n_windowed = aq_layer_set_count(&config->windowed),
                         .window = config->window,
                         .n_head = config->n_head,
                         .n_kv_head = config->n_kv_head,
                         .n_rank = n_rank,
                         .n_tp = n_tp,
                         .n_rank_on_host = n_rank,
                         .n_thread = engine->n_thread,
                         .n_batch = checked.n_batch};
    AQ_TRY(aq_products_of(engine, &out->products));
    return aq_wire_of(engine, n_rank, n_tp, &checked, &out->wire);
}

double aq_seconds_sum(const aq_seconds *s) {
    return s->products + s->attention + s->exchange + s->other;
}

const aq_profile_point *aq_profile_for(const aq_profile *profile, int n_thread) {
    int best = 0;
    for (int i = 1; i < profile->n_point; i++)
        if (profile->points[i].n_thread <= n_thread) best = i;
    return &profile->points[best];
}

const aq_way_rate *aq_way_for(const aq_profile_point *point, const char *attn, const char *key_type,
                              const char *value_type) {
    for (int i = 0; i < point->n_way; i++) {
        const aq_way_rate *way = &point->ways[i];
        if (strcmp(way->attn, attn) == 0 && strcmp(way->key_type, key_type) == 0 &&
            strcmp(way->value_type, value_type) == 0)
            return way;
    }
    return NULL;
}

static aq_status rate_of(const aq_profile_point *point, const char *type,
                         const aq_type_rate **out) {
    for (int i = 0; i < point->n_type; i++) {
        *out = &point->types[i];
        if (strcmp((*out)->type, type) == 0) return AQ_OK;
    }
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "the profile has no figures for weights of type %s; measure one with this model "
                   "(aqua-dist plan --profile FILE)",
                   type);
}

/* 10^9 bytes a second that n_thread threads read together: between entries in proportion, beyond
 * the last one as it says. */
static double read_gbs(const aq_profile *profile, int n_thread) {
    const aq_read_rate *reads = profile->reads;
    if (n_thread <= reads[0].n_thread) return reads[0].gbs * n_thread / reads[0].n_thread;
    for (int i = 1; i < profile->n_read; i++) {
        if (n_thread > reads[i].n_thread) continue;
        const double along = (double)(n_thread - reads[i - 1].n_thread) /
                             (reads[i].n_thread - reads[i - 1].n_thread);
        return reads[i - 1].gbs + along * (reads[i].gbs - reads[i - 1].gbs);
    }
    return reads[profile->n_read - 1].gbs;
}

/* How much longer reading takes than when it was measured, because more ranks share a host. */
static double contention(const aq_profile *profile, const aq_profile_point *point,
                         const aq_workload *load) {
    const int then = point->n_rank_on_host, now = load->n_rank_on_host;
    const double had = read_gbs(profile, then * load->n_thread) / then;
    const double has = read_gbs(profile, now * load->n_thread) / now;
    return had > has ? had / has : 1;
}

/* Seconds of messages one behind the other in which this rank sends so many bytes. */
static double exchange(const aq_profile *profile, int n_rank, double n_message, double bytes) {
    int depth = 0;
    while (1 << depth < n_rank)
        depth++;
    if (n_rank == 1) return 0;
    return n_message * depth * profile->latency_us * 1e-6 + bytes * 1e-9 / profile->bandwidth_gbs;
}

/* The part of the context that the rank with the largest share of the tiles holds. */
static double largest_share(const aq_workload *load) {
    int64_t most = 0, all = 0;
    if (!load->weights) return 1.0 / load->n_rank;
    for (int r = 0; r < load->n_rank; r++) {
        all += load->weights[r];
        if (load->weights[r] > most) most = load->weights[r];
    }
    return (double)most / (double)all;
}

aq_status aq_forecast_decode(const aq_profile *profile, const aq_way_rate *way,
                             const aq_workload *load, int64_t n, aq_seconds *out) {
    const aq_profile_point *point = aq_profile_for(profile, load->n_thread);
    const double slower = contention(profile, point, load), held = largest_share(load);
    const int n_full = load->n_layer - load->n_windowed;
    const double share = way->share * pow((double)n / way->share_at, way->share_power);
    const double pairs = (double)n_full * (double)n * load->n_kv_head * held;
    const double seen = (double)load->n_windowed * (double)min(n, load->window);
    const double windowed = seen * load->n_kv_head * held;
    *out = (aq_seconds){0};
    for (int i = 0; i < load->products.n_type; i++) {
        const aq_type_rate *rate = NULL;
        AQ_TRY(rate_of(point, load->products.types[i].type, &rate));
        const int64_t bytes =
            load->products.types[i].layer_bytes + load->products.types[i].output_bytes;
        out->products += slower * (double)bytes * 1e-9 / (rate->decode_gbs * load->n_tp);
    }
    const double reading =
        pairs * way->scan_ns + (pairs * fmin(1, share) + windowed) * way->attend_ns;
    out->attention = load->n_layer * way->attend_us * 1e-6 + slower * reading * 1e-9;
    out->other = load->n_layer * way->layer_us * 1e-6;
    out->exchange =
        exchange(profile, load->n_rank, load->wire.decode_messages + 1, load->wire.decode_bytes) +
        exchange(profile, load->n_tp, load->wire.share_decode_messages,
                 load->wire.share_decode_bytes);
    return AQ_OK;
}

double aq_forecast_visible(int64_t begin, int64_t end, int64_t limit) {
    const int64_t turn = end < limit ? end : begin > limit ? begin : limit;
    const double rising = (double)(turn - begin) * (double)(begin + 1 + turn) / 2;
    return rising + (double)(end - turn) * (double)limit;
}

/* The most tokens of [begin, end) that a rank owns. */
static int64_t busiest(const aq_plan *plan, int64_t begin, int64_t end) {
    int64_t most = 0;
    for (int r = 0; r < plan->n_rank; r++) {
        const int64_t n = aq_plan_owned(plan, r, begin, end, NULL);
        if (n > most) most = n;
    }
    return most;
}

aq_status aq_forecast_prefill(const aq_profile *profile, const aq_way_rate *way,
                              const aq_workload *load, int64_t n, aq_seconds *out) {
    const aq_profile_point *point = aq_profile_for(profile, load->n_thread);
    const int n_full = load->n_layer - load->n_windowed;
    const double held = largest_share(load);
    double product_s = 0; /* of one token */
    *out = (aq_seconds){0};
    for (int i = 0; i < load->products.n_type; i++) {
        const aq_type_rate *rate = NULL;
        AQ_TRY(rate_of(point, load->products.types[i].type, &rate));
        product_s += 2e-9 * (double)load->products.types[i].layer_elements / rate->prefill_gflops;
    }
    aq_plan plan;
    AQ_TRY(aq_plan_open(load->n_rank, 0, load->weights, &plan));
    for (int64_t begin = 0; begin < n; begin += load->n_batch) {
        const int64_t end = min(begin + load->n_batch, n);
        const double n_tok = (double)busiest(&plan, begin, end);
        double pairs = n_full * aq_forecast_visible(begin, end, end);
        if (load->n_windowed > 0)
            pairs += load->n_windowed * aq_forecast_visible(begin, end, load->window);
        out->products += n_tok * product_s;
        out->attention += load->n_head * pairs * held * way->pair_ns * 1e-9;
        out->other += load->n_layer * n_tok * way->row_us * 1e-6;
        out->exchange += exchange(profile, load->n_rank, load->wire.prefill_messages,
                                  (double)(end - begin) * load->wire.prefill_bytes) +
                         exchange(profile, load->n_tp, load->wire.share_chunk_messages,
                                  load->wire.share_chunk_bytes);
    }
    aq_plan_close(&plan);
    return AQ_OK;
}
