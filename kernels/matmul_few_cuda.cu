/* Few tokens with weights as they are stored, on CUDA. Contract: matmul.h, matmul_each.h.
 *
 * A block makes a few rows of one part, its threads share the pieces of a row: a piece of the
 * tokens is loaded once for all rows, and the loads of several rows are on their way together.
 * Codes are multiplied as they are, step and base come in once for a run: y = sum of step (sum of
 * code x) + base (sum of x). Threads and rows depend on the shape alone, and so does the order of
 * the sums. */
#include "kernels/cuda_activate_parts.h"
#include "kernels/cuda_matmul_parts.h"
#include "kernels/cuda_reduce_parts.h"
#include "kernels/cuda_weight_parts.h"

#define MAX_THREADS   256
#define THREAD_PIECES 4 /* wanted of a row; fewer threads if there are not as many */

/* One launch. */
typedef struct {
    aq_cuda_few_args a;
    int64_t first_block[AQ_CUDA_FEW_PARTS + 1]; /* of the parts */
} few_launch;

/* The rows of a block: the same of one part, or, if two parts are activated together, as many of
 * each: rows 0 .. half - 1 of the first, then those of the second. */
typedef struct {
    int part;
    int64_t from; /* the first row */
    int half;     /* rows of each of two parts; 0: all are of one */
} few_rows;

__device__ static few_rows rows_of_block(const few_launch &s, int n_row) {
    if (s.a.activated && s.a.n_part > 1) return {0, blockIdx.x * (int64_t)(n_row / 2), n_row / 2};
    int p = 0;
    while (blockIdx.x >= s.first_block[p + 1])
        p++;
    return {p, (blockIdx.x - s.first_block[p]) * n_row, 0};
}

__device__ static int part_of_row(const few_rows &rows, int r) {
    return rows.half > 0 && r >= rows.half ? 1 : rows.part;
}

__device__ static int64_t number_of_row(const few_rows &rows, int r) {
    return rows.from + (rows.half > 0 ? r % rows.half : r);
}

/* Sums of all threads: total[k] = sum of v[k]. `part` is shared memory [AQ_MAX_WARP, N]. */
template <int N> __device__ static void sum_block(const float *v, float *part, float *total) {
    const int warp = threadIdx.x / AQ_WARP, n_warp = blockDim.x / AQ_WARP;
#pragma unroll
    for (int k = 0; k < N; k++) {
        const float sum = aq_warp_sum(v[k]);
        if (threadIdx.x % AQ_WARP == 0) part[warp * N + k] = sum;
    }
    __syncthreads();
    if (threadIdx.x < N) {
        float sum = 0.0f;
        for (int w = 0; w < n_warp; w++)
            sum += part[w * N + threadIdx.x];
        total[threadIdx.x] = sum;
    }
    __syncthreads();
}

/* What y becomes for row r and token t of the block but for the activation. */
__device__ static float finished(const few_launch &s, const few_rows &rows, int r, int t,
                                 float sum) {
    const aq_matmul_part &part = s.a.parts[part_of_row(rows, r)];
    const int64_t j = number_of_row(rows, r);
    if (part.accumulate) sum += part.y[t * part.n_out + j];
    return part.b ? sum + part.b[j] : sum;
}

/* total: [n_row, n_tok] sums of the block. */
template <int ROWS, int TOKS>
__device__ static void write_rows(const few_launch &s, const few_rows &rows, const float *total) {
    static_assert(ROWS * TOKS <= AQ_WARP, "a thread for each sum");
    const int r = threadIdx.x / TOKS, t = threadIdx.x % TOKS;
    if (r >= ROWS || t >= s.a.n_tok || (rows.half > 0 && r >= rows.half)) return;
    const aq_matmul_part &part = s.a.parts[rows.part];
    const int64_t j = number_of_row(rows, r);
    if (j >= part.n_out) return;
    float y = finished(s, rows, r, t, total[threadIdx.x]);
    if (s.a.activated) y = aq_activated(s.a.activation, y);
    if (rows.half > 0) y *= finished(s, rows, r + rows.half, t, total[(r + rows.half) * TOKS + t]);
    part.y[t * part.n_out + j] = y;
}

/* Where the rows of a block are; those beyond the last are the last again and not written. */
template <int ROWS>
__device__ static void find_rows(const few_launch &s, const few_rows &rows, const uint8_t **row) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const aq_matmul_part &part = s.a.parts[part_of_row(rows, r)];
        const int64_t j = min(number_of_row(rows, r), part.n_out - 1);
        row[r] = (const uint8_t *)part.w + j * s.a.row_bytes;
    }
}

/* sum[r, t] += the product of a piece of each row, given as codes and levels, with a token. */
template <aq_dtype type, int ROWS, int TOKS>
__device__ static void add_piece(const float (*code)[aq_weight<type>::elems],
                                 const aq_level (*level)[2], const float *x, int t, float *sum) {
    typedef aq_weight<type> weight;
    constexpr int run = weight::elems / 2;
    float x_sum[2] = {0.0f, 0.0f};
    if constexpr (weight::based)
#pragma unroll
        for (int i = 0; i < weight::elems; i++)
            x_sum[i / run] += x[i];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float dot[2] = {0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < weight::elems; i++)
            dot[i / run] = fmaf(code[r][i], x[i], dot[i / run]);
        float &to = sum[r * TOKS + t];
        if constexpr (weight::scaled) {
            to = fmaf(level[r][0].step, dot[0], to);
            to = fmaf(level[r][1].step, dot[1], to);
        } else {
            to += dot[0] + dot[1];
        }
        if constexpr (weight::based) {
            to = fmaf(level[r][0].base, x_sum[0], to);
            to = fmaf(level[r][1].base, x_sum[1], to);
        }
    }
}

/* A piece of each row. */
template <aq_dtype type, int ROWS>
__device__ static void load_piece(const uint8_t *const *row, int piece,
                                  typename aq_weight<type>::raw *raw) {
    typedef aq_weight<type> weight;
    const int block = piece / weight::block_pieces, at = piece % weight::block_pieces;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        raw[r] = weight::load(row[r] + (int64_t)block * weight::block_bytes, at);
}

template <aq_dtype type, int ROWS, int TOKS>
__global__ static void __launch_bounds__(MAX_THREADS) few_kernel(const few_launch s) {
    typedef aq_weight<type> weight;
    constexpr int run = weight::elems / 2;
    __shared__ float part[MAX_THREADS / AQ_WARP * ROWS * TOKS], total[ROWS * TOKS];
    const few_rows rows = rows_of_block(s, ROWS);
    const uint8_t *row[ROWS];
    float sum[ROWS * TOKS] = {};
    find_rows<ROWS>(s, rows, row);
    const int n_piece = (int)(s.a.n_in / weight::elems);
    /* The next piece is on its way while one is multiplied, unless steps and bases of long blocks
     * take the registers for that. */
    constexpr bool ahead = weight::block_elems <= 32 || !weight::based;
    typename weight::raw next[ROWS];
    if (ahead && (int)threadIdx.x < n_piece) load_piece<type, ROWS>(row, threadIdx.x, next);
    for (int piece = threadIdx.x; piece < n_piece; piece += blockDim.x) {
        const int block = piece / weight::block_pieces, at = piece % weight::block_pieces;
        float code[ROWS][weight::elems];
        aq_level level[ROWS][2];
        typename weight::raw raw[ROWS];
        if constexpr (ahead) {
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                raw[r] = next[r];
            if (piece + (int)blockDim.x < n_piece)
                load_piece<type, ROWS>(row, piece + blockDim.x, next);
        } else {
            load_piece<type, ROWS>(row, piece, raw);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            weight::codes(raw[r], at, code[r]);
            weight::levels(raw[r], at, level[r]);
        }
#pragma unroll
        for (int t = 0; t < TOKS; t++) {
            const float *x = s.a.x + min(t, s.a.n_tok - 1) * s.a.n_in + block * weight::block_elems;
            float near[weight::elems];
#pragma unroll
            for (int i = 0; i < run; i += 4) {
                *(float4 *)(near + i) = __ldg((const float4 *)(x + weight::first(at) + i));
                *(float4 *)(near + run + i) = __ldg((const float4 *)(x + weight::second(at) + i));
            }
            add_piece<type, ROWS, TOKS>(code, level, near, t, sum);
        }
    }
    sum_block<ROWS * TOKS>(sum, part, total);
    write_rows<ROWS, TOKS>(s, rows, total);
}

/* Rows of numbers that no piece fits: of any length, on any address. */
template <aq_dtype type, int ROWS, int TOKS>
__global__ static void __launch_bounds__(MAX_THREADS) odd_kernel(const few_launch s) {
    __shared__ float part[MAX_THREADS / AQ_WARP * ROWS * TOKS], total[ROWS * TOKS];
    const few_rows rows = rows_of_block(s, ROWS);
    const uint8_t *row[ROWS];
    float sum[ROWS * TOKS] = {};
    find_rows<ROWS>(s, rows, row);
    for (int64_t i = threadIdx.x; i < s.a.n_in; i += blockDim.x)
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const float w = aq_element<type>(row[r], i);
#pragma unroll
            for (int t = 0; t < TOKS; t++)
                sum[r * TOKS + t] =
                    fmaf(w, s.a.x[min(t, s.a.n_tok - 1) * s.a.n_in + i], sum[r * TOKS + t]);
        }
    sum_block<ROWS * TOKS>(sum, part, total);
    write_rows<ROWS, TOKS>(s, rows, total);
}

/* Whole pieces on addresses where they can be loaded. Quantised rows are that by their blocks. */
static bool whole_pieces(const aq_cuda_few_args *a, int elems) {
    uintptr_t places = (uintptr_t)a->x;
    for (int p = 0; p < a->n_part; p++)
        places |= (uintptr_t)a->parts[p].w;
    return a->n_in % elems == 0 && places % sizeof(float4) == 0;
}

template <aq_dtype type, int ROWS, int TOKS>
static void launch_rows(const aq_cuda *cuda, const aq_cuda_few_args *args) {
    typedef aq_weight<type> weight;
    few_launch s = {*args, {0}};
    const bool pairs = args->activated && args->n_part > 1;
    for (int p = 0; p < args->n_part; p++) {
        const int64_t n_block = aq_blocks_of(args->parts[p].n_out, pairs ? ROWS / 2 : ROWS);
        s.first_block[p + 1] = s.first_block[p] + n_block;
    }
    const unsigned grid = (unsigned)s.first_block[pairs ? 1 : args->n_part];
    int64_t n_thread = aq_blocks_of(args->n_in / weight::elems, AQ_WARP * THREAD_PIECES) * AQ_WARP;
    if (n_thread > MAX_THREADS) n_thread = MAX_THREADS;
    if (n_thread < AQ_WARP) n_thread = AQ_WARP;
    if constexpr (!weight::scaled)
        if (!whole_pieces(args, weight::elems)) {
            odd_kernel<type, ROWS, TOKS><<<grid, (unsigned)n_thread, 0, cuda->stream>>>(s);
            return;
        }
    few_kernel<type, ROWS, TOKS><<<grid, (unsigned)n_thread, 0, cuda->stream>>>(s);
}

template <aq_dtype type> static void launch(const aq_cuda *cuda, const aq_cuda_few_args *args) {
    constexpr int rows = aq_weight<type>::block_elems > 32 ? 2 : 4; /* as registers allow */
    if (args->n_tok == 1)
        launch_rows<type, 4, 1>(cuda, args);
    else if (args->n_tok == 2)
        launch_rows<type, 4, 2>(cuda, args);
    else if (args->n_tok <= 4)
        launch_rows<type, rows, 4>(cuda, args);
    else
        launch_rows<type, 4, 8>(cuda, args);
}

void aq_cuda_matmul_few(aq_cuda *cuda, const aq_cuda_few_args *args) {
    AQ_WITH_WEIGHT(args->parts[0].dtype, launch, cuda, args)
    aq_cuda_check(cuda, "matmul");
}
