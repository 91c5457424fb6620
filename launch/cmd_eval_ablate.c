/* aqua-dist eval ablate: what each choice costs. The chunks of a text run dense once; then every
 * combination of basis, key type, and rule and ratio (aqua) or mass and selector (select) runs over
 * the same chunks and is scored against the dense hidden rows, which are kept. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/bases.h"
#include "launch/chunks.h"
#include "launch/lines.h"
#include "launch/lists.h"
#include "launch/progress.h"
#include "launch/rows.h"
#include "launch/score.h"
#include "launch/shares.h"

#define LAYOUT_BYTES 64

/* What is combined. */
typedef struct {
    int n_basis; /* 0: the projection file's alone */
    aq_basis bases[AQ_BASIS_N];
    int n_key_type;
    aq_kv_type key_types[AQ_KV_TYPES];
    int n_rule;
    aq_rank_by rules[3];
    aq_number_list ratios, masses;
    int n_layout; /* at least 1: an empty one is the projection's */
    aq_code_layout layouts[AQ_LIST_MAX];
} grid;

typedef struct {
    const aq_program *program;
    grid grid;
    aq_projection projections[AQ_BASIS_N]; /* [n_basis] */
    aq_chunks chunks;
    aq_engine *engine;
    aq_rows *dense; /* [chunks.n] */
    aq_lines lines;
    aq_progress progress;
    int64_t n_done, n_all; /* rows of the table */
} ablate_state;

/* One row of the table. */
typedef struct {
    aq_session_options options;
    aq_score_result score;
    aq_attended attended;
} row;

static const char *const rule_names[] = {
    [AQ_RANK_MAGNITUDE] = "magnitude", [AQ_RANK_ENERGY] = "energy", [AQ_RANK_STATIC] = "static"};

static aq_status parse_rule(const char *word, aq_rank_by *out) {
    for (int i = 0; i < 3; i++) {
        *out = (aq_rank_by)i;
        if (strcmp(word, rule_names[i]) == 0) return AQ_OK;
    }
    return aq_fail(AQ_ERR_USAGE, "--rules takes magnitude, energy and static, not \"%s\"", word);
}

/* A list that has no more entries than there are values to name. */
static aq_status read_words(const char *option, const char *text, int n_max, aq_word_list *out) {
    AQ_TRY(aq_word_list_parse(option, text, ',', out));
    if (out->n <= n_max) return AQ_OK;
    return aq_fail(AQ_ERR_USAGE, "%s takes at most %d entries", option, n_max);
}

static aq_status read_layouts(const char *text, grid *grid) {
    aq_word_list words;
    AQ_TRY(aq_word_list_parse("--selectors", text, ';', &words));
    grid->n_layout = words.n > 0 ? words.n : 1;
    for (int i = 0; i < words.n; i++)
        AQ_TRY(aq_code_layout_parse(words.words[i], &grid->layouts[i]));
    return AQ_OK;
}

static aq_status read_grid(const aq_options *options, grid *grid) {
    aq_word_list words;
    AQ_TRY(read_words("--bases", options->bases, AQ_BASIS_N, &words));
    for (grid->n_basis = 0; grid->n_basis < words.n; grid->n_basis++)
        AQ_TRY(aq_basis_parse(words.words[grid->n_basis], &grid->bases[grid->n_basis]));
    AQ_TRY(read_words("--key-types", options->key_types, AQ_KV_TYPES, &words));
    for (grid->n_key_type = 0; grid->n_key_type < words.n; grid->n_key_type++)
        AQ_TRY(aq_kv_type_parse(words.words[grid->n_key_type], &grid->key_types[grid->n_key_type]));
    AQ_TRY(read_words("--rules", options->rules, 3, &words));
    for (grid->n_rule = 0; grid->n_rule < words.n; grid->n_rule++)
        AQ_TRY(parse_rule(words.words[grid->n_rule], &grid->rules[grid->n_rule]));
    AQ_TRY(aq_number_list_parse("--ratios", options->ratios, 1e-6, 1, &grid->ratios));
    AQ_TRY(aq_number_list_parse("--masses", options->masses, 1e-6, 1, &grid->masses));
    return read_layouts(options->selectors, grid);
}

/* The bases of --bases, or the engine with the projection file, which it looks for as with
 * --attn aqua. */
static aq_status open_engine(ablate_state *state) {
    aq_options options = *state->program->options;
    const aq_program program = {&options, state->program->world, state->program->first};
    const bool from_file = state->grid.n_basis == 0;
    if (from_file)
        options.attn = "aqua";
    else
        AQ_TRY(
            aq_bases_solve(&program, state->grid.bases, state->grid.n_basis, state->projections));
    AQ_TRY(aq_program_open_engine(&program, &state->engine));
    if (!from_file || aq_engine_projection(state->engine)) return AQ_OK;
    return aq_fail(AQ_ERR_USAGE, "eval ablate needs a projection: name one with --projection, make "
                                 "it with aqua-dist calibrate, or give --bases and --calibration");
}

/* A place for the dense rows of each chunk. */
static aq_status open_local(ablate_state *state) {
    const aq_program *program = state->program;
    const aq_chunks *chunks = &state->chunks;
    aq_session_options options = aq_program_session_options(program->options, chunks->n_ctx);
    options.attn = AQ_ATTN_DENSE;
    state->dense = calloc((size_t)chunks->n, sizeof *state->dense);
    if (!state->dense) return aq_fail(AQ_ERR_MEMORY, "no memory for the dense rows");
    for (int64_t c = 0; c < chunks->n; c++) {
        AQ_TRY(aq_rows_open(program, state->engine, &options,
                            chunks->n_ctx - aq_chunks_from(chunks), &state->dense[c]));
        state->dense[c].counts = true;
    }
    return program->first ? aq_lines_open(program->options->output, &state->lines) : AQ_OK;
}

static int64_t count_rows(const grid *grid) {
    const int64_t n_way =
        (int64_t)grid->n_rule * grid->ratios.n + (int64_t)grid->masses.n * grid->n_layout;
    return 1 + n_way * grid->n_key_type * (grid->n_basis > 0 ? grid->n_basis : 1);
}

static aq_status open_all(ablate_state *state) {
    AQ_TRY(read_grid(state->program->options, &state->grid));
    AQ_TRY(aq_chunks_open(state->program, &state->chunks));
    AQ_TRY(open_engine(state));
    AQ_TRY(aq_shares_apply(state->program, state->engine, state->chunks.n_ctx));
    AQ_TRY(aq_comm_agree(state->program->world, open_local(state)));
    state->n_all = count_rows(&state->grid);
    return AQ_OK;
}

/* "energy 0.75", "0.95 16x4,32x2", "" */
static void name_way(const ablate_state *state, const row *row, char *out, size_t bytes) {
    const aq_session_options *options = &row->options;
    char layout[LAYOUT_BYTES];
    out[0] = '\0';
    if (options->attn == AQ_ATTN_AQUA)
        snprintf(out, bytes, "%s %g", rule_names[options->rank_by], options->k_ratio);
    if (options->attn != AQ_ATTN_SELECT) return;
    const aq_code_layout codes = options->codes.n_segment > 0
                                     ? options->codes
                                     : aq_projection_codes(aq_engine_projection(state->engine));
    snprintf(out, bytes, "%g %s", options->mass,
             aq_code_layout_text(&codes, layout, sizeof layout));
}

static const char *const attn_names[] = {
    [AQ_ATTN_DENSE] = "dense", [AQ_ATTN_AQUA] = "aqua", [AQ_ATTN_SELECT] = "select"};

static const char *basis_of(const ablate_state *state, const row *row) {
    return row->options.attn == AQ_ATTN_DENSE ? "-" : aq_engine_describe(state->engine).basis;
}

static void print_row(const ablate_state *state, const row *row) {
    char way[LAYOUT_BYTES + 32];
    name_way(state, row, way, sizeof way);
    if (state->n_done == 0)
        printf("%-7s%-9s%-6s%-30s%10s%11s%8s%10s%8s\n", "attn", "basis", "keys", "rule or mass",
               "ppl", "KL", "top1", "attended", "bytes");
    printf("%-7s%-9s%-6s%-30s%10.4f%11.6f%8.4f%10.4f%8.1f\n", attn_names[row->options.attn],
           basis_of(state, row), aq_kv_type_name(row->options.key_type), way, row->score.ppl,
           row->score.kl, row->score.top1, aq_attended_share(&row->attended),
           aq_attended_bytes(&row->attended));
    fflush(stdout);
}

static void fill_line(const ablate_state *state, const row *row, aq_report *line) {
    const aq_session_options *options = &row->options;
    char way[LAYOUT_BYTES + 32];
    name_way(state, row, way, sizeof way);
    aq_report_text(line, "attn", attn_names[options->attn]);
    if (options->attn != AQ_ATTN_DENSE) aq_report_text(line, "basis", basis_of(state, row));
    if (options->attn == AQ_ATTN_AQUA) {
        aq_report_text(line, "rank_by", rule_names[options->rank_by]);
        aq_report_real(line, "k_ratio", options->k_ratio);
        aq_report_real(line, "s_ratio", options->s_ratio);
    }
    if (options->attn == AQ_ATTN_SELECT) {
        aq_report_real(line, "mass_asked", options->mass);
        aq_report_text(line, "selector", strchr(way, ' ') + 1);
    }
    aq_report_text(line, "key_type", aq_kv_type_name(options->key_type));
    aq_report_text(line, "value_type", aq_kv_type_name(options->value_type));
    aq_report_int(line, "n_ctx", state->chunks.n_ctx);
    aq_report_int(line, "chunks", state->chunks.n);
    aq_report_int(line, "tokens", row->score.n);
    aq_report_int(line, "n_rank", aq_comm_size(state->program->world));
    aq_report_real(line, "ppl", row->score.ppl);
    aq_report_real(line, "ppl_error", row->score.ppl_error);
    aq_report_real(line, "kl", row->score.kl);
    aq_report_real(line, "top1", row->score.top1);
    aq_attended_report(line, &row->attended);
}

/* On rank 0. `session` tells what the cache takes. */
static aq_status tell_row(ablate_state *state, const row *row, const aq_session *session) {
    aq_report *line = NULL;
    print_row(state, row);
    AQ_TRY(aq_report_open(&line));
    fill_line(state, row, line);
    aq_attended_report_cache(line, session);
    const aq_status status = aq_lines_add(&state->lines, line);
    aq_report_close(line);
    return status;
}

/* Sums a row over ranks and tells it. */
static aq_status finish_row(ablate_state *state, aq_rows *rows, aq_score *score) {
    const aq_program *program = state->program;
    row row = {.options = rows->options, .attended = rows->attended};
    AQ_TRY(aq_score_sum(score, program->world));
    AQ_TRY(aq_attended_sum(&row.attended, program->world));
    row.score = aq_score_result_of(score);
    AQ_TRY(aq_comm_agree(program->world,
                         program->first ? tell_row(state, &row, rows->session) : AQ_OK));
    aq_progress_update(&state->progress, ++state->n_done, state->n_all);
    return AQ_OK;
}

static aq_status run_chunk(ablate_state *state, int64_t c, aq_rows *rows, const aq_rows *baseline,
                           aq_score *score) {
    const aq_chunks *chunks = &state->chunks;
    const int32_t *ids = aq_chunks_ids(chunks, c);
    AQ_TRY(aq_rows_prefill(rows, ids, chunks->n_ctx, aq_chunks_from(chunks)));
    return aq_program_step(state->program,
                           aq_score_rows(score, rows, baseline, ids, chunks->n_ctx));
}

/* One session and its counts go through the places of all chunks. */
static aq_status run_dense_chunks(ablate_state *state, aq_score *score) {
    aq_rows *dense = state->dense;
    for (int64_t c = 0; c < state->chunks.n; c++) {
        if (c > 0) {
            dense[c].session = dense[c - 1].session;
            dense[c].attended = dense[c - 1].attended;
            dense[c - 1].session = NULL;
        }
        AQ_TRY(run_chunk(state, c, &dense[c], NULL, score));
    }
    aq_rows *last = &dense[state->chunks.n - 1];
    AQ_TRY(finish_row(state, last, score));
    aq_session_close(last->session);
    last->session = NULL;
    return AQ_OK;
}

static aq_status run_dense(ablate_state *state) {
    aq_score score;
    aq_status status = aq_score_open(state->engine, false, &score);
    status = aq_comm_agree(state->program->world, status);
    if (status == AQ_OK) status = run_dense_chunks(state, &score);
    aq_score_close(&score);
    return status;
}

static aq_status run_row_chunks(ablate_state *state, aq_rows *rows, aq_score *score) {
    for (int64_t c = 0; c < state->chunks.n; c++)
        AQ_TRY(run_chunk(state, c, rows, &state->dense[c], score));
    return finish_row(state, rows, score);
}

/* A session of its own for each row. */
static aq_status run_row(ablate_state *state, const aq_session_options *options) {
    const aq_chunks *chunks = &state->chunks;
    aq_rows rows;
    aq_score score = {.engine = NULL};
    aq_status status = aq_rows_open(state->program, state->engine, options,
                                    chunks->n_ctx - aq_chunks_from(chunks), &rows);
    rows.as_is = rows.counts = true;
    if (status == AQ_OK) status = aq_score_open(state->engine, true, &score);
    status = aq_comm_agree(state->program->world, status);
    if (status == AQ_OK) status = run_row_chunks(state, &rows, &score);
    aq_score_close(&score);
    aq_rows_close(&rows);
    return status;
}

/* The rows of one basis and key type. */
static aq_status run_ways(ablate_state *state, aq_session_options options) {
    const grid *grid = &state->grid;
    options.attn = AQ_ATTN_AQUA;
    for (int i = 0; i < grid->n_rule; i++)
        for (int j = 0; j < grid->ratios.n; j++) {
            options.rank_by = grid->rules[i];
            options.k_ratio = grid->ratios.values[j];
            AQ_TRY(run_row(state, &options));
        }
    options.attn = AQ_ATTN_SELECT;
    for (int i = 0; i < grid->masses.n; i++)
        for (int j = 0; j < grid->n_layout; j++) {
            options.mass = grid->masses.values[i];
            options.codes = grid->layouts[j];
            AQ_TRY(run_row(state, &options));
        }
    return AQ_OK;
}

static aq_status run_basis(ablate_state *state) {
    aq_session_options options =
        aq_program_session_options(state->program->options, state->chunks.n_ctx);
    for (int i = 0; i < state->grid.n_key_type; i++) {
        options.key_type = state->grid.key_types[i];
        AQ_TRY(run_ways(state, options));
    }
    return AQ_OK;
}

static aq_status run_rows(ablate_state *state) {
    AQ_TRY(run_dense(state));
    if (state->grid.n_basis == 0) return run_basis(state);
    for (int i = 0; i < state->grid.n_basis; i++) {
        AQ_TRY(aq_engine_set_projection(state->engine, &state->projections[i]));
        AQ_TRY(run_basis(state));
    }
    return AQ_OK;
}

static aq_status write_report(const ablate_state *state) {
    const aq_options *options = state->program->options;
    aq_report *report = NULL;
    AQ_TRY(aq_report_open(&report));
    aq_program_report_engine(report, state->program, state->engine);
    aq_report_text(report, "file", options->file);
    aq_report_text(report, "calibration", options->calibration);
    aq_report_int(report, "n_ctx", state->chunks.n_ctx);
    aq_report_int(report, "chunks", state->chunks.n);
    aq_report_int(report, "rows", state->n_done);
    const aq_status status = aq_report_write(report, options->report);
    aq_report_close(report);
    return status;
}

/* On rank 0. */
static aq_status finish(ablate_state *state) {
    AQ_TRY(aq_lines_commit(&state->lines));
    return state->program->options->report ? write_report(state) : AQ_OK;
}

static aq_status eval_ablate(ablate_state *state) {
    const aq_program *program = state->program;
    AQ_TRY(open_all(state));
    state->progress = aq_progress_start("eval ablate", "rows", program->first);
    AQ_TRY(run_rows(state));
    return aq_comm_agree(program->world, program->first ? finish(state) : AQ_OK);
}

aq_status aq_command_eval_ablate(const aq_program *program) {
    ablate_state state = {.program = program};
    const aq_status status = eval_ablate(&state);
    aq_lines_discard(&state.lines);
    for (int64_t c = 0; state.dense && c < state.chunks.n; c++)
        aq_rows_close(&state.dense[c]);
    free(state.dense);
    aq_engine_close(state.engine);
    for (int i = 0; i < state.grid.n_basis; i++)
        aq_projection_free(&state.projections[i]);
    aq_chunks_close(&state.chunks);
    return status;
}
