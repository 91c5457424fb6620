/* Writes a small random model for tests that run the program itself: make_tiny_model FILE SEED. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/tiny_model.h"

int main(int argc, char **argv) {
    aq_tiny_model shape = aq_tiny_model_default();
    if (argc != 3) {
        fprintf(stderr, "usage: make_tiny_model FILE SEED\n");
        return 2;
    }
    shape.seed = strtoull(argv[2], NULL, 10);
    if (aq_tiny_model_write(argv[1], &shape) == AQ_OK) return 0;
    fprintf(stderr, "make_tiny_model: %s\n", aq_error_text());
    return 1;
}
