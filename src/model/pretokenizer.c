#define PCRE2_CODE_UNIT_WIDTH 8
#include "src/model/pretokenizer.h"

#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/utf8.h"

#define MAX_STAGE 4

/* Stands for a byte of no character: a control character, so in none of the classes used here. */
#define BAD_BYTE '\x01'

/* Letters, numbers and punctuation that came with Unicode 15.0 and 15.1, after the 14.0 of PCRE2
 * 10.42. An older character of their class stands for them, so that the cuts are the same whichever
 * PCRE2 is there. All are 4 bytes long, and so are those that stand for them. */
#define LETTER_BEFORE_15      "\xf0\xa0\x80\x80" /* U+20000 */
#define NUMBER_BEFORE_15      "\xf0\x9d\x9f\x8e" /* U+1D7CE */
#define PUNCTUATION_BEFORE_15 "\xf0\x91\x81\x87" /* U+11047 */
static const struct {
    uint32_t first;
    uint32_t last;
    const char *older;
} since_15[] = {
    {0x1123f, 0x11240, LETTER_BEFORE_15}, {0x11b00, 0x11b09, PUNCTUATION_BEFORE_15},
    {0x11f02, 0x11f02, LETTER_BEFORE_15}, {0x11f04, 0x11f10, LETTER_BEFORE_15},
    {0x11f12, 0x11f33, LETTER_BEFORE_15}, {0x11f43, 0x11f4f, PUNCTUATION_BEFORE_15},
    {0x11f50, 0x11f59, NUMBER_BEFORE_15}, {0x1342f, 0x1342f, LETTER_BEFORE_15},
    {0x13441, 0x13446, LETTER_BEFORE_15}, {0x1b132, 0x1b132, LETTER_BEFORE_15},
    {0x1b155, 0x1b155, LETTER_BEFORE_15}, {0x1d2c0, 0x1d2d3, NUMBER_BEFORE_15},
    {0x1df25, 0x1df2a, LETTER_BEFORE_15}, {0x1e030, 0x1e06d, LETTER_BEFORE_15},
    {0x1e4d0, 0x1e4eb, LETTER_BEFORE_15}, {0x1e4f0, 0x1e4f9, NUMBER_BEFORE_15},
    {0x2b739, 0x2b739, LETTER_BEFORE_15}, {0x2ebf0, 0x2ee5d, LETTER_BEFORE_15},
    {0x31350, 0x323af, LETTER_BEFORE_15},
};

/* The common parts of the expressions: spaces are Unicode's White_Space (PCRE2's \s has U+180E too,
 * which is none since Unicode 6.3), and contractions are English ones. */
#define SPACE                                                                                      \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define SPACE_RUN            "[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"
#define CONTRACTION          "'s|'t|'re|'ve|'m|'ll|'d"
#define CONTRACTION_ANY_CASE "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"

#define GPT2 CONTRACTION "| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+|" SPACE_RUN
#define LLAMA3(number)                                                                             \
    CONTRACTION_ANY_CASE "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" number "| ?[^" SPACE                    \
                         "\\p{L}\\p{N}]+[\\r\\n]*|[" SPACE "]*[\\r\\n]+|" SPACE_RUN
/* Words end where a small letter is followed by a capital one; letters outside ASCII are both. */
#define TEKKEN                                                                                     \
    "[^\\r\\n\\p{L}\\p{N}]?[^\\P{L}a-z]*[^\\P{L}A-Z]+|[^\\r\\n\\p{L}\\p{N}]?[^\\P{L}a-z]+"         \
    "[^\\P{L}A-Z]*|\\p{N}| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n/]*|[" SPACE "]*[\\r\\n]+|" SPACE_RUN

typedef const char *const cascade[MAX_STAGE + 1];

static cascade gpt2_regexes = {GPT2, NULL};
static cascade digits_regexes = {"\\p{N}", GPT2, NULL};
static cascade llama3_regexes = {LLAMA3("\\p{N}{1,3}"), NULL};
static cascade qwen2_regexes = {LLAMA3("\\p{N}"), NULL};
static cascade tekken_regexes = {TEKKEN, NULL};
static cascade default_regexes = {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]", NULL};

typedef struct {
    const char *name;
    aq_pretokenizer_rules rules;
} entry;

static const entry entries[] = {
    {"gpt-2", {gpt2_regexes, false, false}},
    {"olmo", {gpt2_regexes, false, false}},
    {"mpt", {gpt2_regexes, false, false}},
    {"jais", {gpt2_regexes, false, false}},
    {"smollm", {digits_regexes, false, false}},
    {"starcoder", {digits_regexes, false, false}},
    {"refact", {digits_regexes, false, false}},
    {"command-r", {digits_regexes, false, false}},
    {"llama-bpe", {llama3_regexes, true, true}},
    {"llama3", {llama3_regexes, true, true}},
    {"llama-v3", {llama3_regexes, true, true}},
    {"falcon3", {llama3_regexes, true, true}},
    {"dbrx", {llama3_regexes, false, false}},
    {"smaug-bpe", {llama3_regexes, false, false}},
    {"qwen2", {qwen2_regexes, false, false}},
    {"deepseek-r1-qwen", {qwen2_regexes, false, false}},
    {"tekken", {tekken_regexes, true, true}},
    {"default", {default_regexes, false, false}},
};

const aq_pretokenizer_rules *aq_pretokenizer_find(const char *name, size_t name_bytes) {
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        const char *known = entries[i].name;
        if (strlen(known) == name_bytes && memcmp(known, name, name_bytes) == 0)
            return &entries[i].rules;
    }
    return NULL;
}

struct aq_pretokenizer {
    int n_stage;
    pcre2_code *stages[MAX_STAGE];
};

static aq_status compile(const char *regex, pcre2_code **out) {
    int code;
    PCRE2_SIZE offset;
    PCRE2_UCHAR text[128];
    *out = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code,
                         &offset, NULL);
    if (*out) {
        pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* if refused, matching is only slower */
        return AQ_OK;
    }
    pcre2_get_error_message(code, text, sizeof text);
    return aq_fail(code == PCRE2_ERROR_NOMEMORY ? AQ_ERR_MEMORY : AQ_ERR_UNSUPPORTED,
                   "the PCRE2 library refuses a pre-tokeniser's expression at %zu: %s",
                   (size_t)offset, (const char *)text);
}

aq_status aq_pretokenizer_open(const aq_pretokenizer_rules *rules, aq_pretokenizer **out) {
    aq_status status = AQ_OK;
    aq_pretokenizer *pre = *out = calloc(1, sizeof *pre);
    if (!pre) return aq_fail(AQ_ERR_MEMORY, "no memory for a pre-tokeniser");
    for (int i = 0; i < MAX_STAGE && status == AQ_OK && rules->regexes[i]; i++) {
        status = compile(rules->regexes[i], &pre->stages[i]);
        pre->n_stage = i + 1;
    }
    if (status == AQ_OK) return AQ_OK;
    aq_pretokenizer_close(pre);
    *out = NULL;
    return status;
}

void aq_pretokenizer_close(aq_pretokenizer *pre) {
    if (!pre) return;
    for (int i = 0; i < pre->n_stage; i++)
        pcre2_code_free(pre->stages[i]);
    free(pre);
}

/* One call of split. The expressions see `shown`, which is the text but for bad bytes and
 * characters that PCRE2 may not know. */
typedef struct {
    const aq_pretokenizer *pre;
    const char *text;
    const char *shown;
    pcre2_match_data *found;
    pcre2_match_context *limits;
    aq_piece_sink sink;
    void *arg;
} splitting;

/* The first match in shown[begin .. end) from `at` on; *match_begin = end if there is none. */
static aq_status find(const splitting *s, int stage, size_t begin, size_t end, size_t at,
                      size_t *match_begin, size_t *match_end) {
    const pcre2_code *code = s->pre->stages[stage];
    PCRE2_SPTR subject = (PCRE2_SPTR)s->shown + begin;
    int n = pcre2_match(code, subject, end - begin, at - begin, PCRE2_NO_UTF_CHECK, s->found,
                        s->limits);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter takes its memory from the heap */
        n = pcre2_match(code, subject, end - begin, at - begin, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        s->found, s->limits);
    *match_begin = *match_end = end;
    if (n == PCRE2_ERROR_NOMATCH) return AQ_OK;
    if (n < 0)
        return aq_fail(AQ_ERR_MEMORY, "cutting a text of %zu bytes failed, PCRE2 error %d",
                       end - begin, n);
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(s->found);
    *match_begin = begin + span[0];
    *match_end = begin + span[1];
    return AQ_OK;
}

/* Cuts text[begin .. end) by the expressions from `stage` on; as deep as the cascade is long. */
static aq_status cut(const splitting *s, int stage, size_t begin, size_t end) {
    if (begin == end) return AQ_OK;
    if (stage == s->pre->n_stage || stage == MAX_STAGE)
        return s->sink(s->arg, s->text + begin, end - begin);
    for (size_t at = begin; at < end;) {
        size_t match_begin, match_end;
        AQ_TRY(find(s, stage, begin, end, at, &match_begin, &match_end));
        AQ_TRY(cut(s, stage + 1, at, match_begin));
        AQ_TRY(cut(s, stage + 1, match_begin, match_end));
        at = match_end;
    }
    return AQ_OK;
}

/* What the expressions shall see in place of the well-formed character of 4 bytes at `text`, or
 * NULL for itself. */
static const char *older_for(const char *text) {
    const uint8_t *byte = (const uint8_t *)text;
    const uint32_t character =
        (byte[0] & 7u) << 18 | (byte[1] & 0x3fu) << 12 | (byte[2] & 0x3fu) << 6 | (byte[3] & 0x3fu);
    for (size_t i = 0; i < sizeof since_15 / sizeof *since_15; i++)
        if (character >= since_15[i].first && character <= since_15[i].last)
            return since_15[i].older;
    return NULL;
}

/* A copy of the text as the expressions shall see it, byte for byte as long; NULL in *copy if that
 * is the text itself. */
static aq_status make_shown(const char *text, size_t bytes, char **copy) {
    size_t length;
    *copy = NULL;
    for (size_t at = 0; at < bytes; at += length) {
        const bool good = aq_utf8_next(text + at, bytes - at, &length) == AQ_UTF8_WHOLE;
        const char *older = good && length == 4 ? older_for(text + at) : NULL;
        if (good && !older) continue;
        if (!*copy) {
            *copy = malloc(bytes);
            if (!*copy)
                return aq_fail(AQ_ERR_MEMORY, "no memory to cut a text of %zu bytes", bytes);
            memcpy(*copy, text, bytes);
        }
        if (older)
            memcpy(*copy + at, older, length);
        else
            memset(*copy + at, BAD_BYTE, length);
    }
    return AQ_OK;
}

aq_status aq_pretokenizer_split(const aq_pretokenizer *pre, const char *text, size_t bytes,
                                aq_piece_sink sink, void *arg) {
    char *copy;
    AQ_TRY(make_shown(text, bytes, &copy));
    splitting s = {pre, text, copy ? copy : text, NULL, NULL, sink, arg};
    aq_status status = AQ_OK;
    s.found = pcre2_match_data_create(1, NULL);
    s.limits = pcre2_match_context_create(NULL);
    if (s.found && s.limits) {
        /* The expressions are ours and backtrack no further than a piece is long: long pieces are
         * no reason to stop. */
        pcre2_set_match_limit(s.limits, UINT32_MAX);
        pcre2_set_heap_limit(s.limits, UINT32_MAX);
        status = cut(&s, 0, 0, bytes);
    } else {
        status = aq_fail(AQ_ERR_MEMORY, "no memory to cut a text of %zu bytes", bytes);
    }
    pcre2_match_data_free(s.found);
    pcre2_match_context_free(s.limits);
    free(copy);
    return status;
}
