/* Shares of a context for ranks that are not alike, from a short measurement. */
#ifndef AQ_ENGINE_SPLIT_H
#define AQ_ENGINE_SPLIT_H

#include "src/aqua.h"

/* weights[n_rank] that the engine deals by, without their common factor. Local. */
void aq_split_of(const aq_engine *engine, int64_t *weights);

/* What a rank can do while all others do the same: integers only, so that they travel in one
 * message. */
typedef struct {
    int64_t read_bytes_per_s; /* of memory, as decode reads the cache */
    int64_t product_per_s;    /* multiply-adds in a product of a tile of tokens and a weight of the
                                 model, as prefill makes them */
    int64_t free_bytes;       /* for its part of the cache; INT64_MAX: not known */
} aq_split_rates;

/* Measures every rank, in some tenths of a second: rates[n_rank], the same on all. Free memory
 * is the host's (src/base/memory.h) without the model's weights, divided by the ranks on it;
 * of a device, what its backend has room for. AQ_ERR_MEMORY, AQ_ERR_COMM, what a device failed in.
 * Collective. */
aq_status aq_split_measure(aq_engine *engine, aq_split_rates *rates);

/* Bytes of the cache over all ranks when it holds as many tokens as the options ask for. What
 * aq_score_check_options refuses. Local. */
aq_status aq_split_cache_bytes(const aq_engine *engine, const aq_session_options *options,
                               int64_t *bytes);

/* weights[n_rank] as aq_engine_set_split takes them, small and without a common factor: in
 * proportion to sqrt(read_bytes_per_s * product_per_s), which is as fair to decode, where a rank's
 * share is read, as to prefill, where it is computed, in steps of an eighth of the fastest rank's;
 * a rank of less than half a step gets none. Then less, a 64th of the fastest rank's at a time, for
 * ranks whose part of a cache of cache_bytes would take more than 7/8 of their free memory, the
 * rest of which is for the buffers of a step. Where nothing fits, as if there were memory for all:
 * opening a session then says what is missing. The same for the same numbers. Local. */
void aq_split_choose(const aq_split_rates *rates, int n_rank, int64_t cache_bytes,
                     int64_t *weights);

#endif
