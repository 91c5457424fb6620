/* Samples of a model's attention: what one held-out chunk of text asks and finds.
 *
 * The chunk goes through a dense session in one step, so that a layer's queries and keys are all
 * there at once; they are given away layer by layer and not kept. Of the queries a few of the
 * second half are looked at, spread evenly: query i of n sits at
 * n_tok - 1 - i (n_tok - n_tok / 2) / n. Query i belongs to rank i % P; all ranks run the chunk. */
#ifndef AQ_CALIB_SAMPLE_H
#define AQ_CALIB_SAMPLE_H

#include "comm/comm.h"
#include "src/aqua.h"
#include "src/base/threads.h"

/* Tokens and queries of a sample, unless another number is asked for. */
#define AQ_SAMPLE_TOKENS  4096
#define AQ_SAMPLE_QUERIES 32

/* One layer that sees everything; valid inside the call only. */
typedef struct {
    int layer, n_head, n_kv_head, d_head;
    float scale; /* multiplies q k */
    int64_t n_tok;
    const float *q;     /* [n_tok, n_head, d_head] after rope; row t is position t */
    const float *k;     /* [n_tok, n_kv_head, d_head] */
    const int64_t *pos; /* [n_query] this rank's queries; each sees positions 0 .. pos */
    int64_t n_query;
    aq_threads *team;
} aq_sample;

typedef aq_status (*aq_sample_fn)(void *arg, const aq_sample *sample);

typedef struct {
    int64_t n_query; /* of all ranks; 0: AQ_SAMPLE_QUERIES */
    int32_t bos;     /* put in front of the chunk, -1: none */
} aq_sample_options;

/* How many of the last tokens of a text of n are held out of calibration to be sampled: a quarter,
 * at most AQ_SAMPLE_TOKENS and the model's context n_ctx. 0 if that is less than 256: too few to
 * tell anything. Local. */
int64_t aq_sample_held_out(int64_t n, int64_t n_ctx);

/* Position of query i of n_query in a chunk of n_tok. Local. */
int64_t aq_sample_position(int64_t i, int64_t n_query, int64_t n_tok);

/* Runs the chunk of n ids and calls `take` for each layer that sees everything. `engine` is one of
 * this rank alone; `comm` joins the ranks. Failures of any rank, of `take` too, are everyone's.
 * AQ_ERR_USAGE (an engine of several ranks, no ids), AQ_ERR_LIMIT (longer than the model's
 * context), AQ_ERR_MEMORY. Collective over comm; `take` must not communicate. */
aq_status aq_sample_run(aq_engine *engine, aq_comm *comm, const int32_t *ids, int64_t n,
                        const aq_sample_options *options, aq_sample_fn take, void *arg);

#endif
