# Tests of model.
aqua_add_test(model bpe LIBS aq_model)
aqua_add_test(model pretokenizer LIBS aq_model)
aqua_add_test(model special_tokens LIBS aq_model)
aqua_add_test(model spm LIBS aq_model)
aqua_add_test(model tokenizer LIBS aq_model)
aqua_add_test(model vocabulary LIBS aq_model)
aqua_add_test(model projection_file LIBS aq_model PkgConfig::XXHASH)
aqua_add_test(model fingerprint LIBS aq_model)
aqua_add_test(model gguf LIBS aq_model)
aqua_add_test(model gguf_lookup LIBS aq_model)
aqua_add_test(model model_config LIBS aq_model)
aqua_add_test(model model_rope LIBS aq_model)
aqua_add_test(model model_weights LIBS aq_model)
aqua_add_test(model name_index LIBS aq_model)

# A short look for crashes; by hand, run it longer: tests/fuzz/fuzz_main.c says how.
add_executable(fuzz_gguf fuzz/fuzz_gguf.c fuzz/fuzz_main.c)
target_link_libraries(fuzz_gguf PRIVATE aq_test_support aq_model)
add_test(NAME fuzz_gguf COMMAND fuzz_gguf 2 1
  ${CMAKE_CURRENT_SOURCE_DIR}/data/hf/llama/model.gguf)
add_executable(fuzz_tokenizer fuzz/fuzz_tokenizer.c fuzz/fuzz_main.c)
target_link_libraries(fuzz_tokenizer PRIVATE aq_test_support aq_model)
add_test(NAME fuzz_tokenizer COMMAND fuzz_tokenizer 2 1)
set_tests_properties(fuzz_gguf fuzz_tokenizer PROPERTIES LABELS "serial" TIMEOUT 120
  RESOURCE_LOCK fuzz-last-input)
