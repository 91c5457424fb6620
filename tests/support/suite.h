/* What a test file provides and may use. Each tests/<folder>/test_<module>.c is one program: it
 * defines aq_test_register and links one of the two mains (serial_main.c, mpi_main.c). */
#ifndef AQ_TESTS_SUPPORT_SUITE_H
#define AQ_TESTS_SUPPORT_SUITE_H

#include <CUnit/CUnit.h>
#include <stdbool.h>

#include "src/base/status.h"

/* Adds the file's tests to the suite, with CU_add_test(suite, name, function). */
void aq_test_register(CU_pSuite suite);

/* Says visibly that the rest of a test is not run here, and why; a program whose every test was
 * skipped exits with 77. Use: if (!there) { aq_test_skip("no model; run launch/fetch_model");
 * return; } */
void aq_test_skip(const char *reason);
int aq_test_skips(void);

/* Expects AQ_OK and prints the error text otherwise. Returns whether it was AQ_OK. */
bool aq_test_ok(aq_status status);

/* Expects the code, and that the error text contains `part`. */
void aq_test_fails(aq_status status, aq_status expected, const char *part);

/* Folder tests/data of the source tree (compiled in), and a fresh temporary folder path for this
 * process, made on first use and removed at exit. */
const char *aq_test_data_dir(void);
const char *aq_test_temp_dir(void);

#endif
