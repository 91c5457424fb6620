#include "kernels/kv_decode.h"

/* Working memory: step and low of every column, and of every token; addresses of rows; the codes of
 * a vector. */
static float *steps_in(void *work) {
    return work;
}

static float *lows_in(const aq_kv_view *kv, void *work) {
    return steps_in(work) + kv->n_col;
}

static float *value_steps_in(const aq_kv_view *kv, void *work) {
    return lows_in(kv, work) + kv->n_col;
}

static float *value_lows_in(const aq_kv_view *kv, void *work) {
    return value_steps_in(kv, work) + AQ_TILE;
}

static const uint8_t **rows_in(const aq_kv_view *kv, void *work) {
    return (const uint8_t **)(value_lows_in(kv, work) + AQ_TILE);
}

static int n_row_most(const aq_kv_view *kv) {
    return kv->n_col > AQ_TILE ? kv->n_col : AQ_TILE;
}

static uint8_t *codes_in(const aq_kv_view *kv, void *work) {
    return (uint8_t *)(rows_in(kv, work) + n_row_most(kv));
}

int64_t aq_decode_work_bytes(const aq_kv_view *kv) {
    const int64_t n = n_row_most(kv), most = n > kv->d_head ? n : kv->d_head;
    return 2 * (int64_t)sizeof(float) * (kv->n_col + AQ_TILE) + n * (int64_t)sizeof(uint8_t *) +
           most;
}

static float f16_at(const uint8_t *from, int64_t i) {
    uint16_t half;
    memcpy(&half, from + 2 * i, sizeof half);
    return aq_f16_to_f32(half);
}

const uint8_t *aq_kv_key_block(const aq_kv_view *kv, int64_t tile, int g) {
    return (const uint8_t *)kv->keys + (tile * kv->n_kv_head + g) * aq_kv_key_bytes(kv);
}

const uint8_t *aq_kv_value_block(const aq_kv_view *kv, int64_t tile, int g) {
    return (const uint8_t *)kv->values + (tile * kv->n_kv_head + g) * aq_kv_value_bytes(kv);
}

static void widen_key_scales(const aq_simd *simd, const aq_kv_view *kv, const uint8_t *block,
                             void *work) {
    simd->dequantise(AQ_F16, block, kv->n_col, lows_in(kv, work));
    simd->dequantise(AQ_F16, block + 2 * (int64_t)kv->n_col, kv->n_col, steps_in(work));
}

void aq_decode_key_scales(const aq_simd *simd, const aq_kv_view *kv, int64_t tile, int g,
                          void *work) {
    widen_key_scales(simd, kv, aq_kv_key_block(kv, tile, g), work);
}

void aq_decode_key(const aq_simd *simd, const aq_kv_view *kv, int64_t tile, int g, int s,
                   void *work, float *out) {
    const aq_code_layout layout = aq_kv_type_layout(kv->key_type, kv->n_col);
    const float *steps = steps_in(work), *lows = lows_in(kv, work);
    uint8_t *codes = codes_in(kv, work);
    const uint8_t *run =
        aq_kv_key_block(kv, tile, g) + 4 * (int64_t)kv->n_col + s * aq_code_row_bytes(&layout);
    for (int i = 0, c = 0; i < layout.n_segment; i++) {
        const aq_code_segment segment = layout.segments[i];
        simd->unpack(run, segment.n, segment.bits, codes);
        simd->widen_each(codes, segment.n, steps + c, lows + c, out + c);
        run += aq_code_run_bytes(segment.n, segment.bits);
        c += segment.n;
    }
}

static void decode_columns(const aq_simd *simd, const aq_kv_view *kv, int64_t tile, int g,
                           void *work, float *out) {
    const aq_code_layout layout = aq_kv_type_layout(kv->key_type, kv->n_col);
    const float *steps = steps_in(work), *lows = lows_in(kv, work);
    uint8_t *codes = codes_in(kv, work);
    const uint8_t *run = aq_kv_key_block(kv, tile, g) + 4 * (int64_t)kv->n_col;
    for (int i = 0, c = 0; i < layout.n_segment; i++) {
        const int bits = layout.segments[i].bits;
        for (const int end = c + layout.segments[i].n; c < end; c++) {
            simd->unpack(run, AQ_TILE, bits, codes);
            simd->widen(codes, AQ_TILE, steps[c], lows[c], out + (int64_t)c * AQ_TILE);
            run += aq_code_run_bytes(AQ_TILE, bits);
        }
    }
}

void aq_decode_keys(const aq_simd *simd, const aq_kv_view *kv, int64_t tile, int g, void *work,
                    float *out) {
    aq_decode_key_scales(simd, kv, tile, g, work);
    if (kv->key_order == AQ_KEYS_BY_COLUMN)
        decode_columns(simd, kv, tile, g, work, out);
    else
        for (int s = 0; s < AQ_TILE; s++)
            aq_decode_key(simd, kv, tile, g, s, work, out + (int64_t)s * kv->n_col);
}

void aq_decode_values(const aq_simd *simd, const aq_kv_view *kv, int64_t tile, int g, int first,
                      int n, void *work, float *out) {
    const aq_code_layout layout = aq_kv_type_layout(kv->value_type, kv->d_head);
    const uint8_t *block = aq_kv_value_block(kv, tile, g);
    const uint8_t *zeros = block + 2 * AQ_TILE;
    const uint8_t *run = zeros + AQ_TILE + first * aq_code_row_bytes(&layout);
    uint8_t *codes = codes_in(kv, work);
    for (int s = first; s < first + n; s++) {
        /* Exact: 11 bits by 8, and so is step * code - step * zero. */
        const float step = f16_at(block, s), low = -step * (float)zeros[s];
        for (int i = 0; i < layout.n_segment; i++) {
            const aq_code_segment segment = layout.segments[i];
            simd->unpack(run, segment.n, segment.bits, codes);
            simd->widen(codes, segment.n, step, low, out);
            run += aq_code_run_bytes(segment.n, segment.bits);
            out += segment.n;
        }
    }
}

/* Puts the addresses of n rows of `bytes` bytes that begin at `first` into `work`. */
static const uint8_t **list_rows(const aq_kv_view *kv, const uint8_t *first, int n, int64_t bytes,
                                 void *work) {
    const uint8_t **rows = rows_in(kv, work);
    for (int i = 0; i < n; i++)
        rows[i] = first + i * bytes;
    return rows;
}

aq_kv_rows aq_kv_key_rows(const aq_simd *simd, const aq_kv_view *kv, const uint8_t *block,
                          void *work) {
    const bool by_token = kv->key_order == AQ_KEYS_BY_TOKEN;
    const int n_col = kv->n_col;
    widen_key_scales(simd, kv, block, work);
    return (aq_kv_rows){list_rows(kv, block + 4 * (int64_t)n_col, by_token ? AQ_TILE : n_col,
                                  by_token ? n_col : AQ_TILE, work),
                        steps_in(work), lows_in(kv, work)};
}

aq_kv_rows aq_kv_value_rows(const aq_simd *simd, const aq_kv_view *kv, const uint8_t *block,
                            void *work) {
    const uint8_t *zeros = block + 2 * AQ_TILE;
    float *step = value_steps_in(kv, work), *low = value_lows_in(kv, work);
    simd->dequantise(AQ_F16, block, AQ_TILE, step);
    simd->widen(zeros, AQ_TILE, -1.0f, 0.0f, low);
    for (int s = 0; s < AQ_TILE; s++)
        low[s] *= step[s];
    return (aq_kv_rows){list_rows(kv, zeros + AQ_TILE, AQ_TILE, kv->d_head, work), step, low};
}
