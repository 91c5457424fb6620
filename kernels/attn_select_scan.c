/* Selecting attention: scores from the codes, weights, and the search for their bound. */
#include <math.h>
#include <string.h>

#include "kernels/attn_select_parts.h"
#include "kernels/kv_decode.h"

/* The bound is found to within this difference of the bits of floats: a factor of 257/256 at most.
 */
#define BOUND_BITS (1u << 15)

/* The columns of the selector that query i reads, into dims; returns their number. */
static int choose_columns(const aq_select_block *b, int i) {
    const int n_col = b->args->kv.n_col, n_code = b->task->n_code, group = b->task->group;
    const float *q = b->q + (int64_t)i * group * n_col;
    if (b->args->n_dynamic == 0 || b->args->n_dynamic >= n_code) {
        for (int c = 0; c < n_code; c++)
            b->dims[c] = (int16_t)c;
        return n_code;
    }
    memset(b->strength, 0, (size_t)n_code * sizeof(float));
    for (int h = 0; h < group; h++)
        for (int c = 0; c < n_code; c++)
            b->strength[c] += fabsf(q[h * n_col + c]);
    b->simd->choose(b->strength, b->args->weight + (int64_t)b->g * n_col, n_code,
                    b->args->n_dynamic, b->rank, b->dims);
    return b->args->n_dynamic;
}

/* Collects the columns that any query of the block reads, and of each row those of its query. */
void aq_select_take_columns(aq_select_block *b) {
    const int n_col = b->args->kv.n_col, n_code = b->task->n_code, group = b->task->group;
    int32_t *place = b->rank; /* after the choice: of a column among those read */
    float *wide = b->q_code;  /* [n_row, n_code] first; 0 where a query does not read */
    b->n_column = 0;
    memset(wide, 0, (size_t)b->n_row * (size_t)n_code * sizeof *wide);
    for (int i = 0; i < b->n_query; i++) {
        const int n = choose_columns(b, i);
        for (int r = i * group; r < (i + 1) * group; r++)
            for (int j = 0; j < n; j++)
                wide[(int64_t)r * n_code + b->dims[j]] = b->q[(int64_t)r * n_col + b->dims[j]];
    }
    memset(place, 0, (size_t)n_code * sizeof *place);
    for (int r = 0; r < b->n_row; r++)
        for (int c = 0; c < n_code; c++)
            place[c] |= wide[(int64_t)r * n_code + c] != 0.0f;
    for (int c = 0; c < n_code; c++)
        if (place[c]) b->columns[b->n_column++] = (int16_t)c;
    for (int r = 0; r < b->n_row; r++)
        for (int j = 0; j < b->n_column; j++)
            b->q_code[r * b->n_column + j] = wide[(int64_t)r * n_code + b->columns[j]];
}

/* Puts exact scores in place of those of the codes, for query i: tokens `needed` of tile `tile`,
 * whose keys are packed. */
static void score_exactly(const aq_select_block *b, int i, int64_t tile, uint64_t needed) {
    const int group = b->task->group;
    const int64_t stride = b->task->z_stride;
    float *z = b->z + (int64_t)i * group * stride + tile * AQ_TILE;
    while (needed != 0) {
        int first;
        const int n = aq_select_run(needed, &first);
        aq_select_dot_packed(b, first, n, i * group, group, z + first, stride);
        needed &= ~aq_select_bits_between(first, first + n);
    }
}

/* Exact scores where a query needs them. */
static void score_near(aq_select_block *b, int64_t tile) {
    const bool open = aq_kv_is_open(&b->args->kv, tile);
    uint64_t needed[AQ_SELECT_ROWS], any = 0;
    for (int i = 0; i < b->n_query; i++) {
        needed[i] = open ? aq_select_seen_bits(b->args, &b->view[i], tile)
                         : aq_select_near_bits(b->args, &b->view[i], tile);
        any |= needed[i];
    }
    if (any == 0) return;
    aq_select_pack_keys(b, tile);
    for (int i = 0; i < b->n_query; i++)
        score_exactly(b, i, tile, needed[i]);
}

/* Gives -inf to tokens of tiles tile .. tile_end that query i does not see. */
static void hide_unseen(const aq_select_block *b, int i, int64_t tile, int64_t tile_end) {
    const int group = b->task->group;
    const int64_t stride = b->task->z_stride;
    tile_end = aq_select_min(aq_select_tiles_of(b->view[i].n_seen), tile_end);
    for (; tile < tile_end; tile++) {
        float *z = b->z + (int64_t)i * group * stride + tile * AQ_TILE;
        uint64_t unseen = ~aq_select_seen_bits(b->args, &b->view[i], tile);
        for (; unseen != 0; unseen &= unseen - 1)
            for (int h = 0; h < group; h++)
                z[h * stride + __builtin_ctzll(unseen)] = -INFINITY;
    }
}

/* The scores z of tiles tile .. tile_end; -inf for tokens that a query does not see. */
void aq_select_scan_tiles(aq_select_block *b, int64_t tile, int64_t tile_end) {
    const aq_kv_view *kv = &b->args->kv;
    const int64_t bytes = aq_kv_selector_bytes(kv), stride = b->task->z_stride;
    for (int64_t j = tile; j < tile_end; j++) {
        if (!aq_kv_is_open(kv, j)) {
            b->simd->code_columns(&(aq_code_columns_args){
                .block = (const uint8_t *)kv->selector + (j * kv->n_kv_head + b->g) * bytes,
                .layout = &kv->codes,
                .n = b->task->n_code,
                .columns = b->columns,
                .n_column = b->n_column,
                .out = b->column});
            b->simd->panel(&(aq_panel_args){.a = b->q_code,
                                            .a_stride = b->n_column,
                                            .n_row = b->n_row,
                                            .n_in = b->n_column,
                                            .b = b->column,
                                            .b_dtype = AQ_F32,
                                            .b_stride = AQ_TILE,
                                            .n_out = AQ_TILE,
                                            .c = b->z + j * AQ_TILE,
                                            .c_stride = stride});
        }
        score_near(b, j);
    }
    for (int i = 0; i < b->n_query; i++)
        hide_unseen(b, i, tile, tile_end);
}

/* Weights of n tokens from `begin` on, whole tiles, in place of the scores of row 0 of query i.
 * Returns their sum. */
float aq_select_weigh_tokens(const aq_select_block *b, int i, int64_t begin, int64_t n,
                             float *largest) {
    const int group = b->task->group;
    float *z = b->z + (int64_t)i * group * b->task->z_stride + begin;
    return b->simd->weigh(&(aq_weigh_args){.z = z,
                                           .z_stride = b->task->z_stride,
                                           .m = b->m + i * group,
                                           .log_l = b->log_l + i * group,
                                           .n_row = group,
                                           .mean = b->args->group_mean,
                                           .n = n,
                                           .w = z},
                          largest);
}

/* Takes the near ones out of the weights of tiles tile .. tile_end of query i; returns their sum.
 */
float aq_select_take_near(const aq_select_block *b, int i, int64_t tile, int64_t tile_end) {
    float *w = b->z + (int64_t)i * b->task->group * b->task->z_stride, sum = 0.0f;
    for (; tile < tile_end; tile++) {
        uint64_t near = aq_select_near_bits(b->args, &b->view[i], tile);
        for (; near != 0; near &= near - 1) {
            float *one = w + tile * AQ_TILE + __builtin_ctzll(near);
            sum += *one;
            *one = 0.0f;
        }
    }
    return sum;
}

/* n weights that sum up to `total`, of which near tokens hold `near`. Those below
 * (1 - mass) total / n hold no more than may be left out; half of it leaves room for roundings. If
 * near tokens are enough the bound is beyond all weights. */
aq_select_search aq_select_start_search(double mass, double total, double near, double largest,
                                        int64_t n) {
    const uint32_t beyond = aq_select_bits_of(INFINITY);
    const double target = mass * total - near;
    if (target <= 0.0) return (aq_select_search){.low = beyond, .high = beyond};
    return (aq_select_search){
        .low = aq_select_bits_of((float)(0.5 * (1.0 - mass) * total / (double)n)),
        .high = aq_select_bits_of((float)largest) + 1,
        .target = (float)target};
}

bool aq_select_search_ends(const aq_select_search *search) {
    return search->high <= search->low || search->high - search->low <= BOUND_BITS;
}

/* Bounds that cut the rest of the search in equal pieces. */
void aq_select_try_bounds(const aq_select_search *search, float *least) {
    const uint32_t piece = (search->high - search->low) / (AQ_MASS_BOUNDS + 1);
    for (uint32_t k = 0; k < AQ_MASS_BOUNDS; k++)
        least[k] = aq_select_float_of(search->low + (k + 1) * piece);
}

/* Takes in the mass from each of these bounds on. */
void aq_select_narrow(aq_select_search *search, const float *least, const float *mass) {
    for (int k = 0; k < AQ_MASS_BOUNDS; k++) {
        if (mass[k] >= search->target) {
            search->low = aq_select_bits_of(least[k]);
        } else {
            search->high = aq_select_bits_of(least[k]);
            return;
        }
    }
}

/* Finds the bound of query i from its scores. */
void aq_select_find_bound(aq_select_block *b, int i) {
    const int group = b->task->group;
    const int64_t n = aq_select_tiles_of(b->view[i].n_seen) * AQ_TILE;
    float largest, least[AQ_MASS_BOUNDS], mass[AQ_MASS_BOUNDS];
    for (int r = i * group; r < (i + 1) * group; r++) {
        float l;
        b->simd->soft_total(b->z + r * b->task->z_stride, n, &b->m[r], &l);
        b->log_l[r] = logf(l);
    }
    const float total = aq_select_weigh_tokens(b, i, 0, n, &largest);
    const float near = aq_select_take_near(b, i, 0, n / AQ_TILE);
    aq_select_search search = aq_select_start_search(b->args->mass, total, near, largest, n);
    while (!aq_select_search_ends(&search)) {
        aq_select_try_bounds(&search, least);
        b->simd->mass_from(b->z + (int64_t)i * group * b->task->z_stride, n, least, mass);
        aq_select_narrow(&search, least, mass);
    }
    b->view[i].least = aq_select_float_of(search.low);
}
