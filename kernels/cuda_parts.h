/* Private to kernels/: the state of the CUDA backend, which every <op>_cuda.cu receives.
 *
 * An operation launches kernels on `stream` and returns: it does not wait, allocates nothing, and
 * reads no memory of the device on the host, so that a step can be captured as a graph. */
#ifndef AQ_KERNELS_CUDA_PARTS_H
#define AQ_KERNELS_CUDA_PARTS_H

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels/backend.h"

/* What an operation may use between its own kernels and leaves nothing of value in. */
#define AQ_CUDA_SCRATCH_BYTES ((size_t)256 << 20)

typedef struct {
    aq_backend base; /* first: an aq_backend * of this kind is an aq_cuda * */
    int device;
    cudaStream_t stream;
    cublasHandle_t blas; /* on `stream`; scalars on the host, no TF32 */
    int n_sm;
    bool exact;          /* AQUA_CUDA_MATH=fp32: no factor of a product is rounded */
    bool hopper;         /* sm_90a runs on it; not with AQUA_CUDA_HOPPER=0 */
    size_t shared_bytes; /* that a block may ask for */
    void *scratch;       /* [scratch_bytes], 256-byte aligned */
    size_t scratch_bytes;
    aq_status failed; /* the first failure since the last sync, and its text */
    char failure[256];
} aq_cuda;

static inline aq_cuda *aq_cuda_of(aq_backend *be) {
    return (aq_cuda *)be;
}

/* After a launch: records that it was refused, under the name of the operation. */
void aq_cuda_check(aq_cuda *cuda, const char *operation);

/* The same for cuBLAS. */
void aq_cuda_check_blas(aq_cuda *cuda, cublasStatus_t status, const char *operation);

void aq_kv_append_cuda(aq_backend *be, const aq_kv_append_args *args);
void aq_kv_read_cuda(aq_backend *be, const aq_kv_read_args *args);
void aq_code_selector_cuda(aq_backend *be, const aq_code_selector_args *args);
void aq_attn_partial_cuda(aq_backend *be, const aq_attn_partial_args *args);
void aq_attn_select_cuda(aq_backend *be, const aq_attn_select_args *args);
void aq_attn_mass_cuda(aq_backend *be, const aq_attn_mass_args *args);
void aq_attn_merge_cuda(aq_backend *be, const aq_attn_merge_args *args);

#endif
