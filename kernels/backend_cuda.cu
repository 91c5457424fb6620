/* The CUDA backend: memory, copies, failures, and the table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda_model_parts.h"
#include "kernels/cuda_parts.h"

#define ALIGN_BYTES 256

/* Keeps the first failure: what follows it is its consequence. */
static void fail(aq_cuda *cuda, aq_status code, const char *operation, const char *text) {
    if (cuda->failed != AQ_OK) return;
    cuda->failed = code;
    snprintf(cuda->failure, sizeof cuda->failure, "cuda:%d, %s: %s", cuda->device, operation, text);
}

static void check(aq_cuda *cuda, cudaError_t error, const char *operation) {
    if (error == cudaSuccess) return;
    fail(cuda, error == cudaErrorMemoryAllocation ? AQ_ERR_MEMORY : AQ_ERR_UNSUPPORTED, operation,
         cudaGetErrorString(error));
}

void aq_cuda_check(aq_cuda *cuda, const char *operation) {
    check(cuda, cudaGetLastError(), operation);
}

void aq_cuda_check_blas(aq_cuda *cuda, cublasStatus_t status, const char *operation) {
    if (status != CUBLAS_STATUS_SUCCESS)
        fail(cuda, AQ_ERR_UNSUPPORTED, operation, cublasGetStatusString(status));
}

static aq_status cuda_alloc(aq_backend *be, size_t bytes, void **out) {
    aq_cuda *cuda = aq_cuda_of(be);
    *out = NULL;
    if (bytes > SIZE_MAX - ALIGN_BYTES)
        return aq_fail(AQ_ERR_MEMORY, "%zu bytes asked for: more than memory can hold", bytes);
    const size_t whole = (bytes / ALIGN_BYTES + 1) * ALIGN_BYTES;
    cudaSetDevice(cuda->device);
    void *memory = NULL;
    if (cudaMalloc(&memory, whole) != cudaSuccess) {
        size_t n_free = 0, total = 0;
        cudaGetLastError(); /* not the failure of a later launch */
        cudaMemGetInfo(&n_free, &total);
        return aq_fail(AQ_ERR_MEMORY, "cuda:%d has no memory for %zu bytes: %zu of %zu are free",
                       cuda->device, bytes, n_free, total);
    }
    check(cuda, cudaMemsetAsync(memory, 0, whole, cuda->stream), "alloc");
    *out = memory;
    return AQ_OK;
}

static size_t cuda_room(aq_backend *be) {
    size_t n_free = 0, total = 0;
    cudaSetDevice(aq_cuda_of(be)->device);
    cudaMemGetInfo(&n_free, &total);
    return n_free;
}

static void cuda_release(aq_backend *be, void *memory) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (!memory) return;
    cudaSetDevice(cuda->device);
    check(cuda, cudaFree(memory), "release"); /* waits for the operations that use it */
}

static void cuda_close(aq_backend *be) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (!cuda) return;
    cudaSetDevice(cuda->device);
    if (cuda->stream) cudaStreamSynchronize(cuda->stream);
    if (cuda->blas) cublasDestroy(cuda->blas);
    cudaFree(cuda->scratch);
    if (cuda->stream) cudaStreamDestroy(cuda->stream);
    free(cuda);
}

/* From memory that is not pinned the driver has taken a copy when it returns. */
static void cuda_upload(aq_backend *be, void *to, const void *from, size_t bytes) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (bytes == 0) return;
    check(cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda->stream), "upload");
}

static void cuda_download(aq_backend *be, void *to, const void *from, size_t bytes) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (bytes > 0)
        check(cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda->stream),
              "download");
    check(cuda, cudaStreamSynchronize(cuda->stream), "download");
}

static void cuda_copy(aq_backend *be, void *to, const void *from, size_t bytes) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (bytes == 0) return;
    check(cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda->stream), "copy");
}

static void cuda_clear(aq_backend *be, void *memory, size_t bytes) {
    aq_cuda *cuda = aq_cuda_of(be);
    if (bytes > 0) check(cuda, cudaMemsetAsync(memory, 0, bytes, cuda->stream), "clear");
}

static aq_status cuda_sync(aq_backend *be) {
    aq_cuda *cuda = aq_cuda_of(be);
    check(cuda, cudaStreamSynchronize(cuda->stream), "sync");
    const aq_status failed = cuda->failed;
    cuda->failed = AQ_OK;
    return failed == AQ_OK ? AQ_OK : aq_fail(failed, "%s", cuda->failure);
}

static aq_backend_ops make_ops() {
    aq_backend_ops ops = {};
    ops.alloc = cuda_alloc;
    ops.room = cuda_room;
    ops.release = cuda_release;
    ops.close = cuda_close;
    ops.upload = cuda_upload;
    ops.download = cuda_download;
    ops.copy = cuda_copy;
    ops.clear = cuda_clear;
    ops.sync = cuda_sync;
    ops.embed = aq_embed_cuda;
    ops.rmsnorm = aq_rmsnorm_cuda;
    ops.layernorm = aq_layernorm_cuda;
    ops.matmul = aq_matmul_cuda;
    ops.matmul_each = aq_matmul_each_cuda;
    ops.add_bias = aq_add_bias_cuda;
    ops.rope_table = aq_rope_table_cuda;
    ops.rope = aq_rope_cuda;
    ops.activate = aq_activate_cuda;
    ops.route = aq_route_cuda;
    ops.gather_rows = aq_gather_rows_cuda;
    ops.scatter_add_rows = aq_scatter_add_rows_cuda;
    ops.pack_rows = aq_pack_rows_cuda;
    ops.unpack_rows = aq_unpack_rows_cuda;
    ops.project = aq_project_cuda;
    ops.topk_dims = aq_topk_dims_cuda;
    ops.prune_dims = aq_prune_dims_cuda;
    ops.kv_append = aq_kv_append_cuda;
    ops.kv_read = aq_kv_read_cuda;
    ops.code_selector = aq_code_selector_cuda;
    ops.attn_partial = aq_attn_partial_cuda;
    ops.attn_select = aq_attn_select_cuda;
    ops.attn_mass = aq_attn_mass_cuda;
    ops.attn_merge = aq_attn_merge_cuda;
    return ops;
}

static const aq_backend_ops cuda_ops = make_ops();

int aq_backend_cuda_devices(void) {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return n;
}

const char *aq_backend_cuda_name(int device, char *out, size_t bytes) {
    cudaDeviceProp properties;
    const bool known = cudaGetDeviceProperties(&properties, device) == cudaSuccess;
    if (!known) cudaGetLastError();
    snprintf(out, bytes, "%s", known ? properties.name : "no device");
    return out;
}

/* Code for sm_90a runs on devices of 9.0 alone. */
static bool is_hopper(aq_cuda *cuda) {
    const char *wanted = getenv("AQUA_CUDA_HOPPER");
    int major = 0, minor = 0;
    check(cuda, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, cuda->device),
          "open");
    check(cuda, cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, cuda->device),
          "open");
    return major == 9 && minor == 0 && !(wanted && strcmp(wanted, "0") == 0);
}

static aq_status open_parts(aq_cuda *cuda) {
    const char *math = getenv("AQUA_CUDA_MATH");
    int bytes = 0;
    if (math && strcmp(math, "fp32") != 0)
        return aq_fail(AQ_ERR_USAGE, "AQUA_CUDA_MATH=%s: fp32 is all it can be", math);
    cuda->exact = math;
    check(cuda, cudaSetDevice(cuda->device), "open");
    check(cuda, cudaDeviceGetAttribute(&cuda->n_sm, cudaDevAttrMultiProcessorCount, cuda->device),
          "open");
    check(cuda,
          cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, cuda->device),
          "open");
    cuda->shared_bytes = (size_t)bytes;
    cuda->hopper = is_hopper(cuda);
    check(cuda, cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking), "open");
    check(cuda, cudaMalloc(&cuda->scratch, AQ_CUDA_SCRATCH_BYTES), "open");
    cuda->scratch_bytes = AQ_CUDA_SCRATCH_BYTES;
    if (cuda->failed == AQ_OK) aq_cuda_check_blas(cuda, cublasCreate(&cuda->blas), "open");
    if (cuda->failed == AQ_OK)
        aq_cuda_check_blas(cuda, cublasSetStream(cuda->blas, cuda->stream), "open");
    return cuda->failed == AQ_OK ? AQ_OK : aq_fail(cuda->failed, "%s", cuda->failure);
}

aq_status aq_backend_cuda_open(int device, aq_backend **out) {
    *out = NULL;
    int n = 0;
    const cudaError_t error = cudaGetDeviceCount(&n);
    cudaGetLastError();
    if (error != cudaSuccess || n == 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "no CUDA device here: %s; use --device cpu",
                       error == cudaSuccess ? "none is visible" : cudaGetErrorString(error));
    if (device < 0 || device >= n)
        return aq_fail(AQ_ERR_USAGE, "cuda:%d: this host has CUDA devices 0 to %d", device, n - 1);
    aq_cuda *cuda = (aq_cuda *)calloc(1, sizeof *cuda);
    if (!cuda) return aq_fail(AQ_ERR_MEMORY, "no memory for a CUDA backend");
    cuda->base.ops = &cuda_ops;
    cuda->device = device;
    const aq_status status = open_parts(cuda);
    if (status != AQ_OK)
        cuda_close(&cuda->base);
    else
        *out = &cuda->base;
    return status;
}
