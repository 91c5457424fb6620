#include "src/model/report.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "src/model/utf8.h"

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

/* JSON is UTF-8; names in model files and paths need not be. Fresh memory, or NULL. */
static char *well_formed(const char *text) {
    static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */
    const size_t n = strlen(text);
    char *copy = malloc(3 * n + 1), *to = copy;
    for (size_t at = 0, length; copy && at < n; at += length) {
        const bool whole = aq_utf8_next(text + at, n - at, &length) == AQ_UTF8_WHOLE;
        const size_t bytes = whole ? length : 3;
        memcpy(to, whole ? text + at : replacement, bytes);
        to += bytes;
    }
    if (copy) *to = '\0';
    return copy;
}

void aq_report_text(aq_report *report, const char *key, const char *text) {
    char *copy = text ? well_formed(text) : NULL;
    add(report, key, text ? cJSON_CreateString(copy) : cJSON_CreateNull());
    free(copy);
}

/* Numbers are handed over as text: cJSON's own have the digits of a double, and less. */
void aq_report_int(aq_report *report, const char *key, int64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    add(report, key, cJSON_CreateRaw(text));
}

void aq_report_real(aq_report *report, const char *key, double value) {
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    add(report, key, isfinite(value) ? cJSON_CreateRaw(text) : cJSON_CreateNull());
}

void aq_report_ids(aq_report *report, const char *key, const int32_t *ids, int64_t n) {
    add(report, key, n > 0 ? cJSON_CreateIntArray(ids, (int)n) : cJSON_CreateArray());
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

char *aq_report_print_line(const aq_report *report) {
    return report->status == AQ_OK ? cJSON_PrintUnformatted(report->group[0]) : NULL;
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
