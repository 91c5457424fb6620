#include "src/base/rng.h"

#include <math.h>

double aq_rng_normal(aq_rng *rng) {
    double u = 1.0 - aq_rng_uniform(rng); /* (0, 1]: the logarithm stays finite */
    double v = aq_rng_uniform(rng);
    return sqrt(-2.0 * log(u)) * cos(2.0 * 3.14159265358979323846 * v);
}
