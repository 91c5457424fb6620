/* Regular expressions of tokenizer.json in the syntax of PCRE2. They are written for Oniguruma,
 * which reads some things otherwise: spaces are White_Space there, $ ends a line. */
#ifndef AQ_MODEL_REGEX_SYNTAX_H
#define AQ_MODEL_REGEX_SYNTAX_H

#include "src/base/status.h"

/* Unicode's White_Space as the inside of a PCRE2 class: PCRE2's own \s has U+180E too. */
#define AQ_REGEX_SPACE                                                                             \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Translates an expression; the caller frees *out. AQ_ERR_UNSUPPORTED (a construct that the two
 * read otherwise or that is not known to be alike, named with its place), AQ_ERR_MEMORY. Local. */
aq_status aq_regex_translate(const char *regex, char **out);

/* Whether an expression is the text itself, without anything that has a meaning. Local. */
int aq_regex_is_literal(const char *regex);

#endif
