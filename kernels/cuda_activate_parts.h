/* Private to kernels/, for .cu files: the activations of activate.h.
 *
 * x below 0 takes its share of 1 as e / (1 + e), above as 1 / (1 + e), so that e never overflows
 * and the small shares keep their digits. */
#ifndef AQ_KERNELS_CUDA_ACTIVATE_PARTS_H
#define AQ_KERNELS_CUDA_ACTIVATE_PARTS_H

#include "kernels/activate.h"

/* x / (1 + exp(-v)) for x of the sign of v. */
__device__ static inline float aq_times_logistic(float x, float v) {
    const float e = expf(-fabsf(v));
    return (v < 0.0f ? x * e : x) / (1.0f + e);
}

/* The normal distribution's tail beyond z is exp(-z^2 / 2) erfcx(z / sqrt(2)) / 2: unlike erfc it
 * does not magnify the rounding of z / sqrt(2). */
__device__ static inline float aq_gelu(float x) {
    const float tail = 0.5f * erfcxf(fabsf(x) * 0.70710678118654752f);
    const float e = expf(-0.5f * (x * x));
    return x < 0.0f ? x * e * tail : x * (1.0f - e * tail);
}

__device__ static inline float aq_activated(aq_activate_kind kind, float x) {
    switch (kind) {
    case AQ_ACTIVATE_SILU:
        return aq_times_logistic(x, x);
    case AQ_ACTIVATE_GELU:
        return aq_gelu(x);
    case AQ_ACTIVATE_GELU_TANH:
        return aq_times_logistic(x, 1.5957691216057308f * (x + 0.044715f * (x * x) * x));
    case AQ_ACTIVATE_RELU:
        break;
    }
    return x < 0.0f ? 0.0f : x;
}

#endif
