/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What `kvm-throttle converge --all` has done, as Prometheus reads it.
 */
#ifndef METRICS_H
#define METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

/* How a migration can end, in the order of metrics_ends. */
#define METRICS_ENDS	6
extern const char * const metrics_ends[METRICS_ENDS];

/**
 * struct metrics - what has been done since the service began
 * @ends: how many migrations have ended, each way
 * @helped: how many of those that completed had been throttled
 * @endless: how many of these would never have ended, as predicted
 * @saved_s: by how much sooner the others of these have ended, as predicted
 * @lost_s: for how long guests were throttled: their shares, integrated
 * @writer: the process that writes the file, 0 if there is none
 */
struct metrics {
	unsigned long ends[METRICS_ENDS];
	unsigned long helped;
	unsigned long endless;
	double saved_s;
	double lost_s;
	pid_t writer;
};

/**
 * struct metrics_vm - a VM that is watched
 * @name: its name, which another may have too
 * @pid: its process
 * @migrates: a migration runs, and what follows is known
 * @percent: by how much it is throttled
 * @dirty_rate: pages a second that its vCPUs may dirty, 0 if any number
 * @remaining: bytes that have still to be sent
 * @left_s: predicted time until the end; INFINITY if there is none in sight, NAN
 */
struct metrics_vm {
	const char *name;
	pid_t pid;
	bool migrates;
	double percent;
	double dirty_rate;
	double remaining;
	double left_s;
};

void metrics_ended(struct metrics *m, const char *end, bool throttled, double took_s,
		   double unhelped_s, double lost_s);
char *metrics_text(const struct metrics *m, const struct metrics_vm *vms, size_t nr,
		   size_t *len);
bool metrics_write(struct metrics *m, const char *path, const char *text, size_t len);

#endif /* METRICS_H */
