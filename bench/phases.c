#include "bench/phases.h"

#include "src/engine/engine.h"

const char *aq_phase_name(aq_phase phase) {
    static const char *const names[AQ_PHASES] = {
        [AQ_PHASE_PROJECT] = "project", [AQ_PHASE_SCAN] = "scan",
        [AQ_PHASE_CHOOSE] = "choose",   [AQ_PHASE_ATTEND] = "attend",
        [AQ_PHASE_MERGE] = "merge",     [AQ_PHASE_EXCHANGE] = "exchange",
        [AQ_PHASE_MATVEC] = "matvec",   [AQ_PHASE_LOGITS] = "logits",
        [AQ_PHASE_OTHER] = "other",
    };
    return names[phase];
}

void aq_phases_between(const aq_session_stats *before, const aq_session_stats *after,
                       int64_t wall_ns, int64_t logits_ns, int64_t ns[AQ_PHASES]) {
    int64_t named_ns = 0;
    ns[AQ_PHASE_PROJECT] = after->project_ns - before->project_ns;
    ns[AQ_PHASE_SCAN] = after->scan_ns - before->scan_ns;
    ns[AQ_PHASE_CHOOSE] = after->choose_ns - before->choose_ns;
    ns[AQ_PHASE_ATTEND] =
        after->attend_ns - before->attend_ns - ns[AQ_PHASE_SCAN] - ns[AQ_PHASE_CHOOSE];
    ns[AQ_PHASE_MERGE] = after->merge_ns - before->merge_ns;
    ns[AQ_PHASE_EXCHANGE] = after->exchange_ns - before->exchange_ns;
    ns[AQ_PHASE_MATVEC] = after->matmul_ns - before->matmul_ns;
    ns[AQ_PHASE_LOGITS] = logits_ns;
    for (int i = 0; i < AQ_PHASE_OTHER; i++)
        named_ns += ns[i];
    ns[AQ_PHASE_OTHER] = wall_ns > named_ns ? wall_ns - named_ns : 0;
}

static int64_t bytes_of(const aq_weight *w) {
    return w->data ? w->n_out * aq_dtype_row_bytes(w->dtype, w->n_in) : 0;
}

static int64_t ffn_bytes(const aq_ffn_weights *ffn) {
    return bytes_of(&ffn->w_gate) + bytes_of(&ffn->w_up) + bytes_of(&ffn->w_down);
}

aq_weight_reads aq_weight_reads_of(const aq_engine *engine) {
    aq_weight_reads reads = {.output = bytes_of(&engine->kept.output)};
    for (int i = 0; i < engine->config.n_layer; i++) {
        const aq_layer_weights *w = &engine->kept.layers[i];
        reads.layers += bytes_of(&w->wq) + bytes_of(&w->wk) + bytes_of(&w->wv) + bytes_of(&w->wo);
        reads.layers += bytes_of(&w->router) + ffn_bytes(&w->ffn);
        if (w->experts) reads.layers += engine->config.n_expert_used * ffn_bytes(&w->experts[0]);
    }
    return reads;
}
