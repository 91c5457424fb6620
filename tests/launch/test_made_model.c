/* What made models are measured with. */
#include "bench/made_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/suite.h"

enum { N_TOK = 4096 };

typedef struct {
    double score;
    int token;
} scored;

static int by_score(const void *a, const void *b) {
    const double x = ((const scored *)a)->score, y = ((const scored *)b)->score;
    return (x < y) - (x > y);
}

/* Marks the tokens of largest exp(score) that hold the share `mass`, of scores drawn with the
 * standard deviation `spread`. */
static void draw(aq_rng *rng, double spread, double mass, bool *needed) {
    static scored all[N_TOK];
    double sum = 0, held = 0;
    for (int t = 0; t < N_TOK; t++) {
        all[t] = (scored){spread * aq_rng_normal(rng), t};
        sum += exp(all[t].score);
    }
    qsort(all, N_TOK, sizeof all[0], by_score);
    for (int t = 0; t < N_TOK && held < mass * sum; t++) {
        held += exp(all[t].score);
        needed[all[t].token] = true;
    }
}

/* Share of the tokens that one head of n_head needs at least, mean of some draws. */
static double drawn_share(double spread, double mass, int n_head) {
    enum { N_DRAW = 100 };
    aq_rng rng = {11};
    int64_t n = 0;
    for (int i = 0; i < N_DRAW; i++) {
        bool needed[N_TOK] = {false};
        for (int h = 0; h < n_head; h++)
            draw(&rng, spread, mass, needed);
        for (int t = 0; t < N_TOK; t++)
            n += needed[t];
    }
    return (double)n / (N_DRAW * N_TOK);
}

static void test_spread(void) {
    static const double shares[] = {0.03, 0.08, 0.15};
    for (int i = 0; i < 3; i++)
        for (int n_head = 1; n_head <= 4; n_head *= 4) {
            double spread = 0;
            aq_test_ok(aq_made_spread(0.98, shares[i], n_head, N_TOK, &spread));
            const double share = drawn_share(spread, 0.98, n_head) / shares[i];
            const double flat = drawn_share(0.8 * spread, 0.98, n_head) / shares[i];
            printf("needed %g, %d heads: spread %.3f, drawn %.3f of it; of 0.8 the spread %.3f\n",
                   shares[i], n_head, spread, share, flat);
            CU_ASSERT(fabs(share - 1) < 0.1);
            CU_ASSERT(flat > 1.2);
        }
}

static void test_ids(void) {
    static int32_t ids[4000], again[4000];
    const char *const path = "synth:layers=1,embd=32,heads=1,ff=32,vocab=50";
    int n_of[50] = {0};
    if (!aq_test_ok(aq_made_ids(path, 4000, ids))) return;
    aq_test_ok(aq_made_ids(path, 4000, again));
    CU_ASSERT_EQUAL(memcmp(ids, again, sizeof ids), 0);
    for (int i = 0; i < 4000; i++) {
        CU_ASSERT_FATAL(ids[i] >= 0 && ids[i] < 50);
        n_of[ids[i]]++;
    }
    for (int id = 0; id < 50; id++)
        CU_ASSERT(n_of[id] > 40); /* of 80 */
    aq_test_fails(aq_made_ids("synth:no", 1, ids), AQ_ERR_USAGE, "no shape");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "spread", test_spread);
    CU_add_test(suite, "ids", test_ids);
}
