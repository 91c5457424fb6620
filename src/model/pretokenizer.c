#define PCRE2_CODE_UNIT_WIDTH 8
#include "src/model/pretokenizer.h"

#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/regex_syntax.h"
#include "src/model/utf8.h"

#define MAX_CASCADE 4

/* Steps of matching that a file's expression may take, and KiB: what is sensible takes far fewer.
 */
#define MATCH_LIMIT 10000000
#define HEAP_LIMIT  (1 << 20)

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

/* The common parts of the expressions: spaces are Unicode's White_Space, contractions English. */
#define SPACE                AQ_REGEX_SPACE
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

typedef const char *const cascade[MAX_CASCADE + 1];

const char aq_pattern_gpt2[] = GPT2;
const char aq_pattern_digit[] = "\\p{N}";
const char aq_pattern_punctuation[] = "[\\p{P}$+<=>^`|~]";
const char aq_pattern_space[] = "[" SPACE "]";

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

/* One stage, compiled. */
typedef struct {
    pcre2_code *code;
    aq_split_behavior behavior;
    bool invert;
} stage;

struct aq_pretokenizer {
    int n_stage;
    stage stages[AQ_MAX_STAGE];
    bool trusted; /* all expressions are ours */
};

/* ---- opening ---- */

static aq_status compile(const char *regex, uint32_t options, pcre2_code **out) {
    int code;
    PCRE2_SIZE offset;
    PCRE2_UCHAR text[128];
    uint32_t may_be_empty = 0;
    *out = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF | options, &code,
                         &offset, NULL);
    if (!*out) {
        pcre2_get_error_message(code, text, sizeof text);
        return aq_fail(code == PCRE2_ERROR_NOMEMORY ? AQ_ERR_MEMORY : AQ_ERR_UNSUPPORTED,
                       "the PCRE2 library refuses a pre-tokeniser's expression at %zu: %s",
                       (size_t)offset, (const char *)text);
    }
    pcre2_pattern_info(*out, PCRE2_INFO_MATCHEMPTY, &may_be_empty);
    if (may_be_empty)
        return aq_fail(AQ_ERR_UNSUPPORTED, "an expression matches nothing at all: \"%.64s\"",
                       regex);
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* if refused, matching is only slower */
    return AQ_OK;
}

static aq_status compile_stage(const aq_pretokenizer_stage *given, stage *out) {
    char *translated = NULL;
    *out = (stage){NULL, given->behavior, given->invert};
    if (given->kind == AQ_PATTERN_LITERAL)
        return compile(given->pattern, PCRE2_LITERAL, &out->code);
    if (given->kind == AQ_PATTERN_ONIGURUMA)
        AQ_TRY(aq_regex_translate(given->pattern, &translated));
    const aq_status status =
        compile(translated ? translated : given->pattern, PCRE2_UCP, &out->code);
    free(translated);
    return status;
}

aq_status aq_pretokenizer_open_stages(const aq_pretokenizer_stage *stages, int n,
                                      aq_pretokenizer **out) {
    aq_status status = AQ_OK;
    aq_pretokenizer *pre = *out = calloc(1, sizeof *pre);
    if (!pre) return aq_fail(AQ_ERR_MEMORY, "no memory for a pre-tokeniser");
    pre->trusted = true;
    for (int i = 0; i < n && status == AQ_OK; i++) {
        status = compile_stage(&stages[i], &pre->stages[i]);
        pre->n_stage = i + 1;
        pre->trusted = pre->trusted && stages[i].kind == AQ_PATTERN_PCRE2;
    }
    if (status == AQ_OK) return AQ_OK;
    aq_pretokenizer_close(pre);
    *out = NULL;
    return status;
}

int aq_pretokenizer_stages(const aq_pretokenizer_rules *rules, aq_pretokenizer_stage *stages) {
    int n = 0;
    for (; n < MAX_CASCADE && rules->regexes[n]; n++)
        stages[n] =
            (aq_pretokenizer_stage){rules->regexes[n], AQ_PATTERN_PCRE2, AQ_SPLIT_ISOLATED, false};
    return n;
}

aq_status aq_pretokenizer_open(const aq_pretokenizer_rules *rules, aq_pretokenizer **out) {
    aq_pretokenizer_stage stages[AQ_MAX_STAGE];
    return aq_pretokenizer_open_stages(stages, aq_pretokenizer_stages(rules, stages), out);
}

void aq_pretokenizer_close(aq_pretokenizer *pre) {
    if (!pre) return;
    for (int i = 0; i < pre->n_stage; i++)
        pcre2_code_free(pre->stages[i].code);
    free(pre);
}

/* ---- splitting ---- */

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

static aq_status fail_match(int error, size_t bytes) {
    if (error == PCRE2_ERROR_MATCHLIMIT || error == PCRE2_ERROR_HEAPLIMIT)
        return aq_fail(AQ_ERR_LIMIT,
                       "cutting a text of %zu bytes tries too many ways: the pre-tokeniser's "
                       "expression is unfit",
                       bytes);
    return aq_fail(AQ_ERR_MEMORY, "cutting a text of %zu bytes failed, PCRE2 error %d", bytes,
                   error);
}

/* A part of a text, and whether it is a match. */
typedef struct {
    size_t begin;
    size_t end;
    bool is_match;
} span;

/* The first match in shown[begin .. end) from `at` on; empty at `end` if there is none. */
static aq_status find(const splitting *s, int n_stage, size_t begin, size_t end, size_t at,
                      span *out) {
    const pcre2_code *code = s->pre->stages[n_stage].code;
    PCRE2_SPTR subject = (PCRE2_SPTR)s->shown + begin;
    int n = pcre2_match(code, subject, end - begin, at - begin, PCRE2_NO_UTF_CHECK, s->found,
                        s->limits);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter takes its memory from the heap */
        n = pcre2_match(code, subject, end - begin, at - begin, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        s->found, s->limits);
    *out = (span){end, end, true};
    if (n == PCRE2_ERROR_NOMATCH) return AQ_OK;
    if (n < 0) return fail_match(n, end - begin);
    const PCRE2_SIZE *place = pcre2_get_ovector_pointer(s->found);
    out->begin = begin + place[0];
    out->end = begin + place[1];
    return out->end > at ? AQ_OK : fail_match(PCRE2_ERROR_MATCHLIMIT, end - begin);
}

/* Parts of a text on their way to the next stage: some wait for what follows them. */
typedef struct {
    const splitting *s;
    int n_stage;
    span waiting; /* empty: none */
    bool after_match;
} joining;

static aq_status cut(const splitting *s, int n_stage, size_t begin, size_t end);

static aq_status pass(const joining *j, span part) {
    return cut(j->s, j->n_stage + 1, part.begin, part.end);
}

/* Takes the next part, which is not empty. */
static aq_status take(joining *j, span part) {
    const stage *stage = &j->s->pre->stages[j->n_stage];
    const bool waits = j->waiting.end > j->waiting.begin, after_match = j->after_match;
    bool joins = false;
    part.is_match = part.is_match != stage->invert;
    j->after_match = part.is_match;
    switch (stage->behavior) {
    case AQ_SPLIT_ISOLATED:
        return pass(j, part);
    case AQ_SPLIT_REMOVED:
        return part.is_match ? AQ_OK : pass(j, part);
    case AQ_SPLIT_MERGED_WITH_PREVIOUS:
        joins = part.is_match && !after_match;
        break;
    case AQ_SPLIT_MERGED_WITH_NEXT:
        joins = !part.is_match && after_match;
        break;
    case AQ_SPLIT_CONTIGUOUS:
        joins = part.is_match == after_match;
        break;
    }
    if (waits && joins) {
        j->waiting.end = part.end;
        return AQ_OK;
    }
    const span ready = j->waiting;
    j->waiting = part;
    return waits ? pass(j, ready) : AQ_OK;
}

/* Cuts text[begin .. end) by the stages from n_stage on; as deep as there are stages. */
static aq_status cut(const splitting *s, int n_stage, size_t begin, size_t end) {
    if (begin == end) return AQ_OK;
    if (n_stage == s->pre->n_stage) return s->sink(s->arg, s->text + begin, end - begin);
    joining j = {s, n_stage, {0, 0, false}, false};
    for (size_t at = begin; at < end;) {
        span found;
        AQ_TRY(find(s, n_stage, begin, end, at, &found));
        if (found.begin > at) AQ_TRY(take(&j, (span){at, found.begin, false}));
        if (found.end > found.begin) AQ_TRY(take(&j, found));
        at = found.end;
    }
    return j.waiting.end > j.waiting.begin ? pass(&j, j.waiting) : AQ_OK;
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
        /* Our expressions backtrack no further than a piece is long: long pieces are no reason to
         * stop. A file's may be made to go on for ever. */
        pcre2_set_match_limit(s.limits, pre->trusted ? UINT32_MAX : MATCH_LIMIT);
        pcre2_set_heap_limit(s.limits, pre->trusted ? UINT32_MAX : HEAP_LIMIT);
        status = cut(&s, 0, 0, bytes);
    } else {
        status = aq_fail(AQ_ERR_MEMORY, "no memory to cut a text of %zu bytes", bytes);
    }
    pcre2_match_data_free(s.found);
    pcre2_match_context_free(s.limits);
    free(copy);
    return status;
}
