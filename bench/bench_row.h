/* The rows a benchmark prints: a line of a Markdown table and the same as one line of JSON. */
#ifndef AQ_BENCH_BENCH_ROW_H
#define AQ_BENCH_BENCH_ROW_H

#include <stdio.h>

#include "bench/bench_options.h"
#include "bench/break_even.h"
#include "bench/measure.h"

/* Version of the JSON lines: raised when a key changes its meaning or goes. */
#define AQ_BENCH_SCHEMA_VERSION 1

/* How a row compares with one rank; of `strong` only. */
typedef struct {
    double speedup, efficiency;
    double max_delta; /* largest abs difference of the logits from those of one rank */
    double tolerance; /* how large it may be */
} aq_bench_scaling;

/* One measured phase of one lane. */
typedef struct {
    const aq_engine_info *engine;
    const aq_lane *lane;
    const aq_series *series;
    const char *test; /* "pp512", "tg32 @ d2048" */
    int64_t depth;    /* tokens in front of the measured ones */
    bool valid;
    const aq_bench_scaling *scaling; /* NULL outside `strong` */
    const aq_bench_ratio *ratio;     /* time over dense's; NULL outside `breakeven` */
} aq_bench_row;

/* Where rows go, on the rank that talks to the user. */
typedef struct {
    bool markdown; /* on stdout; else JSON lines */
    bool scaling;  /* columns of `strong` */
    bool ratio;    /* column of `breakeven` */
    FILE *file;    /* JSON lines as well; NULL: none */
    const char *path, *host;
    char cpu[128];
} aq_bench_table;

/* Opens the file of --jsonl for appending. The caller closes. AQ_ERR_IO. Local. */
aq_status aq_bench_table_open(const aq_bench_options *options, const char *host,
                              aq_bench_table *out);

/* Closes the file; a zeroed struct is allowed. AQ_ERR_IO if not all could be written. Local. */
aq_status aq_bench_table_close(aq_bench_table *table);

/* Prints the table's head. Local. */
void aq_bench_table_head(const aq_bench_table *table);

/* Prints and writes one row. AQ_ERR_IO, AQ_ERR_MEMORY. Local. */
aq_status aq_bench_table_add(const aq_bench_table *table, const aq_bench_row *row);

/* Prints and writes where the way of a lane breaks even (aq_break_even), having been measured up to
 * the length `longest`. Errors as aq_bench_table_add. Local. */
aq_status aq_bench_table_conclude(const aq_bench_table *table, const aq_engine_info *engine,
                                  const aq_lane *lane, int64_t break_even, int64_t longest);

#endif
