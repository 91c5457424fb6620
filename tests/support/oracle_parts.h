/* What the two files of the model's oracle share (oracle_model.h). */
#ifndef AQ_TESTS_SUPPORT_ORACLE_PARTS_H
#define AQ_TESTS_SUPPORT_ORACLE_PARTS_H

#include "tests/support/oracle_model.h"

#define AQ_ORACLE_MAX_D 256

/* One pass over n tokens; rows of numbers are [n, width]. */
typedef struct {
    const aq_model_config *config;
    const aq_model_weights *weights;
    aq_oracle_attention attention;
    int64_t n;
    double *cos_sin[2]; /* of full and of windowed layers: [n + 1, n_rot / 2, 2] */
    double narrowest;
} aq_oracle_pass;

/* Zeroed numbers, to be freed. */
double *aq_oracle_rows(int64_t n, int64_t width);

/* x W^T + b of n rows, in fresh rows. */
double *aq_oracle_multiply(const aq_oracle_pass *p, const aq_weight *w, const double *x, int64_t n);

void aq_oracle_normalise(aq_norm_kind kind, double eps, const float *w, const float *b, int64_t d,
                         double *x);

/* The attention of a layer on normed rows x, through W_o, in fresh rows. */
double *aq_oracle_attend(aq_oracle_pass *p, int layer, const double *x);

#endif
