/* Packed rows: word for word as the header says, and back; all columns and some, fp32 and bf16. */
#include "kernels/packed_rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

typedef enum { NO_BUG, TRUNCATED, BIT_REVERSED, EXACT_ROUNDED, BUGS } planted_bug;

/* bf16 in double precision: 8 significant bits, ties to the even one; infinite from 2^128 on. */
static double rounded(float x, planted_bug bug) {
    int exponent;
    if (x == 0 || !isfinite(x)) return (double)x;
    frexp((double)x, &exponent);
    const double unit = ldexp(1, (exponent < -125 ? -125 : exponent) - 8);
    const double y = bug == TRUNCATED ? trunc((double)x / unit) : rint((double)x / unit);
    return fabs(y * unit) < ldexp(1, 128) ? y * unit : copysign(INFINITY, (double)x);
}

/* The upper half of the bits of a number that is a bf16. */
static uint32_t half_of(double x) {
    const float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits >> 16;
}

static uint32_t word_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

typedef struct {
    aq_row_form form;
    int64_t n_row;
    float *x;
    int16_t *dims; /* NULL: all */
    int64_t n_rejected[BUGS];
} rows_case;

/* One row as the header says; returns its words. */
static int64_t reference(const rows_case *c, int64_t r, planted_bug bug, uint32_t *row) {
    const aq_row_form *f = &c->form;
    const float *x = c->x + r * (f->n_col + f->n_exact);
    int64_t n = 0;
    for (int i = 0; i < f->n_exact; i++) {
        const float exact = x[f->n_col + i];
        row[n++] = word_of(bug == EXACT_ROUNDED ? (float)rounded(exact, NO_BUG) : exact);
    }
    for (int w = 0; c->dims && w < f->n_col; w += 32) {
        row[n] = 0;
        for (int j = 0; j < f->n_dim; j++) {
            const int bit = c->dims[r * f->n_dim + j] - w;
            if (bit >= 0 && bit < 32) row[n] |= 1u << (bug == BIT_REVERSED ? 31 - bit : bit);
        }
        n++;
    }
    for (int j = 0; j < f->n_dim; j++) {
        const float value = x[c->dims ? c->dims[r * f->n_dim + j] : j];
        if (!f->bf16)
            row[n++] = word_of(value);
        else if (j % 2 == 0)
            row[n++] = half_of(rounded(value, bug));
        else
            row[n - 1] |= half_of(rounded(value, bug)) << 16;
    }
    return n;
}

/* Rows that are not those of the reference. */
static int64_t count_wrong(const rows_case *c, const uint32_t *packed, planted_bug bug) {
    uint32_t row[1200];
    int64_t wrong = 0;
    for (int64_t r = 0; r < c->n_row; r++) {
        const int64_t n = reference(c, r, bug, row);
        CU_ASSERT_EQUAL(n, aq_row_words(&c->form));
        wrong += memcmp(packed + r * n, row, (size_t)n * sizeof *row) != 0;
    }
    return wrong;
}

/* Numbers that are not what was sent of them, 0 where nothing was. */
static int64_t count_lost(const rows_case *c, const float *x) {
    const aq_row_form *f = &c->form;
    const int width = f->n_col + f->n_exact;
    int64_t lost = 0;
    for (int64_t r = 0; r < c->n_row; r++) {
        const float *from = c->x + r * width, *to = x + r * width;
        for (int i = 0, j = 0; i < width; i++) {
            const bool sent =
                !c->dims || i >= f->n_col || (j < f->n_dim && c->dims[r * f->n_dim + j] == i);
            const bool rounds = f->bf16 && i < f->n_col;
            const double expected = !sent ? 0 : rounds ? rounded(from[i], NO_BUG) : (double)from[i];
            lost += (double)to[i] != expected;
            j += sent && i < f->n_col;
        }
    }
    return lost;
}

/* Memory of the backend full of ones: every bit must be written. */
static void *dirty(const aq_test_backend *on, size_t bytes) {
    void *host = malloc(bytes + 1);
    if (!host) exit(1);
    void *there = aq_test_put(on, memset(host, 0xff, bytes + 1), bytes);
    free(host);
    return there;
}

static void contract(const aq_test_backend *on, void *arg) {
    rows_case *c = arg;
    const aq_row_form *f = &c->form;
    const size_t x_bytes = (size_t)(c->n_row * (f->n_col + f->n_exact)) * sizeof *c->x;
    const size_t dims_bytes = (size_t)(c->n_row * f->n_dim) * sizeof *c->dims;
    const size_t packed_bytes = (size_t)(c->n_row * aq_row_words(f)) * sizeof(uint32_t);
    float *x = aq_test_put(on, c->x, x_bytes), *back = dirty(on, x_bytes);
    int16_t *dims = c->dims ? aq_test_put(on, c->dims, dims_bytes) : NULL;
    int16_t *dims_back = c->dims ? dirty(on, dims_bytes) : NULL;
    uint32_t *packed = dirty(on, packed_bytes);
    on->be->ops->pack_rows(on->be, &(aq_pack_rows_args){*f, x, dims, c->n_row, packed});
    on->be->ops->unpack_rows(on->be, &(aq_unpack_rows_args){*f, packed, c->n_row, back, dims_back});
    uint32_t *words = aq_test_got(on, packed, packed_bytes);
    float *numbers = aq_test_got(on, back, x_bytes);
    for (int bug = 0; bug < BUGS; bug++)
        c->n_rejected[bug] += count_wrong(c, words, (planted_bug)bug);
    CU_ASSERT_EQUAL(count_lost(c, numbers), 0);
    if (c->dims) {
        int16_t *found = aq_test_got(on, dims_back, dims_bytes);
        CU_ASSERT_EQUAL(memcmp(found, c->dims, dims_bytes), 0);
        free(found);
        aq_test_free(on, dims);
        aq_test_free(on, dims_back);
    }
    free(words);
    free(numbers);
    aq_test_free(on, x);
    aq_test_free(on, back);
    aq_test_free(on, packed);
}

/* Normal numbers, and what rounding must not get wrong: ties, what grows by a power of 2, what
 * becomes infinite, the least, both zeros, and what softmax leaves of a shard that sees nothing. */
static void fill(int64_t n, float *x) {
    static const float awkward[] = {1.00390625f,    1.01171875f,   -1.99999988f, 3.4e38f,
                                    1e-45f,         0.0f,          -0.0f,        -INFINITY,
                                    1.1754942e-38f, -3.4028235e38f};
    aq_fill_normal(5, n, 1.0f, x);
    for (int64_t i = 0; i < n; i += 7)
        x[i] = awkward[i / 7 % 10];
}

/* n_dim columns of each row, rising, of all that there are. */
static void choose(const aq_row_form *f, int64_t n_row, int16_t *dims) {
    aq_rng rng = {11};
    for (int64_t r = 0; r < n_row; r++)
        for (int i = 0, n = 0; n < f->n_dim; i++)
            if (aq_rng_uniform(&rng) * (f->n_col - i) < f->n_dim - n)
                dims[r * f->n_dim + n++] = (int16_t)i;
}

static void check_form(const aq_row_form *form, int64_t n_row, int64_t n_rejected[BUGS]) {
    const int64_t n_number = n_row * (form->n_col + form->n_exact);
    rows_case c = {.form = *form, .n_row = n_row, .x = malloc((size_t)n_number * 4 + 1)};
    if (form->n_dim < form->n_col)
        c.dims = malloc((size_t)(n_row * form->n_dim) * sizeof *c.dims + 1);
    if (!c.x || (form->n_dim < form->n_col && !c.dims)) exit(1);
    fill(n_number, c.x);
    if (c.dims) choose(form, n_row, c.dims);
    aq_each_backend(contract, &c);
    for (int bug = 0; bug < BUGS; bug++)
        n_rejected[bug] += c.n_rejected[bug];
    free(c.x);
    free(c.dims);
}

static void rows_are_packed_and_back(void) {
    static const int shapes[][3] = {{1, 1, 0},    {64, 64, 2},   {64, 48, 0},   {64, 32, 2},
                                    {16, 15, 0},  {33, 33, 1},   {33, 1, 3},    {80, 79, 0},
                                    {128, 96, 0}, {256, 128, 2}, {1024, 513, 2}};
    static const int64_t n_rows[] = {0, 1, 5, 301};
    int64_t n_rejected[BUGS] = {0};
    for (int s = 0; s < 11; s++)
        for (int n = 0; n < 4; n++)
            for (int bf16 = 0; bf16 < 2; bf16++)
                check_form(&(aq_row_form){shapes[s][0], shapes[s][1], shapes[s][2], bf16 == 1},
                           n_rows[n], n_rejected);
    CU_ASSERT_EQUAL(n_rejected[NO_BUG], 0);
    for (int bug = 1; bug < BUGS; bug++)
        CU_ASSERT_TRUE(n_rejected[bug] > 0);
}

/* What travels for a query of 64 columns: less than all of them up to 61. */
static void a_mask_is_short(void) {
    const struct {
        aq_row_form form;
        int64_t n_word;
    } known[] = {{{64, 64, 0, false}, 64}, {{64, 48, 0, false}, 50}, {{64, 32, 0, false}, 34},
                 {{64, 64, 2, true}, 34},  {{64, 48, 0, true}, 26},  {{33, 5, 1, true}, 6}};
    for (int i = 0; i < 6; i++)
        CU_ASSERT_EQUAL(aq_row_words(&known[i].form), known[i].n_word);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "rows are packed and back", rows_are_packed_and_back);
    CU_add_test(suite, "a mask is short", a_mask_is_short);
}
