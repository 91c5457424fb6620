/* aqua-dist: LLM inference over contexts too long for one machine.
 *
 * Two nouns. An aq_engine is a model made ready on a group of ranks: weights, projection, threads;
 * it does not change. An aq_session is one growing context: its key/value cache is cut by tokens
 * into tiles that are dealt to the ranks.
 *
 *     aq_engine_open(&engine_options, comm, &engine);
 *     aq_session_open(engine, &session_options, &session);
 *     aq_session_prefill(session, prompt, n_prompt, NULL);
 *     repeat: rank 0: aq_session_logits -> choose id;  all: share id, aq_session_decode(session,
 * id)
 *
 * Functions return aq_status (src/base/status.h); aq_error_text() is the one line to show. Those
 * marked Collective are called by all ranks of the engine with the same arguments; after a failure
 * inside prefill or decode the ranks no longer agree and the program must end the job
 * (aq_comm_abort). Memory is host memory, whatever the device. */
#ifndef AQUA_H
#define AQUA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "src/base/status.h"
#include "src/session_options.h"

typedef struct aq_engine aq_engine;
typedef struct aq_session aq_session;

typedef enum { AQ_SCALING_MODEL, AQ_SCALING_NONE, AQ_SCALING_LINEAR, AQ_SCALING_YARN } aq_scaling;

/* What a rank computes on; src/engine/device.h chooses one. */
typedef struct {
    bool cuda; /* else the processors of the host */
    int index; /* of the CUDA device */
} aq_device;

/* Zero means "as the model says" or the default named here. */
typedef struct {
    const char *model_path;
    const char *projection_path; /* NULL: none; see aq_engine_set_projection */
    int n_thread;                /* 0: aq_engine_threads */
    int n_tp;                    /* ranks that share the weights, of all; 0: 1, each has all */
    aq_device device;            /* of this rank: ranks may have different ones */
    aq_scaling rope_scaling;
    double rope_scale; /* factor by which the context is stretched; needed with linear and yarn */
    double rope_freq_base;
    int64_t yarn_orig_ctx;
    /* Told the bytes of weights read of those this rank reads, now and then; may be NULL. */
    void (*load_progress)(void *arg, int64_t n_done, int64_t n_all);
    void *arg;
    /* Asked on each rank when the model is known and its weights are not read yet: a failure is
     * agreed on, and ends the opening. May be NULL. */
    aq_status (*before_load)(void *check_arg, aq_engine *engine);
    void *check_arg;
    bool unread; /* weights are left on disk until a step needs them: to plan with */
} aq_engine_options;

/* The number of threads a rank of this communicator takes by default: the processors of its
 * affinity mask, but no more than its share of the host, whose processors unbound ranks have in
 * common. Local. */
int aq_engine_threads(const aq_comm *comm);

/* Facts of an opened engine. Strings and arrays are owned by it. */
typedef struct {
    const char *arch, *name, *isa;
    int n_layer, n_head, n_kv_head, d_head, d_model, d_ff, n_vocab;
    int n_windowed_layer;       /* of the layers, those that see a window alone */
    int64_t window;             /* tokens they see; 0: none */
    int64_t n_ctx_model;        /* longest context, rope scaling included */
    int64_t weights_bytes;      /* of the model file's tensors */
    int64_t kept_weights_bytes; /* of them on this rank: all, unless n_tp ranks share them */
    int n_rank, n_thread, n_tp;
    aq_device device;       /* of this rank */
    const char *basis;      /* of the projection, NULL without one */
    bool projection_is_set; /* by aq_engine_set_projection, not read from a file */
} aq_engine_info;

/* Opens the model (and projection) on every rank and checks that all ranks hold the same one. The
 * communicator must outlive the engine; the caller closes it. On failure every rank returns the
 * same code and text: AQ_ERR_IO, AQ_ERR_FORMAT, AQ_ERR_UNSUPPORTED, AQ_ERR_MISMATCH, AQ_ERR_MEMORY,
 * AQ_ERR_USAGE. Collective. */
aq_status aq_engine_open(const aq_engine_options *options, aq_comm *comm, aq_engine **out);

/* NULL is allowed; sessions must be closed before. Collective. */
void aq_engine_close(aq_engine *engine);

/* Gives the engine another projection, which it copies; no session that uses one may be open.
 * AQ_ERR_MISMATCH if it is not for this model or differs between ranks, AQ_ERR_MEMORY.
 * Collective. */
typedef struct aq_projection aq_projection; /* src/model/projection_file.h */
aq_status aq_engine_set_projection(aq_engine *engine, const aq_projection *projection);

/* Deals the tokens of the sessions opened from here on in proportion to weights[n_rank], NULL:
 * equally, as engines do at first. A rank of weight 0 holds nothing of a context and takes part all
 * the same. No session may be open. AQ_ERR_USAGE: a negative weight, none above 0, or weights that
 * sum to more than 65536 without their common factor; AQ_ERR_MISMATCH if ranks give others.
 * Collective. */
aq_status aq_engine_set_split(aq_engine *engine, const int64_t *weights);

/* The engine's, or NULL if it has none. It owns it. Local. */
const aq_projection *aq_engine_projection(const aq_engine *engine);

/* Local. */
aq_engine_info aq_engine_describe(const aq_engine *engine);

/* Allocates this rank's share of the cache and the buffers of a step. The caller closes it. On
 * failure every rank returns the same: AQ_ERR_USAGE (an option out of range, named), AQ_ERR_LIMIT
 * (longer than the model's context, or a batch whose messages pass 2 GiB), AQ_ERR_MEMORY (names
 * the bytes). Collective. */
aq_status aq_session_open(aq_engine *engine, const aq_session_options *options, aq_session **out);

/* NULL is allowed. Local. */
void aq_session_close(aq_session *session);

/* Forgets all tokens; memory is kept. Local. */
void aq_session_reset(aq_session *session);

/* What a program may watch or take during prefill; any member may be NULL. */
typedef struct {
    void *arg;
    /* After each chunk: tokens done of all, on every rank. A failure ends prefill. */
    aq_status (*progress)(void *arg, int64_t n_done, int64_t n_all);
    /* After each chunk, the tokens this rank computed: their positions and the normed hidden rows
     * [n_tok, d_model] that the output matrix takes. */
    aq_status (*rows)(void *arg, const int64_t *pos, const float *hidden, int64_t n_tok);
    /* In each layer, between rope and projection: queries [n_tok, n_head, d_head] and keys
     * [n_tok, n_kv_head, d_head] of the tokens this rank computes. */
    aq_status (*tap)(void *arg, int layer, const int64_t *pos, int64_t n_tok, const float *q,
                     const float *k);
} aq_hooks;

/* Appends n tokens to the context; the last one's logits can be asked for afterwards. Tokens are
 * dealt over ranks by the owners of their tiles, queries visit the shards. hooks may be NULL.
 * AQ_ERR_LIMIT if they do not fit (nothing is changed), AQ_ERR_USAGE for an id outside the
 * vocabulary, AQ_ERR_COMM. Collective. */
aq_status aq_session_prefill(aq_session *session, const int32_t *ids, int64_t n,
                             const aq_hooks *hooks);

/* Takes over all tokens of `from`, a dense session of the same engine: its keys are projected and
 * stored as this session's options say. `session` must be empty. AQ_ERR_LIMIT if they do not fit,
 * AQ_ERR_USAGE. Afterwards `from` may be closed and this session goes on in its place. Windowed
 * layers keep what a query may still see. Collective. */
aq_status aq_session_recode(aq_session *session, const aq_session *from);

/* Appends one token: every rank computes it, scores its own tiles, and merges all partial results
 * in rank order. Allocates nothing. Errors as prefill. Collective. */
aq_status aq_session_decode(aq_session *session, int32_t id);

/* logits[n_vocab] of the token after the last one; NULL: not wanted here. AQ_ERR_USAGE on an empty
 * context, AQ_ERR_COMM. Collective where ranks share the weights (n_tp over 1), else Local. */
aq_status aq_session_logits(aq_session *session, float *logits);

/* Number of tokens in the context. Local. */
int64_t aq_session_length(const aq_session *session);

/* logits[n, n_vocab] of hidden rows [n, d_model] from aq_hooks.rows. What the device failed in.
 * Local. */
aq_status aq_engine_logits(aq_engine *engine, const float *hidden, int64_t n, float *logits);

/* What this rank holds and has done since the session was opened. Times are wall clock of the
 * calling thread. */
typedef struct {
    /* Cache of the tokens held now, this rank; and allocated for n_ctx. The open tile of coded
     * caches is apart. */
    int64_t key_bytes, value_bytes, selector_bytes;
    int64_t key_capacity, value_capacity, selector_capacity;
    int64_t open_bytes;
    /* Of one token and KV head in layers that see everything, scales included. */
    double token_key_bytes, token_value_bytes, token_selector_bytes;
    int64_t step_bytes;             /* buffers of a step */
    int64_t split;                  /* weight of this rank's share, common factor taken out */
    int64_t n_tok_owned;            /* tokens whose keys this rank holds */
    int64_t sent_bytes, n_exchange; /* put on the wire by this rank, collectives; of attention */
    int64_t shared_bytes, n_share;  /* the same for weights' sake, of all sessions of the engine */
    /* Of sent_bytes in prefill, queries and partial results; and what all columns of these would be
     * in fp32. */
    int64_t query_bytes, part_bytes, full_query_bytes, full_part_bytes;
    /* Over queries, KV heads and layers that see everything, this rank's tokens: (query, token)
     * pairs visible, dropped tokens included, pairs that were attended to exactly, and bytes of the
     * cache that scoring and mixing them takes when each query reads for itself. */
    int64_t n_pair, n_attended, n_byte_moved;
    /* With k_tau or k_budget: columns that decided, over the queries this rank computed, their
     * heads and layers, and the number of these. */
    int64_t n_kept_dim, n_pruned_row;
    /* With measure_mass: sum over the queries this rank computed, their heads and layers of the
     * share of the exact softmax's mass that was attended to, and their number. */
    double mass_sum;
    int64_t n_mass;
    int64_t matmul_ns, attend_ns, merge_ns, exchange_ns, project_ns, other_ns;
    /* Parts of attend_ns with select, in steps of few queries: over the codes of all tokens, and
     * finding the bound of those that are attended to. */
    int64_t scan_ns, choose_ns;
} aq_session_stats;

/* Local. */
aq_session_stats aq_session_describe(const aq_session *session);

#endif
