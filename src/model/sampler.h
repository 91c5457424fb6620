/* Choice of the next token from logits.
 *
 * Order as in llama.cpp: repeat penalty, top-k, top-p, min-p, temperature, draw. temp <= 0 takes
 * the largest logit, of equal ones the lowest id. */
#ifndef AQ_MODEL_SAMPLER_H
#define AQ_MODEL_SAMPLER_H

#include <stdint.h>

#include "src/base/status.h"

typedef struct {
    float temp;           /* 0.8; <= 0: greedy */
    int top_k;            /* 40; 0: all */
    float top_p;          /* 0.95; 1: all */
    float min_p;          /* 0.05; 0: all */
    float repeat_penalty; /* 1: none */
    int repeat_last_n;    /* 64 tokens looked back at; 0: none */
    uint64_t seed;
} aq_sampler_options;

aq_sampler_options aq_sampler_defaults(void);

typedef struct aq_sampler aq_sampler;

/* A sampler for logits of n_vocab tokens. The caller closes it. AQ_ERR_USAGE (an option out of
 * range, named), AQ_ERR_MEMORY. Local. */
aq_status aq_sampler_open(const aq_sampler_options *options, int32_t n_vocab, aq_sampler **out);
void aq_sampler_close(aq_sampler *sampler);

/* Draws one id from logits[n_vocab] and remembers it for the repeat penalty. Changes nothing in
 * logits; allocates nothing. Logits that are all NaN or -inf: AQ_ERR_NUMERIC. Local. */
aq_status aq_sampler_draw(aq_sampler *sampler, const float *logits, int32_t *id);

/* Remembers a token of the prompt for the repeat penalty. Local. */
void aq_sampler_accept(aq_sampler *sampler, int32_t id);

#endif
