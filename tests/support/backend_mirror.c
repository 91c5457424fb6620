#include "tests/support/backend_mirror.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/backend_operations.h"

#define ALIGN_BYTES 256

typedef struct block block;
struct block {
    char *host;
    void *copy; /* memory of `inner` */
    size_t bytes;
    block *next;
};

typedef struct {
    aq_backend base;
    aq_backend *inner;
    block *blocks;
} mirror;

static aq_status mirror_alloc(aq_backend *be, size_t bytes, void **out) {
    mirror *m = (mirror *)be;
    const size_t whole = (bytes / ALIGN_BYTES + 1) * ALIGN_BYTES;
    block *b = calloc(1, sizeof *b);
    *out = NULL;
    if (b) b->host = aligned_alloc(ALIGN_BYTES, whole);
    if (!b || !b->host || m->inner->ops->alloc(m->inner, bytes, &b->copy) != AQ_OK) {
        if (b) free(b->host);
        free(b);
        return aq_fail(AQ_ERR_MEMORY, "no memory for %zu bytes and their copy", bytes);
    }
    b->bytes = bytes;
    b->next = m->blocks;
    m->blocks = b;
    *out = memset(b->host, 0, whole);
    return AQ_OK;
}

static void mirror_release(aq_backend *be, void *memory) {
    mirror *m = (mirror *)be;
    for (block **at = &m->blocks; *at; at = &(*at)->next) {
        block *b = *at;
        if (b->host != memory) continue;
        *at = b->next;
        m->inner->ops->release(m->inner, b->copy);
        free(b->host);
        free(b);
        return;
    }
}

static void mirror_close(aq_backend *be) {
    mirror *m = (mirror *)be;
    while (m->blocks)
        mirror_release(be, m->blocks->host);
    m->inner->ops->close(m->inner);
    free(m);
}

static void mirror_move(aq_backend *be, void *to, const void *from, size_t bytes) {
    (void)be;
    if (bytes > 0) memcpy(to, from, bytes);
}

static void mirror_clear(aq_backend *be, void *memory, size_t bytes) {
    (void)be;
    if (bytes > 0) memset(memory, 0, bytes);
}

static size_t mirror_room(aq_backend *be) {
    aq_backend *inner = ((mirror *)be)->inner;
    return inner->ops->room(inner);
}

static aq_status mirror_sync(aq_backend *be) {
    aq_backend *inner = ((mirror *)be)->inner;
    return inner->ops->sync(inner);
}

/* Turns words of the arguments that point into a block to its copy. */
static void turn(const mirror *m, void *args, size_t bytes) {
    for (size_t at = 0; at + sizeof(uintptr_t) <= bytes; at += sizeof(uintptr_t)) {
        uintptr_t word;
        memcpy(&word, (char *)args + at, sizeof word);
        for (const block *b = m->blocks; b; b = b->next) {
            const uintptr_t begins = (uintptr_t)b->host;
            if (word < begins || word > begins + b->bytes) continue;
            word = (uintptr_t)b->copy + (word - begins);
            memcpy((char *)args + at, &word, sizeof word);
            break;
        }
    }
}

/* Copies all blocks over, and turns the arguments to them. */
static aq_backend *begin(aq_backend *be, void *args, size_t bytes) {
    mirror *m = (mirror *)be;
    for (block *b = m->blocks; b; b = b->next)
        m->inner->ops->upload(m->inner, b->copy, b->host, b->bytes);
    turn(m, args, bytes);
    return m->inner;
}

static void end(aq_backend *be) {
    mirror *m = (mirror *)be;
    for (block *b = m->blocks; b; b = b->next)
        m->inner->ops->download(m->inner, b->host, b->copy, b->bytes);
}

#define MIRROR(op)                                                                                 \
    static void mirror_##op(aq_backend *be, const aq_##op##_args *args) {                          \
        aq_##op##_args copy = *args;                                                               \
        aq_backend *inner = begin(be, &copy, sizeof copy);                                         \
        inner->ops->op(inner, &copy);                                                              \
        end(be);                                                                                   \
    }

AQ_EACH_OPERATION(MIRROR)

static void mirror_matmul_each(aq_backend *be, const aq_matmul_each_args *args) {
    aq_matmul_part parts[8];
    aq_matmul_each_args copy = *args;
    if ((size_t)args->n_part > sizeof parts / sizeof *parts) abort();
    memcpy(parts, args->parts, (size_t)args->n_part * sizeof *parts);
    aq_backend *inner = begin(be, &copy, sizeof copy);
    turn((const mirror *)be, parts, (size_t)args->n_part * sizeof *parts);
    copy.parts = parts;
    inner->ops->matmul_each(inner, &copy);
    end(be);
}

#define ENTRY(op) .op = mirror_##op,

static const aq_backend_ops mirror_ops = {.alloc = mirror_alloc,
                                          .release = mirror_release,
                                          .close = mirror_close,
                                          .upload = mirror_move,
                                          .download = mirror_move,
                                          .copy = mirror_move,
                                          .clear = mirror_clear,
                                          .room = mirror_room,
                                          .sync = mirror_sync,
                                          .matmul_each = mirror_matmul_each,
                                          AQ_EACH_OPERATION(ENTRY)};

aq_status aq_backend_mirror_open(aq_backend *inner, aq_backend **out) {
    mirror *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m) {
        inner->ops->close(inner);
        return aq_fail(AQ_ERR_MEMORY, "no memory for a mirroring backend");
    }
    m->base = (aq_backend){.ops = &mirror_ops, .host_memory = true};
    m->inner = inner;
    *out = &m->base;
    return AQ_OK;
}
