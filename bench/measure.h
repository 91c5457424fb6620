/* Timing one way of attention over ranks.
 *
 * A repetition starts from a context of n_depth tokens of the text, prefills the next n_prefill
 * (timed) and then decodes the next n_decode ones (timed), each as generation does it: the id is
 * shared by rank 0, every rank steps, rank 0 makes the logits. A time runs from a barrier to the
 * end on the slowest rank.
 *
 * The depth is prefilled once, densely, in a session of its own; every repetition takes its tokens
 * over (aq_session_recode), which stores them as the way of attention does. Or the depth is made of
 * given keys and values (aq_session_fill). */
#ifndef AQ_BENCH_MEASURE_H
#define AQ_BENCH_MEASURE_H

#include <stdbool.h>

#include "bench/phases.h"
#include "src/aqua.h"
#include "src/engine/fill.h"

/* The times of one phase. */
typedef struct {
    int64_t n_tok;             /* tokens of one repetition; 0: the phase does not occur */
    int n_sample;              /* repetitions so far */
    double *seconds;           /* [n_repeat] */
    double wall_s;             /* sums over repetitions of the mean over ranks: of all, */
    double phase_s[AQ_PHASES]; /* and of each phase; exchanges with waiting for slower ranks */
    int64_t sent_bytes;        /* most that any rank put on the wire in one repetition */
    /* What attention read, sums over repetitions and ranks of the same in aq_session_stats. */
    double n_pair, n_attended, n_byte_moved;
} aq_series;

/* One way of attention under measurement. */
typedef struct {
    aq_session *session;
    aq_session_options options;
    aq_series prefill, decode;
    aq_weight_reads weights;
    aq_code_layout codes; /* of the selector, of select alone */
    /* Of the tokens held at the end of a repetition, of the rank that has most: all, and by part.
     */
    int64_t cache_bytes, key_bytes, value_bytes, selector_bytes;
    uint64_t bits; /* hash of the last logits of the first repetition, this rank's */
    bool seen;     /* whether there was one */
    bool valid;    /* logits finite, and of the same bits in every repetition, on all ranks */
} aq_lane;

/* What all lanes of a measurement share. */
typedef struct {
    aq_comm *comm;
    aq_engine *engine;
    const int32_t *ids; /* [n_depth + n_prefill + n_decode] */
    int64_t n_depth, n_prefill, n_decode;
    int n_repeat;
    const aq_fill_rows *fill; /* what the depth is made of; NULL: it is prefilled */
    aq_session *from;         /* holds the tokens of the depth; NULL until there is one */
    float *logits;            /* [n_vocab] */
    int64_t *shares;          /* what each rank tells of a repetition */
} aq_bench_test;

/* Working memory for tests of an engine over comm; the caller closes it. AQ_ERR_MEMORY, agreed.
 * Collective. */
aq_status aq_bench_test_open(aq_comm *comm, aq_engine *engine, int n_repeat, aq_bench_test *out);
void aq_bench_test_close(aq_bench_test *test);

/* Opens the session of a lane with room for n_ctx tokens. The caller closes it. Collective. */
aq_status aq_lane_open(aq_bench_test *test, const aq_session_options *options, int64_t n_ctx,
                       aq_lane *out);
void aq_lane_close(aq_lane *lane);

/* One warm-up of every lane, then n_repeat repetitions in which the lanes take turns. Fills the
 * series anew. A failure is this rank's alone: the caller must end the job. Collective. */
aq_status aq_bench_test_run(aq_bench_test *test, aq_lane *lanes, int n_lane);

#endif
