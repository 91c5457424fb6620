#include "src/model/name_index.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

aq_status aq_name_index_open(uint64_t n, aq_name_index *out) {
    uint64_t n_slot = 2;
    *out = (aq_name_index){NULL, 0};
    if (n <= SIZE_MAX / (8 * sizeof *out->slots)) {
        while (n_slot < 2 * n)
            n_slot *= 2;
        out->slots = calloc((size_t)n_slot, sizeof *out->slots);
    }
    if (!out->slots)
        return aq_fail(AQ_ERR_MEMORY, "no memory for a table of %llu names", (unsigned long long)n);
    out->n_slot = n_slot;
    return AQ_OK;
}

void aq_name_index_close(aq_name_index *index) {
    free(index->slots);
    *index = (aq_name_index){NULL, 0};
}

/* The slot that holds the name, or the free one where it belongs. */
static aq_name_slot *slot_of(const aq_name_index *index, const char *name, size_t bytes) {
    uint64_t i = XXH3_64bits(name, bytes);
    for (;; i++) {
        aq_name_slot *slot = &index->slots[i & (index->n_slot - 1)];
        if (!slot->name) return slot;
        if (slot->bytes == bytes && memcmp(slot->name, name, bytes) == 0) return slot;
    }
}

bool aq_name_index_add(aq_name_index *index, const char *name, size_t bytes, int64_t value) {
    aq_name_slot *slot = slot_of(index, name, bytes);
    if (slot->name) return false;
    *slot = (aq_name_slot){name, bytes, value};
    return true;
}

int64_t aq_name_index_find(const aq_name_index *index, const char *name, size_t bytes) {
    if (index->n_slot == 0) return -1;
    const aq_name_slot *slot = slot_of(index, name, bytes);
    return slot->name ? slot->value : -1;
}
