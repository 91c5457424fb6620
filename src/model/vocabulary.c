#include "src/model/vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/utf8.h"

#define MAX_TEXT_BYTES 65536

/* A character of the alphabet beyond 0xff stands for one of these 68 bytes. */
static const struct {
    uint8_t first;
    uint8_t last;
} unprintable[] = {{0, 32}, {127, 160}, {173, 173}};

static bool is_unprintable(int byte) {
    for (int r = 0; r < 3; r++)
        if (byte >= unprintable[r].first && byte <= unprintable[r].last) return true;
    return false;
}

/* The byte that a character stands for, or -1. */
static int byte_of(uint32_t character) {
    if (character < 0x100) return is_unprintable((int)character) ? -1 : (int)character;
    uint32_t rest = character - 0x100;
    for (int r = 0; r < 3; r++) {
        const uint32_t n = (uint32_t)unprintable[r].last - unprintable[r].first + 1;
        if (rest < n) return unprintable[r].first + (int)rest;
        rest -= n;
    }
    return -1;
}

/* Writes the one or two bytes that spell `byte` in the alphabet; returns how many. */
static size_t spell_byte(int byte, char spelt[2]) {
    uint32_t character = (uint32_t)byte;
    if (is_unprintable(byte)) {
        character = 0x100;
        for (int b = 0; b < byte; b++)
            character += is_unprintable(b);
    }
    if (character < 0x80) {
        spelt[0] = (char)character;
        return 1;
    }
    spelt[0] = (char)(0xc0 | character >> 6);
    spelt[1] = (char)(0x80 | (character & 0x3f));
    return 2;
}

/* A text with each U+2581 made a blank. Returns the number of bytes written, at most `bytes`. */
static size_t decode_blanks(const char *text, size_t bytes, char *piece) {
    size_t n = 0;
    for (size_t at = 0; at < bytes;) {
        const bool is_blank = bytes - at >= 3 && memcmp(text + at, "\xe2\x96\x81", 3) == 0;
        piece[n++] = is_blank ? ' ' : text[at];
        at += is_blank ? 3 : 1;
    }
    return n;
}

/* Decodes a text from the alphabet; characters outside it stay as they are, and *whole tells
 * whether there were none. Returns the number of bytes written, at most `bytes`. */
static size_t decode(const char *text, size_t bytes, char *piece, bool *whole) {
    size_t n = 0, length;
    *whole = true;
    for (size_t at = 0; at < bytes; at += length) {
        int byte = -1;
        const bool well_formed = aq_utf8_next(text + at, bytes - at, &length) == AQ_UTF8_WHOLE;
        if (well_formed && length == 1) byte = byte_of((uint8_t)text[at]);
        if (well_formed && length == 2)
            byte = byte_of(((uint32_t)text[at] & 0x1f) << 6 | ((uint32_t)text[at + 1] & 0x3f));
        if (byte >= 0) {
            piece[n++] = (char)byte;
            continue;
        }
        *whole = false;
        memcpy(piece + n, text + at, length);
        n += length;
    }
    return n;
}

/* Tokens known by their text: some files give them another kind. Which of them end what a model has
 * to say is llama.cpp's list for the kinds of tokeniser read here. */
static const struct {
    const char *text;
    bool ends_turn;
} known[] = {
    {"<|im_end|>", true},
    {"<|eot_id|>", true},
    {"<|eom_id|>", true},
    {"<|endoftext|>", true},
    {"<|end_of_text|>", true},
    {"<|end|>", true},
    {"<|return|>", true},
    {"<|call|>", true},
    {"<|calls|>", true},
    {"<|flush|>", true},
    {"<end_of_turn>", true},
    {"<end_of_utterance>", true},
    {"<eos>", true},
    {"</s>", true},
    {"<EOT>", true},
    {"_<EOT>", true},
    {"[EOT]", true},
    {"[EOS]", true},
    {"[e~[", true},
    {"<\xef\xbd\x9c\145nd\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>", true}, /* DeepSeek */
    /* Filling in the middle: padding, and the end of a file or a repository. */
    {"<|fim_pad|>", true},
    {"<fim-pad>", true},
    {"<fim_pad>", true},
    {"<PAD>", true},
    {"[PAD]", true},
    {"<|fim_repo|>", true},
    {"<|repo_name|>", true},
    {"<fim-repo>", true},
    {"<REPO>", true},
    {"<reponame>", true},
    {"<|file_sep|>", true},
    {"<|fim_prefix|>", false},
    {"<fim-prefix>", false},
    {"<fim_prefix>", false},
    {"<|fim_suffix|>", false},
    {"<fim-suffix>", false},
    {"<fim_suffix>", false},
    {"<|fim_middle|>", false},
    {"<fim-middle>", false},
    {"<fim_middle>", false},
};

static bool is_known(const char *text, size_t bytes, bool *ends_turn) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strlen(known[i].text) != bytes || memcmp(known[i].text, text, bytes) != 0) continue;
        *ends_turn = known[i].ends_turn;
        return true;
    }
    return false;
}

/* The byte of a token of kind BYTE, spelt "<0x0A>"; -1 if it is spelt otherwise. */
static int spelt_byte(const char *text, size_t bytes) {
    static const char digits[] = "0123456789ABCDEF";
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    const char *high = memchr(digits, text[3], 16), *low = memchr(digits, text[4], 16);
    return high && low ? (int)(high - digits) << 4 | (int)(low - digits) : -1;
}

static bool is_plain(aq_token_kind kind) {
    return kind == AQ_TOKEN_UNKNOWN || kind == AQ_TOKEN_CONTROL || kind == AQ_TOKEN_USER;
}

/* Copies a token to `bytes` and decodes it behind; returns the bytes used. */
static size_t fill(aq_token *token, const aq_source_token *from, const aq_tokenizer_source *source,
                   char *bytes, bool *in_alphabet) {
    const size_t n = from->text.bytes;
    if (n > 0) memcpy(bytes, from->text.data, n);
    token->text = token->piece = bytes;
    token->text_bytes = token->piece_bytes = (uint32_t)n;
    token->kind = from->kind;
    if (is_known(bytes, n, &token->ends_turn) && (source->known_by_text || is_plain(token->kind)))
        token->kind = AQ_TOKEN_CONTROL;
    *in_alphabet = false;
    if (is_plain(token->kind)) return n;
    token->ends_turn = false;
    token->piece = bytes + n;
    const int byte = token->kind == AQ_TOKEN_BYTE ? spelt_byte(bytes, n) : -1;
    if (byte >= 0) {
        bytes[n] = (char)byte;
        token->piece_bytes = 1;
        return n + 1;
    }
    token->piece_bytes =
        (uint32_t)(source->spelling == AQ_SPELT_SPM ? decode_blanks(bytes, n, bytes + n)
                                                    : decode(bytes, n, bytes + n, in_alphabet));
    return n + token->piece_bytes;
}

static void find_bytes(aq_spelling spelling, aq_vocabulary *v) {
    for (int byte = 0; byte < 256; byte++) {
        char spelt[8] = {(char)byte};
        if (spelling == AQ_SPELT_GPT2) {
            v->byte_ids[byte] = aq_vocabulary_find(v, spelt, spell_byte(byte, spelt));
            continue;
        }
        const int32_t plain = aq_vocabulary_find(v, spelt, 1);
        snprintf(spelt, sizeof spelt, "<0x%02X>", (unsigned)byte);
        v->byte_ids[byte] = aq_vocabulary_find(v, spelt, 6);
        if (v->byte_ids[byte] < 0) v->byte_ids[byte] = plain;
    }
}

static aq_status copy_tokens(const aq_tokenizer_source *source, aq_vocabulary *v) {
    char *next = v->bytes;
    for (int32_t id = 0; id < v->n; id++) {
        aq_token *token = &v->tokens[id];
        bool in_alphabet;
        next += fill(token, &source->tokens[id], source, next, &in_alphabet);
        if (token->text_bytes == 0) continue; /* such a token only fills its place */
        if (!aq_name_index_add(&v->by_text, token->text, token->text_bytes, id))
            return aq_fail(AQ_ERR_FORMAT, "%s: %s: token %d, \"%.*s\", is given twice; %s",
                           source->path, source->tokens_part, (int)id,
                           (int)(token->text_bytes < 64 ? token->text_bytes : 64), token->text,
                           source->advice);
        if (in_alphabet) aq_name_index_add(&v->by_piece, token->piece, token->piece_bytes, id);
    }
    find_bytes(source->spelling, v);
    return AQ_OK;
}

static aq_status copy_scores(const aq_tokenizer_source *source, aq_vocabulary *v) {
    v->scores = malloc((size_t)v->n * sizeof *v->scores);
    if (!v->scores) return aq_fail(AQ_ERR_MEMORY, "no memory for %d scores", (int)v->n);
    for (int32_t id = 0; id < v->n; id++)
        v->scores[id] = source->tokens[id].score;
    return AQ_OK;
}

/* The memory that all texts and pieces may need: a piece is no longer than its text. */
static aq_status allocate(const aq_tokenizer_source *source, aq_vocabulary *v) {
    uint64_t bytes = 1;
    for (int32_t id = 0; id < v->n; id++) {
        const size_t text_bytes = source->tokens[id].text.bytes;
        if (text_bytes > MAX_TEXT_BYTES)
            return aq_fail(AQ_ERR_FORMAT, "%s: %s: token %d has %zu bytes, at most %d make sense",
                           source->path, source->tokens_part, (int)id, text_bytes, MAX_TEXT_BYTES);
        bytes += 2 * (uint64_t)text_bytes;
        if (text_bytes > v->max_text_bytes) v->max_text_bytes = (uint32_t)text_bytes;
    }
    v->tokens = calloc((size_t)v->n, sizeof *v->tokens);
    v->bytes = bytes <= SIZE_MAX ? malloc((size_t)bytes) : NULL;
    if (!v->tokens || !v->bytes)
        return aq_fail(AQ_ERR_MEMORY, "no memory for a vocabulary of %d tokens", (int)v->n);
    AQ_TRY(aq_name_index_open((uint64_t)v->n, &v->by_text));
    return aq_name_index_open((uint64_t)v->n, &v->by_piece);
}

aq_status aq_vocabulary_open(const aq_tokenizer_source *source, aq_vocabulary *out) {
    *out = (aq_vocabulary){0};
    if (source->n < 1)
        return aq_fail(AQ_ERR_FORMAT, "%s has no vocabulary: %s is empty; %s", source->path,
                       source->tokens_part, source->advice);
    out->n = source->n;
    aq_status status = allocate(source, out);
    if (status == AQ_OK) status = copy_tokens(source, out);
    if (status == AQ_OK && source->merging == AQ_MERGE_SCORED) status = copy_scores(source, out);
    if (status != AQ_OK) aq_vocabulary_close(out);
    return status;
}

void aq_vocabulary_close(aq_vocabulary *vocabulary) {
    free(vocabulary->tokens);
    free(vocabulary->scores);
    free(vocabulary->bytes);
    aq_name_index_close(&vocabulary->by_text);
    aq_name_index_close(&vocabulary->by_piece);
    *vocabulary = (aq_vocabulary){0};
}

int32_t aq_vocabulary_find(const aq_vocabulary *vocabulary, const char *text, size_t bytes) {
    return (int32_t)aq_name_index_find(&vocabulary->by_text, text, bytes);
}

int32_t aq_vocabulary_find_piece(const aq_vocabulary *vocabulary, const char *piece, size_t bytes) {
    return (int32_t)aq_name_index_find(&vocabulary->by_piece, piece, bytes);
}
