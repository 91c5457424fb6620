#include "bench/bench_options.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/kv_type.h"
#include "src/model/synth.h"

#define DECODE  AQ_BENCH_DECODE
#define STRONG  AQ_BENCH_STRONG
#define EVEN    AQ_BENCH_BREAKEVEN
#define PREFILL AQ_BENCH_PREFILL
#define KERNELS AQ_BENCH_KERNELS
#define DEPTHS  (DECODE | PREFILL) /* benchmarks of a model behind a depth */
#define LANES   (DEPTHS | STRONG)
#define MODEL   (LANES | EVEN)
#define ALL     (MODEL | KERNELS)

typedef enum { FLAG, TEXT, INTEGER, REAL, LIST, WAYS } option_kind;

typedef struct {
    const char *brief, *name; /* brief may be "" */
    option_kind kind;
    size_t offset; /* in aq_bench_options */
    unsigned commands;
    const char *value; /* what the help calls the value; alternatives with | are checked */
    const char *fallback;
    double least, most; /* of numbers */
    const char *help;
} option;

#define AT(member)  offsetof(aq_bench_options, member)
#define TOKENS_MAX  1e9
#define VALUE_TYPES "f32|bf16|q8|q6|q5|q4"
#define KEY_TYPES   "f32|bf16|q8|q6|q5|q5m|q4"

static const option table[] = {
    {"-m", "--model", TEXT, AT(model), MODEL, "FILE", NULL, 0, 0,
     "model file (GGUF); decode, prefill: or synth:llama-8b and the like, a shape with random "
     "weights"},
    {"", "--projection", TEXT, AT(projection), MODEL, "FILE", NULL, 0, 0,
     "projection file, needed to measure aqua and select"},
    {"-f", "--file", TEXT, AT(file), MODEL, "FILE", NULL, 0, 0,
     "text whose tokens are prefilled and decoded"},
    {"-d", "--depth", LIST, AT(depths), DECODE, "N,N", "0,512", 0, TOKENS_MAX,
     "tokens of context in front of the decoded ones"},
    {"-p", "--n-prompt", LIST, AT(prefills), DECODE, "N,N", NULL, 1, TOKENS_MAX,
     "time the prefill of this many tokens as well"},
    {"-p", "--n-prompt", LIST, AT(prefills), PREFILL, "N,N", "512", 1, TOKENS_MAX,
     "tokens prefilled, each number behind each depth"},
    {"-d", "--depth", LIST, AT(depths), PREFILL, "N,N", "0", 0, TOKENS_MAX,
     "tokens of context in front of them"},
    {"", "--phases", FLAG, AT(phases), DEPTHS, NULL, NULL, 0, 0,
     "a second table: where the time of a token goes"},
    {"", "--contexts", LIST, AT(contexts), KERNELS, "N,N", NULL, 0, TOKENS_MAX,
     "tokens of a cache; 0: so many that it is twice the last-level cache; default: 4096,16384,0, "
     "and "
     "of a device 4096 to 1048576, each four times the one before"},
    {"", "--all-shapes", FLAG, AT(all_shapes), KERNELS, NULL, NULL, 0, 0,
     "every width of head with every number of heads: nine shapes, not three"},
    {"", "--copies", INTEGER, AT(n_copy), KERNELS, "N", "8", 1, 1024,
     "caches taken in turns, as the layers of a model are; of the longest ones fewer"},
    {"", "--only", TEXT, AT(only), KERNELS, "NAME", NULL, 0, 0, "kernels whose names begin so"},
    {"-c", "--ctx-size", INTEGER, AT(n_ctx), STRONG, "N", "2048", 1, TOKENS_MAX,
     "tokens prefilled, the same for any number of ranks"},
    {"", "--ranks", LIST, AT(ranks), STRONG, "N,N", NULL, 1, 1e6,
     "numbers of ranks, rising from 1; default: 1 to all"},
    {"", "--lengths", LIST, AT(lengths), EVEN, "N,N", "64,128,256,512,1024,2048", 1, TOKENS_MAX,
     "rising numbers of tokens in front of the decoded ones"},
    {"", "--store", FLAG, AT(store), EVEN, NULL, NULL, 0, 0,
     "write the break-even of aqua and select into the projection file"},
    {"-n", "--n-gen", INTEGER, AT(n_decode), DECODE | STRONG | EVEN, "N", "32", 1, 1e6,
     "tokens decoded in one repetition"},
    {"-r", "--repetitions", INTEGER, AT(n_repeat), ALL, "N", "5", 1, 10000,
     "timed repetitions, after one that is not timed"},
    {"-t", "--threads", INTEGER, AT(n_thread), ALL, "N", "0", 0, 1024,
     "threads of each rank; 0: its share of the processors"},
    {"", "--tp", INTEGER, AT(n_tp), DECODE | PREFILL | EVEN, "N", "1", 1, 1e6,
     "ranks that share the weights"},
    {"", "--split", LIST, AT(split), MODEL, "N,N", NULL, 0, 65536,
     "shares of the context, one for each rank (3,1: three tiles of four to rank 0); strong: of "
     "fewer ranks the first ones count; default: equal shares"},
    {"", "--merge", TEXT, AT(merge), DECODE | STRONG, "allgather|alltoall|tree", "allgather", 0, 0,
     "how ranks merge the partial results of a decoded token"},
    {"", "--device", TEXT, AT(device), ALL, "DEVICE", "auto", 0, 0,
     "cpu, cuda (the ranks of a host take its devices in turn), cuda:N, or auto: cuda if there is "
     "a device"},
    {"-b", "--batch-size", INTEGER, AT(n_batch), MODEL, "N", "2048", 1, TOKENS_MAX,
     "tokens of one prefill chunk, over all ranks"},
    {"-ctk", "--cache-type-k", TEXT, AT(key_type), MODEL, KEY_TYPES, NULL, 0, 0,
     "how keys are stored; default: q8 with select, else bf16"},
    {"-ctv", "--cache-type-v", TEXT, AT(value_type), MODEL, VALUE_TYPES, NULL, 0, 0,
     "how values are stored; default: q8 with select, else bf16"},
    {"", "--attn", WAYS, AT(attn), LANES, "WAY,WAY", NULL, 0, 0,
     "ways of attention: dense, aqua, select; default: all with a --projection, else dense"},
    {"", "--mass", REAL, AT(mass), MODEL, "X", "0.98", 1e-6, 1,
     "select: share of the softmax that the chosen tokens hold"},
    {"", "--needed", REAL, AT(needed), DEPTHS, "X", "0.08", 1e-6, 0.999,
     "synth: models: share of the tokens of -d, which are made, that holds the mass"},
    {"", "--sinks", INTEGER, AT(n_sink), MODEL, "N", "4", 0, TOKENS_MAX,
     "select: first tokens, always chosen"},
    {"", "--recent", INTEGER, AT(n_recent), MODEL, "N", "64", 0, TOKENS_MAX,
     "select: newest tokens, always chosen"},
    {"", "--selector", TEXT, AT(selector), MODEL, "LAYOUT", NULL, 0, 0,
     "select: codes as columns x bits (16x4,32x2,16x1); default: the projection's"},
    {"", "--prefill", TEXT, AT(prefill), MODEL, "dense|same", "dense", 0, 0,
     "select: attention of the prefilled tokens themselves"},
    {"", "--k-ratio", REAL, AT(k_ratio), MODEL, "X", "0.75", 1e-6, 1,
     "aqua: share of dimensions that decide"},
    {"", "--s-ratio", REAL, AT(s_ratio), MODEL, "X", "1", 1e-6, 1,
     "aqua: share of key columns stored at all"},
    {"", "--rank-by", TEXT, AT(rank_by), MODEL, "magnitude|energy|static", "energy", 0, 0,
     "aqua: abs(q), abs(q) times the column's spread, or the leading ones"},
    {"-o", "--output", TEXT, AT(format), ALL, "md|jsonl", "md", 0, 0,
     "on stdout: a Markdown table, or JSON lines"},
    {"", "--jsonl", TEXT, AT(jsonl), ALL, "FILE", NULL, 0, 0, "append the JSON lines to a file"},
    {"-h", "--help", FLAG, AT(help), ALL, NULL, NULL, 0, 0, "this text"},
};

#define N_OPTION ((int)(sizeof table / sizeof table[0]))

static const struct {
    const char *name;
    aq_bench_command command;
    const char *what;
} commands[] = {
    {"decode", AQ_BENCH_DECODE,
     "Times decode at several depths of context, ways of attention taking turns."},
    {"prefill", AQ_BENCH_PREFILL,
     "Times prefill of several lengths at several depths, ways of attention taking turns."},
    {"kernels", AQ_BENCH_KERNELS,
     "Times attention and matrix-vector kernels alone, on caches and weights made up for it."},
    {"strong", AQ_BENCH_STRONG,
     "Times one context on 1, 2, ... of the ranks, after checking each against one rank."},
    {"breakeven", AQ_BENCH_BREAKEVEN,
     "Finds the length of context from which aqua and select decode faster than dense."},
};

#define N_COMMAND ((int)(sizeof commands / sizeof commands[0]))

static bool is_choice(const char *choices, const char *word) {
    const size_t n = strlen(word);
    for (const char *at = choices; at; at = strchr(at, '|')) {
        if (*at == '|') at++;
        if (strncmp(at, word, n) == 0 && (at[n] == '|' || at[n] == '\0')) return true;
    }
    return false;
}

static aq_status in_range(const option *o, double value) {
    if (value >= o->least && value <= o->most) return AQ_OK;
    return aq_fail(AQ_ERR_USAGE, "%s takes %g to %g, not %g", o->name, o->least, o->most, value);
}

static aq_status set_list(const option *o, const char *text, aq_bench_list *list) {
    list->n = 0;
    for (const char *at = text;; at++) {
        char *end = NULL;
        errno = 0;
        const long long value = strtoll(at, &end, 10);
        if (end == at || errno != 0 || (*end != ',' && *end != '\0'))
            return aq_fail(AQ_ERR_USAGE, "%s takes whole numbers with commas between, not \"%s\"",
                           o->name, text);
        if (list->n == AQ_BENCH_LIST_MAX)
            return aq_fail(AQ_ERR_USAGE, "%s takes at most %d numbers", o->name, AQ_BENCH_LIST_MAX);
        AQ_TRY(in_range(o, (double)value));
        list->values[list->n++] = value;
        if (*end == '\0') return AQ_OK;
        at = end;
    }
}

/* The names that --attn takes, by aq_attn_mode. */
static const char *const ways[] = {"dense", "aqua", "select"};

#define N_WAY   (sizeof ways / sizeof ways[0])
#define ANY_WAY ((1u << N_WAY) - 1)

/* "dense,select": the bits of these. */
static aq_status set_ways(const option *o, const char *text, unsigned *bits) {
    *bits = 0;
    for (const char *at = text;; at++) {
        const size_t n = strcspn(at, ",");
        size_t w = 0;
        while (w < N_WAY && (strlen(ways[w]) != n || strncmp(ways[w], at, n) != 0))
            w++;
        if (w == N_WAY)
            return aq_fail(AQ_ERR_USAGE,
                           "%s takes dense, aqua and select, commas between, not \"%s\"", o->name,
                           text);
        *bits |= 1u << w;
        at += n;
        if (*at == '\0') return AQ_OK;
    }
}

static aq_status set_number(const option *o, const char *text, char *member) {
    char *end = NULL;
    errno = 0;
    const int64_t whole = o->kind == INTEGER ? strtoll(text, &end, 10) : 0;
    const double real = o->kind == REAL ? strtod(text, &end) : (double)whole;
    if (end == text || *end != '\0' || errno != 0)
        return aq_fail(AQ_ERR_USAGE, "%s takes a number, not \"%s\"", o->name, text);
    AQ_TRY(in_range(o, real));
    if (o->kind == INTEGER)
        memcpy(member, &whole, sizeof whole);
    else
        memcpy(member, &real, sizeof real);
    return AQ_OK;
}

static aq_status set(const option *o, const char *text, aq_bench_options *out) {
    char *member = (char *)out + o->offset;
    const bool on = true;
    switch (o->kind) {
    case FLAG:
        memcpy(member, &on, sizeof on);
        return AQ_OK;
    case LIST:
        return set_list(o, text, (aq_bench_list *)(void *)member);
    case WAYS:
        return set_ways(o, text, (unsigned *)(void *)member);
    case TEXT:
        if (strchr(o->value, '|') && !is_choice(o->value, text))
            return aq_fail(AQ_ERR_USAGE, "%s %s: choose one of %s", o->name, text, o->value);
        memcpy(member, &text, sizeof text);
        return AQ_OK;
    default:
        return set_number(o, text, member);
    }
}

static const option *find(const char *word, unsigned command) {
    for (int i = 0; i < N_OPTION; i++)
        if ((table[i].commands & command) &&
            (strcmp(table[i].name, word) == 0 || strcmp(table[i].brief, word) == 0))
            return &table[i];
    return NULL;
}

static aq_status check_lists(const aq_bench_options *options) {
    const aq_bench_list *ranks = &options->ranks, *lengths = &options->lengths;
    for (int i = 0; i < ranks->n; i++)
        if (ranks->values[i] <= (i == 0 ? 0 : ranks->values[i - 1]) || ranks->values[0] != 1)
            return aq_fail(AQ_ERR_USAGE, "--ranks must rise from 1, the base of every comparison");
    for (int i = 1; i < lengths->n; i++)
        if (lengths->values[i] <= lengths->values[i - 1])
            return aq_fail(AQ_ERR_USAGE, "--lengths must rise");
    return AQ_OK;
}

/* A made model comes with all it needs. */
static aq_status check_made(const aq_bench_options *options) {
    aq_code_layout codes;
    if (!(options->command & DEPTHS))
        return aq_fail(AQ_ERR_USAGE, "%s is made; it serves decode and prefill alone",
                       options->model);
    if (options->file || options->projection)
        return aq_fail(AQ_ERR_USAGE,
                       "%s is made, and so are its text and projection: leave -f and "
                       "--projection out",
                       options->model);
    return options->selector ? aq_code_layout_parse(options->selector, &codes) : AQ_OK;
}

/* Checks what options say together. */
static aq_status check(const aq_bench_options *options) {
    const bool projects = options->attn & ~(1u << AQ_ATTN_DENSE);
    aq_code_layout codes;
    if (options->command == AQ_BENCH_KERNELS) return AQ_OK;
    if (!options->model) return aq_fail(AQ_ERR_USAGE, "give a model with -m");
    if (aq_synth_is_name(options->model)) return check_made(options);
    if (!options->file) return aq_fail(AQ_ERR_USAGE, "give a text with -f");
    if (projects && !options->projection)
        return aq_fail(AQ_ERR_USAGE, "aqua and select need a --projection; make one with aqua-dist "
                                     "calibrate");
    if (options->selector) AQ_TRY(aq_code_layout_parse(options->selector, &codes));
    return check_lists(options);
}

/* Defaults that depend on the command or on other options. */
static void fill_in(aq_bench_options *options) {
    if (options->attn != 0) return;
    const bool made = options->model && aq_synth_is_name(options->model);
    const bool all = options->projection || made || options->command == AQ_BENCH_BREAKEVEN;
    options->attn = all ? ANY_WAY : 1u << AQ_ATTN_DENSE;
}

aq_status aq_bench_options_parse(int argc, char **argv, aq_bench_options *out) {
    memset(out, 0, sizeof *out);
    const char *word = argc > 1 ? argv[1] : "--help";
    if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0) {
        out->help = true;
        return AQ_OK;
    }
    for (int i = 0; i < N_COMMAND; i++)
        if (strcmp(commands[i].name, word) == 0) out->command = commands[i].command;
    if (out->command == AQ_BENCH_NONE)
        return aq_fail(
            AQ_ERR_USAGE,
            "\"%s\" is no benchmark; choose decode, prefill, kernels, strong or breakeven", word);
    for (int i = 0; i < N_OPTION; i++)
        if (table[i].fallback && (table[i].commands & out->command))
            AQ_TRY(set(&table[i], table[i].fallback, out));
    for (int i = 2; i < argc; i++) {
        const option *o = find(argv[i], out->command);
        if (!o)
            return aq_fail(AQ_ERR_USAGE, "%s is no option of this benchmark; see --help", argv[i]);
        const bool has_value = o->kind != FLAG;
        if (has_value && i + 1 >= argc)
            return aq_fail(AQ_ERR_USAGE, "%s needs a value (%s)", argv[i], o->value);
        AQ_TRY(set(o, has_value ? argv[i + 1] : NULL, out));
        i += has_value;
    }
    fill_in(out);
    return out->help ? AQ_OK : check(out);
}

void aq_bench_options_help(const aq_bench_options *options, FILE *to) {
    fprintf(to, "usage: mpirun -n RANKS aqua-dist-bench COMMAND -m MODEL -f TEXTFILE [options]\n"
                "       aqua-dist-bench kernels [options]\n\n");
    for (int i = 0; i < N_COMMAND; i++)
        if (!options->command || options->command == commands[i].command)
            fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].what);
    if (options->command == AQ_BENCH_NONE)
        fprintf(to, "\naqua-dist-bench COMMAND --help lists the options.\n");
    int n_shown = 0;
    for (int i = 0; i < N_OPTION; i++) {
        const option *o = &table[i];
        char left[80];
        if (!(o->commands & options->command)) continue;
        if (n_shown++ == 0) fputc('\n', to);
        snprintf(left, sizeof left, "%s%s%s%s%s", o->brief, o->brief[0] ? " " : "", o->name,
                 o->value ? " " : "", o->value ? o->value : "");
        fprintf(to, "  %-34s %s", left, o->help);
        if (o->fallback) fprintf(to, " (default %s)", o->fallback);
        fputc('\n', to);
    }
    fprintf(to, "\nexit status: 0 done, 1 failed or a check failed, 2 wrong use\n");
}
