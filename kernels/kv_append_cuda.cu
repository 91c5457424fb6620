/* Without an open tile a thread stores each number. With one, a block of threads works on a tile of
 * one KV head: one that comes whole is coded from the arguments, any other goes to the open
 * buffers, and is coded from there if it becomes complete. */
#include "kernels/cuda_fit_parts.h"
#include "kernels/cuda_parts.h"

#define THREADS 256

static __device__ void store(void *to, aq_kv_type type, int64_t at, float x) {
    if (type == AQ_KV_BF16)
        ((uint16_t *)to)[at] = __bfloat16_as_ushort(__float2bfloat16_rn(x));
    else
        ((float *)to)[at] = x;
}

static __device__ int64_t key_place(const aq_kv_view &kv, int s, int c) {
    return kv.key_order == AQ_KEYS_BY_COLUMN ? (int64_t)c * AQ_TILE + s : (int64_t)s * kv.n_col + c;
}

static __global__ void store_tokens(const aq_kv_append_args a) {
    const int n_col = a.kv.n_col, d_head = a.kv.d_head, width = n_col + d_head;
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t row = at / width, t = row / a.kv.n_kv_head; /* (token, KV head) */
    const int c = (int)(at % width);
    if (t >= a.n_tok) return;
    const int64_t block = a.slot[t] / AQ_TILE * a.kv.n_kv_head + row % a.kv.n_kv_head;
    const int s = (int)(a.slot[t] % AQ_TILE);
    if (c < n_col)
        store(a.kv.keys, a.kv.key_type, block * n_col * AQ_TILE + key_place(a.kv, s, c),
              a.key[row * n_col + c]);
    else
        store(a.kv.values, a.kv.value_type, (block * AQ_TILE + s) * d_head + c - n_col,
              a.value[row * d_head + c - n_col]);
}

/* A whole tile of f32 numbers: from the arguments, or in the open buffers. */
typedef struct {
    const float *key, *value;
    int64_t key_column, key_token, value_token; /* from one to the next */
} whole_tile;

/* Writes a block of keys; codes[n_col * AQ_TILE] is shared memory. */
static __device__ void code_keys(const aq_cuda_cache &cache, const whole_tile &tile, uint8_t *codes,
                                 uint8_t *block) {
    const aq_kv_view &kv = cache.kv;
    const int n_col = kv.n_col;
    const auto key = [&](int c, int s) {
        return tile.key[c * tile.key_column + s * tile.key_token];
    };
    if (!aq_cuda_coded(kv.key_type)) {
        for (int i = threadIdx.x; i < n_col * AQ_TILE; i += AQ_CODE_THREADS)
            store(block, kv.key_type, key_place(kv, i / n_col, i % n_col),
                  key(i % n_col, i / n_col));
        return;
    }
    __syncthreads();
    for (int c = threadIdx.x; c < n_col; c += AQ_CODE_THREADS) {
        int i = 0;
        for (int left = c; left >= cache.keys.segments[i].n; i++)
            left -= cache.keys.segments[i].n;
        const int top = (1 << cache.keys.segments[i].bits) - 1;
        float least = key(c, 0), most = least;
        for (int s = 1; s < AQ_TILE; s++) {
            least = fminf(least, key(c, s));
            most = fmaxf(most, key(c, s));
        }
        const uint16_t low = aq_cuda_f16_below(least);
        const float base = aq_cuda_f16_value(low);
        const uint16_t step = most > base ? aq_cuda_f16_above((most - base) / (float)top) : 0;
        const float inverse = aq_cuda_inverse(aq_cuda_f16_value(step));
        for (int s = 0; s < AQ_TILE; s++)
            codes[c * AQ_TILE + s] = aq_cuda_quantised(key(c, s), base, inverse, top);
        aq_cuda_put_f16(block, c, low);
        aq_cuda_put_f16(block, n_col + c, step);
    }
    __syncthreads();
    uint8_t *run = block + 4 * (int64_t)n_col;
    for (int i = 0, first = 0; i < cache.keys.n_segment; first += cache.keys.segments[i++].n) {
        const int n = cache.keys.segments[i].n, bits = cache.keys.segments[i].bits;
        const bool by_column = kv.key_order == AQ_KEYS_BY_COLUMN;
        const int bytes = by_column ? bits * AQ_TILE / 8 : aq_cuda_run_bytes(n, bits);
        const int n_run = by_column ? n : AQ_TILE;
        for (int at = threadIdx.x; at < n_run * bytes; at += AQ_CODE_THREADS) {
            const int of = at / bytes, byte = at % bytes;
            if (by_column)
                run[at] = aq_cuda_packed(AQ_TILE, bits, byte,
                                         [&](int s) { return codes[(first + of) * AQ_TILE + s]; });
            else
                run[of * cache.key_row_bytes + byte] = aq_cuda_packed(
                    n, bits, byte, [&](int c) { return codes[(first + c) * AQ_TILE + of]; });
        }
        run += by_column ? n_run * bytes : bytes;
    }
}

/* Step (as f16) and zero of a value: the range of each segment, from the least of all and from 0,
 * fits its codes. */
static __device__ uint16_t value_scale(const aq_code_layout &layout, const float *x,
                                       uint8_t *zero) {
    float low = 0.0f, step = 0.0f;
    for (int i = 0, first = 0; i < layout.n_segment; first += layout.segments[i++].n)
        for (int c = first; c < first + layout.segments[i].n; c++)
            low = fminf(low, x[c]);
    for (int i = 0, first = 0; i < layout.n_segment; first += layout.segments[i++].n) {
        float most = 0.0f;
        for (int c = first; c < first + layout.segments[i].n; c++)
            most = fmaxf(most, x[c]);
        step = fmaxf(step, (most - low) / (float)((1 << layout.segments[i].bits) - 1));
    }
    const uint16_t half = step > 0.0f ? aq_cuda_f16_above(step) : 0;
    *zero = half == 0 ? 0 : (uint8_t)(int)fminf(-low / aq_cuda_f16_value(half) + 0.5f, 255.0f);
    return half;
}

/* Writes a block of values; codes[d_head * AQ_TILE] is shared memory. */
static __device__ void code_values(const aq_cuda_cache &cache, const whole_tile &tile,
                                   uint8_t *codes, uint8_t *block) {
    const aq_kv_view &kv = cache.kv;
    const int d_head = kv.d_head;
    if (!aq_cuda_coded(kv.value_type)) {
        for (int i = threadIdx.x; i < d_head * AQ_TILE; i += AQ_CODE_THREADS)
            store(block, kv.value_type, i, tile.value[i / d_head * tile.value_token + i % d_head]);
        return;
    }
    __syncthreads();
    for (int s = threadIdx.x; s < AQ_TILE; s += AQ_CODE_THREADS) {
        const float *x = tile.value + s * tile.value_token;
        uint8_t zero;
        const uint16_t half = value_scale(cache.values, x, &zero);
        const float step = aq_cuda_f16_value(half), low = -step * (float)zero;
        const float inverse = aq_cuda_inverse(step);
        for (int i = 0, first = 0; i < cache.values.n_segment;
             first += cache.values.segments[i++].n)
            for (int c = first; c < first + cache.values.segments[i].n; c++)
                codes[c * AQ_TILE + s] =
                    aq_cuda_quantised(x[c], low, inverse, (1 << cache.values.segments[i].bits) - 1);
        aq_cuda_put_f16(block, s, half);
        block[2 * AQ_TILE + s] = zero;
    }
    __syncthreads();
    uint8_t *run = block + 3 * AQ_TILE;
    for (int i = 0, first = 0; i < cache.values.n_segment; first += cache.values.segments[i++].n) {
        const int n = cache.values.segments[i].n, bits = cache.values.segments[i].bits;
        const int bytes = aq_cuda_run_bytes(n, bits);
        for (int at = threadIdx.x; at < AQ_TILE * bytes; at += AQ_CODE_THREADS) {
            const int s = at / bytes;
            run[s * cache.value_row_bytes + at % bytes] = aq_cuda_packed(
                n, bits, at % bytes, [&](int c) { return codes[(first + c) * AQ_TILE + s]; });
        }
        run += bytes;
    }
}

static __device__ void code_tile(const aq_cuda_cache &cache, const whole_tile &tile, int64_t place,
                                 int g, uint8_t *codes) {
    const int64_t block = place * cache.kv.n_kv_head + g;
    code_keys(cache, tile, codes, (uint8_t *)cache.kv.keys + block * cache.key_bytes);
    code_values(cache, tile, codes, (uint8_t *)cache.kv.values + block * cache.value_bytes);
    if (cache.n_code > 0)
        aq_cuda_code_selector(
            cache, [&](int c, int s) { return tile.key[c * tile.key_column + s * tile.key_token]; },
            codes, (uint8_t *)cache.kv.selector + block * cache.selector_bytes);
}

/* Tokens first .. first + n of one tile, for KV head g. */
static __device__ void append_part(const aq_kv_append_args &a, const aq_cuda_cache &cache,
                                   int64_t first, int64_t n, int g, uint8_t *codes) {
    const aq_kv_view &kv = a.kv;
    const int n_col = kv.n_col, d_head = kv.d_head, width = n_col + d_head;
    const int64_t place = a.slot[first] / AQ_TILE, from = first * kv.n_kv_head + g;
    if (n == AQ_TILE) {
        const whole_tile tile = {a.key + from * n_col, a.value + from * d_head, 1,
                                 (int64_t)kv.n_kv_head * n_col, (int64_t)kv.n_kv_head * d_head};
        code_tile(cache, tile, place, g, codes);
        return;
    }
    float *keys = kv.open_keys + (int64_t)g * n_col * AQ_TILE;
    float *values = kv.open_values + (int64_t)g * d_head * AQ_TILE;
    for (int64_t i = threadIdx.x; i < n * width; i += AQ_CODE_THREADS) {
        const int64_t t = first + i / width, row = t * kv.n_kv_head + g;
        const int c = (int)(i % width), s = (int)(a.slot[t] % AQ_TILE);
        if (c < n_col)
            keys[key_place(kv, s, c)] = a.key[row * n_col + c];
        else
            values[(int64_t)s * d_head + c - n_col] = a.value[row * d_head + c - n_col];
    }
    if (a.slot[first + n - 1] % AQ_TILE != AQ_TILE - 1) return;
    __syncthreads();
    const bool by_column = kv.key_order == AQ_KEYS_BY_COLUMN;
    const whole_tile tile = {keys, values, by_column ? AQ_TILE : 1, by_column ? 1 : n_col, d_head};
    code_tile(cache, tile, place, g, codes);
}

/* Part 0 goes on with the open tile, if one is begun; all but the last of the others are whole
 * tiles. The last one may open another tile, so it comes after part 0, in the same block. */
static __global__ void append_tiles(const aq_kv_append_args a, const aq_cuda_cache cache) {
    extern __shared__ uint8_t codes[];
    const int64_t begun = a.slot[0] % AQ_TILE, room = begun > 0 ? AQ_TILE - begun : 0;
    const int64_t n_on = room < a.n_tok ? room : a.n_tok;
    const int64_t n_whole = (a.n_tok - n_on) / AQ_TILE, n_last = (a.n_tok - n_on) % AQ_TILE;
    const int g = blockIdx.y;
    if (blockIdx.x > 0) {
        if (blockIdx.x <= n_whole)
            append_part(a, cache, n_on + (blockIdx.x - 1) * AQ_TILE, AQ_TILE, g, codes);
        return;
    }
    if (n_on > 0) append_part(a, cache, 0, n_on, g, codes);
    __syncthreads();
    if (n_last > 0) append_part(a, cache, a.n_tok - n_last, n_last, g, codes);
}

void aq_kv_append_cuda(aq_backend *be, const aq_kv_append_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    const aq_kv_view *kv = &args->kv;
    const int width = kv->n_col + kv->d_head,
              most = kv->n_col > kv->d_head ? kv->n_col : kv->d_head;
    const int64_t n = args->n_tok * kv->n_kv_head * width;
    if (n == 0) return;
    if (aq_kv_has_open_tile(kv)) {
        const dim3 grid((unsigned)(args->n_tok / AQ_TILE + 1), (unsigned)kv->n_kv_head);
        append_tiles<<<grid, AQ_CODE_THREADS, (size_t)(most * AQ_TILE), cuda->stream>>>(
            *args, aq_cuda_cache_of(kv));
    } else {
        store_tokens<<<(unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, cuda->stream>>>(*args);
    }
    aq_cuda_check(cuda, "kv_append");
}
