/* Data plane: every byte arrives where it belongs, on every number of ranks, and is counted. */
#include "comm/coll.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/mpi_world.h"
#include "tests/support/suite.h"

#define MAX_RANK  64
#define MAX_BLOCK 5000

static aq_coll *open_coll(void) {
    aq_coll *coll = NULL;
    aq_test_ok(aq_coll_open(aq_test_world(), &coll));
    return coll;
}

static int rank(void) {
    return aq_comm_rank(aq_test_world());
}

static int size(void) {
    return aq_comm_size(aq_test_world());
}

/* Byte i of the block that goes from one rank to another; 255 stands for "to everyone". */
static uint8_t byte_of(int from, int to, int64_t i) {
    return (uint8_t)(from * 67 + to * 29 + i * 5 + i / 256);
}

static void fill(uint8_t *block, int from, int to, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i++)
        block[i] = byte_of(from, to, i);
}

/* Whether `packed` holds the blocks from all ranks to `to`, in rank order, and nothing after. */
static bool is_packed(const uint8_t *packed, const int64_t *bytes, int to) {
    int64_t at = 0;
    for (int from = 0; from < size(); from++)
        for (int64_t i = 0; i < bytes[from]; i++)
            if (packed[at++] != byte_of(from, to, i)) return false;
    return packed[at] == 0xee;
}

/* Room for the blocks of all ranks, filled with 0xee. */
static uint8_t *fresh_blocks(void) {
    uint8_t *blocks = malloc((size_t)size() * MAX_BLOCK + 1);
    return memset(blocks, 0xee, (size_t)size() * MAX_BLOCK + 1);
}

static void equal_blocks_are_gathered(void) {
    static const int64_t lengths[] = {0, 1, MAX_BLOCK};
    uint8_t mine[MAX_BLOCK];
    aq_coll *coll = open_coll();
    for (int l = 0; l < 3 && coll; l++) {
        int64_t bytes[MAX_RANK];
        uint8_t *all = fresh_blocks();
        for (int r = 0; r < size(); r++)
            bytes[r] = lengths[l];
        fill(mine, rank(), 255, lengths[l]);
        aq_test_ok(aq_coll_allgather(coll, mine, lengths[l], all));
        CU_ASSERT_TRUE(is_packed(all, bytes, 255));
        free(all);
    }
    aq_coll_close(coll);
}

/* Lengths of blocks by case: all different, only the last rank's, none. */
static int64_t uneven(int which, int from) {
    if (which == 0) return (from * 1777 + 3) % MAX_BLOCK;
    return which == 1 && from == size() - 1 ? MAX_BLOCK : 0;
}

/* The same where each block lies in its place already. */
static void gather_in_place(aq_coll *coll, const uint8_t *mine, const int64_t *bytes) {
    uint8_t *all = fresh_blocks();
    int64_t before = 0;
    for (int r = 0; r < rank(); r++)
        before += bytes[r];
    memcpy(all + before, mine, (size_t)bytes[rank()]);
    aq_test_ok(aq_coll_allgatherv(coll, all + before, bytes, all));
    CU_ASSERT_TRUE(is_packed(all, bytes, 255));
    free(all);
}

static void uneven_blocks_are_gathered(void) {
    uint8_t mine[MAX_BLOCK];
    aq_coll *coll = open_coll();
    for (int which = 0; which < 3 && coll; which++) {
        int64_t bytes[MAX_RANK];
        uint8_t *all = fresh_blocks();
        for (int r = 0; r < size(); r++)
            bytes[r] = uneven(which, r);
        fill(mine, rank(), 255, bytes[rank()]);
        aq_test_ok(aq_coll_allgatherv(coll, mine, bytes, all));
        CU_ASSERT_TRUE(is_packed(all, bytes, 255));
        gather_in_place(coll, mine, bytes);
        free(all);
    }
    aq_coll_close(coll);
}

/* Bytes from one rank to another by case: a full matrix with zeros in it, one way only, none. */
static int64_t matrix(int which, int from, int to) {
    if (which == 0) return (from * 5 + to * 3) % 4 * 1250;
    return which == 1 && from > to ? 77 : 0;
}

/* Exchanges one case and gives back what arrived, to be freed. */
static uint8_t *exchange(aq_coll *coll, int which, int64_t recv_bytes[MAX_RANK]) {
    int64_t send_bytes[MAX_RANK], at = 0;
    uint8_t *send = fresh_blocks(), *recv = fresh_blocks();
    for (int r = 0; r < size(); r++) {
        send_bytes[r] = matrix(which, rank(), r);
        recv_bytes[r] = matrix(which, r, rank());
        fill(send + at, rank(), r, send_bytes[r]);
        at += send_bytes[r];
    }
    aq_test_ok(aq_coll_alltoallv(coll, send, send_bytes, recv, recv_bytes));
    free(send);
    return recv;
}

static void every_pair_exchanges_its_block(void) {
    aq_coll *coll = open_coll();
    for (int which = 0; which < 3 && coll; which++) {
        int64_t bytes[MAX_RANK];
        uint8_t *recv = exchange(coll, which, bytes);
        CU_ASSERT_TRUE(is_packed(recv, bytes, rank()));
        free(recv);
    }
    aq_coll_close(coll);
}

/* The check above is worth something: it sees a wrong sender, a wrong receiver, a byte too many. */
static void a_misplaced_block_is_noticed(void) {
    int64_t bytes[MAX_RANK] = {0};
    uint8_t *blocks = fresh_blocks();
    bytes[0] = 100;
    fill(blocks, 0, rank(), 100);
    CU_ASSERT_TRUE(is_packed(blocks, bytes, rank()));
    fill(blocks, 1, rank(), 100);
    CU_ASSERT_FALSE(is_packed(blocks, bytes, rank()));
    fill(blocks, 0, rank() + 1, 100);
    CU_ASSERT_FALSE(is_packed(blocks, bytes, rank()));
    fill(blocks, 0, rank(), 101);
    CU_ASSERT_FALSE(is_packed(blocks, bytes, rank()));
    free(blocks);
}

static void broadcasts_reach_everyone(void) {
    uint8_t data[MAX_BLOCK];
    aq_coll *coll = open_coll();
    for (int root = 0; root < size() && coll; root++) {
        int64_t n_wrong = 0;
        fill(data, rank(), 255, MAX_BLOCK);
        aq_test_ok(aq_coll_bcast(coll, data, MAX_BLOCK, root));
        for (int64_t i = 0; i < MAX_BLOCK; i++)
            n_wrong += data[i] != byte_of(root, 255, i);
        CU_ASSERT_EQUAL(n_wrong, 0);
    }
    aq_coll_close(coll);
}

/* Rows that are joined: sums, and who is in them. A row that is cut or joined twice shows. */
typedef struct {
    uint32_t ranks, sum[6];
} joined;

static void join_sums(const void *from, void *into, int64_t n, int64_t row_bytes) {
    const joined *a = from;
    joined *b = into;
    CU_ASSERT_EQUAL(row_bytes, sizeof(joined));
    for (int64_t i = 0; i < n; i++) {
        CU_ASSERT_EQUAL(a[i].ranks & b[i].ranks, 0);
        b[i].ranks |= a[i].ranks;
        for (int j = 0; j < 6; j++)
            b[i].sum[j] += a[i].sum[j];
    }
}

/* The smallest sum alone: rows of another size, by another function, in the same plane. */
static void join_least(const void *from, void *into, int64_t n, int64_t row_bytes) {
    const uint32_t *a = from;
    uint32_t *b = into;
    CU_ASSERT_EQUAL(row_bytes, sizeof *a);
    for (int64_t i = 0; i < n; i++)
        b[i] = a[i] < b[i] ? a[i] : b[i];
}

static void rows_are_joined(void) {
    enum { N_ROW = 3001 }; /* more than MPI sends at once */
    static const int64_t lengths[] = {0, 1, 9, N_ROW};
    joined *rows = calloc(N_ROW, sizeof *rows);
    aq_coll *coll = open_coll();
    for (int l = 0; l < 4 && coll && rows; l++) {
        int64_t n_wrong = 0;
        for (int64_t i = 0; i < lengths[l]; i++) {
            rows[i].ranks = (uint32_t)1 << rank();
            for (int j = 0; j < 6; j++)
                rows[i].sum[j] = (uint32_t)(i * 7 + j + rank() * 1000);
        }
        aq_test_ok(aq_coll_join_rows(coll, rows, lengths[l], sizeof *rows, join_sums));
        for (int64_t i = 0; i < lengths[l]; i++) {
            n_wrong += rows[i].ranks != ((uint32_t)1 << size()) - 1;
            for (int64_t j = 0; j < 6; j++)
                n_wrong += rows[i].sum[j] !=
                           (uint32_t)((i * 7 + j) * size() + 1000 * size() * (size() - 1) / 2);
        }
        CU_ASSERT_EQUAL(n_wrong, 0);
        uint32_t numbers[] = {(uint32_t)(50 - rank()), (uint32_t)rank()};
        aq_test_ok(aq_coll_join_rows(coll, numbers, 2, sizeof *numbers, join_least));
        CU_ASSERT_EQUAL(numbers[0], (uint32_t)(51 - size()));
        CU_ASSERT_EQUAL(numbers[1], 0);
    }
    aq_coll_close(coll);
    free(rows);
}

/* What others must get of this rank's bytes, by hand, call after call. */
static void sent_bytes_are_counted(void) {
    uint8_t data[100] = {0}, *all = fresh_blocks();
    int64_t bytes[MAX_RANK], expected = 0;
    aq_coll *coll = open_coll();
    if (!coll) return;
    CU_ASSERT_EQUAL(aq_coll_bytes_sent(coll), 0);
    aq_test_ok(aq_coll_allgather(coll, data, 10, all));
    CU_ASSERT_EQUAL(aq_coll_bytes_sent(coll), expected += 10 * (size() - 1));
    for (int r = 0; r < size(); r++)
        bytes[r] = 20 + r;
    aq_test_ok(aq_coll_allgatherv(coll, data, bytes, all));
    CU_ASSERT_EQUAL(aq_coll_bytes_sent(coll), expected += (20 + rank()) * (size() - 1));
    free(exchange(coll, 1, bytes));
    CU_ASSERT_EQUAL(aq_coll_bytes_sent(coll), expected += 77 * rank());
    aq_test_ok(aq_coll_bcast(coll, data, 100, 0));
    CU_ASSERT_EQUAL(aq_coll_bytes_sent(coll), expected += rank() == 0 ? 100 * (size() - 1) : 0);
    CU_ASSERT_EQUAL(aq_coll_call_count(coll), 4);
    int64_t joined_bytes = -expected;
    aq_test_ok(aq_coll_join_rows(coll, data, 5, 4, join_least));
    joined_bytes += aq_coll_bytes_sent(coll);
    aq_test_ok(aq_comm_sum_i64(aq_test_world(), &joined_bytes, 1));
    CU_ASSERT_EQUAL(joined_bytes, 2 * 5 * 4 * (size() - 1));
    CU_ASSERT_EQUAL(aq_coll_call_count(coll), 5);
    aq_coll_close(coll);
    free(all);
}

/* Refused before anything is touched: the buffers here are far smaller. */
static void messages_over_the_limit_are_refused(void) {
    uint8_t data[1] = {0};
    int64_t bytes[MAX_RANK] = {0}, none[MAX_RANK] = {0};
    aq_coll *coll = open_coll();
    if (!coll) return;
    bytes[size() - 1] = (int64_t)INT_MAX + 1;
    aq_test_fails(aq_coll_allgather(coll, data, bytes[size() - 1], data), AQ_ERR_LIMIT, "2 GiB");
    aq_test_fails(aq_coll_allgatherv(coll, data, bytes, data), AQ_ERR_LIMIT, "2 GiB");
    aq_test_fails(aq_coll_alltoallv(coll, data, bytes, data, none), AQ_ERR_LIMIT, "2 GiB");
    aq_test_fails(aq_coll_alltoallv(coll, data, none, data, bytes), AQ_ERR_LIMIT, "2 GiB");
    aq_test_fails(aq_coll_join_rows(coll, data, 1 << 20, 1 << 12, join_least), AQ_ERR_LIMIT,
                  "2 GiB");
    aq_coll_close(coll);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "equal blocks are gathered", equal_blocks_are_gathered);
    CU_add_test(suite, "uneven blocks are gathered", uneven_blocks_are_gathered);
    CU_add_test(suite, "every pair exchanges its block", every_pair_exchanges_its_block);
    CU_add_test(suite, "a misplaced block is noticed", a_misplaced_block_is_noticed);
    CU_add_test(suite, "broadcasts reach everyone", broadcasts_reach_everyone);
    CU_add_test(suite, "rows are joined", rows_are_joined);
    CU_add_test(suite, "sent bytes are counted", sent_bytes_are_counted);
    CU_add_test(suite, "messages over the limit are refused", messages_over_the_limit_are_refused);
}
