#include "src/engine/split.h"

#include <math.h>

#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/engine/apply.h"
#include "src/engine/bandwidth.h"
#include "src/engine/score.h"

#define N_PASS      4 /* over the memory that is read */
#define PRODUCT_NS  100000000
#define N_FACT      ((int64_t)(sizeof(aq_split_rates) / sizeof(int64_t)))
#define STEPS       8 /* of the fastest rank's weight: measurements are no finer */
#define SMALL_STEPS 8 /* of each of these where memory is short */

void aq_split_of(const aq_engine *engine, int64_t *weights) {
    for (int r = 0; r < engine->plan.n_rank; r++)
        weights[r] = aq_plan_weight(&engine->plan, r);
}

/* For the cache of one of the ranks that share a host, or of a device. */
static int64_t free_bytes(const aq_engine *engine) {
    aq_backend *be = engine->be;
    const size_t room = be->ops->room(be);
    if (!be->host_memory) return room > 0 ? (int64_t)room : INT64_MAX;
    const int64_t host = aq_memory_available();
    if (host == 0) return INT64_MAX;                   /* not told */
    const int64_t left = host - engine->weights.bytes; /* one map for all, counted as available */
    return left > 0 ? left / aq_comm_size_on_host(engine->comm) : 0;
}

/* Products of a tile of tokens with the first layer's output weight, for a while. */
static aq_status time_products(const aq_engine *engine, const float *x, float *y, int64_t *rate) {
    const aq_weight *w = &engine->placed.layers[0].wo;
    aq_backend *be = engine->be;
    int64_t n_pass = 0, start_ns = 0, wall_ns = 0;
    for (int64_t pass = -1; wall_ns < PRODUCT_NS; pass++) {
        if (pass == 0) start_ns = aq_clock_ns(); /* the first one is to warm up */
        aq_apply_weight(engine, w, x, AQ_TILE, y, false);
        AQ_TRY(be->ops->sync(be));
        if (pass >= 0) wall_ns = aq_clock_ns() - start_ns;
        n_pass = pass + 1;
    }
    const double n = (double)n_pass * AQ_TILE * (double)w->n_in * (double)w->n_out;
    *rate = (int64_t)(n * 1e9 / (double)wall_ns);
    return AQ_OK;
}

static aq_status measure_product(const aq_engine *engine, int64_t *rate) {
    const aq_weight *w = &engine->placed.layers[0].wo;
    aq_backend *be = engine->be;
    void *x = NULL, *y = NULL;
    aq_status status = be->ops->alloc(be, (size_t)(AQ_TILE * w->n_in) * sizeof(float), &x);
    if (status == AQ_OK)
        status = be->ops->alloc(be, (size_t)(AQ_TILE * w->n_out) * sizeof(float), &y);
    if (status == AQ_OK) status = time_products(engine, x, y, rate);
    if (x) be->ops->release(be, x);
    if (y) be->ops->release(be, y);
    return status;
}

aq_status aq_split_measure(aq_engine *engine, aq_split_rates *rates) {
    aq_split_rates mine = {.free_bytes = free_bytes(engine)};
    aq_bandwidth bandwidth;
    AQ_TRY(aq_bandwidth_measure(engine->comm, engine->n_thread, N_PASS, &bandwidth));
    aq_status status = AQ_OK;
    if (!engine->be->host_memory) status = aq_bandwidth_copy(engine->be, &bandwidth);
    AQ_TRY(aq_comm_agree(engine->comm, status));
    AQ_TRY(aq_comm_agree(engine->comm, measure_product(engine, &mine.product_per_s)));
    mine.read_bytes_per_s = (int64_t)bandwidth.own_bytes_per_s;
    return aq_comm_allgather_i64(engine->comm, (const int64_t *)&mine, N_FACT, (int64_t *)rates);
}

static int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

aq_status aq_split_cache_bytes(const aq_engine *engine, const aq_session_options *asked,
                               int64_t *bytes) {
    const aq_model_config *config = &engine->config;
    aq_session_options options = *asked;
    *bytes = 0;
    AQ_TRY(aq_score_check_options(engine, &options));
    /* A projection that is yet to be made has the codes of its size. */
    if (!engine->projection.pq && options.codes.n_segment == 0)
        options.codes = aq_projection_codes(&(aq_projection){.d_head = config->d_head});
    const aq_kv_view view = aq_score_view(engine, &options);
    const int64_t tile_bytes =
        config->n_kv_head *
        (aq_kv_key_bytes(&view) + aq_kv_value_bytes(&view) + aq_kv_selector_bytes(&view));
    const int64_t n_windowed = aq_layer_set_count(&config->windowed);
    const int64_t n_kept = options.n_h2o > 0 ? min(options.n_h2o, options.n_ctx) : options.n_ctx;
    const int64_t n_seen = min(options.n_ctx, config->window + options.n_batch);
    /* Rings hold numbers, of 4 bytes at most. */
    const int64_t ring_row = (int64_t)config->n_kv_head * 2 * config->d_head * 4;
    *bytes = (config->n_layer - n_windowed) * (n_kept / AQ_TILE + 1) * tile_bytes +
             n_windowed * n_seen * ring_row;
    return AQ_OK;
}

static int64_t sum(const int64_t *weights, int n_rank) {
    int64_t all = 0;
    for (int r = 0; r < n_rank; r++)
        all += weights[r];
    return all;
}

/* The rank whose part is furthest over its memory, -1 if all parts fit. */
static int most_over(const aq_split_rates *rates, int n_rank, int64_t cache_bytes,
                     const int64_t *weights) {
    const double part = (double)cache_bytes / (double)sum(weights, n_rank);
    double most = 1;
    int worst = -1;
    for (int r = 0; r < n_rank; r++) {
        if (weights[r] == 0 || rates[r].free_bytes == INT64_MAX) continue;
        const double room = (double)rates[r].free_bytes * 7 / 8;
        const double over = room > 0 ? part * (double)weights[r] / room : INFINITY;
        if (over <= most) continue;
        most = over;
        worst = r;
    }
    return worst;
}

/* Takes from ranks that are over their memory. Returns whether anything is left. */
static bool fit(const aq_split_rates *rates, int n_rank, int64_t cache_bytes, int64_t *weights) {
    int r = most_over(rates, n_rank, cache_bytes, weights);
    for (int i = 0; r >= 0 && i < n_rank; i++)
        weights[i] *= SMALL_STEPS;
    for (; r >= 0; r = most_over(rates, n_rank, cache_bytes, weights)) {
        weights[r]--;
        if (sum(weights, n_rank) == 0) return false;
    }
    return true;
}

static void weigh_speeds(const aq_split_rates *rates, int n_rank, int64_t *weights) {
    double fastest = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int r = 0; r < n_rank; r++) {
            const double speed =
                sqrt((double)rates[r].read_bytes_per_s * (double)rates[r].product_per_s);
            if (pass == 0) fastest = fmax(fastest, speed);
            if (pass == 1) weights[r] = fastest > 0 ? llround(STEPS * speed / fastest) : 1;
        }
}

static void reduce(int64_t *weights, int n_rank) {
    int64_t factor = 0;
    for (int r = 0; r < n_rank; r++)
        for (int64_t a = weights[r]; a != 0;) {
            const int64_t rest = factor % a;
            factor = a;
            a = rest;
        }
    for (int r = 0; r < n_rank; r++)
        weights[r] /= factor;
}

void aq_split_choose(const aq_split_rates *rates, int n_rank, int64_t cache_bytes,
                     int64_t *weights) {
    weigh_speeds(rates, n_rank, weights);
    if (!fit(rates, n_rank, cache_bytes, weights)) weigh_speeds(rates, n_rank, weights);
    reduce(weights, n_rank);
}
