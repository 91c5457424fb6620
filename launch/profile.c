#include "launch/profile.h"

#include <stdio.h>
#include <stdlib.h>

#include "launch/prompt.h"
#include "src/base/rng.h"
#include "src/base/threads.h"
#include "src/engine/probe.h"

#define TEXT_TOKENS (AQ_PROBE_FAR + 64)
#define MAX_WAYS    3

/* What is measured, and with which tokens. */
typedef struct {
    const aq_engine *engine;
    aq_session_options ways[MAX_WAYS];
    int n_way;
    aq_token_list ids;
} measurement;

/* Ids of -f, or numbers drawn at random: what dense attention reads does not depend on them. */
static aq_status make_ids(const aq_options *options, measurement *m) {
    const uint64_t n_vocab = (uint64_t)aq_engine_describe(m->engine).n_vocab;
    aq_rng rng = {1};
    int32_t bos = -1;
    if (options->file) return aq_prompt_encode_file(options->model, options->file, &m->ids, &bos);
    for (int i = 0; i < TEXT_TOKENS; i++)
        AQ_TRY(aq_token_list_push(&m->ids, (int32_t)(aq_rng_next(&rng) % n_vocab)));
    return AQ_OK;
}

/* Adds a way unless it is there: as asked, but with all tokens kept and used from the first on. */
static void add_way(const aq_session_options *asked, aq_attn_mode attn, aq_kv_type key_type,
                    aq_kv_type value_type, measurement *m) {
    for (int i = 0; i < m->n_way; i++)
        if (m->ways[i].attn == attn && m->ways[i].key_type == key_type &&
            m->ways[i].value_type == value_type)
            return;
    aq_session_options *way = &m->ways[m->n_way++];
    *way = *asked;
    way->attn = attn;
    way->key_type = key_type;
    way->value_type = value_type;
    way->n_h2o = 0;
    way->hybrid = false;
}

static void list_ways(const aq_options *options, const aq_session_options *asked, measurement *m) {
    const bool projects = options->file && aq_engine_projection(m->engine);
    add_way(asked, AQ_ATTN_DENSE, AQ_KV_BF16, AQ_KV_BF16, m);
    if (projects) add_way(asked, AQ_ATTN_SELECT, AQ_KV_Q8, AQ_KV_Q8, m);
    if (projects || asked->attn == AQ_ATTN_DENSE)
        add_way(asked, asked->attn, asked->key_type, asked->value_type, m);
}

/* Points of T, T / 2, T / 4 .. 1 threads, fewest first: as many threads as ranks have on all ranks
 * at the same time, as in a run; more by rank 0 alone. */
static aq_status measure_points(const aq_program *alone, const aq_comm *world, const measurement *m,
                                aq_profile *out) {
    const int64_t asked = alone->options->n_thread;
    const int n_thread = asked > 0 ? (int)asked : aq_threads_available();
    const int n_here = asked > 0 ? n_thread : aq_engine_threads(world);
    out->n_point = 1;
    for (int t = n_thread; t > 1 && out->n_point < AQ_PROFILE_POINTS; t /= 2)
        out->n_point++;
    for (int i = 0; i < out->n_point; i++) {
        aq_profile_point *point = &out->points[i];
        const int t = n_thread >> (out->n_point - 1 - i);
        if (t > n_here && !alone->first) break;
        AQ_TRY(aq_probe_point(m->engine, t, m->ways, m->n_way, m->ids.ids, m->ids.n, point));
        point->n_rank_on_host = t > n_here ? 1 : aq_comm_size_on_host(world);
    }
    return AQ_OK;
}

static aq_status measure_local(const aq_program *alone, const aq_comm *world,
                               const aq_session_options *asked, measurement *m, aq_profile *out) {
    list_ways(alone->options, asked, m);
    AQ_TRY(make_ids(alone->options, m));
    return measure_points(alone, world, m, out);
}

static void sign(const aq_program *alone, const aq_comm *world, const aq_engine *engine,
                 aq_profile *out) {
    const aq_engine_info info = aq_engine_describe(engine);
    *out = (aq_profile){.latency_us = alone->options->latency_us,
                        .bandwidth_gbs = alone->options->bandwidth_gbs};
    snprintf(out->host, sizeof out->host, "%s", aq_comm_host(world));
    snprintf(out->isa, sizeof out->isa, "%s", info.isa);
    snprintf(out->model, sizeof out->model, "%s", info.name);
}

aq_status aq_profile_make(const aq_program *alone, aq_comm *world, const aq_engine *engine,
                          const aq_session_options *asked, aq_profile *out) {
    measurement m = {.engine = engine};
    const bool first = alone->first;
    sign(alone, world, engine, out);
    AQ_TRY(aq_comm_agree(world, first ? aq_probe_reads(aq_threads_available(), out) : AQ_OK));
    const aq_status status = measure_local(alone, world, asked, &m, out);
    free(m.ids.ids);
    AQ_TRY(aq_comm_agree(world, status));
    AQ_TRY(aq_comm_agree(world, aq_probe_network(world, out)));
    return aq_comm_agree(world, first ? aq_profile_write(alone->options->profile, out) : AQ_OK);
}
