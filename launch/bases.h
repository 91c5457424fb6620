/* Projections for several bases from one pass over a calibration text. */
#ifndef AQ_LAUNCH_BASES_H
#define AQ_LAUNCH_BASES_H

#include "launch/program.h"
#include "src/model/projection_file.h"

/* Makes out[i], i < n, for bases[i] from the text of --calibration, of which --tokens are used. The
 * caller frees each, also after a failure; they need not be zeroed before. Errors of reading and of
 * aq_calibrate. Collective. */
aq_status aq_bases_solve(const aq_program *program, const aq_basis *bases, int n,
                         aq_projection *out);

#endif
