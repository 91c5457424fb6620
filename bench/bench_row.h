/* The rows a benchmark prints: a line of a Markdown table and the same as one line of JSON. */
#ifndef AQ_BENCH_BENCH_ROW_H
#define AQ_BENCH_BENCH_ROW_H

#include <stdio.h>

#include "bench/bench_options.h"
#include "bench/break_even.h"
#include "bench/measure.h"
#include "src/engine/bandwidth.h"
#include "src/model/report.h"

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
    bool kernels;  /* the head of `kernels` */
    FILE *file;    /* JSON lines as well; NULL: none */
    const char *path, *host;
    char cpu[128];
    const aq_bench_list *split; /* shares of the ranks, borrowed; empty: equal ones */
    aq_bandwidth bandwidth;     /* 0: not measured */
    /* The second table, which --phases asks for: a stream into text; NULL: none. */
    FILE *phases;
    char *phases_text;
    size_t phases_bytes;
} aq_bench_table;

/* Opens the file of --jsonl for appending. The caller closes. AQ_ERR_IO, AQ_ERR_MEMORY. Local. */
aq_status aq_bench_table_open(const aq_bench_options *options, const char *host,
                              aq_bench_table *out);

/* Prints the table of phases, if there is one, and closes the file; a zeroed struct is allowed.
 * AQ_ERR_IO if not all could be written. Local. */
aq_status aq_bench_table_close(aq_bench_table *table);

/* Frees what an open table holds, as after a failure. Local. */
void aq_bench_table_drop(aq_bench_table *table);

/* "pp512", "tg32 @ d2048": n tokens, prefilled or decoded, behind a context of `depth`. Local. */
void aq_bench_test_name(bool decode, int64_t n, int64_t depth, char *out, size_t bytes);

/* Prints what reading is held against, if it was measured, and the table's head. Local. */
void aq_bench_table_head(const aq_bench_table *table);

/* Adds what is measured on to a document: the machine, and what it is used with. Local. */
void aq_bench_table_describe(const aq_bench_table *table, const char *isa, int n_rank, int n_thread,
                             aq_report *report);

/* Writes a document as one line to where JSON lines go. AQ_ERR_IO, AQ_ERR_MEMORY. Local. */
aq_status aq_bench_table_line(const aq_bench_table *table, const aq_report *report);

/* Prints and writes one row. AQ_ERR_IO, AQ_ERR_MEMORY. Local. */
aq_status aq_bench_table_add(const aq_bench_table *table, const aq_bench_row *row);

/* Prints and writes where the way of a lane breaks even (aq_break_even), having been measured up to
 * the length `longest`. Errors as aq_bench_table_add. Local. */
aq_status aq_bench_table_conclude(const aq_bench_table *table, const aq_engine_info *engine,
                                  const aq_lane *lane, int64_t break_even, int64_t longest);

#endif
