/* Partial attention of many queries on Hopper (sm_90a): as attn_prefill_cuda.cu, with products of
 * groups of four warps, whose keys and values are in shared memory.
 *
 * A block of threads has 64 rows of a KV head for each of GROUPS groups, and goes through the tiles
 * one or two a step. One group more makes them bf16 in shared memory, some steps ahead of the
 * others. Those have scores, the online softmax and results in their registers, and queries in
 * shared memory. Scores of a step are multiplied while the weights of the step before are with its
 * values, and the softmax of one group runs beside the products of another (Shah et al. 2024, arXiv
 * 2407.08608). */
#include <math.h>

#include "kernels/cuda_prefill_parts.h"
#include "kernels/cuda_wgmma_parts.h"

#define GROUPS  2
#define ROWS    64  /* of a group */
#define GROUP   128 /* threads */
#define THREADS ((GROUPS + 1) * GROUP)
#define WHOLE   0xffffffffu

/* Registers of a thread: of 168 that each has, those who load give some to the others. Together no
 * more than all have. */
#define LOADER_REGISTERS   88
#define MULTIPLY_REGISTERS 208

/* Numbers of barriers of threads; 0 is that of the block. */
#define LOADERS     1
#define FIRST_GROUP 2

template <int D> struct prefill_shape {
    static constexpr int tiles = D > 128 ? 1 : 2; /* of a step */
    static constexpr int tokens = tiles * AQ_TILE;
    static constexpr int width = D > 128 ? 128 : D; /* of results that are summed by one product */
    static constexpr int parts = D / width;
    static constexpr int stages = D == 64 ? 4 : D == 128 ? 3 : 2;
    static constexpr int key_codes = 4 * D + AQ_TILE * D; /* bytes of a block */
    static constexpr int value_codes = 3 * AQ_TILE + AQ_TILE * D;
};

template <int D> struct prefill_step {
    int64_t tile[prefill_shape<D>::tiles]; /* -1: none; the first is -1 behind the last step */
    bool whole;                            /* all rows see all of it */
};

/* Rows of 128 bytes, in panels one behind the other of 64 columns: queries [D / 64, ROWS, 64] of a
 * group, keys by token and values [D / 64, tokens, 64]; keys by column [tiles, D, 64]. Blocks of
 * codes of the next step, as in the cache, are in the last stage, or have room of their own. */
template <int D> struct prefill_shared {
    static constexpr int stages = prefill_shape<D>::stages;
    static constexpr int own_codes =
        stages > 2 ? 0 : prefill_shape<D>::key_codes + prefill_shape<D>::value_codes;
    char q[GROUPS][ROWS * D * 2];
    char keys[stages][prefill_shape<D>::tokens * D * 2];
    char values[stages][prefill_shape<D>::tokens * D * 2];
    uint8_t codes[own_codes + 16];
    int64_t pos[GROUPS * ROWS]; /* of the query; INT64_MIN behind the last */
    prefill_step<D> step[stages];
    uint64_t keys_full[stages], keys_free[stages], values_full[stages], values_free[stages];
    uint64_t key_codes_full, value_codes_full;
};

template <int D>
static __device__ __forceinline__ uint8_t *key_codes(prefill_shared<D> &shared, int t) {
    uint8_t *codes = shared.own_codes ? shared.codes : (uint8_t *)shared.keys[shared.stages - 1];
    return codes + t * prefill_shape<D>::key_codes;
}

template <int D>
static __device__ __forceinline__ uint8_t *value_codes(prefill_shared<D> &shared, int t) {
    uint8_t *codes = shared.own_codes ? shared.codes + prefill_shape<D>::key_codes
                                      : (uint8_t *)shared.values[shared.stages - 1];
    return codes + t * prefill_shape<D>::value_codes;
}

/* Stages of a cache: one less where the last has codes. */
template <int D> static __device__ __forceinline__ int stages_of(const aq_cuda_cache &cache) {
    const bool fetches = cache.kv.key_type == AQ_KV_Q8 || cache.kv.value_type == AQ_KV_Q8;
    return prefill_shape<D>::stages - (fetches && prefill_shape<D>::stages > 2);
}

/* The stage of a step, and how often it was used before, odd or even. */
struct prefill_turn {
    int stage;
    uint32_t parity;
};

static __device__ __forceinline__ void turn(prefill_turn &now, int n_stage) {
    now.parity ^= now.stage + 1 == n_stage;
    now.stage = now.stage + 1 == n_stage ? 0 : now.stage + 1;
}

/* Place of piece `piece` of row `row` + `more` in panels of n_row rows; `more` is a multiple of a
 * power of 2 above `row`, so that its part of the place is known to the compiler. */
static __device__ __forceinline__ int panel_piece(int row, int more, int piece, int n_row) {
    return piece / 8 * n_row * AQ_WGMMA_ROW + more * AQ_WGMMA_ROW +
           (aq_cuda_wgmma_piece(row, piece % 8) ^ (more & 7) << 4);
}

/* What the group that loads knows. */
struct prefill_loader {
    const aq_attn_partial_args &a;
    const aq_cuda_cache &cache;
    int g, n_share;
    int64_t next;                  /* the tile to look at */
    bool fetch_keys, fetch_values; /* codes of bytes, which are fetched a step ahead */
};

template <int D>
static __device__ __forceinline__ prefill_step<D> find_step(prefill_loader &loader,
                                                            const aq_cuda_row_places &places) {
    const auto any = [](bool says) { return aq_cuda_barrier_any(LOADERS, GROUP, says); };
    prefill_step<D> step = {{0}, true};
#pragma unroll
    for (int t = 0; t < prefill_shape<D>::tiles; t++) {
        bool whole = false;
        const int64_t tile =
            aq_cuda_next_tile(loader.a, places, loader.next, loader.n_share, GROUP, any, &whole);
        step.tile[t] = tile < loader.a.n_tile ? tile : -1;
        step.whole = step.whole && whole;
        loader.next = tile < loader.a.n_tile ? tile + loader.n_share : loader.a.n_tile;
    }
    return step;
}

/* One thread starts to copy the blocks of codes of a step, of which its barrier tells. */
template <int D>
static __device__ __forceinline__ void
fetch_keys(const prefill_loader &loader, const prefill_step<D> &step, prefill_shared<D> &shared) {
    constexpr int bytes = prefill_shape<D>::key_codes;
    if (!loader.fetch_keys || threadIdx.x != 0) return;
    for (int t = 0; t < prefill_shape<D>::tiles; t++) {
        const int64_t at = step.tile[t] < 0 ? -1 : aq_cuda_place(loader.a, step.tile[t]);
        if (at < 0 || aq_cuda_open(loader.cache, at)) continue;
        aq_cuda_barrier_expect(&shared.key_codes_full, bytes);
        aq_cuda_copy_block(key_codes<D>(shared, t), aq_cuda_key_block(loader.cache, at, loader.g),
                           bytes, &shared.key_codes_full);
    }
    aq_cuda_barrier_arrive(&shared.key_codes_full);
}

template <int D>
static __device__ __forceinline__ void
fetch_values(const prefill_loader &loader, const prefill_step<D> &step, prefill_shared<D> &shared) {
    constexpr int bytes = prefill_shape<D>::value_codes;
    if (!loader.fetch_values || threadIdx.x != 0) return;
    for (int t = 0; t < prefill_shape<D>::tiles; t++) {
        const int64_t at = step.tile[t] < 0 ? -1 : aq_cuda_place(loader.a, step.tile[t]);
        if (at < 0 || aq_cuda_open(loader.cache, at)) continue;
        aq_cuda_barrier_expect(&shared.value_codes_full, bytes);
        aq_cuda_copy_block(value_codes<D>(shared, t),
                           aq_cuda_value_block(loader.cache, at, loader.g), bytes,
                           &shared.value_codes_full);
    }
    aq_cuda_barrier_arrive(&shared.value_codes_full);
}

template <int D, bool ByColumn>
static __device__ __forceinline__ void put_keys(const prefill_loader &loader,
                                                const prefill_step<D> &step,
                                                prefill_shared<D> &shared, int stage) {
#pragma unroll
    for (int t = 0; t < prefill_shape<D>::tiles; t++) {
        if (step.tile[t] < 0) continue;
        const int64_t at = aq_cuda_place(loader.a, step.tile[t]);
        char *to = shared.keys[stage] + t * AQ_TILE * AQ_WGMMA_ROW * (ByColumn ? D / 64 : 1);
        aq_cuda_put_keys<D, ByColumn, GROUP>(
            loader.cache, at, loader.g, key_codes<D>(shared, t), [=](int row, int more, int piece) {
                return to + panel_piece(row, more, piece, ByColumn ? 0 : prefill_shape<D>::tokens);
            });
    }
}

/* Zeros for a tile that is none: its weights are 0. */
template <int D>
static __device__ __forceinline__ void put_values(const prefill_loader &loader,
                                                  const prefill_step<D> &step,
                                                  prefill_shared<D> &shared, int stage) {
#pragma unroll
    for (int t = 0; t < prefill_shape<D>::tiles; t++) {
        char *to = shared.values[stage] + t * AQ_TILE * AQ_WGMMA_ROW;
        if (step.tile[t] < 0) {
            for (int i = threadIdx.x; i < AQ_TILE * D / 8; i += GROUP)
                *(uint4 *)(to + panel_piece(i % AQ_TILE, 0, i / AQ_TILE,
                                            prefill_shape<D>::tokens)) = make_uint4(0, 0, 0, 0);
            continue;
        }
        const int64_t at = aq_cuda_place(loader.a, step.tile[t]);
        aq_cuda_put_values<D, GROUP>(
            loader.cache, at, loader.g, value_codes<D>(shared, t), [=](int s, int more, int piece) {
                return to + panel_piece(s, more, piece, prefill_shape<D>::tokens);
            });
    }
}

static __device__ __forceinline__ void say_full(uint64_t *barrier) {
    aq_cuda_wgmma_show();
    aq_cuda_barrier_arrive(barrier);
}

/* Puts one step after the other to shared memory. Copies come in batches: keys and then values of
 * each step. Codes of the step after it are fetched as its own have been read. Copies of a step are
 * told of when those of the next are under way, if there are stages for that. */
template <int D, bool ByColumn>
static __device__ void load_steps(const aq_attn_partial_args &a, const aq_cuda_cache &cache,
                                  int n_share, int64_t n_real, prefill_shared<D> &shared) {
    const aq_cuda_row_places places = aq_cuda_places_of(shared.pos, GROUPS * ROWS, n_real);
    const bool copies_keys = cache.kv.key_type == AQ_KV_BF16;
    const bool copies_values = cache.kv.value_type == AQ_KV_BF16;
    const int n_stage = stages_of<D>(cache);
    const bool late = n_stage > 2;
    prefill_loader loader = {a,
                             cache,
                             (int)blockIdx.y,
                             n_share,
                             blockIdx.z,
                             cache.kv.key_type == AQ_KV_Q8,
                             cache.kv.value_type == AQ_KV_Q8};
    prefill_step<D> step = find_step<D>(loader, places);
    fetch_keys<D>(loader, step, shared);
    fetch_values<D>(loader, step, shared);
    uint32_t parity = 0; /* of the step */
    prefill_turn now = {0, 1};
    for (int before = -1;; before = now.stage, turn(now, n_stage)) {
        const int stage = now.stage;
        const prefill_step<D> next = find_step<D>(loader, places);
        const bool ends = step.tile[0] < 0;
        aq_cuda_barrier_wait(&shared.keys_free[stage], now.parity);
        if (threadIdx.x == 0) shared.step[stage] = step;
        if (loader.fetch_keys) aq_cuda_barrier_wait(&shared.key_codes_full, parity);
        put_keys<D, ByColumn>(loader, step, shared, stage);
        if (!copies_keys) say_full(&shared.keys_full[stage]);
        if (loader.fetch_keys) aq_cuda_barrier_some(LOADERS, GROUP);
        fetch_keys<D>(loader, next, shared);
        aq_cuda_copies_end();
        if (late && !ends) {
            aq_cuda_copies_wait<2>();
            if (copies_keys && before >= 0) say_full(&shared.keys_full[before]);
        } else {
            aq_cuda_copies_wait<1>();
            if (late && copies_keys && before >= 0) say_full(&shared.keys_full[before]);
            if (copies_values && before >= 0) say_full(&shared.values_full[before]);
            if (copies_keys) {
                aq_cuda_copies_wait<0>();
                say_full(&shared.keys_full[stage]);
            }
        }
        if (ends) return;
        aq_cuda_barrier_wait(&shared.values_free[stage], now.parity);
        if (loader.fetch_values) aq_cuda_barrier_wait(&shared.value_codes_full, parity);
        put_values<D>(loader, step, shared, stage);
        if (!copies_values) say_full(&shared.values_full[stage]);
        if (loader.fetch_values) aq_cuda_barrier_some(LOADERS, GROUP);
        fetch_values<D>(loader, next, shared);
        aq_cuda_copies_end();
        if (late) {
            aq_cuda_copies_wait<2>();
            if (copies_values && before >= 0) say_full(&shared.values_full[before]);
        }
        step = next;
        parity ^= 1;
    }
}

/* The rows first .. of KV head g for a group, scaled by scale and log2 e. */
template <int D>
static __device__ void load_queries(const aq_attn_partial_args &a, int64_t first, int barrier,
                                    char *to) {
    const int g = blockIdx.y, thread = threadIdx.x % GROUP;
    const int64_t n_all = a.n_q * (a.n_head / a.kv.n_kv_head);
    const float scale = a.scale * AQ_CUDA_LOG2E;
    for (int i = thread; i < ROWS * D / 8; i += GROUP) {
        const int64_t row = first + i / (D / 8);
        const int piece = i % (D / 8);
        const bool reads = row < n_all && !a.dims;
        const float *from = a.q + (reads ? aq_cuda_row_at(a, g, row) * D + 8 * piece : 0);
        float x[8];
#pragma unroll
        for (int k = 0; k < 8; k++)
            x[k] = reads ? scale * from[k] : 0.0f;
        *(uint4 *)(to + panel_piece(i / (D / 8), 0, piece, ROWS)) = aq_cuda_eight_of(x);
    }
    aq_cuda_barrier_some(barrier, GROUP);
    for (int i = thread; a.dims && i < ROWS * a.n_dim; i += GROUP) {
        const int r = i / a.n_dim;
        if (first + r >= n_all) continue;
        const int64_t from = aq_cuda_row_at(a, g, first + r);
        const int c = a.dims[from * a.n_dim + i % a.n_dim];
        __nv_bfloat16 *piece = (__nv_bfloat16 *)(to + panel_piece(r, 0, c / 8, ROWS));
        piece[c % 8] = __float2bfloat16_rn(scale * a.q[from * D + c]);
    }
    aq_cuda_wgmma_show();
    aq_cuda_barrier_some(barrier, GROUP);
}

/* What a thread has of the rows of its group: rows 16 warp + lane / 4 and that + 8. */
template <int D> struct group_rows {
    float score[prefill_shape<D>::tokens / 2];
    uint32_t weight[prefill_shape<D>::tokens / 4]; /* pairs of bf16 */
    float o[prefill_shape<D>::parts][prefill_shape<D>::width / 2];
    float m[2], l[2]; /* l of this thread's tokens */
};

/* Starts the products of queries and keys. */
template <int D, bool ByColumn>
static __device__ __forceinline__ void score_step(const char *q, const char *keys,
                                                  group_rows<D> &rows) {
    constexpr int n_token = prefill_shape<D>::tokens;
    aq_cuda_wgmma_hold(rows.score);
    aq_cuda_wgmma_begin();
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
        const char *of_q = q + c / 4 * ROWS * AQ_WGMMA_ROW + c % 4 * 32;
        const char *of_keys = ByColumn ? keys + c * 2 * AQ_WGMMA_EIGHT
                                       : keys + c / 4 * n_token * AQ_WGMMA_ROW + c % 4 * 32;
        aq_cuda_wgmma<ByColumn>(rows.score, aq_cuda_wgmma_matrix(of_q, 16),
                                aq_cuda_wgmma_matrix(of_keys, ByColumn ? D * AQ_WGMMA_ROW : 16),
                                c > 0);
    }
    aq_cuda_wgmma_end();
}

/* Starts the products of weights and values. */
template <int D>
static __device__ __forceinline__ void mix_step(const char *values, group_rows<D> &rows) {
    constexpr int n_token = prefill_shape<D>::tokens, width = prefill_shape<D>::width;
#pragma unroll
    for (int part = 0; part < prefill_shape<D>::parts; part++)
        aq_cuda_wgmma_hold(rows.o[part]);
    aq_cuda_wgmma_begin();
#pragma unroll
    for (int s = 0; s < n_token / 16; s++)
#pragma unroll
        for (int part = 0; part < prefill_shape<D>::parts; part++)
            aq_cuda_wgmma_rows(
                rows.o[part], rows.weight + 4 * s,
                aq_cuda_wgmma_matrix(values + part * (width / 64) * n_token * AQ_WGMMA_ROW +
                                         s * 2 * AQ_WGMMA_EIGHT,
                                     n_token * AQ_WGMMA_ROW));
    aq_cuda_wgmma_end();
}

/* The tokens of a tile that a row sees, if positions are consecutive: those behind `low` up to
 * `high`. */
static __device__ __forceinline__ void seen_tokens(const aq_attn_partial_args &a, int64_t pos,
                                                   int64_t first, int *low, int *high) {
    const int64_t before = pos - first; /* of a row behind the last: any number */
    *high = pos < first ? -1 : before < AQ_TILE ? (int)before : AQ_TILE;
    *low = pos < first || a.window == 0 || before < a.window ? -1
           : before - a.window < AQ_TILE                     ? (int)(before - a.window)
                                                             : AQ_TILE;
}

/* Takes out what rows do not see. */
template <int D>
static __device__ __forceinline__ void
hide_unseen(const aq_attn_partial_args &a, const int64_t pos[2], const prefill_step<D> &step,
            group_rows<D> &rows) {
#pragma unroll
    for (int t = 0; t < prefill_shape<D>::tiles; t++) {
        const int64_t tile = step.tile[t];
        const bool by_slot = a.slot_pos && tile >= 0;
        int low[2] = {-1, -1}, high[2] = {-1, -1};
        for (int half = 0; half < 2 && !a.slot_pos && tile >= 0; half++)
            seen_tokens(a, pos[half], a.tile_pos[tile], &low[half], &high[half]);
#pragma unroll
        for (int n = 0; n < AQ_TILE / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int s = 8 * n + threadIdx.x % 4 * 2 + e;
                const int64_t token = by_slot ? aq_cuda_token_pos(a, tile, s) : 0;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const bool sees = by_slot ? aq_cuda_sees(a, pos[half], token)
                                              : s > low[half] && s <= high[half];
                    float *score = &rows.score[4 * (t * AQ_TILE / 8 + n) + 2 * half + e];
                    *score = sees ? *score : -INFINITY;
                }
            }
    }
}

/* Scores, of base 2, become weights in fp32; what was summed before counts `keep` times. */
template <int D> static __device__ __forceinline__ void soften(group_rows<D> &rows, float keep[2]) {
    constexpr int n_eight = prefill_shape<D>::tokens / 8;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most[2] = {rows.m[half], rows.m[half]}, sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int n = 0; n < n_eight; n++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                most[e] = fmaxf(most[e], rows.score[4 * n + 2 * half + e]);
        float m = fmaxf(most[0], most[1]);
        m = fmaxf(m, __shfl_xor_sync(WHOLE, m, 1));
        m = fmaxf(m, __shfl_xor_sync(WHOLE, m, 2));
        keep[half] = aq_cuda_exp2(rows.m[half] - m);
#pragma unroll
        for (int n = 0; n < n_eight; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float *score = &rows.score[4 * n + 2 * half + e];
                *score = aq_cuda_exp2(*score - m);
                sum[e] += *score;
            }
        rows.m[half] = m;
        rows.l[half] = rows.l[half] * keep[half] + (sum[0] + sum[1]);
    }
}

template <int D> static __device__ __forceinline__ void pack_weights(group_rows<D> &rows) {
#pragma unroll
    for (int i = 0; i < prefill_shape<D>::tokens / 4; i++)
        rows.weight[i] = aq_cuda_pair_of(rows.score[2 * i], rows.score[2 * i + 1]);
}

template <int D>
static __device__ __forceinline__ void rescale(group_rows<D> &rows, const float keep[2]) {
    if (!__any_sync(WHOLE, keep[0] != 1.0f || keep[1] != 1.0f)) return;
#pragma unroll
    for (int part = 0; part < prefill_shape<D>::parts; part++)
#pragma unroll
        for (int i = 0; i < prefill_shape<D>::width / 2; i++)
            rows.o[part][i] *= keep[i / 2 % 2];
}

template <int D> static __device__ __forceinline__ void hold_results(group_rows<D> &rows) {
#pragma unroll
    for (int part = 0; part < prefill_shape<D>::parts; part++)
        aq_cuda_wgmma_hold(rows.o[part]);
}

/* Says for this warp that it has read what others may now write over. */
static __device__ __forceinline__ void say_free(uint64_t *barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) aq_cuda_barrier_arrive(barrier);
}

/* Goes through the steps with the rows of a group, the first of which is at pos[0]. */
template <int D, bool ByColumn>
static __device__ __forceinline__ void
attend_steps(const aq_attn_partial_args &a, const char *q, const int64_t pos[2], int n_stage,
             prefill_shared<D> &shared, group_rows<D> &rows) {
    float keep[2];
    aq_cuda_barrier_wait(&shared.keys_full[0], 0);
    prefill_step<D> step = shared.step[0];
    if (step.tile[0] < 0) return;
    score_step<D, ByColumn>(q, shared.keys[0], rows);
    aq_cuda_wgmma_wait<0>();
    aq_cuda_wgmma_hold(rows.score);
    say_free(&shared.keys_free[0]);
    if (!step.whole) hide_unseen<D>(a, pos, step, rows);
    soften<D>(rows, keep);
    pack_weights<D>(rows);
    prefill_turn before = {0, 0}, now = {0, 0}; /* weights are of the step before */
    for (turn(now, n_stage);; before = now, turn(now, n_stage)) {
        aq_cuda_barrier_wait(&shared.keys_full[now.stage], now.parity);
        step = shared.step[now.stage];
        if (step.tile[0] < 0) break;
        score_step<D, ByColumn>(q, shared.keys[now.stage], rows);
        aq_cuda_barrier_wait(&shared.values_full[before.stage], before.parity);
        mix_step<D>(shared.values[before.stage], rows);
        aq_cuda_wgmma_wait<1>();
        aq_cuda_wgmma_hold(rows.score);
        say_free(&shared.keys_free[now.stage]);
        if (!step.whole) hide_unseen<D>(a, pos, step, rows);
        soften<D>(rows, keep);
        aq_cuda_wgmma_wait<0>();
        hold_results<D>(rows);
        say_free(&shared.values_free[before.stage]);
        pack_weights<D>(rows);
        rescale<D>(rows, keep);
    }
    aq_cuda_barrier_wait(&shared.values_full[before.stage], before.parity);
    mix_step<D>(shared.values[before.stage], rows);
    aq_cuda_wgmma_wait<0>();
    hold_results<D>(rows);
}

template <int D>
static __device__ void give_rows(const aq_attn_partial_args &a, int64_t first, group_rows<D> &rows,
                                 float *parts) {
    constexpr int width = prefill_shape<D>::width;
    const int lane = threadIdx.x % 32, warp = threadIdx.x % GROUP / 32;
    const int64_t n_all = a.n_q * (a.n_head / a.kv.n_kv_head);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float l = rows.l[half];
        l += __shfl_xor_sync(WHOLE, l, 1);
        l += __shfl_xor_sync(WHOLE, l, 2);
        const int64_t row = first + warp * 16 + half * 8 + lane / 4;
        if (row >= n_all) continue;
        float *part = parts + aq_cuda_row_at(a, blockIdx.y, row) * (D + 2);
#pragma unroll
        for (int i = 0; i < D / 8; i++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                part[8 * i + lane % 4 * 2 + e] =
                    rows.o[8 * i / width][8 * i % width / 2 + 2 * half + e];
        if (lane % 4 != 0) continue;
        const float m = rows.m[half];
        part[D] = m == AQ_CUDA_LOWEST ? -INFINITY : m / AQ_CUDA_LOG2E;
        part[D + 1] = l;
    }
}

template <int D, bool ByColumn>
static __device__ __forceinline__ void attend(const aq_attn_partial_args &a, int64_t first,
                                              int n_stage, prefill_shared<D> &shared,
                                              float *parts) {
    const int group = threadIdx.x / GROUP - 1, lane = threadIdx.x % 32;
    const int row = group * ROWS + threadIdx.x % GROUP / 32 * 16 + lane / 4;
    const int64_t pos[2] = {shared.pos[row], shared.pos[row + 8]};
    first += group * ROWS;
    load_queries<D>(a, first, FIRST_GROUP + group, shared.q[group]);
    group_rows<D> rows;
    for (int half = 0; half < 2; half++) {
        rows.m[half] = AQ_CUDA_LOWEST;
        rows.l[half] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < prefill_shape<D>::tokens / 2; i++)
        rows.score[i] = 0.0f;
#pragma unroll
    for (int part = 0; part < prefill_shape<D>::parts; part++)
#pragma unroll
        for (int i = 0; i < prefill_shape<D>::width / 2; i++)
            rows.o[part][i] = 0.0f;
    attend_steps<D, ByColumn>(a, shared.q[group], pos, n_stage, shared, rows);
    give_rows<D>(a, first, rows, parts + (int64_t)blockIdx.z * a.n_q * a.n_head * (D + 2));
}

/* The last rows, which see most, first. */
template <int D, bool ByColumn>
static __global__ void __launch_bounds__(THREADS, 1)
    prefill(const aq_attn_partial_args a, const aq_cuda_cache cache, int n_share, float *parts) {
    extern __shared__ __align__(AQ_WGMMA_EIGHT) char memory[];
    prefill_shared<D> &shared = *(prefill_shared<D> *)memory;
    constexpr int n_row = GROUPS * ROWS;
    const int group = a.n_head / a.kv.n_kv_head;
    const int64_t first = (int64_t)(gridDim.x - 1 - blockIdx.x) * n_row, n_all = a.n_q * group;
    for (int r = threadIdx.x; r < n_row; r += THREADS)
        shared.pos[r] = first + r < n_all ? a.q_pos[(first + r) / group] : INT64_MIN;
    if (threadIdx.x == 0) {
        aq_cuda_barrier_open(&shared.key_codes_full, 1);
        aq_cuda_barrier_open(&shared.value_codes_full, 1);
        aq_cuda_wgmma_show();
    }
    if (threadIdx.x < shared.stages) {
        aq_cuda_barrier_open(&shared.keys_full[threadIdx.x], GROUP);
        aq_cuda_barrier_open(&shared.values_full[threadIdx.x], GROUP);
        aq_cuda_barrier_open(&shared.keys_free[threadIdx.x], GROUPS * GROUP / 32);
        aq_cuda_barrier_open(&shared.values_free[threadIdx.x], GROUPS * GROUP / 32);
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        aq_cuda_registers_less<LOADER_REGISTERS>();
        load_steps<D, ByColumn>(a, cache, n_share, n_all - first, shared);
    } else {
        aq_cuda_registers_more<MULTIPLY_REGISTERS>();
        attend<D, ByColumn>(a, first, stages_of<D>(cache), shared, parts);
    }
}

typedef void (*prefill_kernel)(const aq_attn_partial_args, const aq_cuda_cache, int, float *);

template <int D> static prefill_kernel kernel_of(aq_key_order order) {
    return order == AQ_KEYS_BY_COLUMN ? prefill<D, true> : prefill<D, false>;
}

template <int D>
static void launch(aq_cuda *cuda, const aq_attn_partial_args *args, dim3 grid, float *parts) {
    const prefill_kernel kernel = kernel_of<D>(args->kv.key_order);
    const size_t bytes = sizeof(prefill_shared<D>);
    static_assert(sizeof(prefill_shared<D>) <= 227 * 1024, "more than a block may have");
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    kernel<<<grid, THREADS, bytes, cuda->stream>>>(*args, aq_cuda_cache_of(&args->kv), (int)grid.z,
                                                   parts);
}

void aq_cuda_prefill_hopper(aq_cuda *cuda, const aq_attn_partial_args *args) {
    const int d = args->kv.d_head, n_row = GROUPS * ROWS;
    const int64_t n_all = args->n_q * (args->n_head / args->kv.n_kv_head);
    const int64_t n_block = (n_all + n_row - 1) / n_row;
    const int n_share = aq_cuda_shares(cuda, args, n_block * args->kv.n_kv_head);
    float *parts = n_share > 1 ? (float *)cuda->scratch : args->part;
    const dim3 grid((unsigned)n_block, (unsigned)args->kv.n_kv_head, (unsigned)n_share);
    if (d == 64)
        launch<64>(cuda, args, grid, parts);
    else if (d == 128)
        launch<128>(cuda, args, grid, parts);
    else
        launch<256>(cuda, args, grid, parts);
    if (n_share > 1)
        aq_cuda_join_parts(cuda, parts, n_share, args->n_q * args->n_head, d, args->part);
}
