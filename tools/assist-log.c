// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What is said and logged of the migrations of one VM.
 */
#include <err.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "assist.h"
#include "assist-parts.h"
#include "command.h"
#include "view.h"

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

/**
 * assist_add_boolean() - add true or false to a JSON object
 * @json: the object
 * @name: its name there
 * @value: which
 */
void assist_add_boolean(struct json_object *json, const char *name, bool value)
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

/**
 * assist_log_start() - log the beginning of a migration
 * @a: the VM
 */
void assist_log_start(struct assist *a)
{
	struct json_object *json = assist_event(a, "start");

	json_object_object_add(json, "vm", view_json_process(&a->vm));
	assist_add_number(json, "max_percent", a->settings.max_x100 / 100.0, 2);
	assist_add_number(json, "time_limit_s", a->settings.time_limit_s ?: NAN, 3);
	assist_add_boolean(json, "auto_converge", a->capabilities.auto_converge);
	assist_add_boolean(json, "dirty_limit", a->capabilities.dirty_limit);
	a->owner->log(a, json);
}

/**
 * assist_log_decision() - log the end of an iteration, and what was decided then
 * @a: the VM
 */
void assist_log_decision(struct assist *a)
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
	assist_add_boolean(json, "promised", a->decision.promised);
	assist_add_number(json, "qemu_percent", 100 * s->other, 2);
	a->owner->log(a, json);
}

/**
 * assist_log_probe() - log a probe
 * @a: the VM
 * @seconds: its length
 * @dirtied: bytes that were dirtied in it
 * @error: why there is no result, or NULL
 */
void assist_log_probe(struct assist *a, double seconds, double dirtied, const char *error)
{
	struct json_object *json = assist_event(a, "probe");

	assist_add_number(json, "seconds", seconds, 3);
	assist_add_number(json, "dirtied", error ? NAN : dirtied, 0);
	assist_add_string(json, "error", error);
	a->owner->log(a, json);
}

/**
 * assist_say() - say what happens
 * @a: the VM
 * @format: as for printf(3)
 */
void assist_say(struct assist *a, const char *format, ...)
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

/**
 * assist_say_what_is_wrong() - say, once in a migration, what throttling can't do
 * @a: the VM, about which something was decided
 */
void assist_say_what_is_wrong(struct assist *a)
{
	const struct policy_decision *d = &a->decision;
	char most[48] = "with what it dirties limited";

	if (!d->by_rate)
		snprintf(most, sizeof(most), "at %.2f %%", a->settings.max_x100 / 100.0);
	/* What is decided isn't in force. */
	if (a->throttle.fd < 0)
		return;
	if (d->late && say_once(a, &a->said.late, "late"))
		assist_say(a, "The time limit of %.0f s can't be kept, even %s; going on.",
		    a->settings.time_limit_s, most);
	if (d->futile && say_once(a, &a->said.futile, "futile"))
		assist_say(a, "%s, so that a limit to what these dirty changes nothing. %s",
		    d->futile == POLICY_UNSEEN ?
		    "The module sees none of the pages that QEMU finds dirty" :
		    "Most of this memory isn't dirtied by vCPUs (but vhost, VFIO, or device emulation?)",
		    a->settings.by == POLICY_BY_RATE ? "Full speed again." :
		    "Throttled by a percentage from now on.");
	if (d->reason == POLICY_USELESS && say_once(a, &a->said.useless, "useless"))
		assist_say(a, "Throttling changes nothing: it isn't the vCPUs that dirty this memory (but vhost, VFIO, or device emulation?). Full speed again; let the migration have more downtime or bandwidth, or use postcopy.");
	if (d->downtime_s > 0 && say_once(a, &a->said.unmet, "downtime"))
		assist_say(a, "A downtime of %.0f ms can't be met, even %s: let it be %.0f ms (downtime-limit), or use postcopy.",
		    a->sample.downtime_s * 1e3, most, ceil(d->downtime_s * 1e3));
}
