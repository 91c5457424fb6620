#include "tests/support/backend_poisoned.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/support/backend_operations.h"

/* 0xff in every byte is NaN as float, half and bfloat16, and -1 as an integer. */
#define ZONE_BYTES 256
#define ZONE_FILL  0xff

/* All blocks lie in one range of addresses, so that one call hides or shows them. */
#define RANGE_BYTES ((size_t)8 << 30)
#define PAGE_BYTES  4096
#define ALIGN_BYTES 64

typedef struct block block;
struct block {
    uint8_t *memory; /* zone, `bytes` bytes, zone */
    size_t bytes;
    block *next;
};

typedef struct {
    aq_backend base;
    aq_backend *inner;
    uint8_t *range; /* [RANGE_BYTES], of which `used` have been given out */
    size_t used;
    bool hidden;
    block *blocks;
    int64_t n_alloc, n_live;
    bool damaged; /* found in a block already released */
} poisoned;

static void protect(poisoned *p, int access) {
    const size_t bytes = (p->used + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (bytes > 0 && mprotect(p->range, bytes, access) != 0) abort();
}

/* Between these the memory can be used. */
static poisoned *show(aq_backend *be) {
    poisoned *p = (poisoned *)be;
    if (p->hidden) protect(p, PROT_READ | PROT_WRITE);
    return p;
}

static void hide(poisoned *p) {
    if (p->hidden) protect(p, PROT_NONE);
}

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
    if (bytes > RANGE_BYTES - p->used - 2 * ZONE_BYTES - ALIGN_BYTES)
        return aq_fail(AQ_ERR_MEMORY, "no memory for %zu bytes", bytes);
    block *b = malloc(sizeof *b);
    if (!b) return aq_fail(AQ_ERR_MEMORY, "no memory for the record of a block");
    *b = (block){p->range + p->used, bytes, p->blocks};
    p->used += (bytes + 2 * ZONE_BYTES + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    protect(p, PROT_READ | PROT_WRITE);
    memset(b->memory, ZONE_FILL, ZONE_BYTES);
    memset(b->memory + ZONE_BYTES + bytes, ZONE_FILL, ZONE_BYTES);
    hide(p);
    p->blocks = b;
    p->n_alloc++;
    p->n_live++;
    *out = b->memory + ZONE_BYTES;
    return AQ_OK;
}

static size_t poisoned_room(aq_backend *be) {
    return RANGE_BYTES - ((const poisoned *)be)->used;
}

/* Memory of blocks released before is given out again, zeroed, when none is out. */
static void reuse(poisoned *p) {
    if (p->n_live > 0) return;
    if (madvise(p->range, p->used, MADV_DONTNEED) != 0) abort();
    protect(p, PROT_NONE);
    p->used = 0;
}

static void poisoned_release(aq_backend *be, void *memory) {
    poisoned *p = show(be);
    bool found = !memory;
    for (block **link = &p->blocks; *link; link = &(*link)->next) {
        block *b = *link;
        if (b->memory + ZONE_BYTES != memory) continue;
        p->damaged = p->damaged || !block_intact(b);
        memset(memory, ZONE_FILL, b->bytes);
        *link = b->next;
        free(b);
        p->n_live--;
        found = true;
        break;
    }
    p->damaged = p->damaged || !found; /* not a block of ours */
    hide(p);
    reuse(p);
}

static void poisoned_close(aq_backend *be) {
    poisoned *p = (poisoned *)be;
    if (!p) return;
    while (p->blocks)
        poisoned_release(be, p->blocks->memory + ZONE_BYTES);
    p->inner->ops->close(p->inner);
    munmap(p->range, RANGE_BYTES);
    free(p);
}

static void poisoned_upload(aq_backend *be, void *to, const void *from, size_t bytes) {
    poisoned *p = show(be);
    p->inner->ops->upload(p->inner, to, from, bytes);
    hide(p);
}

static void poisoned_download(aq_backend *be, void *to, const void *from, size_t bytes) {
    poisoned *p = show(be);
    p->inner->ops->download(p->inner, to, from, bytes);
    hide(p);
}

static void poisoned_copy(aq_backend *be, void *to, const void *from, size_t bytes) {
    poisoned *p = show(be);
    p->inner->ops->copy(p->inner, to, from, bytes);
    hide(p);
}

static void poisoned_clear(aq_backend *be, void *memory, size_t bytes) {
    poisoned *p = show(be);
    p->inner->ops->clear(p->inner, memory, bytes);
    hide(p);
}

static aq_status poisoned_sync(aq_backend *be) {
    aq_backend *inner = ((poisoned *)be)->inner;
    return inner->ops->sync(inner);
}

/* The operation of that name on memory that is shown for as long. */
#define OPERATION(name)                                                                            \
    static void poisoned_##name(aq_backend *be, const aq_##name##_args *args) {                    \
        poisoned *p = show(be);                                                                    \
        p->inner->ops->name(p->inner, args);                                                       \
        hide(p);                                                                                   \
    }

AQ_EACH_OPERATION(OPERATION)
OPERATION(matmul_each)
OPERATION(attn_pages)
OPERATION(select_totals)

#define ENTRY(op) .op = poisoned_##op,

static const aq_backend_ops poisoned_ops = {.alloc = poisoned_alloc,
                                            .room = poisoned_room,
                                            .release = poisoned_release,
                                            .close = poisoned_close,
                                            .upload = poisoned_upload,
                                            .download = poisoned_download,
                                            .copy = poisoned_copy,
                                            .clear = poisoned_clear,
                                            .sync = poisoned_sync,
                                            .matmul_each = poisoned_matmul_each,
                                            .attn_pages = poisoned_attn_pages,
                                            .select_totals = poisoned_select_totals,
                                            AQ_EACH_OPERATION(ENTRY)};

aq_status aq_backend_poisoned_open(aq_backend *inner, aq_backend **out) {
    *out = NULL;
    poisoned *p = calloc(1, sizeof *p);
    void *range =
        mmap(NULL, RANGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!p || range == MAP_FAILED) {
        if (range != MAP_FAILED) munmap(range, RANGE_BYTES);
        free(p);
        inner->ops->close(inner);
        return aq_fail(AQ_ERR_MEMORY, "no memory for a poisoned backend");
    }
    p->base = (aq_backend){.ops = &poisoned_ops, .host_memory = true};
    p->inner = inner;
    p->range = range;
    *out = &p->base;
    return AQ_OK;
}

void aq_backend_poisoned_hide(aq_backend *be) {
    poisoned *p = (poisoned *)be;
    p->base.host_memory = false;
    p->hidden = true;
    hide(p);
}

bool aq_backend_poisoned_intact(aq_backend *be) {
    poisoned *p = show(be);
    bool intact = !p->damaged;
    for (const block *b = p->blocks; b && intact; b = b->next)
        intact = block_intact(b);
    hide(p);
    return intact;
}

int64_t aq_backend_poisoned_allocs(const aq_backend *be) {
    return ((const poisoned *)be)->n_alloc;
}

int64_t aq_backend_poisoned_live(const aq_backend *be) {
    return ((const poisoned *)be)->n_live;
}
