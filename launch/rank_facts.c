#include "launch/rank_facts.h"

#include <stdio.h>
#include <stdlib.h>

#define N_FACT ((int64_t)(sizeof(aq_rank_facts) / sizeof(int64_t)))

static aq_rank_facts describe(const aq_comm *comm, const aq_session *session) {
    const aq_session_stats stats = aq_session_describe(session);
    aq_rank_facts facts = {.split = stats.split,
                           .n_tok_owned = stats.n_tok_owned,
                           .key_bytes = stats.key_bytes,
                           .value_bytes = stats.value_bytes,
                           .selector_bytes = stats.selector_bytes,
                           .open_bytes = stats.open_bytes,
                           .step_bytes = stats.step_bytes,
                           .sent_bytes = stats.sent_bytes,
                           .n_exchange = stats.n_exchange,
                           .shared_bytes = stats.shared_bytes,
                           .n_share = stats.n_share,
                           .query_bytes = stats.query_bytes,
                           .part_bytes = stats.part_bytes,
                           .full_query_bytes = stats.full_query_bytes,
                           .full_part_bytes = stats.full_part_bytes,
                           .matmul_ns = stats.matmul_ns,
                           .attend_ns = stats.attend_ns + stats.merge_ns,
                           .exchange_ns = stats.exchange_ns,
                           .project_ns = stats.project_ns,
                           .other_ns = stats.other_ns};
    snprintf((char *)facts.host, sizeof facts.host, "%s", aq_comm_host(comm));
    return facts;
}

aq_status aq_rank_facts_gather(aq_comm *comm, const aq_session *session, aq_rank_facts **out) {
    const aq_rank_facts mine = describe(comm, session);
    *out = calloc((size_t)aq_comm_size(comm), sizeof **out);
    AQ_TRY(aq_comm_agree(
        comm, *out ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for the facts of all ranks")));
    return aq_comm_allgather_i64(comm, (const int64_t *)&mine, N_FACT, (int64_t *)*out);
}

static void report_rank(aq_report *report, int rank, const aq_rank_facts *facts) {
    aq_report_group(report, NULL);
    aq_report_int(report, "rank", rank);
    aq_report_text(report, "host", (const char *)facts->host);
    aq_report_int(report, "split", facts->split);
    aq_report_int(report, "tokens_owned", facts->n_tok_owned);
    aq_report_int(report, "key_bytes", facts->key_bytes);
    aq_report_int(report, "value_bytes", facts->value_bytes);
    aq_report_int(report, "selector_bytes", facts->selector_bytes);
    aq_report_int(report, "open_bytes", facts->open_bytes);
    aq_report_int(report, "step_bytes", facts->step_bytes);
    aq_report_int(report, "sent_bytes", facts->sent_bytes);
    aq_report_int(report, "exchanges", facts->n_exchange);
    aq_report_int(report, "shared_bytes", facts->shared_bytes);
    aq_report_int(report, "shares", facts->n_share);
    aq_report_int(report, "query_bytes", facts->query_bytes);
    aq_report_int(report, "part_bytes", facts->part_bytes);
    aq_report_int(report, "full_query_bytes", facts->full_query_bytes);
    aq_report_int(report, "full_part_bytes", facts->full_part_bytes);
    aq_report_real(report, "matmul_s", (double)facts->matmul_ns * 1e-9);
    aq_report_real(report, "attend_s", (double)facts->attend_ns * 1e-9);
    aq_report_real(report, "exchange_s", (double)facts->exchange_ns * 1e-9);
    aq_report_real(report, "project_s", (double)facts->project_ns * 1e-9);
    aq_report_real(report, "other_s", (double)facts->other_ns * 1e-9);
    aq_report_end(report);
}

void aq_rank_facts_report(aq_report *report, const aq_rank_facts *facts, int n_rank) {
    aq_report_list(report, "ranks");
    for (int r = 0; r < n_rank; r++)
        report_rank(report, r, &facts[r]);
    aq_report_end(report);
}
