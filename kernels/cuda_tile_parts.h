/* Private to kernels/: scores of a block of rows with one tile after the other, for any cache. The
 * rows of a KV head are its (query, head of the group) pairs: row = query * group + head. A block
 * of AQ_TILE_THREADS threads works on AQ_TILE_ROWS of them; each thread has the scores of 2 rows
 * and 4 tokens, and each 16 neighbouring threads those of the same 2 rows. */
#ifndef AQ_KERNELS_CUDA_TILE_PARTS_H
#define AQ_KERNELS_CUDA_TILE_PARTS_H

#include "kernels/attn_partial.h"
#include "kernels/cuda_cache_parts.h"

#define AQ_TILE_THREADS 256
#define AQ_TILE_ROWS    32
#define AQ_TILE_STRIDE  68 /* of a row of keys: quads of tokens stay aligned, columns lie apart */
#define AQ_TILE_P       36 /* the same of a token's weights */

/* What a block of threads has in shared memory. */
typedef struct {
    float *q;     /* [n_col, AQ_TILE_ROWS] scaled; 0 in columns that a row does not read */
    float *tile;  /* [n_col, AQ_TILE_STRIDE] keys, or [AQ_TILE, d_head] values */
    float *p;     /* [AQ_TILE, AQ_TILE_P] weights of the rows */
    float *keep;  /* [AQ_TILE_ROWS] */
    int64_t *pos; /* [AQ_TILE_ROWS] of the query; INT64_MIN behind the last row */
} aq_cuda_rows;

static inline size_t aq_cuda_rows_bytes(const aq_kv_view *kv) {
    const size_t keys = (size_t)kv->n_col * AQ_TILE_STRIDE;
    const size_t values = (size_t)kv->d_head * AQ_TILE, most = keys > values ? keys : values;
    return AQ_TILE_ROWS * sizeof(int64_t) +
           ((size_t)kv->n_col * AQ_TILE_ROWS + most + AQ_TILE * AQ_TILE_P + AQ_TILE_ROWS) *
               sizeof(float);
}

static __device__ aq_cuda_rows aq_cuda_rows_at(char *shared, const aq_kv_view &kv) {
    aq_cuda_rows rows;
    rows.pos = (int64_t *)shared;
    rows.q = (float *)(rows.pos + AQ_TILE_ROWS);
    rows.p = rows.q + kv.n_col * AQ_TILE_ROWS;
    rows.keep = rows.p + AQ_TILE * AQ_TILE_P;
    rows.tile = rows.keep + AQ_TILE_ROWS;
    return rows;
}

/* Where row `row` of KV head g is in tensors [n_q, n_head, ...]. */
static __device__ int64_t aq_cuda_row_at(const aq_attn_partial_args &a, int g, int64_t row) {
    const int group = a.n_head / a.kv.n_kv_head;
    return row / group * a.n_head + (int64_t)g * group + row % group;
}

static __device__ int64_t aq_cuda_place(const aq_attn_partial_args &a, int64_t tile) {
    return a.tile_at ? a.tile_at[tile] : tile;
}

/* Position of token s of a tile. */
static __device__ int64_t aq_cuda_token_pos(const aq_attn_partial_args &a, int64_t tile, int s) {
    return a.slot_pos ? a.slot_pos[aq_cuda_place(a, tile) * AQ_TILE + s] : a.tile_pos[tile] + s;
}

static __device__ bool aq_cuda_sees(const aq_attn_partial_args &a, int64_t pos, int64_t token) {
    return token <= pos && (a.window == 0 || token > pos - a.window);
}

/* Takes up rows first .. first + AQ_TILE_ROWS of KV head g, as far as there are such. */
static __device__ void aq_cuda_take_rows(const aq_attn_partial_args &a, const aq_cuda_rows &rows,
                                         int g, int64_t first) {
    const int n_col = a.kv.n_col, group = a.n_head / a.kv.n_kv_head;
    const int64_t n_row = a.n_q * group;
    for (int i = threadIdx.x; i < n_col * AQ_TILE_ROWS; i += AQ_TILE_THREADS) {
        const int64_t row = first + i / n_col;
        const int c = i % n_col;
        const bool reads = row < n_row && !a.dims;
        rows.q[c * AQ_TILE_ROWS + i / n_col] =
            reads ? a.scale * a.q[aq_cuda_row_at(a, g, row) * n_col + c] : 0.0f;
    }
    if (threadIdx.x < AQ_TILE_ROWS) {
        const int64_t row = first + threadIdx.x;
        rows.pos[threadIdx.x] = row < n_row ? a.q_pos[row / group] : INT64_MIN;
    }
    __syncthreads();
    if (!a.dims) return;
    for (int i = threadIdx.x; i < a.n_dim * AQ_TILE_ROWS; i += AQ_TILE_THREADS) {
        const int64_t row = first + i / a.n_dim;
        if (row >= n_row) continue;
        const int64_t from = aq_cuda_row_at(a, g, row);
        const int c = a.dims[from * a.n_dim + i % a.n_dim];
        rows.q[c * AQ_TILE_ROWS + i / a.n_dim] = a.scale * a.q[from * n_col + c];
    }
    __syncthreads();
}

/* Whether any row sees a token of the tile: the same for all threads. */
static __device__ bool aq_cuda_tile_seen(const aq_attn_partial_args &a, const aq_cuda_rows &rows,
                                         int64_t tile) {
    const int64_t token = aq_cuda_token_pos(a, tile, threadIdx.x % AQ_TILE);
    bool sees = false;
    for (int r = threadIdx.x / AQ_TILE; r < AQ_TILE_ROWS; r += AQ_TILE_THREADS / AQ_TILE)
        sees = sees || aq_cuda_sees(a, rows.pos[r], token);
    return __syncthreads_or(sees);
}

static __device__ void aq_cuda_load_keys(const aq_cuda_cache &cache, const aq_cuda_rows &rows,
                                         int64_t at, int g) {
    const int n_col = cache.kv.n_col;
    const bool by_column = cache.kv.key_order == AQ_KEYS_BY_COLUMN;
    for (int i = threadIdx.x; i < n_col * AQ_TILE; i += AQ_TILE_THREADS) {
        const int c = by_column ? i / AQ_TILE : i % n_col;
        const int s = by_column ? i % AQ_TILE : i / n_col;
        rows.tile[c * AQ_TILE_STRIDE + s] = aq_cuda_key(cache, at, g, s, c);
    }
}

static __device__ void aq_cuda_load_values(const aq_cuda_cache &cache, const aq_cuda_rows &rows,
                                           int64_t at, int g) {
    const int d_head = cache.kv.d_head;
    for (int i = threadIdx.x; i < d_head * AQ_TILE; i += AQ_TILE_THREADS)
        rows.tile[i] = aq_cuda_value(cache, at, g, i / d_head, i % d_head);
}

/* The scores of this thread: rows 2 * (thread / 16) + i, tokens 4 * (thread % 16) + j of the tile
 * whose keys are loaded; -inf where a row does not see a token. */
static __device__ void aq_cuda_score(const aq_attn_partial_args &a, const aq_cuda_rows &rows,
                                     int64_t tile, float score[2][4]) {
    const int row = 2 * (threadIdx.x / 16), s = 4 * (threadIdx.x % 16);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            score[i][j] = 0.0f;
    for (int c = 0; c < a.kv.n_col; c++) {
        const float4 key = *(const float4 *)(rows.tile + c * AQ_TILE_STRIDE + s);
        const float2 q = *(const float2 *)(rows.q + c * AQ_TILE_ROWS + row);
        const float keys[4] = {key.x, key.y, key.z, key.w};
        for (int j = 0; j < 4; j++) {
            score[0][j] = fmaf(q.x, keys[j], score[0][j]);
            score[1][j] = fmaf(q.y, keys[j], score[1][j]);
        }
    }
    for (int j = 0; j < 4; j++) {
        const int64_t token = aq_cuda_token_pos(a, tile, s + j);
        for (int i = 0; i < 2; i++)
            if (!aq_cuda_sees(a, rows.pos[row + i], token)) score[i][j] = -INFINITY;
    }
}

#endif
