/* Profiles: what is written is read back exactly, and what is no profile is refused by name. */
#include "src/model/profile_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/file.h"
#include "tests/support/suite.h"

static aq_profile make(void) {
    aq_profile p = {.host = "n1",
                    .isa = "avx2",
                    .model = "a \"model\"",
                    .n_read = 2,
                    .n_point = 2,
                    .reads = {{1, 12.5}, {4, 1.0 / 3}},
                    .network_measured = true,
                    .latency_us = 1.7,
                    .bandwidth_gbs = 0.125};
    for (int i = 0; i < 2; i++) {
        aq_profile_point *point = &p.points[i];
        *point = (aq_profile_point){
            .n_thread = 1 + 3 * i, .n_rank_on_host = 2 - i, .n_type = 2, .n_way = 1 + i};
        point->types[0] = (aq_type_rate){"Q4_1", 10.1 + i, 100.7};
        point->types[1] = (aq_type_rate){"F32", 20.3, 1e-3};
        for (int w = 0; w < point->n_way; w++)
            point->ways[w] = (aq_way_rate){.attn = "select",
                                           .key_type = "q8",
                                           .value_type = "q5",
                                           .layer_us = 1.1 * (w + 1),
                                           .attend_us = 2.2,
                                           .scan_ns = 3.3,
                                           .attend_ns = 4.4,
                                           .share = 0.3,
                                           .share_at = 2048,
                                           .share_power = -0.5,
                                           .row_us = 0,
                                           .pair_ns = 0.77};
    }
    return p;
}

static void path_of(char *path, size_t bytes) {
    snprintf(path, bytes, "%s/profile.json", aq_test_temp_dir());
}

static void comes_back(void) {
    char path[256];
    const aq_profile written = make();
    aq_profile read;
    path_of(path, sizeof path);
    aq_test_ok(aq_profile_write(path, &written));
    if (!aq_test_ok(aq_profile_read(path, &read))) return;
    for (int i = 0; i < 2; i++) {
        const aq_profile_point *a = &read.points[i], *b = &written.points[i];
        CU_ASSERT_EQUAL(read.reads[i].n_thread, written.reads[i].n_thread);
        CU_ASSERT_TRUE(read.reads[i].gbs == written.reads[i].gbs);
        CU_ASSERT_TRUE(a->n_thread == b->n_thread && a->n_rank_on_host == 2 - i && a->n_type == 2 &&
                       a->n_way == b->n_way);
        CU_ASSERT_EQUAL(memcmp(a->types, b->types, sizeof a->types), 0); /* without gaps */
        CU_ASSERT_EQUAL(memcmp(a->ways, b->ways, sizeof a->ways), 0);
    }
    CU_ASSERT_STRING_EQUAL(read.host, written.host);
    CU_ASSERT_STRING_EQUAL(read.isa, written.isa);
    CU_ASSERT_STRING_EQUAL(read.model, written.model);
    CU_ASSERT_TRUE(read.n_read == 2 && read.n_point == 2);
    CU_ASSERT_TRUE(read.network_measured && read.latency_us == 1.7);
    CU_ASSERT_TRUE(read.bandwidth_gbs == 0.125);
}

/* The text of a good profile in which the first `from` is `to`. */
static void refuses(const char *from, const char *to, const char *named) {
    char path[256], *text = NULL;
    size_t bytes = 0;
    const aq_profile good = make();
    aq_profile read;
    path_of(path, sizeof path);
    aq_test_ok(aq_profile_write(path, &good));
    if (!aq_test_ok(aq_file_read(path, &text, &bytes))) return;
    char *at = strstr(text, from);
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    char *changed = malloc(bytes + strlen(to) + 1);
    sprintf(changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    aq_test_ok(aq_file_write(path, changed, strlen(changed)));
    aq_test_fails(aq_profile_read(path, &read), AQ_ERR_FORMAT, named);
    free(changed);
    free(text);
}

static void refusals(void) {
    aq_profile read;
    aq_test_fails(aq_profile_read("/nowhere.json", &read), AQ_ERR_IO, "nowhere");
    refuses("{", "[", "JSON");
    refuses("\"schema_version\":\t1", "\"schema_version\":\t2", "schema_version");
    refuses("\"isa\"", "\"other\"", "isa");
    refuses("\"latency_us\":\t1.7", "\"latency_us\":\t-1", "latency_us");
    refuses("\"bandwidth_gbs\":\t0.125", "\"bandwidth_gbs\":\t0", "bandwidth_gbs");
    refuses("\"network\"", "\"net\"", "network");
    refuses("\"reads\"", "\"read\"", "reads");
    refuses("\"gbs\":\t12.5", "\"gbs\":\ttrue", "gbs");
    refuses("\"threads\":\t4", "\"threads\":\t1", "must rise");
    refuses("\"points\"", "\"point\"", "points");
    refuses("\"types\"", "\"kinds\"", "types");
    refuses("\"pair_ns\":\t0.77", "\"pair_ns\":\tnull", "pair_ns");
    refuses("\"share\":\t0.3", "\"share\":\t1.5", "share");
    refuses("\"decode_gbs\":\t10.1", "\"decode_gbs\":\t0", "decode_gbs");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "comes back", comes_back);
    CU_add_test(suite, "refusals", refusals);
}
