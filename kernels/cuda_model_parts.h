/* Private to kernels/: the CUDA operations of a model but those of its cache and attention; the
 * contract of each stands in the header of that operation. */
#ifndef AQ_KERNELS_CUDA_MODEL_PARTS_H
#define AQ_KERNELS_CUDA_MODEL_PARTS_H

#include "kernels/cuda_parts.h"

void aq_embed_cuda(aq_backend *be, const aq_embed_args *args);
void aq_rmsnorm_cuda(aq_backend *be, const aq_rmsnorm_args *args);
void aq_layernorm_cuda(aq_backend *be, const aq_layernorm_args *args);
void aq_matmul_cuda(aq_backend *be, const aq_matmul_args *args);
void aq_matmul_each_cuda(aq_backend *be, const aq_matmul_each_args *args);
void aq_add_bias_cuda(aq_backend *be, const aq_add_bias_args *args);
void aq_rope_table_cuda(aq_backend *be, const aq_rope_table_args *args);
void aq_rope_cuda(aq_backend *be, const aq_rope_args *args);
void aq_activate_cuda(aq_backend *be, const aq_activate_args *args);
void aq_route_cuda(aq_backend *be, const aq_route_args *args);
void aq_gather_rows_cuda(aq_backend *be, const aq_gather_rows_args *args);
void aq_scatter_add_rows_cuda(aq_backend *be, const aq_scatter_add_rows_args *args);
void aq_pack_rows_cuda(aq_backend *be, const aq_pack_rows_args *args);
void aq_unpack_rows_cuda(aq_backend *be, const aq_unpack_rows_args *args);
void aq_project_cuda(aq_backend *be, const aq_project_args *args);
void aq_topk_dims_cuda(aq_backend *be, const aq_topk_dims_args *args);
void aq_prune_dims_cuda(aq_backend *be, const aq_prune_dims_args *args);

#endif
