/* The benchmarks. Each returns the same status on every rank, or does not return. */
#ifndef AQ_BENCH_BENCH_COMMANDS_H
#define AQ_BENCH_BENCH_COMMANDS_H

#include "bench/bench_options.h"
#include "comm/comm.h"

/* `valid` is false if a check of a row failed; the same on every rank. Collective. */
aq_status aq_bench_decode(const aq_bench_options *options, aq_comm *world, bool *valid);
aq_status aq_bench_kernels(const aq_bench_options *options, aq_comm *world, bool *valid);
aq_status aq_bench_breakeven(const aq_bench_options *options, aq_comm *world, bool *valid);
aq_status aq_bench_strong(const aq_bench_options *options, aq_comm *world, bool *valid);

#endif
