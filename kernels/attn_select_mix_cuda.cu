/* Selecting attention: exact attention to the chosen tokens. A warp looks through the weights of
 * LOOK tokens at a time and queues those chosen; BATCH of the queue, of whatever tiles, are
 * attended to together: it asks for all their keys and values at once, lane by lane a few columns
 * of every token, sums scores over the lanes so that each lane gets one of a token and a head, and
 * takes one step of the online softmax. */
#include "kernels/cuda_select_parts.h"

#define WARPS   4
#define THREADS (32 * WARPS)
#define BATCH   8
#define LOOK    128
#define HEADS   AQ_SELECT_HEADS
#define WHOLE   0xffffffffu
#define NONE    0xffffffffu

/* Rows of any cache, element by element when they are needed: lane columns lane, lane + 32, ... */
struct any_rows {
    static constexpr int n = 8; /* columns of a lane at most */
    typedef uint32_t raw;       /* the token */
    const aq_cuda_cache &cache;
    int g, lane;

    static __device__ int column(int lane, int k) {
        return lane + 32 * k;
    }
    __device__ any_rows(const aq_cuda_cache &of, int head, int thread)
        : cache(of), g(head), lane(thread) {
    }
    __device__ raw load(uint32_t token) const {
        return token;
    }
    __device__ float key(raw token, int k) const {
        const int c = column(lane, k), s = (int)(token % AQ_TILE);
        return c < cache.kv.n_col ? aq_cuda_key(cache, token / AQ_TILE, g, s, c) : 0.0f;
    }
    __device__ float value(raw token, int k, float) const {
        const int c = column(lane, k), s = (int)(token % AQ_TILE);
        return c < cache.kv.d_head ? aq_cuda_value(cache, token / AQ_TILE, g, s, c) : 0.0f;
    }
    __device__ float value_step(uint32_t) const {
        return 1.0f;
    }
    __device__ float value_zero(uint32_t) const {
        return 0.0f;
    }
};

/* N bytes of a row, as words. */
template <int N> struct few_bytes {
    uint32_t word[(N + 3) / 4];
    __device__ __forceinline__ void load(const void *from) {
        if (N == 2) word[0] = *(const uint16_t *)from;
        if (N == 4) word[0] = *(const uint32_t *)from;
        if (N == 8) *(uint2 *)word = *(const uint2 *)from;
        if (N == 16) *(uint4 *)word = *(const uint4 *)from;
    }
};

/* Rows of D numbers, lane entries n lane and on, of each type. Codes of 8 bits: the keys' steps are
 * those of a tile, and whole numbers are exact as floats above 2^23. */
template <int D> struct q8_rows {
    static constexpr int n = D / 32;
    struct raw {
        few_bytes<n> key, value;
        few_bytes<2 * n> low, step; /* of the key's columns: halves */
    };
    const aq_cuda_cache &cache;
    int g, lane;

    static __device__ int column(int lane, int k) {
        return n * lane + k;
    }
    __device__ q8_rows(const aq_cuda_cache &of, int head, int thread)
        : cache(of), g(head), lane(thread) {
    }
    __device__ __forceinline__ raw load(uint32_t token) const {
        const int64_t s = token % AQ_TILE;
        const uint8_t *keys = aq_cuda_key_block(cache, token / AQ_TILE, g);
        const uint8_t *values = aq_cuda_value_block(cache, token / AQ_TILE, g);
        raw row;
        row.key.load(keys + (4 + s) * D + n * lane);
        row.low.load(keys + 2 * n * lane);
        row.step.load(keys + 2 * D + 2 * n * lane);
        row.value.load(values + 3 * AQ_TILE + s * D + n * lane);
        return row;
    }
    template <int N> static __device__ __forceinline__ float above(const few_bytes<N> &row, int k) {
        return __uint_as_float(
            __byte_perm(row.word[k / 4], 0x4b000000u, 0x7440u | (uint32_t)(k % 4)));
    }
    static __device__ __forceinline__ float half_at(const few_bytes<2 * n> &row, int k) {
        const __half2 both = *(const __half2 *)&row.word[k / 2];
        return k % 2 == 0 ? __low2float(both) : __high2float(both);
    }
    __device__ __forceinline__ float key(const raw &row, int k) const {
        return fmaf(half_at(row.step, k), above(row.key, k) - 8388608.0f, half_at(row.low, k));
    }
    __device__ __forceinline__ float value(const raw &row, int k, float zero) const {
        return above(row.value, k) - zero;
    }
    __device__ float value_step(uint32_t token) const {
        const uint8_t *values = aq_cuda_value_block(cache, token / AQ_TILE, g);
        return __half2float(((const __half *)values)[token % AQ_TILE]);
    }
    __device__ float value_zero(uint32_t token) const {
        const uint8_t *values = aq_cuda_value_block(cache, token / AQ_TILE, g);
        return 8388608.0f + (float)values[2 * AQ_TILE + token % AQ_TILE];
    }
};

template <int D> struct bf16_rows {
    static constexpr int n = D / 32;
    struct raw {
        few_bytes<2 * n> key, value;
    };
    const aq_cuda_cache &cache;
    int g, lane;

    static __device__ int column(int lane, int k) {
        return n * lane + k;
    }
    __device__ bf16_rows(const aq_cuda_cache &of, int head, int thread)
        : cache(of), g(head), lane(thread) {
    }
    __device__ __forceinline__ raw load(uint32_t token) const {
        const int64_t at = 2 * (token % AQ_TILE * D + n * lane);
        raw row;
        row.key.load(aq_cuda_key_block(cache, token / AQ_TILE, g) + at);
        row.value.load(aq_cuda_value_block(cache, token / AQ_TILE, g) + at);
        return row;
    }
    static __device__ __forceinline__ float at(const few_bytes<2 * n> &row, int k) {
        const uint32_t pair = row.word[k / 2];
        return __uint_as_float(k % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
    }
    __device__ __forceinline__ float key(const raw &row, int k) const {
        return at(row.key, k);
    }
    __device__ __forceinline__ float value(const raw &row, int k, float) const {
        return at(row.value, k);
    }
    __device__ float value_step(uint32_t) const {
        return 1.0f;
    }
    __device__ float value_zero(uint32_t) const {
        return 0.0f;
    }
};

/* The open tile. */
template <int D> struct open_rows {
    static constexpr int n = D / 32;
    typedef uint32_t raw; /* the token */
    const float *keys, *values;

    static __device__ int column(int lane, int k) {
        return n * lane + k;
    }
    __device__ open_rows(const aq_cuda_cache &cache, int g, int lane)
        : keys(cache.kv.open_keys + g * AQ_TILE * D + n * lane),
          values(cache.kv.open_values + g * AQ_TILE * D + n * lane) {
    }
    __device__ raw load(uint32_t token) const {
        return token % AQ_TILE;
    }
    __device__ float key(raw s, int k) const {
        return keys[s * D + k];
    }
    __device__ float value(raw s, int k, float) const {
        return values[s * D + k];
    }
    __device__ float value_step(uint32_t) const {
        return 1.0f;
    }
    __device__ float value_zero(uint32_t) const {
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
    uint32_t queue[WARPS][BATCH + LOOK]; /* tokens chosen, of the order in which they are held */
};

/* sum of `mine` here and of `other` in the lane `apart` away. */
static __device__ float trade(bool upper, float low, float high, int apart) {
    const float mine = upper ? high : low, other = upper ? low : high;
    return mine + __shfl_xor_sync(WHOLE, other, apart);
}

/* One batch: tokens of those held, NONE where there is none. */
template <class Rows>
static __device__ void mix_batch(const Rows &rows, mixture<Rows::n> &mix,
                                 const uint32_t token[BATCH], int lane, float (*p_of)[HEADS],
                                 float *zero_of) {
    constexpr int n = Rows::n;
    typename Rows::raw row[BATCH];
    uint32_t own = token[0]; /* token lane / HEADS of the batch */
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
        if (token[j] != NONE) row[j] = rows.load(token[j]);
        if (lane / HEADS == j) own = token[j];
    }
    const float step = own != NONE ? rows.value_step(own) : 0.0f;
    const float zero = own != NONE ? rows.value_zero(own) : 0.0f;
    float four[4][HEADS];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float low[HEADS] = {0.0f, 0.0f, 0.0f, 0.0f}, high[HEADS] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (token[j] != NONE)
#pragma unroll
            for (int k = 0; k < n; k++) {
                const float x = rows.key(row[j], k);
                for (int h = 0; h < HEADS; h++)
                    low[h] = fmaf(mix.q[h][k], x, low[h]);
            }
        if (token[j + 4] != NONE)
#pragma unroll
            for (int k = 0; k < n; k++) {
                const float x = rows.key(row[j + 4], k);
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
    if (own == NONE) score = -INFINITY;
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
        if (token[j] == NONE) continue;
        const float4 weight = *(const float4 *)p_of[j];
        const float minus = zero_of[j];
#pragma unroll
        for (int k = 0; k < n; k++) {
            const float x = rows.value(row[j], k, minus);
            mix.o[0][k] = fmaf(weight.x, x, mix.o[0][k]);
            mix.o[1][k] = fmaf(weight.y, x, mix.o[1][k]);
            mix.o[2][k] = fmaf(weight.z, x, mix.o[2][k]);
            mix.o[3][k] = fmaf(weight.w, x, mix.o[3][k]);
        }
    }
    __syncwarp();
}

/* What a lane knows of four tokens that follow each other, before it is needed. */
typedef struct {
    int64_t pos[4];
    float w[4];
} outlook;

static __device__ __forceinline__ outlook look_at(const aq_cuda_select &t, int64_t unit,
                                                  int64_t first) {
    outlook ahead = {{INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX}, {0.0f, 0.0f, 0.0f, 0.0f}};
    if (first >= t.n_token) return ahead;
    for (int i = 0; i < 4; i++)
        ahead.pos[i] = aq_select_pos(t, first + i);
    if (!t.by_mass) return ahead;
    const float4 w = *(const float4 *)(t.w + unit * t.n_token + first);
    ahead.w[0] = w.x;
    ahead.w[1] = w.y;
    ahead.w[2] = w.z;
    ahead.w[3] = w.w;
    return ahead;
}

/* What a warp has done, for the counts. */
typedef struct {
    int seen, chosen, touched;
} tally;

/* Queues the tokens that a query attends to of those that the lanes look at, `first` the first of
 * this lane; `open`: those of the open tile alone, else all others. Returns how many are queued. */
static __device__ int queue_tokens(const aq_cuda_select &t, const outlook &here, int64_t first,
                                   int64_t pos, float least, bool open, uint32_t *queue, int n,
                                   tally *sum) {
    const int lane = threadIdx.x % 32;
    const bool is_open = aq_cuda_open(t.cache, first / AQ_TILE);
    uint32_t any = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const bool sees = here.pos[i] <= pos && is_open == open;
        const bool takes =
            sees && (!t.by_mass || here.w[i] >= least || aq_select_near(t, pos, here.pos[i]));
        const uint32_t bits = __ballot_sync(WHOLE, takes);
        if (takes) queue[n + __popc(bits & ((1u << lane) - 1))] = (uint32_t)(first + i);
        n += __popc(bits);
        any |= bits;
        sum->seen += __popc(__ballot_sync(WHOLE, sees));
        sum->chosen += __popc(bits);
    }
    sum->touched += ((any & 0xffffu) != 0) + (any >> 16 != 0);
    __syncwarp();
    return n;
}

/* Attends to the last BATCH that are queued. */
template <class Rows>
static __device__ void mix_last(const Rows &rows, mixture<Rows::n> &mix, const uint32_t *queue,
                                int n, int lane, float (*p_of)[HEADS], float *zero_of) {
    uint32_t token[BATCH];
    for (int j = 0; j < BATCH; j++)
        token[j] = n - 1 - j >= 0 ? queue[n - 1 - j] : NONE;
    mix_batch(rows, mix, token, lane, p_of, zero_of);
}

static __device__ void count(const aq_cuda_select &t, int64_t unit, const tally &sum) {
    if (!t.a.counts || blockIdx.z > 0) return;
    int32_t *to = t.a.counts + 3 * (t.first + unit);
    atomicAdd(&to[0], sum.seen);
    atomicAdd(&to[1], sum.chosen);
    atomicAdd(&to[2], sum.touched);
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

template <class Rows>
static __device__ void take_queries(const aq_cuda_select &t, int64_t unit, int lane,
                                    mixture<Rows::n> &mix) {
    const int first = blockIdx.z * HEADS, g = aq_select_head(t, unit);
    mix.m = AQ_CUDA_LOWEST;
    mix.l = 0.0f;
    for (int h = 0; h < HEADS; h++)
        for (int k = 0; k < Rows::n; k++) {
            const int c = Rows::column(lane, k);
            const bool there = first + h < t.group && c < t.a.kv.n_col;
            const int64_t row =
                aq_select_query(t, unit) * t.a.n_head + (int64_t)g * t.group + first + h;
            mix.q[h][k] = there ? t.a.scale * t.a.q[row * t.a.kv.n_col + c] : 0.0f;
            mix.o[h][k] = 0.0f;
        }
}

template <class Rows, class OpenRows>
static __global__ void __launch_bounds__(THREADS, Rows::n <= 4 ? 3 : 2)
    mix_chosen(const __grid_constant__ aq_cuda_select t) {
    extern __shared__ float shared[];
    __shared__ __align__(16) shared_rows rows_of;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = aq_select_head(t, blockIdx.y);
    const int64_t unit = blockIdx.y, pos = t.a.q_pos[aq_select_query(t, unit)];
    const float least = t.by_mass ? t.least[unit] : 0.0f;
    const int64_t step = (int64_t)gridDim.x * WARPS * LOOK;
    float(*p_of)[HEADS] = rows_of.p[warp];
    float *zero_of = rows_of.zero[warp];
    uint32_t *queue = rows_of.queue[warp];
    tally sum = {0, 0, 0};
    mixture<Rows::n> mix;
    take_queries<Rows>(t, unit, lane, mix);
    const Rows rows(t.cache, g, lane);
    int n = 0;
    int64_t from = (blockIdx.x * WARPS + warp) * (int64_t)LOOK;
    outlook here = look_at(t, unit, from + 4 * lane);
    for (; from < t.n_token; from += step) {
        n = queue_tokens(t, here, from + 4 * lane, pos, least, false, queue, n, &sum);
        here = look_at(t, unit, from + step + 4 * lane);
        for (; n >= BATCH; n -= BATCH)
            mix_last(rows, mix, queue, n, lane, p_of, zero_of);
        __syncwarp();
    }
    if (n > 0) mix_last(rows, mix, queue, n, lane, p_of, zero_of);
    __syncwarp();
    const int64_t open = t.a.kv.open_keys ? t.a.kv.open_tile * AQ_TILE : -1;
    if (open >= 0 && open < t.n_token &&
        open / LOOK % (gridDim.x * WARPS) == blockIdx.x * WARPS + warp) {
        const int64_t first = open / LOOK * LOOK + 4 * lane;
        n = queue_tokens(t, look_at(t, unit, first), first, pos, least, true, queue, 0, &sum);
        for (; n > 0; n -= BATCH)
            mix_last(OpenRows(t.cache, g, lane), mix, queue, n, lane, p_of, zero_of);
    }
    if (lane == 0) count(t, unit, sum);
    if (mix.m == AQ_CUDA_LOWEST) mix.m = -INFINITY;
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
