/* Requests come out as they stand in the file, and a bad line is named. */
#include "src/model/task_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "tests/support/suite.h"

#define LINE(context, continuation, doc, idx, gold)                                                \
    "{\"context\": \"" context "\", \"continuation\": \"" continuation "\", \"doc_id\": " #doc     \
    ", \"idx\": " #idx ", \"gold\": " #gold "}\n"

static char path[512];

static aq_status read_text(const char *text, aq_task_list *list) {
    snprintf(path, sizeof path, "%s/tasks.jsonl", aq_test_temp_dir());
    CU_ASSERT_EQUAL_FATAL(aq_file_write(path, text, strlen(text)), AQ_OK);
    return aq_task_list_read(path, list);
}

static void test_requests(void) {
    aq_task_list list;
    if (!aq_test_ok(
            read_text(LINE("Sky is", " blue", 7, 1, 1) "\n \r\n" LINE("", "\\u00e4\\n", 3, 0, 0)
                          LINE("Sky is", " a \\\"b\\\"", 7, 0, 1),
                      &list)))
        return;
    CU_ASSERT_EQUAL_FATAL(list.n, 3);
    CU_ASSERT_STRING_EQUAL(list.requests[0].context, "Sky is");
    CU_ASSERT_STRING_EQUAL(list.requests[0].continuation, " blue");
    CU_ASSERT_EQUAL(list.requests[0].doc, 7);
    CU_ASSERT_EQUAL(list.requests[0].idx, 1);
    CU_ASSERT_EQUAL(list.requests[0].gold, 1);
    CU_ASSERT_STRING_EQUAL(list.requests[1].context, "");
    CU_ASSERT_STRING_EQUAL(list.requests[1].continuation, "\xc3\xa4\n");
    CU_ASSERT_EQUAL(list.requests[1].line, 4);
    CU_ASSERT_STRING_EQUAL(list.requests[2].continuation, " a \"b\"");
    int64_t *order = NULL;
    if (aq_test_ok(aq_task_list_order(&list, &order))) {
        CU_ASSERT_EQUAL(order[0], 1);
        CU_ASSERT_EQUAL(order[1], 2);
        CU_ASSERT_EQUAL(order[2], 0);
    }
    free(order);
    aq_task_list_free(&list);
    CU_ASSERT_EQUAL(list.n, 0);
    aq_task_list_free(&list);
}

/* The last line may lack its newline, and other keys do not matter. */
static void test_loose(void) {
    aq_task_list list;
    if (!aq_test_ok(read_text("{\"context\":\"a\",\"continuation\":\"b\",\"doc_id\":0,\"idx\":0,"
                              "\"gold\":0,\"task\":\"arc\"}",
                              &list)))
        return;
    CU_ASSERT_EQUAL(list.n, 1);
    aq_task_list_free(&list);
}

static void refuse(const char *text, const char *part) {
    aq_task_list list;
    aq_test_fails(read_text(text, &list), AQ_ERR_FORMAT, part);
    CU_ASSERT_PTR_NULL(list.requests);
}

static void test_refused(void) {
    refuse("", "holds no requests");
    refuse("\n\n", "holds no requests");
    refuse(LINE("a", "b", 0, 0, 0) "{\"context\": \n", "tasks.jsonl, line 2");
    refuse("[1]\n", "tasks.jsonl, line 1");
    refuse("{\"continuation\":\"b\",\"doc_id\":0,\"idx\":0,\"gold\":0}", "context is missing");
    refuse("{\"context\":\"b\",\"doc_id\":0,\"idx\":0,\"gold\":0}", "continuation is missing");
    refuse("{\"context\":1,\"continuation\":\"b\",\"doc_id\":0,\"idx\":0,\"gold\":0}",
           "not a text");
    refuse("{\"context\":\"a\",\"continuation\":\"b\",\"doc_id\":0,\"idx\":0}", "gold is missing");
    refuse(LINE("a", "b", 0, 1.5, 0), "line 1: key idx");
    refuse(LINE("a", "b", -1, 0, 0), "line 1: key doc_id");
    refuse(LINE("a", "", 0, 0, 0), "continuation is empty");
    refuse(LINE("a", "b", 0, 0, 0) LINE("c", "d", 0, 0, 0), "line 2: idx 0 of doc_id 0");
    refuse(LINE("a", "b", 0, 0, 0) LINE("c", "d", 0, 1, 1), "line 2: gold is 1");
    refuse(LINE("a", "b", 4, 0, 2) LINE("c", "d", 4, 1, 2), "doc_id 4 has no choice");
    aq_task_list list;
    aq_test_fails(aq_task_list_read("/nowhere/x", &list), AQ_ERR_IO, "/nowhere/x");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "requests", test_requests);
    CU_add_test(suite, "loose", test_loose);
    CU_add_test(suite, "refused", test_refused);
}
