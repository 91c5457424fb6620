/* The command line of aqua-dist-bench. */
#include "bench/bench_options.h"

#include <string.h>

#include "tests/support/suite.h"

#define ARGV_MAX 24

#define DENSE  (1u << AQ_ATTN_DENSE)
#define AQUA   (1u << AQ_ATTN_AQUA)
#define SELECT (1u << AQ_ATTN_SELECT)

/* Splits "decode -m x" at its spaces, in place, behind the program's name. */
static aq_status parse(char *line, aq_bench_options *out) {
    char *argv[ARGV_MAX] = {"aqua-dist-bench"};
    int argc = 1;
    for (char *word = strtok(line, " "); word && argc < ARGV_MAX; word = strtok(NULL, " "))
        argv[argc++] = word;
    return aq_bench_options_parse(argc, argv, out);
}

static void test_decode(void) {
    char line[] = "decode -m a.gguf -f t.txt -d 0,512,2048 -n 16 -ctk f32 --k-ratio 0.5";
    aq_bench_options options;
    if (!aq_test_ok(parse(line, &options))) return;
    CU_ASSERT_EQUAL(options.command, AQ_BENCH_DECODE);
    CU_ASSERT_EQUAL(options.depths.n, 3);
    CU_ASSERT_EQUAL(options.depths.values[0], 0);
    CU_ASSERT_EQUAL(options.depths.values[2], 2048);
    CU_ASSERT_EQUAL(options.prefills.n, 0);
    CU_ASSERT_EQUAL(options.n_decode, 16);
    CU_ASSERT_EQUAL(options.n_repeat, 5);
    CU_ASSERT_EQUAL(options.k_ratio, 0.5);
    CU_ASSERT_STRING_EQUAL(options.key_type, "f32");
    CU_ASSERT_PTR_NULL(options.value_type);
    CU_ASSERT_EQUAL(options.attn, DENSE);
}

static void test_prefill(void) {
    char line[] = "prefill -m a.gguf -f t.txt -p 512,8192 -d 0,8192 --phases";
    char plain[] = "prefill -m a.gguf -f t.txt";
    aq_bench_options options;
    if (!aq_test_ok(parse(line, &options))) return;
    CU_ASSERT_EQUAL(options.command, AQ_BENCH_PREFILL);
    CU_ASSERT_EQUAL(options.prefills.n, 2);
    CU_ASSERT_EQUAL(options.prefills.values[1], 8192);
    CU_ASSERT_EQUAL(options.depths.n, 2);
    CU_ASSERT_EQUAL(options.depths.values[1], 8192);
    CU_ASSERT_TRUE(options.phases);
    if (!aq_test_ok(parse(plain, &options))) return;
    CU_ASSERT_EQUAL(options.prefills.n, 1);
    CU_ASSERT_EQUAL(options.prefills.values[0], 512);
    CU_ASSERT_EQUAL(options.depths.n, 1);
    CU_ASSERT_EQUAL(options.depths.values[0], 0);
    CU_ASSERT_FALSE(options.phases);
}

/* Needs neither model nor text. */
static void test_kernels(void) {
    char line[] = "kernels --contexts 64,0 --copies 3 --only matmul --all-shapes -t 2";
    char plain[] = "kernels";
    aq_bench_options options;
    if (!aq_test_ok(parse(line, &options))) return;
    CU_ASSERT_EQUAL(options.command, AQ_BENCH_KERNELS);
    CU_ASSERT_EQUAL(options.contexts.n, 2);
    CU_ASSERT_EQUAL(options.contexts.values[1], 0);
    CU_ASSERT_EQUAL(options.n_copy, 3);
    CU_ASSERT_TRUE(options.all_shapes);
    CU_ASSERT_STRING_EQUAL(options.only, "matmul");
    if (!aq_test_ok(parse(plain, &options))) return;
    CU_ASSERT_EQUAL(options.contexts.n, 0); /* as the device has it */
    CU_ASSERT_FALSE(options.all_shapes);
    CU_ASSERT_PTR_NULL(options.only);
}

static void test_select(void) {
    char line[] = "decode -m a.gguf -f t.txt --projection p --mass 0.9 --sinks 0 --recent 128 "
                  "--selector 8x4,8x1 --prefill same -ctv q5";
    aq_bench_options options;
    if (!aq_test_ok(parse(line, &options))) return;
    CU_ASSERT_EQUAL(options.attn, DENSE | AQUA | SELECT);
    CU_ASSERT_EQUAL(options.mass, 0.9);
    CU_ASSERT_EQUAL(options.n_sink, 0);
    CU_ASSERT_EQUAL(options.n_recent, 128);
    CU_ASSERT_STRING_EQUAL(options.selector, "8x4,8x1");
    CU_ASSERT_STRING_EQUAL(options.prefill, "same");
    CU_ASSERT_PTR_NULL(options.key_type);
    CU_ASSERT_STRING_EQUAL(options.value_type, "q5");
}

/* Brings its text and projection with it. */
static void test_made(void) {
    char line[] = "decode -m synth:llama-8b -d 1048576 --needed 0.03";
    char plain[] = "prefill -m synth:smollm2 --attn select";
    aq_bench_options options;
    if (!aq_test_ok(parse(line, &options))) return;
    CU_ASSERT_EQUAL(options.attn, DENSE | AQUA | SELECT);
    CU_ASSERT_EQUAL(options.needed, 0.03);
    if (!aq_test_ok(parse(plain, &options))) return;
    CU_ASSERT_EQUAL(options.attn, SELECT);
    CU_ASSERT_EQUAL(options.needed, 0.08);
}

static void test_select_defaults(void) {
    char line[] = "strong -m a.gguf -f t.txt --projection p";
    aq_bench_options options;
    if (!aq_test_ok(parse(line, &options))) return;
    CU_ASSERT_EQUAL(options.mass, 0.98);
    CU_ASSERT_EQUAL(options.n_sink, 4);
    CU_ASSERT_EQUAL(options.n_recent, 64);
    CU_ASSERT_PTR_NULL(options.selector);
    CU_ASSERT_STRING_EQUAL(options.prefill, "dense");
}

/* Any of the ways, in any order. */
static void test_ways(void) {
    static const struct {
        const char *attn;
        unsigned ways;
    } cases[] = {
        {"dense", DENSE},
        {"select", SELECT},
        {"aqua,dense", DENSE | AQUA},
        {"select,dense", DENSE | SELECT},
        {"dense,aqua,select", DENSE | AQUA | SELECT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char line[128];
        aq_bench_options options;
        snprintf(line, sizeof line, "decode -m m -f t --projection p --attn %s", cases[i].attn);
        if (!aq_test_ok(parse(line, &options))) continue;
        CU_ASSERT_EQUAL(options.attn, cases[i].ways);
    }
}

static void test_breakeven(void) {
    char line[] = "breakeven -m a.gguf -f t.txt --projection p --lengths 64,100,4096 --store";
    char plain[] = "breakeven -m a.gguf -f t.txt --projection p";
    aq_bench_options options;
    if (!aq_test_ok(parse(line, &options))) return;
    CU_ASSERT_EQUAL(options.command, AQ_BENCH_BREAKEVEN);
    CU_ASSERT_EQUAL(options.attn, DENSE | AQUA | SELECT);
    CU_ASSERT_EQUAL(options.lengths.n, 3);
    CU_ASSERT_EQUAL(options.lengths.values[2], 4096);
    CU_ASSERT_TRUE(options.store);
    CU_ASSERT_EQUAL(options.k_ratio, 0.75);
    if (!aq_test_ok(parse(plain, &options))) return;
    CU_ASSERT_EQUAL(options.lengths.values[0], 64);
    CU_ASSERT_FALSE(options.store);
}

static void test_strong(void) {
    char line[] = "strong -m a.gguf -f t.txt -c 4096 --ranks 1,2,5";
    aq_bench_options options;
    if (!aq_test_ok(parse(line, &options))) return;
    CU_ASSERT_EQUAL(options.command, AQ_BENCH_STRONG);
    CU_ASSERT_EQUAL(options.n_ctx, 4096);
    CU_ASSERT_EQUAL(options.ranks.n, 3);
    CU_ASSERT_EQUAL(options.ranks.values[2], 5);
}

static void test_help(void) {
    char line[] = "decode --help";
    aq_bench_options options;
    aq_test_ok(parse(line, &options));
    CU_ASSERT_TRUE(options.help);
}

static void test_refusals(void) {
    static const struct {
        const char *line, *part;
    } cases[] = {
        {"fast", "no benchmark"},
        {"decode -f t", "give a model"},
        {"decode -m m", "give a text"},
        {"decode -m m -f t -c 5", "-c is no option"},
        {"strong -m m -f t -d 5", "-d is no option"},
        {"prefill -m m -f t -n 5", "-n is no option"},
        {"strong -m m -f t --phases", "--phases is no option"},
        {"kernels -m m", "-m is no option"},
        {"kernels --contexts -1", "--contexts takes"},
        {"kernels --copies 0", "--copies takes"},
        {"decode -m m -f t -n", "needs a value"},
        {"decode -m m -f t -n 0", "--n-gen takes 1 to"},
        {"decode -m m -f t -n 99999999999999999999", "takes a number"},
        {"decode -m m -f t -n 3x", "takes a number"},
        {"decode -m m -f t -r -1", "--repetitions takes"},
        {"decode -m m -f t -d 1,,2", "commas between"},
        {"decode -m m -f t -d 5,", "commas between"},
        {"decode -m m -f t -d -5", "--depth takes"},
        {"decode -m m -f t --k-ratio nan", "--k-ratio takes"},
        {"decode -m m -f t --k-ratio 1.5", "--k-ratio takes"},
        {"decode -m m -f t -ctk f16", "choose one of f32|bf16"},
        {"decode -m m -f t --attn aqua", "need a --projection"},
        {"decode -m m -f t --attn dense,select", "need a --projection"},
        {"decode -m m -f t --attn sparse", "--attn takes dense, aqua"},
        {"decode -m m -f t --attn dense,", "--attn takes dense, aqua"},
        {"decode -m m -f t --attn densely", "--attn takes dense, aqua"},
        {"decode -m m -f t --mass 0", "--mass takes"},
        {"decode -m m -f t --sinks -1", "--sinks takes"},
        {"decode -m m -f t --selector 8x7", "layout"},
        {"decode -m m -f t --prefill select", "choose one of dense|same"},
        {"decode -m m -f t --store", "--store is no option"},
        {"decode -m synth:llama-8b -f t", "leave -f and"},
        {"prefill -m synth:llama-8b --projection p", "leave -f and"},
        {"strong -m synth:llama-8b", "decode and prefill alone"},
        {"decode -m synth:llama-8b --selector 8x7", "layout"},
        {"decode -m m -f t --needed 0", "--needed takes"},
        {"breakeven -m m -f t", "need a --projection"},
        {"breakeven -m m -f t --projection p --attn dense", "--attn is no option"},
        {"breakeven -m m -f t --projection p --lengths 64,64", "--lengths must rise"},
        {"breakeven -m m -f t --projection p --lengths 0,64", "--lengths takes"},
        {"strong -m m -f t --ranks 2,4", "must rise from 1"},
        {"strong -m m -f t --ranks 1,4,4", "must rise from 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char line[128];
        aq_bench_options options;
        strncpy(line, cases[i].line, sizeof line - 1);
        line[sizeof line - 1] = '\0';
        aq_test_fails(parse(line, &options), AQ_ERR_USAGE, cases[i].part);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "decode", test_decode);
    CU_add_test(suite, "prefill", test_prefill);
    CU_add_test(suite, "kernels", test_kernels);
    CU_add_test(suite, "select", test_select);
    CU_add_test(suite, "made", test_made);
    CU_add_test(suite, "defaults of select", test_select_defaults);
    CU_add_test(suite, "ways of attention", test_ways);
    CU_add_test(suite, "strong", test_strong);
    CU_add_test(suite, "break-even", test_breakeven);
    CU_add_test(suite, "help", test_help);
    CU_add_test(suite, "refusals", test_refusals);
}
