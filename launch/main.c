/* aqua-dist: the program. Parses, dispatches, prints the one line of a failure, and ends. */
#include <stdio.h>

#include "comm/heartbeat.h"
#include "launch/faults.h"
#include "launch/program.h"

static aq_status dispatch(const aq_program *program) {
    switch (program->options->command) {
    case AQ_CMD_RUN:
        return aq_command_run(program);
    case AQ_CMD_CALIBRATE:
        return aq_command_calibrate(program);
    case AQ_CMD_EVAL_PPL:
        return aq_command_eval_ppl(program);
    case AQ_CMD_EVAL_LOGITS:
        return aq_command_eval_logits(program);
    case AQ_CMD_EVAL_RECALL:
        return aq_command_eval_recall(program);
    case AQ_CMD_EVAL_NEEDLE:
        return aq_command_eval_needle(program);
    case AQ_CMD_EVAL_TASKS:
        return aq_command_eval_tasks(program);
    case AQ_CMD_EVAL_ABLATE:
        return aq_command_eval_ablate(program);
    case AQ_CMD_PLAN:
        return aq_command_plan(program);
    case AQ_CMD_TOKENIZE:
        return aq_command_tokenize(program);
    case AQ_CMD_INFO:
        return aq_command_info(program);
    }
    return AQ_OK;
}

static aq_status run_program(const aq_program *program, aq_status parsed) {
    if (parsed != AQ_OK) return parsed;
    AQ_TRY(aq_faults_start(program->world, program->options->timeout));
    AQ_TRY(aq_faults_same_program(program->world, AQUA_VERSION));
    if (program->options->help) {
        if (program->first) aq_options_help(program->options, stdout);
        return AQ_OK;
    }
    if (program->options->version) {
        if (program->first) printf("aqua-dist %s\n", AQUA_VERSION);
        return AQ_OK;
    }
    return dispatch(program);
}

int main(int argc, char **argv) {
    aq_comm *world = NULL;
    aq_options options;
    if (aq_comm_init_world(&argc, &argv, &world) != AQ_OK) {
        fprintf(stderr, "aqua-dist: %s\n", aq_error_text());
        return 1;
    }
    const aq_status parsed = aq_options_parse(argc, argv, &options);
    const aq_program program = {&options, world, aq_comm_rank(world) == 0};
    const aq_status status = run_program(&program, parsed);
    /* Claimed: mpirun sends SIGTERM when the first rank has left with such a status. */
    if (status != AQ_OK && program.first && aq_heartbeat_claim())
        fprintf(stderr, "aqua-dist: %s\n", aq_error_text());
    aq_comm_finish(world);
    return status == AQ_OK ? 0 : status == AQ_ERR_USAGE ? 2 : 1;
}
