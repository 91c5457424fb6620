/* config.json of Hugging Face folders, as transformers 4 and 5 write it, for the families of
 * family.h. Keys that would change the result are honoured or refused by name. */
#ifndef AQ_MODEL_HF_CONFIG_H
#define AQ_MODEL_HF_CONFIG_H

#include "src/model/model_config.h"

/* Reads the config.json of a folder. Errors as aq_model_config_read. Local. */
aq_status aq_hf_config_read(const aq_model_file *file, aq_model_config *out);

/* The divisors of config->rope's frequencies that config.json lists (longrope: short_factor or
 * long_factor), n_rot / 2 finite numbers above 0. AQ_ERR_FORMAT. Local. */
aq_status aq_hf_config_longrope(const aq_model_file *file, const aq_model_config *config,
                                bool is_long, float *out);

#endif
