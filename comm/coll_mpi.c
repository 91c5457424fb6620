#include "comm/coll.h"

#include <limits.h>
#include <stdlib.h>

#include "comm/comm_mpi.h"

struct aq_coll {
    aq_comm *comm;
    int64_t bytes_sent;
    int64_t n_call;
    int *counts; /* [4, size]: send and receive counts and offsets in the ints MPI takes */
};

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
    coll->counts = counts;
    *out = coll;
    return AQ_OK;
}

void aq_coll_close(aq_coll *coll) {
    if (!coll) return;
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
    return aq_comm_check(MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE,
                                       aq_comm_mpi(coll->comm)),
                         "gathering");
}

aq_status aq_coll_allgatherv(aq_coll *coll, const void *mine, const int64_t *bytes, void *all) {
    const int rank = aq_comm_rank(coll->comm), size = aq_comm_size(coll->comm);
    int *counts = coll->counts, *offsets = coll->counts + size;
    AQ_TRY(pack_counts(bytes, size, counts, offsets));
    coll->bytes_sent += bytes[rank] * (size - 1);
    coll->n_call++;
    return aq_comm_check(MPI_Allgatherv(mine, counts[rank], MPI_BYTE, all, counts, offsets,
                                        MPI_BYTE, aq_comm_mpi(coll->comm)),
                         "gathering");
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
    return aq_comm_check(MPI_Alltoallv(send, send_counts, send_offsets, MPI_BYTE, recv, recv_counts,
                                       recv_offsets, MPI_BYTE, aq_comm_mpi(coll->comm)),
                         "exchanging");
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
