/* Partial attention of many queries: products of bf16, sums in fp32, as attn_partial.h says.
 *
 * A block of threads has WARPS * 16 * Tiles rows of a KV head, whose queries stay in shared memory,
 * and goes through tiles of keys and values, which it makes bf16 there. A warp has its rows for
 * itself: scores, the online softmax, and results are in its registers. The next keys are on their
 * way while values are multiplied, and the other way round (Dao 2023, arXiv 2307.08691). */
#include <math.h>

#include "kernels/cuda_prefill_parts.h"

#define WARPS   4
#define THREADS (32 * WARPS)
#define WHOLE   0xffffffffu

/* Rows of shared memory hold pieces of 16 bytes, moved about so that eight rows below each other
 * meet different banks. */
static __device__ __forceinline__ int piece_at(int row, int piece, int row_pieces) {
    return (row * row_pieces + (piece ^ (row & 7))) * 16;
}

/* Keys of a tile as they are ordered, [n_col, AQ_TILE] or [AQ_TILE, n_col], to shared memory; bf16
 * arrives later. */
template <int D>
static __device__ void load_keys(const aq_cuda_cache &cache, int64_t at, int g, char *to) {
    const uint8_t *block = aq_cuda_key_block(cache, at, g);
    const auto place = [=](int row, int more, int piece, int row_pieces) {
        return to + piece_at(row + more, piece, row_pieces);
    };
    if (cache.kv.key_order == AQ_KEYS_BY_COLUMN)
        aq_cuda_put_keys<D, true, THREADS>(cache, at, g, block, [=](int c, int more, int piece) {
            return place(c, more, piece, AQ_TILE / 8);
        });
    else
        aq_cuda_put_keys<D, false, THREADS>(cache, at, g, block, [=](int s, int more, int piece) {
            return place(s, more, piece, D / 8);
        });
    aq_cuda_copies_end();
}

/* Values of a tile, [AQ_TILE, d_head]. */
template <int D>
static __device__ void load_values(const aq_cuda_cache &cache, int64_t at, int g, char *to) {
    aq_cuda_put_values<D, THREADS>(
        cache, at, g, aq_cuda_value_block(cache, at, g),
        [=](int s, int more, int piece) { return to + piece_at(s + more, piece, D / 8); });
    aq_cuda_copies_end();
}

/* Queries of rows first .. of KV head g to shared memory, [n_row, D], scaled by scale and log2 e.
 */
template <int D>
static __device__ void load_queries(const aq_attn_partial_args &a, int g, int64_t first, int n_row,
                                    char *to) {
    const int64_t n_all = a.n_q * (a.n_head / a.kv.n_kv_head);
    for (int i = threadIdx.x; i < n_row * D / 8; i += THREADS) {
        const int64_t row = first + i / (D / 8);
        const int piece = i % (D / 8);
        const bool reads = row < n_all && !a.dims;
        const float *from = a.q + (reads ? aq_cuda_row_at(a, g, row) * D + 8 * piece : 0);
        float x[8];
#pragma unroll
        for (int k = 0; k < 8; k++)
            x[k] = reads ? a.scale * AQ_CUDA_LOG2E * from[k] : 0.0f;
        *(uint4 *)(to + piece_at(i / (D / 8), piece, D / 8)) = aq_cuda_eight_of(x);
    }
    __syncthreads();
    for (int i = threadIdx.x; a.dims && i < n_row * a.n_dim; i += THREADS) {
        const int r = i / a.n_dim;
        if (first + r >= n_all) continue;
        const int64_t from = aq_cuda_row_at(a, g, first + r);
        const int c = a.dims[from * a.n_dim + i % a.n_dim];
        __nv_bfloat16 *piece = (__nv_bfloat16 *)(to + piece_at(r, c / 8, D / 8));
        piece[c % 8] = __float2bfloat16_rn(a.scale * AQ_CUDA_LOG2E * a.q[from * D + c]);
    }
    __syncthreads();
}

/* The rows of a warp: Tiles times 16. */
template <int D, int Tiles> struct warp_rows {
    float score[Tiles][AQ_TILE / 8][4];
    float o[Tiles][D / 8][4];
    float m[Tiles][2], l[Tiles][2]; /* of rows lane / 4 and that + 8; l of this lane's tokens */
};

template <int D, int Tiles>
static __device__ __forceinline__ void score_tile(const char *q, const char *keys, bool by_column,
                                                  warp_rows<D, Tiles> &rows) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int t = 0; t < Tiles; t++)
#pragma unroll
        for (int n = 0; n < AQ_TILE / 8; n++)
            for (int e = 0; e < 4; e++)
                rows.score[t][n][e] = 0.0f;
#pragma unroll
    for (int c = 0; c < D; c += 16) {
        uint32_t a[Tiles][4];
#pragma unroll
        for (int t = 0; t < Tiles; t++) {
            const int row = (warp * Tiles + t) * 16 + lane % 16;
            aq_cuda_load_squares(a[t], q + piece_at(row, c / 8 + lane / 16, D / 8));
        }
#pragma unroll
        for (int n = 0; n < AQ_TILE / 8; n += 2) {
            uint32_t b[4];
            if (by_column)
                aq_cuda_load_turned(b, keys + piece_at(c + lane % 16, n + lane / 16, AQ_TILE / 8));
            else
                aq_cuda_load_squares(b, keys + piece_at(8 * n + lane / 16 * 8 + lane % 8,
                                                        c / 8 + lane / 8 % 2, D / 8));
#pragma unroll
            for (int t = 0; t < Tiles; t++) {
                aq_cuda_mma_bf16(rows.score[t][n], a[t], b[0], b[1]);
                aq_cuda_mma_bf16(rows.score[t][n + 1], a[t], b[2], b[3]);
            }
        }
    }
}

/* Takes out what rows do not see. */
template <int D, int Tiles>
static __device__ void hide_unseen(const aq_attn_partial_args &a, const aq_cuda_row_places &places,
                                   int64_t tile, warp_rows<D, Tiles> &rows) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int n = 0; n < AQ_TILE / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int64_t token = aq_cuda_token_pos(a, tile, 8 * n + lane % 4 * 2 + e);
#pragma unroll
            for (int t = 0; t < Tiles; t++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int row = (warp * Tiles + t) * 16 + half * 8 + lane / 4;
                    if (!aq_cuda_sees(a, places.pos[row], token))
                        rows.score[t][n][2 * half + e] = -INFINITY;
                }
        }
}

/* Scores, of base 2, become weights; results are scaled to the new maximum. */
template <int D, int Tiles>
static __device__ __forceinline__ void soften(warp_rows<D, Tiles> &rows) {
#pragma unroll
    for (int t = 0; t < Tiles; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float most = rows.m[t][half];
#pragma unroll
            for (int n = 0; n < AQ_TILE / 8; n++)
                most =
                    fmaxf(most, fmaxf(rows.score[t][n][2 * half], rows.score[t][n][2 * half + 1]));
            most = fmaxf(most, __shfl_xor_sync(WHOLE, most, 1));
            most = fmaxf(most, __shfl_xor_sync(WHOLE, most, 2));
            const float keep = aq_cuda_exp2(rows.m[t][half] - most);
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < AQ_TILE / 8; n++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    rows.score[t][n][e] = aq_cuda_exp2(rows.score[t][n][e] - most);
                    sum += rows.score[t][n][e];
                }
            rows.m[t][half] = most;
            rows.l[t][half] = rows.l[t][half] * keep + sum;
#pragma unroll
            for (int i = 0; i < D / 8; i++) {
                rows.o[t][i][2 * half] *= keep;
                rows.o[t][i][2 * half + 1] *= keep;
            }
        }
}

template <int D, int Tiles>
static __device__ __forceinline__ void mix_tile(const char *values, warp_rows<D, Tiles> &rows) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < AQ_TILE / 8; n += 2) {
        uint32_t a[Tiles][4];
#pragma unroll
        for (int t = 0; t < Tiles; t++) {
            const float *low = rows.score[t][n], *high = rows.score[t][n + 1];
            a[t][0] = aq_cuda_pair_of(low[0], low[1]);
            a[t][1] = aq_cuda_pair_of(low[2], low[3]);
            a[t][2] = aq_cuda_pair_of(high[0], high[1]);
            a[t][3] = aq_cuda_pair_of(high[2], high[3]);
        }
#pragma unroll
        for (int i = 0; i < D / 8; i += 2) {
            uint32_t b[4];
            aq_cuda_load_turned(b, values + piece_at(8 * n + lane % 16, i + lane / 16, D / 8));
#pragma unroll
            for (int t = 0; t < Tiles; t++) {
                aq_cuda_mma_bf16(rows.o[t][i], a[t], b[0], b[1]);
                aq_cuda_mma_bf16(rows.o[t][i + 1], a[t], b[2], b[3]);
            }
        }
    }
}

template <int D, int Tiles>
static __device__ void give_rows(const aq_attn_partial_args &a, int g, int64_t first,
                                 warp_rows<D, Tiles> &rows, float *parts) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t n_all = a.n_q * (a.n_head / a.kv.n_kv_head);
#pragma unroll
    for (int t = 0; t < Tiles; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float l = rows.l[t][half];
            l += __shfl_xor_sync(WHOLE, l, 1);
            l += __shfl_xor_sync(WHOLE, l, 2);
            const int64_t row = first + (warp * Tiles + t) * 16 + half * 8 + lane / 4;
            if (row >= n_all) continue;
            float *part = parts + aq_cuda_row_at(a, g, row) * (D + 2);
#pragma unroll
            for (int i = 0; i < D / 8; i++) {
                part[8 * i + lane % 4 * 2] = rows.o[t][i][2 * half];
                part[8 * i + lane % 4 * 2 + 1] = rows.o[t][i][2 * half + 1];
            }
            if (lane % 4 != 0) continue;
            const float m = rows.m[t][half];
            part[D] = m == AQ_CUDA_LOWEST ? -INFINITY : m / AQ_CUDA_LOG2E;
            part[D + 1] = l;
        }
}

/* The last rows, which see most, first. */
template <int D, int Tiles>
static __global__ void __launch_bounds__(THREADS, 2)
    prefill(const aq_attn_partial_args a, const aq_cuda_cache cache, int n_share, float *parts) {
    extern __shared__ __align__(16) char shared[];
    constexpr int n_row = WARPS * Tiles * 16;
    __shared__ int64_t pos[n_row];
    char *q = shared, *keys = q + n_row * D * 2, *values = keys + AQ_TILE * D * 2;
    const int g = blockIdx.y, share = blockIdx.z, group = a.n_head / a.kv.n_kv_head;
    const int64_t first = (int64_t)(gridDim.x - 1 - blockIdx.x) * n_row, n_all = a.n_q * group;
    const bool by_column = a.kv.key_order == AQ_KEYS_BY_COLUMN;
    for (int r = threadIdx.x; r < n_row; r += THREADS)
        pos[r] = first + r < n_all ? a.q_pos[(first + r) / group] : INT64_MIN;
    load_queries<D>(a, g, first, n_row, q);
    const aq_cuda_row_places places = aq_cuda_places_of(pos, n_row, n_all - first);
    const auto any = [](bool says) { return __syncthreads_or(says) != 0; };
    warp_rows<D, Tiles> rows;
#pragma unroll
    for (int t = 0; t < Tiles; t++) {
        rows.m[t][0] = rows.m[t][1] = AQ_CUDA_LOWEST;
        rows.l[t][0] = rows.l[t][1] = 0.0f;
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            for (int e = 0; e < 4; e++)
                rows.o[t][i][e] = 0.0f;
    }
    bool whole = false;
    int64_t tile = aq_cuda_next_tile(a, places, share, n_share, THREADS, any, &whole);
    if (tile < a.n_tile) {
        load_keys<D>(cache, aq_cuda_place(a, tile), g, keys);
        load_values<D>(cache, aq_cuda_place(a, tile), g, values);
    }
    while (tile < a.n_tile) {
        bool next_whole = false;
        const int64_t next =
            aq_cuda_next_tile(a, places, tile + n_share, n_share, THREADS, any, &next_whole);
        const int64_t next_at = next < a.n_tile ? aq_cuda_place(a, next) : 0;
        aq_cuda_copies_wait<1>();
        __syncthreads();
        score_tile<D, Tiles>(q, keys, by_column, rows);
        __syncthreads();
        if (next < a.n_tile)
            load_keys<D>(cache, next_at, g, keys);
        else
            aq_cuda_copies_end();
        if (!whole) hide_unseen<D, Tiles>(a, places, tile, rows);
        soften<D, Tiles>(rows);
        aq_cuda_copies_wait<1>();
        __syncthreads();
        mix_tile<D, Tiles>(values, rows);
        __syncthreads();
        if (next < a.n_tile)
            load_values<D>(cache, next_at, g, values);
        else
            aq_cuda_copies_end();
        tile = next;
        whole = next_whole;
    }
    give_rows<D, Tiles>(a, g, first, rows, parts + share * a.n_q * a.n_head * (D + 2));
}

typedef void (*prefill_kernel)(const aq_attn_partial_args, const aq_cuda_cache, int, float *);

bool aq_cuda_prefill_takes(const aq_cuda *cuda, const aq_attn_partial_args *args) {
    const aq_kv_view *kv = &args->kv;
    const int64_t n_row = args->n_q * (args->n_head / kv->n_kv_head);
    return !cuda->exact && n_row >= AQ_CUDA_PREFILL_ROWS && kv->n_col == kv->d_head &&
           (kv->d_head == 64 || kv->d_head == 128 || kv->d_head == 256) &&
           kv->key_type != AQ_KV_F32 && kv->value_type != AQ_KV_F32 &&
           aq_cuda_aligned(kv->keys, aq_kv_key_bytes(kv), 16) &&
           aq_cuda_aligned(kv->values, aq_kv_value_bytes(kv), 16);
}

void aq_cuda_prefill(aq_cuda *cuda, const aq_attn_partial_args *args) {
#ifdef AQ_CUDA_HOPPER
    if (cuda->hopper) {
        aq_cuda_prefill_hopper(cuda, args);
        return;
    }
#endif
    const int d = args->kv.d_head, n_row = WARPS * 16 * (d == 256 ? 1 : 2);
    const int64_t n_all = args->n_q * (args->n_head / args->kv.n_kv_head);
    const int64_t n_block = (n_all + n_row - 1) / n_row;
    const int n_share = aq_cuda_shares(cuda, args, n_block * args->kv.n_kv_head);
    const size_t bytes = (size_t)(n_row + 2 * AQ_TILE) * (size_t)d * 2;
    const prefill_kernel kernel = d == 64    ? prefill<64, 2>
                                  : d == 128 ? prefill<128, 2>
                                             : prefill<256, 1>;
    float *parts = n_share > 1 ? (float *)cuda->scratch : args->part;
    const dim3 grid((unsigned)n_block, (unsigned)args->kv.n_kv_head, (unsigned)n_share);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    kernel<<<grid, THREADS, bytes, cuda->stream>>>(*args, aq_cuda_cache_of(&args->kv), n_share,
                                                   parts);
    if (n_share > 1)
        aq_cuda_join_parts(cuda, parts, n_share, args->n_q * args->n_head, d, args->part);
}
