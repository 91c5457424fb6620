/* Fuzzing without libFuzzer: replays inputs, then runs random changes of them for a set time.
 *
 *     fuzz_TARGET SECONDS [SEED [FILE...]]
 *
 * The input being run is kept in the file fuzz-last-input of the working folder, so that it is
 * there after a crash (replay it: fuzz_TARGET 0 0 fuzz-last-input); a clean end removes it. The
 * same seed gives the same inputs. Build with sanitizers (AQUA_SANITIZE), or little will be seen.
 */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/file.h"
#include "src/base/rng.h"
#include "tests/fuzz/fuzz.h"

#define MAX_INPUT  ((size_t)1 << 20)
#define MAX_CORPUS 64
#define KEPT       "fuzz-last-input"

typedef struct {
    uint8_t *data;
    size_t bytes;
} input;

static input corpus[MAX_CORPUS];
static int n_corpus;

/* The kept input: a file, mapped, so that writing it costs no more than a copy. */
static struct {
    int fd;
    uint8_t *map;
} kept;

static int fail(void) {
    fprintf(stderr, "fuzz: %s\n", aq_error_text());
    return 1;
}

static aq_status keep_open(void) {
    kept.fd = open(KEPT, O_RDWR | O_CREAT | O_TRUNC, 0666);
    if (kept.fd < 0) return aq_fail(AQ_ERR_IO, "cannot write %s here", KEPT);
    kept.map = mmap(NULL, MAX_INPUT, PROT_READ | PROT_WRITE, MAP_SHARED, kept.fd, 0);
    if (kept.map == MAP_FAILED) return aq_fail(AQ_ERR_IO, "cannot map %s", KEPT);
    return AQ_OK;
}

static void run(const uint8_t *data, size_t bytes) {
    if (ftruncate(kept.fd, (off_t)bytes) == 0) memcpy(kept.map, data, bytes);
    LLVMFuzzerTestOneInput(data, bytes);
}

static size_t below(aq_rng *rng, size_t n) {
    return n == 0 ? 0 : (size_t)(aq_rng_uniform(rng) * (double)n);
}

/* Early bytes more often than late ones: structure stands in front of data. */
static size_t place(aq_rng *rng, size_t n) {
    const double u = aq_rng_uniform(rng);
    return n == 0 ? 0 : (size_t)(u * u * (double)n);
}

/* Sets one number of 1, 2, 4 or 8 bytes to a value that tends to break things. */
static void set_number(aq_rng *rng, input *in) {
    static const uint64_t values[] = {0,
                                      1,
                                      2,
                                      7,
                                      0x7f,
                                      0x80,
                                      0xff,
                                      0x7fff,
                                      0xffff,
                                      0x7fffffff,
                                      0x80000000u,
                                      0xffffffffu,
                                      (uint64_t)1 << 61,
                                      (uint64_t)1 << 62,
                                      INT64_MAX,
                                      (uint64_t)1 << 63,
                                      UINT64_MAX};
    const size_t width = (size_t)1 << below(rng, 4);
    if (in->bytes < width) return;
    const size_t at = place(rng, in->bytes - width + 1);
    uint64_t value = values[below(rng, sizeof values / sizeof values[0])];
    value += below(rng, 8) == 0 ? below(rng, 64) : 0;
    for (size_t i = 0; i < width; i++)
        in->data[at + i] = (uint8_t)(value >> (8 * i));
}

/* Takes a part out, doubles it, or copies it from another input over this one. */
static void move_part(aq_rng *rng, input *in) {
    const size_t at = place(rng, in->bytes), kind = below(rng, 3);
    size_t n = below(rng, 64) + 1;
    if (n > in->bytes - at) n = in->bytes - at;
    if (kind == 0) {
        memmove(in->data + at, in->data + at + n, in->bytes - at - n);
        in->bytes -= n;
    } else if (kind == 1 && in->bytes + n <= MAX_INPUT) {
        memmove(in->data + at + n, in->data + at, in->bytes - at);
        in->bytes += n;
    } else if (kind == 2) {
        const input *other = &corpus[below(rng, (size_t)n_corpus)];
        const size_t from = place(rng, other->bytes);
        if (n > other->bytes - from) n = other->bytes - from;
        memcpy(in->data + at, other->data + from, n);
    }
}

static void mutate(aq_rng *rng, input *in) {
    for (size_t n = 1 + below(rng, 4); n > 0; n--) {
        if (in->bytes == 0) return;
        switch (below(rng, 8)) {
        case 0:
            in->data[place(rng, in->bytes)] = (uint8_t)aq_rng_next(rng);
            break;
        case 1:
        case 2:
            in->data[place(rng, in->bytes)] ^= (uint8_t)(1u << below(rng, 8));
            break;
        case 3:
            move_part(rng, in);
            break;
        case 4:
            if (below(rng, 4) == 0) in->bytes = place(rng, in->bytes);
            break;
        default:
            set_number(rng, in);
            break;
        }
    }
}

static aq_status load_corpus(int n_file, char **files) {
    for (int i = 0; i < n_file && n_corpus < MAX_CORPUS; i++) {
        char *data;
        size_t bytes;
        AQ_TRY(aq_file_read(files[i], &data, &bytes));
        corpus[n_corpus++] = (input){(uint8_t *)data, bytes < MAX_INPUT ? bytes : MAX_INPUT};
    }
    for (int i = 0; n_corpus < MAX_CORPUS; i++) {
        input in;
        AQ_TRY(aq_fuzz_seed(i, &in.data, &in.bytes));
        if (!in.data) break;
        corpus[n_corpus++] = in;
    }
    return n_corpus > 0 ? AQ_OK : aq_fail(AQ_ERR_USAGE, "no input to start from");
}

int main(int argc, char **argv) {
    const int64_t seconds = argc > 1 ? atoll(argv[1]) : 10;
    aq_rng rng = {argc > 2 ? strtoull(argv[2], NULL, 10) : 1};
    input in = {malloc(MAX_INPUT), 0};
    int64_t n_run = 0;
    if (!in.data || load_corpus(argc > 3 ? argc - 3 : 0, argv + 3) != AQ_OK) return fail();
    if (keep_open() != AQ_OK) return fail();
    for (int i = 0; i < n_corpus; i++)
        run(corpus[i].data, corpus[i].bytes);
    const int64_t end_ns = aq_clock_ns() + seconds * 1000000000;
    for (; aq_clock_ns() < end_ns; n_run++) {
        const input *from = &corpus[below(&rng, (size_t)n_corpus)];
        memcpy(in.data, from->data, from->bytes);
        in.bytes = from->bytes;
        mutate(&rng, &in);
        run(in.data, in.bytes);
    }
    printf("%d inputs replayed, %lld changed ones run\n", n_corpus, (long long)n_run);
    for (int i = 0; i < n_corpus; i++)
        free(corpus[i].data);
    free(in.data);
    munmap(kept.map, MAX_INPUT);
    close(kept.fd);
    return unlink(KEPT) != 0;
}
