#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"

static const char *const specials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};

/* Merges and what they make, in the GPT-2 alphabet: U+0120 stands for a blank. */
static const char *const merges[AQ_TINY_MERGES] = {"\xc4\xa0 t", "h e", "\xc4\xa0t he", "i n",
                                                   "e r",        "a n", "\xc4\xa0 a",   "o n"};
static const char *const merged[AQ_TINY_MERGES] = {"\xc4\xa0t", "he", "\xc4\xa0the",  "in",
                                                   "er",        "an", "\xc4\xa0\x61", "on"};

static const char chat_template[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\\n' "
    "}}{% endif %}";

enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_UNUSED = 5 };

#define TOKEN_TEXT_BYTES 24

/* The GPT-2 alphabet: printable Latin-1 bytes stand for themselves, the others for the code points
 * from 256 on, in order. */
static void byte_token(int byte, char text[TOKEN_TEXT_BYTES]) {
    int n_moved = 0, code = 0;
    for (int b = 0; b <= byte; b++) {
        const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
        code = printable ? b : 256 + n_moved++;
    }
    if (code < 128)
        snprintf(text, TOKEN_TEXT_BYTES, "%c", code);
    else
        snprintf(text, TOKEN_TEXT_BYTES, "%c%c", 0xc0 | code >> 6, 0x80 | (code & 63));
}

static int token(int id, char text[TOKEN_TEXT_BYTES]) {
    if (id < AQ_TINY_ENDOFTEXT) {
        byte_token(id, text);
    } else if (id < AQ_TINY_MIN_VOCAB) {
        snprintf(text, TOKEN_TEXT_BYTES, "%s", specials[id - AQ_TINY_ENDOFTEXT]);
        return TOKEN_CONTROL;
    } else if (id < AQ_TINY_MIN_VOCAB + AQ_TINY_MERGES) {
        snprintf(text, TOKEN_TEXT_BYTES, "%s", merged[id - AQ_TINY_MIN_VOCAB]);
    } else {
        snprintf(text, TOKEN_TEXT_BYTES, "<unused%d>", id);
        return TOKEN_UNUSED;
    }
    return TOKEN_NORMAL;
}

static aq_status put_vocabulary(aq_gguf_writer *w, int n_vocab) {
    char(*texts)[TOKEN_TEXT_BYTES] = calloc((size_t)n_vocab, sizeof *texts);
    const char **pointers = calloc((size_t)n_vocab, sizeof *pointers);
    int64_t *types = calloc((size_t)n_vocab, sizeof *types);
    const aq_status status = texts && pointers && types
                                 ? AQ_OK
                                 : aq_fail(AQ_ERR_MEMORY, "no memory for %d tokens", n_vocab);
    const int room = n_vocab - AQ_TINY_MIN_VOCAB;
    for (int id = 0; status == AQ_OK && id < n_vocab; id++) {
        types[id] = token(id, texts[id]);
        pointers[id] = texts[id];
    }
    if (status == AQ_OK) {
        aq_gguf_put_text(w, "tokenizer.ggml.model", "gpt2");
        aq_gguf_put_text(w, "tokenizer.ggml.pre", "smollm");
        aq_gguf_put_texts(w, "tokenizer.ggml.tokens", pointers, n_vocab);
        aq_gguf_put_ints(w, "tokenizer.ggml.token_type", AQ_GGUF_I32, types, n_vocab);
        aq_gguf_put_texts(w, "tokenizer.ggml.merges", merges,
                          room < AQ_TINY_MERGES ? room : AQ_TINY_MERGES);
        aq_gguf_put_int(w, "tokenizer.ggml.bos_token_id", AQ_GGUF_U32, AQ_TINY_IM_START);
        aq_gguf_put_int(w, "tokenizer.ggml.eos_token_id", AQ_GGUF_U32, AQ_TINY_IM_END);
        aq_gguf_put_int(w, "tokenizer.ggml.unknown_token_id", AQ_GGUF_U32, AQ_TINY_ENDOFTEXT);
        aq_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", false);
        aq_gguf_put_text(w, "tokenizer.chat_template", chat_template);
    }
    free(texts);
    free(pointers);
    free(types);
    return status;
}

static void put_config(aq_gguf_writer *w, const aq_tiny_model *shape) {
    static const char *const scaling_names[] = {"none", "linear", "yarn"};
    aq_gguf_put_text(w, "general.architecture", "llama");
    aq_gguf_put_text(w, "general.name", "tiny");
    aq_gguf_put_int(w, "llama.block_count", AQ_GGUF_U32, shape->n_layer);
    aq_gguf_put_int(w, "llama.context_length", AQ_GGUF_U32, shape->n_ctx);
    aq_gguf_put_int(w, "llama.embedding_length", AQ_GGUF_U32, shape->d_model);
    aq_gguf_put_int(w, "llama.feed_forward_length", AQ_GGUF_U32, shape->d_ff);
    aq_gguf_put_int(w, "llama.attention.head_count", AQ_GGUF_U32, shape->n_head);
    aq_gguf_put_int(w, "llama.attention.head_count_kv", AQ_GGUF_U32, shape->n_kv_head);
    aq_gguf_put_int(w, "llama.attention.key_length", AQ_GGUF_U32, shape->d_head);
    aq_gguf_put_int(w, "llama.attention.value_length", AQ_GGUF_U32, shape->d_head);
    aq_gguf_put_float(w, "llama.attention.layer_norm_rms_epsilon", AQ_GGUF_F32, 1e-5);
    aq_gguf_put_int(w, "llama.vocab_size", AQ_GGUF_U32, shape->n_vocab);
    aq_gguf_put_int(w, "llama.rope.dimension_count", AQ_GGUF_U32, shape->d_head);
    aq_gguf_put_float(w, "llama.rope.freq_base", AQ_GGUF_F32, shape->rope_base);
    if (shape->rope_scaling == AQ_ROPE_NONE) return;
    aq_gguf_put_text(w, "llama.rope.scaling.type", scaling_names[shape->rope_scaling]);
    aq_gguf_put_float(w, "llama.rope.scaling.factor", AQ_GGUF_F32, shape->rope_factor);
    if (shape->rope_n_ctx_orig > 0)
        aq_gguf_put_int(w, "llama.rope.scaling.original_context_length", AQ_GGUF_U32,
                        shape->rope_n_ctx_orig);
}

/* Half precision, rounded to nearest even; for finite abs(f) < 65504. */
static uint16_t half_of(float f) {
    uint32_t bits, sign;
    memcpy(&bits, &f, sizeof bits);
    sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits < 0x38800000u) return (uint16_t)(sign | (uint32_t)lrintf(fabsf(f) * 16777216.0f));
    bits += 0xfffu + (bits >> 13 & 1u);
    return (uint16_t)(sign | ((bits - 0x38000000u) >> 13));
}

static void put_half(uint8_t *to, double value) {
    const uint16_t half = half_of((float)value);
    to[0] = (uint8_t)half;
    to[1] = (uint8_t)(half >> 8);
}

/* Numbers first and second of a block's header for quants q uniform in 0 .. levels - 1, so that
 * the values have standard deviation near `std`; blocks differ by up to a factor 3. */
static void put_scales(uint8_t *block, aq_rng *rng, double std, int levels, bool with_minimum) {
    const double d = std * (0.5 + aq_rng_uniform(rng)) / (levels * 0.2887);
    put_half(block, d);
    if (with_minimum) put_half(block + 2, -0.5 * (levels - 1) * d);
}

/* One block with random bits and sane scales. Layouts: src/base/dtype.h. */
static void random_block(aq_dtype dtype, aq_rng *rng, double std, uint8_t *block) {
    const int bytes = aq_dtype_find(dtype)->block_bytes;
    for (int i = 0; i < bytes; i++)
        block[i] = (uint8_t)aq_rng_next(rng);
    switch (dtype) {
    case AQ_F32: {
        const float value = (float)(std * aq_rng_normal(rng));
        memcpy(block, &value, sizeof value);
        break;
    }
    case AQ_F16:
        put_half(block, std * aq_rng_normal(rng));
        break;
    case AQ_BF16: {
        const uint16_t value = aq_f32_to_bf16((float)(std * aq_rng_normal(rng)));
        memcpy(block, &value, sizeof value);
        break;
    }
    case AQ_Q4_0:
        put_scales(block, rng, std, 16, false);
        break;
    case AQ_Q4_1:
        put_scales(block, rng, std, 16, true);
        break;
    case AQ_Q5_0:
        put_scales(block, rng, std, 32, false);
        break;
    case AQ_Q5_1:
        put_scales(block, rng, std, 32, true);
        break;
    case AQ_Q8_0:
        put_scales(block, rng, std, 256, false);
        break;
    case AQ_Q4_K: /* sub-block scales and minima are uniform in 0 .. 63: the sum's spread is 256 d
                   */
        put_half(block, std / 256.0);
        put_half(block + 2, 7.5 * std / 256.0);
        break;
    case AQ_Q5_K: /* the same, 521 d */
        put_half(block, std / 521.0);
        put_half(block + 2, 15.5 * std / 521.0);
        break;
    case AQ_Q6_K:
        put_half(block + bytes - 2, std / (73 * 64 * 0.2887));
        break;
    }
}

/* A generator of its own for the tensor at `place`. */
static aq_rng place_rng(const aq_tiny_model *shape, int place) {
    aq_rng rng = {shape->seed * 1000003u + (uint64_t)place};
    rng.state = aq_rng_next(&rng);
    return rng;
}

typedef struct {
    aq_gguf_writer *w;
    const aq_tiny_model *shape;
    int place; /* of the next tensor */
    aq_status status;
} tensor_sink;

/* A random matrix [n_out, n_in]. */
static void put_matrix(tensor_sink *to, const char *name, aq_dtype dtype, int64_t n_out,
                       int64_t n_in, double std) {
    const aq_dtype_info *info = aq_dtype_find(dtype);
    const int64_t n_block = n_out * n_in / info->block_elems;
    aq_rng rng = place_rng(to->shape, to->place++);
    if (to->status != AQ_OK) return;
    if (n_in % info->block_elems != 0) {
        to->status = aq_fail(AQ_ERR_USAGE, "%s: rows of %lld cannot be %s", name, (long long)n_in,
                             info->name);
        return;
    }
    uint8_t *data = malloc((size_t)(n_block * info->block_bytes));
    if (!data) {
        to->status = aq_fail(AQ_ERR_MEMORY, "no memory for tensor %s", name);
        return;
    }
    for (int64_t i = 0; i < n_block; i++)
        random_block(dtype, &rng, std, data + i * info->block_bytes);
    aq_gguf_put_tensor(to->w, name, dtype, 2, (const int64_t[]){n_in, n_out}, data,
                       (size_t)(n_block * info->block_bytes));
    free(data);
}

/* scale * (1 + 0.2 noise). */
static void put_norm(tensor_sink *to, const char *name, double scale) {
    const int64_t n = to->shape->d_model;
    aq_rng rng = place_rng(to->shape, to->place++);
    float *data = malloc((size_t)n * sizeof *data);
    if (!data) {
        to->status = aq_fail(AQ_ERR_MEMORY, "no memory for tensor %s", name);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        data[i] = (float)(scale * (1.0 + 0.2 * aq_rng_normal(&rng)));
    aq_gguf_put_tensor(to->w, name, AQ_F32, 1, &n, data, (size_t)n * sizeof *data);
    free(data);
}

static void put_divisors(tensor_sink *to) {
    const int64_t n = to->shape->d_head / 2;
    float *data = malloc((size_t)n * sizeof *data);
    if (!data) {
        to->status = aq_fail(AQ_ERR_MEMORY, "no memory for the rope divisors");
        return;
    }
    for (int64_t i = 0; i < n; i++)
        data[i] = 1.0f + 7.0f * (float)i / (float)n;
    aq_gguf_put_tensor(to->w, "rope_freqs.weight", AQ_F32, 1, &n, data, (size_t)n * sizeof *data);
    free(data);
}

/* Normed inputs are near 1, so q and k get a standard deviation of 1.5 and their scaled product
 * one of 2.25. */
static void put_layer(tensor_sink *to, int layer) {
    const aq_tiny_model *s = to->shape;
    const int64_t d = s->d_model, d_q = (int64_t)s->n_head * s->d_head;
    const int64_t d_kv = (int64_t)s->n_kv_head * s->d_head;
    const double unit = 1.0 / sqrt((double)d);
    char name[64];
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", layer);
    put_norm(to, name, 1.0);
    snprintf(name, sizeof name, "blk.%d.attn_q.weight", layer);
    put_matrix(to, name, s->attn_dtype, d_q, d, 1.5 * unit);
    snprintf(name, sizeof name, "blk.%d.attn_k.weight", layer);
    put_matrix(to, name, s->attn_dtype, d_kv, d, 1.5 * unit);
    snprintf(name, sizeof name, "blk.%d.attn_v.weight", layer);
    put_matrix(to, name, s->attn_dtype, d_kv, d, unit);
    snprintf(name, sizeof name, "blk.%d.attn_output.weight", layer);
    put_matrix(to, name, s->attn_dtype, d, d_q, 1.0 / sqrt((double)d_q));
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", layer);
    put_norm(to, name, 1.0);
    snprintf(name, sizeof name, "blk.%d.ffn_gate.weight", layer);
    put_matrix(to, name, s->ffn_dtype, s->d_ff, d, unit);
    snprintf(name, sizeof name, "blk.%d.ffn_up.weight", layer);
    put_matrix(to, name, s->ffn_dtype, s->d_ff, d, unit);
    snprintf(name, sizeof name, "blk.%d.ffn_down.weight", layer);
    put_matrix(to, name, s->ffn_dtype, d, s->d_ff, 1.5 / sqrt((double)s->d_ff));
}

aq_tiny_model aq_tiny_model_default(void) {
    return (aq_tiny_model){.n_layer = 2,
                           .n_head = 4,
                           .n_kv_head = 2,
                           .d_head = 16,
                           .d_model = 64,
                           .d_ff = 128,
                           .n_vocab = 288,
                           .n_ctx = 2048,
                           .seed = 1,
                           .rope_base = 10000.0,
                           .rope_factor = 1.0};
}

aq_status aq_tiny_model_put(aq_gguf_writer *w, const aq_tiny_model *shape) {
    const double unit = 1.0 / sqrt((double)shape->d_model);
    tensor_sink to = {w, shape, 0, AQ_OK};
    if (shape->n_vocab < AQ_TINY_MIN_VOCAB)
        return aq_fail(AQ_ERR_USAGE, "a tiny model needs at least %d tokens", AQ_TINY_MIN_VOCAB);
    put_config(w, shape);
    AQ_TRY(put_vocabulary(w, shape->n_vocab));
    put_matrix(&to, "token_embd.weight", shape->embed_dtype, shape->n_vocab, shape->d_model, 1.0);
    /* A tied embedding has unit elements: the norm brings the logits down instead. */
    put_norm(&to, "output_norm.weight", shape->tied ? 2.0 * unit : 1.0);
    if (!shape->tied)
        put_matrix(&to, "output.weight", shape->output_dtype, shape->n_vocab, shape->d_model,
                   2.0 * unit);
    else
        to.place++;
    for (int layer = 0; layer < shape->n_layer; layer++)
        put_layer(&to, layer);
    if (shape->rope_divisors) put_divisors(&to);
    return to.status;
}

aq_status aq_tiny_model_write(const char *path, const aq_tiny_model *shape) {
    aq_gguf_writer w = aq_gguf_writer_make();
    aq_status status = aq_tiny_model_put(&w, shape);
    if (status == AQ_OK) status = aq_gguf_writer_save(&w, path);
    aq_gguf_writer_close(&w);
    return status;
}
