#include "src/base/arena.h"

#include <assert.h>

void *aq_arena_carve(aq_arena *arena, size_t count, size_t elem_bytes) {
    size_t bytes = (count * elem_bytes + AQ_ARENA_ALIGN - 1) / AQ_ARENA_ALIGN * AQ_ARENA_ALIGN;
    char *at = arena->base ? arena->base + arena->used : NULL;
    arena->used += bytes;
    assert(!arena->base || arena->used <= arena->capacity);
    return at;
}
