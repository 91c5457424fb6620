#include "src/model/model_share.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/model/weights_loader.h"

void aq_model_share_each(aq_layer_weights *layer, int n_expert,
                         void (*visit)(void *arg, aq_weight *matrix), void *arg) {
    aq_weight *const attention[] = {&layer->wq, &layer->wk, &layer->wv, &layer->wo};
    for (int i = 0; i < 4; i++)
        visit(arg, attention[i]);
    for (int e = -1; e < (layer->experts ? n_expert : 0); e++) {
        aq_ffn_weights *ffn = e < 0 ? &layer->ffn : &layer->experts[e];
        aq_weight *const matrices[] = {&ffn->w_gate, &ffn->w_up, &ffn->w_down};
        for (int i = 0; i < 3; i++)
            if (matrices[i]->data) visit(arg, matrices[i]);
    }
}

aq_weight aq_share_of(const aq_weight *whole, aq_share share) {
    const int64_t first = aq_share_first(whole->n_out, share.n, share.rank);
    const int64_t end = aq_share_first(whole->n_out, share.n, share.rank + 1);
    return aq_weight_rows(whole, first, end - first);
}

static void cut(void *arg, aq_weight *matrix) {
    const aq_share *share = arg;
    *matrix = aq_share_of(matrix, *share);
}

/* Tables of layers and experts of their own. */
static aq_status copy_tables(const aq_model_weights *from, const aq_model_config *config,
                             aq_model_weights *to) {
    const size_t n_layer = (size_t)config->n_layer, n_expert = (size_t)config->n_expert;
    *to = *from;
    to->owned = NULL;
    to->layers = calloc(n_layer, sizeof *to->layers);
    if (!to->layers) return aq_fail(AQ_ERR_MEMORY, "no memory for a table of %zu layers", n_layer);
    memcpy(to->layers, from->layers, n_layer * sizeof *from->layers);
    for (size_t i = 0; i < n_layer; i++)
        to->layers[i].experts = NULL;
    for (size_t i = 0; i < n_layer; i++) {
        const aq_ffn_weights *experts = from->layers[i].experts;
        if (!experts) continue;
        to->layers[i].experts = malloc(n_expert * sizeof *experts);
        if (!to->layers[i].experts)
            return aq_fail(AQ_ERR_MEMORY, "no memory for a table of %zu experts", n_expert);
        memcpy(to->layers[i].experts, experts, n_expert * sizeof *experts);
    }
    return AQ_OK;
}

aq_status aq_model_share_open(const aq_model_weights *whole, const aq_model_config *config,
                              aq_share share, aq_model_weights *out) {
    AQ_TRY(copy_tables(whole, config, out));
    cut(&share, &out->output);
    for (int i = 0; i < config->n_layer; i++)
        aq_model_share_each(&out->layers[i], config->n_expert, cut, &share);
    return AQ_OK;
}

void aq_model_share_close(aq_model_weights *weights, const aq_model_config *config) {
    for (int i = 0; weights->layers && i < config->n_layer; i++)
        free(weights->layers[i].experts);
    free(weights->layers);
    *weights = (aq_model_weights){.layers = NULL};
}

/* Whole pages between two addresses: of a file they are read again, others are lost. */
static void drop_pages(const uint8_t *begin, const uint8_t *end) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = ((uintptr_t)begin + page - 1) / page * page;
    const uintptr_t last = (uintptr_t)end / page * page;
    if (last > first) madvise((void *)first, last - first, MADV_DONTNEED);
}

typedef struct {
    aq_share share;
    const uint8_t *begin, *end; /* of the memory of moved rows */
} dropping;

static void drop(void *arg, aq_weight *matrix) {
    const dropping *d = arg;
    const uint8_t *rows = matrix->data;
    const int64_t row_bytes = aq_dtype_row_bytes(matrix->dtype, matrix->n_in);
    if (rows < d->begin || rows >= d->end) return;
    const int64_t first = aq_share_first(matrix->n_out, d->share.n, d->share.rank);
    const int64_t end = aq_share_first(matrix->n_out, d->share.n, d->share.rank + 1);
    drop_pages(rows, rows + first * row_bytes);
    drop_pages(rows + end * row_bytes, rows + matrix->n_out * row_bytes);
}

void aq_model_share_drop(const aq_model_file *file, const aq_model_weights *whole,
                         const aq_model_config *config, aq_share share) {
    dropping d = {share, whole->owned, (const uint8_t *)whole->owned + whole->owned_bytes};
    for (int64_t i = 0; i < aq_model_file_tensor_count(file); i++) {
        const aq_tensor *tensor = aq_model_file_tensor_at(file, i);
        drop_pages(tensor->data, (const uint8_t *)tensor->data + tensor->bytes);
    }
    for (int i = 0; i < config->n_layer; i++)
        aq_model_share_each(&whole->layers[i], config->n_expert, drop, &d);
}

typedef struct {
    aq_share share;
    int64_t all, kept;
} counting;

static void count(void *arg, aq_weight *matrix) {
    counting *c = arg;
    const int64_t row_bytes = aq_dtype_row_bytes(matrix->dtype, matrix->n_in);
    const int64_t first = aq_share_first(matrix->n_out, c->share.n, c->share.rank);
    const int64_t end = aq_share_first(matrix->n_out, c->share.n, c->share.rank + 1);
    c->all += matrix->n_out * row_bytes;
    c->kept += (end - first) * row_bytes;
}

aq_share_bytes aq_model_share_bytes(const aq_model_weights *whole, const aq_model_config *config,
                                    aq_share share) {
    counting layers = {.share = share}, output = {.share = share};
    aq_weight matrix = whole->output;
    for (int i = 0; i < config->n_layer; i++)
        aq_model_share_each(&whole->layers[i], config->n_expert, count, &layers);
    count(&output, &matrix);
    const bool tied = whole->output.data == whole->embed.data;
    return (aq_share_bytes){.cut = layers.kept + output.kept,
                            .whole = whole->bytes - layers.all - (tied ? 0 : output.all)};
}
