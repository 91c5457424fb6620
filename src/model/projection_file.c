#include "src/model/projection_file.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "src/base/file.h"
#include "src/model/projection.pb-c.h"

#define FORMAT_VERSION 1
#define MAGIC_BYTES    8
#define HEADER_BYTES   24
/* protobuf-c keeps lengths in int32 in places; a 405B model's projection is 0.13 GiB. */
#define MESSAGE_MAX_BYTES (((uint64_t)1 << 31) - 1)
#define REMEDY            "run aqua-dist calibrate again"

static const char magic[MAGIC_BYTES + 1] = "AQUAPRJ1";

static const char *const basis_names[] = {
#define BASIS_NAME(id, name) name,
    AQ_BASIS_LIST(BASIS_NAME)
#undef BASIS_NAME
};

_Static_assert(AQUA_BASIS__AQUA_BASIS_JOINT == AQ_BASIS_JOINT + 1 &&
                   AQUA_BASIS__AQUA_BASIS_KQ == AQ_BASIS_KQ + 1 &&
                   AQUA_BASIS__AQUA_BASIS_KPCA == AQ_BASIS_KPCA + 1 &&
                   AQUA_BASIS__AQUA_BASIS_IDENTITY == AQ_BASIS_IDENTITY + 1 && AQ_BASIS_N == 4,
               "a basis has the same place in both lists");

const char *aq_basis_name(aq_basis basis) {
    return (unsigned)basis < AQ_BASIS_N ? basis_names[basis] : "unknown";
}

aq_status aq_basis_parse(const char *name, aq_basis *out) {
    for (int b = 0; b < AQ_BASIS_N; b++) {
        if (strcmp(name, basis_names[b]) != 0) continue;
        *out = (aq_basis)b;
        return AQ_OK;
    }
#define BASIS_LISTED(id, name) " " name
    return aq_fail(AQ_ERR_USAGE, "basis \"%s\" is unknown; use one of" AQ_BASIS_LIST(BASIS_LISTED),
                   name);
#undef BASIS_LISTED
}

static bool sizes_allowed(int64_t n_layer, int64_t n_kv_head, int64_t d_head) {
    return n_layer >= 1 && n_layer <= AQ_PROJECTION_MAX_LAYER && n_kv_head >= 1 &&
           n_kv_head <= AQ_PROJECTION_MAX_HEAD && d_head >= 1 && d_head <= AQ_PROJECTION_MAX_DIM;
}

aq_status aq_projection_alloc(aq_projection *p) {
    p->pq = p->pk = p->sigma = p->spectrum = NULL;
    if (!sizes_allowed(p->n_layer, p->n_kv_head, p->d_head))
        return aq_fail(AQ_ERR_USAGE,
                       "a projection of %d layers, %d KV heads and %d dims is out of range; the "
                       "limits are %d, %d and %d",
                       p->n_layer, p->n_kv_head, p->d_head, AQ_PROJECTION_MAX_LAYER,
                       AQ_PROJECTION_MAX_HEAD, AQ_PROJECTION_MAX_DIM);
    const size_t n = (size_t)p->n_layer * (size_t)p->n_kv_head, d = (size_t)p->d_head;
    p->pq = calloc(n * d * d, sizeof *p->pq);
    p->pk = calloc(n * d * d, sizeof *p->pk);
    p->sigma = calloc(n * d, sizeof *p->sigma);
    p->spectrum = calloc(n * d, sizeof *p->spectrum);
    if (p->pq && p->pk && p->sigma && p->spectrum) return AQ_OK;
    aq_projection_free(p);
    return aq_fail(AQ_ERR_MEMORY, "no memory for a projection of %zu bytes",
                   n * (2 * d * d + 2 * d) * sizeof *p->pq);
}

void aq_projection_free(aq_projection *p) {
    free(p->pq);
    free(p->pk);
    free(p->sigma);
    free(p->spectrum);
    p->pq = p->pk = p->sigma = p->spectrum = NULL;
}

aq_status aq_projection_copy(const aq_projection *p, aq_projection *out) {
    const size_t n = (size_t)p->n_layer * (size_t)p->n_kv_head, d = (size_t)p->d_head;
    *out = *p;
    AQ_TRY(aq_projection_alloc(out));
    memcpy(out->pq, p->pq, n * d * d * sizeof *p->pq);
    memcpy(out->pk, p->pk, n * d * d * sizeof *p->pk);
    memcpy(out->sigma, p->sigma, n * d * sizeof *p->sigma);
    memcpy(out->spectrum, p->spectrum, n * d * sizeof *p->spectrum);
    return AQ_OK;
}

aq_code_layout aq_projection_codes(const aq_projection *p) {
    const int d = p->d_head, quarter = d / 4;
    if (p->codes.n_segment > 0) return p->codes;
    if (quarter == 0) return (aq_code_layout){.n_segment = 1, .segments = {{d, 4}}};
    if (d > 128) return (aq_code_layout){.n_segment = 1, .segments = {{quarter, 4}}};
    return (aq_code_layout){.n_segment = 3,
                            .segments = {{quarter, 4}, {2 * quarter, 2}, {d - 3 * quarter, 1}}};
}

double aq_projection_defect(int d, const float *pq, const float *pk) {
    double worst = 0.0;
    for (int i = 0; i < d; i++) {
        for (int j = 0; j < d; j++) {
            double sum = i == j ? -1.0 : 0.0;
            for (int c = 0; c < d; c++)
                sum += (double)pq[(int64_t)i * d + c] * (double)pk[(int64_t)j * d + c];
            if (!isfinite(sum)) return INFINITY;
            worst = fmax(worst, fabs(sum));
        }
    }
    return worst;
}

static bool codes_usable(const aq_projection *p) {
    const aq_code_layout *codes = &p->codes;
    if (codes->n_segment < 0 || codes->n_segment > AQ_CODE_SEGMENTS) return false;
    for (int i = 0; i < codes->n_segment; i++) {
        const int n = codes->segments[i].n, bits = codes->segments[i].bits;
        if (n < 1 || n > p->d_head || bits < 1 || bits == 7 || bits > 8) return false;
    }
    return aq_code_layout_columns(codes) <= p->d_head;
}

/* Whether what is optional is usable where it is there. */
static aq_status check_optional(const char *path, const aq_projection *p, aq_status code) {
    if (!codes_usable(p))
        return aq_fail(code, "%s: the selector's codes are no layout of %d columns; " REMEDY, path,
                       p->d_head);
    const aq_code_layout codes = aq_projection_codes(p);
    if (p->n_dynamic < 0 || p->n_dynamic > aq_code_layout_columns(&codes))
        return aq_fail(code, "%s: %d dynamic columns of a selector of %d; " REMEDY, path,
                       p->n_dynamic, aq_code_layout_columns(&codes));
    if (!(p->k_energy >= 0 && p->k_energy <= FLT_MAX))
        return aq_fail(code, "%s: the energy of columns that decide is no number from 0; " REMEDY,
                       path);
    if (p->break_even[0] < 0 || p->break_even[1] < 0)
        return aq_fail(code, "%s: a break-even context is negative; " REMEDY, path);
    return AQ_OK;
}

/* Whether the numbers of all heads are usable; `code` is what a bad one means to the caller. */
static aq_status check_heads(const char *path, const aq_projection *p, aq_status code) {
    const int d = p->d_head;
    for (int64_t h = 0; h < (int64_t)p->n_layer * p->n_kv_head; h++) {
        const int layer = (int)(h / p->n_kv_head), head = (int)(h % p->n_kv_head);
        for (int i = 0; i < d; i++) {
            if (isfinite(p->sigma[h * d + i]) && p->sigma[h * d + i] >= 0 &&
                isfinite(p->spectrum[h * d + i]))
                continue;
            return aq_fail(code,
                           "%s: layer %d, KV head %d: sigma or spectrum is not a usable "
                           "number; " REMEDY,
                           path, layer, head);
        }
        const double defect = aq_projection_defect(d, p->pq + h * d * d, p->pk + h * d * d);
        if (!(defect <= AQ_PROJECTION_DEFECT_MAX))
            return aq_fail(code,
                           "%s: layer %d, KV head %d: P_q P_k^T differs from I by %.3g, more "
                           "than %g; " REMEDY,
                           path, layer, head, defect, AQ_PROJECTION_DEFECT_MAX);
    }
    return AQ_OK;
}

static aq_status check_numbers(const char *path, const aq_projection *p, aq_status code) {
    AQ_TRY(check_optional(path, p, code));
    return check_heads(path, p, code);
}

static void put_u64(uint8_t *at, uint64_t value) {
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get_u64(const uint8_t *at) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}

/* What a message points to beside the arrays of the projection. */
typedef struct {
    AquaHeadBasis *heads; /* one a KV head, as all arrays here */
    AquaHeadBasis **head_pointers;
    AquaCodeSegment segments[AQ_CODE_SEGMENTS];
    AquaCodeSegment *segment_pointers[AQ_CODE_SEGMENTS];
    int64_t break_even[2];
} message_parts;

static void parts_close(message_parts *parts) {
    free(parts->heads);
    free(parts->head_pointers);
}

static bool parts_open(size_t n_head, message_parts *parts) {
    *parts = (message_parts){.heads = calloc(n_head, sizeof *parts->heads)};
    parts->head_pointers = calloc(n_head, sizeof *parts->head_pointers);
    return parts->heads && parts->head_pointers;
}

/* Puts what is optional into a message; what is not there is not written. */
static void put_optional(const aq_projection *p, message_parts *parts, AquaProjection *message) {
    message->n_codes = (size_t)p->codes.n_segment;
    message->codes = parts->segment_pointers;
    for (int i = 0; i < p->codes.n_segment; i++) {
        aqua_code_segment__init(&parts->segments[i]);
        parts->segments[i].n = (uint32_t)p->codes.segments[i].n;
        parts->segments[i].bits = (uint32_t)p->codes.segments[i].bits;
        parts->segment_pointers[i] = &parts->segments[i];
    }
    message->n_dynamic = (uint32_t)p->n_dynamic;
    message->k_energy = p->k_energy;
    message->n_break_even = p->break_even[0] != 0 || p->break_even[1] != 0 ? 2 : 0;
    message->break_even = parts->break_even;
    memcpy(parts->break_even, p->break_even, sizeof parts->break_even);
}

/* The message, which borrows the arrays of p and parts. */
static AquaProjection message_of(const aq_projection *p, message_parts *parts) {
    const size_t n = (size_t)p->n_layer * (size_t)p->n_kv_head, d = (size_t)p->d_head;
    for (size_t h = 0; h < n; h++) {
        AquaHeadBasis *head = &parts->heads[h];
        aqua_head_basis__init(head);
        head->n_p_q = head->n_p_k = d * d;
        head->n_sigma = head->n_spectrum = d;
        head->p_q = p->pq + h * d * d;
        head->p_k = p->pk + h * d * d;
        head->sigma = p->sigma + h * d;
        head->spectrum = p->spectrum + h * d;
        parts->head_pointers[h] = head;
    }
    AquaProjection message = AQUA_PROJECTION__INIT;
    message.format_version = FORMAT_VERSION;
    message.fingerprint.len = AQ_FINGERPRINT_BYTES;
    message.fingerprint.data = (uint8_t *)(uintptr_t)p->fingerprint;
    message.n_layer = (uint32_t)p->n_layer;
    message.n_kv_head = (uint32_t)p->n_kv_head;
    message.d_head = (uint32_t)p->d_head;
    message.basis = (AquaBasis)(p->basis + 1);
    message.domain = (char *)(uintptr_t)p->domain;
    message.n_tok_calib = (uint64_t)p->n_tok_calib;
    message.n_heads = n;
    message.heads = parts->head_pointers;
    put_optional(p, parts, &message);
    return message;
}

/* The whole file as bytes; the caller frees *file. */
static aq_status pack(const char *path, const aq_projection *p, uint8_t **file, size_t *bytes) {
    message_parts parts;
    aq_status status = AQ_OK;
    size_t message_bytes = 0;
    *file = NULL;
    if (parts_open((size_t)p->n_layer * (size_t)p->n_kv_head, &parts)) {
        const AquaProjection message = message_of(p, &parts);
        message_bytes = aqua_projection__get_packed_size(&message);
        *bytes = HEADER_BYTES + message_bytes;
        if (message_bytes <= MESSAGE_MAX_BYTES) *file = malloc(*bytes);
        if (*file) aqua_projection__pack(&message, *file + HEADER_BYTES);
    }
    if (*file) {
        memcpy(*file, magic, MAGIC_BYTES);
        put_u64(*file + 8, message_bytes);
        put_u64(*file + 16, XXH3_64bits(*file + HEADER_BYTES, message_bytes));
    } else if (message_bytes > MESSAGE_MAX_BYTES) {
        status = aq_fail(AQ_ERR_LIMIT,
                         "%s: a projection of %zu bytes exceeds the file's limit of "
                         "2 GiB; this model is too large for it",
                         path, message_bytes);
    } else {
        status = aq_fail(AQ_ERR_MEMORY, "%s: no memory to write the projection", path);
    }
    parts_close(&parts);
    return status;
}

static aq_status compare(const char *path, const uint8_t *file, size_t bytes) {
    aq_file_map map;
    AQ_TRY(aq_file_map_open(path, &map));
    const bool same = map.bytes == bytes && memcmp(map.data, file, bytes) == 0;
    aq_file_map_close(&map);
    if (same) return AQ_OK;
    return aq_fail(AQ_ERR_IO, "%s does not hold what was written; check the disk, then " REMEDY,
                   path);
}

aq_status aq_projection_write(const char *path, const aq_projection *p) {
    uint8_t *file = NULL;
    size_t bytes = 0;
    AQ_TRY(check_numbers(path, p, AQ_ERR_NUMERIC));
    AQ_TRY(pack(path, p, &file, &bytes));
    aq_status status = aq_file_write(path, file, bytes);
    if (status == AQ_OK) status = compare(path, file, bytes);
    free(file);
    return status;
}

/* Memory for unpacking. Two bytes of message can ask for a hundred bytes of structs, so all that
 * is handed out is held to a budget that honest files never reach. */
typedef struct {
    size_t left;
    bool over; /* was asked for more than it had */
    bool none; /* malloc failed */
} budget;

static void *budget_alloc(void *arg, size_t bytes) {
    budget *b = arg;
    if (bytes > b->left) {
        b->over = true;
        return NULL;
    }
    b->left -= bytes;
    void *memory = malloc(bytes);
    b->none = !memory;
    return memory;
}

static void budget_free(void *arg, void *memory) {
    (void)arg;
    free(memory);
}

static aq_status check_envelope(const char *path, const aq_file_map *map) {
    if (map->bytes < HEADER_BYTES || memcmp(map->data, magic, MAGIC_BYTES) != 0)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s is not a projection file; make one with aqua-dist "
                       "calibrate",
                       path);
    const uint64_t bytes = get_u64(map->data + 8), there = map->bytes - HEADER_BYTES;
    if (bytes > MESSAGE_MAX_BYTES || bytes != there)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s should hold %llu bytes behind its header but holds %llu; "
                       "copy it anew or " REMEDY,
                       path, (unsigned long long)bytes, (unsigned long long)there);
    if (XXH3_64bits(map->data + HEADER_BYTES, (size_t)bytes) != get_u64(map->data + 16))
        return aq_fail(AQ_ERR_FORMAT,
                       "%s is damaged (its checksum differs); copy it anew or " REMEDY, path);
    return AQ_OK;
}

/* What is wrong with the optional fields, or NULL: that they fit the types they are taken into.
 * Their values are checked with the numbers. */
static const char *wrong_optional(const AquaProjection *m) {
    if (m->n_codes > AQ_CODE_SEGMENTS) return "the selector's codes have too many segments";
    for (size_t i = 0; i < m->n_codes; i++)
        if (m->codes[i]->n > AQ_PROJECTION_MAX_DIM || m->codes[i]->bits > 8)
            return "a segment of the selector's codes is out of range";
    if (m->n_dynamic > AQ_PROJECTION_MAX_DIM)
        return "the number of dynamic columns is out of range";
    if (m->n_break_even != 0 && m->n_break_even != 2)
        return "the number of break-even contexts is not two";
    return NULL;
}

/* Whether the message has what an aq_projection needs, in the sizes it states. */
static aq_status check_message(const char *path, const AquaProjection *m) {
    if (m->format_version > FORMAT_VERSION)
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "%s has format version %u, this program knows up to %d; "
                       "use a newer aqua-dist or " REMEDY,
                       path, m->format_version, FORMAT_VERSION);
    const char *wrong = NULL;
    if (m->format_version < 1)
        wrong = "the format version is missing";
    else if ((unsigned)m->basis < 1 || (unsigned)m->basis > AQ_BASIS_N)
        wrong = "the basis is unknown";
    else if (m->fingerprint.len != AQ_FINGERPRINT_BYTES)
        wrong = "the model's fingerprint is missing";
    else if (strlen(m->domain) >= sizeof((aq_projection *)0)->domain)
        wrong = "the name of the calibration text is too long";
    else if (m->n_tok_calib > INT64_MAX)
        wrong = "the number of calibration tokens is out of range";
    else if (!sizes_allowed(m->n_layer, m->n_kv_head, m->d_head))
        wrong = "a size is out of range";
    else if (m->n_heads != (size_t)m->n_layer * m->n_kv_head)
        wrong = "the number of heads is not layers times KV heads";
    const size_t d = m->d_head;
    for (size_t h = 0; !wrong && h < m->n_heads; h++) {
        const AquaHeadBasis *head = m->heads[h];
        if (head->n_p_q != d * d || head->n_p_k != d * d || head->n_sigma != d ||
            head->n_spectrum != d)
            wrong = "an array has the wrong length";
    }
    if (!wrong) wrong = wrong_optional(m);
    if (wrong) return aq_fail(AQ_ERR_FORMAT, "%s: %s; " REMEDY, path, wrong);
    return AQ_OK;
}

/* Copies what is optional in a checked message. */
static void take_optional(const AquaProjection *m, aq_projection *p) {
    p->codes.n_segment = (int)m->n_codes;
    for (size_t i = 0; i < m->n_codes; i++)
        p->codes.segments[i] = (aq_code_segment){(int)m->codes[i]->n, (int)m->codes[i]->bits};
    p->n_dynamic = (int)m->n_dynamic;
    for (size_t i = 0; i < m->n_break_even; i++)
        p->break_even[i] = m->break_even[i];
    p->k_energy = m->k_energy;
}

/* Copies a checked message. */
static aq_status take_message(const AquaProjection *m, aq_projection *p) {
    p->basis = (aq_basis)(m->basis - 1);
    p->n_layer = (int)m->n_layer;
    p->n_kv_head = (int)m->n_kv_head;
    p->d_head = (int)m->d_head;
    p->n_tok_calib = (int64_t)m->n_tok_calib;
    memcpy(p->fingerprint, m->fingerprint.data, AQ_FINGERPRINT_BYTES);
    /* The name is shown to people: no escape sequences for their terminals. */
    for (size_t i = 0; m->domain[i]; i++) {
        const unsigned char c = (unsigned char)m->domain[i];
        p->domain[i] = c < 0x20 || c == 0x7f ? '?' : m->domain[i];
    }
    AQ_TRY(aq_projection_alloc(p));
    const size_t d = m->d_head;
    for (size_t h = 0; h < m->n_heads; h++) {
        memcpy(p->pq + h * d * d, m->heads[h]->p_q, d * d * sizeof *p->pq);
        memcpy(p->pk + h * d * d, m->heads[h]->p_k, d * d * sizeof *p->pk);
        memcpy(p->sigma + h * d, m->heads[h]->sigma, d * sizeof *p->sigma);
        memcpy(p->spectrum + h * d, m->heads[h]->spectrum, d * sizeof *p->spectrum);
    }
    take_optional(m, p);
    return AQ_OK;
}

static aq_status unpack(const char *path, const aq_file_map *map, aq_projection *p) {
    const size_t bytes = map->bytes - HEADER_BYTES;
    budget memory = {.left = 2 * bytes + 65536, .over = false, .none = false};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &memory};
    AquaProjection *m = aqua_projection__unpack(&allocator, bytes, map->data + HEADER_BYTES);
    if (!m && memory.none)
        return aq_fail(AQ_ERR_MEMORY, "%s: no memory to read the projection", path);
    if (!m)
        return aq_fail(AQ_ERR_FORMAT, "%s: the message %s; " REMEDY, path,
                       memory.over ? "asks for more memory than its size allows"
                                   : "cannot be unpacked");
    aq_status status = check_message(path, m);
    if (status == AQ_OK) status = take_message(m, p);
    aqua_projection__free_unpacked(m, &allocator);
    if (status == AQ_OK) status = check_numbers(path, p, AQ_ERR_FORMAT);
    return status;
}

aq_status aq_projection_read(const char *path, aq_projection *p) {
    memset(p, 0, sizeof *p);
    aq_file_map map;
    AQ_TRY(aq_file_map_open(path, &map));
    aq_status status = check_envelope(path, &map);
    if (status == AQ_OK) status = unpack(path, &map, p);
    aq_file_map_close(&map);
    if (status != AQ_OK) {
        aq_projection_free(p);
        memset(p, 0, sizeof *p);
    }
    return status;
}

aq_status aq_projection_check(const char *path, const aq_projection *p,
                              const aq_model_config *config, const aq_model_weights *weights) {
    if (p->n_layer != config->n_layer || p->n_kv_head != config->n_kv_head ||
        p->d_head != config->d_head)
        return aq_fail(AQ_ERR_MISMATCH,
                       "%s is for a model of %d layers, %d KV heads and %d dims, this one has %d, "
                       "%d and %d; make its own with aqua-dist calibrate",
                       path, p->n_layer, p->n_kv_head, p->d_head, config->n_layer,
                       config->n_kv_head, config->d_head);
    if (memcmp(p->fingerprint, weights->fingerprint, AQ_FINGERPRINT_BYTES) != 0)
        return aq_fail(AQ_ERR_MISMATCH,
                       "%s was made for another model of the same shape (the "
                       "fingerprints differ); make one for this model with aqua-dist calibrate",
                       path);
    return AQ_OK;
}
