/* The seam between the engine and the processors: one table of operations, chosen once when the
 * engine opens.
 *
 * Every operation takes one struct of named arguments; its contract (formula, shapes, tolerance)
 * stands in the header of that operation. Tensors are row-major, last index fastest; all pointers
 * are backend memory. Arguments are trusted: the engine has checked shapes once. */
#ifndef AQ_KERNELS_BACKEND_H
#define AQ_KERNELS_BACKEND_H

#include <stddef.h>

#include "kernels/activate.h"
#include "kernels/add_bias.h"
#include "kernels/attn_mass.h"
#include "kernels/attn_merge.h"
#include "kernels/attn_partial.h"
#include "kernels/attn_select.h"
#include "kernels/code_selector.h"
#include "kernels/embed.h"
#include "kernels/kv_append.h"
#include "kernels/kv_read.h"
#include "kernels/layernorm.h"
#include "kernels/matmul.h"
#include "kernels/matmul_each.h"
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

/* No entry may be NULL (tested). */
typedef struct {
    /* Zeroed memory, 64-byte aligned, owned by the caller until `release`. AQ_ERR_MEMORY. */
    aq_status (*alloc)(aq_backend *be, size_t bytes, void **out);
    void (*release)(aq_backend *be, void *memory);
    void (*close)(aq_backend *be);

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
} aq_backend_ops;

/* A backend starts with its table; each kind keeps its own state behind it. */
struct aq_backend {
    const aq_backend_ops *ops;
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

#ifdef __cplusplus
}
#endif
#endif
