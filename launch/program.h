/* What the commands of aqua-dist share: the way from options to an engine and a session. */
#ifndef AQ_LAUNCH_PROGRAM_H
#define AQ_LAUNCH_PROGRAM_H

#include <stdbool.h>

#include "launch/options.h"
#include "src/aqua.h"
#include "src/model/report.h"

typedef struct {
    const aq_options *options;
    aq_comm *world;
    bool first; /* rank 0, which talks to the user */
} aq_program;

/* The commands. Each returns the same status on every rank, or does not return. Collective. */
aq_status aq_command_run(const aq_program *program);
aq_status aq_command_calibrate(const aq_program *program);
aq_status aq_command_eval_ppl(const aq_program *program);
aq_status aq_command_eval_logits(const aq_program *program);
aq_status aq_command_eval_recall(const aq_program *program);
aq_status aq_command_eval_needle(const aq_program *program);
aq_status aq_command_eval_tasks(const aq_program *program);
aq_status aq_command_eval_ablate(const aq_program *program);
aq_status aq_command_plan(const aq_program *program);
aq_status aq_command_tokenize(const aq_program *program);
aq_status aq_command_info(const aq_program *program);

/* AQ_ERR_USAGE naming the option if a needed text was not given. Local. */
aq_status aq_program_need(const char *value, const char *option);

/* MODEL.aqua for MODEL.gguf or the folder MODEL; fresh memory, NULL if there is none. Local. */
char *aq_program_projection_path(const char *model);

/* The rope, thread and device options as the engine takes them, without a projection.
 * AQ_ERR_USAGE. Local. */
aq_status aq_program_engine_options(const aq_program *program, aq_engine_options *out);

/* Opens the engine of the options, with the projection that --projection names, or the one beside
 * the model if --attn needs one and it is there; checks --basis and --split, which the caller
 * applies (launch/shares.h); does what --merge auto asks. Without a projection, aq_context_start
 * makes one. Collective. */
aq_status aq_program_open_engine(const aq_program *program, aq_engine **out);

/* The same with before_load, check_arg and unread of `extra`. Collective. */
aq_status aq_program_open_engine_as(const aq_program *program, const aq_engine_options *extra,
                                    aq_engine **out);

/* The session the options ask for, with room for n_ctx tokens. Local. */
aq_session_options aq_program_session_options(const aq_options *options, int64_t n_ctx);

/* Passes AQ_OK. A failure inside a step is this rank's alone while the others may be waiting for
 * it: prints one line with rank and host and ends the job; with one rank returns it. Local. */
aq_status aq_program_step(const aq_program *program, aq_status status);

/* Facts of the run that every report holds. Local. */
void aq_program_report_engine(aq_report *report, const aq_program *program,
                              const aq_engine *engine);

#endif
