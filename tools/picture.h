/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A recording as orders to gnuplot: a row for each vCPU, on it its windows as they
 * were planned and as they were.
 */
#ifndef PICTURE_H
#define PICTURE_H

#include <stdio.h>

#include "lateness.h"
#include "recording.h"

/**
 * struct picture - what is shown
 * @r: the recording
 * @gnuplot: gnuplot's standard input
 * @from_ns: left border
 * @to_ns: right border
 */
struct picture {
	const struct recording *r;
	FILE *gnuplot;
	int64_t from_ns;
	int64_t to_ns;
};

double picture_ms(const struct picture *p, int64_t ns);
void picture_draw(const struct picture *p, const struct sums *s);

#endif /* PICTURE_H */
