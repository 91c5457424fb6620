/* A model is one file or one folder; whatever is wrong with a folder is said in one line. */
#include "src/model/model_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/file.h"
#include "tests/support/safetensors_writer.h"
#include "tests/support/suite.h"

static const char *fixture(const char *name, char path[1024]) {
    snprintf(path, 1024, "%s/hf/%s", aq_test_data_dir(), name);
    return path;
}

static void test_gguf(void) {
    char path[1024];
    aq_model_file *file = NULL;
    size_t bytes;
    if (!aq_test_ok(aq_model_file_open(fixture("llama3_rope/model.gguf", path), &file))) return;
    CU_ASSERT_EQUAL(aq_model_file_format(file), AQ_MODEL_GGUF);
    CU_ASSERT_STRING_EQUAL(aq_model_file_path(file), path);
    CU_ASSERT_PTR_NOT_NULL(aq_model_file_gguf(file));
    CU_ASSERT_PTR_NULL(aq_model_file_config(file, &bytes));
    CU_ASSERT_PTR_NULL(aq_model_file_beside(file, "ids.npy"));
    CU_ASSERT_EQUAL(aq_model_file_tensor_count(file), 22);
    const aq_tensor *t = aq_model_file_tensor_find(file, "blk.0.attn_k.weight");
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    CU_ASSERT_TRUE(t->n_dim == 2 && t->shape[0] == 32 && t->shape[1] == 64);
    CU_ASSERT_TRUE(t->readable && t->dtype == AQ_BF16 && t->bytes == 32 * 64 * 2);
    CU_ASSERT_STRING_EQUAL(t->type, "BF16");
    CU_ASSERT_PTR_NULL(aq_model_file_tensor_find(file, "blk.0.attn_k"));
    aq_model_file_close(file);
}

static void test_folder(void) {
    char path[1024], *beside;
    aq_model_file *file = NULL;
    size_t bytes;
    fixture("opt//", path);
    if (!aq_test_ok(aq_model_file_open(path, &file))) return;
    CU_ASSERT_EQUAL(aq_model_file_format(file), AQ_MODEL_HF);
    CU_ASSERT_STRING_EQUAL(aq_model_file_path(file), fixture("opt", path));
    CU_ASSERT_PTR_NULL(aq_model_file_gguf(file));
    const char *config = aq_model_file_config(file, &bytes);
    CU_ASSERT_TRUE(bytes == strlen(config) && strstr(config, "\"opt\""));
    beside = aq_model_file_beside(file, "ids.npy");
    CU_ASSERT_TRUE(beside && strncmp(beside, path, strlen(path)) == 0);
    free(beside);
    CU_ASSERT_PTR_NULL(aq_model_file_beside(file, "tokenizer.json"));
    const aq_tensor *t = aq_model_file_tensor_find(file, "model.decoder.embed_positions.weight");
    CU_ASSERT_TRUE(t && t->n_dim == 2 && t->shape[0] == 1026 && t->shape[1] == 64);
    aq_model_file_close(file);
}

/* A fresh folder with files in it; the text of each is in the next argument, NULL ends them. */
static const char *make_folder(char path[1024], const char *const *files) {
    static int n;
    char name[1200];
    snprintf(path, 1024, "%s/folder%d", aq_test_temp_dir(), n++);
    if (mkdir(path, 0777) != 0) CU_FAIL("mkdir");
    for (; files[0]; files += 2) {
        snprintf(name, sizeof name, "%s/%s", path, files[0]);
        if (strcmp(files[1], "SHARD") != 0) {
            aq_test_ok(aq_file_write(name, files[1], strlen(files[1])));
            continue;
        }
        /* one tensor, called as the file is */
        aq_safetensors_writer w = aq_safetensors_writer_make();
        uint8_t *data = NULL;
        size_t bytes;
        aq_safetensors_put(&w, files[0], "F32", 1, (const int64_t[]){1}, "1234", 4);
        if (aq_test_ok(aq_safetensors_writer_finish(&w, &data, &bytes)))
            aq_test_ok(aq_file_write(name, data, bytes));
        free(data);
        aq_safetensors_writer_close(&w);
    }
    return path;
}

#define INDEX "model.safetensors.index.json"

static void test_shards(void) {
    static const char *const files[] = {"config.json",
                                        "{}",
                                        "a.safetensors",
                                        "SHARD",
                                        "b.safetensors",
                                        "SHARD",
                                        INDEX,
                                        "{\"metadata\":{\"total_size\":8},\"weight_map\":{"
                                        "\"a.safetensors\":\"a.safetensors\","
                                        "\"b.safetensors\":\"b.safetensors\"}}",
                                        NULL};
    char path[1024];
    aq_model_file *file = NULL;
    if (!aq_test_ok(aq_model_file_open(make_folder(path, files), &file))) return;
    CU_ASSERT_EQUAL(aq_model_file_tensor_count(file), 2);
    const aq_tensor *t = aq_model_file_tensor_find(file, "b.safetensors");
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    CU_ASSERT_EQUAL(memcmp(t->data, "1234", 4), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(t->path, "/b.safetensors"));
    aq_model_file_close(file);
}

#define MAP(entries) "{\"weight_map\":{" entries "}}"

static void test_broken_folders(void) {
    static const struct {
        const char *files[9];
        const char *part;
    } cases[] = {
        {{NULL}, "has no config.json; a folder must be a Hugging Face model"},
        {{"config.json", "{}", NULL}, "has neither model.safetensors nor model.safetensors.index"},
        {{"config.json", "{}", "pytorch_model.bin", "x", NULL}, "save the model as safetensors"},
        {{"config.json", "{}", "model.safetensors", "x", NULL},
         "/model.safetensors is truncated: 1 bytes"},
        {{"config.json", "{}", INDEX, "x", NULL}, "/" INDEX " is no JSON"},
        {{"config.json", "{}", INDEX, "{}", NULL}, "key weight_map is missing or no object"},
        {{"config.json", "{}", INDEX, MAP("\"a\":1"), NULL}, "tensor a lies in no file of the fol"},
        {{"config.json", "{}", INDEX, MAP("\"a\":\"../a.safetensors\""), NULL}, "lies in no file"},
        {{"config.json", "{}", INDEX, MAP("\"a\":\"/etc/passwd\""), NULL}, "tensor a lies in no"},
        {{"config.json", "{}", INDEX, MAP("\"a\":\"\""), NULL}, "tensor a lies in no file"},
        {{"config.json", "{}", INDEX, MAP("\"a\":\"..\""), NULL}, "tensor a lies in no file"},
        {{"config.json", "{}", INDEX, MAP("\"a\":\"none\""), NULL}, "/none: No such file"},
        {{"config.json", "{}", "s1", "SHARD", INDEX, MAP("\"s2\":\"s1\""), NULL},
         "tensor s2 is missing from s1, where the index has it"},
        {{"config.json", "{}", "s1", "SHARD", "s2", "SHARD", INDEX,
          MAP("\"s1\":\"s2\",\"s2\":\"s1\""), NULL},
         "tensor s1 is missing from s2"},
        {{"config.json", "{}", "s1", "SHARD", INDEX, MAP("\"s1\":\"s1\",\"s1\":\"s1\""), NULL},
         "key s1 is there twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[1024];
        aq_model_file *file = NULL;
        const aq_status status = aq_model_file_open(make_folder(path, cases[i].files), &file);
        CU_ASSERT_NOT_EQUAL(status, AQ_OK);
        aq_test_fails(status, status, cases[i].part);
        aq_test_fails(status, status, path);
        CU_ASSERT_PTR_NULL(file);
    }
}

/* A tensor that two shards hold. */
static void test_doubles(void) {
    static const char *const files[] = {
        "config.json", "{}", "s1", "SHARD", INDEX, MAP("\"s1\":\"s1\",\"t\":\"s2\""), NULL};
    char path[1024], from[1100], to[1100];
    aq_model_file *file = NULL;
    make_folder(path, files);
    snprintf(from, sizeof from, "%s/s1", path);
    snprintf(to, sizeof to, "%s/s2", path);
    CU_ASSERT_EQUAL(link(from, to), 0);
    aq_test_fails(aq_model_file_open(path, &file), AQ_ERR_FORMAT,
                  "tensor s1 is in two files, the other is ");
}

static void test_no_file(void) {
    aq_model_file *file = NULL;
    char path[1024];
    snprintf(path, sizeof path, "%s/none.gguf", aq_test_temp_dir());
    aq_test_fails(aq_model_file_open(path, &file), AQ_ERR_IO, "none.gguf: No such file");
    aq_test_fails(aq_model_file_open(fixture("llama/config.json", path), &file), AQ_ERR_FORMAT,
                  "config.json");
    aq_model_file_close(NULL);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "gguf", test_gguf);
    CU_add_test(suite, "folder", test_folder);
    CU_add_test(suite, "shards", test_shards);
    CU_add_test(suite, "broken folders", test_broken_folders);
    CU_add_test(suite, "doubles", test_doubles);
    CU_add_test(suite, "no file", test_no_file);
}
