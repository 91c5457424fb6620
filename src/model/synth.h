/* Models without a file: a named shape and random weights, to measure speed and memory with. What
 * such a model says means nothing.
 *
 *     synth:llama-8b                                   a shape by its name, weights in Q4_1
 *     synth:llama-8b,type=q8_0,layers=4                parts of it changed
 *     synth:layers=2,embd=256,heads=8,kv=2,ff=512,vocab=1000      or all of it said
 *
 * Names: llama-8b and llama-1b (Llama 3.1 8B and 3.2 1B), smollm2 (SmolLM2-135M). Keys: layers,
 * embd, heads, kv (heads), head (width of one), ff, vocab, ctx, tied (0 or 1: the embedding is the
 * output matrix), type (any that is read from files). Without a name, layers, embd, heads, ff and
 * vocab are needed; kv is heads, head is embd / heads, tied 0, type q4_1. ctx is 2^21 unless said,
 * whatever the namesake can do.
 *
 * To src/model it is a Llama in the form of a Hugging Face folder, its matrices of any stored type.
 * A matrix [n_out, n_in] has independent elements of mean 0 and variance 1 / n_in, norms are 1. A
 * block of a stored type is a function of its matrix and its place in it alone: whoever makes some
 * rows makes the same ones. All functions are Local. */
#ifndef AQ_MODEL_SYNTH_H
#define AQ_MODEL_SYNTH_H

#include <stdbool.h>

#include "src/base/status.h"
#include "src/model/tensor.h"

typedef struct aq_synth aq_synth;

/* Whether a path names such a model: whether it begins with "synth:". */
bool aq_synth_is_name(const char *path);

/* Takes room for a model, of which norms alone are made: memory of the host is used up as its
 * matrices are (aq_synth_make). The caller closes *out. AQ_ERR_USAGE (what is wrong with the name),
 * AQ_ERR_MEMORY. */
aq_status aq_synth_open(const char *path, aq_synth **out);

/* NULL is allowed. Tensors end with it. */
void aq_synth_close(aq_synth *synth);

/* The text of its config.json, NUL behind it. Owned by the model. */
const char *aq_synth_config(const aq_synth *synth);

/* Its tensors, in the order of the layers. Owned by the model. */
int64_t aq_synth_count(const aq_synth *synth);
const aq_tensor *aq_synth_at(const aq_synth *synth, int64_t i);

/* Makes the blocks of a matrix that lie, or begin or end, in data[bytes], which is part of one
 * tensor. Made again they are the same. */
void aq_synth_make(const aq_synth *synth, const void *data, int64_t bytes);

/* Gives back the memory of data[bytes], part of one tensor, but for less than 128 KiB: blocks of it
 * are not there until they are made again. Norms stay. */
void aq_synth_forget(const aq_synth *synth, const void *data, int64_t bytes);

#endif
