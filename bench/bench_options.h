/* The command line of aqua-dist-bench. */
#ifndef AQ_BENCH_BENCH_OPTIONS_H
#define AQ_BENCH_BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "src/aqua.h"
#include "src/base/status.h"

typedef enum {
    AQ_BENCH_NONE = 0,
    AQ_BENCH_DECODE = 1,
    AQ_BENCH_STRONG = 2,
    AQ_BENCH_BREAKEVEN = 4,
    AQ_BENCH_PREFILL = 8,
    AQ_BENCH_KERNELS = 16
} aq_bench_command;

#define AQ_BENCH_LIST_MAX 64

/* Whole numbers given with commas between. */
typedef struct {
    int64_t values[AQ_BENCH_LIST_MAX];
    int n;
} aq_bench_list;

/* Texts are NULL and lists empty unless given or defaulted (see the table in bench_options.c). */
typedef struct {
    aq_bench_command command;
    bool help;
    const char *model, *projection, *file;
    aq_bench_list depths;   /* decode, prefill: context in front of the timed tokens */
    aq_bench_list prefills; /* decode, prefill: lengths of which only the prefill is timed */
    bool phases;            /* decode, prefill: a second table */
    aq_bench_list contexts; /* kernels: tokens of a cache; 0: too many for the last-level cache */
    bool all_shapes;        /* kernels: each width of head with each number of heads */
    int64_t n_copy;         /* kernels: caches taken in turns */
    const char *only;       /* kernels: those whose names begin so; NULL: all */
    aq_bench_list ranks;    /* strong */
    aq_bench_list lengths;  /* breakeven: context in front of the decoded tokens */
    bool store;             /* breakeven: into the projection file */
    int64_t n_ctx;          /* strong: tokens prefilled */
    int64_t n_decode, n_repeat;
    int64_t n_thread, n_batch, n_tp;
    const char *device;
    aq_bench_list split;               /* shares of the ranks; none: equal ones */
    const char *merge;                 /* decode, strong */
    const char *key_type, *value_type; /* NULL: as the way of attention has it */
    unsigned attn;                     /* bit 1 << m for each aq_attn_mode m that is measured */
    double k_ratio, s_ratio;
    const char *rank_by;
    double mass, needed; /* needed: of the context of a made model */
    int64_t n_sink, n_recent;
    const char *selector, *prefill;
    const char *format, *jsonl;
} aq_bench_options;

/* Reads the arguments and checks their ranges. AQ_ERR_USAGE with what is wrong. Texts point into
 * argv. Local. */
aq_status aq_bench_options_parse(int argc, char **argv, aq_bench_options *out);

/* Prints the help of the command, or of the program without one. Local. */
void aq_bench_options_help(const aq_bench_options *options, FILE *to);

#endif
