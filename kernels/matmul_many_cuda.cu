/* Many tokens, on CUDA: cuBLAS multiplies panels of numbers that weights are turned to. Contract:
 * matmul.h.
 *
 * F32 weights, and with AQUA_CUDA_MATH=fp32 all, are multiplied in fp32. Else tokens and weights
 * are rounded to IEEE half, the tokens times a power of two that brings their largest element to
 * 2^14 .. 2^15, so that neither end of the range of half floats cuts them off; cuBLAS multiplies
 * panels of them with sums in fp32 and divides by the power. The scratch memory holds
 *
 *   scales | tokens, a piece of them [n_tok, ld] | a panel of weights [n_row, ld] */
#include "kernels/cuda_matmul_parts.h"
#include "kernels/cuda_reduce_parts.h"
#include "kernels/cuda_weight_parts.h"

#define THREADS       256
#define MAX_BLOCKS    1024
#define MAX_GRID_ROWS 65535
#define LD_ALIGN      8 /* halves: 16 bytes, which the matrix units ask for */
#define SCALE_BYTES   256
#define HALF_MAX      65504.0f
#define TOP           14 /* exponent that the largest element gets */

typedef struct {
    unsigned largest; /* of the absolute values of all tokens, as bits */
    float alpha;      /* one over the power of two */
    float beta_zero, beta_one;
} token_scales;

static_assert(sizeof(token_scales) <= SCALE_BYTES, "scales fit before the tokens");

/* Bits of absolute values order like the values; infinities and NaN do not count. */
__global__ static void largest_kernel(const float *x, int64_t n, token_scales *scales) {
    unsigned largest = 0;
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * THREADS) {
        const unsigned bits = __float_as_uint(x[i]) & 0x7fffffffu;
        if (bits < 0x7f800000u) largest = max(largest, bits);
    }
    largest = __reduce_max_sync(AQ_ALL, largest);
    if (threadIdx.x % AQ_WARP == 0) atomicMax(&scales->largest, largest);
}

/* The power of two; of numbers below 2^-86 it stays finite, and they small. */
__device__ static float scale_of(unsigned largest) {
    const int exponent = (int)(largest >> 23) - 127;
    return largest > 0 ? ldexpf(1.0f, min(TOP - exponent, 100)) : 1.0f;
}

__global__ static void tokens_kernel(const float *x, int64_t n_in, int64_t ld, token_scales *scales,
                                     __half *out) {
    const float scale = scale_of(scales->largest);
    const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i < n_in) out[blockIdx.y * ld + i] = __float2half_rn(x[blockIdx.y * n_in + i] * scale);
    if (i > 0 || blockIdx.y > 0) return;
    scales->alpha = 1.0f / scale;
    scales->beta_zero = 0.0f;
    scales->beta_one = 1.0f;
}

/* What is too large becomes the largest half, as in dtype.h; NaN stays. */
__device__ static __half half_of(float v) {
    return __float2half_rn(v > HALF_MAX ? HALF_MAX : v < -HALF_MAX ? -HALF_MAX : v);
}

__device__ static void put(float v, __half *out) {
    *out = half_of(v);
}

__device__ static void put(float v, float *out) {
    *out = v;
}

/* A run of weights to an address that is a multiple of four elements. */
template <int RUN> __device__ static void put_run(const float *value, float *out) {
#pragma unroll
    for (int i = 0; i < RUN; i += 4)
        *(float4 *)(out + i) = *(const float4 *)(value + i);
}

template <int RUN> __device__ static void put_run(const float *value, __half *out) {
#pragma unroll
    for (int i = 0; i < RUN; i += 4) {
        const __half2 low = __halves2half2(half_of(value[i]), half_of(value[i + 1]));
        const __half2 high = __halves2half2(half_of(value[i + 2]), half_of(value[i + 3]));
        *(uint2 *)(out + i) = {*(const unsigned *)&low, *(const unsigned *)&high};
    }
}

/* A thread turns the same piece of some rows. */
template <aq_dtype type, class number>
__global__ static void panel_kernel(const uint8_t *w, int64_t n_row, int64_t n_in,
                                    int64_t row_bytes, int64_t ld, number *out) {
    typedef aq_weight<type> weight;
    constexpr int run = weight::elems / 2;
    const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i >= n_in / weight::elems) return;
    for (int64_t r = blockIdx.y; r < n_row; r += gridDim.y) {
        alignas(16) float value[weight::elems];
        int64_t first, second;
        aq_piece_values<type>(w + r * row_bytes, i, value, &first, &second);
        put_run<run>(value, out + r * ld + first);
        put_run<run>(value + run, out + r * ld + second);
    }
}

/* Rows of numbers that no piece fits: of any length, on any address. */
template <aq_dtype type, class number>
__global__ static void odd_panel_kernel(const uint8_t *w, int64_t n_row, int64_t n_in,
                                        int64_t row_bytes, int64_t ld, number *out) {
    const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i >= n_in) return;
    for (int64_t r = blockIdx.y; r < n_row; r += gridDim.y)
        put(aq_element<type>(w + r * row_bytes, i), out + r * ld + i);
}

/* How the scratch memory is shared out for one width. */
typedef struct {
    aq_cuda *cuda;
    token_scales *scales;
    __half *tokens; /* [most_tok, ld] */
    void *panel;    /* of halves or floats, [n_row, ld] */
    int64_t panel_bytes;
    int64_t n_in, ld; /* ld: from one row to the next of all */
    int64_t most_tok;
} many_plan;

static many_plan plan_of(aq_cuda *cuda, int64_t n_in, int64_t n_tok) {
    many_plan plan = {};
    plan.cuda = cuda;
    plan.scales = (token_scales *)cuda->scratch;
    plan.n_in = n_in;
    plan.ld = aq_blocks_of(n_in, LD_ALIGN) * LD_ALIGN;
    const int64_t row = plan.ld * (int64_t)sizeof(__half);
    const int64_t bytes = (int64_t)cuda->scratch_bytes - SCALE_BYTES, n_fit = bytes / row;
    plan.most_tok = n_fit / 2 < MAX_GRID_ROWS ? n_fit / 2 : MAX_GRID_ROWS;
    if (n_tok < plan.most_tok) plan.most_tok = n_tok;
    plan.tokens = (__half *)((char *)cuda->scratch + SCALE_BYTES);
    plan.panel = plan.tokens + plan.most_tok * plan.ld;
    plan.panel_bytes = bytes - plan.most_tok * row;
    return plan;
}

static void find_largest(const many_plan *plan, const float *x, int64_t n_tok) {
    const cudaStream_t stream = plan->cuda->stream;
    const int64_t n = n_tok * plan->n_in, n_block = aq_blocks_of(n, THREADS);
    cudaMemsetAsync(plan->scales, 0, sizeof *plan->scales, stream);
    largest_kernel<<<(unsigned)(n_block < MAX_BLOCKS ? n_block : MAX_BLOCKS), THREADS, 0, stream>>>(
        x, n, plan->scales);
}

static void put_tokens(const many_plan *plan, const float *x, int64_t n_tok) {
    const dim3 grid((unsigned)aq_blocks_of(plan->n_in, THREADS), (unsigned)n_tok);
    tokens_kernel<<<grid, THREADS, 0, plan->cuda->stream>>>(x, plan->n_in, plan->ld, plan->scales,
                                                            plan->tokens);
}

template <aq_dtype type, class number>
static void launch_panel(const many_plan *plan, const uint8_t *w, int64_t n_row, number *panel) {
    typedef aq_weight<type> weight;
    const cudaStream_t stream = plan->cuda->stream;
    const int64_t n_in = plan->n_in, row_bytes = aq_dtype_row_bytes(type, n_in);
    const bool odd = n_in % weight::elems != 0 || (uintptr_t)w % sizeof(float4) != 0;
    const int64_t n_piece = !weight::scaled && odd ? n_in : n_in / weight::elems;
    const dim3 grid((unsigned)aq_blocks_of(n_piece, THREADS),
                    (unsigned)(n_row < MAX_GRID_ROWS ? n_row : MAX_GRID_ROWS));
    if constexpr (!weight::scaled)
        if (odd) {
            odd_panel_kernel<type>
                <<<grid, THREADS, 0, stream>>>(w, n_row, n_in, row_bytes, plan->ld, panel);
            return;
        }
    panel_kernel<type><<<grid, THREADS, 0, stream>>>(w, n_row, n_in, row_bytes, plan->ld, panel);
}

template <aq_dtype type>
static void panel_of_halves(const many_plan *plan, const uint8_t *w, int64_t n_row) {
    launch_panel<type, __half>(plan, w, n_row, (__half *)plan->panel);
}

template <aq_dtype type>
static void panel_of_floats(const many_plan *plan, const uint8_t *w, int64_t n_row) {
    launch_panel<type, float>(plan, w, n_row, (float *)plan->panel);
}

/* What is multiplied at once: rows [row, row + n_row) of a part, which `panel` holds, with n_tok
 * tokens that give rows of y. The scales are on the device, and cuBLAS is told so. */
typedef struct {
    const aq_matmul_part *part;
    const void *panel;
    int64_t row, n_row;
    const void *tokens;
    int64_t n_tok;
    float *y; /* of the first token */
} product;

static void multiply_halves(const many_plan *plan, const product *p) {
    const cublasHandle_t blas = plan->cuda->blas;
    const token_scales *scales = plan->scales;
    cublasSetPointerMode(blas, CUBLAS_POINTER_MODE_DEVICE);
    const cublasStatus_t status = cublasGemmEx(
        blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)p->n_row, (int)p->n_tok, (int)plan->n_in,
        &scales->alpha, p->panel, CUDA_R_16F, (int)plan->ld, p->tokens, CUDA_R_16F, (int)plan->ld,
        p->part->accumulate ? &scales->beta_one : &scales->beta_zero, p->y + p->row, CUDA_R_32F,
        (int)p->part->n_out, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    cublasSetPointerMode(blas, CUBLAS_POINTER_MODE_HOST);
    aq_cuda_check_blas(plan->cuda, status, "matmul");
}

static void multiply_floats(const many_plan *plan, const product *p, int64_t ld) {
    const float alpha = 1.0f, beta = p->part->accumulate ? 1.0f : 0.0f;
    aq_cuda_check_blas(plan->cuda,
                       cublasSgemm(plan->cuda->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)p->n_row,
                                   (int)p->n_tok, (int)plan->n_in, &alpha, (const float *)p->panel,
                                   (int)ld, (const float *)p->tokens, (int)plan->n_in, &beta,
                                   p->y + p->row, (int)p->part->n_out),
                       "matmul");
}

/* Products in fp32 of all tokens with a part. */
static void multiply_exactly(const many_plan *plan, const aq_matmul_each_args *a,
                             const aq_matmul_part *part) {
    const int64_t row_bytes = aq_dtype_row_bytes(part->dtype, a->n_in);
    const int64_t most_row = plan->panel_bytes / (plan->ld * (int64_t)sizeof(float));
    product p = {part, part->w, 0, part->n_out, a->x, a->n_tok, part->y};
    if (part->dtype == AQ_F32) {
        multiply_floats(plan, &p, a->n_in);
        return;
    }
    p.panel = plan->panel;
    for (p.row = 0; p.row < part->n_out; p.row += most_row) {
        const uint8_t *w = (const uint8_t *)part->w + p.row * row_bytes;
        p.n_row = part->n_out - p.row < most_row ? part->n_out - p.row : most_row;
        AQ_WITH_WEIGHT(part->dtype, panel_of_floats, plan, w, p.n_row)
        multiply_floats(plan, &p, plan->ld);
    }
}

/* Products in halves of the tokens in the scratch memory, t and after, with a part. Halves on
 * addresses that the matrix units read are a panel already. */
static void multiply_rounded(const many_plan *plan, const aq_matmul_part *part, int64_t t,
                             int64_t n_tok) {
    const int64_t row_bytes = aq_dtype_row_bytes(part->dtype, plan->n_in);
    const int64_t most_row = plan->panel_bytes / (plan->ld * (int64_t)sizeof(__half));
    product p = {part, part->w, 0, part->n_out, plan->tokens, n_tok, part->y + t * part->n_out};
    if (part->dtype == AQ_F16 && plan->n_in == plan->ld && (uintptr_t)part->w % 16 == 0) {
        multiply_halves(plan, &p);
        return;
    }
    p.panel = plan->panel;
    for (p.row = 0; p.row < part->n_out; p.row += most_row) {
        const uint8_t *w = (const uint8_t *)part->w + p.row * row_bytes;
        p.n_row = part->n_out - p.row < most_row ? part->n_out - p.row : most_row;
        AQ_WITH_WEIGHT(part->dtype, panel_of_halves, plan, w, p.n_row)
        multiply_halves(plan, &p);
    }
}

static bool is_exact(const aq_cuda *cuda, const aq_matmul_part *part) {
    return cuda->exact || part->dtype == AQ_F32;
}

void aq_cuda_matmul_many(aq_cuda *cuda, const aq_matmul_each_args *a) {
    const many_plan plan = plan_of(cuda, a->n_in, a->n_tok);
    bool rounded = false;
    for (int p = 0; p < a->n_part; p++) {
        rounded = rounded || !is_exact(cuda, &a->parts[p]);
        if (is_exact(cuda, &a->parts[p])) multiply_exactly(&plan, a, &a->parts[p]);
    }
    if (rounded) find_largest(&plan, a->x, a->n_tok);
    for (int64_t t = 0; rounded && t < a->n_tok; t += plan.most_tok) {
        const int64_t left = a->n_tok - t, n_tok = left < plan.most_tok ? left : plan.most_tok;
        put_tokens(&plan, a->x + t * a->n_in, n_tok);
        for (int p = 0; p < a->n_part; p++)
            if (!is_exact(cuda, &a->parts[p])) multiply_rounded(&plan, &a->parts[p], t, n_tok);
    }
    aq_cuda_check(cuda, "matmul");
}
