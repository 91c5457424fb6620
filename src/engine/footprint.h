/* What one rank of a session takes: bytes of memory by part, and what it puts on the wire. Nothing
 * is allocated and no rank is needed; the sizes are those that aq_session_open allocates, from the
 * same functions. For src/engine and programs that plan. */
#ifndef AQ_ENGINE_FOOTPRINT_H
#define AQ_ENGINE_FOOTPRINT_H

#include "src/aqua.h"
#include "src/engine/plan.h"

/* Bytes, of any kind of memory. */
typedef struct {
    int64_t weights;    /* of the mapped file: the ranks of a host have them in common if each
                           has all of them */
    int64_t moved;      /* weights in another order than the file's */
    int64_t projection; /* of the engine, or of the one that a context makes */
    int64_t keys, values, selector, open_tile;
    int64_t step;  /* buffers of the largest step */
    int64_t other; /* working memory of threads, directories, tables */
} aq_footprint;

/* The footprint of rank plan->rank of plan->n_rank, n_tp of which share the weights (shard.h); the
 * engine itself may be of other ranks. Errors as aq_session_open, but AQ_ERR_MEMORY.
 * Local. */
aq_status aq_footprint_of(aq_engine *engine, const aq_plan *plan, int n_tp,
                          const aq_session_options *options, aq_footprint *out);

/* Of them all, those that are this rank's alone: all but `weights`. Local. */
int64_t aq_footprint_own(const aq_footprint *footprint);

/* Weights of rank plan->rank: `weights` and `moved`. What is kept of shared ones is counted once,
 * as `weights`, wherever it lies. Local. */
void aq_footprint_weights(const aq_engine *engine, const aq_plan *plan, int n_tp,
                          aq_footprint *out);

/* What the ranks exchange for one token, L layers, H heads of d dimensions, P ranks. A decoded
 * token, by aq_session_options.merge (AQ_MERGE_AUTO: as the engine was told), in the mean of ranks:
 *   allgather  bytes = L H (d + 2) 4 (P - 1),               messages = L
 *   alltoall   bytes = L H ((d + 2) + d) 4 (P - 1) / P,     messages = 2 L
 *   tree       bytes = L H (d + 2) 4 2 (P - 1) / P,         messages = L
 * A prefilled one: its rank sends the query to all others, which send their partial results back,
 * so that each rank sends in the mean
 *   bytes = sum over layers H (query row + 4 (d + 2)) (P - 1) / P,   2 messages a layer and chunk
 * Rows are packed where kernels/packed_rows.h says so: queries with aqua, both with wire_bf16; else
 * a query's is 4 d bytes. Where tokens are dropped (h2o.h) 8 H bytes more, in one message more a
 * layer, in prefill, and with alltoall in decode. Counted as comm/coll.h counts; ids and the last
 * row are not in it, nor logits where each rank has all weights.
 *
 * Where groups of N ranks share the weights (shard.h), each rank sends in addition, in the mean and
 * within its group, for each decoded token and its logits
 *   share_decode_bytes = (sum of the products' numbers 4) (N - 1) / N
 * in a message for q, k and v, one for each other product of a layer, and one for the logits; and
 * for each chunk, however long,
 *   share_chunk_bytes = (bytes of the layers' matrices) (N - 1) / N
 * in a message for each matrix, all experts included. */
typedef struct {
    double decode_bytes, prefill_bytes; /* a token, sent by each rank in the mean */
    int decode_messages;                /* a token */
    int prefill_messages;               /* a chunk */
    double share_decode_bytes, share_chunk_bytes;
    int share_decode_messages, share_chunk_messages;
} aq_wire;

/* Of n_rank ranks, n_tp of which share the weights. Errors as aq_footprint_of. Local. */
aq_status aq_wire_of(const aq_engine *engine, int n_rank, int n_tp,
                     const aq_session_options *options, aq_wire *out);

#endif
