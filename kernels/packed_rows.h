/* Rows of numbers as they travel between ranks. A packed row is whole words of 4 bytes:
 *
 *   the n_exact numbers behind the columns, fp32;
 *   if n_dim < n_col, a mask of n_col bits: bit c % 32 of word c / 32 says that column c is sent;
 *   the columns that are sent, rising, in fp32, or with bf16 two in a word, the first in the low
 *   half, an odd last one with a half of 0.
 *
 *   pack_rows    makes packed rows of rows x and, where not all are sent, of the columns dims
 *   unpack_rows  and back: x of columns that were not sent is 0
 *
 * A mask takes less than the 16-bit index of each column for n_dim > n_col / 16. Tolerance: fp32
 * exact; bf16 rounded to nearest even, NaN stays NaN. */
#ifndef AQ_KERNELS_PACKED_ROWS_H
#define AQ_KERNELS_PACKED_ROWS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int n_col;
    int n_dim;   /* columns that are sent; n_col: all */
    int n_exact; /* numbers of a row behind its columns, in fp32 in any case */
    bool bf16;
} aq_row_form;

typedef struct {
    aq_row_form form;
    const float *x;      /* [n_row, n_col + n_exact] */
    const int16_t *dims; /* [n_row, n_dim] rising; not read where all are sent */
    int64_t n_row;
    uint32_t *packed; /* [n_row, aq_row_words] */
} aq_pack_rows_args;

typedef struct {
    aq_row_form form;
    const uint32_t *packed; /* [n_row, aq_row_words] */
    int64_t n_row;
    float *x;      /* [n_row, n_col + n_exact] */
    int16_t *dims; /* [n_row, n_dim]; not written where all are sent */
} aq_unpack_rows_args;

/* Words of the mask. Local. */
static inline int aq_row_mask_words(const aq_row_form *form) {
    return form->n_dim < form->n_col ? (form->n_col + 31) / 32 : 0;
}

/* Words of a packed row. Local. */
static inline int64_t aq_row_words(const aq_row_form *form) {
    const int n_value_word = form->bf16 ? (form->n_dim + 1) / 2 : form->n_dim;
    return form->n_exact + aq_row_mask_words(form) + n_value_word;
}

#endif
