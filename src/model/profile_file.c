#include "src/model/profile_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "src/model/json.h"
#include "src/model/report.h"

#define SCHEMA_VERSION 1
#define MAX_THREADS    4096

static void put_types(aq_report *to, const aq_profile_point *point) {
    aq_report_list(to, "types");
    for (int i = 0; i < point->n_type; i++) {
        const aq_type_rate *type = &point->types[i];
        aq_report_group(to, "");
        aq_report_text(to, "type", type->type);
        aq_report_real(to, "decode_gbs", type->decode_gbs);
        aq_report_real(to, "prefill_gflops", type->prefill_gflops);
        aq_report_end(to);
    }
    aq_report_end(to);
}

static void put_ways(aq_report *to, const aq_profile_point *point) {
    aq_report_list(to, "ways");
    for (int i = 0; i < point->n_way; i++) {
        const aq_way_rate *way = &point->ways[i];
        aq_report_group(to, "");
        aq_report_text(to, "attn", way->attn);
        aq_report_text(to, "key_type", way->key_type);
        aq_report_text(to, "value_type", way->value_type);
        aq_report_real(to, "layer_us", way->layer_us);
        aq_report_real(to, "attend_us", way->attend_us);
        aq_report_real(to, "scan_ns", way->scan_ns);
        aq_report_real(to, "attend_ns", way->attend_ns);
        aq_report_real(to, "share", way->share);
        aq_report_real(to, "share_at", way->share_at);
        aq_report_real(to, "share_power", way->share_power);
        aq_report_real(to, "row_us", way->row_us);
        aq_report_real(to, "pair_ns", way->pair_ns);
        aq_report_end(to);
    }
    aq_report_end(to);
}

static void put(aq_report *to, const aq_profile *profile) {
    aq_report_int(to, "schema_version", SCHEMA_VERSION);
    aq_report_text(to, "host", profile->host);
    aq_report_text(to, "isa", profile->isa);
    aq_report_text(to, "model", profile->model);
    aq_report_group(to, "network");
    aq_report_int(to, "measured", profile->network_measured);
    aq_report_real(to, "latency_us", profile->latency_us);
    aq_report_real(to, "bandwidth_gbs", profile->bandwidth_gbs);
    aq_report_end(to);
    aq_report_list(to, "reads");
    for (int i = 0; i < profile->n_read; i++) {
        aq_report_group(to, "");
        aq_report_int(to, "threads", profile->reads[i].n_thread);
        aq_report_real(to, "gbs", profile->reads[i].gbs);
        aq_report_end(to);
    }
    aq_report_end(to);
    aq_report_list(to, "points");
    for (int i = 0; i < profile->n_point; i++) {
        aq_report_group(to, "");
        aq_report_int(to, "threads", profile->points[i].n_thread);
        aq_report_int(to, "ranks_on_host", profile->points[i].n_rank_on_host);
        put_types(to, &profile->points[i]);
        put_ways(to, &profile->points[i]);
        aq_report_end(to);
    }
    aq_report_end(to);
}

aq_status aq_profile_write(const char *path, const aq_profile *profile) {
    aq_report *document = NULL;
    AQ_TRY(aq_report_open(&document));
    put(document, profile);
    const aq_status status = aq_report_write(document, path);
    aq_report_close(document);
    return status;
}

static aq_status take_text(const aq_json *json, const char *key, char *out, size_t bytes) {
    const char *text = NULL;
    AQ_TRY(aq_json_text(json, key, NULL, &text));
    if (!text) return aq_fail(AQ_ERR_FORMAT, "%s: %s%s is missing", json->path, json->within, key);
    snprintf(out, bytes, "%s", text);
    return AQ_OK;
}

static aq_status take_count(const aq_json *json, const char *key, int *out) {
    int64_t n = 0;
    AQ_TRY(aq_json_int(json, key, 1, MAX_THREADS, AQ_JSON_REQUIRED, &n));
    *out = (int)n;
    return AQ_OK;
}

static aq_status take_rate(const aq_json *json, const char *key, double *out) {
    return aq_json_number(json, key, 1e-6, 1e9, NAN, out);
}

static aq_status take_time(const aq_json *json, const char *key, double *out) {
    return aq_json_number(json, key, 0, 1e12, NAN, out);
}

/* The list `key` of objects; its length, least .. most, to *n. */
static aq_status take_list(const aq_json *json, const char *key, int least, int most,
                           const cJSON **list, int *n) {
    *list = aq_json_find(json, key, NULL);
    *n = cJSON_IsArray(*list) ? cJSON_GetArraySize(*list) : -1;
    if (*n >= least && *n <= most) return AQ_OK;
    return aq_fail(AQ_ERR_FORMAT, "%s: %s%s must be a list of %d to %d objects", json->path,
                   json->within, key, least, most);
}

static aq_status take_types(const aq_json *json, aq_profile_point *out) {
    const cJSON *list = NULL;
    AQ_TRY(take_list(json, "types", 1, AQ_PROFILE_TYPES, &list, &out->n_type));
    for (int i = 0; i < out->n_type; i++) {
        const aq_json item = {json->path, "points.types.", cJSON_GetArrayItem(list, i)};
        aq_type_rate *type = &out->types[i];
        AQ_TRY(take_text(&item, "type", type->type, sizeof type->type));
        AQ_TRY(take_rate(&item, "decode_gbs", &type->decode_gbs));
        AQ_TRY(take_rate(&item, "prefill_gflops", &type->prefill_gflops));
    }
    return AQ_OK;
}

static aq_status take_way(const aq_json *item, aq_way_rate *way) {
    AQ_TRY(take_text(item, "attn", way->attn, sizeof way->attn));
    AQ_TRY(take_text(item, "key_type", way->key_type, sizeof way->key_type));
    AQ_TRY(take_text(item, "value_type", way->value_type, sizeof way->value_type));
    AQ_TRY(take_time(item, "layer_us", &way->layer_us));
    AQ_TRY(take_time(item, "attend_us", &way->attend_us));
    AQ_TRY(take_time(item, "scan_ns", &way->scan_ns));
    AQ_TRY(take_time(item, "attend_ns", &way->attend_ns));
    AQ_TRY(aq_json_number(item, "share", 0, 1, NAN, &way->share));
    AQ_TRY(aq_json_number(item, "share_at", 1, 1e12, NAN, &way->share_at));
    AQ_TRY(aq_json_number(item, "share_power", -1, 0, NAN, &way->share_power));
    AQ_TRY(take_time(item, "row_us", &way->row_us));
    return take_time(item, "pair_ns", &way->pair_ns);
}

static aq_status take_points(const aq_json *json, aq_profile *out) {
    const cJSON *list = NULL, *ways = NULL;
    AQ_TRY(take_list(json, "points", 1, AQ_PROFILE_POINTS, &list, &out->n_point));
    for (int i = 0; i < out->n_point; i++) {
        const aq_json item = {json->path, "points.", cJSON_GetArrayItem(list, i)};
        aq_profile_point *point = &out->points[i];
        AQ_TRY(take_count(&item, "threads", &point->n_thread));
        AQ_TRY(take_count(&item, "ranks_on_host", &point->n_rank_on_host));
        if (i > 0 && point->n_thread <= point[-1].n_thread)
            return aq_fail(AQ_ERR_FORMAT, "%s: threads of points must rise", json->path);
        AQ_TRY(take_types(&item, point));
        AQ_TRY(take_list(&item, "ways", 1, AQ_PROFILE_WAYS, &ways, &point->n_way));
        for (int w = 0; w < point->n_way; w++) {
            const aq_json way = {json->path, "points.ways.", cJSON_GetArrayItem(ways, w)};
            AQ_TRY(take_way(&way, &point->ways[w]));
        }
    }
    return AQ_OK;
}

static aq_status take_reads(const aq_json *json, aq_profile *out) {
    const cJSON *list = NULL;
    AQ_TRY(take_list(json, "reads", 1, AQ_PROFILE_READS, &list, &out->n_read));
    for (int i = 0; i < out->n_read; i++) {
        const aq_json item = {json->path, "reads.", cJSON_GetArrayItem(list, i)};
        aq_read_rate *read = &out->reads[i];
        AQ_TRY(take_count(&item, "threads", &read->n_thread));
        AQ_TRY(take_rate(&item, "gbs", &read->gbs));
        if (i > 0 && read->n_thread <= read[-1].n_thread)
            return aq_fail(AQ_ERR_FORMAT, "%s: threads of reads must rise", json->path);
    }
    return AQ_OK;
}

static aq_status take_network(const aq_json *json, aq_profile *out) {
    const aq_json item = {json->path, "network.", aq_json_find(json, "network", NULL)};
    int64_t measured = 0;
    if (!cJSON_IsObject(item.object))
        return aq_fail(AQ_ERR_FORMAT, "%s: network must be an object", json->path);
    AQ_TRY(aq_json_int(&item, "measured", 0, 1, AQ_JSON_REQUIRED, &measured));
    out->network_measured = measured != 0;
    AQ_TRY(take_time(&item, "latency_us", &out->latency_us));
    return take_rate(&item, "bandwidth_gbs", &out->bandwidth_gbs);
}

static aq_status take_all(const aq_json *json, aq_profile *out) {
    int64_t version = 0;
    AQ_TRY(aq_json_int(json, "schema_version", SCHEMA_VERSION, SCHEMA_VERSION, AQ_JSON_REQUIRED,
                       &version));
    AQ_TRY(take_text(json, "host", out->host, sizeof out->host));
    AQ_TRY(take_text(json, "isa", out->isa, sizeof out->isa));
    AQ_TRY(take_text(json, "model", out->model, sizeof out->model));
    AQ_TRY(take_network(json, out));
    AQ_TRY(take_reads(json, out));
    return take_points(json, out);
}

aq_status aq_profile_read(const char *path, aq_profile *out) {
    char *text = NULL;
    size_t bytes = 0;
    cJSON *object = NULL;
    memset(out, 0, sizeof *out);
    AQ_TRY(aq_file_read(path, &text, &bytes));
    aq_status status = aq_json_parse(path, text, bytes, &object);
    if (status == AQ_OK) status = take_all(&(aq_json){path, "", object}, out);
    cJSON_Delete(object);
    free(text);
    return status;
}
