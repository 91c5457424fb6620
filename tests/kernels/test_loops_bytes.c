/* dot_bytes and mix_bytes: products with stored rows of bytes against their formulas in double
 * precision, on every instruction set. */
#include <math.h>
#include <string.h>

#include "kernels/cpu.h"
#include "src/base/rng.h"
#include "tests/support/oracle.h"
#include "tests/support/suite.h"

#define MAX_ROW  13
#define MAX_CODE 600
#define MAX_TOK  64

/* n_row rows of x or a meet n_token rows of n_code codes. */
typedef struct {
    int n_row, n_token, n_code;
} bytes_shape;

static const bytes_shape shapes[] = {
    {1, 64, 64}, {3, 64, 64},  {4, 64, 128}, {4, 64, 256}, {9, 17, 64}, {12, 1, 128}, {3, 5, 48},
    {2, 33, 19}, {13, 7, 100}, {5, 64, 600}, {1, 2, 1},    {3, 0, 64},  {6, 64, 80},  {2, 31, 192}};

#define N_SHAPE ((int)(sizeof shapes / sizeof shapes[0]))

typedef struct {
    uint8_t codes[MAX_TOK][MAX_CODE]; /* stored in no order, with gaps: rows tell where */
    const uint8_t *rows[MAX_TOK];
    float step[MAX_CODE], low[MAX_CODE]; /* of places or tokens */
    float x[MAX_ROW * MAX_CODE];
    float y[MAX_ROW * MAX_CODE], before[MAX_ROW * MAX_CODE];
    float keep[MAX_ROW];
} bytes_problem;

static void fill(bytes_problem *p, const bytes_shape *shape) {
    aq_rng rng = {(uint64_t)(shape->n_code * 100 + shape->n_token)};
    for (int j = 0; j < MAX_TOK; j++) {
        p->rows[j] = p->codes[j * 37 % MAX_TOK];
        for (int i = 0; i < MAX_CODE; i++)
            p->codes[j][i] = (uint8_t)(aq_rng_uniform(&rng) * 256.0);
    }
    for (int i = 0; i < MAX_CODE; i++) {
        p->step[i] = (float)(0.001 + 0.02 * aq_rng_uniform(&rng));
        p->low[i] = (float)(-2.0 * aq_rng_uniform(&rng));
    }
    for (int i = 0; i < MAX_ROW * MAX_CODE; i++) {
        p->x[i] = (float)aq_rng_normal(&rng);
        p->before[i] = (float)aq_rng_normal(&rng);
    }
    for (int r = 0; r < MAX_ROW; r++)
        p->keep[r] = (float)aq_rng_uniform(&rng);
}

/* What bytes add to the error: each folded factor, in its part of 256, is rounded to half of 2^-23
 * of the largest; errors of both signs add up as a walk does. */
static double rounding(const bytes_problem *p, const float *x, int n) {
    double sum = 0.0;
    for (int from = 0; from < n; from += 256) {
        double largest = 0.0;
        for (int i = from; i < n && i < from + 256; i++)
            largest = fmax(largest, fabs((double)x[i] * (double)p->step[i]));
        const int count = n - from < 256 ? n - from : 256;
        sum += 4.0 * sqrt(count) * ldexp(largest, 8 - 24);
    }
    return sum;
}

static void check_dots(const bytes_problem *p, const bytes_shape *shape, int wrong,
                       aq_bound *bound) {
    for (int r = 0; r < shape->n_row; r++)
        for (int j = 0; j < shape->n_token; j++) {
            double sum = 0.0, sum_abs = 0.0;
            const float *x = p->x + r * MAX_CODE;
            for (int i = 0; i < shape->n_code; i++) {
                const int at = wrong && i + 1 < shape->n_code ? i + 1 : i;
                const double scaled = (double)p->step[at] * (double)p->rows[j][i];
                sum += (double)x[i] * ((double)p->low[i] + scaled);
                sum_abs += fabs((double)x[i]) * (fabs((double)p->low[i]) + scaled);
            }
            const double allowed = 4.0 * sqrt(shape->n_code + 1.0) * ldexp(sum_abs, -24);
            aq_bound_element(bound, p->y[r * MAX_CODE + j], sum, 0.0,
                             allowed + rounding(p, x, shape->n_code));
        }
}

static void check_mix(const bytes_problem *p, const bytes_shape *shape, bool keep, int wrong,
                      aq_bound *bound) {
    for (int r = 0; r < shape->n_row; r++)
        for (int i = 0; i < shape->n_code; i++) {
            const float *a = p->x + r * MAX_CODE;
            const double start =
                keep ? (double)p->keep[r] * (double)p->before[r * MAX_CODE + i] : 0.0;
            double sum = start, sum_abs = fabs(start);
            for (int j = 0; j < shape->n_token - wrong; j++) {
                const double scaled = (double)p->step[j] * (double)p->rows[j][i];
                sum += (double)a[j] * ((double)p->low[j] + scaled);
                sum_abs += fabs((double)a[j]) * (fabs((double)p->low[j]) + scaled);
            }
            const double allowed = 4.0 * sqrt(shape->n_token + 2.0) * ldexp(sum_abs, -24);
            aq_bound_element(bound, p->y[r * MAX_CODE + i], sum, 0.0,
                             allowed + rounding(p, a, shape->n_token));
        }
}

static void dots(const aq_simd *simd, bytes_problem *p, const bytes_shape *shape, aq_bound *right,
                 aq_bound *planted) {
    memset(p->y, 0xff, sizeof p->y);
    simd->dot_bytes(&(aq_dot_bytes_args){.rows = p->rows,
                                         .n = shape->n_token,
                                         .step = p->step,
                                         .low = p->low,
                                         .n_in = shape->n_code,
                                         .x = p->x,
                                         .x_stride = MAX_CODE,
                                         .n_row = shape->n_row,
                                         .y = p->y,
                                         .y_stride = MAX_CODE});
    check_dots(p, shape, 0, right);
    check_dots(p, shape, 1, planted);
    CU_ASSERT(isnan(p->y[shape->n_token])); /* nothing is written behind the last token */
}

static void mix(const aq_simd *simd, bytes_problem *p, const bytes_shape *shape, bool keep,
                aq_bound *right, aq_bound *planted) {
    memset(p->y, 0xff, sizeof p->y);
    for (int i = 0; i < MAX_ROW * MAX_CODE && keep; i++)
        p->y[i] = i % MAX_CODE < shape->n_code ? p->before[i] : p->y[i];
    simd->mix_bytes(&(aq_mix_bytes_args){.rows = p->rows,
                                         .n = shape->n_token,
                                         .step = p->step,
                                         .low = p->low,
                                         .a = p->x,
                                         .a_stride = MAX_CODE,
                                         .n_row = shape->n_row,
                                         .n_out = shape->n_code,
                                         .keep = keep ? p->keep : NULL,
                                         .c = p->y,
                                         .c_stride = MAX_CODE});
    check_mix(p, shape, keep, 0, right);
    check_mix(p, shape, keep, 1, planted);
    if (shape->n_code < MAX_CODE) CU_ASSERT(isnan(p->y[shape->n_code]));
}

static void each_shape(bool across) {
    static bytes_problem p;
    for (int isa = 0; isa <= (int)aq_cpu_isa_best(); isa++) {
        aq_bound right = {0}, planted = {0};
        const aq_simd *simd = aq_cpu_simd((aq_cpu_isa)isa);
        for (int i = 0; i < N_SHAPE; i++) {
            fill(&p, &shapes[i]);
            for (int keep = 0; keep < 2 && across; keep++)
                mix(simd, &p, &shapes[i], keep, &right, &planted);
            if (!across) dots(simd, &p, &shapes[i], &right, &planted);
        }
        aq_bound_expect(&right, simd->name);
        aq_bound_expect_rejects(&planted, across ? "a token forgotten" : "the neighbour's step");
    }
}

static void sums_along_rows(void) {
    each_shape(false);
}

static void sums_across_rows(void) {
    each_shape(true);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "sums along rows", sums_along_rows);
    CU_add_test(suite, "sums across rows", sums_across_rows);
}
