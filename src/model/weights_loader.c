#include "src/model/weights_loader.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The shape a tensor must have, outermost first. */
typedef struct {
    int n_dim;
    int64_t dim[3];
} shape;

/* The alternative number `i` of a role's name, whole: "model.layers.3.mlp.gate.weight". False past
 * the last. */
static bool name_of(const aq_loader *ld, aq_role role, int i, const char *suffix,
                    char name[AQ_NAME_BYTES]) {
    const char *stem = ld->names->roles[role];
    char layer[32] = "", format[48];
    for (; i > 0 && stem; i--)
        stem = strchr(stem, '|') ? strchr(stem, '|') + 1 : NULL;
    if (!stem) return false;
    const char *number = strstr(ld->names->layer, "%d");
    if (role >= AQ_ROLE_ATTN_NORM)
        snprintf(layer, sizeof layer, "%.*s%d%s", (int)(number - ld->names->layer),
                 ld->names->layer, ld->layer, number + 2);
    snprintf(format, sizeof format, "%.*s", (int)strcspn(stem, "|"), stem);
    number = strstr(format, "%d");
    const char *prefix = role == AQ_ROLE_OUTPUT ? "" : ld->prefix;
    if (number)
        snprintf(name, AQ_NAME_BYTES, "%s%s%.*s%d%s%s", prefix, layer, (int)(number - format),
                 format, ld->expert, number + 2, suffix);
    else
        snprintf(name, AQ_NAME_BYTES, "%s%s%s%s", prefix, layer, format, suffix);
    return true;
}

/* The tensor of a role; the name it has, or should have, goes to `name`. Parameters that are no
 * module of their own have no ".weight" behind them. */
static const aq_tensor *find(const aq_loader *ld, aq_role role, const char *suffix,
                             char name[AQ_NAME_BYTES]) {
    for (int i = 0; name_of(ld, role, i, suffix, name); i++) {
        const aq_tensor *t = aq_model_file_tensor_find(ld->file, name);
        if (t) return t;
        if (strcmp(suffix, ".weight") != 0) continue;
        name_of(ld, role, i, "", name);
        if ((t = aq_model_file_tensor_find(ld->file, name))) return t;
    }
    name_of(ld, role, 0, suffix, name);
    return NULL;
}

/* The same, and the tensor counts as asked for. */
static const aq_tensor *take(aq_loader *ld, aq_role role, const char *suffix,
                             char name[AQ_NAME_BYTES]) {
    const aq_tensor *t = find(ld, role, suffix, name);
    if (t) ld->known[t - aq_model_file_tensor_at(ld->file, 0)] = true;
    return t;
}

bool aq_load_named(const aq_loader *ld, aq_role role) {
    return ld->names->roles[role] != NULL;
}

bool aq_load_there(const aq_loader *ld, aq_role role) {
    char name[AQ_NAME_BYTES];
    return aq_load_named(ld, role) && find(ld, role, ".weight", name);
}

/* "[3, 4]" */
static const char *show_shape(int n_dim, const int64_t *dim, char text[96]) {
    size_t used = (size_t)snprintf(text, 96, "[");
    for (int i = 0; i < n_dim && used < 96; i++)
        used += (size_t)snprintf(text + used, 96 - used, "%s%lld", i > 0 ? ", " : "",
                                 (long long)dim[i]);
    if (used < 96) snprintf(text + used, 96 - used, "]");
    return text;
}

/* Dimensions of one element in front make no difference. */
static bool has_shape(const aq_tensor *t, const shape *want) {
    for (int back = 1; back <= AQ_TENSOR_DIMS; back++) {
        const int64_t has = back <= t->n_dim ? t->shape[t->n_dim - back] : 1;
        const int64_t should = back <= want->n_dim ? want->dim[want->n_dim - back] : 1;
        if (has != should) return false;
    }
    return true;
}

static aq_status check(const aq_loader *ld, const char *name, const aq_tensor *t,
                       const shape *want) {
    char has[96], should[96];
    show_shape(want->n_dim, want->dim, should);
    if (!t)
        return aq_fail(AQ_ERR_FORMAT, "%s: tensor %s is missing, expected with shape %s",
                       aq_model_file_path(ld->file), name, should);
    if (!t->readable)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: tensor %s is %s, expected BF16, F16 or F32",
                       t->path, name, t->type);
    if (has_shape(t, want)) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT, "%s: tensor %s has shape %s, expected %s", t->path, name,
                   show_shape(t->n_dim, t->shape, has), should);
}

/* Bytes of a single element, or 0 for types that come in blocks. */
static size_t element_bytes(aq_dtype dtype) {
    const aq_dtype_info *info = aq_dtype_find((uint32_t)dtype);
    return info->block_elems == 1 ? (size_t)info->block_bytes : 0;
}

static bool is_aligned(const aq_tensor *t) {
    const size_t bytes = element_bytes(t->dtype);
    return bytes == 0 || (uintptr_t)t->data % bytes == 0;
}

static float element(const aq_tensor *t, int64_t i) {
    const uint8_t *at = (const uint8_t *)t->data + (size_t)i * element_bytes(t->dtype);
    uint16_t half;
    float value;
    if (t->dtype == AQ_F32) {
        memcpy(&value, at, sizeof value);
        return value;
    }
    memcpy(&half, at, sizeof half);
    return t->dtype == AQ_F16 ? aq_f16_to_f32(half) : aq_bf16_to_f32(half);
}

static aq_status check_numbers(const char *name, const aq_tensor *t, int64_t n, float low) {
    if (element_bytes(t->dtype) == 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: tensor %s is %s, expected F32, F16 or BF16",
                       t->path, name, t->type);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(element(t, i)) || element(t, i) <= low)
            return aq_fail(
                AQ_ERR_FORMAT, "%s: tensor %s: element %lld is %g, expected a finite number%s",
                t->path, name, (long long)i, (double)element(t, i), low == 0.0f ? " above 0" : "");
    return AQ_OK;
}

aq_status aq_load_vector(aq_loader *ld, aq_role role, const char *suffix, int64_t n, float low,
                         float shift, const float **out) {
    char name[AQ_NAME_BYTES];
    const aq_tensor *t = take(ld, role, suffix, name);
    AQ_TRY(check(ld, name, t, &(shape){1, {n}}));
    AQ_TRY(check_numbers(name, t, n, low));
    *out = t->data;
    if (t->dtype == AQ_F32 && is_aligned(t) && shift == 0.0f) return AQ_OK;
    float *values = aq_arena_carve(&ld->arena, (size_t)n, sizeof *values);
    for (int64_t i = 0; values && i < n; i++)
        values[i] = element(t, i) + shift;
    if (values) *out = values;
    return AQ_OK;
}

/* to[n_out, n_in] = from[n_in, n_out], in squares that stay in the processor's cache. */
static void transpose(const uint8_t *from, size_t bytes, int64_t n_out, int64_t n_in, uint8_t *to) {
    const int64_t side = 32;
    for (int64_t top = 0; top < n_out; top += side)
        for (int64_t left = 0; left < n_in; left += side)
            for (int64_t o = top; o < top + side && o < n_out; o++)
                for (int64_t i = left; i < left + side && i < n_in; i++)
                    memcpy(to + (size_t)(o * n_in + i) * bytes,
                           from + (size_t)(i * n_out + o) * bytes, bytes);
}

static aq_status load_bias(aq_loader *ld, aq_role role, int64_t n, aq_part part,
                           const float **out) {
    char name[AQ_NAME_BYTES];
    *out = NULL;
    if (part == AQ_PART_ABSENT) return AQ_OK;
    if (part == AQ_PART_OPTIONAL && !find(ld, role, ".bias", name)) return AQ_OK;
    return aq_load_vector(ld, role, ".bias", n, -INFINITY, 0.0f, out);
}

aq_status aq_load_matrix(aq_loader *ld, aq_role role, int64_t n_stack, int64_t n_out, int64_t n_in,
                         aq_part bias, aq_weight *out) {
    const bool turned = ld->names->transposed && role >= AQ_ROLE_ATTN_NORM;
    const shape want = n_stack > 1 ? (shape){3, {n_stack, n_out, n_in}}
                       : turned    ? (shape){2, {n_in, n_out}}
                                   : (shape){2, {n_out, n_in}};
    char name[AQ_NAME_BYTES];
    const aq_tensor *t = take(ld, role, ".weight", name);
    AQ_TRY(check(ld, name, t, &want));
    *out = (aq_weight){t->data, t->dtype, n_stack * n_out, n_in, NULL};
    if (turned && element_bytes(t->dtype) == 0)
        return aq_fail(AQ_ERR_UNSUPPORTED, "%s: tensor %s is %s, expected F32, F16 or BF16",
                       t->path, name, t->type);
    if (turned || !is_aligned(t)) {
        uint8_t *copy = aq_arena_carve(&ld->arena, (size_t)t->bytes, 1);
        if (copy && turned)
            transpose(t->data, element_bytes(t->dtype), n_out, n_in, copy);
        else if (copy)
            memcpy(copy, t->data, (size_t)t->bytes);
        if (copy) out->data = copy;
    }
    return load_bias(ld, role, n_stack * n_out, bias, &out->bias);
}

aq_weight aq_weight_rows(const aq_weight *from, int64_t first, int64_t n) {
    aq_weight rows = *from;
    rows.n_out = n;
    if (from->data)
        rows.data = (const uint8_t *)from->data +
                    (size_t)(first * aq_dtype_row_bytes(from->dtype, from->n_in));
    if (from->bias) rows.bias = from->bias + first;
    return rows;
}

static int64_t source_row(const aq_row_order *order, int64_t row) {
    const int64_t half = order->group / 2;
    int64_t within = row % order->group;
    if (order->neighbours) within = within < half ? 2 * within : 2 * (within - half) + 1;
    return order->first + row / order->group * order->stride + within;
}

aq_weight aq_load_reordered(aq_loader *ld, const aq_weight *from, const aq_row_order *order,
                            int64_t n_row) {
    const size_t bytes = (size_t)aq_dtype_row_bytes(from->dtype, from->n_in);
    aq_weight moved = *from;
    uint8_t *rows = aq_arena_carve(&ld->arena, (size_t)n_row, bytes);
    float *bias = from->bias ? aq_arena_carve(&ld->arena, (size_t)n_row, sizeof *bias) : NULL;
    moved.n_out = n_row;
    if (!rows) return moved;
    moved.data = rows;
    moved.bias = bias;
    for (int64_t row = 0; row < n_row; row++) {
        const int64_t at = source_row(order, row);
        memcpy(rows + (size_t)row * bytes, (const uint8_t *)from->data + (size_t)at * bytes, bytes);
        if (bias) bias[row] = from->bias[at];
    }
    return moved;
}
