/* Embedding rows on CUDA: a block for each token. Contract: embed.h. */
#include "kernels/cuda_model_parts.h"
#include "kernels/cuda_weight_parts.h"

#define THREADS 128

__device__ static void put(const aq_embed_args &a, float *out, float value) {
    const float scaled = __fmul_rn(a.scale, value);
    *out = a.accumulate ? __fadd_rn(*out, scaled) : scaled;
}

template <aq_dtype type>
__global__ static void embed_kernel(const aq_embed_args a, int64_t row_bytes) {
    typedef aq_weight<type> weight;
    const uint8_t *row = (const uint8_t *)a.table + a.ids[blockIdx.x] * row_bytes;
    float *out = a.out + blockIdx.x * a.d_model;
    if constexpr (weight::scaled) {
        const int64_t n_piece = a.d_model / weight::elems;
        for (int64_t piece = threadIdx.x; piece < n_piece; piece += THREADS) {
            constexpr int run = weight::elems / 2;
            float value[weight::elems];
            int64_t first, second;
            aq_piece_values<type>(row, piece, value, &first, &second);
#pragma unroll
            for (int i = 0; i < run; i++) {
                put(a, out + first + i, value[i]);
                put(a, out + second + i, value[run + i]);
            }
        }
    } else {
        for (int64_t i = threadIdx.x; i < a.d_model; i += THREADS)
            put(a, out + i, aq_element<type>(row, i));
    }
}

template <aq_dtype type> static void launch(const aq_cuda *cuda, const aq_embed_args *args) {
    embed_kernel<type><<<(unsigned)args->n_tok, THREADS, 0, cuda->stream>>>(
        *args, aq_dtype_row_bytes(type, args->d_model));
}

void aq_embed_cuda(aq_backend *be, const aq_embed_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (args->n_tok == 0) return;
    AQ_WITH_WEIGHT(args->dtype, launch, cuda, args)
    aq_cuda_check(cuda, "embed");
}
