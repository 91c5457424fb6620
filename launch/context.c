#include "launch/context.h"

#include "calib/calibrate.h"
#include "calib/incontext.h"

bool aq_context_makes_projection(const aq_program *program, const aq_engine *engine,
                                 const aq_session_options *options) {
    if (options->attn == AQ_ATTN_DENSE || options->attn == AQ_ATTN_PAGES) return false;
    if (program->options->projection) return false;
    return program->options->auto_projection || !aq_engine_projection(engine) ||
           aq_engine_describe(engine).projection_is_set;
}

static aq_status start_from_context(const aq_program *program, aq_engine *engine,
                                    const aq_session_options *options, const int32_t *ids,
                                    int64_t n, const aq_hooks *hooks, aq_session **session,
                                    int64_t *n_done) {
    const char *basis = program->options->basis;
    const char *path = program->options->save_projection;
    aq_basis wanted = AQ_BASIS_JOINT;
    if (basis) AQ_TRY(aq_basis_parse(basis, &wanted));
    aq_session_close(*session);
    *session = NULL;
    bool alone = false;
    const aq_status status = aq_incontext_open(engine, program->world, options, wanted, ids, n,
                                               hooks, session, n_done, &alone);
    if (alone) return aq_program_step(program, status);
    AQ_TRY(status);
    if (!path) return AQ_OK;
    return aq_calibrate_save(program->world, path, aq_engine_projection(engine));
}

aq_status aq_context_start(const aq_program *program, aq_engine *engine,
                           const aq_session_options *options, const int32_t *ids, int64_t n,
                           const aq_hooks *hooks, aq_session **session, int64_t *n_done) {
    *n_done = 0;
    if (aq_context_makes_projection(program, engine, options))
        return start_from_context(program, engine, options, ids, n, hooks, session, n_done);
    if (!*session) return aq_session_open(engine, options, session);
    aq_session_reset(*session);
    return AQ_OK;
}
