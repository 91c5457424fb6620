/* Control plane: ranks, agreement, small messages in host memory. Over MPI.
 *
 * One rank is size 1, not a special case. Functions marked Collective are called by all ranks of
 * the communicator in the same order. Errors of MPI come back as AQ_ERR_COMM. */
#ifndef AQ_COMM_COMM_H
#define AQ_COMM_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

typedef struct aq_comm aq_comm;

/* Starts MPI (funneled: only the calling thread communicates) and the heartbeat, and gives a
 * communicator over all ranks. End it with aq_comm_finish. AQ_ERR_COMM; AQ_ERR_USAGE if SLURM
 * started several copies that do not know of each other. Collective over the job. */
aq_status aq_comm_init_world(int *argc, char ***argv, aq_comm **world);

/* Closes the world and ends MPI. Collective. */
void aq_comm_finish(aq_comm *world);

/* From here on no wait of this process for other ranks lasts longer than this many seconds, 0: as
 * long as it takes. Seconds count in which this rank waits, is not suspended, and no rank of its
 * host notes anything (comm/heartbeat.h). When they are over, or MPI fails, aq_error_text() names
 * the ranks that are missing, `lost` is called, unless NULL, and the call that waited returns
 * AQ_ERR_COMM: nothing can be exchanged any more, and aq_comm_abort is what is left. Local. */
void aq_comm_deadline(double seconds, void (*lost)(void *arg), void *arg);

/* A communicator of this rank alone. The caller closes it. AQ_ERR_COMM. Local. */
aq_status aq_comm_open_self(aq_comm **out);

/* The ranks 0 .. n_rank - 1 of `comm` as a communicator of their own; the others get NULL. The
 * caller closes it. AQ_ERR_COMM. Collective over comm. */
aq_status aq_comm_open_leading(aq_comm *comm, int n_rank, aq_comm **out);

/* The ranks of `comm` in groups of n_rank that follow each other, each a communicator of its own:
 * of this rank's group. comm's size must be a multiple. The caller closes it. AQ_ERR_COMM.
 * Collective over comm. */
aq_status aq_comm_open_group(aq_comm *comm, int n_rank, aq_comm **out);

/* Frees a communicator from an open function; NULL is allowed. Collective over comm. */
void aq_comm_close(aq_comm *comm);

/* This rank, the number of ranks, how many of them share this host, and which of these it is.
 * Local.
 */
int aq_comm_rank(const aq_comm *comm);
int aq_comm_size(const aq_comm *comm);
int aq_comm_size_on_host(const aq_comm *comm);
int aq_comm_rank_on_host(const aq_comm *comm);

/* Name of this rank's host. Owned by the communicator. Local. */
const char *aq_comm_host(const aq_comm *comm);

/* One outcome for all: if any rank passes a failure, every rank returns the code and text of the
 * lowest failing rank, the text led by "rank R on HOST: " when there are several ranks. AQ_OK if
 * none failed. Setup goes local part -> agree -> communicate, so that nobody waits for a rank that
 * has left. Collective. */
aq_status aq_comm_agree(aq_comm *comm, aq_status mine);

aq_status aq_comm_barrier(aq_comm *comm);

/* Copies `bytes` bytes from the root's memory to everyone's. Collective. */
aq_status aq_comm_bcast(aq_comm *comm, void *data, size_t bytes, int root);

/* data[i] = sum over ranks of data[i], the same bits on every rank. Collective. */
aq_status aq_comm_sum_f64(aq_comm *comm, double *data, int64_t n);
aq_status aq_comm_sum_i64(aq_comm *comm, int64_t *data, int64_t n);

/* all[r * n + i] = mine[i] of rank r, on every rank. Collective. */
aq_status aq_comm_allgather_i64(aq_comm *comm, const int64_t *mine, int64_t n, int64_t *all);

/* `bytes` bytes from one rank to another, matched in order. Local to the two ranks. */
aq_status aq_comm_send(aq_comm *comm, const void *data, size_t bytes, int to);
aq_status aq_comm_recv(aq_comm *comm, void *data, size_t bytes, int from);

/* Ends the whole job at once with this exit code, from any rank, without waiting for the others.
 * Does not return. Local. */
void aq_comm_abort(aq_comm *comm, int exit_code);

#endif
