/* The rule by which selecting attention chooses tokens, written plainly for calibration
 * (kernels/attn_select.h is the rule; the kernel finds its threshold without sorting).
 *
 * Of the n tokens a query sees, the first n_sink and the newest n_recent are near: always in. The
 * others are far: tokens n_sink .. n - n_recent - 1, if there are any. */
#ifndef AQ_CALIB_MASS_H
#define AQ_CALIB_MASS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    double mass; /* of a group's weights, above 0 */
    int64_t n_sink, n_recent;
    bool group_mean; /* a group's mean weight counts, not the largest */
} aq_mass_rule;

/* The far tokens of n: [*begin, *end), empty if all are near. Local. */
void aq_mass_far(const aq_mass_rule *rule, int64_t n, int64_t *begin, int64_t *end);

/* z[h, s] = softmax over s of z[h, :], for n_group heads of n tokens, `stride` floats from one head
 * to the next; w[s] = max_h z[h, s] (or their sum), divided by its sum over s. Local. */
void aq_mass_weights(float *z, int n_group, int64_t stride, int64_t n, bool group_mean, float *w);

/* The largest x for which {s : w[s] >= x} holds mass sum w; 0 if mass >= 1. `sorted` is n floats of
 * working memory. Local. */
float aq_mass_threshold(const float *w, int64_t n, double mass, float *sorted);

/* chosen[s] = whether s is among the n_best largest of w[n]; of equals the first. `work` is n
 * floats. Local. */
void aq_mass_best(const float *w, int64_t n, int64_t n_best, float *work, bool *chosen);

#endif
