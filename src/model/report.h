/* The facts of a run as a JSON document, for `--report`. Values are added to the innermost open
 * group in order. The first failure (memory) is kept and returned by aq_report_write. */
#ifndef AQ_MODEL_REPORT_H
#define AQ_MODEL_REPORT_H

#include <stdint.h>

#include "src/base/status.h"

typedef struct aq_report aq_report;

/* An empty document. The caller closes it. AQ_ERR_MEMORY. Local. */
aq_status aq_report_open(aq_report **out);
void aq_report_close(aq_report *report);

/* `key` is ignored inside a list. Numbers are written with as many digits as give them back
 * exactly; one that is not finite becomes null, as does text NULL. Bytes that are not UTF-8 become
 * U+FFFD. ids may be NULL if n is 0. Local. */
void aq_report_text(aq_report *report, const char *key, const char *text);
void aq_report_int(aq_report *report, const char *key, int64_t value);
void aq_report_real(aq_report *report, const char *key, double value);
void aq_report_ids(aq_report *report, const char *key, const int32_t *ids, int64_t n);

/* Opens an object or a list inside the current group; aq_report_end goes back out. At most 8 deep.
 * Local. */
void aq_report_group(aq_report *report, const char *key);
void aq_report_list(aq_report *report, const char *key);
void aq_report_end(aq_report *report);

/* The document as text, indented; the caller frees it. NULL when out of memory. Local. */
char *aq_report_print(const aq_report *report);

/* The same on one line without white space between its parts and without a newline: a line of a
 * JSONL file. Local. */
char *aq_report_print_line(const aq_report *report);

/* Writes the document to a file. AQ_ERR_IO, AQ_ERR_MEMORY. Local. */
aq_status aq_report_write(const aq_report *report, const char *path);

#endif
