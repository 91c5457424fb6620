/* From the command line to what is measured: the text's ids, the engine, the lanes. */
#ifndef AQ_BENCH_BENCH_SETUP_H
#define AQ_BENCH_BENCH_SETUP_H

#include "bench/bench_options.h"
#include "bench/bench_row.h"
#include "bench/made_model.h"
#include "bench/measure.h"

#define AQ_BENCH_LANES_MAX 3

/* A benchmark of all ranks: everything it measures with. */
typedef struct {
    const aq_bench_options *options;
    aq_comm *world;
    bool first; /* rank 0, which talks to the user */
    aq_engine *engine;
    aq_made_context made; /* of a made model */
    int32_t *ids;
    aq_bench_test test;
    aq_lane lanes[AQ_BENCH_LANES_MAX];
    int n_lane;
    aq_bench_table table; /* rank 0 only */
} aq_bench;

/* Opens all of it with room for the first n_ctx tokens of the text and prints the table's head.
 * The caller closes it, also on failure. Collective. */
aq_status aq_bench_open(const aq_bench_options *options, aq_comm *world, int64_t n_ctx,
                        aq_bench *out);
void aq_bench_close(aq_bench *bench);

/* The first n ids of the text, with a BOS in front if the model wants one, or n random ones of a
 * made model; read on rank 0 and shared. Fresh memory. AQ_ERR_USAGE if the text is shorter.
 * Collective. */
aq_status aq_bench_read_ids(const aq_bench_options *options, aq_comm *world, int64_t n,
                            int32_t **ids);

/* AQ_ERR_USAGE unless --split, if given, has a share for each rank. The same on all ranks. Local.
 */
aq_status aq_bench_check_split(const aq_bench_options *options, const aq_comm *world);

/* Opens the engine of the options over comm, ranks of which are the world's first, with n_thread
 * threads and the shares of --split. The caller closes it, also on failure. Collective over comm.
 */
aq_status aq_bench_open_engine(const aq_bench_options *options, aq_comm *comm, int n_thread,
                               aq_engine **out);

/* Threads of a rank: as asked for, or its share of the host of `world`. Warns on stderr when the
 * ranks of a host have more threads than it has processors. Local. */
int aq_bench_threads(const aq_bench_options *options, const aq_comm *world);

/* Opens the lanes of --attn with room for n_ctx tokens; close each with aq_lane_close. Collective
 * over the test's ranks. */
aq_status aq_bench_open_lanes(const aq_bench_options *options, aq_bench_test *test, int64_t n_ctx,
                              aq_lane lanes[AQ_BENCH_LANES_MAX], int *n_lane);

/* Passes AQ_OK. A failure while measuring is one rank's while others may be waiting for it: prints
 * one line with rank and host and ends the job; with one rank returns it. Local. */
aq_status aq_bench_step(aq_comm *world, aq_status status);

#endif
