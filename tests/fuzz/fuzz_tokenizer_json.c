/* tokenizer.json is never trusted: whatever it holds is refused, or encodes to ids of its
 * vocabulary. An input is a tokenizer.json, and behind a line "%%" a tokenizer_config.json. */
#include <stdlib.h>
#include <string.h>

#include "src/model/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_encode.h"
#include "tests/support/tiny_tokenizer.h"

static const char text[] =
    "ab <s>abab  a\xc3\xa9 \xff<unk>\n1234 ABba's \xe4\xbd\xa0\xe5\xa5\xbd \xe2\x96\x81 e\xcc\x81";
/* The place of the line "%%", or `bytes`. */
static size_t end_of_first(const char *data, size_t bytes) {
    for (size_t i = 0; i + 4 <= bytes; i++)
        if (memcmp(data + i, "\n%%\n", 4) == 0) return i;
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    char *copy = malloc(bytes > 0 ? bytes : 1); /* ends where the input ends */
    aq_tokenizer *tok = NULL;
    if (!copy) return 0;
    if (bytes > 0) memcpy(copy, data, bytes);
    const size_t n = end_of_first(copy, bytes);
    aq_tokenizer_files files = {.folder = "fuzz", .tokenizer = {copy, n}};
    if (n < bytes) files.tokenizer_config = (aq_text){copy + n + 4, bytes - n - 4};
    if (aq_tokenizer_open_hf(&files, &tok) == AQ_OK) {
        if (aq_tokenizer_chat_template(tok))
            aq_fuzz_sink += strlen(aq_tokenizer_chat_template(tok));
        if (aq_tokenizer_bos(tok) >= aq_tokenizer_count(tok)) abort();
        if (aq_tokenizer_eos(tok) >= aq_tokenizer_count(tok)) abort();
        aq_fuzz_encode(tok, text, sizeof text);
    } else if (strchr(aq_error_text(), '\n') || !aq_error_text()[0]) {
        abort();
    }
    aq_tokenizer_close(tok);
    free(copy);
    return 0;
}

#define BLANKS "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\\u2581\"}"
#define DECODE                                                                                     \
    "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"          \
    "\"\\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}"
#define TEMPLATE                                                                                   \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":"  \
    "0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":"    \
    "{\"id\":\"<s>\",\"ids\":[10],\"tokens\":[\"<s>\"]}}}"
#define CONFIG                                                                                     \
    "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"<unk>\"},\"add_bos_token\":true,"         \
    "\"chat_template\":[{\"name\":\"default\",\"template\":\"<|im_start|>\"}]}"

/* The kinds of tokeniser, with few tokens, so that most of the bytes are structure. */
aq_status aq_fuzz_seed(int i, uint8_t **data, size_t *bytes) {
    static const aq_tiny_tokenizer seeds[] = {
        {.post_processor = TEMPLATE},
        {.model = "\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"fuse_unk\":"
                  "true,",
         .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
                       "\"\\u2581\"}," BLANKS ",{\"type\":\"NFKC\"}]}",
         .pre_tokenizer = "null",
         .decoder = DECODE},
        {.model = "\"type\":\"BPE\",\"ignore_merges\":true,",
         .pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
                          "\"pattern\":{\"Regex\":\"(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}]?\\\\p{L}+|"
                          "\\\\p{N}{1,3}|\\\\s+(?!\\\\S)\"},\"behavior\":\"MergedWithPrevious\","
                          "\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                          "\"use_regex\":false}]}",
         .merges = "[[\"a\",\"b\"]]"},
        {.pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\","
                          "\"prepend_scheme\":\"first\",\"split\":true}",
         .decoder = "{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\"}",
         .added = "[{\"id\":6,\"content\":\"<unk>\",\"lstrip\":true,\"rstrip\":true,"
                  "\"normalized\":true,\"special\":false}]"},
    };
    *data = NULL;
    if (i >= (int)(sizeof seeds / sizeof *seeds)) return AQ_OK;
    char *made = aq_tiny_tokenizer_text(&seeds[i]);
    if (!made) return aq_fail(AQ_ERR_MEMORY, "no memory for a seed");
    const size_t n = strlen(made);
    *bytes = n + 4 + strlen(CONFIG);
    *data = malloc(*bytes);
    if (*data) {
        memcpy(*data, made, n);
        memcpy(*data + n, "\n%%\n", 4);
        memcpy(*data + n + 4, CONFIG, strlen(CONFIG));
    }
    free(made);
    return *data ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for a seed");
}
