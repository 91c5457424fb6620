#include "tests/support/backend_poisoned.h"

#include <stdlib.h>
#include <string.h>

/* 0xff in every byte is NaN as float, half and bfloat16, and -1 as an integer. */
#define ZONE_BYTES 256
#define ZONE_FILL  0xff

typedef struct block block;
struct block {
    uint8_t *memory; /* zone, `bytes` bytes, zone */
    size_t bytes;
    block *next;
};

typedef struct {
    aq_backend base;
    aq_backend *inner;
    block *blocks;
    int64_t n_alloc, n_live;
    bool damaged; /* found in a block already released */
} poisoned;

static bool zone_intact(const uint8_t *zone) {
    for (int i = 0; i < ZONE_BYTES; i++)
        if (zone[i] != ZONE_FILL) return false;
    return true;
}

static bool block_intact(const block *b) {
    return zone_intact(b->memory) && zone_intact(b->memory + ZONE_BYTES + b->bytes);
}

static aq_status poisoned_alloc(aq_backend *be, size_t bytes, void **out) {
    poisoned *p = (poisoned *)be;
    *out = NULL;
    if (bytes > SIZE_MAX - 2 * ZONE_BYTES)
        return aq_fail(AQ_ERR_MEMORY, "%zu bytes asked for: more than memory can hold", bytes);
    block *b = malloc(sizeof *b);
    if (!b) return aq_fail(AQ_ERR_MEMORY, "no memory for the record of a block");
    void *memory;
    const aq_status status = p->inner->ops->alloc(p->inner, bytes + 2 * ZONE_BYTES, &memory);
    if (status != AQ_OK) {
        free(b);
        return status;
    }
    *b = (block){memory, bytes, p->blocks};
    memset(b->memory, ZONE_FILL, ZONE_BYTES);
    memset(b->memory + ZONE_BYTES + bytes, ZONE_FILL, ZONE_BYTES);
    p->blocks = b;
    p->n_alloc++;
    p->n_live++;
    *out = b->memory + ZONE_BYTES;
    return AQ_OK;
}

static void poisoned_release(aq_backend *be, void *memory) {
    poisoned *p = (poisoned *)be;
    if (!memory) return;
    for (block **link = &p->blocks; *link; link = &(*link)->next) {
        block *b = *link;
        if (b->memory + ZONE_BYTES != memory) continue;
        p->damaged = p->damaged || !block_intact(b);
        *link = b->next;
        p->inner->ops->release(p->inner, b->memory);
        free(b);
        p->n_live--;
        return;
    }
    p->damaged = true; /* not a block of ours */
}

static void poisoned_close(aq_backend *be) {
    poisoned *p = (poisoned *)be;
    if (!p) return;
    while (p->blocks)
        poisoned_release(be, p->blocks->memory + ZONE_BYTES);
    p->inner->ops->close(p->inner);
    free(p);
}

static void poisoned_embed(aq_backend *be, const aq_embed_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->embed(inner, args);
}

static void poisoned_rmsnorm(aq_backend *be, const aq_rmsnorm_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->rmsnorm(inner, args);
}

static void poisoned_layernorm(aq_backend *be, const aq_layernorm_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->layernorm(inner, args);
}

static void poisoned_matmul(aq_backend *be, const aq_matmul_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->matmul(inner, args);
}

static void poisoned_matmul_each(aq_backend *be, const aq_matmul_each_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->matmul_each(inner, args);
}

static void poisoned_add_bias(aq_backend *be, const aq_add_bias_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->add_bias(inner, args);
}

static void poisoned_rope_table(aq_backend *be, const aq_rope_table_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->rope_table(inner, args);
}

static void poisoned_rope(aq_backend *be, const aq_rope_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->rope(inner, args);
}

static void poisoned_activate(aq_backend *be, const aq_activate_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->activate(inner, args);
}

static void poisoned_route(aq_backend *be, const aq_route_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->route(inner, args);
}

static void poisoned_gather_rows(aq_backend *be, const aq_gather_rows_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->gather_rows(inner, args);
}

static void poisoned_scatter_add_rows(aq_backend *be, const aq_scatter_add_rows_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->scatter_add_rows(inner, args);
}

static void poisoned_project(aq_backend *be, const aq_project_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->project(inner, args);
}

static void poisoned_topk_dims(aq_backend *be, const aq_topk_dims_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->topk_dims(inner, args);
}

static void poisoned_prune_dims(aq_backend *be, const aq_prune_dims_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->prune_dims(inner, args);
}

static void poisoned_kv_append(aq_backend *be, const aq_kv_append_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->kv_append(inner, args);
}

static void poisoned_kv_read(aq_backend *be, const aq_kv_read_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->kv_read(inner, args);
}

static void poisoned_code_selector(aq_backend *be, const aq_code_selector_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->code_selector(inner, args);
}

static void poisoned_attn_partial(aq_backend *be, const aq_attn_partial_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->attn_partial(inner, args);
}

static void poisoned_attn_select(aq_backend *be, const aq_attn_select_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->attn_select(inner, args);
}

static void poisoned_attn_mass(aq_backend *be, const aq_attn_mass_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->attn_mass(inner, args);
}

static void poisoned_attn_merge(aq_backend *be, const aq_attn_merge_args *args) {
    aq_backend *inner = ((poisoned *)be)->inner;
    inner->ops->attn_merge(inner, args);
}

static const aq_backend_ops poisoned_ops = {
    .alloc = poisoned_alloc,
    .release = poisoned_release,
    .close = poisoned_close,
    .embed = poisoned_embed,
    .rmsnorm = poisoned_rmsnorm,
    .layernorm = poisoned_layernorm,
    .matmul = poisoned_matmul,
    .matmul_each = poisoned_matmul_each,
    .add_bias = poisoned_add_bias,
    .rope_table = poisoned_rope_table,
    .rope = poisoned_rope,
    .activate = poisoned_activate,
    .route = poisoned_route,
    .gather_rows = poisoned_gather_rows,
    .scatter_add_rows = poisoned_scatter_add_rows,
    .project = poisoned_project,
    .topk_dims = poisoned_topk_dims,
    .prune_dims = poisoned_prune_dims,
    .kv_append = poisoned_kv_append,
    .kv_read = poisoned_kv_read,
    .code_selector = poisoned_code_selector,
    .attn_partial = poisoned_attn_partial,
    .attn_select = poisoned_attn_select,
    .attn_mass = poisoned_attn_mass,
    .attn_merge = poisoned_attn_merge,
};

aq_status aq_backend_poisoned_open(aq_backend *inner, aq_backend **out) {
    *out = NULL;
    poisoned *p = calloc(1, sizeof *p);
    if (!p) {
        inner->ops->close(inner);
        return aq_fail(AQ_ERR_MEMORY, "no memory for a poisoned backend");
    }
    p->base.ops = &poisoned_ops;
    p->inner = inner;
    *out = &p->base;
    return AQ_OK;
}

bool aq_backend_poisoned_intact(const aq_backend *be) {
    const poisoned *p = (const poisoned *)be;
    for (const block *b = p->blocks; b; b = b->next)
        if (!block_intact(b)) return false;
    return !p->damaged;
}

int64_t aq_backend_poisoned_allocs(const aq_backend *be) {
    return ((const poisoned *)be)->n_alloc;
}

int64_t aq_backend_poisoned_live(const aq_backend *be) {
    return ((const poisoned *)be)->n_live;
}
