#include "src/base/kv_type.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int bits; /* of every column; 0: numbers, or bits that fall */
} types[AQ_KV_TYPES] = {
    [AQ_KV_F32] = {"f32", 0}, [AQ_KV_BF16] = {"bf16", 0}, [AQ_KV_Q8] = {"q8", 8},
    [AQ_KV_Q6] = {"q6", 6},   [AQ_KV_Q5] = {"q5", 5},     [AQ_KV_Q5M] = {"q5m", 0},
    [AQ_KV_Q4] = {"q4", 4},
};

const char *aq_kv_type_name(aq_kv_type type) {
    return types[type].name;
}

aq_status aq_kv_type_parse(const char *name, aq_kv_type *out) {
    for (int i = 0; i < AQ_KV_TYPES; i++) {
        if (strcmp(name, types[i].name) != 0) continue;
        *out = (aq_kv_type)i;
        return AQ_OK;
    }
    return aq_fail(AQ_ERR_USAGE,
                   "cache type \"%s\" is unknown; use f32, bf16, q8, q6, q5, q5m or q4", name);
}

aq_code_layout aq_kv_type_layout(aq_kv_type type, int n) {
    const int quarter = n / 4;
    if (type != AQ_KV_Q5M || quarter == 0) {
        const int bits = type == AQ_KV_Q5M ? 5 : types[type].bits;
        return (aq_code_layout){.n_segment = 1, .segments = {{n, bits}}};
    }
    return (aq_code_layout){.n_segment = 3,
                            .segments = {{quarter, 6}, {2 * quarter, 5}, {n - 3 * quarter, 4}}};
}

static bool bits_allowed(int bits) {
    return (bits >= 1 && bits <= 6) || bits == 8;
}

aq_status aq_code_layout_parse(const char *text, aq_code_layout *out) {
    aq_code_layout layout = {0};
    for (const char *at = text;;) {
        aq_code_segment segment;
        int read = 0;
        if (sscanf(at, "%5dx%2d%n", &segment.n, &segment.bits, &read) != 2 ||
            (at[read] != ',' && at[read] != '\0'))
            return aq_fail(AQ_ERR_USAGE,
                           "\"%s\" is no layout; write columns x bits, as in 16x4,32x2,16x1", text);
        if (segment.n < 1 || !bits_allowed(segment.bits) || layout.n_segment == AQ_CODE_SEGMENTS)
            return aq_fail(AQ_ERR_USAGE,
                           "layout \"%s\": at most %d segments, of 1 column at least, with 1 to 6 "
                           "or 8 bits",
                           text, AQ_CODE_SEGMENTS);
        layout.segments[layout.n_segment++] = segment;
        if (at[read] == '\0') break;
        at += read + 1;
    }
    *out = layout;
    return AQ_OK;
}

const char *aq_code_layout_text(const aq_code_layout *layout, char *out, size_t bytes) {
    size_t at = 0;
    out[0] = '\0';
    for (int i = 0; i < layout->n_segment && at < bytes; i++) {
        const int n = snprintf(out + at, bytes - at, "%s%dx%d", i > 0 ? "," : "",
                               layout->segments[i].n, layout->segments[i].bits);
        at += (size_t)n;
    }
    return out;
}

int aq_code_layout_columns(const aq_code_layout *layout) {
    int n = 0;
    for (int i = 0; i < layout->n_segment; i++)
        n += layout->segments[i].n;
    return n;
}

int aq_code_layout_bits(const aq_code_layout *layout) {
    int n = 0;
    for (int i = 0; i < layout->n_segment; i++)
        n += layout->segments[i].n * layout->segments[i].bits;
    return n;
}

int aq_code_layout_bits_at(const aq_code_layout *layout, int c) {
    for (int i = 0; i < layout->n_segment; i++) {
        if (c < layout->segments[i].n) return layout->segments[i].bits;
        c -= layout->segments[i].n;
    }
    return 0;
}

int64_t aq_code_run_bytes(int n, int bits) {
    int64_t bytes = 0;
    for (int width = 8; width > 0; width /= 2)
        if (bits & width) bytes += ((int64_t)n * width + 7) / 8;
    return bytes;
}

int64_t aq_code_row_bytes(const aq_code_layout *layout) {
    int64_t bytes = 0;
    for (int i = 0; i < layout->n_segment; i++)
        bytes += aq_code_run_bytes(layout->segments[i].n, layout->segments[i].bits);
    return bytes;
}
