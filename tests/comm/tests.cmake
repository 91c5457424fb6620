# Tests of comm.
aqua_add_mpi_test(comm comm)
aqua_add_mpi_test(comm coll)
aqua_add_mpi_test(comm heartbeat LIBS MPI::MPI_C)
