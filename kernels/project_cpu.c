#include "kernels/cpu.h"

/* Tokens of one item of work: enough to reuse a matrix from the nearest cache. */
#define TOKENS_AT_ONCE 48

typedef struct {
    const aq_cpu *cpu;
    const aq_project_args *args;
} project_task;

/* One token: the heads of a group are the rows that share a matrix. */
static void project_group(const project_task *task, int64_t t, int g) {
    const aq_project_args *a = task->args;
    const int group = a->n_head / a->n_kv_head;
    const int64_t row = t * a->n_head + (int64_t)g * group;
    task->cpu->simd->panel(&(aq_panel_args){.a = a->x + row * a->d_head,
                                            .a_stride = a->d_head,
                                            .n_row = group,
                                            .n_in = a->d_head,
                                            .b = a->p + (int64_t)g * a->d_head * a->d_head,
                                            .b_dtype = AQ_F32,
                                            .b_stride = a->d_head,
                                            .n_out = a->n_col,
                                            .c = a->y + row * a->n_col,
                                            .c_stride = a->n_col});
}

/* Many tokens: the tokens are the rows, one head at a time. */
static void project_tokens(const project_task *task, int64_t t, int64_t n_tok, int h) {
    const aq_project_args *a = task->args;
    const int g = h / (a->n_head / a->n_kv_head);
    const int64_t row = t * a->n_head + h;
    task->cpu->simd->panel(&(aq_panel_args){.a = a->x + row * a->d_head,
                                            .a_stride = (int64_t)a->n_head * a->d_head,
                                            .n_row = n_tok,
                                            .n_in = a->d_head,
                                            .b = a->p + (int64_t)g * a->d_head * a->d_head,
                                            .b_dtype = AQ_F32,
                                            .b_stride = a->d_head,
                                            .n_out = a->n_col,
                                            .c = a->y + row * a->n_col,
                                            .c_stride = (int64_t)a->n_head * a->n_col});
}

static void project_part(void *arg, int thread, int n_thread) {
    const project_task *task = arg;
    const aq_project_args *a = task->args;
    const bool few = a->n_tok < TOKENS_AT_ONCE / 4;
    const int64_t n_block = (a->n_tok + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE;
    const int64_t n_item = few ? a->n_tok * a->n_kv_head : n_block * a->n_head;
    int64_t begin, end;
    aq_threads_part(n_item, thread, n_thread, &begin, &end);
    for (int64_t item = begin; item < end; item++) {
        if (few) {
            project_group(task, item / a->n_kv_head, (int)(item % a->n_kv_head));
            continue;
        }
        const int64_t t = item / a->n_head * TOKENS_AT_ONCE;
        const int64_t left = a->n_tok - t;
        project_tokens(task, t, left < TOKENS_AT_ONCE ? left : TOKENS_AT_ONCE,
                       (int)(item % a->n_head));
    }
}

void aq_project_cpu(aq_cpu *cpu, const aq_project_args *args) {
    project_task task = {cpu, args};
    aq_cpu_run(cpu, args->n_tok * args->n_head * args->d_head * args->n_col, project_part, &task);
}
