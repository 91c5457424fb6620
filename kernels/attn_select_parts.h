/* Private to kernels/: what the files of attn_select share.
 *
 * Tokens are counted in the order in which they are held, tile * AQ_TILE + place: as tiles rise, a
 * query sees the first n_seen of them. The rows of a KV head are its (query, head of the group)
 * pairs: row = query * group + head; a block is the rows of a few queries.
 *
 * A block is worked on by one member of the team or by all of them, each with tiles of its own:
 * first, first + step, ... It goes over the codes of its tiles and leaves exp(z - m) of its rows in
 * `work`, m the largest score of a tile (scan.c); they become the weights w of each query, in place
 * of its first row, and two passes over w find its bound x (choice.c). Then it goes over the tiles
 * again: the keys and values of tokens that any of its queries chose are packed, and each AQ_TILE
 * of them go through one step of the online softmax (mix.c). */
#ifndef AQ_KERNELS_ATTN_SELECT_PARTS_H
#define AQ_KERNELS_ATTN_SELECT_PARTS_H

#include <stdatomic.h>

#include "kernels/attn_select_bits_parts.h"
#include "kernels/cpu.h"
#include "src/base/arena.h"

/* Rows of a block at most, if it has more than one query. More share the codes of a tile, but few
 * of the tokens they choose. */
#define AQ_SELECT_ROWS 12

/* From this many rows on, scores are made with the queries as columns. */
#define AQ_SELECT_ROWS_TO_TURN 8

/* What a query at `pos` sees of the shard: tokens below n_seen, of which those below sink_end and
 * those from recent_begin on are near; where slots have positions, some of those below n_seen. */
typedef struct {
    int64_t pos, n_seen, sink_end, recent_begin;
    float least; /* the bound x */
    int64_t n_attended, n_touched;
} aq_select_view;

/* Buckets of a search at most. */
#define AQ_SELECT_BUCKETS 2048

/* The bound of the weights lies at `low`, as bits of floats, or in one of the n_bucket buckets that
 * follow; these are to hold the mass `target`, which weights above leave. */
typedef struct {
    uint32_t low;
    int n_bucket;
    float target;
    float least; /* what is found */
} aq_select_search;

/* Sums of weights: of near tokens, of all others, and of these from each of the bounds on. */
typedef struct {
    double share; /* of the sum of all members', to be held */
    float near, other;
    float mass[AQ_MASS_BOUNDS];
} aq_select_sums;

/* What members leave for the others, one for each. */
typedef struct {
    float *m, *l;         /* [n_head] of their scores */
    aq_select_sums *sums; /* [n_kv_head] of their weights */
    float *bucket;        /* [n_kv_head, AQ_SELECT_BUCKETS] sums of their weights */
    int64_t *n_count;     /* [n_kv_head, 2] attended, touched */
    float *part;          /* [n_head, d_head + 2] */
} aq_select_result;

typedef struct {
    const aq_attn_select_args *args;
    float *totals; /* [n_q, n_head, 2] of select_totals, where that is what is asked for */
    aq_cpu *cpu;
    int group;
    int n_code, n_place; /* columns of the selector, and places (simd.h) */
    int64_t n_share;     /* members that share a query; 1: each takes whole blocks */
    int64_t n_query;     /* of a block, but for the last */
    int64_t most_own;    /* tiles of a member at most */
    int64_t z_stride;
    int64_t key_bytes, value_bytes, code_bytes; /* of a block */
    int64_t member_bytes;
    char *members; /* [n_thread, member_bytes] */
    atomic_llong next_block;
} aq_select_task;

/* What one member works on: a block of one KV head. */
typedef struct {
    const aq_select_task *task;
    const aq_attn_select_args *args;
    const aq_simd *simd;
    int g;
    int64_t t; /* first query */
    int n_query, n_row;
    int64_t first, step; /* its tiles; of these k is the k-th */
    /* In its share of `work`; shared queries have the first four for all heads. */
    float *all_z;      /* [n_row, z_stride] */
    float *all_tile_m; /* [n_row, most_own] the largest score of a tile */
    float *all_tile_l; /* [n_row, most_own] the sum of exp(z - m) */
    float *z, *tile_m, *tile_l;
    float *factor;        /* [n_row, most_own] of the weights of a tile */
    aq_select_view *view; /* [n_query] */
    float *q;             /* [n_row, n_col] scaled */
    float *q_turned;      /* [n_col, n_row rounded up], if there are rows enough */
    float *q_code;        /* [n_row, n_place] of these the columns that are read */
    float *score;         /* [n_row, AQ_TILE] */
    float *hide;          /* [n_query, AQ_TILE] 0 for packed tokens that a query chose, else -inf */
    float *keep;          /* [n_row] */
    float *m, *l;         /* [n_row] */
    float *part;          /* [n_row, d_head + 2] */
    float *scan_work;     /* see aq_scan_args */
    aq_select_search *search; /* [n_kv_head] */
    aq_select_result result;
    /* In its scratch. */
    float *column;       /* [n_row, AQ_TILE] scores of packed keys */
    float *key;          /* [AQ_TILE, n_col] packed */
    float *value;        /* [AQ_TILE, d_head] packed */
    void *work;          /* for decoding */
    aq_scan_quad *quads; /* [n_quad] that are read */
    int16_t *dims;       /* [n_dynamic] columns that one query reads */
    float *strength;     /* [n_col] */
    int32_t *rank;       /* [n_col] */
    int n_quad;
    int n_packed;
    bool packs_bytes; /* these are rows of bytes, and their scores are in `score` */
    const uint8_t *value_row[AQ_TILE];
    uint16_t value_step[AQ_TILE]; /* f16 */
    uint8_t value_zero[AQ_TILE];
} aq_select_block;

/* attn_select_block.c. The task of these arguments, with n_share and n_query; bytes of a member's
 * share of `work`; and what a member works with. */
aq_select_task aq_select_make_task(aq_cpu *cpu, const aq_attn_select_args *args, int64_t n_share,
                                   int64_t n_query);
int64_t aq_select_member_bytes(const aq_select_task *task);
aq_select_block aq_select_open_block(const aq_select_task *task, int thread);

/* attn_select_slots.c. What query t sees; the tokens of a tile that it sees and those that are near
 * to it, as bits; and the number of tokens it sees. */
aq_select_view aq_select_view_of(const aq_attn_select_args *args, int64_t t);
uint64_t aq_select_seen_bits(const aq_attn_select_args *args, const aq_select_view *view,
                             int64_t tile);
uint64_t aq_select_near_bits(const aq_attn_select_args *args, const aq_select_view *view,
                             int64_t tile);
int64_t aq_select_count_seen(const aq_attn_select_args *args, const aq_select_view *view);

/* attn_select_block.c. Turning to queries t .. t + n_query with KV head g; taking them up too. */
void aq_select_turn_to(aq_select_block *b, int64_t t, int n_query, int g);
void aq_select_take_rows(aq_select_block *b, int64_t t, int n_query, int g);

/* attn_select_scan.c. Scores of the block's own tiles, as z, tile_m and tile_l; and m and l of each
 * row over these, into b->m and b->l: -inf and 0 where it sees none. */
void aq_select_scan_tiles(aq_select_block *b);

/* attn_select_choice.c. The bound of query i, in three steps, between which members that share it
 * wait for each other:
 *   turns the scores into weights, by m and l of its rows over all tiles, and leaves their sums;
 *   finds from the sums of all members between which two bounds x lies, and sorts weights of the
 *   block's own tiles that lie there into buckets;
 *   finds x from the buckets of all members, as search[g].least. */
void aq_select_weigh_tokens(aq_select_block *b, int i);
void aq_select_fill_buckets(aq_select_block *b, int i);
void aq_select_find_bound(aq_select_block *b);

/* attn_select_mix.c. Puts keys of tokens `any` of a tile to their places in b->key; scores of n of
 * these places from `from` on with n_row rows of the block from `row` on. */
void aq_select_place_keys(const aq_select_block *b, int64_t tile, uint64_t any);
void aq_select_dot_packed(const aq_select_block *b, int from, int n, int row, int n_row, float *out,
                          int64_t out_stride);

/* attn_select_mix.c. Attends to what the queries chose of the block's own tiles, into b->part. */
void aq_select_attend_chosen(aq_select_block *b);

/* From one row of q_turned to the next. */
static inline int aq_select_column_stride(int n_row) {
    return (n_row + AQ_COLUMNS_ALIGN - 1) / AQ_COLUMNS_ALIGN * AQ_COLUMNS_ALIGN;
}

/* What member i of those that share a query has where this one has `mine`. */
static inline const void *aq_select_of_member(const aq_select_block *b, int64_t i,
                                              const void *mine) {
    return (const char *)mine + (i - b->first) * b->task->member_bytes;
}

static inline bool aq_select_by_mass(const aq_select_task *task) {
    return task->args->mass < 1.0;
}

static inline int64_t aq_select_tiles_of(int64_t n_token) {
    return (n_token + AQ_TILE - 1) / AQ_TILE;
}

/* How many of its own tiles query i sees; and the most of any query. */
static inline int64_t aq_select_own_tiles(const aq_select_block *b, int i) {
    const int64_t n_tile = aq_select_tiles_of(b->view[i].n_seen);
    return n_tile <= b->first ? 0 : (n_tile - b->first - 1) / b->step + 1;
}

static inline int64_t aq_select_most_tiles(const aq_select_block *b) {
    int64_t most = 0;
    for (int i = 0; i < b->n_query; i++)
        most = -aq_select_min(-most, -aq_select_own_tiles(b, i));
    return most;
}

#endif
