/* Private to kernels/, included by lanes_portable.h only: lanes of integers. */
#ifndef AQ_KERNELS_LANES_PORTABLE_INT_H
#define AQ_KERNELS_LANES_PORTABLE_INT_H

static inline aq_vi aq_vi_set1(int32_t a) {
    return (aq_vi){a, a, a, a};
}

/* AQ_LANES integers at p. */
static inline aq_vi aq_vi_load(const int32_t *p) {
    aq_vi a;
    memcpy(&a, p, sizeof a);
    return a;
}

static inline void aq_vi_store(int32_t *p, aq_vi a) {
    memcpy(p, &a, sizeof a);
}

/* 4 AQ_LANES bytes at p, as they are. */
static inline aq_vi aq_vi_load_bytes(const uint8_t *p) {
    aq_vi a;
    memcpy(&a, p, sizeof a);
    return a;
}

/* 0, 1, 2, ... */
static inline aq_vi aq_vi_count(void) {
    return (aq_vi){0, 1, 2, 3};
}

/* AQ_LANES bytes at p, unsigned or signed, each widened to a lane. */
static inline aq_vi aq_vi_load_u8(const uint8_t *p) {
    return (aq_vi){p[0], p[1], p[2], p[3]};
}

static inline aq_vi aq_vi_load_i8(const uint8_t *p) {
    return (aq_vi){(int8_t)p[0], (int8_t)p[1], (int8_t)p[2], (int8_t)p[3]};
}

static inline aq_vi aq_vi_add(aq_vi a, aq_vi b) {
    return a + b;
}

static inline aq_vi aq_vi_sub(aq_vi a, aq_vi b) {
    return a - b;
}

static inline aq_vi aq_vi_and(aq_vi a, aq_vi b) {
    return a & b;
}

static inline aq_vi aq_vi_or(aq_vi a, aq_vi b) {
    return a | b;
}

/* Shifts by n bits; bits that come in from the left of a negative lane are not for use.
 * aq_vi_half also takes negative ones (rounds down). */
static inline aq_vi aq_vi_left(aq_vi a, int n) {
    return a << n;
}

static inline aq_vi aq_vi_right(aq_vi a, int n) {
    return a >> n;
}

static inline aq_vi aq_vi_half(aq_vi a) {
    return a >> 1;
}

/* Each lane shifted right by its own n; zeros come in. */
static inline aq_vi aq_vi_right_each(aq_vi a, aq_vi n) {
    uint32_t b[AQ_LANES];
    for (int i = 0; i < AQ_LANES; i++)
        b[i] = (uint32_t)a[i] >> n[i];
    memcpy(&a, b, sizeof a);
    return a;
}

static inline aq_v aq_v_from_int(aq_vi a) {
    return (aq_v){(float)a[0], (float)a[1], (float)a[2], (float)a[3]};
}

/* To the nearest integer, for abs(a) < 2^22. Adding 1.5 * 2^23 leaves it in the low bits. */
static inline aq_vi aq_vi_round(aq_v a) {
    const aq_v magic = aq_v_set1(12582912.0f);
    return (aq_vi)(a + magic) - (aq_vi)magic;
}

/* The same bits. */
static inline aq_v aq_v_from_bits(aq_vi a) {
    return (aq_v)a;
}

static inline aq_vi aq_v_bits(aq_v a) {
    return (aq_vi)a;
}

/* In each byte, 0, 7, 13, 20 for 0 to 3. */
static inline aq_vi aq_vi_levels2(aq_vi a) {
    return (a << 3) - a - (a >> 1 & 0x01010101);
}

#endif
