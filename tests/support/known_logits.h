/* The models with logits known from Hugging Face transformers (tests/data/hf/README.md). */
#ifndef AQ_TESTS_SUPPORT_KNOWN_LOGITS_H
#define AQ_TESTS_SUPPORT_KNOWN_LOGITS_H

#include <stdint.h>

#include "src/base/status.h"

#define AQ_KNOWN_MODELS     17
#define AQ_KNOWN_PATH_BYTES 512
#define AQ_KNOWN_FIRST      40 /* ids before the greedy ones */

/* Every folder of tests/data/hf. */
extern const char *const aq_known_models[AQ_KNOWN_MODELS];

/* Expects that the list is the folder's. */
void aq_known_expect_all(void);

typedef struct {
    const char *name;
    char folder[AQ_KNOWN_PATH_BYTES]; /* config.json and model.safetensors */
    char gguf[AQ_KNOWN_PATH_BYTES];   /* the same model; "" if there is none */
    int32_t *ids;                     /* [n_id] */
    int32_t *positions;               /* [n_position] whose logits are known, rising */
    int32_t *greedy;                  /* [n_greedy] what follows the first AQ_KNOWN_FIRST ids */
    int64_t n_id, n_position, n_greedy, n_vocab;
    float *logits; /* [n_position, n_vocab] */
} aq_known;

/* Reads all but the model. The caller frees it, on failure too. Local. */
aq_status aq_known_read(const char *name, aq_known *out);
void aq_known_free(aq_known *known);

/* Largest difference of logits[n, n_vocab] at the known positions below n, as a fraction of the
 * range of the known ones; infinite with NaN. Local. */
double aq_known_distance(const aq_known *known, const float *logits, int64_t n);

#endif
