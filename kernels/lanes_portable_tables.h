/* Private to kernels/: small tables of floats, looked up by code; the rest of lanes_portable.h. */
#ifndef AQ_KERNELS_LANES_PORTABLE_TABLES_H
#define AQ_KERNELS_LANES_PORTABLE_TABLES_H

/* The 16 values step * j + base of a 4-bit code j; at() looks only at the low 4 bits. */
typedef struct {
    aq_v step, base;
} aq_levels;

static inline aq_levels aq_levels_make(float step, float base) {
    return (aq_levels){aq_v_set1(step), aq_v_set1(base)};
}

static inline aq_v aq_levels_at(aq_levels levels, aq_vi index) {
    return aq_v_fma(aq_v_from_int(index & 15), levels.step, levels.base);
}

#endif
