#include "tests/support/tiny_tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VOCAB                                                                                      \
    "{\"a\":0,\"b\":1,\"ab\":2,\"\\u2581\":3,\"\\u0120\":4,\"<0x61>\":5,\"<unk>\":6,\"1\":7,"      \
    "\"<0xC3>\":8,\"<0xA9>\":9}"
#define ADDED                                                                                      \
    "[{\"id\":10,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"     \
    "\"normalized\":false,\"special\":true}]"

static const char * or (const char *text, const char *customary) {
    return text ? text : customary;
}

char *aq_tiny_tokenizer_text(const aq_tiny_tokenizer *parts) {
    const size_t room = 16384;
    char *text = malloc(room);
    if (!text) return NULL;
    snprintf(text, room,
             "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":%s,"
             "\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":%s,\"post_processor\":%s,"
             "\"model\":{%s\"vocab\":%s,\"merges\":%s}%s}",
             or (parts->added, ADDED), or (parts->normalizer, "null"),
             or (parts->pre_tokenizer, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"),
             or (parts->decoder, "null"), or (parts->post_processor, "null"),
             or (parts->model, "\"type\":\"BPE\","), or (parts->vocab, VOCAB),
             or (parts->merges, "[\"a b\"]"), or (parts->more, ""));
    return text;
}

aq_status aq_tiny_tokenizer_open(const aq_tiny_tokenizer *parts, const char *config,
                                 aq_tokenizer **out) {
    char *text = aq_tiny_tokenizer_text(parts);
    aq_tokenizer_files files = {.folder = "tiny"};
    *out = NULL;
    if (!text) return aq_fail(AQ_ERR_MEMORY, "no memory for a test");
    files.tokenizer = (aq_text){text, strlen(text)};
    if (config) files.tokenizer_config = (aq_text){config, strlen(config)};
    const aq_status status = aq_tokenizer_open_hf(&files, out);
    free(text); /* nothing of the file is used any more */
    return status;
}
