// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Makes the migrations of one VM finish: asks its QEMU, throttles its guest.
 *
 * migration.c says where a migration is, and policy.c what to do.  This file stands
 * between them, QEMU and the module.  Nothing here waits.  Each answer of QEMU's leads to
 * the next question (advance()), until the policy knows all that it needs.  Then a timer
 * leads to the next look.
 *
 * A guest that is stopped dirties nothing.  So the throttle ends as soon as the guest is
 * stopped for the switch-over, however the migration ends.
 */
#include <err.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <linux/kvm_throttle.h>

#include "assist.h"
#include "attach.h"
#include "command.h"
#include "throttle.h"
#include "view.h"

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

/* How long QEMU's end, or libvirt, may take to say why it came. */
#define REASON_NS	(300 * NSEC_PER_MSEC)

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

/* --- the log -------------------------------------------------------------- */

/**
 * assist_add_number() - add a number to a JSON object
 * @json: the object
 * @name: its name there
 * @value: the number; what isn't finite becomes null
 * @places: how many decimals
 */
void assist_add_number(struct json_object *json, const char *name, double value, int places)
{
	char text[64];

	snprintf(text, sizeof(text), "%.*f", places, value);
	json_object_object_add(json, name, isfinite(value) ?
			       json_object_new_double_s(value, text) : NULL);
}

/**
 * assist_add_string() - add a string to a JSON object
 * @json: the object
 * @name: its name there
 * @text: the string, or NULL, which becomes null
 */
void assist_add_string(struct json_object *json, const char *name, const char *text)
{
	json_object_object_add(json, name, text ? json_object_new_string(text) : NULL);
}

static void add_boolean(struct json_object *json, const char *name, bool value)
{
	json_object_object_add(json, name, json_object_new_boolean(value));
}

/* Pages a second; null if any number. */
static void add_pages(struct json_object *json, const char *name, uint64_t rate)
{
	json_object_object_add(json, name, rate ? json_object_new_uint64(rate) : NULL);
}

/**
 * assist_event() - begin with a line of the log
 * @a: the VM
 * @event: what has happened
 *
 * Return: a new object.
 */
struct json_object *assist_event(const struct assist *a, const char *event)
{
	struct json_object *json = json_object_new_object();
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	assist_add_string(json, "event", event);
	assist_add_number(json, "unix_time", now.tv_sec + now.tv_nsec / 1e9, 3);
	assist_add_number(json, "migration_s", a->sample.time_s, 3);
	return json;
}

static void log_start(struct assist *a)
{
	struct json_object *json = assist_event(a, "start");

	json_object_object_add(json, "vm", view_json_process(&a->vm));
	assist_add_number(json, "max_percent", a->settings.max_x100 / 100.0, 2);
	assist_add_number(json, "time_limit_s", a->settings.time_limit_s ?: NAN, 3);
	add_boolean(json, "auto_converge", a->capabilities.auto_converge);
	add_boolean(json, "dirty_limit", a->capabilities.dirty_limit);
	a->owner->log(a, json);
}

static void log_decision(struct assist *a)
{
	static const char * const reasons[] = {
		[POLICY_WATCHING] = "watching",
		[POLICY_CONVERGES] = "converges",
		[POLICY_STUCK] = "stuck",
		[POLICY_SLOW] = "slow",
		[POLICY_USELESS] = "useless",
	};
	struct json_object *json = assist_event(a, "iteration");
	const struct policy_sample *s = &a->sample;

	assist_add_number(json, "percent", a->force.percent_x100 / 100.0, 2);
	add_pages(json, "rate_limit", a->force.rate);
	assist_add_string(json, "reason", reasons[a->decision.reason]);
	json_object_object_add(json, "syncs", json_object_new_int64(s->syncs));
	assist_add_number(json, "remaining", s->remaining, 0);
	assist_add_number(json, "sent", s->sent, 0);
	assist_add_number(json, "bandwidth", s->bandwidth, 0);
	assist_add_number(json, "dirty_rate", a->decision.dirty_rate, 0);
	assist_add_number(json, "left_s", a->decision.left_s, 3);
	add_boolean(json, "promised", a->decision.promised);
	assist_add_number(json, "qemu_percent", 100 * s->other, 2);
	a->owner->log(a, json);
}

/* @error is NULL, or why there is no result. */
static void log_probe(struct assist *a, double seconds, double dirtied, const char *error)
{
	struct json_object *json = assist_event(a, "probe");

	assist_add_number(json, "seconds", seconds, 3);
	assist_add_number(json, "dirtied", error ? NAN : dirtied, 0);
	assist_add_string(json, "error", error);
	a->owner->log(a, json);
}

static void say(struct assist *a, const char *format, ...)
{
	char *text;
	va_list args;

	va_start(args, format);
	text = format_text(format, args);
	va_end(args);
	clean_text(text);
	a->owner->say(a, text);
	free(text);
}

/* Say what is said once, and log it as @event. */
static bool say_once(struct assist *a, bool *said, const char *event)
{
	if (*said)
		return false;
	*said = true;
	a->owner->log(a, assist_event(a, event));
	return true;
}

/**
 * assist_end_of() - how did the migration end?
 * @a: the VM
 *
 * Return: how.
 */
const struct assist_end *assist_end_of(const struct assist *a)
{
	static const struct assist_end ends[] = {
		[MIGRATION_COMPLETED] = { "completed", "The migration has completed" },
		[MIGRATION_POSTCOPY] = { "postcopy", "The migration goes on in postcopy" },
		[MIGRATION_FAILED] = { "failed", "The migration has failed" },
		[MIGRATION_CANCELLED] = { "cancelled", "The migration was cancelled" },
		[MIGRATION_GONE] = { "gone", "QEMU has ended" },
		[MIGRATION_LOST] = { "lost", "QEMU's monitor can't be reached any more" },
	};

	return &ends[a->migration.phase];
}

/**
 * assist_log_end() - log the end of a migration
 * @a: the VM
 * @end: how it ended
 */
void assist_log_end(struct assist *a, const struct assist_end *end)
{
	struct json_object *json = assist_event(a, "end");

	assist_add_string(json, "end", end->name);
	assist_add_string(json, "error", a->migration.phase == MIGRATION_FAILED ?
			  a->migration.why : NULL);
	assist_add_number(json, "highest_percent", a->force.highest_x100 / 100.0, 2);
	add_pages(json, "lowest_rate_limit", a->force.lowest_rate);
	assist_add_number(json, "lost_s", a->force.lost_s, 3);
	assist_add_number(json, "unhelped_s", a->decision.unhelped_s, 3);
	a->owner->log(a, json);
}

/**
 * assist_has_throttled() - was the guest throttled in this migration?
 * @a: the VM
 *
 * Return: true if it was.
 */
bool assist_has_throttled(const struct assist *a)
{
	return a->force.highest_x100 || a->force.lowest_rate;
}

/* How the guest was throttled at most: first by the rate, if by a percentage too. */
static void describe(char *text, size_t size, const struct assist_force *f)
{
	char rate[VIEW_LIMITS_SIZE] = "";

	if (f->lowest_rate)
		view_limits(rate, sizeof(rate), 0, f->lowest_rate);
	if (f->highest_x100)
		snprintf(text, size, "%s%sby up to %.2f %%", rate, *rate ? ", then " : "",
			 f->highest_x100 / 100.0);
	else
		snprintf(text, size, "%s", rate);
}

/**
 * assist_sum_up() - say what came of a migration
 * @a: the VM
 * @end: how it ended
 *
 * Return: a sentence, to be freed.
 */
char *assist_sum_up(const struct assist *a, const struct assist_end *end)
{
	bool failed = a->migration.phase == MIGRATION_FAILED && *a->migration.why;
	char guest[192] = "; the guest was not throttled", how[128], *text;

	if (assist_has_throttled(a)) {
		describe(how, sizeof(how), &a->force);
		snprintf(guest, sizeof(guest),
			 "; the guest was throttled %s, and lost %.1f s of its time", how,
			 a->force.lost_s);
	}
	if (asprintf(&text, "%s after %.1f s%s%s%s.", end->text, a->sample.time_s,
		     failed ? ": " : "", failed ? a->migration.why : "", guest) < 0)
		err(EXIT_FAILURE, "message");
	clean_text(text);
	return text;
}

/* --- the throttle --------------------------------------------------------- */

static double page_size(void)
{
	return sysconf(_SC_PAGESIZE);
}

/* What the vCPUs have dirtied while the rate was limited, and have slept for that. */
static void read_vcpus(struct assist *a)
{
	struct policy_vcpus *vcpus = &a->sample.vcpus;
	struct throttle t = { .nr_vcpus = 0 };
	double dirtied = 0, held_s = 0;

	if (throttle_read(a->throttle.fd, &t))
		return;
	for (uint32_t i = 0; i < t.nr_vcpus; i++) {
		dirtied += t.vcpus[i].dirtied;
		held_s += (double)t.vcpus[i].dirty_held_ns / NSEC_PER_SEC / t.nr_vcpus;
	}
	vcpus->lowest = page_size() * KVM_THROTTLE_DIRTY_RATE_MIN * t.nr_vcpus;
	vcpus->dirtied = page_size() * dirtied;
	a->force.lost_s += held_s - a->force.held_s;
	a->force.held_s = held_s;
	throttle_free(&t);
}

/* QEMU's own throttle takes its share of what ours leaves. */
static void account(struct assist *a)
{
	struct assist_force *f = &a->force;

	f->lost_s += (a->sample.time_s - f->since_s) * f->percent_x100 / 10000.0;
	f->since_s = a->sample.time_s;
	a->sample.vcpus.usable = f->usable;
	if (f->usable && a->throttle.fd >= 0)
		read_vcpus(a);
}

static void close_throttle(struct assist *a)
{
	if (a->throttle.fd < 0)
		return;
	account(a);
	loop_remove(a->loop, &a->throttle);
	close(a->throttle.fd);
	a->throttle.fd = -1;
	a->force.percent_x100 = 0;
	a->force.rate = 0;
	/* The next throttle counts anew. */
	a->force.held_s = 0;
	a->force.usable = false;
}

/* The VM is not there any more: QEMU is ending, or has. */
static void vm_is_gone(void *context, short revents)
{
	struct assist *a = context;

	(void)revents;
	close_throttle(a);
	a->vm_gone = true;
	if (a->timers.gone.due_ns == LOOP_NEVER)
		loop_start(a->loop, &a->timers.gone, now_ns() + REASON_NS);
}

/* All throttling is begun and ended here.  Returns 0, or the number of an error. */
static int put_in_force(struct assist *a, uint32_t percent_x100, uint64_t rate)
{
	struct kvm_throttle set = { .percent_x100 = percent_x100, .dirty_rate = rate };

	if (ioctl(a->throttle.fd, KVM_SET_THROTTLE, &set))
		return errno;
	a->force.percent_x100 = percent_x100;
	a->force.rate = rate;
	return 0;
}

/* The rate can't be limited: say why, and by what the guest will be throttled then. */
static void do_without_rate(struct assist *a, const char *why)
{
	char text[256];

	a->force.usable = false;
	snprintf(text, sizeof(text), a->settings.by == POLICY_BY_RATE ?
		 "It isn't throttled: %s." : "If it must be throttled, a percentage of its time is taken; its writes can't be limited: %s.",
		 why);
	a->owner->chose(a, false, text);
}

/* Returns NULL, or why the rate at which the vCPUs dirty memory can't be limited. */
static const char *why_no_rate(struct assist *a)
{
	/* The highest one limits nothing. */
	int error = put_in_force(a, 0, KVM_THROTTLE_DIRTY_RATE_MAX);
	struct throttle t = { .nr_vcpus = 0 };

	if (error)
		return throttle_no_rate(error) ?: strerror(error);
	put_in_force(a, 0, 0);
	if (!throttle_read(a->throttle.fd, &t))
		throttle_free(&t);
	return t.logged_pages ? NULL : "KVM doesn't log what it dirties";
}

/* Find out once in each migration by what the guest will be throttled. */
static void choose_means(struct assist *a)
{
	const char *why;

	a->force.tried = true;
	if (a->settings.by == POLICY_BY_PERCENT || a->throttle.fd < 0)
		return;
	why = why_no_rate(a);
	a->force.usable = !why;
	if (why)
		do_without_rate(a, why);
	else
		a->owner->chose(a, true,
				"If it must be throttled, its writes to memory are limited.");
}

/* @limit is in bytes per second, 0 for none. */
static void set_throttle(struct assist *a, uint32_t percent_x100, double limit)
{
	uint64_t rate = fmin(ceil(limit / page_size()), KVM_THROTTLE_DIRTY_RATE_MAX);
	struct assist_force *f = &a->force;
	const char *why;
	int error;

	if ((percent_x100 == f->percent_x100 && rate == f->rate) || a->throttle.fd < 0)
		return;
	account(a);
	error = put_in_force(a, percent_x100, rate);
	why = rate ? throttle_no_rate(error) : NULL;
	if (error && why) {
		do_without_rate(a, why);
	} else if (error) {
		if (error != ESRCH)
			say(a, "The throttle can't be set: %s.", strerror(error));
		vm_is_gone(a, 0);
		return;
	}
	if (f->percent_x100 > f->highest_x100)
		f->highest_x100 = f->percent_x100;
	if (f->rate && (f->rate < f->lowest_rate || !f->lowest_rate))
		f->lowest_rate = f->rate;
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
		set_throttle(a, 0, 0);
	if (!migration_has_ended(&a->migration))
		return true;
	account(a);
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
	close_throttle(a);
	/* What it has still said before is read first. */
	if (!assist_is_connected(a))
		check_gone(a);
	else
		loop_start(a->loop, &a->timers.gone, now_ns() + REASON_NS);
}

static bool try_reconnect(struct assist *a)
{
	int fd = a->owner->reconnect ? a->owner->reconnect(a) : -1;

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
		if (!a->owner->reconnect)
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
		say(a, "%s (process %d): %s.", a->vm.name, a->vm.pid, why);
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

	if (a->migration.phase == MIGRATION_WAITING)
		return !a->frugal ? WAIT_NS : a->capabilities.events ? WAIT_EVENTS_NS : WAIT_MANY_NS;
	if (!a->frugal || a->migration.phase != MIGRATION_PRECOPY)
		return LOOK_NS;
	/* Its end would be seen too late. */
	if ((a->force.percent_x100 || a->force.rate) && !a->capabilities.events)
		return LOOK_NS;
	/* Twice in what is left of an iteration: often near its end. */
	rate = a->policy.drain > 0 ? a->policy.drain : s->bandwidth;
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
		say(a, "%s (process %d) can't be asked: %s; trying again.", a->vm.name,
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
		log_probe(a, a->probe.asked_s, 0, error);
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
		log_probe(a, a->probe.running_s, 0, "an iteration ended meanwhile");
	} else if (!strcmp(status, "measured") && isfinite(rate) && rate >= 0) {
		s->probe.used_s = a->probe.running_s;
		s->probe.dirtied = rate * MIB * a->probe.running_s;
		/* It is a whole number of MiB, made of such a number. */
		s->probe_error = MIB * (1 + a->probe.running_s);
		log_probe(a, s->probe.used_s, s->probe.dirtied, NULL);
	}
	a->probe.running_s = 0;
}

/* --- what to do ----------------------------------------------------------- */

static void say_what_is_wrong(struct assist *a)
{
	const struct policy_decision *d = &a->decision;
	char most[48] = "with what it dirties limited";

	if (!d->by_rate)
		snprintf(most, sizeof(most), "at %.2f %%", a->settings.max_x100 / 100.0);
	/* What is decided isn't in force. */
	if (a->throttle.fd < 0)
		return;
	if (d->late && say_once(a, &a->said.late, "late"))
		say(a, "The time limit of %.0f s can't be kept, even %s; going on.",
		    a->settings.time_limit_s, most);
	if (d->futile && say_once(a, &a->said.futile, "futile"))
		say(a, "%s, so that a limit to what these dirty changes nothing. %s",
		    d->futile == POLICY_UNSEEN ?
		    "The module sees none of the pages that QEMU finds dirty" :
		    "Most of this memory isn't dirtied by vCPUs (but vhost, VFIO, or device emulation?)",
		    a->settings.by == POLICY_BY_RATE ? "Full speed again." :
		    "Throttled by a percentage from now on.");
	if (d->reason == POLICY_USELESS && say_once(a, &a->said.useless, "useless"))
		say(a, "Throttling changes nothing: it isn't the vCPUs that dirty this memory (but vhost, VFIO, or device emulation?). Full speed again; let the migration have more downtime or bandwidth, or use postcopy.");
	if (d->downtime_s > 0 && say_once(a, &a->said.unmet, "downtime"))
		say(a, "A downtime of %.0f ms can't be met, even %s: let it be %.0f ms (downtime-limit), or use postcopy.",
		    a->sample.downtime_s * 1e3, most, ceil(d->downtime_s * 1e3));
}

static void decide(struct assist *a)
{
	uint64_t syncs = a->policy.last.syncs;

	if (!a->force.tried)
		choose_means(a);
	account(a);
	a->decision = policy_feed(&a->policy, &a->sample);
	set_throttle(a, a->decision.percent_x100, a->decision.limit);
	if (a->sample.syncs != syncs || a->decision.corrected)
		log_decision(a);
	say_what_is_wrong(a);
}

/* A migration has begun, or was found. */
static void begin(struct assist *a)
{
	/* The end of the one before may have been missed. */
	set_throttle(a, 0, 0);
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
	log_start(a);
	a->owner->began(a);
	if (a->capabilities.auto_converge)
		say(a, "QEMU's own auto-converge is on: it will throttle too, by steps. Better leave it off.");
	if (a->capabilities.dirty_limit)
		say(a, "QEMU's own dirty-limit is on: it will throttle too, by its dirty ring. Better leave it off.");
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
	add_boolean(events, "state", true);
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
		say(a, "%s (process %d) doesn't answer: its guest is not throttled until it does.",
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
		.throttle = { .fd = -1, .ready = vm_is_gone, .context = a },
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
	close_throttle(a);
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
	close_throttle(a);
	loop_stop(a->loop, &a->timers.look);
	loop_stop(a->loop, &a->timers.gone);
	assist_disconnect(a);
	if (a->pidfd.fd >= 0) {
		loop_remove(a->loop, &a->pidfd);
		close(a->pidfd.fd);
		a->pidfd.fd = -1;
	}
}
