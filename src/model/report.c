#include "src/model/report.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"

#define MAX_DEPTH 8

struct aq_report {
    cJSON *group[MAX_DEPTH + 1]; /* [0] is the document, [depth] the innermost open group */
    int depth;
    aq_status status;
};

aq_status aq_report_open(aq_report **out) {
    aq_report *report = calloc(1, sizeof *report);
    *out = report;
    if (report) report->group[0] = cJSON_CreateObject();
    if (report && report->group[0]) return AQ_OK;
    free(report);
    *out = NULL;
    return aq_fail(AQ_ERR_MEMORY, "no memory for a report");
}

void aq_report_close(aq_report *report) {
    if (!report) return;
    cJSON_Delete(report->group[0]);
    free(report);
}

/* Hands item to the innermost group; NULL marks the report as failed. */
static void add(aq_report *report, const char *key, cJSON *item) {
    cJSON *group = report->group[report->depth];
    const int added = item && (cJSON_IsArray(group) ? cJSON_AddItemToArray(group, item)
                                                    : cJSON_AddItemToObject(group, key, item));
    if (added) return;
    cJSON_Delete(item);
    report->status = AQ_ERR_MEMORY;
}

void aq_report_text(aq_report *report, const char *key, const char *text) {
    add(report, key, cJSON_CreateString(text));
}

void aq_report_int(aq_report *report, const char *key, int64_t value) {
    add(report, key, cJSON_CreateNumber((double)value));
}

void aq_report_real(aq_report *report, const char *key, double value) {
    add(report, key, cJSON_CreateNumber(value));
}

void aq_report_ids(aq_report *report, const char *key, const int32_t *ids, int64_t n) {
    add(report, key, cJSON_CreateIntArray(ids, (int)n));
}

static void open_group(aq_report *report, const char *key, cJSON *group) {
    assert(report->depth < MAX_DEPTH);
    add(report, key, group);
    report->group[report->depth + 1] = report->status == AQ_OK ? group : report->group[0];
    report->depth++;
}

void aq_report_group(aq_report *report, const char *key) {
    open_group(report, key, cJSON_CreateObject());
}

void aq_report_list(aq_report *report, const char *key) {
    open_group(report, key, cJSON_CreateArray());
}

void aq_report_end(aq_report *report) {
    assert(report->depth > 0);
    report->depth--;
}

char *aq_report_print(const aq_report *report) {
    return report->status == AQ_OK ? cJSON_Print(report->group[0]) : NULL;
}

aq_status aq_report_write(const aq_report *report, const char *path) {
    char *text = aq_report_print(report);
    if (!text) return aq_fail(AQ_ERR_MEMORY, "no memory to write the report %s", path);
    const size_t length = strlen(text);
    text[length] = '\n'; /* the NUL's place: the file ends with a newline */
    aq_status status = aq_file_write(path, text, length + 1);
    free(text);
    return status;
}
