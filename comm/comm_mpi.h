/* The MPI communicator behind an aq_comm, for the files of comm/ alone. */
#ifndef AQ_COMM_COMM_MPI_H
#define AQ_COMM_COMM_MPI_H

#include <mpi.h>

#include "comm/comm.h"

MPI_Comm aq_comm_mpi(const aq_comm *comm);

/* AQ_OK for MPI_SUCCESS, else AQ_ERR_COMM with MPI's own text for what failed. Local. */
aq_status aq_comm_check(int mpi_code, const char *what);

#endif
