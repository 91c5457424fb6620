#include "launch/lines.h"

#include <stdlib.h>
#include <string.h>

aq_status aq_lines_open(const char *path, aq_lines *out) {
    *out = (aq_lines){.file = {.fd = -1}};
    if (!path) return AQ_OK;
    out->wanted = true;
    return aq_file_out_open(path, &out->file);
}

aq_status aq_lines_add(aq_lines *lines, const aq_report *line) {
    if (!lines->wanted) return AQ_OK;
    char *text = aq_report_print_line(line);
    if (!text) return aq_fail(AQ_ERR_MEMORY, "no memory for a line of %s", lines->file.path);
    const size_t length = strlen(text);
    text[length] = '\n'; /* the NUL's place */
    const aq_status status = aq_file_out_put(&lines->file, lines->bytes, text, length + 1);
    lines->bytes += (int64_t)length + 1;
    free(text);
    return status;
}

aq_status aq_lines_commit(aq_lines *lines) {
    return lines->wanted ? aq_file_out_commit(&lines->file) : AQ_OK;
}

void aq_lines_discard(aq_lines *lines) {
    if (lines->wanted) aq_file_out_discard(&lines->file);
}
