/* Pictures through gnuplot, which is a program of its own and need not be there. */
#ifndef AQ_LAUNCH_PLOT_H
#define AQ_LAUNCH_PLOT_H

#include "src/base/status.h"

/* Shares, 0 .. 1, over two lists of places. */
typedef struct {
    const char *title, *x_label, *y_label;
    int n_x, n_y;
    const double *x, *y;  /* [n_x], [n_y]: what the places are called */
    const double *shares; /* [n_y, n_x] */
} aq_plot_grid;

/* Whether a picture of that name can be made: AQ_ERR_USAGE unless it ends in .svg or .png,
 * AQ_ERR_UNSUPPORTED without gnuplot. To be asked before hours of work. Local. */
aq_status aq_plot_check(const char *path);

/* Draws a field of colours, the first y on top, and writes it to the file. AQ_ERR_IO and the errors
 * above. Local. */
aq_status aq_plot_draw(const char *path, const aq_plot_grid *grid);

#endif
