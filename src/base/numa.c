#include "src/base/numa.h"

#include <hwloc.h>

/* Domains of the processors of `set`; what cannot be told counts as one. */
static int domains_of(hwloc_topology_t topology, hwloc_bitmap_t set, hwloc_bitmap_t nodes) {
    if (hwloc_get_cpubind(topology, set, HWLOC_CPUBIND_PROCESS) != 0) return 1;
    hwloc_cpuset_to_nodeset(topology, set, nodes);
    const int n = hwloc_bitmap_weight(nodes);
    return n > 0 ? n : 1;
}

int aq_numa_domains(void) {
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0) return 1;
    int n = 1;
    hwloc_bitmap_t set = hwloc_bitmap_alloc(), nodes = hwloc_bitmap_alloc();
    if (set && nodes && hwloc_topology_load(topology) == 0) n = domains_of(topology, set, nodes);
    hwloc_bitmap_free(nodes);
    hwloc_bitmap_free(set);
    hwloc_topology_destroy(topology);
    return n;
}
