#include "launch/attended.h"

void aq_attended_add(aq_attended *attended, const aq_session_stats *before,
                     const aq_session_stats *after) {
    attended->n_pair += (double)(after->n_pair - before->n_pair);
    attended->n_attended += (double)(after->n_attended - before->n_attended);
    attended->n_byte_moved += (double)(after->n_byte_moved - before->n_byte_moved);
    attended->mass_sum += after->mass_sum - before->mass_sum;
    attended->n_mass += (double)(after->n_mass - before->n_mass);
    attended->n_kept_dim += (double)(after->n_kept_dim - before->n_kept_dim);
    attended->n_pruned_row += (double)(after->n_pruned_row - before->n_pruned_row);
}

aq_status aq_attended_sum(aq_attended *attended, aq_comm *comm) {
    double sums[] = {attended->n_pair,      attended->n_attended, attended->n_byte_moved,
                     attended->mass_sum,    attended->n_mass,     attended->n_kept_dim,
                     attended->n_pruned_row};
    AQ_TRY(aq_comm_sum_f64(comm, sums, 7));
    *attended = (aq_attended){.n_pair = sums[0],
                              .n_attended = sums[1],
                              .n_byte_moved = sums[2],
                              .mass_sum = sums[3],
                              .n_mass = sums[4],
                              .n_kept_dim = sums[5],
                              .n_pruned_row = sums[6]};
    return AQ_OK;
}

static double ratio(double a, double b) {
    return b > 0 ? a / b : 0;
}

double aq_attended_share(const aq_attended *attended) {
    return ratio(attended->n_attended, attended->n_pair);
}

double aq_attended_bytes(const aq_attended *attended) {
    return ratio(attended->n_byte_moved, attended->n_pair);
}

double aq_attended_mass(const aq_attended *attended) {
    return ratio(attended->mass_sum, attended->n_mass);
}

double aq_attended_dims(const aq_attended *attended) {
    return ratio(attended->n_kept_dim, attended->n_pruned_row);
}

void aq_attended_report(aq_report *report, const aq_attended *attended) {
    aq_report_real(report, "attended", aq_attended_share(attended));
    aq_report_real(report, "bytes_moved", aq_attended_bytes(attended));
    if (attended->n_mass > 0) aq_report_real(report, "mass", aq_attended_mass(attended));
    if (attended->n_pruned_row > 0) aq_report_real(report, "dims", aq_attended_dims(attended));
}

void aq_attended_report_cache(aq_report *report, const aq_session *session) {
    const aq_session_stats stats = aq_session_describe(session);
    aq_report_group(report, "cache_bytes_per_token");
    aq_report_real(report, "selector", stats.token_selector_bytes);
    aq_report_real(report, "keys", stats.token_key_bytes);
    aq_report_real(report, "values", stats.token_value_bytes);
    aq_report_real(report, "all",
                   stats.token_selector_bytes + stats.token_key_bytes + stats.token_value_bytes);
    aq_report_end(report);
}
