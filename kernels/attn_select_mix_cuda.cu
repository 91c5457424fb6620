/* Selecting attention: exact attention to the chosen tokens. A warp takes tile after tile, and of
 * each the chosen tokens, BATCH at a time: it asks for their keys and values at once, lane by lane
 * a few columns of every token, sums scores over the lanes so that each lane gets one of a token
 * and a head, and takes one step of the online softmax. */
#include "kernels/cuda_select_parts.h"

#define WARPS   4
#define THREADS (32 * WARPS)
#define BATCH   8
#define HEADS   AQ_SELECT_HEADS
#define WHOLE   0xffffffffu
#define LOWEST  -0x1p126f /* below all scores, and finite: differences are numbers */

/* Rows of any cache, element by element when they are needed: lane columns lane, lane + 32, ... */
struct any_rows {
    static constexpr int n = 8; /* columns of a lane at most */
    typedef int raw;            /* the token */
    const aq_cuda_cache &cache;
    int64_t tile;
    int g, lane;

    static __device__ int column(int lane, int k) {
        return lane + 32 * k;
    }
    __device__ any_rows(const aq_cuda_cache &of, int64_t at, int head, int thread)
        : cache(of), tile(at), g(head), lane(thread) {
    }
    __device__ raw load_key(int s) const {
        return s;
    }
    __device__ raw load_value(int s) const {
        return s;
    }
    __device__ float key(raw s, int k) const {
        const int c = column(lane, k);
        return c < cache.kv.n_col ? aq_cuda_key(cache, tile, g, s, c) : 0.0f;
    }
    __device__ float value(raw s, int k, float) const {
        const int c = column(lane, k);
        return c < cache.kv.d_head ? aq_cuda_value(cache, tile, g, s, c) : 0.0f;
    }
    __device__ float value_step(int) const {
        return 1.0f;
    }
    __device__ float value_zero(int) const {
        return 0.0f;
    }
};

/* Rows of D numbers, lane entries n lane and on, of each type. Codes of 8 bits: the keys' steps are
 * those of a tile, and whole numbers are exact as floats above 2^23. */
template <int D> struct q8_rows {
    static constexpr int n = D / 32;
    struct raw {
        uint32_t word[(n + 3) / 4];
    };
    const uint8_t *keys, *values; /* blocks */
    int lane;
    float low[n], step[n];

    static __device__ int column(int lane, int k) {
        return n * lane + k;
    }
    __device__ q8_rows(const aq_cuda_cache &cache, int64_t tile, int g, int thread)
        : keys(aq_cuda_key_block(cache, tile, g)), values(aq_cuda_value_block(cache, tile, g)),
          lane(thread) {
        const __half2 *lows = (const __half2 *)keys + n / 2 * lane, *steps = lows + D / 2;
#pragma unroll
        for (int k = 0; k < n; k += 2) {
            const float2 a = __half22float2(lows[k / 2]), b = __half22float2(steps[k / 2]);
            low[k] = a.x;
            low[k + 1] = a.y;
            step[k] = b.x;
            step[k + 1] = b.y;
        }
    }
    __device__ __forceinline__ raw load(const uint8_t *from) const {
        raw row;
        if (n == 2) row.word[0] = *(const uint16_t *)from;
        if (n == 4) row.word[0] = *(const uint32_t *)from;
        if (n == 8) {
            const uint2 both = *(const uint2 *)from;
            row.word[0] = both.x;
            row.word[(n + 3) / 4 - 1] = both.y;
        }
        return row;
    }
    __device__ __forceinline__ raw load_key(int s) const {
        return load(keys + 4 * D + s * D + n * lane);
    }
    __device__ __forceinline__ raw load_value(int s) const {
        return load(values + 3 * AQ_TILE + s * D + n * lane);
    }
    static __device__ __forceinline__ float above(const raw &row, int k) {
        return __uint_as_float(
            __byte_perm(row.word[k / 4], 0x4b000000u, 0x7440u | (uint32_t)(k % 4)));
    }
    __device__ __forceinline__ float key(const raw &row, int k) const {
        return fmaf(step[k], above(row, k) - 8388608.0f, low[k]);
    }
    __device__ __forceinline__ float value(const raw &row, int k, float zero) const {
        return above(row, k) - zero;
    }
    __device__ float value_step(int s) const {
        return __half2float(((const __half *)values)[s]);
    }
    __device__ float value_zero(int s) const {
        return 8388608.0f + (float)values[2 * AQ_TILE + s];
    }
};

template <int D> struct bf16_rows {
    static constexpr int n = D / 32;
    struct raw {
        uint32_t word[n / 2];
    };
    const uint8_t *keys, *values;

    static __device__ int column(int lane, int k) {
        return n * lane + k;
    }
    __device__ bf16_rows(const aq_cuda_cache &cache, int64_t tile, int g, int lane)
        : keys(aq_cuda_key_block(cache, tile, g) + 2 * n * lane),
          values(aq_cuda_value_block(cache, tile, g) + 2 * n * lane) {
    }
    __device__ __forceinline__ raw load(const uint8_t *from) const {
        raw row;
        if (n == 2) row.word[0] = *(const uint32_t *)from;
        if (n == 4) *(uint2 *)row.word = *(const uint2 *)from;
        if (n == 8) *(uint4 *)row.word = *(const uint4 *)from;
        return row;
    }
    __device__ __forceinline__ raw load_key(int s) const {
        return load(keys + 2 * D * s);
    }
    __device__ __forceinline__ raw load_value(int s) const {
        return load(values + 2 * D * s);
    }
    __device__ __forceinline__ float key(const raw &row, int k) const {
        const uint32_t pair = row.word[k / 2];
        return __uint_as_float(k % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
    }
    __device__ __forceinline__ float value(const raw &row, int k, float) const {
        return key(row, k);
    }
    __device__ float value_step(int) const {
        return 1.0f;
    }
    __device__ float value_zero(int) const {
        return 0.0f;
    }
};

/* The open tile. */
template <int D> struct open_rows {
    static constexpr int n = D / 32;
    typedef int raw; /* the token */
    const float *keys, *values;

    static __device__ int column(int lane, int k) {
        return n * lane + k;
    }
    __device__ open_rows(const aq_cuda_cache &cache, int64_t, int g, int lane)
        : keys(cache.kv.open_keys + g * AQ_TILE * D + n * lane),
          values(cache.kv.open_values + g * AQ_TILE * D + n * lane) {
    }
    __device__ raw load_key(int s) const {
        return s;
    }
    __device__ raw load_value(int s) const {
        return s;
    }
    __device__ float key(raw s, int k) const {
        return keys[s * D + k];
    }
    __device__ float value(raw s, int k, float) const {
        return values[s * D + k];
    }
    __device__ float value_step(int) const {
        return 1.0f;
    }
    __device__ float value_zero(int) const {
        return 0.0f;
    }
};

/* What a warp has of the heads of a block. */
template <int N> struct mixture {
    float q[HEADS][N];
    float o[HEADS][N];
    float m, l; /* of head lane % HEADS; l over the tokens of this lane */
};

/* What the warps of a block leave each other. */
struct shared_rows {
    float p[WARPS][BATCH][HEADS];
    float zero[WARPS][BATCH];
};

/* sum of `mine` here and of `other` in the lane `apart` away. */
static __device__ float trade(bool upper, float low, float high, int apart) {
    const float mine = upper ? high : low, other = upper ? low : high;
    return mine + __shfl_xor_sync(WHOLE, other, apart);
}

/* One batch: tokens `at` of a tile, -1 where there is none. */
template <class Rows>
static __device__ void mix_batch(const Rows &rows, mixture<Rows::n> &mix, const int at[BATCH],
                                 int lane, float (*p_of)[HEADS], float *zero_of) {
    constexpr int n = Rows::n;
    typename Rows::raw key[BATCH], value[BATCH];
    int own = at[0]; /* token lane / HEADS of the batch */
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
        if (at[j] >= 0) {
            key[j] = rows.load_key(at[j]);
            value[j] = rows.load_value(at[j]);
        }
        if (lane / HEADS == j) own = at[j];
    }
    const float step = own >= 0 ? rows.value_step(own) : 0.0f;
    const float zero = own >= 0 ? rows.value_zero(own) : 0.0f;
    float four[4][HEADS];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float low[HEADS] = {0.0f, 0.0f, 0.0f, 0.0f}, high[HEADS] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (at[j] >= 0)
#pragma unroll
            for (int k = 0; k < n; k++) {
                const float x = rows.key(key[j], k);
                for (int h = 0; h < HEADS; h++)
                    low[h] = fmaf(mix.q[h][k], x, low[h]);
            }
        if (at[j + 4] >= 0)
#pragma unroll
            for (int k = 0; k < n; k++) {
                const float x = rows.key(key[j + 4], k);
                for (int h = 0; h < HEADS; h++)
                    high[h] = fmaf(mix.q[h][k], x, high[h]);
            }
        for (int h = 0; h < HEADS; h++)
            four[j][h] = trade(lane & 16, low[h], high[h], 16);
    }
    float one[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++)
        one[h] = trade(lane & 4, trade(lane & 8, four[0][h], four[2][h], 8),
                       trade(lane & 8, four[1][h], four[3][h], 8), 4);
    float score =
        trade(lane & 1, trade(lane & 2, one[0], one[2], 2), trade(lane & 2, one[1], one[3], 2), 1);
    if (own < 0) score = -INFINITY;
    float most = score;
    for (int apart = 4; apart < 32; apart *= 2)
        most = fmaxf(most, __shfl_xor_sync(WHOLE, most, apart));
    most = fmaxf(most, mix.m);
    const float keep = __expf(mix.m - most), p = __expf(score - most);
    mix.l = mix.l * keep + p;
    mix.m = most;
    p_of[lane / HEADS][lane % HEADS] = p * step;
    if (lane % HEADS == 0) zero_of[lane / HEADS] = zero;
    if (__any_sync(WHOLE, keep < 1.0f)) {
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            const float of = __shfl_sync(WHOLE, keep, h);
            for (int k = 0; k < n; k++)
                mix.o[h][k] *= of;
        }
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
        if (at[j] < 0) continue;
        const float4 weight = *(const float4 *)p_of[j];
        const float minus = zero_of[j];
#pragma unroll
        for (int k = 0; k < n; k++) {
            const float x = rows.value(value[j], k, minus);
            mix.o[0][k] = fmaf(weight.x, x, mix.o[0][k]);
            mix.o[1][k] = fmaf(weight.y, x, mix.o[1][k]);
            mix.o[2][k] = fmaf(weight.z, x, mix.o[2][k]);
            mix.o[3][k] = fmaf(weight.w, x, mix.o[3][k]);
        }
    }
    __syncwarp();
}

template <class Rows>
static __device__ void mix_tokens(const Rows &rows, mixture<Rows::n> &mix, uint64_t chosen,
                                  int lane, float (*p_of)[HEADS], float *zero_of) {
    while (chosen != 0) {
        int at[BATCH];
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            at[j] = __ffsll((long long)chosen) - 1;
            chosen &= chosen - 1;
        }
        mix_batch(rows, mix, at, lane, p_of, zero_of);
    }
}

/* What a lane knows of tokens lane and lane + 32 of a tile, before it is needed. */
typedef struct {
    int64_t pos[2];
    float w[2];
} outlook;

static __device__ __forceinline__ outlook look_at(const aq_cuda_select &t, int64_t unit,
                                                  int64_t tile, int lane) {
    outlook ahead;
    for (int half = 0; half < 2; half++) {
        const int64_t token = tile * AQ_TILE + 32 * half + lane;
        ahead.pos[half] = aq_select_pos(t, token);
        ahead.w[half] = t.by_mass ? t.w[unit * t.n_token + token] : 0.0f;
    }
    return ahead;
}

/* The tokens of a tile that a query sees, and those it attends to, as bits. */
static __device__ uint64_t choose_tokens(const aq_cuda_select &t, const outlook &here, int64_t pos,
                                         float least, uint64_t *seen) {
    uint64_t chosen = 0;
    *seen = 0;
    for (int half = 0; half < 2; half++) {
        const bool sees = here.pos[half] <= pos;
        const bool takes =
            sees && (!t.by_mass || here.w[half] >= least || aq_select_near(t, pos, here.pos[half]));
        *seen |= (uint64_t)__ballot_sync(WHOLE, sees) << 32 * half;
        chosen |= (uint64_t)__ballot_sync(WHOLE, takes) << 32 * half;
    }
    return chosen;
}

static __device__ void count(const aq_cuda_select &t, int64_t unit, int seen, int chosen,
                             int touched) {
    if (!t.a.counts || blockIdx.z > 0) return;
    int32_t *to = t.a.counts + 3 * (t.first + unit);
    atomicAdd(&to[0], seen);
    atomicAdd(&to[1], chosen);
    atomicAdd(&to[2], touched);
}

/* Joins the mixtures of the warps and stores them as share blockIdx.x. */
template <class Rows>
static __device__ void give_mixture(const aq_cuda_select &t, int64_t unit, mixture<Rows::n> &mix,
                                    float *shared) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, d_head = t.a.kv.d_head;
    const int width = d_head + 2;
    for (int apart = 4; apart < 32; apart *= 2)
        mix.l += __shfl_xor_sync(WHOLE, mix.l, apart);
    float *own = shared + warp * HEADS * width;
    for (int h = 0; h < HEADS; h++)
        for (int k = 0; k < Rows::n; k++)
            if (Rows::column(lane, k) < d_head)
                own[h * width + Rows::column(lane, k)] = mix.o[h][k];
    if (lane < HEADS) {
        own[lane * width + d_head] = mix.m;
        own[lane * width + d_head + 1] = mix.l;
    }
    __syncthreads();
    const int first = blockIdx.z * HEADS, n = t.group - first < HEADS ? t.group - first : HEADS;
    float *to = t.parts + ((blockIdx.x * t.n_unit + unit) * t.group + first) * width;
    for (int i = threadIdx.x; i < n * width; i += THREADS) {
        const int h = i / width, c = i % width;
        float m = -INFINITY, sum = 0.0f;
        for (int w = 0; w < WARPS; w++)
            m = fmaxf(m, shared[(w * HEADS + h) * width + d_head]);
        for (int w = 0; w < WARPS && m > -INFINITY; w++) {
            const float *of = shared + (w * HEADS + h) * width;
            sum += __expf(of[d_head] - m) * of[c];
        }
        to[i] = c == d_head ? m : sum;
    }
}

template <class Rows, class OpenRows>
static __global__ void __launch_bounds__(THREADS, Rows::n <= 4 ? 4 : 2)
    mix_chosen(const aq_cuda_select t) {
    extern __shared__ float shared[];
    __shared__ __align__(16) shared_rows rows_of;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.z * HEADS;
    const int64_t unit = blockIdx.y, query = aq_select_query(t, unit), pos = t.a.q_pos[query];
    const int g = aq_select_head(t, unit), n_col = t.a.kv.n_col;
    const float least = t.by_mass ? t.least[unit] : 0.0f;
    int n_seen = 0, n_chosen = 0, n_touched = 0;
    mixture<Rows::n> mix;
    mix.m = LOWEST;
    mix.l = 0.0f;
    for (int h = 0; h < HEADS; h++)
        for (int k = 0; k < Rows::n; k++) {
            const int c = Rows::column(lane, k);
            const bool there = first + h < t.group && c < n_col;
            const int64_t row = query * t.a.n_head + (int64_t)g * t.group + first + h;
            mix.q[h][k] = there ? t.a.scale * t.a.q[row * n_col + c] : 0.0f;
            mix.o[h][k] = 0.0f;
        }
    const int64_t step = (int64_t)gridDim.x * WARPS;
    int64_t tile = blockIdx.x * WARPS + warp;
    outlook here = {};
    if (tile < t.a.n_tile) here = look_at(t, unit, tile, lane);
    for (; tile < t.a.n_tile; tile += step) {
        uint64_t seen;
        const uint64_t chosen = choose_tokens(t, here, pos, least, &seen);
        if (tile + step < t.a.n_tile) here = look_at(t, unit, tile + step, lane);
        n_seen += __popcll(seen);
        n_chosen += __popcll(chosen);
        n_touched += chosen != 0;
        if (chosen == 0) continue;
        if (aq_cuda_open(t.cache, tile))
            mix_tokens(OpenRows(t.cache, tile, g, lane), mix, chosen, lane, rows_of.p[warp],
                       rows_of.zero[warp]);
        else
            mix_tokens(Rows(t.cache, tile, g, lane), mix, chosen, lane, rows_of.p[warp],
                       rows_of.zero[warp]);
    }
    if (lane == 0) count(t, unit, n_seen, n_chosen, n_touched);
    if (mix.m == LOWEST) mix.m = -INFINITY;
    give_mixture<Rows>(t, unit, mix, shared);
}

typedef void (*mix_kernel)(const aq_cuda_select);

/* Rows of 64, 128 or 256 numbers, of one type that lies in bytes or pairs; or any. */
static mix_kernel kernel_of(const aq_kv_view *kv) {
    const int d = kv->n_col == kv->d_head ? kv->d_head : 0;
    const bool aligned = aq_cuda_aligned(kv->keys, aq_kv_key_bytes(kv), 16) &&
                         aq_cuda_aligned(kv->values, aq_kv_value_bytes(kv), 16);
    if (aligned && kv->key_type == AQ_KV_Q8 && kv->value_type == AQ_KV_Q8) {
        if (d == 64) return mix_chosen<q8_rows<64>, open_rows<64>>;
        if (d == 128) return mix_chosen<q8_rows<128>, open_rows<128>>;
        if (d == 256) return mix_chosen<q8_rows<256>, open_rows<256>>;
    }
    if (aligned && kv->key_type == AQ_KV_BF16 && kv->value_type == AQ_KV_BF16) {
        if (d == 64) return mix_chosen<bf16_rows<64>, open_rows<64>>;
        if (d == 128) return mix_chosen<bf16_rows<128>, open_rows<128>>;
        if (d == 256) return mix_chosen<bf16_rows<256>, open_rows<256>>;
    }
    return mix_chosen<any_rows, any_rows>;
}

void aq_cuda_select_mix(aq_cuda *cuda, const aq_cuda_select *t) {
    const dim3 grid((unsigned)t->n_mix, (unsigned)t->n_unit, (unsigned)t->n_block);
    const size_t bytes = (size_t)(WARPS * HEADS * (t->a.kv.d_head + 2)) * sizeof(float);
    const mix_kernel kernel = kernel_of(&t->a.kv);
    kernel<<<grid, THREADS, bytes, cuda->stream>>>(*t);
}
