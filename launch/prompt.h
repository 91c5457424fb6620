/* The token ids of a prompt: read and tokenised on rank 0, the same on every rank afterwards. */
#ifndef AQ_LAUNCH_PROMPT_H
#define AQ_LAUNCH_PROMPT_H

#include "launch/program.h"
#include "src/model/tokenizer.h"

/* Opens the tokeniser of the model file and prints its warning, if any. The caller closes it.
 * Local. */
aq_status aq_prompt_open_tokenizer(const char *model, aq_tokenizer **out);

/* The text of -f and -p, in the chat format if asked for. Fresh memory. Local. */
aq_status aq_prompt_text(const aq_options *options, const aq_tokenizer *tok, char **text,
                         size_t *bytes);

/* The ids of that text with a BOS if the model wants one. Local. */
aq_status aq_prompt_encode(const aq_options *options, const aq_tokenizer *tok, aq_token_list *list);

/* The ids of a text file alone, read as plain text without a BOS; *bos is the one that the model
 * wants in front, -1: none. Local. */
aq_status aq_prompt_encode_file(const char *model, const char *path, aq_token_list *list,
                                int32_t *bos);

/* Gives rank 0's outcome and list to everyone; list->ids is the caller's to free. Collective. */
aq_status aq_prompt_share(const aq_program *program, aq_status outcome, aq_token_list *list);

#endif
