/* What a whole model computes, by the formulas of src/model/model_config.h in double precision: all
 * tokens, one layer after the other, no cache, no tiles, no ranks. It shares no code with
 * src/engine and kernels; shapes, tensors and rope frequencies are those src/model gives.
 *
 * Two roundings to fp32 are part of the contract (kernels/rope.h) and made here too: the rope
 * frequencies, and their product with the position. */
#ifndef AQ_TESTS_SUPPORT_ORACLE_MODEL_H
#define AQ_TESTS_SUPPORT_ORACLE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "src/model/model_weights.h"
#include "src/model/projection_file.h"

/* What can be wrong on purpose. */
typedef enum {
    AQ_ORACLE_RIGHT,
    AQ_ORACLE_HEADS,      /* query head h asks KV head h % n_kv_head */
    AQ_ORACLE_BLIND,      /* a token does not see itself (but for the first) */
    AQ_ORACLE_FUTURE,     /* a token sees the next one */
    AQ_ORACLE_ROPE_BASE,  /* frequencies of a base 1 % larger */
    AQ_ORACLE_ROPE_PAIRS, /* pairs 2i, 2i + 1 */
    AQ_ORACLE_ROPE_SHIFT, /* keys are turned one position further */
    AQ_ORACLE_SCALE,      /* scores are not scaled */
    AQ_ORACLE_NORM,       /* the FFN takes the attention's norm */
    AQ_ORACLE_GATE,       /* gate and up change places */
    AQ_ORACLE_LLAMA_BUGS, /* number of the above */
    AQ_ORACLE_WIDE,       /* a window is one token wider */
    AQ_ORACLE_NARROW,     /* a window is one token narrower */
    AQ_ORACLE_RING,       /* windowed layers forget the tile before a query's own */
    AQ_ORACLE_ROPE_LOCAL, /* windowed layers turn as the others do */
    AQ_ORACLE_SHARES, /* experts are renormalised if they should not be, and not if they should */
    AQ_ORACLE_SERIAL, /* parallel_residual is not heeded */
    AQ_ORACLE_BIAS,   /* no bias is added */
    AQ_ORACLE_POST_NORM, /* nothing is normed before it is added */
    AQ_ORACLE_HEAD_NORM, /* q_norm and k_norm are left out */
    AQ_ORACLE_EMBED,     /* the embedding is not scaled */
    AQ_ORACLE_POSITION,  /* learned positions are taken one row further */
    AQ_ORACLE_FAMILY_BUGS,
    AQ_ORACLE_SAME_DIMS,  /* a group takes the dimensions of its first query head */
    AQ_ORACLE_SWAPPED,    /* P_k for queries, P_q for keys */
    AQ_ORACLE_UNTURNED,   /* projection before rope */
    AQ_ORACLE_OTHER_RANK, /* energy for magnitude, magnitude for energy, the last for leading */
    AQ_ORACLE_ALL_BUGS,
    AQ_ORACLE_LOCAL_SUM, /* eviction: shares of the softmax over the rank's own tokens */
    AQ_ORACLE_NO_RECENT  /* eviction: so do the newest */
} aq_oracle_bug;

typedef enum { AQ_ORACLE_LEADING, AQ_ORACLE_MAGNITUDE, AQ_ORACLE_ENERGY } aq_oracle_choice;

/* Dropping tokens, as src/engine/h2o.h says. */
typedef struct {
    int64_t n_keep;    /* over all ranks; 0: nothing is dropped */
    int64_t n_step;    /* tokens of a step of prefill */
    int64_t n_prefill; /* tokens prefilled; each later one is a step */
    int n_rank;
    const int *owners; /* [n_period] of the tiles of a period; NULL: ranks in turn */
    int n_period;
} aq_oracle_eviction;

/* How scores are made in layers that see everything. Columns are told as numbers, not as ratios. */
typedef struct {
    const aq_projection *projection; /* NULL: dense; n_col, n_dim and choice are then unused */
    int n_col;                       /* stored */
    int n_dim;                       /* chosen of them, for each query head */
    aq_oracle_choice choice;
    bool bf16; /* keys and values of all layers are kept in bfloat16 */
    aq_oracle_bug bug;
    aq_oracle_eviction evict;
} aq_oracle_attention;

/* logits[n, n_vocab] of n tokens from position 0 on, in a session of n tokens; `attention` NULL:
 * dense and right. Returns the narrowest decision between columns: the least distance between the
 * last one chosen and the first one left, as a fraction of the former; 1 if nothing was chosen. Or
 * between tokens: of the attention of the last one dropped and the first one kept.
 * Takes time in n^2: for tiny models. Exits without memory: no test can go on. */
double aq_oracle_logits(const aq_model_config *config, const aq_model_weights *weights,
                        const aq_oracle_attention *attention, const int32_t *ids, int64_t n,
                        double *logits);

#endif
