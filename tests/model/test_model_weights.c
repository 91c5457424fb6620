/* Tensors are found and checked; rows of Q and K are moved as they must be. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/model_weights.h"
#include "tests/support/suite.h"
#include "tests/support/tiny_model.h"

typedef struct {
    uint8_t *data;
    aq_model_file *file;
    aq_model_config config;
    aq_model_weights weights;
} model;

static void close_model(model *m) {
    aq_model_weights_close(&m->weights);
    aq_model_file_close(m->file);
    free(m->data);
}

/* Opens what the writer holds and ends the writer; the model must be closed in any case. */
static aq_status open_writer(aq_gguf_writer *w, model *m) {
    size_t bytes = 0;
    memset(m, 0, sizeof *m);
    aq_status status = aq_gguf_writer_finish(w, &m->data, &bytes);
    if (status == AQ_OK) status = aq_model_file_open_gguf("model.gguf", m->data, bytes, &m->file);
    if (status == AQ_OK) status = aq_model_config_read(m->file, &m->config);
    if (status == AQ_OK) status = aq_model_weights_open(m->file, &m->config, &m->weights);
    aq_gguf_writer_close(w);
    return status;
}

static aq_status open_shape(const aq_tiny_model *shape, model *m) {
    aq_gguf_writer w = aq_gguf_writer_make();
    AQ_TRY(aq_tiny_model_put(&w, shape));
    return open_writer(&w, m);
}

static void test_shapes(void) {
    const aq_tiny_model shape = aq_tiny_model_default();
    model m;
    if (aq_test_ok(open_shape(&shape, &m))) {
        const aq_model_weights *w = &m.weights;
        const aq_layer_weights *l = &w->layers[1];
        CU_ASSERT_TRUE(w->embed.n_out == 288 && w->embed.n_in == 64);
        CU_ASSERT_TRUE(w->output.n_out == 288 && w->output.n_in == 64);
        CU_ASSERT_PTR_NOT_EQUAL(w->output.data, w->embed.data);
        CU_ASSERT_PTR_NULL(w->rope_divisors);
        CU_ASSERT_TRUE(l->wq.n_out == 64 && l->wq.n_in == 64);
        CU_ASSERT_TRUE(l->wk.n_out == 32 && l->wk.n_in == 64);
        CU_ASSERT_TRUE(l->wv.n_out == 32 && l->wo.n_out == 64 && l->wo.n_in == 64);
        CU_ASSERT_TRUE(l->ffn.w_gate.n_out == 128 && l->ffn.w_up.n_out == 128);
        CU_ASSERT_TRUE(l->ffn.w_down.n_out == 64 && l->ffn.w_down.n_in == 128);
        CU_ASSERT_PTR_EQUAL(l->wv.data,
                            aq_model_file_tensor_find(m.file, "blk.1.attn_v.weight")->data);
        CU_ASSERT_PTR_EQUAL(l->ffn_norm.w,
                            aq_model_file_tensor_find(m.file, "blk.1.ffn_norm.weight")->data);
        /* two tables, three norms of two layers and one more, and the matrices, in fp32 */
        CU_ASSERT_EQUAL(w->bytes, 4 * (2 * 288 * 64 + 5 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64) +
                                       2 * 3 * 128 * 64));
    }
    close_model(&m);
}

static void test_tied_and_divisors(void) {
    aq_tiny_model shape = aq_tiny_model_default();
    model m;
    shape.tied = true;
    shape.rope_divisors = true;
    if (aq_test_ok(open_shape(&shape, &m))) {
        CU_ASSERT_PTR_EQUAL(m.weights.output.data, m.weights.embed.data);
        CU_ASSERT_PTR_NOT_NULL_FATAL(m.weights.rope_divisors);
        CU_ASSERT_EQUAL(m.weights.rope_divisors[0], 1.0f);
        CU_ASSERT_EQUAL(m.weights.rope_divisors[4], 4.5f);
    }
    close_model(&m);
}

/* Where row j of a head must come from. The planted bugs: rows not moved, moved the wrong way
 * round, and moved over the whole matrix instead of each head. */
typedef enum { RIGHT, NOT_MOVED, OTHER_WAY, ACROSS_HEADS } rule;

static int64_t source_row(rule r, int64_t row, int64_t n_row, int64_t d_head) {
    const int64_t head = row / d_head * d_head, j = row % d_head, half = d_head / 2;
    switch (r) {
    case RIGHT:
        return head + (j < half ? 2 * j : 2 * (j - half) + 1);
    case OTHER_WAY:
        return head + (j % 2 == 0 ? j / 2 : half + j / 2);
    case ACROSS_HEADS:
        return row < n_row / 2 ? 2 * row : 2 * (row - n_row / 2) + 1;
    default:
        return row;
    }
}

static int64_t rows_against(rule r, const aq_weight *w, const aq_tensor *t, int64_t d_head) {
    const int64_t bytes = aq_dtype_row_bytes(w->dtype, w->n_in);
    int64_t n_wrong = 0;
    for (int64_t row = 0; row < w->n_out; row++)
        n_wrong += memcmp((const uint8_t *)w->data + row * bytes,
                          (const uint8_t *)t->data + source_row(r, row, w->n_out, d_head) * bytes,
                          (size_t)bytes) != 0;
    return n_wrong;
}

static void test_rows_are_moved(void) {
    static const aq_dtype dtypes[] = {AQ_F32, AQ_BF16, AQ_Q4_1, AQ_Q8_0, AQ_Q6_K};
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        aq_tiny_model shape = aq_tiny_model_default();
        model m;
        shape.d_model = 256;
        shape.d_head = 64;
        shape.attn_dtype = dtypes[i];
        if (aq_test_ok(open_shape(&shape, &m)))
            for (int layer = 0; layer < 2; layer++) {
                char q_name[64], k_name[64];
                snprintf(q_name, sizeof q_name, "blk.%d.attn_q.weight", layer);
                snprintf(k_name, sizeof k_name, "blk.%d.attn_k.weight", layer);
                const aq_weight *wq = &m.weights.layers[layer].wq;
                const aq_weight *wk = &m.weights.layers[layer].wk;
                const aq_tensor *q = aq_model_file_tensor_find(m.file, q_name);
                const aq_tensor *k = aq_model_file_tensor_find(m.file, k_name);
                CU_ASSERT_EQUAL(rows_against(RIGHT, wq, q, 64), 0);
                CU_ASSERT_EQUAL(rows_against(RIGHT, wk, k, 64), 0);
                for (rule bug = NOT_MOVED; bug <= ACROSS_HEADS; bug++) {
                    CU_ASSERT_TRUE(rows_against(bug, wq, q, 64) > 100);
                    CU_ASSERT_TRUE(rows_against(bug, wk, k, 64) > 50);
                }
            }
        close_model(&m);
    }
}

/* The default model with one tensor replaced (ne0 > 0) or left out. */
static aq_status open_changed(const char *name, uint32_t type, int64_t ne0, int64_t ne1,
                              const void *data, size_t bytes, model *m) {
    const aq_tiny_model shape = aq_tiny_model_default();
    aq_gguf_writer w = aq_gguf_writer_make();
    if (ne0 > 0) aq_gguf_put_tensor(&w, name, type, 2, (const int64_t[]){ne0, ne1}, data, bytes);
    w.skip = name;
    AQ_TRY(aq_tiny_model_put(&w, &shape));
    return open_writer(&w, m);
}

static void test_refused(void) {
    static const struct {
        const char *name;
        uint32_t type;
        int64_t ne0, ne1;
        aq_status code;
        const char *part;
    } cases[] = {
        {"token_embd.weight", AQ_F32, 0, 0, AQ_ERR_FORMAT, "tensor token_embd.weight is missing"},
        {"blk.1.ffn_down.weight", AQ_F32, 0, 0, AQ_ERR_FORMAT, "blk.1.ffn_down.weight is missing"},
        {"output_norm.weight", AQ_F32, 0, 0, AQ_ERR_FORMAT, "output_norm.weight is missing"},
        {"token_embd.weight", AQ_F32, 288, 64, AQ_ERR_FORMAT,
         "model.gguf: tensor token_embd.weight has shape [64, 288], expected [288, 64]"},
        {"output.weight", AQ_F32, 64, 287, AQ_ERR_FORMAT, "output.weight has shape [287, 64"},
        {"blk.0.attn_q.weight", AQ_F32, 64, 32, AQ_ERR_FORMAT, "expected [64, 64]"},
        {"blk.1.attn_k.weight", AQ_F32, 64, 64, AQ_ERR_FORMAT, "expected [32, 64]"},
        {"blk.0.attn_v.weight", AQ_F32, 32, 64, AQ_ERR_FORMAT, "expected [32, 64]"},
        {"blk.0.attn_output.weight", AQ_F32, 64, 63, AQ_ERR_FORMAT, "expected [64, 64]"},
        {"blk.0.ffn_gate.weight", AQ_F32, 128, 64, AQ_ERR_FORMAT, "expected [128, 64]"},
        {"blk.0.ffn_up.weight", AQ_F32, 128, 64, AQ_ERR_FORMAT, "expected [128, 64]"},
        {"blk.0.ffn_down.weight", AQ_F32, 64, 128, AQ_ERR_FORMAT, "expected [64, 128]"},
        {"blk.0.attn_norm.weight", AQ_F32, 65, 1, AQ_ERR_FORMAT, "expected [64]"},
        {"blk.0.ffn_norm.weight", AQ_Q8_0, 64, 1, AQ_ERR_UNSUPPORTED,
         "blk.0.ffn_norm.weight is Q8_0, expected F32"},
        {"rope_freqs.weight", AQ_F32, 16, 1, AQ_ERR_FORMAT, "expected [8]"},
        {"rope_freqs.weight", AQ_F32, 8, 1, AQ_ERR_FORMAT,
         "element 0 is 0, expected a finite number above 0"},
        {"blk.0.attn_q.bias", AQ_F32, 63, 1, AQ_ERR_FORMAT, "expected [64]"},
        {"output.bias", AQ_F32, 64, 1, AQ_ERR_UNSUPPORTED,
         "tensor output.bias: this bias is not supported in models of architecture llama"},
        {"blk.0.ffn_gate_inp.weight", AQ_F32, 64, 1, AQ_ERR_UNSUPPORTED,
         "tensor blk.0.ffn_gate_inp.weight: not known as a part of models of architecture llama"},
        {"blk.2.attn_norm.weight", AQ_F32, 64, 1, AQ_ERR_UNSUPPORTED, "tensor blk.2.attn_norm"},
    };
    static const uint8_t zeros[288 * 64 * 4];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int64_t n = cases[i].ne0 * cases[i].ne1;
        const size_t bytes = (size_t)aq_dtype_row_bytes((aq_dtype)cases[i].type, n);
        model m;
        aq_test_fails(open_changed(cases[i].name, cases[i].type, cases[i].ne0, cases[i].ne1, zeros,
                                   bytes, &m),
                      cases[i].code, cases[i].part);
        CU_ASSERT_PTR_NULL(m.weights.owned);
        close_model(&m);
    }
}

static void test_not_finite(void) {
    float values[64] = {0};
    model m;
    values[63] = INFINITY;
    aq_test_fails(open_changed("blk.1.ffn_norm.weight", AQ_F32, 64, 1, values, sizeof values, &m),
                  AQ_ERR_FORMAT, "blk.1.ffn_norm.weight: element 63 is inf");
    close_model(&m);
}

/* Norms in 16 bits are converted; other numbers of a norm are exact in both formats. */
static void test_half_norms(void) {
    static const float expected[] = {0.5f, -1.75f, 3.0f, 0.0078125f};
    static const uint16_t f16[] = {0x3800, 0xbf00, 0x4200, 0x2000};
    uint16_t values[64];
    for (int dtype = 0; dtype < 2; dtype++) {
        model m;
        for (int i = 0; i < 64; i++)
            values[i] = dtype == 0 ? f16[i % 4] : aq_f32_to_bf16(expected[i % 4]);
        if (aq_test_ok(open_changed("blk.0.attn_norm.weight", dtype == 0 ? AQ_F16 : AQ_BF16, 64, 1,
                                    values, sizeof values, &m))) {
            int n_wrong = 0;
            for (int i = 0; i < 64; i++)
                n_wrong += m.weights.layers[0].attn_norm.w[i] != expected[i % 4];
            CU_ASSERT_EQUAL(n_wrong, 0);
        }
        close_model(&m);
    }
}

/* The reference models of tests/data/hf open as what they are. */
static void test_fixtures(void) {
    static const char *const names[] = {"llama", "llama3_rope", "llama_linear", "llama_yarn",
                                        "llama_mha_hd24"};
    for (int i = 0; i < 5; i++) {
        char path[1024];
        model m = {0};
        snprintf(path, sizeof path, "%s/hf/%s/model.gguf", aq_test_data_dir(), names[i]);
        if (aq_test_ok(aq_model_file_open(path, &m.file)) &&
            aq_test_ok(aq_model_config_read(m.file, &m.config)) &&
            aq_test_ok(aq_model_weights_open(m.file, &m.config, &m.weights))) {
            CU_ASSERT_EQUAL(m.config.d_head, i == 4 ? 24 : 16);
            CU_ASSERT_EQUAL(m.config.n_kv_head, i == 4 ? 4 : 2);
            CU_ASSERT_EQUAL(m.weights.rope_divisors != NULL, i == 1);
            CU_ASSERT_EQUAL(m.config.rope.scaling, i == 2   ? AQ_ROPE_LINEAR
                                                   : i == 3 ? AQ_ROPE_YARN
                                                            : AQ_ROPE_NONE);
        }
        close_model(&m);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "shapes", test_shapes);
    CU_add_test(suite, "tied output and rope divisors", test_tied_and_divisors);
    CU_add_test(suite, "rows are moved", test_rows_are_moved);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "not finite", test_not_finite);
    CU_add_test(suite, "norms in 16 bits", test_half_norms);
    CU_add_test(suite, "fixtures", test_fixtures);
}
