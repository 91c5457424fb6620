#include "src/model/task_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/gz.h"
#include "src/model/json.h"

#define MAX_NUMBER (INT64_C(1) << 53)

static char *copy(const char *text) {
    char *out = malloc(strlen(text) + 1);
    return out ? strcpy(out, text) : NULL;
}

/* `where` is "FILE, line N". */
static aq_status fill(const char *where, const cJSON *object, aq_task_request *out) {
    const aq_json json = {where, "", object};
    const char *context = NULL, *continuation = NULL;
    AQ_TRY(aq_json_text(&json, "context", NULL, &context));
    AQ_TRY(aq_json_text(&json, "continuation", NULL, &continuation));
    AQ_TRY(aq_json_int(&json, "doc_id", 0, MAX_NUMBER, AQ_JSON_REQUIRED, &out->doc));
    AQ_TRY(aq_json_int(&json, "idx", 0, MAX_NUMBER, AQ_JSON_REQUIRED, &out->idx));
    AQ_TRY(aq_json_int(&json, "gold", 0, MAX_NUMBER, AQ_JSON_REQUIRED, &out->gold));
    if (!context || !continuation)
        return aq_fail(AQ_ERR_FORMAT, "%s: key %s is missing", where,
                       context ? "continuation" : "context");
    if (!continuation[0]) return aq_fail(AQ_ERR_FORMAT, "%s: the continuation is empty", where);
    out->context = copy(context);
    out->continuation = copy(continuation);
    return out->context && out->continuation
               ? AQ_OK
               : aq_fail(AQ_ERR_MEMORY, "no memory for the requests; at %s", where);
}

static aq_status add_line(const char *path, int64_t line, const char *text, size_t bytes,
                          aq_task_list *list) {
    char where[512];
    cJSON *object = NULL;
    snprintf(where, sizeof where, "%s, line %lld", path, (long long)line);
    AQ_TRY(aq_json_parse(where, text, bytes, &object));
    aq_task_request *request = &list->requests[list->n++];
    *request = (aq_task_request){.line = line};
    const aq_status status = fill(where, object, request);
    cJSON_Delete(object);
    return status;
}

static int64_t count_lines(const char *data, size_t bytes) {
    int64_t n = 1;
    for (size_t i = 0; i < bytes; i++)
        n += data[i] == '\n';
    return n;
}

static aq_status read_lines(const char *path, const char *data, size_t bytes, aq_task_list *list) {
    const int64_t n_line = count_lines(data, bytes);
    size_t at = 0;
    list->requests = calloc((size_t)n_line, sizeof *list->requests);
    if (!list->requests) return aq_fail(AQ_ERR_MEMORY, "no memory for the requests of %s", path);
    for (int64_t line = 1; line <= n_line; line++) {
        const char *text = data + at;
        const char *end = memchr(text, '\n', bytes - at);
        const size_t length = end ? (size_t)(end - text) : bytes - at;
        at += length + 1;
        if (strspn(text, " \t\r") >= length) continue;
        AQ_TRY(add_line(path, line, text, length, list));
    }
    return list->n > 0 ? AQ_OK : aq_fail(AQ_ERR_FORMAT, "%s holds no requests", path);
}

static int by_number(int64_t a, int64_t b) {
    return (a > b) - (a < b);
}

static int by_place(const void *a, const void *b) {
    const aq_task_request *x = *(const aq_task_request *const *)a;
    const aq_task_request *y = *(const aq_task_request *const *)b;
    const int doc = by_number(x->doc, y->doc), idx = by_number(x->idx, y->idx);
    return doc ? doc : idx ? idx : by_number(x->line, y->line);
}

aq_status aq_task_list_order(const aq_task_list *list, int64_t **order) {
    const aq_task_request **sorted = malloc((size_t)list->n * sizeof *sorted + 1);
    *order = malloc((size_t)list->n * sizeof **order + 1);
    if (sorted && *order) {
        for (int64_t i = 0; i < list->n; i++)
            sorted[i] = &list->requests[i];
        qsort(sorted, (size_t)list->n, sizeof *sorted, by_place);
        for (int64_t i = 0; i < list->n; i++)
            (*order)[i] = sorted[i] - list->requests;
        free(sorted);
        return AQ_OK;
    }
    free(sorted);
    free(*order);
    *order = NULL;
    return aq_fail(AQ_ERR_MEMORY, "no memory for the order of the requests");
}

/* The choices order[0 .. n) of one doc_id. */
static aq_status check_choices(const char *path, const aq_task_list *list, const int64_t *order,
                               int64_t n) {
    const aq_task_request *first = &list->requests[order[0]];
    bool there = false;
    for (int64_t i = 0; i < n; i++) {
        const aq_task_request *request = &list->requests[order[i]];
        if (i > 0 && request->idx == list->requests[order[i - 1]].idx)
            return aq_fail(AQ_ERR_FORMAT, "%s, line %lld: idx %lld of doc_id %lld is there twice",
                           path, (long long)request->line, (long long)request->idx,
                           (long long)request->doc);
        if (request->gold != first->gold)
            return aq_fail(AQ_ERR_FORMAT,
                           "%s, line %lld: gold is %lld, in line %lld of the same "
                           "doc_id it is %lld",
                           path, (long long)request->line, (long long)request->gold,
                           (long long)first->line, (long long)first->gold);
        there = there || request->idx == request->gold;
    }
    if (there) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT, "%s, line %lld: doc_id %lld has no choice with its gold idx %lld",
                   path, (long long)first->line, (long long)first->doc, (long long)first->gold);
}

static aq_status check_docs(const char *path, const aq_task_list *list) {
    int64_t *order = NULL;
    AQ_TRY(aq_task_list_order(list, &order));
    aq_status status = AQ_OK;
    for (int64_t begin = 0, end; status == AQ_OK && begin < list->n; begin = end) {
        const int64_t doc = list->requests[order[begin]].doc;
        for (end = begin; end < list->n && list->requests[order[end]].doc == doc; end++)
            ;
        status = check_choices(path, list, order + begin, end - begin);
    }
    free(order);
    return status;
}

aq_status aq_task_list_read(const char *path, aq_task_list *out) {
    char *data = NULL;
    size_t bytes = 0;
    *out = (aq_task_list){NULL, 0};
    AQ_TRY(aq_gz_read(path, &data, &bytes));
    aq_status status = read_lines(path, data, bytes, out);
    free(data);
    if (status == AQ_OK) status = check_docs(path, out);
    if (status != AQ_OK) aq_task_list_free(out);
    return status;
}

void aq_task_list_free(aq_task_list *list) {
    for (int64_t i = 0; i < list->n; i++) {
        free(list->requests[i].context);
        free(list->requests[i].continuation);
    }
    free(list->requests);
    *list = (aq_task_list){NULL, 0};
}
