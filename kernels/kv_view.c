/* Sizes of the blocks of a cache. See kv_append.h. */
#include "kernels/kv_append.h"

#define F16_BYTES 2

static int64_t number_bytes(aq_kv_type type) {
    return type == AQ_KV_F32 ? 4 : 2;
}

int64_t aq_kv_key_bytes(const aq_kv_view *kv) {
    const int64_t n_col = kv->n_col;
    if (!aq_kv_type_coded(kv->key_type)) return number_bytes(kv->key_type) * AQ_TILE * n_col;
    const aq_code_layout layout = aq_kv_type_layout(kv->key_type, kv->n_col);
    if (kv->key_order == AQ_KEYS_BY_TOKEN)
        return 2 * F16_BYTES * n_col + AQ_TILE * aq_code_row_bytes(&layout);
    return 2 * F16_BYTES * n_col + aq_code_layout_bits(&layout) * AQ_TILE / 8;
}

int64_t aq_kv_value_bytes(const aq_kv_view *kv) {
    if (!aq_kv_type_coded(kv->value_type))
        return number_bytes(kv->value_type) * AQ_TILE * kv->d_head;
    const aq_code_layout layout = aq_kv_type_layout(kv->value_type, kv->d_head);
    return AQ_TILE * (F16_BYTES + 1 + aq_code_row_bytes(&layout));
}

int64_t aq_kv_selector_bytes(const aq_kv_view *kv) {
    return (int64_t)aq_code_layout_columns(&kv->codes) * (F16_BYTES + 1) +
           aq_code_layout_bits(&kv->codes) * AQ_TILE / 8;
}

bool aq_kv_has_open_tile(const aq_kv_view *kv) {
    return aq_kv_type_coded(kv->key_type) || aq_kv_type_coded(kv->value_type) ||
           kv->codes.n_segment > 0;
}
