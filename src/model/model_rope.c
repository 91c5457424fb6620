#include <math.h>

#include "src/model/model_config.h"

#define PI 3.14159265358979323846

/* The pair of dimensions, not rounded, that makes n_turn turns over the original context. */
static double yarn_pair(const aq_rope_config *rope, int n_rot, double n_turn) {
    const double wavelength = (double)rope->n_ctx_orig / (n_turn * 2.0 * PI);
    return n_rot * log(wavelength) / (2.0 * log(rope->base));
}

/* base^(2i / n_rot) */
static float power(const aq_rope_config *rope, int n_rot, int i) {
    return powf((float)rope->base, (float)(2 * i) / (float)n_rot);
}

/* Mixes plain and interpolated frequencies: dimensions that turn often stay as they are, those that
 * turn less than once are interpolated, between them a linear ramp over the pair's number. */
static void yarn(const aq_rope_config *rope, int n_rot, float *inv_freq) {
    const float factor = (float)rope->factor;
    const float low = fmaxf((float)floor(yarn_pair(rope, n_rot, rope->beta_fast)), 0.0f);
    float high = fminf((float)ceil(yarn_pair(rope, n_rot, rope->beta_slow)), (float)(n_rot - 1));
    if (low == high) high += 0.001f;
    for (int i = 0; i < n_rot / 2; i++) {
        const float ramp = fminf(fmaxf(((float)i - low) / (high - low), 0.0f), 1.0f);
        const float plain = 1.0f - ramp;
        const float own = power(rope, n_rot, i);
        inv_freq[i] = 1.0f / (factor * own) * (1.0f - plain) + 1.0f / own * plain;
    }
}

static double attention(const aq_rope_config *rope) {
    if (rope->scaling == AQ_ROPE_YARN) return rope->attn_factor * (1.0 + 0.1 * log(rope->factor));
    if (rope->scaling != AQ_ROPE_LONGROPE) return 1.0;
    if (rope->factor <= 1.0) return rope->attn_factor;
    return rope->attn_factor * sqrt(1.0 + log(rope->factor) / log((double)rope->n_ctx_orig));
}

void aq_model_rope(const aq_rope_config *rope, int n_rot, const float *divisors, float *inv_freq,
                   float *attn_factor) {
    const float divisor = rope->scaling == AQ_ROPE_LINEAR ? (float)rope->factor : 1.0f;
    *attn_factor = (float)attention(rope);
    if (rope->scaling == AQ_ROPE_YARN)
        yarn(rope, n_rot, inv_freq);
    else
        for (int i = 0; i < n_rot / 2; i++)
            inv_freq[i] = 1.0f / power(rope, n_rot, i) / divisor;
    for (int i = 0; divisors && i < n_rot / 2; i++)
        inv_freq[i] /= divisors[i];
}
