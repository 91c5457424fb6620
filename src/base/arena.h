/* One block of memory carved up in order.
 *
 * A lifetime (session, step) sizes its block by running its carving once over no memory
 * (aq_arena_measure), then for real (aq_arena_over): the same code gives both the plan and the
 * pointers. The arena does not own the memory. */
#ifndef AQ_BASE_ARENA_H
#define AQ_BASE_ARENA_H

#include <stddef.h>

#define AQ_ARENA_ALIGN 64

typedef struct {
    char *base;      /* NULL while measuring */
    size_t capacity; /* bytes at base */
    size_t used;     /* bytes carved so far */
} aq_arena;

/* An arena that has no memory and only counts. Local. */
static inline aq_arena aq_arena_measure(void) {
    return (aq_arena){NULL, 0, 0};
}

/* An arena over the caller's memory, aligned to AQ_ARENA_ALIGN. Local. */
static inline aq_arena aq_arena_over(void *memory, size_t bytes) {
    return (aq_arena){(char *)memory, bytes, 0};
}

/* The next `count` elements of `elem_bytes`, aligned to AQ_ARENA_ALIGN. While measuring returns
 * NULL and counts; else the carving must fit what was measured (asserted). Local. */
void *aq_arena_carve(aq_arena *arena, size_t count, size_t elem_bytes);

#endif
