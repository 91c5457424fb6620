# Rules on the source tree, each with planted violations that it must find; see rule.sh.
foreach(rule layer_rule mirror_rule size_rule format_rule)
  add_test(NAME ${rule} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/rules/${rule})
  set_tests_properties(${rule} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 120 LABELS rules)
endforeach()

add_test(NAME build_clang COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/rules/build_clang
  ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/build/clang)
set_tests_properties(build_clang PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 900 RUN_SERIAL ON
  LABELS rules)
