#include "launch/fit.h"

#include <stdio.h>
#include <string.h>

#include "calib/incontext.h"
#include "src/engine/session.h"

static int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t session_sum(const aq_session_bytes *b) {
    return b->cache.keys + b->cache.values + b->cache.selector + b->open_tile + b->step + b->other;
}

static aq_status fit_rank(const aq_fit *fit, const aq_plan *plan, int64_t n_ctx, aq_fit_rank *out) {
    aq_session_options options = fit->options;
    options.n_ctx = n_ctx;
    out->start = 0;
    AQ_TRY(aq_footprint_of(fit->engine, plan, fit->n_tp, &options, &out->parts));
    if (fit->from_context) {
        aq_session_bytes dense;
        const aq_session_options start =
            aq_incontext_dense(&options, min(n_ctx, AQ_INCONTEXT_TOKENS));
        AQ_TRY(aq_session_measure(fit->engine, plan, &start, &dense));
        out->start = session_sum(&dense);
    }
    out->own = aq_footprint_own(&out->parts) + out->start + fit->program_bytes;
    if (fit->n_tp > 1) out->own += out->parts.weights; /* other ranks have other rows */
    return AQ_OK;
}

aq_status aq_fit_rank_of(const aq_fit *fit, int n_rank, int rank, int64_t n_ctx, aq_fit_rank *out) {
    aq_plan plan;
    AQ_TRY(aq_plan_open(n_rank, rank, fit->weights, &plan));
    const aq_status status = fit_rank(fit, &plan, n_ctx, out);
    aq_plan_close(&plan);
    return status;
}

/* What ranks first .. first + n - 1, of n_rank, need on one host. */
static aq_status fit_host(const aq_fit *fit, int n_rank, int first, int n, int64_t n_ctx,
                          aq_fit_verdict *out) {
    aq_fit_rank rank = {.own = 0};
    out->rank = first;
    for (int r = first; r < first + n; r++) {
        AQ_TRY(aq_fit_rank_of(fit, n_rank, r, n_ctx, &rank));
        out->need += rank.own;
        if (rank.own <= out->rank_own) continue;
        out->rank = r;
        out->rank_own = rank.own;
    }
    if (n > 0 && fit->n_tp <= 1) out->need += rank.parts.weights;
    return AQ_OK;
}

aq_status aq_fit_hosts(const aq_fit *fit, const aq_hosts *hosts, int n_rank, int64_t n_ctx,
                       aq_fit_verdict *out) {
    int64_t most = INT64_MIN;
    int first = fit->first_rank;
    bool fits = true;
    for (int i = 0; i < hosts->n; i++) {
        const int n = aq_hosts_used(hosts, i, n_rank - fit->first_rank);
        if (n == 0 && i > 0) break; /* fewer ranks than the hosts have */
        aq_fit_verdict here = {.host = i};
        AQ_TRY(fit_host(fit, n_rank, first, n, n_ctx, &here));
        first += n;
        const int64_t lacks = here.need - hosts->hosts[i].memory;
        if (lacks > 0) fits = false;
        if (lacks <= most) continue;
        most = lacks;
        *out = here;
    }
    out->fits = fits;
    return AQ_OK;
}

int64_t aq_fit_longest(const aq_fit *fit, const aq_hosts *hosts, int n_rank) {
    int64_t fits = 0, beyond = aq_engine_describe(fit->engine).n_ctx_model + 1;
    while (fits + 1 < beyond) {
        const int64_t n_ctx = fits + (beyond - fits) / 2;
        aq_fit_verdict verdict;
        if (aq_fit_hosts(fit, hosts, n_rank, n_ctx, &verdict) == AQ_OK && verdict.fits)
            fits = n_ctx;
        else
            beyond = n_ctx;
    }
    return fits;
}

aq_status aq_fit_refuse(const aq_fit *fit, const aq_hosts *hosts, int n_rank,
                        const aq_fit_verdict *verdict) {
    const aq_session_options *options = &fit->options;
    const aq_host *host = &hosts->hosts[verdict->host];
    const int64_t longest = aq_fit_longest(fit, hosts, n_rank);
    const bool coded = aq_kv_type_coded(options->key_type) && aq_kv_type_coded(options->value_type);
    char shorter[64] = "a smaller batch (-b)";
    char worst[64] = "";
    if (longest > 0) snprintf(shorter, sizeof shorter, "-c %lld or less", (long long)longest);
    if (fit->weights)
        snprintf(worst, sizeof worst, " (rank %d takes most, %.1f)", verdict->rank,
                 (double)verdict->rank_own / 1048576.0);
    return aq_fail(AQ_ERR_MEMORY,
                   "%lld tokens on %d rank%s need %.1f MiB on %s%s, which has %.1f; use %s, more "
                   "hosts%s%s%s%s",
                   (long long)options->n_ctx, n_rank, n_rank == 1 ? "" : "s",
                   (double)verdict->need / 1048576.0, host->name, worst,
                   (double)host->memory / 1048576.0, shorter,
                   fit->weights ? ", another --split" : "",
                   coded || options->n_h2o > 0 ? "" : ", -ctk q8 -ctv q8",
                   options->attn == AQ_ATTN_DENSE ? ", --attn select" : "",
                   fit->from_context ? ", a projection from aqua-dist calibrate" : "");
}

aq_status aq_fit_here(const aq_fit *fit, const aq_comm *world, int64_t available) {
    const int n_rank = aq_comm_size(world);
    const int first = aq_comm_rank(world) - aq_comm_rank_on_host(world);
    aq_fit here = *fit;
    aq_fit_verdict verdict;
    aq_hosts hosts;
    here.first_rank = first > 0 ? first : 0; /* ranks of a host may be numbered otherwise */
    aq_hosts_one(aq_comm_host(world), aq_comm_size_on_host(world), available, &hosts);
    AQ_TRY(aq_fit_hosts(&here, &hosts, n_rank, fit->options.n_ctx, &verdict));
    return verdict.fits ? AQ_OK : aq_fit_refuse(&here, &hosts, n_rank, &verdict);
}
