/* Choices that calibration makes on held-out text: the basis, the selector's codes, and the energy
 * from which on a column decides.
 *
 * The last tokens of the text (aq_sample_held_out) are left out of the Gram sums. Every basis is
 * solved from the same sums; on the held-out tokens each basis with each selector of equal bytes
 * loses what calib/trial.h says, at mass AQ_CHOOSE_MASS; the pair that loses least is kept. */
#ifndef AQ_CALIB_CHOOSE_H
#define AQ_CALIB_CHOOSE_H

#include "calib/calibrate.h"
#include "calib/selector.h"

#define AQ_CHOOSE_MASS   0.95
#define AQ_CHOOSE_SINKS  4
#define AQ_CHOOSE_RECENT 64

typedef struct {
    aq_calibrate_options calibrate; /* its basis is used if basis_given */
    bool basis_given;               /* else the best of joint, kq and kpca */
    double selector_bytes;          /* of codes that a query reads a token and KV head; 0: the
                                       default layout, which is not stored */
    double k_budget;                /* mean share of d_head that decides, (0, 1]; 0: no budget */
} aq_choose_options;

/* A pair that was tried. */
typedef struct {
    aq_basis basis;
    aq_selector selector;
    double loss; /* nats: mean of -ln(mass held) */
} aq_choose_row;

typedef struct {
    aq_choose_row *rows; /* by rising loss; NULL if there was nothing to choose from */
    int n_row;
    int64_t n_held_out; /* tokens sampled */
    double exact_loss;  /* of choosing by exact scores: what no selector can do without */
} aq_choose_table;

/* As aq_calibrate, with choices. With a text too short to be held out from, and no selector or
 * budgets asked for, the basis is joint. The caller frees *out and table->rows; both are zeroed on
 * failure. Further errors: AQ_ERR_USAGE (bytes or share out of range, too short a text). Collective
 * over comm. */
aq_status aq_choose(aq_engine *engine, aq_comm *comm, const int32_t *ids, int64_t n,
                    const aq_choose_options *options, aq_projection *out, aq_choose_table *table);

#endif
