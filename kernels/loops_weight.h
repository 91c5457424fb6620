/* Private to kernels/, included by simd.c only: stored weights to floats, and their product with a
 * few tokens.
 *
 * Every type is read in groups of 32 elements. One `unpack_` function per type turns a group into
 * the floats the format defines; all of them round once (the products of a scale and a code fit 24
 * bits), so the values are the same on every instruction set. Block layouts: docs/formats.md. */
#ifndef AQ_KERNELS_LOOPS_WEIGHT_H
#define AQ_KERNELS_LOOPS_WEIGHT_H

#include <string.h>

#define GROUP         32
#define GROUP_VECTORS (GROUP / AQ_LANES)
#define HALF_VECTORS  (GROUP_VECTORS / 2)
#define ROWS_AT_ONCE  4
#define TOKS_AT_ONCE  4

/* Rows lie one behind the other, so the bytes R rows ahead of the ones in work are the next needed.
 * The processor sees R streams of a few hundred bytes and does not guess that; asked for this far
 * ahead, memory delivers twice as fast (2 to 8 KiB measured alike). */
#define AHEAD_BYTES 4096
#define LINE_BYTES  64

/* The unpacking must melt into the loops around it, with `format` a constant. */
#define AQ_MELT static inline __attribute__((always_inline))

typedef struct {
    int block_groups; /* groups in a block */
    int block_bytes;
    bool any_length; /* one element a block: a row may end inside a group */
    void (*unpack)(const uint8_t *block, int group, aq_v *w); /* w [GROUP_VECTORS] */
} weight_format;

AQ_MELT float f16_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return aq_f16_lane(h);
}

AQ_MELT void unpack_f32(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    for (int v = 0; v < GROUP_VECTORS; v++) {
        float lane[AQ_LANES];
        memcpy(lane, block + v * (int)sizeof lane, sizeof lane);
        w[v] = aq_v_load(lane);
    }
}

AQ_MELT void unpack_f16(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    for (int v = 0; v < GROUP_VECTORS; v++)
        w[v] = aq_v_load_f16(block + 2 * AQ_LANES * v);
}

AQ_MELT void unpack_bf16(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    for (int v = 0; v < GROUP_VECTORS; v++)
        w[v] = aq_v_load_bf16(block + 2 * AQ_LANES * v);
}

/* Types of 4 bits with 32 elements a block: the low halves of 16 bytes, then the high halves. */
AQ_MELT void unpack_nibbles(const uint8_t *codes, aq_levels levels, aq_v *w) {
    for (int v = 0; v < HALF_VECTORS; v++) {
        const aq_vi byte = aq_vi_load_u8(codes + AQ_LANES * v);
        w[v] = aq_levels_at(levels, byte);
        w[HALF_VECTORS + v] = aq_levels_at(levels, aq_vi_right(byte, 4));
    }
}

AQ_MELT void unpack_q4_0(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    const float d = f16_at(block);
    unpack_nibbles(block + 2, aq_levels_make(d, -8.0f * d), w);
}

AQ_MELT void unpack_q4_1(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    float pair[2];
    aq_f16_pair(block, pair);
    unpack_nibbles(block + 4, aq_levels_make(pair[0], pair[1]), w);
}

/* The same with a fifth bit for each element, in `high`. */
AQ_MELT void unpack_5bit(const uint8_t *high, const uint8_t *codes, float step, float base,
                         aq_v *w) {
    uint32_t bits;
    memcpy(&bits, high, sizeof bits);
    const aq_vi fifth = aq_vi_set1((int32_t)bits), four = aq_vi_set1(15), one = aq_vi_set1(1);
    for (int v = 0; v < GROUP_VECTORS; v++) {
        const aq_vi byte = aq_vi_load_u8(codes + AQ_LANES * (v % HALF_VECTORS));
        const aq_vi low = aq_vi_and(v < HALF_VECTORS ? byte : aq_vi_right(byte, 4), four);
        const aq_vi at = aq_vi_add(aq_vi_count(), aq_vi_set1(AQ_LANES * v));
        const aq_vi top = aq_vi_left(aq_vi_and(aq_vi_right_each(fifth, at), one), 4);
        w[v] = aq_v_fma(aq_v_from_int(aq_vi_or(low, top)), aq_v_set1(step), aq_v_set1(base));
    }
}

AQ_MELT void unpack_q5_0(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    const float d = f16_at(block);
    unpack_5bit(block + 2, block + 6, d, -16.0f * d, w);
}

AQ_MELT void unpack_q5_1(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    float pair[2];
    aq_f16_pair(block, pair);
    unpack_5bit(block + 4, block + 8, pair[0], pair[1], w);
}

AQ_MELT void unpack_q8_0(const uint8_t *block, int group, aq_v *w) {
    (void)group;
    const aq_v d = aq_v_set1(f16_at(block));
    for (int v = 0; v < GROUP_VECTORS; v++)
        w[v] = aq_v_mul(aq_v_from_int(aq_vi_load_i8(block + 2 + AQ_LANES * v)), d);
}

/* Scale and minimum of sub-block s = 0 .. 7 of Q4_K and Q5_K, six bits each in twelve bytes. */
AQ_MELT void k_scale(const uint8_t *packed, int s, int *scale, int *minimum) {
    if (s < 4) {
        *scale = packed[s] & 63;
        *minimum = packed[s + 4] & 63;
    } else {
        *scale = (packed[s + 4] & 15) | ((packed[s - 4] >> 6) << 4);
        *minimum = (packed[s + 4] >> 4) | ((packed[s] >> 6) << 4);
    }
}

AQ_MELT void unpack_q4_k(const uint8_t *block, int group, aq_v *w) {
    int scale, minimum;
    k_scale(block + 4, group, &scale, &minimum);
    const float step = f16_at(block) * (float)scale;
    const float base = -f16_at(block + 2) * (float)minimum;
    const aq_levels levels = aq_levels_make(step, base);
    const uint8_t *codes = block + 16 + GROUP * (group / 2);
    for (int v = 0; v < GROUP_VECTORS; v++)
        w[v] =
            aq_levels_at(levels, aq_vi_right(aq_vi_load_u8(codes + AQ_LANES * v), 4 * (group % 2)));
}

AQ_MELT void unpack_q5_k(const uint8_t *block, int group, aq_v *w) {
    int scale, minimum;
    k_scale(block + 4, group, &scale, &minimum);
    const aq_v step = aq_v_set1(f16_at(block) * (float)scale);
    const aq_v base = aq_v_set1(-f16_at(block + 2) * (float)minimum);
    const aq_vi four = aq_vi_set1(15), one = aq_vi_set1(1);
    const uint8_t *high = block + 16, *codes = block + 48 + GROUP * (group / 2);
    for (int v = 0; v < GROUP_VECTORS; v++) {
        const aq_vi byte = aq_vi_load_u8(codes + AQ_LANES * v);
        const aq_vi bits = aq_vi_right(aq_vi_load_u8(high + AQ_LANES * v), group);
        const aq_vi code = aq_vi_or(aq_vi_and(aq_vi_right(byte, 4 * (group % 2)), four),
                                    aq_vi_left(aq_vi_and(bits, one), 4));
        w[v] = aq_v_fma(aq_v_from_int(code), step, base);
    }
}

/* Groups 0 .. 3 fill the first half of a Q6_K block, 4 .. 7 the second; each 16 elements have a
 * scale of their own. */
AQ_MELT void unpack_q6_k(const uint8_t *block, int group, aq_v *w) {
    const int half = group / 4, part = group % 4;
    const uint8_t *low = block + 64 * half + GROUP * (part % 2);
    const uint8_t *high = block + 128 + 32 * half;
    const int8_t *scales = (const int8_t *)block + 192 + 8 * half + 2 * part;
    const float d = f16_at(block + 208);
    const aq_vi four = aq_vi_set1(15), two = aq_vi_set1(3), centre = aq_vi_set1(32);
    for (int v = 0; v < GROUP_VECTORS; v++) {
        const aq_vi byte = aq_vi_load_u8(low + AQ_LANES * v);
        const aq_vi bits = aq_vi_right(aq_vi_load_u8(high + AQ_LANES * v), 2 * part);
        const aq_vi code = aq_vi_or(aq_vi_and(aq_vi_right(byte, 4 * (part / 2)), four),
                                    aq_vi_left(aq_vi_and(bits, two), 4));
        const aq_v step = aq_v_set1(d * (float)scales[v / HALF_VECTORS]);
        w[v] = aq_v_mul(aq_v_from_int(aq_vi_sub(code, centre)), step);
    }
}

static const weight_format format_f32 = {1, 4 * GROUP, true, unpack_f32};
static const weight_format format_f16 = {1, 2 * GROUP, true, unpack_f16};
static const weight_format format_bf16 = {1, 2 * GROUP, true, unpack_bf16};
static const weight_format format_q4_0 = {1, 18, false, unpack_q4_0};
static const weight_format format_q4_1 = {1, 20, false, unpack_q4_1};
static const weight_format format_q5_0 = {1, 22, false, unpack_q5_0};
static const weight_format format_q5_1 = {1, 24, false, unpack_q5_1};
static const weight_format format_q8_0 = {1, 34, false, unpack_q8_0};
static const weight_format format_q4_k = {8, 144, false, unpack_q4_k};
static const weight_format format_q5_k = {8, 176, false, unpack_q5_k};
static const weight_format format_q6_k = {8, 210, false, unpack_q6_k};

/* A row that ends inside a group: the rest is copied to where a whole group can be read, with zeros
 * behind it. */
typedef struct {
    _Alignas(64) uint8_t w[ROWS_AT_ONCE][4 * GROUP];
    _Alignas(64) float x[TOKS_AT_ONCE][GROUP];
} short_group;

AQ_MELT void dequantise_as(const weight_format f, const uint8_t *row, int64_t n, float *out) {
    aq_v w[GROUP_VECTORS];
    const int64_t n_block = n / (GROUP * f.block_groups);
    for (int64_t b = 0; b < n_block; b++)
        for (int g = 0; g < f.block_groups; g++) {
            f.unpack(row + b * f.block_bytes, g, w);
            for (int v = 0; v < GROUP_VECTORS; v++)
                aq_v_store(out + (b * f.block_groups + g) * GROUP + AQ_LANES * v, w[v]);
        }
    if (!f.any_length || n % GROUP == 0) return;
    const int64_t done = n_block * GROUP;
    _Alignas(64) uint8_t rest[4 * GROUP] = {0};
    _Alignas(64) float value[GROUP];
    memcpy(rest, row + n_block * f.block_bytes, (size_t)((n - done) * f.block_bytes / GROUP));
    f.unpack(rest, 0, w);
    for (int v = 0; v < GROUP_VECTORS; v++)
        aq_v_store(value + AQ_LANES * v, w[v]);
    memcpy(out + done, value, (size_t)(n - done) * sizeof *out);
}

/* sum[r][t] += the product of one group of R rows with T tokens. */
AQ_MELT void dot_group(const weight_format f, const int R, const int T, const uint8_t *const *block,
                       int group, const float *const *x, int64_t at,
                       aq_v sum[ROWS_AT_ONCE][TOKS_AT_ONCE]) {
    for (int r = 0; r < R; r++) {
        aq_v w[GROUP_VECTORS];
        f.unpack(block[r], group, w);
        for (int v = 0; v < GROUP_VECTORS; v++)
            for (int t = 0; t < T; t++)
                sum[r][t] = aq_v_fma(w[v], aq_v_load(x[t] + at + AQ_LANES * v), sum[r][t]);
    }
}

/* R rows from `row` on with T tokens from `tok` on. */
AQ_MELT void dot_tile(const weight_format f, const int R, const int T, const aq_dot_rows_args *a,
                      int64_t row, int64_t tok) {
    const uint8_t *block[ROWS_AT_ONCE];
    const float *x[TOKS_AT_ONCE];
    aq_v sum[ROWS_AT_ONCE][TOKS_AT_ONCE];
    for (int r = 0; r < R; r++)
        block[r] = a->w + (row + r) * a->row_bytes;
    for (int t = 0; t < T; t++)
        x[t] = a->x + (tok + t) * a->n_in;
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            sum[r][t] = aq_v_set1(0.0f);
    const int64_t n_group = a->n_in / GROUP;
    uintptr_t ahead = (uintptr_t)block[0] + AHEAD_BYTES;
    for (int64_t i = 0; i < n_group; i += f.block_groups) {
        for (int line = 0; line < R * f.block_bytes; line += LINE_BYTES)
            __builtin_prefetch((const void *)(ahead + (uintptr_t)line));
        ahead += (uintptr_t)(R * f.block_bytes);
        for (int g = 0; g < f.block_groups; g++)
            dot_group(f, R, T, block, g, x, (i + g) * GROUP, sum);
        for (int r = 0; r < R; r++)
            block[r] += f.block_bytes;
    }
    if (f.any_length && a->n_in % GROUP != 0) {
        const int64_t n_rest = a->n_in % GROUP;
        short_group rest = {0};
        for (int r = 0; r < R; r++) {
            memcpy(rest.w[r], block[r], (size_t)(n_rest * f.block_bytes / GROUP));
            block[r] = rest.w[r];
        }
        for (int t = 0; t < T; t++) {
            memcpy(rest.x[t], x[t] + n_group * GROUP, (size_t)n_rest * sizeof(float));
            x[t] = rest.x[t];
        }
        dot_group(f, R, T, block, 0, x, 0, sum);
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) {
            float *y = a->y + (tok + t) * a->y_stride + row + r;
            *y = a->accumulate ? *y + aq_v_sum(sum[r][t]) : aq_v_sum(sum[r][t]);
        }
}

/* All rows with T tokens from `tok` on. */
AQ_MELT void dot_columns(const weight_format f, const int R, const int T, const aq_dot_rows_args *a,
                         int64_t tok) {
    int64_t row = 0;
    for (; row + R <= a->n_row; row += R)
        dot_tile(f, R, T, a, row, tok);
    for (; row < a->n_row; row++)
        dot_tile(f, 1, T, a, row, tok);
}

AQ_MELT void dot_rows_as(const weight_format f, const aq_dot_rows_args *a) {
    int64_t tok = 0;
    for (; tok + 4 <= a->n_tok; tok += 4)
        dot_columns(f, 2, 4, a, tok);
    for (; tok + 2 <= a->n_tok; tok += 2)
        dot_columns(f, 2, 2, a, tok);
    for (; tok < a->n_tok; tok++)
        dot_columns(f, ROWS_AT_ONCE, 1, a, tok);
}

static void dequantise(aq_dtype dtype, const uint8_t *row, int64_t n, float *out) {
    switch (dtype) {
    case AQ_F32:
        dequantise_as(format_f32, row, n, out);
        break;
    case AQ_F16:
        dequantise_as(format_f16, row, n, out);
        break;
    case AQ_BF16:
        dequantise_as(format_bf16, row, n, out);
        break;
    case AQ_Q4_0:
        dequantise_as(format_q4_0, row, n, out);
        break;
    case AQ_Q4_1:
        dequantise_as(format_q4_1, row, n, out);
        break;
    case AQ_Q5_0:
        dequantise_as(format_q5_0, row, n, out);
        break;
    case AQ_Q5_1:
        dequantise_as(format_q5_1, row, n, out);
        break;
    case AQ_Q8_0:
        dequantise_as(format_q8_0, row, n, out);
        break;
    case AQ_Q4_K:
        dequantise_as(format_q4_k, row, n, out);
        break;
    case AQ_Q5_K:
        dequantise_as(format_q5_k, row, n, out);
        break;
    case AQ_Q6_K:
        dequantise_as(format_q6_k, row, n, out);
        break;
    }
}

static void dot_rows(const aq_dot_rows_args *a) {
    switch (a->dtype) {
    case AQ_F32:
        dot_rows_as(format_f32, a);
        break;
    case AQ_F16:
        dot_rows_as(format_f16, a);
        break;
    case AQ_BF16:
        dot_rows_as(format_bf16, a);
        break;
    case AQ_Q4_0:
        dot_rows_as(format_q4_0, a);
        break;
    case AQ_Q4_1:
        dot_rows_as(format_q4_1, a);
        break;
    case AQ_Q5_0:
        dot_rows_as(format_q5_0, a);
        break;
    case AQ_Q5_1:
        dot_rows_as(format_q5_1, a);
        break;
    case AQ_Q8_0:
        dot_rows_as(format_q8_0, a);
        break;
    case AQ_Q4_K:
        dot_rows_as(format_q4_k, a);
        break;
    case AQ_Q5_K:
        dot_rows_as(format_q5_k, a);
        break;
    case AQ_Q6_K:
        dot_rows_as(format_q6_k, a);
        break;
    }
}

#endif
