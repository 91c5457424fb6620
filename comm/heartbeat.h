/* Where each rank is, and whether it is still there: for the one line that a broken job ends with.
 *
 * A process has one heartbeat, as it has one MPI. aq_comm_init_world starts it; before that, and in
 * a process without ranks, notes are lost and every answer is "nobody is missing". The ranks of a
 * host share a table in memory: a rank that is stopped, or gone, is read there without its help. Of
 * a rank of another host its number, host and process are known, and its place from the last
 * exchange, which all ranks pass together. No function here waits for another rank but where it
 * says so, and all but aq_heartbeat_note may be called from any thread. */
#ifndef AQ_COMM_HEARTBEAT_H
#define AQ_COMM_HEARTBEAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

typedef enum {
    AQ_PHASE_START, /* before the model is opened */
    AQ_PHASE_LOAD,
    AQ_PHASE_PREFILL,
    AQ_PHASE_DECODE,
    AQ_PHASE_END /* this rank leaves in order, or is being ended: it is not the one to blame */
} aq_phase;

/* Says that this rank has come to a layer of a step whose first token has this position; layer -1:
 * to a phase that has no layers. Whoever waits for this rank waits on while it notes anything.
 * A few stores. From the thread that communicates. Local. */
void aq_heartbeat_note(aq_phase phase, int layer, int64_t token);

/* text = where this rank is: "prefill, layer 3, token 512". Returns text. Local. */
const char *aq_heartbeat_where(char *text, size_t bytes);

/* AQ_OK if the processes of all ranks of this host are there; else AQ_ERR_COMM naming those that
 * have died, and where each was last seen. A higher rank first gives a lower one that lives half a
 * second to claim the line. Local. */
aq_status aq_heartbeat_find_dead(void);

/* AQ_OK if no rank of another host is known to be silent; else AQ_ERR_COMM naming those that have
 * not answered this rank, which waits for them and asks once a second. A rank that computes does
 * not answer either: alone this is no reason to end. Of the ranks that know, the lowest is told,
 * the others get AQ_OK. Local. */
aq_status aq_heartbeat_find_silent(void);

/* Whether this rank is to print the line of the job's failure: true once among the ranks of a host.
 * Local. */
bool aq_heartbeat_claim(void);

#endif
