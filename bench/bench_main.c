/* aqua-dist-bench: parses, runs one benchmark, prints the one line of a failure, and ends. */
#include <stdio.h>

#include "bench/bench_commands.h"

static aq_status run(const aq_bench_options *options, aq_comm *world, bool *valid) {
    if (options->help) {
        if (aq_comm_rank(world) == 0) aq_bench_options_help(options, stdout);
        return AQ_OK;
    }
    switch (options->command) {
    case AQ_BENCH_KERNELS:
        return aq_bench_kernels(options, world, valid);
    case AQ_BENCH_STRONG:
        return aq_bench_strong(options, world, valid);
    case AQ_BENCH_BREAKEVEN:
        return aq_bench_breakeven(options, world, valid);
    default:
        return aq_bench_decode(options, world, valid);
    }
}

int main(int argc, char **argv) {
    aq_comm *world = NULL;
    aq_bench_options options;
    bool valid = true;
    if (aq_comm_init_world(&argc, &argv, &world) != AQ_OK) {
        fprintf(stderr, "aqua-dist-bench: %s\n", aq_error_text());
        return 1;
    }
    aq_status status = aq_bench_options_parse(argc, argv, &options);
    if (status == AQ_OK) status = run(&options, world, &valid);
    if (aq_comm_rank(world) == 0) {
        if (status != AQ_OK) fprintf(stderr, "aqua-dist-bench: %s\n", aq_error_text());
        if (!valid) fprintf(stderr, "aqua-dist-bench: INVALID: a row failed its check\n");
    }
    aq_comm_finish(world);
    if (status != AQ_OK) return status == AQ_ERR_USAGE ? 2 : 1;
    return valid ? 0 : 1;
}
