#include "calib/levels.h"

#include <math.h>

#include "kernels/kv_append.h"

/* A step as step8 says it, 2^e (1 + m / 8): the next one above or the nearest. */
static double representable(double step, bool up) {
    int exponent;
    if (!(step > 0)) return 0;
    const double sixteenths = 16 * frexp(step, &exponent); /* 8 .. 16 */
    return ldexp(up ? ceil(sixteenths) : round(sixteenths), exponent - 4);
}

static void code_range(int bits, const float *x, int n, float *out) {
    const int top = (1 << bits) - 1;
    double low = (double)x[0], high = low;
    for (int s = 1; s < n; s++) {
        low = fmin(low, (double)x[s]);
        high = fmax(high, (double)x[s]);
    }
    const double step = representable((high - low) / top, true);
    const double base = (low + high - step * top) / 2;
    for (int s = 0; s < n; s++) {
        const double code = step > 0 ? fmin(fmax(round(((double)x[s] - base) / step), 0), top) : 0;
        out[s] = (float)(base + step * code);
    }
}

/* The best levels for a normal distribution (Max 1960); the nearest one is taken. */
static double normal_level(int bits, double z) {
    const double size = bits == 1 ? 0.7979 : fabs(z) > 0.9814 ? 1.510 : 0.4528;
    return z < 0 ? -size : size;
}

static void code_normal(int bits, const float *x, int n, float *out) {
    double mean = 0, square = 0;
    for (int s = 0; s < n; s++)
        mean += (double)x[s] / n;
    for (int s = 0; s < n; s++)
        square += ((double)x[s] - mean) * ((double)x[s] - mean) / n;
    const double step = representable(sqrt(square), false);
    for (int s = 0; s < n; s++)
        out[s] = (float)(step > 0 ? mean + step * normal_level(bits, ((double)x[s] - mean) / step)
                                  : mean);
}

void aq_levels_column(int bits, const float *x, int64_t n, float *out) {
    for (int64_t begin = 0; begin < n; begin += AQ_TILE) {
        const int n_tile = (int)(n - begin < AQ_TILE ? n - begin : AQ_TILE);
        if (bits >= 3)
            code_range(bits, x + begin, n_tile, out + begin);
        else
            code_normal(bits, x + begin, n_tile, out + begin);
    }
}
