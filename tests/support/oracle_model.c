#include "tests/support/oracle_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/oracle.h"

#define MAX_D 64

typedef struct {
    double *attn_norm, *q, *k, *v, *o, *ffn_norm, *gate, *up, *down;
} oracle_layer;

struct aq_oracle_model {
    aq_tiny_model shape;
    double *embed, *output_norm, *output;
    oracle_layer *layers;
};

/* What one pass works on: rows of all tokens. */
typedef struct {
    const aq_oracle_model *model;
    const aq_oracle_attention *attention;
    int64_t n;
    int n_col;
    double *x, *norm, *q, *k, *v, *mixed, *gate, *up;
    bool *chosen; /* [n, n_head, n_col] */
    double narrowest;
} pass;

/* Zeroed; no test can go on without. */
static void *grab(int64_t n, size_t bytes) {
    void *memory = calloc((size_t)n, bytes);
    if (memory) return memory;
    fprintf(stderr, "no memory for the oracle\n");
    exit(1);
}

static double *load(const aq_gguf *file, const char *name, aq_status *status) {
    const aq_gguf_tensor *t = aq_gguf_tensor_find(file, name);
    if (!t) {
        *status = aq_fail(AQ_ERR_FORMAT, "the oracle misses tensor %s", name);
        return NULL;
    }
    const int64_t n_row = t->n_dim > 1 ? t->ne[1] : 1;
    double *out = grab(n_row * t->ne[0], sizeof *out);
    const int64_t row_bytes = t->bytes / n_row;
    for (int64_t r = 0; r < n_row; r++)
        for (int64_t i = 0; i < t->ne[0]; i++)
            out[r * t->ne[0] + i] =
                aq_ref_weight(t->dtype, (const uint8_t *)t->data + r * row_bytes, i);
    return out;
}

static double *load_of_layer(const aq_gguf *file, int layer, const char *part, aq_status *status) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, part);
    return load(file, name, status);
}

aq_status aq_oracle_model_open(const char *path, const aq_tiny_model *shape,
                               aq_oracle_model **out) {
    aq_gguf *file;
    aq_status status = AQ_OK;
    *out = NULL;
    AQ_TRY(aq_gguf_open(path, &file));
    aq_oracle_model *m = grab(1, sizeof *m);
    m->shape = *shape;
    m->layers = grab(shape->n_layer, sizeof *m->layers);
    m->embed = load(file, "token_embd.weight", &status);
    m->output_norm = load(file, "output_norm.weight", &status);
    m->output = load(file, shape->tied ? "token_embd.weight" : "output.weight", &status);
    for (int i = 0; i < shape->n_layer; i++) {
        oracle_layer *layer = &m->layers[i];
        layer->attn_norm = load_of_layer(file, i, "attn_norm", &status);
        layer->q = load_of_layer(file, i, "attn_q", &status);
        layer->k = load_of_layer(file, i, "attn_k", &status);
        layer->v = load_of_layer(file, i, "attn_v", &status);
        layer->o = load_of_layer(file, i, "attn_output", &status);
        layer->ffn_norm = load_of_layer(file, i, "ffn_norm", &status);
        layer->gate = load_of_layer(file, i, "ffn_gate", &status);
        layer->up = load_of_layer(file, i, "ffn_up", &status);
        layer->down = load_of_layer(file, i, "ffn_down", &status);
    }
    aq_gguf_close(file);
    if (status == AQ_OK)
        *out = m;
    else
        aq_oracle_model_close(m);
    return status;
}

void aq_oracle_model_close(aq_oracle_model *m) {
    if (!m) return;
    for (int i = 0; i < m->shape.n_layer; i++) {
        oracle_layer *layer = &m->layers[i];
        double *const all[] = {layer->attn_norm, layer->q,    layer->k,  layer->v,   layer->o,
                               layer->ffn_norm,  layer->gate, layer->up, layer->down};
        for (size_t j = 0; j < sizeof all / sizeof all[0]; j++)
            free(all[j]);
    }
    free(m->layers);
    free(m->embed);
    free(m->output_norm);
    free(m->output);
    free(m);
}

/* y[t, j] (+)= sum_i x[t, i] w[j, i] */
static void product(const double *w, const double *x, int64_t n, int n_out, int n_in, bool add,
                    double *y) {
    for (int64_t t = 0; t < n; t++)
        for (int j = 0; j < n_out; j++) {
            double sum = add ? y[t * n_out + j] : 0.0;
            for (int i = 0; i < n_in; i++)
                sum += x[t * n_in + i] * w[(int64_t)j * n_in + i];
            y[t * n_out + j] = sum;
        }
}

static void normalise(const double *x, const double *w, int64_t n, int d, double *y) {
    for (int64_t t = 0; t < n; t++) {
        double squares = 0;
        for (int i = 0; i < d; i++)
            squares += x[t * d + i] * x[t * d + i];
        const double factor = 1.0 / sqrt(squares / d + (double)1e-5f);
        for (int i = 0; i < d; i++)
            y[t * d + i] = x[t * d + i] * factor * w[i];
    }
}

/* Turns the pairs of one head and puts them into the order the projection is defined in: the first
 * of all pairs, then the second of all. */
static void turn(const pass *p, int64_t pos, double *head) {
    const int d = p->model->shape.d_head, half = d / 2;
    const aq_oracle_bug bug = p->attention->bug;
    const double base = p->model->shape.rope_base * (bug == AQ_ORACLE_ROPE_BASE ? 1.01 : 1.0);
    double in[MAX_D];
    memcpy(in, head, (size_t)d * sizeof *in);
    for (int i = 0; i < half; i++) {
        const float angle = (float)pos * (float)pow(base, -2.0 * i / d);
        const bool wrong = bug == AQ_ORACLE_ROPE_PAIRS;
        const double a = in[wrong ? i : 2 * i], b = in[wrong ? i + half : 2 * i + 1];
        head[i] = a * cos((double)angle) - b * sin((double)angle);
        head[i + half] = b * cos((double)angle) + a * sin((double)angle);
    }
}

static void project(const float *matrix, int d, int n_col, const double *in, double *out) {
    for (int j = 0; j < n_col; j++) {
        out[j] = 0;
        for (int i = 0; i < d; i++)
            out[j] += in[i] * matrix[i * d + j];
    }
}

/* From what W_q or W_k gave to what scores are made of, in place: head h of token t moves from
 * width d to width n_col. */
static void prepare(const pass *p, int layer, double *rows, int n_head, bool of_keys) {
    const aq_tiny_model *s = &p->model->shape;
    const aq_oracle_attention *a = p->attention;
    const bool of_pk = of_keys != (a->bug == AQ_ORACLE_SWAPPED);
    const int64_t shift = of_keys && a->bug == AQ_ORACLE_ROPE_SHIFT ? 1 : 0;
    const int group = n_head / s->n_kv_head;
    for (int64_t r = 0; r < p->n * n_head; r++) {
        const int64_t g = layer * s->n_kv_head + r % n_head / group, pos = r / n_head + shift;
        double head[MAX_D], out[MAX_D];
        memcpy(head, rows + r * s->d_head, (size_t)s->d_head * sizeof *head);
        if (!a->projection || a->bug != AQ_ORACLE_UNTURNED) turn(p, pos, head);
        memcpy(out, head, sizeof out);
        if (a->projection)
            project((of_pk ? a->projection->pk : a->projection->pq) + g * s->d_head * s->d_head,
                    s->d_head, p->n_col, head, out);
        if (a->projection && a->bug == AQ_ORACLE_UNTURNED && p->n_col == s->d_head)
            turn(p, pos, out);
        memcpy(rows + r * p->n_col, out, (size_t)p->n_col * sizeof *out);
    }
}

/* How much column c of one query head counts. */
static double importance(const pass *p, int64_t kv_head, const double *q, int c) {
    const aq_oracle_attention *a = p->attention;
    const bool other = a->bug == AQ_ORACLE_OTHER_RANK;
    if (a->choice == AQ_ORACLE_LEADING) return other ? 1.0 + c : 1.0 / (1.0 + c);
    if ((a->choice == AQ_ORACLE_ENERGY) == other) return fabs(q[c]);
    return fabs(q[c]) * a->projection->sigma[kv_head * p->model->shape.d_head + c];
}

/* Marks the n_dim columns of largest importance, one after the other. */
static void choose(pass *p, int64_t kv_head, const double *q, bool *chosen) {
    double last = 0;
    for (int n = 0; n <= p->attention->n_dim && n < p->n_col; n++) {
        int best = -1;
        double most = -1;
        for (int c = 0; c < p->n_col; c++) {
            const double here = importance(p, kv_head, q, c);
            if (chosen[c] || here <= most) continue;
            best = c;
            most = here;
        }
        if (n < p->attention->n_dim) {
            chosen[best] = true;
            last = most;
        } else if (p->attention->choice != AQ_ORACLE_LEADING) {
            p->narrowest = fmin(p->narrowest, (last - most) / last);
        }
    }
}

static void choose_all(pass *p, int layer) {
    const aq_tiny_model *s = &p->model->shape;
    const int group = s->n_head / s->n_kv_head;
    memset(p->chosen, 0, (size_t)(p->n * s->n_head * p->n_col) * sizeof *p->chosen);
    for (int64_t r = 0; r < p->n * s->n_head; r++) {
        const int h = (int)(r % s->n_head);
        const int64_t from = p->attention->bug == AQ_ORACLE_SAME_DIMS ? r - h % group : r;
        if (p->attention->projection)
            choose(p, (int64_t)layer * s->n_kv_head + h / group, p->q + from * p->n_col,
                   p->chosen + r * p->n_col);
        else
            memset(p->chosen + r * p->n_col, 1, (size_t)p->n_col);
    }
}

static void round_bf16(double *rows, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        rows[i] = aq_bf16_to_f32(aq_f32_to_bf16((float)rows[i]));
}

/* One query over the tokens it sees. */
static void attend(const pass *p, int64_t t, int h, double *weight) {
    const aq_tiny_model *s = &p->model->shape;
    const aq_oracle_bug bug = p->attention->bug;
    const int64_t row = t * s->n_head + h;
    const int g = bug == AQ_ORACLE_HEADS ? h % s->n_kv_head : h / (s->n_head / s->n_kv_head);
    const double scale = bug == AQ_ORACLE_SCALE ? 1.0 : 1.0 / sqrt((double)s->d_head);
    int64_t end = t + 1;
    if (bug == AQ_ORACLE_BLIND && t > 0) end = t;
    if (bug == AQ_ORACLE_FUTURE && t + 1 < p->n) end = t + 2;
    double most = -INFINITY, total = 0;
    for (int64_t u = 0; u < end; u++) {
        const double *q = p->q + row * p->n_col, *k = p->k + (u * s->n_kv_head + g) * p->n_col;
        weight[u] = 0;
        for (int c = 0; c < p->n_col; c++)
            weight[u] += p->chosen[row * p->n_col + c] ? q[c] * k[c] * scale : 0;
        most = fmax(most, weight[u]);
    }
    for (int64_t u = 0; u < end; u++)
        total += weight[u] = exp(weight[u] - most);
    for (int i = 0; i < s->d_head; i++) {
        double sum = 0;
        for (int64_t u = 0; u < end; u++)
            sum += weight[u] * p->v[(u * s->n_kv_head + g) * s->d_head + i];
        p->mixed[row * s->d_head + i] = sum / total;
    }
}

static void run_layer(pass *p, int index, double *weight) {
    const aq_tiny_model *s = &p->model->shape;
    const oracle_layer *layer = &p->model->layers[index];
    const int d_q = s->n_head * s->d_head, d_kv = s->n_kv_head * s->d_head;
    const bool norm_bug = p->attention->bug == AQ_ORACLE_NORM;
    const bool gate_bug = p->attention->bug == AQ_ORACLE_GATE;
    normalise(p->x, layer->attn_norm, p->n, s->d_model, p->norm);
    product(layer->q, p->norm, p->n, d_q, s->d_model, false, p->q);
    product(layer->k, p->norm, p->n, d_kv, s->d_model, false, p->k);
    product(layer->v, p->norm, p->n, d_kv, s->d_model, false, p->v);
    prepare(p, index, p->q, s->n_head, false);
    prepare(p, index, p->k, s->n_kv_head, true);
    choose_all(p, index);
    if (p->attention->bf16) {
        round_bf16(p->k, p->n * s->n_kv_head * p->n_col);
        round_bf16(p->v, p->n * d_kv);
    }
    for (int64_t t = 0; t < p->n; t++)
        for (int h = 0; h < s->n_head; h++)
            attend(p, t, h, weight);
    product(layer->o, p->mixed, p->n, s->d_model, d_q, true, p->x);
    normalise(p->x, norm_bug ? layer->attn_norm : layer->ffn_norm, p->n, s->d_model, p->norm);
    product(gate_bug ? layer->up : layer->gate, p->norm, p->n, s->d_ff, s->d_model, false, p->gate);
    product(gate_bug ? layer->gate : layer->up, p->norm, p->n, s->d_ff, s->d_model, false, p->up);
    for (int64_t i = 0; i < p->n * s->d_ff; i++)
        p->gate[i] = p->gate[i] / (1.0 + exp(-p->gate[i])) * p->up[i];
    product(layer->down, p->gate, p->n, s->d_model, s->d_ff, true, p->x);
}

double aq_oracle_model_logits(const aq_oracle_model *model, const aq_oracle_attention *attention,
                              const int32_t *ids, int64_t n, double *logits) {
    const aq_tiny_model *s = &model->shape;
    const int64_t d_q = n * s->n_head * s->d_head, d_kv = n * s->n_kv_head * s->d_head;
    pass p = {.model = model, .attention = attention, .n = n, .narrowest = 1.0};
    p.n_col = attention->projection ? attention->n_col : s->d_head;
    p.x = grab(n * s->d_model, sizeof(double));
    p.norm = grab(n * s->d_model, sizeof(double));
    p.q = grab(d_q, sizeof(double));
    p.k = grab(d_kv, sizeof(double));
    p.v = grab(d_kv, sizeof(double));
    p.mixed = grab(d_q, sizeof(double));
    p.gate = grab(n * s->d_ff, sizeof(double));
    p.up = grab(n * s->d_ff, sizeof(double));
    p.chosen = grab(d_q, sizeof(bool));
    double *weight = grab(n, sizeof *weight);
    for (int64_t t = 0; t < n; t++)
        memcpy(p.x + t * s->d_model, model->embed + (int64_t)ids[t] * s->d_model,
               (size_t)s->d_model * sizeof(double));
    for (int i = 0; i < s->n_layer; i++)
        run_layer(&p, i, weight);
    normalise(p.x, model->output_norm, n, s->d_model, p.norm);
    product(model->output, p.norm, n, s->n_vocab, s->d_model, false, logits);
    void *const all[] = {p.x, p.norm, p.q, p.k, p.v, p.mixed, p.gate, p.up, p.chosen, weight};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    return p.narrowest;
}
