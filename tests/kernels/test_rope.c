/* Rotary embedding: the table to far positions, the rotation, and what it must not touch. */
#include "kernels/rope.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_TOK  129
#define MAX_HEAD 9
#define MAX_D    256

typedef struct {
    int64_t n_tok;
    int n_head, d_head, n_rot;
    float scale;
    int64_t pos[MAX_TOK];
    float inv_freq[MAX_D / 2];
    float *x;
    aq_bound table, rotated, bug_angle, bug_pairs, bug_sign;
} rope_case;

/* A sine of the C library is within one unit (2 eps), the scale rounds once more. */
static void compare_table(rope_case *c, const float *table) {
    for (int64_t t = 0; t < c->n_tok; t++)
        for (int i = 0; i < c->n_rot / 2; i++) {
            const float angle = (float)c->pos[t] * c->inv_freq[i];
            const float *got = table + (t * (c->n_rot / 2) + i) * 2;
            const double ref_cos = c->scale * cos((double)angle);
            const double ref_sin = c->scale * sin((double)angle);
            aq_bound_element(&c->table, got[0], ref_cos, 4, 0);
            aq_bound_element(&c->table, got[1], ref_sin, 4, 0);
            const double exact = (double)c->pos[t] * c->inv_freq[i]; /* planted: not in fp32 */
            aq_bound_element(&c->bug_angle, (float)(c->scale * cos(exact)), ref_cos, 4, 0);
        }
}

/* What element i of a head becomes, and the sum of the absolute values of its terms. `sign` is that
 * of the sine: a planted bug turns it. */
static double reference(const rope_case *c, const float *x, const float *table, int i, int sign,
                        double *sum_abs) {
    const int half = c->n_rot / 2, k = i % half;
    const double a = x[k], b = x[k + half], cosine = table[2 * k], sine = sign * table[2 * k + 1];
    const double first = i < half ? a * cosine : b * cosine;
    const double second = i < half ? -b * sine : a * sine;
    *sum_abs = fabs(first) + fabs(second);
    return first + second;
}

static void compare_heads(rope_case *c, const float *table, const float *y) {
    for (int64_t h = 0; h < c->n_tok * c->n_head; h++) {
        const float *x = c->x + h * c->d_head, *got = y + h * c->d_head;
        const float *row = table + h / c->n_head * c->n_rot;
        double sum_abs, other_abs;
        for (int i = 0; i < c->n_rot; i++) {
            const double ref = reference(c, x, row, i, 1, &sum_abs);
            const double flipped = reference(c, x, row, i, -1, &other_abs);
            const int beside = i < c->n_rot / 2 ? 2 * i : 2 * (i - c->n_rot / 2) + 1;
            aq_bound_reduction(&c->rotated, got[i], ref, 2, sum_abs);
            aq_bound_reduction(&c->bug_sign, (float)flipped, ref, 2, sum_abs);
            aq_bound_reduction(&c->bug_pairs, got[beside], ref, 2, sum_abs);
        }
        CU_ASSERT_EQUAL(
            memcmp(got + c->n_rot, x + c->n_rot, (size_t)(c->d_head - c->n_rot) * sizeof *x), 0);
    }
}

static void contract(const aq_test_backend *on, void *arg) {
    rope_case *c = arg;
    const size_t x_bytes = (size_t)(c->n_tok * c->n_head * c->d_head) * sizeof(float);
    const size_t table_bytes = (size_t)(c->n_tok * c->n_rot) * sizeof(float);
    int64_t *pos = aq_test_put(on, c->pos, (size_t)c->n_tok * sizeof *pos);
    float *inv_freq = aq_test_put(on, c->inv_freq, (size_t)c->n_rot / 2 * sizeof *inv_freq);
    float *table = aq_test_alloc(on->be, table_bytes), *x = aq_test_put(on, c->x, x_bytes);
    const aq_rope_table_args make = {pos, inv_freq, c->scale, c->n_tok, c->n_rot, table};
    on->be->ops->rope_table(on->be, &make);
    const aq_rope_args turn = {table, c->n_tok, c->n_head, c->d_head, c->n_rot, x};
    on->be->ops->rope(on->be, &turn);
    float *made = aq_test_got(on, table, table_bytes), *turned = aq_test_got(on, x, x_bytes);
    compare_table(c, made);
    compare_heads(c, made, turned);
    free(made);
    free(turned);
    aq_test_free(on, pos);
    aq_test_free(on, inv_freq);
    aq_test_free(on, table);
    aq_test_free(on, x);
}

static void test_rope(void) {
    static const int64_t n_toks[] = {1, 2, 3, 5, 16, 17, 64, MAX_TOK};
    static const int shapes[][3] = {/* n_head, d_head, n_rot */
                                    {1, 2, 2},   {9, 64, 64},  {3, 80, 20},
                                    {3, 96, 48}, {5, 128, 64}, {2, 256, 256}};
    rope_case c = {.x = malloc(MAX_TOK * MAX_HEAD * MAX_D * sizeof(float))};
    if (!c.x) exit(1);
    for (int s = 0; s < 6; s++)
        for (int n = 0; n < 8; n++) {
            c.n_head = shapes[s][0];
            c.d_head = shapes[s][1];
            c.n_rot = shapes[s][2];
            c.n_tok = n_toks[n];
            c.scale = n % 2 ? 1.0f : 1.1386f;
            for (int64_t t = 0; t < c.n_tok; t++) /* not in order, up to 2^24 and a million */
                c.pos[t] = t == 3 ? 16777217 : t * 7919 % 1000003;
            for (int i = 0; i < c.n_rot / 2; i++)
                c.inv_freq[i] = (float)pow(10000.0, -2.0 * i / c.n_rot);
            aq_fill_normal(51, c.n_tok * c.n_head * c.d_head, 1.0f, c.x);
            aq_each_backend(contract, &c);
        }
    aq_bound_expect(&c.table, "rope_table");
    aq_bound_expect_rejects(&c.bug_angle, "angle in double precision");
    aq_bound_expect(&c.rotated, "rope");
    aq_bound_expect_rejects(&c.bug_pairs, "neighbours paired");
    aq_bound_expect_rejects(&c.bug_sign, "turned the other way");
    free(c.x);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "rope", test_rope);
}
