#define _POSIX_C_SOURCE 200809L
#include "tests/support/known_logits.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/file.h"
#include "src/model/npy.h"
#include "tests/support/suite.h"

const char *const aq_known_models[AQ_KNOWN_MODELS] = {
    "gemma3",       "gpt2",           "gpt_neox",   "llama",       "llama3_rope",
    "llama_linear", "llama_mha_hd24", "llama_yarn", "mistral_swa", "mixtral",
    "olmo2",        "olmoe",          "opt",        "phi3",        "qwen2",
    "qwen3",        "qwen3_moe"};

static char *path_in(const char *model, const char *file, char path[AQ_KNOWN_PATH_BYTES]) {
    snprintf(path, AQ_KNOWN_PATH_BYTES, "%s/hf/%s%s%s", aq_test_data_dir(), model, file ? "/" : "",
             file ? file : "");
    return path;
}

static bool is_listed(const char *name) {
    for (int i = 0; i < AQ_KNOWN_MODELS; i++)
        if (strcmp(aq_known_models[i], name) == 0) return true;
    return false;
}

void aq_known_expect_all(void) {
    char path[AQ_KNOWN_PATH_BYTES];
    DIR *folder = opendir(path_in("", NULL, path));
    int n = 0;
    CU_ASSERT_PTR_NOT_NULL(folder);
    for (struct dirent *e = folder ? readdir(folder) : NULL; e; e = readdir(folder)) {
        if (access(path_in(e->d_name, "config.json", path), R_OK) != 0) continue;
        CU_ASSERT_TRUE(is_listed(e->d_name));
        n++;
    }
    CU_ASSERT_EQUAL(n, AQ_KNOWN_MODELS);
    if (folder) closedir(folder);
}

/* The floats of a .npy file of k->n_position rows. */
static aq_status read_logits(const char *path, aq_known *k) {
    char *data = NULL;
    size_t bytes = 0;
    AQ_TRY(aq_file_read(path, &data, &bytes));
    const size_t row_bytes = (size_t)k->n_position * sizeof(float);
    const size_t n_byte = bytes > AQ_NPY_HEADER_BYTES ? bytes - AQ_NPY_HEADER_BYTES : 0;
    if (n_byte > 0 && n_byte % row_bytes == 0 && strstr(data + 10, "'<f4'"))
        k->logits = malloc(n_byte);
    if (k->logits) {
        memcpy(k->logits, data + AQ_NPY_HEADER_BYTES, n_byte);
        k->n_vocab = (int64_t)(n_byte / row_bytes);
    }
    free(data);
    return k->logits ? AQ_OK : aq_fail(AQ_ERR_FORMAT, "%s: not rows of fp32", path);
}

aq_status aq_known_read(const char *name, aq_known *k) {
    char path[AQ_KNOWN_PATH_BYTES];
    *k = (aq_known){.name = name};
    path_in(name, NULL, k->folder);
    path_in(name, "model.gguf", k->gguf);
    if (access(k->gguf, R_OK) != 0) k->gguf[0] = '\0';
    AQ_TRY(aq_npy_read_ids(path_in(name, "ids.npy", path), &k->ids, &k->n_id));
    AQ_TRY(aq_npy_read_ids(path_in(name, "positions.npy", path), &k->positions, &k->n_position));
    AQ_TRY(aq_npy_read_ids(path_in(name, "greedy_from40.npy", path), &k->greedy, &k->n_greedy));
    return read_logits(path_in(name, "logits.npy", path), k);
}

void aq_known_free(aq_known *k) {
    free(k->ids);
    free(k->positions);
    free(k->greedy);
    free(k->logits);
    *k = (aq_known){.name = NULL};
}

double aq_known_distance(const aq_known *k, const float *logits, int64_t n) {
    double most = 0, low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < k->n_position && k->positions[i] < n; i++)
        for (int64_t j = 0; j < k->n_vocab; j++) {
            const double ref = (double)k->logits[i * k->n_vocab + j];
            const double apart = fabs((double)logits[k->positions[i] * k->n_vocab + j] - ref);
            most = fmax(most, isnan(apart) ? INFINITY : apart);
            low = fmin(low, ref);
            high = fmax(high, ref);
        }
    return most / (high - low);
}
