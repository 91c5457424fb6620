/* aqua-dist info: what is in a model file and in its projection. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernels/kv_append.h"
#include "launch/program.h"
#include "src/model/model_config.h"
#include "src/model/model_file.h"
#include "src/model/model_weights.h"
#include "src/model/projection_file.h"

static void print_config(const aq_model_config *config, const aq_model_weights *weights) {
    printf("\nmodel\n  %-22s %s\n  %-22s %s\n", "name", config->name, "architecture", config->arch);
    printf("  %-22s %d\n  %-22s %d\n  %-22s %d\n", "layers", config->n_layer, "query heads",
           config->n_head, "KV heads", config->n_kv_head);
    printf("  %-22s %d\n  %-22s %d\n  %-22s %d\n", "head size", config->d_head, "width",
           config->d_model, "FFN width", config->d_ff);
    printf("  %-22s %d\n  %-22s %" PRId64 "\n  %-22s %.1f MiB\n", "vocabulary", config->n_vocab,
           "context", config->n_ctx, "weights", (double)weights->bytes / 1048576.0);
    const int n_full_layer = config->n_layer - aq_layer_set_count(&config->windowed);
    const int64_t token_bytes = (int64_t)2 * 2 * n_full_layer * config->n_kv_head * config->d_head;
    if (config->window > 0)
        printf("  %-22s %" PRId64 " tokens, in %d of the layers\n", "window", config->window,
               config->n_layer - n_full_layer);
    printf("  %-22s %" PRId64 " bytes a token\n  %-22s ", "dense bf16 cache", token_bytes,
           "fingerprint");
    for (int i = 0; i < AQ_FINGERPRINT_BYTES; i++)
        printf("%02x", weights->fingerprint[i]);
    putchar('\n');
}

static void print_metadata(const aq_gguf *file) {
    printf("metadata of %s\n", aq_gguf_path(file));
    for (int64_t i = 0; i < aq_gguf_key_count(file); i++) {
        aq_gguf_string key;
        char text[96];
        aq_gguf_key_describe(file, i, &key, text, sizeof text);
        printf("  %-42.*s %s\n", (int)key.bytes, key.data, text);
    }
    putchar('\n');
}

static void print_tensors(const aq_model_file *file) {
    printf("tensors of %s\n", aq_model_file_path(file));
    for (int64_t i = 0; i < aq_model_file_tensor_count(file); i++) {
        const aq_tensor *tensor = aq_model_file_tensor_at(file, i);
        char name[AQ_GGUF_SHOWN_BYTES];
        aq_gguf_show((aq_gguf_string){tensor->name, tensor->name_bytes}, name);
        printf("  %-44s %-5s [", name, tensor->type);
        for (int d = 0; d < tensor->n_dim; d++)
            printf("%s%" PRId64, d > 0 ? ", " : "", tensor->shape[d]);
        printf("]\n");
    }
}

/* Columns that hold `share` of the spectrum, averaged over layers and heads. */
static double mean_columns(const aq_projection *p, double share) {
    const int64_t n_row = (int64_t)p->n_layer * p->n_kv_head;
    double columns = 0;
    for (int64_t row = 0; row < n_row; row++) {
        const float *spectrum = p->spectrum + row * p->d_head;
        double all = 0, part = 0;
        for (int i = 0; i < p->d_head; i++)
            all += spectrum[i];
        for (int i = 0; i < p->d_head && part < share * all; i++, columns++)
            part += spectrum[i];
    }
    return columns / (double)n_row;
}

static void print_projection(const char *path, const aq_projection *p) {
    printf("\nprojection %s\n  %-22s %s\n  %-22s %" PRId64 " of %s\n", path, "basis",
           aq_basis_name(p->basis), "calibrated on tokens", p->n_tok_calib, p->domain);
    printf("  %-22s %.1f columns hold 90 %% of the spectrum, %.1f hold 99 %%\n",
           "mean of all heads", mean_columns(p, 0.90), mean_columns(p, 0.99));
}

/* Bytes of a token and KV head in a session that selects with int8 keys and values. */
static void print_select_cache(const aq_projection *p) {
    const aq_kv_view view = {.key_type = AQ_KV_Q8,
                             .value_type = AQ_KV_Q8,
                             .key_order = AQ_KEYS_BY_TOKEN,
                             .codes = aq_projection_codes(p),
                             .n_col = p->d_head,
                             .d_head = p->d_head};
    char text[64];
    printf("  %-22s %s%s\n", "selector", aq_code_layout_text(&view.codes, text, sizeof text),
           p->codes.n_segment > 0 ? "" : " (the default)");
    if (p->n_dynamic > 0) printf("  %-22s %d of these columns\n", "a query reads", p->n_dynamic);
    printf("  %-22s selector %.2f, keys %.2f, values %.2f bytes a token and KV head with q8\n",
           "select cache", (double)aq_kv_selector_bytes(&view) / AQ_TILE,
           (double)aq_kv_key_bytes(&view) / AQ_TILE, (double)aq_kv_value_bytes(&view) / AQ_TILE);
}

/* What else a projection may say: a context from which a way of attention is faster than dense, and
 * the energy from which columns decide. */
static void print_break_even(const char *way, int64_t n_tok) {
    printf("  %-22s ", way);
    if (n_tok == 0)
        printf("not measured: see aqua-dist-bench breakeven\n");
    else if (n_tok == INT64_MAX)
        printf("never faster than dense where that was measured\n");
    else
        printf("faster than dense from %" PRId64 " tokens on where that was measured\n", n_tok);
}

static void print_measured(const aq_projection *p) {
    print_break_even("aqua", p->break_even[0]);
    print_break_even("select", p->break_even[1]);
    if (p->k_energy > 0)
        printf("  %-22s columns of energy %.4g and more decide\n", "with --k-budget",
               (double)p->k_energy);
    else
        printf("  %-22s none: see aqua-dist calibrate --k-budget\n", "budget of columns");
}

static aq_status show_projection(const aq_options *options, const aq_model_config *config,
                                 const aq_model_weights *weights) {
    char *beside = options->projection ? NULL : aq_program_projection_path(options->model);
    const char *path = options->projection ? options->projection : beside;
    aq_projection projection = {0};
    aq_status status = AQ_OK;
    if (options->projection || (beside && access(beside, F_OK) == 0)) {
        status = aq_projection_read(path, &projection);
        if (status == AQ_OK) status = aq_projection_check(path, &projection, config, weights);
        if (status == AQ_OK) print_projection(path, &projection);
        if (status == AQ_OK) print_select_cache(&projection);
        if (status == AQ_OK) print_measured(&projection);
        aq_projection_free(&projection);
    } else {
        printf("\nno projection beside the model: it is made from each context\n");
    }
    free(beside);
    return status;
}

static aq_status show_model(const aq_options *options, const aq_model_file *file) {
    aq_model_config config;
    aq_model_weights weights = {0};
    if (aq_model_file_gguf(file)) print_metadata(aq_model_file_gguf(file));
    print_tensors(file);
    AQ_TRY(aq_model_config_read(file, &config));
    aq_model_config_fit_window(&config);
    aq_status status = aq_model_weights_open(file, &config, &weights);
    if (status == AQ_OK) {
        print_config(&config, &weights);
        status = show_projection(options, &config, &weights);
    }
    aq_model_weights_close(&weights);
    return status;
}

static aq_status info(const aq_options *options) {
    aq_model_file *file = NULL;
    AQ_TRY(aq_program_need(options->model, "-m MODEL"));
    AQ_TRY(aq_model_file_open(options->model, &file));
    const aq_status status = show_model(options, file);
    aq_model_file_close(file);
    return status;
}

aq_status aq_command_info(const aq_program *program) {
    const aq_status status = program->first ? info(program->options) : AQ_OK;
    return aq_comm_agree(program->world, status);
}
