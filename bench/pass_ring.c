/* What passing keys and values round a ring would send, by really sending it:
 *
 *     mpirun -n P pass_ring BYTES
 *
 * Each rank has a block of BYTES bytes and hands the block that it has to the next rank, P - 1
 * times, as a ring does for each decoded token with the keys and values of all layers. Rank 0
 * prints the bytes that a rank has sent and the seconds that took, from a barrier to the slowest
 * rank's end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/coll.h"
#include "src/base/clock.h"

typedef struct {
    aq_coll *coll;
    char *block, *next;
    int64_t *send_bytes, *recv_bytes; /* [n_rank] */
} ring;

static aq_status open_ring(aq_comm *world, int64_t bytes, ring *out) {
    const int n_rank = aq_comm_size(world), rank = aq_comm_rank(world);
    out->block = calloc((size_t)bytes, 1);
    out->next = calloc((size_t)bytes, 1);
    out->send_bytes = calloc((size_t)n_rank, sizeof *out->send_bytes);
    out->recv_bytes = calloc((size_t)n_rank, sizeof *out->recv_bytes);
    aq_status status = AQ_OK;
    if (!out->block || !out->next || !out->send_bytes || !out->recv_bytes)
        status = aq_fail(AQ_ERR_MEMORY, "no memory for two blocks of %lld bytes", (long long)bytes);
    AQ_TRY(aq_comm_agree(world, status));
    memset(out->block, rank, (size_t)bytes);
    out->send_bytes[(rank + 1) % n_rank] = bytes;
    out->recv_bytes[(rank + n_rank - 1) % n_rank] = bytes;
    return aq_coll_open(world, &out->coll);
}

static void close_ring(ring *ring) {
    aq_coll_close(ring->coll);
    free(ring->block);
    free(ring->next);
    free(ring->send_bytes);
    free(ring->recv_bytes);
}

static aq_status pass(aq_comm *world, ring *ring) {
    const int n_rank = aq_comm_size(world), rank = aq_comm_rank(world);
    AQ_TRY(aq_comm_barrier(world));
    const int64_t start_ns = aq_clock_ns();
    for (int i = 0; i < n_rank - 1; i++) {
        AQ_TRY(aq_coll_alltoallv(ring->coll, ring->block, ring->send_bytes, ring->next,
                                 ring->recv_bytes));
        char *had = ring->block;
        ring->block = ring->next;
        ring->next = had;
    }
    AQ_TRY(aq_comm_barrier(world));
    const double seconds = (double)(aq_clock_ns() - start_ns) * 1e-9;
    if (ring->block[0] != (char)((rank + 1) % n_rank))
        return aq_fail(AQ_ERR_COMM, "rank %d has another block than the next rank's", rank);
    if (rank == 0) printf("%lld %.6f\n", (long long)aq_coll_bytes_sent(ring->coll), seconds);
    return AQ_OK;
}

int main(int argc, char **argv) {
    aq_comm *world = NULL;
    ring ring = {0};
    if (aq_comm_init_world(&argc, &argv, &world) != AQ_OK) {
        fprintf(stderr, "pass_ring: %s\n", aq_error_text());
        return 1;
    }
    const int64_t bytes = argc == 2 ? strtoll(argv[1], NULL, 10) : 0;
    aq_status status = AQ_OK;
    if (bytes <= 0) status = aq_fail(AQ_ERR_USAGE, "usage: pass_ring BYTES");
    if (status == AQ_OK) status = open_ring(world, bytes, &ring);
    if (status == AQ_OK) status = pass(world, &ring);
    if (status != AQ_OK && aq_comm_rank(world) == 0)
        fprintf(stderr, "pass_ring: %s\n", aq_error_text());
    close_ring(&ring);
    aq_comm_finish(world);
    return status == AQ_OK ? 0 : 1;
}
