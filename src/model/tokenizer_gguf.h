/* The tokeniser of a GGUF file: keys tokenizer.* (docs/formats.md). */
#ifndef AQ_MODEL_TOKENIZER_GGUF_H
#define AQ_MODEL_TOKENIZER_GGUF_H

#include "src/base/status.h"
#include "src/model/gguf.h"
#include "src/model/tokenizer_source.h"

/* Reads an opened file, which must stay open as long as the source; pre as for
 * aq_tokenizer_open_as. The caller closes *out, on failure too. AQ_ERR_FORMAT (a part is missing or
 * inconsistent, named), AQ_ERR_UNSUPPORTED (tokeniser kind, named), AQ_ERR_USAGE, AQ_ERR_MEMORY.
 * Local. */
aq_status aq_tokenizer_gguf_read(const aq_gguf *file, const char *pre, aq_tokenizer_source *out);

#endif
