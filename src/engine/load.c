/* Weights are mapped; touching a page of the map reads it. */
#include "src/engine/engine.h"

#define PAGE_BYTES  4096
#define PIECE_BYTES ((int64_t)256 << 20) /* between two reports of progress */

/* This rank's share of the bytes of all tensors, laid end to end, and what was reported of it. */
typedef struct {
    int64_t share_begin, share_end;
    int64_t told;
    const aq_engine_options *options;
} loading;

static void touch(const char *data, int64_t begin, int64_t end) {
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

/* The part of one tensor, whose first byte is number `first` of all, that lies in the share. */
static void load_tensor(loading *load, const aq_tensor *tensor, int64_t first) {
    const int64_t last = first + tensor->bytes;
    int64_t at = first > load->share_begin ? first : load->share_begin;
    const int64_t end = last < load->share_end ? last : load->share_end;
    while (at < end) {
        const int64_t next = end - at < PIECE_BYTES ? end : at + PIECE_BYTES;
        touch(tensor->data, at - first, next - first);
        at = next;
        tell(load, at);
    }
}

void aq_engine_load(const aq_engine *engine, const aq_engine_options *options) {
    const aq_model_file *file = engine->file;
    const int64_t n_tensor = aq_model_file_tensor_count(file);
    const int64_t n_share = aq_comm_size_on_host(engine->comm);
    const int64_t share = aq_comm_rank_on_host(engine->comm);
    int64_t n_all = 0, first = 0;
    for (int64_t i = 0; i < n_tensor; i++)
        n_all += aq_model_file_tensor_at(file, i)->bytes;
    loading load = {.share_begin = n_all / n_share * share, .options = options};
    load.share_end = share == n_share - 1 ? n_all : n_all / n_share * (share + 1);
    load.told = load.share_begin;
    for (int64_t i = 0; i < n_tensor; i++) {
        const aq_tensor *tensor = aq_model_file_tensor_at(file, i);
        load_tensor(&load, tensor, first);
        first += tensor->bytes;
    }
}
