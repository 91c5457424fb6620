#include "launch/lists.h"

#include <stdlib.h>
#include <string.h>

aq_status aq_word_list_parse(const char *option, const char *text, char separator,
                             aq_word_list *out) {
    out->n = 0;
    if (!text || !text[0]) return AQ_OK;
    for (const char *at = text, *end; at; at = end ? end + 1 : NULL) {
        end = strchr(at, separator);
        const size_t length = end ? (size_t)(end - at) : strlen(at);
        if (length == 0) return aq_fail(AQ_ERR_USAGE, "%s \"%s\" has an empty entry", option, text);
        if (length >= AQ_LIST_WORD || out->n == AQ_LIST_MAX)
            return aq_fail(AQ_ERR_USAGE, "%s takes at most %d entries of %d characters", option,
                           AQ_LIST_MAX, AQ_LIST_WORD - 1);
        memcpy(out->words[out->n], at, length);
        out->words[out->n++][length] = '\0';
    }
    return AQ_OK;
}

aq_status aq_number_list_parse(const char *option, const char *text, double low, double high,
                               aq_number_list *out) {
    aq_word_list words;
    AQ_TRY(aq_word_list_parse(option, text, ',', &words));
    out->n = 0;
    for (int i = 0; i < words.n; i++) {
        char *end = NULL;
        const double value = strtod(words.words[i], &end);
        if (*end != '\0' || !(value >= low && value <= high)) /* NaN fails */
            return aq_fail(AQ_ERR_USAGE, "%s takes numbers from %g to %g, not \"%s\"", option, low,
                           high, words.words[i]);
        out->values[out->n++] = value;
    }
    return AQ_OK;
}

aq_status aq_depth_list_parse(const char *option, const char *text, aq_number_list *out) {
    char *end = NULL;
    const long n = text ? strtol(text, &end, 10) : 0;
    if (n < 2 || *end != '\0') return aq_number_list_parse(option, text, 0, 1, out);
    if (n > AQ_LIST_MAX)
        return aq_fail(AQ_ERR_USAGE, "%s takes at most %d depths", option, AQ_LIST_MAX);
    out->n = (int)n;
    for (int i = 0; i < out->n; i++)
        out->values[i] = (double)i / (double)(n - 1);
    return AQ_OK;
}
