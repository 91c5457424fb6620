/* The command line of aqua-dist: one table gives parsing, --help and the AQUA_* environment. */
#ifndef AQ_LAUNCH_OPTIONS_H
#define AQ_LAUNCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "src/base/status.h"

/* The commands, as bits: an option says which ones take it. */
typedef enum {
    AQ_CMD_RUN = 1,
    AQ_CMD_CALIBRATE = 2,
    AQ_CMD_EVAL_PPL = 4,
    AQ_CMD_EVAL_LOGITS = 8,
    AQ_CMD_TOKENIZE = 16,
    AQ_CMD_INFO = 32,
    AQ_CMD_EVAL_NEEDLE = 64,
    AQ_CMD_EVAL_TASKS = 128,
    AQ_CMD_EVAL_ABLATE = 256,
    AQ_CMD_EVAL_RECALL = 1024,
    AQ_CMD_PLAN = 2048
} aq_command;

/* Texts are NULL and numbers 0 unless given or defaulted (see the table in options.c). */
typedef struct {
    aq_command command;
    bool help, version;
    double timeout;

    const char *model;
    const char *projection; /* file; "auto" becomes NULL and auto_projection */
    bool auto_projection;
    const char *file;
    const char *prompt;
    const char *output;
    const char *report;
    const char *ids;

    bool chat;
    const char *chat_template;
    const char *system;
    bool no_special;
    bool bos;
    int64_t n_predict;
    bool ignore_eos;

    int64_t n_ctx;
    int64_t n_batch;
    int64_t n_thread;
    int64_t n_tp;
    const char *device;
    const char *wire;
    const char *merge;
    const char *split;
    const char *key_type;
    const char *value_type;
    const char *rope_scaling;
    double rope_scale;
    double rope_freq_base;
    int64_t yarn_orig_ctx;

    const char *save_projection;
    const char *attn;
    double mass;
    bool mass_exchange;
    int64_t n_sink, n_recent;
    const char *group_by;
    const char *selector;
    int64_t n_dynamic;
    const char *prefill;
    int64_t n_page;
    double page_share;
    int64_t n_dense_layer;
    bool hybrid;
    int64_t n_h2o;
    double k_tau;
    bool use_k_budget;
    double k_ratio;
    double s_ratio;
    const char *rank_by;
    const char *basis;
    double selector_bytes;
    double k_budget;

    int64_t seed;
    double temp;
    int64_t top_k;
    double top_p;
    double min_p;
    double repeat_penalty;
    int64_t repeat_last_n;

    int64_t n_tok;
    int64_t n_chunk;

    const char *lengths;
    const char *depths;
    int64_t n_try;
    int64_t n_needle;
    const char *key;
    bool generate;
    const char *plot;

    int64_t n_rank; /* plan */
    const char *memory;
    const char *hosts;
    const char *profile;
    const char *use_profile;
    double latency_us;
    double bandwidth_gbs;

    const char *bases;
    const char *calibration;
    const char *rules;
    const char *ratios;
    const char *key_types;
    const char *masses;
    const char *selectors;
} aq_options;

/* Reads the environment, then the arguments (which win). AQ_ERR_USAGE with what is wrong and where
 * to look. Texts point into argv and the environment. Local. */
aq_status aq_options_parse(int argc, char **argv, aq_options *out);

/* Prints the help of a command. Local. */
void aq_options_help(const aq_options *options, FILE *to);

#endif
