#include "src/model/bpe.h"

#include <stdlib.h>

/* A symbol of the text, chained to its neighbours; -1 at the ends, GONE once it is joined to the
 * one before it. It covers the symbols of the beginning up to `next`. */
struct aq_bpe_link {
    int32_t previous;
    int32_t next;
};
#define GONE (-2)

/* Two neighbours that may be joined: at .. right and right .. end. The pair is stale once either
 * has changed, for then they are no such neighbours any more. */
struct aq_bpe_pair {
    double rank;
    int32_t at;
    int32_t right;
    int32_t end;
    int32_t result;
};

aq_status aq_bpe_make(int64_t n, aq_bpe *out) {
    uint64_t n_slot = 16;
    while (n_slot < 2 * (uint64_t)n)
        n_slot *= 2;
    out->slots = malloc(n_slot * sizeof *out->slots);
    out->mask = n_slot - 1;
    if (!out->slots) return aq_fail(AQ_ERR_MEMORY, "no memory for %lld merge rules", (long long)n);
    for (uint64_t i = 0; i < n_slot; i++)
        out->slots[i].left = -1;
    return AQ_OK;
}

void aq_bpe_free(aq_bpe *bpe) {
    free(bpe->slots);
    bpe->slots = NULL;
}

/* The slot of a pair, or the free one where it would go. */
static aq_bpe_rule *slot_of(const aq_bpe *bpe, int32_t left, int32_t right) {
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t i = pair * 0x9e3779b97f4a7c15u;
    for (i = (i ^ (i >> 32)) & bpe->mask;; i = (i + 1) & bpe->mask) {
        aq_bpe_rule *slot = &bpe->slots[i];
        if (slot->left < 0 || (slot->left == left && slot->right == right)) return slot;
    }
}

void aq_bpe_add(aq_bpe *bpe, aq_bpe_rule rule) {
    aq_bpe_rule *slot = slot_of(bpe, rule.left, rule.right);
    if (slot->left < 0) *slot = rule;
}

void aq_bpe_work_free(aq_bpe_work *work) {
    free(work->links);
    free(work->heap);
    *work = (aq_bpe_work){0};
}

/* The heap never holds more than two pairs a symbol: n - 1 at first, and each join takes one out
 * and puts at most two in. */
static aq_status reserve(aq_bpe_work *work, int64_t n) {
    if (n <= work->capacity) return AQ_OK;
    const int64_t capacity = n < 64 ? 64 : 2 * n;
    aq_bpe_work_free(work);
    work->links = malloc((size_t)capacity * sizeof *work->links);
    work->heap = malloc((size_t)capacity * 2 * sizeof *work->heap);
    if (!work->links || !work->heap) {
        aq_bpe_work_free(work);
        return aq_fail(AQ_ERR_MEMORY, "no memory to merge %lld symbols", (long long)n);
    }
    work->capacity = capacity;
    return AQ_OK;
}

static bool before(const struct aq_bpe_pair *a, const struct aq_bpe_pair *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(aq_bpe_work *work, struct aq_bpe_pair pair) {
    int64_t i = work->n_heap++;
    for (; i > 0 && before(&pair, &work->heap[(i - 1) / 2]); i = (i - 1) / 2)
        work->heap[i] = work->heap[(i - 1) / 2];
    work->heap[i] = pair;
}

static struct aq_bpe_pair heap_pop(aq_bpe_work *work) {
    const struct aq_bpe_pair top = work->heap[0], last = work->heap[--work->n_heap];
    int64_t i = 0, child;
    for (; (child = 2 * i + 1) < work->n_heap; i = child) {
        if (child + 1 < work->n_heap && before(&work->heap[child + 1], &work->heap[child])) child++;
        if (!before(&work->heap[child], &last)) break;
        work->heap[i] = work->heap[child];
    }
    work->heap[i] = last;
    return top;
}

/* A merge under way. */
typedef struct {
    aq_bpe_find find;
    const void *rules;
    aq_bpe_work *work;
    int32_t *ids;
    int32_t n;
} merging;

/* Where a symbol's part of the text ends. */
static int32_t end_of(const merging *m, int32_t at) {
    const int32_t next = m->work->links[at].next;
    return next < 0 ? m->n : next;
}

/* Puts the pair of symbol `at` and its right neighbour into the heap if a rule joins them. */
static void consider(const merging *m, int32_t at) {
    aq_bpe_join join;
    if (at < 0 || m->work->links[at].next < 0) return;
    const int32_t right = m->work->links[at].next, end = end_of(m, right);
    if (m->find(m->rules, m->ids, at, right, end, &join))
        heap_push(m->work, (struct aq_bpe_pair){join.rank, at, right, end, join.result});
}

/* Joins a pair unless it is stale. */
static void join(const merging *m, const struct aq_bpe_pair *pair) {
    struct aq_bpe_link *links = m->work->links;
    if (links[pair->at].next != pair->right || end_of(m, pair->right) != pair->end) return;
    const int32_t next = links[pair->right].next;
    m->ids[pair->at] = pair->result;
    links[pair->at].next = next;
    if (next >= 0) links[next].previous = pair->at;
    links[pair->right].next = GONE;
    consider(m, links[pair->at].previous);
    consider(m, pair->at);
}

aq_status aq_bpe_merge_by(aq_bpe_find find, const void *rules, aq_bpe_work *work, int32_t *ids,
                          int64_t *n) {
    if (*n < 2) return AQ_OK;
    if (*n > INT32_MAX)
        return aq_fail(AQ_ERR_UNSUPPORTED, "a piece of text of %lld symbols is too long; cut it",
                       (long long)*n);
    AQ_TRY(reserve(work, *n));
    const merging m = {find, rules, work, ids, (int32_t)*n};
    work->n_heap = 0;
    for (int32_t i = 0; i < m.n; i++)
        work->links[i] = (struct aq_bpe_link){i - 1, i + 1 < m.n ? i + 1 : -1};
    for (int32_t i = 0; i + 1 < m.n; i++)
        consider(&m, i);
    while (work->n_heap > 0) {
        const struct aq_bpe_pair pair = heap_pop(work);
        join(&m, &pair);
    }
    int64_t kept = 0;
    for (int32_t i = 0; i >= 0; i = work->links[i].next)
        ids[kept++] = ids[i];
    *n = kept;
    return AQ_OK;
}

static bool find_rule(const void *rules, const int32_t *ids, int32_t at, int32_t right, int32_t end,
                      aq_bpe_join *out) {
    (void)end;
    if (ids[at] < 0 || ids[right] < 0) return false;
    const aq_bpe_rule *rule = slot_of(rules, ids[at], ids[right]);
    if (rule->left < 0) return false;
    *out = (aq_bpe_join){rule->rank, rule->result};
    return true;
}

aq_status aq_bpe_merge(const aq_bpe *bpe, aq_bpe_work *work, int32_t *ids, int64_t *n) {
    return aq_bpe_merge_by(find_rule, bpe, work, ids, n);
}
