/* A table from names to numbers, filled once: finds a name, and a name given twice, in constant
 * time. The names' bytes are borrowed. */
#ifndef AQ_MODEL_NAME_INDEX_H
#define AQ_MODEL_NAME_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

typedef struct {
    const char *name; /* NULL: free */
    size_t bytes;
    int64_t value;
} aq_name_slot;

typedef struct {
    aq_name_slot *slots; /* open addressing; at least twice as many as names */
    uint64_t n_slot;     /* a power of two */
} aq_name_index;

/* An empty table with room for n names. The caller closes it. AQ_ERR_MEMORY. Local. */
aq_status aq_name_index_open(uint64_t n, aq_name_index *out);

/* Frees the table; a zeroed struct is allowed. Local. */
void aq_name_index_close(aq_name_index *index);

/* Adds a name, at most the n of open in all. False if it is there already. Local. */
bool aq_name_index_add(aq_name_index *index, const char *name, size_t bytes, int64_t value);

/* The value of a name, or -1. Local. */
int64_t aq_name_index_find(const aq_name_index *index, const char *name, size_t bytes);

#endif
