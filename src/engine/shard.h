/* Weights shared out over ranks ("tensor parallel"), the engine's side of src/model/model_share.h.
 *
 * The ranks are in groups of n_tp that follow each other; those of a group keep the rows of each
 * matrix between them. y = W x is cut by rows of W alone, never by columns: every number is then
 * computed by one rank, just as one rank alone would do it, and no sums are taken over ranks. So
 * the results have the same bits whatever n_tp is.
 *
 * - Decode: each rank multiplies the token's row with its rows, and one gathering brings the
 * numbers to all of the group (aq_shard_product).
 * - Prefill: the ranks have tokens of their own. Instead of moving every token between them, the
 *   rows of a layer come together before it begins, in a buffer of one layer (aq_shard_gather): a
 *   chunk of some hundred tokens is more than a layer of stored weights.
 *
 * Cutting W by rows after tokens have met is the row split of Megatron-LM (arXiv 1909.08053,
 * section 3); gathering weights layer by layer is what ZeRO stage 3 does (arXiv 1910.02054). For
 * src/engine. */
#ifndef AQ_ENGINE_SHARD_H
#define AQ_ENGINE_SHARD_H

#include "comm/coll.h"
#include "kernels/backend.h"
#include "src/aqua.h"
#include "src/model/model_share.h"

/* The products of a token that may be joined in one message. */
#define AQ_SHARD_PARTS 3

typedef struct {
    aq_share share; /* this rank in its group; n 1: every rank has all weights */
    aq_comm *group; /* NULL if n is 1 */
    aq_coll *coll;  /* over the group, likewise */
    int64_t *bytes; /* [n] of the host: what each sends */
    float *mine;    /* in backend memory: this rank's numbers of several products of a token */
    float *all;     /* all ranks', in rank order; or all logits */
    aq_layer_weights layer; /* the one that aq_shard_gather has brought together */
    void *layer_memory;     /* its matrices, in backend memory */
    size_t layer_bytes;
    char *stage; /* of the host, where backend memory is not: what comes and goes */
} aq_shard;

/* Groups of n_tp ranks, 0 counts as 1. AQ_ERR_USAGE unless n_tp divides the ranks and no matrix has
 * fewer rows; the caller closes, also then. Collective. */
aq_status aq_shard_open(aq_engine *engine, int n_tp);

/* Bytes of the buffers that groups of n_tp ranks need beside their weights, on each of them and of
 * any kind of memory but the host's stage. Local. */
int64_t aq_shard_bytes(const aq_engine *engine, int n_tp);

/* Buffers, when the weights are placed. AQ_ERR_MEMORY. Local. */
aq_status aq_shard_place(aq_engine *engine);

/* Collective over the group. */
void aq_shard_close(aq_engine *engine);

/* *out = layer `layer` with whole matrices in backend memory, until the next call. AQ_ERR_COMM.
 * Collective over the group; Local if n is 1. */
aq_status aq_shard_gather(aq_engine *engine, int layer, const aq_layer_weights **out);

/* matmul_each where parts may be a rank's rows of matrices of n_out[part] rows, for one token: each
 * part's y takes all n_out numbers. Parts that are whole are multiplied as they are. Times are
 * added to stats->matmul_ns and exchange_ns. AQ_ERR_COMM. Collective over the group if the parts
 * are rows, else Local. */
aq_status aq_shard_product(const aq_engine *engine, const aq_matmul_each_args *args,
                           const int64_t *n_out, aq_session_stats *stats);

/* logits[n_vocab] on the host of a hidden row [d_model] in backend memory; NULL: not wanted here.
 * What the backend failed in, AQ_ERR_COMM. Collective over the group; n is over 1. */
aq_status aq_shard_logits(const aq_engine *engine, const float *hidden, float *logits);

/* Bytes that this rank has put on the wire for weights' sake, and exchanges. Local. */
int64_t aq_shard_bytes_sent(const aq_shard *shard);
int64_t aq_shard_call_count(const aq_shard *shard);

#endif
