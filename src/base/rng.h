/* A small reproducible random generator: the same seed gives the same numbers on every machine.
 * Source: splitmix64 (Steele, Lea, Flood 2014). */
#ifndef AQ_BASE_RNG_H
#define AQ_BASE_RNG_H

#include <stdint.h>

typedef struct {
    uint64_t state;
} aq_rng;

/* The next 64 random bits. Local. */
static inline uint64_t aq_rng_next(aq_rng *rng) {
    uint64_t z = (rng->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1) with 53 random bits. Local. */
static inline double aq_rng_uniform(aq_rng *rng) {
    return (double)(aq_rng_next(rng) >> 11) * (1.0 / 9007199254740992.0);
}

/* Standard normal, by Box and Muller; two uniforms a call. Local. */
double aq_rng_normal(aq_rng *rng);

#endif
