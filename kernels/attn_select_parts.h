/* Private to kernels/: what the files of attn_select share.
 *
 * Tokens are counted in the order in which they are held, tile * AQ_TILE + place: as tiles rise, a
 * query sees the first n_seen of them. The rows of a KV head are its (query, head of the group)
 * pairs: row = query * group + head; a block is the rows of a few queries.
 *
 * A block goes over the codes of all tiles and leaves the scores z of its rows in `work` (scan.c);
 * they become the weights w of each query, in place of its first row, and a search over w finds its
 * bound x. Then it goes over the tiles again: the keys and values of tokens that any of its queries
 * chose are packed, and each AQ_TILE of them go through one step of the online softmax (mix.c). */
#ifndef AQ_KERNELS_ATTN_SELECT_PARTS_H
#define AQ_KERNELS_ATTN_SELECT_PARTS_H

#include <stdatomic.h>
#include <string.h>

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

/* The bound lies at `low` or above, and below `high`, as bits of floats. */
typedef struct {
    uint32_t low, high;
    float target; /* mass to hold */
} aq_select_search;

/* What members leave for the others, one for each. */
typedef struct {
    float *m, *l;     /* [n_head] of their scores */
    float *mass;      /* [n_kv_head, AQ_MASS_BOUNDS] */
    int64_t *n_count; /* [n_kv_head, 2] attended, touched */
    float *part;      /* [n_head, d_head + 2] */
} aq_select_result;

typedef struct {
    const aq_attn_select_args *args;
    aq_cpu *cpu;
    int group;
    int n_code; /* columns of the selector */
    int64_t z_stride;
    int64_t n_query; /* of a block, but for the last */
    int64_t member_bytes;
    atomic_llong next_block;
    /* The query shared by the team. */
    int64_t t;
    float *z;                 /* [n_head, z_stride] */
    float *m, *log_l;         /* [n_head] */
    aq_select_search *search; /* [n_kv_head] */
    char *members;            /* [n_thread, member_bytes] */
} aq_select_task;

/* What one member works on: a block of one KV head. */
typedef struct {
    const aq_select_task *task;
    const aq_attn_select_args *args;
    const aq_simd *simd;
    int g;
    int64_t t; /* first query */
    int n_query, n_row;
    /* In its share of `work`. */
    aq_select_view *view; /* [n_query] */
    float *q;             /* [n_row, n_col] scaled */
    float *q_turned;      /* [n_col, n_row rounded up], if there are rows enough */
    float *q_code;        /* [n_row, n_column] of these the columns that are read */
    float *score;         /* [n_row, AQ_TILE] */
    float *hide;          /* [n_query, AQ_TILE] 0 for packed tokens that a query chose, else -inf */
    float *keep;          /* [n_row] */
    float *m, *log_l;     /* [n_row] */
    float *part;          /* [n_row, d_head + 2] */
    float *z;             /* [n_row, z_stride] */
    aq_select_result result;
    /* In its scratch. */
    float *column;    /* [n_col, AQ_TILE] selector columns, or scores of packed keys */
    float *key;       /* [AQ_TILE, n_col] packed */
    float *value;     /* [AQ_TILE, d_head] packed */
    void *work;       /* for decoding */
    int16_t *columns; /* [n_column] columns of the selector that are read */
    int16_t *dims;    /* [n_dynamic] those of one query */
    float *strength;  /* [n_col] */
    int32_t *rank;    /* [n_col] */
    int n_column;
    int n_packed;
} aq_select_block;

/* attn_select_block.c. The task of these arguments; bytes of a share of `work`, for blocks of
 * n_query queries and for a query shared by the team; what the members share of it; and what a
 * member works with in either case. */
aq_select_task aq_select_make_task(aq_cpu *cpu, const aq_attn_select_args *args);
int64_t aq_select_block_bytes(const aq_select_task *task, int64_t n_query);
int64_t aq_select_member_bytes(const aq_select_task *task);
void aq_select_carve_shared(aq_select_task *task, aq_arena *arena);
aq_select_block aq_select_open_block(const aq_select_task *task, int thread);
aq_select_block aq_select_open_member(const aq_select_task *task, int thread);

/* attn_select_slots.c. What query t sees; the tokens of a tile that it sees and those that are near
 * to it, as bits; and the number of tokens it sees. */
aq_select_view aq_select_view_of(const aq_attn_select_args *args, int64_t t);
uint64_t aq_select_seen_bits(const aq_attn_select_args *args, const aq_select_view *view,
                             int64_t tile);
uint64_t aq_select_near_bits(const aq_attn_select_args *args, const aq_select_view *view,
                             int64_t tile);
int64_t aq_select_count_seen(const aq_attn_select_args *args, const aq_select_view *view);

/* attn_select_block.c. Taking up queries t .. t + n_query with KV head g. */
void aq_select_take_rows(aq_select_block *b, int64_t t, int n_query, int g);

/* attn_select_scan.c. The columns of the selector that the queries read; the scores z of tiles
 * tile .. tile_end, -inf for tokens that a query does not see; weights of n tokens from `begin`
 * on, whole tiles, in place of the scores of row 0 of query i, returns their sum. */
void aq_select_take_columns(aq_select_block *b);
void aq_select_scan_tiles(aq_select_block *b, int64_t tile, int64_t tile_end);
float aq_select_weigh_tokens(const aq_select_block *b, int i, int64_t begin, int64_t n,
                             float *largest);

/* attn_select_scan.c. A search among n weights of sum `total`, of which near tokens hold `near` and
 * have been taken out: while it has not ended, ask for the mass from each of the bounds on that it
 * tries, and narrow it. And the whole of it for query i. */
float aq_select_take_near(const aq_select_block *b, int i, int64_t tile, int64_t tile_end);
aq_select_search aq_select_start_search(double mass, double total, double near, double largest,
                                        int64_t n);
bool aq_select_search_ends(const aq_select_search *search);
void aq_select_try_bounds(const aq_select_search *search, float *least);
void aq_select_narrow(aq_select_search *search, const float *least, const float *mass);
void aq_select_find_bound(aq_select_block *b, int i);

/* attn_select_mix.c. Packs the keys of all tokens of a tile; scores of n packed rows from `from` on
 * with n_row rows of the block from `row` on. */
void aq_select_pack_keys(const aq_select_block *b, int64_t tile);
void aq_select_dot_packed(const aq_select_block *b, int from, int n, int row, int n_row, float *out,
                          int64_t out_stride);

/* attn_select_mix.c. Attends to what the queries chose of tiles tile,
 * tile + step, ... below tile_end, into b->part. */
void aq_select_attend_chosen(aq_select_block *b, int64_t tile, int64_t step, int64_t tile_end);

static inline int64_t aq_select_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* From one row of q_turned to the next. */
static inline int aq_select_column_stride(int n_row) {
    return (n_row + AQ_COLUMNS_ALIGN - 1) / AQ_COLUMNS_ALIGN * AQ_COLUMNS_ALIGN;
}

static inline bool aq_select_by_mass(const aq_select_task *task) {
    return task->args->mass < 1.0;
}

static inline int64_t aq_select_tiles_of(int64_t n_token) {
    return (n_token + AQ_TILE - 1) / AQ_TILE;
}

/* Bits begin .. end of 64, as far as there are such. */
static inline uint64_t aq_select_bits_between(int64_t begin, int64_t end) {
    end = aq_select_min(end, AQ_TILE);
    if (begin < 0) begin = 0;
    if (begin >= end) return 0;
    return ~(uint64_t)0 >> (AQ_TILE - (end - begin)) << begin;
}

/* The first run of bits that are set: *first, and its length. */
static inline int aq_select_run(uint64_t bits, int *first) {
    *first = __builtin_ctzll(bits);
    const uint64_t rest = ~(bits >> *first);
    return rest == 0 ? AQ_TILE : __builtin_ctzll(rest);
}

static inline float aq_select_float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t aq_select_bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

#endif
