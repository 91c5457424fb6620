/* Calibration over ranks: text in, projection out.
 *
 * Chunks are spread evenly over the text; chunk c goes to rank c % P, which runs it through a dense
 * session of its own and adds the queries and keys of every layer to its Gram sums. One all-reduce
 * joins the sums, problem i is solved by rank i % P, and every rank gets all bases. */
#ifndef AQ_CALIB_CALIBRATE_H
#define AQ_CALIB_CALIBRATE_H

#include "calib/gram.h"
#include "comm/comm.h"
#include "src/aqua.h"
#include "src/model/projection_file.h"

/* Tokens at the start of every chunk that are not counted: attention sinks, unlike all others. */
#define AQ_CALIBRATE_SINKS 4

typedef struct {
    aq_basis basis;
    int64_t n_tok;       /* tokens of the text to use; 0, or more than there are: all */
    int64_t n_chunk_tok; /* tokens of a chunk, BOS included; 0: 8192. At most the model's context */
    int32_t bos;         /* id put in front of every chunk, -1: none */
    const char *domain;  /* name of the text, kept in the projection */
    void *arg;
    /* After each of this rank's chunks: chunks done here of all that are here; may be NULL. */
    void (*progress)(void *arg, int64_t n_done, int64_t n_all);
} aq_calibrate_options;

/* Makes a projection from n token ids. `engine` must have been opened by each rank for itself
 * (aq_comm_open_self); `comm` joins the ranks; ids and options are the same on all of them. The
 * caller frees *out, which is zeroed on failure. Every rank returns the same: AQ_ERR_USAGE (text
 * shorter than d_head tokens, chunk too short), AQ_ERR_NUMERIC (layer and head named),
 * AQ_ERR_MEMORY, AQ_ERR_COMM. Collective over comm. */
aq_status aq_calibrate(aq_engine *engine, aq_comm *comm, const int32_t *ids, int64_t n,
                       const aq_calibrate_options *options, aq_projection *out);

/* Where chunk c of n_chunk begins in a text of n tokens, of which n_use, chunk_tok a chunk, are
 * used: behind each chunk lies a gap, all as long. Local. */
int64_t aq_calibrate_chunk_begin(int64_t c, int64_t n_chunk, int64_t chunk_tok, int64_t n,
                                 int64_t n_use);

/* The first part of aq_calibrate: the Gram sums of the text, all ranks' together, on every rank.
 * The caller closes *out, which is zeroed on failure. Errors as above. Collective over comm. */
aq_status aq_calibrate_sums(aq_engine *engine, aq_comm *comm, const int32_t *ids, int64_t n,
                            const aq_calibrate_options *options, aq_gram *out);

/* The rest of it, for sums that are joined already: problem i is solved by rank i % P. Zeroes *out,
 * then sets its sizes, basis, n_tok_calib and arrays; the caller frees it; zeroed on failure.
 * Errors as above. Collective over comm. */
aq_status aq_calibrate_solve_joined(aq_comm *comm, const aq_gram *gram, aq_basis basis,
                                    aq_projection *out);

/* Sums the ranks' Gram sums in place, once, and solves as above. Collective over comm. */
aq_status aq_calibrate_solve(aq_comm *comm, aq_gram *gram, aq_basis basis, aq_projection *out);

/* Says in a projection which model and text it was made from. Local. */
void aq_calibrate_sign(const aq_engine *engine, const char *domain, aq_projection *out);

/* Rank 0 writes the projection; every rank returns the outcome. Errors of aq_projection_write.
 * Collective. */
aq_status aq_calibrate_save(aq_comm *comm, const char *path, const aq_projection *p);

#endif
