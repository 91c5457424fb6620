/* What an engine is made of. For src/engine and calib; programs use src/aqua.h. */
#ifndef AQ_ENGINE_ENGINE_H
#define AQ_ENGINE_ENGINE_H

#include "kernels/backend.h"
#include "src/aqua.h"
#include "src/model/gguf.h"
#include "src/model/model_config.h"
#include "src/model/model_weights.h"
#include "src/model/projection_file.h"

struct aq_engine {
    aq_comm *comm; /* borrowed */
    aq_gguf *file; /* the map that most weights lie in */
    aq_backend *be;
    aq_model_config config;
    aq_model_weights weights;
    aq_projection projection; /* arrays NULL without one */
    float *inv_freq;          /* [n_rot / 2] */
    float rope_attn_factor;
    int n_thread;
    const char *isa;
};

#endif
