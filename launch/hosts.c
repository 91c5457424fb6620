#include "launch/hosts.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "src/base/memory.h"

#define MAX_RANKS 65536

/* Takes one "key=value" of a line; false if it is none of ours or no number. */
static bool take(const char *word, aq_host *host) {
    char *end = NULL;
    const char *value = strchr(word, '=');
    if (!value) return false;
    value++;
    if (strncmp(word, "ranks=", 6) == 0) {
        const long n = strtol(value, &end, 10);
        host->n_rank = n > 0 && n <= MAX_RANKS ? (int)n : 0;
        return host->n_rank > 0 && *end == '\0';
    }
    if (strncmp(word, "memory=", 7) == 0)
        return aq_memory_parse("memory", value, &host->memory) == AQ_OK;
    if (strncmp(word, "bandwidth=", 10) != 0) return false;
    host->bandwidth_gbs = strtod(value, &end);
    return end != value && *end == '\0' && host->bandwidth_gbs > 0 && host->bandwidth_gbs < 1e6;
}

/* One line; *n grows unless it is empty. Returns whether it is right. */
static bool take_line(char *line, aq_hosts *out) {
    char *rest = NULL;
    aq_host host = {.n_rank = 0};
    line[strcspn(line, "#")] = '\0';
    const char *word = strtok_r(line, " \t\r", &rest);
    if (!word) return true;
    if (strlen(word) >= AQ_HOST_NAME || strchr(word, '=')) return false;
    snprintf(host.name, sizeof host.name, "%s", word);
    while ((word = strtok_r(NULL, " \t\r", &rest)))
        if (!take(word, &host)) return false;
    if (host.n_rank == 0 || host.memory == 0 || out->n == AQ_HOSTS_MAX) return false;
    out->hosts[out->n++] = host;
    return true;
}

aq_status aq_hosts_read(const char *path, aq_hosts *out) {
    char *text = NULL;
    size_t bytes = 0;
    int number = 0;
    aq_status status = AQ_OK;
    out->n = 0;
    AQ_TRY(aq_file_read(path, &text, &bytes));
    for (char *line = text, *next; line && status == AQ_OK; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        number++;
        if (!take_line(line, out))
            status = aq_fail(AQ_ERR_USAGE,
                             "%s, line %d: expected NAME ranks=N memory=SIZE [bandwidth=GB/s], %d "
                             "hosts at most",
                             path, number, AQ_HOSTS_MAX);
    }
    if (status == AQ_OK && out->n == 0) status = aq_fail(AQ_ERR_USAGE, "%s names no host", path);
    free(text);
    return status;
}

void aq_hosts_one(const char *name, int n_rank, int64_t memory, aq_hosts *out) {
    out->n = 1;
    out->hosts[0] = (aq_host){.n_rank = n_rank, .memory = memory};
    snprintf(out->hosts[0].name, AQ_HOST_NAME, "%s", name);
}

aq_status aq_hosts_each(int n_rank, int64_t memory, aq_hosts *out) {
    if (n_rank > AQ_HOSTS_MAX)
        return aq_fail(AQ_ERR_USAGE, "--memory takes %d ranks at most", AQ_HOSTS_MAX);
    out->n = n_rank;
    for (int i = 0; i < n_rank; i++) {
        out->hosts[i] = (aq_host){.n_rank = 1, .memory = memory};
        snprintf(out->hosts[i].name, AQ_HOST_NAME, "rank %d", i);
    }
    return AQ_OK;
}

int aq_hosts_ranks(const aq_hosts *hosts) {
    int n = 0;
    for (int i = 0; i < hosts->n; i++)
        n += hosts->hosts[i].n_rank;
    return n;
}

int aq_hosts_used(const aq_hosts *hosts, int i, int n_rank) {
    for (int before = 0; before < i; before++)
        n_rank -= hosts->hosts[before].n_rank;
    if (n_rank <= 0) return 0;
    return n_rank < hosts->hosts[i].n_rank ? n_rank : hosts->hosts[i].n_rank;
}
