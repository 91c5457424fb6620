/* Selecting attention on the device: memory, the units at hand, and the columns that are read. See
 * cuda_select_parts.h. */
#include <string.h>

#include "kernels/cuda_select_parts.h"

#define THREADS 256

/* Places among as many floats as the device has multiprocessors, and the least of a share. */
#define TILES_OF_A_SHARE       8
#define TOKENS_OF_A_SHARE      4096
#define MOST_TOKENS_OF_A_SHARE 131072 /* sums of open bits stay in 32 bits */

/* Carves `bytes` from *at on; the first place is NULL while sizes are counted. */
static void *carve(char **at, int64_t bytes) {
    void *memory = *at;
    *at += (bytes + 255) / 256 * 256;
    return memory;
}

/* Lays out the scratch of the units at hand from `at` on; returns its bytes. */
static int64_t lay_out(aq_cuda_select *t, char *at) {
    char *begin = at;
    const int64_t f = (int64_t)sizeof(float), n_head = t->n_unit * t->n_block * AQ_SELECT_HEADS;
    t->parts = (float *)carve(&at, t->n_mix * t->n_unit * t->group * (t->a.kv.d_head + 2) * f);
    if (!t->by_mass) return at - begin;
    t->q = (float *)carve(&at, n_head * t->cache.n_code * f);
    t->z = (float *)carve(&at, n_head * t->n_token * f);
    t->ml = (float *)carve(&at, n_head * t->n_scan * 2 * f);
    t->w = (float *)carve(&at, t->n_unit * t->n_token * f);
    t->bin = (uint64_t *)carve(&at, t->n_unit * t->n_bin * (int64_t)sizeof *t->bin);
    t->sum = (uint64_t *)carve(&at, t->n_unit * 2 * (int64_t)sizeof *t->sum);
    t->least = (float *)carve(&at, t->n_unit * f);
    return at - begin;
}

static int clamp_int(int64_t n, int64_t most) {
    return (int)(n < 1 ? 1 : n < most ? n : most);
}

/* How many blocks of threads work on a unit, so that there are enough for the device. */
static void share_units(const aq_cuda *cuda, aq_cuda_select *t, int64_t n_unit) {
    const int64_t tiles = t->a.n_tile / TILES_OF_A_SHARE, n_sm = cuda->n_sm;
    const int64_t tokens = t->n_token / TOKENS_OF_A_SHARE;
    const int64_t most = t->n_token / MOST_TOKENS_OF_A_SHARE + 1;
    const int64_t n_weigh = 2 * n_sm / n_unit;
    t->n_unit = n_unit;
    t->n_scan = clamp_int(tiles < 2 * n_sm / n_unit ? tiles : 2 * n_sm / n_unit, 4096);
    t->n_mix = clamp_int(tiles < 3 * n_sm / n_unit ? tiles : 3 * n_sm / n_unit, AQ_CUDA_SHARES);
    t->n_weigh = clamp_int(tokens < n_weigh ? tokens : n_weigh, 4096);
    if (t->n_weigh < most) t->n_weigh = (int)most;
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Bins from (1 - mass) / n / 2 on, which no token of the smallest set is below, to the largest
 * weight there can be. */
static void lay_bins(aq_cuda_select *t) {
    const double n = t->n_token > 0 ? (double)t->n_token : 1.0;
    const double least = fmax(0.5 * (1.0 - t->a.mass) / n, 0x1p-48);
    const float largest = 1.001f * (float)(t->a.group_mean ? t->group : 1);
    t->first_bin = bits_of((float)least) >> AQ_SELECT_BIN_BITS;
    t->n_bin = (int)((bits_of(largest) >> AQ_SELECT_BIN_BITS) - t->first_bin + 1);
}

/* Marks in read[n_code] the n_dynamic strongest columns: those that fewer are stronger than. */
static __device__ void mark_columns(const aq_cuda_select &t, int64_t query, int g, bool *read,
                                    float *strength) {
    const int n_code = t.cache.n_code, n_col = t.a.kv.n_col;
    const bool all = t.a.n_dynamic == 0 || t.a.n_dynamic >= n_code;
    const float *q = t.a.q + (query * t.a.n_head + (int64_t)g * t.group) * n_col;
    for (int c = threadIdx.x; c < n_code && !all; c += THREADS) {
        float sum = 0.0f;
        for (int h = 0; h < t.group; h++)
            sum += fabsf(q[h * n_col + c] * t.a.scale);
        strength[c] = sum * t.a.weight[g * n_col + c];
    }
    __syncthreads();
    for (int c = threadIdx.x; c < n_code; c += THREADS) {
        int n_stronger = 0;
        for (int other = 0; other < n_code && !all; other++)
            n_stronger +=
                strength[other] > strength[c] || (strength[other] == strength[c] && other < c);
        read[c] = all || n_stronger < t.a.n_dynamic;
    }
    __syncthreads();
}

/* Takes up unit blockIdx.x: its queries over the codes, and sums at 0. */
static __global__ void take_units(const aq_cuda_select t) {
    extern __shared__ float strength[]; /* [n_code], and behind it read[n_code] */
    const int n_code = t.cache.n_code, n_col = t.a.kv.n_col, g = aq_select_head(t, blockIdx.x);
    const int64_t unit = blockIdx.x, query = aq_select_query(t, unit);
    if (t.a.counts && threadIdx.x < 3) t.a.counts[3 * (t.first + unit) + threadIdx.x] = 0;
    if (!t.by_mass) return;
    bool *read = (bool *)(strength + n_code);
    mark_columns(t, query, g, read, strength);
    const float *q = t.a.q + (query * t.a.n_head + (int64_t)g * t.group) * n_col;
    float *to = t.q + unit * t.n_block * AQ_SELECT_HEADS * n_code;
    for (int i = threadIdx.x; i < t.n_block * AQ_SELECT_HEADS * n_code; i += THREADS) {
        const int h = i / n_code, c = i % n_code;
        to[i] = h < t.group && read[c] ? t.scale * q[h * n_col + c] : 0.0f;
    }
    for (int i = threadIdx.x; i < t.n_bin; i += THREADS)
        t.bin[unit * t.n_bin + i] = 0;
    if (threadIdx.x < 2) t.sum[2 * unit + threadIdx.x] = 0;
}

static void select_units(aq_cuda *cuda, aq_cuda_select *t) {
    const size_t bytes = (size_t)t->cache.n_code * (sizeof(float) + sizeof(bool));
    const int64_t width = t->a.kv.d_head + 2;
    take_units<<<(unsigned)t->n_unit, THREADS, bytes, cuda->stream>>>(*t);
    if (t->by_mass && t->n_token > 0) {
        aq_cuda_select_scan(cuda, t);
        aq_cuda_select_weigh(cuda, t);
    }
    aq_cuda_select_mix(cuda, t);
    aq_cuda_join_parts(cuda, t->parts, t->n_mix, t->n_unit * t->group, t->a.kv.d_head,
                       t->a.part + t->first * t->group * width);
}

/* As many units at a time as there is memory for: `work` if it is larger than the scratch. */
void aq_attn_select_cuda(aq_backend *be, const aq_attn_select_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    const bool takes_work = args->work_bytes > (int64_t)cuda->scratch_bytes;
    char *memory = (char *)(takes_work ? args->work : cuda->scratch);
    const int64_t bytes = takes_work ? args->work_bytes : (int64_t)cuda->scratch_bytes;
    const int64_t n_unit = args->n_q * args->kv.n_kv_head;
    aq_cuda_select t = {};
    t.a = *args;
    t.cache = aq_cuda_cache_of(&args->kv);
    t.group = args->n_head / args->kv.n_kv_head;
    t.n_block = (t.group + AQ_SELECT_HEADS - 1) / AQ_SELECT_HEADS;
    t.scale = args->scale * AQ_CUDA_LOG2E;
    t.by_mass = args->mass < 1.0;
    t.n_token = args->n_tile * AQ_TILE;
    lay_bins(&t);
    int64_t at_once = n_unit < 65535 ? n_unit : 65535;
    for (; at_once > 1; at_once = (at_once + 1) / 2) {
        share_units(cuda, &t, at_once);
        if (lay_out(&t, NULL) <= bytes) break;
    }
    for (t.first = 0; t.first < n_unit; t.first += at_once) {
        share_units(cuda, &t, n_unit - t.first < at_once ? n_unit - t.first : at_once);
        lay_out(&t, memory);
        select_units(cuda, &t);
    }
    aq_cuda_check(cuda, "attn_select");
}
