/* The files beside tokenizer.json name the special tokens, or are refused by name. */
#include "src/model/tokenizer_settings.h"

#include <string.h>

#include "tests/support/suite.h"

static aq_source_token tokens[] = {
    {.text = {"a", 1}}, {.text = {"<s>", 3}}, {.text = {"</s>", 4}}, {.text = {"<e>", 3}}};

static aq_tokenizer_source make_source(void) {
    return (aq_tokenizer_source){.path = "dir", .tokens = tokens, .n = 4, .bos = -1, .eos = -1};
}

/* Reads the files, which may be NULL; `out` must not look at the chat template later. */
static aq_status read(const char *tokenizer_config, const char *generation_config,
                      const char *config, aq_tokenizer_source *out) {
    cJSON *a = cJSON_Parse(tokenizer_config ? tokenizer_config : "");
    cJSON *b = cJSON_Parse(generation_config ? generation_config : "");
    cJSON *c = cJSON_Parse(config ? config : "");
    const aq_tokenizer_settings settings = {"dir", a, b, c};
    const aq_status status = aq_tokenizer_settings_read(&settings, out);
    cJSON_Delete(a);
    cJSON_Delete(b);
    cJSON_Delete(c);
    return status;
}

static void test_ends(void) {
    aq_tokenizer_source s = make_source();
    aq_test_ok(read("{\"eos_token\":{\"content\":\"</s>\"}}", "{\"eos_token_id\":[3,2,99]}",
                    "{\"eos_token_id\":0}", &s));
    CU_ASSERT_TRUE(s.eos == 2 && s.n_end == 3);
    CU_ASSERT_TRUE(s.ends[0] == 2 && s.ends[1] == 3 && s.ends[2] == 0);
    s = make_source();
    aq_test_ok(read("{\"eos_token\":null}", NULL, "{\"eos_token_id\":[99,3]}", &s));
    CU_ASSERT_TRUE(s.eos == 3 && s.n_end == 1);
    s = make_source();
    aq_test_ok(read(NULL, NULL, NULL, &s));
    CU_ASSERT_TRUE(s.eos == -1 && s.bos == -1 && s.n_end == 0 && !s.adds_bos);
}

static void test_bos(void) {
    aq_tokenizer_source s = make_source();
    aq_test_ok(read("{\"bos_token\":\"<s>\",\"add_bos_token\":true}", NULL, NULL, &s));
    CU_ASSERT_TRUE(s.bos == 1 && s.adds_bos);
    s = make_source();
    s.adds_bos = true; /* as a template says */
    s.bos = 3;
    aq_test_ok(read("{\"bos_token\":\"<s>\",\"add_bos_token\":false}", NULL, NULL, &s));
    CU_ASSERT_TRUE(s.bos == 3 && !s.adds_bos);
    s = make_source();
    aq_test_ok(read("{}", NULL, "{\"bos_token_id\":1}", &s));
    CU_ASSERT_TRUE(s.bos == 1 && !s.adds_bos);
    s = make_source();
    aq_test_fails(read("{\"add_bos_token\":true}", NULL, NULL, &s), AQ_ERR_FORMAT,
                  "no bos_token is named");
}

static void test_template(void) {
    static const char *const configs[] = {
        "{\"chat_template\":\"one\"}",
        ("{\"chat_template\":[{\"name\":\"tool\",\"template\":\"two\"},"
         "{\"name\":\"default\",\"template\":\"one\"}]}"),
        "{\"chat_template\":[{\"name\":\"x\",\"template\":\"one\"},{\"name\":\"y\"}]}"};
    for (int i = 0; i < 3; i++) {
        aq_tokenizer_source s = make_source();
        cJSON *config = cJSON_Parse(configs[i]);
        const aq_tokenizer_settings settings = {"dir", config, NULL, NULL};
        if (aq_test_ok(aq_tokenizer_settings_read(&settings, &s)))
            CU_ASSERT_TRUE(s.chat_template.bytes == 3 &&
                           memcmp(s.chat_template.data, "one", 3) == 0);
        s = make_source();
        s.chat_template = (aq_text){"jinja", 5}; /* chat_template.jinja goes before */
        aq_test_ok(aq_tokenizer_settings_read(&settings, &s));
        CU_ASSERT_EQUAL(s.chat_template.bytes, 5);
        cJSON_Delete(config);
    }
}

static void test_refused(void) {
    static const struct {
        const char *tokenizer_config, *generation_config, *part;
    } files[] = {{"{\"eos_token\":\"<x>\"}", NULL, "tokenizer_config.json: key eos_token names"},
                 {"{\"bos_token\":7}", NULL, "key bos_token is not a text"},
                 {"{\"bos_token\":{\"a\":1}}", NULL, "key bos_token is not a text"},
                 {"{\"add_bos_token\":1}", NULL, "add_bos_token is neither"},
                 {"{\"chat_template\":[]}", NULL, "chat_template holds no template"},
                 {"{\"chat_template\":5}", NULL, "chat_template holds no template"},
                 {NULL, "{\"eos_token_id\":\"2\"}", "generation_config.json: key eos_token_id"},
                 {NULL, "{\"eos_token_id\":[1.5]}", "neither an id nor a list"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        aq_tokenizer_source s = make_source();
        aq_test_fails(read(files[i].tokenizer_config, files[i].generation_config, NULL, &s),
                      AQ_ERR_FORMAT, files[i].part);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "ends", test_ends);
    CU_add_test(suite, "bos", test_bos);
    CU_add_test(suite, "template", test_template);
    CU_add_test(suite, "refused", test_refused);
}
