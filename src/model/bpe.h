/* The merging of byte-pair encoding: neighbours are joined, the pair of lowest rank first, of equal
 * ranks the leftmost, until no pair has a rank.
 *
 * n symbols take O(n log n) time whatever they are. Source: Sennrich et al. 2016, arXiv
 * 1508.07909. */
#ifndef AQ_MODEL_BPE_H
#define AQ_MODEL_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* One rule: neighbours left and right become result. */
typedef struct {
    int32_t left;
    int32_t right;
    int32_t rank;
    int32_t result;
} aq_bpe_rule;

/* The rules, hashed by their pair; a slot with left < 0 is free. */
typedef struct {
    aq_bpe_rule *slots;
    uint64_t mask;
} aq_bpe;

/* An empty set for up to n rules; end it with aq_bpe_free. AQ_ERR_MEMORY. Local. */
aq_status aq_bpe_make(int64_t n, aq_bpe *out);
void aq_bpe_free(aq_bpe *bpe);

/* Adds a rule; left and right are not negative. Of rules for one pair the first counts. Local. */
void aq_bpe_add(aq_bpe *bpe, aq_bpe_rule rule);

/* Memory of merges under way, reused from call to call; start from a zeroed struct. */
typedef struct {
    struct aq_bpe_link *links;
    struct aq_bpe_pair *heap;
    int64_t n_heap;
    int64_t capacity; /* symbols */
} aq_bpe_work;

void aq_bpe_work_free(aq_bpe_work *work);

/* How neighbours are joined: the pair of lowest rank goes first. */
typedef struct {
    double rank;
    int32_t result;
} aq_bpe_join;

/* Whether ids[at] and its right neighbour ids[right] are joined. They have come from the symbols
 * at .. right and right .. end of the beginning, ends not included. */
typedef bool (*aq_bpe_find)(const void *rules, const int32_t *ids, int32_t at, int32_t right,
                            int32_t end, aq_bpe_join *out);

/* Merges ids[n] in place by any rules and sets *n to what is left. AQ_ERR_MEMORY,
 * AQ_ERR_UNSUPPORTED (more than 2^31 - 1 symbols). Local. */
aq_status aq_bpe_merge_by(aq_bpe_find find, const void *rules, aq_bpe_work *work, int32_t *ids,
                          int64_t *n);

/* Merges ids[n] in place and sets *n to what is left. A negative id joins with nothing.
 * Fails as aq_bpe_merge_by. Local. */
aq_status aq_bpe_merge(const aq_bpe *bpe, aq_bpe_work *work, int32_t *ids, int64_t *n);

#endif
