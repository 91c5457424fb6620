#include "launch/choices.h"

#include <inttypes.h>

enum { MOST_SHOWN = 12 };

static void print_row(const aq_choose_row *row, FILE *to) {
    char text[64];
    fprintf(to, "  %-8s %-26s ", aq_basis_name(row->basis),
            aq_code_layout_text(&row->selector.codes, text, sizeof text));
    if (row->selector.n_dynamic > 0)
        fprintf(to, "%4d", row->selector.n_dynamic);
    else
        fprintf(to, " all");
    fprintf(to, " %7.2f %7.2f  %.5f\n", aq_selector_bits(&row->selector) / 8.0,
            aq_selector_stored(&row->selector), row->loss);
}

/* Of many rows the best, and the best of each basis. */
static bool is_shown(const aq_choose_table *table, int row) {
    if (row < MOST_SHOWN) return true;
    for (int before = 0; before < row; before++)
        if (table->rows[before].basis == table->rows[row].basis) return false;
    return true;
}

void aq_choices_print(const aq_choose_table *table, const aq_projection *projection, FILE *to) {
    if (table->n_row > 0) {
        fprintf(to,
                "chosen on %" PRId64
                " held-out tokens, %d pairs of basis and selector tried; exact "
                "scores lose %.5f\nbytes are of codes, a token and KV head\n"
                "  basis    selector                   columns  read  stored  loss\n",
                table->n_held_out, table->n_row, table->exact_loss);
        for (int row = 0; row < table->n_row; row++)
            if (is_shown(table, row)) print_row(&table->rows[row], to);
    }
    if (projection->k_energy > 0)
        fprintf(to, "columns decide from an energy of %.4g on\n", (double)projection->k_energy);
}

void aq_choices_report(const aq_choose_table *table, const aq_projection *projection,
                       aq_report *report) {
    char text[64];
    aq_report_int(report, "held_out_tokens", table->n_held_out);
    aq_report_real(report, "exact_loss", table->exact_loss);
    aq_report_list(report, "choices");
    for (int i = 0; i < table->n_row; i++) {
        const aq_choose_row *row = &table->rows[i];
        aq_report_group(report, NULL);
        aq_report_text(report, "basis", aq_basis_name(row->basis));
        aq_report_text(report, "selector",
                       aq_code_layout_text(&row->selector.codes, text, sizeof text));
        aq_report_int(report, "n_dynamic", row->selector.n_dynamic);
        aq_report_real(report, "bytes_read", aq_selector_bits(&row->selector) / 8.0);
        aq_report_real(report, "bytes_stored", aq_selector_stored(&row->selector));
        aq_report_real(report, "loss", row->loss);
        aq_report_end(report);
    }
    aq_report_end(report);
    if (projection->k_energy > 0) aq_report_real(report, "k_energy", (double)projection->k_energy);
}
