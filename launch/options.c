#include "launch/options.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/kv_type.h"

#define RUN       AQ_CMD_RUN
#define CALIBRATE AQ_CMD_CALIBRATE
#define PPL       AQ_CMD_EVAL_PPL
#define LOGITS    AQ_CMD_EVAL_LOGITS
#define TOKENIZE  AQ_CMD_TOKENIZE
#define INFO      AQ_CMD_INFO
#define RECALL    AQ_CMD_EVAL_RECALL
#define NEEDLE    AQ_CMD_EVAL_NEEDLE
#define TASKS     AQ_CMD_EVAL_TASKS
#define ABLATE    AQ_CMD_EVAL_ABLATE
#define PLAN      AQ_CMD_PLAN
#define ENGINE    (RUN | PPL | LOGITS | NEEDLE | TASKS | ABLATE | PLAN)
#define ONE_WAY   (ENGINE & ~ABLATE) /* of attention in a run */
#define SAMPLES   (CALIBRATE | RECALL)
#define SELECTS   (ENGINE | RECALL)
#define ALL       (ENGINE | SAMPLES | TOKENIZE | INFO)

typedef enum { FLAG, TEXT, INTEGER, REAL } option_kind;

typedef struct {
    const char *names; /* spellings, separated by spaces; the last one names the variable */
    option_kind kind;
    size_t offset; /* in aq_options */
    unsigned commands;
    const char *value; /* what the help calls the value; alternatives with | are checked */
    const char *fallback;
    const char *help;
} option;

#define VALUE_TYPES "f32|bf16|q8|q6|q5|q4"
#define KEY_TYPES   "f32|bf16|q8|q6|q5|q5m|q4"

#define AT(member) offsetof(aq_options, member)

static const option table[] = {
    {"-m --model", TEXT, AT(model), ALL, "FILE", NULL,
     "model: a GGUF file or a Hugging Face folder"},
    {"--projection", TEXT, AT(projection), SELECTS | INFO, "FILE", NULL,
     "projection file, or auto: made from the context itself; default: MODEL.aqua beside the "
     "model, "
     "auto if there is none"},
    {"--save-projection", TEXT, AT(save_projection), RUN | PPL, "FILE", NULL,
     "keep the projection that auto made"},
    {"-f --file", TEXT, AT(file), RUN | SAMPLES | PPL | NEEDLE | TASKS | ABLATE | TOKENIZE | PLAN,
     "FILE", NULL, "text to read: the context, the calibration text, the haystack, ..."},
    {"-p --prompt", TEXT, AT(prompt), RUN | TOKENIZE, "TEXT", NULL,
     "question; stands after the text of -f, a blank line between"},
    {"-o --output", TEXT, AT(output), SAMPLES | LOGITS | NEEDLE | TASKS | ABLATE, "FILE", NULL,
     "file to write; calibrate: MODEL.aqua beside the model; recall, needle, tasks, ablate: JSONL"},
    {"--ids", TEXT, AT(ids), LOGITS, "FILE", NULL, "token ids, .npy of int32 or int64"},
    {"--report", TEXT, AT(report), RUN | PPL | CALIBRATE | NEEDLE | TASKS | ABLATE, "FILE", NULL,
     "write the facts of the run as JSON"},

    {"--chat", FLAG, AT(chat), RUN, NULL, NULL,
     "spell the prompt as a conversation, in the model's own format"},
    {"--chat-template", TEXT, AT(chat_template), RUN, "NAME", NULL,
     "chatml, llama3, mistral, gemma, phi3, zephyr or olmo; implies --chat"},
    {"-sys --system", TEXT, AT(system), RUN, "TEXT", NULL, "system message for --chat"},
    {"--no-special", FLAG, AT(no_special), RUN | TOKENIZE, NULL, NULL,
     "read special tokens in the text as plain text"},
    {"--bos", FLAG, AT(bos), TOKENIZE, NULL, NULL, "put the beginning-of-text token in front"},
    {"-n --n-predict --predict", INTEGER, AT(n_predict), RUN | PLAN, "N", "256",
     "tokens to generate at most"},
    {"--ignore-eos", FLAG, AT(ignore_eos), RUN, NULL, NULL,
     "go on after an end-of-generation token"},

    {"-c --ctx-size", INTEGER, AT(n_ctx), RUN | PPL | LOGITS | ABLATE | SAMPLES | PLAN, "N", "0",
     "tokens of context; 0: run: what the prompt needs, calibrate: 8192, eval: 2048, recall: 4096, "
     "plan: the model's"},
    {"-b --batch-size", INTEGER, AT(n_batch), ENGINE, "N", "2048",
     "tokens of one prefill chunk, over all ranks"},
    {"-t --threads", INTEGER, AT(n_thread), ENGINE | SAMPLES, "N", "0",
     "threads of each rank; 0: its share of the processors"},
    {"--tp", INTEGER, AT(n_tp), ENGINE, "N", "1",
     "ranks that share the weights: of every N that follow each other, each keeps an Nth of them"},
    {"--device", TEXT, AT(device), ENGINE | SAMPLES, "DEVICE", "auto",
     "cpu, cuda (the ranks of a host take its devices in turn), cuda:N, or auto: cuda if there is "
     "a device"},
    {"--wire", TEXT, AT(wire), ENGINE, "fp32|bf16", "fp32",
     "numbers in which queries and partial results go from rank to rank"},
    {"--merge", TEXT, AT(merge), ENGINE, "allgather|alltoall|tree|auto", "allgather",
     "how ranks merge the partial results of a decoded token; auto: the first or the second, by a "
     "short measurement; tree: other bits"},
    {"--split", TEXT, AT(split), ENGINE, "LIST", NULL,
     "shares of the context, a whole number for each rank (3,1: three tiles of four to rank 0), or "
     "auto: by a measurement of each; default: equal shares"},
    {"-ctk --cache-type-k", TEXT, AT(key_type), ENGINE, KEY_TYPES, NULL,
     "how keys are stored; default: q8 with --attn select or pages, else bf16"},
    {"-ctv --cache-type-v", TEXT, AT(value_type), ENGINE, VALUE_TYPES, NULL,
     "how values are stored; default: q8 with --attn select or pages, else bf16"},
    {"--rope-scaling", TEXT, AT(rope_scaling), ENGINE | SAMPLES, "none|linear|yarn", NULL,
     "stretch the context beyond the model's; default: as the model says"},
    {"--rope-scale", REAL, AT(rope_scale), ENGINE | SAMPLES, "X", "0", "by this factor"},
    {"--rope-freq-base", REAL, AT(rope_freq_base), ENGINE | SAMPLES, "X", "0",
     "base of the rotary frequencies; 0: the model's"},
    {"--yarn-orig-ctx", INTEGER, AT(yarn_orig_ctx), ENGINE | SAMPLES, "N", "0",
     "yarn: context the model was trained with; 0: the model's"},

    {"--attn", TEXT, AT(attn), PPL, "dense|aqua|select|pages", NULL,
     "exact (default), from the dimensions that decide, exact for the tokens that matter, or for "
     "whole pages by a bound of their scores (Quest, to compare select with)"},
    {"--attn", TEXT, AT(attn), ONE_WAY & ~PPL, "dense|aqua|select", NULL,
     "exact, from the dimensions that decide, or exact for the tokens that matter; default: run: "
     "select, else dense"},
    {"--mass", REAL, AT(mass), SELECTS & ~ABLATE, "X", "0.98",
     "select: share of the softmax that the chosen tokens hold"},
    {"--mass-exchange", FLAG, AT(mass_exchange), ENGINE, NULL, NULL,
     "select: ranks choose by the mass of all ranks' tokens, at one more small exchange a layer"},
    {"--sinks", INTEGER, AT(n_sink), SELECTS, "N", "4",
     "select, pages: first tokens, always chosen"},
    {"--recent", INTEGER, AT(n_recent), SELECTS, "N", "64",
     "select, pages: newest tokens, always chosen"},
    {"--group-by", TEXT, AT(group_by), SELECTS, "max|mean", "max",
     "select: how the heads of a group agree on a token's weight"},
    {"--selector", TEXT, AT(selector), SELECTS & ~ABLATE, "LAYOUT", NULL,
     "select: codes as columns x bits (16x4,32x2,16x1); default: the projection's"},
    {"--selector-dynamic", INTEGER, AT(n_dynamic), SELECTS, "N", "0",
     "select: columns of --selector that a query reads; 0: all"},
    {"--prefill", TEXT, AT(prefill), ENGINE, "dense|same", NULL,
     "select, pages: attention of the prompt itself; default: run: dense, else same"},
    {"--page", INTEGER, AT(n_page), PPL, "N", "16", "pages: tokens of a page"},
    {"--attended", REAL, AT(page_share), PPL, "X", "0.25",
     "pages: share of the visible pages that a query attends to, on each rank of its own pages"},
    {"--dense-layers", INTEGER, AT(n_dense_layer), PPL, "N", "0",
     "pages: so many first layers stay dense"},
    {"--hybrid", FLAG, AT(hybrid), ENGINE, NULL, NULL,
     "dense while the context is shorter than the projection's break-even"},
    {"--h2o", INTEGER, AT(n_h2o), ENGINE, "N", "0",
     "keep N tokens: the newest half, and those that got most attention; 0: all"},
    {"--k-ratio", REAL, AT(k_ratio), ONE_WAY, "X", "0.75", "aqua: share of dimensions that decide"},
    {"--k-tau", REAL, AT(k_tau), ONE_WAY, "X", "0",
     "aqua: instead the fewest dimensions that hold this share of the energy"},
    {"--k-budget", FLAG, AT(use_k_budget), ONE_WAY, NULL, NULL,
     "aqua: instead those of the energy that calibrate --k-budget left in the projection"},
    {"--s-ratio", REAL, AT(s_ratio), ENGINE, "X", "1", "aqua: share of key columns stored at all"},
    {"--rank-by", TEXT, AT(rank_by), ONE_WAY, "magnitude|energy|static", "energy",
     "aqua: abs(q), abs(q) times the column's spread, or the leading ones"},
    {"--basis", TEXT, AT(basis), ENGINE | CALIBRATE, "joint|kq|kpca|identity", NULL,
     "calibrate: basis to make, default: the one that loses least; elsewhere: the one the file "
     "must "
     "hold"},
    {"--selector-bytes", REAL, AT(selector_bytes), CALIBRATE, "X", "0",
     "find the best selector of X bytes of codes read a token and KV head; 0: the default one"},
    {"--k-budget", REAL, AT(k_budget), CALIBRATE, "X", "0",
     "find the energy from which on dimensions decide, a share X of them in the mean; 0: none"},

    {"-s --seed", INTEGER, AT(seed), RUN | NEEDLE, "N", "-1",
     "random seed; -1: from the clock, needle: 0"},
    {"--temp", REAL, AT(temp), RUN, "X", "0.8", "temperature; 0: always the likeliest token"},
    {"--top-k", INTEGER, AT(top_k), RUN, "N", "40", "choose among the N likeliest; 0: all"},
    {"--top-p", REAL, AT(top_p), RUN, "X", "0.95", "choose among the likeliest that sum to X"},
    {"--min-p", REAL, AT(min_p), RUN, "X", "0.05", "and at least X times as likely as the first"},
    {"--repeat-penalty", REAL, AT(repeat_penalty), RUN, "X", "1",
     "penalty on recent tokens; 1: none"},
    {"--repeat-last-n", INTEGER, AT(repeat_last_n), RUN, "N", "64", "how many are recent"},

    {"--tokens", INTEGER, AT(n_tok), CALIBRATE | ABLATE, "N", "65536",
     "tokens to calibrate on, spread evenly over the text"},
    {"--chunks", INTEGER, AT(n_chunk), PPL | RECALL | ABLATE, "N", "0",
     "chunks of the text to use; 0: all"},

    {"--lengths", TEXT, AT(lengths), NEEDLE, "LIST", "1024,2048,4096",
     "tokens of the whole text, question and answer included"},
    {"--depths", TEXT, AT(depths), NEEDLE, "LIST", "5",
     "where the needle stands, 0 to 1; or so many places spread evenly"},
    {"--tries", INTEGER, AT(n_try), NEEDLE, "N", "4", "texts for each length and depth"},
    {"--needles", INTEGER, AT(n_needle), NEEDLE, "N", "1",
     "keys with names in a text, of which one is asked for"},
    {"--key", TEXT, AT(key), NEEDLE, "digits|uuid", "digits", "keys of 5 digits, or uuids"},
    {"--generate", FLAG, AT(generate), NEEDLE, NULL, NULL,
     "also let the model answer, always with the likeliest token"},
    {"--plot", TEXT, AT(plot), NEEDLE, "FILE", NULL,
     "picture of the grid, .svg or .png, made by gnuplot"},

    {"--bases", TEXT, AT(bases), ABLATE, "LIST", NULL,
     "bases to solve for from --calibration; without it the projection file's"},
    {"--calibration", TEXT, AT(calibration), ABLATE, "FILE", NULL, "text for --bases"},
    {"--rules", TEXT, AT(rules), ABLATE, "LIST", "magnitude,energy,static",
     "aqua: values of --rank-by"},
    {"--ratios", TEXT, AT(ratios), ABLATE, "LIST", "0.9,0.75,0.5,0.25",
     "aqua: values of --k-ratio; an empty list leaves aqua out"},
    {"--key-types", TEXT, AT(key_types), ABLATE, "LIST", "bf16", "values of -ctk; dense has -ctk"},
    {"--masses", TEXT, AT(masses), ABLATE, "LIST", "",
     "select: shares of the softmax mass to attend to; an empty list leaves select out"},
    {"--selectors", TEXT, AT(selectors), ABLATE, "LAYOUTS", "",
     "select: layouts, \"16x4,32x2,16x1;32x4\"; without it the projection's"},

    {"--ranks", INTEGER, AT(n_rank), PLAN, "N", "0",
     "ranks to plan for; 0: those started, or of --hosts"},
    {"--memory", TEXT, AT(memory), PLAN, "SIZE", NULL,
     "memory that each rank may take (512M, 16G); default: they share what this machine has"},
    {"--hosts", TEXT, AT(hosts), PLAN, "FILE", NULL,
     "hosts, a line each: NAME ranks=N memory=SIZE [bandwidth=GB/s]"},
    {"--profile", TEXT, AT(profile), PLAN, "FILE", NULL,
     "measure this machine with the model, some seconds, and write the profile; -f: with this "
     "text"},
    {"--use-profile", TEXT, AT(use_profile), PLAN, "FILE", NULL,
     "predict times from a profile that was written before"},
    {"--latency", REAL, AT(latency_us), PLAN, "US", "50",
     "of a message between ranks, if that was not measured"},
    {"--bandwidth", REAL, AT(bandwidth_gbs), PLAN, "GB/S", "1.25",
     "of a rank's link, 10^9 bytes a second, if that was not measured"},

    {"--timeout", REAL, AT(timeout), ALL, "S", "60",
     "end the job when a rank has let the others wait for S seconds; 0: never"},
    {"-h --help", FLAG, AT(help), ALL, NULL, NULL, "this text"},
    {"--version", FLAG, AT(version), ALL, NULL, NULL, "version and build"},
};

#define N_OPTION ((int)(sizeof table / sizeof table[0]))

static const struct {
    const char *words; /* as typed */
    aq_command command;
    const char *usage;
    const char *what;
} commands[] = {
    {"run", RUN, "aqua-dist [run] -m MODEL [-f TEXTFILE] -p QUESTION",
     "Prefills a context over all ranks and answers. Text alone on stdout."},
    {"calibrate", CALIBRATE, "aqua-dist calibrate -m MODEL -f TEXTFILE [-o MODEL.aqua]",
     "Makes the projection of a model from any text of a few thousand tokens."},
    {"eval ppl", PPL, "aqua-dist eval ppl -m MODEL -f TEXTFILE -c 2048 --chunks 8",
     "Perplexity over the second half of each chunk, and what is lost against dense attention."},
    {"eval logits", LOGITS, "aqua-dist eval logits -m MODEL --ids IDS.npy -o OUT.npy",
     "Logits of every token, float32 [tokens, vocabulary]."},
    {"eval recall", RECALL, "aqua-dist eval recall -m MODEL -f TEXTFILE --chunks 1",
     "Layer by layer, the attention mass that select holds and the tokens it takes for it."},
    {"eval needle", NEEDLE, "aqua-dist eval needle -m MODEL -f HAYSTACK --lengths 1024,4096",
     "Hides keys in a text and asks for them: how often, by length and depth, they are found."},
    {"eval tasks", TASKS, "aqua-dist eval tasks -m MODEL -f TASKS.jsonl[.gz] [-o OUT.jsonl]",
     "Log-likelihoods of choices and how often the right one is the likeliest."},
    {"eval ablate", ABLATE,
     "aqua-dist eval ablate -m MODEL -f TEXTFILE -c 2048 --chunks 8 [-o OUT.jsonl]",
     "Table of what each basis, rule, ratio, key type and selector costs against dense."},
    {"plan", PLAN, "aqua-dist plan -m MODEL -c 32768 --ranks 4",
     "What a run would take: memory of each rank, bytes between ranks, time. Nothing is run."},
    {"tokenize", TOKENIZE, "aqua-dist tokenize -m MODEL -f TEXTFILE | -p TEXT",
     "Prints token ids on one line."},
    {"info", INFO, "aqua-dist info -m MODEL [--projection FILE]",
     "Tells what is in a model and its projection."},
};

#define N_COMMAND ((int)(sizeof commands / sizeof commands[0]))

/* Whether `word` is one of the spellings in a list separated by `separator`. */
static bool listed(const char *list, char separator, const char *word) {
    const size_t n = strlen(word);
    for (const char *at = list; at; at = strchr(at, separator)) {
        if (*at == separator) at++;
        if (strncmp(at, word, n) == 0 && (at[n] == separator || at[n] == '\0')) return true;
    }
    return false;
}

static const char *main_name(const option *o) {
    const char *last = strrchr(o->names, ' ');
    return last ? last + 1 : o->names;
}

/* The option of the command spelt by the first n characters of word. */
static const option *find(aq_command command, const char *word, size_t n) {
    char name[64];
    if (n >= sizeof name) return NULL;
    memcpy(name, word, n);
    name[n] = '\0';
    for (int i = 0; i < N_OPTION; i++)
        if ((table[i].commands & command) && listed(table[i].names, ' ', name)) return &table[i];
    return NULL;
}

static aq_status set_text(const option *o, const char *text, aq_options *out) {
    if (o->value && strchr(o->value, '|') && !listed(o->value, '|', text))
        return aq_fail(AQ_ERR_USAGE, "%s %s: choose one of %s", main_name(o), text, o->value);
    memcpy((char *)out + o->offset, &text, sizeof text);
    return AQ_OK;
}

static aq_status set_number(const option *o, const char *text, aq_options *out) {
    char *end = NULL;
    errno = 0;
    const long long whole = o->kind == INTEGER ? strtoll(text, &end, 10) : 0;
    const double real = o->kind == REAL ? strtod(text, &end) : 0;
    if (end == text || *end != '\0' || errno == ERANGE || real != real)
        return aq_fail(AQ_ERR_USAGE, "%s takes a%s number, not \"%s\"", main_name(o),
                       o->kind == INTEGER ? " whole" : "", text);
    const int64_t integer = whole;
    if (o->kind == INTEGER)
        memcpy((char *)out + o->offset, &integer, sizeof integer);
    else
        memcpy((char *)out + o->offset, &real, sizeof real);
    return AQ_OK;
}

static aq_status set(const option *o, const char *text, aq_options *out) {
    if (o->kind == TEXT) return set_text(o, text, out);
    if (o->kind != FLAG) return set_number(o, text, out);
    const bool on = strcmp(text, "0") != 0 && text[0] != '\0';
    memcpy((char *)out + o->offset, &on, sizeof on);
    return AQ_OK;
}

/* AQUA_CTX_SIZE for --ctx-size. */
static void variable_name(const option *o, char *name, size_t bytes) {
    snprintf(name, bytes, "AQUA_%s", main_name(o) + strspn(main_name(o), "-"));
    for (char *c = name; *c; c++)
        *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
}

static aq_status read_defaults_and_environment(aq_options *out) {
    for (int i = 0; i < N_OPTION; i++) {
        const option *o = &table[i];
        char name[64];
        if (o->fallback) AQ_TRY(set(o, o->fallback, out));
        variable_name(o, name, sizeof name);
        const char *value = getenv(name);
        if (value && (o->commands & out->command) && set(o, value, out) != AQ_OK)
            return aq_fail(AQ_ERR_USAGE, "environment %s: %s", name, aq_error_text());
    }
    return AQ_OK;
}

/* The command named by the first words; run if there is none. Returns how many words it took. */
static int find_command(int argc, char **argv, aq_command *command) {
    char two[64];
    for (int n = argc > 2 ? 2 : 1; n >= 1 && argc > n; n--) {
        snprintf(two, sizeof two, n == 2 ? "%s %s" : "%s", argv[1], n == 2 ? argv[2] : "");
        for (int i = 0; i < N_COMMAND; i++)
            if (strcmp(commands[i].words, two) == 0) {
                *command = commands[i].command;
                return n;
            }
    }
    *command = RUN;
    return 0;
}

/* Defaults that depend on the command or on other options. */
static void fill_in(aq_options *out) {
    const bool run = out->command == RUN || out->command == PLAN;
    if (!out->attn) out->attn = run ? "select" : "dense";
    if (!out->prefill) out->prefill = run ? "dense" : "same";
    const bool selects = strcmp(out->attn, "select") == 0 || strcmp(out->attn, "pages") == 0;
    const bool coded = selects && out->n_h2o == 0;
    const char *type = coded ? "q8" : "bf16";
    if (!out->key_type) out->key_type = type;
    if (!out->value_type) out->value_type = type;
    if (!out->projection || strcmp(out->projection, "auto") != 0) return;
    out->projection = NULL;
    out->auto_projection = true;
}

aq_status aq_options_parse(int argc, char **argv, aq_options *out) {
    memset(out, 0, sizeof *out);
    const int n_word = find_command(argc, argv, &out->command);
    AQ_TRY(read_defaults_and_environment(out));
    for (int i = 1 + n_word; i < argc; i++) {
        const char *word = argv[i];
        const char *equals = word[0] == '-' ? strchr(word, '=') : NULL;
        const option *o = find(out->command, word, equals ? (size_t)(equals - word) : strlen(word));
        if (word[0] != '-')
            return aq_fail(AQ_ERR_USAGE,
                           "\"%s\" is neither a command nor an option; commands: run, "
                           "calibrate, eval ppl, eval logits, eval needle, eval tasks, eval "
                           "ablate, eval recall, plan, tokenize, info",
                           word);
        if (!o) return aq_fail(AQ_ERR_USAGE, "%s is no option of this command; see --help", word);
        if (o->kind == FLAG) {
            AQ_TRY(set(o, equals ? equals + 1 : "1", out));
            continue;
        }
        if (!equals && i + 1 >= argc)
            return aq_fail(AQ_ERR_USAGE, "%s needs a value (%s)", word, o->value);
        AQ_TRY(set(o, equals ? equals + 1 : argv[++i], out));
    }
    aq_code_layout codes;
    if (out->selector) AQ_TRY(aq_code_layout_parse(out->selector, &codes));
    fill_in(out);
    return AQ_OK;
}

void aq_options_help(const aq_options *options, FILE *to) {
    for (int i = 0; i < N_COMMAND; i++)
        if (commands[i].command == options->command)
            fprintf(to, "usage: mpirun -n RANKS %s\n\n%s\n\n", commands[i].usage, commands[i].what);
    for (int i = 0; i < N_OPTION; i++) {
        const option *o = &table[i];
        char left[80];
        if (!(o->commands & options->command)) continue;
        snprintf(left, sizeof left, "%s%s%s", o->names, o->value ? " " : "",
                 o->value ? o->value : "");
        fprintf(to, "  %-38s %s", left, o->help);
        if (o->fallback) fprintf(to, " (default %s)", o->fallback);
        fputc('\n', to);
    }
    fprintf(to, "\nEvery option has an environment name, AQUA_ and its last spelling: AQUA_MODEL, "
                "AQUA_CTX_SIZE.\n\ncommands:\n");
    for (int i = 0; i < N_COMMAND; i++)
        fprintf(to, "  %-12s %s\n", commands[i].words, commands[i].what);
    fprintf(to, "\nexit status: 0 done, 1 failed, 2 wrong use\n");
}
