/* Made models: their names, their shapes, and weights that are the same however they are made. */
#include "src/model/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/model_config.h"
#include "src/model/model_weights.h"
#include "src/model/tokenizer.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define SMALL "synth:layers=2,embd=256,heads=8,kv=2,ff=512,vocab=300"

typedef struct {
    aq_model_file *file;
    aq_model_config config;
    aq_model_weights weights;
} model;

static bool open_model(const char *path, model *m) {
    memset(m, 0, sizeof *m);
    return aq_test_ok(aq_model_file_open(path, &m->file)) &&
           aq_test_ok(aq_model_config_read(m->file, &m->config)) &&
           aq_test_ok(aq_model_weights_open(m->file, &m->config, &m->weights));
}

static void close_model(model *m) {
    aq_model_weights_close(&m->weights);
    aq_model_file_close(m->file);
}

/* Parameters as the makers of the namesakes count them. */
static void test_presets(void) {
    static const struct {
        const char *path;
        int64_t n_parameter;
        int n_layer, n_head, n_kv_head, d_head;
    } cases[] = {
        {"synth:llama-8b,type=f32", 8030261248, 32, 32, 8, 128},
        {"synth:llama-1b,type=f32", 1235814400, 16, 32, 8, 64},
        {"synth:smollm2,type=f32", 134515008, 30, 9, 3, 64},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model m;
        if (open_model(cases[i].path, &m)) {
            CU_ASSERT_EQUAL(m.weights.bytes, 4 * cases[i].n_parameter);
            CU_ASSERT_EQUAL(m.config.n_layer, cases[i].n_layer);
            CU_ASSERT_EQUAL(m.config.n_head, cases[i].n_head);
            CU_ASSERT_EQUAL(m.config.n_kv_head, cases[i].n_kv_head);
            CU_ASSERT_EQUAL(m.config.d_head, cases[i].d_head);
            CU_ASSERT(m.config.n_ctx > 1 << 20);
            CU_ASSERT_EQUAL(m.weights.owned_bytes < 1 << 20, true); /* nothing is copied */
        }
        close_model(&m);
    }
}

static void test_keys(void) {
    model m;
    if (open_model("synth:smollm2,layers=3,heads=4,kv=1,head=96,ctx=77,tied=0,type=Q8_0", &m)) {
        CU_ASSERT_EQUAL(m.config.n_layer, 3);
        CU_ASSERT_EQUAL(m.config.n_head, 4);
        CU_ASSERT_EQUAL(m.config.d_head, 96);
        CU_ASSERT_EQUAL(m.config.d_model, 576);
        CU_ASSERT_EQUAL(m.config.n_ctx, 77);
        CU_ASSERT_EQUAL(m.weights.output.dtype, AQ_Q8_0);
        CU_ASSERT(m.weights.output.data != m.weights.embed.data);
    }
    close_model(&m);
}

static void test_refusals(void) {
    static const struct {
        const char *path, *part;
    } cases[] = {
        {"synth:", "shape's name"},
        {"synth:llama-9b", "\"llama-9b\" is no shape"},
        {"synth:layers=2", "give layers, embd"},
        {"synth:layers=2,llama-8b", "in front of all keys"},
        {"synth:llama-8b,", "commas between"},
        {"synth:llama-8b,width=3", "\"width\" is no key"},
        {"synth:llama-8b,layers=0", "from 1 to 1024, not \"0\""},
        {"synth:llama-8b,layers=2x", "not \"2x\""},
        {"synth:llama-8b,type=q2", "type \"q2\""},
        {"synth:llama-8b,kv=5", "kv must divide"},
        {"synth:smollm2,type=q4_k", "multiples of 256"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        aq_model_file *file = NULL;
        aq_test_fails(aq_model_file_open(cases[i].path, &file), AQ_ERR_USAGE, cases[i].part);
        CU_ASSERT_PTR_NULL(file);
    }
    model m;
    aq_tokenizer *tok = NULL;
    if (open_model(SMALL, &m))
        aq_test_fails(aq_tokenizer_open_model(m.file, &tok), AQ_ERR_UNSUPPORTED, "no tokeniser");
    close_model(&m);
}

/* Mean and variance times n_in of a matrix's elements. */
static void moments(const aq_weight *w, double *mean, double *variance) {
    const int64_t row_bytes = aq_dtype_row_bytes(w->dtype, w->n_in);
    const double n = (double)(w->n_out * w->n_in);
    double sum = 0, squares = 0;
    for (int64_t r = 0; r < w->n_out; r++)
        for (int64_t i = 0; i < w->n_in; i++) {
            const uint8_t *row = (const uint8_t *)w->data + r * row_bytes;
            const double x = aq_ref_weight(w->dtype, row, i) * sqrt((double)w->n_in);
            sum += x;
            squares += x * x;
        }
    *mean = sum / n;
    *variance = squares / n - *mean * *mean;
}

/* Every type has the spread that keeps a model's numbers in range. Q4_0, Q5_0, Q8_0 and Q6_K have
 * one code more below 0 than above: half a step, 1 / (2 spread) at most. */
static void test_moments(void) {
    for (int d = 0; d < AQ_TEST_DTYPES; d++) {
        char path[128];
        model m;
        double mean, variance;
        snprintf(path, sizeof path, SMALL ",type=%s",
                 aq_dtype_any_name((uint32_t)aq_test_dtypes[d]));
        if (open_model(path, &m)) {
            const aq_weight *w = &m.weights.layers[1].ffn.w_up;
            const int64_t bytes = w->n_out * aq_dtype_row_bytes(w->dtype, w->n_in);
            moments(w, &mean, &variance);
            CU_ASSERT_EQUAL(variance, 0); /* before they are made */
            aq_synth_make(aq_model_file_synth(m.file), w->data, bytes);
            moments(w, &mean, &variance);
            CU_ASSERT(fabs(mean) < 0.5 / 4.6 + 0.02);
            CU_ASSERT(fabs(variance - 1) < 0.05);
        }
        close_model(&m);
    }
}

/* Pieces of any size are what the whole is, other matrices are not, and what was forgotten comes
 * back. */
static void test_pieces(void) {
    static const int64_t sizes[] = {1, 7, 160, 4096, 20001};
    model a, b;
    if (open_model(SMALL, &a) && open_model(SMALL, &b)) {
        const aq_weight *w = &a.weights.layers[0].ffn.w_down,
                        *same = &b.weights.layers[0].ffn.w_down;
        const aq_weight *other = &a.weights.layers[1].ffn.w_down;
        const int64_t bytes = w->n_out * aq_dtype_row_bytes(w->dtype, w->n_in);
        const aq_synth *synth = aq_model_file_synth(a.file);
        aq_synth_make(synth, w->data, bytes);
        aq_synth_make(synth, other->data, bytes);
        for (int64_t at = 0, i = 0; at < bytes; at += sizes[i++ % 5]) {
            const int64_t left = bytes - at, size = sizes[i % 5];
            aq_synth_make(aq_model_file_synth(b.file), (const char *)same->data + at,
                          size < left ? size : left);
        }
        CU_ASSERT_EQUAL(memcmp(w->data, same->data, (size_t)bytes), 0);
        CU_ASSERT_NOT_EQUAL(memcmp(w->data, other->data, (size_t)bytes), 0);
        const int64_t row = aq_dtype_row_bytes(w->dtype, w->n_in);
        CU_ASSERT_NOT_EQUAL(memcmp(w->data, (const char *)w->data + row, (size_t)row), 0);
        aq_synth_forget(synth, w->data, bytes);
        CU_ASSERT_NOT_EQUAL(memcmp(w->data, same->data, (size_t)bytes), 0);
        CU_ASSERT_EQUAL(a.weights.layers[0].attn_norm.w[255], 1.0f);
        aq_synth_make(synth, w->data, bytes);
        CU_ASSERT_EQUAL(memcmp(w->data, same->data, (size_t)bytes), 0);
    }
    close_model(&a);
    close_model(&b);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "presets", test_presets);
    CU_add_test(suite, "keys", test_keys);
    CU_add_test(suite, "refusals", test_refusals);
    CU_add_test(suite, "moments", test_moments);
    CU_add_test(suite, "pieces", test_pieces);
}
