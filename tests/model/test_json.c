/* Untrusted JSON is read with the types and bounds asked for, or refused by name. */
#include "src/model/json.h"

#include <math.h>
#include <string.h>

#include "tests/support/suite.h"

static aq_status parse(const char *text, cJSON **out) {
    return aq_json_parse("a.json", text, strlen(text), out);
}

static void test_values(void) {
    cJSON *root;
    int64_t whole;
    double number;
    bool flag;
    const char *text;
    if (!aq_test_ok(parse("{\"n\":7,\"x\":null,\"y\":1.5,\"b\":true,\"t\":\"hi\"} \n", &root)))
        return;
    const aq_json json = {"a.json", "in.", root};
    aq_test_ok(aq_json_int(&json, "m|n", 0, 10, 3, &whole));
    CU_ASSERT_EQUAL(whole, 7);
    aq_test_ok(aq_json_int(&json, "x", 0, 10, 3, &whole)); /* null is absent */
    CU_ASSERT_EQUAL(whole, 3);
    aq_test_ok(aq_json_number(&json, "y", 0, 2, 0, &number));
    CU_ASSERT_EQUAL(number, 1.5);
    aq_test_ok(aq_json_bool(&json, "b", false, &flag));
    CU_ASSERT_TRUE(flag);
    aq_test_ok(aq_json_text(&json, "t", NULL, &text));
    CU_ASSERT_STRING_EQUAL(text, "hi");
    aq_test_fails(aq_json_int(&json, "n", 0, 6, 0, &whole), AQ_ERR_FORMAT, "key in.n is 7");
    aq_test_fails(aq_json_int(&json, "y", 0, 6, 0, &whole), AQ_ERR_FORMAT, "whole number");
    aq_test_fails(aq_json_int(&json, "q", 0, 6, AQ_JSON_REQUIRED, &whole), AQ_ERR_FORMAT,
                  "in.q is missing");
    aq_test_fails(aq_json_number(&json, "t", 0, 6, 0, &number), AQ_ERR_FORMAT, "not a number");
    aq_test_fails(aq_json_number(&json, "q", 0, 6, NAN, &number), AQ_ERR_FORMAT, "missing");
    aq_test_fails(aq_json_bool(&json, "n", false, &flag), AQ_ERR_FORMAT, "neither true nor false");
    aq_test_fails(aq_json_text(&json, "n", NULL, &text), AQ_ERR_FORMAT, "not a text");
    cJSON_Delete(root);
}

static void test_refused(void) {
    static const char *const texts[] = {
        "", "[1]", "{", "{} x", "{\"a\":1,\"a\":2}", "{\"b\":{\"a\":1,\"a\":2}}", "1", "null"};
    cJSON *root;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        aq_test_fails(parse(texts[i], &root), AQ_ERR_FORMAT, "a.json");
        CU_ASSERT_PTR_NULL(root);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "values", test_values);
    CU_add_test(suite, "refused", test_refused);
}
