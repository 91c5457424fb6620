#include "src/base/status.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char error_text[AQ_ERROR_TEXT_BYTES];

aq_status aq_fail(aq_status code, const char *format, ...) {
    /* The arguments may point into error_text (a caller adding its own context). */
    char line[AQ_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    for (char *c = line; *c; c++)
        if (*c == '\n' || *c == '\r') *c = ' ';
    snprintf(error_text, sizeof error_text, "%s", line);
    return code;
}

const char *aq_error_text(void) {
    return error_text;
}

const char *aq_status_name(aq_status code) {
#define AQ_STATUS_CASE(name, text)                                                                 \
    case name:                                                                                     \
        return #name;
    switch (code) { AQ_STATUS_LIST(AQ_STATUS_CASE) }
#undef AQ_STATUS_CASE
    return "AQ_ERR_UNKNOWN";
}

const char *aq_status_meaning(aq_status code) {
#define AQ_STATUS_CASE(name, text)                                                                 \
    case name:                                                                                     \
        return text;
    switch (code) { AQ_STATUS_LIST(AQ_STATUS_CASE) }
#undef AQ_STATUS_CASE
    return "unknown status";
}
