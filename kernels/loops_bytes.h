/* Private to kernels/, included by simd.c only: attention on rows of codes of 8 bits as they are
 * stored, without numbers in memory between. simd.h says what each does. */
#ifndef AQ_KERNELS_LOOPS_BYTES_H
#define AQ_KERNELS_LOOPS_BYTES_H

/* A part of a product is a few rows of the result and up to BYTE_FOLD codes; what it needs of them
 * is folded into the factors first, but where few rows of codes are multiplied along. */
#include "kernels/loops_bytes_few.h"

#ifdef AQ_DOT_BYTES
#include "kernels/loops_bytes_digits.h"
#else
#include "kernels/loops_bytes_floats.h"
#endif

static void mix_bytes(const aq_mix_bytes_args *args) {
    bytes_part part;
    part.from = 0;
    do {
        part.n = args->n - part.from < BYTE_FOLD ? args->n - part.from : BYTE_FOLD;
        for (part.row = 0; part.row < args->n_row; part.row += BYTE_ROWS)
            switch (args->n_row - part.row) {
            case 1:
                mix_bytes_strip(args, &part, 1);
                break;
            case 2:
                mix_bytes_strip(args, &part, 2);
                break;
            case 3:
                mix_bytes_strip(args, &part, 3);
                break;
            default:
                mix_bytes_strip(args, &part, BYTE_ROWS);
                break;
            }
        part.from += BYTE_FOLD;
    } while (part.from < args->n);
}

static void dot_bytes(const aq_dot_bytes_args *args) {
#ifdef AQ_DOT_BYTES
    if (args->n > DOT_FEW) {
        dot_digits(args);
        return;
    }
#endif
    dot_numbers(args);
}

#endif
