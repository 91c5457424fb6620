/* Stands in for simd_x86.c and its tables where the compiler does not target x86-64: the tables
 * exist but hold no loops, and detection never leads to them. */
#include "kernels/cpu.h"

const aq_simd aq_simd_avx2 = {.name = "avx2, not built"};
const aq_simd aq_simd_avx512 = {.name = "avx512, not built"};
const aq_simd aq_simd_avx512vnni = {.name = "avx512vnni, not built"};

aq_cpu_isa aq_cpu_isa_detect(void) {
    return AQ_ISA_PORTABLE;
}
