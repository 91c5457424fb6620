/* Choice tasks as lm-evaluation-harness makes them: one JSON object a line, gzip or plain,
 *     {"context": "...", "continuation": "...", "doc_id": 7, "idx": 0, "gold": 2}
 * Each line is a request: how likely is the continuation behind the context? The requests of one
 * doc_id are the choices of one question, numbered by idx, of which gold is right. A text ends at a
 * NUL (\u0000) in it. */
#ifndef AQ_MODEL_TASK_FILE_H
#define AQ_MODEL_TASK_FILE_H

#include <stdint.h>

#include "src/base/status.h"

typedef struct {
    char *context, *continuation; /* UTF-8; the continuation is not empty */
    int64_t doc, idx, gold;
    int64_t line; /* of the file, from 1 */
} aq_task_request;

typedef struct {
    aq_task_request *requests; /* as they stand in the file */
    int64_t n;
} aq_task_list;

/* Reads and checks a file; empty lines are skipped. The caller frees *out, which is zeroed on
 * failure. AQ_ERR_IO, AQ_ERR_MEMORY, AQ_ERR_FORMAT naming file and line: no JSON, a key missing or
 * of the wrong kind, a choice given twice, two gold of one doc_id, a gold that is no choice; or a
 * file without requests. Local. */
aq_status aq_task_list_read(const char *path, aq_task_list *out);

/* Frees the requests; a zeroed list is allowed. Local. */
void aq_task_list_free(aq_task_list *list);

/* Numbers of requests, those of one doc_id together, by rising doc_id and idx; the caller frees
 * *order [n]. AQ_ERR_MEMORY. Local. */
aq_status aq_task_list_order(const aq_task_list *list, int64_t **order);

#endif
