/* Asks an x86-64 processor what it can run. */
#include "kernels/cpu.h"

aq_cpu_isa aq_cpu_isa_detect(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return __builtin_cpu_supports("avx512vnni") ? AQ_ISA_AVX512VNNI : AQ_ISA_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AQ_ISA_AVX2;
    return AQ_ISA_PORTABLE;
}
