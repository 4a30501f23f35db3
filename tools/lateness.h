/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a recording's windows kept to their plan.
 */
#ifndef LATENESS_H
#define LATENESS_H

#include "recording.h"

/* A window is called late if it is off its plan by more than this share of a period. */
#define LATE_SHARE	0.01

/**
 * struct lateness - how late something was
 * @nr: how often it was
 * @sum_ns: together
 * @worst_ns: at most
 * @worst_at_ns: when that was
 */
struct lateness {
	unsigned long nr;
	double sum_ns;
	int64_t worst_ns;
	int64_t worst_at_ns;
};

/**
 * struct sums - the whole recording, in short
 * @open: how late windows opened
 * @close: how late they closed
 * @windows: how many there are
 * @late: how many of them are called late
 * @throttled_ns: from a window's end to the next one's beginning
 * @elapsed_ns: from a window's beginning to the next one's
 * @turns: some waited for another vCPU of their VM on the same CPU
 */
struct sums {
	struct lateness open;
	struct lateness close;
	unsigned long windows;
	unsigned long late;
	double throttled_ns;
	double elapsed_ns;
	bool turns;
};

struct sums lateness_judge(const struct recording *r);
bool lateness_is_late(const struct recording *r, const struct window *w);
double lateness_only_target(const struct recording *r);

#endif /* LATENESS_H */
