#include "src/base/memory.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"

/* The whole number behind `key` at the beginning of a line of root/group/file; -1: none. */
static int64_t find(const char *root, const char *group, const char *file, const char *key) {
    char path[PATH_MAX];
    char *text = NULL, *end = NULL;
    size_t bytes = 0;
    int64_t value = -1;
    const int length = snprintf(path, sizeof path, "%s%s/%s", root, group, file);
    if (length >= (int)sizeof path || aq_file_read(path, &text, &bytes) != AQ_OK) return -1;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, strlen(key)) != 0) continue;
        const long long number = strtoll(line + strlen(key), &end, 10);
        if (end > line + strlen(key)) value = number;
        break;
    }
    free(text);
    return value;
}

/* Takes the least of *least and what a group leaves, if it has a limit. */
static void limit(const char *root, const char *group, const char *max, const char *used,
                  const char *cached, int64_t *least) {
    const int64_t most = find(root, group, max, ""), taken = find(root, group, used, "");
    const int64_t files = find(root, group, "memory.stat", cached);
    if (most < 0 || taken < 0) return;
    int64_t left = most - taken + (files > 0 ? files : 0);
    if (left < 0) left = 0;
    if (left < *least) *least = left;
}

/* The path of this process' group behind `prefix` in /proc/self/cgroup; empty if there is none. */
static void find_group(const char *root, const char *prefix, char *group, size_t bytes) {
    char full[PATH_MAX];
    char *text = NULL;
    size_t n = 0;
    *group = '\0';
    snprintf(full, sizeof full, "%s/proc/self/cgroup", root);
    if (aq_file_read(full, &text, &n) != AQ_OK) return;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        const char *at = strstr(line, prefix);
        if (at) snprintf(group, bytes, "%s", at + strlen(prefix));
    }
    free(text);
}

/* The same for a group and those above it. */
static void limit_tree(const char *root, const char *mount, char *group, const char *max,
                       const char *used, const char *cached, int64_t *least) {
    for (bool more = true; more;) {
        char path[PATH_MAX];
        if (snprintf(path, sizeof path, "%s%s", mount, group) < (int)sizeof path)
            limit(root, path, max, used, cached, least);
        char *slash = strrchr(group, '/');
        more = slash != NULL;
        if (slash) *slash = '\0';
    }
}

int64_t aq_memory_available_in(const char *root) {
    char group[1024];
    const int64_t kib = find(root, "/proc", "meminfo", "MemAvailable:");
    int64_t least = kib < 0 ? INT64_MAX : kib * 1024;
    find_group(root, "0::", group, sizeof group);
    limit_tree(root, "/sys/fs/cgroup", group, "memory.max", "memory.current", "file ", &least);
    find_group(root, ":memory:", group, sizeof group);
    limit_tree(root, "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
               "memory.usage_in_bytes", "total_cache ", &least);
    return least == INT64_MAX ? 0 : least;
}

int64_t aq_memory_available(void) {
    return aq_memory_available_in("");
}

int64_t aq_memory_resident(void) {
    const int64_t kib = find("", "/proc/self", "status", "VmRSS:");
    return kib < 0 ? 0 : kib * 1024;
}

aq_status aq_memory_parse(const char *what, const char *text, int64_t *out) {
    static const char units[] = "KMGT";
    char *end = NULL;
    double bytes = strtod(text, &end);
    const char *unit = *end ? strchr(units, *end) : NULL;
    const bool number = end != text;
    if (unit) {
        bytes *= (double)((int64_t)1 << 10 * (unit - units + 1));
        end++;
        if (*end == 'i') end++;
    }
    if (*end == 'B') end++;
    if (!number || *end || !(bytes >= 1 && bytes < 9e18))
        return aq_fail(AQ_ERR_USAGE, "%s takes a size as 512M or 1.5G, not \"%s\"", what, text);
    *out = (int64_t)bytes;
    return AQ_OK;
}
