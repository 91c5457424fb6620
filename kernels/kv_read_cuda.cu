/* A thread for each number read. */
#include "kernels/cuda_cache_parts.h"
#include "kernels/cuda_parts.h"

#define THREADS 256

static __global__ void read_tile(const aq_kv_read_args a, const aq_cuda_cache cache) {
    const int n_col = a.kv.n_col, d_head = a.kv.d_head, width = n_col + d_head;
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t row = at / width; /* (token, KV head) */
    const int c = (int)(at % width), s = (int)(row / a.kv.n_kv_head);
    const int g = (int)(row % a.kv.n_kv_head);
    if (s >= a.n_tok) return;
    if (c < n_col)
        a.key[row * n_col + c] = aq_cuda_key(cache, a.tile, g, s, c);
    else
        a.value[row * d_head + c - n_col] = aq_cuda_value(cache, a.tile, g, s, c - n_col);
}

void aq_kv_read_cuda(aq_backend *be, const aq_kv_read_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    const int64_t n = args->n_tok * args->kv.n_kv_head * (args->kv.n_col + args->kv.d_head);
    if (n == 0) return;
    read_tile<<<(unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, cuda->stream>>>(
        *args, aq_cuda_cache_of(&args->kv));
    aq_cuda_check(cuda, "kv_read");
}
