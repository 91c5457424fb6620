/* Data plane: tensors exchanged between ranks inside a step. Host memory, over MPI.
 *
 * Counts are in bytes and may be 0 for any rank. Every call adds what this rank puts on the wire
 * for others to aq_coll_bytes_sent, by the least a rank must send: what it owns times who must get
 * it. */
#ifndef AQ_COMM_COLL_H
#define AQ_COMM_COLL_H

#include <stdint.h>

#include "comm/comm.h"

typedef struct aq_coll aq_coll;

/* A data plane over the ranks of comm, which must outlive it. The caller closes it. AQ_ERR_MEMORY,
 * AQ_ERR_COMM. Collective. */
aq_status aq_coll_open(aq_comm *comm, aq_coll **out);
void aq_coll_close(aq_coll *coll);

/* all[r * bytes ..] = mine[0 .. bytes) of rank r, on every rank. AQ_ERR_COMM. Collective. */
aq_status aq_coll_allgather(aq_coll *coll, const void *mine, int64_t bytes, void *all);

/* The same with bytes[r] from rank r, packed in rank order. bytes[] is equal on all ranks. `mine`
 * may lie where it belongs in `all`, on all ranks or on none. AQ_ERR_COMM, AQ_ERR_LIMIT (2 GiB in
 * all). Collective. */
aq_status aq_coll_allgatherv(aq_coll *coll, const void *mine, const int64_t *bytes, void *all);

/* Sends send_bytes[r] bytes to rank r, packed in rank order in `send`, and receives recv_bytes[r]
 * from it into `recv` likewise; recv_bytes here is send_bytes there. AQ_ERR_COMM, AQ_ERR_LIMIT.
 * Collective. */
aq_status aq_coll_alltoallv(aq_coll *coll, const void *send, const int64_t *send_bytes, void *recv,
                            const int64_t *recv_bytes);

/* into[i] = from[i] and into[i] in one, for n rows of row_bytes bytes. Associative but for
 * rounding, and the same bits when from and into are exchanged. */
typedef void (*aq_coll_join)(const void *from, void *into, int64_t n, int64_t row_bytes);

/* rows[n] of row_bytes bytes each = those of all ranks joined two by two in an order that MPI
 * chooses (a user-defined operation of its all-reduce), the same bits on every rank. In the mean a
 * rank sends its rows 2 (P - 1) / P times: up a tree, and down. Of a process one call at a time.
 * AQ_ERR_COMM, AQ_ERR_LIMIT. Collective. */
aq_status aq_coll_join_rows(aq_coll *coll, void *rows, int64_t n, int64_t row_bytes,
                            aq_coll_join join);

/* Copies `bytes` bytes from the root's memory to everyone's. AQ_ERR_COMM. Collective. */
aq_status aq_coll_bcast(aq_coll *coll, void *data, int64_t bytes, int root);

/* Bytes this rank has sent to others and messages it took part in, since opening. Local. */
int64_t aq_coll_bytes_sent(const aq_coll *coll);
int64_t aq_coll_call_count(const aq_coll *coll);

#endif
