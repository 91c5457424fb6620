/* Private to kernels/: instructions that C++ has no words for. */
#ifndef AQ_KERNELS_CUDA_ASM_PARTS_H
#define AQ_KERNELS_CUDA_ASM_PARTS_H

#include <stdint.h>

/* c[16, 8] += a[16, 32] b[32, 8] of bytes, a without and b with sign. Lane: rows lane / 4 and that
 * + 8 of a in a0 and a1, columns 4 (lane % 4) and on, those + 16 in a2 and a3; the same rows of b,
 * column lane / 4; of c the columns 2 (lane % 4) and + 1 of the first row, then of the second. */
static __device__ __forceinline__ void aq_cuda_mma_bytes(int c[4], uint32_t a0, uint32_t a1,
                                                         uint32_t a2, uint32_t a3,
                                                         const uint32_t b[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b[0]), "r"(b[1]));
}

/* c[16, 8] += a[16, 16] b[16, 8] of pairs of bf16, sums in fp32. Lane: a0 has row lane / 4, columns
 * 2 (lane % 4) and + 1, a1 the row + 8, a2 and a3 the columns + 8; b0 rows 2 (lane % 4) and + 1 of
 * column lane / 4, b1 the rows + 8; c as above. */
static __device__ __forceinline__ void aq_cuda_mma_bf16(float c[4], const uint32_t a[4],
                                                        uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The same of pairs of f16. */
static __device__ __forceinline__ void aq_cuda_mma_f16(float c[4], const uint32_t a[4], uint32_t b0,
                                                       uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four squares of 8 rows of 8 halves: lane i says where row i % 8 of square i / 8 lies in shared
 * memory; x[k] is of square k what a lane has in a product: row lane / 4, columns 2 (lane % 4) and
 * + 1. Turned: column lane / 4, those rows. */
static __device__ __forceinline__ void aq_cuda_load_squares(uint32_t x[4], const void *row) {
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(at)
                 : "memory");
}

static __device__ __forceinline__ void aq_cuda_load_turned(uint32_t x[4], const void *row) {
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(at)
                 : "memory");
}

/* `from`, which a compiler does not see through: offsets from it stay in the instructions. */
static __device__ __forceinline__ const uint8_t *aq_cuda_base(const uint8_t *from) {
    asm("" : "+l"(from));
    return from;
}

/* x & y | z, as one instruction. */
static __device__ __forceinline__ uint32_t aq_cuda_and_or(uint32_t x, uint32_t y, uint32_t z) {
    uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(x), "r"(y), "r"(z));
    return result;
}

/* 2^x to within 2^-22 of it; 0 below 2^-126. */
static __device__ __forceinline__ float aq_cuda_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* The largest of a warp. */
static __device__ __forceinline__ uint32_t aq_cuda_warp_max(uint32_t x) {
    return __reduce_max_sync(0xffffffffu, x);
}

/* 16 bytes that are read once; the load stays where it is asked for. */
static __device__ __forceinline__ uint4 aq_cuda_load16(const void *from) {
    uint4 x;
    asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(from));
    return x;
}

/* Starts a copy of 16 bytes to shared memory, the 128 around which are likely wanted too; ends a
 * group of such copies; waits until no more than `n` groups are under way. */
static __device__ __forceinline__ void aq_cuda_copy16(void *shared, const void *from) {
    const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from)
                 : "memory");
}

static __device__ __forceinline__ void aq_cuda_copies_end(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> static __device__ __forceinline__ void aq_cuda_copies_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif
