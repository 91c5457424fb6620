/* Two passes: the team makes the summaries of all pages, then takes pairs of a query and a KV head
 * one after the other. Written to be read: no speed is claimed for it. */
#include "kernels/attn_pages.h"

#include <math.h>
#include <stdatomic.h>

#include "kernels/cpu.h"
#include "kernels/kv_decode.h"
#include "src/base/arena.h"

typedef struct {
    const aq_attn_pages_args *args;
    const aq_cpu *cpu;
    int group;
    int pages_a_tile;
    int64_t n_page;   /* of all tiles */
    float *summaries; /* [n_kv_head, n_page, 2 n_col]: most, then least */
    char *members;    /* [n_thread, member_bytes] */
    size_t member_bytes;
    atomic_llong next_pair;
} pages_task;

/* What one member works with. */
typedef struct {
    const pages_task *task;
    const aq_attn_pages_args *args;
    const aq_simd *simd;
    int64_t t; /* the query, its position, the KV head */
    int64_t pos;
    int g;
    int64_t n_seen_page; /* pages 0 .. n_seen_page have a token that t sees */
    float *q;            /* [group, n_col] scaled */
    float *signs;        /* [group, 2 n_col]: q where it is above 0, then where it is below */
    float *bound;        /* [group, n_page] */
    uint32_t *rank;      /* [n_page] u as an integer of the same order; UINT32_MAX: in any case */
    float *score;        /* [group, AQ_TILE] */
    float *key;          /* [AQ_TILE, n_col] */
    float *value;        /* [AQ_TILE, d_head] */
    float *keep;         /* [group] */
    void *decode;        /* for decoding */
} pages_member;

static void carve_member(pages_member *m, const aq_kv_view *kv, int group, int64_t n_page,
                         aq_arena *arena) {
    const size_t rows = (size_t)group, n_col = (size_t)kv->n_col, f = sizeof(float);
    m->q = aq_arena_carve(arena, rows * n_col, f);
    m->signs = aq_arena_carve(arena, rows * 2 * n_col, f);
    m->bound = aq_arena_carve(arena, rows * (size_t)n_page, f);
    m->rank = aq_arena_carve(arena, (size_t)n_page, sizeof *m->rank);
    m->score = aq_arena_carve(arena, rows * AQ_TILE, f);
    m->key = aq_arena_carve(arena, AQ_TILE * n_col, f);
    m->value = aq_arena_carve(arena, AQ_TILE * (size_t)kv->d_head, f);
    m->keep = aq_arena_carve(arena, rows, f);
    m->decode = aq_arena_carve(arena, (size_t)aq_decode_work_bytes(kv), 1);
}

/* A multiple of the alignment, as is what stands in front of the members. */
static size_t member_bytes(const aq_kv_view *kv, int group, int64_t n_page) {
    aq_arena arena = aq_arena_measure();
    pages_member m;
    carve_member(&m, kv, group, n_page, &arena);
    return (arena.used + AQ_ARENA_ALIGN - 1) / AQ_ARENA_ALIGN * AQ_ARENA_ALIGN;
}

static size_t summary_bytes(const aq_kv_view *kv, int64_t n_page) {
    const size_t n = (size_t)(kv->n_kv_head * n_page * 2 * kv->n_col) * sizeof(float);
    return (n + AQ_ARENA_ALIGN - 1) / AQ_ARENA_ALIGN * AQ_ARENA_ALIGN;
}

int64_t aq_attn_pages_work(const aq_kv_view *kv, int n_head, int n_thread, int64_t n_tile,
                           int n_page) {
    const int64_t pages = n_tile * (AQ_TILE / n_page);
    const size_t member = member_bytes(kv, n_head / kv->n_kv_head, pages);
    return (int64_t)(summary_bytes(kv, pages) + (size_t)n_thread * member);
}

double aq_attn_pages_summary_bytes(const aq_kv_view *kv, int n_page) {
    return 2.0 * kv->n_col / n_page + 4.0 * kv->n_col / AQ_TILE;
}

static pages_member open_member(const pages_task *task, int thread) {
    pages_member m = {.task = task, .args = task->args, .simd = task->cpu->simd};
    aq_arena arena =
        aq_arena_over(task->members + (size_t)thread * task->member_bytes, task->member_bytes);
    carve_member(&m, &task->args->kv, task->group, task->n_page, &arena);
    return m;
}

static int64_t page_pos(const pages_task *task, int64_t page) {
    return task->args->tile_pos[page / task->pages_a_tile] +
           page % task->pages_a_tile * task->args->n_page;
}

/* n keys of a tile from token `first` on: out[n, n_col]. */
static void read_keys(const pages_member *m, int g, int64_t tile, int first, int n, float *out) {
    const aq_kv_view *kv = &m->args->kv;
    const int64_t n_col = kv->n_col;
    if (aq_kv_is_open(kv, tile)) {
        memcpy(out, kv->open_keys + ((int64_t)g * AQ_TILE + first) * n_col,
               (size_t)(n * n_col) * sizeof *out);
    } else if (aq_kv_type_coded(kv->key_type)) {
        aq_decode_key_scales(m->simd, kv, tile, g, m->decode);
        for (int i = 0; i < n; i++)
            aq_decode_key(m->simd, kv, tile, g, first + i, m->decode, out + i * n_col);
    } else {
        const aq_dtype dtype = aq_kv_type_dtype(kv->key_type);
        m->simd->dequantise(dtype,
                            aq_kv_key_block(kv, tile, g) + aq_dtype_row_bytes(dtype, first * n_col),
                            n * n_col, out);
    }
}

/* The values of the same tokens: out[n, d_head]. */
static void read_values(const pages_member *m, int g, int64_t tile, int first, int n, float *out) {
    const aq_kv_view *kv = &m->args->kv;
    const int64_t d = kv->d_head;
    if (aq_kv_is_open(kv, tile)) {
        memcpy(out, kv->open_values + ((int64_t)g * AQ_TILE + first) * d,
               (size_t)(n * d) * sizeof *out);
    } else if (aq_kv_type_coded(kv->value_type)) {
        aq_decode_values(m->simd, kv, tile, g, first, n, m->decode, out);
    } else {
        const aq_dtype dtype = aq_kv_type_dtype(kv->value_type);
        m->simd->dequantise(dtype,
                            aq_kv_value_block(kv, tile, g) + aq_dtype_row_bytes(dtype, first * d),
                            n * d, out);
    }
}

/* The summaries of the pages of a tile. Slots without a token may be in those of a page that no
 * query sees whole, which are not used. */
static void summarise_tile(const pages_member *m, int g, int64_t tile) {
    const pages_task *task = m->task;
    const int n_col = m->args->kv.n_col, n_page = m->args->n_page;
    for (int i = 0; i < task->pages_a_tile; i++) {
        const int64_t page = tile * task->pages_a_tile + i;
        float *most = task->summaries + (g * task->n_page + page) * 2 * n_col;
        float *least = most + n_col;
        read_keys(m, g, tile, i * n_page, n_page, m->key);
        memcpy(most, m->key, (size_t)n_col * sizeof *most);
        memcpy(least, m->key, (size_t)n_col * sizeof *least);
        for (int s = 1; s < n_page; s++)
            for (int c = 0; c < n_col; c++) {
                const float x = m->key[s * n_col + c];
                most[c] = x > most[c] ? x : most[c];
                least[c] = x < least[c] ? x : least[c];
            }
    }
}

static int64_t latest(const aq_attn_pages_args *args) {
    int64_t pos = -1;
    for (int64_t t = 0; t < args->n_q; t++)
        pos = args->q_pos[t] > pos ? args->q_pos[t] : pos;
    return pos;
}

/* This member's share of the tiles that any query sees something of. */
static void summarise(void *arg, int thread, int n_thread) {
    const pages_task *task = arg;
    const aq_attn_pages_args *args = task->args;
    const pages_member m = open_member(task, thread);
    const int64_t last = latest(args);
    int64_t begin, end;
    aq_threads_part(args->kv.n_kv_head * args->n_tile, thread, n_thread, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        if (args->tile_pos[i % args->n_tile] <= last)
            summarise_tile(&m, (int)(i / args->n_tile), i % args->n_tile);
}

/* Takes up query t with KV head g. As max(q least, q most) is q most where q is above 0 and q least
 * where it is below, u is a product of two rows. */
static void take_query(pages_member *m, int64_t t, int g) {
    const aq_attn_pages_args *args = m->args;
    const int n_col = args->kv.n_col, group = m->task->group;
    const float *q = args->q + (t * args->n_head + g * group) * n_col;
    m->t = t;
    m->g = g;
    m->pos = args->q_pos[t];
    for (int r = 0; r < group; r++)
        for (int c = 0; c < n_col; c++) {
            const float x = q[r * n_col + c];
            m->q[r * n_col + c] = x * args->scale;
            m->signs[r * 2 * n_col + c] = x > 0.0f ? x : 0.0f;
            m->signs[(r * 2 + 1) * n_col + c] = x > 0.0f ? 0.0f : x;
        }
    m->n_seen_page = 0;
    while (m->n_seen_page < m->task->n_page && page_pos(m->task, m->n_seen_page) <= m->pos)
        m->n_seen_page++;
}

/* Integers in the order of floats: those below 0 are turned round. */
static uint32_t rank_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Whether a page is taken in any case: it has a near token, or one that is not seen. */
static bool is_near(const pages_member *m, int64_t page) {
    const aq_attn_pages_args *args = m->args;
    const int64_t first = page_pos(m->task, page), last = first + args->n_page - 1;
    return first < args->n_sink || last > m->pos - args->n_recent || last > m->pos;
}

/* rank = that of u for the pages seen; returns how many are taken in any case. */
static int64_t rank_pages(pages_member *m) {
    const pages_task *task = m->task;
    const int n_col = m->args->kv.n_col;
    int64_t n_near = 0;
    m->simd->dot_rows(&(aq_dot_rows_args){
        .dtype = AQ_F32,
        .w = (const uint8_t *)(task->summaries + m->g * task->n_page * 2 * n_col),
        .row_bytes = 2 * n_col * (int64_t)sizeof(float),
        .n_row = m->n_seen_page,
        .n_in = 2 * n_col,
        .x = m->signs,
        .n_tok = task->group,
        .y = m->bound,
        .y_stride = task->n_page});
    for (int64_t p = 0; p < m->n_seen_page; p++) {
        float u = m->bound[p];
        for (int r = 1; r < task->group; r++)
            u = fmaxf(u, m->bound[r * task->n_page + p]);
        const bool near = is_near(m, p);
        m->rank[p] = near ? UINT32_MAX : rank_of(u);
        n_near += near;
    }
    return n_near;
}

static int64_t count_from(const pages_member *m, uint32_t least) {
    int64_t n = 0;
    for (int64_t p = 0; p < m->n_seen_page; p++)
        n += m->rank[p] >= least;
    return n;
}

/* The n-th largest rank, found by halving; n >= 1. */
static uint32_t find_rank(const pages_member *m, int64_t n) {
    uint32_t low = 0, high = UINT32_MAX; /* at least n pages have `low` or more */
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2 + 1;
        if (count_from(m, middle) >= n)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* rank = 1 for the pages of C, 0 for the others. */
static void choose_pages(pages_member *m) {
    const int64_t n_near = rank_pages(m);
    const int64_t asked = (int64_t)ceil(m->args->share * (double)m->n_seen_page);
    const int64_t fitting = asked < m->n_seen_page ? asked : m->n_seen_page;
    const int64_t n = n_near > fitting ? n_near : fitting;
    const uint32_t last = find_rank(m, n);
    int64_t n_equal = n - (last < UINT32_MAX ? count_from(m, last + 1) : 0);
    for (int64_t p = 0; p < m->n_seen_page; p++) {
        const bool equal = m->rank[p] == last && n_equal > 0;
        n_equal -= equal;
        m->rank[p] = m->rank[p] > last || equal;
    }
}

/* Packs the tokens of the chosen pages of a tile that the query sees; returns how many. */
static int pack_tile(const pages_member *m, int64_t tile) {
    const int pages_a_tile = m->task->pages_a_tile, n_page = m->args->n_page;
    const aq_kv_view *kv = &m->args->kv;
    int n = 0;
    for (int i = 0; i < pages_a_tile; i++) {
        const int64_t page = tile * pages_a_tile + i;
        if (page >= m->n_seen_page || !m->rank[page]) continue;
        const int64_t seen = m->pos + 1 - page_pos(m->task, page);
        const int n_here = seen < n_page ? (int)seen : n_page;
        read_keys(m, m->g, tile, i * n_page, n_here, m->key + (int64_t)n * kv->n_col);
        read_values(m, m->g, tile, i * n_page, n_here, m->value + (int64_t)n * kv->d_head);
        n += n_here;
    }
    return n;
}

/* Adds n packed tokens to the results of the group's heads. */
static void mix_packed(const pages_member *m, int n, float *part) {
    const int n_col = m->args->kv.n_col, d_head = m->args->kv.d_head, group = m->task->group;
    m->simd->dot_rows(&(aq_dot_rows_args){.dtype = AQ_F32,
                                          .w = (const uint8_t *)m->key,
                                          .row_bytes = n_col * (int64_t)sizeof(float),
                                          .n_row = n,
                                          .n_in = n_col,
                                          .x = m->q,
                                          .n_tok = group,
                                          .y = m->score,
                                          .y_stride = AQ_TILE});
    for (int r = 0; r < group; r++) {
        float *ml = part + r * (d_head + 2) + d_head;
        m->keep[r] = m->simd->soften(m->score + r * AQ_TILE, 0, n, ml, ml + 1);
    }
    m->simd->panel(&(aq_panel_args){.a = m->score,
                                    .a_stride = AQ_TILE,
                                    .n_row = group,
                                    .n_in = n,
                                    .b = m->value,
                                    .b_dtype = AQ_F32,
                                    .b_stride = d_head,
                                    .n_out = d_head,
                                    .keep = m->keep,
                                    .c = part,
                                    .c_stride = d_head + 2});
}

static void attend_pair(pages_member *m, int64_t t, int g) {
    const pages_task *task = m->task;
    const aq_attn_pages_args *args = m->args;
    float *part = args->part + (t * args->n_head + g * task->group) * (args->kv.d_head + 2);
    int32_t *counts = args->counts + (t * args->kv.n_kv_head + g) * 3;
    aq_cpu_clear_parts(part, task->group, args->kv.d_head);
    counts[0] = counts[1] = counts[2] = 0;
    take_query(m, t, g);
    if (m->n_seen_page == 0) return;
    choose_pages(m);
    const int64_t last = page_pos(task, m->n_seen_page - 1);
    const int64_t hidden = last + args->n_page - 1 - m->pos;
    counts[0] = (int32_t)(m->n_seen_page * args->n_page - (hidden > 0 ? hidden : 0));
    for (int64_t tile = 0; tile * task->pages_a_tile < m->n_seen_page; tile++) {
        const int n = pack_tile(m, tile);
        if (n == 0) continue;
        mix_packed(m, n, part);
        counts[1] += n;
        counts[2]++;
    }
}

/* Takes pairs until none is left, those of the last queries, which see most, first. */
static void take_pairs(void *arg, int thread, int n_thread) {
    pages_task *task = arg;
    const aq_attn_pages_args *args = task->args;
    const int64_t n_pair = args->n_q * args->kv.n_kv_head;
    pages_member m = open_member(task, thread);
    (void)n_thread;
    for (;;) {
        const int64_t i = atomic_fetch_add(&task->next_pair, 1);
        if (i >= n_pair) return;
        const int64_t pair = n_pair - 1 - i;
        attend_pair(&m, pair / args->kv.n_kv_head, (int)(pair % args->kv.n_kv_head));
    }
}

void aq_attn_pages_cpu(aq_cpu *cpu, const aq_attn_pages_args *args) {
    const int pages_a_tile = AQ_TILE / args->n_page;
    const int64_t n_page = args->n_tile * pages_a_tile;
    const int group = args->n_head / args->kv.n_kv_head;
    pages_task task = {.args = args,
                       .cpu = cpu,
                       .group = group,
                       .pages_a_tile = pages_a_tile,
                       .n_page = n_page,
                       .summaries = args->work,
                       .members = (char *)args->work + summary_bytes(&args->kv, n_page),
                       .member_bytes = member_bytes(&args->kv, group, n_page)};
    const int64_t n_key = args->n_tile * AQ_TILE * args->kv.n_kv_head * args->kv.n_col;
    atomic_init(&task.next_pair, 0);
    aq_cpu_run(cpu, n_key, summarise, &task);
    aq_cpu_run(cpu, args->n_q * n_key, take_pairs, &task);
}
