/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Output that is never waited for.
 */
#ifndef OUTPUT_H
#define OUTPUT_H

#include <stdio.h>

/* What becomes of output that nobody takes. */
enum output_full {
	/* It is dropped, and that is said when there is room again. */
	OUTPUT_DROP,
	/* It is waited for, until a signal comes. */
	OUTPUT_WAIT,
};

void output_stdio(enum output_full full, int signals);
FILE *output_open(int fd, const char *name);

#endif /* OUTPUT_H */
