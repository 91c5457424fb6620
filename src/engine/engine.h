/* What an engine is made of. For src/engine and calib; programs use src/aqua.h. */
#ifndef AQ_ENGINE_ENGINE_H
#define AQ_ENGINE_ENGINE_H

#include "kernels/backend.h"
#include "src/aqua.h"
#include "src/model/model_config.h"
#include "src/model/model_file.h"
#include "src/model/model_weights.h"
#include "src/model/projection_file.h"

struct aq_engine {
    aq_comm *comm;       /* borrowed */
    aq_model_file *file; /* the map that most weights lie in */
    aq_backend *be;
    aq_model_config config;
    aq_model_weights weights;
    aq_projection projection; /* arrays NULL without one */
    bool projection_is_set;   /* not read from a file */
    int n_projecting;         /* open sessions that use it */
    int n_thread;
    const char *isa;
};

/* Reads the weights from disk, so that the first step does not wait for them. The ranks of a host
 * share what the system caches, so each reads its share of the bytes. Local. */
void aq_engine_load(const aq_engine *engine, const aq_engine_options *options);

#endif
