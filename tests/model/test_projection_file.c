/* Projection files: round trip, an independent encoder, damage of every kind, full disk. */
#define _GNU_SOURCE
#include "src/model/projection_file.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "src/base/file.h"
#include "tests/support/suite.h"

enum { N_LAYER = 2, N_KV_HEAD = 2, D = 3, HEADER = 24, CAPACITY = 1 << 12 };

static const char *path_of(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", aq_test_temp_dir(), name);
    return path;
}

/* P_q P_k^T = I with P_q a scaled shear; no two numbers of a head are the same. */
static aq_projection sample(void) {
    aq_projection p = {.basis = AQ_BASIS_KQ, .n_layer = N_LAYER, .n_kv_head = N_KV_HEAD};
    p.d_head = D;
    p.n_tok_calib = 4096;
    snprintf(p.domain, sizeof p.domain, "war-and-peace.txt");
    for (int i = 0; i < AQ_FINGERPRINT_BYTES; i++)
        p.fingerprint[i] = (uint8_t)(200 + i);
    aq_test_ok(aq_projection_alloc(&p));
    for (int h = 0; h < N_LAYER * N_KV_HEAD; h++) {
        const float a = 1.5f + (float)h, s = 0.25f * (float)(h + 1);
        const float pq[D * D] = {a, a * s, 0, 0, a, 0, 0, 0, 2 * a};
        const float pk[D * D] = {1 / a, 0, 0, -s / a, 1 / a, 0, 0, 0, 0.5f / a};
        memcpy(p.pq + h * D * D, pq, sizeof pq);
        memcpy(p.pk + h * D * D, pk, sizeof pk);
        for (int c = 0; c < D; c++) {
            p.sigma[h * D + c] = 0.5f + (float)(h + c);
            p.spectrum[h * D + c] = 9.0f + (float)h - 2.0f * (float)c;
        }
    }
    return p;
}

static bool same(const aq_projection *a, const aq_projection *b) {
    const size_t n = N_LAYER * N_KV_HEAD * D * sizeof(float);
    return a->basis == b->basis && a->n_layer == b->n_layer && a->n_kv_head == b->n_kv_head &&
           a->d_head == b->d_head && a->n_tok_calib == b->n_tok_calib &&
           strcmp(a->domain, b->domain) == 0 &&
           memcmp(a->fingerprint, b->fingerprint, AQ_FINGERPRINT_BYTES) == 0 &&
           memcmp(a->pq, b->pq, n * D) == 0 && memcmp(a->pk, b->pk, n * D) == 0 &&
           memcmp(a->sigma, b->sigma, n) == 0 && memcmp(a->spectrum, b->spectrum, n) == 0;
}

/* A file in memory. */
typedef struct {
    uint8_t bytes[CAPACITY];
    size_t n;
} buffer;

static void put(buffer *b, const void *data, size_t n) {
    if (b->n + n > CAPACITY) abort();
    memcpy(b->bytes + b->n, data, n);
    b->n += n;
}

static void put_varint(buffer *b, uint64_t value) {
    do {
        const uint8_t byte = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        put(b, &byte, 1);
    } while (value >>= 7);
}

static void put_number(buffer *b, int field, uint64_t value) {
    put_varint(b, (uint64_t)field << 3);
    put_varint(b, value);
}

static void put_bytes(buffer *b, int field, const void *data, size_t n) {
    put_varint(b, (uint64_t)field << 3 | 2);
    put_varint(b, n);
    put(b, data, n);
}

/* What the encoder below gets wrong on purpose. */
typedef struct {
    int version, basis, layers, drop_heads, short_pq, domain_bytes, fingerprint_bytes;
} mistakes;

/* A message of none or all of the optional fields: of `codes` the first n_code segments, each field
 * with its number of entries. */
typedef struct {
    int n_code, n_break_even;
    uint64_t codes[5][2], n_dynamic, break_even[3];
    float k_energy;
} optional_fields;

static const optional_fields some = {.n_code = 2,
                                     .n_break_even = 2,
                                     .codes = {{1, 4}, {2, 1}, {1, 1}, {1, 1}, {1, 1}},
                                     .n_dynamic = 2,
                                     .break_even = {300, INT64_MAX, 1},
                                     .k_energy = 0.75f};

static const mistakes none = {.version = 1, .basis = 2, .layers = N_LAYER, .fingerprint_bytes = 16};

/* The message as the Protocol Buffers wire format defines it, without protobuf-c. */
static void encode(const aq_projection *p, mistakes m, buffer *out) {
    char domain[400];
    memset(domain, 'x', sizeof domain);
    const size_t domain_bytes = m.domain_bytes ? (size_t)m.domain_bytes : strlen(p->domain);
    if (!m.domain_bytes) memcpy(domain, p->domain, domain_bytes);
    out->n = HEADER;
    put_number(out, 1, (uint64_t)m.version);
    put_bytes(out, 2, p->fingerprint, (size_t)m.fingerprint_bytes);
    put_number(out, 3, (uint64_t)m.layers);
    put_number(out, 4, N_KV_HEAD);
    put_number(out, 5, D);
    put_number(out, 6, (uint64_t)m.basis);
    put_bytes(out, 7, domain, domain_bytes);
    put_number(out, 8, (uint64_t)p->n_tok_calib);
    for (int h = 0; h < N_LAYER * N_KV_HEAD - m.drop_heads; h++) {
        buffer head = {.n = 0};
        put_bytes(&head, 1, p->pq + h * D * D, (size_t)(D * D - m.short_pq) * sizeof(float));
        put_bytes(&head, 2, p->pk + h * D * D, D * D * sizeof(float));
        put_bytes(&head, 3, p->sigma + h * D, D * sizeof(float));
        put_bytes(&head, 4, p->spectrum + h * D, D * sizeof(float));
        put_bytes(out, 9, head.bytes, head.n);
    }
}

/* Puts magic, length and XXH3-64 in front of a message. */
static void seal_bytes(uint8_t *bytes, size_t n_all) {
    const uint64_t n = n_all - HEADER;
    const uint64_t checksum = XXH3_64bits(bytes + HEADER, n);
    memcpy(bytes, "AQUAPRJ1", 8);
    for (int i = 0; i < 8; i++) {
        bytes[8 + i] = (uint8_t)(n >> (8 * i));
        bytes[16 + i] = (uint8_t)(checksum >> (8 * i));
    }
}

static void seal(buffer *file) {
    seal_bytes(file->bytes, file->n);
}

static void save(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0) abort();
}

static aq_status read_bytes(const void *data, size_t n) {
    const char *path = path_of("bytes.aqua");
    aq_projection p;
    save(path, data, n);
    const aq_status status = aq_projection_read(path, &p);
    if (status != AQ_OK) CU_ASSERT_PTR_NULL(p.pq);
    if (status != AQ_OK) CU_ASSERT_PTR_NOT_NULL(strstr(aq_error_text(), path));
    aq_projection_free(&p);
    return status;
}

static void test_round_trip(void) {
    aq_projection p = sample(), back;
    const char *path = path_of("trip.aqua");
    if (aq_test_ok(aq_projection_write(path, &p)) && aq_test_ok(aq_projection_read(path, &back))) {
        CU_ASSERT_TRUE(same(&p, &back));
        back.pq[7] += 1.0f; /* planted: `same` must see one number */
        CU_ASSERT_FALSE(same(&p, &back));
        aq_projection_free(&back);
    }
    aq_projection_free(&p);
}

/* The written file is, byte by byte, what the format says. */
static void test_independent_encoder(void) {
    aq_projection p = sample();
    buffer expected;
    aq_file_map map;
    const char *path = path_of("encoder.aqua");
    encode(&p, none, &expected);
    seal(&expected);
    if (aq_test_ok(aq_projection_write(path, &p)) && aq_test_ok(aq_file_map_open(path, &map))) {
        CU_ASSERT_EQUAL(map.bytes, expected.n);
        CU_ASSERT_TRUE(map.bytes == expected.n && memcmp(map.data, expected.bytes, map.bytes) == 0);
        aq_file_map_close(&map);
    }
    aq_projection_free(&p);
}

static void test_every_truncation_and_flip(void) {
    aq_projection p = sample();
    buffer file;
    encode(&p, none, &file);
    seal(&file);
    aq_test_ok(read_bytes(file.bytes, file.n));
    for (size_t n = 0; n < file.n; n++)
        CU_ASSERT_EQUAL(read_bytes(file.bytes, n), AQ_ERR_FORMAT);
    for (size_t i = 0; i < file.n; i++) {
        const uint8_t flips[] = {0x01, 0x80, 0xff};
        for (size_t f = 0; f < sizeof flips; f++) {
            file.bytes[i] ^= flips[f];
            CU_ASSERT_EQUAL(read_bytes(file.bytes, file.n), AQ_ERR_FORMAT);
            file.bytes[i] ^= flips[f];
        }
    }
    put(&file, "", 1);
    aq_test_fails(read_bytes(file.bytes, file.n), AQ_ERR_FORMAT, "should hold");
    aq_projection_free(&p);
}

/* Damage that carries a right checksum reaches the parser: any answer but a crash or a failure
 * without a text naming the file (checked in read_bytes). */
static void test_sealed_damage(void) {
    aq_projection p = sample();
    buffer file;
    encode(&p, none, &file);
    const size_t whole = file.n;
    int n_refused = 0;
    for (size_t i = HEADER; i < whole; i++) {
        const uint8_t flips[] = {0x01, 0x02, 0x08, 0x40, 0x80, 0xff};
        for (size_t f = 0; f < sizeof flips; f++) {
            file.bytes[i] ^= flips[f];
            seal(&file);
            n_refused += read_bytes(file.bytes, file.n) != AQ_OK;
            file.bytes[i] ^= flips[f];
        }
    }
    CU_ASSERT_TRUE(n_refused > 500);
    for (file.n = HEADER; file.n < whole; file.n++) {
        seal(&file);
        CU_ASSERT_EQUAL(read_bytes(file.bytes, file.n), AQ_ERR_FORMAT);
    }
    aq_projection_free(&p);
}

static aq_status read_mistaken(mistakes m) {
    aq_projection p = sample();
    buffer file;
    encode(&p, m, &file);
    seal(&file);
    aq_projection_free(&p);
    return read_bytes(file.bytes, file.n);
}

static void test_wrong_fields(void) {
    mistakes m = none;
    m.version = 2;
    aq_test_fails(read_mistaken(m), AQ_ERR_UNSUPPORTED, "format version 2");
    m.version = 0;
    aq_test_fails(read_mistaken(m), AQ_ERR_FORMAT, "format version");
    m = none;
    for (int basis = -1; basis < 7; basis++) {
        m.basis = basis;
        if (basis < 1 || basis > 4) aq_test_fails(read_mistaken(m), AQ_ERR_FORMAT, "the basis");
    }
    m = none;
    m.fingerprint_bytes = 15;
    aq_test_fails(read_mistaken(m), AQ_ERR_FORMAT, "fingerprint");
    m = none;
    m.layers = 0;
    aq_test_fails(read_mistaken(m), AQ_ERR_FORMAT, "out of range");
    m.layers = 1 << 30;
    aq_test_fails(read_mistaken(m), AQ_ERR_FORMAT, "out of range");
    m.layers = N_LAYER + 1;
    aq_test_fails(read_mistaken(m), AQ_ERR_FORMAT, "number of heads");
    m = none;
    m.drop_heads = 1;
    aq_test_fails(read_mistaken(m), AQ_ERR_FORMAT, "number of heads");
    m = none;
    m.short_pq = 1;
    aq_test_fails(read_mistaken(m), AQ_ERR_FORMAT, "wrong length");
    m = none;
    m.domain_bytes = 256;
    aq_test_fails(read_mistaken(m), AQ_ERR_FORMAT, "too long");
    m.domain_bytes = 255;
    aq_test_ok(read_mistaken(m));
}

/* Numbers that are wrong in a well-formed file; writing refuses them too. */
static void expect_bad_number(float *at, float value, aq_projection *p, const char *part) {
    const float before = *at;
    buffer file;
    *at = value;
    encode(p, none, &file);
    seal(&file);
    aq_test_fails(read_bytes(file.bytes, file.n), AQ_ERR_FORMAT, part);
    aq_test_fails(aq_projection_write(path_of("bad.aqua"), p), AQ_ERR_NUMERIC, part);
    *at = before;
}

static void test_wrong_numbers(void) {
    aq_projection p = sample();
    struct stat st;
    expect_bad_number(&p.pq[D * D], NAN, &p, "layer 0, KV head 1: P_q P_k^T");
    expect_bad_number(&p.pk[2 * D * D + 4], INFINITY, &p, "layer 1, KV head 0: P_q P_k^T");
    expect_bad_number(&p.pq[0], 1.002f * p.pq[0], &p, "differs from I by 0.002");
    expect_bad_number(&p.sigma[4], -1.0f, &p, "layer 0, KV head 1: sigma");
    expect_bad_number(&p.spectrum[11], NAN, &p, "layer 1, KV head 1: sigma or spectrum");
    CU_ASSERT_NOT_EQUAL(stat(path_of("bad.aqua"), &st), 0); /* nothing was written */
    p.pq[0] *= 1.0005f;
    aq_test_ok(aq_projection_write(path_of("good.aqua"), &p));
    aq_projection_free(&p);
}

/* Two bytes a head: 2 MB of message would ask for 100 MB of structs. */
static void test_memory_bomb(void) {
    enum { N_HEADS = 1000000, N_BYTES = HEADER + 2 * N_HEADS };
    uint8_t *bytes = malloc(N_BYTES);
    const char *path = path_of("bomb.aqua");
    aq_projection p;
    for (int i = 0; i < N_HEADS; i++) {
        bytes[HEADER + 2 * i] = 9 << 3 | 2;
        bytes[HEADER + 2 * i + 1] = 0;
    }
    seal_bytes(bytes, N_BYTES);
    save(path, bytes, N_BYTES);
    aq_test_fails(aq_projection_read(path, &p), AQ_ERR_FORMAT, "more memory than its size allows");
    free(bytes);
}

static void test_escapes_are_masked(void) {
    aq_projection p = sample(), back;
    snprintf(p.domain, sizeof p.domain, "a\x1b[2Jb\x7f \xc3\xa9");
    const char *path = path_of("domain.aqua");
    if (aq_test_ok(aq_projection_write(path, &p)) && aq_test_ok(aq_projection_read(path, &back))) {
        CU_ASSERT_STRING_EQUAL(back.domain, "a?[2Jb? \xc3\xa9");
        aq_projection_free(&back);
    }
    aq_projection_free(&p);
}

/* A file-size limit stands for the full disk: write() fails half-way in the same manner. */
static void test_full_disk(void) {
    aq_projection p = sample(), back;
    const char *path = path_of("full.aqua");
    struct rlimit before, small;
    aq_test_ok(aq_projection_write(path, &p));
    p.n_tok_calib = 1;
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 100;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    const aq_status status = aq_projection_write(path, &p);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    aq_test_fails(status, AQ_ERR_IO, "full.aqua");
    p.n_tok_calib = 4096;
    if (aq_test_ok(aq_projection_read(path, &back))) {
        CU_ASSERT_TRUE(same(&p, &back));
        aq_projection_free(&back);
    }
    aq_test_fails(aq_projection_write(path_of("no/such/folder.aqua"), &p), AQ_ERR_IO, "folder");
    aq_projection_free(&p);
}

static void test_check_against_model(void) {
    aq_projection p = sample();
    aq_model_config config = {.n_layer = N_LAYER, .n_kv_head = N_KV_HEAD, .d_head = D};
    aq_model_weights weights = {.layers = NULL};
    memcpy(weights.fingerprint, p.fingerprint, AQ_FINGERPRINT_BYTES);
    aq_test_ok(aq_projection_check("m.aqua", &p, &config, &weights));
    weights.fingerprint[15] ^= 1;
    aq_test_fails(aq_projection_check("m.aqua", &p, &config, &weights), AQ_ERR_MISMATCH,
                  "fingerprints");
    config.d_head = 64;
    aq_test_fails(aq_projection_check("m.aqua", &p, &config, &weights), AQ_ERR_MISMATCH, "64");
    aq_projection_free(&p);
}

static void put_packed(buffer *out, int field, const uint64_t *values, int n) {
    buffer packed = {.n = 0};
    if (n == 0) return;
    for (int i = 0; i < n; i++)
        put_varint(&packed, values[i]);
    put_bytes(out, field, packed.bytes, packed.n);
}

/* The optional fields behind a sound message. */
static void encode_optional(const aq_projection *p, const optional_fields *o, buffer *out) {
    encode(p, none, out);
    for (int i = 0; i < o->n_code; i++) {
        buffer segment = {.n = 0};
        put_number(&segment, 1, o->codes[i][0]);
        put_number(&segment, 2, o->codes[i][1]);
        put_bytes(out, 10, segment.bytes, segment.n);
    }
    if (o->n_dynamic) put_number(out, 11, o->n_dynamic);
    put_packed(out, 13, o->break_even, o->n_break_even);
    put_varint(out, 14 << 3 | 5); /* 4 bytes */
    put(out, &o->k_energy, sizeof o->k_energy);
    seal(out);
}

static void take_optional(const optional_fields *o, aq_projection *p) {
    p->codes.n_segment = o->n_code;
    for (int i = 0; i < o->n_code; i++)
        p->codes.segments[i] = (aq_code_segment){(int)o->codes[i][0], (int)o->codes[i][1]};
    p->n_dynamic = (int)o->n_dynamic;
    p->k_energy = o->k_energy;
    for (int i = 0; i < 2; i++)
        p->break_even[i] = (int64_t)o->break_even[i];
}

static bool same_optional(const aq_projection *a, const aq_projection *b) {
    return memcmp(&a->codes, &b->codes, sizeof a->codes) == 0 && a->n_dynamic == b->n_dynamic &&
           memcmp(a->break_even, b->break_even, sizeof a->break_even) == 0 &&
           a->k_energy == b->k_energy;
}

/* Written as an independent encoder writes them, read back, and absent where they are absent. */
static void test_optional_fields(void) {
    aq_projection p = sample(), back;
    buffer expected;
    aq_file_map map;
    const char *path = path_of("optional.aqua");
    if (aq_test_ok(aq_projection_write(path, &p)) && aq_test_ok(aq_projection_read(path, &back))) {
        CU_ASSERT_TRUE(same_optional(&p, &back));
        aq_projection_free(&back);
    }
    take_optional(&some, &p);
    encode_optional(&p, &some, &expected);
    if (aq_test_ok(aq_projection_write(path, &p)) && aq_test_ok(aq_file_map_open(path, &map))) {
        CU_ASSERT_TRUE(map.bytes == expected.n && memcmp(map.data, expected.bytes, map.bytes) == 0);
        aq_file_map_close(&map);
    }
    if (aq_test_ok(aq_projection_read(path, &back))) {
        CU_ASSERT_TRUE(same(&p, &back) && same_optional(&p, &back));
        back.k_energy += 0.25f; /* planted */
        CU_ASSERT_FALSE(same_optional(&p, &back));
        aq_projection_free(&back);
    }
    aq_projection_free(&p);
}

static void expect_bad_optional(const optional_fields *o, const char *part) {
    aq_projection p = sample();
    buffer file;
    encode_optional(&p, o, &file);
    aq_test_fails(read_bytes(file.bytes, file.n), AQ_ERR_FORMAT, part);
    aq_projection_free(&p);
}

#define EXPECT_BAD(part, ...)                                                                      \
    do {                                                                                           \
        optional_fields o = some;                                                                  \
        __VA_ARGS__;                                                                               \
        expect_bad_optional(&o, part);                                                             \
    } while (0)

static void test_wrong_optional_fields(void) {
    EXPECT_BAD("too many segments", o.n_code = 5);
    EXPECT_BAD("no layout of 3 columns", o.n_code = 3);
    EXPECT_BAD("no layout", o.codes[1][1] = 7);
    EXPECT_BAD("no layout", o.codes[1][1] = 0);
    EXPECT_BAD("no layout", o.codes[0][0] = 0);
    EXPECT_BAD("segment", o.codes[0][1] = 9);
    EXPECT_BAD("segment", o.codes[0][0] = UINT32_MAX);
    EXPECT_BAD("4 dynamic columns of a selector of 3", o.n_dynamic = 4);
    EXPECT_BAD("dynamic", o.n_dynamic = UINT32_MAX);
    EXPECT_BAD("energy", o.k_energy = -0.5f);
    EXPECT_BAD("energy", o.k_energy = NAN);
    EXPECT_BAD("energy", o.k_energy = INFINITY);
    EXPECT_BAD("not two", o.n_break_even = 1);
    EXPECT_BAD("not two", o.n_break_even = 3);
    EXPECT_BAD("negative", o.break_even[1] = (uint64_t)-1);

    aq_projection p = sample();
    take_optional(&some, &p);
    p.k_energy = -1;
    aq_test_fails(aq_projection_write(path_of("bad.aqua"), &p), AQ_ERR_NUMERIC, "energy");
    p.k_energy = 1;
    p.codes.n_segment = AQ_CODE_SEGMENTS + 1;
    aq_test_fails(aq_projection_write(path_of("bad.aqua"), &p), AQ_ERR_NUMERIC, "no layout");
    aq_projection_free(&p);
}

/* Every damaged byte of the optional fields is refused or read, never a crash. */
static void test_damaged_optional_fields(void) {
    aq_projection p = sample();
    buffer file;
    encode(&p, none, &file);
    const size_t begin = file.n;
    encode_optional(&p, &some, &file);
    const size_t end = file.n;
    int n_refused = 0;
    for (size_t i = begin; i < end; i++)
        for (int bit = 0; bit < 8; bit++) {
            file.bytes[i] ^= (uint8_t)(1 << bit);
            seal(&file);
            n_refused += read_bytes(file.bytes, file.n) != AQ_OK;
            file.bytes[i] ^= (uint8_t)(1 << bit);
        }
    CU_ASSERT_TRUE(n_refused > 50);
    aq_projection_free(&p);
}

static void test_default_codes(void) {
    const struct {
        int d;
        const char *text;
    } cases[] = {{3, "3x4"}, {64, "16x4,32x2,16x1"}, {128, "32x4,64x2,32x1"}, {256, "64x4"}};
    for (int i = 0; i < 4; i++) {
        aq_projection p = {.d_head = cases[i].d};
        const aq_code_layout codes = aq_projection_codes(&p);
        char text[64];
        CU_ASSERT_STRING_EQUAL(aq_code_layout_text(&codes, text, sizeof text), cases[i].text);
    }
    aq_projection p = {.d_head = 64, .codes = {.n_segment = 1, .segments = {{8, 3}}}};
    CU_ASSERT_EQUAL(aq_projection_codes(&p).segments[0].bits, 3);
}

static void test_names_and_sizes(void) {
    aq_basis basis;
    for (int b = 0; b < AQ_BASIS_N; b++) {
        aq_test_ok(aq_basis_parse(aq_basis_name((aq_basis)b), &basis));
        CU_ASSERT_EQUAL(basis, (aq_basis)b);
    }
    aq_test_fails(aq_basis_parse("svd", &basis), AQ_ERR_USAGE, "joint kq kpca identity");
    aq_projection p = {.n_layer = 1, .n_kv_head = 1, .d_head = AQ_PROJECTION_MAX_DIM + 1};
    aq_test_fails(aq_projection_alloc(&p), AQ_ERR_USAGE, "out of range");
    aq_test_fails(aq_projection_read(path_of("absent.aqua"), &p), AQ_ERR_IO, "absent.aqua");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "round trip", test_round_trip);
    CU_add_test(suite, "file equals an independent encoder's", test_independent_encoder);
    CU_add_test(suite, "every truncation and flipped byte", test_every_truncation_and_flip);
    CU_add_test(suite, "damage under a right checksum", test_sealed_damage);
    CU_add_test(suite, "wrong fields", test_wrong_fields);
    CU_add_test(suite, "wrong numbers", test_wrong_numbers);
    CU_add_test(suite, "a message that asks for too much memory", test_memory_bomb);
    CU_add_test(suite, "escape sequences in the name", test_escapes_are_masked);
    CU_add_test(suite, "full disk", test_full_disk);
    CU_add_test(suite, "another model's projection", test_check_against_model);
    CU_add_test(suite, "optional fields", test_optional_fields);
    CU_add_test(suite, "wrong optional fields", test_wrong_optional_fields);
    CU_add_test(suite, "damaged optional fields", test_damaged_optional_fields);
    CU_add_test(suite, "default codes of a selector", test_default_codes);
    CU_add_test(suite, "names and sizes", test_names_and_sizes);
}
