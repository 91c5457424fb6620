/* Monotonic time. */
#ifndef AQ_BASE_CLOCK_H
#define AQ_BASE_CLOCK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Nanoseconds since an arbitrary point, never going back. Local. */
int64_t aq_clock_ns(void);

#ifdef __cplusplus
}
#endif
#endif
