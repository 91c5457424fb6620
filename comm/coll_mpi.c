#include "comm/coll.h"

#include <limits.h>
#include <stdlib.h>

#include "comm/comm_mpi.h"

struct aq_coll {
    aq_comm *comm;
    int64_t bytes_sent;
    int64_t n_call;
    int *counts; /* [4, size]: send and receive counts and offsets in the ints MPI takes */
    /* Of aq_coll_join_rows, made by its first call. */
    MPI_Op join;
    MPI_Datatype row;
    int64_t row_bytes;
};

/* What MPI calls back for: it hands nothing else through. The thread that communicates sets and
 * reads it. */
static struct {
    aq_coll_join join;
    int64_t row_bytes;
} joining;

aq_status aq_coll_open(aq_comm *comm, aq_coll **out) {
    *out = NULL;
    aq_coll *coll = calloc(1, sizeof *coll);
    int *counts = calloc(4 * (size_t)aq_comm_size(comm), sizeof *counts);
    aq_status status = coll && counts ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for messages");
    status = aq_comm_agree(comm, status);
    if (status != AQ_OK) {
        free(counts);
        free(coll);
        return status;
    }
    coll->comm = comm;
    coll->join = MPI_OP_NULL;
    coll->row = MPI_DATATYPE_NULL;
    coll->counts = counts;
    *out = coll;
    return AQ_OK;
}

void aq_coll_close(aq_coll *coll) {
    if (!coll) return;
    if (coll->join != MPI_OP_NULL) MPI_Op_free(&coll->join);
    if (coll->row != MPI_DATATYPE_NULL) MPI_Type_free(&coll->row);
    free(coll->counts);
    free(coll);
}

/* counts[r] and offsets[r] of a packed buffer. */
static aq_status pack_counts(const int64_t *bytes, int size, int *counts, int *offsets) {
    int64_t total = 0;
    for (int r = 0; r < size; r++) {
        if (total + bytes[r] > INT_MAX)
            return aq_fail(AQ_ERR_LIMIT, "a message over 2 GiB; use a smaller batch (-b)");
        counts[r] = (int)bytes[r];
        offsets[r] = (int)total;
        total += bytes[r];
    }
    return AQ_OK;
}

aq_status aq_coll_allgather(aq_coll *coll, const void *mine, int64_t bytes, void *all) {
    if (bytes > INT_MAX) return aq_fail(AQ_ERR_LIMIT, "a message over 2 GiB");
    coll->bytes_sent += bytes * (aq_comm_size(coll->comm) - 1);
    coll->n_call++;
    MPI_Request request = MPI_REQUEST_NULL;
    return aq_comm_wait(MPI_Iallgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE,
                                       aq_comm_mpi(coll->comm), &request),
                        &request, "gathering");
}

aq_status aq_coll_allgatherv(aq_coll *coll, const void *mine, const int64_t *bytes, void *all) {
    const int rank = aq_comm_rank(coll->comm), size = aq_comm_size(coll->comm);
    int *counts = coll->counts, *offsets = coll->counts + size;
    AQ_TRY(pack_counts(bytes, size, counts, offsets));
    coll->bytes_sent += bytes[rank] * (size - 1);
    coll->n_call++;
    if (mine == (const char *)all + offsets[rank]) mine = MPI_IN_PLACE;
    MPI_Request request = MPI_REQUEST_NULL;
    return aq_comm_wait(MPI_Iallgatherv(mine, counts[rank], MPI_BYTE, all, counts, offsets,
                                        MPI_BYTE, aq_comm_mpi(coll->comm), &request),
                        &request, "gathering");
}

aq_status aq_coll_alltoallv(aq_coll *coll, const void *send, const int64_t *send_bytes, void *recv,
                            const int64_t *recv_bytes) {
    const int rank = aq_comm_rank(coll->comm), size = aq_comm_size(coll->comm);
    int *send_counts = coll->counts, *send_offsets = coll->counts + size;
    int *recv_counts = coll->counts + 2 * size, *recv_offsets = coll->counts + 3 * size;
    AQ_TRY(pack_counts(send_bytes, size, send_counts, send_offsets));
    AQ_TRY(pack_counts(recv_bytes, size, recv_counts, recv_offsets));
    for (int r = 0; r < size; r++)
        if (r != rank) coll->bytes_sent += send_bytes[r];
    coll->n_call++;
    MPI_Request request = MPI_REQUEST_NULL;
    return aq_comm_wait(MPI_Ialltoallv(send, send_counts, send_offsets, MPI_BYTE, recv, recv_counts,
                                       recv_offsets, MPI_BYTE, aq_comm_mpi(coll->comm), &request),
                        &request, "exchanging");
}

static void join_rows(void *from, void *into, int *n, MPI_Datatype *row) {
    (void)row;
    joining.join(from, into, *n, joining.row_bytes);
}

/* coll->join and coll->row, a type of row_bytes bytes that MPI does not cut. */
static aq_status prepare_join(aq_coll *coll, int64_t row_bytes) {
    if (coll->join == MPI_OP_NULL)
        AQ_TRY(aq_comm_check(MPI_Op_create(join_rows, 1, &coll->join), "making an operation"));
    if (coll->row_bytes == row_bytes) return AQ_OK;
    if (coll->row != MPI_DATATYPE_NULL) MPI_Type_free(&coll->row);
    AQ_TRY(
        aq_comm_check(MPI_Type_contiguous((int)row_bytes, MPI_BYTE, &coll->row), "making a type"));
    AQ_TRY(aq_comm_check(MPI_Type_commit(&coll->row), "making a type"));
    coll->row_bytes = row_bytes;
    return AQ_OK;
}

aq_status aq_coll_join_rows(aq_coll *coll, void *rows, int64_t n, int64_t row_bytes,
                            aq_coll_join join) {
    const int64_t rank = aq_comm_rank(coll->comm), size = aq_comm_size(coll->comm);
    if (n > INT_MAX || row_bytes > INT_MAX || n * row_bytes > INT_MAX)
        return aq_fail(AQ_ERR_LIMIT, "a message over 2 GiB");
    AQ_TRY(prepare_join(coll, row_bytes));
    const int64_t all = 2 * (size - 1) * n * row_bytes; /* of all ranks */
    coll->bytes_sent += all * (rank + 1) / size - all * rank / size;
    coll->n_call++;
    joining.join = join;
    joining.row_bytes = row_bytes;
    MPI_Request request = MPI_REQUEST_NULL;
    return aq_comm_wait(MPI_Iallreduce(MPI_IN_PLACE, rows, (int)n, coll->row, coll->join,
                                       aq_comm_mpi(coll->comm), &request),
                        &request, "merging");
}

aq_status aq_coll_bcast(aq_coll *coll, void *data, int64_t bytes, int root) {
    if (aq_comm_rank(coll->comm) == root)
        coll->bytes_sent += bytes * (aq_comm_size(coll->comm) - 1);
    coll->n_call++;
    return aq_comm_bcast(coll->comm, data, (size_t)bytes, root);
}

int64_t aq_coll_bytes_sent(const aq_coll *coll) {
    return coll->bytes_sent;
}

int64_t aq_coll_call_count(const aq_coll *coll) {
    return coll->n_call;
}
