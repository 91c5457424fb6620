/* Private to kernels/, included by simd.c only: the product of quantised weights with a few tokens
 * in integers, where the processor multiplies bytes.
 *
 * A token is coded once for all rows: in each group of 32, x = step X with integers
 * abs(X) < 2^21, kept as three digits of eight bits, X = 65536 hi + 256 mid + lo, so that an error
 * of x is at most 2^-22 of the largest in its group. A weight is w = d c + m with a code c of no
 * more than eight bits, d and m those of its block, its group or half of it (K types: a scale and a
 * minimum in d and m), so of the weights with one d
 *
 *   sum_i w_i x_i = d step sum_i c_i X_i + m sum_i step X_i.
 *
 * The left sum is exact: the digits' sums of four products follow each other in 32 bits, as
 * 4 * 255 * 2^21 < 2^31. The right one does not depend on the row. Tokens at once share the codes
 * that were opened; the sums of each are taken in the same order. */
#ifndef AQ_KERNELS_LOOPS_DOT_H
#define AQ_KERNELS_LOOPS_DOT_H

#ifdef AQ_DOT_WEIGHTS

#include "kernels/loops_dot_tile.h"

#define PIECE_ROWS 64

typedef void (*dot_coded_fn)(const aq_dot_rows_args *a, char *coded, int64_t begin, int64_t end,
                             int64_t tok);

/* Functions apart: all in one, the compiler runs out of registers in the innermost loops. */
#define DOT_CODED_FN(name, type, R, T)                                                             \
    static __attribute__((noinline)) void name(const aq_dot_rows_args *a, char *coded,             \
                                               int64_t begin, int64_t end, int64_t tok) {          \
        dot_coded_rows(coded_##type, R, T, a, coded, begin, end, tok);                             \
    }

#define DOT_CODED_FNS(type)                                                                        \
    DOT_CODED_FN(dot_##type##_1, type, ROWS_AT_ONCE, 1)                                            \
    DOT_CODED_FN(dot_##type##_2, type, 2, 2)                                                       \
    DOT_CODED_FN(dot_##type##_4, type, 2, 4)                                                       \
    static const dot_coded_fn dot_##type[] = {dot_##type##_1, dot_##type##_2, dot_##type##_4};

DOT_CODED_FNS(q4_0)
DOT_CODED_FNS(q4_1)
DOT_CODED_FNS(q5_0)
DOT_CODED_FNS(q5_1)
DOT_CODED_FNS(q8_0)
DOT_CODED_FNS(q4_k)
DOT_CODED_FNS(q5_k)
DOT_CODED_FNS(q6_k)

/* Of 1, 2 and 4 tokens; NULL for a type that is not multiplied in integers. */
static const dot_coded_fn *dot_coded_fns(aq_dtype dtype) {
    switch (dtype) {
    case AQ_Q4_0:
        return dot_q4_0;
    case AQ_Q4_1:
        return dot_q4_1;
    case AQ_Q5_0:
        return dot_q5_0;
    case AQ_Q5_1:
        return dot_q5_1;
    case AQ_Q8_0:
        return AQ_DOT_MOST_CODE < 255 ? NULL : dot_q8_0;
    case AQ_Q4_K:
        return dot_q4_k;
    case AQ_Q5_K:
        return dot_q5_k;
    case AQ_Q6_K:
        return dot_q6_k;
    default:
        return NULL;
    }
}

/* Rows in pieces that stay in the nearest caches from one tile of tokens to the next. */
static void dot_coded(const aq_dot_rows_args *a, void *coded) {
    const dot_coded_fn *fns = dot_coded_fns(a->dtype);
    for (int64_t begin = 0; begin < a->n_row; begin += PIECE_ROWS) {
        const int64_t end = a->n_row - begin < PIECE_ROWS ? a->n_row : begin + PIECE_ROWS;
        int64_t tok = 0;
        for (; tok + 4 <= a->n_tok; tok += 4)
            fns[2](a, coded, begin, end, tok);
        for (; tok + 2 <= a->n_tok; tok += 2)
            fns[1](a, coded, begin, end, tok);
        for (; tok < a->n_tok; tok++)
            fns[0](a, coded, begin, end, tok);
    }
}

static bool code_token(aq_dtype dtype, const float *x, int64_t n, void *coded) {
    WITH_CODED(dtype, code_as, x, n, coded)
    return dot_coded_fns(dtype) != NULL;
}

#else

static bool code_token(aq_dtype dtype, const float *x, int64_t n, void *coded) {
    (void)dtype;
    (void)x;
    (void)n;
    (void)coded;
    return false;
}

static void dot_coded(const aq_dot_rows_args *a, void *coded) {
    (void)coded;
    dot_rows(a);
}

#endif
#endif
