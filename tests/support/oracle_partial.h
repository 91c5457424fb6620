/* Partial attention by its formula (kernels/attn_partial.h) in double precision, with tolerances
 * that are derived, over caches of numbers with keys by column. */
#ifndef AQ_TESTS_SUPPORT_ORACLE_PARTIAL_H
#define AQ_TESTS_SUPPORT_ORACLE_PARTIAL_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/attn_partial.h"
#include "tests/support/oracle.h"

#define AQ_PARTIAL_MAX_HEAD 256

/* What can be wrong on purpose. */
typedef enum {
    AQ_PARTIAL_RIGHT,
    AQ_PARTIAL_LOW,        /* a query does not see itself */
    AQ_PARTIAL_HIGH,       /* a query sees the next token */
    AQ_PARTIAL_WIDE,       /* a window is one token wider */
    AQ_PARTIAL_NARROW,     /* a window is one token narrower */
    AQ_PARTIAL_PLACE,      /* tile j is read at place j of a ring */
    AQ_PARTIAL_NO_RESCALE, /* o is not rescaled when the maximum rises */
    AQ_PARTIAL_DIMS,       /* two columns swapped */
    AQ_PARTIAL_HEAD,       /* the tiles of another KV head */
    AQ_PARTIAL_SLOTS,      /* slot_pos is not heeded */
    AQ_PARTIAL_BUGS
} aq_partial_bug;

/* A score, -inf of a token that is not seen, and the bound of its error. */
typedef struct {
    double a, allowed;
} aq_partial_score;

/* What one row of the result must be, and by how much it may differ. */
typedef struct {
    double m, m_allowed, l, l_allowed;
    double o[AQ_PARTIAL_MAX_HEAD], o_allowed[AQ_PARTIAL_MAX_HEAD];
} aq_partial_row;

/* Where tile `tile` of the arguments is stored. */
int64_t aq_partial_place(const aq_attn_partial_args *a, int64_t tile);

/* The row of query t, head h. scores[n_tile * AQ_TILE] is working memory. `exact`: scores have no
 * rounding. */
void aq_partial_reference(const aq_attn_partial_args *a, int64_t t, int h, aq_partial_bug bug,
                          bool exact, aq_partial_score *scores, aq_partial_row *ref);

/* All of a->part against the reference. */
void aq_partial_check(aq_backend *be, const aq_attn_partial_args *a, bool exact, aq_partial_bug bug,
                      aq_bound *bound);

#endif
