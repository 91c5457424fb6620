#include "kernels/codes.h"

#include <math.h>

#include "kernels/code_column.h"

const float aq_code_levels[2][4] = {{-0.7979f, 0.7979f}, {-1.510f, -0.453f, 0.453f, 1.510f}};

static void pack_plane(const uint8_t *codes, int n, int width, int shift, uint8_t *plane) {
    const int m = (n * width + 7) / 8, mask = (1 << width) - 1;
    memset(plane, 0, (size_t)m);
    for (int from = 0, up = 0; from < n; from += m, up += width) {
        const int end = n - from < m ? n - from : m;
        for (int i = 0; i < end; i++)
            plane[i] = (uint8_t)(plane[i] | (codes[from + i] >> shift & mask) << up);
    }
}

void aq_codes_pack(const uint8_t *codes, int n, int bits, uint8_t *run) {
    int shift = 0;
    for (int width = 8; width > 0; width /= 2) {
        if (!(bits & width)) continue;
        pack_plane(codes, n, width, shift, run);
        run += (n * width + 7) / 8;
        shift += width;
    }
}

/* step8 counts up as floats do that have 3 bits behind the exponent: cut after adding `up`. */
static uint8_t step8_of(float step, uint32_t up) {
    uint32_t bits;
    memcpy(&bits, &step, sizeof bits);
    const int64_t step8 = (((int64_t)bits + up) >> 20) - ((127 - 24) << 3);
    return (uint8_t)(step8 < 0 ? 0 : step8 > 255 ? 255 : step8);
}

uint8_t aq_step8_near(float step) {
    const uint8_t step8 = step8_of(step, 0x7ffffu);
    return step8 == 0 && step > 0.5f * aq_step8_value(1) ? 1 : step8;
}

uint8_t aq_step8_above(float step) {
    const uint8_t step8 = step8_of(step, 0xfffffu);
    return step8 == 0 && step > 0.0f ? 1 : step8;
}

static int top_code(int bits) {
    return (1 << bits) - 1;
}

/* The largest half that is not above x, or the least there is; and the other way. */
static uint16_t f16_below(float x) {
    const uint16_t h = aq_f32_to_f16(x);
    if (aq_f16_to_f32(h) <= x || h == 0xfbff) return h;
    return (uint16_t)(h & 0x8000 ? h + 1 : h - 1);
}

static uint16_t f16_above(float x) {
    return f16_below(-x) ^ 0x8000;
}

static void find_range(const float *x, int n, float *low, float *high) {
    *low = *high = x[0];
    for (int i = 1; i < n; i++) {
        *low = x[i] < *low ? x[i] : *low;
        *high = x[i] > *high ? x[i] : *high;
    }
}

/* codes[i] = the whole number nearest to (x[i] - low) / step, from 0 to top; step 0 gives 0. */
static void quantise(const float *x, int n, float low, float step, int top, uint8_t *codes) {
    const float inverse = step > 0.0f ? 1.0f / step : 0.0f;
    for (int i = 0; i < n; i++) {
        float code = (x[i] - low) * inverse + 0.5f;
        code = code > 0.0f ? code : 0.0f;
        code = code < (float)top ? code : (float)top;
        codes[i] = (uint8_t)(int)code;
    }
}

static void put_f16(uint8_t *to, int64_t i, uint16_t h) {
    memcpy(to + 2 * i, &h, sizeof h);
}

/* Column c of a tile of keys as AQ_TILE consecutive numbers: in place, or gathered into `column`.
 */
static const float *take_column(const aq_kv_view *kv, const float *tile, int c, float *column) {
    if (kv->key_order == AQ_KEYS_BY_COLUMN) return tile + (int64_t)c * AQ_TILE;
    for (int s = 0; s < AQ_TILE; s++)
        column[s] = tile[(int64_t)s * kv->n_col + c];
    return column;
}

/* Codes of one column of keys; low and step go to the head of the block. Rounded down and up, they
 * take in the whole range. */
static void code_column(const float *x, int bits, uint16_t *low, uint16_t *step, uint8_t *codes) {
    float least, most;
    find_range(x, AQ_TILE, &least, &most);
    *low = f16_below(least);
    const float base = aq_f16_to_f32(*low);
    *step = most > base ? f16_above((most - base) / (float)top_code(bits)) : 0;
    quantise(x, AQ_TILE, base, aq_f16_to_f32(*step), top_code(bits), codes);
}

/* The runs of token s, whose codes lie AQ_TILE apart. Returns the first byte behind. */
static uint8_t *pack_token(const aq_code_layout *layout, const uint8_t *codes, int s, uint8_t *row,
                           uint8_t *run) {
    for (int i = 0, c = 0; i < layout->n_segment; i++) {
        const aq_code_segment segment = layout->segments[i];
        for (int j = 0; j < segment.n; j++, c++)
            row[j] = codes[(int64_t)c * AQ_TILE + s];
        aq_codes_pack(row, segment.n, segment.bits, run);
        run += aq_code_run_bytes(segment.n, segment.bits);
    }
    return run;
}

/* Numbers that stay numbers. */
static void store_numbers(aq_kv_type type, const float *from, int64_t n, void *to) {
    if (type == AQ_KV_F32) {
        memcpy(to, from, (size_t)n * sizeof *from);
        return;
    }
    uint16_t *half = to;
    for (int64_t i = 0; i < n; i++)
        half[i] = aq_f32_to_bf16(from[i]);
}

int64_t aq_code_work_bytes(const aq_kv_view *kv) {
    const int64_t keys = ((int64_t)AQ_TILE + 1) * kv->n_col; /* a tile of codes, and one token */
    return keys > kv->d_head ? keys : kv->d_head;
}

void aq_code_keys(const aq_kv_view *kv, const float *tile, uint8_t *work, void *block) {
    if (!aq_kv_type_coded(kv->key_type)) {
        store_numbers(kv->key_type, tile, (int64_t)kv->n_col * AQ_TILE, block);
        return;
    }
    const aq_code_layout layout = aq_kv_type_layout(kv->key_type, kv->n_col);
    const int n_col = kv->n_col;
    uint8_t *head = block, *run = head + 4 * (int64_t)n_col;
    for (int c = 0; c < n_col; c++) {
        float gathered[AQ_TILE];
        const int bits = aq_code_layout_bits_at(&layout, c);
        uint8_t *codes = work + (int64_t)c * AQ_TILE;
        uint16_t low, step;
        code_column(take_column(kv, tile, c, gathered), bits, &low, &step, codes);
        put_f16(head, c, low);
        put_f16(head, n_col + c, step);
        if (kv->key_order == AQ_KEYS_BY_TOKEN) continue;
        aq_codes_pack(codes, AQ_TILE, bits, run);
        run += aq_code_run_bytes(AQ_TILE, bits);
    }
    for (int s = 0; s < AQ_TILE && kv->key_order == AQ_KEYS_BY_TOKEN; s++)
        run = pack_token(&layout, work, s, work + (int64_t)n_col * AQ_TILE, run);
}

/* Step and zero of one value: the range of each segment, from the least of all, fits its codes. */
static uint16_t value_scale(const aq_code_layout *layout, const float *x, uint8_t *zero) {
    float low = 0.0f, step = 0.0f;
    const float *at = x;
    for (int i = 0; i < layout->n_segment; at += layout->segments[i++].n) {
        float least, most;
        find_range(at, layout->segments[i].n, &least, &most);
        low = least < low ? least : low;
    }
    at = x;
    for (int i = 0; i < layout->n_segment; at += layout->segments[i++].n) {
        float least, most;
        find_range(at, layout->segments[i].n, &least, &most);
        const float needed =
            ((most > 0.0f ? most : 0.0f) - low) / (float)top_code(layout->segments[i].bits);
        step = needed > step ? needed : step;
    }
    const uint16_t half = step > 0.0f ? f16_above(step) : 0;
    *zero = half == 0 ? 0 : (uint8_t)(int)fminf(-low / aq_f16_to_f32(half) + 0.5f, 255.0f);
    return half;
}

void aq_code_values(const aq_kv_view *kv, const float *tile, uint8_t *work, void *block) {
    if (!aq_kv_type_coded(kv->value_type)) {
        store_numbers(kv->value_type, tile, (int64_t)AQ_TILE * kv->d_head, block);
        return;
    }
    const aq_code_layout layout = aq_kv_type_layout(kv->value_type, kv->d_head);
    uint8_t *steps = block, *zeros = steps + 2 * AQ_TILE, *run = zeros + AQ_TILE;
    for (int s = 0; s < AQ_TILE; s++) {
        const float *x = tile + (int64_t)s * kv->d_head;
        const uint16_t half = value_scale(&layout, x, &zeros[s]);
        const float step = aq_f16_to_f32(half), low = -step * (float)zeros[s];
        put_f16(steps, s, half);
        for (int i = 0; i < layout.n_segment; i++) {
            const aq_code_segment segment = layout.segments[i];
            quantise(x, segment.n, low, step, top_code(segment.bits), work);
            aq_codes_pack(work, segment.n, segment.bits, run);
            run += aq_code_run_bytes(segment.n, segment.bits);
            x += segment.n;
        }
    }
}

/* Packs n columns of codes, at most 4, with those of a token together. Returns the first byte
 * behind. */
static uint8_t *pack_quad(const aq_column_codes *columns, int n, int bits, uint8_t *run) {
    uint8_t mixed[4 * AQ_TILE];
    for (int s = 0; s < AQ_TILE; s++)
        for (int k = 0; k < n; k++)
            mixed[s * n + k] = columns[k].code[s];
    aq_codes_pack(mixed, n * AQ_TILE, bits, run);
    return run + aq_code_run_bytes(n * AQ_TILE, bits);
}

void aq_code_selector(const aq_kv_view *kv, const float *tile, void *block) {
    const int n_column = aq_code_layout_columns(&kv->codes);
    uint8_t *bases = block, *steps = bases + 2 * (int64_t)n_column, *run = steps + n_column;
    for (int i = 0, c = 0; i < kv->codes.n_segment; i++) {
        const aq_code_segment segment = kv->codes.segments[i];
        for (int left = segment.n, n; left > 0; left -= n) {
            aq_column_codes columns[4];
            n = left < 4 ? left : 4;
            for (int k = 0; k < n; k++, c++) {
                float gathered[AQ_TILE];
                aq_column_fit(take_column(kv, tile, c, gathered), segment.bits, &columns[k]);
                put_f16(bases, c, columns[k].base);
                steps[c] = columns[k].step8;
            }
            run = pack_quad(columns, n, segment.bits, run);
        }
    }
}
