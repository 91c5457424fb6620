#include "bench/bench_row.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bench/machine.h"
#include "bench/statistics.h"
#include "src/model/report.h"

aq_status aq_bench_table_open(const aq_bench_options *options, const char *host,
                              aq_bench_table *out) {
    *out = (aq_bench_table){.markdown = strcmp(options->format, "md") == 0,
                            .scaling = options->command == AQ_BENCH_STRONG,
                            .ratio = options->command == AQ_BENCH_BREAKEVEN,
                            .path = options->jsonl,
                            .host = host};
    aq_machine_cpu(out->cpu, sizeof out->cpu);
    if (!options->jsonl) return AQ_OK;
    out->file = fopen(options->jsonl, "a");
    if (out->file) return AQ_OK;
    return aq_fail(AQ_ERR_IO, "cannot append to %s: %s", options->jsonl, strerror(errno));
}

aq_status aq_bench_table_close(aq_bench_table *table) {
    FILE *file = table->file;
    table->file = NULL;
    if (!file) return AQ_OK;
    const int failed = ferror(file);
    if (fclose(file) == 0 && !failed) return AQ_OK;
    return aq_fail(AQ_ERR_IO, "cannot write all rows to %s", table->path);
}

void aq_bench_table_head(const aq_bench_table *table) {
    if (!table->markdown) return;
    printf("| test | attn | keys | ranks | threads | t/s, mean ± sd | t/s, median | exchange | "
           "sent, KiB/token | cache, MiB/rank | attended | moved, B |%s%s check |\n",
           table->scaling ? " speed-up | efficiency | max delta |" : "",
           table->ratio ? " time over dense's, median (range) |" : "");
    printf("|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|%s%s---|\n",
           table->scaling ? "--:|--:|--:|" : "", table->ratio ? "--:|" : "");
}

static const char *attn_name(const aq_lane *lane) {
    static const char *const names[] = {
        [AQ_ATTN_DENSE] = "dense", [AQ_ATTN_AQUA] = "aqua", [AQ_ATTN_SELECT] = "select"};
    return names[lane->options.attn];
}

/* The way and its main settings, for people. */
static void write_way(const aq_lane *lane, char *out, size_t bytes) {
    const aq_session_options *how = &lane->options;
    snprintf(out, bytes, "%s", attn_name(lane));
    if (how->attn == AQ_ATTN_AQUA)
        snprintf(out, bytes, "aqua, k %.4g, s %.4g", how->k_ratio, how->s_ratio);
    if (how->attn == AQ_ATTN_SELECT) snprintf(out, bytes, "select, mass %.4g", how->mass);
}

static double exchange_share(const aq_series *series) {
    return series->wall_s > 0 ? series->exchange_s / series->wall_s : 0;
}

static double sent_per_token(const aq_series *series) {
    return (double)series->sent_bytes / (double)series->n_tok;
}

/* Of a count, per visible (query, token) pair; 0 if there was none. */
static double per_pair(const aq_series *series, double n) {
    return series->n_pair > 0 ? n / series->n_pair : 0;
}

static void print_markdown(const aq_bench_row *row, const aq_statistics *tps) {
    const aq_series *series = row->series;
    char attn[64];
    write_way(row->lane, attn, sizeof attn);
    printf("| %s | %s | %s | %d | %d | %.2f ± %.2f | %.2f | %.1f %% | %.2f | %.2f |", row->test,
           attn, aq_kv_type_name(row->lane->options.key_type), row->engine->n_rank,
           row->engine->n_thread, tps->mean, tps->sd, tps->median, 100 * exchange_share(series),
           sent_per_token(series) / 1024, (double)row->lane->cache_bytes / 1048576.0);
    printf(" %.1f %% | %.1f |", 100 * per_pair(series, series->n_attended),
           per_pair(series, series->n_byte_moved));
    if (row->scaling)
        printf(" %.2f | %.0f %% | %.2g |", row->scaling->speedup, 100 * row->scaling->efficiency,
               row->scaling->max_delta);
    if (row->ratio)
        printf(" %.3f (%.3f to %.3f) |", row->ratio->median, row->ratio->least, row->ratio->most);
    printf(" %s |\n", row->valid ? "valid" : "**INVALID**");
}

static void describe_select(aq_report *report, const aq_lane *lane) {
    char text[64];
    aq_report_text(report, "selector", aq_code_layout_text(&lane->codes, text, sizeof text));
    aq_report_real(report, "mass_asked", lane->options.mass);
    aq_report_int(report, "sinks", lane->options.n_sink);
    aq_report_int(report, "recent", lane->options.n_recent);
    aq_report_text(report, "prefill", lane->options.dense_prefill ? "dense" : "same");
}

static void describe_setting(aq_report *report, const aq_bench_table *table,
                             const aq_engine_info *engine, const aq_lane *lane) {
    aq_report_int(report, "schema_version", AQ_BENCH_SCHEMA_VERSION);
    aq_report_text(report, "commit", AQUA_COMMIT);
    aq_report_text(report, "host", table->host);
    aq_report_text(report, "cpu", table->cpu);
    aq_report_text(report, "isa", engine->isa);
    aq_report_int(report, "ranks", engine->n_rank);
    aq_report_int(report, "threads", engine->n_thread);
    aq_report_text(report, "model", engine->name);
    aq_report_int(report, "weights_bytes", engine->weights_bytes);
    aq_report_text(report, "attn", attn_name(lane));
    if (lane->options.attn != AQ_ATTN_DENSE) aq_report_text(report, "basis", engine->basis);
    if (lane->options.attn == AQ_ATTN_AQUA) {
        aq_report_real(report, "k_ratio", lane->options.k_ratio);
        aq_report_real(report, "s_ratio", lane->options.s_ratio);
    }
    if (lane->options.attn == AQ_ATTN_SELECT) describe_select(report, lane);
    aq_report_text(report, "key_type", aq_kv_type_name(lane->options.key_type));
    aq_report_text(report, "value_type", aq_kv_type_name(lane->options.value_type));
}

static void describe_result(aq_report *report, const aq_bench_row *row, const aq_statistics *tps) {
    const aq_series *series = row->series;
    aq_report_text(report, "test", row->test);
    aq_report_int(report, "depth", row->depth);
    aq_report_int(report, "tokens", series->n_tok);
    aq_report_real(report, "tps_mean", tps->mean);
    aq_report_real(report, "tps_median", tps->median);
    aq_report_real(report, "tps_sd", tps->sd);
    aq_report_list(report, "samples_s");
    for (int i = 0; i < series->n_sample; i++)
        aq_report_real(report, NULL, series->seconds[i]);
    aq_report_end(report);
    aq_report_real(report, "exchange_share", exchange_share(series));
    aq_report_real(report, "sent_bytes_per_token", sent_per_token(series));
    aq_report_int(report, "cache_bytes_per_rank", row->lane->cache_bytes);
    aq_report_real(report, "attended", per_pair(series, series->n_attended));
    aq_report_real(report, "bytes_moved", per_pair(series, series->n_byte_moved));
    if (row->scaling) {
        aq_report_real(report, "speedup", row->scaling->speedup);
        aq_report_real(report, "efficiency", row->scaling->efficiency);
        aq_report_real(report, "max_delta", row->scaling->max_delta);
        aq_report_real(report, "tolerance", row->scaling->tolerance);
    }
    if (row->ratio) {
        aq_report_real(report, "ratio_median", row->ratio->median);
        aq_report_real(report, "ratio_least", row->ratio->least);
        aq_report_real(report, "ratio_most", row->ratio->most);
    }
    aq_report_int(report, "valid", row->valid);
}

/* Takes the layout out of a JSON document: inside strings line ends and tabs are escaped, so those
 * that stand there are layout. */
static void to_one_line(char *text) {
    char *to = text;
    for (const char *from = text; *from; from++)
        if (*from != '\n' && *from != '\t') *to++ = *from;
    *to = '\0';
}

/* Writes a document, which may lack memory, as one line to where JSON lines go. */
static aq_status print_line(const aq_bench_table *table, const aq_report *report) {
    char *text = aq_report_print(report);
    if (!text) return aq_fail(AQ_ERR_MEMORY, "no memory for a row");
    to_one_line(text);
    if (!table->markdown) printf("%s\n", text);
    const bool failed = table->file && fprintf(table->file, "%s\n", text) < 0;
    free(text);
    return failed ? aq_fail(AQ_ERR_IO, "cannot append to %s: %s", table->path, strerror(errno))
                  : AQ_OK;
}

static aq_status flush(void) {
    if (fflush(stdout) == 0) return AQ_OK;
    return aq_fail(AQ_ERR_IO, "cannot write to standard output");
}

static aq_status print_json(const aq_bench_table *table, const aq_bench_row *row,
                            const aq_statistics *tps) {
    aq_report *report = NULL;
    AQ_TRY(aq_report_open(&report));
    describe_setting(report, table, row->engine, row->lane);
    describe_result(report, row, tps);
    const aq_status status = print_line(table, report);
    aq_report_close(report);
    return status;
}

aq_status aq_bench_table_add(const aq_bench_table *table, const aq_bench_row *row) {
    const aq_series *series = row->series;
    double *rates = malloc((size_t)series->n_sample * sizeof *rates);
    if (!rates) return aq_fail(AQ_ERR_MEMORY, "no memory for a row");
    const aq_statistics tps = aq_statistics_rates(series->seconds, (size_t)series->n_sample,
                                                  (double)series->n_tok, rates);
    free(rates);
    if (table->markdown) print_markdown(row, &tps);
    if (!table->markdown || table->file) AQ_TRY(print_json(table, row, &tps));
    return flush();
}

static aq_status conclude_json(const aq_bench_table *table, const aq_engine_info *engine,
                               const aq_lane *lane, int64_t break_even, int64_t longest) {
    aq_report *report = NULL;
    AQ_TRY(aq_report_open(&report));
    describe_setting(report, table, engine, lane);
    aq_report_text(report, "test", "breakeven");
    if (break_even < INT64_MAX)
        aq_report_int(report, "break_even", break_even);
    else
        aq_report_text(report, "break_even", NULL);
    aq_report_int(report, "longest", longest);
    const aq_status status = print_line(table, report);
    aq_report_close(report);
    return status;
}

aq_status aq_bench_table_conclude(const aq_bench_table *table, const aq_engine_info *engine,
                                  const aq_lane *lane, int64_t break_even, int64_t longest) {
    char way[64];
    write_way(lane, way, sizeof way);
    if (table->markdown && break_even < INT64_MAX)
        printf("\n%s: faster than dense from %" PRId64 " tokens on\n", way, break_even);
    else if (table->markdown)
        printf("\n%s: never up to %" PRId64 " tokens\n", way, longest);
    if (!table->markdown || table->file)
        AQ_TRY(conclude_json(table, engine, lane, break_even, longest));
    return flush();
}
