/* Writes a small random model for tests that run the program itself: make_tiny_model FILE SEED.
 * With a third argument, the number of a GGML type, output.weight claims to be of that type; with
 * "wide" the model has 8 layers of 16 heads of 64 dimensions, whose messages dwarf their headers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/tiny_model.h"

/* A tensor of 8 bits an element, of whatever type. */
static void put_output(aq_gguf_writer *w, const aq_tiny_model *shape, uint32_t type) {
    const int64_t ne[2] = {shape->d_model, shape->n_vocab};
    const size_t bytes = (size_t)(ne[0] * ne[1]);
    void *data = calloc(bytes, 1);
    if (data) aq_gguf_put_tensor(w, "output.weight", type, 2, ne, data, bytes);
    free(data);
    w->skip = "output.weight";
}

int main(int argc, char **argv) {
    aq_tiny_model shape = aq_tiny_model_default();
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: make_tiny_model FILE SEED [TYPE|wide]\n");
        return 2;
    }
    const bool wide = argc == 4 && strcmp(argv[3], "wide") == 0;
    if (wide) {
        shape.n_layer = 8;
        shape.n_head = 16;
        shape.n_kv_head = 4;
        shape.d_head = 64;
    }
    shape.seed = strtoull(argv[2], NULL, 10);
    aq_gguf_writer w = aq_gguf_writer_make();
    if (argc == 4 && !wide) put_output(&w, &shape, (uint32_t)strtoul(argv[3], NULL, 10));
    aq_status status = aq_tiny_model_put(&w, &shape);
    if (status == AQ_OK) status = aq_gguf_writer_save(&w, argv[1]);
    aq_gguf_writer_close(&w);
    if (status == AQ_OK) return 0;
    fprintf(stderr, "make_tiny_model: %s\n", aq_error_text());
    return 1;
}
