/* Private to kernels/: what Hopper has for groups of four warps (sm_90a): products that read shared
 * memory behind the threads, barriers of memory, and registers that change hands. */
#ifndef AQ_KERNELS_CUDA_WGMMA_PARTS_H
#define AQ_KERNELS_CUDA_WGMMA_PARTS_H

#include <stdint.h>

#define AQ_WGMMA_ROW   128  /* bytes of a row of shared memory that products read */
#define AQ_WGMMA_EIGHT 1024 /* of eight rows, which begin at a multiple of it */

/* Where piece `piece` of 16 bytes of row `row` is, of rows of eight pieces, moved about as products
 * expect it. */
static __device__ __forceinline__ int aq_cuda_wgmma_piece(int row, int piece) {
    return row * AQ_WGMMA_ROW + ((piece ^ (row & 7)) << 4);
}

/* A matrix in shared memory whose groups of eight rows lie behind each other, `apart` bytes between
 * its panels of 64 columns; `apart` counts only where rows are those of the inner index. */
static __device__ __forceinline__ uint64_t aq_cuda_wgmma_matrix(const void *shared, int apart) {
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)(apart >> 4) << 16 |
           (uint64_t)(AQ_WGMMA_EIGHT >> 4) << 32 | (uint64_t)1 << 62;
}

#define AQ_TEN(n)                                                                                  \
    "%" #n "0, %" #n "1, %" #n "2, %" #n "3, %" #n "4, %" #n "5, %" #n "6, %" #n "7, %" #n         \
    "8, %" #n "9, "
#define AQ_FOUR_OF(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3])
#define AQ_SIXTEEN_OF(x, i)                                                                        \
    AQ_FOUR_OF(x, i), AQ_FOUR_OF(x, i + 4), AQ_FOUR_OF(x, i + 8), AQ_FOUR_OF(x, i + 12)

/* c[64, n] = a[64, 16] b[16, n], or += where `adds`, of bf16 with sums in fp32, n twice the numbers
 * of c; a[64 rows, 16] is a matrix in shared memory. Turned: rows of b in shared memory are those
 * of the inner index; else its columns. Lane: of c rows 16 warp + lane / 4 and that + 8, columns 8
 * i + 2 (lane % 4) and + 1 in c[4 i ..], as of aq_cuda_mma_bf16. It runs on its own; what it reads
 * and c must be left alone until it is waited for. */
template <bool Turned>
static __device__ __forceinline__ void aq_cuda_wgmma(float (&c)[32], uint64_t a, uint64_t b,
                                                     int adds) {
    asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{" AQ_TEN() AQ_TEN(1) AQ_TEN(2) "%30, %31}, %32, %33, adds, 1, 1, 0, %35; }"
                 : AQ_SIXTEEN_OF(c, 0), AQ_SIXTEEN_OF(c, 16)
                 : "l"(a), "l"(b), "r"(adds), "n"(Turned));
}

template <bool Turned>
static __device__ __forceinline__ void aq_cuda_wgmma(float (&c)[64], uint64_t a, uint64_t b,
                                                     int adds) {
    asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{" AQ_TEN() AQ_TEN(1) AQ_TEN(2) AQ_TEN(3) AQ_TEN(4)
                     AQ_TEN(5) "%60, %61, %62, "
                               "%63}, %64, %65, adds, 1, 1, 0, %67; }"
                 : AQ_SIXTEEN_OF(c, 0), AQ_SIXTEEN_OF(c, 16), AQ_SIXTEEN_OF(c, 32),
                   AQ_SIXTEEN_OF(c, 48)
                 : "l"(a), "l"(b), "r"(adds), "n"(Turned));
}

/* The same with a in registers, as of aq_cuda_mma_bf16, and b turned: c += a b. */
static __device__ __forceinline__ void aq_cuda_wgmma_rows(float (&c)[32], const uint32_t *a,
                                                          uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{" AQ_TEN() AQ_TEN(1) AQ_TEN(2) "%30, %31}, {%32, %33, %34, %35}, %36, "
                                                  "1, 1, 1, 1;"
                 : AQ_SIXTEEN_OF(c, 0), AQ_SIXTEEN_OF(c, 16)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

static __device__ __forceinline__ void aq_cuda_wgmma_rows(float (&c)[64], const uint32_t *a,
                                                          uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{" AQ_TEN() AQ_TEN(1) AQ_TEN(2) AQ_TEN(3) AQ_TEN(4)
                     AQ_TEN(5) "%60, %61, %62, "
                               "%63}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                 : AQ_SIXTEEN_OF(c, 0), AQ_SIXTEEN_OF(c, 16), AQ_SIXTEEN_OF(c, 32),
                   AQ_SIXTEEN_OF(c, 48)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef AQ_TEN
#undef AQ_FOUR_OF
#undef AQ_SIXTEEN_OF

/* Before products: registers that they use are written. */
static __device__ __forceinline__ void aq_cuda_wgmma_begin(void) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/* Ends a batch of products; waits until no more than N batches are under way. */
static __device__ __forceinline__ void aq_cuda_wgmma_end(void) {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int N> static __device__ __forceinline__ void aq_cuda_wgmma_wait(void) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* The compiler reads or writes x on this side of the call only. */
template <int N> static __device__ __forceinline__ void aq_cuda_wgmma_hold(float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(x[i])::"memory");
}

/* What this thread wrote to shared memory can be read by products, and a barrier of memory that it
 * opened used by copies, after the next barrier. */
static __device__ __forceinline__ void aq_cuda_wgmma_show(void) {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* A barrier of memory: its phase ends when n have arrived; a wait for phase k, counted from 0, is
 * for one of `parity` k % 2 where no later one has ended. Before the first has ended, parity 1 is
 * over. */
static __device__ __forceinline__ void aq_cuda_barrier_open(uint64_t *barrier, int n) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(barrier)),
                 "r"(n)
                 : "memory");
}

static __device__ __forceinline__ void aq_cuda_barrier_arrive(uint64_t *barrier) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0]; }" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(barrier))
                 : "memory");
}

/* The phase does not end before that many bytes more have been copied; starts such a copy, of a
 * multiple of 16 bytes, and so aligned. */
static __device__ __forceinline__ void aq_cuda_barrier_expect(uint64_t *barrier, int bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(barrier)),
                 "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void aq_cuda_copy_block(void *shared, const void *from, int bytes,
                                                          uint64_t *barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"((uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(from), "r"(bytes), "r"((uint32_t)__cvta_generic_to_shared(barrier))
                 : "memory");
}

static __device__ __forceinline__ void aq_cuda_barrier_wait(uint64_t *barrier, uint32_t parity) {
    uint32_t over = 0;
    do
        asm volatile("{ .reg .pred over;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, over; }"
                     : "=r"(over)
                     : "r"((uint32_t)__cvta_generic_to_shared(barrier)), "r"(parity)
                     : "memory");
    while (!over);
}

/* A barrier of n threads of the block, of number `id`; arriving without waiting; whether any of
 * them says so. */
static __device__ __forceinline__ void aq_cuda_barrier_some(int id, int n) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory");
}

static __device__ __forceinline__ bool aq_cuda_barrier_any(int id, int n, bool says) {
    int any;
    asm volatile("{ .reg .pred says, any; setp.ne.b32 says, %3, 0;\n"
                 "bar.red.or.pred any, %1, %2, says; selp.s32 %0, 1, 0, any; }"
                 : "=r"(any)
                 : "r"(id), "r"(n), "r"((int)says)
                 : "memory");
    return any != 0;
}

/* Registers of each thread of this group from now on. */
template <int N> static __device__ __forceinline__ void aq_cuda_registers_less(void) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> static __device__ __forceinline__ void aq_cuda_registers_more(void) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

#endif
