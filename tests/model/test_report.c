/* A report is exact and valid JSON whatever is put in, and appears whole or not at all. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/file.h"
#include "src/model/report.h"
#include "tests/support/suite.h"

/* The document without the white space between its parts; the caller frees it. */
static char *print_compact(const aq_report *report) {
    char *text = aq_report_print(report), *to = text;
    bool quoted = false;
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    for (const char *at = text; *at; at++) {
        if (*at == '"' && (at == text || at[-1] != '\\')) quoted = !quoted;
        if (quoted || !strchr(" \t\n", *at)) *to++ = *at;
    }
    *to = '\0';
    return text;
}

/* Closes a report and expects its document, indented or on one line. */
static void check(aq_report *report, const char *expected) {
    char *text = print_compact(report);
    CU_ASSERT_STRING_EQUAL(text, expected);
    if (strcmp(text, expected) != 0) printf("  got      %s\n  expected %s\n", text, expected);
    free(text);
    char *line = aq_report_print_line(report);
    CU_ASSERT_PTR_NOT_NULL_FATAL(line);
    CU_ASSERT_STRING_EQUAL(line, expected);
    free(line);
    aq_report_close(report);
}

static aq_report *open_report(void) {
    aq_report *report = NULL;
    CU_ASSERT_EQUAL_FATAL(aq_report_open(&report), AQ_OK);
    return report;
}

static void test_empty(void) {
    check(open_report(), "{}");
    aq_report_close(NULL);
}

static void test_groups(void) {
    aq_report *r = open_report();
    aq_report_text(r, "a", "b");
    aq_report_group(r, "g");
    aq_report_int(r, "n", 1);
    aq_report_list(r, "l");
    aq_report_int(r, "ignored", 2);
    aq_report_group(r, NULL);
    aq_report_int(r, "m", 3);
    aq_report_end(r);
    aq_report_list(r, NULL);
    aq_report_end(r);
    aq_report_end(r);
    aq_report_end(r);
    aq_report_text(r, "z", "");
    check(r, "{\"a\":\"b\",\"g\":{\"n\":1,\"l\":[2,{\"m\":3},[]]},\"z\":\"\"}");
}

static void test_deepest(void) {
    aq_report *r = open_report();
    for (int i = 0; i < 8; i++)
        aq_report_group(r, "g");
    aq_report_int(r, "n", 1);
    for (int i = 0; i < 8; i++)
        aq_report_end(r);
    aq_report_int(r, "n", 2);
    check(r, "{\"g\":{\"g\":{\"g\":{\"g\":{\"g\":{\"g\":{\"g\":{\"g\":{\"n\":1}}}}}}}},\"n\":2}");
}

/* Doubles hold 2^53; seeds and byte counts may be larger. */
static void test_whole_numbers(void) {
    aq_report *r = open_report();
    aq_report_int(r, "a", INT64_MAX);
    aq_report_int(r, "b", INT64_MIN);
    aq_report_int(r, "c", INT64_C(9007199254740993));
    aq_report_int(r, "d", -1);
    aq_report_int(r, "e", 0);
    check(r, "{\"a\":9223372036854775807,\"b\":-9223372036854775808,\"c\":9007199254740993,"
             "\"d\":-1,\"e\":0}");
}

static void test_real_numbers(void) {
    aq_report *r = open_report();
    aq_report_real(r, "short", 0.1);
    aq_report_real(r, "long", 0.1 + 0.2);
    aq_report_real(r, "third", 1.0 / 3.0);
    aq_report_real(r, "whole", 25.0);
    aq_report_real(r, "large", 1.7976931348623157e308);
    aq_report_real(r, "small", 4.9406564584124654e-324);
    check(r, "{\"short\":0.1,\"long\":0.30000000000000004,\"third\":0.3333333333333333,"
             "\"whole\":25,\"large\":1.7976931348623157e+308,\"small\":4.94065645841247e-324}");
}

/* The text between ':' and '}' of a report of one number. */
static double read_back(double value) {
    aq_report *r = open_report();
    aq_report_real(r, "n", value);
    char *text = print_compact(r);
    const double found = strtod(strchr(text, ':') + 1, NULL);
    free(text);
    aq_report_close(r);
    return found;
}

static void test_read_back(void) {
    uint64_t bits = 88172645463325252u; /* xorshift64, Marsaglia 2003 */
    for (int i = 0; i < 20000; i++) {
        double value;
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        CU_ASSERT_EQUAL(read_back(value), value);
    }
    CU_ASSERT_NOT_EQUAL(read_back(0.1 + 0.2), 0.3);
}

/* JSON has no NaN and no infinity. */
static void test_not_finite(void) {
    aq_report *r = open_report();
    aq_report_real(r, "a", NAN);
    aq_report_real(r, "b", INFINITY);
    aq_report_real(r, "c", -INFINITY);
    aq_report_text(r, "d", NULL);
    check(r, "{\"a\":null,\"b\":null,\"c\":null,\"d\":null}");
}

static void test_ids(void) {
    static const int32_t ids[] = {0, INT32_MAX, INT32_MIN, 7};
    aq_report *r = open_report();
    aq_report_ids(r, "a", ids, 4);
    aq_report_ids(r, "b", ids, 0);
    aq_report_ids(r, "c", NULL, 0); /* nothing was generated */
    check(r, "{\"a\":[0,2147483647,-2147483648,7],\"b\":[],\"c\":[]}");
}

/* Names in model files are any bytes; the document is UTF-8 without control characters. */
static void test_texts(void) {
    aq_report *r = open_report();
    aq_report_text(r, "quote", "a\"b\\c/");
    aq_report_text(r, "control", "\n\t\x01\x1f");
    aq_report_text(r, "utf8", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    aq_report_text(r, "latin1", "caf\xe9!");
    aq_report_text(r, "cut", "\xe2\x82");
    aq_report_text(r, "overlong", "\xc0\xaf");
    check(r, "{\"quote\":\"a\\\"b\\\\c/\",\"control\":\"\\n\\t\\u0001\\u001f\","
             "\"utf8\":\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\",\"latin1\":\"caf\xef\xbf\xbd!\","
             "\"cut\":\"\xef\xbf\xbd\",\"overlong\":\"\xef\xbf\xbd\xef\xbf\xbd\"}");
}

static aq_report *small_report(void) {
    aq_report *r = open_report();
    aq_report_int(r, "n", 1);
    return r;
}

static const char *path_of(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", aq_test_temp_dir(), name);
    return path;
}

static bool holds(const char *path, const char *expected) {
    char *text = NULL;
    size_t bytes = 0;
    const bool same = aq_test_ok(aq_file_read(path, &text, &bytes)) && strcmp(text, expected) == 0;
    free(text);
    return same;
}

static void test_write(void) {
    const char *path = path_of("report.json");
    aq_report *r = small_report();
    aq_test_ok(aq_report_write(r, path));
    CU_ASSERT_TRUE(holds(path, "{\n\t\"n\":\t1\n}\n"));
    aq_report_int(r, "m", 2);
    aq_test_ok(aq_report_write(r, path)); /* over the old one */
    CU_ASSERT_TRUE(holds(path, "{\n\t\"n\":\t1,\n\t\"m\":\t2\n}\n"));
    CU_ASSERT_FALSE(holds(path, "{\n\t\"n\":\t1\n}\n"));
    aq_report_close(r);
}

static void check_write_fails(const char *path, int error) {
    aq_report *r = small_report();
    aq_test_fails(aq_report_write(r, path), AQ_ERR_IO, strerror(error));
    CU_ASSERT_PTR_NOT_NULL(strstr(aq_error_text(), path));
    CU_ASSERT_PTR_NULL(strchr(aq_error_text(), '\n'));
    aq_report_close(r);
}

static void test_write_fails(void) {
    check_write_fails("/dev/full", ENOSPC);
    check_write_fails(path_of("missing/report.json"), ENOENT);
}

/* A limit on the size of files stands for a full disk: after the failure the old report is whole
 * and nothing else is in the folder. */
static void test_old_report_stays(void) {
    char path[512], temporary[600];
    struct rlimit old, none = {0, 0};
    snprintf(path, sizeof path, "%s", path_of("old.json"));
    snprintf(temporary, sizeof temporary, "%s.tmp-%ld", path, (long)getpid());
    aq_test_ok(aq_file_write(path, "old\n", 4));
    CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_FSIZE, &old), 0);
    none.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN); /* so that write fails with EFBIG instead */
    CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_FSIZE, &none), 0);
    check_write_fails(path, EFBIG);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, SIG_DFL);
    CU_ASSERT_TRUE(holds(path, "old\n"));
    CU_ASSERT_NOT_EQUAL(access(temporary, F_OK), 0);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "empty", test_empty);
    CU_add_test(suite, "groups", test_groups);
    CU_add_test(suite, "deepest", test_deepest);
    CU_add_test(suite, "whole numbers", test_whole_numbers);
    CU_add_test(suite, "real numbers", test_real_numbers);
    CU_add_test(suite, "read back", test_read_back);
    CU_add_test(suite, "not finite", test_not_finite);
    CU_add_test(suite, "ids", test_ids);
    CU_add_test(suite, "texts", test_texts);
    CU_add_test(suite, "write", test_write);
    CU_add_test(suite, "write fails", test_write_fails);
    CU_add_test(suite, "old report stays", test_old_report_stays);
}
