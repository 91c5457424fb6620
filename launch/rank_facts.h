/* What every rank holds of a session and did for it, gathered for summaries and reports. */
#ifndef AQ_LAUNCH_RANK_FACTS_H
#define AQ_LAUNCH_RANK_FACTS_H

#include "src/aqua.h"
#include "src/model/report.h"

/* One rank's facts: integers only, so that they travel in one message. */
typedef struct {
    int64_t host[8]; /* 63 characters of its name */
    int64_t split, n_tok_owned, key_bytes, value_bytes, selector_bytes, open_bytes, step_bytes;
    int64_t sent_bytes, n_exchange, shared_bytes, n_share;
    int64_t query_bytes, part_bytes, full_query_bytes, full_part_bytes;
    int64_t matmul_ns, attend_ns, exchange_ns, project_ns, other_ns;
} aq_rank_facts;

/* The facts of all ranks, in rank order, on every rank; the caller frees *out. AQ_ERR_MEMORY,
 * AQ_ERR_COMM. Collective. */
aq_status aq_rank_facts_gather(aq_comm *comm, const aq_session *session, aq_rank_facts **out);

/* Adds them as the list "ranks". Local. */
void aq_rank_facts_report(aq_report *report, const aq_rank_facts *facts, int n_rank);

#endif
