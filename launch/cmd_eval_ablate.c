#include "launch/program.h"
aq_status aq_command_eval_ablate(const aq_program *p) {
    (void)p;
    return AQ_OK;
}
