/* Texts with a key hidden in them: passkey retrieval (Landmark Attention, arXiv 2305.16300; depths
 * as in "needle in a haystack"; several keys as in RULER, arXiv 2404.06654). A text is
 *
 *     a line that says what to do, a part of the haystack with one sentence for each key in it, the
 *     question, the key asked for
 *
 * and is made of token ids, so that its length is exact. */
#ifndef AQ_LAUNCH_NEEDLE_TEXT_H
#define AQ_LAUNCH_NEEDLE_TEXT_H

#include <stdbool.h>

#include "src/model/tokenizer.h"

#define AQ_NEEDLE_MAX 16 /* keys in a text */
#define AQ_NEEDLE_KEY 40 /* bytes of a key with the final 0 */

/* What the texts of a run have in common. */
typedef struct {
    const aq_tokenizer *tok; /* borrowed */
    aq_token_list haystack;  /* of the whole file, without BOS */
    bool uuid;               /* keys are uuids, else 5 digits */
    int n_needle;            /* keys in a text, 1 .. AQ_NEEDLE_MAX; several have names */
    uint64_t seed;
} aq_needle_source;

typedef struct {
    aq_token_list ids; /* the whole text, the answer included */
    int64_t n_prompt;  /* ids in front of the first that holds a character of the key. A tokeniser
                          may cut off the blank before the key: it belongs to the prompt, for a
                          model that expects no blank of its own has not failed to remember. */
    char key[AQ_NEEDLE_KEY];
} aq_needle_text;

/* Makes a text of `length` ids; the sentence of the key asked for stands at `depth`, 0 .. 1, of the
 * haystack's part, the other keys' anywhere. Which part, which keys and where depend on the seed,
 * length, depth and `attempt` alone. The caller frees out->ids.ids. AQ_ERR_USAGE (too short for
 * what must stand in it, longer than the haystack), AQ_ERR_MEMORY. Local. */
aq_status aq_needle_make(const aq_needle_source *source, int64_t length, double depth,
                         int64_t attempt, aq_needle_text *out);

/* Whether an answer is the key: blanks in front do not count, nor what follows a word's end.
 * Local. */
bool aq_needle_answered(const char *answer, const char *key);

#endif
