/* Private to hf_config.c and hf_rope.c. */
#ifndef AQ_MODEL_HF_CONFIG_PARTS_H
#define AQ_MODEL_HF_CONFIG_PARTS_H

#include "src/model/config_parts.h"
#include "src/model/json.h"

/* config.json parsed, and the object in it that describes the language model. */
typedef struct {
    char path[1024]; /* for messages */
    cJSON *root;
    aq_json model; /* the whole, or text_config */
    const char *model_type;
} aq_hf_json;

/* Parses the file's config.json; *out is to be closed in any case. Local. */
aq_status aq_hf_json_open(const aq_model_file *file, aq_hf_json *out);
void aq_hf_json_close(aq_hf_json *json);

/* Rotary tables and n_rot; d_head, n_ctx and the family are there already. Local. */
aq_status aq_hf_rope_read(const aq_json *model, aq_model_config *out);

#endif
