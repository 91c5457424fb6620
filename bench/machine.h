/* What is measured on. */
#ifndef AQ_BENCH_MACHINE_H
#define AQ_BENCH_MACHINE_H

#include <stddef.h>

/* The processor's own name ("model name" of Linux' /proc/cpuinfo, "Hardware" or "CPU part" where
 * there is none), "unknown" if the system does not tell. Cut to fit `bytes`. Local. */
void aq_machine_cpu(char *name, size_t bytes);

#endif
