/* The seam between the engine and the processors: one table of operations, chosen once when the
 * engine opens.
 *
 * Every operation takes one struct of named arguments; its contract (formula, shapes, tolerance)
 * stands in the header of that operation. Tensors are row-major, last index fastest. All pointers
 * are backend memory but those whose contract says host, and the structs of arguments themselves.
 * Arguments are trusted: the engine has checked shapes once.
 *
 * A backend may work behind the caller: operations run in the order in which they were asked for,
 * and are done when `download` or `sync` has returned. The host reads and writes backend memory
 * itself only where `host_memory` says so. */
#ifndef AQ_KERNELS_BACKEND_H
#define AQ_KERNELS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/activate.h"
#include "kernels/add_bias.h"
#include "kernels/attn_mass.h"
#include "kernels/attn_merge.h"
#include "kernels/attn_pages.h"
#include "kernels/attn_partial.h"
#include "kernels/attn_select.h"
#include "kernels/code_selector.h"
#include "kernels/embed.h"
#include "kernels/kv_append.h"
#include "kernels/kv_read.h"
#include "kernels/layernorm.h"
#include "kernels/matmul.h"
#include "kernels/matmul_each.h"
#include "kernels/packed_rows.h"
#include "kernels/project.h"
#include "kernels/prune_dims.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/route.h"
#include "kernels/rows.h"
#include "kernels/topk_dims.h"
#include "src/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct aq_backend aq_backend;

/* No entry may be NULL (tested), but for the last two: pages serve evaluation, and without totals
 * shards choose each for itself. */
typedef struct {
    /* Zeroed memory, 64-byte aligned, owned by the caller until `release`. AQ_ERR_MEMORY. */
    aq_status (*alloc)(aq_backend *be, size_t bytes, void **out);
    /* Bytes that alloc could still give about now; 0: not known. */
    size_t (*room)(aq_backend *be);
    void (*release)(aq_backend *be, void *memory);
    void (*close)(aq_backend *be);

    /* Host memory to backend memory, in order; `from` may be used again at return. */
    void (*upload)(aq_backend *be, void *to, const void *from, size_t bytes);
    /* Backend memory to host memory; waits for all that was asked for before. */
    void (*download)(aq_backend *be, void *to, const void *from, size_t bytes);
    /* Backend memory to backend memory that does not overlap, in order. */
    void (*copy)(aq_backend *be, void *to, const void *from, size_t bytes);
    /* Zeroes backend memory, in order. */
    void (*clear)(aq_backend *be, void *memory, size_t bytes);
    /* Waits. The first failure since the last call, in one line; what an operation wrote after a
     * failure is not defined. */
    aq_status (*sync)(aq_backend *be);

    void (*embed)(aq_backend *be, const aq_embed_args *args);
    void (*rmsnorm)(aq_backend *be, const aq_rmsnorm_args *args);
    void (*layernorm)(aq_backend *be, const aq_layernorm_args *args);
    void (*matmul)(aq_backend *be, const aq_matmul_args *args);
    void (*matmul_each)(aq_backend *be, const aq_matmul_each_args *args);
    void (*add_bias)(aq_backend *be, const aq_add_bias_args *args);
    void (*rope_table)(aq_backend *be, const aq_rope_table_args *args);
    void (*rope)(aq_backend *be, const aq_rope_args *args);
    void (*activate)(aq_backend *be, const aq_activate_args *args);
    void (*route)(aq_backend *be, const aq_route_args *args);
    void (*gather_rows)(aq_backend *be, const aq_gather_rows_args *args);
    void (*scatter_add_rows)(aq_backend *be, const aq_scatter_add_rows_args *args);
    void (*pack_rows)(aq_backend *be, const aq_pack_rows_args *args);
    void (*unpack_rows)(aq_backend *be, const aq_unpack_rows_args *args);
    void (*project)(aq_backend *be, const aq_project_args *args);
    void (*topk_dims)(aq_backend *be, const aq_topk_dims_args *args);
    void (*prune_dims)(aq_backend *be, const aq_prune_dims_args *args);
    void (*kv_append)(aq_backend *be, const aq_kv_append_args *args);
    void (*kv_read)(aq_backend *be, const aq_kv_read_args *args);
    void (*code_selector)(aq_backend *be, const aq_code_selector_args *args);
    void (*attn_partial)(aq_backend *be, const aq_attn_partial_args *args);
    void (*attn_select)(aq_backend *be, const aq_attn_select_args *args);
    void (*attn_mass)(aq_backend *be, const aq_attn_mass_args *args);
    void (*attn_merge)(aq_backend *be, const aq_attn_merge_args *args);
    void (*attn_pages)(aq_backend *be, const aq_attn_pages_args *args);       /* or NULL */
    void (*select_totals)(aq_backend *be, const aq_select_totals_args *args); /* or NULL */
} aq_backend_ops;

/* A backend starts with its table; each kind keeps its own state behind it. */
struct aq_backend {
    const aq_backend_ops *ops;
    bool host_memory; /* the host may use its memory between operations, as any other */
};

/* Instruction sets of the CPU backend, slowest first. */
typedef enum {
    AQ_ISA_PORTABLE,
    AQ_ISA_AVX2,
    AQ_ISA_AVX512,
    AQ_ISA_AVX512VNNI, /* with products of bytes */
    AQ_ISAS
} aq_cpu_isa;

/* The best instruction set this processor has; the environment variable AQUA_ISA (portable, avx2,
 * avx512, avx512vnni) lowers it. Local. */
aq_cpu_isa aq_cpu_isa_best(void);

/* "portable", "avx2", "avx512", "avx512vnni". Static. Local. */
const char *aq_cpu_isa_name(aq_cpu_isa isa);

/* A CPU backend of n_thread threads (0: one per processor of the affinity mask) using `isa`, which
 * must not exceed aq_cpu_isa_best(). Owned by the caller; end it with be->ops->close(be).
 * AQ_ERR_USAGE, AQ_ERR_MEMORY, AQ_ERR_UNSUPPORTED. Local. */
aq_status aq_backend_cpu_open(int n_thread, aq_cpu_isa isa, aq_backend **out);

/* Number of threads of a CPU backend. Local. */
int aq_backend_cpu_threads(const aq_backend *be);

/* Bytes of working memory that a CPU backend of n_thread threads has. Local. */
int64_t aq_backend_cpu_bytes(int n_thread);

/* Number of CUDA devices that this process can use; 0 also without CUDA. Local. */
int aq_backend_cuda_devices(void);

/* Name of a device, "NVIDIA H100 80GB HBM3", cut to `bytes`; "no device" if there is none. Returns
 * `out`. Local. */
const char *aq_backend_cuda_name(int device, char *out, size_t bytes);

/* A backend on CUDA device `device`. AQUA_CUDA_MATH=fp32 in the environment makes every product
 * one of fp32, which matmul.h leaves to devices for many tokens; AQUA_CUDA_HOPPER=0 leaves out the
 * kernels that are for devices of compute capability 9.0 alone. Owned by the caller; end it with
 * be->ops->close(be). AQ_ERR_UNSUPPORTED without CUDA or a device, AQ_ERR_USAGE if there is no such
 * device, AQ_ERR_MEMORY. Local. */
aq_status aq_backend_cuda_open(int device, aq_backend **out);

#ifdef __cplusplus
}
#endif
#endif
