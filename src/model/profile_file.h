/* How fast a machine is, as `aqua-dist plan --profile` measures it and src/engine/forecast.h takes
 * it: a JSON file, keys and units in docs/formats.md. */
#ifndef AQ_MODEL_PROFILE_FILE_H
#define AQ_MODEL_PROFILE_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"

#define AQ_PROFILE_READS  64 /* entries at most */
#define AQ_PROFILE_POINTS 16
#define AQ_PROFILE_TYPES  16
#define AQ_PROFILE_WAYS   8
#define AQ_PROFILE_NAME   16  /* bytes of a short name, with the final 0 */
#define AQ_PROFILE_TEXT   128 /* of a long one */

/* Products with weights of one stored type. */
typedef struct {
    char type[AQ_PROFILE_NAME]; /* "Q4_1" */
    double decode_gbs;          /* one token: 10^9 bytes of weights a second */
    double prefill_gflops;      /* many: 10^9 multiplications and additions a second, as two */
} aq_type_rate;

/* One way of attention, over steps of a whole model or its first layers. */
typedef struct {
    char attn[AQ_PROFILE_NAME]; /* "dense", "aqua", "select" */
    char key_type[AQ_PROFILE_NAME], value_type[AQ_PROFILE_NAME];
    /* A decoded token: of a layer, whatever the context, what is neither product nor attention,
     * and of attention; then of each token of context and KV head, what reading the selector takes
     * (0 without one), and what each token that is attended to does. */
    double layer_us, attend_us, scan_ns, attend_ns;
    /* Share of n tokens of context that is attended to: share (n / share_at)^share_power, 1 at
     * most. */
    double share, share_at, share_power;
    /* Prefill: of a token and layer, what is neither product nor attention; of a query head and
     * token that it sees. */
    double row_us, pair_ns;
} aq_way_rate;

/* All of that for ranks of n_thread threads. */
typedef struct {
    int n_thread;
    int n_rank_on_host; /* that were measured at the same time */
    int n_type, n_way;
    aq_type_rate types[AQ_PROFILE_TYPES];
    aq_way_rate ways[AQ_PROFILE_WAYS];
} aq_profile_point;

typedef struct {
    int n_thread;
    double gbs; /* 10^9 bytes a second that n_thread threads read together */
} aq_read_rate;

typedef struct {
    char host[AQ_PROFILE_TEXT], isa[AQ_PROFILE_NAME];
    char model[AQ_PROFILE_TEXT]; /* whose shapes were timed */
    int n_read, n_point;
    aq_read_rate reads[AQ_PROFILE_READS];       /* threads rising */
    aq_profile_point points[AQ_PROFILE_POINTS]; /* threads rising */
    bool network_measured; /* between ranks; else what the next two say was given */
    double latency_us;     /* of a message */
    double bandwidth_gbs;  /* 10^9 bytes a second that a rank sends */
} aq_profile;

/* Reads and checks a file: every number finite, rates above 0, times 0 or above, at least one point
 * and one read rate, threads rising. AQ_ERR_IO, AQ_ERR_FORMAT (names the key), AQ_ERR_MEMORY.
 * Local. */
aq_status aq_profile_read(const char *path, aq_profile *out);

/* Writes it, numbers so that they are read back exactly. AQ_ERR_IO, AQ_ERR_MEMORY. Local. */
aq_status aq_profile_write(const char *path, const aq_profile *profile);

#endif
