/* One kernel under measurement: what it works on, one call of it, and what such a call must read.
 */
#ifndef AQ_BENCH_KERNEL_CASE_H
#define AQ_BENCH_KERNEL_CASE_H

#include <stdbool.h>

#include "bench/synthetic.h"

#define AQ_KERNEL_K_RATIO 0.75 /* of aqua */
#define AQ_KERNEL_MASS    0.98 /* of select; with 4 sinks and 64 recent tokens */

/* Prefill: a query for each token of the cache. The others: one token. */
typedef enum {
    AQ_KERNEL_DENSE,
    AQ_KERNEL_AQUA,
    AQ_KERNEL_SELECT,
    AQ_KERNEL_PREFILL,
    AQ_KERNEL_MATMUL
} aq_kernel_kind;

/* Which kernel on what. */
typedef struct {
    aq_kernel_kind kind;
    aq_head_shape shape;
    aq_kv_type type;
    int64_t n_tile;
    double needed;  /* select: share of the tokens that the mass takes */
    aq_dtype dtype; /* matmul: of one token with weights [n_out, n_in] */
    int64_t n_out, n_in;
    int n_copy; /* of the cache or the weights, taken in turns */
} aq_kernel_setting;

typedef struct {
    aq_backend *be; /* borrowed */
    aq_kernel_setting setting;
    aq_made_cache cache;
    uint8_t *weights; /* [n_copy, n_out rows]; backend memory */
    /* Backend memory. */
    float *x;               /* the queries [n_q, n_head, d_head], or the activations [n_in] */
    float *y;               /* partial results [n_q, n_head, d_head + 2], or the product [n_out] */
    int16_t *dims;          /* aqua: [n_head, n_dim] */
    int64_t *q_pos;         /* [n_q] */
    void *work;             /* select */
    int32_t *device_counts; /* select: [n_kv_head, 3] of the last call */
    /* Of the host. */
    float *host_x; /* [n_x] x; of prefill a tile of queries, which are repeated */
    float *host_y; /* [n_y] y; of the last query only */
    int16_t *host_dims;
    int32_t *counts; /* device_counts, as aq_kernel_finish found them */
    int64_t n_q, n_x, n_y, work_bytes;
    int n_dim;
    int64_t phase_ns[2]; /* select: sums over calls: scan, choice */
} aq_kernel_case;

/* "attn_partial dense", "attn_partial aqua", "attn_select", "attn_prefill", "matmul". Static.
 * Local.
 */
const char *aq_kernel_name(aq_kernel_kind kind);

/* "q8", "Q4_1": of the cache or the weights. Static. Local. */
const char *aq_kernel_type(const aq_kernel_setting *setting);

/* Bytes of one copy of what the kernel reads, before there is any. Local. */
int64_t aq_kernel_bytes(const aq_kernel_setting *setting);

/* Makes it ready; for select the query is made longer or shorter until the tokens that it takes
 * are as many as `needed` says. The caller closes it, also on failure. AQ_ERR_MEMORY. Local. */
aq_status aq_kernel_open(aq_backend *be, const aq_kernel_setting *setting, aq_kernel_case *out);
void aq_kernel_close(aq_kernel_case *kernel);

/* One call, over copy i; a backend may work behind the caller. Local. */
void aq_kernel_call(aq_kernel_case *kernel, int i);

/* Waits for the calls, and fetches what the last one counted and gave. A failure of one of them.
 * Local. */
aq_status aq_kernel_finish(aq_kernel_case *kernel);

/* Share of the tokens that the last call of select attended to, over KV heads. Local. */
double aq_kernel_attended(const aq_kernel_case *kernel);

/* Bytes that a call like the last one must read: every KV head's cache once for all query heads of
 * its group, the columns that one of them needs, the tokens that are attended to. Local. */
double aq_kernel_reads(const aq_kernel_case *kernel);

/* Operations of a call of prefill, with half of all pairs of tokens: 4 d_head n_head n_q^2 / 2. 0
 * of others. Local. */
double aq_kernel_operations(const aq_kernel_case *kernel);

/* Whether all results of the last call are finite, of prefill those of the last query. Local. */
bool aq_kernel_finite(const aq_kernel_case *kernel);

#endif
