/* Rotary position embedding on CUDA. Contract: rope.h. */
#include "kernels/cuda_model_parts.h"
#include "kernels/cuda_reduce_parts.h"

#define THREADS 256

/* The angle is the fp32 product; its sine and cosine are those of double precision, rounded: the
 * table is made once a step. */
__global__ static void rope_table_kernel(const aq_rope_table_args a) {
    const int half = a.n_rot / 2;
    const int64_t at = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (at >= a.n_tok * half) return;
    const float angle = __fmul_rn((float)a.pos[at / half], a.inv_freq[at % half]);
    double sine, cosine;
    sincos((double)angle, &sine, &cosine);
    a.table[2 * at] = a.scale * (float)cosine;
    a.table[2 * at + 1] = a.scale * (float)sine;
}

/* A thread turns one pair of one head. */
__global__ static void rope_kernel(const aq_rope_args a) {
    const int half = a.n_rot / 2;
    const int64_t at = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (at >= a.n_tok * a.n_head * half) return;
    const int64_t head = at / half;
    const int i = (int)(at % half);
    const float *turn = a.table + head / a.n_head * a.n_rot + 2 * i;
    float *x = a.x + head * a.d_head + i;
    const float first = x[0], second = x[half];
    x[0] = first * turn[0] - second * turn[1];
    x[half] = second * turn[0] + first * turn[1];
}

void aq_rope_table_cuda(aq_backend *be, const aq_rope_table_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    const int64_t n = args->n_tok * (args->n_rot / 2);
    if (n == 0) return;
    rope_table_kernel<<<(unsigned)aq_blocks_of(n, THREADS), THREADS, 0, cuda->stream>>>(*args);
    aq_cuda_check(cuda, "rope_table");
}

void aq_rope_cuda(aq_backend *be, const aq_rope_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    const int64_t n = args->n_tok * args->n_head * (args->n_rot / 2);
    if (n == 0) return;
    rope_kernel<<<(unsigned)aq_blocks_of(n, THREADS), THREADS, 0, cuda->stream>>>(*args);
    aq_cuda_check(cuda, "rope");
}
