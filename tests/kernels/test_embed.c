/* Embedding rows: exact, for every type and shape; scaled, and added to what is there. */
#include "kernels/embed.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define N_VOCAB   37
#define MAX_MODEL 1536
#define MAX_TOK   129

typedef struct {
    aq_dtype dtype;
    int64_t d_model, n_tok;
    uint8_t *table;
    int32_t ids[MAX_TOK];
} embed_case;

/* Elements that are not scale * row + before. A product and a sum of two floats, rounded to double
 * and then to float, are those rounded to float at once: double has more than twice its bits. */
static int64_t n_wrong(const embed_case *c, float scale, float before, const float *y) {
    const int64_t row_bytes = aq_dtype_row_bytes(c->dtype, c->d_model);
    int64_t wrong = 0;
    for (int64_t t = 0; t < c->n_tok; t++)
        for (int64_t i = 0; i < c->d_model; i++) {
            const uint8_t *row = c->table + c->ids[t] * row_bytes;
            const float value = (float)aq_ref_weight(c->dtype, row, i);
            const float scaled = (float)((double)scale * (double)value);
            wrong += y[t * c->d_model + i] != (float)((double)scaled + (double)before);
        }
    return wrong;
}

/* The rows on the host, to be freed. */
static float *embedded(const aq_test_backend *on, const embed_case *c, const aq_embed_args *args) {
    on->be->ops->embed(on->be, args);
    return aq_test_got(on, args->out, (size_t)(c->n_tok * c->d_model) * sizeof(float));
}

static void check_scaled(const aq_test_backend *on, const embed_case *c, aq_embed_args args) {
    args.scale = 24.0833f;
    float *scaled = embedded(on, c, &args);
    CU_ASSERT_EQUAL(n_wrong(c, args.scale, 0.0f, scaled), 0);
    CU_ASSERT(n_wrong(c, 1.0f, 0.0f, scaled) > 0); /* planted: scale left out */
    const float before = 0.375f;
    for (int64_t i = 0; i < c->n_tok * c->d_model; i++)
        scaled[i] = before;
    on->be->ops->upload(on->be, args.out, scaled, (size_t)(c->n_tok * c->d_model) * sizeof *scaled);
    args.accumulate = true;
    float *added = embedded(on, c, &args);
    CU_ASSERT_EQUAL(n_wrong(c, args.scale, before, added), 0);
    CU_ASSERT(n_wrong(c, args.scale, 0.0f, added) > 0); /* planted: overwritten */
    free(scaled);
    free(added);
}

static void contract(const aq_test_backend *on, void *arg) {
    const embed_case *c = arg;
    const size_t table_bytes = (size_t)(N_VOCAB * aq_dtype_row_bytes(c->dtype, c->d_model));
    const size_t id_bytes = (size_t)c->n_tok * sizeof(int32_t);
    void *table = aq_test_put(on, c->table, table_bytes);
    int32_t *ids = aq_test_put(on, c->ids, id_bytes);
    float *out = aq_test_alloc(on->be, (size_t)(c->n_tok * c->d_model) * sizeof *out);
    const aq_embed_args args = {table, c->dtype, c->d_model, c->n_tok, ids, 1.0f, out, false};
    float *right = embedded(on, c, &args);
    CU_ASSERT_EQUAL(n_wrong(c, 1.0f, 0.0f, right), 0);
    check_scaled(on, c, args);
    int32_t wrong_ids[MAX_TOK];
    memcpy(wrong_ids, c->ids, sizeof wrong_ids); /* planted: the last id is off by one */
    wrong_ids[c->n_tok - 1] = (wrong_ids[c->n_tok - 1] + 1) % N_VOCAB;
    on->be->ops->upload(on->be, ids, wrong_ids, id_bytes);
    float *wrong = embedded(on, c, &args);
    CU_ASSERT(n_wrong(c, 1.0f, 0.0f, wrong) > 0);
    free(right);
    free(wrong);
    aq_test_free(on, table);
    aq_test_free(on, ids);
    aq_test_free(on, out);
}

static void test_embed(void) {
    static const int64_t n_toks[] = {1, 2, 3, 5, 16, 17, 64, MAX_TOK};
    embed_case c = {.table = malloc(N_VOCAB * MAX_MODEL * 4)};
    if (!c.table) exit(1);
    for (int d = 0; d < AQ_TEST_DTYPES; d++) {
        c.dtype = aq_test_dtypes[d];
        const int64_t elems = aq_dtype_find((uint32_t)c.dtype)->block_elems;
        const int64_t widths[] = {elems == 1 ? 45 : elems, MAX_MODEL};
        for (int s = 0; s < 2; s++) {
            c.d_model = widths[s];
            aq_fill_weight(21, c.dtype, N_VOCAB, c.d_model, c.table);
            for (size_t n = 0; n < sizeof n_toks / sizeof n_toks[0]; n++) {
                c.n_tok = n_toks[n];
                for (int t = 0; t < MAX_TOK; t++) /* both ends, repeats, no order */
                    c.ids[t] = t % 5 == 0 ? N_VOCAB - 1 : t * 7 % N_VOCAB;
                aq_each_backend(contract, &c);
            }
        }
    }
    free(c.table);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "embed", test_embed);
}
