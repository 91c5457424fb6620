/* Who holds what, against brute force over all positions: one owner and one slot each, lists and
 * counts that agree. */
#include "src/engine/plan.h"

#include <stdbool.h>
#include <string.h>

#include "tests/support/suite.h"

#define MAX_RANK 9
#define MAX_TOK  1400

static const int64_t lengths[] = {0,   1,   2,   63,  64,  65,  127, 128,  129,
                                  191, 192, 193, 500, 576, 577, 640, 1399, MAX_TOK};
#define N_LENGTH ((int)(sizeof lengths / sizeof lengths[0]))

/* The rule in other words: 64 positions to rank 0, the next 64 to rank 1, and so on. */
static int owner_of(int n_rank, int64_t pos) {
    int rank = 0;
    for (int64_t first = 0; pos >= first + 64; first += 64)
        rank = rank + 1 == n_rank ? 0 : rank + 1;
    return rank;
}

/* Walks positions in order, filling each rank's slots; false if the plan says otherwise. */
static bool owners_and_slots_hold(const aq_plan *plan, int n_rank) {
    int64_t n_filled[MAX_RANK] = {0};
    for (int64_t pos = 0; pos < MAX_TOK; pos++) {
        const int owner = aq_plan_owner(plan, pos);
        if (owner != owner_of(n_rank, pos)) return false;
        /* Every rank's slots are taken one after the other: none twice, none left out. */
        if (aq_plan_slot(plan, pos) != n_filled[owner]++) return false;
    }
    return true;
}

static void every_position_has_an_owner_and_a_slot(void) {
    for (int n_rank = 1; n_rank <= MAX_RANK; n_rank++) {
        const aq_plan plan = {n_rank, 0};
        CU_ASSERT_TRUE(owners_and_slots_hold(&plan, n_rank));
        const aq_plan planted = {n_rank + 1, 0}; /* the check sees another deal */
        CU_ASSERT_FALSE(owners_and_slots_hold(&planted, n_rank));
    }
}

/* A slot's tile begins where aq_plan_tile_pos says. */
static void tiles_begin_where_they_should(void) {
    for (int n_rank = 1; n_rank <= MAX_RANK; n_rank++)
        for (int rank = 0; rank < n_rank; rank++) {
            const aq_plan plan = {n_rank, rank};
            int64_t n_wrong = 0;
            for (int64_t pos = 0; pos < MAX_TOK; pos++) {
                if (aq_plan_owner(&plan, pos) != rank) continue;
                const int64_t slot = aq_plan_slot(&plan, pos);
                n_wrong += aq_plan_tile_pos(&plan, slot / AQ_TILE) + slot % AQ_TILE != pos;
            }
            CU_ASSERT_EQUAL(n_wrong, 0);
        }
}

static void counts_agree_with_counting(void) {
    for (int n_rank = 1; n_rank <= MAX_RANK; n_rank++)
        for (int i = 0; i < N_LENGTH; i++) {
            const aq_plan plan = {n_rank, n_rank - 1};
            int64_t n_tok[MAX_RANK] = {0}, n_tile[MAX_RANK] = {0};
            for (int64_t pos = 0; pos < lengths[i]; pos++) {
                n_tok[owner_of(n_rank, pos)]++;
                n_tile[owner_of(n_rank, pos)] += pos % 64 == 0;
            }
            for (int r = 0; r < n_rank; r++) {
                CU_ASSERT_EQUAL(aq_plan_tokens(&plan, r, lengths[i]), n_tok[r]);
                CU_ASSERT_EQUAL(aq_plan_tiles(&plan, r, lengths[i]), n_tile[r]);
            }
        }
}

/* Of positions [begin, end): rising, this rank's, all of them, nothing written past. */
static bool list_holds(const aq_plan *plan, int r, int64_t begin, int64_t end) {
    int64_t pos[MAX_TOK + 1], n = 0;
    memset(pos, 0xff, sizeof pos);
    const int64_t n_owned = aq_plan_owned(plan, r, begin, end, pos);
    for (int64_t p = begin; p < end; p++)
        if (owner_of(plan->n_rank, p) == r && pos[n++] != p) return false;
    return n == n_owned && pos[n] == -1 && aq_plan_owned(plan, r, begin, end, NULL) == n;
}

static void lists_agree_with_owners(void) {
    for (int n_rank = 1; n_rank <= MAX_RANK; n_rank++)
        for (int i = 0; i < N_LENGTH; i++)
            for (int j = i; j < N_LENGTH; j++) {
                const aq_plan plan = {n_rank, 0};
                bool good = true;
                for (int r = 0; r < n_rank; r++)
                    good = good && list_holds(&plan, r, lengths[i], lengths[j]);
                CU_ASSERT_TRUE(good);
            }
}

/* The room a rank must have for any chunk: never too little, and for one rank exact. */
static void the_most_a_rank_owns_is_enough(void) {
    for (int n_rank = 1; n_rank <= MAX_RANK; n_rank++)
        for (int64_t n_tok = 0; n_tok <= 700; n_tok += n_tok < 200 ? 1 : 37) {
            const aq_plan plan = {n_rank, 0};
            const int64_t room = aq_plan_most_owned(&plan, n_tok);
            int64_t most = 0;
            for (int64_t begin = 0; begin < AQ_TILE; begin++)
                for (int r = 0; r < n_rank; r++) {
                    const int64_t n = aq_plan_owned(&plan, r, begin, begin + n_tok, NULL);
                    most = n > most ? n : most;
                }
            CU_ASSERT_TRUE(most <= room && room <= n_tok);
            CU_ASSERT_TRUE(room <= most + AQ_TILE);
            if (n_rank == 1) CU_ASSERT_EQUAL(room, n_tok);
        }
}

/* The most tiles of consecutive positions, over all places where they can begin: exact. */
static void the_most_tiles_are_counted(void) {
    for (int n_rank = 1; n_rank <= MAX_RANK; n_rank++)
        for (int64_t n_tok = 1; n_tok <= 700; n_tok += n_tok < 200 ? 1 : 37) {
            const aq_plan plan = {n_rank, 0};
            int64_t most = 0;
            for (int64_t begin = 0; begin < AQ_TILE; begin++) {
                int64_t n_tile[MAX_RANK] = {0};
                for (int64_t pos = begin; pos < begin + n_tok; pos++)
                    n_tile[owner_of(n_rank, pos)] += pos == begin || pos % 64 == 0;
                for (int r = 0; r < n_rank; r++)
                    most = n_tile[r] > most ? n_tile[r] : most;
            }
            CU_ASSERT_EQUAL(aq_plan_most_tiles(&plan, n_tok), most);
        }
}

/* A cluster's text on many ranks: within a tile of an even share. */
static void long_texts_are_divided_evenly(void) {
    const int64_t n_tok = ((int64_t)1 << 40) + 17;
    const aq_plan plan = {1000, 999};
    int64_t sum = 0;
    for (int r = 0; r < plan.n_rank; r++) {
        const int64_t n = aq_plan_tokens(&plan, r, n_tok);
        CU_ASSERT_TRUE(n > n_tok / 1000 - AQ_TILE && n < n_tok / 1000 + AQ_TILE);
        sum += n;
    }
    CU_ASSERT_EQUAL(sum, n_tok);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "every position has an owner and a slot",
                every_position_has_an_owner_and_a_slot);
    CU_add_test(suite, "tiles begin where they should", tiles_begin_where_they_should);
    CU_add_test(suite, "counts agree with counting", counts_agree_with_counting);
    CU_add_test(suite, "lists agree with owners", lists_agree_with_owners);
    CU_add_test(suite, "the most a rank owns is enough", the_most_a_rank_owns_is_enough);
    CU_add_test(suite, "the most tiles are counted", the_most_tiles_are_counted);
    CU_add_test(suite, "long texts are divided evenly", long_texts_are_divided_evenly);
}
