# Tests of launch: the option table, the scores, and the program from outside.
aqua_add_test(launch options LIBS aq_program)
aqua_add_test(launch lists LIBS aq_program)
aqua_add_test(launch hosts LIBS aq_program)
aqua_add_test(launch needle_text LIBS aq_program)
aqua_add_test(launch shares LIBS aq_program)

add_executable(make_tiny_model launch/make_tiny_model.c)
target_link_libraries(make_tiny_model PRIVATE aq_test_support)
add_test(NAME cli_failures COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/launch/cli_failures
  $<TARGET_FILE:aqua-dist> $<TARGET_FILE:make_tiny_model>)
add_test(NAME evals COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/launch/evals
  $<TARGET_FILE:aqua-dist> $<TARGET_FILE:make_tiny_model>)
add_test(NAME plan_command COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/launch/plan
  $<TARGET_FILE:aqua-dist> $<TARGET_FILE:make_tiny_model>)
add_test(NAME faults COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/launch/faults
  $<TARGET_FILE:aqua-dist> $<TARGET_FILE:make_tiny_model>)
set_tests_properties(cli_failures evals plan_command faults PROPERTIES TIMEOUT 600 LABELS mpi)
# The longest ones begin first, and others run beside them; while they run alone a core is idle.
set_tests_properties(cli_failures evals PROPERTIES COST 100)
foreach(name traffic network_faults)
  add_test(NAME ${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/launch/${name}
    $<TARGET_FILE:aqua-dist> $<TARGET_FILE:make_tiny_model>)
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600 PROCESSORS 2
    LABELS "mpi;long")
endforeach()
# faults slows others down, and is slowed down. What sanitizers would see here they see in
# heartbeat, evals and plan_command: faults, compare_tools and bench_lanes are left to the release
# build.
set_tests_properties(faults PROPERTIES PROCESSORS 2 LABELS "mpi;slow")

# docs/quality.md is what its lines give; and that the tools of bench/quality make it.
add_test(NAME quality_document COMMAND ${CMAKE_SOURCE_DIR}/bench/quality/render --check)
set_tests_properties(quality_document PROPERTIES TIMEOUT 60 LABELS rules)
add_test(NAME quality_tools COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/launch/quality_tools
  ${CMAKE_SOURCE_DIR})
set_tests_properties(quality_tools PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 900 PROCESSORS 2
  LABELS slow)

add_test(NAME device_tools COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/launch/device_tools
  ${CMAKE_SOURCE_DIR})
set_tests_properties(device_tools PROPERTIES TIMEOUT 60 LABELS slow)

# Of bench/, which may be left out of a build; keep these last.
if(NOT TARGET aq_bench)
  return()
endif()
aqua_add_test(launch bench_options LIBS aq_bench)
aqua_add_test(launch statistics LIBS aq_bench)
aqua_add_test(launch break_even LIBS aq_bench)
aqua_add_test(launch kernel_case LIBS aq_bench)
aqua_add_test(launch made_model LIBS aq_bench)
aqua_add_test(launch phases LIBS aq_bench)
add_test(NAME compare_tools COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/launch/compare_tools
  ${CMAKE_SOURCE_DIR} $<TARGET_FILE:aqua-dist-bench> $<TARGET_FILE:aqua-dist>
  $<TARGET_FILE:make_tiny_model>)
set_tests_properties(compare_tools PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600 PROCESSORS 2
  LABELS "mpi;slow")
add_test(NAME bench_lanes COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/launch/bench_lanes
  $<TARGET_FILE:aqua-dist-bench> $<TARGET_FILE:aqua-dist> $<TARGET_FILE:make_tiny_model>)
set_tests_properties(bench_lanes PROPERTIES TIMEOUT 600 PROCESSORS 2 LABELS "mpi;slow")

add_test(NAME real_model COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/launch/real_model
  $<TARGET_FILE:aqua-dist>)
add_test(NAME real_model_long COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/launch/real_model
  $<TARGET_FILE:aqua-dist> long)
set_tests_properties(real_model real_model_long PROPERTIES TIMEOUT 1200 PROCESSORS 2
  SKIP_RETURN_CODE 77 LABELS "mpi;slow")
set_property(TEST real_model_long APPEND PROPERTY LABELS long)
