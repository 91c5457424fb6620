# Tests of calib.
aqua_add_test(calib basis LIBS aq_calib)
aqua_add_mpi_test(calib calibrate LIBS aq_calib)
aqua_add_test(calib gram LIBS aq_calib)
