/* Control plane: agreement, sums, copies and sub-communicators, on every number of ranks. */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

typedef aq_status (*agree_fn)(aq_comm *comm, aq_status mine);

static int rank(void) {
    return aq_comm_rank(aq_test_world());
}

static int size(void) {
    return aq_comm_size(aq_test_world());
}

/* Sum of a count over all ranks, so that every rank judges the same. */
static int64_t over_ranks(int64_t n) {
    aq_test_ok(aq_comm_sum_i64(aq_test_world(), &n, 1));
    return n;
}

static void ranks_are_numbered(void) {
    CU_ASSERT_TRUE(rank() >= 0 && rank() < size());
    CU_ASSERT_EQUAL(over_ranks(1), size());
    CU_ASSERT_EQUAL(over_ranks(rank()), (int64_t)size() * (size() - 1) / 2);
    CU_ASSERT_EQUAL(aq_comm_size_on_host(aq_test_world()), size()); /* the tests run on one host */
    CU_ASSERT_TRUE(strlen(aq_comm_host(aq_test_world())) > 0);
    aq_test_ok(aq_comm_barrier(aq_test_world()));
}

/* Whether this rank gets the outcome it should when the ranks in the bit set `failing` fail. */
static bool agrees(agree_fn agree, unsigned failing) {
    char expected[AQ_ERROR_TEXT_BYTES];
    int first = 0;
    aq_status mine = AQ_OK;
    aq_fail(AQ_ERR_IO, "an older failure");
    if (failing >> rank() & 1) mine = aq_fail((aq_status)(1 + rank()), "broken by %d", rank());
    const aq_status status = agree(aq_test_world(), mine);
    if (failing == 0) return status == AQ_OK;
    while (!(failing >> first & 1))
        first++;
    snprintf(expected, sizeof expected, "rank %d on %s: broken by %d", first,
             aq_comm_host(aq_test_world()), first);
    return (int)status == 1 + first &&
           strcmp(aq_error_text(), size() == 1 ? "broken by 0" : expected) == 0;
}

/* Over all ways to fail: how many ranks got it wrong, added over ranks. */
static int64_t count_disagreements(agree_fn agree) {
    int64_t n_wrong = 0;
    for (unsigned failing = 0; failing < 1u << size(); failing++)
        n_wrong += !agrees(agree, failing);
    return over_ranks(n_wrong);
}

/* The plants: healthy ranks go on; and everyone fails, but for the highest failing rank's reason.
 */
static aq_status agree_alone(aq_comm *comm, aq_status mine) {
    (void)comm;
    return mine;
}

static aq_status agree_on_the_last(aq_comm *comm, aq_status mine) {
    int64_t codes[64] = {0}, code = mine;
    if (aq_comm_allgather_i64(comm, &code, 1, codes) != AQ_OK) return AQ_ERR_COMM;
    for (int r = aq_comm_size(comm) - 1; r >= 0; r--)
        if (codes[r])
            return aq_fail((aq_status)codes[r], "rank %d on %s: broken by %d", r,
                           aq_comm_host(comm), r);
    return AQ_OK;
}

static void all_ranks_agree_on_one_outcome(void) {
    CU_ASSERT_EQUAL(count_disagreements(aq_comm_agree), 0);
    if (size() == 1) return; /* alone, there is nobody to disagree with */
    CU_ASSERT_NOT_EQUAL(count_disagreements(agree_alone), 0);
    CU_ASSERT_NOT_EQUAL(count_disagreements(agree_on_the_last), 0);
}

static void broadcasts_reach_everyone(void) {
    static const size_t sizes[] = {0, 1, 100003};
    char *data = malloc(100003);
    for (int root = 0; root < size(); root++) {
        for (int i = 0; i < 3; i++) {
            memset(data, rank() == root ? 'r' : 'x', 100003);
            aq_test_ok(aq_comm_bcast(aq_test_world(), data, sizes[i], root));
            size_t n_right = 0;
            for (size_t at = 0; at < 100003; at++)
                n_right += data[at] == (at < sizes[i] || rank() == root ? 'r' : 'x');
            CU_ASSERT_EQUAL(n_right, 100003);
        }
    }
    free(data);
}

/* Numbers whose sum depends on the order of adding: every rank must still get the same bits. */
static void sums_are_the_same_bits_everywhere(void) {
    double values[3] = {1.0 / (3 + rank()), rank() % 2 ? -1e16 : 1e16, rank() + 1.0};
    int64_t bits[3], everyone[3 * 64];
    aq_test_ok(aq_comm_sum_f64(aq_test_world(), values, 3));
    CU_ASSERT_EQUAL(values[2], size() * (size() + 1) / 2.0);
    memcpy(bits, values, sizeof bits);
    aq_test_ok(aq_comm_allgather_i64(aq_test_world(), bits, 3, everyone));
    for (int r = 0; r < size(); r++)
        CU_ASSERT_EQUAL(memcmp(everyone + 3 * r, bits, sizeof bits), 0);
}

static void gathered_numbers_stand_in_rank_order(void) {
    int64_t mine[2] = {rank(), INT64_C(1) << (40 + rank())}, all[2 * 64];
    aq_test_ok(aq_comm_allgather_i64(aq_test_world(), mine, 2, all));
    for (int r = 0; r < size(); r++) {
        CU_ASSERT_EQUAL(all[2 * r], r);
        CU_ASSERT_EQUAL(all[2 * r + 1], INT64_C(1) << (40 + r));
    }
}

/* A message goes round once; each rank adds its number. */
static void messages_go_from_rank_to_rank(void) {
    enum { N = 100000 };
    if (size() == 1) return;
    int32_t *data = calloc(N, sizeof *data);
    const int next = (rank() + 1) % size(), previous = (rank() + size() - 1) % size();
    if (rank() > 0) aq_test_ok(aq_comm_recv(aq_test_world(), data, N * sizeof *data, previous));
    for (int i = 0; i < N; i++)
        data[i] += i + rank();
    aq_test_ok(aq_comm_send(aq_test_world(), data, N * sizeof *data, next));
    if (rank() == 0) {
        int n_right = 0;
        aq_test_ok(aq_comm_recv(aq_test_world(), data, N * sizeof *data, previous));
        for (int i = 0; i < N; i++)
            n_right += data[i] == size() * i + size() * (size() - 1) / 2;
        CU_ASSERT_EQUAL(n_right, N);
    }
    free(data);
}

static void leading_ranks_form_their_own(void) {
    for (int n_rank = 1; n_rank <= size(); n_rank++) {
        aq_comm *leading = NULL;
        if (!aq_test_ok(aq_comm_open_leading(aq_test_world(), n_rank, &leading))) return;
        CU_ASSERT_EQUAL(leading != NULL, rank() < n_rank);
        if (leading) {
            int64_t sum = rank();
            CU_ASSERT_EQUAL(aq_comm_rank(leading), rank());
            CU_ASSERT_EQUAL(aq_comm_size(leading), n_rank);
            aq_test_ok(aq_comm_sum_i64(leading, &sum, 1));
            CU_ASSERT_EQUAL(sum, n_rank * (n_rank - 1) / 2);
        }
        aq_comm_close(leading);
    }
}

/* Groups of every size that divides the ranks: neighbours, in order. */
static void groups_are_of_neighbours(void) {
    for (int n_rank = 1; n_rank <= size(); n_rank++) {
        aq_comm *group = NULL;
        if (size() % n_rank != 0) continue;
        if (!aq_test_ok(aq_comm_open_group(aq_test_world(), n_rank, &group))) return;
        int64_t sum = rank();
        const int64_t first = rank() / n_rank * n_rank;
        CU_ASSERT_EQUAL(aq_comm_rank(group), rank() - first);
        CU_ASSERT_EQUAL(aq_comm_size(group), n_rank);
        aq_test_ok(aq_comm_sum_i64(group, &sum, 1));
        CU_ASSERT_EQUAL(sum, n_rank * first + n_rank * (n_rank - 1) / 2);
        aq_comm_close(group);
    }
}

static void each_rank_can_be_alone(void) {
    aq_comm *self = NULL;
    int64_t mine = rank();
    if (!aq_test_ok(aq_comm_open_self(&self))) return;
    CU_ASSERT_EQUAL(aq_comm_rank(self), 0);
    CU_ASSERT_EQUAL(aq_comm_size(self), 1);
    aq_test_ok(aq_comm_sum_i64(self, &mine, 1));
    CU_ASSERT_EQUAL(mine, rank());
    aq_comm_close(self);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "ranks are numbered", ranks_are_numbered);
    CU_add_test(suite, "all ranks agree on one outcome", all_ranks_agree_on_one_outcome);
    CU_add_test(suite, "broadcasts reach everyone", broadcasts_reach_everyone);
    CU_add_test(suite, "sums are the same bits everywhere", sums_are_the_same_bits_everywhere);
    CU_add_test(suite, "gathered numbers stand in rank order",
                gathered_numbers_stand_in_rank_order);
    CU_add_test(suite, "messages go from rank to rank", messages_go_from_rank_to_rank);
    CU_add_test(suite, "leading ranks form their own", leading_ranks_form_their_own);
    CU_add_test(suite, "groups are of neighbours", groups_are_of_neighbours);
    CU_add_test(suite, "each rank can be alone", each_rank_can_be_alone);
}
