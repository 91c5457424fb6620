/* Reading one tile of a cache back as the numbers it stands for, in rows as kv_append takes them:
 *
 *   key[s, g, c], value[s, g, i],  s < n_tok
 *
 * from the blocks of the tile at place `tile`, or from the open tile if that is it. Any types, any
 * order. Tolerance: two roundings for codes, else exact. */
#ifndef AQ_KERNELS_KV_READ_H
#define AQ_KERNELS_KV_READ_H

#include "kernels/kv_append.h"

typedef struct {
    aq_kv_view kv;
    int64_t tile;
    int64_t n_tok; /* tokens of the tile, at most AQ_TILE */
    float *key;    /* [n_tok, n_kv_head, n_col] */
    float *value;  /* [n_tok, n_kv_head, d_head] */
} aq_kv_read_args;

#endif
