/* What an engine is made of. For src/engine and calib; programs use src/aqua.h. */
#ifndef AQ_ENGINE_ENGINE_H
#define AQ_ENGINE_ENGINE_H

#include "kernels/backend.h"
#include "src/aqua.h"
#include "src/base/arena.h"
#include "src/engine/plan.h"
#include "src/engine/shard.h"
#include "src/model/model_config.h"
#include "src/model/model_file.h"
#include "src/model/model_weights.h"
#include "src/model/projection_file.h"

/* Rows whose logits are made at a time where they are fetched from a backend. */
#define AQ_ENGINE_LOGIT_ROWS 64

struct aq_engine {
    aq_comm *comm;       /* borrowed */
    aq_plan plan;        /* of all its sessions */
    int n_session;       /* that are open */
    aq_merge_way merge;  /* of the sessions that leave it to the engine */
    aq_model_file *file; /* the map that most weights lie in */
    aq_backend *be;
    aq_model_config config;
    aq_model_weights weights; /* of the whole model */
    aq_shard shard;           /* the ranks that share them */
    aq_model_weights kept;    /* those of this rank's share */
    aq_model_weights placed;  /* the same in backend memory, for the kernels */
    aq_weight output;         /* the whole output matrix in backend memory */
    aq_projection projection; /* arrays NULL without one */
    float *pq, *pk;           /* its matrices in backend memory */
    /* Of backends whose memory is not the host's; else NULL. */
    void *placed_memory;
    float *rows;            /* [AQ_ENGINE_LOGIT_ROWS, d_model] */
    float *row_logits;      /* [AQ_ENGINE_LOGIT_ROWS, n_vocab] */
    bool projection_is_set; /* not read from a file */
    int n_projecting;       /* open sessions that use it */
    int n_thread;
    aq_device device;
    const char *isa; /* of the processors, or "cuda" */
};

/* Reads the weights from disk, so that the first step does not wait for them: each rank what it
 * alone keeps, or, where all have all of them, its share of the bytes, since the ranks of a host
 * share what the system caches. Local. */
void aq_engine_load(const aq_engine *engine, const aq_engine_options *options);

/* engine->placed, and the projection's matrices, which replace those that were placed before. What
 * they take is freed by aq_engine_unplace, also after a failure: AQ_ERR_MEMORY. Local. */
aq_status aq_engine_place(aq_engine *engine);
aq_status aq_engine_place_projection(aq_engine *engine);
void aq_engine_unplace(aq_engine *engine);

/* logits[n, n_vocab] on the host of rows x[n, d_model] in backend memory, n at most
 * AQ_ENGINE_LOGIT_ROWS. What the backend failed in. Local. */
aq_status aq_engine_logits_of(const aq_engine *engine, const float *x, int64_t n, float *logits);

#endif
