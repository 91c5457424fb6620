/* A text cut into chunks that do not overlap, each to be a context of its own: llama-perplexity's
 * protocol. The second half of each is scored. */
#ifndef AQ_LAUNCH_CHUNKS_H
#define AQ_LAUNCH_CHUNKS_H

#include "launch/program.h"

typedef struct {
    int32_t *ids; /* [n, n_ctx] and what is left over */
    int64_t n;
    int64_t n_ctx; /* tokens of a chunk */
} aq_chunks;

/* Reads and tokenises the text of -f on rank 0, shares it, and cuts it as -c and --chunks say. If
 * the model wants a BOS, it replaces the first token of every chunk. The caller closes.
 * AQ_ERR_USAGE (a text shorter than a chunk), errors of reading. Collective. */
aq_status aq_chunks_open(const aq_program *program, aq_chunks *out);

/* A zeroed struct is allowed. Local. */
void aq_chunks_close(aq_chunks *chunks);

/* The ids of chunk c, [n_ctx]. Local. */
static inline const int32_t *aq_chunks_ids(const aq_chunks *chunks, int64_t c) {
    return chunks->ids + c * chunks->n_ctx;
}

/* The first position that is scored; the rows from here to the end are what scoring needs. Local.
 */
static inline int64_t aq_chunks_from(const aq_chunks *chunks) {
    return chunks->n_ctx / 2;
}

#endif
