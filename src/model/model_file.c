#define _POSIX_C_SOURCE 200809L
#include "src/model/model_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/file.h"
#include "src/model/json.h"
#include "src/model/name_index.h"
#include "src/model/safetensors.h"
#include "src/model/synth.h"

struct aq_model_file {
    char *path;
    aq_gguf *gguf; /* NULL: a folder */
    char *config;  /* text of config.json; NULL for GGUF */
    size_t config_bytes;
    aq_safetensors **shards; /* [n_shard] */
    int64_t n_shard;
    aq_synth *synth;    /* NULL unless it is made */
    aq_tensor *tensors; /* [n_tensor] of all files */
    int64_t n_tensor;
    aq_name_index by_name;
};

/* "FOLDER/NAME" in fresh memory, or NULL. */
static char *join(const char *folder, const char *name) {
    const size_t bytes = strlen(folder) + strlen(name) + 2;
    char *path = malloc(bytes);
    if (path) snprintf(path, bytes, "%s/%s", folder, name);
    return path;
}

static aq_status no_memory(const char *path) {
    return aq_fail(AQ_ERR_MEMORY, "%s: no memory to open it", path);
}

static aq_status make(const char *path, aq_model_file **out) {
    aq_model_file *file = calloc(1, sizeof *file);
    *out = NULL;
    if (file) file->path = strdup(path);
    if (!file || !file->path) {
        aq_model_file_close(file);
        return no_memory(path);
    }
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        file->path[n - 1] = '\0';
    *out = file;
    return AQ_OK;
}

/* The table of all tensors, and their names. */
static aq_status index_tensors(aq_model_file *file) {
    char shown[AQ_GGUF_SHOWN_BYTES];
    AQ_TRY(aq_name_index_open((uint64_t)file->n_tensor, &file->by_name));
    for (int64_t i = 0; i < file->n_tensor; i++) {
        const aq_tensor *t = &file->tensors[i];
        if (!aq_name_index_add(&file->by_name, t->name, t->name_bytes, i))
            return aq_fail(AQ_ERR_FORMAT, "%s: tensor %s is in two files, the other is %s", t->path,
                           aq_gguf_show((aq_gguf_string){t->name, t->name_bytes}, shown),
                           aq_model_file_tensor_find(file, t->name)->path);
    }
    return AQ_OK;
}

/* GGUF puts the contiguous dimension first. */
static aq_status take_gguf(aq_model_file *file) {
    file->n_tensor = aq_gguf_tensor_count(file->gguf);
    file->tensors = calloc((size_t)file->n_tensor + 1, sizeof *file->tensors);
    if (!file->tensors) return no_memory(file->path);
    for (int64_t i = 0; i < file->n_tensor; i++) {
        const aq_gguf_tensor *from = aq_gguf_tensor_at(file->gguf, i);
        aq_tensor *t = &file->tensors[i];
        *t = (aq_tensor){.name = from->name.data,
                         .name_bytes = (size_t)from->name.bytes,
                         .type = aq_dtype_find((uint32_t)from->dtype)->name,
                         .dtype = from->dtype,
                         .readable = true,
                         .n_dim = from->n_dim,
                         .shape = {1, 1, 1, 1},
                         .data = from->data,
                         .bytes = from->bytes,
                         .path = file->path};
        for (int d = 0; d < from->n_dim; d++)
            t->shape[d] = from->ne[from->n_dim - 1 - d];
    }
    return index_tensors(file);
}

static aq_status take_shards(aq_model_file *file) {
    int64_t at = 0;
    for (int64_t s = 0; s < file->n_shard; s++)
        file->n_tensor += aq_safetensors_count(file->shards[s]);
    file->tensors = calloc((size_t)file->n_tensor + 1, sizeof *file->tensors);
    if (!file->tensors) return no_memory(file->path);
    for (int64_t s = 0; s < file->n_shard; s++)
        for (int64_t i = 0; i < aq_safetensors_count(file->shards[s]); i++)
            file->tensors[at++] = *aq_safetensors_at(file->shards[s], i);
    return index_tensors(file);
}

static aq_status take_synth(aq_model_file *file) {
    file->n_tensor = aq_synth_count(file->synth);
    file->tensors = calloc((size_t)file->n_tensor + 1, sizeof *file->tensors);
    file->config = strdup(aq_synth_config(file->synth));
    if (!file->tensors || !file->config) return no_memory(file->path);
    file->config_bytes = strlen(file->config);
    for (int64_t i = 0; i < file->n_tensor; i++) {
        file->tensors[i] = *aq_synth_at(file->synth, i);
        file->tensors[i].path = file->path;
    }
    return index_tensors(file);
}

static aq_status open_shard(aq_model_file *file, const char *name) {
    char *path = join(file->path, name);
    if (!path) return no_memory(file->path);
    const aq_status status = aq_safetensors_open(path, &file->shards[file->n_shard]);
    if (status == AQ_OK) file->n_shard++;
    free(path);
    return status;
}

/* A name in the index is a file of the folder: no path, nothing hidden. */
static bool stays_inside(const char *name) {
    return name[0] != '\0' && name[0] != '.' && !strchr(name, '/') && !strchr(name, '\\');
}

/* Opens each file that the index names, once. */
static aq_status open_named(aq_model_file *file, const char *path, const cJSON *map) {
    aq_name_index seen;
    aq_status status = AQ_OK;
    const int n = cJSON_GetArraySize(map);
    AQ_TRY(aq_name_index_open((uint64_t)n, &seen));
    file->shards = calloc((size_t)n + 1, sizeof(aq_safetensors *));
    if (!file->shards) status = no_memory(file->path);
    for (const cJSON *entry = map->child; entry && status == AQ_OK; entry = entry->next) {
        char shown[AQ_GGUF_SHOWN_BYTES];
        const char *name = cJSON_IsString(entry) ? entry->valuestring : "";
        if (!stays_inside(name))
            status = aq_fail(
                AQ_ERR_FORMAT, "%s: tensor %s lies in no file of the folder", path,
                aq_gguf_show((aq_gguf_string){entry->string, strlen(entry->string)}, shown));
        else if (aq_name_index_add(&seen, name, strlen(name), 0))
            status = open_shard(file, name);
    }
    aq_name_index_close(&seen);
    return status;
}

/* Every tensor of the index is in the file it names, and no others are there. */
static aq_status check_named(const aq_model_file *file, const char *path, const cJSON *map) {
    char shown[AQ_GGUF_SHOWN_BYTES];
    for (const cJSON *entry = map->child; entry; entry = entry->next) {
        const aq_tensor *t = aq_model_file_tensor_find(file, entry->string);
        const char *base = t ? strrchr(t->path, '/') : NULL;
        if (base && strcmp(base + 1, entry->valuestring) == 0) continue;
        return aq_fail(AQ_ERR_FORMAT, "%s: tensor %s is missing from %s, where the index has it",
                       path,
                       aq_gguf_show((aq_gguf_string){entry->string, strlen(entry->string)}, shown),
                       entry->valuestring);
    }
    if (file->n_tensor == cJSON_GetArraySize(map)) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT, "%s names %d tensors, its files hold %lld", path,
                   cJSON_GetArraySize(map), (long long)file->n_tensor);
}

static aq_status open_index(aq_model_file *file, const char *path) {
    char *text;
    size_t bytes;
    cJSON *json = NULL;
    AQ_TRY(aq_file_read(path, &text, &bytes));
    aq_status status = aq_json_parse(path, text, bytes, &json);
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(json, "weight_map");
    if (status == AQ_OK && !cJSON_IsObject(map))
        status = aq_fail(AQ_ERR_FORMAT, "%s: key weight_map is missing or no object", path);
    if (status == AQ_OK) status = open_named(file, path, map);
    if (status == AQ_OK) status = take_shards(file);
    if (status == AQ_OK) status = check_named(file, path, map);
    cJSON_Delete(json);
    free(text);
    return status;
}

static aq_status open_weights(aq_model_file *file) {
    char *index = aq_model_file_beside(file, "model.safetensors.index.json");
    char *single = aq_model_file_beside(file, "model.safetensors");
    aq_status status = AQ_OK;
    if (single) {
        file->shards = calloc(1, sizeof(aq_safetensors *));
        status = file->shards ? open_shard(file, "model.safetensors") : no_memory(file->path);
        if (status == AQ_OK) status = take_shards(file);
    } else if (index) {
        status = open_index(file, index);
    } else {
        status = aq_fail(AQ_ERR_FORMAT,
                         "%s has neither model.safetensors nor model.safetensors.index.json; other "
                         "formats of weights are not read, save the model as safetensors",
                         file->path);
    }
    free(index);
    free(single);
    return status;
}

static aq_status open_folder(aq_model_file *file) {
    char *config = aq_model_file_beside(file, "config.json");
    if (!config)
        return aq_fail(AQ_ERR_FORMAT,
                       "%s has no config.json; a folder must be a Hugging Face model", file->path);
    aq_status status = aq_file_read(config, &file->config, &file->config_bytes);
    free(config);
    return status == AQ_OK ? open_weights(file) : status;
}

/* Gives the file out, or ends it. */
static aq_status finish(aq_model_file *file, aq_status status, aq_model_file **out) {
    *out = status == AQ_OK ? file : NULL;
    if (status != AQ_OK) aq_model_file_close(file);
    return status;
}

aq_status aq_model_file_open(const char *path, aq_model_file **out) {
    aq_model_file *file;
    struct stat st;
    AQ_TRY(make(path, &file));
    aq_status status;
    if (aq_synth_is_name(path)) {
        status = aq_synth_open(path, &file->synth);
        if (status == AQ_OK) status = take_synth(file);
    } else if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        status = open_folder(file);
    } else {
        status = aq_gguf_open(path, &file->gguf);
        if (status == AQ_OK) status = take_gguf(file);
    }
    return finish(file, status, out);
}

aq_status aq_model_file_open_gguf(const char *path, const void *data, uint64_t bytes,
                                  aq_model_file **out) {
    aq_model_file *file;
    AQ_TRY(make(path, &file));
    aq_status status = aq_gguf_open_memory(path, data, bytes, &file->gguf);
    if (status == AQ_OK) status = take_gguf(file);
    return finish(file, status, out);
}

aq_status aq_model_file_open_hf(const char *path, const char *config, size_t config_bytes,
                                const void *data, uint64_t bytes, aq_model_file **out) {
    aq_model_file *file;
    AQ_TRY(make(path, &file));
    aq_status status = AQ_OK;
    file->config = malloc(config_bytes + 1);
    file->shards = calloc(1, sizeof(aq_safetensors *));
    if (!file->config || !file->shards) status = no_memory(path);
    if (status == AQ_OK) {
        memcpy(file->config, config, config_bytes);
        file->config[config_bytes] = '\0';
        file->config_bytes = config_bytes;
        status = aq_safetensors_open_memory(path, data, bytes, &file->shards[0]);
        file->n_shard = status == AQ_OK;
    }
    if (status == AQ_OK) status = take_shards(file);
    return finish(file, status, out);
}

void aq_model_file_close(aq_model_file *file) {
    if (!file) return;
    for (int64_t i = 0; i < file->n_shard; i++)
        aq_safetensors_close(file->shards[i]);
    aq_gguf_close(file->gguf);
    aq_synth_close(file->synth);
    aq_name_index_close(&file->by_name);
    free(file->shards);
    free(file->tensors);
    free(file->config);
    free(file->path);
    free(file);
}

const char *aq_model_file_path(const aq_model_file *file) {
    return file->path;
}

aq_model_format aq_model_file_format(const aq_model_file *file) {
    return file->gguf ? AQ_MODEL_GGUF : AQ_MODEL_HF;
}

const aq_gguf *aq_model_file_gguf(const aq_model_file *file) {
    return file->gguf;
}

const aq_synth *aq_model_file_synth(const aq_model_file *file) {
    return file->synth;
}

const char *aq_model_file_config(const aq_model_file *file, size_t *bytes) {
    *bytes = file->config_bytes;
    return file->config;
}

char *aq_model_file_beside(const aq_model_file *file, const char *name) {
    char *path = file->gguf || file->synth ? NULL : join(file->path, name);
    if (path && access(path, F_OK) == 0) return path;
    free(path);
    return NULL;
}

int64_t aq_model_file_tensor_count(const aq_model_file *file) {
    return file->n_tensor;
}

const aq_tensor *aq_model_file_tensor_at(const aq_model_file *file, int64_t i) {
    return &file->tensors[i];
}

const aq_tensor *aq_model_file_tensor_find(const aq_model_file *file, const char *name) {
    const int64_t i = aq_name_index_find(&file->by_name, name, strlen(name));
    return i < 0 ? NULL : &file->tensors[i];
}
