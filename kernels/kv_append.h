/* The key/value cache of one layer on one rank, and writing tokens into it.
 *
 * A tile holds AQ_TILE consecutive positions of the text; a rank holds the tiles it owns, in rising
 * order of position. Keys are dimension-major inside a tile, so that any subset of columns is a few
 * whole rows; values are token-major:
 *
 *   keys    [n_tile, n_kv_head, n_col, AQ_TILE]
 *   values  [n_tile, n_kv_head, AQ_TILE, d_head]
 *
 * Slots past the last token written hold zeros, or tokens of an earlier tile where a place is used
 * again, as in the ring of a windowed layer. They are never read as tokens: the causal bound of
 * attn_partial excludes them. */
#ifndef AQ_KERNELS_KV_APPEND_H
#define AQ_KERNELS_KV_APPEND_H

#include <stdint.h>

#include "src/base/dtype.h"

#define AQ_TILE 64

typedef struct {
    void *keys;
    void *values;
    aq_dtype key_dtype;   /* AQ_F32 or AQ_BF16 */
    aq_dtype value_dtype; /* AQ_F32 or AQ_BF16 */
    int n_kv_head;
    int n_col;  /* stored columns of a key */
    int d_head; /* width of a value */
} aq_kv_view;

/* Writes key[t] and value[t] to slot[t], which is
 * place of the tile * AQ_TILE + position % AQ_TILE.
 * Tolerance: exact (bf16: rounded to nearest even). */
typedef struct {
    aq_kv_view kv;
    const float *key;    /* [n_tok, n_kv_head, n_col] */
    const float *value;  /* [n_tok, n_kv_head, d_head] */
    const int64_t *slot; /* [n_tok], distinct */
    int64_t n_tok;
} aq_kv_append_args;

#endif
