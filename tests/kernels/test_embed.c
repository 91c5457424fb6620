/* Embedding rows: exact, for every type and shape. */
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

static int64_t n_wrong(const embed_case *c, const float *y) {
    const int64_t row_bytes = aq_dtype_row_bytes(c->dtype, c->d_model);
    int64_t wrong = 0;
    for (int64_t t = 0; t < c->n_tok; t++)
        for (int64_t i = 0; i < c->d_model; i++)
            wrong += y[t * c->d_model + i] !=
                     (float)aq_ref_weight(c->dtype, c->table + c->ids[t] * row_bytes, i);
    return wrong;
}

static void contract(const aq_test_backend *on, void *arg) {
    const embed_case *c = arg;
    const size_t table_bytes = (size_t)(N_VOCAB * aq_dtype_row_bytes(c->dtype, c->d_model));
    void *table = aq_test_alloc(on->be, table_bytes);
    int32_t *ids = aq_test_alloc(on->be, (size_t)c->n_tok * sizeof *ids);
    float *out = aq_test_alloc(on->be, (size_t)(c->n_tok * c->d_model) * sizeof *out);
    memcpy(table, c->table, table_bytes);
    memcpy(ids, c->ids, (size_t)c->n_tok * sizeof *ids);
    const aq_embed_args args = {table, c->dtype, c->d_model, c->n_tok, ids, out};
    on->be->ops->embed(on->be, &args);
    CU_ASSERT_EQUAL(n_wrong(c, out), 0);
    ids[c->n_tok - 1] = (ids[c->n_tok - 1] + 1) % N_VOCAB; /* planted: the last id is off by one */
    on->be->ops->embed(on->be, &args);
    CU_ASSERT(n_wrong(c, out) > 0);
    on->be->ops->release(on->be, table);
    on->be->ops->release(on->be, ids);
    on->be->ops->release(on->be, out);
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
