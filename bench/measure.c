#include "bench/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/model/projection_file.h"

/* What one rank tells of one timed phase: plain integers, gathered in one message. */
typedef struct {
    int64_t wall_ns, sent_bytes, key_bytes, value_bytes, selector_bytes;
    int64_t phase_ns[AQ_PHASES];
    int64_t n_pair, n_attended, n_byte_moved;
} share;

#define N_SHARE ((int64_t)(sizeof(share) / sizeof(int64_t)))

aq_status aq_bench_test_open(aq_comm *comm, aq_engine *engine, int n_repeat, aq_bench_test *out) {
    const size_t n_vocab = (size_t)aq_engine_describe(engine).n_vocab;
    *out = (aq_bench_test){.comm = comm, .engine = engine, .n_repeat = n_repeat};
    out->logits = malloc(n_vocab * sizeof *out->logits);
    out->shares = calloc((size_t)(aq_comm_size(comm) * N_SHARE), sizeof *out->shares);
    aq_status status = AQ_OK;
    if (!out->logits || !out->shares)
        status = aq_fail(AQ_ERR_MEMORY, "no memory for the measurements");
    status = aq_comm_agree(comm, status);
    if (status != AQ_OK) aq_bench_test_close(out);
    return status;
}

void aq_bench_test_close(aq_bench_test *test) {
    aq_session_close(test->from);
    free(test->logits);
    free(test->shares);
    *test = (aq_bench_test){0};
}

aq_status aq_lane_open(aq_bench_test *test, const aq_session_options *options, int64_t n_ctx,
                       aq_lane *out) {
    const size_t n = (size_t)test->n_repeat;
    *out =
        (aq_lane){.options = *options, .valid = true, .weights = aq_weight_reads_of(test->engine)};
    out->options.n_ctx = n_ctx;
    out->prefill.seconds = calloc(n, sizeof(double));
    out->decode.seconds = calloc(n, sizeof(double));
    aq_status status = AQ_OK;
    if (!out->prefill.seconds || !out->decode.seconds)
        status = aq_fail(AQ_ERR_MEMORY, "no memory for the measurements");
    status = aq_comm_agree(test->comm, status);
    if (status == AQ_OK) status = aq_session_open(test->engine, &out->options, &out->session);
    if (status != AQ_OK) {
        aq_lane_close(out);
        return status;
    }
    if (options->attn != AQ_ATTN_SELECT) return AQ_OK;
    out->codes = options->codes;
    if (out->codes.n_segment == 0)
        out->codes = aq_projection_codes(aq_engine_projection(test->engine));
    return AQ_OK;
}

void aq_lane_close(aq_lane *lane) {
    aq_session_close(lane->session);
    free(lane->prefill.seconds);
    free(lane->decode.seconds);
    *lane = (aq_lane){0};
}

/* FNV-1a over the words of the logits. */
static uint64_t hash_bits(const float *logits, int64_t n, bool *finite) {
    uint64_t hash = 0xcbf29ce484222325u;
    *finite = true;
    for (int64_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, &logits[i], sizeof word);
        hash = (hash ^ word) * 0x100000001b3u;
        if (!isfinite(logits[i])) *finite = false;
    }
    return hash;
}

/* Compares this rank's logits with those of the first repetition. */
static aq_status check_bits(const aq_bench_test *test, aq_lane *lane) {
    bool finite = true;
    AQ_TRY(aq_session_logits(lane->session, test->logits));
    const int64_t n_vocab = aq_engine_describe(test->engine).n_vocab;
    const uint64_t bits = hash_bits(test->logits, n_vocab, &finite);
    if (!lane->seen) lane->bits = bits;
    lane->seen = true;
    if (!finite || bits != lane->bits) lane->valid = false;
    return AQ_OK;
}

typedef struct {
    int64_t start_ns, logits_ns;
    aq_session_stats before;
} mark;

static aq_status begin_phase(const aq_bench_test *test, const aq_lane *lane, mark *out) {
    AQ_TRY(aq_comm_barrier(test->comm));
    out->before = aq_session_describe(lane->session);
    out->logits_ns = 0;
    out->start_ns = aq_clock_ns();
    return AQ_OK;
}

/* What this rank has done since the mark. */
static share share_since(const aq_lane *lane, const mark *from, int64_t wall_ns) {
    const aq_session_stats after = aq_session_describe(lane->session), *before = &from->before;
    share out = {.wall_ns = wall_ns,
                 .sent_bytes = after.sent_bytes - before->sent_bytes + after.shared_bytes -
                               before->shared_bytes,
                 .key_bytes = after.key_bytes,
                 .value_bytes = after.value_bytes,
                 .selector_bytes = after.selector_bytes,
                 .n_pair = after.n_pair - before->n_pair,
                 .n_attended = after.n_attended - before->n_attended,
                 .n_byte_moved = after.n_byte_moved - before->n_byte_moved};
    aq_phases_between(before, &after, wall_ns, from->logits_ns, out.phase_ns);
    return out;
}

/* Keeps the bytes of a rank's cache if no rank had more. */
static void hold_cache(aq_lane *lane, const share *rank) {
    const int64_t bytes = rank->key_bytes + rank->value_bytes + rank->selector_bytes;
    if (bytes <= lane->cache_bytes) return;
    lane->cache_bytes = bytes;
    lane->key_bytes = rank->key_bytes;
    lane->value_bytes = rank->value_bytes;
    lane->selector_bytes = rank->selector_bytes;
}

/* Stops the clock, hears what the other ranks took, and adds a sample unless `warming`. */
static aq_status end_phase(const aq_bench_test *test, aq_lane *lane, const mark *from,
                           aq_series *series, bool warming) {
    const int64_t wall_ns = aq_clock_ns() - from->start_ns;
    const int n_rank = aq_comm_size(test->comm);
    const share mine = share_since(lane, from, wall_ns);
    AQ_TRY(aq_comm_allgather_i64(test->comm, (const int64_t *)&mine, N_SHARE, test->shares));
    if (warming) return AQ_OK;

    const share *all = (const share *)test->shares;
    int64_t slowest_ns = 0;
    for (int r = 0; r < n_rank; r++) {
        if (all[r].wall_ns > slowest_ns) slowest_ns = all[r].wall_ns;
        if (all[r].sent_bytes > series->sent_bytes) series->sent_bytes = all[r].sent_bytes;
        hold_cache(lane, &all[r]);
        series->wall_s += (double)all[r].wall_ns * 1e-9 / n_rank;
        for (int i = 0; i < AQ_PHASES; i++)
            series->phase_s[i] += (double)all[r].phase_ns[i] * 1e-9 / n_rank;
        series->n_pair += (double)all[r].n_pair;
        series->n_attended += (double)all[r].n_attended;
        series->n_byte_moved += (double)all[r].n_byte_moved;
    }
    series->seconds[series->n_sample++] = (double)slowest_ns * 1e-9;
    return AQ_OK;
}

/* On rank 0, the logits of the last token, their time added to the mark. */
static aq_status make_logits(const aq_bench_test *test, const aq_lane *lane, mark *from) {
    const bool wanted = aq_comm_rank(test->comm) == 0;
    const int64_t start_ns = aq_clock_ns();
    AQ_TRY(aq_session_logits(lane->session, wanted ? test->logits : NULL));
    from->logits_ns += aq_clock_ns() - start_ns;
    return AQ_OK;
}

static aq_status decode_tokens(const aq_bench_test *test, const aq_lane *lane, mark *from) {
    for (int64_t i = 0; i < test->n_decode; i++) {
        int32_t id = test->ids[test->n_depth + test->n_prefill + i];
        AQ_TRY(aq_comm_bcast(test->comm, &id, sizeof id, 0));
        AQ_TRY(aq_session_decode(lane->session, id));
        AQ_TRY(make_logits(test, lane, from));
    }
    return AQ_OK;
}

static aq_status repeat_once(const aq_bench_test *test, aq_lane *lane, bool warming) {
    mark from;
    aq_session_reset(lane->session);
    if (test->n_depth > 0 && test->fill)
        AQ_TRY(aq_session_fill(lane->session, test->fill, test->n_depth));
    else if (test->n_depth > 0)
        AQ_TRY(aq_session_recode(lane->session, test->from));
    if (test->n_prefill > 0) {
        AQ_TRY(begin_phase(test, lane, &from));
        AQ_TRY(aq_session_prefill(lane->session, test->ids + test->n_depth, test->n_prefill, NULL));
        AQ_TRY(make_logits(test, lane, &from));
        AQ_TRY(end_phase(test, lane, &from, &lane->prefill, warming));
    }
    if (test->n_decode > 0) {
        AQ_TRY(begin_phase(test, lane, &from));
        AQ_TRY(decode_tokens(test, lane, &from));
        AQ_TRY(end_phase(test, lane, &from, &lane->decode, warming));
    }
    return check_bits(test, lane);
}

static void restart(aq_series *series, int64_t n_tok) {
    *series = (aq_series){.n_tok = n_tok, .seconds = series->seconds};
}

/* Valid only if it is so on every rank. */
static aq_status share_validity(const aq_bench_test *test, aq_lane *lane) {
    int64_t n_bad = !lane->valid;
    AQ_TRY(aq_comm_sum_i64(test->comm, &n_bad, 1));
    lane->valid = n_bad == 0;
    return AQ_OK;
}

/* Prefills the depth, going on from a smaller one; room for the greatest there may be. */
static aq_status reach_depth(aq_bench_test *test, const aq_session_options *like) {
    const aq_session_options dense = {.n_ctx = like->n_ctx,
                                      .n_batch = like->n_batch,
                                      .key_type = AQ_KV_BF16,
                                      .value_type = AQ_KV_BF16};
    if (test->n_depth == 0 || test->fill) return AQ_OK;
    if (!test->from) AQ_TRY(aq_session_open(test->engine, &dense, &test->from));
    if (aq_session_length(test->from) > test->n_depth) aq_session_reset(test->from);
    const int64_t n = aq_session_length(test->from);
    if (n == test->n_depth) return AQ_OK;
    return aq_session_prefill(test->from, test->ids + n, test->n_depth - n, NULL);
}

aq_status aq_bench_test_run(aq_bench_test *test, aq_lane *lanes, int n_lane) {
    AQ_TRY(reach_depth(test, &lanes[0].options));
    for (int i = 0; i < n_lane; i++) {
        restart(&lanes[i].prefill, test->n_prefill);
        restart(&lanes[i].decode, test->n_decode);
        lanes[i].seen = false;
        lanes[i].valid = true;
        lanes[i].cache_bytes = 0;
    }
    for (int r = -1; r < test->n_repeat; r++)
        for (int i = 0; i < n_lane; i++)
            AQ_TRY(repeat_once(test, &lanes[i], r < 0));
    for (int i = 0; i < n_lane; i++)
        AQ_TRY(share_validity(test, &lanes[i]));
    return AQ_OK;
}
