/* Projection files (`MODEL.aqua`): the calibrated bases of a model, written by `calibrate`, read by
 * the engine. Protocol Buffers message `AquaProjection` (src/model/projection.proto) behind an
 * 8-byte magic, its length and a checksum; layout: docs/formats.md. */
#ifndef AQ_MODEL_PROJECTION_FILE_H
#define AQ_MODEL_PROJECTION_FILE_H

#include "src/base/kv_type.h"
#include "src/base/status.h"
#include "src/model/model_config.h"
#include "src/model/model_weights.h"

/* Bases as `--basis` names them; the same list, in the same order, as in the .proto. */
#define AQ_BASIS_LIST(X)                                                                           \
    X(AQ_BASIS_JOINT, "joint")                                                                     \
    X(AQ_BASIS_KQ, "kq")                                                                           \
    X(AQ_BASIS_KPCA, "kpca")                                                                       \
    X(AQ_BASIS_IDENTITY, "identity")

#define AQ_BASIS_ENUM(id, name) id,
typedef enum { AQ_BASIS_LIST(AQ_BASIS_ENUM) AQ_BASIS_N } aq_basis;
#undef AQ_BASIS_ENUM

/* The name of a basis. Static. Local. */
const char *aq_basis_name(aq_basis basis);

/* The basis of that name. AQ_ERR_USAGE lists the names. Local. */
aq_status aq_basis_parse(const char *name, aq_basis *out);

/* For layer L and KV head g all arrays are at index L * n_kv_head + g. Invariant: P_q P_k^T = I, so
 * all columns kept is exact attention. */
typedef struct aq_projection {
    aq_basis basis;
    int n_layer;
    int n_kv_head;
    int d_head;
    int64_t n_tok_calib;                       /* tokens the Gram matrices were summed over */
    char domain[256];                          /* name of the calibration text */
    uint8_t fingerprint[AQ_FINGERPRINT_BYTES]; /* of the model */
    float *pq;             /* [n_layer, n_kv_head, d_head, d_head]: q^ = q P_q */
    float *pk;             /* the same shape: k^ = k P_k */
    float *sigma;          /* [n_layer, n_kv_head, d_head] standard deviation of k^ by column */
    float *spectrum;       /* [n_layer, n_kv_head, d_head] importance by column: calib/basis.h */
    aq_code_layout codes;  /* of the selector; n_segment 0: none was chosen, see
                              aq_projection_codes */
    int n_dynamic;         /* columns of them that a query reads; 0: all */
    float k_energy;        /* with k_budget the columns decide whose (q^_c sigma_c)^2 is as much or
                              more (calib/budget.h); 0: not calibrated */
    int64_t break_even[2]; /* tokens of context from which aqua and select are faster than dense on
                              the machine that measured it; 0: not measured, INT64_MAX: never */
} aq_projection;

/* The selector's codes: those of the projection, or without any, d = d_head: for d up to 128 d/4
 * columns of 4 bits, d/2 of 2, the rest of 1; above, d/4 of 4 bits. Local. */
aq_code_layout aq_projection_codes(const aq_projection *p);

/* Sizes a projection may have; larger ones are refused before memory is asked for. */
#define AQ_PROJECTION_MAX_LAYER 4096
#define AQ_PROJECTION_MAX_HEAD  1024
#define AQ_PROJECTION_MAX_DIM   1024

/* The largest aq_projection_defect that is accepted. */
#define AQ_PROJECTION_DEFECT_MAX 1e-3

/* Allocates the arrays (zeroed) for the sizes already set in *p; the caller frees *p. AQ_ERR_USAGE
 * (a size out of range), AQ_ERR_MEMORY. Local. */
aq_status aq_projection_alloc(aq_projection *p);

/* Frees the arrays; a zeroed struct is allowed. Local. */
void aq_projection_free(aq_projection *p);

/* A copy with arrays of its own; the caller frees it. AQ_ERR_MEMORY. Local. */
aq_status aq_projection_copy(const aq_projection *p, aq_projection *out);

/* max over i, j of abs(P_q P_k^T - I), summed in double; pq and pk are [d, d]. Infinite if a number
 * is not finite. Local. */
double aq_projection_defect(int d, const float *pq, const float *pk);

/* Checks the numbers as aq_projection_read does, writes to a temporary name, syncs, renames, reads
 * back and compares. AQ_ERR_IO (full disk: the old file is untouched), AQ_ERR_NUMERIC (nothing is
 * written), AQ_ERR_MEMORY. Local. */
aq_status aq_projection_write(const char *path, const aq_projection *p);

/* Reads and checks: magic, length, checksum, version, sizes, finite numbers, P_q P_k^T = I within
 * AQ_PROJECTION_DEFECT_MAX; codes, dynamic columns, budgets and break-even contexts, which are none
 * where the file has none. The bytes are not trusted. The caller frees *p, which is zeroed on
 * failure. AQ_ERR_IO, AQ_ERR_FORMAT (truncated, garbled), AQ_ERR_UNSUPPORTED (a newer version),
 * AQ_ERR_MEMORY. Local. */
aq_status aq_projection_read(const char *path, aq_projection *p);

/* AQ_ERR_MISMATCH if the projection at `path` was not made for this model (shapes or fingerprint).
 * Local. */
aq_status aq_projection_check(const char *path, const aq_projection *p,
                              const aq_model_config *config, const aq_model_weights *weights);

#endif
