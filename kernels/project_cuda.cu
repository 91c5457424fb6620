/* Projection on CUDA. Contract: project.h.
 *
 * Few tokens: a block makes some columns of one query and its threads share the rows of the matrix
 * besides, as many loads on their way at once are what counts. Many: tiles of tokens by columns. */
#include "kernels/cuda_model_parts.h"
#include "kernels/cuda_reduce_parts.h"

#define FEW_TOKS 8

/* Few tokens: thread (column, split) has the rows split, split + SPLITS, ... of the matrix. */
#define FEW_COLS   32
#define FEW_SPLITS 8

__global__ static void project_few_kernel(const aq_project_args a) {
    __shared__ float part[FEW_SPLITS][FEW_COLS];
    const int j = blockIdx.x * FEW_COLS + threadIdx.x;
    const int h = blockIdx.y, g = h / (a.n_head / a.n_kv_head);
    const int64_t row = blockIdx.z * (int64_t)a.n_head + h;
    const float *x = a.x + row * a.d_head;
    const float *p = a.p + (int64_t)g * a.d_head * a.d_head;
    float sum = 0.0f;
    if (j < a.n_col)
#pragma unroll 8
        for (int i = threadIdx.y; i < a.d_head; i += FEW_SPLITS)
            sum = fmaf(x[i], p[(int64_t)i * a.d_head + j], sum);
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || j >= a.n_col) return;
    for (int s = 1; s < FEW_SPLITS; s++)
        sum += part[s][threadIdx.x];
    a.y[row * a.n_col + j] = sum;
}

/* Many tokens: TILE tokens by TILE columns a block, EACH by EACH a thread, STEP rows of the matrix
 * at a time. */
#define TILE    64
#define STEP    16
#define EACH    4
#define THREADS 256

typedef struct alignas(16) {
    float x[STEP][TILE + 4], p[STEP][TILE]; /* x turned; + 4: stores meet few banks twice */
} project_tile;

__device__ static void load_tile(const aq_project_args *a, int64_t t, int h, int i, int j,
                                 project_tile *tile) {
    const float *p = a->p + (int64_t)(h / (a->n_head / a->n_kv_head)) * a->d_head * a->d_head;
    for (int k = threadIdx.x; k < STEP * TILE; k += THREADS) {
        const int64_t tok = t + k / STEP;
        const int row = i + k % STEP;
        tile->x[k % STEP][k / STEP] = tok < a->n_tok && row < a->d_head
                                          ? a->x[(tok * a->n_head + h) * a->d_head + row]
                                          : 0.0f;
    }
    for (int k = threadIdx.x; k < STEP * TILE; k += THREADS) {
        const int row = i + k / TILE, col = j + k % TILE;
        tile->p[k / TILE][k % TILE] =
            row < a->d_head && col < a->n_col ? p[(int64_t)row * a->d_head + col] : 0.0f;
    }
}

__global__ static void project_many_kernel(const aq_project_args a) {
    __shared__ project_tile tile;
    const int j = blockIdx.x * TILE, h = blockIdx.y;
    const int64_t t = blockIdx.z * (int64_t)TILE;
    const int tx = threadIdx.x % (TILE / EACH) * EACH, ty = threadIdx.x / (TILE / EACH) * EACH;
    float sum[EACH][EACH] = {};
    for (int i = 0; i < a.d_head; i += STEP) {
        __syncthreads();
        load_tile(&a, t, h, i, j, &tile);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            float x[EACH], p[EACH];
            *(float4 *)x = *(const float4 *)&tile.x[k][ty];
            *(float4 *)p = *(const float4 *)&tile.p[k][tx];
#pragma unroll
            for (int r = 0; r < EACH; r++)
#pragma unroll
                for (int c = 0; c < EACH; c++)
                    sum[r][c] = fmaf(x[r], p[c], sum[r][c]);
        }
    }
#pragma unroll
    for (int r = 0; r < EACH; r++)
#pragma unroll
        for (int c = 0; c < EACH; c++)
            if (t + ty + r < a.n_tok && j + tx + c < a.n_col)
                a.y[((t + ty + r) * a.n_head + h) * a.n_col + j + tx + c] = sum[r][c];
}

void aq_project_cuda(aq_backend *be, const aq_project_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (args->n_tok == 0) return;
    if (args->n_tok <= FEW_TOKS) {
        const dim3 grid((unsigned)aq_blocks_of(args->n_col, FEW_COLS), (unsigned)args->n_head,
                        (unsigned)args->n_tok);
        project_few_kernel<<<grid, dim3(FEW_COLS, FEW_SPLITS), 0, cuda->stream>>>(*args);
    } else {
        const dim3 grid((unsigned)aq_blocks_of(args->n_col, TILE), (unsigned)args->n_head,
                        (unsigned)aq_blocks_of(args->n_tok, TILE));
        project_many_kernel<<<grid, THREADS, 0, cuda->stream>>>(*args);
    }
    aq_cuda_check(cuda, "project");
}
