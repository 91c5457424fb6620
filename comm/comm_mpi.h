/* The MPI communicator behind an aq_comm, and how the files of comm/ wait on it. For them alone. */
#ifndef AQ_COMM_COMM_MPI_H
#define AQ_COMM_COMM_MPI_H

#include <mpi.h>
#include <stdbool.h>

#include "comm/comm.h"

MPI_Comm aq_comm_mpi(const aq_comm *comm);

/* AQ_OK for MPI_SUCCESS, else AQ_ERR_COMM with MPI's own text for what failed. Local. */
aq_status aq_comm_check(int mpi_code, const char *what);

/* Waits until the request that a call of MPI with this code has begun is complete; `what` is that
 * call in words, as "gathering". AQ_ERR_COMM if MPI fails, or if the deadline of aq_comm_deadline
 * passes: what MPI was given must then stay as it is until the process ends. */
aq_status aq_comm_wait(int mpi_code, MPI_Request *request, const char *what);

/* Starts the heartbeat of the ranks of `world`, which must live on. Without `shared` no table is
 * shared, as if each rank had a host of its own. AQ_ERR_COMM, AQ_ERR_MEMORY. Collective. */
aq_status aq_heartbeat_open(MPI_Comm world, bool shared);

/* Ends it; the table stays readable until the process ends. Local. */
void aq_heartbeat_close(void);

/* Says that this rank waits for others, at the time now_ns; 0: no more; AQ_WAITED_IN_VAIN: it did,
 * has given up, and is not missing. In a wait, asks those of other hosts once a second whether they
 * are there. Local. */
#define AQ_WAITED_IN_VAIN INT64_MAX
void aq_heartbeat_wait(int64_t now_ns);

/* A number that changes when another rank of this host notes anything. Local. */
int64_t aq_heartbeat_pulse(void);

/* Answers ranks of other hosts that call the roll. To be called often while waiting. Local. */
void aq_heartbeat_answer(void);

/* Which ranks do not wait like this one: calls the roll of other hosts for a second, and looks at
 * the table for those of this one, where a rank waits if it said so within fresh_ns. Leaves the
 * text for a wait of `seconds`, and gives lower ranks that do wait a second to claim the line.
 * Always AQ_ERR_COMM. Local. */
aq_status aq_heartbeat_find_missing(const char *what, double seconds, int64_t fresh_ns);

#endif
