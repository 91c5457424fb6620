/* What calibration chose from, told to people and in the report. */
#ifndef AQ_LAUNCH_CHOICES_H
#define AQ_LAUNCH_CHOICES_H

#include <stdio.h>

#include "calib/choose.h"
#include "src/model/report.h"

/* Prints the table, the best first, and the budget of the projection, if any. Local. */
void aq_choices_print(const aq_choose_table *table, const aq_projection *projection, FILE *to);

/* The same as lists in a report. Local. */
void aq_choices_report(const aq_choose_table *table, const aq_projection *projection,
                       aq_report *report);

#endif
