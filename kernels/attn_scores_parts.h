/* Private to kernels/: the scores of queries over the tiles of a cache, which attn_partial and
 * attn_mass share. The rows of a KV head are its (query, head of the group) pairs:
 * row = query * group + head. All Local. */
#ifndef AQ_KERNELS_ATTN_SCORES_PARTS_H
#define AQ_KERNELS_ATTN_SCORES_PARTS_H

#include "kernels/attn_partial.h"
#include "kernels/cpu.h"

/* A block of rows of one KV head, all in the scratch of a member but args. */
typedef struct {
    const aq_attn_partial_args *args;
    const aq_simd *simd;
    int g;
    int64_t row, n_row; /* first row, number of rows */
    float *q;           /* [n_row, columns] scaled; the chosen columns only, if sparse */
    int16_t *dims;      /* [n_row, n_dim], if sparse */
    int64_t *pos;       /* [n_row] position of the query */
    int *first_seen;    /* [n_row] first visible token of the current tile */
    int *n_seen;        /* [n_row] one past its last visible token */
    float *score;       /* [n_row, AQ_TILE] */
    float *key;         /* [AQ_TILE, n_col] the current tile, widened */
    float *spare;       /* [AQ_TILE, n_col or d_head, the larger] free after the scores */
    void *work;         /* for decoding */
    int64_t key_bytes, value_bytes; /* of a block of the cache */
    int64_t next; /* where the tile behind the current one is stored, -1: it does not matter */
} aq_score_block;

/* What a block sees of a tile: rows begin .. end see something of tokens first .. last; within, not
 * every row sees every token, or any. */
typedef struct {
    int64_t begin, end;
    int first, last;
} aq_score_view;

/* Query heads of a KV head. */
static inline int aq_score_group(const aq_attn_partial_args *args) {
    return args->n_head / args->kv.n_kv_head;
}

/* Where row `row` of KV head g is in tensors [n_q, n_head, ...]. */
static inline int64_t aq_score_row(const aq_attn_partial_args *args, int g, int64_t row) {
    const int group = aq_score_group(args);
    return row / group * args->n_head + (int64_t)g * group + row % group;
}

/* Where a tile is stored. */
static inline int64_t aq_score_place(const aq_attn_partial_args *args, int64_t tile) {
    return args->tile_at ? args->tile_at[tile] : tile;
}

/* From this many rows on a tile is widened to numbers once for all of them, instead of on the way
 * by each few. */
#define AQ_SCORE_ROWS_TO_WIDEN 8

#define AQ_SCORE_LINE_BYTES 64

/* Whether there are so few rows of a KV head, as in decode. */
static inline bool aq_score_few_rows(const aq_attn_partial_args *args) {
    return args->n_q * aq_score_group(args) < AQ_SCORE_ROWS_TO_WIDEN;
}

/* Whether scores are summed over the chosen columns alone. If most are chosen it is faster to go
 * over all, which rows share, with zeros in the queries; and so it is with bytes. */
static inline bool aq_score_sparse(const aq_attn_partial_args *args) {
    if (args->kv.key_type == AQ_KV_Q8 && aq_score_few_rows(args)) return false;
    return args->dims && 3 * args->n_dim <= 2 * args->kv.n_col;
}

/* Columns that a score is summed over. */
int aq_score_columns(const aq_attn_partial_args *args);

/* The block of keys or values of the tile stored at place `at`. */
static inline const uint8_t *aq_score_keys(const aq_score_block *block, int64_t at) {
    const aq_kv_view *kv = &block->args->kv;
    return (const uint8_t *)kv->keys + (at * kv->n_kv_head + block->g) * block->key_bytes;
}

static inline const uint8_t *aq_score_values(const aq_score_block *block, int64_t at) {
    const aq_kv_view *kv = &block->args->kv;
    return (const uint8_t *)kv->values + (at * kv->n_kv_head + block->g) * block->value_bytes;
}

/* Asks memory for the first `head` bytes of the next block, which begins at `from`; returns what is
 * behind them, NULL if there is none. */
static inline const uint8_t *aq_score_ask(const aq_score_block *block, const uint8_t *from,
                                          int64_t head) {
    if (block->next < 0) return NULL;
    for (int64_t i = 0; i < head; i += AQ_SCORE_LINE_BYTES)
        __builtin_prefetch(from + i);
    return from + head;
}

/* `bytes` of the scratch at *at, which moves behind them. */
static inline void *aq_score_carve(char **at, int64_t bytes) {
    void *memory = *at;
    *at += (bytes + 63) / 64 * 64;
    return memory;
}

/* Lays out the scratch at `at` for blocks of n_row rows; returns the first byte behind. */
char *aq_score_lay_out(aq_score_block *block, char *at, int64_t n_row);

/* Takes up rows row .. row + n_row of KV head g. */
void aq_score_take(aq_score_block *block, int g, int64_t row, int64_t n_row);

/* The tiles that rows row .. row + n_row can see something of: *begin .. *end. */
void aq_score_tiles(const aq_attn_partial_args *args, int64_t row, int64_t n_row, int64_t *begin,
                    int64_t *end);

/* Finds what each row sees of a tile: first_seen, n_seen. Where every slot has a position of its
 * own, rows that see any token go over all. */
aq_score_view aq_score_see(const aq_score_block *block, int64_t tile);

/* score = the scores of the tile for the rows of the view. Within first_seen .. n_seen, tokens that
 * a row does not see have -inf. */
void aq_score_tile(const aq_score_block *block, int64_t tile, const aq_score_view *view);

/* Whether keys or values of this type are taken as bytes from the tile stored at place `at`. */
bool aq_score_takes_bytes(const aq_score_block *block, aq_kv_type type, int64_t at);

/* The n elements of a tensor that begin at element `at`: widened into `wide` if there are rows
 * enough to use them, else as they are. */
const void *aq_score_fetch(const aq_score_block *block, const void *tensor, aq_dtype *dtype,
                           int64_t at, int64_t n, float *wide);

#endif
