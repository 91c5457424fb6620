/* Keeping some tokens only: a rank whose layer holds more than its share drops those that have got
 * the least attention. For src/engine.
 *
 * After a step that ends before position `end`, with N tokens to be kept over all ranks, each layer
 * that sees everything holds on a rank with weight w of W (plan.h) at most its share: ceil(N w / W)
 * tokens, or what it owns of the first N of the text if that is more, so that nothing is dropped
 * before there are N. With room for N tokens only, that is all. Dropped are, in this order,
 *
 *   1. of the tokens before position end - N / 2: those of least accumulated attention
 *      (kernels/attn_mass.h), of equal ones the older first;
 *   2. if these are not enough: of the newer ones, the oldest.
 *
 * The first AQ_H2O_SINKS tokens of the text are never dropped. Each layer decides for itself, and
 * each rank over its own tokens.
 *
 * What is dropped leaves a free slot, which a later token takes: a layer has room for the share and
 * the tokens of one step. So a slot says nothing of the position, and each layer has a directory of
 * its own. Source: H2O, arXiv 2306.14048 (half of the tokens recent, half heavy hitters). */
#ifndef AQ_ENGINE_H2O_H
#define AQ_ENGINE_H2O_H

#include "kernels/backend.h"
#include "src/engine/plan.h"
#include "src/engine/twin.h"

#define AQ_H2O_SINKS 4

/* The least number of tokens to keep on each rank that owns any: the sinks and some more. */
#define AQ_H2O_LEAST 16

/* Position of a slot without a token. */
#define AQ_H2O_FREE INT64_MAX

/* The directory of one layer on the host. */
typedef struct {
    int64_t n_tile;    /* room */
    int64_t *slot_pos; /* [n_tile, AQ_TILE] position, or AQ_H2O_FREE */
    int64_t *tile_pos; /* [n_tile] least position of the tile; AQ_H2O_FREE if it holds none */
    float *acc;        /* [n_tile, AQ_TILE] accumulated attention; 0 where free */
} aq_h2o_layer;

typedef struct {
    aq_backend *be; /* borrowed; the memory is its */
    int n_layer;
    int64_t n_keep;   /* tokens a layer holds after a step at most */
    int64_t n_recent; /* newest positions, over all ranks, that go last */
    int64_t n_step;   /* tokens of one step on this rank at most */
    int64_t n_tile;   /* room of a layer */
    /* On the host, which decides; each has a twin for the kernels. */
    int64_t *slot_pos, *tile_pos;
    float *acc;    /* all three: of all layers, one behind the other */
    int64_t *slot; /* [n_step] of the step's tokens in the current layer */
    int64_t *work; /* [n_step] */
    aq_twin slot_pos_twin, tile_pos_twin, acc_twin, slot_twin, work_twin;
} aq_h2o;

/* Tiles of room that a layer needs on this rank to keep n_keep tokens over all ranks when steps
 * have up to n_step tokens over all ranks and the text n_ctx. Local. */
int64_t aq_h2o_tiles(const aq_plan *plan, int64_t n_keep, int64_t n_step, int64_t n_ctx);

/* Bytes of the directories of n_layer layers, each kind of memory, and the numbers as above.
 * Local. */
int64_t aq_h2o_bytes(const aq_plan *plan, int n_layer, int64_t n_keep, int64_t n_step,
                     int64_t n_ctx);

/* Directories for n_layer layers, empty; the numbers as above. The caller closes. AQ_ERR_MEMORY.
 * Local. */
aq_status aq_h2o_open(aq_backend *be, const aq_plan *plan, int n_layer, int64_t n_keep,
                      int64_t n_step, int64_t n_ctx, aq_h2o *out);

/* Frees; a zeroed struct is allowed. Local. */
void aq_h2o_close(aq_h2o *h2o);

/* Frees every slot of every layer. Local. */
void aq_h2o_reset(aq_h2o *h2o);

/* The directory of one of the layers. Local. */
aq_h2o_layer aq_h2o_at(const aq_h2o *h2o, int layer);

/* Gives the backend a layer's directory: where tokens are, and what attention they have got.
 * Fetches what they have got. Local. */
void aq_h2o_push_places(const aq_h2o *h2o, const aq_h2o_layer *layer);
void aq_h2o_push_acc(const aq_h2o *h2o, const aq_h2o_layer *layer);
void aq_h2o_pull_acc(const aq_h2o *h2o, const aq_h2o_layer *layer);

/* Gives n_tok tokens of rising positions pos[n_tok] the lowest free slots: slot[n_tok], rising.
 * There is room for them. Local. */
void aq_h2o_place(const aq_h2o_layer *layer, const int64_t *pos, int64_t n_tok, int64_t *slot);

/* Drops tokens until n_keep are left or only sinks; those at recent_from and later go last. drop is
 * working memory for as many as are dropped, whose number is returned. Local. */
int64_t aq_h2o_evict(const aq_h2o_layer *layer, int64_t n_keep, int64_t recent_from, int64_t *drop);

/* Tokens the layer holds; and its tiles up to the last one that holds any. Local. */
int64_t aq_h2o_held(const aq_h2o_layer *layer);
int64_t aq_h2o_used(const aq_h2o_layer *layer);

#endif
