/* Keys and queries of a sample in a projection's basis, against plain sums in double precision. */
#include "calib/group.h"

#include <math.h>
#include <string.h>

#include "tests/calib/sample_case.h"
#include "tests/support/suite.h"

enum { N = AQ_SAMPLE_N_TOK, D = AQ_SAMPLE_D };

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-5 * (1 + fabs(b));
}

static bool keys_match(const aq_sample_case *c, const aq_group *group, int head) {
    bool good = true;
    for (int column = 0; column < D; column++)
        for (int64_t s = 0; s < N; s++)
            good = good &&
                   near((double)group->key[column * N + s], aq_sample_case_key(c, s, head, column));
    return good;
}

static bool codes_match(const aq_group *group, int bits, int shift) {
    double expected[N], most = 0;
    for (int column = 0; column < D; column++) {
        aq_sample_case_levels(bits, group->key + column * N, shift, expected);
        for (int s = 0; s < N; s++)
            most = fmax(most, fabs((double)group->coded[bits][column * N + s] - expected[s]));
    }
    return most < 1e-3;
}

static bool queries_match(const aq_sample_case *c, const aq_group *group, int head) {
    bool good = true;
    for (int i = 0; i < AQ_SAMPLE_N_QUERY; i++)
        for (int h = 0; h < AQ_SAMPLE_N_GROUP; h++)
            for (int column = 0; column < D; column++) {
                const double q =
                    aq_sample_case_query(c, c->pos[i], head * AQ_SAMPLE_N_GROUP + h, column);
                good = good && near((double)aq_group_query(group, i, h)[column],
                                    q * (double)c->sample.scale);
            }
    return good;
}

static void check_head(const aq_sample_case *c, int head) {
    aq_group group;
    if (!aq_test_ok(aq_group_open(&c->sample, &c->projection, head, 1u << 3 | 1u << 1, &group)))
        return;
    CU_ASSERT_TRUE(keys_match(c, &group, head));
    CU_ASSERT_TRUE(queries_match(c, &group, head));
    CU_ASSERT_FALSE(keys_match(c, &group, 1 - head)); /* planted: the neighbour's matrix and keys */
    CU_ASSERT_FALSE(queries_match(c, &group, 1 - head));
    CU_ASSERT_TRUE(codes_match(&group, 3, 0));
    CU_ASSERT_TRUE(codes_match(&group, 1, 0));
    CU_ASSERT_FALSE(codes_match(&group, 3, 1)); /* planted: other tiles */
    CU_ASSERT_PTR_NULL(group.coded[2]);
    const int64_t row = (int64_t)c->sample.layer * AQ_SAMPLE_N_KV_HEAD + head;
    CU_ASSERT_EQUAL(memcmp(group.sigma, c->projection.sigma + row * D, D * sizeof(float)), 0);
    aq_group_close(&group);
}

static void test_projects_and_codes(void) {
    aq_sample_case *c = aq_sample_case_open(3);
    for (int n_thread = 0; n_thread < 4; n_thread++) {
        if (n_thread > 0) aq_test_ok(aq_threads_open(n_thread, &c->sample.team));
        for (int head = 0; head < AQ_SAMPLE_N_KV_HEAD; head++)
            check_head(c, head);
        aq_threads_close(c->sample.team);
        c->sample.team = NULL;
    }
    aq_sample_case_close(c);
}

/* All columns give the scores before projection; some give a part of them. */
static void test_scores(void) {
    enum { BEGIN = 7, END = 190 };
    aq_sample_case *c = aq_sample_case_open(4);
    aq_group group;
    if (aq_test_ok(aq_group_open(&c->sample, &c->projection, 1, 0, &group))) {
        float all[END - BEGIN] = {0}, part[END - BEGIN] = {0};
        const float *q = aq_group_query(&group, 3, 2);
        aq_group_score(&group, group.key, q, 0, D, BEGIN, END, all);
        aq_group_score(&group, group.key, q, 2, 5, BEGIN, END, part);
        for (int s = BEGIN; s < END; s++) {
            double raw = 0, few = 0;
            for (int i = 0; i < D; i++)
                raw += (double)c->q[(c->pos[3] * AQ_SAMPLE_N_HEAD + 5) * D + i] *
                       (double)c->k[(s * AQ_SAMPLE_N_KV_HEAD + 1) * D + i] *
                       (double)c->sample.scale;
            for (int i = 2; i < 5; i++)
                few += (double)q[i] * aq_sample_case_key(c, s, 1, i);
            CU_ASSERT_TRUE(fabs((double)all[s - BEGIN] - raw) < 1e-3);
            CU_ASSERT_TRUE(fabs((double)part[s - BEGIN] - few) < 1e-3);
        }
        aq_group_close(&group);
    }
    aq_sample_case_close(c);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "keys, codes and queries", test_projects_and_codes);
    CU_add_test(suite, "scores", test_scores);
}
