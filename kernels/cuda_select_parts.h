/* Private to kernels/: what the files of attn_select share on the device.
 *
 * A unit is a query with a KV head, unit = query * n_kv_head + g; its query heads go in blocks of
 * AQ_SELECT_HEADS. For some units at a time: scores of all tokens from the codes (scan), weights,
 * and masses of equal bins of them (weigh), the bound (choose), the chosen attended to (mix), and
 * the shares of them joined. What depends on the data stays on the device. Sums that many threads
 * add to are whole numbers, so that their order does not matter. */
#ifndef AQ_KERNELS_CUDA_SELECT_PARTS_H
#define AQ_KERNELS_CUDA_SELECT_PARTS_H

#include <math.h>

#include "kernels/attn_select.h"
#include "kernels/cuda_attn_parts.h"
#include "kernels/cuda_cache_parts.h"

#define AQ_SELECT_HEADS 4

/* Bits of a float that a bin leaves open: its ends lie a factor 257/256 apart at most. */
#define AQ_SELECT_BIN_BITS 15

/* Whole numbers that sums of weights are counted in, to 1. */
#define AQ_SELECT_ONE 0x1p52

typedef struct {
    aq_attn_select_args a;
    aq_cuda_cache cache;
    int group, n_block; /* query heads of a KV head, and blocks of them */
    float scale;        /* of the scores, in units of ln 2 */
    uint32_t kinds;     /* of each 16 columns of the selector, see attn_select_scan_cuda.cu */
    bool by_mass;
    int64_t first, n_unit; /* the units at hand */
    int64_t n_token;
    int n_scan, n_weigh, n_mix; /* blocks of threads for a unit */
    uint32_t first_bin;         /* its floats, without the open bits */
    int n_bin;
    /* In scratch, for the units at hand. */
    float *q;      /* [n_unit, n_block, HEADS, n_code] scaled; 0 in columns not read */
    float *z;      /* [n_unit, n_block, n_token / 4, HEADS, 4] in units of ln 2 */
    float *ml;     /* [n_unit, n_block, n_scan, HEADS, 2] */
    float *w;      /* [n_unit, n_token]; 0 if near */
    uint64_t *bin; /* [n_unit, n_bin] count << 40 | sum of the open bits */
    uint64_t *sum; /* [n_unit, 2] weights of near tokens, and of those below all bins */
    float *least;  /* [n_unit] the bound */
    float *parts;  /* [n_mix, n_unit * group, d_head + 2] */
} aq_cuda_select;

/* Query and KV head of unit i of those at hand. */
static __device__ inline int64_t aq_select_query(const aq_cuda_select &t, int64_t i) {
    return (t.first + i) / t.a.kv.n_kv_head;
}

static __device__ inline int aq_select_head(const aq_cuda_select &t, int64_t i) {
    return (int)((t.first + i) % t.a.kv.n_kv_head);
}

/* Where z of a token and a head lies, from the block's first on. */
static __device__ inline int64_t aq_select_z(int64_t token, int head) {
    return (token / 4 * AQ_SELECT_HEADS + head) * 4 + token % 4;
}

/* Position of a token, of those held in order; whether a query at `pos` has it near. */
static __device__ inline int64_t aq_select_pos(const aq_cuda_select &t, int64_t token) {
    return t.a.slot_pos ? t.a.slot_pos[token] : t.a.tile_pos[token / AQ_TILE] + token % AQ_TILE;
}

static __device__ inline bool aq_select_near(const aq_cuda_select &t, int64_t pos, int64_t token) {
    return token <= pos && (token < t.a.n_sink || token > pos - t.a.n_recent);
}

/* The phases. Each asks for kernels on cuda->stream; the first notes `kinds`. */
void aq_cuda_select_scan(aq_cuda *cuda, aq_cuda_select *t);
void aq_cuda_select_weigh(aq_cuda *cuda, const aq_cuda_select *t);
void aq_cuda_select_mix(aq_cuda *cuda, const aq_cuda_select *t);

#endif
