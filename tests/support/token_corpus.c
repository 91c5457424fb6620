#include "tests/support/token_corpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "tests/support/suite.h"

/* The ids of a text as a line; the caller frees it. NULL on failure, which is reported. */
char *aq_test_line_of(const aq_tokenizer *tok, const char *text, size_t bytes, bool parse_special) {
    aq_token_list list = {NULL, 0, 0};
    char *line = NULL;
    if (aq_test_ok(aq_tokenizer_encode(tok, text, bytes, parse_special, &list)))
        line = calloc((size_t)list.n + 1, 12);
    size_t n = 0;
    for (int64_t i = 0; line && i < list.n; i++)
        n += (size_t)sprintf(line + n, "%s%d", i > 0 ? " " : "", (int)list.ids[i]);
    free(list.ids);
    return line;
}

bool aq_test_encodes_to(const aq_tokenizer *tok, const char *text, size_t bytes, bool parse_special,
                        const char *expected) {
    char *line = aq_test_line_of(tok, text, bytes, parse_special);
    const bool good = line && strcmp(line, expected) == 0;
    if (line && !good) printf("  got %s, expected %s\n", line, expected);
    free(line);
    return good;
}

/* Whether the tokens of a text, put together, are text without the bytes marked in `lacking`. */
bool aq_test_comes_back(const aq_tokenizer *tok, const char *text, size_t bytes, bool parse_special,
                        const bool lacking[256]) {
    aq_token_list list = {NULL, 0, 0};
    size_t at = 0;
    bool good = aq_test_ok(aq_tokenizer_encode(tok, text, bytes, parse_special, &list));
    for (int64_t i = 0; good && i < list.n; i++) {
        size_t n;
        const char *piece = aq_tokenizer_piece(tok, list.ids[i], true, &n);
        for (size_t j = 0; good && j < n; j++, at++) {
            while (at < bytes && lacking && lacking[(uint8_t)text[at]])
                at++;
            good = at < bytes && text[at] == piece[j];
        }
    }
    while (at < bytes && lacking && lacking[(uint8_t)text[at]])
        at++;
    free(list.ids);
    return good && at == bytes;
}

/* Replaces the escapes of a corpus line in place; returns the bytes that are left. */
static size_t unescape(char *line) {
    size_t n = 0;
    for (const char *from = line; *from; n++) {
        unsigned byte;
        if (*from != '\\') {
            line[n] = *from++;
        } else if (from[1] == 'x' && sscanf(from + 2, "%2x", &byte) == 1) {
            line[n] = (char)byte;
            from += 4;
        } else {
            const char *simple = strchr("nrt\\", from[1]);
            CU_ASSERT_TRUE(from[1] != '\0' && simple);
            line[n] = from[1] == 'n' ? '\n' : from[1] == 'r' ? '\r' : from[1] == 't' ? '\t' : '\\';
            from += 2;
        }
    }
    return n;
}

/* Cuts the next line off; NULL at the end. */
static char *next_line(char **rest) {
    char *line = *rest, *end = line ? strchr(line, '\n') : NULL;
    if (!end) return NULL;
    *end = '\0';
    *rest = end + 1;
    return line;
}

/* A file of tests/data, or NULL, which is reported. The caller frees it. */
static char *read_data(const char *name) {
    char path[512], *text = NULL;
    size_t bytes;
    snprintf(path, sizeof path, "%s/%s", aq_test_data_dir(), name);
    aq_test_ok(aq_file_read(path, &text, &bytes));
    return text;
}

/* Checks one text, and its round trip unless `lacking` is NULL: `ids` is "IDS", or "IDS | IDS
 * without special tokens", or "-" for unknown. */
static bool agrees(const aq_tokenizer *tok, const char *text, size_t bytes, char *ids,
                   const bool *lacking) {
    /* SentencePiece spells blanks as U+2581, which therefore comes back as a blank. */
    const bool may_change = aq_tokenizer_find(tok, "<0x0A>") >= 0 && strstr(text, "\u2581");
    bool good = !lacking || may_change ||
                (aq_test_comes_back(tok, text, bytes, true, lacking) &&
                 aq_test_comes_back(tok, text, bytes, false, lacking));
    if (strcmp(ids, "-") == 0) return good;
    char *bar = strstr(ids, " | ");
    if (bar) *bar = '\0';
    good = aq_test_encodes_to(tok, text, bytes, true, ids) && good;
    return aq_test_encodes_to(tok, text, bytes, false, bar ? bar + 3 : ids) && good;
}

void aq_test_corpus(const aq_tokenizer *tok, const char *ids_name, bool round_trip) {
    char *corpus = read_data("tokenizer/corpus.txt"), *ids = read_data(ids_name);
    char *texts = corpus, *expected = ids, *line, *line_ids;
    bool lacking[256];
    int n = 0, n_wrong = 0;
    for (int i = 0; i < 256; i++) {
        const char byte = (char)i;
        aq_token_list list = {NULL, 0, 0};
        aq_test_ok(aq_tokenizer_encode(tok, &byte, 1, true, &list));
        lacking[i] = list.n == 0;
        free(list.ids);
    }
    while ((line = next_line(&texts)) && (line_ids = next_line(&expected))) {
        const size_t bytes = unescape(line);
        const bool good = agrees(tok, line, bytes, line_ids, round_trip ? lacking : NULL);
        if (!good) printf("  %s: line %d of the corpus\n", ids_name, n + 1);
        n++;
        n_wrong += !good;
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
    CU_ASSERT_TRUE(n >= 80 && !next_line(&texts) && !next_line(&expected));
    free(corpus);
    free(ids);
}
