/* A JSONL file: one JSON object a line, written on rank 0 by those who have one. */
#ifndef AQ_LAUNCH_LINES_H
#define AQ_LAUNCH_LINES_H

#include <stdbool.h>

#include "src/base/file.h"
#include "src/model/report.h"

typedef struct {
    aq_file_out file;
    int64_t bytes; /* written so far */
    bool wanted;
} aq_lines;

/* Starts the file; path NULL: none is wanted, and adding does nothing. End it with commit or
 * discard. AQ_ERR_IO, AQ_ERR_MEMORY. Local. */
aq_status aq_lines_open(const char *path, aq_lines *out);

/* Adds a line. AQ_ERR_IO, AQ_ERR_MEMORY. Local. */
aq_status aq_lines_add(aq_lines *lines, const aq_report *line);

/* Gives the file its name; on failure discards. AQ_ERR_IO. Local. */
aq_status aq_lines_commit(aq_lines *lines);

/* Removes what was written; after commit or on a zeroed struct does nothing. Local. */
void aq_lines_discard(aq_lines *lines);

#endif
