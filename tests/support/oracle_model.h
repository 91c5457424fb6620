/* The forward pass of a whole llama model in double precision, written down as in the papers: all
 * tokens, one layer after the other, no cache, no tiles, no ranks. It shares no code with
 * src/engine and kernels. From the file it takes the tensors alone (aq_ref_weight); the shape is
 * told by the test. Rotary pairs are the file's own (2i, 2i + 1): rows are not moved.
 *
 * Two roundings to fp32 are part of the contract (kernels/rope.h) and made here too: the rope
 * frequencies, and their product with the position. Plain rope only. */
#ifndef AQ_TESTS_SUPPORT_ORACLE_MODEL_H
#define AQ_TESTS_SUPPORT_ORACLE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "src/model/projection_file.h"
#include "tests/support/tiny_model.h"

typedef struct aq_oracle_model aq_oracle_model;

/* What can be wrong on purpose. */
typedef enum {
    AQ_ORACLE_RIGHT,
    AQ_ORACLE_HEADS,      /* query head h asks KV head h % n_kv_head */
    AQ_ORACLE_BLIND,      /* a token does not see itself (but for the first) */
    AQ_ORACLE_FUTURE,     /* a token sees the next one */
    AQ_ORACLE_ROPE_BASE,  /* base 1 % larger */
    AQ_ORACLE_ROPE_PAIRS, /* pairs i, i + d/2 on the file's rows */
    AQ_ORACLE_ROPE_SHIFT, /* keys are turned one position further */
    AQ_ORACLE_SCALE,      /* scores are not divided by sqrt(d) */
    AQ_ORACLE_NORM,       /* the FFN takes the attention's norm */
    AQ_ORACLE_GATE,       /* gate and up change places */
    AQ_ORACLE_DENSE_BUGS, /* number of the above */
    AQ_ORACLE_SAME_DIMS,  /* a group takes the dimensions of its first query head */
    AQ_ORACLE_SWAPPED,    /* P_k for queries, P_q for keys */
    AQ_ORACLE_UNTURNED,   /* projection before rope */
    AQ_ORACLE_OTHER_RANK, /* energy for magnitude, magnitude for energy, the last for leading */
    AQ_ORACLE_ALL_BUGS
} aq_oracle_bug;

typedef enum { AQ_ORACLE_LEADING, AQ_ORACLE_MAGNITUDE, AQ_ORACLE_ENERGY } aq_oracle_choice;

/* How scores are made. Columns are told as numbers, not as ratios. */
typedef struct {
    const aq_projection *projection; /* NULL: dense; the rest is then unused */
    int n_col;                       /* stored */
    int n_dim;                       /* chosen of them, for each query head */
    aq_oracle_choice choice;
    bool bf16; /* keys and values are kept in bfloat16 */
    aq_oracle_bug bug;
} aq_oracle_attention;

/* Dequantises the tensors of a model of that shape. The caller closes it. Errors of aq_gguf_open,
 * AQ_ERR_FORMAT (tensor missing). */
aq_status aq_oracle_model_open(const char *path, const aq_tiny_model *shape, aq_oracle_model **out);
void aq_oracle_model_close(aq_oracle_model *model);

/* logits[n, n_vocab] at every position. Returns the narrowest decision between columns: the least
 * distance between the last one chosen and the first one left, as a fraction of the former; 1 if
 * nothing was chosen. */
double aq_oracle_model_logits(const aq_oracle_model *model, const aq_oracle_attention *attention,
                              const int32_t *ids, int64_t n, double *logits);

#endif
