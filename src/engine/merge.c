/* Partial results of all ranks become one. In decode every rank has a partial result of the same
 * token, and all want the whole: of the ways to get there (docs/method.md) two merge each head's
 * parts with attn_merge, in rank order, and give the same bits; the third leaves the order to MPI.
 */
#include "src/engine/merge.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/engine/session.h"

/* Of aq_merge_choose: enough for a median that one late rank does not move. */
enum { N_WARM = 5, N_ROUND = 51 };

static const char *const names[] = {"allgather", "alltoall", "tree", "auto"};

const char *aq_merge_name(aq_merge_way way) {
    return names[way];
}

aq_status aq_merge_parse(const char *name, aq_merge_way *out) {
    for (int way = AQ_MERGE_ALLGATHER; way <= AQ_MERGE_AUTO; way++)
        if (strcmp(name, names[way]) == 0) {
            *out = (aq_merge_way)way;
            return AQ_OK;
        }
    return aq_fail(AQ_ERR_USAGE, "--merge %s: choose allgather, alltoall, tree or auto", name);
}

aq_merge_way aq_merge_of(const aq_engine *engine, aq_merge_way asked) {
    return asked == AQ_MERGE_AUTO ? engine->merge : asked;
}

/* step->mixed, and ml if wanted, of n_row rows from the first'th on = n_part parts of step->parts
 * merged in their order. */
static void merge(const aq_session *session, int n_part, int64_t first, int64_t n_row,
                  bool wants_ml) {
    const aq_step *step = &session->step;
    const int d_head = session->engine->config.d_head;
    aq_backend *be = session->engine->be;
    be->ops->attn_merge(be, &(aq_attn_merge_args){.parts = step->parts,
                                                  .n_part = n_part,
                                                  .n_row = n_row,
                                                  .d_head = d_head,
                                                  .out = step->mixed + first * d_head,
                                                  .ml = wants_ml ? step->ml + 2 * first : NULL});
}

static aq_status merge_all(aq_session *session, aq_attend_way way, bool wants_ml, int64_t *now) {
    const aq_step *step = &session->step;
    AQ_TRY(aq_wire_parts(session, way, step->part, step->parts));
    *now = aq_session_lap(&session->stats.exchange_ns, *now);
    merge(session, session->plan.n_rank, 0, step->n_tok * session->engine->config.n_head, wants_ml);
    *now = aq_session_lap(&session->stats.merge_ns, *now);
    return AQ_OK;
}

/* rows[n_head, n_col], of which each rank has those of its heads, on all ranks. */
static aq_status gather_heads(aq_session *session, float *rows, int n_col) {
    const aq_plan *plan = &session->plan;
    const int n_head = session->engine->config.n_head;
    const int64_t first = aq_share_first(n_head, plan->n_rank, plan->rank);
    int64_t *bytes = session->step.send_bytes;
    for (int r = 0; r < plan->n_rank; r++)
        bytes[r] = aq_share_count(n_head, plan->n_rank, r) * n_col * (int64_t)sizeof(float);
    return aq_exchange_allgatherv(session, rows + first * n_col, bytes, rows);
}

/* What is merged goes on in fp32 whatever partial results travel in: the bits of merge_all. */
static aq_status merge_heads(aq_session *session, bool wants_ml, int64_t *now) {
    const aq_step *step = &session->step;
    const aq_plan *plan = &session->plan;
    const aq_model_config *config = &session->engine->config;
    aq_session_stats *stats = &session->stats;
    AQ_TRY(aq_wire_heads(session, step->part, step->parts));
    *now = aq_session_lap(&stats->exchange_ns, *now);
    merge(session, plan->n_rank, aq_share_first(config->n_head, plan->n_rank, plan->rank),
          aq_share_count(config->n_head, plan->n_rank, plan->rank), wants_ml);
    *now = aq_session_lap(&stats->merge_ns, *now);
    AQ_TRY(gather_heads(session, step->mixed, config->d_head));
    if (wants_ml) AQ_TRY(gather_heads(session, step->ml, 2));
    *now = aq_session_lap(&stats->exchange_ns, *now);
    return AQ_OK;
}

/* Two parts as one, (o, m, l) each: M = max(m, m'), o = exp(m - M) o + exp(m' - M) o', l likewise.
 * Nothing is contracted to fused operations here (CMakeLists.txt): both orders give the same bits.
 */
static void join(const void *from, void *into, int64_t n, int64_t row_bytes) {
    const int64_t width = row_bytes / (int64_t)sizeof(float), m_at = width - 2;
    for (int64_t row = 0; row < n; row++) {
        const float *a = (const float *)from + row * width;
        float *b = (float *)into + row * width;
        const float m = fmaxf(a[m_at], b[m_at]);
        if (m == -INFINITY) continue; /* both are neutral */
        const float of_a = expf(a[m_at] - m), of_b = expf(b[m_at] - m);
        for (int64_t i = 0; i < width; i++)
            b[i] = of_a * a[i] + of_b * b[i];
        b[m_at] = m;
    }
}

static aq_status merge_tree(aq_session *session, bool wants_ml, int64_t *now) {
    const aq_step *step = &session->step;
    const aq_model_config *config = &session->engine->config;
    const int64_t row_bytes = (config->d_head + 2) * (int64_t)sizeof(float);
    aq_backend *be = session->engine->be;
    be->ops->copy(be, step->parts, step->part, (size_t)(config->n_head * row_bytes));
    AQ_TRY(aq_exchange_join(session, step->parts, config->n_head, row_bytes, join));
    *now = aq_session_lap(&session->stats.exchange_ns, *now);
    merge(session, 1, 0, config->n_head, wants_ml);
    *now = aq_session_lap(&session->stats.merge_ns, *now);
    return AQ_OK;
}

aq_status aq_merge_parts(aq_session *session, aq_attend_way way, bool evicts, int64_t *now) {
    const aq_merge_way merge = session->options.merge;
    if (way == AQ_ATTEND_VISITING || session->plan.n_rank == 1 || merge == AQ_MERGE_ALLGATHER)
        return merge_all(session, way, evicts, now);
    if (merge == AQ_MERGE_TREE) return merge_tree(session, evicts, now);
    return merge_heads(session, evicts, now);
}

static int by_size(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* medians[way] of this rank: the partial results of a token that has been decoded, merged again. */
static aq_status time_ways(aq_session *session, int64_t medians[2]) {
    static const aq_merge_way ways[] = {AQ_MERGE_ALLGATHER, AQ_MERGE_ALLTOALL};
    int64_t times[2][N_ROUND];
    aq_backend *be = session->engine->be;
    for (int round = -N_WARM; round < N_ROUND; round++)
        for (int i = 0; i < 2; i++) {
            const int64_t start_ns = aq_clock_ns();
            int64_t now = start_ns;
            session->options.merge = ways[i];
            AQ_TRY(aq_merge_parts(session, AQ_ATTEND_REPLICATED, false, &now));
            AQ_TRY(be->ops->sync(be));
            if (round >= 0) times[i][round] = aq_clock_ns() - start_ns;
        }
    for (int i = 0; i < 2; i++) {
        qsort(times[i], N_ROUND, sizeof times[i][0], by_size);
        medians[i] = times[i][N_ROUND / 2];
    }
    return AQ_OK;
}

/* times = medians of the rank that has the largest, of all ranks. */
static aq_status slowest(aq_comm *comm, const int64_t medians[2], aq_merge_times *times) {
    const int n_rank = aq_comm_size(comm);
    int64_t *all = calloc(2 * (size_t)n_rank, sizeof *all);
    aq_status status = all ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for %d times", 2 * n_rank);
    status = aq_comm_agree(comm, status);
    if (status == AQ_OK) status = aq_comm_allgather_i64(comm, medians, 2, all);
    *times = (aq_merge_times){0, 0};
    for (int r = 0; r < n_rank && status == AQ_OK; r++) {
        const int64_t *its = all + 2 * r;
        if (its[0] > times->allgather_ns) times->allgather_ns = its[0];
        if (its[1] > times->alltoall_ns) times->alltoall_ns = its[1];
    }
    free(all);
    return status;
}

aq_status aq_merge_choose(aq_engine *engine, bool wire_bf16, aq_merge_times *times) {
    const aq_session_options options = {.n_ctx = 1, .n_batch = 1, .wire_bf16 = wire_bf16};
    aq_session *session = NULL;
    int64_t medians[2];
    *times = (aq_merge_times){0, 0};
    if (aq_comm_size(engine->comm) == 1) return AQ_OK;
    AQ_TRY(aq_session_open(engine, &options, &session));
    aq_status status = aq_session_decode(session, 0);
    if (status == AQ_OK) status = time_ways(session, medians);
    if (status == AQ_OK) status = slowest(engine->comm, medians, times);
    aq_session_close(session);
    if (status != AQ_OK) return status;
    const bool apart = times->alltoall_ns < times->allgather_ns;
    engine->merge = apart ? AQ_MERGE_ALLTOALL : AQ_MERGE_ALLGATHER;
    return AQ_OK;
}
