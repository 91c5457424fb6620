#include "tests/support/oracle_cache.h"

#include <math.h>
#include <string.h>

/* Bits of column c of n in a coded type. */
static int bits_of(aq_kv_type type, int n, int c) {
    switch (type) {
    case AQ_KV_Q8:
        return 8;
    case AQ_KV_Q6:
        return 6;
    case AQ_KV_Q5:
        return 5;
    case AQ_KV_Q4:
        return 4;
    case AQ_KV_Q5M:
        return n < 4 ? 5 : c < n / 4 ? 6 : c < n / 4 + n / 4 * 2 ? 5 : 4;
    default:
        return 0;
    }
}

static int selector_bits(const aq_kv_view *kv, int c) {
    int end = 0;
    for (int i = 0; i < kv->codes.n_segment; i++) {
        end += kv->codes.segments[i].n;
        if (c < end) return kv->codes.segments[i].bits;
    }
    return 0;
}

static int selector_columns(const aq_kv_view *kv) {
    int c = 0;
    while (selector_bits(kv, c) > 0)
        c++;
    return c;
}

static int64_t plane_bytes(int64_t n, int width) {
    return n * width / 8 + (n * width % 8 > 0);
}

static int64_t run_bytes(int64_t n, int bits) {
    int64_t bytes = 0;
    for (int width = 1; width <= 8; width *= 2)
        if (bits / width % 2 == 1) bytes += plane_bytes(n, width);
    return bytes;
}

/* Entry k of a plane. */
static int digit(const uint8_t *plane, int64_t n, int width, int64_t k, aq_cache_bug bug) {
    const int64_t m = plane_bytes(n, width), pair = 8 / width;
    const int64_t at = bug == AQ_CACHE_PAIRS ? k / pair : k % m;
    const int64_t place = bug == AQ_CACHE_PAIRS ? k % pair : k / m;
    return (int)(plane[at] / (1 << (place * width)) % (1 << width));
}

/* Code k of a run. */
static int code_at(const uint8_t *run, int64_t n, int bits, int64_t k, aq_cache_bug bug) {
    static const int widths[2][4] = {{8, 4, 2, 1}, {1, 2, 4, 8}};
    int code = 0, weight = 1;
    for (int i = 0; i < 4; i++) {
        const int width = widths[bug == AQ_CACHE_PLANES ? 1 : 0][i];
        if (bits / width % 2 == 0) continue;
        code += weight * digit(run, n, width, k, bug);
        weight *= 1 << width;
        run += plane_bytes(n, width);
    }
    return code;
}

/* Code c of a token's runs, one for each stretch of columns of equal bits. */
static int row_code(const uint8_t *row, aq_kv_type type, int n, int c, aq_cache_bug bug) {
    for (int begin = 0;;) {
        const int bits = bits_of(type, n, begin);
        int end = begin;
        while (end < n && bits_of(type, n, end) == bits)
            end++;
        if (c < end) return code_at(row, end - begin, bits, c - begin, bug);
        row += run_bytes(end - begin, bits);
        begin = end;
    }
}

static int64_t row_bytes(aq_kv_type type, int n) {
    int64_t bytes = 0;
    for (int begin = 0, end = 0; begin < n; begin = end) {
        while (end < n && bits_of(type, n, end) == bits_of(type, n, begin))
            end++;
        bytes += run_bytes(end - begin, bits_of(type, n, begin));
    }
    return bytes;
}

static double half_at(const uint8_t *p) {
    const int bits = p[0] + 256 * p[1], exponent = bits / 1024 % 32, fraction = bits % 1024;
    const double size = exponent == 0    ? ldexp(fraction, -24)
                        : exponent == 31 ? (fraction ? NAN : INFINITY)
                                         : ldexp(1024 + fraction, exponent - 25);
    return bits >= 32768 ? -size : size;
}

double aq_cache_get(const void *tensor, aq_kv_type type, int64_t i) {
    float x;
    uint16_t half;
    if (type == AQ_KV_F32) {
        memcpy(&x, (const char *)tensor + 4 * i, 4);
        return (double)x;
    }
    memcpy(&half, (const char *)tensor + 2 * i, 2);
    const int exponent = half / 128 % 256, fraction = half % 128;
    const double size = exponent == 0     ? ldexp(fraction, -133)
                        : exponent == 255 ? (fraction ? NAN : INFINITY)
                                          : ldexp(128 + fraction, exponent - 134);
    return half >= 32768 ? -size : size;
}

void aq_cache_set(void *tensor, aq_kv_type type, int64_t i, float x) {
    if (type == AQ_KV_F32)
        ((float *)tensor)[i] = x;
    else
        ((uint16_t *)tensor)[i] = aq_f32_to_bf16(x);
}

int64_t aq_cache_key_bytes(const aq_kv_view *kv) {
    int64_t bytes = 4 * (int64_t)kv->n_col;
    if (kv->key_type == AQ_KV_F32) return bytes * AQ_TILE;
    if (kv->key_type == AQ_KV_BF16) return bytes / 2 * AQ_TILE;
    if (kv->key_order == AQ_KEYS_BY_TOKEN)
        return bytes + AQ_TILE * row_bytes(kv->key_type, kv->n_col);
    for (int c = 0; c < kv->n_col; c++)
        bytes += run_bytes(AQ_TILE, bits_of(kv->key_type, kv->n_col, c));
    return bytes;
}

int64_t aq_cache_value_bytes(const aq_kv_view *kv) {
    if (kv->value_type == AQ_KV_F32) return 4 * (int64_t)kv->d_head * AQ_TILE;
    if (kv->value_type == AQ_KV_BF16) return 2 * (int64_t)kv->d_head * AQ_TILE;
    return AQ_TILE * (3 + row_bytes(kv->value_type, kv->d_head));
}

int64_t aq_cache_selector_bytes(const aq_kv_view *kv) {
    int64_t bytes = 0;
    for (int c = 0; selector_bits(kv, c) > 0; c++)
        bytes += 3 + run_bytes(AQ_TILE, selector_bits(kv, c));
    return bytes;
}

static const uint8_t *key_block(const aq_kv_view *kv, int64_t tile, int g) {
    return (const uint8_t *)kv->keys + (tile * kv->n_kv_head + g) * aq_cache_key_bytes(kv);
}

static const uint8_t *value_block(const aq_kv_view *kv, int64_t tile, int g) {
    return (const uint8_t *)kv->values + (tile * kv->n_kv_head + g) * aq_cache_value_bytes(kv);
}

static const uint8_t *selector_block(const aq_kv_view *kv, int64_t tile, int g) {
    return (const uint8_t *)kv->selector + (tile * kv->n_kv_head + g) * aq_cache_selector_bytes(kv);
}

double aq_cache_key_step(const aq_kv_view *kv, int64_t tile, int g, int c) {
    if (kv->key_type < AQ_KV_Q8) return 0.0;
    return half_at(key_block(kv, tile, g) + 2 * (kv->n_col + c));
}

double aq_cache_value_step(const aq_kv_view *kv, int64_t tile, int g, int s) {
    return kv->value_type < AQ_KV_Q8 ? 0.0 : half_at(value_block(kv, tile, g) + 2 * s);
}

double aq_cache_key(const aq_kv_view *kv, int64_t tile, int g, int s, int c, aq_cache_bug bug) {
    const int n = kv->n_col;
    const bool by_token = (kv->key_order == AQ_KEYS_BY_TOKEN) != (bug == AQ_CACHE_ORDER);
    const int64_t at = by_token ? (int64_t)s * n + c : (int64_t)c * AQ_TILE + s;
    if (tile == kv->open_tile && kv->open_keys && bug != AQ_CACHE_CLOSED)
        return (double)kv->open_keys[(int64_t)g * n * AQ_TILE + at];
    const uint8_t *block = key_block(kv, tile, g), *run = block + 4 * n;
    if (kv->key_type < AQ_KV_Q8) return aq_cache_get(block, kv->key_type, at);
    const int from = bug == AQ_CACHE_NEIGHBOUR ? (c + 1) % n : c;
    const double low = half_at(block + 2 * c), step = aq_cache_key_step(kv, tile, g, from);
    if (kv->key_order == AQ_KEYS_BY_TOKEN)
        return low + step * row_code(run + s * row_bytes(kv->key_type, n), kv->key_type, n, c, bug);
    for (int before = 0; before < c; before++)
        run += run_bytes(AQ_TILE, bits_of(kv->key_type, n, before));
    return low + step * code_at(run, AQ_TILE, bits_of(kv->key_type, n, c), s, bug);
}

double aq_cache_value(const aq_kv_view *kv, int64_t tile, int g, int s, int i, aq_cache_bug bug) {
    const int n = kv->d_head;
    const int64_t at = (int64_t)s * n + i;
    if (tile == kv->open_tile && kv->open_values && bug != AQ_CACHE_CLOSED)
        return (double)kv->open_values[(int64_t)g * n * AQ_TILE + at];
    const uint8_t *block = value_block(kv, tile, g);
    if (kv->value_type < AQ_KV_Q8) return aq_cache_get(block, kv->value_type, at);
    const int from = bug == AQ_CACHE_NEIGHBOUR ? (s + 1) % AQ_TILE : s;
    const uint8_t *rows = block + 3 * AQ_TILE;
    const int code = row_code(rows + s * row_bytes(kv->value_type, n), kv->value_type, n, i, bug);
    const int zero = bug == AQ_CACHE_ZERO ? 0 : block[2 * AQ_TILE + s];
    return aq_cache_value_step(kv, tile, g, from) * (code - zero);
}

static double step8_value(int step8, aq_cache_bug bug) {
    if (step8 == 0) return 0.0;
    return ldexp(1.0 + (bug == AQ_CACHE_STEP8 ? 0 : step8 % 8) / 8.0, step8 / 8 - 24);
}

double aq_cache_selector_step(const aq_kv_view *kv, int64_t tile, int g, int c) {
    return step8_value(selector_block(kv, tile, g)[2 * selector_columns(kv) + c], AQ_CACHE_RIGHT);
}

double aq_cache_selector_middle(const aq_kv_view *kv, int64_t tile, int g, int c) {
    const int bits = selector_bits(kv, c);
    const double base = half_at(selector_block(kv, tile, g) + 2 * c);
    if (bits < 3) return base;
    return base + aq_cache_selector_step(kv, tile, g, c) * ((1 << bits) - 1) / 2.0;
}

double aq_cache_selector(const aq_kv_view *kv, int64_t tile, int g, int s, int c,
                         aq_cache_bug bug) {
    static const double level2[] = {-1.510, -0.453, 0.453, 1.510}, level1[] = {-0.7979, 0.7979};
    const int n = selector_columns(kv), bits = selector_bits(kv, c);
    const uint8_t *block = selector_block(kv, tile, g), *run = block + 3 * n;
    int first = 0, end = 0; /* columns of the segment */
    for (int i = 0; end <= c; i++) {
        first = end;
        end += kv->codes.segments[i].n;
    }
    const int quad = first + (c - first) / 4 * 4, width = end - quad < 4 ? end - quad : 4;
    for (int before = 0; before < quad; before++)
        run += run_bytes(AQ_TILE, selector_bits(kv, before));
    const int at = bug == AQ_CACHE_ORDER ? (c - quad) * AQ_TILE + s : s * width + c - quad;
    const int code = code_at(run, width * AQ_TILE, bits, at, bug);
    const double level = bits == 1                             ? level1[code]
                         : bits == 2 && bug != AQ_CACHE_LEVELS ? level2[code]
                                                               : code;
    const int from = bug == AQ_CACHE_NEIGHBOUR ? (c + 1) % n : c;
    return half_at(block + 2 * c) + step8_value(block[2 * n + from], bug) * level;
}
