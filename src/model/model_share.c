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

/* Has the pages of a tensor mapped one by one. Where a large page is mapped as such it comes and
 * goes as a whole, with the rows of several ranks. */
static void map_small_pages(const uint8_t *begin, int64_t bytes) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = (uintptr_t)begin / page * page;
    madvise((void *)first, (uintptr_t)begin + (uintptr_t)bytes - first, MADV_NOHUGEPAGE);
}

/* Rows that are not kept, if they were moved. */
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
        map_small_pages(tensor->data, tensor->bytes);
        drop_pages(tensor->data, (const uint8_t *)tensor->data + tensor->bytes);
    }
    for (int i = 0; i < config->n_layer; i++)
        aq_model_share_each(&whole->layers[i], config->n_expert, drop, &d);
}

/* The bytes of some rows. */
typedef struct {
    const uint8_t *begin, *end;
} span;

static span bytes_of(const aq_weight *matrix) {
    const uint8_t *data = matrix->data;
    return (span){data, data + matrix->n_out * aq_dtype_row_bytes(matrix->dtype, matrix->n_in)};
}

static int by_address(const void *a, const void *b) {
    const uint8_t *x = ((const span *)a)->begin, *y = ((const span *)b)->begin;
    return (x > y) - (x < y);
}

/* What a rank keeps of all matrices. */
typedef struct {
    aq_share share;
    span *spans; /* [n], by address once listed */
    int64_t n;
} keeping;

static void keep(keeping *k, const aq_weight *matrix) {
    if (matrix->data) k->spans[k->n++] = bytes_of(matrix);
}

static void keep_share(void *arg, aq_weight *matrix) {
    keeping *k = arg;
    const aq_weight mine = aq_share_of(matrix, k->share);
    keep(k, &mine);
}

/* A tied output matrix is in the embedding. */
static void list_kept(const aq_model_weights *whole, const aq_model_config *config, keeping *k) {
    aq_weight output = whole->output;
    keep(k, &whole->embed);
    keep(k, &whole->pos_embed);
    if (output.data != whole->embed.data) keep_share(k, &output);
    for (int i = 0; i < config->n_layer; i++) {
        keep(k, &whole->layers[i].router);
        aq_model_share_each(&whole->layers[i], config->n_expert, keep_share, k);
    }
    qsort(k->spans, (size_t)k->n, sizeof *k->spans, by_address);
}

/* The first span that ends behind an address. */
static int64_t find_kept(const keeping *k, const uint8_t *at) {
    int64_t first = 0, end = k->n;
    while (first < end) {
        const int64_t middle = first + (end - first) / 2;
        if (k->spans[middle].end > at)
            end = middle;
        else
            first = middle + 1;
    }
    return first;
}

/* The pages of a tensor in which there is nothing that is kept. */
static void drop_others(const keeping *k, const aq_tensor *tensor) {
    const uint8_t *at = tensor->data, *end = at + tensor->bytes;
    for (int64_t i = find_kept(k, at); i < k->n && k->spans[i].begin < end; i++) {
        if (k->spans[i].begin > at) drop_pages(at, k->spans[i].begin);
        at = k->spans[i].end;
    }
    if (at < end) drop_pages(at, end);
}

void aq_model_share_trim(const aq_model_file *file, const aq_model_weights *whole,
                         const aq_model_config *config, aq_share share) {
    const size_t n_most = 3 + (size_t)config->n_layer * (8 + 3 * (size_t)config->n_expert);
    keeping k = {.share = share, .spans = malloc(n_most * sizeof *k.spans)};
    if (!k.spans) return; /* the map may stay: the system takes it where memory is short */
    list_kept(whole, config, &k);
    for (int64_t i = 0; i < aq_model_file_tensor_count(file); i++) {
        const aq_tensor *tensor = aq_model_file_tensor_at(file, i);
        if (tensor->n_dim > 1) drop_others(&k, tensor);
    }
    free(k.spans);
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
    const int64_t uncut = whole->bytes - layers.all - (tied ? 0 : output.all);
    return (aq_share_bytes){.cut = layers.kept + output.kept,
                            .whole = uncut,
                            .kept = layers.kept + (tied ? 0 : output.kept) + uncut};
}
