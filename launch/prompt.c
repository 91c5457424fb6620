#include "launch/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "src/model/chat.h"
#include "src/model/model_file.h"

aq_status aq_prompt_open_tokenizer(const char *model, aq_tokenizer **out) {
    aq_model_file *file = NULL;
    *out = NULL;
    AQ_TRY(aq_model_file_open(model, &file));
    const aq_status status = aq_tokenizer_open_model(file, out);
    aq_model_file_close(file);
    if (status == AQ_OK && aq_tokenizer_warning(*out))
        fprintf(stderr, "warning: %s\n", aq_tokenizer_warning(*out));
    return status;
}

/* File, blank line, question: whichever is there. */
static aq_status join(const aq_options *options, char **text, size_t *bytes) {
    char *file = NULL;
    size_t file_bytes = 0;
    if (options->file) AQ_TRY(aq_file_read(options->file, &file, &file_bytes));
    const char *prompt = options->prompt ? options->prompt : "";
    const char *gap = file && options->prompt ? "\n\n" : "";
    const size_t gap_bytes = strlen(gap), prompt_bytes = strlen(prompt);
    *bytes = file_bytes + gap_bytes + prompt_bytes;
    *text = malloc(*bytes + 1);
    if (*text) {
        if (file) memcpy(*text, file, file_bytes);
        memcpy(*text + file_bytes, gap, gap_bytes);
        memcpy(*text + file_bytes + gap_bytes, prompt, prompt_bytes + 1);
    }
    free(file);
    return *text ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for the prompt");
}

/* The text of the model's end-of-text token; "" if it has none. */
static void eos_text(const aq_tokenizer *tok, char text[64]) {
    size_t bytes;
    const char *piece = aq_tokenizer_piece(tok, aq_tokenizer_eos(tok), true, &bytes);
    snprintf(text, 64, "%.*s", bytes < 64 ? (int)bytes : 0, piece);
}

static aq_status as_chat(const aq_options *options, const aq_tokenizer *tok, char **text,
                         size_t *bytes) {
    const char *model_template = aq_tokenizer_chat_template(tok);
    aq_chat_format format = AQ_CHAT_CHATML;
    aq_chat_message messages[2];
    int n = 0;
    char *spelt = NULL, eos[64];
    if (options->chat_template)
        AQ_TRY(aq_chat_parse(options->chat_template, &format));
    else
        AQ_TRY(aq_chat_detect(model_template, &format));
    if (memchr(*text, '\0', *bytes))
        return aq_fail(AQ_ERR_FORMAT, "the text holds a NUL byte; --chat takes text only");
    if (options->system) messages[n++] = (aq_chat_message){"system", options->system};
    messages[n++] = (aq_chat_message){"user", *text};
    eos_text(tok, eos);
    AQ_TRY(aq_chat_apply(format, model_template, eos[0] ? eos : NULL, messages, n, &spelt));
    free(*text);
    *text = spelt;
    *bytes = strlen(spelt);
    return AQ_OK;
}

aq_status aq_prompt_text(const aq_options *options, const aq_tokenizer *tok, char **text,
                         size_t *bytes) {
    *text = NULL;
    if (!options->file && !options->prompt)
        return aq_fail(AQ_ERR_USAGE, "give a text with -f, a question with -p, or both");
    AQ_TRY(join(options, text, bytes));
    if (!options->chat && !options->chat_template) return AQ_OK;
    aq_status status = as_chat(options, tok, text, bytes);
    if (status != AQ_OK) {
        free(*text);
        *text = NULL;
    }
    return status;
}

aq_status aq_prompt_encode(const aq_options *options, const aq_tokenizer *tok,
                           aq_token_list *list) {
    char *text = NULL;
    size_t bytes = 0;
    AQ_TRY(aq_prompt_text(options, tok, &text, &bytes));
    aq_status status = AQ_OK;
    if (aq_tokenizer_adds_bos(tok) && aq_tokenizer_bos(tok) >= 0)
        status = aq_token_list_push(list, aq_tokenizer_bos(tok));
    if (status == AQ_OK) status = aq_tokenizer_encode(tok, text, bytes, !options->no_special, list);
    if (status == AQ_OK && list->n == 0)
        status = aq_fail(AQ_ERR_USAGE, "the prompt is empty; give a text with -f or -p");
    free(text);
    return status;
}

aq_status aq_prompt_encode_file(const char *model, const char *path, aq_token_list *list,
                                int32_t *bos) {
    aq_tokenizer *tok = NULL;
    char *text = NULL;
    size_t bytes = 0;
    AQ_TRY(aq_file_read(path, &text, &bytes));
    aq_status status = aq_prompt_open_tokenizer(model, &tok);
    if (status == AQ_OK) {
        status = aq_tokenizer_encode(tok, text, bytes, false, list);
        *bos = aq_tokenizer_adds_bos(tok) ? aq_tokenizer_bos(tok) : -1;
    }
    aq_tokenizer_close(tok);
    free(text);
    return status;
}

aq_status aq_prompt_share(const aq_program *program, aq_status outcome, aq_token_list *list) {
    AQ_TRY(aq_comm_agree(program->world, outcome));
    AQ_TRY(aq_comm_bcast(program->world, &list->n, sizeof list->n, 0));
    aq_status status = AQ_OK;
    if (!program->first) {
        list->capacity = list->n;
        list->ids = malloc((size_t)list->n * sizeof *list->ids + 1);
        if (!list->ids) status = aq_fail(AQ_ERR_MEMORY, "no memory for the prompt");
    }
    AQ_TRY(aq_comm_agree(program->world, status));
    return aq_comm_bcast(program->world, list->ids, (size_t)list->n * sizeof *list->ids, 0);
}
