/* Partial attention of few queries over keys by column, as in decode: which cases have kernels of
 * their own, and which. */
#include "kernels/cuda_attn_parts.h"
#include "kernels/cuda_cache_parts.h"

#define MOST_Q 8 /* queries that each read the cache for themselves */

bool aq_cuda_decode_takes(const aq_attn_partial_args *args) {
    const aq_kv_view *kv = &args->kv;
    const bool wide = kv->d_head == 64 || kv->d_head == 128 || kv->d_head == 256;
    return args->n_q <= MOST_Q && kv->key_order == AQ_KEYS_BY_COLUMN && wide &&
           kv->key_type == kv->value_type && kv->key_type <= AQ_KV_Q8 && kv->n_col % 4 == 0 &&
           kv->n_col <= (kv->key_type == AQ_KV_F32 ? 256 : kv->d_head) &&
           aq_cuda_aligned(kv->keys, aq_kv_key_bytes(kv), 16) &&
           aq_cuda_aligned(kv->values, aq_kv_value_bytes(kv), 16);
}

void aq_cuda_decode(aq_cuda *cuda, const aq_attn_partial_args *args) {
    if (args->kv.key_type == AQ_KV_F32)
        aq_cuda_decode_f32(cuda, args);
    else if (args->kv.key_type == AQ_KV_BF16)
        aq_cuda_decode_bf16(cuda, args);
    else
        aq_cuda_decode_q8(cuda, args);
}
