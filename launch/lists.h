/* Lists in option values: "0.9,0.75", "magnitude,energy". An empty text is an empty list. */
#ifndef AQ_LAUNCH_LISTS_H
#define AQ_LAUNCH_LISTS_H

#include "src/base/status.h"

#define AQ_LIST_MAX  32 /* entries */
#define AQ_LIST_WORD 64 /* bytes of one, with the final 0 */

typedef struct {
    int n;
    char words[AQ_LIST_MAX][AQ_LIST_WORD];
} aq_word_list;

typedef struct {
    int n;
    double values[AQ_LIST_MAX];
} aq_number_list;

/* The words between separators. AQ_ERR_USAGE, naming the option: too many, too long, an empty one.
 * Local. */
aq_status aq_word_list_parse(const char *option, const char *text, char separator,
                             aq_word_list *out);

/* Numbers in low .. high, separated by commas. AQ_ERR_USAGE too for anything else. Local. */
aq_status aq_number_list_parse(const char *option, const char *text, double low, double high,
                               aq_number_list *out);

/* Shares of a length, 0 .. 1: a list of them, or one whole number N from 2 on, which means N shares
 * spread evenly from 0 to 1. AQ_ERR_USAGE. Local. */
aq_status aq_depth_list_parse(const char *option, const char *text, aq_number_list *out);

#endif
