/* A model on disk, whatever its format: a GGUF file, or a Hugging Face folder (config.json and
 * model.safetensors, or shards named by model.safetensors.index.json). Both are mapped read-only,
 * untrusted, and fully checked when opened: every tensor lies inside its file, shapes multiply
 * without overflow, names are unique. Or none on disk: "synth:..." is made (src/model/synth.h) and
 * looks like a folder without other files; its matrices are zero until aq_synth_make makes them. */
#ifndef AQ_MODEL_MODEL_FILE_H
#define AQ_MODEL_MODEL_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/model/gguf.h"
#include "src/model/synth.h"
#include "src/model/tensor.h"

typedef struct aq_model_file aq_model_file;

typedef enum { AQ_MODEL_GGUF, AQ_MODEL_HF } aq_model_format;

/* Opens a GGUF file, a folder, or a made model. One clear line on failure, naming the file:
 * AQ_ERR_IO, AQ_ERR_FORMAT (truncated, garbled, a part of the folder missing), AQ_ERR_UNSUPPORTED
 * (version, tensor type, other formats of weights), AQ_ERR_MEMORY. The caller closes *out. Local.
 */
aq_status aq_model_file_open(const char *path, aq_model_file **out);

/* The same over memory that the caller keeps, 8-byte aligned: a GGUF file; or the text of a
 * config.json and one safetensors file. `path` is for messages only. For tests and fuzzing. Local.
 */
aq_status aq_model_file_open_gguf(const char *path, const void *data, uint64_t bytes,
                                  aq_model_file **out);
aq_status aq_model_file_open_hf(const char *path, const char *config, size_t config_bytes,
                                const void *data, uint64_t bytes, aq_model_file **out);

/* Unmaps; NULL is allowed. Tensors, and weights that lie in the map, end with it. Local. */
void aq_model_file_close(aq_model_file *file);

/* The path it was opened with, without slashes at its end, and its format. Local. */
const char *aq_model_file_path(const aq_model_file *file);
aq_model_format aq_model_file_format(const aq_model_file *file);

/* The GGUF file with its metadata, or NULL for a folder. Owned by the file. Local. */
const aq_gguf *aq_model_file_gguf(const aq_model_file *file);

/* The made model behind it, or NULL. Owned by the file. Local. */
const aq_synth *aq_model_file_synth(const aq_model_file *file);

/* The text of config.json with a NUL behind it, or NULL for GGUF. Owned by the file. Local. */
const char *aq_model_file_config(const aq_model_file *file, size_t *bytes);

/* The path of another file of a folder ("tokenizer.json"), in fresh memory that the caller frees;
 * NULL if it is not there, for GGUF, or without memory. Local. */
char *aq_model_file_beside(const aq_model_file *file, const char *name);

/* All tensors in one array, in the order of the files, and by name (NULL if absent). Owned by the
 * file. Local. */
int64_t aq_model_file_tensor_count(const aq_model_file *file);
const aq_tensor *aq_model_file_tensor_at(const aq_model_file *file, int64_t i);
const aq_tensor *aq_model_file_tensor_find(const aq_model_file *file, const char *name);

#endif
