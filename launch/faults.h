/* How a job ends that cannot go on: one readable line, a non-zero status, no process left behind.
 *
 * Three ways lead there. A failure inside a step, or a wait beyond its deadline: the rank tells and
 * ends the job. A rank that dies: mpirun sends SIGTERM to the others, and one of them tells who has
 * died. SIGTERM from outside: rank 0 tells where the job was. */
#ifndef AQ_LAUNCH_FAULTS_H
#define AQ_LAUNCH_FAULTS_H

#include "comm/comm.h"

/* With several ranks, starts the thread that answers SIGTERM, and ends the job on a wait longer
 * than timeout_s, 0: never. With one rank SIGTERM does what it always does. `world` must outlive
 * all waits. AQ_ERR_USAGE for a timeout below 0. Local. */
aq_status aq_faults_start(aq_comm *world, double timeout_s);

/* Prints the text of the last failure as this rank's, if no other rank of the host has told of one,
 * and ends the job with status 1. Does not return. Local. */
void aq_faults_end(aq_comm *world);

/* Whether all ranks run the same program: the version and the bytes of its file. AQ_ERR_MISMATCH,
 * AQ_ERR_COMM. Collective. */
aq_status aq_faults_same_program(aq_comm *world, const char *version);

#endif
