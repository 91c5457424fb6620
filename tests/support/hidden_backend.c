/* Linked with --wrap=aq_backend_cpu_open: every engine of the program works on a backend that hides
 * its memory from the host, as a device does. */
#include "tests/support/backend_poisoned.h"

aq_status __real_aq_backend_cpu_open(int n_thread, aq_cpu_isa isa, aq_backend **out);
aq_status __wrap_aq_backend_cpu_open(int n_thread, aq_cpu_isa isa, aq_backend **out);

aq_status __wrap_aq_backend_cpu_open(int n_thread, aq_cpu_isa isa, aq_backend **out) {
    aq_backend *inner;
    *out = NULL;
    AQ_TRY(__real_aq_backend_cpu_open(n_thread, isa, &inner));
    AQ_TRY(aq_backend_poisoned_open(inner, out));
    aq_backend_poisoned_hide(*out);
    return AQ_OK;
}
