/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a throttled VM is shown: as a table, as a table that a terminal redraws in
 * place, or as JSON.
 */
#ifndef VIEW_H
#define VIEW_H

#include <json-c/json.h>

#include "throttle.h"

/**
 * struct average - shares of the time that a VM's vCPUs were throttled, in percent
 * @min: the vCPU's that was throttled least
 * @mean: that of all vCPUs together
 * @max: the vCPU's that was throttled most
 * @idle: how many were idle, and are left out of the others
 *
 * vCPUs that have been at full speed throughout don't count.  Shares are NAN if
 * nothing is left.
 */
struct average {
	double min;
	double mean;
	double max;
	unsigned int idle;
};

struct average view_average(const struct throttle *now,
			    const struct throttle *before);
void view_table(const struct throttle *now);
void view_log_head(void);
void view_log(const struct throttle *now, const struct throttle *before,
	      double seconds);
bool view_screen_init(void);
void view_screen(const struct throttle *now, const struct throttle *before);
void view_screen_end(void);
struct json_object *view_json(const struct throttle *now,
			      const struct throttle *before);
struct json_object *view_json_process(const struct process *process);

#endif /* VIEW_H */
