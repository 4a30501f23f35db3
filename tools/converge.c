// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle converge: watches a migration of an unmodified QEMU, and throttles
 * the guest just enough for the migration to finish.
 *
 * Here are the command line, and what is shown and logged of one VM.  assist.c talks
 * to QEMU and sets the throttle, policy.c decides.  With --all, service.c does it for
 * each VM of the host.
 */
#include <argp.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "assist.h"
#include "command.h"
#include "libvirt.h"
#include "output.h"
#include "service.h"
#include "view.h"

/* How often to show progress where it isn't drawn in place. */
#define LINE_NS		(10 * NSEC_PER_SEC)

#define TIME_LIMIT_MIN_NS NSEC_PER_SEC
#define TIME_LIMIT_MAX_NS (365 * 24 * 3600 * NSEC_PER_SEC)

/**
 * struct options - the command line
 * @qmp: socket of QEMU's monitor, or NULL
 * @domain: libvirt's name of the VM, or NULL
 * @uri: which libvirt, or NULL
 * @pid: QEMU's process, 0 if it is to be found
 * @log: file for the structured log, or NULL
 * @quiet: show only what came of it
 * @policy: how to throttle
 * @all: all VMs of this host
 * @single: an option that is for one VM was given
 * @service: how to do that
 */
struct options {
	const char *qmp;
	const char *domain;
	const char *uri;
	pid_t pid;
	const char *log;
	bool quiet;
	struct policy_settings policy;
	bool all;
	bool single;
	struct service_options service;
};

enum {
	OPTION_ALL = 256,
	OPTION_BY,
	OPTION_CHECK,
	OPTION_CONFIG,
	OPTION_DOMAIN,
	OPTION_JSON,
	OPTION_LOG,
	OPTION_MAX,
	OPTION_QMP,
	OPTION_TIME_LIMIT,
};

static const struct argp_option argp_options[] = {
	{ "qmp", OPTION_QMP, "SOCKET", 0,
	  "QEMU's monitor: a unix socket that nobody else uses", 0 },
	{ "domain", OPTION_DOMAIN, "NAME", 0,
	  "libvirt's domain, by its name, UUID or id; its monitor is reached through libvirt", 0 },
	{ "all", OPTION_ALL, NULL, 0,
	  "all virtual machines of this host, until a signal comes", 0 },
	{ "config", OPTION_CONFIG, "FILE", 0,
	  "with --all: the rules (default: /etc/kvm-throttle/converge.conf)", 0 },
	{ "check", OPTION_CHECK, NULL, 0,
	  "with --all: only check the rules", 0 },
	{ "json", OPTION_JSON, NULL, 0,
	  "with --all: print what happens as JSON, one object per line", 0 },
	{ "connect", 'c', "URI", 0,
	  "which libvirt (default: the one that virsh takes)", 0 },
	{ "pid", 'p', "PID", 0, "QEMU's process, if it can't be found", 0 },
	{ "by", OPTION_BY, "MEANS", 0,
	  "limit the rate at which the guest dirties memory (rate), or take a share of its time (percent); default: rate if this host can do it, else percent", 0 },
	{ "max", OPTION_MAX, "PERCENT", 0,
	  "never throttle by more (default: 99); implies --by=percent", 0 },
	{ "time-limit", OPTION_TIME_LIMIT, "TIME", 0,
	  "how long the migration may take: throttle if it would take longer, and say early if the limit can't be kept", 0 },
	{ "log", OPTION_LOG, "FILE", 0,
	  "append what happens to this file, as JSON, one object per line", 0 },
	{ "quiet", 'q', NULL, 0, "show only the result, at the end", 0 },
	{ 0 }
};

static void check_options(const struct argp_state *state)
{
	const struct options *o = state->input;
	const struct service_options *s = &o->service;

	if (o->all && o->single)
		argp_failure(state, EXIT_USAGE, 0,
			     "--all takes what to do about each VM from its file, and no option for it");
	if (!o->all && (s->config || s->check || s->json))
		argp_failure(state, EXIT_USAGE, 0,
			     "--config, --check and --json are for --all");
	if (!o->all && !o->qmp == !o->domain)
		argp_failure(state, EXIT_USAGE, 0,
			     "which VM? Give QEMU's monitor with --qmp, or libvirt's domain with --domain; or --all");
	if (o->uri && !o->domain)
		argp_failure(state, EXIT_USAGE, 0, "--connect is for a --domain");
}

/* How to throttle one VM. */
static error_t parse_policy(int key, const char *arg, const struct argp_state *state,
			    struct policy_settings *policy)
{
	uint32_t percent_x100;
	uint64_t ns;

	switch (key) {
	case OPTION_BY:
		if (!policy_set_by(policy, arg))
			argp_failure(state, EXIT_USAGE, 0,
				     "--by: '%s' is neither rate nor percent", arg);
		return 0;
	case OPTION_MAX:
		if (parse_percent(arg, &percent_x100) || !percent_x100)
			argp_failure(state, EXIT_USAGE, 0,
				     "--max: '%s' is not a percentage from 0.01 to 99.99",
				     arg);
		policy_set_max(policy, percent_x100);
		return 0;
	case OPTION_TIME_LIMIT:
		if (parse_duration(arg, TIME_LIMIT_MIN_NS, TIME_LIMIT_MAX_NS, &ns))
			argp_failure(state, EXIT_USAGE, 0,
				     "--time-limit: '%s' is not a time from 1s to 8760h, such as 60s or 5m",
				     arg);
		policy->time_limit_s = (double)ns / NSEC_PER_SEC;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* What is for one VM: which one, and what to do about it. */
static error_t parse_single(int key, char *arg, const struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case OPTION_QMP:
		o->qmp = arg;
		return 0;
	case OPTION_DOMAIN:
		if (!*arg)
			argp_failure(state, EXIT_USAGE, 0,
				     "--domain: '' is not a domain's name");
		o->domain = arg;
		return 0;
	case 'c':
		o->uri = arg;
		return 0;
	case 'p':
		o->pid = option_pid(state, arg);
		return 0;
	case OPTION_LOG:
		o->log = arg;
		return 0;
	default:
		return parse_policy(key, arg, state, &o->policy);
	}
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case OPTION_ALL:
		o->all = true;
		return 0;
	case OPTION_CONFIG:
		o->service.config = arg;
		return 0;
	case OPTION_CHECK:
		o->service.check = true;
		return 0;
	case OPTION_JSON:
		o->service.json = true;
		return 0;
	case 'q':
		o->quiet = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_failure(state, EXIT_USAGE, 0, "what is '%s'?", arg);
		return 0;
	case ARGP_KEY_END:
		check_options(state);
		return 0;
	default:
		if (parse_single(key, arg, state))
			return ARGP_ERR_UNKNOWN;
		o->single = true;
		return 0;
	}
}

static const struct argp argp = {
	.options = argp_options,
	.parser = parse_option,
	.args_doc = "--qmp=SOCKET\n--domain=NAME\n--all",
	.doc = "Throttle a guest while it is migrated, just enough for the migration to finish, and not at all if it finishes by itself.\v"
	       "Watches the migration that is running, or waits for one. The guest runs at full speed again when the migration completes, fails, is cancelled or enters postcopy, and when this command ends.",
};

/**
 * struct converge - a migration that this command watches
 * @o: the command line
 * @loop: what waits
 * @a: the VM
 * @libvirt: what its domain is reached by, or NULL
 * @libvirt_timer: how long that may take
 * @log: structured log, or NULL
 * @screen: progress is drawn in place
 * @drawn: there is some on the terminal
 * @line_ns: when to print the next line
 * @waiting: it has been said that it is waited for
 * @status: how to exit
 */
struct converge {
	const struct options *o;
	struct loop loop;
	struct assist a;
	struct libvirt *libvirt;
	struct loop_timer libvirt_timer;
	FILE *log;
	bool screen;
	bool drawn;
	uint64_t line_ns;
	bool waiting;
	int status;
};

/* --- what is shown -------------------------------------------------------- */

static void clear_progress(struct converge *c)
{
	if (c->drawn)
		view_screen_end();
	c->drawn = false;
}

/* Say something that stays. */
static void say(struct assist *a, const char *text)
{
	struct converge *c = a->context;

	if (c->o->quiet)
		return;
	clear_progress(c);
	puts(text);
	fflush(stdout);
}

static void write_event(struct assist *a, struct json_object *json)
{
	struct converge *c = a->context;
	struct json_object *event;

	if (!c->log) {
		json_object_put(json);
		return;
	}
	json_object_object_get_ex(json, "event", &event);
	if (!strcmp(json_object_get_string(event), "start")) {
		assist_add_string(json, "qmp", c->o->qmp);
		assist_add_string(json, "domain", c->o->domain);
		json_object_object_add(json, "uid", json_object_new_int64(getuid()));
	}
	print_json(c->log, json);
	fflush(c->log);
}

static void began(struct assist *a)
{
	char text[160];

	snprintf(text, sizeof(text),
		 "Watching the migration of %s (process %d). Ctrl-C ends the throttle, not the migration.",
		 a->vm.name, a->vm.pid);
	say(a, text);
}

static void chose(struct assist *a, bool as_wanted, const char *text)
{
	(void)as_wanted;
	say(a, text);
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

static struct left_text left_text(const struct policy_decision *d)
{
	struct left_text t = { "end unknown" };

	if (isinf(d->left_s))
		snprintf(t.text, sizeof(t.text), "no end in sight");
	else if (!isnan(d->left_s))
		snprintf(t.text, sizeof(t.text), d->promised ? "ends in %.0f s" : "%.0f s left",
			 ceil(d->left_s));
	return t;
}

#define BAR	20

static void show_progress(struct assist *a)
{
	struct converge *c = a->context;
	const struct policy_sample *s = &a->sample;
	const struct policy_decision *d = &a->decision;
	uint64_t now = now_ns();
	char bar[BAR + 1] = "", line[256], limits[VIEW_LIMITS_SIZE];
	double done = isfinite(d->left_s) ? s->time_s / (s->time_s + d->left_s) : 0;
	int width;

	if (a->migration.phase != MIGRATION_PRECOPY || c->o->quiet ||
	    (!c->screen && now < c->line_ns && !d->corrected))
		return;
	c->line_ns = now + LINE_NS;
	view_limits(limits, sizeof(limits), a->force.percent_x100, a->force.rate);
	snprintf(line, sizeof(line),
		 "%.1f s, %s; throttled %s; iteration %llu; %s to send at %s/s, dirtied %s/s",
		 s->time_s, left_text(d).text, limits, (unsigned long long)s->syncs,
		 bytes_text(s->remaining).text, bytes_text(s->bandwidth).text,
		 bytes_text(d->dirty_rate).text);
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

/* --- the end -------------------------------------------------------------- */

static const int statuses[] = {
	[MIGRATION_COMPLETED] = EXIT_SUCCESS,
	[MIGRATION_POSTCOPY] = EXIT_SUCCESS,
	[MIGRATION_FAILED] = EXIT_NOT_MIGRATED,
	[MIGRATION_CANCELLED] = EXIT_NOT_MIGRATED,
	[MIGRATION_GONE] = EXIT_VM_ENDED,
	[MIGRATION_LOST] = EXIT_MONITOR,
};

static const struct assist_end interrupted = { "interrupted", "Interrupted" };

static void finish(struct converge *c, const struct assist_end *end, int status)
{
	struct assist *a = &c->a;
	double limit_s = c->o->policy.time_limit_s;
	char *text = assist_sum_up(a, end);

	assist_log_end(a, end);
	clear_progress(c);
	puts(text);
	free(text);
	c->status = status;
	if (a->migration.phase == MIGRATION_COMPLETED && limit_s && a->sample.time_s > limit_s) {
		printf("The time limit of %.0f s was not kept.\n", limit_s);
		c->status = EXIT_LATE;
	}
	fflush(stdout);
}

static void ended(struct assist *a)
{
	struct converge *c = a->context;

	/* At full speed from here on. */
	assist_end(a);
	finish(c, assist_end_of(a), statuses[a->migration.phase]);
	loop_end(&c->loop);
}

static void looked(struct assist *a)
{
	struct converge *c = a->context;
	char text[160];

	if (a->migration.phase == MIGRATION_WAITING && !c->waiting) {
		c->waiting = true;
		snprintf(text, sizeof(text),
			 "Waiting for a migration of %s (process %d) to begin; Ctrl-C ends that.",
			 a->vm.name, a->vm.pid);
		say(a, text);
	}
	show_progress(a);
}

/* --- the beginning -------------------------------------------------------- */

static void take_process(struct converge *c, pid_t pid)
{
	struct process vm = find_process(pid);

	if (assist_vm(&c->a, &vm))
		errx(EXIT_VM_ENDED, "process %d (%s) has ended", vm.pid, vm.name);
}

/*
 * The first time that it can be asked something.  By now QEMU has made its VM: before
 * that, whoever made its monitor's socket may be taken for it.
 */
static void ready(struct assist *a)
{
	struct converge *c = a->context;
	char why[WHY_LEN];
	int status;

	if (a->pidfd.fd < 0) {
		pid_t pid = proc_of_monitor(qmp_fd(a->monitor.qmp), c->o->qmp);

		if (!pid)
			errx(EXIT_FAILURE, "which process is the QEMU of %s? Give it with --pid",
			     c->o->qmp);
		take_process(c, pid);
	}
	status = assist_attach(a, why, sizeof(why));
	if (status)
		errx(status, "%s", why);
}

static void refused(struct assist *a, const char *why)
{
	struct converge *c = a->context;
	const char *name = c->o->qmp ?: c->o->domain;

	if (why)
		errx(EXIT_FAILURE, "%s: %s", name, why);
	if (a->vm.pid && !proc_of_thread(a->vm.pid).pid)
		errx(EXIT_VM_ENDED, "%s: QEMU has ended", name);
	errx(EXIT_MONITOR, "%s: the monitor has been closed", name);
}

static int reconnect(struct assist *a)
{
	struct converge *c = a->context;
	char why[WHY_LEN];

	return qmp_connect(c->o->qmp, true, why, sizeof(why));
}

/* libvirt is slow to begin with, but not as slow as this. */
#define LIBVIRT_NS	(30 * NSEC_PER_SEC)

static void domain_found(void *context, const struct libvirt_domain *domain)
{
	struct converge *c = context;
	pid_t pid = c->o->pid ?: domain->pid;

	loop_stop(&c->loop, &c->libvirt_timer);
	/* Again: libvirtd was restarted. */
	if (assist_is_connected(&c->a)) {
		close(domain->fd);
		return;
	}
	if (!pid)
		errx(EXIT_FAILURE,
		     "which process is the QEMU of %s? There is none on this host; or give it with --pid",
		     domain->name);
	if (c->a.pidfd.fd < 0)
		take_process(c, pid);
	assist_connect(&c->a, domain->fd);
}

static void libvirt_failed(void *context, const char *why)
{
	struct converge *c = context;
	int status = assist_was_ready(&c->a) ? EXIT_MONITOR : EXIT_FAILURE;

	assist_end(&c->a);
	errx(status, "%s", why);
}

static void libvirt_is_late(void *context)
{
	libvirt_failed(context, "libvirt doesn't answer");
}

static void open_domain(struct converge *c)
{
	const struct libvirt_handlers handlers = {
		.found = domain_found,
		.failed = libvirt_failed,
		.context = c,
	};

	c->libvirt_timer = (struct loop_timer) { .due = libvirt_is_late, .context = c };
	c->libvirt = libvirt_open(&c->loop, c->o->uri, c->o->domain, &handlers);
	loop_start(&c->loop, &c->libvirt_timer, now_ns() + LIBVIRT_NS);
}

static void open_log(struct converge *c)
{
	int fd;

	if (!c->o->log)
		return;
	fd = open(c->o->log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0)
		err(EXIT_FAILURE, "%s", c->o->log);
	c->log = output_open(fd, c->o->log);
	close(fd);
}

static void open_monitor(struct converge *c)
{
	const char *path = c->o->qmp;
	char why[WHY_LEN];
	int fd = qmp_connect(path, true, why, sizeof(why));

	if (fd < 0)
		errx(EXIT_FAILURE, "%s: %s", path, why);
	if (c->o->pid)
		take_process(c, c->o->pid);
	assist_connect(&c->a, fd);
}

static const struct assist_owner owner = {
	.say = say,
	.log = write_event,
	.ready = ready,
	.refused = refused,
	.began = began,
	.chose = chose,
	.looked = looked,
	.ended = ended,
	.reconnect = reconnect,
};

static int converge(const struct options *o)
{
	struct converge c = { .o = o, .screen = !o->quiet && view_screen_init() };

	output_stdio(OUTPUT_DROP, -1);
	open_log(&c);
	loop_init(&c.loop);
	assist_init(&c.a, &c.loop, &owner, &c, &o->policy);
	c.a.own_socket = o->qmp;
	if (o->qmp)
		open_monitor(&c);
	else
		open_domain(&c);
	loop_run(&c.loop);
	if (c.loop.signal) {
		assist_end(&c.a);
		finish(&c, &interrupted, EXIT_SUCCESS);
	}
	if (c.libvirt)
		libvirt_close(c.libvirt);
	loop_close(&c.loop);
	return c.status;
}

int converge_command(int argc, char **argv)
{
	struct options o = {
		.policy.max_x100 = POLICY_MAX_X100,
	};

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	o.service.quiet = o.quiet;
	return o.all ? service_run(&o.service) : converge(&o);
}
