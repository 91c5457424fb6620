#define _POSIX_C_SOURCE 200809L
/* The option table: spellings, values, environment, and what is refused. */
#include "launch/options.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/suite.h"

#define PARSE(out, ...)                                                                            \
    aq_options_parse((int)(sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)),                      \
                     (char *[]){__VA_ARGS__}, out)

static void test_commands(void) {
    aq_options o;
    aq_test_ok(PARSE(&o, "aqua-dist", "-m", "a.gguf"));
    CU_ASSERT_EQUAL(o.command, AQ_CMD_RUN);
    aq_test_ok(PARSE(&o, "aqua-dist", "run", "-m", "a.gguf"));
    CU_ASSERT_EQUAL(o.command, AQ_CMD_RUN);
    aq_test_ok(PARSE(&o, "aqua-dist", "eval", "ppl", "-c", "512"));
    CU_ASSERT_EQUAL(o.command, AQ_CMD_EVAL_PPL);
    CU_ASSERT_EQUAL(o.n_ctx, 512);
    aq_test_ok(PARSE(&o, "aqua-dist", "eval", "logits"));
    CU_ASSERT_EQUAL(o.command, AQ_CMD_EVAL_LOGITS);
    aq_test_ok(PARSE(&o, "aqua-dist", "calibrate"));
    CU_ASSERT_EQUAL(o.command, AQ_CMD_CALIBRATE);
}

static void test_values(void) {
    aq_options o;
    aq_test_ok(PARSE(&o, "aqua-dist", "--model=a=b.gguf", "-n", "7", "--temp", "0", "--chat",
                     "-ctk", "f32", "--seed", "-1", "-p", "-dash", "--split", "3,1"));
    CU_ASSERT_STRING_EQUAL(o.model, "a=b.gguf");
    CU_ASSERT_EQUAL(o.n_predict, 7);
    CU_ASSERT_EQUAL(o.temp, 0.0);
    CU_ASSERT_TRUE(o.chat);
    CU_ASSERT_STRING_EQUAL(o.key_type, "f32");
    CU_ASSERT_EQUAL(o.seed, -1);
    CU_ASSERT_STRING_EQUAL(o.prompt, "-dash");
    CU_ASSERT_STRING_EQUAL(o.split, "3,1");
    /* defaults */
    CU_ASSERT_EQUAL(o.n_batch, 2048);
    CU_ASSERT_EQUAL(o.k_ratio, 0.75);
    CU_ASSERT_STRING_EQUAL(o.rank_by, "energy");
    CU_ASSERT_PTR_NULL(o.projection);
    CU_ASSERT_STRING_EQUAL(o.wire, "fp32");
    CU_ASSERT_STRING_EQUAL(o.merge, "allgather");
    CU_ASSERT_FALSE(o.mass_exchange);
    aq_test_ok(PARSE(&o, "aqua-dist", "--wire", "bf16", "--mass-exchange"));
    CU_ASSERT_STRING_EQUAL(o.wire, "bf16");
    CU_ASSERT_TRUE(o.mass_exchange);
}

static void test_refused(void) {
    aq_options o;
    aq_test_fails(PARSE(&o, "aqua-dist", "frobnicate"), AQ_ERR_USAGE, "frobnicate");
    aq_test_fails(PARSE(&o, "aqua-dist", "--no-such"), AQ_ERR_USAGE, "--no-such");
    aq_test_fails(PARSE(&o, "aqua-dist", "-n"), AQ_ERR_USAGE, "-n needs a value");
    aq_test_fails(PARSE(&o, "aqua-dist", "-n", "7x"), AQ_ERR_USAGE, "7x");
    aq_test_fails(PARSE(&o, "aqua-dist", "-n", ""), AQ_ERR_USAGE, "whole number");
    aq_test_fails(PARSE(&o, "aqua-dist", "-n", "99999999999999999999"), AQ_ERR_USAGE, "9999");
    aq_test_fails(PARSE(&o, "aqua-dist", "--temp", "nan"), AQ_ERR_USAGE, "--temp");
    aq_test_fails(PARSE(&o, "aqua-dist", "-ctk", "q3"), AQ_ERR_USAGE, "f32|bf16");
    aq_test_fails(PARSE(&o, "aqua-dist", "--wire", "fp16"), AQ_ERR_USAGE, "fp32|bf16");
    aq_test_fails(PARSE(&o, "aqua-dist", "--merge", "ring"), AQ_ERR_USAGE, "alltoall|tree|auto");
    aq_test_fails(PARSE(&o, "aqua-dist", "--attn", "f32"), AQ_ERR_USAGE, "dense|aqua");
    aq_test_fails(PARSE(&o, "aqua-dist", "tokenize", "--temp", "1"), AQ_ERR_USAGE, "--temp");
    aq_test_fails(PARSE(&o, "aqua-dist", "calibrate", "--split", "1"), AQ_ERR_USAGE, "--split");
}

/* One spelling, two options: what calibrate is to make, and what a session is to use. */
static void test_shared_spelling(void) {
    aq_options o;
    aq_test_ok(PARSE(&o, "aqua-dist", "calibrate", "--k-budget", "0.5", "--selector-bytes", "18"));
    CU_ASSERT_TRUE(o.k_budget == 0.5 && o.selector_bytes == 18 && !o.use_k_budget);
    aq_test_ok(PARSE(&o, "aqua-dist", "eval", "ppl", "--k-budget", "-c", "7"));
    CU_ASSERT_TRUE(o.k_budget == 0 && o.use_k_budget && o.n_ctx == 7);
    aq_test_ok(PARSE(&o, "aqua-dist", "eval", "recall", "--mass", "0.9", "-o", "x"));
    CU_ASSERT_TRUE(o.command == AQ_CMD_EVAL_RECALL && o.mass == 0.9);
    aq_test_fails(PARSE(&o, "aqua-dist", "eval", "recall", "--k-budget"), AQ_ERR_USAGE,
                  "no option of this command");
}

static void test_environment(void) {
    aq_options o;
    setenv("AQUA_CTX_SIZE", "99", 1);
    setenv("AQUA_CHAT", "1", 1);
    aq_test_ok(PARSE(&o, "aqua-dist"));
    CU_ASSERT_EQUAL(o.n_ctx, 99);
    CU_ASSERT_TRUE(o.chat);
    aq_test_ok(PARSE(&o, "aqua-dist", "-c", "5"));
    CU_ASSERT_EQUAL(o.n_ctx, 5);
    setenv("AQUA_CTX_SIZE", "many", 1);
    aq_test_fails(PARSE(&o, "aqua-dist"), AQ_ERR_USAGE, "AQUA_CTX_SIZE");
    /* A variable of another command's option is not looked at. */
    aq_test_ok(PARSE(&o, "aqua-dist", "tokenize"));
    unsetenv("AQUA_CTX_SIZE");
    unsetenv("AQUA_CHAT");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "commands", test_commands);
    CU_add_test(suite, "values", test_values);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "one spelling of two commands", test_shared_spelling);
    CU_add_test(suite, "environment", test_environment);
}
