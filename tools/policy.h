/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a guest has to be throttled for its migration to finish.  This is arithmetic only.
 * It is given what QEMU says of the migration, and has no clock and no I/O.  The
 * simulator in bench/converge uses it too.
 */
#ifndef POLICY_H
#define POLICY_H

#include <stdbool.h>
#include <stdint.h>

/* Not more than QEMU's own max-cpu-throttle, unless asked for. */
#define POLICY_MAX_X100	9900

/* How a guest is throttled. */
enum policy_by {
	/* By the rate where it can be had, by a percentage otherwise. */
	POLICY_BY_ANY,
	/* By the rate at which its vCPUs dirty memory, or not at all. */
	POLICY_BY_RATE,
	/* By a percentage of its time. */
	POLICY_BY_PERCENT,
};

/**
 * struct policy_settings - what the user wants
 * @max_x100: never throttle by more, in hundredths of a percent
 * @time_limit_s: how long the migration may take, 0 if that doesn't matter
 * @by: how to throttle
 */
struct policy_settings {
	uint32_t max_x100;
	double time_limit_s;
	enum policy_by by;
};

/**
 * struct policy_point - how many pages the guest dirtied in a time
 * @used_s: how long it ran: its share of the time, integrated
 * @dirtied: bytes that it dirtied, each page counted once
 */
struct policy_point {
	double used_s;
	double dirtied;
};

/**
 * struct policy_vcpus - what is known of the rate at which vCPUs dirty memory
 * @usable: it can be limited
 * @lowest: bytes per second, the lowest limit for so many vCPUs
 * @dirtied: bytes that they have dirtied while there was a limit
 */
struct policy_vcpus {
	bool usable;
	double lowest;
	double dirtied;
};

/**
 * struct policy_sample - what is known of the migration at a time
 * @time_s: how long the migration has run
 * @syncs: how often the bitmap of dirty pages has been read (dirty-sync-count)
 * @remaining: bytes that have still to be sent
 * @sent: bytes of memory that have been sent since the migration began, pages of
 *	zeroes included: what @remaining counts
 * @bandwidth: bytes per second on the wire
 * @downtime_s: how long the guest may be stopped at the end
 * @probe: result of a probe that ended since the last sample, or zeroes
 * @probe_error: so much more than @probe says may have been dirtied
 * @other: share of the time that somebody else throttles the guest
 * @vcpus: how fast its vCPUs dirty memory
 */
struct policy_sample {
	double time_s;
	uint64_t syncs;
	double remaining;
	double sent;
	double bandwidth;
	double downtime_s;
	struct policy_point probe;
	double probe_error;
	double other;
	struct policy_vcpus vcpus;
};

/* Why the guest is throttled, or isn't. */
enum policy_reason {
	/* Nothing is known yet of how it dirties memory. */
	POLICY_WATCHING,
	/* What remains shrinks by itself, or may do so. */
	POLICY_CONVERGES,
	/* It didn't shrink. */
	POLICY_STUCK,
	/* It shrinks, but not within the time limit, or within a few times the first pass. */
	POLICY_SLOW,
	/* It was throttled, but that changed nothing. */
	POLICY_USELESS,
};

/* Why a limit to the rate was given up. */
enum policy_futile {
	POLICY_NOT_FUTILE,
	/* The module sees none of what QEMU finds dirty. */
	POLICY_UNSEEN,
	/* It is others than the vCPUs that dirty most of it. */
	POLICY_OTHERS,
};

/**
 * struct policy_decision - what to do
 * @percent_x100: throttle by so much from now on
 * @limit: let the vCPUs dirty no more bytes per second, 0 for any number
 * @by_rate: it is the rate that is limited, or would be
 * @futile: why there is no limit any more
 * @reason: why the guest is throttled, or isn't
 * @left_s: predicted time until the end, INFINITY if there is none in sight,
 *	NAN if nothing is known yet
 * @promised: @left_s holds as long as the link stays as fast, as the rate is limited
 * @dirty_rate: bytes of new dirty pages per second in the last iteration
 * @late: the time limit can't be kept, even at the highest percentage
 * @downtime_s: the downtime that the highest percentage would need, if that is more
 *	than is allowed; or 0
 * @corrected: the percentage was chosen anew
 * @probe_s: find out how many pages the guest dirties in so much time, from now
 *	on; 0 if that isn't wanted
 * @unhelped_s: how long the migration would take in all without a throttle, as
 *	predicted when that began; INFINITY if for ever, NAN if it hasn't begun
 */
struct policy_decision {
	uint32_t percent_x100;
	double limit;
	bool by_rate;
	enum policy_futile futile;
	enum policy_reason reason;
	double left_s;
	bool promised;
	double dirty_rate;
	bool late;
	double downtime_s;
	bool corrected;
	double probe_s;
	double unhelped_s;
};

#define POLICY_POINTS	4

/**
 * struct policy_round - the iteration that is running, or several short ones
 * @s: its length
 * @used_s: how long the guest ran in that
 * @sent: bytes sent in that
 * @dirtied: bytes found dirty at the ends of those that have ended
 * @syncs: how many have ended
 * @limited: the rate has been limited since it began
 * @before: what the vCPUs had dirtied when it began
 */
struct policy_round {
	double s;
	double used_s;
	double sent;
	double dirtied;
	unsigned int syncs;
	bool limited;
	double before;
};

/**
 * struct policy_probes - what probes have said
 * @exact: what the newest said that was exact enough
 * @nr: how many there were, exact or not
 * @cool_s: when one last said that this can converge; 0 if none ever did
 * @next_s: when the next one is due
 */
struct policy_probes {
	struct policy_point exact;
	unsigned int nr;
	double cool_s;
	double next_s;
};

/**
 * struct policy_hot - when probes have said that this can't converge
 * @since_s: since when they do; 0 if the newest doesn't
 * @until_s: up to when they have
 * @longest_s: the longest such time that has ended
 */
struct policy_hot {
	double since_s;
	double until_s;
	double longest_s;
};

/**
 * struct policy_points - what was dirtied in the last iterations without a limit to the
 *	rate
 * @list: the newest first
 * @nr: how many they are
 */
struct policy_points {
	struct policy_point list[POLICY_POINTS];
	unsigned int nr;
};

/**
 * struct policy_pass - the first iteration, in which all memory is sent
 * @ended: it has ended
 * @s: how long it took
 */
struct policy_pass {
	bool ended;
	double s;
};

/**
 * struct policy_second - the second iteration, which the later ones are compared with
 * @ratio: what was dirtied for each byte sent
 * @length: how much was sent; 0 if there was none yet
 */
struct policy_second {
	double ratio;
	double length;
};

/**
 * struct policy_link - how fast memory is sent, in bytes a second
 * @drain: of memory
 * @bandwidth: on the wire, smoothed
 */
struct policy_link {
	double drain;
	double bandwidth;
};

/**
 * struct policy_remained - how many bytes have remained to be sent
 * @most: ever
 * @least: at the end of an iteration
 */
struct policy_remained {
	double most;
	double least;
};

/**
 * struct policy_rounds - how many iterations, one after the other, have shown something
 * @hopeless: what remains can't shrink enough
 * @stuck: it hasn't become less
 * @useless: as much was dirtied as without a throttle
 * @futile: far more was dirtied than the limit lets vCPUs dirty
 */
struct policy_rounds {
	unsigned int hopeless;
	unsigned int stuck;
	unsigned int useless;
	unsigned int futile;
};

/**
 * struct policy - a migration
 * @settings: what the user wants
 * @last: newest sample
 * @started: there is one
 * @decision: newest decision
 * @round: the iteration that is running
 * @points: the last iterations
 * @probes: what probes have said
 * @hot: when they have said that this can't converge
 * @pass: the first iteration
 * @second: the second one
 * @rounds: what the last ones have shown
 * @link: how fast memory is sent
 * @remained: what has remained
 * @free_rate: bytes dirtied per second in the last iteration without a throttle
 */
struct policy {
	struct policy_settings settings;
	struct policy_sample last;
	bool started;
	struct policy_decision decision;
	struct policy_round round;
	struct policy_points points;
	struct policy_probes probes;
	struct policy_hot hot;
	struct policy_pass pass;
	struct policy_second second;
	struct policy_rounds rounds;
	struct policy_link link;
	struct policy_remained remained;
	double free_rate;
};

bool policy_set_by(struct policy_settings *settings, const char *name);
void policy_set_max(struct policy_settings *settings, uint32_t max_x100);
void policy_init(struct policy *p, const struct policy_settings *settings);
struct policy_decision policy_feed(struct policy *p,
				   const struct policy_sample *sample);

#endif /* POLICY_H */
