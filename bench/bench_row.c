#include "bench/bench_row.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bench/machine.h"
#include "bench/statistics.h"
#include "src/engine/merge.h"
#include "src/model/report.h"

aq_status aq_bench_table_open(const aq_bench_options *options, const char *host,
                              aq_bench_table *out) {
    *out = (aq_bench_table){.markdown = strcmp(options->format, "md") == 0,
                            .scaling = options->command == AQ_BENCH_STRONG,
                            .ratio = options->command == AQ_BENCH_BREAKEVEN,
                            .kernels = options->command == AQ_BENCH_KERNELS,
                            .path = options->jsonl,
                            .split = &options->split,
                            .host = host};
    aq_machine_cpu(out->cpu, sizeof out->cpu);
    if (options->phases && out->markdown) {
        out->phases = open_memstream(&out->phases_text, &out->phases_bytes);
        if (!out->phases) return aq_fail(AQ_ERR_MEMORY, "no memory for the table of phases");
    }
    if (!options->jsonl) return AQ_OK;
    out->file = fopen(options->jsonl, "a");
    if (out->file) return AQ_OK;
    return aq_fail(AQ_ERR_IO, "cannot append to %s: %s", options->jsonl, strerror(errno));
}

void aq_bench_table_drop(aq_bench_table *table) {
    if (table->phases) fclose(table->phases);
    free(table->phases_text);
    if (table->file) fclose(table->file);
    table->phases = table->file = NULL;
    table->phases_text = NULL;
}

/* Prints the table of phases and ends its stream. */
static void print_phases(aq_bench_table *table) {
    if (!table->phases) return;
    fclose(table->phases);
    printf(
        "\nMicroseconds a token, mean over repetitions and ranks:\n\n| test | attn | keys | all |");
    for (int i = 0; i < AQ_PHASES; i++)
        printf(" %s |", aq_phase_name(i));
    printf(" weights, GB/s | cache, GB/s | all, GB/s |\n|---|---|---|--:|");
    for (int i = 0; i < AQ_PHASES + 3; i++)
        printf("--:|");
    printf("\n%s", table->phases_text);
    free(table->phases_text);
    table->phases = NULL;
    table->phases_text = NULL;
}

aq_status aq_bench_table_close(aq_bench_table *table) {
    print_phases(table);
    FILE *file = table->file;
    table->file = NULL;
    if (!file) return AQ_OK;
    const int failed = ferror(file);
    if (fclose(file) == 0 && !failed) return AQ_OK;
    return aq_fail(AQ_ERR_IO, "cannot write all rows to %s", table->path);
}

void aq_bench_test_name(bool decode, int64_t n, int64_t depth, char *out, size_t bytes) {
    const int end = snprintf(out, bytes, "%s%" PRId64, decode ? "tg" : "pp", n);
    if (depth > 0) snprintf(out + end, bytes - (size_t)end, " @ d%" PRId64, depth);
}

void aq_bench_table_head(const aq_bench_table *table) {
    if (!table->markdown) return;
    if (table->bandwidth.bytes_per_s > 0)
        printf("%s: reads %.1f GB/s (%" PRId64 " MiB, the fastest of %d passes)\n\n", table->cpu,
               table->bandwidth.bytes_per_s * 1e-9, table->bandwidth.bytes >> 20,
               table->bandwidth.n_pass);
    if (table->kernels) {
        printf("| kernel | device | type | shape | context | copies | attended | "
               "µs, median (range) | read, MiB | GB/s | of the machine | TFLOP/s | scan, µs | "
               "choose, µs | check |\n"
               "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n");
        return;
    }
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
    return series->wall_s > 0 ? series->phase_s[AQ_PHASE_EXCHANGE] / series->wall_s : 0;
}

/* Of a sum over repetitions in seconds, microseconds a token. */
static double us_per_token(const aq_series *series, double seconds) {
    return seconds * 1e6 / ((double)series->n_tok * series->n_sample);
}

static double sent_per_token(const aq_series *series) {
    return (double)series->sent_bytes / (double)series->n_tok;
}

/* Of a count, per visible (query, token) pair; 0 if there was none. */
static double per_pair(const aq_series *series, double n) {
    return series->n_pair > 0 ? n / series->n_pair : 0;
}

/* Bytes a second, of all ranks together, at which decode read weights and cache, each in the time
 * of the phases that need it, and both in the time of the whole. */
typedef struct {
    double weights, cache, all;
} read_rates;

/* Ranks that multiply with the output matrix, or with their rows of it. */
static int output_ranks(const aq_bench_row *row) {
    return row->engine->n_tp > 1 ? row->engine->n_rank : 1;
}

static read_rates rates_of(const aq_bench_row *row) {
    const aq_series *series = row->series;
    const aq_weight_reads *reads = &row->lane->weights;
    const double *s = series->phase_s;
    const double n_tok = (double)series->n_tok * series->n_sample, n_rank = row->engine->n_rank;
    const double n_output = output_ranks(row);
    const double weights =
        n_tok * ((double)reads->layers * n_rank + (double)reads->output * n_output);
    const double scores_s = s[AQ_PHASE_SCAN] + s[AQ_PHASE_CHOOSE] + s[AQ_PHASE_ATTEND];
    const double logits_s = s[AQ_PHASE_LOGITS] * n_rank / n_output;
    return (read_rates){.weights = weights / (s[AQ_PHASE_MATVEC] + logits_s),
                        .cache = scores_s > 0 ? series->n_byte_moved / scores_s : 0,
                        .all = (weights + series->n_byte_moved) / series->wall_s};
}

static bool is_decode(const aq_bench_row *row) {
    return row->series == &row->lane->decode;
}

static void add_phases(const aq_bench_table *table, const aq_bench_row *row) {
    FILE *to = table->phases;
    const aq_series *series = row->series;
    char attn[64];
    if (!to) return;
    write_way(row->lane, attn, sizeof attn);
    fprintf(to, "| %s | %s | %s | %.1f |", row->test, attn,
            aq_kv_type_name(row->lane->options.key_type), us_per_token(series, series->wall_s));
    for (int i = 0; i < AQ_PHASES; i++)
        fprintf(to, " %.1f |", us_per_token(series, series->phase_s[i]));
    if (is_decode(row)) {
        const read_rates rates = rates_of(row);
        fprintf(to, " %.1f | %.1f | %.1f |\n", rates.weights * 1e-9, rates.cache * 1e-9,
                rates.all * 1e-9);
    } else
        fprintf(to, " | | |\n");
}

static void describe_phases(aq_report *report, const aq_bench_row *row) {
    const aq_series *series = row->series;
    aq_report_group(report, "phases_us");
    for (int i = 0; i < AQ_PHASES; i++)
        aq_report_real(report, aq_phase_name(i), us_per_token(series, series->phase_s[i]));
    aq_report_end(report);
    if (!is_decode(row)) return;
    const read_rates rates = rates_of(row);
    aq_report_int(report, "weights_bytes_per_token",
                  row->lane->weights.layers * row->engine->n_rank +
                      row->lane->weights.output * output_ranks(row));
    aq_report_real(report, "cache_bytes_per_token",
                   series->n_byte_moved / (double)series->n_tok / series->n_sample);
    aq_report_real(report, "weights_gbs", rates.weights * 1e-9);
    aq_report_real(report, "cache_gbs", rates.cache * 1e-9);
    aq_report_real(report, "all_gbs", rates.all * 1e-9);
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

void aq_bench_table_describe(const aq_bench_table *table, const char *isa, int n_rank, int n_thread,
                             aq_report *report) {
    aq_report_int(report, "schema_version", AQ_BENCH_SCHEMA_VERSION);
    aq_report_text(report, "commit", AQUA_COMMIT);
    aq_report_text(report, "host", table->host);
    aq_report_text(report, "cpu", table->cpu);
    aq_report_text(report, "isa", isa);
    aq_report_int(report, "ranks", n_rank);
    aq_report_int(report, "threads", n_thread);
    if (table->bandwidth.bytes_per_s > 0)
        aq_report_real(report, "machine_gbs", table->bandwidth.bytes_per_s * 1e-9);
}

static void describe_setting(aq_report *report, const aq_bench_table *table,
                             const aq_engine_info *engine, const aq_lane *lane) {
    aq_bench_table_describe(table, engine->isa, engine->n_rank, engine->n_thread, report);
    aq_report_int(report, "tp", engine->n_tp);
    if (table->split->n > 0) {
        aq_report_list(report, "split");
        for (int r = 0; r < engine->n_rank; r++)
            aq_report_int(report, NULL, table->split->values[r]);
        aq_report_end(report);
    }
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
    aq_report_text(report, "merge", aq_merge_name(lane->options.merge));
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
    aq_report_int(report, "cache_key_bytes", row->lane->key_bytes);
    aq_report_int(report, "cache_value_bytes", row->lane->value_bytes);
    aq_report_int(report, "cache_selector_bytes", row->lane->selector_bytes);
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
}

static aq_status flush(void) {
    if (fflush(stdout) == 0) return AQ_OK;
    return aq_fail(AQ_ERR_IO, "cannot write to standard output");
}

aq_status aq_bench_table_line(const aq_bench_table *table, const aq_report *report) {
    char *text = aq_report_print_line(report);
    if (!text) return aq_fail(AQ_ERR_MEMORY, "no memory for a row");
    if (!table->markdown) printf("%s\n", text);
    const bool failed = table->file && fprintf(table->file, "%s\n", text) < 0;
    free(text);
    if (failed) return aq_fail(AQ_ERR_IO, "cannot append to %s: %s", table->path, strerror(errno));
    return flush();
}

static aq_status print_json(const aq_bench_table *table, const aq_bench_row *row,
                            const aq_statistics *tps) {
    aq_report *report = NULL;
    AQ_TRY(aq_report_open(&report));
    describe_setting(report, table, row->engine, row->lane);
    describe_result(report, row, tps);
    describe_phases(report, row);
    aq_report_int(report, "valid", row->valid);
    const aq_status status = aq_bench_table_line(table, report);
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
    add_phases(table, row);
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
    const aq_status status = aq_bench_table_line(table, report);
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
