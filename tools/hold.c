// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle --vm NAME PERCENT: throttles the VM of a running process,
 * whatever the VMM is, for as long as the command runs.
 */
#include <argp.h>
#include <ctype.h>
#include <err.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <linux/kvm_throttle.h>

#include "attach.h"
#include "command.h"
#include "parse.h"
#include "proc.h"
#include "throttle.h"
#include "view.h"

/**
 * struct options - the command line
 * @pid: the VM's process, 0 if none was given
 * @vm_fd: the VM's number there, -1 if none was given
 * @percent_x100: how much to throttle, in hundredths of a percent
 * @period_ns: period, 0 for the module's default
 * @for_ns: after which time to end, 0 for never
 * @interval_ns: how often to look and to show
 * @vcpus: ids of the vCPUs to throttle
 * @nr_vcpus: how many they are, 0 for all vCPUs
 * @json: in JSON
 * @quiet: show only what came of it
 */
struct options {
	pid_t pid;
	int vm_fd;
	uint32_t percent_x100;
	uint64_t period_ns;
	uint64_t for_ns;
	uint64_t interval_ns;
	uint32_t *vcpus;
	unsigned int nr_vcpus;
	bool json;
	bool quiet;
};

enum {
	OPTION_FD = 256,
	OPTION_FOR,
	OPTION_INTERVAL,
	OPTION_JSON,
	OPTION_PERIOD,
	OPTION_VCPU,
	OPTION_VM,
};

static const struct argp_option argp_options[] = {
	{ "vm", OPTION_VM, "NAME", 0,
	  "the VM's name: what its process's command line calls it", 0 },
	{ "pid", 'p', "PID", 0, "the VM's process", 0 },
	{ "fd", OPTION_FD, "FD", 0,
	  "which VM, if the process has several: its file descriptor there", 0 },
	{ "vcpu", OPTION_VCPU, "ID", 0,
	  "throttle only this vCPU; can be given several times", 0 },
	{ "period", OPTION_PERIOD, "TIME", 0,
	  "run and sleep once in this time, 1ms to 1s (default: 10.472ms)", 0 },
	{ "for", OPTION_FOR, "TIME", 0, "end after this time", 0 },
	{ "interval", OPTION_INTERVAL, "TIME", 0,
	  "how often to show what happens, 100ms to 1h (default: 1s)", 0 },
	{ "quiet", 'q', NULL, 0, "show only what came of it, at the end", 0 },
	{ "json", OPTION_JSON, NULL, 0,
	  "one JSON object per line and interval", 0 },
	{ NULL, 0, NULL, 0, "Subcommands, each with a --help of its own:", 1 },
#define SUBCOMMAND(name, does) { #name, 0, NULL, OPTION_DOC, does, 1 },
#include "subcommands.h"
	{ 0 }
};

/* The user wrote @arg where a percentage belongs. */
static void fail_percent(const struct argp_state *state, const char *arg)
{
	static const char * const names[] = {
#define SUBCOMMAND(name, does) #name,
#include "subcommands.h"
	};
	uint64_t number;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		if (!strcmp(arg, names[i]))
			argp_failure(state, EXIT_USAGE, 0,
				     "a subcommand comes first: kvm-throttle %s [OPTION...]",
				     arg);
	}
	if (isalpha((unsigned char)*arg))
		argp_failure(state, EXIT_USAGE, 0,
			     "there is no subcommand '%s'; see kvm-throttle --help",
			     arg);
	argp_failure(state, EXIT_USAGE, 0,
		     "'%s' is not a percentage from 0 to 99.99 with at most two decimals%s",
		     arg, parse_number(arg, INT32_MAX, &number) || number <= 100 ?
		     "" : "; --pid takes one process");
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;
	uint64_t value;

	switch (key) {
	case OPTION_VM:
		o->pid = option_vm(state, arg);
		return 0;
	case 'p':
		o->pid = option_pid(state, arg);
		return 0;
	case OPTION_FD:
		if (parse_number(arg, INT32_MAX, &value))
			argp_failure(state, EXIT_USAGE, 0,
				     "--fd: '%s' is not a file descriptor", arg);
		o->vm_fd = value;
		return 0;
	case OPTION_VCPU:
		if (parse_number(arg, UINT32_MAX, &value))
			argp_failure(state, EXIT_USAGE, 0,
				     "--vcpu: '%s' is not a vCPU's id", arg);
		o->vcpus[o->nr_vcpus++] = value;
		return 0;
	case OPTION_PERIOD:
		if (parse_duration(arg, KVM_THROTTLE_PERIOD_MIN_NS,
				   KVM_THROTTLE_PERIOD_MAX_NS, &o->period_ns))
			argp_failure(state, EXIT_USAGE, 0,
				     "--period: '%s' is not a time from 1ms to 1s",
				     arg);
		return 0;
	case OPTION_FOR:
		o->for_ns = option_for(state, arg);
		return 0;
	case OPTION_INTERVAL:
		o->interval_ns = option_interval(state, arg);
		return 0;
	case 'q':
		o->quiet = true;
		return 0;
	case OPTION_JSON:
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num)
			argp_failure(state, EXIT_USAGE, 0,
				     "one percentage is enough: '%s'", arg);
		if (parse_percent(arg, &o->percent_x100))
			fail_percent(state, arg);
		return 0;
	case ARGP_KEY_END:
		if (state->argc == 1)
			argp_state_help(state, stderr, ARGP_HELP_SHORT_USAGE |
					ARGP_HELP_LONG | ARGP_HELP_DOC |
					ARGP_HELP_EXIT_ERR);
		if (!state->arg_num)
			argp_failure(state, EXIT_USAGE, 0,
				     "by how much? Give a percentage from 0 to 99.99");
		if (!o->pid)
			fail_which_vm(state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = argp_options,
	.parser = parse_option,
	.args_doc = "--vm=NAME PERCENT\n"
		    "--pid=PID PERCENT\n"
		    "SUBCOMMAND [OPTION...]",
	.doc = "Throttle a running KVM virtual machine by PERCENT of the time, until Ctrl-C.",
};

/* The VM has no vCPU @id: say which it has. */
static _Noreturn void fail_vcpu(int fd, uint32_t id)
{
	struct throttle t = { 0 };
	char list[256] = "none";
	size_t len = 0;
	int error;

	error = throttle_read(fd, &t);
	if (error) {
		errno = -error;
		err(EXIT_FAILURE, "KVM_GET_THROTTLE");
	}
	for (uint32_t i = 0; i < t.nr_vcpus && len < sizeof(list); i++) {
		uint32_t first = t.vcpus[i].vcpu_id;

		len += snprintf(list + len, sizeof(list) - len, "%s%u",
				i ? ", " : "", first);
		while (i + 1 < t.nr_vcpus &&
		       t.vcpus[i + 1].vcpu_id == t.vcpus[i].vcpu_id + 1)
			i++;
		if (t.vcpus[i].vcpu_id != first && len < sizeof(list))
			len += snprintf(list + len, sizeof(list) - len, "-%u",
					t.vcpus[i].vcpu_id);
	}
	errx(EXIT_FAILURE, "the VM has no vCPU %u; it has: %s", id, list);
}

/* Put the wanted percentage in force. */
static void set(int fd, const struct options *o)
{
	unsigned int i = 0;

	do {
		struct kvm_throttle set = {
			.percent_x100 = o->percent_x100,
			.period_ns = o->period_ns,
		};

		if (o->nr_vcpus) {
			set.flags = KVM_THROTTLE_VCPU;
			set.vcpu_id = o->vcpus[i];
		}
		if (!ioctl(fd, KVM_SET_THROTTLE, &set))
			continue;
		if (errno == ENOENT)
			fail_vcpu(fd, set.vcpu_id);
		if (errno == ESRCH)
			errx(EXIT_VM_ENDED, "the VM has ended");
		err(EXIT_FAILURE, "KVM_SET_THROTTLE");
	} while (++i < o->nr_vcpus);
}

/* Why a throttle ended. */
enum end {
	END_NOT_YET,
	END_SIGNAL,
	END_TIME,
	END_VM,
};

/**
 * struct hold - a throttle that this command holds
 * @o: the command line
 * @fd: the throttle fd
 * @signals: signalfd for those that end it
 * @screen: it is shown on a terminal
 * @start_ns: when it began
 * @now: newest reading
 * @before: the reading before that
 */
struct hold {
	const struct options *o;
	int fd;
	int signals;
	bool screen;
	uint64_t start_ns;
	struct throttle now;
	struct throttle before;
};

static double seconds(const struct hold *h)
{
	return (double)(now_ns() - h->start_ns) / NSEC_PER_SEC;
}

/* Wait until @until_ns.  Returns what ended the throttle meanwhile. */
static enum end wait_until(const struct hold *h, uint64_t until_ns)
{
	struct pollfd fds[] = {
		{ .fd = h->fd },
		{ .fd = h->signals, .events = POLLIN },
	};
	uint64_t now = now_ns();
	uint64_t left = until_ns > now ? until_ns - now : 0;
	struct timespec timeout = {
		.tv_sec = left / NSEC_PER_SEC,
		.tv_nsec = left % NSEC_PER_SEC,
	};

	if (ppoll(fds, 2, &timeout, NULL) < 0 && errno != EINTR)
		err(EXIT_FAILURE, "poll");
	if (fds[0].revents)
		return END_VM;
	return fds[1].revents ? END_SIGNAL : END_NOT_YET;
}

/* Take a new reading.  Returns END_VM if there is none any more. */
static enum end read_again(struct hold *h)
{
	struct throttle next = {
		.vm = h->now.vm,
		.holder = h->now.holder,
	};
	int error = throttle_read(h->fd, &next);

	if (error == -ESRCH)
		return END_VM;
	if (error) {
		errno = -error;
		err(EXIT_FAILURE, "KVM_GET_THROTTLE");
	}
	throttle_free(&h->before);
	h->before = h->now;
	h->now = next;
	return END_NOT_YET;
}

static void show_start(const struct hold *h)
{
	const struct options *o = h->o;
	char who[64] = "";

	if (o->quiet || o->json)
		return;
	if (o->nr_vcpus == 1)
		snprintf(who, sizeof(who), "vCPU %u of ", o->vcpus[0]);
	else if (o->nr_vcpus)
		snprintf(who, sizeof(who), "%u vCPUs of ", o->nr_vcpus);
	printf("Throttling %s%s (process %d) by %u.%02u %%; %s\n", who,
	       h->now.vm.name, h->now.vm.pid, o->percent_x100 / 100,
	       o->percent_x100 % 100,
	       o->for_ns ? "Ctrl-C ends it early." : "Ctrl-C ends it.");
	if (!h->screen)
		view_log_head();
	fflush(stdout);
}

static struct json_object *hold_json(const struct hold *h)
{
	struct json_object *json = view_json(&h->now, &h->before);
	double s = seconds(h);
	char text[32];

	snprintf(text, sizeof(text), "%.3f", s);
	json_object_object_add(json, "seconds",
			       json_object_new_double_s(s, text));
	return json;
}

static void show_interval(const struct hold *h)
{
	if (h->o->quiet)
		return;
	if (h->o->json) {
		print_json(stdout, hold_json(h));
		fflush(stdout);
	} else if (h->screen) {
		view_screen(&h->now, &h->before);
	} else {
		view_log(&h->now, &h->before, seconds(h));
		fflush(stdout);
	}
}

static void show_end(const struct hold *h, enum end end)
{
	static const char * const names[] = {
		[END_SIGNAL] = "signal",
		[END_TIME] = "time",
		[END_VM] = "vm",
	};
	static const char * const texts[] = {
		[END_SIGNAL] = "Interrupted",
		[END_TIME] = "Done",
		[END_VM] = "The VM ended",
	};
	struct average average = view_average(&h->now, NULL);

	if (h->o->json) {
		struct json_object *json = hold_json(h);

		json_object_object_add(json, "end",
				       json_object_new_string(names[end]));
		print_json(stdout, json);
		return;
	}

	if (h->screen)
		view_screen_end();
	printf("%s after %.1f s", texts[end], seconds(h));
	/* A VM that ended before the first interval was read once, too early. */
	if (h->before.vcpus && !isnan(average.mean))
		printf("; throttled by %.2f %% on average", average.mean);
	if (h->before.vcpus && average.min < average.max)
		printf(" (vCPUs: %.2f to %.2f %%)", average.min, average.max);
	if (h->before.vcpus && average.idle)
		printf("; %u of %u vCPUs idle", average.idle, h->now.nr_vcpus);
	puts(end == END_VM ? "." : "; full speed now.");
}

static int hold(const struct options *o)
{
	struct hold h = { .o = o };
	uint64_t next_ns, end_ns;
	enum end end, last;

	h.now.vm = find_process(o->pid);
	h.now.holder = find_process(getpid());
	h.fd = attach(&h.now.vm, o->vm_fd);
	h.signals = open_signals();
	h.screen = !o->quiet && !o->json && view_screen_init();

	set(h.fd, o);
	h.start_ns = now_ns();
	next_ns = h.start_ns + o->interval_ns;
	end_ns = o->for_ns ? h.start_ns + o->for_ns : UINT64_MAX;

	end = read_again(&h);
	if (end == END_NOT_YET)
		show_start(&h);
	while (end == END_NOT_YET) {
		end = wait_until(&h, next_ns < end_ns ? next_ns : end_ns);
		if (end == END_NOT_YET && now_ns() >= end_ns)
			end = END_TIME;
		if (end != END_NOT_YET || now_ns() < next_ns)
			continue;

		end = read_again(&h);
		if (end == END_NOT_YET)
			show_interval(&h);
		next_ns = now_ns() + o->interval_ns;
	}

	last = end == END_VM ? END_VM : read_again(&h);
	close(h.fd);
	if (last == END_NOT_YET && !o->json)
		show_interval(&h);
	show_end(&h, end);

	close(h.signals);
	throttle_free(&h.now);
	throttle_free(&h.before);
	return end == END_VM ? EXIT_VM_ENDED : EXIT_SUCCESS;
}

int hold_command(int argc, char **argv)
{
	struct options o = {
		.vm_fd = -1,
		.interval_ns = NSEC_PER_SEC,
	};
	int result;

	o.vcpus = calloc(argc, sizeof(*o.vcpus));
	if (!o.vcpus)
		err(EXIT_FAILURE, "options");
	argp_parse(&argp, argc, argv, 0, NULL, &o);

	result = hold(&o);
	free(o.vcpus);
	return result;
}
