/* Times steps of the engine as they are, for src/engine/forecast.h: products with the model's own
 * weights, and attention and all else in sessions of one rank. For programs that plan. */
#ifndef AQ_ENGINE_PROBE_H
#define AQ_ENGINE_PROBE_H

#include "src/engine/engine.h"
#include "src/model/profile_file.h"

/* Tokens of context behind which decoding is timed. */
#define AQ_PROBE_NEAR 256
#define AQ_PROBE_FAR  2048

/* Fills out->n_thread, types and ways, the latter as the options options[n_way] ask (n_ctx is not
 * looked at), with a team of n_thread threads beside the engine's. ids[n], n from AQ_PROBE_NEAR +
 * 64 on, are prefilled and decoded; of a large model, through as many of its first layers as take
 * some seconds. What select reads depends on the text: ids should be one. Takes some seconds a way.
 * Errors of aq_session_open and of a step; AQ_ERR_USAGE: too few ids, too many ways. The engine
 * must be of one rank, on the processors, and its weights read. Local. */
aq_status aq_probe_point(const aq_engine *engine, int n_thread, const aq_session_options *options,
                         int n_way, const int32_t *ids, int64_t n, aq_profile_point *out);

/* Latency and bandwidth between the ranks of comm, of all-gathers as steps make them: into
 * out->latency_us and bandwidth_gbs, with network_measured; of one rank they are left alone.
 * AQ_ERR_MEMORY, AQ_ERR_COMM. Collective. */
aq_status aq_probe_network(aq_comm *comm, aq_profile *out);

/* out->reads: what 1, 2, 4 .. and n_thread threads of this process read (bandwidth.h).
 * AQ_ERR_MEMORY, AQ_ERR_COMM. Local. */
aq_status aq_probe_reads(int n_thread, aq_profile *out);

#endif
