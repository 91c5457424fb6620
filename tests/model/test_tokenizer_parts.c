/* Each part of tokenizer.json is read as it is meant, or refused by its name. */
#include "src/model/tokenizer_parts.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/suite.h"

typedef aq_status (*reader)(const aq_json *json, aq_tokenizer_source *out);

/* Reads one part. Texts of the part in *out are gone afterwards. */
static aq_status read(reader part, const char *text, aq_tokenizer_source *out) {
    cJSON *value = cJSON_Parse(text);
    const aq_json json = {"t.json", "part.", value};
    if (!value) printf("  the test's JSON is broken: %s\n", text);
    CU_ASSERT_PTR_NOT_NULL(value);
    const aq_status status = part(&json, out);
    cJSON_Delete(value);
    return status;
}

static void refuse(reader part, const char *text, aq_status code, const char *why) {
    aq_tokenizer_source s = {.path = "t.json", .n = 5, .spelling = AQ_SPELT_SPM};
    aq_test_fails(read(part, text, &s), code, why);
    CU_ASSERT_TRUE(strncmp(aq_error_text(), "t.json: ", 8) == 0);
}

static void unsupported(reader part, const char *text, const char *why) {
    refuse(part, text, AQ_ERR_UNSUPPORTED, why);
}

static void malformed(reader part, const char *text, const char *why) {
    refuse(part, text, AQ_ERR_FORMAT, why);
}

#define PART(type, more)    "{\"type\":\"" type "\"" more "}"
#define LIST(list, parts)   "{\"type\":\"Sequence\",\"" list "\":[" parts "]}"
#define PATTERN(kind, text) ",\"pattern\":{\"" kind "\":\"" text "\"}"

static void test_normalizer(void) {
    const reader n = aq_parts_normalizer;
    aq_tokenizer_source s = {.path = "t.json"};
    const char *text =
        LIST("normalizers", PART("NFC", "") "," LIST("normalizers", PART("NFKD", "")));
    aq_test_ok(read(n, "null", &s));
    CU_ASSERT_EQUAL(s.n_normalizer, 0);
    aq_test_ok(read(n, text, &s));
    CU_ASSERT_TRUE(s.n_normalizer == 2 && s.normalizer[0].kind == AQ_NORMALIZE_NFC &&
                   s.normalizer[1].kind == AQ_NORMALIZE_NFKD);
    aq_test_ok(read(n, PART("Replace", PATTERN("Regex", "a b") ",\"content\":\"\""), &s));
    CU_ASSERT_EQUAL(s.n_normalizer, 3);
    unsupported(n, PART("Lowercase", ""), "part.Lowercase is not supported");
    unsupported(n, PART("Strip", ",\"strip_left\":true"), "part.Strip is not supported");
    unsupported(n, PART("NFC", ",\"a\":1"), "\"part.a\" is not known");
    unsupported(n, PART("Replace", PATTERN("Regex", " {2,}") ",\"content\":\"\""), "Regex");
    malformed(n, PART("Replace", PATTERN("String", "") ",\"content\":\"\""), "empty pattern");
    malformed(n, PART("Replace", PATTERN("String", "a")), "lacks a text");
    malformed(n, PART("Replace", ",\"content\":\"\""), "has no pattern");
    malformed(n, PART("Prepend", ""), "lacks a text");
    malformed(n, "{}", "has no type");
    malformed(n, "[]", "neither an object nor null");
    malformed(n, LIST("parts", ""), "holds no list");
    malformed(n, LIST("normalizers", "null"), "holds null");
}

static void test_limits(void) {
    char text[4096] = "";
    aq_tokenizer_source s = {.path = "t.json"};
    for (int i = 0; i < 10; i++)
        strcat(text, "{\"type\":\"Sequence\",\"normalizers\":[");
    strcat(text, PART("NFC", ""));
    for (int i = 0; i < 10; i++)
        strcat(text, "]}");
    aq_test_fails(read(aq_parts_normalizer, text, &s), AQ_ERR_UNSUPPORTED, "nested too deep");
    strcpy(text, "{\"type\":\"Sequence\",\"normalizers\":[" PART("NFC", ""));
    for (int i = 0; i < AQ_MAX_NORMALIZER; i++)
        strcat(text, "," PART("NFC", ""));
    strcat(text, "]}");
    aq_test_fails(read(aq_parts_normalizer, text, &s), AQ_ERR_UNSUPPORTED,
                  "one normaliser too many");
}

#define METASPACE(more) PART("Metaspace", ",\"replacement\":\"\u2581\"" more)
#define SPLIT(more)     PART("Split", PATTERN("String", "a") more)

static void test_pre_tokenizer(void) {
    const reader p = aq_parts_pre_tokenizer;
    aq_tokenizer_source s = {.path = "t.json"};
    aq_test_ok(read(p, "null", &s));
    CU_ASSERT_TRUE(s.spelling == AQ_SPELT_SPM && s.n_stage == 0);
    aq_test_ok(read(p,
                    LIST("pretokenizers", PART("Digits", ",\"individual_digits\":true") "," PART(
                                              "ByteLevel", ",\"add_prefix_space\":false")),
                    &s));
    CU_ASSERT_TRUE(s.spelling == AQ_SPELT_GPT2 && s.n_stage == 2 && !s.lead.text);
    CU_ASSERT_EQUAL(s.stages[0].behavior, AQ_SPLIT_ISOLATED);
    s = (aq_tokenizer_source){.path = "t.json"};
    aq_test_ok(read(p, PART("ByteLevel", ",\"use_regex\":false"), &s));
    CU_ASSERT_TRUE(s.n_stage == 0 && s.lead.text && strcmp(s.lead.text, " ") == 0);
    s = (aq_tokenizer_source){.path = "t.json"};
    aq_test_ok(read(p, METASPACE(",\"prepend_scheme\":\"first\""), &s));
    CU_ASSERT_TRUE(s.lead.at_start && s.lead.blank_text && s.n_stage == 1);
    s = (aq_tokenizer_source){.path = "t.json"};
    aq_test_ok(read(p, SPLIT(",\"behavior\":\"MergedWithNext\",\"invert\":true"), &s));
    CU_ASSERT_TRUE(s.stages[0].behavior == AQ_SPLIT_MERGED_WITH_NEXT && s.stages[0].invert &&
                   s.stages[0].kind == AQ_PATTERN_LITERAL);
}

static void test_pre_tokenizer_refused(void) {
    const reader p = aq_parts_pre_tokenizer;
    unsupported(p, PART("BertPreTokenizer", ""), "part.BertPreTokenizer is not supported");
    unsupported(p, PART("Whitespace", ""), "part.Whitespace is not supported");
    unsupported(p, LIST("pretokenizers", PART("ByteLevel", "") "," SPLIT("")), "behind ByteLevel");
    unsupported(p, LIST("pretokenizers", SPLIT("") "," PART("ByteLevel", "")), "add_prefix_space");
    unsupported(p, LIST("pretokenizers", SPLIT("") "," METASPACE("")), "first place only");
    unsupported(p, LIST("pretokenizers", METASPACE("") "," METASPACE("")), "part.Metaspace");
    unsupported(p, METASPACE(",\"prepend_scheme\":\"last\""), "prepend_scheme");
    unsupported(p, PART("Metaspace", ",\"replacement\":\"_\""), "another replacement");
    unsupported(p, SPLIT(",\"behavior\":\"Doubled\""), "behavior");
    unsupported(p, SPLIT(",\"times\":2"), "\"part.times\"");
    malformed(p, SPLIT(",\"invert\":1"), "invert");
    malformed(p, PART("Split", ""), "has no pattern");
}

#define BLANKS PART("Replace", PATTERN("String", "\u2581") ",\"content\":\" \"")

static void test_decoder(void) {
    const reader d = aq_parts_decoder;
    aq_tokenizer_source s = {.path = "t.json", .spelling = AQ_SPELT_GPT2};
    aq_test_ok(read(d, "null", &s));
    aq_test_ok(read(d, PART("ByteLevel", ""), &s));
    aq_test_fails(read(d, BLANKS, &s), AQ_ERR_UNSUPPORTED, "does not go with");
    s.spelling = AQ_SPELT_SPM;
    aq_test_ok(
        read(d,
             LIST("decoders", BLANKS "," PART("ByteFallback", "") "," PART("Fuse", "") "," PART(
                                  "Strip", ",\"content\":\" \",\"start\":1,\"stop\":0")),
             &s));
    aq_test_ok(read(d, METASPACE(""), &s));
    unsupported(d, "null", "a decoder that makes");
    unsupported(d, PART("ByteLevel", ""), "a decoder that makes");
    unsupported(d, PART("WordPiece", ""), "part.WordPiece is not supported");
    unsupported(d, PART("Strip", ",\"content\":\"x\""), "part.Strip of other");
    unsupported(d, PART("Replace", PATTERN("String", "_") ",\"content\":\" \""), "part.Replace of");
}

#define TEMPLATE(single, ids)                                                                      \
    PART("TemplateProcessing", ",\"single\":[" single "],\"pair\":[],\"special_tokens\":{\"<s>\":" \
                               "{\"id\":\"<s>\",\"ids\":" ids ",\"tokens\":[\"<s>\"]}}")
#define BOS  "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}"
#define TEXT "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"

static void test_post_processor(void) {
    const reader p = aq_parts_post_processor;
    aq_tokenizer_source s = {.path = "t.json", .n = 5, .bos = -1};
    aq_test_ok(read(p, LIST("processors", PART("ByteLevel", "") "," TEMPLATE(TEXT, "[3]")), &s));
    CU_ASSERT_TRUE(s.bos == -1 && !s.adds_bos);
    aq_test_ok(read(p, TEMPLATE(BOS "," TEXT, "[3]"), &s));
    CU_ASSERT_TRUE(s.bos == 3 && s.adds_bos);
    unsupported(p, PART("RobertaProcessing", ""), "part.RobertaProcessing is not supported");
    unsupported(p, TEMPLATE(TEXT "," BOS, "[3]"), "behind the text");
    unsupported(p, TEMPLATE(BOS "," BOS "," TEXT, "[3]"), "two tokens in front");
    malformed(p, TEMPLATE(BOS "," TEXT, "[3,4]"), "has not one id");
    malformed(p, TEMPLATE(BOS "," TEXT, "[5]"), "none of the vocabulary");
    malformed(p, TEMPLATE(BOS, "[3]"), "leaves out the text");
    malformed(p, TEMPLATE("{}", "[3]"), "neither a token nor the text");
    malformed(p, PART("TemplateProcessing", ""), "no list \"single\"");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "normalizer", test_normalizer);
    CU_add_test(suite, "limits", test_limits);
    CU_add_test(suite, "pre_tokenizer", test_pre_tokenizer);
    CU_add_test(suite, "pre_tokenizer refused", test_pre_tokenizer_refused);
    CU_add_test(suite, "decoder", test_decoder);
    CU_add_test(suite, "post_processor", test_post_processor);
}
