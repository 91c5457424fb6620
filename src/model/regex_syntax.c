#include "src/model/regex_syntax.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LINE_END "(?=\\n|\\z)"

/* The longest that one byte of an expression becomes. */
#define LONGEST (sizeof AQ_REGEX_SPACE + 4)

typedef struct {
    const char *regex;
    const char *at;
    char *to;
    bool in_class;
} translation;

static void put(translation *t, const char *text, size_t n) {
    memcpy(t->to, text, n);
    t->to += n;
}

static void put_text(translation *t, const char *text) {
    put(t, text, strlen(text));
}

static aq_status refuse(const translation *t, int bytes) {
    return aq_fail(AQ_ERR_UNSUPPORTED,
                   "the expression's \"%.*s\" at byte %zu is not supported: only what Oniguruma "
                   "and PCRE2 read alike is",
                   bytes, t->at, (size_t)(t->at - t->regex));
}

/* A property, "\p{L}": kept. */
static aq_status property(translation *t) {
    const char *end = t->at[2] == '{' ? strchr(t->at, '}') : NULL;
    if (!end || end - t->at > 64) return refuse(t, 2);
    put(t, t->at, (size_t)(end + 1 - t->at));
    t->at = end + 1;
    return AQ_OK;
}

/* A character by its number, "\u4e00" or "\x41". */
static aq_status by_number(translation *t, size_t n_digit) {
    const char *digits = t->at + 2;
    if (t->at[1] == 'x' && *digits == '{') {
        const char *end = strchr(digits, '}');
        if (!end || end - digits > 9) return refuse(t, 2);
        put(t, t->at, (size_t)(end + 1 - t->at));
        t->at = end + 1;
        return AQ_OK;
    }
    if (strspn(digits, "0123456789abcdefABCDEF") < n_digit) return refuse(t, 2);
    if (t->at[1] == 'x' && *digits >= '8') return refuse(t, 4); /* a byte, not a character */
    put_text(t, "\\x{");
    put(t, digits, n_digit);
    put_text(t, "}");
    t->at = digits + n_digit;
    return AQ_OK;
}

static aq_status escape(translation *t) {
    const char c = t->at[1];
    if (c == 's') {
        put_text(t, t->in_class ? AQ_REGEX_SPACE : "[" AQ_REGEX_SPACE "]");
    } else if (c == 'S' && !t->in_class) {
        put_text(t, "[^" AQ_REGEX_SPACE "]");
    } else if (c == 'p' || c == 'P') {
        return property(t);
    } else if (c == 'u' || c == 'x') {
        return by_number(t, c == 'u' ? 4 : 2);
    } else if (c != '\0' && strchr(t->in_class ? "nrtfadD" : "nrtfadDAz", c)) {
        put(t, t->at, 2);
    } else if (c > ' ' && c < 0x7f && !strchr("abcdefghijklmnopqrstuvwxyz", c | 0x20) &&
               !(c >= '0' && c <= '9')) {
        put(t, t->at, 2); /* a mark, meant as such */
    } else {
        return refuse(t, c == '\0' ? 1 : 2);
    }
    t->at += 2;
    return AQ_OK;
}

/* Inside of [...]: no class in a class, no intersection. */
static aq_status in_class(translation *t) {
    if (*t->at == '[' || (t->at[0] == '&' && t->at[1] == '&')) return refuse(t, 1);
    if (*t->at == ']') t->in_class = false;
    put(t, t->at++, 1);
    return AQ_OK;
}

static aq_status open_class(translation *t) {
    const size_t n = t->at[1] == '^' ? 2 : 1;
    if (t->at[n] == ']') return refuse(t, (int)n + 1);
    put(t, t->at, n);
    t->at += n;
    t->in_class = true;
    return AQ_OK;
}

static aq_status open_group(translation *t) {
    static const char *const kinds[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    size_t n = t->at[1] == '?' || t->at[1] == '*' ? 0 : 1;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && n == 0; i++)
        if (strncmp(t->at, kinds[i], strlen(kinds[i])) == 0) n = strlen(kinds[i]);
    if (n == 0) return refuse(t, 3);
    put(t, t->at, n);
    t->at += n;
    return AQ_OK;
}

/* "{1,3}": to Oniguruma "{1,3}+" is not possessive, "{3}?" not reluctant, "{,3}" no text. */
static aq_status counted(translation *t) {
    const char *p = t->at + 1;
    const size_t n = strspn(p, "0123456789");
    p += n;
    const bool exact = *p != ',';
    if (!exact) p += 1 + strspn(p + 1, "0123456789");
    if (n == 0 || *p != '}' || p[1] == '+' || (exact && p[1] == '?'))
        return refuse(t, (int)(p - t->at) + 1);
    put(t, t->at, (size_t)(p + 1 - t->at));
    t->at = p + 1;
    return AQ_OK;
}

static aq_status next(translation *t) {
    if (*t->at == '\\') return escape(t);
    if (t->in_class) return in_class(t);
    switch (*t->at) {
    case '[':
        return open_class(t);
    case '(':
        return open_group(t);
    case '{':
        return counted(t);
    case '^':
        return refuse(t, 1);
    case '$':
        put_text(t, LINE_END);
        t->at++;
        return AQ_OK;
    default:
        put(t, t->at++, 1);
        return AQ_OK;
    }
}

aq_status aq_regex_translate(const char *regex, char **out) {
    const size_t n = strlen(regex);
    translation t = {regex, regex, NULL, false};
    aq_status status = AQ_OK;
    *out = n < SIZE_MAX / LONGEST ? malloc(n * LONGEST + 1) : NULL;
    if (!*out) return aq_fail(AQ_ERR_MEMORY, "no memory for an expression of %zu bytes", n);
    t.to = *out;
    while (*t.at && status == AQ_OK)
        status = next(&t);
    *t.to = '\0';
    if (status == AQ_OK) return AQ_OK;
    free(*out);
    *out = NULL;
    return status;
}

int aq_regex_is_literal(const char *regex) {
    return strpbrk(regex, "\\^$.|?*+()[]{}") == NULL;
}
