/* kv_decode: any token's key and any stretch of values, on every instruction set. (Whole tiles are
 * tested through kv_read, and both through attn_partial.) */
#include "kernels/kv_decode.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/codes.h"
#include "kernels/cpu.h"
#include "tests/support/oracle.h"
#include "tests/support/oracle_cache.h"
#include "tests/support/suite.h"

#define N_HEAD 2
#define N_COL  37
#define D_HEAD 44

static void *allocate(int64_t bytes) {
    void *memory = calloc(1, (size_t)bytes);
    if (!memory) abort();
    return memory;
}

/* One tile of N_HEAD heads, keys by token, of the types given. */
static aq_kv_view make_tile(aq_kv_type key_type, aq_kv_type value_type) {
    aq_kv_view kv = {.key_type = key_type,
                     .value_type = value_type,
                     .key_order = AQ_KEYS_BY_TOKEN,
                     .n_kv_head = N_HEAD,
                     .n_col = N_COL,
                     .d_head = D_HEAD,
                     .open_tile = -1};
    static float numbers[AQ_TILE * D_HEAD];
    const int64_t key_bytes = aq_kv_key_bytes(&kv), value_bytes = aq_kv_value_bytes(&kv);
    kv.keys = allocate(N_HEAD * key_bytes);
    kv.values = allocate(N_HEAD * value_bytes);
    uint8_t *work = allocate(aq_code_work_bytes(&kv));
    for (int g = 0; g < N_HEAD; g++) {
        aq_fill_normal(1 + (uint64_t)g, AQ_TILE * N_COL, 1.0f, numbers);
        aq_code_keys(&kv, numbers, work, (char *)kv.keys + g * key_bytes);
        aq_fill_normal(9 + (uint64_t)g, AQ_TILE * D_HEAD, 1.0f, numbers);
        aq_code_values(&kv, numbers, work, (char *)kv.values + g * value_bytes);
    }
    free(work);
    return kv;
}

/* Keys of some tokens and values of some stretches. The values must leave the scales of the keys
 * alone. */
static void check_tile(const aq_simd *simd, const aq_kv_view *kv, aq_bound *right,
                       aq_bound *planted) {
    static const int first[] = {0, 1, 31, 63, 17}, n[] = {64, 63, 5, 1, 20};
    void *work = allocate(aq_decode_work_bytes(kv));
    for (int g = 0; g < N_HEAD; g++) {
        aq_decode_key_scales(simd, kv, 0, g, work);
        for (int i = 0; i < 5; i++) {
            float key[N_COL], values[AQ_TILE * D_HEAD];
            aq_decode_values(simd, kv, 0, g, first[i], n[i], work, values);
            aq_decode_key(simd, kv, 0, g, first[i], work, key);
            for (int c = 0; c < N_COL; c++) {
                const double ref = aq_cache_key(kv, 0, g, first[i], c, AQ_CACHE_RIGHT);
                const double wrong = aq_cache_key(kv, 0, 1 - g, first[i], c, AQ_CACHE_RIGHT);
                aq_bound_element(right, key[c], ref, 2.0, 0.0);
                aq_bound_element(planted, key[c], wrong, 2.0, 0.0);
            }
            for (int at = 0; at < n[i] * D_HEAD; at++) {
                const int s = first[i] + at / D_HEAD;
                aq_bound_element(right, values[at],
                                 aq_cache_value(kv, 0, g, s, at % D_HEAD, AQ_CACHE_RIGHT), 0.0,
                                 ldexp(1.0, -140));
            }
        }
    }
    free(work);
}

static void tokens_are_decoded_one_by_one(void) {
    static const aq_kv_type types[] = {AQ_KV_Q8, AQ_KV_Q6, AQ_KV_Q5, AQ_KV_Q5M, AQ_KV_Q4};
    aq_bound right = {0}, planted = {0};
    for (int isa = 0; isa <= (int)aq_cpu_isa_best(); isa++)
        for (int i = 0; i < 5; i++) {
            const aq_kv_view kv = make_tile(types[i], types[4 - i]);
            check_tile(aq_cpu_simd((aq_cpu_isa)isa), &kv, &right, &planted);
            free(kv.keys);
            free(kv.values);
        }
    aq_bound_expect(&right, "kv_decode");
    aq_bound_expect_rejects(&planted, "the keys of another KV head");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "tokens are decoded one by one", tokens_are_decoded_one_by_one);
}
