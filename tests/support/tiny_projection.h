/* Random projections for tiny models. */
#ifndef AQ_TESTS_SUPPORT_TINY_PROJECTION_H
#define AQ_TESTS_SUPPORT_TINY_PROJECTION_H

#include "src/model/projection_file.h"

#define AQ_TINY_PROJECTION_MAX_D 64

/* A projection for the model at `path`: random orthogonal bases, the columns of P_q and P_k scaled
 * apart so that the two differ, and falling sigma. The caller frees it. Errors of opening the
 * model, AQ_ERR_USAGE (heads too wide), AQ_ERR_MEMORY. Local. */
aq_status aq_tiny_projection_make(const char *path, uint64_t seed, aq_projection *out);

#endif
