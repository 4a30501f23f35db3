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

/**
 * struct vcpu_view - what happened to a vCPU
 * @target: share of the time that it is to be throttled, in percent
 * @share: for how much it was, NAN if there is nothing to say about
 * @sleep_ns: how long the throttle kept it out of guest mode at a time, on
 *	average; NAN if it didn't
 * @idle: it needed little throttling, as it was not in guest mode anyway
 */
struct vcpu_view {
	double target;
	double share;
	double sleep_ns;
	bool idle;
};

/* A vCPU that was off its target by more than this in the last interval is highlighted. */
#define OFF_TARGET_PERCENT	1.0

/* Room for what view_limits() says. */
#define VIEW_LIMITS_SIZE	64

void view_limits(char *text, size_t size, uint32_t percent_x100, uint64_t dirty_rate);
struct average view_average(const struct throttle *now,
			    const struct throttle *before);
struct vcpu_view view_vcpu(const struct throttle *now,
			   const struct throttle *before, uint32_t i);
void view_table(const struct throttle *now, const struct throttle *before);
void view_log_head(void);
void view_log(const struct throttle *now, const struct throttle *before,
	      double seconds);
bool view_can_draw(void);
bool view_screen_init(void);
void view_screen(const struct throttle *now, const struct throttle *before);
int view_width(void);
void view_screen_end(void);
struct json_object *view_json(const struct throttle *now,
			      const struct throttle *before);
struct json_object *view_json_percent(double percent);
struct json_object *view_json_process(const struct process *process);

#endif /* VIEW_H */
