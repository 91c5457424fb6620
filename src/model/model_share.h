/* A model's weights shared out over ranks, by rows.
 *
 * Rank r of n keeps rows [r n_out / n, (r + 1) n_out / n) of every matrix [n_out, n_in] of the
 * layers, experts too, and of the output matrix: whole rows, as they are stored, so that any type
 * and any number of heads can be cut. Norms, routers, embeddings and biases are whole on every
 * rank (of a bias, a matrix's share has its part). All functions are Local. */
#ifndef AQ_MODEL_MODEL_SHARE_H
#define AQ_MODEL_MODEL_SHARE_H

#include "src/model/model_weights.h"

typedef struct {
    int n;    /* ranks that share, at least 1 */
    int rank; /* which of them */
} aq_share;

/* First row of rank r's share of n_out rows; that of rank n is n_out. */
static inline int64_t aq_share_first(int64_t n_out, int n, int r) {
    return n_out * r / n;
}

/* Their number. */
static inline int64_t aq_share_count(int64_t n_out, int n, int r) {
    return aq_share_first(n_out, n, r + 1) - aq_share_first(n_out, n, r);
}

/* The rows of a matrix that a rank keeps, and their part of its bias. */
aq_weight aq_share_of(const aq_weight *whole, aq_share share);

/* Of `whole`'s matrices those rows that this rank keeps, in tables of their own. The rows stay
 * where they are: `whole` must outlive *out. The caller closes it with aq_model_share_close, also
 * after AQ_ERR_MEMORY. */
aq_status aq_model_share_open(const aq_model_weights *whole, const aq_model_config *config,
                              aq_share share, aq_model_weights *out);

/* Frees the tables; a zeroed struct is allowed. */
void aq_model_share_close(aq_model_weights *weights, const aq_model_config *config);

/* Gives back the memory that opening the weights has filled: all of the file's map, which is read
 * again where it is needed, and moved rows that this rank does not keep, which nobody may read
 * afterwards. From here on the map is of small pages. */
void aq_model_share_drop(const aq_model_file *file, const aq_model_weights *whole,
                         const aq_model_config *config, aq_share share);

/* Gives back the map's pages of matrices of which this rank keeps nothing: rows of others, and
 * matrices that were moved. After drop, and after this rank has read its rows: with each page that
 * is read Linux maps those around it that it has in its cache, 64 KiB, or all of a folio of up to
 * 2 MiB. What is kept, and all vectors, stay; what is given back is read again where it is needed.
 */
void aq_model_share_trim(const aq_model_file *file, const aq_model_weights *whole,
                         const aq_model_config *config, aq_share share);

/* Bytes of what a rank keeps: of the matrices that are cut, and of what is whole everywhere; the
 * first counts a tied output matrix, the second the embedding; and of both together, where a tied
 * matrix counts once. */
typedef struct {
    int64_t cut, whole, kept;
} aq_share_bytes;

aq_share_bytes aq_model_share_bytes(const aq_model_weights *whole, const aq_model_config *config,
                                    aq_share share);

/* Calls visit(arg, matrix) for every matrix of a layer that is cut, in a fixed order. */
void aq_model_share_each(aq_layer_weights *layer, int n_expert,
                         void (*visit)(void *arg, aq_weight *matrix), void *arg);

#endif
