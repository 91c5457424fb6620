/* Weights are mapped; touching a page of the map reads it. Those of a made model
 * (src/model/synth.h) are made here, of each rank what it keeps. */
#include "comm/heartbeat.h"
#include "src/engine/engine.h"

#define PAGE_BYTES  4096
#define PIECE_BYTES ((int64_t)256 << 20) /* between two reports of progress */

/* This rank's share of bytes that are thought of as laid end to end, and what was reported of it.
 */
typedef struct {
    int64_t share_begin, share_end;
    int64_t told;
    const aq_engine_options *options;
    const aq_synth *synth; /* NULL: a file */
} loading;

static void bring(const loading *load, const char *data, int64_t begin, int64_t end) {
    if (load->synth) aq_synth_make(load->synth, data + begin, end - begin);
    for (int64_t at = begin; at < end; at += PAGE_BYTES)
        (void)*(const volatile char *)(data + at);
}

/* Reports each piece, and the end if anything was reported before it. */
static void tell(loading *load, int64_t at) {
    const bool piece = at - load->told >= PIECE_BYTES;
    const bool end = at == load->share_end && load->told > load->share_begin;
    if (!load->options->load_progress || (!piece && !end)) return;
    load->options->load_progress(load->options->arg, at - load->share_begin,
                                 load->share_end - load->share_begin);
    load->told = at;
}

/* The part of `bytes` bytes, the first of which is number `first` of all, that lies in the share.
 */
static void load_bytes(loading *load, const void *data, int64_t bytes, int64_t first) {
    const int64_t last = first + bytes;
    int64_t at = first > load->share_begin ? first : load->share_begin;
    const int64_t end = last < load->share_end ? last : load->share_end;
    while (at < end) {
        const int64_t next = end - at < PIECE_BYTES ? end : at + PIECE_BYTES;
        aq_heartbeat_note(AQ_PHASE_LOAD, -1, 0);
        bring(load, data, at - first, next - first);
        at = next;
        tell(load, at);
    }
}

/* Every rank has all weights: the ranks of a host share what the system caches. */
static void load_tensors(const aq_engine *engine, loading *load) {
    const aq_model_file *file = engine->file;
    const int64_t n_tensor = aq_model_file_tensor_count(file);
    const int64_t n_share = aq_comm_size_on_host(engine->comm);
    const int64_t share = aq_comm_rank_on_host(engine->comm);
    int64_t n_all = 0, first = 0;
    for (int64_t i = 0; i < n_tensor; i++)
        n_all += aq_model_file_tensor_at(file, i)->bytes;
    load->share_begin = load->told = n_all / n_share * share;
    load->share_end = share == n_share - 1 ? n_all : n_all / n_share * (share + 1);
    for (int64_t i = 0; i < n_tensor; i++) {
        const aq_tensor *tensor = aq_model_file_tensor_at(file, i);
        load_bytes(load, tensor->data, tensor->bytes, first);
        first += tensor->bytes;
    }
}

typedef struct {
    loading *load;
    aq_share share;
    int64_t first;
} rows_to_load;

static void load_rows(void *arg, aq_weight *matrix) {
    rows_to_load *rows = arg;
    const aq_weight mine = aq_share_of(matrix, rows->share);
    const int64_t bytes = mine.n_out * aq_dtype_row_bytes(mine.dtype, mine.n_in);
    load_bytes(rows->load, mine.data, bytes, rows->first);
    rows->first += bytes;
}

/* This rank has some rows of each matrix, and only these come into its memory. */
static void load_share(const aq_engine *engine, loading *load) {
    const aq_model_config *config = &engine->config;
    aq_weight output = engine->weights.output;
    rows_to_load rows = {load, engine->shard.share, 0};
    load->share_end = aq_model_share_bytes(&engine->weights, config, rows.share).cut;
    if (!load->synth) aq_model_share_drop(engine->file, &engine->weights, config, rows.share);
    for (int i = 0; i < config->n_layer; i++)
        aq_model_share_each(&engine->weights.layers[i], config->n_expert, load_rows, &rows);
    load_rows(&rows, &output);
    if (!load->synth) aq_model_share_trim(engine->file, &engine->weights, config, rows.share);
}

/* Of a made model, the embedding, which no rank shares. */
static void load_embedding(const aq_engine *engine, const loading *load) {
    const aq_weight *embed = &engine->weights.embed;
    bring(load, embed->data, 0, embed->n_out * aq_dtype_row_bytes(embed->dtype, embed->n_in));
}

void aq_engine_load(const aq_engine *engine, const aq_engine_options *options) {
    loading load = {.options = options, .synth = aq_model_file_synth(engine->file)};
    if (load.synth && !engine->be->host_memory) return; /* made where they are placed */
    if (load.synth) load_embedding(engine, &load);
    if (load.synth || engine->shard.share.n > 1)
        load_share(engine, &load);
    else
        load_tensors(engine, &load);
}
