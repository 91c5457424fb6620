/* aqua-dist tokenize: the ids of a text on one line. */
#include <stdio.h>
#include <stdlib.h>

#include "launch/program.h"
#include "launch/prompt.h"

static aq_status encode(const aq_options *options, const aq_tokenizer *tok, aq_token_list *list) {
    char *text = NULL;
    size_t bytes = 0;
    AQ_TRY(aq_prompt_text(options, tok, &text, &bytes));
    aq_status status = AQ_OK;
    if (options->bos && aq_tokenizer_bos(tok) < 0)
        status = aq_fail(AQ_ERR_USAGE, "--bos: this model has no beginning-of-text token");
    if (status == AQ_OK && options->bos) status = aq_token_list_push(list, aq_tokenizer_bos(tok));
    if (status == AQ_OK) status = aq_tokenizer_encode(tok, text, bytes, !options->no_special, list);
    free(text);
    return status;
}

static aq_status print_ids(const aq_token_list *list) {
    for (int64_t i = 0; i < list->n; i++)
        printf("%s%d", i > 0 ? " " : "", (int)list->ids[i]);
    putchar('\n');
    if (fflush(stdout) != 0 || ferror(stdout))
        return aq_fail(AQ_ERR_IO, "cannot write the ids to standard output");
    return AQ_OK;
}

static aq_status tokenize(const aq_options *options) {
    aq_tokenizer *tok = NULL;
    aq_token_list list = {NULL, 0, 0};
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    AQ_TRY(aq_prompt_open_tokenizer(options->model, &tok));
    aq_status status = encode(options, tok, &list);
    if (status == AQ_OK) status = print_ids(&list);
    free(list.ids);
    aq_tokenizer_close(tok);
    return status;
}

aq_status aq_command_tokenize(const aq_program *program) {
    const aq_status status = program->first ? tokenize(program->options) : AQ_OK;
    return aq_comm_agree(program->world, status);
}
