/* Whether a tokeniser gives the ids expected, of one text or of the corpus of tests/data/tokenizer,
 * whose README says how its files are written. */
#ifndef AQ_TESTS_SUPPORT_TOKEN_CORPUS_H
#define AQ_TESTS_SUPPORT_TOKEN_CORPUS_H

#include <stdbool.h>
#include <stddef.h>

#include "src/model/tokenizer.h"

/* The ids of a text as a line; the caller frees it. NULL on failure, which is reported. */
char *aq_test_line_of(const aq_tokenizer *tok, const char *text, size_t bytes, bool parse_special);

/* Whether that line is the expected one; says so if it is not. */
bool aq_test_encodes_to(const aq_tokenizer *tok, const char *text, size_t bytes, bool parse_special,
                        const char *expected);

/* Whether the tokens of a text, put together, are the text without the bytes marked in `lacking`.
 */
bool aq_test_comes_back(const aq_tokenizer *tok, const char *text, size_t bytes, bool parse_special,
                        const bool lacking[256]);

/* Checks all texts of tokenizer/corpus.txt; ids_name is a file of ids in tests/data. */
void aq_test_corpus(const aq_tokenizer *tok, const char *ids_name, bool round_trip);

#endif
