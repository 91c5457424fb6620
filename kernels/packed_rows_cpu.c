/* Contract: packed_rows.h. */
#include "kernels/cpu.h"

/* Where in a packed row the values begin, behind the mask. */
static int values_at(const aq_row_form *form) {
    return form->n_exact + aq_row_mask_words(form);
}

static void pack_all(const aq_row_form *form, const float *x, void *values) {
    uint16_t *halves = values;
    if (!form->bf16) {
        memcpy(values, x, (size_t)form->n_col * sizeof *x);
        return;
    }
    for (int c = 0; c < form->n_col; c++)
        halves[c] = aq_f32_to_bf16(x[c]);
}

static void pack_chosen(const aq_row_form *form, const float *x, const int16_t *dims,
                        uint32_t *mask, void *values) {
    float *numbers = values;
    uint16_t *halves = values;
    memset(mask, 0, (size_t)aq_row_mask_words(form) * sizeof *mask);
    for (int j = 0; j < form->n_dim; j++) {
        const int c = dims[j];
        mask[c / 32] |= (uint32_t)1 << c % 32;
        if (form->bf16)
            halves[j] = aq_f32_to_bf16(x[c]);
        else
            numbers[j] = x[c];
    }
}

static void pack_part(void *arg, int thread, int n_thread) {
    const aq_pack_rows_args *a = arg;
    const aq_row_form *form = &a->form;
    int64_t begin, end;
    aq_threads_part(a->n_row, thread, n_thread, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        const float *x = a->x + r * (form->n_col + form->n_exact);
        uint32_t *row = a->packed + r * aq_row_words(form);
        void *values = row + values_at(form);
        memcpy(row, x + form->n_col, (size_t)form->n_exact * sizeof *x);
        if (form->n_dim < form->n_col)
            pack_chosen(form, x, a->dims + r * form->n_dim, row + form->n_exact, values);
        else
            pack_all(form, x, values);
        if (form->bf16 && form->n_dim % 2 == 1) ((uint16_t *)values)[form->n_dim] = 0;
    }
}

static void unpack_all(const aq_row_form *form, const void *values, float *x) {
    const uint16_t *halves = values;
    if (!form->bf16) {
        memcpy(x, values, (size_t)form->n_col * sizeof *x);
        return;
    }
    for (int c = 0; c < form->n_col; c++)
        x[c] = aq_bf16_to_f32(halves[c]);
}

static void unpack_chosen(const aq_row_form *form, const uint32_t *mask, const void *values,
                          float *x, int16_t *dims) {
    const float *numbers = values;
    const uint16_t *halves = values;
    int n = 0;
    memset(x, 0, (size_t)form->n_col * sizeof *x);
    for (int w = 0; w < aq_row_mask_words(form); w++)
        for (uint32_t left = mask[w]; left; left &= left - 1) {
            const int c = 32 * w + __builtin_ctz(left);
            x[c] = form->bf16 ? aq_bf16_to_f32(halves[n]) : numbers[n];
            dims[n++] = (int16_t)c;
        }
}

static void unpack_part(void *arg, int thread, int n_thread) {
    const aq_unpack_rows_args *a = arg;
    const aq_row_form *form = &a->form;
    int64_t begin, end;
    aq_threads_part(a->n_row, thread, n_thread, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        float *x = a->x + r * (form->n_col + form->n_exact);
        const uint32_t *row = a->packed + r * aq_row_words(form);
        const void *values = row + values_at(form);
        memcpy(x + form->n_col, row, (size_t)form->n_exact * sizeof *x);
        if (form->n_dim < form->n_col)
            unpack_chosen(form, row + form->n_exact, values, x, a->dims + r * form->n_dim);
        else
            unpack_all(form, values, x);
    }
}

void aq_pack_rows_cpu(aq_cpu *cpu, const aq_pack_rows_args *args) {
    aq_pack_rows_args copy = *args;
    aq_cpu_run(cpu, args->n_row * aq_row_words(&args->form), pack_part, &copy);
}

void aq_unpack_rows_cpu(aq_cpu *cpu, const aq_unpack_rows_args *args) {
    aq_unpack_rows_args copy = *args;
    aq_cpu_run(cpu, args->n_row * (args->form.n_col + args->form.n_exact), unpack_part, &copy);
}
