#include "kernels/code_column.h"

#include <math.h>
#include <string.h>

#include "kernels/codes.h"
#include "src/base/dtype.h"

/* Where the levels of 2 bits part: half-way between 0.453 and 1.510. */
#define LEVEL_EDGE 0.9815f

/* Rounds of regression. More cost more than they gain. */
#define ROUNDS 2

/* So much of the range 3 bits begin with: they end up there, but not from the whole range. */
#define SHARE_OF_3_BITS 0.9f

/* Sums are taken in so many parts at once. */
#define PARTS 8

/* A column less its mean, and the best codes so far. */
typedef struct {
    float x[AQ_TILE];
    float mean;
    int bits;
    float error; /* squared, of *best */
    float best_level[AQ_TILE];
    aq_column_codes *best;
} column;

static float sum_parts(const float *part) {
    return ((part[0] + part[4]) + (part[1] + part[5])) +
           ((part[2] + part[6]) + (part[3] + part[7]));
}

static float sum(const float *x) {
    float part[PARTS] = {0.0f};
    for (int s = 0; s < AQ_TILE; s += PARTS)
        for (int i = 0; i < PARTS; i++)
            part[i] += x[s + i];
    return sum_parts(part);
}

static float sum_products(const float *x, const float *y) {
    float part[PARTS] = {0.0f};
    for (int s = 0; s < AQ_TILE; s += PARTS)
        for (int i = 0; i < PARTS; i++)
            part[i] += x[s + i] * y[s + i];
    return sum_parts(part);
}

/* level[s] = the level(code) nearest to (x[s] - base) / step; step 0: those of x[s] = base. */
static void find_levels(const float *restrict x, int bits, float base, float step,
                        float *restrict level) {
    const float inverse = step > 0.0f ? 1.0f / step : 0.0f;
    const float top = (float)((1 << bits) - 1), one = aq_code_levels[0][1];
    const float inner = aq_code_levels[1][2], outer = aq_code_levels[1][3];
    if (bits >= 3) {
        for (int s = 0; s < AQ_TILE; s++) {
            float code = (x[s] - base) * inverse + 0.5f;
            code = code > 0.0f ? code : 0.0f;
            code = code < top ? code : top;
            level[s] = (float)(int)code;
        }
    } else if (bits == 2) {
        for (int s = 0; s < AQ_TILE; s++) {
            const float z = (x[s] - base) * inverse;
            level[s] = copysignf(fabsf(z) > LEVEL_EDGE ? outer : inner, z);
        }
    } else {
        for (int s = 0; s < AQ_TILE; s++)
            level[s] = copysignf(one, (x[s] - base) * inverse);
    }
}

/* The code of a level. */
static uint8_t code_of(float level, int bits) {
    if (bits >= 3) return (uint8_t)(int)level;
    if (bits == 1) return level > 0.0f;
    return (uint8_t)((level > -1.0f) + (level > 0.0f) + (level > 1.0f));
}

/* Keeps (base, step8) if its codes are better than the best so far. base is relative to the mean,
 * and is rounded as it is stored. */
static void try_levels(column *c, float base, uint8_t step8) {
    float level[AQ_TILE], off[AQ_TILE];
    const uint16_t half = aq_f32_to_f16(c->mean + base);
    const float low = aq_f16_to_f32(half) - c->mean, step = aq_step8_value(step8);
    find_levels(c->x, c->bits, low, step, level);
    for (int s = 0; s < AQ_TILE; s++)
        off[s] = c->x[s] - low - step * level[s];
    const float error = sum_products(off, off);
    if (!(error < c->error)) return;
    c->error = error;
    c->best->base = half;
    c->best->step8 = step8;
    memcpy(c->best_level, level, sizeof level);
}

/* The same with the best base for this step and the levels nearest under `base`. */
static void try_step(column *c, float base, uint8_t step8) {
    float level[AQ_TILE];
    const float step = aq_step8_value(step8);
    find_levels(c->x, c->bits, base, step, level);
    try_levels(c, -step * sum(level) / AQ_TILE, step8);
}

/* The best base and step for the levels nearest under these: regression, where x has mean 0. */
static void regress(const column *c, float *base, float *step) {
    float level[AQ_TILE];
    find_levels(c->x, c->bits, *base, *step, level);
    const float mean = sum(level) / AQ_TILE;
    const float spread = sum_products(level, level) - AQ_TILE * mean * mean;
    if (spread > 0.0f) *step = sum_products(c->x, level) / spread;
    *base = -*step * mean;
}

/* The range over the codes, in the middle of them. The base is rounded to f16, which matters where
 * a column lies far from 0: then a larger step may be needed. */
static void begin_with_range(column *c, float *base, float *step) {
    float least = c->x[0], most = c->x[0];
    const float top = (float)((1 << c->bits) - 1);
    for (int s = 1; s < AQ_TILE; s++) {
        least = c->x[s] < least ? c->x[s] : least;
        most = c->x[s] > most ? c->x[s] : most;
    }
    const float range = most - least, middle = 0.5f * (least + most);
    const float far = ldexpf(fabsf(c->mean + middle), -10);
    const uint8_t fits = aq_step8_above(range / top), sure = aq_step8_above((range + far) / top);
    try_levels(c, middle - 0.5f * top * aq_step8_value(fits), fits);
    if (sure > fits) try_levels(c, middle - 0.5f * top * aq_step8_value(sure), sure);
    *step = range / top * (c->bits == 3 ? SHARE_OF_3_BITS : 1.0f);
    *base = middle - 0.5f * top * *step;
}

static void begin_with_deviation(column *c, float *base, float *step) {
    *base = 0.0f;
    *step = sqrtf(sum_products(c->x, c->x) / AQ_TILE);
    try_levels(c, 0.0f, aq_step8_near(*step));
}

void aq_column_fit(const float *x, int bits, aq_column_codes *out) {
    column c = {.mean = sum(x) / AQ_TILE, .bits = bits, .error = INFINITY, .best = out};
    float base, step;
    for (int s = 0; s < AQ_TILE; s++)
        c.x[s] = x[s] - c.mean;
    if (bits >= 3)
        begin_with_range(&c, &base, &step);
    else
        begin_with_deviation(&c, &base, &step);
    for (int round = 0; round < ROUNDS; round++)
        regress(&c, &base, &step);
    const uint8_t above = aq_step8_above(step);
    try_step(&c, base, above);
    if (above > 0) try_step(&c, base, (uint8_t)(above - 1));
    for (int s = 0; s < AQ_TILE; s++)
        out->code[s] = code_of(c.best_level[s], bits);
}

void aq_column_levels(const aq_column_codes *codes, int bits, float *out) {
    const float base = aq_f16_to_f32(codes->base), step = aq_step8_value(codes->step8);
    for (int s = 0; s < AQ_TILE; s++) {
        const int code = codes->code[s];
        out[s] = base + step * (bits >= 3 ? (float)code : aq_code_levels[bits - 1][code]);
    }
}
