#include "src/model/symbols.h"

#include "src/model/utf8.h"

/* A piece under way. Unknown characters wait, to be fused with the next ones, until a character
 * with a token of its own comes: behind tokens of bytes, as the tokenizers package has it. */
typedef struct {
    int32_t *ids;
    int64_t n;
    bool unknown_waits;
} symbols_out;

static void put_unknown(const aq_symbols *symbols, symbols_out *out) {
    if (out->unknown_waits) out->ids[out->n++] = symbols->unk;
    out->unknown_waits = false;
}

/* The tokens of all bytes of a character; false if one is lacking, or they are not to be used. */
static bool put_bytes(const aq_symbols *symbols, const char *text, size_t bytes, symbols_out *out) {
    if (!symbols->byte_fallback || symbols->spelling == AQ_SPELT_GPT2) return false;
    for (size_t i = 0; i < bytes; i++) {
        const int32_t id = symbols->vocabulary->byte_ids[(uint8_t)text[i]];
        if (id < 0) return false;
        out->ids[out->n + (int64_t)i] = id;
    }
    out->n += (int64_t)bytes;
    return true;
}

static void put_character(const aq_symbols *symbols, const char *text, size_t bytes,
                          symbols_out *out) {
    const int32_t id = symbols->spelling == AQ_SPELT_GPT2
                           ? symbols->vocabulary->byte_ids[(uint8_t)*text]
                           : aq_vocabulary_find(symbols->vocabulary, text, bytes);
    if (id >= 0) {
        put_unknown(symbols, out);
        out->ids[out->n++] = id;
        return;
    }
    if (put_bytes(symbols, text, bytes, out) || symbols->unk < 0) return;
    if (!symbols->fuse_unk) put_unknown(symbols, out);
    out->unknown_waits = true;
}

int64_t aq_symbols_of(const aq_symbols *symbols, const char *piece, size_t bytes, int32_t *ids) {
    symbols_out out = {ids, 0, false};
    for (size_t at = 0, length = 1; at < bytes; at += length) {
        const bool by_character = symbols->spelling != AQ_SPELT_GPT2;
        if (by_character && aq_utf8_next(piece + at, bytes - at, &length) != AQ_UTF8_WHOLE)
            length = 1;
        put_character(symbols, piece + at, length, &out);
    }
    put_unknown(symbols, &out);
    return out.n;
}
