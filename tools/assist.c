// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Makes the migrations of one VM finish: asks its QEMU, throttles its guest.
 *
 * migration.c says where a migration is, and policy.c what to do.  This file stands
 * between them and QEMU; assist-throttle.c stands before the module, and assist-log.c
 * says what happens.  Nothing here waits.  Each answer of QEMU's leads to the next
 * question (advance()), until the policy knows all that it needs.  Then a timer leads to
 * the next look.
 *
 * A guest that is stopped dirties nothing.  So the throttle ends as soon as the guest is
 * stopped for the switch-over, however the migration ends.
 */
#include <math.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "assist.h"
#include "assist-parts.h"
#include "attach.h"
#include "command.h"

#define MIB		(1024.0 * 1024)

/* How often to look while memory is sent. */
#define LOOK_NS		(50 * NSEC_PER_MSEC)
/* Or, of many VMs, at most so rarely, and all at the same times. */
#define LOOK_MAX_NS	NSEC_PER_SEC
/* How often otherwise, */
#define WAIT_NS		(250 * NSEC_PER_MSEC)
/* of many VMs, */
#define WAIT_MANY_NS	NSEC_PER_SEC
/* and if QEMU says by itself when something happens. */
#define WAIT_EVENTS_NS	(60 * NSEC_PER_SEC)

/* How often to ask for what the user may change meanwhile. */
#define PARAMETERS_NS	NSEC_PER_SEC

/* How long a monitor may be closed that has a socket of its own. */
#define CLOSED_S	2
#define RECONNECT_NS	(100 * NSEC_PER_MSEC)

/* QEMU's own. */
#define DOWNTIME_S	0.3

static void look(void *context);
static void check_gone(void *context);

/* --- what QEMU says ------------------------------------------------------- */

/* NAN if it isn't there, or isn't a number. */
static double number(struct json_object *json, const char *name)
{
	struct json_object *value = json_member(json, name);

	if (!json_object_is_type(value, json_type_int) &&
	    !json_object_is_type(value, json_type_double))
		return NAN;
	return json_object_get_double(value);
}

static double number_or_0(struct json_object *json, const char *name)
{
	double value = number(json, name);

	return isfinite(value) && value > 0 ? value : 0;
}

static const char *string(struct json_object *json, const char *name)
{
	struct json_object *value = json_member(json, name);

	return json_object_is_type(value, json_type_string) ?
	       json_object_get_string(value) : NULL;
}

static bool is_on(struct json_object *capabilities, const char *name)
{
	if (!json_object_is_type(capabilities, json_type_array))
		return false;
	for (size_t i = 0; i < json_object_array_length(capabilities); i++) {
		struct json_object *one = json_object_array_get_idx(capabilities, i);
		const char *this = string(one, "capability");

		if (this && !strcmp(this, name))
			return json_object_get_boolean(json_member(one, "state"));
	}
	return false;
}

/* --- the monitor's state -------------------------------------------------- */

/* It changes here only. */
static void set_state(struct assist *a, enum assist_state state)
{
	struct assist_monitor *m = &a->monitor;

	m->state = state;
	if (!assist_is_connected(a) && m->qmp) {
		qmp_close(m->qmp);
		m->qmp = NULL;
	}
	if (state == ASSIST_READY)
		m->since_ns = 0;
	else if (state == ASSIST_CLOSED)
		m->since_ns = now_ns();
}

/* For how long there has been no answer, or no monitor. */
static double silent_s(const struct assist *a)
{
	return (double)(now_ns() - a->monitor.since_ns) / NSEC_PER_SEC;
}

/**
 * assist_disconnect() - leave the VM's monitor, if there is one
 * @a: the VM
 */
void assist_disconnect(struct assist *a)
{
	if (assist_is_connected(a))
		set_state(a, ASSIST_NO_MONITOR);
}

/* --- the end -------------------------------------------------------------- */

/* Act on the phase, and say whether there is still something to be done. */
static bool follow_phase(struct assist *a)
{
	if (!migration_may_throttle(&a->migration))
		assist_set_throttle(a, 0, 0);
	if (!migration_has_ended(&a->migration))
		return true;
	assist_account(a);
	a->probe.running_s = 0;
	loop_stop(a->loop, &a->timers.look);
	loop_stop(a->loop, &a->timers.gone);
	a->owner->ended(a);
	return false;
}

static void process_ended(void *context, short revents)
{
	struct assist *a = context;

	(void)revents;
	loop_remove(a->loop, &a->pidfd);
	close(a->pidfd.fd);
	a->pidfd.fd = -1;
	a->vm_gone = true;
	assist_close_throttle(a);
	/* What it has still said before is read first. */
	if (!assist_is_connected(a))
		check_gone(a);
	else
		loop_start(a->loop, &a->timers.gone, now_ns() + ASSIST_REASON_NS);
}

static bool try_reconnect(struct assist *a)
{
	int fd = a->own_socket ? a->owner->reconnect(a) : -1;

	if (fd < 0)
		return false;
	assist_connect(a, fd);
	return true;
}

/* There was no monitor, no VM or no process.  Is there one again? */
static void check_gone(void *context)
{
	struct assist *a = context;

	if (a->vm_gone) {
		migration_gone(&a->migration);
	} else if (!assist_is_connected(a) && !try_reconnect(a)) {
		if (!a->own_socket)
			migration_silence(&a->migration, silent_s(a));
		else if (silent_s(a) >= CLOSED_S)
			migration_lost(&a->migration);
		loop_start(a->loop, &a->timers.gone, now_ns() + RECONNECT_NS);
	}
	follow_phase(a);
}

/* The monitor has been closed: by QEMU's end, in most cases. */
static void was_closed(void *context, const char *why)
{
	struct assist *a = context;

	if (a->monitor.state == ASSIST_GREETING) {
		set_state(a, ASSIST_NO_MONITOR);
		a->owner->refused(a, why);
		return;
	}
	set_state(a, ASSIST_CLOSED);
	if (why)
		assist_say(a, "%s (process %d): %s.", a->vm.name, a->vm.pid, why);
	a->migration.silent = true;
	loop_stop(a->loop, &a->timers.look);
	if (!follow_phase(a))
		return;
	if (a->vm_gone)
		check_gone(a);
	else
		loop_start(a->loop, &a->timers.gone, now_ns() + RECONNECT_NS);
}

/* --- when to look again --------------------------------------------------- */

static uint64_t look_in_ns(const struct assist *a)
{
	const struct policy_sample *s = &a->sample;
	double rate, left_s;

	if (a->migration.phase == MIGRATION_WAITING && a->frugal)
		return a->capabilities.events ? WAIT_EVENTS_NS : WAIT_MANY_NS;
	if (a->migration.phase == MIGRATION_WAITING)
		return WAIT_NS;
	if (!a->frugal || a->migration.phase != MIGRATION_PRECOPY)
		return LOOK_NS;
	/* Its end would be seen too late. */
	if ((a->force.percent_x100 || a->force.rate) && !a->capabilities.events)
		return LOOK_NS;
	/* Twice in what is left of an iteration: often near its end. */
	rate = a->policy.link.drain > 0 ? a->policy.link.drain : s->bandwidth;
	left_s = rate > 0 ? (s->remaining - s->bandwidth * s->downtime_s) / rate : 0;
	return fmin(fmax(left_s / 2 * NSEC_PER_SEC, LOOK_NS), LOOK_MAX_NS);
}

static void schedule(struct assist *a)
{
	uint64_t due_ns = now_ns() + look_in_ns(a);

	if (a->frugal)
		due_ns += LOOK_NS - due_ns % LOOK_NS;
	loop_start(a->loop, &a->timers.look, due_ns);
}

static void ask(struct assist *a, const char *command, struct json_object *arguments,
		qmp_answer_fn *answered)
{
	if (!a->monitor.since_ns)
		a->monitor.since_ns = now_ns();
	qmp_ask(a->monitor.qmp, command, arguments, answered);
	/* To see that there is no answer. */
	loop_start(a->loop, &a->timers.look, now_ns() + WAIT_NS);
}

/* There was no answer. */
static void unreached(struct assist *a, struct json_object *error)
{
	if (!a->monitor.told)
		assist_say(a, "%s (process %d) can't be asked: %s; trying again.", a->vm.name,
		    a->vm.pid, qmp_error(error));
	a->monitor.told = true;
	migration_silence(&a->migration, silent_s(a));
	if (follow_phase(a))
		loop_start(a->loop, &a->timers.look, now_ns() + WAIT_NS);
}

/* Returns true if it is one. */
static bool is_answer(struct assist *a, enum qmp_result result, struct json_object *answer)
{
	if (result == QMP_UNREACHED) {
		unreached(a, answer);
		return false;
	}
	a->monitor.since_ns = 0;
	a->monitor.told = false;
	return true;
}

/* --- probes --------------------------------------------------------------- */

static void calc_answered(void *context, enum qmp_result result, struct json_object *answer)
{
	struct assist *a = context;
	const char *error = result == QMP_OK ? NULL : qmp_error(answer);

	if (!is_answer(a, result, answer))
		return;
	if (result == QMP_OK) {
		a->probe.running_s = a->probe.asked_s;
		a->probe.syncs = a->sample.syncs;
	} else {
		assist_log_probe(a, a->probe.asked_s, 0, error);
		/* Another mode is in use, or QEMU is older than 8.2. */
		if (strstr(error, "is not enabled") && !strcmp(a->probe.mode, "dirty-bitmap"))
			a->probe.mode = "dirty-ring";
		else if (!strstr(error, "already"))
			a->probe.mode = NULL;
	}
	schedule(a);
}

/* Have QEMU count the pages that are dirtied from now on. */
static void start_probe(struct assist *a)
{
	struct json_object *arguments = json_object_new_object();

	a->probe.asked_s = floor(a->decision.probe_s * 1e3) / 1e3;
	json_object_object_add(arguments, "calc-time",
			       json_object_new_int64(a->probe.asked_s * 1e3 + 0.5));
	assist_add_string(arguments, "calc-time-unit", "millisecond");
	assist_add_string(arguments, "mode", a->probe.mode);
	a->decision.probe_s = 0;
	ask(a, "calc-dirty-rate", arguments, calc_answered);
}

/*
 * What a probe has found comes to the sample.  If QEMU has read the bitmap
 * meanwhile, pages were counted twice.
 */
static void take_probe(struct assist *a, struct json_object *answer)
{
	struct policy_sample *s = &a->sample;
	const char *status = string(answer, "status");
	double rate = number(answer, "dirty-rate");

	if (!status || !strcmp(status, "measuring"))
		return;
	if (s->syncs != a->probe.syncs) {
		assist_log_probe(a, a->probe.running_s, 0, "an iteration ended meanwhile");
	} else if (!strcmp(status, "measured") && isfinite(rate) && rate >= 0) {
		s->probe.used_s = a->probe.running_s;
		s->probe.dirtied = rate * MIB * a->probe.running_s;
		/* It is a whole number of MiB, made of such a number. */
		s->probe_error = MIB * (1 + a->probe.running_s);
		assist_log_probe(a, s->probe.used_s, s->probe.dirtied, NULL);
	}
	a->probe.running_s = 0;
}

/* --- what to do ----------------------------------------------------------- */

static void decide(struct assist *a)
{
	uint64_t syncs = a->policy.last.syncs;

	if (!a->force.tried)
		assist_choose_means(a);
	assist_account(a);
	a->decision = policy_feed(&a->policy, &a->sample);
	assist_set_throttle(a, a->decision.percent_x100, a->decision.limit);
	if (a->sample.syncs != syncs || a->decision.corrected)
		assist_log_decision(a);
	assist_say_what_is_wrong(a);
}

/* A migration has begun, or was found. */
static void begin(struct assist *a)
{
	/* The end of the one before may have been missed. */
	assist_set_throttle(a, 0, 0);
	policy_init(&a->policy, &a->settings);
	a->decision = a->policy.decision;
	a->parameters.due_ns = 0;
	a->sample.downtime_s = DOWNTIME_S;
	a->parameters.bandwidth = 0;
	a->probe.mode = "dirty-bitmap";
	a->probe.running_s = 0;
	a->force = (struct assist_force) {
		.held_s = a->force.held_s,
		.since_s = a->sample.time_s,
	};
	a->said = (struct assist_said) { 0 };
	assist_log_start(a);
	a->owner->began(a);
	if (a->capabilities.auto_converge)
		assist_say(a, "QEMU's own auto-converge is on: it will throttle too, by steps. Better leave it off.");
	if (a->capabilities.dirty_limit)
		assist_say(a, "QEMU's own dirty-limit is on: it will throttle too, by its dirty ring. Better leave it off.");
}

static void advance(struct assist *a);

/* A QEMU that doesn't know of events, or migrates, says no: it is asked more often. */
static void events_answered(void *context, enum qmp_result result,
			    struct json_object *answer)
{
	struct assist *a = context;

	if (!is_answer(a, result, answer))
		return;
	a->capabilities.events = result == QMP_OK;
	advance(a);
}

static void ask_for_events(struct assist *a)
{
	struct json_object *arguments = json_object_new_object();
	struct json_object *list = json_object_new_array();
	struct json_object *events = json_object_new_object();

	assist_add_string(events, "capability", "events");
	assist_add_boolean(events, "state", true);
	json_object_array_add(list, events);
	json_object_object_add(arguments, "capabilities", list);
	ask(a, "migrate-set-capabilities", arguments, events_answered);
}

static void capabilities_answered(void *context, enum qmp_result result,
				  struct json_object *answer)
{
	struct assist *a = context;

	if (!is_answer(a, result, answer))
		return;
	a->capabilities.known = true;
	a->capabilities.events = result == QMP_OK && is_on(answer, "events");
	a->capabilities.auto_converge = result == QMP_OK && is_on(answer, "auto-converge");
	a->capabilities.dirty_limit = result == QMP_OK && is_on(answer, "dirty-limit");
	if (a->number != a->migration.number)
		begin(a);
	a->number = a->migration.number;
	if (a->want_events && !a->capabilities.events && a->migration.phase == MIGRATION_WAITING)
		ask_for_events(a);
	else
		advance(a);
}

static void parameters_answered(void *context, enum qmp_result result,
				struct json_object *answer)
{
	struct assist *a = context;
	double downtime_ms = number(answer, "downtime-limit");

	if (!is_answer(a, result, answer))
		return;
	if (result == QMP_OK && isfinite(downtime_ms))
		a->sample.downtime_s = downtime_ms / 1e3;
	if (result == QMP_OK)
		a->parameters.bandwidth = number_or_0(answer, "avail-switchover-bandwidth");
	a->parameters.due_ns = now_ns() + PARAMETERS_NS;
	advance(a);
}

static void probe_answered(void *context, enum qmp_result result, struct json_object *answer)
{
	struct assist *a = context;

	if (!is_answer(a, result, answer))
		return;
	if (result == QMP_OK)
		take_probe(a, answer);
	else
		a->probe.running_s = 0;
	decide(a);
	a->has_sample = false;
	advance(a);
}

/* QEMU has said how the migration is.  Ask what else is needed, then act. */
static void advance(struct assist *a)
{
	bool precopy = a->migration.phase == MIGRATION_PRECOPY;

	if (a->monitor.state != ASSIST_READY)
		return;
	if (!a->capabilities.known || (precopy && a->number != a->migration.number)) {
		ask(a, "query-migrate-capabilities", NULL, capabilities_answered);
		return;
	}
	if (precopy && a->has_sample && now_ns() >= a->parameters.due_ns) {
		ask(a, "query-migrate-parameters", NULL, parameters_answered);
		return;
	}
	if (precopy && a->has_sample && a->probe.running_s) {
		ask(a, "query-dirty-rate", NULL, probe_answered);
		return;
	}
	if (precopy && a->has_sample)
		decide(a);
	a->has_sample = false;
	a->owner->looked(a);
	if (precopy && a->probe.mode && !a->probe.running_s && a->decision.probe_s > 0)
		start_probe(a);
	else
		schedule(a);
}

/* --- looking -------------------------------------------------------------- */

static void take_sample(struct assist *a, struct json_object *info)
{
	struct json_object *ram = json_member(info, "ram");
	struct policy_sample *s = &a->sample;
	double pages = number_or_0(ram, "normal") + number_or_0(ram, "duplicate") +
		       number_or_0(json_member(info, "xbzrle-cache"), "pages");
	double page_size = number_or_0(ram, "page-size") ?: 4096;

	if (isfinite(number(info, "total-time")))
		s->time_s = number(info, "total-time") / 1e3;
	a->has_sample = isfinite(number(ram, "remaining")) && number(ram, "remaining") >= 0 &&
			isfinite(number(info, "total-time"));
	if (!a->has_sample)
		return;
	s->syncs = number_or_0(ram, "dirty-sync-count");
	s->remaining = number(ram, "remaining");
	s->sent = pages * page_size;
	s->bandwidth = a->parameters.bandwidth ?: number_or_0(ram, "mbps") * 1e6 / 8;
	s->other = fmin(number_or_0(info, "cpu-throttle-percentage"), 99) / 100;
	s->probe = (struct policy_point) { 0 };
}

static void migration_answered(void *context, enum qmp_result result,
			       struct json_object *answer)
{
	struct assist *a = context;
	struct migration_info info;

	/* QEMU knows no reason not to answer this. */
	if (result != QMP_OK || !json_object_is_type(answer, json_type_object)) {
		unreached(a, answer);
		return;
	}
	is_answer(a, result, answer);
	info = (struct migration_info) {
		.status = string(answer, "status"),
		.why = string(answer, "error-desc"),
		.total_s = isfinite(number(answer, "total-time")) ?
			   number(answer, "total-time") / 1e3 : -1,
		.ram = json_object_is_type(json_member(answer, "ram"), json_type_object),
	};
	migration_look(&a->migration, &info);
	if (a->migration.phase != MIGRATION_WAITING)
		take_sample(a, answer);
	if (follow_phase(a))
		advance(a);
}

/* Ask how the migration is.  If the last answer hasn't come yet, look how long that takes. */
static void look(void *context)
{
	struct assist *a = context;

	if (a->monitor.state != ASSIST_READY)
		return;
	if (!qmp_asked_ns(a->monitor.qmp)) {
		ask(a, "query-migrate", NULL, migration_answered);
		return;
	}
	if (!a->monitor.since_ns)
		a->monitor.since_ns = qmp_asked_ns(a->monitor.qmp);
	migration_silence(&a->migration, silent_s(a));
	if (a->migration.silent && !a->monitor.told) {
		a->monitor.told = true;
		assist_say(a, "%s (process %d) doesn't answer: its guest is not throttled until it does.",
		    a->vm.name, a->vm.pid);
	}
	if (follow_phase(a))
		loop_start(a->loop, &a->timers.look, now_ns() + WAIT_NS);
}

static enum migration_reason reason_of(struct json_object *data)
{
	const char *reason = string(data, "reason");

	return reason && (!strcmp(reason, "migrated") || !strcmp(reason, "saved")) ?
	       MIGRATION_REASON_MIGRATED : MIGRATION_REASON_OTHER;
}

static void event_came(void *context, const char *event, struct json_object *data)
{
	static const char * const telling[] = {
		"MIGRATION", "MIGRATION_PASS", "STOP", "RESUME",
	};
	struct assist *a = context;

	if (!strcmp(event, "LIBVIRT_STOPPED")) {
		migration_reason(&a->migration, reason_of(data));
		migration_gone(&a->migration);
		follow_phase(a);
		return;
	}
	migration_event(&a->migration, event);
	for (size_t i = 0; i < sizeof(telling) / sizeof(*telling); i++) {
		if (!strcmp(event, telling[i]) && !qmp_asked_ns(a->monitor.qmp))
			loop_start(a->loop, &a->timers.look, now_ns());
	}
}

static void is_ready(void *context)
{
	struct assist *a = context;
	bool first = a->monitor.state == ASSIST_GREETING;

	set_state(a, ASSIST_READY);
	loop_stop(a->loop, &a->timers.gone);
	if (first)
		a->owner->ready(a);
	look(a);
}

/**
 * assist_init() - begin with a VM
 * @a: the VM, which stays in its place
 * @loop: what waits
 * @owner: who is told
 * @context: the owner's
 * @settings: how to throttle
 */
void assist_init(struct assist *a, struct loop *loop, const struct assist_owner *owner,
		 void *context, const struct policy_settings *settings)
{
	*a = (struct assist) {
		.loop = loop,
		.owner = owner,
		.context = context,
		.settings = *settings,
		.pidfd = { .fd = -1, .events = POLLIN, .ready = process_ended, .context = a },
		.throttle = { .fd = -1, .ready = assist_vm_is_gone, .context = a },
		.timers.look = { .due_ns = LOOP_NEVER, .due = look, .context = a },
		.timers.gone = { .due_ns = LOOP_NEVER, .due = check_gone, .context = a },
	};
	migration_init(&a->migration);
}

/**
 * assist_vm() - say which VM it is
 * @a: the VM
 * @vm: QEMU's process
 *
 * Return: 0, or a negative error number if there is no such process any more.
 */
int assist_vm(struct assist *a, const struct process *vm)
{
	int fd = proc_open(vm->pid);

	if (fd < 0)
		return fd;
	a->vm = *vm;
	a->pidfd.fd = fd;
	loop_add(a->loop, &a->pidfd);
	return 0;
}

/**
 * assist_attach() - get hold of the VM's throttle
 * @a: the VM
 * @why: what is wrong, if it fails
 * @size: room for that
 *
 * Return: 0, or the exit status that tells what is wrong.
 */
int assist_attach(struct assist *a, char *why, size_t size)
{
	int status = attach_try(&a->vm, -1, &a->throttle.fd, why, size);

	if (!status)
		loop_add(a->loop, &a->throttle);
	return status;
}

/**
 * assist_connect() - say where the VM's monitor is
 * @a: the VM, which has none now
 * @fd: a socket, which comes to belong to it
 */
void assist_connect(struct assist *a, int fd)
{
	const struct qmp_handlers handlers = {
		.ready = is_ready,
		.event = event_came,
		.closed = was_closed,
		.context = a,
	};

	a->monitor.qmp = qmp_open(a->loop, fd, &handlers);
	set_state(a, a->monitor.state == ASSIST_CLOSED ? ASSIST_RETURNING : ASSIST_GREETING);
}

/**
 * assist_next() - wait for the next migration, as the last has ended
 * @a: the VM
 */
void assist_next(struct assist *a)
{
	assist_close_throttle(a);
	migration_next(&a->migration);
	a->capabilities.known = false;
	schedule(a);
}

/**
 * assist_end() - end with a VM, which is at full speed then
 * @a: the VM
 */
void assist_end(struct assist *a)
{
	assist_close_throttle(a);
	loop_stop(a->loop, &a->timers.look);
	loop_stop(a->loop, &a->timers.gone);
	assist_disconnect(a);
	if (a->pidfd.fd >= 0) {
		loop_remove(a->loop, &a->pidfd);
		close(a->pidfd.fd);
		a->pidfd.fd = -1;
	}
}
