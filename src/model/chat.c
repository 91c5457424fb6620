#include "src/model/chat.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ENDOFTEXT "<|endoftext|>"

/* A text being written; once memory has run out nothing more is added. */
typedef struct {
    char *bytes;
    size_t n;
    size_t capacity;
    bool failed;
} text_out;

static void put_bytes(text_out *out, const char *bytes, size_t n) {
    if (!out->failed && out->capacity - out->n <= n) {
        const size_t capacity = 2 * out->capacity + n + 256;
        char *larger = realloc(out->bytes, capacity);
        out->failed = !larger;
        if (larger) {
            out->bytes = larger;
            out->capacity = capacity;
        }
    }
    if (out->failed) return;
    memcpy(out->bytes + out->n, bytes, n);
    out->n += n;
    out->bytes[out->n] = '\0';
}

static void put(text_out *out, const char *text) {
    put_bytes(out, text, strlen(text));
}

/* Without white space at both ends, like Jinja's trim. */
static void put_trimmed(text_out *out, const char *text) {
    static const char space[] = " \t\n\v\f\r";
    const char *begin = text + strspn(text, space);
    size_t n = strlen(begin);
    while (n > 0 && strchr(space, begin[n - 1]))
        n--;
    put_bytes(out, begin, n);
}

/* A conversation to be spelt in one format; template_text is never NULL here. */
typedef struct {
    const char *template_text;
    const char *eos; /* NULL: the format's usual one */
    const aq_chat_message *messages;
    int n_message;
    text_out *out;
} spelling;

static bool is_role(const aq_chat_message *message, const char *role) {
    return strcmp(message->role, role) == 0;
}

static bool has(const char *text, const char *mark) {
    return strstr(text, mark) != NULL;
}

static bool starts_with(const char *text, const char *mark) {
    return strncmp(text, mark, strlen(mark)) == 0;
}

static bool starts_with_system(const spelling *s) {
    return s->n_message > 0 && is_role(&s->messages[0], "system");
}

/* A line break in a template: the character itself or the two characters of its escape. */
static size_t line_break(const char *text) {
    if (text[0] == '\n') return 1;
    return text[0] == '\\' && text[1] == 'n' ? 2 : 0;
}

static void put_unescaped(text_out *out, const char *text, size_t n) {
    for (size_t i = 0, step; i < n; i += step) {
        step = line_break(text + i);
        put_bytes(out, step ? "\n" : text + i, 1);
        if (!step) step = 1;
    }
}

/* The system turn that a chatml template spells out as a whole is what it puts in front of a
 * conversation without one. Turns put together from parts hold quotes or braces. */
static void put_chatml_default(const spelling *s) {
    static const char head[] = "<|im_start|>system", end[] = "<|im_end|>";
    const char *at = s->template_text;
    while ((at = strstr(at, head)) != NULL) {
        at += sizeof head - 1;
        const char *text = at + line_break(at), *stop = strstr(text, end);
        if (text == at || !stop) continue;
        const size_t n = (size_t)(stop - text);
        if (strcspn(text, "'\"{}") < n) continue;
        put(s->out, "<|im_start|>system\n");
        put_unescaped(s->out, text, n);
        put(s->out, "<|im_end|>\n");
        return;
    }
}

static void spell_chatml(const spelling *s) {
    if (!starts_with_system(s)) put_chatml_default(s);
    for (int i = 0; i < s->n_message; i++) {
        put(s->out, "<|im_start|>");
        put(s->out, s->messages[i].role);
        put(s->out, "\n");
        put(s->out, s->messages[i].content);
        put(s->out, "<|im_end|>\n");
    }
    put(s->out, "<|im_start|>assistant\n");
}

static void put_llama3_turn(const spelling *s, const char *role, const char *preface,
                            const char *content) {
    put(s->out, "<|start_header_id|>");
    put(s->out, role);
    put(s->out, "<|end_header_id|>\n\n");
    put(s->out, preface);
    put_trimmed(s->out, content);
    put(s->out, "<|eot_id|>");
}

/* From Llama 3.1 on every conversation begins with a system turn about dates; today's is what the
 * template says where no clock is given. */
static void spell_llama3(const spelling *s) {
    const bool dated = has(s->template_text, "Cutting Knowledge Date: December 2023") &&
                       has(s->template_text, "Today Date: ");
    const char *preface =
        dated ? "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n" : "";
    if (preface[0] && !starts_with_system(s)) put_llama3_turn(s, "system", preface, "");
    for (int i = 0; i < s->n_message; i++)
        put_llama3_turn(s, s->messages[i].role, i == 0 && starts_with_system(s) ? preface : "",
                        s->messages[i].content);
    put(s->out, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

/* What a template shows of its version. Without a template: as in Nemo, no spaces. */
typedef struct {
    const char *open;         /* "[INST]" and the spaces around it */
    const char *close;        /* "[/INST]", likewise */
    const char *before_reply; /* a space or nothing */
    bool trims_reply;
    bool system_part;        /* the system message has a part of its own */
    const char *open_system; /* "[SYSTEM_PROMPT]" and the space after it */
    bool system_in_last;     /* else in the first user turn, if it has no part of its own */
} mistral_version;

static mistral_version read_mistral(const char *t) {
    const bool spaced = has(t, "[INST] ");
    return (mistral_version){
        .open = has(t, " [INST] ") ? " [INST] "
                : spaced           ? "[INST] "
                                   : "[INST]",
        .close = has(t, " [/INST]") ? " [/INST]" : "[/INST]",
        .before_reply = has(t, "' ' +") || has(t, "\" \" +") ? " " : "",
        .trims_reply = has(t, "message[\"content\"]|trim + eos_token"),
        .system_part = has(t, "[SYSTEM_PROMPT]"),
        .open_system = has(t, "[SYSTEM_PROMPT] ") ? "[SYSTEM_PROMPT] " : "[SYSTEM_PROMPT]",
        .system_in_last = has(t, "loop.last and system_message"),
    };
}

static void put_mistral_reply(const spelling *s, const mistral_version *v, const char *content) {
    put(s->out, v->before_reply);
    (v->trims_reply ? put_trimmed : put)(s->out, content);
    put(s->out, s->eos ? s->eos : "</s>");
}

static void spell_mistral(const spelling *s) {
    const mistral_version v = read_mistral(s->template_text);
    const char *system = starts_with_system(s) ? s->messages[0].content : NULL;
    int n_user_left = 0;
    for (int i = 0; i < s->n_message; i++)
        n_user_left += is_role(&s->messages[i], "user");
    if (system && v.system_part) {
        put(s->out, v.open_system);
        put(s->out, system);
        put(s->out, "[/SYSTEM_PROMPT]");
        system = NULL;
    }
    for (int i = starts_with_system(s) ? 1 : 0; i < s->n_message; i++) {
        const aq_chat_message *m = &s->messages[i];
        if (is_role(m, "assistant")) {
            put_mistral_reply(s, &v, m->content);
            continue;
        }
        put(s->out, v.open);
        if (system && (--n_user_left == 0 || !v.system_in_last)) {
            put(s->out, system);
            put(s->out, "\n\n");
            system = NULL;
        }
        put(s->out, m->content);
        put(s->out, v.close);
    }
}

/* Gemma has no system turn: the message stands in front of the next user turn. */
static void spell_gemma(const spelling *s) {
    const char *system = starts_with_system(s) ? s->messages[0].content : NULL;
    for (int i = system ? 1 : 0; i < s->n_message; i++) {
        const aq_chat_message *m = &s->messages[i];
        put(s->out, is_role(m, "user") ? "<start_of_turn>user\n" : "<start_of_turn>model\n");
        if (is_role(m, "user") && system) {
            put(s->out, system);
            put(s->out, "\n\n");
            system = NULL;
        }
        put_trimmed(s->out, m->content);
        put(s->out, "<end_of_turn>\n");
    }
    put(s->out, "<start_of_turn>model\n");
}

/* "<|role|>", the content, and what closes it: for the user's and system's turns, and for the
 * assistant's. */
static void spell_bars(const spelling *s, const char *close, const char *close_assistant) {
    for (int i = 0; i < s->n_message; i++) {
        put(s->out, "<|");
        put(s->out, s->messages[i].role);
        put(s->out, "|>\n");
        put(s->out, s->messages[i].content);
        put(s->out, is_role(&s->messages[i], "assistant") ? close_assistant : close);
        put(s->out, "\n");
    }
    put(s->out, "<|assistant|>\n");
}

static const char *const names[] = {
#define CHAT_NAME(id, name) name,
    AQ_CHAT_LIST(CHAT_NAME)
#undef CHAT_NAME
};

#define CHAT_LISTED(id, name) " " name
#define ALL_NAMES             AQ_CHAT_LIST(CHAT_LISTED)

/* Where a template first writes the token that ends a text, or NULL. */
static const char *find_end_of_text(const char *t) {
    static const char *const marks[] = {"eos_token", ENDOFTEXT, "</s>"};
    const char *first = NULL;
    for (int i = 0; i < 3; i++) {
        const char *mark = strstr(t, marks[i]);
        if (mark && (!first || mark < first)) first = mark;
    }
    return first;
}

/* Whether a template writes the end-of-text token right after the user's content. */
static bool closes_user_turn(const char *t) {
    const char *user = strstr(t, "<|user|>");
    if (!user) return false;
    const char *stop = strstr(user, "}}"), *mark = find_end_of_text(user);
    return mark && (!stop || mark < stop);
}

aq_status aq_chat_detect(const char *template_text, aq_chat_format *out) {
    const char *t = template_text ? template_text : "";
    /* Formats that share marks with ours: Phi-4, Llama 2, GLM, SmolVLM. */
    const bool stranger = has(t, "<|im_sep|>") || has(t, "<<SYS>>") || has(t, "[gMASK]") ||
                          has(t, "<end_of_utterance>");
    int found = -1;
    if (has(t, "<|im_start|>"))
        found = AQ_CHAT_CHATML;
    else if (has(t, "<|start_header_id|>"))
        found = AQ_CHAT_LLAMA3;
    else if (has(t, "[INST]"))
        found = AQ_CHAT_MISTRAL;
    else if (has(t, "<start_of_turn>"))
        found = AQ_CHAT_GEMMA;
    else if (has(t, "<|assistant|>") && has(t, "<|end|>"))
        found = AQ_CHAT_PHI3;
    else if (has(t, "<|user|>") && find_end_of_text(t)) /* GLM-Edge writes none */
        found = closes_user_turn(t) ? AQ_CHAT_ZEPHYR : AQ_CHAT_OLMO;
    if (found < 0 || stranger)
        return aq_fail(
            AQ_ERR_UNSUPPORTED,
            "the model's chat template is %s; choose one with --chat-template:" ALL_NAMES,
            template_text ? "of an unknown format" : "missing");
    *out = (aq_chat_format)found;
    return AQ_OK;
}

aq_status aq_chat_parse(const char *name, aq_chat_format *out) {
    for (int f = 0; f < AQ_CHAT_N; f++) {
        if (strcmp(name, names[f]) != 0) continue;
        *out = (aq_chat_format)f;
        return AQ_OK;
    }
    return aq_fail(AQ_ERR_USAGE, "chat format \"%s\" is unknown; use one of" ALL_NAMES, name);
}

const char *aq_chat_name(aq_chat_format format) {
    return (unsigned)format < AQ_CHAT_N ? names[format] : "unknown";
}

/* What every format can spell: templates refuse the rest, or would lose a system message. */
static aq_status check_messages(const aq_chat_message *messages, int n_message) {
    int n_user = 0;
    for (int i = 0; i < n_message; i++) {
        const aq_chat_message *m = &messages[i];
        const bool system = is_role(m, "system"), user = is_role(m, "user");
        if (!system && !user && !is_role(m, "assistant"))
            return aq_fail(AQ_ERR_USAGE,
                           "message %d has role \"%s\"; roles are system, user and assistant", i,
                           m->role);
        if (system && i > 0)
            return aq_fail(AQ_ERR_USAGE,
                           "message %d is a system message; only the first may be one", i);
        n_user += user;
    }
    return n_user > 0 ? AQ_OK : aq_fail(AQ_ERR_USAGE, "a conversation needs a user's message");
}

/* The token that ends a turn where a format has no mark of its own for that. */
static const char *end_of_text(const spelling *s) {
    const char *t = s->template_text;
    if (has(t, "</s>")) return "</s>";
    return s->eos && !has(t, ENDOFTEXT) ? s->eos : ENDOFTEXT;
}

aq_status aq_chat_apply(aq_chat_format format, const char *template_text, const char *eos,
                        const aq_chat_message *messages, int n_message, char **text) {
    *text = NULL;
    AQ_TRY(check_messages(messages, n_message));
    text_out out = {0};
    const spelling s = {template_text ? template_text : "", eos, messages, n_message, &out};
    put(&out, "");
    switch (format) {
    case AQ_CHAT_CHATML:
        spell_chatml(&s);
        break;
    case AQ_CHAT_LLAMA3:
        spell_llama3(&s);
        break;
    case AQ_CHAT_MISTRAL:
        spell_mistral(&s);
        break;
    case AQ_CHAT_GEMMA:
        spell_gemma(&s);
        break;
    case AQ_CHAT_PHI3:
        spell_bars(&s, "<|end|>", "<|end|>");
        break;
    case AQ_CHAT_ZEPHYR:
        spell_bars(&s, end_of_text(&s), end_of_text(&s));
        break;
    case AQ_CHAT_OLMO: /* the first OLMo has no beginning-of-text token: this one stands for it */
        if (starts_with(s.template_text, "{{ eos_token }}")) put(&out, end_of_text(&s));
        spell_bars(&s, "", end_of_text(&s));
        break;
    default:
        free(out.bytes);
        return aq_fail(AQ_ERR_USAGE, "no chat format %d", (int)format);
    }
    if (out.failed) {
        free(out.bytes);
        return aq_fail(AQ_ERR_MEMORY, "no memory to spell %d chat messages", n_message);
    }
    *text = out.bytes;
    return AQ_OK;
}
