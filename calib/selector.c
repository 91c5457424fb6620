#include "calib/selector.h"

#include <stdbool.h>
#include <stdlib.h>

enum { MOST_BITS = 4, MOST_BLOCKS = 8, MOST_SELECTORS = 600 };

int aq_selector_bits(const aq_selector *selector) {
    if (selector->n_dynamic > 0) return selector->n_dynamic * selector->codes.segments[0].bits;
    return aq_code_layout_bits(&selector->codes);
}

double aq_selector_stored(const aq_selector *selector) {
    return aq_code_layout_bits(&selector->codes) / 8.0;
}

typedef struct {
    int d, n_block;
    double most, least; /* bits read: least < bits <= most */
    aq_selector *list;
    int n;
} lister;

/* Columns in the first `block` blocks. */
static int border(const lister *l, int block) {
    return block * l->d / l->n_block;
}

/* The layout with count[b] blocks of b bits, most bits first. */
static aq_code_layout layout_of(const lister *l, const int count[MOST_BITS + 1]) {
    aq_code_layout layout = {.n_segment = 0};
    int block = 0;
    for (int bits = MOST_BITS; bits >= 1; bits--) {
        const int columns = border(l, block + count[bits]) - border(l, block);
        block += count[bits];
        if (columns > 0) layout.segments[layout.n_segment++] = (aq_code_segment){columns, bits};
    }
    return layout;
}

static void list_static(lister *l) {
    const int most = l->n_block;
    int count[MOST_BITS + 1] = {0};
    for (count[4] = most; count[4] >= 0; count[4]--)
        for (count[3] = most - count[4]; count[3] >= 0; count[3]--)
            for (count[2] = most - count[4] - count[3]; count[2] >= 0; count[2]--)
                for (count[1] = most - count[4] - count[3] - count[2]; count[1] >= 0; count[1]--) {
                    const aq_selector selector = {.codes = layout_of(l, count)};
                    const int bits = aq_selector_bits(&selector);
                    if (bits > l->least && bits <= l->most) l->list[l->n++] = selector;
                }
}

static void list_dynamic(lister *l) {
    for (int bits = MOST_BITS; bits >= 1; bits--)
        for (int block = l->n_block; block >= 1; block--) {
            const int columns = border(l, block), n_read = (int)(l->most / bits);
            if (n_read < 1 || n_read >= columns) continue;
            l->list[l->n++] = (aq_selector){
                .codes = {.n_segment = 1, .segments = {{columns, bits}}}, .n_dynamic = n_read};
        }
}

aq_status aq_selector_list(int d_head, double bytes, aq_selector **out, int *n) {
    lister l = {.d = d_head, .n_block = d_head < MOST_BLOCKS ? d_head : MOST_BLOCKS};
    const int widest = (d_head + l.n_block - 1) / l.n_block;
    *out = NULL;
    *n = 0;
    l.most = 8 * bytes;
    l.least = l.most - widest;
    /* Written so that NaN fails. */
    if (!(l.most >= widest && l.most <= MOST_BITS * d_head))
        return aq_fail(AQ_ERR_USAGE,
                       "a selector of %g bytes is not possible with %d dimensions; give %g to %g",
                       bytes, d_head, widest / 8.0, MOST_BITS * d_head / 8.0);
    l.list = calloc(MOST_SELECTORS, sizeof *l.list);
    if (!l.list) return aq_fail(AQ_ERR_MEMORY, "no memory for a list of selectors");
    list_static(&l);
    list_dynamic(&l);
    *out = l.list;
    *n = l.n;
    return AQ_OK;
}
