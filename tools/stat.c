// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle stat: prints what is in force, whoever throttles: once or again
 * and again, as text, as JSON, or to a file for Prometheus.
 */
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "command.h"
#include "loop.h"
#include "output.h"
#include "prometheus.h"
#include "throttle.h"
#include "view.h"

/**
 * struct options - the command line
 * @pid: the process whose VMs are wanted, 0 for all
 * @interval_ns: how often to print, 0 for once and at once
 * @count: how often to print at most, 0 for ever
 * @json: in JSON
 * @prometheus: the file that is written instead, or NULL
 */
struct options {
	pid_t pid;
	uint64_t interval_ns;
	uint64_t count;
	bool json;
	const char *prometheus;
};

enum {
	OPTION_COUNT = 256,
	OPTION_INTERVAL,
	OPTION_JSON,
	OPTION_PROMETHEUS,
};

static const struct argp_option argp_options[] = {
	{ "interval", OPTION_INTERVAL, "TIME", 0,
	  "print what happened each time that this has passed, " INTERVAL_TEXT
	  ", and not what happened so far", 0 },
	{ "count", OPTION_COUNT, "NUMBER", 0,
	  "end after so many intervals (default: when interrupted)", 0 },
	{ "json", OPTION_JSON, NULL, 0, "print JSON: one object per VM", 0 },
	{ "prometheus", OPTION_PROMETHEUS, "FILE", 0,
	  "print nothing, but replace FILE by one for Prometheus, as node_exporter's textfile collector reads it; its name should end in .prom",
	  0 },
	{ 0 }
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &o->pid;
		return 0;
	case OPTION_INTERVAL:
		o->interval_ns = option_interval(state, arg);
		return 0;
	case OPTION_COUNT:
		if (parse_number(arg, UINT32_MAX, &o->count) || !o->count)
			argp_failure(state, EXIT_USAGE, 0,
				     "--count: '%s' is not a number from 1 to %u",
				     arg, UINT32_MAX);
		return 0;
	case OPTION_JSON:
		o->json = true;
		return 0;
	case OPTION_PROMETHEUS:
		if (!*arg)
			argp_failure(state, EXIT_USAGE, 0,
				     "--prometheus: '' is not a file's name");
		o->prometheus = arg;
		return 0;
	case ARGP_KEY_ARG:
		argp_failure(state, EXIT_USAGE, 0,
			     "what is '%s'? A VM is given with --vm or --pid", arg);
		return 0;
	case ARGP_KEY_END:
		if (o->count && !o->interval_ns)
			argp_failure(state, EXIT_USAGE, 0,
				     "--count needs an --interval");
		if (o->json && o->prometheus)
			argp_failure(state, EXIT_USAGE, 0,
				     "--json doesn't go with --prometheus: choose one");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = argp_options,
	.parser = parse_option,
	.doc = "Print how much the KVM virtual machines of this host are throttled, and by whom.",
	.children = option_any_vm,
};

/* What is true of the whole reading and not of one VM. */
static void print_state_json(struct json_object *json, bool hidden)
{
	json_object_object_add(json, "module_loaded",
			       json_object_new_boolean(throttle_module_is_loaded()));
	json_object_object_add(json, "complete", json_object_new_boolean(!hidden));
	print_json(stdout, json);
}

/* Nobody throttles @process, or any VM if there is none. */
static void show_none(const struct options *o, const struct process *process,
		      bool hidden)
{
	if (o->json) {
		struct json_object *json = json_object_new_object();

		json_object_object_add(json, "vm", view_json_process(process));
		json_object_object_add(json, "holder", NULL);
		print_state_json(json, hidden);
		return;
	}
	if (process->pid)
		printf("%s (process %d) is not throttled", process->name, process->pid);
	else
		printf("No VM is throttled");
	if (hidden)
		printf(" by any process that you may look into; run as root or with CAP_SYS_PTRACE to see all");
	puts(throttle_module_is_loaded() ? ". The module is loaded." :
	     ". The module is not loaded: `modprobe kvm_throttle` does that.");
}

/* What was dirtied, by all vCPUs, and what the rate does about it. */
static void show_dirtied(const struct throttle *now)
{
	uint64_t dirtied = 0, held_ns = 0;

	for (uint32_t i = 0; i < now->nr_vcpus; i++) {
		dirtied += now->vcpus[i].dirtied;
		held_ns += now->vcpus[i].dirty_held_ns;
	}
	if (!now->dirty_rate && !dirtied)
		return;
	printf("%llu pages dirtied; vCPUs slept %.3f s for that%s\n",
	       (unsigned long long)dirtied, held_ns / 1e9,
	       now->logged_pages ? "" :
	       "; KVM doesn't log what is dirtied, so nothing is limited now");
}

static void show(const struct throttle *now, const struct throttle *before)
{
	char limits[VIEW_LIMITS_SIZE];

	view_limits(limits, sizeof(limits), now->percent_x100, now->dirty_rate);
	if (now->vm.pid)
		printf("%s (process %d%s%s)", now->vm.name, now->vm.pid,
		       *now->vm.guest ? ", VM " : "", now->vm.guest);
	else
		printf("A VM that has not run yet");
	printf(": throttled %s, by %s (process %d)\n", limits, now->holder.name,
	       now->holder.pid);
	show_dirtied(now);
	view_table(now, before);
}

/* The time of day, to tell an interval's tables from the next one's. */
static void show_time(void)
{
	time_t now = time(NULL);
	char text[32];

	strftime(text, sizeof(text), "%F %T", localtime(&now));
	puts(text);
}

/**
 * struct reading - what throttle_find() found at one time
 * @list: all throttles
 * @nr: how many
 * @hidden: there may be more
 */
struct reading {
	struct throttle *list;
	int nr;
	bool hidden;
};

static struct reading take_reading(const struct process *process)
{
	struct reading r;

	r.nr = throttle_find(process->pid, &r.list, &r.hidden);
	if (r.nr < 0) {
		errno = -r.nr;
		err(EXIT_FAILURE, "/proc");
	}
	return r;
}

static void show_reading(const struct options *o, const struct process *process,
			 const struct reading *now, const struct reading *before)
{
	if (o->prometheus) {
		prometheus_write(o->prometheus, now->list, now->nr, now->hidden);
		return;
	}

	if (o->interval_ns && !o->json)
		show_time();
	if (!now->nr)
		show_none(o, process, now->hidden);
	for (int i = 0; i < now->nr; i++) {
		const struct throttle *t = &now->list[i];
		const struct throttle *earlier =
			throttle_before(t, before->list, before->nr);

		if (o->json)
			print_state_json(view_json(t, earlier), now->hidden);
		else
			show(t, earlier);
	}
	if (fflush(stdout))
		err(EXIT_FAILURE, "standard output");
}

/* Print once and at once; what happened so far. */
static void stat_once(const struct options *o, const struct process *process)
{
	struct reading none = { 0 }, now = take_reading(process);

	show_reading(o, process, &now, &none);
	throttle_free_all(now.list, now.nr);
}

/**
 * struct intervals - what happens in each interval is printed
 * @o: the command line
 * @process: the process whose VMs are wanted, or none
 * @loop: what waits
 * @end: the process's end
 * @timer: the interval's
 * @next_ns: when the next is over
 * @before: the last reading
 * @n: how many have been printed
 * @result: how to exit
 */
struct intervals {
	const struct options *o;
	const struct process *process;
	struct loop loop;
	struct loop_watch end;
	struct loop_timer timer;
	uint64_t next_ns;
	struct reading before;
	uint64_t n;
	int result;
};

static void process_ended(void *context, short revents)
{
	struct intervals *i = context;

	(void)revents;
	warnx("process %d (%s) has ended", i->process->pid, i->process->name);
	i->result = EXIT_VM_ENDED;
	loop_end(&i->loop);
}

static void interval_is_over(void *context)
{
	struct intervals *i = context;
	struct reading now = take_reading(i->process);

	show_reading(i->o, i->process, &now, &i->before);
	throttle_free_all(i->before.list, i->before.nr);
	i->before = now;
	i->n++;
	if (i->n == i->o->count)
		loop_end(&i->loop);
	else
		loop_start(&i->loop, &i->timer, i->next_ns += i->o->interval_ns);
}

/* Print what happened in each interval.  Returns the exit status. */
static int stat_intervals(const struct options *o, const struct process *process)
{
	struct intervals i = {
		.o = o,
		.process = process,
		.end = { .events = POLLIN, .ready = process_ended, .context = &i },
		.timer = { .due = interval_is_over, .context = &i },
	};

	loop_init(&i.loop);
	output_stdio(OUTPUT_WAIT, i.loop.signals);
	i.before = take_reading(process);
	i.next_ns = now_ns() + o->interval_ns;
	loop_start(&i.loop, &i.timer, i.next_ns);
	if (process->pid) {
		i.end.fd = open_process(process);
		loop_add(&i.loop, &i.end);
	}
	loop_run(&i.loop);
	if (process->pid)
		close(i.end.fd);
	loop_close(&i.loop);
	throttle_free_all(i.before.list, i.before.nr);
	return i.result;
}

int stat_command(int argc, char **argv)
{
	struct process process = { 0 };
	struct options o = { 0 };
	int *fds;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (o.pid) {
		process = find_process(o.pid);
		/* Without one, there is nothing that could be throttled. */
		find_vms(&process, &fds);
		free(fds);
	}
	if (o.interval_ns)
		return stat_intervals(&o, &process);
	stat_once(&o, &process);
	return EXIT_SUCCESS;
}
