/* The router of a mixture of experts. Contract: route.h. */
#include <math.h>

#include "kernels/cpu.h"

/* Operations an expert costs beside the search: its exponential. */
#define EXPERT_OPS 16

_Static_assert(2 * AQ_ROUTE_MAX_EXPERT * sizeof(float) <= AQ_CPU_SCRATCH_BYTES,
               "the ranks and exponentials of a token fit scratch");

typedef struct {
    const aq_cpu *cpu;
    const aq_route_args *args;
} route_task;

/* Of the experts that come after `before` (-1: of all), the one that comes first. An expert comes
 * after another if its rank is less, or the same and its number greater. */
static int next_expert(const float *rank, int n_expert, int before) {
    int best = -1;
    for (int e = 0; e < n_expert; e++) {
        const bool after =
            before < 0 || rank[e] < rank[before] || (rank[e] == rank[before] && e > before);
        if (after && (best < 0 || rank[e] > rank[best])) best = e;
    }
    return best;
}

static void route_token(const aq_simd *simd, const aq_route_args *a, int64_t t, float *rank) {
    const float *logit = a->logits + t * a->n_expert;
    int32_t *ids = a->ids + t * a->n_used;
    float *weight = a->weight + t * a->n_used, *share = rank + a->n_expert;
    for (int e = 0; e < a->n_expert; e++)
        rank[e] = isnan(logit[e]) ? -INFINITY : logit[e];
    for (int j = 0; j < a->n_used; j++)
        ids[j] = next_expert(rank, a->n_expert, j > 0 ? ids[j - 1] : -1);
    float sum = simd->exp_shifted(logit, rank[ids[0]], a->n_expert, share), used = 0.0f;
    for (int j = 0; j < a->n_used; j++)
        used += share[ids[j]];
    if (a->renormalise) sum = used;
    for (int j = 0; j < a->n_used; j++)
        weight[j] = share[ids[j]] / sum;
}

static void route_part(void *arg, int thread, int n_thread) {
    const route_task *task = arg;
    int64_t begin, end;
    aq_threads_part(task->args->n_tok, thread, n_thread, &begin, &end);
    for (int64_t t = begin; t < end; t++)
        route_token(task->cpu->simd, task->args, t, aq_cpu_scratch(task->cpu, thread));
}

void aq_route_cpu(aq_cpu *cpu, const aq_route_args *args) {
    route_task task = {cpu, args};
    aq_cpu_run(cpu, args->n_tok * args->n_expert * (args->n_used + EXPERT_OPS), route_part, &task);
}
