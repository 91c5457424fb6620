#include "bench/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"

/* The value of the first line "key ... : value". Returns whether there is one. */
static int find_value(const char *text, const char *key, char *value, size_t bytes) {
    const size_t length = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, length) != 0) continue;
        const char *colon = strchr(line, ':');
        if (!colon) return 0;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(value, bytes, "%.*s", (int)strcspn(colon, "\n"), colon);
        return 1;
    }
    return 0;
}

void aq_machine_cpu(char *name, size_t bytes) {
    char *text = NULL;
    size_t text_bytes = 0;
    snprintf(name, bytes, "unknown");
    if (aq_file_read("/proc/cpuinfo", &text, &text_bytes) != AQ_OK) return;
    if (!find_value(text, "model name", name, bytes) && !find_value(text, "Hardware", name, bytes))
        find_value(text, "CPU part", name, bytes);
    free(text);
}
