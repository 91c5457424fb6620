/* What a fuzz target provides. With clang's libFuzzer (-fsanitize=fuzzer) the target's file is
 * linked alone; everywhere else with fuzz_main.c, which replays files and mutates them. */
#ifndef AQ_TESTS_FUZZ_FUZZ_H
#define AQ_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* Runs the code under test on any bytes; must return 0 and neither crash nor leak. The name is
 * libFuzzer's. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Good input number i to start from, in fresh memory the caller frees; *data is NULL from the
 * number of inputs on. AQ_ERR_MEMORY. Local. */
aq_status aq_fuzz_seed(int i, uint8_t **data, size_t *bytes);

#endif
