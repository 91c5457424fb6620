/* Writes an opened model as a GGUF file in the way converters do, for tests that the two formats of
 * one model are one model. */
#ifndef AQ_TESTS_SUPPORT_GGUF_OF_MODEL_H
#define AQ_TESTS_SUPPORT_GGUF_OF_MODEL_H

#include "src/model/model_weights.h"
#include "tests/support/gguf_writer.h"

/* Puts keys and tensors into a writer: rows of Q and K as pairs of neighbours for architecture
 * llama; Q, K and V in one tensor for phi3, gptneox and gpt2, gate and up in one for phi3; experts
 * stacked (`apart`: each for itself, as old files had them). No vocabulary. Local. */
void aq_gguf_put_model(aq_gguf_writer *w, const aq_model_config *config,
                       const aq_model_weights *weights, bool apart);

#endif
