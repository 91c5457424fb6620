/* Encoding of the SentencePiece kind: the characters of a whole text are merged, neighbours whose
 * joined text is the token of highest score first, of equal scores the leftmost. Blanks are spelt
 * U+2581; what stays a character without a token becomes the tokens of its bytes, "<0x0A>".
 *
 * Source: Kudo and Richardson 2018, arXiv 1808.06226 (BPE mode). Well-formed text gets
 * the ids of llama.cpp; what is no UTF-8 keeps its bytes, one token each. */
#ifndef AQ_MODEL_SPM_H
#define AQ_MODEL_SPM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/model/bpe.h"
#include "src/model/vocabulary.h"

/* Memory of encodings under way, reused from call to call; start from a zeroed struct. */
typedef struct {
    aq_bpe_work merging;
    char *text;     /* the text with blanks spelt out */
    size_t *starts; /* [characters + 1] where each character begins in it */
    int32_t *ids;   /* [n] the result; before that, one for each character */
    int64_t n;
    size_t capacity; /* bytes of text */
} aq_spm_work;

void aq_spm_work_free(aq_spm_work *work);

/* Encodes any bytes, after a blank if blank_first, into work->ids[0 .. work->n). The vocabulary is
 * spelt AQ_SPELT_SPM. Bytes for which it has no token at all are left out. Takes O(n log n) time.
 * AQ_ERR_MEMORY, AQ_ERR_UNSUPPORTED (more than 2^31 - 1 characters). Local. */
aq_status aq_spm_encode(const aq_vocabulary *vocabulary, aq_spm_work *work, const char *text,
                        size_t bytes, bool blank_first);

#endif
