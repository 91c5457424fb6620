/* Text to token ids and back, as model files describe it: GGUF, or the tokenizer.json of a Hugging
 * Face folder; byte-level BPE, or SentencePiece.
 *
 * Encoding: special tokens are cut out of the text first. What is left is normalised, if the file
 * says so, and split into pieces by the pre-tokeniser; each piece becomes symbols, bytes or
 * characters, which are merged, lowest rank first. A GGUF file of the SentencePiece kind has none
 * of these: its text is merged as it is, highest score first (src/model/spm.h).
 *
 * Decoding gives back the bytes, whatever they are, if the vocabulary has all 256; of bytes that it
 * lacks (SmolLM2 lacks 23 rare ones) nothing is kept. SentencePiece spells a blank as U+2581, so
 * that this character comes back as a blank, and may put a blank in front of the text, which comes
 * back too. Source: Sennrich et al. 2016, arXiv 1508.07909; pre-tokenisers: docs/formats.md. */
#ifndef AQ_MODEL_TOKENIZER_H
#define AQ_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/model/gguf.h"
#include "src/model/model_file.h"
#include "src/model/tokenizer_json.h"
#include "src/model/tokenizer_source.h"

typedef struct aq_tokenizer aq_tokenizer;

/* Reads the vocabulary of an opened model file, which may be closed afterwards. The caller closes
 * *out. AQ_ERR_FORMAT (a part is missing or inconsistent, named), AQ_ERR_UNSUPPORTED (tokeniser
 * kind, named), AQ_ERR_MEMORY. Local. */
aq_status aq_tokenizer_open(const aq_gguf *file, aq_tokenizer **out);

/* The same with another pre-tokeniser than the file names (older files name none or a wrong one);
 * pre NULL: the file's. AQ_ERR_USAGE too (unknown name; SentencePiece has none). Local. */
aq_status aq_tokenizer_open_as(const aq_gguf *file, const char *pre, aq_tokenizer **out);

/* Reads the vocabulary of a Hugging Face folder over memory, which may go afterwards. The caller
 * closes *out. AQ_ERR_FORMAT, AQ_ERR_UNSUPPORTED (a part that is malformed or would change the ids
 * in a way not known here; file and part are named), AQ_ERR_MEMORY. Local. */
aq_status aq_tokenizer_open_hf(const aq_tokenizer_files *files, aq_tokenizer **out);

/* The same of the folder at `path`. AQ_ERR_IO too (tokenizer.json is missing). Local. */
aq_status aq_tokenizer_open_folder(const char *path, aq_tokenizer **out);

/* Whichever of the two belongs to an opened model. Local. */
aq_status aq_tokenizer_open_model(const aq_model_file *file, aq_tokenizer **out);

/* Makes a tokeniser of a source of any format, which may be closed afterwards. Local. */
aq_status aq_tokenizer_build(const aq_tokenizer_source *source, aq_tokenizer **out);

void aq_tokenizer_close(aq_tokenizer *tok);

/* One line about something doubtful in the file (an unknown pre-tokeniser was replaced), or NULL.
 * Owned by the tokeniser. Local. */
const char *aq_tokenizer_warning(const aq_tokenizer *tok);

/* A growing list of ids; free(list->ids) when done. */
typedef struct {
    int32_t *ids;
    int64_t n;
    int64_t capacity;
} aq_token_list;

/* Appends the ids of `bytes` bytes of text, any bytes at all. parse_special: special tokens spelt
 * in the text become their ids; else control tokens are plain text (the file's user-defined ones
 * are not: they are part of its vocabulary). Adds no BOS. Many threads may encode with one
 * tokeniser. AQ_ERR_MEMORY. Local. */
aq_status aq_tokenizer_encode(const aq_tokenizer *tok, const char *text, size_t bytes,
                              bool parse_special, aq_token_list *list);

/* Appends one id. AQ_ERR_MEMORY. Local. */
aq_status aq_token_list_push(aq_token_list *list, int32_t id);

/* The bytes of one token, any bytes, not NUL-terminated; a control token has none unless
 * `with_special`. Owned by the tokeniser. An id outside the vocabulary has none. Local. */
const char *aq_tokenizer_piece(const aq_tokenizer *tok, int32_t id, bool with_special,
                               size_t *bytes);

int32_t aq_tokenizer_count(const aq_tokenizer *tok);
/* The id of a token spelt exactly `text`, or -1. Local. */
int32_t aq_tokenizer_find(const aq_tokenizer *tok, const char *text);
/* Beginning of text, or -1; and whether this model wants it in front of every prompt. Local. */
int32_t aq_tokenizer_bos(const aq_tokenizer *tok);
bool aq_tokenizer_adds_bos(const aq_tokenizer *tok);
/* End of text, or -1. Local. */
int32_t aq_tokenizer_eos(const aq_tokenizer *tok);
/* True if the id ends generation: the ids that the file names for it (eos, eot, eom and those that
 * end a filled-in text) and tokens known by their text to end a turn. Local. */
bool aq_tokenizer_ends(const aq_tokenizer *tok, int32_t id);
/* The model's chat template (Jinja text) or NULL; NUL-terminated, owned by the tokeniser. Local. */
const char *aq_tokenizer_chat_template(const aq_tokenizer *tok);

#endif
