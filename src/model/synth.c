#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "src/model/synth.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "src/base/rng.h"

#define PREFIX     "synth:"
#define NAME_BYTES 64
#define WORD_BYTES 64
#define ALIGN      65536 /* of tensors: pages are given back whole */
#define PER_LAYER  9
#define N_OUTSIDE  3 /* embedding, norm, output */

typedef struct {
    int64_t layers, embd, heads, kv, head, ff, vocab, ctx, tied;
    double theta;
    aq_dtype type;
} shape;

struct aq_synth {
    shape shape;
    char config[512];
    aq_tensor *tensors;        /* [n_tensor] */
    char (*names)[NAME_BYTES]; /* [n_tensor] */
    int64_t n_tensor;
    char *memory;
    size_t bytes;
};

static const struct {
    const char *name;
    shape shape;
} presets[] = {
    {"llama-8b", {32, 4096, 32, 8, 128, 14336, 128256, 1 << 21, 0, 500000.0, AQ_Q4_1}},
    {"llama-1b", {16, 2048, 32, 8, 64, 8192, 128256, 1 << 21, 1, 500000.0, AQ_Q4_1}},
    {"smollm2", {30, 576, 9, 3, 64, 1536, 49152, 1 << 21, 1, 100000.0, AQ_Q4_1}},
};

static const struct {
    const char *key;
    size_t offset; /* in shape */
    int64_t least, most;
} keys[] = {
    {"layers", offsetof(shape, layers), 1, 1024},  {"embd", offsetof(shape, embd), 1, 1 << 20},
    {"heads", offsetof(shape, heads), 1, 1024},    {"kv", offsetof(shape, kv), 1, 1024},
    {"head", offsetof(shape, head), 1, 1024},      {"ff", offsetof(shape, ff), 1, 1 << 20},
    {"vocab", offsetof(shape, vocab), 1, 1 << 24}, {"ctx", offsetof(shape, ctx), 1, 1 << 30},
    {"tied", offsetof(shape, tied), 0, 1},
};

/* A block of a stored type: where its scale is, and its lowest value or offset if it has one; all
 * other bytes are random. In units of the scale: the standard deviation of an element, and what
 * `low` must be for a mean of 0. */
typedef struct {
    aq_dtype dtype;
    int scale_at, low_at; /* -1: none */
    double spread, low;
} block_form;

/* Codes of b bits have a variance of (4^b - 1) / 12. The K types multiply them with scales s of 6
 * bits and take off offsets of 6 bits, of the mean square 63 127 / 6 and variance 341.25 each:
 * spread^2 = E[s^2] E[q^2] - (E[s] E[q])^2 + low^2 341.25. Q6_K has scales of 8 bits, signed. */
static const block_form forms[] = {
    {AQ_Q4_0, 0, -1, 4.6098, 0},    {AQ_Q4_1, 0, 2, 4.6098, -7.5}, {AQ_Q5_0, 0, -1, 9.2331, 0},
    {AQ_Q5_1, 0, 2, 9.2331, -15.5}, {AQ_Q8_0, 0, -1, 73.9, 0},     {AQ_Q4_K, 0, 2, 258.32, 7.5},
    {AQ_Q5_K, 0, 2, 526.93, 15.5},  {AQ_Q6_K, 208, -1, 1365.7, 0},
};

bool aq_synth_is_name(const char *path) {
    return strncmp(path, PREFIX, sizeof PREFIX - 1) == 0;
}

/* ---- the name ---- */

static aq_status set_number(const char *path, size_t k, const char *text, shape *out) {
    char *end = NULL;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < keys[k].least || value > keys[k].most)
        return aq_fail(AQ_ERR_USAGE, "%s: %s takes a number from %lld to %lld, not \"%s\"", path,
                       keys[k].key, (long long)keys[k].least, (long long)keys[k].most, text);
    const int64_t number = value;
    memcpy((char *)out + keys[k].offset, &number, sizeof number);
    return AQ_OK;
}

static aq_status set_pair(const char *path, const char *key, const char *text, shape *out) {
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
        if (strcmp(keys[k].key, key) == 0) return set_number(path, k, text, out);
    if (strcmp(key, "type") != 0)
        return aq_fail(AQ_ERR_USAGE,
                       "%s: \"%s\" is no key; known are layers, embd, heads, kv, head, ff, vocab, "
                       "ctx, tied and type",
                       path, key);
    const aq_dtype_info *info = aq_dtype_find_name(text);
    if (!info)
        return aq_fail(AQ_ERR_USAGE, "%s: type \"%s\" is not known; try q4_1, q8_0 or bf16", path,
                       text);
    out->type = info->dtype;
    return AQ_OK;
}

static aq_status set_name(const char *path, const char *name, shape *out) {
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        if (strcmp(presets[i].name, name) == 0) {
            *out = presets[i].shape;
            return AQ_OK;
        }
    return aq_fail(AQ_ERR_USAGE,
                   "%s: \"%s\" is no shape; known are llama-8b, llama-1b and smollm2, and "
                   "key=value",
                   path, name);
}

/* What follows from the rest, and whether it goes together. */
static aq_status finish(const char *path, shape *s) {
    const int64_t block = aq_dtype_find((uint32_t)s->type)->block_elems;
    if (!s->layers || !s->embd || !s->heads || !s->ff || !s->vocab)
        return aq_fail(AQ_ERR_USAGE,
                       "%s: give layers, embd, heads, ff and vocab, or a shape's name", path);
    if (!s->kv) s->kv = s->heads;
    if (!s->head) s->head = s->embd / s->heads;
    if (s->heads % s->kv != 0 || s->head < 2 || s->head % 2 != 0)
        return aq_fail(AQ_ERR_USAGE, "%s: kv must divide heads, and head must be even", path);
    if (s->embd % block != 0 || s->ff % block != 0 || s->heads * s->head % block != 0)
        return aq_fail(AQ_ERR_USAGE,
                       "%s: embd, ff and heads times head must be multiples of %lld, the block of "
                       "%s",
                       path, (long long)block, aq_dtype_any_name((uint32_t)s->type));
    return AQ_OK;
}

static aq_status parse(const char *path, shape *out) {
    *out = (shape){.ctx = 1 << 21, .theta = 500000.0, .type = AQ_Q4_1};
    const char *at = path + sizeof PREFIX - 1;
    for (bool first = true;; first = false) {
        char word[WORD_BYTES];
        const size_t n = strcspn(at, ",");
        if (n == 0 || n >= sizeof word)
            return aq_fail(AQ_ERR_USAGE, "%s: give a shape's name or key=value, commas between",
                           path);
        memcpy(word, at, n);
        word[n] = '\0';
        char *value = strchr(word, '=');
        if (value) *value++ = '\0';
        if (!value && !first)
            return aq_fail(AQ_ERR_USAGE, "%s: a shape's name stands in front of all keys", path);
        AQ_TRY(value ? set_pair(path, word, value, out) : set_name(path, word, out));
        at += n;
        if (*at++ == '\0') return finish(path, out);
    }
}

/* ---- its tensors ---- */

static void add(aq_synth *synth, const char *name, int64_t n_out, int64_t n_in) {
    const int64_t i = synth->n_tensor++;
    const aq_dtype type = n_in > 0 ? synth->shape.type : AQ_F32;
    const int64_t bytes =
        n_in > 0 ? n_out * aq_dtype_row_bytes(type, n_in) : n_out * (int64_t)sizeof(float);
    snprintf(synth->names[i], NAME_BYTES, "%s", name);
    synth->tensors[i] = (aq_tensor){.name = synth->names[i],
                                    .name_bytes = strlen(synth->names[i]),
                                    .type = aq_dtype_any_name((uint32_t)type),
                                    .dtype = type,
                                    .readable = true,
                                    .n_dim = n_in > 0 ? 2 : 1,
                                    .shape = {n_out, n_in > 0 ? n_in : 1, 1, 1},
                                    .bytes = bytes,
                                    .path = "synth:"};
    synth->bytes += ((size_t)bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static void add_of_layer(aq_synth *synth, int64_t layer, const char *part, int64_t n_out,
                         int64_t n_in) {
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", (int)layer, part);
    add(synth, name, n_out, n_in);
}

static void list_tensors(aq_synth *synth) {
    const shape *s = &synth->shape;
    const int64_t d_q = s->heads * s->head, d_kv = s->kv * s->head;
    add(synth, "model.embed_tokens.weight", s->vocab, s->embd);
    for (int64_t i = 0; i < s->layers; i++) {
        add_of_layer(synth, i, "input_layernorm", s->embd, 0);
        add_of_layer(synth, i, "self_attn.q_proj", d_q, s->embd);
        add_of_layer(synth, i, "self_attn.k_proj", d_kv, s->embd);
        add_of_layer(synth, i, "self_attn.v_proj", d_kv, s->embd);
        add_of_layer(synth, i, "self_attn.o_proj", s->embd, d_q);
        add_of_layer(synth, i, "post_attention_layernorm", s->embd, 0);
        add_of_layer(synth, i, "mlp.gate_proj", s->ff, s->embd);
        add_of_layer(synth, i, "mlp.up_proj", s->ff, s->embd);
        add_of_layer(synth, i, "mlp.down_proj", s->embd, s->ff);
    }
    add(synth, "model.norm.weight", s->embd, 0);
    if (!s->tied) add(synth, "lm_head.weight", s->vocab, s->embd);
}

static void write_config(aq_synth *synth) {
    const shape *s = &synth->shape;
    snprintf(synth->config, sizeof synth->config,
             "{\"model_type\":\"llama\",\"num_hidden_layers\":%lld,\"hidden_size\":%lld,"
             "\"num_attention_heads\":%lld,\"num_key_value_heads\":%lld,\"head_dim\":%lld,"
             "\"intermediate_size\":%lld,\"vocab_size\":%lld,\"max_position_embeddings\":%lld,"
             "\"rms_norm_eps\":1e-5,\"rope_theta\":%.1f,\"hidden_act\":\"silu\","
             "\"tie_word_embeddings\":%s}",
             (long long)s->layers, (long long)s->embd, (long long)s->heads, (long long)s->kv,
             (long long)s->head, (long long)s->ff, (long long)s->vocab, (long long)s->ctx, s->theta,
             s->tied ? "true" : "false");
}

/* Room for all tensors, and the norms. Pages that nobody touches take no memory. */
static aq_status place_tensors(aq_synth *synth) {
    char *at = mmap(NULL, synth->bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return aq_fail(AQ_ERR_MEMORY, "no room for %.1f GiB of made weights: %s",
                       (double)synth->bytes / 1073741824.0, strerror(errno));
    synth->memory = at;
    for (int64_t i = 0; i < synth->n_tensor; i++) {
        aq_tensor *t = &synth->tensors[i];
        float *norm = (float *)(void *)at;
        t->data = at;
        for (int64_t j = 0; t->n_dim == 1 && j < t->shape[0]; j++)
            norm[j] = 1.0f;
        at += ((size_t)t->bytes + ALIGN - 1) / ALIGN * ALIGN;
    }
    return AQ_OK;
}

static aq_status open_synth(const char *path, aq_synth *synth) {
    AQ_TRY(parse(path, &synth->shape));
    const size_t n = (size_t)synth->shape.layers * PER_LAYER + N_OUTSIDE;
    synth->tensors = calloc(n, sizeof *synth->tensors);
    synth->names = calloc(n, sizeof *synth->names);
    if (!synth->tensors || !synth->names)
        return aq_fail(AQ_ERR_MEMORY, "%s: no memory for its tensors", path);
    write_config(synth);
    list_tensors(synth);
    return place_tensors(synth);
}

aq_status aq_synth_open(const char *path, aq_synth **out) {
    aq_synth *synth = calloc(1, sizeof *synth);
    *out = NULL;
    if (!synth) return aq_fail(AQ_ERR_MEMORY, "%s: no memory to open it", path);
    const aq_status status = open_synth(path, synth);
    if (status == AQ_OK)
        *out = synth;
    else
        aq_synth_close(synth);
    return status;
}

void aq_synth_close(aq_synth *synth) {
    if (!synth) return;
    if (synth->memory) munmap(synth->memory, synth->bytes);
    free(synth->tensors);
    free(synth->names);
    free(synth);
}

const char *aq_synth_config(const aq_synth *synth) {
    return synth->config;
}

int64_t aq_synth_count(const aq_synth *synth) {
    return synth->n_tensor;
}

const aq_tensor *aq_synth_at(const aq_synth *synth, int64_t i) {
    return &synth->tensors[i];
}

/* ---- its weights ---- */

/* The random numbers of one block: a stream that its matrix and its place begin. */
static aq_rng rng_of(int64_t tensor, int64_t block) {
    aq_rng place = {((uint64_t)tensor << 48) ^ (uint64_t)block};
    return (aq_rng){aq_rng_next(&place)};
}

static void make_element(aq_dtype dtype, float x, uint8_t *out) {
    const uint16_t half = dtype == AQ_F16 ? aq_f32_to_f16(x) : aq_f32_to_bf16(x);
    if (dtype == AQ_F32)
        memcpy(out, &x, sizeof x);
    else
        memcpy(out, &half, sizeof half);
}

/* Uniform within sqrt(3 / n_in): of variance 1 / n_in. */
static void make_elements(const aq_tensor *t, int64_t tensor, int64_t first, int64_t end,
                          uint8_t *data) {
    const int bytes = aq_dtype_find((uint32_t)t->dtype)->block_bytes;
    const double most = sqrt(3.0 / (double)t->shape[1]);
    for (int64_t i = first; i < end; i++) {
        aq_rng rng = rng_of(tensor, i);
        make_element(t->dtype, (float)((2 * aq_rng_uniform(&rng) - 1) * most), data + i * bytes);
    }
}

static void make_blocks(const aq_tensor *t, int64_t tensor, const block_form *form, int64_t first,
                        int64_t end, uint8_t *data) {
    const size_t bytes = (size_t)aq_dtype_find((uint32_t)t->dtype)->block_bytes;
    const double step = 1 / (sqrt((double)t->shape[1]) * form->spread);
    const uint16_t scale = aq_f32_to_f16((float)step),
                   low = aq_f32_to_f16((float)(form->low * step));
    for (int64_t b = first; b < end; b++) {
        aq_rng rng = rng_of(tensor, b);
        uint8_t *block = data + (size_t)b * bytes;
        for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
            const uint64_t bits = aq_rng_next(&rng);
            memcpy(block + at, &bits, bytes - at < sizeof bits ? bytes - at : sizeof bits);
        }
        memcpy(block + form->scale_at, &scale, sizeof scale);
        if (form->low_at >= 0) memcpy(block + form->low_at, &low, sizeof low);
    }
}

/* The tensor in which an address lies. */
static int64_t tensor_at(const aq_synth *synth, const char *address) {
    int64_t i = 0;
    while (i + 1 < synth->n_tensor && (const char *)synth->tensors[i + 1].data <= address)
        i++;
    return i;
}

void aq_synth_make(const aq_synth *synth, const void *data, int64_t bytes) {
    const int64_t i = tensor_at(synth, data);
    const aq_tensor *t = &synth->tensors[i];
    const int64_t block = aq_dtype_find((uint32_t)t->dtype)->block_bytes;
    uint8_t *begin = (uint8_t *)synth->memory + ((const char *)t->data - synth->memory);
    const int64_t at = (const uint8_t *)data - begin;
    const int64_t first = at / block, end = (at + bytes + block - 1) / block;
    if (t->n_dim == 1) return;
    for (size_t f = 0; f < sizeof forms / sizeof forms[0]; f++)
        if (forms[f].dtype == t->dtype) {
            make_blocks(t, i, &forms[f], first, end, begin);
            return;
        }
    make_elements(t, i, first, end, begin);
}

void aq_synth_forget(const aq_synth *synth, const void *data, int64_t bytes) {
    const int64_t i = tensor_at(synth, data), at = (const char *)data - synth->memory;
    const int64_t first = (at + ALIGN - 1) / ALIGN * ALIGN, end = (at + bytes) / ALIGN * ALIGN;
    if (synth->tensors[i].n_dim == 1 || end <= first) return;
    madvise(synth->memory + first, (size_t)(end - first), MADV_DONTNEED);
}
