/* The tables of families are complete, and what they make of a checkpoint is what Hugging Face
 * transformers makes of it: logits of the reference models, by the formulas in double precision. */
#include "src/model/family.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/model_file.h"
#include "tests/support/known_logits.h"
#include "tests/support/oracle_model.h"
#include "tests/support/suite.h"

static void check_names(const aq_name_map *names, bool gated) {
    static const aq_role needed[] = {AQ_ROLE_EMBED, AQ_ROLE_OUTPUT_NORM, AQ_ROLE_OUTPUT, AQ_ROLE_O};
    CU_ASSERT_PTR_NOT_NULL_FATAL(names);
    CU_ASSERT_PTR_NOT_NULL(names->prefixes[0]);
    CU_ASSERT_PTR_NOT_NULL(strstr(names->layer, "%d"));
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
        CU_ASSERT_PTR_NOT_NULL(names->roles[needed[i]]);
    CU_ASSERT_TRUE(names->roles[AQ_ROLE_QKV] ||
                   (names->roles[AQ_ROLE_Q] && names->roles[AQ_ROLE_K] && names->roles[AQ_ROLE_V]));
    CU_ASSERT_TRUE(names->roles[AQ_ROLE_DOWN] || names->roles[AQ_ROLE_EXPERTS_DOWN]);
    CU_ASSERT_TRUE(!gated || names->roles[AQ_ROLE_GATE] || names->roles[AQ_ROLE_GATE_UP] ||
                   names->roles[AQ_ROLE_EXPERTS_GATE_UP]);
    CU_ASSERT_EQUAL(!names->roles[AQ_ROLE_Q_NORM], !names->roles[AQ_ROLE_K_NORM]);
    CU_ASSERT_TRUE(names->roles[AQ_ROLE_ATTN_NORM] || names->roles[AQ_ROLE_ATTN_POST_NORM]);
    for (aq_role r = AQ_ROLE_EXPERT_GATE; r <= AQ_ROLE_EXPERT_DOWN; r++)
        CU_ASSERT_TRUE(!names->roles[r] || strstr(names->roles[r], "%d"));
}

static void test_tables(void) {
    int n = 0;
    for (const aq_family *f = aq_family_at(0); f; f = aq_family_at(++n)) {
        CU_ASSERT_TRUE(f->arch && (f->gguf || f->hf));
        if (f->gguf) {
            CU_ASSERT_PTR_EQUAL(aq_family_of_gguf(f->gguf), f); /* so names are unique */
            check_names(f->gguf_names, f->gated);
        }
        if (f->hf) {
            CU_ASSERT_PTR_EQUAL(aq_family_of_hf(f->hf), f);
            check_names(f->hf_names, f->gated);
        }
    }
    CU_ASSERT_EQUAL(n, 14);
    CU_ASSERT_PTR_NULL(aq_family_of_gguf("opt")); /* llama.cpp has none */
    CU_ASSERT_PTR_NULL(aq_family_of_hf("bert"));
}

static void test_list(void) {
    char text[256];
    CU_ASSERT_STRING_EQUAL(aq_family_list(AQ_MODEL_GGUF, text),
                           "llama, qwen2, qwen3, qwen3moe, olmo2, olmoe, gemma3, phi3, gptneox, "
                           "gpt2");
    CU_ASSERT_STRING_EQUAL(aq_family_list(AQ_MODEL_HF, text),
                           "llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, olmo2, olmoe, "
                           "gemma3_text, phi3, opt, gpt_neox, gpt2");
}

typedef struct {
    aq_known known;
    aq_model_file *file;
    aq_model_config config;
    aq_model_weights weights;
} fixture;

static bool open_fixture(const char *name, fixture *f) {
    memset(f, 0, sizeof *f);
    return aq_test_ok(aq_known_read(name, &f->known)) &&
           aq_test_ok(aq_model_file_open(f->known.folder, &f->file)) &&
           aq_test_ok(aq_model_config_read(f->file, &f->config)) &&
           aq_test_ok(aq_model_weights_open(f->file, &f->config, &f->weights));
}

static void close_fixture(fixture *f) {
    aq_model_weights_close(&f->weights);
    aq_model_file_close(f->file);
    aq_known_free(&f->known);
}

/* Largest difference to the reference, as a share of the range of its logits. */
static double difference(const fixture *f) {
    const int64_t n = f->known.n_id, n_number = n * f->config.n_vocab;
    double *wide = malloc((size_t)n_number * sizeof *wide);
    float *logits = malloc((size_t)n_number * sizeof *logits);
    double most = INFINITY;
    CU_ASSERT_EQUAL(f->config.n_vocab, f->known.n_vocab);
    CU_ASSERT_TRUE(wide && logits);
    if (wide && logits) {
        aq_oracle_logits(&f->config, &f->weights, NULL, f->known.ids, n, wide);
        for (int64_t i = 0; i < n_number; i++)
            logits[i] = (float)wide[i];
        most = aq_known_distance(&f->known, logits, n);
    }
    free(wide);
    free(logits);
    return most;
}

static void test_reference_logits(void) {
    aq_known_expect_all();
    for (int i = 0; i < AQ_KNOWN_MODELS; i++) {
        fixture f;
        if (open_fixture(aq_known_models[i], &f)) {
            const double found = difference(&f);
            printf("\n    %-16s %.1e of the range", aq_known_models[i], found);
            CU_ASSERT_TRUE(found < 1e-5);
        }
        close_fixture(&f);
    }
}

/* Every trait that a table can get wrong is seen by the comparison. */
static void test_planted(void) {
    static const char *const of[] = {"gemma3",  "gemma3", "gemma3",   "mistral_swa",
                                     "mixtral", "olmoe",  "gpt_neox", "gpt2",
                                     "opt",     "qwen3",  "gpt_neox"};
    for (int bug = 0; bug < 11; bug++) {
        fixture f;
        if (!open_fixture(of[bug], &f)) {
            close_fixture(&f);
            continue;
        }
        aq_model_config *c = &f.config;
        if (bug == 0) c->embed_scale = 1.0f;
        if (bug == 1) c->rope_local = c->rope;
        if (bug == 2) c->window++;
        if (bug == 3) c->window--;
        if (bug == 4 || bug == 5) c->expert_renormalise = !c->expert_renormalise;
        if (bug == 6) c->parallel_residual = false;
        if (bug == 7) c->activation = AQ_ACT_GELU;
        if (bug == 8) c->n_pos_offset = 0;
        if (bug == 9) f.weights.layers[1].k_norm = NULL;
        if (bug == 10) c->activation = AQ_ACT_GELU_TANH;
        CU_ASSERT_TRUE(difference(&f) > 2e-5);
        close_fixture(&f);
    }
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "tables", test_tables);
    CU_add_test(suite, "list", test_list);
    CU_add_test(suite, "reference logits", test_reference_logits);
    CU_add_test(suite, "planted bugs are seen", test_planted);
}
