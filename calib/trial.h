/* Selectors tried on samples of attention (calib/sample.h).
 *
 * The loss of a selector on one query and KV head: as many far tokens are chosen by the scores of
 * its codes as the exact scores need for the rule's mass (calib/mass.h), so that all selectors
 * choose equally many; near tokens are always in, with exact scores. Of each head of the group,
 * loss = -ln(exact softmax mass of what was chosen).
 *
 * The same bits for any number of threads.
 * Source: top-p selection, Twilight, arXiv 2502.02770; bits along the columns: docs/method.md. */
#ifndef AQ_CALIB_TRIAL_H
#define AQ_CALIB_TRIAL_H

#include "calib/group.h"
#include "calib/mass.h"
#include "calib/selector.h"

/* Sums over pairs of query and head. */
typedef struct {
    double loss; /* as above */
    double n;    /* pairs */
} aq_trial_sum;

/* sums[i] += what list[i] loses on one layer of a sample in the basis of the projection. Codes have
 * at most 8 bits; a selector without any stands for exact scores, which lose the least there is.
 * AQ_ERR_MEMORY. Local. */
aq_status aq_trial_add(const aq_sample *sample, const aq_projection *projection,
                       const aq_selector *list, int n, const aq_mass_rule *rule,
                       aq_trial_sum *sums);

/* What one selector holds and takes when its own scores and the rule decide how many tokens are
 * attended to, as attention does. Sums over pairs of query and head. */
typedef struct {
    double mass;     /* exact softmax mass of the tokens attended to */
    double attended; /* their share of the tokens seen */
    double n;        /* pairs */
} aq_trial_recall_sum;

/* Adds one layer of a sample. AQ_ERR_MEMORY. Local. */
aq_status aq_trial_recall(const aq_sample *sample, const aq_projection *projection,
                          const aq_selector *selector, const aq_mass_rule *rule,
                          aq_trial_recall_sum *sum);

#endif
