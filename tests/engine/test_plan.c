/* Who holds what, against brute force over all positions: one owner and one slot each, shares in
 * proportion to the weights in every part of the text, lists and counts that agree. */
#include "src/engine/plan.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/support/suite.h"

enum { MAX_RANK = 9, MAX_TOK = 1400, MAX_PERIOD = 400, N_DEAL = 120 };

static const int64_t lengths[] = {0,   1,   2,   63,  64,  65,  127, 128,  129,
                                  191, 192, 193, 500, 576, 577, 640, 1399, MAX_TOK};
#define N_LENGTH ((int)(sizeof lengths / sizeof lengths[0]))

/* A way of dealing: equal at first, then given weights, then drawn ones, some of them 0. */
typedef struct {
    int n_rank;
    int64_t weights[MAX_RANK];
    int64_t sum; /* without the common factor, which no drawn weights have: one of them is 1 */
} deal;

static deal make_deal(int i) {
    static const deal given[] = {{2, {3, 1}, 4},          {3, {1, 0, 2}, 3}, {4, {5, 1, 1, 2}, 9},
                                 {4, {30, 10, 0, 20}, 6}, {1, {7}, 1},       {3, {0, 0, 5}, 1}};
    aq_rng rng = {(uint64_t)i};
    if (i < MAX_RANK) {
        deal equal = {.n_rank = i + 1, .sum = i + 1};
        for (int r = 0; r <= i; r++)
            equal.weights[r] = i + 1; /* a common factor to be taken out */
        return equal;
    }
    i -= MAX_RANK;
    if (i < (int)(sizeof given / sizeof given[0])) return given[i];
    deal d = {.n_rank = 1 + (int)(aq_rng_next(&rng) % 8)};
    const uint64_t most = i % 3 == 0 ? 3 : i % 3 == 1 ? 9 : 41;
    for (int r = 0; r < d.n_rank; r++)
        d.weights[r] = (int64_t)(aq_rng_next(&rng) % most);
    d.weights[aq_rng_next(&rng) % (uint64_t)d.n_rank] = 1;
    for (int r = 0; r < d.n_rank; r++)
        d.sum += d.weights[r];
    return d;
}

/* The plan of a deal for its last rank, unless another is given. */
static aq_plan open_plan(const deal *d, int rank) {
    aq_plan plan;
    aq_test_ok(aq_plan_open(d->n_rank, rank, d->weights, &plan));
    return plan;
}

/* Owners of the first n tiles by the rule in other words: all ranks count down to when their next
 * tile is due; who is not yet entitled to it waits. */
static void brute_owners(const deal *d, int n, int *owners) {
    int64_t all = 0, dealt[MAX_RANK] = {0};
    for (int r = 0; r < d->n_rank; r++)
        all += d->weights[r];
    for (int t = 0; t < n; t++) {
        double first_due = 1e300;
        for (int r = 0; r < d->n_rank; r++) {
            const double rate = (double)d->weights[r] / (double)all;
            if (rate == 0 || (double)dealt[r] > t * rate + 1e-9) continue;
            const double due = (double)(dealt[r] + 1) / rate;
            if (due > first_due - 1e-9) continue;
            first_due = due;
            owners[t] = r;
        }
        dealt[owners[t]]++;
    }
}

/* Equal weights deal in turn, as if there were none. */
static void equal_weights_deal_in_turn(void) {
    for (int i = 0; i < MAX_RANK; i++) {
        const deal d = make_deal(i);
        aq_plan weighed = open_plan(&d, i), plain;
        if (!aq_test_ok(aq_plan_open(i + 1, i, NULL, &plain))) return;
        CU_ASSERT_TRUE(weighed.n_period == i + 1 && plain.n_period == i + 1);
        for (int64_t pos = 0; pos < MAX_TOK; pos++) {
            CU_ASSERT_EQUAL(aq_plan_owner(&plain, pos), pos / 64 % (i + 1));
            CU_ASSERT_EQUAL(aq_plan_slot(&plain, pos), pos / 64 / (i + 1) * 64 + pos % 64);
            CU_ASSERT_EQUAL(aq_plan_owner(&weighed, pos), aq_plan_owner(&plain, pos));
        }
        for (int64_t j = 0; j < 20; j++)
            CU_ASSERT_EQUAL(aq_plan_tile_pos(&plain, j), (i + j * (i + 1)) * 64);
        aq_plan_close(&weighed);
        aq_plan_close(&plain);
    }
}

/* Whether the first t tiles of every rank are within one tile of their exact share, for each t, and
 * exact where a period ends. */
static bool shares_hold(const aq_plan *plan, const deal *d) {
    int64_t all = 0, n[MAX_RANK] = {0};
    for (int r = 0; r < d->n_rank; r++)
        all += d->weights[r];
    for (int64_t t = 1; t <= 3 * d->sum; t++) {
        n[aq_plan_owner(plan, (t - 1) * 64)]++;
        for (int r = 0; r < d->n_rank; r++) {
            const int64_t off = n[r] * all - t * d->weights[r]; /* in parts of a tile, all a tile */
            if (off >= all || off <= -all || (t % d->sum == 0 && off != 0)) return false;
        }
    }
    return true;
}

static void every_part_is_shared_in_proportion(void) {
    int n_caught = 0, n_planted = 0;
    for (int i = 0; i < N_DEAL; i++) {
        const deal d = make_deal(i);
        aq_plan plan = open_plan(&d, 0);
        CU_ASSERT_EQUAL(plan.n_period, d.sum);
        CU_ASSERT_TRUE(shares_hold(&plan, &d));
        int owners[MAX_PERIOD];
        brute_owners(&d, plan.n_period, owners);
        CU_ASSERT_EQUAL(memcmp(owners, plan.owner, (size_t)plan.n_period * sizeof(int)), 0);
        /* planted: the same numbers of tiles, each rank's in one run */
        for (int t = 0, r = 0; t < plan.n_period; plan.owner[t++] = r)
            while (plan.first[r + 1] <= t)
                r++;
        n_planted += plan.n_period > 2 * d.n_rank && d.n_rank > 1;
        n_caught += plan.n_period > 2 * d.n_rank && d.n_rank > 1 && !shares_hold(&plan, &d);
        aq_plan_close(&plan);
    }
    CU_ASSERT_TRUE(n_planted > 50 &&
                   n_caught > n_planted * 3 / 4); /* one weight may be nearly all */
}

/* Walks positions in order, filling each rank's slots; false if the plan says otherwise. */
static bool slots_hold(const aq_plan *plan, int64_t n_tok) {
    int64_t n_filled[MAX_RANK] = {0};
    for (int64_t pos = 0; pos < n_tok; pos++) {
        const int owner = aq_plan_owner(plan, pos);
        /* Every rank's slots are taken one after the other: none twice, none left out. */
        if (aq_plan_slot(plan, pos) != n_filled[owner]++) return false;
    }
    return true;
}

static void every_position_has_a_slot(void) {
    for (int i = 0; i < N_DEAL; i++) {
        const deal d = make_deal(i);
        aq_plan plan = open_plan(&d, 0);
        CU_ASSERT_TRUE(slots_hold(&plan, 3 * 64 * d.sum));
        plan.index[plan.n_period - 1]++; /* planted */
        CU_ASSERT_FALSE(slots_hold(&plan, 3 * 64 * d.sum));
        aq_plan_close(&plan);
    }
}

/* A slot's tile begins where aq_plan_tile_pos says, and an unfinished one is the open tile. */
static void tiles_begin_where_they_should(void) {
    for (int i = 0; i < N_DEAL; i++) {
        const deal d = make_deal(i);
        for (int rank = 0; rank < d.n_rank; rank++) {
            aq_plan plan = open_plan(&d, rank);
            int64_t n_wrong = 0;
            for (int64_t pos = 0; pos < MAX_TOK; pos++) {
                const bool mine = aq_plan_owner(&plan, pos) == rank;
                const int64_t slot = aq_plan_slot(&plan, pos);
                const int64_t open = mine && pos % 64 != 0 ? slot / 64 : -1;
                n_wrong += aq_plan_open_tile(&plan, pos) != open;
                n_wrong += mine && aq_plan_tile_pos(&plan, slot / 64) + slot % 64 != pos;
            }
            CU_ASSERT_EQUAL(n_wrong, 0);
            aq_plan_close(&plan);
        }
    }
}

static void counts_agree_with_counting(void) {
    for (int i = 0; i < N_DEAL * N_LENGTH; i++) {
        const deal d = make_deal(i / N_LENGTH);
        const int64_t n = lengths[i % N_LENGTH];
        aq_plan plan = open_plan(&d, d.n_rank - 1);
        int64_t n_tok[MAX_RANK] = {0}, n_tile[MAX_RANK] = {0};
        for (int64_t pos = 0; pos < n; pos++) {
            n_tok[aq_plan_owner(&plan, pos)]++;
            n_tile[aq_plan_owner(&plan, pos)] += pos % 64 == 0;
        }
        for (int r = 0; r < d.n_rank; r++) {
            CU_ASSERT_EQUAL(aq_plan_tokens(&plan, r, n), n_tok[r]);
            CU_ASSERT_EQUAL(aq_plan_tiles(&plan, r, n), n_tile[r]);
        }
        aq_plan_close(&plan);
    }
}

/* Of positions [begin, end): rising, this rank's, all of them, nothing written past. */
static bool list_holds(const aq_plan *plan, int r, int64_t begin, int64_t end) {
    int64_t pos[MAX_TOK + 1], n = 0;
    memset(pos, 0xff, sizeof pos);
    const int64_t n_owned = aq_plan_owned(plan, r, begin, end, pos);
    for (int64_t p = begin; p < end; p++)
        if (aq_plan_owner(plan, p) == r && pos[n++] != p) return false;
    return n == n_owned && pos[n] == -1 && aq_plan_owned(plan, r, begin, end, NULL) == n;
}

static void lists_agree_with_owners(void) {
    for (int i = 0; i < 30; i++) {
        const deal d = make_deal(i);
        aq_plan plan = open_plan(&d, 0);
        bool good = true;
        for (int j = 0; j < N_LENGTH * N_LENGTH; j++)
            for (int r = 0; r < d.n_rank && lengths[j / N_LENGTH] <= lengths[j % N_LENGTH]; r++)
                good = good && list_holds(&plan, r, lengths[j / N_LENGTH], lengths[j % N_LENGTH]);
        CU_ASSERT_TRUE(good);
        aq_plan_close(&plan);
    }
}

/* The most tiles of rank r that n_tok positions touch, over all places where they can begin. */
static int64_t brute_most_tiles(const aq_plan *plan, int r, int64_t n_tok) {
    int64_t most = 0;
    for (int64_t tile = 0; tile < plan->n_period; tile++) {
        /* The last place of a tile is where they touch most. */
        const int64_t begin = tile * 64 + 63, end = begin + n_tok;
        int64_t n = 0;
        for (int64_t first = tile * 64; first < end; first += 64)
            n += aq_plan_owner(plan, first) == r;
        most = n > most ? n : most;
    }
    return most;
}

/* The room a rank must have for any chunk: never too little, exact in tiles. */
static void the_most_a_rank_owns_is_enough(void) {
    for (int i = 0; i < N_DEAL; i++) {
        const deal d = make_deal(i);
        aq_plan plan = open_plan(&d, 0);
        for (int64_t n_tok = 1; n_tok <= 700; n_tok += n_tok < 130 ? 1 : 37)
            for (int r = 0; r < d.n_rank; r++) {
                const int64_t most = brute_most_tiles(&plan, r, n_tok);
                const int64_t room = aq_plan_most_owned(&plan, r, n_tok);
                CU_ASSERT_EQUAL(aq_plan_most_tiles(&plan, r, n_tok), most);
                CU_ASSERT_EQUAL(room, most * 64 < n_tok ? most * 64 : n_tok);
                CU_ASSERT_TRUE(d.weights[r] > 0 || room == 0);
            }
        aq_plan_close(&plan);
    }
}

/* A cluster's text on many ranks: within a tile of its share. */
static void long_texts_are_divided(void) {
    const int64_t n_tok = ((int64_t)1 << 40) + 17;
    int64_t weights[1000], sum = 0, all = 0;
    for (int r = 0; r < 1000; r++)
        all += weights[r] = r % 64;
    aq_plan plan;
    if (!aq_test_ok(aq_plan_open(1000, 999, weights, &plan))) return;
    for (int r = 0; r < 1000; r++) {
        const int64_t n = aq_plan_tokens(&plan, r, n_tok);
        const double exact = (double)n_tok * (double)weights[r] / (double)all;
        CU_ASSERT_TRUE((double)n > exact - 128 && (double)n < exact + 128);
        CU_ASSERT_TRUE(weights[r] > 0 || n == 0);
        sum += n;
    }
    CU_ASSERT_EQUAL(sum, n_tok);
    aq_plan_close(&plan);
}

static void useless_weights_are_refused(void) {
    const int64_t none[] = {0, 0}, negative[] = {3, -1}, uneven[] = {65536, 1},
                  huge[] = {INT64_MAX, INT64_MAX - 1}, factor[] = {(int64_t)1 << 40, 0};
    aq_plan plan;
    aq_test_fails(aq_plan_open(2, 0, none, &plan), AQ_ERR_USAGE, "all of 2 ranks a share of 0");
    aq_test_fails(aq_plan_open(2, 0, negative, &plan), AQ_ERR_USAGE, "share of rank 1 is negative");
    aq_test_fails(aq_plan_open(2, 0, uneven, &plan), AQ_ERR_USAGE, "smaller numbers");
    aq_test_fails(aq_plan_open(2, 0, huge, &plan), AQ_ERR_USAGE, "smaller numbers");
    CU_ASSERT_PTR_NULL(plan.owner);
    aq_plan_close(&plan);
    if (!aq_test_ok(aq_plan_open(2, 0, factor, &plan))) return;
    CU_ASSERT_EQUAL(plan.n_period, 1);
    aq_plan_close(&plan);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "equal weights deal in turn", equal_weights_deal_in_turn);
    CU_add_test(suite, "every part is shared in proportion", every_part_is_shared_in_proportion);
    CU_add_test(suite, "every position has a slot", every_position_has_a_slot);
    CU_add_test(suite, "tiles begin where they should", tiles_begin_where_they_should);
    CU_add_test(suite, "counts agree with counting", counts_agree_with_counting);
    CU_add_test(suite, "lists agree with owners", lists_agree_with_owners);
    CU_add_test(suite, "the most a rank owns is enough", the_most_a_rank_owns_is_enough);
    CU_add_test(suite, "long texts are divided", long_texts_are_divided);
    CU_add_test(suite, "useless weights are refused", useless_weights_are_refused);
}
