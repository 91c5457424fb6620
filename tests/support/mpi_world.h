/* What mpi_main.c gives the MPI tests beside suite.h. */
#ifndef AQ_TESTS_SUPPORT_MPI_WORLD_H
#define AQ_TESTS_SUPPORT_MPI_WORLD_H

#include "comm/comm.h"

/* The ranks that run this test; open while tests run. Owned by the main. Local. */
aq_comm *aq_test_world(void);

#endif
