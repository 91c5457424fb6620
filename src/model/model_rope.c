#include <math.h>

#include "src/model/model_config.h"

/* Turns a dimension makes over the original context at which yarn stops and starts to interpolate;
 * the paper's values for Llama. */
#define YARN_BETA_FAST 32.0
#define YARN_BETA_SLOW 1.0

#define PI 3.14159265358979323846

/* The pair of dimensions, not rounded, that makes n_turn turns over the original context. */
static double yarn_pair(const aq_model_config *config, double n_turn) {
    const double wavelength = (double)config->rope_n_ctx_orig / (n_turn * 2.0 * PI);
    return config->n_rot * log(wavelength) / (2.0 * log(config->rope_base));
}

/* base^(2i / n_rot) */
static float power(const aq_model_config *config, int i) {
    return powf((float)config->rope_base, (float)(2 * i) / (float)config->n_rot);
}

/* Mixes plain and interpolated frequencies: dimensions that turn often stay as they are, those that
 * turn less than once are interpolated, between them a linear ramp over the pair's number. */
static void yarn(const aq_model_config *config, float *inv_freq) {
    const float factor = (float)config->rope_factor;
    const float low = fmaxf((float)floor(yarn_pair(config, YARN_BETA_FAST)), 0.0f);
    float high = fminf((float)ceil(yarn_pair(config, YARN_BETA_SLOW)), (float)(config->n_rot - 1));
    if (low == high) high += 0.001f;
    for (int i = 0; i < config->n_rot / 2; i++) {
        const float ramp = fminf(fmaxf(((float)i - low) / (high - low), 0.0f), 1.0f);
        const float plain = 1.0f - ramp;
        inv_freq[i] =
            1.0f / (factor * power(config, i)) * (1.0f - plain) + 1.0f / power(config, i) * plain;
    }
}

void aq_model_rope(const aq_model_config *config, const float *divisors, float *inv_freq,
                   float *attn_factor) {
    const int n = config->n_rot / 2;
    *attn_factor = 1.0f;
    if (config->rope_scaling == AQ_ROPE_YARN) {
        yarn(config, inv_freq);
        *attn_factor = (float)(config->rope_attn_factor * (1.0 + 0.1 * log(config->rope_factor)));
    } else {
        const float divisor =
            config->rope_scaling == AQ_ROPE_LINEAR ? (float)config->rope_factor : 1.0f;
        for (int i = 0; i < n; i++)
            inv_freq[i] = 1.0f / power(config, i) / divisor;
    }
    for (int i = 0; divisors && i < n; i++)
        inv_freq[i] /= divisors[i];
}
