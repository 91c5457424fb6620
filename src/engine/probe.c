#include "src/engine/probe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/coll.h"
#include "src/base/clock.h"
#include "src/engine/bandwidth.h"
#include "src/engine/forecast.h"

#define N_DECODE      15 /* tokens timed behind each context; the median counts */
#define N_WARM        2
#define N_PASS        5                    /* over the weights of a type; the median counts */
#define PASS_BYTES    ((int64_t)512 << 20) /* of weights that one pass reads at most */
#define PREFILL_TOKS  256
#define PREFILL_ROWS  4096 /* of a matrix, at most */
#define PREFILL_S     0.3  /* for a type */
#define PREFILL_WAY_S 4.0  /* for products of a way */

/* ---- products with weights ---- */

typedef struct {
    const aq_engine *engine;
    const aq_weight **list; /* [n], of one type */
    int64_t n;
    float *x, *y; /* backend memory for PREFILL_TOKS tokens */
} products;

static int64_t bytes_of(const aq_weight *w) {
    return w->n_out * aq_dtype_row_bytes(w->dtype, w->n_in);
}

/* Appends a matrix if it is of the type. */
static void list_one(products *p, const aq_weight *w, const char *type) {
    if (w->data && strcmp(aq_dtype_any_name((uint32_t)w->dtype), type) == 0) p->list[p->n++] = w;
}

static void list_ffn(products *p, const aq_ffn_weights *w, const char *type) {
    list_one(p, &w->w_gate, type);
    list_one(p, &w->w_up, type);
    list_one(p, &w->w_down, type);
}

static void list_type(products *p, const char *type) {
    const aq_model_config *config = &p->engine->config;
    p->n = 0;
    for (int i = 0; i < config->n_layer; i++) {
        const aq_layer_weights *w = &p->engine->placed.layers[i];
        list_one(p, &w->wq, type);
        list_one(p, &w->wk, type);
        list_one(p, &w->wv, type);
        list_one(p, &w->wo, type);
        list_one(p, &w->router, type);
        list_ffn(p, &w->ffn, type);
        for (int e = 0; w->experts && e < config->n_expert; e++)
            list_ffn(p, &w->experts[e], type);
    }
    list_one(p, &p->engine->placed.output, type);
}

static void multiply(const products *p, const aq_weight *w, int64_t n_out, int64_t n_tok) {
    p->engine->be->ops->matmul(p->engine->be, &(aq_matmul_args){.w = w->data,
                                                                .dtype = w->dtype,
                                                                .n_out = n_out,
                                                                .n_in = w->n_in,
                                                                .n_tok = n_tok,
                                                                .x = p->x,
                                                                .y = p->y});
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* 10^9 bytes a second with one token, each matrix once a pass. */
static double decode_gbs(const products *p) {
    double gbs[N_PASS];
    for (int pass = 0; pass < N_PASS; pass++) {
        int64_t bytes = 0;
        const int64_t start_ns = aq_clock_ns();
        for (int64_t i = 0; i < p->n && (i == 0 || bytes < PASS_BYTES); i++) {
            multiply(p, p->list[i], p->list[i]->n_out, 1);
            bytes += bytes_of(p->list[i]);
        }
        gbs[pass] = (double)bytes / (double)(aq_clock_ns() - start_ns + 1);
    }
    qsort(gbs, N_PASS, sizeof gbs[0], compare);
    return gbs[N_PASS / 2];
}

static double prefill_gflops(const products *p) {
    const int64_t start_ns = aq_clock_ns();
    double flops = 0;
    int64_t wall_ns = 0;
    for (int64_t i = 0; (double)wall_ns < PREFILL_S * 1e9; i++) {
        const aq_weight *w = p->list[i % p->n];
        const int64_t n_out = w->n_out < PREFILL_ROWS ? w->n_out : PREFILL_ROWS;
        multiply(p, w, n_out, PREFILL_TOKS);
        flops += 2.0 * (double)(n_out * w->n_in) * PREFILL_TOKS;
        wall_ns = aq_clock_ns() - start_ns;
    }
    return flops / (double)wall_ns;
}

/* Room for PREFILL_TOKS tokens of any matrix, and for one of the widest. */
static aq_status open_products(const aq_engine *engine, products *p) {
    const aq_model_config *c = &engine->config;
    const int64_t n_q = (int64_t)c->n_head * c->d_head;
    int64_t width = c->d_model > n_q ? c->d_model : n_q;
    if (c->d_ff > width) width = c->d_ff;
    if (c->d_expert > width) width = c->d_expert;
    const int64_t n_x = PREFILL_TOKS * width;
    const int64_t n_out = width > c->n_vocab ? width : c->n_vocab;
    const int64_t n_rows = PREFILL_TOKS * (n_out < PREFILL_ROWS ? n_out : PREFILL_ROWS);
    const int64_t n_y = n_rows > n_out ? n_rows : n_out;
    const size_t n_list = (size_t)c->n_layer * (size_t)(8 + 3 * c->n_expert) + 1;
    aq_backend *be = engine->be;
    *p = (products){.engine = engine};
    float *x = malloc((size_t)n_x * sizeof *x);
    p->list = malloc(n_list * sizeof(aq_weight *));
    aq_status status = AQ_OK;
    if (!x || !p->list) status = aq_fail(AQ_ERR_MEMORY, "no memory to time products");
    if (status == AQ_OK) status = be->ops->alloc(be, (size_t)n_x * sizeof(float), (void **)&p->x);
    if (status == AQ_OK) status = be->ops->alloc(be, (size_t)n_y * sizeof(float), (void **)&p->y);
    for (int64_t i = 0; status == AQ_OK && i < n_x; i++)
        x[i] = 1.0f + 0.1f * (float)(i % 7);
    if (status == AQ_OK) be->ops->upload(be, p->x, x, (size_t)n_x * sizeof *x);
    free(x);
    return status;
}

static void close_products(products *p) {
    aq_backend *be = p->engine->be;
    if (p->x) be->ops->release(be, p->x);
    if (p->y) be->ops->release(be, p->y);
    free(p->list);
}

static aq_status time_types(const aq_engine *engine, aq_profile_point *out) {
    aq_products all;
    products p;
    AQ_TRY(aq_products_of(engine, &all));
    aq_status status = open_products(engine, &p);
    out->n_type = all.n_type;
    for (int i = 0; status == AQ_OK && i < all.n_type; i++) {
        snprintf(out->types[i].type, AQ_PROFILE_NAME, "%s", all.types[i].type);
        list_type(&p, all.types[i].type);
        out->types[i].decode_gbs = decode_gbs(&p);
        out->types[i].prefill_gflops = prefill_gflops(&p);
    }
    close_products(&p);
    return status;
}

/* ---- steps of a session ---- */

/* What one step took, and what it read. */
typedef struct {
    int64_t wall_ns;
    double attend_ns, scan_ns;
    double n_pair, n_attended; /* of layers that see everything */
} sample;

static sample between(const aq_session_stats *before, const aq_session_stats *after,
                      int64_t wall_ns) {
    return (sample){.wall_ns = wall_ns,
                    .attend_ns = (double)(after->attend_ns - before->attend_ns),
                    .scan_ns = (double)(after->scan_ns - before->scan_ns),
                    .n_pair = (double)(after->n_pair - before->n_pair),
                    .n_attended = (double)(after->n_attended - before->n_attended)};
}

static int compare_samples(const void *a, const void *b) {
    const int64_t x = ((const sample *)a)->wall_ns, y = ((const sample *)b)->wall_ns;
    return (x > y) - (x < y);
}

/* The median token of those decoded behind the context. */
static aq_status time_decode(aq_session *session, const int32_t *ids, sample *out) {
    sample samples[N_DECODE];
    for (int i = -N_WARM; i < N_DECODE; i++) {
        const aq_session_stats before = aq_session_describe(session);
        const int64_t start_ns = aq_clock_ns();
        AQ_TRY(aq_session_decode(session, ids[i + N_WARM]));
        const int64_t wall_ns = aq_clock_ns() - start_ns;
        const aq_session_stats after = aq_session_describe(session);
        if (i >= 0) samples[i] = between(&before, &after, wall_ns);
    }
    qsort(samples, N_DECODE, sizeof samples[0], compare_samples);
    *out = samples[N_DECODE / 2];
    return AQ_OK;
}

static aq_status time_prefill(aq_session *session, const int32_t *ids, int64_t n, sample *out) {
    const aq_session_stats before = aq_session_describe(session);
    const int64_t start_ns = aq_clock_ns();
    AQ_TRY(aq_session_prefill(session, ids, n, NULL));
    const int64_t wall_ns = aq_clock_ns() - start_ns;
    const aq_session_stats after = aq_session_describe(session);
    *out = between(&before, &after, wall_ns);
    return AQ_OK;
}

/* All that is timed of one way: decoding behind n_near and n_far tokens, and prefilling what lies
 * between. */
typedef struct {
    int64_t n_near, n_far, n_chunk;
    sample near, far, chunk;
} timing;

static aq_status run(aq_session *session, const int32_t *ids, int64_t n, timing *t) {
    const int64_t n_step = N_WARM + N_DECODE;
    sample first;
    t->n_near = AQ_PROBE_NEAR + n_step;
    t->n_far = n < AQ_PROBE_FAR + n_step ? n : AQ_PROBE_FAR + n_step;
    t->n_chunk = t->n_far - n_step - t->n_near;
    AQ_TRY(time_prefill(session, ids, AQ_PROBE_NEAR, &first));
    AQ_TRY(time_decode(session, ids + AQ_PROBE_NEAR, &t->near));
    AQ_TRY(time_prefill(session, ids + t->n_near, t->n_chunk, &t->chunk));
    return time_decode(session, ids + t->n_far - n_step, &t->far);
}

/* Of a decoded token: everything that is read in windowed layers, and what is attended to at all.
 */
static double windowed_pairs(const aq_workload *load, int64_t n) {
    const int64_t seen = n < load->window ? n : load->window;
    return (double)load->n_windowed * (double)seen * load->n_kv_head;
}

/* time = base + slope * n through two points; neither is negative. */
static void fit(double n_a, double time_a, double n_b, double time_b, double *base, double *slope) {
    *slope = n_b > n_a ? (time_b - time_a) / (n_b - n_a) : 0;
    if (*slope < 0 || time_a < *slope * n_a) *slope = n_b > 0 ? time_b / n_b : 0;
    *base = fmax(0, time_b - *slope * n_b);
}

static void fill_attention(const timing *t, const aq_workload *load, aq_way_rate *out) {
    const double n_near = (double)t->n_near, n_far = (double)t->n_far;
    const double share_near = t->near.n_pair > 0 ? t->near.n_attended / t->near.n_pair : 1;
    out->share = t->far.n_pair > 0 ? fmin(1, t->far.n_attended / t->far.n_pair) : 1;
    out->share_at = n_far;
    if (out->share > 0 && share_near > out->share)
        out->share_power = fmax(-1, log(out->share / share_near) / log(n_far / n_near));
    if (t->far.n_pair > 0) out->scan_ns = t->far.scan_ns / t->far.n_pair;
    double base_ns = 0;
    fit(t->near.n_attended + windowed_pairs(load, t->n_near), t->near.attend_ns - t->near.scan_ns,
        t->far.n_attended + windowed_pairs(load, t->n_far), t->far.attend_ns - t->far.scan_ns,
        &base_ns, &out->attend_ns);
    out->attend_us = base_ns * 1e-3 / load->n_layer;
}

/* What the profile's figures make of the products of one token, in nanoseconds. */
static void product_times(const aq_profile_point *point, const aq_workload *load, double *decode_ns,
                          double *prefill_ns) {
    *decode_ns = *prefill_ns = 0;
    for (int i = 0; i < load->products.n_type; i++) {
        *decode_ns += (double)load->products.types[i].layer_bytes / point->types[i].decode_gbs;
        *prefill_ns +=
            2.0 * (double)load->products.types[i].layer_elements / point->types[i].prefill_gflops;
    }
}

static void fill_way(const timing *t, const aq_workload *load, const aq_profile_point *point,
                     aq_way_rate *out) {
    const int64_t begin = t->n_near, end = t->n_near + t->n_chunk;
    const int n_full = load->n_layer - load->n_windowed;
    const double n_row = (double)load->n_layer * (double)t->n_chunk;
    double decode_ns, prefill_ns;
    product_times(point, load, &decode_ns, &prefill_ns);
    fill_attention(t, load, out);
    const double rest_ns = (double)(t->near.wall_ns + t->far.wall_ns) / 2 -
                           (t->near.attend_ns + t->far.attend_ns) / 2 - decode_ns;
    const double row_ns =
        (double)t->chunk.wall_ns - t->chunk.attend_ns - prefill_ns * (double)t->n_chunk;
    double pairs = n_full * aq_forecast_visible(begin, end, end);
    if (load->n_windowed > 0)
        pairs += load->n_windowed * aq_forecast_visible(begin, end, load->window);
    out->layer_us = fmax(0, rest_ns * 1e-3 / load->n_layer);
    out->row_us = fmax(0, row_ns * 1e-3 / n_row);
    out->pair_ns = t->chunk.attend_ns / (pairs * load->n_head);
}

/* Makes `part` a model of the first layers: as many as prefill in time, one that sees everything
 * among them if there is any. */
static aq_status shorten(const aq_profile_point *point, aq_engine *part) {
    aq_model_config *config = &part->config;
    const aq_session_options dense = {.n_ctx = 1};
    aq_workload load;
    double decode_ns, prefill_ns;
    AQ_TRY(aq_workload_of(part, 1, 1, &dense, &load));
    product_times(point, &load, &decode_ns, &prefill_ns);
    const double layer_s = prefill_ns * 1e-9 * AQ_PROBE_FAR / config->n_layer;
    int n = 1;
    while (n < config->n_layer && (n * layer_s < PREFILL_WAY_S || aq_model_windowed(config, n - 1)))
        n++;
    for (int layer = n; layer < config->n_layer; layer++)
        config->windowed.bits[layer / 64] &= ~((uint64_t)1 << (layer % 64));
    config->n_layer = n;
    return AQ_OK;
}

static aq_status time_way(const aq_engine *engine, const aq_session_options *asked,
                          const int32_t *ids, int64_t n, const aq_profile_point *point,
                          aq_way_rate *out) {
    static const char *const names[] = {"dense", "aqua", "select", "pages"};
    aq_engine part = *engine;
    aq_session_options options = *asked;
    aq_session *session = NULL;
    aq_workload load;
    timing t;
    *out = (aq_way_rate){.share = 1};
    snprintf(out->attn, sizeof out->attn, "%s", names[asked->attn]);
    snprintf(out->key_type, sizeof out->key_type, "%s", aq_kv_type_name(asked->key_type));
    snprintf(out->value_type, sizeof out->value_type, "%s", aq_kv_type_name(asked->value_type));
    AQ_TRY(shorten(point, &part));
    options.n_ctx = AQ_PROBE_FAR + N_WARM + N_DECODE;
    if (options.n_ctx > n) options.n_ctx = n;
    if (options.n_ctx > part.config.n_ctx) options.n_ctx = part.config.n_ctx;
    AQ_TRY(aq_workload_of(&part, 1, 1, &options, &load));
    AQ_TRY(aq_session_open(&part, &options, &session));
    const aq_status status = run(session, ids, options.n_ctx, &t);
    if (status == AQ_OK) fill_way(&t, &load, point, out);
    aq_session_close(session);
    return status;
}

aq_status aq_probe_point(const aq_engine *engine, int n_thread, const aq_session_options *options,
                         int n_way, const int32_t *ids, int64_t n, aq_profile_point *out) {
    aq_engine other = *engine;
    *out = (aq_profile_point){.n_thread = n_thread, .n_way = n_way};
    if (n < AQ_PROBE_NEAR + 64 || n_way > AQ_PROFILE_WAYS)
        return aq_fail(AQ_ERR_USAGE, "a profile needs a text of %d tokens at least",
                       AQ_PROBE_NEAR + 64);
    AQ_TRY(aq_backend_cpu_open(n_thread, aq_cpu_isa_best(), &other.be));
    other.n_thread = n_thread;
    aq_status status = time_types(&other, out);
    for (int i = 0; status == AQ_OK && i < n_way; i++)
        status = time_way(&other, &options[i], ids, n, out, &out->ways[i]);
    other.be->ops->close(other.be);
    return status;
}

/* ---- between ranks ---- */

#define SMALL_BYTES 64
#define LARGE_BYTES (1 << 20)

/* Seconds of one all-gather of `bytes` bytes a rank, of n_call, on the slowest rank. */
static aq_status time_gathers(aq_comm *comm, aq_coll *coll, char *memory, int64_t bytes, int n_call,
                              double *seconds) {
    const int n_rank = aq_comm_size(comm);
    double all_s = 0;
    aq_status status = aq_comm_barrier(comm);
    const int64_t start_ns = aq_clock_ns();
    for (int i = 0; status == AQ_OK && i < n_call; i++)
        status = aq_coll_allgather(coll, memory, bytes, memory + bytes);
    all_s = (double)(aq_clock_ns() - start_ns) * 1e-9;
    AQ_TRY(status);
    AQ_TRY(aq_comm_sum_f64(comm, &all_s, 1));
    *seconds = all_s / n_rank / n_call;
    return AQ_OK;
}

static aq_status time_network(aq_comm *comm, aq_coll *coll, char *memory, aq_profile *out) {
    const int n_rank = aq_comm_size(comm);
    double small_s, large_s;
    int depth = 0;
    while (1 << depth < n_rank)
        depth++;
    AQ_TRY(time_gathers(comm, coll, memory, SMALL_BYTES, 50, &small_s)); /* connects */
    AQ_TRY(time_gathers(comm, coll, memory, SMALL_BYTES, 500, &small_s));
    AQ_TRY(time_gathers(comm, coll, memory, LARGE_BYTES, 20, &large_s));
    const double sending_s = fmax(large_s - small_s, large_s / 100);
    out->latency_us = small_s * 1e6 / depth;
    out->bandwidth_gbs = LARGE_BYTES * 1e-9 * (n_rank - 1) / sending_s;
    out->network_measured = true;
    return AQ_OK;
}

aq_status aq_probe_network(aq_comm *comm, aq_profile *out) {
    const size_t n_rank = (size_t)aq_comm_size(comm);
    aq_coll *coll = NULL;
    if (n_rank == 1) return AQ_OK;
    char *memory = calloc(n_rank + 1, LARGE_BYTES);
    aq_status status =
        memory ? AQ_OK
               : aq_fail(AQ_ERR_MEMORY, "no memory to time messages of %d bytes", LARGE_BYTES);
    status = aq_comm_agree(comm, status);
    if (status == AQ_OK) status = aq_coll_open(comm, &coll);
    if (status == AQ_OK) status = time_network(comm, coll, memory, out);
    aq_coll_close(coll);
    free(memory);
    return status;
}

aq_status aq_probe_reads(int n_thread, aq_profile *out) {
    aq_comm *self = NULL;
    aq_bandwidth bandwidth;
    AQ_TRY(aq_comm_open_self(&self));
    aq_status status = AQ_OK;
    out->n_read = 0;
    for (int n = 1; status == AQ_OK && out->n_read < AQ_PROFILE_READS;) {
        status = aq_bandwidth_measure(self, n, AQ_BANDWIDTH_PASSES, &bandwidth);
        out->reads[out->n_read++] = (aq_read_rate){n, bandwidth.bytes_per_s * 1e-9};
        if (n == n_thread) break;
        n = 2 * n < n_thread ? 2 * n : n_thread;
    }
    aq_comm_close(self);
    return status;
}
