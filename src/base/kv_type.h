/* How keys and values are stored in a cache, and how many bytes that takes.
 *
 * f32 and bf16 store numbers. The others store codes: a run of n codes of b bits is a plane of 4
 * bits an entry, then one of 2, then one of 1, as the binary digits of b say (6 = 4 + 2), the first
 * with the lowest bits of the code; 8 bits are one plane of bytes. In a plane of w bits, with
 * m = ceil(n w / 8), byte i holds entries i, i + m, i + 2 m, ... below n, the first in its lowest w
 * bits. */
#ifndef AQ_BASE_KV_TYPE_H
#define AQ_BASE_KV_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/dtype.h"
#include "src/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    AQ_KV_F32,
    AQ_KV_BF16,
    AQ_KV_Q8, /* codes of 8, 6, 5 or 4 bits */
    AQ_KV_Q6,
    AQ_KV_Q5,
    AQ_KV_Q5M, /* bits fall along the columns: a quarter of 6, half of 5, the rest of 4 */
    AQ_KV_Q4,
    AQ_KV_TYPES
} aq_kv_type;

/* Leading columns first: `n` columns of `bits` each. */
typedef struct {
    int n, bits;
} aq_code_segment;

#define AQ_CODE_SEGMENTS 4

/* Bits falling along the columns of a vector. Columns behind the last segment have none. */
typedef struct {
    int n_segment; /* 0: nothing is stored */
    aq_code_segment segments[AQ_CODE_SEGMENTS];
} aq_code_layout;

/* "f32", "bf16", "q8", ... Static. Local. */
const char *aq_kv_type_name(aq_kv_type type);

/* The type of that name; AQ_ERR_USAGE lists them. Local. */
aq_status aq_kv_type_parse(const char *name, aq_kv_type *out);

/* Whether vectors of this type are codes. Local. */
static inline bool aq_kv_type_coded(aq_kv_type type) {
    return type >= AQ_KV_Q8;
}

/* The element type of numbers; of coded types the one they are decoded to. Local. */
static inline aq_dtype aq_kv_type_dtype(aq_kv_type type) {
    return type == AQ_KV_BF16 ? AQ_BF16 : AQ_F32;
}

/* The codes of a vector of n columns of a coded type. Local. */
aq_code_layout aq_kv_type_layout(aq_kv_type type, int n);

/* "16x4,32x2,16x1": columns x bits. Each segment has 1 column at least and 1, 2, 3, 4, 5, 6 or 8
 * bits. AQ_ERR_USAGE says what is wrong. Local. */
aq_status aq_code_layout_parse(const char *text, aq_code_layout *out);

/* Writes the text above, at most `bytes` with the final 0; returns `out`. Local. */
const char *aq_code_layout_text(const aq_code_layout *layout, char *out, size_t bytes);

/* Columns that have codes; bits of all of them together. Local. */
int aq_code_layout_columns(const aq_code_layout *layout);
int aq_code_layout_bits(const aq_code_layout *layout);

/* Bits of column c, 0 behind the last segment. Local. */
int aq_code_layout_bits_at(const aq_code_layout *layout, int c);

/* Bytes of a run of n codes of `bits` bits. Local. */
int64_t aq_code_run_bytes(int n, int bits);

/* Bytes of one vector, a run for each segment. Local. */
int64_t aq_code_row_bytes(const aq_code_layout *layout);

#ifdef __cplusplus
}
#endif
#endif
