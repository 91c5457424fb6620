/* Conversations are spelt byte for byte as each model's own Jinja template spells them.
 *
 * tests/data/chat/ holds templates that models carry. The expected texts are what Jinja2
 * (trim_blocks and lstrip_blocks on, as in transformers) renders from them with bos_token "" and
 * the eos_token given here; where a template refuses a system message (mistral_v02, gemma) what
 * llama.cpp makes of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "src/model/chat.h"
#include "tests/support/suite.h"

enum { ASKED, TOLD, TALKED, N_CONVERSATION };

static const struct {
    int n;
    aq_chat_message messages[4];
} conversations[N_CONVERSATION] = {
    {1, {{"user", "Hello"}}},
    {2, {{"system", " Be brief "}, {"user", "Hello"}}},
    {4,
     {{"system", "Be brief"}, {"user", "Hello "}, {"assistant", "  Hi there "}, {"user", " Who "}}},
};

typedef struct {
    const char *name; /* of tests/data/chat/NAME.jinja */
    aq_chat_format format;
    const char *eos;
    const char *expected[N_CONVERSATION];
} template_case;

/* clang-format off */
static const template_case cases[] = {
    {"smollm2", AQ_CHAT_CHATML, NULL, {
      "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging F"
      "ace<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
      "<|im_start|>assistant\n",
      "<|im_start|>system\n Be brief <|im_end|>\n<|im_start|>user\n"
      "Hello<|im_end|>\n<|im_start|>assistant\n",
      "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\n"
      "Hello <|im_end|>\n<|im_start|>assistant\n  Hi there <|im_end|>\n"
      "<|im_start|>user\n Who <|im_end|>\n<|im_start|>assistant\n"}},
    {"qwen25", AQ_CHAT_CHATML, NULL, {
      "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assista"
      "nt.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
      "<|im_start|>assistant\n",
      "<|im_start|>system\n Be brief <|im_end|>\n<|im_start|>user\n"
      "Hello<|im_end|>\n<|im_start|>assistant\n",
      "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\n"
      "Hello <|im_end|>\n<|im_start|>assistant\n  Hi there <|im_end|>\n"
      "<|im_start|>user\n Who <|im_end|>\n<|im_start|>assistant\n"}},
    {"hermes", AQ_CHAT_CHATML, NULL, {
      "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
      "<|im_start|>system\n Be brief <|im_end|>\n<|im_start|>user\n"
      "Hello<|im_end|>\n<|im_start|>assistant\n",
      "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\n"
      "Hello <|im_end|>\n<|im_start|>assistant\n  Hi there <|im_end|>\n"
      "<|im_start|>user\n Who <|im_end|>\n<|im_start|>assistant\n"}},
    {"llama3", AQ_CHAT_LLAMA3, NULL, {
      "<|start_header_id|>user<|end_header_id|>\n\n"
      "Hello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
      "\n",
      "<|start_header_id|>system<|end_header_id|>\n"
      "\nBe brief<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
      "\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
      "\n",
      "<|start_header_id|>system<|end_header_id|>\n"
      "\nBe brief<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
      "\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
      "\nHi there<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
      "\nWho<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
      "\n"}},
    {"llama31", AQ_CHAT_LLAMA3, NULL, {
      "<|start_header_id|>system<|end_header_id|>\n"
      "\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n"
      "\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
      "\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
      "\n",
      "<|start_header_id|>system<|end_header_id|>\n"
      "\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n"
      "\nBe brief<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
      "\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
      "\n",
      "<|start_header_id|>system<|end_header_id|>\n"
      "\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n"
      "\nBe brief<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
      "\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
      "\nHi there<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
      "\nWho<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
      "\n"}},
    {"mistral_v02", AQ_CHAT_MISTRAL, "</s>", {
      "[INST] Hello [/INST]",
      "[INST]  Be brief \n\nHello [/INST]",
      "[INST] Be brief\n\nHello  [/INST]  Hi there </s>[INST]  Who  [/INST]"}},
    {"mistral_v1", AQ_CHAT_MISTRAL, "</s>", {
      " [INST] Hello [/INST]",
      " [INST]  Be brief \n\nHello [/INST]",
      " [INST] Be brief\n\nHello  [/INST]   Hi there </s> [INST]  Who  [/INST]"}},
    {"mistral_v3", AQ_CHAT_MISTRAL, "</s>", {
      "[INST] Hello[/INST]",
      "[INST]  Be brief \n\nHello[/INST]",
      "[INST] Hello [/INST] Hi there</s>[INST] Be brief\n"
      "\n Who [/INST]"}},
    {"mistral_nemo", AQ_CHAT_MISTRAL, "</s>", {
      "[INST]Hello[/INST]",
      "[INST] Be brief \n\nHello[/INST]",
      "[INST]Hello [/INST]  Hi there </s>[INST]Be brief\n"
      "\n Who [/INST]"}},
    {"mistral_v7", AQ_CHAT_MISTRAL, "</s>", {
      "[INST] Hello[/INST]",
      "[SYSTEM_PROMPT]  Be brief [/SYSTEM_PROMPT][INST] Hello[/INST]",
      "[SYSTEM_PROMPT] Be brief[/SYSTEM_PROMPT][INST] Hello [/INST]   Hi there </s>[INST]  W"
      "ho [/INST]"}},
    {"gemma", AQ_CHAT_GEMMA, NULL, {
      "<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n",
      "<start_of_turn>user\n Be brief \n\nHello<end_of_turn>\n"
      "<start_of_turn>model\n",
      "<start_of_turn>user\nBe brief\n\nHello<end_of_turn>\n"
      "<start_of_turn>model\nHi there<end_of_turn>\n"
      "<start_of_turn>user\nWho<end_of_turn>\n<start_of_turn>model\n"}},
    {"phi35", AQ_CHAT_PHI3, NULL, {
      "<|user|>\nHello<|end|>\n<|assistant|>\n",
      "<|system|>\n Be brief <|end|>\n<|user|>\nHello<|end|>\n"
      "<|assistant|>\n",
      "<|system|>\nBe brief<|end|>\n<|user|>\nHello <|end|>\n"
      "<|assistant|>\n  Hi there <|end|>\n<|user|>\n"
      " Who <|end|>\n<|assistant|>\n"}},
    {"phi3_small", AQ_CHAT_PHI3, NULL, {
      "<|user|>\nHello<|end|>\n<|assistant|>\n",
      "<|system|>\n Be brief <|end|>\n<|user|>\nHello<|end|>\n"
      "<|assistant|>\n",
      "<|system|>\nBe brief<|end|>\n<|user|>\nHello <|end|>\n"
      "<|assistant|>\n  Hi there <|end|>\n<|user|>\n"
      " Who <|end|>\n<|assistant|>\n"}},
    {"zephyr", AQ_CHAT_ZEPHYR, "</s>", {
      "<|user|>\nHello</s>\n<|assistant|>\n",
      "<|system|>\n Be brief </s>\n<|user|>\nHello</s>\n"
      "<|assistant|>\n",
      "<|system|>\nBe brief</s>\n<|user|>\nHello </s>\n"
      "<|assistant|>\n  Hi there </s>\n<|user|>\n Who </s>\n"
      "<|assistant|>\n"}},
    {"stablelm2", AQ_CHAT_ZEPHYR, "<|im_end|>", {
      "<|user|>\nHello<|endoftext|>\n<|assistant|>\n",
      "<|system|>\n Be brief <|endoftext|>\n<|user|>\n"
      "Hello<|endoftext|>\n<|assistant|>\n",
      "<|system|>\nBe brief<|endoftext|>\n<|user|>\n"
      "Hello <|endoftext|>\n<|assistant|>\n  Hi there <|endoftext|>\n"
      "<|user|>\n Who <|endoftext|>\n<|assistant|>\n"}},
    {"olmo", AQ_CHAT_OLMO, "<|endoftext|>", {
      "<|endoftext|><|user|>\nHello\n<|assistant|>\n",
      "<|endoftext|><|system|>\n Be brief \n<|user|>\n"
      "Hello\n<|assistant|>\n",
      "<|endoftext|><|system|>\nBe brief\n<|user|>\n"
      "Hello \n<|assistant|>\n  Hi there <|endoftext|>\n"
      "<|user|>\n Who \n<|assistant|>\n"}},
    {"olmo2", AQ_CHAT_OLMO, "<|endoftext|>", {
      "<|user|>\nHello\n<|assistant|>\n",
      "<|system|>\n Be brief \n<|user|>\nHello\n<|assistant|>\n",
      "<|system|>\nBe brief\n<|user|>\nHello \n<|assistant|>\n"
      "  Hi there <|endoftext|>\n<|user|>\n Who \n"
      "<|assistant|>\n"}},
};
/* clang-format on */

#define N_CASE (sizeof cases / sizeof cases[0])

static const char *const unknown[] = {"unknown_chatglm3", "unknown_glmedge", "unknown_llama2",
                                      "unknown_monarch",  "unknown_phi4",    "unknown_smolvlm"};

/* The text of a template; the caller frees it. */
static char *read_template(const char *name) {
    char path[512], *text = NULL;
    size_t bytes;
    snprintf(path, sizeof path, "%s/chat/%s.jinja", aq_test_data_dir(), name);
    aq_test_ok(aq_file_read(path, &text, &bytes));
    return text ? text : calloc(1, 1);
}

/* Whether a conversation in this format reads as expected. */
static bool spells(aq_chat_format format, const char *template_text, const char *eos, int which,
                   const char *expected) {
    char *text = NULL;
    aq_test_ok(aq_chat_apply(format, template_text, eos, conversations[which].messages,
                             conversations[which].n, &text));
    const bool same = text && strcmp(text, expected) == 0;
    free(text);
    return same;
}

static void test_known_templates(void) {
    for (size_t i = 0; i < N_CASE; i++) {
        const template_case *c = &cases[i];
        char *text = read_template(c->name);
        aq_chat_format format = AQ_CHAT_N;
        aq_test_ok(aq_chat_detect(text, &format));
        CU_ASSERT_EQUAL(format, c->format);
        for (int which = 0; which < N_CONVERSATION; which++) {
            const bool same = spells(c->format, text, c->eos, which, c->expected[which]);
            CU_ASSERT_TRUE(same);
            if (!same) printf("  %s, conversation %d\n", c->name, which);
        }
        free(text);
    }
}

/* The comparison tells formats apart: no other format spells what a template does. */
static void test_wrong_format(void) {
    for (size_t i = 0; i < N_CASE; i++) {
        char *text = read_template(cases[i].name);
        for (int format = 0; format < AQ_CHAT_N; format++)
            if (format != (int)cases[i].format)
                CU_ASSERT_FALSE(spells((aq_chat_format)format, text, cases[i].eos, TALKED,
                                       cases[i].expected[TALKED]));
        free(text);
    }
}

/* The versions of mistral differ from one another in what their templates show. */
static void test_wrong_version(void) {
    for (size_t i = 0; i < N_CASE; i++)
        for (size_t j = 0; j < N_CASE; j++) {
            if (cases[i].format != AQ_CHAT_MISTRAL || cases[j].format != AQ_CHAT_MISTRAL) continue;
            char *text = read_template(cases[j].name);
            CU_ASSERT_EQUAL(
                spells(AQ_CHAT_MISTRAL, text, cases[i].eos, TALKED, cases[i].expected[TALKED]),
                i == j);
            free(text);
        }
}

/* A format named by the user, for a model without a template: no defaults of any model. */
static void test_without_template(void) {
    static const char *const expected[AQ_CHAT_N] = {
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
        ("<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
         "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        "[INST]Hello[/INST]",
        "<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n",
        "<|user|>\nHello<|end|>\n<|assistant|>\n",
        "<|user|>\nHello<|endoftext|>\n<|assistant|>\n",
        "<|user|>\nHello\n<|assistant|>\n",
    };
    for (int format = 0; format < AQ_CHAT_N; format++)
        CU_ASSERT_TRUE(spells((aq_chat_format)format, NULL, NULL, ASKED, expected[format]));
}

static void check_refused(const char *template_text, const char *part) {
    aq_chat_format format = AQ_CHAT_N;
    aq_test_fails(aq_chat_detect(template_text, &format), AQ_ERR_UNSUPPORTED, part);
    CU_ASSERT_EQUAL(format, AQ_CHAT_N);
    CU_ASSERT_PTR_NOT_NULL(strstr(aq_error_text(), "--chat-template: chatml llama3 mistral gemma"));
    CU_ASSERT_PTR_NULL(strchr(aq_error_text(), '\n'));
}

static void test_unknown_templates(void) {
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        char *text = read_template(unknown[i]);
        check_refused(text, "unknown format");
        free(text);
    }
    check_refused("", "unknown format");
    check_refused(NULL, "missing");
}

static void test_names(void) {
    static const char *const names[AQ_CHAT_N] = {"chatml", "llama3", "mistral", "gemma",
                                                 "phi3",   "zephyr", "olmo"};
    aq_chat_format format = AQ_CHAT_N;
    for (int i = 0; i < AQ_CHAT_N; i++) {
        aq_test_ok(aq_chat_parse(names[i], &format));
        CU_ASSERT_EQUAL((int)format, i);
        CU_ASSERT_STRING_EQUAL(aq_chat_name((aq_chat_format)i), names[i]);
    }
    aq_test_fails(aq_chat_parse("ChatML", &format), AQ_ERR_USAGE, "\"ChatML\" is unknown");
    aq_test_fails(aq_chat_parse("", &format), AQ_ERR_USAGE, "chatml llama3");
    CU_ASSERT_STRING_EQUAL(aq_chat_name(AQ_CHAT_N), "unknown");
}

static void check_apply_fails(const aq_chat_message *messages, int n, const char *part) {
    char *text = (char *)1;
    for (int format = 0; format < AQ_CHAT_N; format++) {
        aq_test_fails(aq_chat_apply((aq_chat_format)format, NULL, NULL, messages, n, &text),
                      AQ_ERR_USAGE, part);
        CU_ASSERT_PTR_NULL(text);
    }
}

static void test_wrong_messages(void) {
    static const aq_chat_message tool[] = {{"user", "a"}, {"tool", "b"}};
    static const aq_chat_message late[] = {{"user", "a"}, {"system", "b"}, {"user", "c"}};
    static const aq_chat_message twice[] = {{"system", "a"}, {"system", "b"}, {"user", "c"}};
    static const aq_chat_message alone[] = {{"system", "a"}, {"assistant", "b"}};
    char *text = NULL;
    check_apply_fails(tool, 2, "message 1 has role \"tool\"");
    check_apply_fails(late, 3, "message 1 is a system message");
    check_apply_fails(twice, 3, "message 1 is a system message");
    check_apply_fails(alone, 2, "needs a user's message");
    check_apply_fails(NULL, 0, "needs a user's message");
    aq_test_fails(aq_chat_apply(AQ_CHAT_N, NULL, NULL, tool, 1, &text), AQ_ERR_USAGE,
                  "no chat format");
}

/* Texts far longer than the first block of memory arrive whole, and empty ones stay empty. */
static void test_lengths(void) {
    static const char head[] = "<|im_start|>user\n", tail[] = "<|im_end|>\n<|im_start|>assistant\n";
    for (size_t n = 0; n < 100000; n = 3 * n + 1) {
        char *content = malloc(n + 1), *text = NULL;
        if (!content) return;
        memset(content, 'x', n);
        content[n] = '\0';
        const aq_chat_message message = {"user", content};
        if (aq_test_ok(aq_chat_apply(AQ_CHAT_CHATML, NULL, NULL, &message, 1, &text))) {
            CU_ASSERT_EQUAL(strlen(text), n + sizeof head + sizeof tail - 2);
            CU_ASSERT_EQUAL(memcmp(text, head, sizeof head - 1), 0);
            CU_ASSERT_EQUAL(memcmp(text + sizeof head - 1, content, n), 0);
            CU_ASSERT_STRING_EQUAL(text + sizeof head - 1 + n, tail);
        }
        free(text);
        free(content);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "known templates", test_known_templates);
    CU_add_test(suite, "wrong format", test_wrong_format);
    CU_add_test(suite, "wrong version", test_wrong_version);
    CU_add_test(suite, "without template", test_without_template);
    CU_add_test(suite, "unknown templates", test_unknown_templates);
    CU_add_test(suite, "names", test_names);
    CU_add_test(suite, "wrong messages", test_wrong_messages);
    CU_add_test(suite, "lengths", test_lengths);
}
