/* The key/value cache of one layer on one rank, and writing tokens into it.
 *
 * A tile holds AQ_TILE consecutive positions of the text; a rank holds the tiles it owns, in rising
 * order of position. For each tile and KV head there is a block of keys, one of values, and, where
 * tokens are selected, one of selector codes, one behind the other: [n_tile, n_kv_head, block]. c
 * is a column, s a token of the tile, i an entry of a value:
 *
 *   keys    by column: [n_col, AQ_TILE], so that any subset of columns is a few whole rows;
 *           by token: [AQ_TILE, n_col], so that any subset of tokens is
 *   values  [AQ_TILE, d_head]
 *
 * f32 and bf16 are stored so. In coded types (src/base/kv_type.h) a block is, without gaps,
 *
 *   keys      f16 low[n_col], f16 step[n_col]; then by column a run of AQ_TILE codes a column, or
 *             by token a run of codes for each segment of the layout, a token
 *             key[s, c] = low[c] + step[c] code[s, c]
 *   values    f16 step[AQ_TILE], u8 zero[AQ_TILE]; then the runs of a token
 *             value[s, i] = step[s] (code[s, i] - zero[s])
 *   selector  of the n columns of its layout: f16 base[n], u8 step8[n]; then a run of codes for
 *             every four columns of a segment, and one for those left over at its end, in each of
 *             which the codes of a token stand together: [AQ_TILE, columns]
 *             key[s, c] is about base[c] + step[c] level(code[s, c]), where level(code) is
 *               code itself for 3 bits and more;
 *               -1.510, -0.453, 0.453, 1.510 for 2 bits, -0.7979, 0.7979 for 1: the best levels
 *               for a normal distribution (Max 1960), those of 2 bits as multiples of 0.151
 *             base and step are fitted to the column by least squares, see code_column.h
 *             step = step8 == 0 ? 0 : 2^((step8 >> 3) - 24) (1 + (step8 & 7) / 8)
 *
 * Codes need the whole tile: until its last token (position AQ_TILE - 1) is written, a tile is
 * open, and lies in open_keys and open_values as f32. There is at most one open tile. Blocks of the
 * open tile are not read.
 *
 * Slots past the last token written hold zeros, or tokens of an earlier tile where a place is used
 * again, as in the ring of a windowed layer. They are never read as tokens: the causal bound of
 * attention excludes them.
 *
 * Source: KIVI, arXiv 2402.02750 (keys by column, values by token); J. Max 1960 (levels). */
#ifndef AQ_KERNELS_KV_APPEND_H
#define AQ_KERNELS_KV_APPEND_H

#include <stdint.h>

#include "src/base/kv_type.h"

#ifdef __cplusplus
extern "C" {
#endif

#define AQ_TILE 64

typedef enum { AQ_KEYS_BY_COLUMN, AQ_KEYS_BY_TOKEN } aq_key_order;

typedef struct {
    void *keys;
    void *values;
    void *selector; /* NULL if `codes` is empty */
    aq_kv_type key_type;
    aq_kv_type value_type;
    aq_key_order key_order;
    aq_code_layout codes; /* of the selector; at most n_col columns */
    int n_kv_head;
    int n_col;  /* stored columns of a key */
    int d_head; /* width of a value */
    /* The open tile, needed if a type is coded or there is a selector; else NULL and -1. */
    float *open_keys;   /* [n_kv_head, n_col, AQ_TILE] by column, [n_kv_head, AQ_TILE, n_col] by
                           token */
    float *open_values; /* [n_kv_head, AQ_TILE, d_head] */
    int64_t open_tile;  /* its place; -1: all tiles are closed. Read by attention only */
} aq_kv_view;

/* Bytes of one block of keys, values and selector codes. Local. */
int64_t aq_kv_key_bytes(const aq_kv_view *kv);
int64_t aq_kv_value_bytes(const aq_kv_view *kv);
int64_t aq_kv_selector_bytes(const aq_kv_view *kv);

/* Whether tiles are written only when they are full. Local. */
bool aq_kv_has_open_tile(const aq_kv_view *kv);

/* Writes key[t] and value[t] to slot[t], which is
 * place of the tile * AQ_TILE + position % AQ_TILE; with an open tile, slots come in rising order,
 * and a tile is coded when its last slot is written.
 *
 * Tolerance: f32 exact, bf16 rounded to nearest even; codes: each value within half a step, and f16
 * roundings of low, step; a column of equal values is exact but for f16. Of a selector: the mean
 * square error of a column is not above that of its range laid over the codes (3 bits and more) or
 * of its mean and standard deviation. */
typedef struct {
    aq_kv_view kv;
    const float *key;    /* [n_tok, n_kv_head, n_col] */
    const float *value;  /* [n_tok, n_kv_head, d_head] */
    const int64_t *slot; /* [n_tok], distinct */
    int64_t n_tok;
} aq_kv_append_args;

#ifdef __cplusplus
}
#endif
#endif
