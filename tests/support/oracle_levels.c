#include "tests/support/oracle_levels.h"

#include <math.h>

enum { TILE = 64 };

static double step_of_code(int step8) {
    return step8 == 0 ? 0 : ldexp(1 + (step8 & 7) / 8.0, (step8 >> 3) - 24);
}

/* The least step of all that is not below, or the nearest one. */
static double round_step(double step, int up) {
    double best = up ? INFINITY : 0;
    for (int code = 0; code < 256; code++) {
        const double s = step_of_code(code);
        if (up ? s >= step && s < best : fabs(s - step) < fabs(best - step)) best = s;
    }
    return best;
}

static void by_range(int bits, const float *x, int64_t n, int exact_step, double *out) {
    double low = INFINITY, high = -INFINITY;
    for (int64_t s = 0; s < n; s++) {
        low = fmin(low, (double)x[s]);
        high = fmax(high, (double)x[s]);
    }
    const int top = (1 << bits) - 1;
    const double asked = (high - low) / top, step = exact_step ? asked : round_step(asked, 1);
    const double base = (low + high) / 2 - step * top / 2;
    for (int64_t s = 0; s < n; s++) {
        out[s] = base;
        for (int code = 0; code <= top; code++)
            if (fabs(base + step * code - (double)x[s]) < fabs(out[s] - (double)x[s]))
                out[s] = base + step * code;
    }
}

static void by_deviation(int bits, const float *x, int64_t n, int exact_step, double *out) {
    static const double one[] = {-0.7979, 0.7979}, two[] = {-1.510, -0.4528, 0.4528, 1.510};
    const double *levels = bits == 1 ? one : two;
    double sum = 0, squares = 0;
    for (int64_t s = 0; s < n; s++)
        sum += (double)x[s];
    const double mean = sum / (double)n;
    for (int64_t s = 0; s < n; s++)
        squares += ((double)x[s] - mean) * ((double)x[s] - mean);
    const double deviation = sqrt(squares / (double)n);
    const double step = exact_step ? deviation : round_step(deviation, 0);
    for (int64_t s = 0; s < n; s++) {
        out[s] = mean + step * levels[0];
        for (int code = 1; code < 1 << bits; code++)
            if (fabs(mean + step * levels[code] - (double)x[s]) < fabs(out[s] - (double)x[s]))
                out[s] = mean + step * levels[code];
    }
}

void aq_oracle_levels(int bits, const float *x, int64_t n, aq_levels_bug bug, double *out) {
    const int64_t tile = bug == AQ_LEVELS_WHOLE_COLUMN ? n : TILE;
    const int exact_step = bug == AQ_LEVELS_STEP_NOT_ROUNDED;
    for (int64_t begin = 0; begin < n; begin += tile) {
        const int64_t n_tile = n - begin < tile ? n - begin : tile;
        if (bits >= 3 || bug == AQ_LEVELS_MINMAX_ALWAYS)
            by_range(bits, x + begin, n_tile, exact_step, out + begin);
        else
            by_deviation(bits, x + begin, n_tile, exact_step, out + begin);
    }
}
