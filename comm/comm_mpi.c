#include "comm/comm_mpi.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/heartbeat.h"

struct aq_comm {
    MPI_Comm mpi; /* a duplicate that this object owns */
    int rank;
    int size;
    int size_on_host, rank_on_host;
    char host[MPI_MAX_PROCESSOR_NAME];
};

MPI_Comm aq_comm_mpi(const aq_comm *comm) {
    return comm->mpi;
}

aq_status aq_comm_check(int mpi_code, const char *what) {
    if (mpi_code == MPI_SUCCESS) return AQ_OK;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(mpi_code, text, &length);
    return aq_fail(AQ_ERR_COMM, "%s failed between ranks: %s", what, text);
}

/* Takes over `mpi`, also on failure. All its ranks succeed or all fail. */
static aq_status wrap(MPI_Comm mpi, aq_comm **out) {
    MPI_Comm host_comm = MPI_COMM_NULL;
    int length = 0;
    aq_comm *comm = calloc(1, sizeof *comm);
    int has_memory = comm != NULL;
    MPI_Comm_set_errhandler(mpi, MPI_ERRORS_RETURN);
    const int code = MPI_Allreduce(MPI_IN_PLACE, &has_memory, 1, MPI_INT, MPI_MIN, mpi);
    if (code != MPI_SUCCESS || !has_memory || !comm) {
        MPI_Comm_free(&mpi);
        free(comm);
        AQ_TRY(aq_comm_check(code, "opening a communicator"));
        return aq_fail(AQ_ERR_MEMORY, "a rank has no memory for a communicator");
    }
    comm->mpi = mpi;
    MPI_Comm_rank(mpi, &comm->rank);
    MPI_Comm_size(mpi, &comm->size);
    MPI_Get_processor_name(comm->host, &length);
    aq_status status =
        aq_comm_check(MPI_Comm_split_type(mpi, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host_comm),
                      "finding the ranks of this host");
    if (status != AQ_OK) {
        aq_comm_close(comm);
        return status;
    }
    MPI_Comm_size(host_comm, &comm->size_on_host);
    MPI_Comm_rank(host_comm, &comm->rank_on_host);
    MPI_Comm_free(&host_comm);
    *out = comm;
    return AQ_OK;
}

aq_status aq_comm_init_world(int *argc, char ***argv, aq_comm **world) {
    int provided = 0;
    MPI_Comm mpi = MPI_COMM_NULL;
    *world = NULL;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return aq_fail(AQ_ERR_COMM, "MPI could not start; run this program with mpirun");
    AQ_TRY(aq_comm_check(MPI_Comm_dup(MPI_COMM_WORLD, &mpi), "starting"));
    AQ_TRY(wrap(mpi, world));
    AQ_TRY(aq_heartbeat_open(mpi, true));

    /* srun without a matching PMI starts N programs that each believe to be alone. */
    const char *n_task = getenv("SLURM_STEP_NUM_TASKS");
    const char *launcher = getenv("OMPI_COMM_WORLD_SIZE");
    if ((*world)->size == 1 && !launcher && n_task && atoi(n_task) > 1) {
        aq_comm_finish(*world);
        *world = NULL;
        return aq_fail(AQ_ERR_USAGE,
                       "srun started %s copies that do not know of each other; use mpirun inside "
                       "the job, or srun --mpi=pmix",
                       n_task);
    }
    return AQ_OK;
}

void aq_comm_finish(aq_comm *world) {
    aq_comm_barrier(world); /* MPI_Finalize waits for all, and has no deadline */
    aq_heartbeat_close();
    aq_comm_close(world);
    MPI_Finalize();
}

aq_status aq_comm_open_self(aq_comm **out) {
    MPI_Comm mpi = MPI_COMM_NULL;
    *out = NULL;
    AQ_TRY(aq_comm_check(MPI_Comm_dup(MPI_COMM_SELF, &mpi), "opening a communicator"));
    return wrap(mpi, out);
}

aq_status aq_comm_open_leading(aq_comm *comm, int n_rank, aq_comm **out) {
    MPI_Comm mpi = MPI_COMM_NULL;
    *out = NULL;
    const int color = comm->rank < n_rank ? 0 : MPI_UNDEFINED;
    AQ_TRY(aq_comm_check(MPI_Comm_split(comm->mpi, color, comm->rank, &mpi), "splitting ranks"));
    return mpi == MPI_COMM_NULL ? AQ_OK : wrap(mpi, out);
}

aq_status aq_comm_open_group(aq_comm *comm, int n_rank, aq_comm **out) {
    MPI_Comm mpi = MPI_COMM_NULL;
    *out = NULL;
    const int color = comm->rank / n_rank;
    AQ_TRY(aq_comm_check(MPI_Comm_split(comm->mpi, color, comm->rank, &mpi), "splitting ranks"));
    return wrap(mpi, out);
}

void aq_comm_close(aq_comm *comm) {
    if (!comm) return;
    MPI_Comm_free(&comm->mpi);
    free(comm);
}

int aq_comm_rank(const aq_comm *comm) {
    return comm->rank;
}

int aq_comm_size(const aq_comm *comm) {
    return comm->size;
}

int aq_comm_size_on_host(const aq_comm *comm) {
    return comm->size_on_host;
}

int aq_comm_rank_on_host(const aq_comm *comm) {
    return comm->rank_on_host;
}

const char *aq_comm_host(const aq_comm *comm) {
    return comm->host;
}

aq_status aq_comm_agree(aq_comm *comm, aq_status mine) {
    struct {
        char text[AQ_ERROR_TEXT_BYTES];
        char host[MPI_MAX_PROCESSOR_NAME];
        int code;
    } failure;
    MPI_Request request = MPI_REQUEST_NULL;
    int first = mine == AQ_OK ? comm->size : comm->rank;
    AQ_TRY(
        aq_comm_wait(MPI_Iallreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, comm->mpi, &request),
                     &request, "agreeing on the outcome"));
    if (first == comm->size) return AQ_OK;

    memset(&failure, 0, sizeof failure);
    if (first == comm->rank) {
        snprintf(failure.text, sizeof failure.text, "%s", aq_error_text());
        snprintf(failure.host, sizeof failure.host, "%s", comm->host);
        failure.code = (int)mine;
    }
    AQ_TRY(aq_comm_bcast(comm, &failure, sizeof failure, first));
    if (comm->size == 1) return mine;
    return aq_fail((aq_status)failure.code, "rank %d on %s: %s", first, failure.host, failure.text);
}

aq_status aq_comm_barrier(aq_comm *comm) {
    MPI_Request request = MPI_REQUEST_NULL;
    return aq_comm_wait(MPI_Ibarrier(comm->mpi, &request), &request, "waiting for all ranks");
}

/* MPI 3 counts are ints: larger messages go in parts. */
#define PART_BYTES ((size_t)1 << 30)

aq_status aq_comm_bcast(aq_comm *comm, void *data, size_t bytes, int root) {
    char *at = data;
    for (size_t done = 0; done < bytes; done += PART_BYTES) {
        const size_t part = bytes - done < PART_BYTES ? bytes - done : PART_BYTES;
        MPI_Request request = MPI_REQUEST_NULL;
        AQ_TRY(aq_comm_wait(MPI_Ibcast(at + done, (int)part, MPI_BYTE, root, comm->mpi, &request),
                            &request, "broadcasting"));
    }
    return AQ_OK;
}

static aq_status sum(aq_comm *comm, void *data, int64_t n, MPI_Datatype type, size_t elem_bytes) {
    const int64_t part_elems = (int64_t)(PART_BYTES / elem_bytes);
    char *at = data;
    for (int64_t done = 0; done < n; done += part_elems) {
        const int part = (int)(n - done < part_elems ? n - done : part_elems);
        MPI_Request request = MPI_REQUEST_NULL;
        AQ_TRY(aq_comm_wait(MPI_Iallreduce(MPI_IN_PLACE, at + (size_t)done * elem_bytes, part, type,
                                           MPI_SUM, comm->mpi, &request),
                            &request, "summing"));
    }
    return AQ_OK;
}

aq_status aq_comm_sum_f64(aq_comm *comm, double *data, int64_t n) {
    return sum(comm, data, n, MPI_DOUBLE, sizeof(double));
}

aq_status aq_comm_sum_i64(aq_comm *comm, int64_t *data, int64_t n) {
    return sum(comm, data, n, MPI_INT64_T, sizeof(int64_t));
}

aq_status aq_comm_allgather_i64(aq_comm *comm, const int64_t *mine, int64_t n, int64_t *all) {
    if (n > INT_MAX) return aq_fail(AQ_ERR_LIMIT, "%lld counters in one message", (long long)n);
    MPI_Request request = MPI_REQUEST_NULL;
    return aq_comm_wait(
        MPI_Iallgather(mine, (int)n, MPI_INT64_T, all, (int)n, MPI_INT64_T, comm->mpi, &request),
        &request, "gathering");
}

aq_status aq_comm_send(aq_comm *comm, const void *data, size_t bytes, int to) {
    const char *at = data;
    for (size_t done = 0; done < bytes; done += PART_BYTES) {
        const size_t part = bytes - done < PART_BYTES ? bytes - done : PART_BYTES;
        MPI_Request request = MPI_REQUEST_NULL;
        AQ_TRY(aq_comm_wait(MPI_Isend(at + done, (int)part, MPI_BYTE, to, 0, comm->mpi, &request),
                            &request, "sending"));
    }
    return AQ_OK;
}

aq_status aq_comm_recv(aq_comm *comm, void *data, size_t bytes, int from) {
    char *at = data;
    for (size_t done = 0; done < bytes; done += PART_BYTES) {
        const size_t part = bytes - done < PART_BYTES ? bytes - done : PART_BYTES;
        MPI_Request request = MPI_REQUEST_NULL;
        AQ_TRY(aq_comm_wait(MPI_Irecv(at + done, (int)part, MPI_BYTE, from, 0, comm->mpi, &request),
                            &request, "receiving"));
    }
    return AQ_OK;
}

void aq_comm_abort(aq_comm *comm, int exit_code) {
    MPI_Abort(comm->mpi, exit_code);
}
