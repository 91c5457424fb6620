/* Measuring the profile of a machine with a model, for `plan`. */
#ifndef AQ_LAUNCH_PROFILE_H
#define AQ_LAUNCH_PROFILE_H

#include "launch/program.h"
#include "src/model/profile_file.h"

/* Fills *out on rank 0 of `world` and writes it to the file of --profile. `alone` and its engine,
 * with weights read, are of each rank alone; `asked` is the session that is planned. Measured are
 * dense attention over bf16; where there are a text (-f) and a projection also select over q8, and
 * what was asked for; between several ranks the network, else --latency and --bandwidth are taken
 * over. Errors of reading the text and of src/engine/probe.h, AQ_ERR_IO. Collective over world. */
aq_status aq_profile_make(const aq_program *alone, aq_comm *world, const aq_engine *engine,
                          const aq_session_options *asked, aq_profile *out);

#endif
