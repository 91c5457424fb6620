/* How the ranks share a context: --split. */
#ifndef AQ_LAUNCH_SHARES_H
#define AQ_LAUNCH_SHARES_H

#include "launch/program.h"

/* weights[n_rank] of a text such as "3,1,1", a whole number from 0 for each rank. AQ_ERR_USAGE also
 * for weights that aq_engine_set_split would not take. Local. */
aq_status aq_shares_parse(const char *text, int n_rank, int64_t *weights);

/* Whether --split says that ranks are to be measured. Local. */
bool aq_shares_are_measured(const aq_options *options);

/* *out = weights[n_rank] by which contexts are dealt, in fresh memory: those of --split, with auto
 * those that aq_shares_apply has given the engine; NULL without --split, which is equally.
 * AQ_ERR_USAGE, AQ_ERR_MEMORY. Local. */
aq_status aq_shares_weights(const aq_program *program, const aq_engine *engine, int64_t **out);

/* Refuses a --split that cannot be meant, before anything is loaded. The same on all ranks.
 * Local. */
aq_status aq_shares_check(const aq_program *program);

/* Deals the contexts of all sessions as --split says, if it is given; auto: by what each rank is
 * measured to do, and by the memory that a context of n_ctx tokens takes. Says so on stderr of rank
 * 0. AQ_ERR_LIMIT, where such a context cannot be opened at all.
 * AQ_ERR_USAGE, AQ_ERR_MEMORY, AQ_ERR_COMM, AQ_ERR_MISMATCH. Collective. */
aq_status aq_shares_apply(const aq_program *program, aq_engine *engine, int64_t n_ctx);

#endif
