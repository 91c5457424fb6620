# Tests of engine.
add_library(aq_engine_case STATIC engine/engine_case.c)
target_link_libraries(aq_engine_case PUBLIC aq_engine aq_test_support)

aqua_add_test(engine plan LIBS aq_engine)
aqua_add_test(engine kvcache LIBS aq_engine)
aqua_add_mpi_test(engine forward LIBS aq_engine_case)
aqua_add_mpi_test(engine session LIBS aq_engine_case)
aqua_add_mpi_test(engine engine LIBS aq_engine_case)
aqua_add_mpi_test(engine prefill LIBS aq_engine_case)
aqua_add_mpi_test(engine decode LIBS aq_engine_case)
target_sources(test_decode PRIVATE support/malloc_count.c)
