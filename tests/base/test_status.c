/* Status: codes have names, the error text is one line and belongs to its thread. */
#include "src/base/status.h"

#include <string.h>

#include "src/base/threads.h"
#include "tests/support/suite.h"

static const aq_status codes[] = {
#define CODE(name, text) name,
    AQ_STATUS_LIST(CODE)
#undef CODE
};

static const char *const names[] = {
#define NAME(name, text) #name,
    AQ_STATUS_LIST(NAME)
#undef NAME
};

#define N_CODE (int)(sizeof codes / sizeof codes[0])

static void codes_are_named(void) {
    CU_ASSERT_EQUAL(AQ_OK, 0);
    for (int i = 0; i < N_CODE; i++) {
        CU_ASSERT_STRING_EQUAL(aq_status_name(codes[i]), names[i]);
        CU_ASSERT_TRUE(strlen(aq_status_meaning(codes[i])) > 0);
        for (int k = 0; k < i; k++)
            CU_ASSERT_STRING_NOT_EQUAL(aq_status_meaning(codes[i]), aq_status_meaning(codes[k]));
    }
    CU_ASSERT_STRING_EQUAL(aq_status_name((aq_status)N_CODE), "AQ_ERR_UNKNOWN");
    CU_ASSERT_STRING_EQUAL(aq_status_meaning((aq_status)N_CODE), "unknown status");
}

static void failing_records_and_returns(void) {
    CU_ASSERT_EQUAL(aq_fail(AQ_ERR_FORMAT, "tensor %d of %s", 7, "x.gguf"), AQ_ERR_FORMAT);
    CU_ASSERT_STRING_EQUAL(aq_error_text(), "tensor 7 of x.gguf");
    aq_fail(AQ_ERR_IO, "first\nsecond\r\nthird");
    CU_ASSERT_STRING_EQUAL(aq_error_text(), "first second  third");
}

static void a_caller_can_add_its_context(void) {
    aq_fail(AQ_ERR_IO, "no such file");
    aq_fail(AQ_ERR_IO, "loading x: %s", aq_error_text());
    CU_ASSERT_STRING_EQUAL(aq_error_text(), "loading x: no such file");
}

static void long_text_is_cut(void) {
    char text[3 * AQ_ERROR_TEXT_BYTES];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    aq_fail(AQ_ERR_LIMIT, "%s", text);
    CU_ASSERT_EQUAL(strlen(aq_error_text()), AQ_ERROR_TEXT_BYTES - 1);
    CU_ASSERT_EQUAL(strspn(aq_error_text(), "a"), AQ_ERROR_TEXT_BYTES - 1);
}

static aq_status forward(aq_status status, int *n_after) {
    AQ_TRY(status);
    ++*n_after;
    return AQ_OK;
}

static void try_forwards_failures_only(void) {
    int n_after = 0;
    CU_ASSERT_EQUAL(forward(AQ_ERR_COMM, &n_after), AQ_ERR_COMM);
    CU_ASSERT_EQUAL(n_after, 0);
    CU_ASSERT_EQUAL(forward(AQ_OK, &n_after), AQ_OK);
    CU_ASSERT_EQUAL(n_after, 1);
}

typedef struct {
    char before[2][32], after[2][32];
} thread_texts;

static void fail_in_thread(void *arg, int thread, int n_thread) {
    thread_texts *texts = arg;
    strcpy(texts->before[thread], aq_error_text());
    aq_fail(AQ_ERR_IO, "from %d of %d", thread, n_thread);
    strcpy(texts->after[thread], aq_error_text());
}

static void threads_have_their_own_text(void) {
    aq_threads *team = NULL;
    thread_texts texts;
    if (!aq_test_ok(aq_threads_open(2, &team))) return;
    aq_fail(AQ_ERR_IO, "from the caller");
    aq_threads_run(team, fail_in_thread, &texts);
    CU_ASSERT_STRING_EQUAL(texts.before[0], "from the caller");
    CU_ASSERT_STRING_EQUAL(texts.before[1], "");
    CU_ASSERT_STRING_EQUAL(texts.after[1], "from 1 of 2");
    CU_ASSERT_STRING_EQUAL(aq_error_text(), "from 0 of 2");
    aq_threads_close(team);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "codes are named", codes_are_named);
    CU_add_test(suite, "failing records and returns", failing_records_and_returns);
    CU_add_test(suite, "a caller can add its context", a_caller_can_add_its_context);
    CU_add_test(suite, "long text is cut", long_text_is_cut);
    CU_add_test(suite, "try forwards failures only", try_forwards_failures_only);
    CU_add_test(suite, "threads have their own text", threads_have_their_own_text);
}
