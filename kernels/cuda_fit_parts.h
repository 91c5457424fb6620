/* Private to kernels/: a selector's codes made on the device, by the same steps as on the CPU
 * (code_column.c, code_selector_cpu.c). As cuda_code_parts.h, for files compiled without
 * contraction of products and sums. */
#ifndef AQ_KERNELS_CUDA_FIT_PARTS_H
#define AQ_KERNELS_CUDA_FIT_PARTS_H

#include "kernels/cuda_code_parts.h"

/* Where the levels of 2 bits part: half-way between 0.453 and 1.510. */
#define AQ_LEVEL_EDGE 0.9815f

/* Rounds of regression, and the share of the range that 3 bits begin with. */
#define AQ_FIT_ROUNDS      2
#define AQ_SHARE_OF_3_BITS 0.9f

/* Eight sums, added in pairs, as on the CPU; term(s) gives what is summed over the tile. */
template <typename Term> static __device__ float aq_cuda_tile_sum(Term term) {
    float part[8];
    for (int i = 0; i < 8; i++)
        part[i] = 0.0f;
    for (int s = 0; s < AQ_TILE; s += 8)
        for (int i = 0; i < 8; i++)
            part[i] += term(s + i);
    return ((part[0] + part[4]) + (part[1] + part[5])) +
           ((part[2] + part[6]) + (part[3] + part[7]));
}

/* The level nearest to (x - base) * inverse, where inverse is 0 for a step of 0. */
static __device__ float aq_cuda_level(float x, int bits, float base, float inverse) {
    if (bits >= 3) return (float)aq_cuda_quantised(x, base, inverse, (1 << bits) - 1);
    const float z = (x - base) * inverse;
    if (bits == 1) return copysignf(0.7979f, z);
    return copysignf(fabsf(z) > AQ_LEVEL_EDGE ? 1.510f : 0.453f, z);
}

static __device__ float aq_cuda_inverse(float step) {
    return step > 0.0f ? 1.0f / step : 0.0f;
}

static __device__ uint8_t aq_cuda_code_of(float level, int bits) {
    if (bits >= 3) return (uint8_t)(int)level;
    if (bits == 1) return level > 0.0f;
    return (uint8_t)((level > -1.0f) + (level > 0.0f) + (level > 1.0f));
}

/* A selector's column less its mean, and the best codes so far: those of x nearest under
 * (pick_base, pick_inverse), stored as (half, step8). */
typedef struct {
    float x[AQ_TILE];
    float mean, error;
    int bits;
    float pick_base, pick_inverse;
    uint16_t half;
    uint8_t step8;
} aq_cuda_column;

/* Keeps (base, step8) if the levels picked by (pick_base, pick_inverse) fit better than the best so
 * far. */
static __device__ void aq_cuda_try(aq_cuda_column *c, float base, uint8_t step8, bool pick_stored,
                                   float pick_base, float pick_inverse) {
    const uint16_t half = __half_as_ushort(__float2half_rn(c->mean + base));
    const float low = aq_cuda_f16_value(half) - c->mean, step = aq_cuda_step8_value(step8);
    if (pick_stored) {
        pick_base = low;
        pick_inverse = aq_cuda_inverse(step);
    }
    const float error = aq_cuda_tile_sum([&](int s) {
        const float level = aq_cuda_level(c->x[s], c->bits, pick_base, pick_inverse);
        const float off = c->x[s] - low - step * level;
        return off * off;
    });
    if (!(error < c->error)) return;
    c->error = error;
    c->half = half;
    c->step8 = step8;
    c->pick_base = pick_base;
    c->pick_inverse = pick_inverse;
}

static __device__ void aq_cuda_try_levels(aq_cuda_column *c, float base, uint8_t step8) {
    aq_cuda_try(c, base, step8, true, 0.0f, 0.0f);
}

/* The same with the best base for this step and the levels nearest under `base`. */
static __device__ void aq_cuda_try_step(aq_cuda_column *c, float base, uint8_t step8) {
    const float step = aq_cuda_step8_value(step8), inverse = aq_cuda_inverse(step);
    const float sum =
        aq_cuda_tile_sum([&](int s) { return aq_cuda_level(c->x[s], c->bits, base, inverse); });
    aq_cuda_try_levels(c, -step * sum / AQ_TILE, step8);
}

static __device__ void aq_cuda_begin_with_range(aq_cuda_column *c, float *base, float *step) {
    float least = c->x[0], most = c->x[0];
    const float top = (float)((1 << c->bits) - 1);
    for (int s = 1; s < AQ_TILE; s++) {
        least = c->x[s] < least ? c->x[s] : least;
        most = c->x[s] > most ? c->x[s] : most;
    }
    const float range = most - least, middle = 0.5f * (least + most);
    const float far = ldexpf(fabsf(c->mean + middle), -10);
    const uint8_t fits = aq_cuda_step8_above(range / top);
    const uint8_t sure = aq_cuda_step8_above((range + far) / top);
    aq_cuda_try_levels(c, middle - 0.5f * top * aq_cuda_step8_value(fits), fits);
    if (sure > fits) aq_cuda_try_levels(c, middle - 0.5f * top * aq_cuda_step8_value(sure), sure);
    *step = range / top * (c->bits == 3 ? AQ_SHARE_OF_3_BITS : 1.0f);
    *base = middle - 0.5f * top * *step;
}

static __device__ void aq_cuda_regress(const aq_cuda_column *c, float *base, float *step) {
    const float from = *base, inverse = aq_cuda_inverse(*step);
    const auto level = [&](int s) { return aq_cuda_level(c->x[s], c->bits, from, inverse); };
    const float mean = aq_cuda_tile_sum(level) / AQ_TILE;
    const float squares = aq_cuda_tile_sum([&](int s) { return level(s) * level(s); });
    const float spread = squares - AQ_TILE * mean * mean;
    if (spread > 0.0f) *step = aq_cuda_tile_sum([&](int s) { return c->x[s] * level(s); }) / spread;
    *base = -*step * mean;
}

/* Fits base and step to c->x, which still has its mean. See code_column.h. */
static __device__ void aq_cuda_fit(aq_cuda_column *c) {
    float base, step;
    c->error = INFINITY;
    c->mean = aq_cuda_tile_sum([&](int s) { return c->x[s]; }) / AQ_TILE;
    for (int s = 0; s < AQ_TILE; s++)
        c->x[s] -= c->mean;
    if (c->bits >= 3) {
        aq_cuda_begin_with_range(c, &base, &step);
    } else {
        base = 0.0f;
        step = sqrtf(aq_cuda_tile_sum([&](int s) { return c->x[s] * c->x[s]; }) / AQ_TILE);
        aq_cuda_try_levels(c, 0.0f, aq_cuda_step8_near(step));
    }
    for (int round = 0; round < AQ_FIT_ROUNDS; round++)
        aq_cuda_regress(c, &base, &step);
    const uint8_t above = aq_cuda_step8_above(step);
    aq_cuda_try_step(c, base, above);
    if (above > 0) aq_cuda_try_step(c, base, (uint8_t)(above - 1));
}

/* Writes the selector's block of one tile, with all AQ_CODE_THREADS threads: column(c, s) gives its
 * keys. codes[n_code * AQ_TILE] is shared memory. */
template <typename Column>
static __device__ void aq_cuda_code_selector(const aq_cuda_cache &cache, Column column,
                                             uint8_t *codes, uint8_t *block) {
    const aq_code_layout &layout = cache.kv.codes;
    __syncthreads();
    for (int c = threadIdx.x; c < cache.n_code; c += AQ_CODE_THREADS) {
        aq_cuda_column fit;
        int i = 0;
        for (int left = c; left >= layout.segments[i].n; i++)
            left -= layout.segments[i].n;
        fit.bits = layout.segments[i].bits;
        for (int s = 0; s < AQ_TILE; s++)
            fit.x[s] = column(c, s);
        aq_cuda_fit(&fit);
        for (int s = 0; s < AQ_TILE; s++)
            codes[c * AQ_TILE + s] = aq_cuda_code_of(
                aq_cuda_level(fit.x[s], fit.bits, fit.pick_base, fit.pick_inverse), fit.bits);
        aq_cuda_put_f16(block, c, fit.half);
        block[2 * cache.n_code + c] = fit.step8;
    }
    __syncthreads();
    uint8_t *run = block + 3 * cache.n_code;
    for (int i = 0, first = 0; i < layout.n_segment; first += layout.segments[i++].n) {
        const int n_column = layout.segments[i].n, bits = layout.segments[i].bits;
        const int bytes = n_column * bits * AQ_TILE / 8, quad_bytes = 4 * bits * AQ_TILE / 8;
        for (int at = threadIdx.x; at < bytes; at += AQ_CODE_THREADS) {
            const int quad = at / quad_bytes, left = n_column - 4 * quad, n = left < 4 ? left : 4;
            const uint8_t *of_quad = codes + (first + 4 * quad) * AQ_TILE;
            run[at] = aq_cuda_packed(n * AQ_TILE, bits, at % quad_bytes,
                                     [&](int e) { return of_quad[e % n * AQ_TILE + e / n]; });
        }
        run += bytes;
    }
}

#endif
