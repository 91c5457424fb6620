/* Selecting attention: weights of the tokens, and the bound.
 *
 * Weights fall in bins of their floats, 256 to a power of 2. A bin counts them and sums the bits
 * that it leaves open, so that it knows their mass exactly, in whole numbers. The bound is the
 * lower end of the first bin, from the largest down, with which the mass is held. */
#include "kernels/cuda_asm_parts.h"
#include "kernels/cuda_select_parts.h"

#define HEADS          AQ_SELECT_HEADS
#define THREADS        512
#define CHOOSE_THREADS 1024
#define OPEN_MASK      ((1u << AQ_SELECT_BIN_BITS) - 1)
#define COUNT_SHIFT    40
#define WHOLE          0xffffffffu

typedef unsigned long long whole;

/* m and 1 / l of head h of a unit over all tokens, by one warp; h counts through the blocks. */
static __device__ void join_sums(const aq_cuda_select &t, int64_t unit, int h, float *m,
                                 float *inverse) {
    const int64_t block = unit * t.n_block + h / HEADS;
    const float2 *ml = (const float2 *)t.ml + block * t.n_scan * HEADS + h % HEADS;
    const int lane = threadIdx.x % 32;
    float most = -INFINITY, sum = 0.0f;
    for (int i = lane; i < t.n_scan; i += 32)
        most = fmaxf(most, ml[i * HEADS].x);
    for (int apart = 16; apart > 0; apart /= 2)
        most = fmaxf(most, __shfl_xor_sync(WHOLE, most, apart));
    if (most == -INFINITY) most = 0.0f; /* there is no token */
    for (int i = lane; i < t.n_scan; i += 32)
        sum += ml[i * HEADS].y * aq_cuda_exp2(ml[i * HEADS].x - most);
    for (int apart = 16; apart > 0; apart /= 2)
        sum += __shfl_xor_sync(WHOLE, sum, apart);
    if (lane != 0) return;
    *m = most;
    *inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
}

/* The weights of tokens 4 four to 4 four + 3: the largest of their heads, or their sum, which is as
 * good as the mean. */
static __device__ void weigh_four(const aq_cuda_select &t, int64_t unit, int64_t four,
                                  const float *m, const float *inverse, float w[4]) {
    w[0] = w[1] = w[2] = w[3] = 0.0f;
    for (int first = 0; first < t.group; first += HEADS) {
        const int64_t block = unit * t.n_block + first / HEADS;
        const float4 *from = (const float4 *)t.z + (block * (t.n_token / 4) + four) * HEADS;
        float4 z[HEADS];
#pragma unroll
        for (int h = 0; h < HEADS; h++)
            if (first + h < t.group) z[h] = __ldcs(from + h);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (first + h >= t.group) break;
            const float of[4] = {z[h].x, z[h].y, z[h].z, z[h].w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float x = aq_cuda_exp2(of[i] - m[first + h]) * inverse[first + h];
                w[i] = t.a.group_mean ? w[i] + x : fmaxf(w[i], x);
            }
        }
    }
}

/* Adds what the block's threads have to sum[2]. */
static __device__ void give_sums(whole near, whole below, uint64_t *sum) {
    for (int apart = 16; apart > 0; apart /= 2) {
        near += __shfl_xor_sync(WHOLE, near, apart);
        below += __shfl_xor_sync(WHOLE, below, apart);
    }
    if (threadIdx.x % 32 != 0) return;
    atomicAdd((whole *)&sum[0], near);
    atomicAdd((whole *)&sum[1], below);
}

static __global__ void __launch_bounds__(THREADS) weigh_tokens(const aq_cuda_select t) {
    extern __shared__ float shared[]; /* m and 1 / l of each head, then the bins' counts and sums */
    const int64_t unit = blockIdx.y, pos = t.a.q_pos[aq_select_query(t, unit)];
    float *m = shared, *inverse = m + t.group;
    uint32_t *count = (uint32_t *)(inverse + t.group), *open = count + t.n_bin;
    for (int i = threadIdx.x; i < 2 * t.n_bin; i += THREADS)
        count[i] = 0;
    for (int h = threadIdx.x / 32; h < t.group; h += THREADS / 32)
        join_sums(t, unit, h, &m[h], &inverse[h]);
    __syncthreads();
    whole near = 0, below = 0;
    const int64_t n_four = t.n_token / 4, step = (int64_t)gridDim.x * THREADS;
    for (int64_t four = (int64_t)blockIdx.x * THREADS + threadIdx.x; four < n_four; four += step) {
        float w[4];
        weigh_four(t, unit, four, m, inverse, w);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t bits = __float_as_uint(w[i]);
            const int bin = (int)(bits >> AQ_SELECT_BIN_BITS) - (int)t.first_bin;
            if (aq_select_near(t, pos, aq_select_pos(t, 4 * four + i))) {
                near += (whole)((double)w[i] * AQ_SELECT_ONE);
                w[i] = 0.0f;
            } else if (bin < 0) {
                below += (whole)((double)w[i] * AQ_SELECT_ONE);
            } else {
                const int in = bin < t.n_bin ? bin : t.n_bin - 1;
                atomicAdd(&count[in], 1u);
                atomicAdd(&open[in], bits & OPEN_MASK);
            }
        }
        ((float4 *)t.w)[unit * n_four + four] = make_float4(w[0], w[1], w[2], w[3]);
    }
    give_sums(near, below, t.sum + 2 * unit);
    __syncthreads();
    for (int i = threadIdx.x; i < t.n_bin; i += THREADS)
        if (count[i] > 0)
            atomicAdd((whole *)&t.bin[unit * t.n_bin + i],
                      (whole)count[i] << COUNT_SHIFT | open[i]);
}

/* The sum of weights in bin i. */
static __device__ double mass_of(const aq_cuda_select &t, int64_t unit, int i) {
    const whole bin = t.bin[unit * t.n_bin + i];
    const uint32_t bits = (t.first_bin + (uint32_t)i) << AQ_SELECT_BIN_BITS;
    const double unit_of = (double)__uint_as_float(bits & 0xff800000u) * 0x1p-23;
    const whole in_units = (bin >> COUNT_SHIFT) * ((bits & 0x7fffffu) | 0x800000u) +
                           (bin & (((whole)1 << COUNT_SHIFT) - 1));
    return (double)in_units * unit_of;
}

/* sums[thread] = the sum over this thread and those before it. */
static __device__ void sum_before(double *sums) {
    for (int apart = 1; apart < CHOOSE_THREADS; apart *= 2) {
        __syncthreads();
        const double before = (int)threadIdx.x >= apart ? sums[threadIdx.x - apart] : 0.0;
        __syncthreads();
        sums[threadIdx.x] += before;
    }
    __syncthreads();
}

/* The bound of one unit. Threads have bins one after the other, the first thread the largest. */
static __global__ void __launch_bounds__(CHOOSE_THREADS) choose_bound(const aq_cuda_select t) {
    __shared__ double sums[CHOOSE_THREADS];
    const int64_t unit = blockIdx.x;
    const int own = (t.n_bin + CHOOSE_THREADS - 1) / CHOOSE_THREADS;
    const int top = t.n_bin - 1 - (int)threadIdx.x * own;
    double sum = 0.0;
    for (int i = top; i > top - own && i >= 0; i--)
        sum += mass_of(t, unit, i);
    sums[threadIdx.x] = sum;
    sum_before(sums);
    const double near = (double)t.sum[2 * unit] / AQ_SELECT_ONE;
    const double below = (double)t.sum[2 * unit + 1] / AQ_SELECT_ONE;
    const double target = t.a.mass * (sums[CHOOSE_THREADS - 1] + near + below) - near;
    double held = threadIdx.x == 0 ? 0.0 : sums[threadIdx.x - 1];
    if (threadIdx.x == 0 && target <= 0.0) t.least[unit] = INFINITY;
    if (threadIdx.x == 0 && target > sums[CHOOSE_THREADS - 1]) t.least[unit] = 0.0f;
    if (target <= held || target > sums[threadIdx.x]) return;
    int i = top;
    for (; i > top - own + 1 && i > 0; i--) {
        held += mass_of(t, unit, i);
        if (held >= target) break;
    }
    t.least[unit] = __uint_as_float((t.first_bin + (uint32_t)i) << AQ_SELECT_BIN_BITS);
}

void aq_cuda_select_weigh(aq_cuda *cuda, const aq_cuda_select *t) {
    const size_t bytes = (size_t)(2 * t->group) * sizeof(float) + (size_t)(2 * t->n_bin) * 4;
    const dim3 grid((unsigned)t->n_weigh, (unsigned)t->n_unit);
    cudaFuncSetAttribute(weigh_tokens, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    weigh_tokens<<<grid, THREADS, bytes, cuda->stream>>>(*t);
    choose_bound<<<(unsigned)t->n_unit, CHOOSE_THREADS, 0, cuda->stream>>>(*t);
}
