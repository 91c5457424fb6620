/* Tokens are counted in the order in which they are held, tile * AQ_TILE + place: as tiles rise, a
 * query sees the first n_seen of them. The rows of a KV head are its (query, head of the group)
 * pairs, as in attn_partial_cpu.c; a block is the rows of a few queries.
 *
 * A block goes over the codes of all tiles and leaves the scores z of its rows in `work`; these
 * become the weights w of each query, in place of its first row, and a search over w finds its
 * bound x. Then it goes over the tiles again: the keys and values of tokens that any of its queries
 * chose are packed, and each AQ_TILE of them go through one step of the online softmax.
 *
 * Many blocks: the team takes whole blocks one after the other. Few, as in decode: one query after
 * the other, and the team shares its tiles: each member goes over its part of the tiles for all KV
 * heads, and what the members found is joined in their order between the passes. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/cpu.h"
#include "src/base/arena.h"

/* Rows of a block at most, if it has more than one query: their scores should stay in the caches.
 */
#define ROWS_AT_ONCE 48

/* From this many rows on, packed keys are turned to columns instead of multiplied row by row. */
#define ROWS_TO_TURN 12

/* Blocks a member must find on average, or their unequal lengths leave members idle. */
#define BLOCKS_PER_MEMBER 4

/* The bound x lies between two floats whose bits differ by this: within 1/64. */
#define BOUND_BITS (1u << 17)

/* What a query sees of the shard: tokens below n_seen, of which those below sink_end and those from
 * recent_begin on are near. */
typedef struct {
    int64_t n_seen, sink_end, recent_begin;
    float least; /* the bound x */
    int64_t n_attended, n_touched;
} query_view;

/* The bound lies at `low` or above, and below `high`, as bits of floats. */
typedef struct {
    uint32_t low, high;
    float target; /* mass to hold */
} bound_search;

/* What members leave for the others, one for each. */
typedef struct {
    float *m, *l;     /* [n_head] of their scores */
    float *mass;      /* [n_kv_head, AQ_MASS_BOUNDS] */
    int64_t *n_count; /* [n_kv_head, 2] attended, touched */
    float *part;      /* [n_head, d_head + 2] */
} member_result;

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
    float *z;             /* [n_head, z_stride] */
    float *m, *log_l;     /* [n_head] */
    bound_search *search; /* [n_kv_head] */
    char *members;        /* [n_thread, member_bytes] */
} select_task;

/* What one member works on: a block of one KV head. */
typedef struct {
    const select_task *task;
    const aq_attn_select_args *args;
    const aq_simd *simd;
    int g;
    int64_t t; /* first query */
    int n_query, n_row;
    /* In its share of `work`. */
    query_view *view; /* [n_query] */
    float *q;         /* [n_row, n_col] scaled */
    float *q_code;    /* [n_row, n_column] of these the columns that are read */
    float *score;     /* [n_row, AQ_TILE] */
    float *hide;      /* [n_query, AQ_TILE] 0 for packed tokens that a query chose, else -inf */
    float *keep;      /* [n_row] */
    float *m, *log_l; /* [n_row] */
    float *part;      /* [n_row, d_head + 2] */
    float *z;         /* [n_row, z_stride] */
    member_result result;
    /* In its scratch. */
    float *column;     /* [n_col, AQ_TILE] selector columns, or packed keys turned */
    char *key;         /* [AQ_TILE, n_col] packed */
    char *value;       /* [AQ_TILE, d_head] packed */
    float *low, *step; /* [n_col] of coded keys */
    int16_t *columns;  /* [n_column] columns of the selector that are read */
    int16_t *dims;     /* [n_dynamic] those of one query */
    float *strength;   /* [n_col] */
    int32_t *rank;     /* [n_col] */
    int n_column;
    int n_packed;
    aq_dtype key_dtype, value_dtype;
} select_block;

static int min_int(int a, int b) {
    return a < b ? a : b;
}

static int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static bool by_mass(const select_task *task) {
    return task->args->mass < 1.0;
}

/* Carves what grows with the rows of a block. */
static void carve_rows(select_block *b, aq_arena *arena, size_t n_query) {
    const size_t n_row = n_query * (size_t)b->task->group, f = sizeof(float);
    const size_t n_col = (size_t)b->args->kv.n_col, d_head = (size_t)b->args->kv.d_head;
    b->view = aq_arena_carve(arena, n_query, sizeof *b->view);
    b->q = aq_arena_carve(arena, n_row * n_col, f);
    b->q_code = aq_arena_carve(arena, n_row * (size_t)b->task->n_code, f);
    b->score = aq_arena_carve(arena, n_row * AQ_TILE, f);
    b->hide = aq_arena_carve(arena, n_query * AQ_TILE, f);
    b->keep = aq_arena_carve(arena, n_row, f);
    b->m = aq_arena_carve(arena, n_row, f);
    b->log_l = aq_arena_carve(arena, n_row, f);
    b->part = aq_arena_carve(arena, n_row * (d_head + 2), f);
}

/* A member's share of `work` when it takes whole blocks. */
static void carve_block(select_block *b, aq_arena *arena, int64_t n_query) {
    carve_rows(b, arena, (size_t)n_query);
    b->z = aq_arena_carve(arena, (size_t)(n_query * b->task->group * b->task->z_stride),
                          sizeof(float));
}

/* A member's share of `work` when the team shares a query. */
static void carve_member(select_block *b, aq_arena *arena) {
    const size_t n_head = (size_t)b->args->n_head, n_kv_head = (size_t)b->args->kv.n_kv_head;
    const size_t f = sizeof(float);
    carve_rows(b, arena, 1);
    b->result.m = aq_arena_carve(arena, n_head, f);
    b->result.l = aq_arena_carve(arena, n_head, f);
    b->result.mass = aq_arena_carve(arena, n_kv_head * AQ_MASS_BOUNDS, f);
    b->result.n_count = aq_arena_carve(arena, n_kv_head * 2, sizeof(int64_t));
    b->result.part = aq_arena_carve(arena, n_head * (size_t)(b->args->kv.d_head + 2), f);
}

/* What the members share of a query. */
static void carve_shared(select_task *task, aq_arena *arena) {
    const size_t n_head = (size_t)task->args->n_head, f = sizeof(float);
    task->z = aq_arena_carve(arena, n_head * (size_t)task->z_stride, f);
    task->m = aq_arena_carve(arena, n_head, f);
    task->log_l = aq_arena_carve(arena, n_head, f);
    task->search = aq_arena_carve(arena, (size_t)task->args->kv.n_kv_head, sizeof *task->search);
}

static int64_t block_bytes(const select_task *task, int64_t n_query) {
    select_block b = {.task = task, .args = task->args};
    aq_arena arena = aq_arena_measure();
    carve_block(&b, &arena, n_query);
    return (int64_t)arena.used;
}

static int64_t member_bytes(const select_task *task) {
    select_block b = {.task = task, .args = task->args};
    aq_arena arena = aq_arena_measure();
    carve_member(&b, &arena);
    return (int64_t)arena.used;
}

static int64_t shared_bytes(const select_task *task) {
    select_task copy = *task;
    aq_arena arena = aq_arena_measure();
    carve_shared(&copy, &arena);
    return (int64_t)arena.used;
}

/* Rows of z are no power of two apart, or they would meet in the same lines of the cache. */
static select_task make_task(aq_cpu *cpu, const aq_attn_select_args *args) {
    return (select_task){.args = args,
                         .cpu = cpu,
                         .group = args->n_head / args->kv.n_kv_head,
                         .n_code = aq_code_layout_columns(&args->kv.codes),
                         .z_stride = args->n_tile * AQ_TILE + AQ_COLUMNS_ALIGN};
}

int64_t aq_attn_select_work(const aq_kv_view *kv, int n_head, int n_thread, int64_t n_tile) {
    const aq_attn_select_args args = {.n_head = n_head, .kv = *kv, .n_tile = n_tile};
    const select_task task = make_task(NULL, &args);
    const int64_t blocks = n_thread * block_bytes(&task, 1);
    const int64_t shared = shared_bytes(&task) + n_thread * member_bytes(&task);
    return blocks > shared ? blocks : shared;
}

static void carve_scratch(select_block *b, int thread) {
    const size_t n_col = (size_t)b->args->kv.n_col, d_head = (size_t)b->args->kv.d_head;
    const size_t f = sizeof(float);
    aq_arena arena = aq_arena_over(aq_cpu_scratch(b->task->cpu, thread), AQ_CPU_SCRATCH_BYTES);
    b->column = aq_arena_carve(&arena, n_col * AQ_TILE, f);
    b->key = aq_arena_carve(&arena, AQ_TILE * n_col, f);
    b->value = aq_arena_carve(&arena, AQ_TILE * d_head, f);
    b->low = aq_arena_carve(&arena, n_col, f);
    b->step = aq_arena_carve(&arena, n_col, f);
    b->columns = aq_arena_carve(&arena, n_col, sizeof *b->columns);
    b->dims = aq_arena_carve(&arena, n_col, sizeof *b->dims);
    b->strength = aq_arena_carve(&arena, n_col, f);
    b->rank = aq_arena_carve(&arena, n_col, sizeof *b->rank);
}

/* Number of tokens held that stand before position `pos`. */
static int64_t count_before(const aq_attn_select_args *args, int64_t pos) {
    int64_t begin = 0, end = args->n_tile; /* tiles before `begin` start before pos */
    while (begin < end) {
        const int64_t middle = (begin + end) / 2;
        if (args->tile_pos[middle] < pos)
            begin = middle + 1;
        else
            end = middle;
    }
    if (begin == 0) return 0;
    return (begin - 1) * AQ_TILE + min_i64(pos - args->tile_pos[begin - 1], AQ_TILE);
}

static query_view view_of(const aq_attn_select_args *args, int64_t t) {
    const int64_t after = args->q_pos[t] + 1, n_seen = count_before(args, after);
    return (query_view){.n_seen = n_seen,
                        .sink_end = min_i64(count_before(args, args->n_sink), n_seen),
                        .recent_begin = count_before(args, after - args->n_recent)};
}

/* The places begin .. end of all tokens that lie in tile `tile`, as bits. */
static uint64_t bits_between(int64_t begin, int64_t end, int64_t tile) {
    begin -= tile * AQ_TILE;
    end = min_i64(end - tile * AQ_TILE, AQ_TILE);
    if (begin < 0) begin = 0;
    if (begin >= end) return 0;
    return ~(uint64_t)0 >> (AQ_TILE - (end - begin)) << begin;
}

static int64_t tiles_of(int64_t n_token) {
    return (n_token + AQ_TILE - 1) / AQ_TILE;
}

/* Takes up queries t .. t + n_query with KV head g. */
static void take_rows(select_block *b, int64_t t, int n_query, int g) {
    const aq_attn_select_args *args = b->args;
    const int group = b->task->group, n_col = args->kv.n_col;
    b->g = g;
    b->t = t;
    b->n_query = n_query;
    b->n_row = n_query * group;
    for (int r = 0; r < b->n_row; r++) {
        const int64_t row = (t + r / group) * args->n_head + g * group + r % group;
        for (int c = 0; c < n_col; c++)
            b->q[r * n_col + c] = args->q[row * n_col + c] * args->scale;
    }
    for (int i = 0; i < n_query; i++)
        b->view[i] = view_of(args, t + i);
}

/* The columns of the selector that query i reads, into dims; returns their number. */
static int choose_columns(const select_block *b, int i) {
    const int n_col = b->args->kv.n_col, n_code = b->task->n_code, group = b->task->group;
    const float *q = b->q + (int64_t)i * group * n_col;
    if (b->args->n_dynamic == 0 || b->args->n_dynamic >= n_code) {
        for (int c = 0; c < n_code; c++)
            b->dims[c] = (int16_t)c;
        return n_code;
    }
    memset(b->strength, 0, (size_t)n_code * sizeof(float));
    for (int h = 0; h < group; h++)
        for (int c = 0; c < n_code; c++)
            b->strength[c] += fabsf(q[h * n_col + c]);
    b->simd->choose(b->strength, b->args->weight + (int64_t)b->g * n_col, n_code,
                    b->args->n_dynamic, b->rank, b->dims);
    return b->args->n_dynamic;
}

/* Collects the columns that any query of the block reads, and of each row those of its query. */
static void take_columns(select_block *b) {
    const int n_col = b->args->kv.n_col, n_code = b->task->n_code, group = b->task->group;
    int32_t *place = b->rank; /* after the choice: of a column among those read */
    float *wide = b->q_code;  /* [n_row, n_code] first; 0 where a query does not read */
    b->n_column = 0;
    memset(wide, 0, (size_t)b->n_row * (size_t)n_code * sizeof *wide);
    for (int i = 0; i < b->n_query; i++) {
        const int n = choose_columns(b, i);
        for (int r = i * group; r < (i + 1) * group; r++)
            for (int j = 0; j < n; j++)
                wide[(int64_t)r * n_code + b->dims[j]] = b->q[(int64_t)r * n_col + b->dims[j]];
    }
    memset(place, 0, (size_t)n_code * sizeof *place);
    for (int r = 0; r < b->n_row; r++)
        for (int c = 0; c < n_code; c++)
            place[c] |= wide[(int64_t)r * n_code + c] != 0.0f;
    for (int c = 0; c < n_code; c++)
        if (place[c]) b->columns[b->n_column++] = (int16_t)c;
    for (int r = 0; r < b->n_row; r++)
        for (int j = 0; j < b->n_column; j++)
            b->q_code[r * b->n_column + j] = wide[(int64_t)r * n_code + b->columns[j]];
}

/* Rows of keys or values of a tile. */
typedef struct {
    const uint8_t *rows;
    int64_t row_bytes;
    aq_dtype dtype; /* of rows as packed */
    bool coded;
    aq_code_layout layout;
    int n; /* elements of a row */
} tile_rows;

static tile_rows plain_rows(const void *rows, aq_dtype dtype, int n) {
    return (tile_rows){
        .rows = rows, .row_bytes = n * (dtype == AQ_F32 ? 4 : 2), .dtype = dtype, .n = n};
}

/* The keys of tile `tile`; of coded ones reads low and step too. */
static tile_rows keys_of(const select_block *b, int64_t tile) {
    const aq_kv_view *kv = &b->args->kv;
    const int n_col = kv->n_col;
    if (tile == kv->open_tile)
        return plain_rows(kv->open_keys + (int64_t)b->g * AQ_TILE * n_col, AQ_F32, n_col);
    const uint8_t *block =
        (const uint8_t *)kv->keys + (tile * kv->n_kv_head + b->g) * aq_kv_key_bytes(kv);
    if (!aq_kv_type_coded(kv->key_type))
        return plain_rows(block, aq_kv_type_dtype(kv->key_type), n_col);
    b->simd->dequantise(AQ_F16, block, n_col, b->low);
    b->simd->dequantise(AQ_F16, block + 2 * n_col, n_col, b->step);
    const aq_code_layout layout = aq_kv_type_layout(kv->key_type, n_col);
    return (tile_rows){.rows = block + 4 * n_col,
                       .row_bytes = aq_code_row_bytes(&layout),
                       .coded = true,
                       .layout = layout,
                       .n = n_col};
}

static tile_rows values_of(const select_block *b, int64_t tile) {
    const aq_kv_view *kv = &b->args->kv;
    const int d_head = kv->d_head;
    if (tile == kv->open_tile)
        return plain_rows(kv->open_values + (int64_t)b->g * AQ_TILE * d_head, AQ_F32, d_head);
    const uint8_t *block =
        (const uint8_t *)kv->values + (tile * kv->n_kv_head + b->g) * aq_kv_value_bytes(kv);
    if (!aq_kv_type_coded(kv->value_type))
        return plain_rows(block, aq_kv_type_dtype(kv->value_type), d_head);
    const aq_code_layout layout = aq_kv_type_layout(kv->value_type, d_head);
    return (tile_rows){.rows = block + 3 * AQ_TILE,
                       .row_bytes = aq_code_row_bytes(&layout),
                       .coded = true,
                       .layout = layout,
                       .n = d_head};
}

/* Packs key row s to place `at`. */
static void pack_key(const select_block *b, const tile_rows *keys, int s, int at) {
    const uint8_t *row = keys->rows + s * keys->row_bytes;
    if (keys->coded)
        b->simd->code_row(&(aq_code_row_args){.row = row,
                                              .layout = &keys->layout,
                                              .low = b->low,
                                              .step = b->step,
                                              .each = true,
                                              .out = (float *)b->key + at * keys->n});
    else
        memcpy(b->key + at * keys->row_bytes, row, (size_t)keys->row_bytes);
}

/* Packs value row s to place `at`. The steps and zeros of a tile stand before its rows. */
static void pack_value(const select_block *b, const tile_rows *values, int s, int at) {
    const uint8_t *row = values->rows + s * values->row_bytes;
    if (!values->coded) {
        memcpy(b->value + at * values->row_bytes, row, (size_t)values->row_bytes);
        return;
    }
    const uint8_t *zeros = values->rows - AQ_TILE, *steps = zeros - 2 * AQ_TILE;
    uint16_t half;
    memcpy(&half, steps + 2 * s, sizeof half);
    const float step = aq_f16_to_f32(half), low = -step * (float)zeros[s];
    b->simd->code_row(&(aq_code_row_args){.row = row,
                                          .layout = &values->layout,
                                          .low = &low,
                                          .step = &step,
                                          .out = (float *)b->value + at * values->n});
}

/* Scores of the packed rows from `from` on, n of them, with n_row rows of the block from `row` on.
 */
static void dot_packed(const select_block *b, int from, int n, int row, int n_row, float *out,
                       int64_t out_stride) {
    const int n_col = b->args->kv.n_col;
    const int64_t row_bytes = n_col * (b->key_dtype == AQ_F32 ? 4 : 2);
    b->simd->dot_rows(&(aq_dot_rows_args){.dtype = b->key_dtype,
                                          .w = (const uint8_t *)b->key + from * row_bytes,
                                          .row_bytes = row_bytes,
                                          .n_row = n,
                                          .n_in = n_col,
                                          .x = b->q + (int64_t)row * n_col,
                                          .n_tok = n_row,
                                          .y = out,
                                          .y_stride = out_stride});
}

/* Puts exact scores in place of those of the codes: tokens begin .. end of tile `tile`, whose keys
 * are packed, for query i. */
static void score_range(const select_block *b, int i, int64_t tile, int64_t begin, int64_t end) {
    const int group = b->task->group;
    if (begin < tile * AQ_TILE) begin = tile * AQ_TILE;
    end = min_i64(end, (tile + 1) * AQ_TILE);
    if (begin >= end) return;
    dot_packed(b, (int)(begin - tile * AQ_TILE), (int)(end - begin), i * group, group,
               b->z + (int64_t)i * group * b->task->z_stride + begin, b->task->z_stride);
}

/* The tokens of tile `tile` that are near to query i, as bits. */
static uint64_t near_bits(const query_view *view, int64_t tile) {
    return bits_between(0, view->sink_end, tile) |
           bits_between(view->recent_begin, view->n_seen, tile);
}

/* Exact scores where a query needs them. */
static void score_near(select_block *b, int64_t tile) {
    const bool open = tile == b->args->kv.open_tile;
    bool needed = open;
    for (int i = 0; i < b->n_query && !needed; i++)
        needed = near_bits(&b->view[i], tile) != 0;
    if (!needed) return;
    const tile_rows keys = keys_of(b, tile);
    b->key_dtype = keys.dtype;
    for (int s = 0; s < AQ_TILE; s++)
        pack_key(b, &keys, s, s);
    for (int i = 0; i < b->n_query; i++) {
        const query_view *view = &b->view[i];
        if (open) {
            score_range(b, i, tile, 0, view->n_seen);
        } else {
            score_range(b, i, tile, 0, view->sink_end);
            score_range(b, i, tile, view->recent_begin, view->n_seen);
        }
    }
}

/* The scores z of tiles tile .. tile_end; -inf behind the last token that a query sees. */
static void scan_tiles(select_block *b, int64_t tile, int64_t tile_end) {
    const aq_kv_view *kv = &b->args->kv;
    const int64_t bytes = aq_kv_selector_bytes(kv), stride = b->task->z_stride;
    for (; tile < tile_end; tile++) {
        if (tile != kv->open_tile) {
            b->simd->code_columns(&(aq_code_columns_args){
                .block = (const uint8_t *)kv->selector + (tile * kv->n_kv_head + b->g) * bytes,
                .layout = &kv->codes,
                .n = b->task->n_code,
                .columns = b->columns,
                .n_column = b->n_column,
                .out = b->column});
            b->simd->panel(&(aq_panel_args){.a = b->q_code,
                                            .a_stride = b->n_column,
                                            .n_row = b->n_row,
                                            .n_in = b->n_column,
                                            .b = b->column,
                                            .b_dtype = AQ_F32,
                                            .b_stride = AQ_TILE,
                                            .n_out = AQ_TILE,
                                            .c = b->z + tile * AQ_TILE,
                                            .c_stride = stride});
        }
        score_near(b, tile);
    }
    for (int r = 0; r < b->n_row; r++) {
        const int64_t n_seen = b->view[r / b->task->group].n_seen;
        const int64_t end = min_i64(tiles_of(n_seen), tile_end) * AQ_TILE;
        for (int64_t s = n_seen; s < end; s++)
            b->z[r * stride + s] = -INFINITY;
    }
}

/* Weights of n tokens from `begin` on, whole tiles, in place of the scores of row 0 of query i.
 * Returns their sum. */
static float weigh_tokens(const select_block *b, int i, int64_t begin, int64_t n, float *largest) {
    const int group = b->task->group;
    float *z = b->z + (int64_t)i * group * b->task->z_stride + begin;
    return b->simd->weigh(&(aq_weigh_args){.z = z,
                                           .z_stride = b->task->z_stride,
                                           .m = b->m + i * group,
                                           .log_l = b->log_l + i * group,
                                           .n_row = group,
                                           .mean = b->args->group_mean,
                                           .n = n,
                                           .w = z},
                          largest);
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* n weights that sum up to `total`. Those below (1 - mass) total / n hold no more than may be left
 * out; half of it leaves room for roundings. */
static bound_search start_search(double mass, double total, double largest, int64_t n) {
    return (bound_search){.low = bits_of((float)(0.5 * (1.0 - mass) * total / (double)n)),
                          .high = bits_of((float)largest) + 1,
                          .target = (float)(mass * total)};
}

static bool search_ends(const bound_search *search) {
    return search->high <= search->low || search->high - search->low <= BOUND_BITS;
}

/* Bounds that cut the rest of the search in equal pieces. */
static void try_bounds(const bound_search *search, float *least) {
    const uint32_t piece = (search->high - search->low) / (AQ_MASS_BOUNDS + 1);
    for (uint32_t k = 0; k < AQ_MASS_BOUNDS; k++)
        least[k] = float_of(search->low + (k + 1) * piece);
}

/* Takes in the mass from each of these bounds on. */
static void narrow(bound_search *search, const float *least, const float *mass) {
    for (int k = 0; k < AQ_MASS_BOUNDS; k++) {
        if (mass[k] >= search->target) {
            search->low = bits_of(least[k]);
        } else {
            search->high = bits_of(least[k]);
            return;
        }
    }
}

/* Finds the bound of query i from its scores. */
static void find_bound(select_block *b, int i) {
    const int group = b->task->group;
    const int64_t n = tiles_of(b->view[i].n_seen) * AQ_TILE;
    float largest, least[AQ_MASS_BOUNDS], mass[AQ_MASS_BOUNDS];
    for (int r = i * group; r < (i + 1) * group; r++) {
        float l;
        b->simd->soft_total(b->z + r * b->task->z_stride, n, &b->m[r], &l);
        b->log_l[r] = logf(l);
    }
    const float total = weigh_tokens(b, i, 0, n, &largest);
    bound_search search = start_search(b->args->mass, total, largest, n);
    while (!search_ends(&search)) {
        try_bounds(&search, least);
        b->simd->mass_from(b->z + (int64_t)i * group * b->task->z_stride, n, least, mass);
        narrow(&search, least, mass);
    }
    b->view[i].least = float_of(search.low);
}

static void clear_part(float *part, int n_row, int d_head) {
    memset(part, 0, (size_t)n_row * (size_t)(d_head + 2) * sizeof *part);
    for (int r = 0; r < n_row; r++)
        part[r * (d_head + 2) + d_head] = -INFINITY;
}

/* Scores of all rows with the packed keys. */
static void score_packed(const select_block *b) {
    const int n_col = b->args->kv.n_col, n = b->n_packed;
    const int whole = (n + AQ_COLUMNS_ALIGN - 1) / AQ_COLUMNS_ALIGN * AQ_COLUMNS_ALIGN;
    if (b->n_row < ROWS_TO_TURN) {
        dot_packed(b, 0, n, 0, b->n_row, b->score, AQ_TILE);
        return;
    }
    b->simd->columns(&(aq_columns_args){.dtype = b->key_dtype,
                                        .w = (const uint8_t *)b->key,
                                        .row_bytes = n_col * (b->key_dtype == AQ_F32 ? 4 : 2),
                                        .n_row = n,
                                        .n = n_col,
                                        .out = b->column,
                                        .out_stride = AQ_TILE});
    b->simd->panel(&(aq_panel_args){.a = b->q,
                                    .a_stride = n_col,
                                    .n_row = b->n_row,
                                    .n_in = n_col,
                                    .b = b->column,
                                    .b_dtype = AQ_F32,
                                    .b_stride = AQ_TILE,
                                    .n_out = whole,
                                    .c = b->score,
                                    .c_stride = AQ_TILE});
}

/* One step of the online softmax over the packed tokens. */
static void attend_packed(select_block *b) {
    const int d_head = b->args->kv.d_head, n = b->n_packed;
    if (n == 0) return;
    score_packed(b);
    for (int r = 0; r < b->n_row; r++) {
        float *score = b->score + r * AQ_TILE, *ml = b->part + r * (d_head + 2) + d_head;
        const float *hide = b->hide + r / b->task->group * AQ_TILE;
        for (int s = 0; s < n && b->n_query > 1; s++)
            score[s] += hide[s];
        b->keep[r] = b->simd->soften(score, 0, n, ml, ml + 1);
    }
    b->simd->panel(&(aq_panel_args){.a = b->score,
                                    .a_stride = AQ_TILE,
                                    .n_row = b->n_row,
                                    .n_in = n,
                                    .b = b->value,
                                    .b_dtype = b->value_dtype,
                                    .b_stride = d_head,
                                    .n_out = d_head,
                                    .keep = b->keep,
                                    .c = b->part,
                                    .c_stride = d_head + 2});
    b->n_packed = 0;
}

/* The tokens of tile `tile` that query i attends to, as bits. */
static uint64_t chosen_bits(const select_block *b, int i, int64_t tile) {
    const query_view *view = &b->view[i];
    const uint64_t seen = bits_between(0, view->n_seen, tile);
    if (seen == 0 || !by_mass(b->task)) return seen;
    const float *w = b->z + (int64_t)i * b->task->group * b->task->z_stride + tile * AQ_TILE;
    return seen & (b->simd->bits_from(w, view->least) | near_bits(view, tile));
}

/* Packs the tokens `any` of a tile; those of `chosen` are query i's. */
static void pack_tile(select_block *b, int64_t tile, uint64_t any, const uint64_t *chosen) {
    const tile_rows keys = keys_of(b, tile), values = values_of(b, tile);
    if (b->n_packed + __builtin_popcountll(any) > AQ_TILE || keys.dtype != b->key_dtype ||
        values.dtype != b->value_dtype)
        attend_packed(b);
    b->key_dtype = keys.dtype;
    b->value_dtype = values.dtype;
    for (; any != 0; any &= any - 1) {
        const int s = __builtin_ctzll(any), at = b->n_packed++;
        pack_key(b, &keys, s, at);
        pack_value(b, &values, s, at);
        for (int i = 0; i < b->n_query; i++)
            b->hide[i * AQ_TILE + at] = chosen[i] >> s & 1 ? 0.0f : -INFINITY;
    }
}

/* Attends to what the queries chose of tiles tile, tile + step, ... below tile_end. */
static void attend_chosen(select_block *b, int64_t tile, int64_t step, int64_t tile_end) {
    uint64_t chosen[ROWS_AT_ONCE];
    clear_part(b->part, b->n_row, b->args->kv.d_head);
    b->n_packed = 0;
    for (; tile < tile_end; tile += step) {
        uint64_t any = 0;
        for (int i = 0; i < b->n_query; i++) {
            chosen[i] = chosen_bits(b, i, tile);
            b->view[i].n_attended += __builtin_popcountll(chosen[i]);
            b->view[i].n_touched += chosen[i] != 0;
            any |= chosen[i];
        }
        if (any != 0) pack_tile(b, tile, any, chosen);
    }
    attend_packed(b);
}

/* Where results of query t and KV head g go. */
static float *part_of(const select_task *task, int64_t t, int g) {
    return task->args->part +
           (t * task->args->n_head + g * task->group) * (task->args->kv.d_head + 2);
}

static void give_counts(const select_task *task, int64_t t, int g, const query_view *view) {
    if (!task->args->counts) return;
    int32_t *counts = task->args->counts + (t * task->args->kv.n_kv_head + g) * 3;
    counts[0] = (int32_t)view->n_seen;
    counts[1] = (int32_t)view->n_attended;
    counts[2] = (int32_t)view->n_touched;
}

static void attend_block(select_block *b, int64_t t, int n_query, int g) {
    const select_task *task = b->task;
    const size_t row_bytes = (size_t)(b->args->kv.d_head + 2) * sizeof(float);
    int64_t n_seen = 0;
    take_rows(b, t, n_query, g);
    for (int i = 0; i < n_query; i++)
        if (b->view[i].n_seen > n_seen) n_seen = b->view[i].n_seen;
    if (by_mass(task) && n_seen > 0) {
        take_columns(b);
        scan_tiles(b, 0, tiles_of(n_seen));
        for (int i = 0; i < n_query; i++)
            if (b->view[i].n_seen > 0) find_bound(b, i);
    }
    attend_chosen(b, 0, 1, tiles_of(n_seen));
    for (int i = 0; i < n_query; i++) {
        memcpy(part_of(task, t + i, g), b->part + i * task->group * (b->args->kv.d_head + 2),
               (size_t)task->group * row_bytes);
        give_counts(task, t + i, g, &b->view[i]);
    }
}

/* Takes whole blocks until none is left, those of the last queries, which see most, first. */
static void take_blocks(void *arg, int thread, int n_thread) {
    select_task *task = arg;
    const aq_attn_select_args *args = task->args;
    const int64_t n_step = (args->n_q + task->n_query - 1) / task->n_query;
    select_block b = {.task = task, .args = args, .simd = task->cpu->simd};
    aq_arena arena =
        aq_arena_over(task->members + thread * task->member_bytes, (size_t)task->member_bytes);
    (void)n_thread;
    carve_scratch(&b, thread);
    carve_block(&b, &arena, task->n_query);
    for (;;) {
        const int64_t i = atomic_fetch_add(&task->next_block, 1);
        if (i >= n_step * args->kv.n_kv_head) return;
        const int64_t t = (n_step - 1 - i / args->kv.n_kv_head) * task->n_query;
        attend_block(&b, t, (int)min_i64(args->n_q - t, task->n_query),
                     (int)(i % args->kv.n_kv_head));
    }
}

/* What member `thread` of the team works with on a shared query. */
static select_block open_member(const select_task *task, int thread) {
    select_block b = {.task = task, .args = task->args, .simd = task->cpu->simd};
    aq_arena arena =
        aq_arena_over(task->members + thread * task->member_bytes, (size_t)task->member_bytes);
    carve_scratch(&b, thread);
    carve_member(&b, &arena);
    return b;
}

/* Takes up KV head g of the shared query, with what the team knows of it. */
static void take_shared(select_block *b, int g) {
    const select_task *task = b->task;
    take_rows(b, task->t, 1, g);
    b->z = task->z + (int64_t)g * task->group * task->z_stride;
    b->m = task->m + g * task->group;
    b->log_l = task->log_l + g * task->group;
    b->view->least = float_of(task->search[g].low);
}

/* This member's share of the tiles that the shared query sees. */
static void share_of(const select_task *task, int thread, int n_thread, int64_t *begin,
                     int64_t *end) {
    const query_view view = view_of(task->args, task->t);
    aq_threads_part(tiles_of(view.n_seen), thread, n_thread, begin, end);
}

static void scan_share(void *arg, int thread, int n_thread) {
    const select_task *task = arg;
    select_block b = open_member(task, thread);
    int64_t begin, end;
    share_of(task, thread, n_thread, &begin, &end);
    for (int g = 0; g < b.args->kv.n_kv_head; g++) {
        take_shared(&b, g);
        take_columns(&b);
        scan_tiles(&b, begin, end);
        for (int r = 0; r < b.n_row; r++) {
            const int h = g * task->group + r;
            b.result.m[h] = -INFINITY;
            b.result.l[h] = 0.0f;
            if (begin < end)
                b.simd->soft_total(b.z + r * task->z_stride + begin * AQ_TILE,
                                   (end - begin) * AQ_TILE, &b.result.m[h], &b.result.l[h]);
        }
    }
}

/* Joins the members' m and l. */
static void join_totals(const select_task *task, int n_thread) {
    for (int h = 0; h < task->args->n_head; h++) {
        float m = -INFINITY, l = 0.0f;
        for (int i = 0; i < n_thread; i++)
            m = fmaxf(m, open_member(task, i).result.m[h]);
        for (int i = 0; i < n_thread; i++) {
            const member_result result = open_member(task, i).result;
            l += result.l[h] * expf(result.m[h] - m);
        }
        task->m[h] = m;
        task->log_l[h] = logf(l);
    }
}

static void weigh_share(void *arg, int thread, int n_thread) {
    const select_task *task = arg;
    select_block b = open_member(task, thread);
    int64_t begin, end;
    share_of(task, thread, n_thread, &begin, &end);
    for (int g = 0; g < b.args->kv.n_kv_head; g++) {
        float *mass = b.result.mass + g * AQ_MASS_BOUNDS;
        take_shared(&b, g);
        mass[0] = weigh_tokens(&b, 0, begin * AQ_TILE, (end - begin) * AQ_TILE, &mass[1]);
    }
}

static void start_searches(const select_task *task, int n_thread) {
    const int64_t n_seen = view_of(task->args, task->t).n_seen;
    for (int g = 0; g < task->args->kv.n_kv_head; g++) {
        float total = 0.0f, largest = 0.0f;
        for (int i = 0; i < n_thread; i++) {
            const float *mass = open_member(task, i).result.mass + g * AQ_MASS_BOUNDS;
            total += mass[0];
            largest = fmaxf(largest, mass[1]);
        }
        task->search[g] = start_search(task->args->mass, total, largest, n_seen);
    }
}

static void try_share(void *arg, int thread, int n_thread) {
    const select_task *task = arg;
    select_block b = open_member(task, thread);
    int64_t begin, end;
    float least[AQ_MASS_BOUNDS];
    share_of(task, thread, n_thread, &begin, &end);
    for (int g = 0; g < b.args->kv.n_kv_head; g++) {
        if (search_ends(&task->search[g])) continue;
        try_bounds(&task->search[g], least);
        b.simd->mass_from(task->z + (int64_t)g * task->group * task->z_stride + begin * AQ_TILE,
                          (end - begin) * AQ_TILE, least, b.result.mass + g * AQ_MASS_BOUNDS);
    }
}

/* Narrows the searches by what the members found; returns whether all have ended. */
static bool narrow_searches(const select_task *task, int n_thread) {
    bool ended = true;
    for (int g = 0; g < task->args->kv.n_kv_head; g++) {
        float least[AQ_MASS_BOUNDS], mass[AQ_MASS_BOUNDS] = {0};
        if (search_ends(&task->search[g])) continue;
        for (int i = 0; i < n_thread; i++)
            for (int k = 0; k < AQ_MASS_BOUNDS; k++)
                mass[k] += open_member(task, i).result.mass[g * AQ_MASS_BOUNDS + k];
        try_bounds(&task->search[g], least);
        narrow(&task->search[g], least, mass);
        ended = ended && search_ends(&task->search[g]);
    }
    return ended;
}

/* Members take turns at the tiles, as chosen tokens stand close together. */
static void attend_share(void *arg, int thread, int n_thread) {
    const select_task *task = arg;
    select_block b = open_member(task, thread);
    const int64_t row_size = b.args->kv.d_head + 2;
    for (int g = 0; g < b.args->kv.n_kv_head; g++) {
        take_shared(&b, g);
        b.part = b.result.part + g * task->group * row_size;
        attend_chosen(&b, thread, n_thread, tiles_of(b.view->n_seen));
        b.result.n_count[2 * g] = b.view->n_attended;
        b.result.n_count[2 * g + 1] = b.view->n_touched;
    }
}

static void join_parts(const select_task *task, int n_thread) {
    const int d_head = task->args->kv.d_head;
    for (int g = 0; g < task->args->kv.n_kv_head; g++) {
        query_view view = view_of(task->args, task->t);
        float *part = part_of(task, task->t, g);
        clear_part(part, task->group, d_head);
        for (int i = 0; i < n_thread; i++) {
            const member_result result = open_member(task, i).result;
            view.n_attended += result.n_count[2 * g];
            view.n_touched += result.n_count[2 * g + 1];
            for (int r = 0; r < task->group; r++)
                aq_cpu_merge_part(part + r * (d_head + 2),
                                  result.part + (g * task->group + r) * (d_head + 2), d_head);
        }
        give_counts(task, task->t, g, &view);
    }
}

/* One query after the other, each shared by the team. */
static void share_queries(select_task *task, int n_thread) {
    aq_threads *team = task->cpu->threads;
    for (task->t = 0; task->t < task->args->n_q; task->t++) {
        if (by_mass(task) && view_of(task->args, task->t).n_seen > 0) {
            aq_threads_run(team, scan_share, task);
            join_totals(task, n_thread);
            aq_threads_run(team, weigh_share, task);
            start_searches(task, n_thread);
            do {
                aq_threads_run(team, try_share, task);
            } while (!narrow_searches(task, n_thread));
        }
        aq_threads_run(team, attend_share, task);
        join_parts(task, n_thread);
    }
}

/* Queries of a block: as many as n_thread members have room for, but few enough that there are
 * blocks for all. */
static int64_t queries_at_once(const select_task *task, int n_thread) {
    const int64_t n_pair = task->args->n_q * task->args->kv.n_kv_head;
    int64_t n = ROWS_AT_ONCE / task->group;
    if (n_thread > 1) n = min_i64(n, n_pair / (BLOCKS_PER_MEMBER * n_thread));
    while (n > 1 && n_thread * block_bytes(task, n) > task->args->work_bytes)
        n--;
    return n > 1 ? n : 1;
}

void aq_attn_select_cpu(aq_cpu *cpu, const aq_attn_select_args *args) {
    select_task task = make_task(cpu, args);
    const int64_t n_pair = args->n_q * args->n_head * args->n_tile * AQ_TILE;
    const int64_t n_op = n_pair * (args->kv.n_col + args->kv.d_head);
    const int n_thread = n_op < AQ_CPU_ALONE_OPS ? 1 : aq_threads_count(cpu->threads);
    atomic_init(&task.next_block, 0);
    task.n_query = queries_at_once(&task, n_thread);
    if (n_thread > 1 && args->n_q * args->kv.n_kv_head < BLOCKS_PER_MEMBER * n_thread) {
        aq_arena arena = aq_arena_over(args->work, (size_t)args->work_bytes);
        carve_shared(&task, &arena);
        task.members = (char *)args->work + arena.used;
        task.member_bytes = member_bytes(&task);
        share_queries(&task, n_thread);
        return;
    }
    task.members = args->work;
    task.member_bytes = block_bytes(&task, task.n_query);
    if (n_thread == 1)
        take_blocks(&task, 0, 1);
    else
        aq_threads_run(cpu->threads, take_blocks, &task);
}
