/* Packed rows on CUDA: a warp for each row. Contract: packed_rows.h. */
#include <cuda_bf16.h>

#include "kernels/cuda_model_parts.h"
#include "kernels/cuda_reduce_parts.h"

#define WARPS 4

/* Words of a row and where its values begin, the same for all rows. */
typedef struct {
    int64_t n_word;
    int n_mask, values;
} layout;

static layout layout_of(const aq_row_form &form) {
    const int n_mask = aq_row_mask_words(&form);
    return {aq_row_words(&form), n_mask, form.n_exact + n_mask};
}

__global__ static void pack_kernel(const aq_pack_rows_args a, const layout at) {
    extern __shared__ uint32_t masks[]; /* [WARPS, n_mask] */
    const int lane = threadIdx.x % AQ_WARP, warp = threadIdx.x / AQ_WARP;
    const int64_t r = blockIdx.x * (int64_t)WARPS + warp;
    if (r >= a.n_row) return;
    const float *x = a.x + r * (a.form.n_col + a.form.n_exact);
    const int16_t *dims = at.n_mask > 0 ? a.dims + r * a.form.n_dim : nullptr;
    uint32_t *row = a.packed + r * at.n_word, *mask = masks + warp * at.n_mask;
    float *numbers = (float *)(row + at.values);
    uint16_t *halves = (uint16_t *)(row + at.values);
    for (int i = lane; i < a.form.n_exact; i += AQ_WARP)
        ((float *)row)[i] = x[a.form.n_col + i];
    for (int w = lane; w < at.n_mask; w += AQ_WARP)
        mask[w] = 0;
    __syncwarp();
    for (int j = lane; j < a.form.n_dim; j += AQ_WARP) {
        const int c = dims ? dims[j] : j;
        if (dims) atomicOr(mask + c / 32, 1u << c % 32);
        if (a.form.bf16)
            halves[j] = __bfloat16_as_ushort(__float2bfloat16_rn(x[c]));
        else
            numbers[j] = x[c];
    }
    if (a.form.bf16 && a.form.n_dim % 2 == 1 && lane == 0) halves[a.form.n_dim] = 0;
    __syncwarp();
    for (int w = lane; w < at.n_mask; w += AQ_WARP)
        row[a.form.n_exact + w] = mask[w];
}

/* Column c is the one whose number is that of the bits of the mask below it. */
__global__ static void unpack_kernel(const aq_unpack_rows_args a, const layout at) {
    const int lane = threadIdx.x % AQ_WARP, warp = threadIdx.x / AQ_WARP;
    const int64_t r = blockIdx.x * (int64_t)WARPS + warp;
    if (r >= a.n_row) return;
    float *x = a.x + r * (a.form.n_col + a.form.n_exact);
    const uint32_t *row = a.packed + r * at.n_word, *mask = row + a.form.n_exact;
    const float *numbers = (const float *)(row + at.values);
    const uint16_t *halves = (const uint16_t *)(row + at.values);
    for (int i = lane; i < a.form.n_exact; i += AQ_WARP)
        x[a.form.n_col + i] = ((const float *)row)[i];
    int before = 0; /* columns sent of the words before */
    for (int c = lane; c - lane < a.form.n_col; c += AQ_WARP) {
        const uint32_t word = at.n_mask > 0 ? mask[c / 32] : AQ_ALL;
        const int n = before + __popc(word & ((1u << lane) - 1));
        const bool sent = c < a.form.n_col && word >> lane & 1;
        before += __popc(word);
        if (c >= a.form.n_col) continue;
        x[c] = !sent         ? 0.0f
               : a.form.bf16 ? __bfloat162float(__ushort_as_bfloat16(halves[n]))
                             : numbers[n];
        if (sent && at.n_mask > 0) a.dims[r * a.form.n_dim + n] = (int16_t)c;
    }
}

void aq_pack_rows_cuda(aq_backend *be, const aq_pack_rows_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    const layout at = layout_of(args->form);
    if (args->n_row == 0) return;
    const size_t shared = (size_t)WARPS * (size_t)at.n_mask * sizeof(uint32_t);
    pack_kernel<<<(unsigned)aq_blocks_of(args->n_row, WARPS), WARPS * AQ_WARP, shared,
                  cuda->stream>>>(*args, at);
    aq_cuda_check(cuda, "pack_rows");
}

void aq_unpack_rows_cuda(aq_backend *be, const aq_unpack_rows_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (args->n_row == 0) return;
    unpack_kernel<<<(unsigned)aq_blocks_of(args->n_row, WARPS), WARPS * AQ_WARP, 0, cuda->stream>>>(
        *args, layout_of(args->form));
    aq_cuda_check(cuda, "unpack_rows");
}
