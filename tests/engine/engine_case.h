/* What the engine's tests share: a tiny model and a projection that all ranks see, engines over
 * them, and the logits of a whole text. Everything is Collective over the test's world or the
 * communicator given. */
#ifndef AQ_TESTS_ENGINE_ENGINE_CASE_H
#define AQ_TESTS_ENGINE_ENGINE_CASE_H

#include "src/aqua.h"
#include "tests/support/tiny_model.h"

#define AQ_CASE_PATH_BYTES 512

/* Files made by rank 0 in its temporary folder, gone when it ends. */
typedef struct {
    aq_tiny_model shape;
    char model[AQ_CASE_PATH_BYTES];
    char projection[AQ_CASE_PATH_BYTES];
} aq_case;

/* A tiny model of that shape and a random projection for it. */
void aq_case_make(const aq_tiny_model *shape, const char *name, aq_case *out);

/* The default shape; made once, then shared by all tests. */
const aq_case *aq_case_default(void);

/* A random projection for any model, in a fresh file. */
void aq_case_projection(const char *model, char path[AQ_CASE_PATH_BYTES]);

/* n ids of the tiny vocabulary; the same everywhere for the same seed. Local. */
void aq_case_ids(uint64_t seed, int64_t n, int32_t *ids);

/* An engine on `comm` with two threads a rank, on the device that AQUA_TEST_DEVICE names, else on
 * the processors; NULL after a failed expectation. */
aq_engine *aq_case_engine(aq_comm *comm, const char *model, const char *projection);

/* A dense session's options with an fp32 cache. Local. */
aq_session_options aq_case_options(int64_t n_ctx, int64_t n_batch);

/* A session, or NULL after a failed expectation. */
aq_session *aq_case_session(aq_engine *engine, const aq_session_options *options);

/* Appends n ids by prefill; logits[n, n_vocab] of all of them on every rank. Expects
 * success, and that the session's own logits are the last row. */
void aq_case_prefill(aq_engine *engine, aq_comm *comm, aq_session *session, const int32_t *ids,
                     int64_t n, float *logits);

/* Appends n ids by decode; logits as above, each rank's own. Expects success. */
void aq_case_decode(aq_engine *engine, aq_session *session, const int32_t *ids, int64_t n,
                    float *logits);

/* Largest abs(y - ref) over n numbers as a fraction of the largest abs(ref); infinite with NaN.
 * Local. */
double aq_case_distance(const float *y, const double *ref, int64_t n);
double aq_case_distance_f32(const float *y, const float *ref, int64_t n);

/* Zeroed memory for n numbers; the caller frees. Exits without: no test can go on. Local. */
float *aq_case_floats(int64_t n);
double *aq_case_doubles(int64_t n);

#endif
