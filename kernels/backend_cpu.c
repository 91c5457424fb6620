/* The CPU backend: memory, choice of instruction set, and the table. */
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "kernels/cpu.h"

#define ALIGN_BYTES      64
#define LARGE_PAGE_BYTES ((size_t)2 << 20)

static const char *const isa_names[] = {"portable", "avx2", "avx512", "avx512vnni"};

/* A cache is read from end to end for every token: with pages of 4 KiB, finding them takes as long
 * as the reading. Where it is refused nothing is lost but time. */
static void ask_large_pages(void *memory, size_t bytes) {
#ifdef MADV_HUGEPAGE
    if (bytes >= LARGE_PAGE_BYTES)
        madvise(memory, bytes / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)bytes;
#endif
}

static aq_status cpu_alloc(aq_backend *be, size_t bytes, void **out) {
    (void)be;
    *out = NULL;
    if (bytes > SIZE_MAX - ALIGN_BYTES)
        return aq_fail(AQ_ERR_MEMORY, "%zu bytes asked for: more than memory can hold", bytes);
    const size_t align = bytes < LARGE_PAGE_BYTES ? ALIGN_BYTES : LARGE_PAGE_BYTES;
    const size_t whole = (bytes / ALIGN_BYTES + 1) * ALIGN_BYTES;
    void *memory = aligned_alloc(align, (whole + align - 1) / align * align);
    if (!memory) return aq_fail(AQ_ERR_MEMORY, "no memory for %zu bytes", bytes);
    ask_large_pages(memory, whole);
    memset(memory, 0, whole);
    *out = memory;
    return AQ_OK;
}

static size_t cpu_room(aq_backend *be) {
    (void)be;
    return 0;
}

static void cpu_release(aq_backend *be, void *memory) {
    (void)be;
    free(memory);
}

static void cpu_close(aq_backend *be) {
    aq_cpu *cpu = (aq_cpu *)be;
    if (!cpu) return;
    aq_threads_close(cpu->threads);
    free(cpu->scratch);
    free(cpu);
}

static void cpu_copy(aq_backend *be, void *to, const void *from, size_t bytes) {
    (void)be;
    if (bytes > 0) memcpy(to, from, bytes);
}

static void cpu_clear(aq_backend *be, void *memory, size_t bytes) {
    (void)be;
    if (bytes > 0) memset(memory, 0, bytes);
}

static aq_status cpu_sync(aq_backend *be) {
    (void)be;
    return AQ_OK;
}

static void cpu_embed(aq_backend *be, const aq_embed_args *args) {
    aq_embed_cpu((aq_cpu *)be, args);
}

static void cpu_rmsnorm(aq_backend *be, const aq_rmsnorm_args *args) {
    aq_rmsnorm_cpu((aq_cpu *)be, args);
}

static void cpu_layernorm(aq_backend *be, const aq_layernorm_args *args) {
    aq_layernorm_cpu((aq_cpu *)be, args);
}

static void cpu_matmul(aq_backend *be, const aq_matmul_args *args) {
    aq_matmul_cpu((aq_cpu *)be, args);
}

static void cpu_matmul_each(aq_backend *be, const aq_matmul_each_args *args) {
    aq_matmul_each_cpu((aq_cpu *)be, args);
}

static void cpu_add_bias(aq_backend *be, const aq_add_bias_args *args) {
    aq_add_bias_cpu((aq_cpu *)be, args);
}

static void cpu_rope_table(aq_backend *be, const aq_rope_table_args *args) {
    aq_rope_table_cpu((aq_cpu *)be, args);
}

static void cpu_rope(aq_backend *be, const aq_rope_args *args) {
    aq_rope_cpu((aq_cpu *)be, args);
}

static void cpu_activate(aq_backend *be, const aq_activate_args *args) {
    aq_activate_cpu((aq_cpu *)be, args);
}

static void cpu_route(aq_backend *be, const aq_route_args *args) {
    aq_route_cpu((aq_cpu *)be, args);
}

static void cpu_gather_rows(aq_backend *be, const aq_gather_rows_args *args) {
    aq_gather_rows_cpu((aq_cpu *)be, args);
}

static void cpu_scatter_add_rows(aq_backend *be, const aq_scatter_add_rows_args *args) {
    aq_scatter_add_rows_cpu((aq_cpu *)be, args);
}

static void cpu_pack_rows(aq_backend *be, const aq_pack_rows_args *args) {
    aq_pack_rows_cpu((aq_cpu *)be, args);
}

static void cpu_unpack_rows(aq_backend *be, const aq_unpack_rows_args *args) {
    aq_unpack_rows_cpu((aq_cpu *)be, args);
}

static void cpu_project(aq_backend *be, const aq_project_args *args) {
    aq_project_cpu((aq_cpu *)be, args);
}

static void cpu_topk_dims(aq_backend *be, const aq_topk_dims_args *args) {
    aq_topk_dims_cpu((aq_cpu *)be, args);
}

static void cpu_prune_dims(aq_backend *be, const aq_prune_dims_args *args) {
    aq_prune_dims_cpu((aq_cpu *)be, args);
}

static void cpu_kv_append(aq_backend *be, const aq_kv_append_args *args) {
    aq_kv_append_cpu((aq_cpu *)be, args);
}

static void cpu_kv_read(aq_backend *be, const aq_kv_read_args *args) {
    aq_kv_read_cpu((aq_cpu *)be, args);
}

static void cpu_code_selector(aq_backend *be, const aq_code_selector_args *args) {
    aq_code_selector_cpu((aq_cpu *)be, args);
}

static void cpu_attn_partial(aq_backend *be, const aq_attn_partial_args *args) {
    aq_attn_partial_cpu((aq_cpu *)be, args);
}

static void cpu_attn_select(aq_backend *be, const aq_attn_select_args *args) {
    aq_attn_select_cpu((aq_cpu *)be, args);
}

static void cpu_select_totals(aq_backend *be, const aq_select_totals_args *args) {
    aq_select_totals_cpu((aq_cpu *)be, args);
}

static void cpu_attn_mass(aq_backend *be, const aq_attn_mass_args *args) {
    aq_attn_mass_cpu((aq_cpu *)be, args);
}

static void cpu_attn_merge(aq_backend *be, const aq_attn_merge_args *args) {
    aq_attn_merge_cpu((aq_cpu *)be, args);
}

static void cpu_attn_pages(aq_backend *be, const aq_attn_pages_args *args) {
    aq_attn_pages_cpu((aq_cpu *)be, args);
}

static const aq_backend_ops cpu_ops = {
    .alloc = cpu_alloc,
    .room = cpu_room,
    .release = cpu_release,
    .close = cpu_close,
    .upload = cpu_copy,
    .download = cpu_copy,
    .copy = cpu_copy,
    .clear = cpu_clear,
    .sync = cpu_sync,
    .embed = cpu_embed,
    .rmsnorm = cpu_rmsnorm,
    .layernorm = cpu_layernorm,
    .matmul = cpu_matmul,
    .matmul_each = cpu_matmul_each,
    .add_bias = cpu_add_bias,
    .rope_table = cpu_rope_table,
    .rope = cpu_rope,
    .activate = cpu_activate,
    .route = cpu_route,
    .gather_rows = cpu_gather_rows,
    .scatter_add_rows = cpu_scatter_add_rows,
    .pack_rows = cpu_pack_rows,
    .unpack_rows = cpu_unpack_rows,
    .project = cpu_project,
    .topk_dims = cpu_topk_dims,
    .prune_dims = cpu_prune_dims,
    .kv_append = cpu_kv_append,
    .kv_read = cpu_kv_read,
    .code_selector = cpu_code_selector,
    .attn_partial = cpu_attn_partial,
    .attn_select = cpu_attn_select,
    .attn_mass = cpu_attn_mass,
    .attn_merge = cpu_attn_merge,
    .attn_pages = cpu_attn_pages,
    .select_totals = cpu_select_totals,
};

aq_cpu_isa aq_cpu_isa_best(void) {
    const aq_cpu_isa has = aq_cpu_isa_detect();
    const char *wish = getenv("AQUA_ISA");
    if (!wish) return has;
    for (aq_cpu_isa isa = AQ_ISA_PORTABLE; isa < has; isa++)
        if (strcmp(wish, isa_names[isa]) == 0) return isa;
    return has;
}

const char *aq_cpu_isa_name(aq_cpu_isa isa) {
    return isa_names[isa];
}

const aq_simd *aq_cpu_simd(aq_cpu_isa isa) {
    static const aq_simd *const tables[AQ_ISAS] = {&aq_simd_portable, &aq_simd_avx2,
                                                   &aq_simd_avx512, &aq_simd_avx512vnni};
    return tables[isa];
}

aq_status aq_backend_cpu_open(int n_thread, aq_cpu_isa isa, aq_backend **out) {
    *out = NULL;
    if (isa > aq_cpu_isa_best())
        return aq_fail(AQ_ERR_UNSUPPORTED, "this processor or AQUA_ISA does not allow %s; use %s",
                       aq_cpu_isa_name(isa), aq_cpu_isa_name(aq_cpu_isa_best()));
    aq_status status = AQ_OK;
    aq_cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu) return aq_fail(AQ_ERR_MEMORY, "no memory for a CPU backend");
    cpu->base = (aq_backend){.ops = &cpu_ops, .host_memory = true};
    cpu->isa = isa;
    cpu->simd = aq_cpu_simd(isa);
    status = aq_threads_open(n_thread, &cpu->threads);
    if (status != AQ_OK) goto done;
    const int n = aq_threads_count(cpu->threads);
    cpu->scratch = aligned_alloc(ALIGN_BYTES, (size_t)aq_backend_cpu_bytes(n));
    if (!cpu->scratch)
        status = aq_fail(AQ_ERR_MEMORY, "no memory for the scratch of %d threads", n);
done:
    if (status != AQ_OK)
        cpu_close(&cpu->base);
    else
        *out = &cpu->base;
    return status;
}

int64_t aq_backend_cpu_bytes(int n_thread) {
    return n_thread * (int64_t)AQ_CPU_SCRATCH_BYTES;
}

int aq_backend_cpu_threads(const aq_backend *be) {
    return aq_threads_count(((const aq_cpu *)be)->threads);
}
