/* Private to kernels/: what the files of attention on the device share. */
#ifndef AQ_KERNELS_CUDA_ATTN_PARTS_H
#define AQ_KERNELS_CUDA_ATTN_PARTS_H

#include "kernels/cuda_parts.h"

#define AQ_CUDA_LOG2E  1.44269504f
#define AQ_CUDA_LOWEST -0x1p126f /* below all scores, and finite: differences are numbers */

/* Most shares of the tiles that the results of rows are made from, and joined in order. */
#define AQ_CUDA_SHARES 256

/* part[n_row, d_head + 2] = the parts[n_share, n_row, d_head + 2] joined in their order. */
void aq_cuda_join_parts(aq_cuda *cuda, const float *parts, int n_share, int64_t n_row, int d_head,
                        float *part);

/* Decode over keys by column (attn_decode_cuda.cu): whether it takes this case, and doing it, with
 * a kernel for the type of the cache. */
bool aq_cuda_decode_takes(const aq_attn_partial_args *args);
void aq_cuda_decode(aq_cuda *cuda, const aq_attn_partial_args *args);
void aq_cuda_decode_f32(aq_cuda *cuda, const aq_attn_partial_args *args);
void aq_cuda_decode_bf16(aq_cuda *cuda, const aq_attn_partial_args *args);
void aq_cuda_decode_q8(aq_cuda *cuda, const aq_attn_partial_args *args);

/* Many queries (attn_prefill_cuda.cu), from so many rows of a KV head on. */
#define AQ_CUDA_PREFILL_ROWS 64

bool aq_cuda_prefill_takes(const aq_cuda *cuda, const aq_attn_partial_args *args);
void aq_cuda_prefill(aq_cuda *cuda, const aq_attn_partial_args *args);

/* The same cases on Hopper (attn_prefill_hopper_cuda.cu); linked where AQ_CUDA_HOPPER is defined.
 */
void aq_cuda_prefill_hopper(aq_cuda *cuda, const aq_attn_partial_args *args);

/* Shares of the tiles for n_block blocks of threads: enough for the device, as far as there are
 * tiles, and scratch for the results. */
int aq_cuda_shares(const aq_cuda *cuda, const aq_attn_partial_args *args, int64_t n_block);

#endif
