#include "calib/budget.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/group.h"

int aq_budget_grid(int d_head, int grid[AQ_BUDGET_GRID]) {
    int n = 0;
    for (int i = 1; i <= AQ_BUDGET_GRID; i++) {
        const int k = i * d_head / AQ_BUDGET_GRID;
        if (k >= 1 && (n == 0 || k > grid[n - 1])) grid[n++] = k;
    }
    return n;
}

typedef struct {
    const aq_group *group;
    const int *grid;
    int n_grid;
    float *memory; /* [n_thread, 3, n_tok] and [n_thread, d_head] */
    int *columns;  /* [n_thread, d_head] */
    double *found; /* [n_query, n_group, n_grid] */
} loss_task;

/* Columns by falling abs(q^) sigma, of equals the lower. */
static void rank_columns(const aq_group *group, const float *q, int *columns) {
    for (int c = 0; c < group->d_head; c++) {
        const float energy = fabsf(q[c]) * group->sigma[c];
        int at = c;
        for (; at > 0; at--) {
            const int before = columns[at - 1];
            if (fabsf(q[before]) * group->sigma[before] >= energy) break;
            columns[at] = before;
        }
        columns[at] = c;
    }
}

/* ln sum_s exp(z[s]); e[s] = exp(z[s] - ln sum). */
static double soften(const float *z, int64_t n, float *e) {
    float most = z[0];
    double sum = 0;
    for (int64_t s = 1; s < n; s++)
        most = z[s] > most ? z[s] : most;
    for (int64_t s = 0; s < n; s++) {
        e[s] = expf(z[s] - most);
        sum += (double)e[s];
    }
    for (int64_t s = 0; s < n; s++)
        e[s] = (float)((double)e[s] / sum);
    return (double)most + log(sum);
}

/* KL at each number of columns for query i and head h of the group. */
static void lose(const loss_task *task, int64_t i, int h, float *memory, int *columns,
                 double *found) {
    const aq_group *group = task->group;
    const float *q = aq_group_query(group, i, h);
    const int64_t n = group->pos[i] + 1;
    float *exact = memory, *p = exact + group->n_tok, *z = p + group->n_tok;
    memset(exact, 0, (size_t)n * sizeof *exact);
    memset(z, 0, (size_t)n * sizeof *z);
    rank_columns(group, q, columns);
    aq_group_score(group, group->key, q, 0, group->d_head, 0, n, exact);
    const double lse = soften(exact, n, p);
    for (int j = 0, c = 0; j < task->n_grid; j++) {
        double apart = 0, sum = 0;
        float most = -INFINITY;
        for (; c < task->grid[j]; c++)
            aq_group_score(group, group->key, q, columns[c], columns[c] + 1, 0, n, z);
        for (int64_t s = 0; s < n; s++)
            most = z[s] > most ? z[s] : most;
        for (int64_t s = 0; s < n; s++) {
            apart += (double)p[s] * ((double)exact[s] - (double)z[s]);
            sum += (double)expf(z[s] - most);
        }
        found[j] = apart + (double)most + log(sum) - lse;
    }
}

static void lose_share(void *arg, int thread, int n_thread) {
    const loss_task *task = arg;
    const aq_group *group = task->group;
    float *memory = task->memory + thread * 3 * group->n_tok;
    int *columns = task->columns + (int64_t)thread * group->d_head;
    const int64_t n = group->n_query * group->n_group;
    for (int64_t row = thread; row < n; row += n_thread)
        lose(task, row / group->n_group, (int)(row % group->n_group), memory, columns,
             task->found + row * task->n_grid);
}

static aq_status lose_group(loss_task *task, aq_threads *team, double *loss) {
    const aq_group *group = task->group;
    const int n_thread = team ? aq_threads_count(team) : 1;
    const int64_t n = group->n_query * group->n_group * task->n_grid;
    task->memory = malloc((size_t)(n_thread * 3 * group->n_tok) * sizeof *task->memory);
    task->columns = malloc((size_t)(n_thread * group->d_head) * sizeof *task->columns);
    task->found = calloc((size_t)n + 1, sizeof *task->found);
    aq_status status = AQ_OK;
    if (!task->memory || !task->columns || !task->found)
        status = aq_fail(AQ_ERR_MEMORY, "no memory to try budgets");
    else if (team)
        aq_threads_run(team, lose_share, task);
    else
        lose_share(task, 0, 1);
    for (int64_t i = 0; status == AQ_OK && i < n; i++)
        loss[i % task->n_grid] += task->found[i];
    free(task->memory);
    free(task->columns);
    free(task->found);
    return status;
}

aq_status aq_budget_loss(const aq_sample *sample, const aq_projection *projection, const int *grid,
                         int n_grid, double *loss) {
    aq_status status = AQ_OK;
    for (int head = 0; status == AQ_OK && head < sample->n_kv_head; head++) {
        aq_group group;
        status = aq_group_open(sample, projection, head, 0, &group);
        loss_task task = {.group = &group, .grid = grid, .n_grid = n_grid};
        if (status == AQ_OK)
            status = lose_group(&task, sample->team, loss + (int64_t)head * n_grid);
        aq_group_close(&group);
    }
    return status;
}

/* Where a problem may go on to. */
typedef struct {
    int64_t problem; /* -1: nowhere */
    int to;          /* place in the grid */
    double gain;     /* loss taken away per column */
} growth;

/* The best of all that fit into `left` columns. */
static growth best_growth(const double *loss, int64_t n, const int *grid, int n_grid, const int *at,
                          int64_t left) {
    growth best = {.problem = -1};
    for (int64_t i = 0; i < n; i++) {
        const double *row = loss + i * n_grid;
        for (int to = at[i] + 1; to < n_grid && grid[to] - grid[at[i]] <= left; to++) {
            const double gain = (row[at[i]] - row[to]) / (grid[to] - grid[at[i]]);
            if (best.problem < 0 || gain > best.gain) best = (growth){i, to, gain};
        }
    }
    return best;
}

aq_status aq_budget_deal(const double *loss, int64_t n, const int *grid, int n_grid, int64_t n_col,
                         uint16_t *k) {
    int *at = calloc((size_t)n, sizeof *at);
    int64_t left = n_col - n * grid[0];
    if (!at) return aq_fail(AQ_ERR_MEMORY, "no memory to deal budgets");
    for (growth g = best_growth(loss, n, grid, n_grid, at, left); g.problem >= 0;
         g = best_growth(loss, n, grid, n_grid, at, left)) {
        left -= grid[g.to] - grid[at[g.problem]];
        at[g.problem] = g.to;
    }
    for (int64_t i = 0; i < n; i++)
        k[i] = (uint16_t)grid[at[i]];
    free(at);
    return AQ_OK;
}
