/* Arena: measuring and carving agree, pieces are aligned and apart. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/arena.h"
#include "tests/support/suite.h"

#define N_PIECE 5

static const struct {
    size_t count, elem_bytes;
} wanted[N_PIECE] = {{1, 1}, {3, 8}, {0, 16}, {64, 1}, {1000, 12}};

static void carve_all(aq_arena *arena, char *pieces[N_PIECE]) {
    for (int i = 0; i < N_PIECE; i++)
        pieces[i] = aq_arena_carve(arena, wanted[i].count, wanted[i].elem_bytes);
}

static void measuring_counts_and_gives_no_memory(void) {
    char *pieces[N_PIECE];
    aq_arena arena = aq_arena_measure();
    carve_all(&arena, pieces);
    for (int i = 0; i < N_PIECE; i++)
        CU_ASSERT_PTR_NULL(pieces[i]);
    CU_ASSERT_EQUAL(arena.used, 64 + 64 + 0 + 64 + 12032);
}

static void measured_memory_is_enough(void) {
    char *pieces[N_PIECE];
    aq_arena measure = aq_arena_measure();
    carve_all(&measure, pieces);
    char *memory = aligned_alloc(AQ_ARENA_ALIGN, measure.used);
    CU_ASSERT_PTR_NOT_NULL_FATAL(memory);
    aq_arena arena = aq_arena_over(memory, measure.used);
    carve_all(&arena, pieces);
    CU_ASSERT_EQUAL(arena.used, measure.used);
    for (int i = 0; i < N_PIECE; i++)
        memset(pieces[i], i + 1, wanted[i].count * wanted[i].elem_bytes);
    for (int i = 0; i < N_PIECE; i++) {
        CU_ASSERT_EQUAL((uintptr_t)pieces[i] % AQ_ARENA_ALIGN, 0);
        for (size_t at = 0; at < wanted[i].count * wanted[i].elem_bytes; at++)
            CU_ASSERT_EQUAL(pieces[i][at], i + 1);
    }
    free(memory);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "measuring counts and gives no memory",
                measuring_counts_and_gives_no_memory);
    CU_add_test(suite, "measured memory is enough", measured_memory_is_enough);
}
