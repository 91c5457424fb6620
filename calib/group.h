/* One KV head of a sample (calib/sample.h) in the basis of a projection: its keys by column, exact
 * and as codes of the asked numbers of bits, and the sampled queries of its group of heads. */
#ifndef AQ_CALIB_GROUP_H
#define AQ_CALIB_GROUP_H

#include "calib/sample.h"
#include "src/model/projection_file.h"

#define AQ_GROUP_BITS 9 /* codes of 1 .. 8 bits */

typedef struct {
    int d_head;
    int n_group;   /* query heads */
    int64_t n_tok; /* of the chunk */
    int64_t n_query;
    const int64_t *pos;          /* [n_query] borrowed from the sample */
    const float *sigma;          /* [d_head] borrowed from the projection */
    float *key;                  /* [d_head, n_tok] k^ */
    float *coded[AQ_GROUP_BITS]; /* [d_head, n_tok] by bits; NULL unless asked for */
    float *query;                /* [n_query, n_group, d_head] q^ times the sample's scale */
} aq_group;

/* Projects and codes KV head `head`; bit b of `bits` asks for codes of b bits. The caller closes
 * it; sample and projection must outlive it. AQ_ERR_MEMORY. Local. */
aq_status aq_group_open(const aq_sample *sample, const aq_projection *projection, int head,
                        unsigned bits, aq_group *out);

/* Frees; a zeroed struct is allowed. Local. */
void aq_group_close(aq_group *group);

/* q^ of head h of the group for sampled query i: [d_head]. Local. */
const float *aq_group_query(const aq_group *group, int64_t i, int h);

/* out[s - begin] += sum over columns c in [c0, c1) of q[c] keys[c, s], begin <= s < end. `keys` is
 * group->key or one of group->coded. Local. */
void aq_group_score(const aq_group *group, const float *keys, const float *q, int c0, int c1,
                    int64_t begin, int64_t end, float *out);

#endif
