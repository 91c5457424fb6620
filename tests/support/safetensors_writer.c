#include "tests/support/safetensors_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

aq_safetensors_writer aq_safetensors_writer_make(void) {
    return (aq_safetensors_writer){.pad = -1};
}

void aq_safetensors_writer_close(aq_safetensors_writer *w) {
    free(w->header);
    free(w->data);
    *w = aq_safetensors_writer_make();
}

static void push(aq_safetensors_writer *w, void **to, size_t *used, size_t *room, const void *data,
                 size_t bytes) {
    if (*used + bytes > *room) {
        const size_t larger = 2 * (*used + bytes);
        void *moved = realloc(*to, larger);
        w->failed = w->failed || !moved;
        if (!moved) return;
        *to = moved;
        *room = larger;
    }
    if (bytes > 0) memcpy((uint8_t *)*to + *used, data, bytes);
    *used += bytes;
}

static void push_text(aq_safetensors_writer *w, const char *text) {
    push(w, (void **)&w->header, &w->header_bytes, &w->header_room, text, strlen(text));
}

void aq_safetensors_put(aq_safetensors_writer *w, const char *name, const char *dtype, int n_dim,
                        const int64_t *shape, const void *data, size_t bytes) {
    char text[128];
    if (w->skip && strcmp(w->skip, name) == 0) return;
    push_text(w, w->header_bytes > 0 ? ",\"" : "\"");
    push_text(w, name);
    snprintf(text, sizeof text, "\":{\"dtype\":\"%s\",\"shape\":[", dtype);
    push_text(w, text);
    for (int i = 0; i < n_dim; i++) {
        snprintf(text, sizeof text, "%s%lld", i > 0 ? "," : "", (long long)shape[i]);
        push_text(w, text);
    }
    snprintf(text, sizeof text, "],\"data_offsets\":[%zu,%zu]}", w->data_bytes,
             w->data_bytes + bytes);
    push_text(w, text);
    push(w, (void **)&w->data, &w->data_bytes, &w->data_room, data, bytes);
}

static aq_status assemble(const char *header, size_t header_bytes, int pad, const uint8_t *body,
                          size_t body_bytes, uint8_t **data, size_t *bytes) {
    const size_t n_blank = pad >= 0 ? (size_t)pad : (8 - header_bytes % 8) % 8;
    const uint64_t n = header_bytes + n_blank;
    *bytes = 8 + (size_t)n + body_bytes;
    *data = malloc(*bytes);
    if (!*data) return aq_fail(AQ_ERR_MEMORY, "no memory for a safetensors file");
    for (int i = 0; i < 8; i++)
        (*data)[i] = (uint8_t)(n >> (8 * i));
    memcpy(*data + 8, header, header_bytes);
    memset(*data + 8 + header_bytes, ' ', n_blank);
    for (size_t i = 0; i < body_bytes; i++)
        (*data)[8 + n + i] = body ? body[i] : (uint8_t)i;
    return AQ_OK;
}

aq_status aq_safetensors_writer_finish(const aq_safetensors_writer *w, uint8_t **data,
                                       size_t *bytes) {
    const size_t n = w->header_bytes + 2;
    char *header = malloc(n);
    *data = NULL;
    if (!header || w->failed) {
        free(header);
        return aq_fail(AQ_ERR_MEMORY, "no memory for a safetensors file");
    }
    header[0] = '{';
    if (w->header_bytes > 0) memcpy(header + 1, w->header, w->header_bytes);
    header[n - 1] = '}';
    const aq_status status = assemble(header, n, w->pad, w->data, w->data_bytes, data, bytes);
    free(header);
    return status;
}

aq_status aq_safetensors_raw(const char *header, size_t n_data, uint8_t **data, size_t *bytes) {
    return assemble(header, strlen(header), 0, NULL, n_data, data, bytes);
}
