/* From Gram sums spread over ranks to one projection, against one rank that has all tokens. */
#include "calib/calibrate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

enum { N_LAYER = 3, N_HEAD = 4, N_KV_HEAD = 2, D = 12, N_CHUNK = 7, CHUNK_TOK = 40 };
enum { N_PROBLEM = N_LAYER * N_KV_HEAD, N_MATRIX = N_PROBLEM * D * D, N_VECTOR = N_PROBLEM * D };

/* Adds chunk c of a text whose queries and keys are drawn from the chunk's own seed. */
static void add_chunk(aq_gram *gram, int c) {
    float q[CHUNK_TOK * N_HEAD * D], k[CHUNK_TOK * N_KV_HEAD * D];
    for (int layer = 0; layer < N_LAYER; layer++) {
        aq_rng rng = {(uint64_t)(100 * c + layer)};
        for (int i = 0; i < CHUNK_TOK * N_HEAD * D; i++)
            q[i] = (float)(aq_rng_normal(&rng) * pow(0.7, (i + layer) % D));
        for (int i = 0; i < CHUNK_TOK * N_KV_HEAD * D; i++)
            k[i] = (float)(0.3 + aq_rng_normal(&rng) * pow(0.8, i % D));
        aq_gram_add(gram, layer, q, k, CHUNK_TOK);
    }
}

/* The sums of the chunks dealt to `rank`. */
static aq_gram sums_of(int rank, int n_rank) {
    aq_gram gram;
    aq_test_ok(aq_gram_open(N_LAYER, N_HEAD, N_KV_HEAD, D, NULL, &gram));
    for (int c = rank; c < N_CHUNK; c += n_rank)
        add_chunk(&gram, c);
    return gram;
}

static aq_status solve_world(aq_basis basis, aq_projection *out) {
    aq_comm *world = aq_test_world();
    aq_gram gram = sums_of(aq_comm_rank(world), aq_comm_size(world));
    const aq_status status = aq_calibrate_solve(world, &gram, basis, out);
    aq_gram_close(&gram);
    return status;
}

/* Equal but for the last bits: the order of summing differs. */
static bool near(const float *a, const float *b, int n) {
    bool good = true;
    for (int i = 0; i < n; i++)
        good = good && fabsf(a[i] - b[i]) <= ldexpf(fabsf(a[i]), -22) + 1e-7f;
    return good;
}

static bool same_result(const aq_projection *a, const aq_projection *b) {
    return a->basis == b->basis && a->n_layer == b->n_layer && a->n_kv_head == b->n_kv_head &&
           a->d_head == b->d_head && a->n_tok_calib == b->n_tok_calib &&
           near(a->pq, b->pq, N_MATRIX) && near(a->pk, b->pk, N_MATRIX) &&
           near(a->sigma, b->sigma, N_VECTOR) && near(a->spectrum, b->spectrum, N_VECTOR);
}

static void test_ranks_agree_with_one(void) {
    aq_comm *self;
    if (!aq_test_ok(aq_comm_open_self(&self))) return;
    for (int b = 0; b < AQ_BASIS_N; b++) {
        aq_projection many = {.pq = NULL}, one = {.pq = NULL};
        aq_gram all = sums_of(0, 1);
        if (aq_test_ok(solve_world((aq_basis)b, &many)) &&
            aq_test_ok(aq_calibrate_solve(self, &all, (aq_basis)b, &one))) {
            CU_ASSERT_EQUAL(many.n_tok_calib, N_CHUNK * CHUNK_TOK);
            CU_ASSERT_TRUE(same_result(&many, &one));
            many.pk[N_MATRIX - 1] += 1e-5f; /* planted: one number of the last problem */
            CU_ASSERT_FALSE(same_result(&many, &one));
        }
        aq_gram_close(&all);
        aq_projection_free(&many);
        aq_projection_free(&one);
    }
    aq_comm_close(self);
}

static void test_same_bits_everywhere(void) {
    aq_comm *world = aq_test_world();
    aq_projection p = {.pq = NULL};
    float first[N_MATRIX];
    if (!aq_test_ok(solve_world(AQ_BASIS_KQ, &p))) return;
    memcpy(first, p.pq, sizeof first);
    aq_test_ok(aq_comm_bcast(world, first, sizeof first, 0));
    CU_ASSERT_EQUAL(memcmp(first, p.pq, sizeof first), 0);
    memcpy(first, p.pk, sizeof first);
    aq_test_ok(aq_comm_bcast(world, first, sizeof first, 0));
    CU_ASSERT_EQUAL(memcmp(first, p.pk, sizeof first), 0);
    aq_projection_free(&p);
}

/* A bad sum on the last rank spoils one problem; everyone hears which. */
static void test_failure_is_shared(void) {
    aq_comm *world = aq_test_world();
    const int rank = aq_comm_rank(world), n_rank = aq_comm_size(world);
    aq_gram gram = sums_of(rank, n_rank);
    aq_projection p = {.pq = NULL};
    if (rank == n_rank - 1) gram.data[gram.n / N_PROBLEM * 3] = NAN;
    aq_test_fails(aq_calibrate_solve(world, &gram, AQ_BASIS_JOINT, &p), AQ_ERR_NUMERIC,
                  "calibration of layer 1, KV head 1: the Gram sums are not finite");
    CU_ASSERT_PTR_NULL(p.pq);
    aq_gram_close(&gram);
}

static void test_save(void) {
    aq_comm *world = aq_test_world();
    aq_projection p = {.pq = NULL}, back;
    char path[512] = "";
    if (!aq_test_ok(solve_world(AQ_BASIS_JOINT, &p))) return;
    if (aq_comm_rank(world) == 0) snprintf(path, sizeof path, "%s/m.aqua", aq_test_temp_dir());
    aq_test_ok(aq_comm_bcast(world, path, sizeof path, 0));
    aq_test_ok(aq_calibrate_save(world, path, &p));
    if (aq_test_ok(aq_projection_read(path, &back))) {
        CU_ASSERT_EQUAL(memcmp(back.pq, p.pq, N_MATRIX * sizeof *p.pq), 0);
        CU_ASSERT_EQUAL(memcmp(back.sigma, p.sigma, N_VECTOR * sizeof *p.sigma), 0);
        aq_projection_free(&back);
    }
    aq_test_ok(aq_comm_barrier(world)); /* rank 0 removes the folder at its exit */
    snprintf(path, sizeof path, "/no-such-folder/m.aqua");
    aq_test_fails(aq_calibrate_save(world, path, &p), AQ_ERR_IO, "/no-such-folder/m.aqua");
    aq_projection_free(&p);
}

/* Chunks follow each other if all of the text is used, and stand for all of it otherwise. */
static void test_chunks_are_spread(void) {
    for (int64_t c = 0; c < 5; c++)
        CU_ASSERT_EQUAL(aq_calibrate_chunk_begin(c, 5, 100, 480, 480), 100 * c);
    for (int64_t c = 0; c < 4; c++)
        CU_ASSERT_EQUAL(aq_calibrate_chunk_begin(c, 4, 100, 4000, 400), 1000 * c);
    for (int64_t n = 400; n < 2000; n += 7) {
        const int64_t last = aq_calibrate_chunk_begin(3, 4, 100, n, 400);
        CU_ASSERT(last + 100 <= n && last + 100 >= 100 + n * 3 / 4 - 1);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "chunks are spread over the text", test_chunks_are_spread);
    CU_add_test(suite, "ranks agree with one rank", test_ranks_agree_with_one);
    CU_add_test(suite, "every rank has the same bits", test_same_bits_everywhere);
    CU_add_test(suite, "a failure is named on every rank", test_failure_is_shared);
    CU_add_test(suite, "rank 0 writes the file", test_save);
}
