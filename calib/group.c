#include "calib/group.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/code_column.h"

static void add_column(const float *restrict key, float q, int64_t n, float *restrict out) {
    for (int64_t s = 0; s < n; s++)
        out[s] += q * key[s];
}

void aq_group_score(const aq_group *group, const float *keys, const float *q, int c0, int c1,
                    int64_t begin, int64_t end, float *out) {
    for (int c = c0; c < c1; c++)
        add_column(keys + c * group->n_tok + begin, q[c], end - begin, out);
}

const float *aq_group_query(const aq_group *group, int64_t i, int h) {
    return group->query + (i * group->n_group + h) * group->d_head;
}

/* out[s] = what codes of x[s] stand for, tile by tile. A last one that is not full counts as if the
 * rest of it were its first number. */
static void code_tiles(const float *x, int64_t n, int bits, float *out) {
    for (int64_t begin = 0; begin < n; begin += AQ_TILE) {
        const int64_t n_tile = n - begin < AQ_TILE ? n - begin : AQ_TILE;
        float tile[AQ_TILE], level[AQ_TILE];
        aq_column_codes codes;
        for (int64_t s = 0; s < AQ_TILE; s++)
            tile[s] = x[begin + (s < n_tile ? s : 0)];
        aq_column_fit(tile, bits, &codes);
        aq_column_levels(&codes, bits, level);
        memcpy(out + begin, level, (size_t)n_tile * sizeof *out);
    }
}

typedef struct {
    const float *raw; /* [d, n_tok] keys by column, before projection */
    const float *pk;  /* [d, d] */
    const aq_group *group;
} key_task;

/* Columns of k^, each with its codes, dealt over the threads in turn. */
static void make_keys(void *arg, int thread, int n_thread) {
    const key_task *task = arg;
    const aq_group *group = task->group;
    const int64_t n = group->n_tok;
    const int d = group->d_head;
    for (int c = thread; c < d; c += n_thread) {
        float *column = group->key + c * n;
        memset(column, 0, (size_t)n * sizeof *column);
        for (int i = 0; i < d; i++)
            add_column(task->raw + i * n, task->pk[i * d + c], n, column);
        for (int bits = 1; bits < AQ_GROUP_BITS; bits++)
            if (group->coded[bits]) code_tiles(column, n, bits, group->coded[bits] + c * n);
    }
}

/* The head's keys by column; fresh memory, NULL if there is none. */
static float *transpose_keys(const aq_sample *sample, int head) {
    const int d = sample->d_head;
    float *raw = malloc((size_t)d * (size_t)sample->n_tok * sizeof *raw);
    for (int64_t s = 0; raw && s < sample->n_tok; s++)
        for (int i = 0; i < d; i++)
            raw[i * sample->n_tok + s] = sample->k[(s * sample->n_kv_head + head) * d + i];
    return raw;
}

static void make_queries(const aq_sample *sample, const float *pq, int head, aq_group *group) {
    const int d = group->d_head;
    for (int64_t i = 0; i < group->n_query; i++)
        for (int h = 0; h < group->n_group; h++) {
            const int64_t row = group->pos[i] * sample->n_head + head * group->n_group + h;
            const float *q = sample->q + row * d;
            float *out = group->query + (i * group->n_group + h) * d;
            for (int c = 0; c < d; c++) {
                double sum = 0;
                for (int j = 0; j < d; j++)
                    sum += (double)q[j] * (double)pq[j * d + c];
                out[c] = (float)(sum * (double)sample->scale);
            }
        }
}

static aq_status no_memory(aq_group *group) {
    const long long n_tok = group->n_tok;
    aq_group_close(group);
    return aq_fail(AQ_ERR_MEMORY, "no memory for the keys of a sample of %lld tokens", n_tok);
}

static aq_status open_arrays(unsigned bits, aq_group *group) {
    const size_t n_key = (size_t)group->d_head * (size_t)group->n_tok;
    const size_t n_query = (size_t)(group->n_query * group->n_group * group->d_head);
    group->key = malloc(n_key * sizeof *group->key);
    group->query = malloc((n_query + 1) * sizeof *group->query);
    bool good = group->key && group->query;
    for (int b = 1; b < AQ_GROUP_BITS; b++) {
        if (!(bits >> b & 1)) continue;
        group->coded[b] = malloc(n_key * sizeof *group->coded[b]);
        good = good && group->coded[b];
    }
    return good ? AQ_OK : no_memory(group);
}

aq_status aq_group_open(const aq_sample *sample, const aq_projection *projection, int head,
                        unsigned bits, aq_group *out) {
    const int d = sample->d_head;
    const int64_t problem = (int64_t)sample->layer * sample->n_kv_head + head;
    *out = (aq_group){.d_head = d,
                      .n_group = sample->n_head / sample->n_kv_head,
                      .n_tok = sample->n_tok,
                      .n_query = sample->n_query,
                      .pos = sample->pos,
                      .sigma = projection->sigma + problem * d};
    AQ_TRY(open_arrays(bits, out));
    float *raw = transpose_keys(sample, head);
    if (!raw) return no_memory(out);
    key_task task = {raw, projection->pk + problem * d * d, out};
    if (sample->team)
        aq_threads_run(sample->team, make_keys, &task);
    else
        make_keys(&task, 0, 1);
    free(raw);
    make_queries(sample, projection->pq + problem * d * d, head, out);
    return AQ_OK;
}

void aq_group_close(aq_group *group) {
    free(group->key);
    free(group->query);
    for (int bits = 1; bits < AQ_GROUP_BITS; bits++)
        free(group->coded[bits]);
    *group = (aq_group){.key = NULL};
}
