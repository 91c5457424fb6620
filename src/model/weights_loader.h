/* Private to the loader of weights: from tensors of a file to matrices and vectors of the internal
 * layout. One walk over a model is done twice: first with an arena that only measures, when nothing
 * is copied and what would be is a pointer not to be followed, then for good. */
#ifndef AQ_MODEL_WEIGHTS_LOADER_H
#define AQ_MODEL_WEIGHTS_LOADER_H

#include "src/base/arena.h"
#include "src/model/family.h"
#include "src/model/model_weights.h"

#define AQ_NAME_BYTES 128

typedef struct {
    const aq_model_file *file;
    const aq_model_config *config;
    const aq_name_map *names;
    const char *prefix; /* of names */
    aq_arena arena;
    bool *known; /* [tensors of the file] asked for so far */
    int layer;   /* of names */
    int expert;
} aq_loader;

/* Whether the name map has a name for a role; whether the file has a tensor of it. Local. */
bool aq_load_named(const aq_loader *ld, aq_role role);
bool aq_load_there(const aq_loader *ld, aq_role role);

/* The matrix [n_out, n_in] of a role, with its bias as `bias` says; n_stack > 1: so many of them
 * under one another, [n_stack, n_out, n_in] in the file, n_stack * n_out rows of *out. Where the
 * file holds layers' matrices transposed, a copy. AQ_ERR_FORMAT, AQ_ERR_UNSUPPORTED. Local. */
aq_status aq_load_matrix(aq_loader *ld, aq_role role, int64_t n_stack, int64_t n_out, int64_t n_in,
                         aq_part bias, aq_weight *out);

/* n finite numbers above `low`, plus `shift`, as fp32: in the map if they are there like that, else
 * in the arena. `suffix` is ".weight" or ".bias". Local. */
aq_status aq_load_vector(aq_loader *ld, aq_role role, const char *suffix, int64_t n, float low,
                         float shift, const float **out);

/* Rows first .. first + n - 1 of a matrix, with their bias. Local. */
aq_weight aq_weight_rows(const aq_weight *from, int64_t first, int64_t n);

/* Where row i of a matrix comes from. */
typedef struct {
    int64_t group;   /* rows come in groups of this many */
    int64_t stride;  /* a group of the source is this many rows behind the one before */
    int64_t first;   /* row of the source where the first group begins */
    bool neighbours; /* in the source's groups, rows i and i + group / 2 stand at 2i and 2i + 1 */
} aq_row_order;

/* A copy of a matrix and its bias in which row i is row source(i) of `from`; n_row rows in all.
 * Local. */
aq_weight aq_load_reordered(aq_loader *ld, const aq_weight *from, const aq_row_order *order,
                            int64_t n_row);

#endif
