// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle converge: watches a migration of an unmodified QEMU, and throttles
 * the guest by what it takes for that to end.
 *
 * What QEMU says of the migration is put into numbers here; what follows from
 * them is policy.c's.  Memory can't be dirtied while the guest is stopped, so the
 * throttle is let go of as soon as the migration is past that, however it ends.
 */
#include <argp.h>
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

#include "attach.h"
#include "command.h"
#include "policy.h"
#include "qmp.h"
#include "view.h"

#define MIB		(1024.0 * 1024)

/* How often to ask QEMU; each time takes a process if it is libvirt's. */
#define POLL_NS		(50 * NSEC_PER_MSEC)
#define DOMAIN_POLL_NS	(250 * NSEC_PER_MSEC)

/* How often to ask for what the user may change meanwhile. */
#define PARAMETERS_NS	NSEC_PER_SEC

/* How often to show progress where it isn't drawn in place. */
#define LINE_NS		(10 * NSEC_PER_SEC)

#define TIME_LIMIT_MIN_NS NSEC_PER_SEC
#define TIME_LIMIT_MAX_NS (365 * 24 * 3600 * NSEC_PER_SEC)

/**
 * struct options - the command line
 * @qmp: socket of QEMU's monitor, or NULL
 * @domain: libvirt's name of the VM, or NULL
 * @pid: QEMU's process, 0 if it is to be found
 * @log: file for the structured log, or NULL
 * @quiet: show only what came of it
 * @policy: how to throttle
 */
struct options {
	const char *qmp;
	const char *domain;
	pid_t pid;
	const char *log;
	bool quiet;
	struct policy_settings policy;
};

enum {
	OPTION_DOMAIN = 256,
	OPTION_LOG,
	OPTION_MAX,
	OPTION_QMP,
	OPTION_TIME_LIMIT,
};

static const struct argp_option argp_options[] = {
	{ "qmp", OPTION_QMP, "SOCKET", 0,
	  "QEMU's monitor: a unix socket that serves nobody else", 0 },
	{ "domain", OPTION_DOMAIN, "NAME", 0,
	  "a libvirt domain, whose monitor is reached with virsh", 0 },
	{ "pid", 'p', "PID", 0, "QEMU's process, if it can't be found", 0 },
	{ "max", OPTION_MAX, "PERCENT", 0,
	  "never throttle by more (default: 99)", 0 },
	{ "time-limit", OPTION_TIME_LIMIT, "TIME", 0,
	  "throttle also if it takes that to end in so much time, and say early if it doesn't do", 0 },
	{ "log", OPTION_LOG, "FILE", 0,
	  "append what happens to this file, one JSON object per line", 0 },
	{ "quiet", 'q', NULL, 0, "show only what came of it, at the end", 0 },
	{ 0 }
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;
	uint64_t ns;

	switch (key) {
	case OPTION_QMP:
		o->qmp = arg;
		return 0;
	case OPTION_DOMAIN:
		/* virsh would take it for an option, the file system for a way. */
		if (!*arg || *arg == '-' || strchr(arg, '/'))
			argp_failure(state, EXIT_USAGE, 0,
				     "--domain: '%s' is not a domain's name", arg);
		o->domain = arg;
		return 0;
	case 'p':
		o->pid = option_pid(state, arg);
		return 0;
	case OPTION_MAX:
		if (parse_percent(arg, &o->policy.max_x100) || !o->policy.max_x100)
			argp_failure(state, EXIT_USAGE, 0,
				     "--max: '%s' is not a percentage from 0.01 to 99.99",
				     arg);
		return 0;
	case OPTION_TIME_LIMIT:
		if (parse_duration(arg, TIME_LIMIT_MIN_NS, TIME_LIMIT_MAX_NS, &ns))
			argp_failure(state, EXIT_USAGE, 0,
				     "--time-limit: '%s' is not a time from 1s to 8760h, such as 60s or 5m",
				     arg);
		o->policy.time_limit_s = (double)ns / NSEC_PER_SEC;
		return 0;
	case OPTION_LOG:
		o->log = arg;
		return 0;
	case 'q':
		o->quiet = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_failure(state, EXIT_USAGE, 0, "what is '%s'?", arg);
		return 0;
	case ARGP_KEY_END:
		if (!o->qmp == !o->domain)
			argp_failure(state, EXIT_USAGE, 0,
				     "which VM? Give QEMU's monitor with --qmp, or libvirt's domain with --domain");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = argp_options,
	.parser = parse_option,
	.args_doc = "--qmp=SOCKET\n--domain=NAME",
	.doc = "Throttle a guest while it is migrated, by what it takes for the migration to end: nothing if it ends by itself.\v"
	       "Begins with the migration that is running, or waits for one. The throttle is let go of when the migration completes, fails, is cancelled or enters postcopy, and when this command ends.",
};

/* How far a migration has come. */
enum stage {
	/* There is none yet. */
	STAGE_WAITING,
	/* Memory is sent while the guest runs. */
	STAGE_PRECOPY,
	/* The guest doesn't run any more, or soon will at full speed. */
	STAGE_LETTING_GO,
	STAGE_COMPLETED,
	STAGE_POSTCOPY,
	STAGE_FAILED,
	STAGE_CANCELLED,
	/* This command has been told to end. */
	STAGE_INTERRUPTED,
	/* QEMU has gone. */
	STAGE_GONE,
};

static const struct {
	const char *status;
	enum stage stage;
} stages[] = {
	{ "none", STAGE_WAITING },
	{ "setup", STAGE_WAITING },
	{ "wait-unplug", STAGE_WAITING },
	{ "active", STAGE_PRECOPY },
	{ "pre-switchover", STAGE_LETTING_GO },
	{ "device", STAGE_LETTING_GO },
	{ "cancelling", STAGE_LETTING_GO },
	{ "completed", STAGE_COMPLETED },
	{ "postcopy-active", STAGE_POSTCOPY },
	{ "postcopy-paused", STAGE_POSTCOPY },
	{ "postcopy-recover-setup", STAGE_POSTCOPY },
	{ "postcopy-recover", STAGE_POSTCOPY },
	{ "colo", STAGE_POSTCOPY },
	{ "failed", STAGE_FAILED },
	{ "cancelled", STAGE_CANCELLED },
};

/**
 * struct converge - a migration that this command watches
 * @o: the command line
 * @q: QEMU's monitor
 * @vm: its process
 * @signals: signalfd for those that end this command
 * @fd: the throttle fd
 * @log: structured log, or NULL
 * @screen: progress is drawn in place
 * @drawn: there is some on the terminal
 * @stage: where the migration is
 * @why: what QEMU says about its failure, to be freed; or NULL
 * @policy: what to do about it
 * @sample: what is known of it
 * @decision: what has been decided last
 * @percent_x100: percentage in force
 * @highest_x100: the highest so far
 * @lost_s: for how long the guest has been throttled: its share, integrated
 * @since_s: up to when that is; in time of the migration
 * @parameters_ns: when to ask for parameters again
 * @switchover_bandwidth: what QEMU has been told to expect, 0 if nothing
 * @line_ns: when to print the next line
 * @late: it has been said that the time limit can't be kept
 * @probe_mode: how to have QEMU count dirty pages; NULL if it can't
 * @probe_s: the length of the probe that is running, 0 if none is
 * @probe_syncs: dirty-sync-count when it began
 */
struct converge {
	const struct options *o;
	struct qmp *q;
	struct process vm;
	int signals;
	int fd;
	FILE *log;
	bool screen;
	bool drawn;
	enum stage stage;
	char *why;
	struct policy policy;
	struct policy_sample sample;
	struct policy_decision decision;
	uint32_t percent_x100;
	uint32_t highest_x100;
	double lost_s;
	double since_s;
	uint64_t parameters_ns;
	double switchover_bandwidth;
	uint64_t line_ns;
	bool late;
	const char *probe_mode;
	double probe_s;
	uint64_t probe_syncs;
};

/* --- what QEMU says ------------------------------------------------------- */

static struct json_object *member(struct json_object *json, const char *name)
{
	struct json_object *value = NULL;

	json_object_object_get_ex(json, name, &value);
	return value;
}

static double number(struct json_object *json, const char *name)
{
	return json_object_get_double(member(json, name));
}

/*
 * Ask for something that every QEMU knows.  Returns NULL if there is no QEMU any
 * more, or a signal has come.
 */
static struct json_object *ask(struct converge *c, const char *command)
{
	struct json_object *answer;

	switch (qmp_ask(c->q, command, NULL, &answer)) {
	case QMP_OK:
		return answer;
	case QMP_SIGNAL:
		c->stage = STAGE_INTERRUPTED;
		return NULL;
	case QMP_CLOSED:
		c->stage = STAGE_GONE;
		return NULL;
	default:
		errx(EXIT_FAILURE, "%s: %s", command, json_object_get_string(answer));
	}
}

/* --- the log -------------------------------------------------------------- */

static void add_number(struct json_object *json, const char *name, double value,
		       int places)
{
	char text[64];

	snprintf(text, sizeof(text), "%.*f", places, value);
	json_object_object_add(json, name, isfinite(value) ?
			       json_object_new_double_s(value, text) : NULL);
}

static void add_string(struct json_object *json, const char *name, const char *text)
{
	json_object_object_add(json, name, text ? json_object_new_string(text) : NULL);
}

static struct json_object *new_event(const struct converge *c, const char *event)
{
	struct json_object *json;
	struct timespec now;

	if (!c->log)
		return NULL;
	clock_gettime(CLOCK_REALTIME, &now);
	json = json_object_new_object();
	add_string(json, "event", event);
	add_number(json, "unix_time", now.tv_sec + now.tv_nsec / 1e9, 3);
	add_number(json, "migration_s", c->sample.time_s, 3);
	return json;
}

static void write_event(struct converge *c, struct json_object *json)
{
	if (!json)
		return;
	print_json(c->log, json);
	if (fflush(c->log))
		err(EXIT_FAILURE, "%s", c->o->log);
}

static void log_start(struct converge *c, bool auto_converge)
{
	struct json_object *json = new_event(c, "start");

	if (!json)
		return;
	json_object_object_add(json, "vm", view_json_process(&c->vm));
	add_string(json, "qmp", c->o->qmp);
	add_string(json, "domain", c->o->domain);
	json_object_object_add(json, "uid", json_object_new_int64(getuid()));
	add_number(json, "max_percent", c->o->policy.max_x100 / 100.0, 2);
	add_number(json, "time_limit_s", c->o->policy.time_limit_s ?
		   c->o->policy.time_limit_s : NAN, 3);
	json_object_object_add(json, "auto_converge",
			       json_object_new_boolean(auto_converge));
	write_event(c, json);
}

static void log_decision(struct converge *c)
{
	static const char * const reasons[] = {
		[POLICY_WATCHING] = "watching",
		[POLICY_CONVERGES] = "converges",
		[POLICY_STUCK] = "stuck",
		[POLICY_SLOW] = "slow",
	};
	struct json_object *json = new_event(c, "iteration");
	const struct policy_sample *s = &c->sample;

	if (!json)
		return;
	add_number(json, "percent", c->percent_x100 / 100.0, 2);
	add_string(json, "reason", reasons[c->decision.reason]);
	json_object_object_add(json, "syncs", json_object_new_int64(s->syncs));
	add_number(json, "remaining", s->remaining, 0);
	add_number(json, "sent", s->sent, 0);
	add_number(json, "bandwidth", s->bandwidth, 0);
	add_number(json, "dirty_rate", c->decision.dirty_rate, 0);
	add_number(json, "left_s", c->decision.left_s, 3);
	write_event(c, json);
}

/* @error is NULL, or why there is no result. */
static void log_probe(struct converge *c, double seconds, double dirtied, const char *error)
{
	struct json_object *json = new_event(c, "probe");

	if (!json)
		return;
	add_number(json, "seconds", seconds, 3);
	add_number(json, "dirtied", error ? NAN : dirtied, 0);
	add_string(json, "error", error);
	write_event(c, json);
}

/* --- what is shown -------------------------------------------------------- */

static void clear_progress(struct converge *c)
{
	if (c->drawn)
		view_screen_end();
	c->drawn = false;
}

/* Say something that stays. */
static void say(struct converge *c, const char *format, ...)
{
	va_list args;

	if (c->o->quiet)
		return;
	clear_progress(c);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

struct bytes_text {
	char text[16];
};

static struct bytes_text bytes_text(double bytes)
{
	static const char * const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB" };
	struct bytes_text t = { "-" };
	unsigned int unit = 0;

	if (!isfinite(bytes))
		return t;
	bytes /= 1024;
	while (bytes >= 1000 && unit < sizeof(units) / sizeof(*units) - 1) {
		bytes /= 1024;
		unit++;
	}
	snprintf(t.text, sizeof(t.text), "%.*f %s", bytes < 9.95, bytes, units[unit]);
	return t;
}

struct left_text {
	char text[32];
};

static struct left_text left_text(double left_s)
{
	struct left_text t = { "end unknown" };

	if (isinf(left_s))
		snprintf(t.text, sizeof(t.text), "no end in sight");
	else if (!isnan(left_s))
		snprintf(t.text, sizeof(t.text), "%.0f s left", ceil(left_s));
	return t;
}

#define BAR	20

static void show_progress(struct converge *c)
{
	const struct policy_sample *s = &c->sample;
	const struct policy_decision *d = &c->decision;
	uint64_t now = now_ns();
	char bar[BAR + 1] = "", line[160];
	double done = isfinite(d->left_s) ? s->time_s / (s->time_s + d->left_s) : 0;
	int width;

	if (c->o->quiet || (!c->screen && now < c->line_ns && !d->corrected))
		return;
	c->line_ns = now + LINE_NS;
	snprintf(line, sizeof(line),
		 "%.1f s, %s; iteration %llu; %s to send at %s/s, dirtied %s/s; throttled %.2f %%",
		 s->time_s, left_text(d->left_s).text, (unsigned long long)s->syncs,
		 bytes_text(s->remaining).text, bytes_text(s->bandwidth).text,
		 bytes_text(d->dirty_rate).text, c->percent_x100 / 100.0);
	if (!c->screen) {
		puts(line);
		fflush(stdout);
		return;
	}
	for (int i = 0; i < BAR; i++)
		bar[i] = i < BAR * done ? '#' : '-';
	width = view_width();
	clear_progress(c);
	if (width > BAR + 20)
		printf("[%s] %.*s", bar, width - BAR - 4, line);
	else
		printf("%.*s", width - 1, line);
	fflush(stdout);
	c->drawn = true;
}

/* --- the throttle --------------------------------------------------------- */

static void account(struct converge *c)
{
	c->lost_s += (c->sample.time_s - c->since_s) * c->percent_x100 / 10000.0;
	c->since_s = c->sample.time_s;
}

static void set_throttle(struct converge *c, uint32_t percent_x100)
{
	struct kvm_throttle set = { .percent_x100 = percent_x100 };

	account(c);
	if (percent_x100 == c->percent_x100)
		return;
	if (ioctl(c->fd, KVM_SET_THROTTLE, &set)) {
		if (errno != ESRCH)
			err(EXIT_FAILURE, "KVM_SET_THROTTLE");
		c->stage = STAGE_GONE;
		return;
	}
	c->percent_x100 = percent_x100;
	if (percent_x100 > c->highest_x100)
		c->highest_x100 = percent_x100;
}

/* --- probes --------------------------------------------------------------- */

/* Have QEMU count the pages that are dirtied from now on. */
static void start_probe(struct converge *c)
{
	struct json_object *arguments, *answer;
	enum qmp_result result;

	if (!c->probe_mode || c->probe_s || !c->decision.probe_s)
		return;
	arguments = json_object_new_object();
	json_object_object_add(arguments, "calc-time",
			       json_object_new_int64(c->decision.probe_s * 1e3));
	add_string(arguments, "calc-time-unit", "millisecond");
	add_string(arguments, "mode", c->probe_mode);
	result = qmp_ask(c->q, "calc-dirty-rate", arguments, &answer);
	if (result == QMP_OK) {
		c->probe_s = floor(c->decision.probe_s * 1e3) / 1e3;
		c->probe_syncs = c->sample.syncs;
	} else if (result == QMP_ERROR) {
		log_probe(c, c->decision.probe_s, 0, json_object_get_string(answer));
		/* Another mode is in use, or QEMU is older than 8.2. */
		if (strstr(json_object_get_string(answer), "is not enabled") &&
		    !strcmp(c->probe_mode, "dirty-bitmap"))
			c->probe_mode = "dirty-ring";
		else if (!strstr(json_object_get_string(answer), "already"))
			c->probe_mode = NULL;
	} else {
		c->stage = result == QMP_SIGNAL ? STAGE_INTERRUPTED : STAGE_GONE;
	}
	json_object_put(answer);
}

/*
 * What a probe has found comes to the sample.  If QEMU has read the bitmap
 * meanwhile, pages were counted twice.
 */
static void read_probe(struct converge *c, struct policy_sample *s)
{
	struct json_object *answer;
	const char *status;

	if (!c->probe_s)
		return;
	answer = ask(c, "query-dirty-rate");
	if (!answer)
		return;
	status = json_object_get_string(member(answer, "status"));
	if (status && strcmp(status, "measuring")) {
		if (s->syncs != c->probe_syncs) {
			log_probe(c, c->probe_s, 0, "an iteration ended meanwhile");
		} else if (!strcmp(status, "measured") && member(answer, "dirty-rate")) {
			s->probe.used_s = c->probe_s;
			s->probe.dirtied = number(answer, "dirty-rate") * MIB * c->probe_s;
			/* It is a whole number of MiB, made of such a number. */
			s->probe_error = MIB * (1 + c->probe_s);
			log_probe(c, s->probe.used_s, s->probe.dirtied, NULL);
		}
		c->probe_s = 0;
	}
	json_object_put(answer);
}

/* --- watching ------------------------------------------------------------- */

static bool is_on(struct json_object *capabilities, const char *name)
{
	for (size_t i = 0; i < json_object_array_length(capabilities); i++) {
		struct json_object *one = json_object_array_get_idx(capabilities, i);
		const char *this = json_object_get_string(member(one, "capability"));

		if (this && !strcmp(this, name))
			return json_object_get_boolean(member(one, "state"));
	}
	return false;
}

/* A migration has begun, or was found. */
static void begin(struct converge *c)
{
	struct json_object *capabilities = ask(c, "query-migrate-capabilities");
	bool auto_converge;

	if (!capabilities)
		return;
	auto_converge = is_on(capabilities, "auto-converge");
	json_object_put(capabilities);
	policy_init(&c->policy, &c->o->policy);
	c->parameters_ns = 0;
	c->probe_mode = "dirty-bitmap";
	c->probe_s = 0;
	log_start(c, auto_converge);
	say(c, "Watching the migration of %s (process %d); Ctrl-C lets it go.", c->vm.name,
	    c->vm.pid);
	if (auto_converge)
		say(c, "QEMU's own auto-converge is on: it will throttle too, by steps. Better leave it off.");
}

static void read_parameters(struct converge *c)
{
	struct json_object *parameters;

	if (now_ns() < c->parameters_ns)
		return;
	c->parameters_ns = now_ns() + PARAMETERS_NS;
	parameters = ask(c, "query-migrate-parameters");
	if (!parameters)
		return;
	c->sample.downtime_s = number(parameters, "downtime-limit") / 1e3;
	c->switchover_bandwidth = number(parameters, "avail-switchover-bandwidth");
	json_object_put(parameters);
}

static void take_sample(struct converge *c, struct json_object *info)
{
	struct json_object *ram = member(info, "ram");
	struct policy_sample *s = &c->sample;
	double pages = number(ram, "normal") + number(ram, "duplicate") +
		       number(member(info, "xbzrle-cache"), "pages");

	s->time_s = number(info, "total-time") / 1e3;
	s->syncs = number(ram, "dirty-sync-count");
	s->remaining = number(ram, "remaining");
	s->sent = pages * number(ram, "page-size");
	s->bandwidth = c->switchover_bandwidth ? c->switchover_bandwidth :
						 number(ram, "mbps") * 1e6 / 8;
	s->probe = (struct policy_point) { 0 };
}

static void decide(struct converge *c)
{
	uint64_t syncs = c->policy.last.syncs;

	c->decision = policy_feed(&c->policy, &c->sample);
	set_throttle(c, c->decision.percent_x100);
	if (c->sample.syncs != syncs || c->decision.corrected)
		log_decision(c);
	if (c->decision.late && !c->late) {
		struct json_object *json = new_event(c, "late");

		c->late = true;
		write_event(c, json);
		say(c, "The time limit of %.0f s can't be kept, even at %.2f %%; going on.",
		    c->o->policy.time_limit_s, c->o->policy.max_x100 / 100.0);
	}
	show_progress(c);
}

static enum stage stage_of(struct json_object *info)
{
	const char *status = json_object_get_string(member(info, "status"));

	if (!status)
		return STAGE_WAITING;
	for (size_t i = 0; i < sizeof(stages) / sizeof(*stages); i++) {
		if (!strcmp(status, stages[i].status))
			return stages[i].stage;
	}
	errx(EXIT_FAILURE, "the migration is '%s', which this command doesn't know", status);
}

/* Ask how the migration is, and act on it.  Sets c->stage. */
static void look(struct converge *c)
{
	struct json_object *info = ask(c, "query-migrate");
	enum stage before = c->stage, now;
	const char *why;

	if (!info)
		return;
	now = stage_of(info);
	if (before == STAGE_WAITING && (now == STAGE_FAILED || now == STAGE_CANCELLED)) {
		/* That was one before. */
		json_object_put(info);
		return;
	}
	why = json_object_get_string(member(info, "error-desc"));
	if (why && !c->why)
		c->why = strdup(why);
	if (now != STAGE_PRECOPY)
		set_throttle(c, 0);
	c->stage = now;
	if (now == STAGE_PRECOPY && before != STAGE_PRECOPY)
		begin(c);
	if (c->stage == STAGE_PRECOPY && member(info, "ram"))
		read_parameters(c);
	if (c->stage == STAGE_PRECOPY && member(info, "ram")) {
		take_sample(c, info);
		read_probe(c, &c->sample);
	} else if (member(info, "total-time")) {
		c->sample.time_s = number(info, "total-time") / 1e3;
	}
	json_object_put(info);
	if (c->stage == STAGE_PRECOPY)
		decide(c);
	if (c->stage == STAGE_PRECOPY)
		start_probe(c);
}

static void wait_until(struct converge *c, uint64_t until_ns)
{
	struct pollfd fds[] = {
		{ .fd = c->fd },
		{ .fd = c->signals, .events = POLLIN },
		{ .fd = qmp_fd(c->q), .events = POLLIN },
	};

	for (;;) {
		uint64_t now = now_ns();
		uint64_t left = until_ns > now ? until_ns - now : 0;
		struct timespec timeout = {
			.tv_sec = left / NSEC_PER_SEC,
			.tv_nsec = left % NSEC_PER_SEC,
		};

		if (ppoll(fds, 3, &timeout, NULL) < 0 && errno != EINTR)
			err(EXIT_FAILURE, "poll");
		if (fds[0].revents)
			c->stage = STAGE_GONE;
		else if (fds[1].revents)
			c->stage = STAGE_INTERRUPTED;
		else if (fds[2].revents && !qmp_drain(c->q))
			c->stage = STAGE_GONE;
		if (c->stage >= STAGE_COMPLETED || !left)
			return;
	}
}

static int finish(struct converge *c)
{
	static const struct {
		const char *name;
		const char *text;
		int status;
	} ends[] = {
		[STAGE_COMPLETED] = { "completed", "The migration has completed", EXIT_SUCCESS },
		[STAGE_POSTCOPY] = { "postcopy", "The migration goes on in postcopy", EXIT_SUCCESS },
		[STAGE_FAILED] = { "failed", "The migration has failed", EXIT_NOT_MIGRATED },
		[STAGE_CANCELLED] = { "cancelled", "The migration was cancelled", EXIT_NOT_MIGRATED },
		[STAGE_INTERRUPTED] = { "interrupted", "Interrupted", EXIT_SUCCESS },
		[STAGE_GONE] = { "gone", "QEMU has ended", EXIT_VM_ENDED },
	};
	int status = ends[c->stage].status;
	struct json_object *json = new_event(c, "end");
	bool late = c->stage == STAGE_COMPLETED && c->o->policy.time_limit_s &&
		    c->sample.time_s > c->o->policy.time_limit_s;

	if (json) {
		add_string(json, "end", ends[c->stage].name);
		add_string(json, "error", c->stage == STAGE_FAILED ? c->why : NULL);
		add_number(json, "highest_percent", c->highest_x100 / 100.0, 2);
		add_number(json, "lost_s", c->lost_s, 3);
		write_event(c, json);
	}
	clear_progress(c);
	printf("%s after %.1f s", ends[c->stage].text, c->sample.time_s);
	if (c->stage == STAGE_FAILED && c->why)
		printf(": %s", c->why);
	if (c->highest_x100)
		printf("; the guest was throttled by up to %.2f %%, and lost %.1f s of its time",
		       c->highest_x100 / 100.0, c->lost_s);
	else
		printf("; the guest was not throttled");
	puts(".");
	if (late) {
		printf("The time limit of %.0f s was not kept.\n", c->o->policy.time_limit_s);
		status = EXIT_LATE;
	}
	return status;
}

static void open_log(struct converge *c)
{
	if (!c->o->log)
		return;
	c->log = fopen(c->o->log, "ae");
	if (!c->log)
		err(EXIT_FAILURE, "%s", c->o->log);
}

/* The process whose VM is migrated. */
static struct process find_qemu(const struct converge *c)
{
	pid_t pid = c->o->pid ? c->o->pid : qmp_pid(c->q);

	if (!pid)
		errx(EXIT_FAILURE, "which process is the QEMU of %s? Give it with --pid",
		     c->o->qmp ? c->o->qmp : c->o->domain);
	return find_process(pid);
}

static int converge(const struct options *o)
{
	struct converge c = {
		.o = o,
		.signals = open_signals(),
		.screen = !o->quiet && view_screen_init(),
	};
	uint64_t poll_ns = o->qmp ? POLL_NS : DOMAIN_POLL_NS;
	bool waiting = false;
	int status;

	open_log(&c);
	c.q = o->qmp ? qmp_open(o->qmp, c.signals) : qmp_open_domain(o->domain, c.signals);
	c.vm = find_qemu(&c);
	c.fd = attach(&c.vm, -1);
	while (c.stage < STAGE_COMPLETED) {
		uint64_t next_ns = now_ns() + poll_ns;

		look(&c);
		if (c.stage == STAGE_WAITING && !waiting) {
			waiting = true;
			say(&c, "Waiting for a migration of %s (process %d) to begin; Ctrl-C ends that.",
			    c.vm.name, c.vm.pid);
		}
		if (c.stage < STAGE_COMPLETED)
			wait_until(&c, next_ns);
	}
	/* At full speed from here on. */
	close(c.fd);
	account(&c);
	status = finish(&c);

	qmp_close(c.q);
	close(c.signals);
	if (c.log && fclose(c.log))
		err(EXIT_FAILURE, "%s", o->log);
	free(c.why);
	return status;
}

int converge_command(int argc, char **argv)
{
	struct options o = {
		.policy.max_x100 = POLICY_MAX_X100,
	};

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	return converge(&o);
}
