/* A made-up sample of attention for tests of calib: one layer whose keys and queries have columns
 * of falling size, and a projection for it. */
#ifndef AQ_TESTS_CALIB_SAMPLE_CASE_H
#define AQ_TESTS_CALIB_SAMPLE_CASE_H

#include "calib/sample.h"
#include "src/model/projection_file.h"

enum {
    AQ_SAMPLE_N_HEAD = 6,
    AQ_SAMPLE_N_KV_HEAD = 2,
    AQ_SAMPLE_N_GROUP = 3,
    AQ_SAMPLE_D = 16,
    AQ_SAMPLE_N_TOK = 300,
    AQ_SAMPLE_N_QUERY = 5
};

typedef struct {
    float q[AQ_SAMPLE_N_TOK * AQ_SAMPLE_N_HEAD * AQ_SAMPLE_D];
    float k[AQ_SAMPLE_N_TOK * AQ_SAMPLE_N_KV_HEAD * AQ_SAMPLE_D];
    int64_t pos[AQ_SAMPLE_N_QUERY];
    aq_projection projection; /* of 2 layers */
    aq_sample sample;         /* of layer 1, without a team */
} aq_sample_case;

/* Fresh memory, the same for the same seed; ends the program without memory. Local. */
aq_sample_case *aq_sample_case_open(uint64_t seed);
void aq_sample_case_close(aq_sample_case *c);

/* Column c of k^ or q^ of a token, in double precision, with the matrix of that KV head. Local. */
double aq_sample_case_key(const aq_sample_case *c, int64_t s, int kv_head, int column);
double aq_sample_case_query(const aq_sample_case *c, int64_t t, int head, int column);

/* out[s] = what the selector's codes of x[s] stand for, a column of AQ_SAMPLE_N_TOK tokens. shift:
 * the first tile has so many tokens less. Local. */
void aq_sample_case_levels(int bits, const float *x, int shift, double *out);

#endif
