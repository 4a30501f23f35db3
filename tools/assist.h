/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Makes the migrations of one VM finish: asks its QEMU, throttles its guest.
 */
#ifndef ASSIST_H
#define ASSIST_H

#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>

#include "loop.h"
#include "migration.h"
#include "policy.h"
#include "proc.h"
#include "qmp.h"

struct assist;

/**
 * struct assist_owner - who has VMs helped, and what it is told
 * @say: a sentence about what happens
 * @log: the same for machines; the callee's
 * @ready: its monitor can be asked for the first time; assist_disconnect() may be called
 * @refused: its monitor was closed before it could be asked; @why is NULL if by the
 *	other side
 * @began: a migration has begun, or was found
 * @chose: it is known how the guest will be throttled, if it has to be, which @text says,
 *	and whether that is as wanted, not for want of something better
 * @looked: QEMU has said how far the migration is, and what follows was done
 * @ended: the migration has ended, and the guest is at full speed
 * @reconnect: returns a new socket to a monitor that was closed, negative if there is
 *	none yet; called only of a VM with a socket of its own
 */
struct assist_owner {
	void (*say)(struct assist *a, const char *text);
	void (*log)(struct assist *a, struct json_object *event);
	void (*ready)(struct assist *a);
	void (*refused)(struct assist *a, const char *why);
	void (*began)(struct assist *a);
	void (*chose)(struct assist *a, bool as_wanted, const char *text);
	void (*looked)(struct assist *a);
	void (*ended)(struct assist *a);
	int (*reconnect)(struct assist *a);
};

/**
 * struct assist_force - how a guest is throttled, and was in this migration
 * @percent_x100: percentage in force
 * @highest_x100: the highest so far
 * @rate: pages a second that its vCPUs may dirty; 0 if any number
 * @lowest_rate: the lowest so far; 0 if there was none
 * @tried: it is known whether a rate can be had
 * @usable: it can
 * @held_s: for how long its vCPUs have slept for what they dirtied, on average
 * @lost_s: for how long the guest has been throttled: the percentage's share, integrated,
 *	and @held_s
 * @since_s: up to when that is; in time of the migration
 */
struct assist_force {
	uint32_t percent_x100;
	uint32_t highest_x100;
	uint64_t rate;
	uint64_t lowest_rate;
	bool tried;
	bool usable;
	double held_s;
	double lost_s;
	double since_s;
};

/**
 * struct assist_said - what has been said of a migration, and isn't again
 * @late: the time limit can't be kept
 * @useless: throttling changes nothing
 * @futile: limiting the rate doesn't
 * @unmet: the downtime limit can't be met
 */
struct assist_said {
	bool late;
	bool useless;
	bool futile;
	bool unmet;
};

/*
 * How far the VM's monitor is:
 *
 *              connected            greeted          closed
 *   NO_MONITOR ---------> GREETING ---------> READY ---------> CLOSED <----+
 *        ^                   |                  ^                | another |
 *        |            closed |                  |        greeted v         | closed
 *        +-------------------+                  +------------ RETURNING ---+
 *
 * assist_disconnect() leads to NO_MONITOR from each in which there is one.
 */
enum assist_state {
	ASSIST_NO_MONITOR,
	/* It has not said that it is one. */
	ASSIST_GREETING,
	/* It can be asked. */
	ASSIST_READY,
	/* It could be asked, and can't be reached now. */
	ASSIST_CLOSED,
	/* The same, and one in its place has not greeted yet. */
	ASSIST_RETURNING,
};

/**
 * struct assist_monitor - the VM's monitor
 * @state: how far it is
 * @qmp: the connection; NULL without one
 * @since_ns: since when there has been no answer, or no monitor that could be asked; 0 if
 *	there is one
 * @told: it has been said that there is no answer
 */
struct assist_monitor {
	enum assist_state state;
	struct qmp *qmp;
	uint64_t since_ns;
	bool told;
};

/**
 * struct assist_timers - what is waited for
 * @look: when to look again
 * @gone: when to wait no longer for why QEMU has gone, or for its monitor
 */
struct assist_timers {
	struct loop_timer look;
	struct loop_timer gone;
};

/**
 * struct assist_capabilities - what a QEMU can do, and has been told to
 * @known: it has been asked
 * @events: it says by itself when the state of a migration changes
 * @auto_converge: it throttles too
 * @dirty_limit: it does so by its dirty ring
 */
struct assist_capabilities {
	bool known;
	bool events;
	bool auto_converge;
	bool dirty_limit;
};

/**
 * struct assist_parameters - what the user may change while a migration runs
 * @due_ns: when to ask for them again
 * @bandwidth: what QEMU has been told to expect of the switch-over, 0 if nothing
 */
struct assist_parameters {
	uint64_t due_ns;
	double bandwidth;
};

/**
 * struct assist_probe - how QEMU counts dirty pages for the policy
 * @mode: by what; NULL if it can't
 * @asked_s: the length of the probe that was asked for
 * @running_s: the length of the one that is running, 0 if none is
 * @syncs: dirty-sync-count when it began
 */
struct assist_probe {
	const char *mode;
	double asked_s;
	double running_s;
	uint64_t syncs;
};

/**
 * struct assist - a VM that is helped
 * @loop: what waits
 * @owner: who is told
 * @context: the owner's
 * @settings: how to throttle
 * @frugal: ask no more often than is needed, as there are many
 * @want_events: have QEMU say by itself when a migration's state changes
 * @own_socket: its monitor has a socket of its own, which can be connected to again; if
 *	not, assist_connect() will be called
 * @vm: QEMU's process
 * @pidfd: of that
 * @throttle: the throttle fd; -1 if there is none
 * @vm_gone: there is no VM any more
 * @monitor: where QEMU is asked
 * @timers: when to look
 * @capabilities: what QEMU can do
 * @parameters: what it has been told
 * @migration: where the migration is
 * @number: which one @policy is about
 * @policy: what to do about it
 * @sample: what is known of it
 * @has_sample: that is of the last look
 * @decision: what has been decided last
 * @force: how the guest is throttled
 * @probe: what has QEMU count dirty pages
 * @said: what has been said
 */
struct assist {
	struct loop *loop;
	const struct assist_owner *owner;
	void *context;
	struct policy_settings settings;
	bool frugal;
	bool want_events;
	bool own_socket;
	struct process vm;
	struct loop_watch pidfd;
	struct loop_watch throttle;
	bool vm_gone;
	struct assist_monitor monitor;
	struct assist_timers timers;
	struct assist_capabilities capabilities;
	struct assist_parameters parameters;
	struct migration migration;
	unsigned int number;
	struct policy policy;
	struct policy_sample sample;
	bool has_sample;
	struct policy_decision decision;
	struct assist_force force;
	struct assist_probe probe;
	struct assist_said said;
};

/**
 * assist_is_connected() - is there a connection to the VM's monitor?
 * @a: the VM
 *
 * Return: true if there is one, though it need not have greeted.
 */
static inline bool assist_is_connected(const struct assist *a)
{
	return a->monitor.state != ASSIST_NO_MONITOR && a->monitor.state != ASSIST_CLOSED;
}

/**
 * assist_was_ready() - could the VM's monitor ever be asked?
 * @a: the VM, whose monitor was not left
 *
 * Return: true if it could.
 */
static inline bool assist_was_ready(const struct assist *a)
{
	return a->monitor.state >= ASSIST_READY;
}

void assist_init(struct assist *a, struct loop *loop, const struct assist_owner *owner,
		 void *context, const struct policy_settings *settings);
int assist_vm(struct assist *a, const struct process *vm);
int assist_attach(struct assist *a, char *why, size_t size);
void assist_connect(struct assist *a, int fd);
void assist_disconnect(struct assist *a);
void assist_next(struct assist *a);
void assist_end(struct assist *a);

/**
 * struct assist_end - how a migration has ended
 * @name: for machines
 * @text: the beginning of a sentence
 */
struct assist_end {
	const char *name;
	const char *text;
};

bool assist_has_throttled(const struct assist *a);
const struct assist_end *assist_end_of(const struct assist *a);
void assist_log_end(struct assist *a, const struct assist_end *end);
char *assist_sum_up(const struct assist *a, const struct assist_end *end);
struct json_object *assist_event(const struct assist *a, const char *event);
void assist_add_number(struct json_object *json, const char *name, double value, int places);
void assist_add_string(struct json_object *json, const char *name, const char *text);

#endif /* ASSIST_H */
