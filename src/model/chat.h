/* Chat formats: how a conversation is spelt for a model. The format is recognised from the model's
 * own template by its marks; the templates are not executed.
 *
 * No format spells the beginning-of-text token: the caller adds it where the model wants one (see
 * aq_tokenizer_adds_bos), which llama3, mistral and gemma do, and chatml, zephyr and phi3 do not.
 * olmo is also what Falcon 3 speaks. Where a template has no place for a system message (gemma, the
 * first mistral and phi3) it is spelt as llama.cpp does. */
#ifndef AQ_MODEL_CHAT_H
#define AQ_MODEL_CHAT_H

#include <stddef.h>

#include "src/base/status.h"

#define AQ_CHAT_LIST(X)                                                                            \
    X(AQ_CHAT_CHATML, "chatml")                                                                    \
    X(AQ_CHAT_LLAMA3, "llama3")                                                                    \
    X(AQ_CHAT_MISTRAL, "mistral")                                                                  \
    X(AQ_CHAT_GEMMA, "gemma")                                                                      \
    X(AQ_CHAT_PHI3, "phi3")                                                                        \
    X(AQ_CHAT_ZEPHYR, "zephyr")                                                                    \
    X(AQ_CHAT_OLMO, "olmo")

#define AQ_CHAT_ENUM(id, name) id,
typedef enum { AQ_CHAT_LIST(AQ_CHAT_ENUM) AQ_CHAT_N } aq_chat_format;
#undef AQ_CHAT_ENUM

typedef struct {
    const char *role; /* "system", "user" or "assistant" */
    const char *content;
} aq_chat_message;

/* The format of a model's Jinja template. AQ_ERR_UNSUPPORTED if template_text is NULL or of no
 * known format; the message lists the names to choose from. Local. */
aq_status aq_chat_detect(const char *template_text, aq_chat_format *out);

/* The format of a name given by the user ("chatml"). AQ_ERR_USAGE lists the names. Local. */
aq_status aq_chat_parse(const char *name, aq_chat_format *out);

const char *aq_chat_name(aq_chat_format format);

/* Spells n_message messages followed by the opening of the assistant's turn. Default system
 * messages of the format (SmolLM2's, say) are the template's own and are read from template_text if
 * it has one. eos is the text of what templates call eos_token; NULL: the format's usual one.
 * template_text may be NULL. *text is fresh memory, NUL-terminated, the caller frees it. Special
 * tokens are spelt, so encode it with parse_special. AQ_ERR_USAGE (unknown role, a system message
 * that is not the first, no user's message), AQ_ERR_MEMORY. Local. */
aq_status aq_chat_apply(aq_chat_format format, const char *template_text, const char *eos,
                        const aq_chat_message *messages, int n_message, char **text);

#endif
