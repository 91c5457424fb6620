/* Times from a profile, against the same sums done by hand or one position after the other. */
#include "src/engine/forecast.h"

#include <math.h>

#include "tests/support/suite.h"

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-9 * fabs(b);
}

/* Round numbers: 1 GB/s is a byte a nanosecond. */
static aq_profile make_profile(void) {
    aq_profile p = {.n_read = 3,
                    .reads = {{1, 10}, {2, 18}, {4, 20}},
                    .n_point = 2,
                    .latency_us = 5,
                    .bandwidth_gbs = 2};
    for (int i = 0; i < 2; i++)
        p.points[i] = (aq_profile_point){
            .n_thread = i ? 4 : 1,
            .n_rank_on_host = 1,
            .n_type = 2,
            .n_way = 1,
            .types = {{"Q4_1", 10 + i, 100}, {"F32", 20, 50}},
            .ways = {{.attn = "dense", .key_type = "bf16", .value_type = "bf16"}}};
    return p;
}

static const aq_way_rate way = {.layer_us = 3,
                                .attend_us = 2,
                                .scan_ns = 0.5,
                                .attend_ns = 4,
                                .share = 0.25,
                                .share_at = 1000,
                                .share_power = -0.5,
                                .row_us = 7,
                                .pair_ns = 0.5};

static aq_workload make_load(int n_rank) {
    return (aq_workload){
        .n_layer = 10,
        .n_windowed = 4,
        .window = 100,
        .n_head = 6,
        .n_kv_head = 2,
        .products = {2, {{"Q4_1", 8000000, 2000000, 16000000}, {"F32", 400000, 0, 100000}}},
        .wire = {1000, 3000, 10, 20, 6000, 5000000, 41, 70},
        .n_rank = n_rank,
        .n_tp = 1,
        .n_rank_on_host = 1,
        .n_thread = 1,
        .n_batch = 256};
}

static void decode_alone(void) {
    const aq_profile profile = make_profile();
    const aq_workload load = make_load(1);
    aq_seconds s;
    if (!aq_test_ok(aq_forecast_decode(&profile, &way, &load, 4000, &s))) return;
    CU_ASSERT_TRUE(near(s.products, 10e6 / 10e9 + 0.4e6 / 20e9));
    /* 6 layers of 4000 tokens and 2 heads, an eighth of them attended to; 4 of 100 tokens. */
    CU_ASSERT_TRUE(near(s.attention, 20e-6 + 48000 * 0.5e-9 + (6000 + 800) * 4e-9));
    CU_ASSERT_TRUE(near(s.other, 30e-6));
    CU_ASSERT_EQUAL(s.exchange, 0);
    CU_ASSERT_TRUE(near(aq_seconds_sum(&s), s.products + s.attention + s.other));
    /* Before 62.5 tokens the share would be above 1; the window is not full there. */
    aq_test_ok(aq_forecast_decode(&profile, &way, &load, 50, &s));
    CU_ASSERT_TRUE(near(s.attention, 20e-6 + 600 * 0.5e-9 + (600 + 400) * 4e-9));
}

static void decode_on_ranks(void) {
    const aq_profile profile = make_profile();
    aq_workload load = make_load(5);
    aq_seconds one, five;
    load.n_rank = 1;
    aq_test_ok(aq_forecast_decode(&profile, &way, &load, 4000, &one));
    load.n_rank = 5;
    aq_test_ok(aq_forecast_decode(&profile, &way, &load, 4000, &five));
    CU_ASSERT_TRUE(near(five.products, one.products));
    CU_ASSERT_TRUE(near(five.attention - 20e-6, (one.attention - 20e-6) / 5));
    CU_ASSERT_TRUE(near(five.exchange, 11 * 3 * 5e-6 + 1000 / 2e9)); /* 5 ranks: 3 deep */
    /* Two of them on a host read 9 each in place of 10, four 5; and never faster than measured. */
    load.n_rank_on_host = 2;
    aq_test_ok(aq_forecast_decode(&profile, &way, &load, 4000, &five));
    CU_ASSERT_TRUE(near(five.products, one.products * 10 / 9));
    load.n_rank_on_host = 3; /* 19 for three */
    aq_test_ok(aq_forecast_decode(&profile, &way, &load, 4000, &five));
    CU_ASSERT_TRUE(near(five.products, one.products * 30 / 19));
    aq_profile shared = profile;
    shared.points[0].n_rank_on_host = 4;
    aq_test_ok(aq_forecast_decode(&shared, &way, &load, 4000, &five));
    CU_ASSERT_TRUE(near(five.products, one.products));
}

/* Rank 2 of four holds three quarters of the tiles, three times an equal share. */
static void decode_by_shares(void) {
    static const int64_t equal[] = {5, 5, 5, 5}, uneven[] = {1, 0, 6, 1, 99};
    const aq_profile profile = make_profile();
    aq_workload load = make_load(4);
    aq_seconds s, other;
    aq_test_ok(aq_forecast_decode(&profile, &way, &load, 4000, &s));
    load.weights = equal;
    aq_test_ok(aq_forecast_decode(&profile, &way, &load, 4000, &other));
    CU_ASSERT_EQUAL(s.attention, other.attention);
    load.weights = uneven;
    aq_test_ok(aq_forecast_decode(&profile, &way, &load, 4000, &other));
    CU_ASSERT_TRUE(near(other.attention - 20e-6, 3 * (s.attention - 20e-6)));
    CU_ASSERT_EQUAL(s.products, other.products);
    CU_ASSERT_EQUAL(s.exchange, other.exchange);
}

/* Of 6 ranks every 3 share the weights, two deep. */
static void shared_weights(void) {
    const aq_profile profile = make_profile();
    aq_workload load = make_load(6);
    aq_seconds whole, shared;
    aq_test_ok(aq_forecast_decode(&profile, &way, &load, 4000, &whole));
    load.n_tp = 3;
    aq_test_ok(aq_forecast_decode(&profile, &way, &load, 4000, &shared));
    CU_ASSERT_TRUE(near(shared.products, whole.products / 3));
    CU_ASSERT_EQUAL(shared.attention, whole.attention);
    CU_ASSERT_TRUE(near(shared.exchange - whole.exchange, 41 * 2 * 5e-6 + 6000 / 2e9));
    /* Three chunks, each of which begins with the layers' rows; all rows are multiplied with. */
    load.n_tp = 1;
    aq_test_ok(aq_forecast_prefill(&profile, &way, &load, 612, &whole));
    load.n_tp = 3;
    aq_test_ok(aq_forecast_prefill(&profile, &way, &load, 612, &shared));
    CU_ASSERT_EQUAL(shared.products, whole.products);
    CU_ASSERT_TRUE(near(shared.exchange - whole.exchange, 3 * (70 * 2 * 5e-6 + 5e6 / 2e9)));
}

/* One position after the other, by brute force. */
static double pairs_of(int64_t begin, int64_t end, int64_t limit) {
    double pairs = 0;
    for (int64_t p = begin; p < end; p++)
        pairs += (double)(p + 1 < limit ? p + 1 : limit);
    return pairs;
}

static void visible_tokens(void) {
    static const int64_t limits[] = {1, 5, 99, 100, 101, 150, 200, 1000};
    for (int i = 0; i < 8; i++)
        for (int64_t begin = 0; begin < 200; begin += 33)
            CU_ASSERT_EQUAL(aq_forecast_visible(begin, 200, limits[i]),
                            pairs_of(begin, 200, limits[i]));
}

static void prefill(void) {
    const aq_profile profile = make_profile();
    const double token_s = 2 * 16e6 / 100e9 + 2 * 0.1e6 / 50e9;
    aq_seconds s;
    for (int n_rank = 1; n_rank <= 3; n_rank++) {
        const aq_workload load = make_load(n_rank);
        /* Chunks of 4, 4 and 2 tiles, the last one short: tiles 0 .. 3, 4 .. 7, 8 and 9. */
        static const double busiest[] = {0, 612, 128 + 128 + 64, 128 + 128 + 64};
        const double n_tok = busiest[n_rank];
        if (!aq_test_ok(aq_forecast_prefill(&profile, &way, &load, 612, &s))) continue;
        const double pairs = 6 * pairs_of(0, 612, 612) + 4 * pairs_of(0, 612, 100);
        CU_ASSERT_TRUE(near(s.products, n_tok * token_s));
        CU_ASSERT_TRUE(near(s.other, n_tok * 10 * 7e-6));
        CU_ASSERT_TRUE(near(s.attention, pairs * 6 * 0.5e-9 / n_rank));
        const double depth = n_rank == 1 ? 0 : n_rank - 1; /* 1 of 2 ranks, 2 of 3 */
        const double sent = n_rank == 1 ? 0 : 612 * 3000 / 2e9;
        CU_ASSERT_TRUE(s.exchange == 0 ? n_rank == 1
                                       : near(s.exchange, 3 * 20 * depth * 5e-6 + sent));
    }
}

/* 3,1: rank 0 has three tiles of each chunk of four, and the ninth. */
static void prefill_by_shares(void) {
    static const int64_t weights[] = {3, 1}, none[] = {0, 0};
    const aq_profile profile = make_profile();
    aq_workload load = make_load(2);
    aq_seconds s;
    load.weights = weights;
    if (!aq_test_ok(aq_forecast_prefill(&profile, &way, &load, 576, &s))) return;
    const double pairs = 6 * pairs_of(0, 576, 576) + 4 * pairs_of(0, 576, 100);
    CU_ASSERT_TRUE(near(s.other, (192 + 192 + 64) * 10 * 7e-6));
    CU_ASSERT_TRUE(near(s.attention, pairs * 6 * 0.5e-9 * 0.75));
    load.weights = none;
    aq_test_fails(aq_forecast_prefill(&profile, &way, &load, 576, &s), AQ_ERR_USAGE, "share");
}

static void points_and_ways(void) {
    const aq_profile profile = make_profile();
    aq_workload load = make_load(1);
    aq_seconds s;
    CU_ASSERT_EQUAL(aq_profile_for(&profile, 1)->n_thread, 1);
    CU_ASSERT_EQUAL(aq_profile_for(&profile, 3)->n_thread, 1);
    CU_ASSERT_EQUAL(aq_profile_for(&profile, 4)->n_thread, 4);
    CU_ASSERT_EQUAL(aq_profile_for(&profile, 64)->n_thread, 4);
    const aq_profile_point *point = &profile.points[0];
    CU_ASSERT_PTR_EQUAL(aq_way_for(point, "dense", "bf16", "bf16"), &point->ways[0]);
    CU_ASSERT_PTR_NULL(aq_way_for(point, "dense", "q8", "bf16"));
    CU_ASSERT_PTR_NULL(aq_way_for(point, "select", "bf16", "bf16"));
    load.n_thread = 4; /* 11 bytes a nanosecond there */
    aq_test_ok(aq_forecast_decode(&profile, &way, &load, 1, &s));
    CU_ASSERT_TRUE(near(s.products, 10e6 / 11e9 + 0.4e6 / 20e9));
    load.products.types[1].type[0] = 'X';
    aq_test_fails(aq_forecast_decode(&profile, &way, &load, 1, &s), AQ_ERR_UNSUPPORTED, "X32");
    aq_test_fails(aq_forecast_prefill(&profile, &way, &load, 1, &s), AQ_ERR_UNSUPPORTED, "X32");
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "decode alone", decode_alone);
    CU_add_test(suite, "decode on ranks", decode_on_ranks);
    CU_add_test(suite, "decode by shares", decode_by_shares);
    CU_add_test(suite, "shared weights", shared_weights);
    CU_add_test(suite, "visible tokens", visible_tokens);
    CU_add_test(suite, "prefill", prefill);
    CU_add_test(suite, "prefill by shares", prefill_by_shares);
    CU_add_test(suite, "points and ways", points_and_ways);
}
