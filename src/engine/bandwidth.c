#include "src/engine/bandwidth.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cpu.h"
#include "src/base/clock.h"
#include "src/base/file.h"

#define LEAST_BYTES ((int64_t)256 << 20)
#define GUESS_BYTES ((int64_t)32 << 20)
#define COPY_BYTES  ((int64_t)512 << 20) /* read and written */
#define COPY_PASSES 3
#define COPIES      4 /* of a pass, which hide what starting them takes */

/* The buffer, and what members found in it. */
typedef struct {
    const aq_simd *simd;
    float *x;
    int64_t n;
    float *sums; /* [n_thread] */
} read_task;

int64_t aq_last_level_cache(void) {
    int64_t bytes = 0;
    for (int index = 0; index < 8; index++) {
        char path[64], *text = NULL, *end = NULL;
        size_t n = 0;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
        if (aq_file_read(path, &text, &n) != AQ_OK) break;
        const int64_t size = strtoll(text, &end, 10) * (*end == 'M' ? 1 << 20 : 1 << 10);
        if (size > bytes) bytes = size;
        free(text);
    }
    return bytes > 0 ? bytes : GUESS_BYTES;
}

static void write_share(void *arg, int thread, int n_thread) {
    const read_task *task = arg;
    int64_t begin, end;
    aq_threads_part(task->n, thread, n_thread, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        task->x[i] = 1.0f;
}

static void read_share(void *arg, int thread, int n_thread) {
    const read_task *task = arg;
    int64_t begin, end;
    aq_threads_part(task->n, thread, n_thread, &begin, &end);
    task->sums[thread] = task->simd->sum(task->x + begin, end - begin);
}

static aq_status time_passes(aq_comm *comm, aq_threads *team, read_task *task, aq_bandwidth *out) {
    const double own_bytes = (double)task->n * (double)sizeof *task->x;
    const int n_rank = aq_comm_size(comm);
    int64_t *walls_ns = malloc((size_t)n_rank * sizeof *walls_ns);
    const aq_status memory =
        walls_ns ? AQ_OK : aq_fail(AQ_ERR_MEMORY, "no memory for the measurements");
    aq_status status = aq_comm_agree(comm, memory);
    int64_t least_ns = INT64_MAX, own_ns = 1;
    for (int pass = 0; status == AQ_OK && pass < out->n_pass; pass++) {
        int64_t slowest_ns = 1;
        status = aq_comm_barrier(comm);
        const int64_t start_ns = aq_clock_ns();
        aq_threads_run(team, read_share, task);
        const int64_t wall_ns = aq_clock_ns() - start_ns;
        own_ns += wall_ns;
        if (status == AQ_OK) status = aq_comm_allgather_i64(comm, &wall_ns, 1, walls_ns);
        for (int r = 0; status == AQ_OK && r < n_rank; r++)
            if (walls_ns[r] > slowest_ns) slowest_ns = walls_ns[r];
        if (slowest_ns < least_ns) least_ns = slowest_ns;
    }
    free(walls_ns);
    out->bytes_per_s = (double)out->bytes * 1e9 / (double)least_ns;
    out->own_bytes_per_s = own_bytes * out->n_pass * 1e9 / (double)own_ns;
    return status;
}

/* Elements that this rank reads, of what its host reads. */
static int64_t elements_of_rank(const aq_comm *comm) {
    int64_t bytes = 2 * aq_last_level_cache();
    if (bytes < LEAST_BYTES) bytes = LEAST_BYTES;
    return bytes / (int64_t)sizeof(float) / aq_comm_size_on_host(comm);
}

aq_status aq_bandwidth_measure(aq_comm *comm, int n_thread, int n_pass, aq_bandwidth *out) {
    aq_backend *be = NULL;
    read_task task = {.n = elements_of_rank(comm)};
    const int64_t bytes = task.n * (int64_t)sizeof *task.x;
    task.x = malloc((size_t)bytes);
    task.sums = calloc((size_t)n_thread, sizeof *task.sums);
    aq_status status = aq_backend_cpu_open(n_thread, aq_cpu_isa_best(), &be);
    if (status == AQ_OK && (!task.x || !task.sums))
        status = aq_fail(AQ_ERR_MEMORY, "no memory to read: %lld MiB", (long long)bytes / 1048576);
    status = aq_comm_agree(comm, status);
    *out = (aq_bandwidth){.bytes = bytes, .n_pass = n_pass};
    if (status == AQ_OK) status = aq_comm_sum_i64(comm, &out->bytes, 1);
    if (status == AQ_OK) {
        const aq_cpu *cpu = (const aq_cpu *)be;
        task.simd = cpu->simd;
        aq_threads_run(cpu->threads, write_share, &task);
        status = time_passes(comm, cpu->threads, &task, out);
    }
    if (be) be->ops->close(be);
    free(task.x);
    free(task.sums);
    return status;
}

aq_status aq_bandwidth_copy(aq_backend *be, aq_bandwidth *out) {
    const size_t half = COPY_BYTES / 2;
    void *memory = NULL;
    *out = (aq_bandwidth){.bytes = COPY_BYTES, .n_pass = COPY_PASSES};
    AQ_TRY(be->ops->alloc(be, 2 * half, &memory));
    int64_t least_ns = INT64_MAX;
    aq_status status = be->ops->sync(be);
    for (int pass = 0; status == AQ_OK && pass < COPY_PASSES; pass++) {
        const int64_t start_ns = aq_clock_ns();
        for (int i = 0; i < COPIES; i++)
            be->ops->copy(be, (char *)memory + half, memory, half);
        status = be->ops->sync(be);
        const int64_t wall_ns = aq_clock_ns() - start_ns;
        if (wall_ns < least_ns) least_ns = wall_ns;
    }
    be->ops->release(be, memory);
    out->bytes_per_s = (double)COPY_BYTES * COPIES * 1e9 / (double)least_ns;
    out->own_bytes_per_s = out->bytes_per_s;
    return status;
}
