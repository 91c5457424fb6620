/* How long a run will take: pure arithmetic from a machine's profile, the shape of a model and its
 * ranks. For src/engine and programs that plan. */
#ifndef AQ_ENGINE_FORECAST_H
#define AQ_ENGINE_FORECAST_H

#include "src/engine/footprint.h"
#include "src/model/profile_file.h"

/* Bytes of weights of each type that the products of one token read, and what they multiply. */
typedef struct {
    int n_type;
    struct {
        char type[AQ_PROFILE_NAME];
        int64_t layer_bytes, output_bytes; /* in all layers, and of the output matrix */
        int64_t layer_elements;            /* each is one multiplication and addition a token */
    } types[AQ_PROFILE_TYPES];
} aq_products;

/* Products of one rank that has all weights: of experts as many as a token uses. AQ_ERR_LIMIT: more
 * types than there are. Local. */
aq_status aq_products_of(const aq_engine *engine, aq_products *out);

/* What time depends on. */
typedef struct {
    int n_layer, n_windowed; /* all layers, and those that see `window` tokens alone */
    int64_t window;
    int n_head, n_kv_head;
    aq_products products; /* of a rank that has all weights */
    aq_wire wire;         /* of n_rank ranks */
    int n_rank;
    int n_tp;               /* of them share the weights, from 1 on */
    const int64_t *weights; /* [n_rank] by which tiles are dealt, borrowed; NULL: equally */
    int n_rank_on_host;     /* the most that share the memory of one host */
    int n_thread;           /* of each rank */
    int64_t n_batch;        /* tokens of a prefill chunk */
} aq_workload;

/* The workload of a session on n_rank ranks with equal shares, n_tp of which share the weights.
 * AQ_ERR_LIMIT, and errors as aq_footprint_of. Local. */
aq_status aq_workload_of(const aq_engine *engine, int n_rank, int n_tp,
                         const aq_session_options *options, aq_workload *out);

/* Seconds of the slowest rank. */
typedef struct {
    double products, attention, exchange, other;
} aq_seconds;

double aq_seconds_sum(const aq_seconds *seconds);

/* The profile's figures for ranks of so many threads: those of as many, else of the next fewer,
 * else of the fewest. Local. */
const aq_profile_point *aq_profile_for(const aq_profile *profile, int n_thread);

/* Of them, those of a way of attention; NULL if it was not measured. Local. */
const aq_way_rate *aq_way_for(const aq_profile_point *point, const char *attn, const char *key_type,
                              const char *value_type);

/* sum of min(p + 1, limit) over the positions p of [begin, end): tokens that queries there see.
 * Local. */
double aq_forecast_visible(int64_t begin, int64_t end, int64_t limit);

/* One token decoded behind n tokens of context on P ranks, N of which share the weights, L layers,
 * of which W see w tokens, G KV heads. The rank with the largest share of the tiles, 1 / P of them
 * where shares are equal, holds a part c of the context:
 *   products   sum over types of bytes / (N decode_gbs 10^9), layers' and output's
 *   attention  L attend_us + pairs scan_ns + (pairs s(n) + W min(n, w) G c) attend_ns,
 *              pairs = (L - W) n G c, s(n) = min(1, share (n / share_at)^share_power)
 *   other      L layer_us
 *   exchange   (messages + 1) ceil(log2 P) latency + bytes / bandwidth: one message hands the id
 *              on; and for shared weights share_messages ceil(log2 N) latency + share_bytes /
 *              bandwidth
 * All ranks are as fast as the profile's, so that the one with most to do is the slowest.
 * What reads memory, products and attention, takes longer by the factor by which ranks of a host
 * have less bandwidth each than in the measurement, if more of them share it: reads[] per thread,
 * between its entries in proportion.
 * AQ_ERR_UNSUPPORTED: the profile lacks a type of weights (named). Local. */
aq_status aq_forecast_decode(const aq_profile *profile, const aq_way_rate *way,
                             const aq_workload *load, int64_t n, aq_seconds *out);

/* The first n tokens, in chunks of n_batch that are dealt to the ranks by tiles (plan.h). With t
 * tokens of a chunk on the busiest rank and v(p) tokens visible to the query at p, itself included:
 *   products   t sum over types of 2 elements / (prefill_gflops 10^9)
 *   attention  H pair_ns c sum over the chunk of ((L - W) v(p) + W min(v(p), w))
 *   other      L t row_us
 *   exchange   messages ceil(log2 P) latency + chunk bytes / bandwidth, and the same of shared
 *              weights over N ranks
 * AQ_ERR_UNSUPPORTED as above, AQ_ERR_USAGE for weights that cannot be dealt by. Local. */
aq_status aq_forecast_prefill(const aq_profile *profile, const aq_way_rate *way,
                              const aq_workload *load, int64_t n, aq_seconds *out);

#endif
