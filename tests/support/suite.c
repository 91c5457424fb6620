#define _XOPEN_SOURCE 700
#include "tests/support/suite.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int n_skip;
static char temp_dir[256];

void aq_test_skip(const char *reason) {
    n_skip++;
    printf("SKIP: %s: %s\n", CU_get_current_test() ? CU_get_current_test()->pName : "suite",
           reason);
}

int aq_test_skips(void) {
    return n_skip;
}

bool aq_test_ok(aq_status status) {
    CU_ASSERT_EQUAL(status, AQ_OK);
    if (status != AQ_OK) printf("  %s: %s\n", aq_status_name(status), aq_error_text());
    return status == AQ_OK;
}

void aq_test_fails(aq_status status, aq_status expected, const char *part) {
    CU_ASSERT_EQUAL(status, expected);
    const bool said = status != AQ_OK && strstr(aq_error_text(), part) != NULL;
    CU_ASSERT_TRUE(said);
    if (status != expected || !said)
        printf("  got %s \"%s\", expected %s with \"%s\"\n", aq_status_name(status),
               status == AQ_OK ? "" : aq_error_text(), aq_status_name(expected), part);
}

const char *aq_test_data_dir(void) {
    return AQ_TEST_DATA_DIR;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *level) {
    (void)st;
    (void)kind;
    (void)level;
    return remove(path);
}

static void remove_temp_dir(void) {
    nftw(temp_dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *aq_test_temp_dir(void) {
    if (temp_dir[0] == '\0') {
        const char *base = getenv("TMPDIR");
        snprintf(temp_dir, sizeof temp_dir, "%s/aqua-test-XXXXXX", base ? base : "/tmp");
        if (!mkdtemp(temp_dir)) {
            perror(temp_dir);
            exit(1);
        }
        atexit(remove_temp_dir);
    }
    return temp_dir;
}
