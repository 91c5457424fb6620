/* Private to the readers of configurations: bounds, and what both formats have in common. */
#ifndef AQ_MODEL_CONFIG_PARTS_H
#define AQ_MODEL_CONFIG_PARTS_H

#include "src/model/family.h"
#include "src/model/model_config.h"

/* Bounds far above any model that exists; products of any two fit int64_t. */
#define AQ_MAX_HEAD   1024
#define AQ_MAX_DIM    1024 /* of a head */
#define AQ_MAX_WIDTH  (1 << 22)
#define AQ_MAX_VOCAB  (1 << 24)
#define AQ_MAX_CTX    ((int64_t)1 << 40)
#define AQ_MAX_EXPERT 4096

/* Reads the metadata of a GGUF file. Local. */
aq_status aq_gguf_config_read(const aq_model_file *file, aq_model_config *out);

/* Fills what the family fixes: everything else is the reader's. Local. */
void aq_config_begin(const aq_family *family, aq_model_config *out);

/* Checks what only the whole can show, and completes it: heads divide, widths are even, no window
 * without windowed layers, experts used are there. AQ_ERR_FORMAT. Local. */
aq_status aq_config_finish(const char *path, aq_model_config *config);

/* scalar^-1/2, rounded once. Local. */
float aq_scale_of(double scalar);

/* All n_layer layers. Local. */
aq_layer_set aq_layer_set_all(int n_layer);

#endif
