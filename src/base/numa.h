/* NUMA domains: processors whose memory is nearer to them than that of others. */
#ifndef AQ_BASE_NUMA_H
#define AQ_BASE_NUMA_H

#ifdef __cplusplus
extern "C" {
#endif

/* Number of NUMA domains that the processors this process may run on belong to; 1 if the system
 * does not say. Takes some milliseconds. Local. Source: hwloc. */
int aq_numa_domains(void);

#ifdef __cplusplus
}
#endif
#endif
