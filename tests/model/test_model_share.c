/* Rows of matrices shared out over ranks: they cover each matrix once, and what is dropped is what
 * nobody keeps. */
#include "src/model/model_share.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/suite.h"
#include "tests/support/tiny_model.h"

typedef struct {
    aq_model_file *file;
    aq_model_config config;
    aq_model_weights weights;
} model;

static aq_status open_model(model *m) {
    char path[512];
    aq_tiny_model shape = aq_tiny_model_default();
    shape.d_model = 256; /* matrices of many pages */
    shape.d_head = 64;
    shape.d_ff = 300;
    memset(m, 0, sizeof *m);
    snprintf(path, sizeof path, "%s/model.gguf", aq_test_temp_dir());
    AQ_TRY(aq_tiny_model_write(path, &shape));
    AQ_TRY(aq_model_file_open(path, &m->file));
    AQ_TRY(aq_model_config_read(m->file, &m->config));
    return aq_model_weights_open(m->file, &m->config, &m->weights);
}

static void close_model(model *m) {
    aq_model_weights_close(&m->weights);
    aq_model_file_close(m->file);
}

static void rows_are_shared_out_once(void) {
    for (int n = 1; n <= 8; n++)
        for (int64_t n_out = n; n_out < 40; n_out++) {
            CU_ASSERT_EQUAL(aq_share_first(n_out, n, 0), 0);
            CU_ASSERT_EQUAL(aq_share_first(n_out, n, n), n_out);
            for (int r = 0; r < n; r++) {
                const int64_t rows = aq_share_first(n_out, n, r + 1) - aq_share_first(n_out, n, r);
                CU_ASSERT_TRUE(rows >= n_out / n && rows <= (n_out + n - 1) / n);
            }
        }
}

/* The matrices of one rank's share lie one behind the other's. */
static void shares_follow_each_other(void) {
    model m;
    if (aq_test_ok(open_model(&m))) {
        const char *next = m.weights.layers[1].ffn.w_down.data;
        int64_t n_row = 0;
        for (int r = 0; r < 3; r++) {
            aq_model_weights mine;
            if (aq_test_ok(aq_model_share_open(&m.weights, &m.config, (aq_share){3, r}, &mine))) {
                const aq_weight *down = &mine.layers[1].ffn.w_down;
                CU_ASSERT_PTR_EQUAL(down->data, next);
                next += down->n_out * aq_dtype_row_bytes(down->dtype, down->n_in);
                n_row += down->n_out;
                CU_ASSERT_PTR_EQUAL(mine.embed.data, m.weights.embed.data);
                CU_ASSERT_PTR_EQUAL(mine.layers[0].attn_norm.w, m.weights.layers[0].attn_norm.w);
            }
            aq_model_share_close(&mine, &m.config);
        }
        CU_ASSERT_EQUAL(n_row, 256);
    }
    close_model(&m);
}

/* Bytes of rows [begin, end) of a matrix that are not zero. */
static int64_t count_filled(const aq_weight *w, int64_t begin, int64_t end) {
    const int64_t row_bytes = aq_dtype_row_bytes(w->dtype, w->n_in);
    const uint8_t *data = w->data;
    int64_t n = 0;
    for (int64_t i = begin * row_bytes; i < end * row_bytes; i++)
        n += data[i] != 0;
    return n;
}

/* Q is moved, so it lies in memory of its own; V lies in the file. */
static void what_is_not_kept_is_dropped(void) {
    model m;
    if (aq_test_ok(open_model(&m))) {
        const aq_share share = {2, 1};
        const aq_weight *q = &m.weights.layers[0].wq, *v = &m.weights.layers[0].wv;
        const int64_t half = q->n_out / 2;
        const int64_t other = count_filled(q, 0, half), mine = count_filled(q, half, q->n_out);
        const int64_t whole = count_filled(v, 0, v->n_out);
        const int64_t page_rows = 2 * 4096 / aq_dtype_row_bytes(q->dtype, q->n_in);
        CU_ASSERT_TRUE(other > 100000 && mine > 100000);
        aq_model_share_drop(m.file, &m.weights, &m.config, share);
        CU_ASSERT_EQUAL(count_filled(q, half, q->n_out), mine);
        CU_ASSERT_EQUAL(count_filled(q, page_rows, half - page_rows), 0);
        CU_ASSERT_EQUAL(count_filled(v, 0, v->n_out), whole);
    }
    close_model(&m);
}

static void bytes_are_counted(void) {
    model m;
    if (aq_test_ok(open_model(&m))) {
        /* fp32; embedding and five norms are whole. */
        const int64_t layer = 256 * 256 * 2 + 128 * 256 * 2 + 3 * 256 * 300;
        const int64_t cut = 4 * (288 * 256 + 2 * layer), whole = 4 * (288 * 256 + 5 * 256);
        const aq_share_bytes all = aq_model_share_bytes(&m.weights, &m.config, (aq_share){1, 0});
        const aq_share_bytes half = aq_model_share_bytes(&m.weights, &m.config, (aq_share){2, 1});
        CU_ASSERT_TRUE(all.cut == cut && all.whole == whole);
        CU_ASSERT_TRUE(half.cut == cut / 2 && half.whole == whole);
    }
    close_model(&m);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "rows are shared out once", rows_are_shared_out_once);
    CU_add_test(suite, "shares follow each other", shares_follow_each_other);
    CU_add_test(suite, "what is not kept is dropped", what_is_not_kept_is_dropped);
    CU_add_test(suite, "bytes are counted", bytes_are_counted);
}
