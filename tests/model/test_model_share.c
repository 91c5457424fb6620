/* Rows of matrices shared out over ranks: they cover each matrix once, and what is given back is
 * what others keep. */
#include "src/model/model_share.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/resident.h"
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

/* A copy of all tensors of the file; reading them maps every page. */
static uint8_t *read_tensors(const aq_model_file *file) {
    size_t bytes = 0, at = 0;
    for (int64_t i = 0; i < aq_model_file_tensor_count(file); i++)
        bytes += (size_t)aq_model_file_tensor_at(file, i)->bytes;
    uint8_t *copy = malloc(bytes);
    for (int64_t i = 0; copy && i < aq_model_file_tensor_count(file); i++) {
        const aq_tensor *tensor = aq_model_file_tensor_at(file, i);
        memcpy(copy + at, tensor->data, (size_t)tensor->bytes);
        at += (size_t)tensor->bytes;
    }
    return copy;
}

/* Q is moved, so it lies in memory of its own. */
static void moved_rows_are_dropped(void) {
    model m;
    if (aq_test_ok(open_model(&m))) {
        const aq_share share = {2, 1};
        const aq_weight *q = &m.weights.layers[0].wq;
        const int64_t half = q->n_out / 2;
        const int64_t other = count_filled(q, 0, half), mine = count_filled(q, half, q->n_out);
        const int64_t page_rows = 2 * 4096 / aq_dtype_row_bytes(q->dtype, q->n_in);
        CU_ASSERT_TRUE(other > 100000 && mine > 100000);
        aq_model_share_drop(m.file, &m.weights, &m.config, share);
        CU_ASSERT_EQUAL(count_filled(q, half, q->n_out), mine);
        CU_ASSERT_EQUAL(count_filled(q, page_rows, half - page_rows), 0);
    }
    close_model(&m);
}

/* Of rows [begin, end) of a matrix in the map, that all whole pages are there, or none. */
static void check_pages(const aq_weight *w, int64_t begin, int64_t end, bool there) {
    const int64_t row_bytes = aq_dtype_row_bytes(w->dtype, w->n_in);
    const uint8_t *data = w->data;
    int64_t whole = 0;
    const int64_t n = aq_test_resident(data + begin * row_bytes, (end - begin) * row_bytes, &whole);
    CU_ASSERT_TRUE(whole > 0);
    CU_ASSERT_EQUAL(n, there ? whole : 0);
}

/* All of the file is mapped page by page: what this rank keeps stays so, what others keep goes, and
 * so does what was moved from its place. Whatever is read again has the bits that it had. */
static void pages_of_others_go(void) {
    model m;
    if (aq_test_resident("", 0, NULL) < 0) {
        aq_test_skip("this system does not tell which pages are there");
        return;
    }
    if (aq_test_ok(open_model(&m))) {
        aq_model_share_drop(m.file, &m.weights, &m.config, (aq_share){3, 1});
        uint8_t *before = read_tensors(m.file);
        const aq_tensor *q = aq_model_file_tensor_find(m.file, "blk.0.attn_q.weight");
        aq_model_share_trim(m.file, &m.weights, &m.config, (aq_share){3, 1});
        for (int i = 0; i < m.config.n_layer; i++) {
            const aq_weight *of_layer[] = {&m.weights.layers[i].wv, &m.weights.layers[i].wo,
                                           &m.weights.layers[i].ffn.w_down};
            for (int j = 0; j < 3; j++) {
                const int64_t n_out = of_layer[j]->n_out, first = aq_share_first(n_out, 3, 1);
                const int64_t end = aq_share_first(n_out, 3, 2);
                check_pages(of_layer[j], 0, first, false);
                check_pages(of_layer[j], first, end, true);
                check_pages(of_layer[j], end, n_out, false);
            }
        }
        check_pages(&m.weights.embed, 0, m.weights.embed.n_out, true);
        CU_ASSERT_EQUAL(aq_test_resident(q->data, q->bytes, NULL), 0);
        uint8_t *after = read_tensors(m.file);
        size_t bytes = 0;
        for (int64_t i = 0; i < aq_model_file_tensor_count(m.file); i++)
            bytes += (size_t)aq_model_file_tensor_at(m.file, i)->bytes;
        CU_ASSERT_TRUE(before && after && memcmp(before, after, bytes) == 0);
        free(before);
        free(after);
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
        CU_ASSERT_TRUE(all.kept == cut + whole && half.kept == cut / 2 + whole);
        m.weights.output = m.weights.embed; /* tied: the output's half is in the embedding */
        m.weights.bytes -= 4 * 288 * 256;
        const aq_share_bytes tied = aq_model_share_bytes(&m.weights, &m.config, (aq_share){2, 1});
        CU_ASSERT_TRUE(tied.cut == cut / 2 && tied.whole == whole);
        CU_ASSERT_EQUAL(tied.kept, cut / 2 + whole - 4 * 144 * 256);
    }
    close_model(&m);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "rows are shared out once", rows_are_shared_out_once);
    CU_add_test(suite, "shares follow each other", shares_follow_each_other);
    CU_add_test(suite, "moved rows are dropped", moved_rows_are_dropped);
    CU_add_test(suite, "pages of others go", pages_of_others_go);
    CU_add_test(suite, "bytes are counted", bytes_are_counted);
}
