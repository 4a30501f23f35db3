// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle --vm NAME PERCENT, or --dirty-rate RATE: throttles the VM of a running process,
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
#include <unistd.h>

#include <linux/kvm_throttle.h>

#include "attach.h"
#include "command.h"
#include "loop.h"
#include "output.h"
#include "parse.h"
#include "proc.h"
#include "throttle.h"
#include "view.h"

/**
 * struct options - the command line
 * @pid: the VM's process, 0 if none was given
 * @vm_fd: the VM's number there, -1 if none was given
 * @percent_x100: how much to throttle, in hundredths of a percent
 * @percent: that was given
 * @period_ns: period, 0 for the module's default
 * @dirty_rate: pages that may be dirtied a second, 0 for any number
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
	bool percent;
	uint64_t period_ns;
	uint64_t dirty_rate;
	uint64_t for_ns;
	uint64_t interval_ns;
	uint32_t *vcpus;
	unsigned int nr_vcpus;
	bool json;
	bool quiet;
};

enum {
	OPTION_DIRTY_RATE = 256,
	OPTION_FD,
	OPTION_FOR,
	OPTION_INTERVAL,
	OPTION_JSON,
	OPTION_PERIOD,
	OPTION_VCPU,
};

static const struct argp_option argp_options[] = {
	{ "fd", OPTION_FD, "FD", 0,
	  "which VM, if the process has several: its file descriptor there", 0 },
	{ "vcpu", OPTION_VCPU, "ID", 0,
	  "throttle only this vCPU; can be given several times", 0 },
	{ "dirty-rate", OPTION_DIRTY_RATE, "RATE", 0,
	  "let vCPUs dirty no more memory than this: pages a second, or MiB/s, MB/s", 0 },
	{ "period", OPTION_PERIOD, "TIME", 0,
	  "run and sleep once in this time, 1ms to 1s (default: 10.472ms)", 0 },
	{ "for", OPTION_FOR, "TIME", 0, "end after this time", 0 },
	{ "interval", OPTION_INTERVAL, "TIME", 0,
	  "how often to show what happens, 100ms to 1h (default: 1s)", 0 },
	{ "quiet", 'q', NULL, 0, "show only the result, at the end", 0 },
	{ "json", OPTION_JSON, NULL, 0,
	  "print JSON, one object per interval", 0 },
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

static uint64_t option_dirty_rate(const struct argp_state *state, const char *arg)
{
	uint64_t rate;

	if (parse_dirty_rate(arg, sysconf(_SC_PAGESIZE), &rate))
		argp_failure(state, EXIT_USAGE, 0,
			     "--dirty-rate: '%s' is not a rate such as 2000 (pages a second), 8MiB/s or 8MB/s, from 1 to %llu pages",
			     arg, KVM_THROTTLE_DIRTY_RATE_MAX);
	return rate;
}

static uint64_t option_period(const struct argp_state *state, const char *arg)
{
	uint64_t ns;

	if (parse_duration(arg, KVM_THROTTLE_PERIOD_MIN_NS, KVM_THROTTLE_PERIOD_MAX_NS, &ns))
		argp_failure(state, EXIT_USAGE, 0,
			     "--period: '%s' is not a time from 1ms to 1s", arg);
	return ns;
}

static void take_percent(const struct argp_state *state, const char *arg)
{
	struct options *o = state->input;

	if (state->arg_num)
		argp_failure(state, EXIT_USAGE, 0, "one percentage is enough: '%s'", arg);
	if (parse_percent(arg, &o->percent_x100))
		fail_percent(state, arg);
	o->percent = true;
}

static void check_options(const struct argp_state *state)
{
	const struct options *o = state->input;

	if (state->argc == 1)
		argp_state_help(state, stderr, ARGP_HELP_SHORT_USAGE | ARGP_HELP_LONG |
				ARGP_HELP_DOC | ARGP_HELP_EXIT_ERR);
	if (!o->percent && !o->dirty_rate)
		argp_failure(state, EXIT_USAGE, 0,
			     "by how much? Give a percentage from 0 to 99.99, or --dirty-rate");
	if (!o->percent && o->period_ns)
		argp_failure(state, EXIT_USAGE, 0,
			     "--period is for a percentage, and there is none");
	if (!o->pid)
		fail_which_vm(state);
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;
	uint64_t value;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &o->pid;
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
	case OPTION_DIRTY_RATE:
		o->dirty_rate = option_dirty_rate(state, arg);
		return 0;
	case OPTION_PERIOD:
		o->period_ns = option_period(state, arg);
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
		take_percent(state, arg);
		return 0;
	case ARGP_KEY_END:
		check_options(state);
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
		    "--vm=NAME --dirty-rate=RATE [PERCENT]\n"
		    "SUBCOMMAND [OPTION...]",
	.doc = "Throttle a running KVM virtual machine by PERCENT of the time, or limit the rate at which it dirties memory, until Ctrl-C.",
	.children = option_one_vm,
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

/* Put the wanted percentage and rate in force.  Returns 0, or the number of an error. */
static int try_set(int fd, const struct options *o, uint32_t *vcpu_id)
{
	unsigned int i = 0;

	do {
		struct kvm_throttle set = {
			.percent_x100 = o->percent_x100,
			.period_ns = o->period_ns,
			.dirty_rate = o->dirty_rate,
		};

		if (o->nr_vcpus) {
			set.flags = KVM_THROTTLE_VCPU;
			set.vcpu_id = o->vcpus[i];
		}
		*vcpu_id = set.vcpu_id;
		if (ioctl(fd, KVM_SET_THROTTLE, &set))
			return errno;
	} while (++i < o->nr_vcpus);
	return 0;
}

static void set(int fd, const struct options *o)
{
	const char *why;
	uint32_t vcpu_id;
	int error;

	error = try_set(fd, o, &vcpu_id);
	if (!error)
		return;
	why = o->dirty_rate ? throttle_no_rate(error) : NULL;
	if (why)
		errx(EXIT_FAILURE, "--dirty-rate: %s", why);
	if (error == ENOENT)
		fail_vcpu(fd, vcpu_id);
	if (error == ESRCH)
		errx(EXIT_VM_ENDED, "the VM has ended");
	errno = error;
	err(EXIT_FAILURE, "KVM_SET_THROTTLE");
}

/* Why a throttle ended. */
enum end {
	END_SIGNAL,
	END_TIME,
	END_VM,
};

/* How often, and for how long, to look for a VM that takes the place of the last. */
#define FOLLOW_NS	(5 * NSEC_PER_MSEC)
#define FOLLOW_MAX_NS	(3 * NSEC_PER_SEC)

/**
 * struct hold - a throttle that this command holds
 * @o: the command line
 * @loop: what waits
 * @throttle: the throttle fd, -1 while there is none
 * @process: pidfd of the VM's process
 * @interval: when to look and to show
 * @time: when it is over
 * @follow: when to look for another VM of the same process
 * @vm_ended_ns: since when there is none
 * @screen: it is shown on a terminal
 * @start_ns: when it began
 * @end: why it ended
 * @now: newest reading
 * @before: the reading before that
 */
struct hold {
	const struct options *o;
	struct loop loop;
	struct loop_watch throttle;
	struct loop_watch process;
	struct loop_timer interval;
	struct loop_timer time;
	struct loop_timer follow;
	uint64_t vm_ended_ns;
	bool screen;
	uint64_t start_ns;
	enum end end;
	struct throttle now;
	struct throttle before;
};

static double seconds(const struct hold *h)
{
	return (double)(now_ns() - h->start_ns) / NSEC_PER_SEC;
}

/* Take a new reading.  Returns false if there is none any more. */
static bool read_again(struct hold *h)
{
	struct throttle next = {
		.vm = h->now.vm,
		.holder = h->now.holder,
	};
	int error = h->throttle.fd < 0 ? -ESRCH : throttle_read(h->throttle.fd, &next);

	if (error == -ESRCH)
		return false;
	if (error) {
		errno = -error;
		err(EXIT_FAILURE, "KVM_GET_THROTTLE");
	}
	throttle_free(&h->before);
	h->before = h->now;
	h->now = next;
	return true;
}

static void show_start(const struct hold *h)
{
	const struct options *o = h->o;
	char limits[VIEW_LIMITS_SIZE], who[64] = "";

	if (o->quiet || o->json)
		return;
	if (o->nr_vcpus == 1)
		snprintf(who, sizeof(who), "vCPU %u of ", o->vcpus[0]);
	else if (o->nr_vcpus)
		snprintf(who, sizeof(who), "%u vCPUs of ", o->nr_vcpus);
	view_limits(limits, sizeof(limits), o->percent_x100, o->dirty_rate);
	printf("Throttling %s%s (process %d) %s; %s\n", who, h->now.vm.name,
	       h->now.vm.pid, limits,
	       o->for_ns ? "Ctrl-C ends it early." : "Ctrl-C ends it.");
	if (o->dirty_rate && !h->now.logged_pages)
		warnx("KVM doesn't log what the VM dirties, so the rate limits nothing yet: it will while a migration runs");
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

static void end_with(struct hold *h, enum end end)
{
	h->end = end;
	loop_end(&h->loop);
}

static void time_is_over(void *context)
{
	end_with(context, END_TIME);
}

static void process_ended(void *context, short revents)
{
	(void)revents;
	end_with(context, END_VM);
}

static void interval_is_over(void *context)
{
	struct hold *h = context;

	if (read_again(h))
		show_interval(h);
	loop_start(&h->loop, &h->interval, now_ns() + h->o->interval_ns);
}

static void leave_vm(struct hold *h)
{
	if (h->throttle.fd < 0)
		return;
	loop_remove(&h->loop, &h->throttle);
	close(h->throttle.fd);
	h->throttle.fd = -1;
}

/* The VM has ended, but not its process, which may make another: a reboot. */
static void vm_ended(void *context, short revents)
{
	struct hold *h = context;

	(void)revents;
	read_again(h);
	leave_vm(h);
	h->vm_ended_ns = now_ns();
	loop_start(&h->loop, &h->follow, h->vm_ended_ns + FOLLOW_NS);
}

/* Is there another VM, with all vCPUs that are wanted? */
static void look_for_vm(void *context)
{
	struct hold *h = context;
	char why[WHY_LEN];
	uint32_t vcpu_id;

	if (now_ns() >= h->vm_ended_ns + FOLLOW_MAX_NS) {
		end_with(h, END_VM);
		return;
	}
	loop_start(&h->loop, &h->follow, now_ns() + FOLLOW_NS);
	if (attach_try(&h->now.vm, h->o->vm_fd, &h->throttle.fd, why, sizeof(why)))
		return;
	loop_add(&h->loop, &h->throttle);
	if (try_set(h->throttle.fd, h->o, &vcpu_id)) {
		leave_vm(h);
		return;
	}
	loop_stop(&h->loop, &h->follow);
	warnx("the VM of process %d (%s) was made anew, and is throttled again",
	      h->now.vm.pid, h->now.vm.name);
	/* What the other one's vCPUs did isn't theirs. */
	throttle_free(&h->now);
	read_again(h);
}

static void start(struct hold *h)
{
	const struct options *o = h->o;

	loop_init(&h->loop);
	h->throttle.ready = vm_ended;
	h->process = (struct loop_watch) {
		.fd = open_process(&h->now.vm),
		.events = POLLIN,
		.ready = process_ended,
		.context = h,
	};
	h->interval = (struct loop_timer) { .due = interval_is_over, .context = h };
	h->time = (struct loop_timer) { .due = time_is_over, .context = h };
	h->follow = (struct loop_timer) { .due = look_for_vm, .context = h };

	set(h->throttle.fd, o);
	h->start_ns = now_ns();
	loop_add(&h->loop, &h->throttle);
	loop_add(&h->loop, &h->process);
	loop_start(&h->loop, &h->interval, h->start_ns + o->interval_ns);
	if (o->for_ns)
		loop_start(&h->loop, &h->time, h->start_ns + o->for_ns);
}

static int hold(const struct options *o)
{
	struct hold h = { .o = o, .throttle.context = &h, .end = END_SIGNAL };
	bool last;

	h.now.vm = find_process(o->pid);
	h.now.holder = find_process(getpid());
	h.screen = !o->quiet && !o->json && view_screen_init();
	output_stdio(OUTPUT_DROP, -1);
	h.throttle.fd = attach(&h.now.vm, o->vm_fd);

	start(&h);
	if (read_again(&h))
		show_start(&h);
	loop_run(&h.loop);

	last = h.end != END_VM && read_again(&h);
	leave_vm(&h);
	if (last && !o->json)
		show_interval(&h);
	show_end(&h, h.end);
	fflush(stdout);

	close(h.process.fd);
	loop_close(&h.loop);
	throttle_free(&h.now);
	throttle_free(&h.before);
	return h.end == END_VM ? EXIT_VM_ENDED : EXIT_SUCCESS;
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
