// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle-meter: how long the vCPUs of a process are in guest mode, what
 * keeps them from it, and for how long at a time, whoever throttles them.
 */
#include <argp.h>
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <json-c/json.h>

#include "../command.h"
#include "../loop.h"
#include "meter.h"

#define BAR_WIDTH	40

/* What argp has --version print. */
const char *argp_program_version = "kvm-throttle-meter " VERSION;

/**
 * struct options - the command line
 * @pid: the VM's process
 * @for_ns: after which time to end, 0 for never
 * @json: in JSON
 */
struct options {
	pid_t pid;
	uint64_t for_ns;
	bool json;
};

enum {
	OPTION_FOR = 256,
	OPTION_JSON,
};

static const struct argp_option argp_options[] = {
	{ "for", OPTION_FOR, "TIME", 0, "measure for this time", 0 },
	{ "json", OPTION_JSON, NULL, 0, "print JSON: one object", 0 },
	{ 0 }
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &o->pid;
		return 0;
	case OPTION_FOR:
		o->for_ns = option_for(state, arg);
		return 0;
	case OPTION_JSON:
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_failure(state, EXIT_USAGE, 0, "what is '%s'?", arg);
		return 0;
	case ARGP_KEY_END:
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
	.args_doc = "--vm=NAME\n--pid=PID",
	.doc = "Measure how long the vCPUs of a process are in guest mode, what keeps them from it, and for how long at a time, until Ctrl-C. It is done with BPF on KVM's and the scheduler's tracepoints, so it doesn't matter who throttles the VM, or how.",
	.children = option_one_vm,
};

/* --- waiting -------------------------------------------------------------- */

enum end {
	END_SIGNAL,
	END_TIME,
	END_VM,
};

/**
 * struct wait - what is waited for
 * @loop: what waits, for signals too
 * @process: the VM's process
 * @time: for how long at most
 * @end: what has come
 */
struct wait {
	struct loop loop;
	struct loop_watch process;
	struct loop_timer time;
	enum end end;
};

static void process_ended(void *context, short revents)
{
	struct wait *w = context;

	(void)revents;
	w->end = END_VM;
	loop_end(&w->loop);
}

static void time_is_over(void *context)
{
	struct wait *w = context;

	w->end = END_TIME;
	loop_end(&w->loop);
}

/* From here on, signals wait for wait_for_end(). */
static void wait_init(struct wait *w, const struct process *process)
{
	loop_init(&w->loop);
	w->process = (struct loop_watch) {
		.fd = open_process(process),
		.events = POLLIN,
		.ready = process_ended,
		.context = w,
	};
	w->time = (struct loop_timer) { .due = time_is_over, .context = w };
	w->end = END_SIGNAL;
}

static enum end wait_for_end(struct wait *w, uint64_t for_ns)
{
	loop_add(&w->loop, &w->process);
	if (for_ns)
		loop_start(&w->loop, &w->time, now_ns() + for_ns);
	loop_run(&w->loop);
	return w->end;
}

/* --- what was measured ---------------------------------------------------- */

static uint64_t elapsed_ns(const struct meter_record *r)
{
	return r->since_ns - r->start_ns;
}

static double percent(const struct meter_record *r, enum meter_state state)
{
	return elapsed_ns(r) ? 100.0 * r->ns[state] / elapsed_ns(r) : 0;
}

static uint64_t count_stalls(const struct meter_record *r)
{
	uint64_t count = 0;

	for (unsigned int i = 0; i < METER_BUCKETS; i++)
		count += r->stalls[i];
	return count;
}

/*
 * The time that @part of the stalls don't exceed; as buckets have a width, it may
 * be too long by an eighth.
 */
static uint64_t percentile_ns(const struct meter_record *r, double part)
{
	uint64_t left = part * count_stalls(r);

	for (unsigned int i = 0; i < METER_BUCKETS - 1; i++) {
		if (r->stalls[i] > left) {
			uint64_t end = meter_bucket_ns(i + 1);

			return end < r->longest_ns ? end : r->longest_ns;
		}
		left -= r->stalls[i];
	}
	return r->longest_ns;
}

/* How many of the stalls were from 2^@power ns to twice that? */
static uint64_t stalls_of_power(const struct meter_record *r, unsigned int power)
{
	const unsigned int fine = 1 << METER_FINE_BITS;
	uint64_t count = 0;

	for (unsigned int i = 0; i < METER_BUCKETS; i++) {
		/* The first buckets are a nanosecond each. */
		if (i < fine ? (i | 1) >> power == 1 : i / fine == power)
			count += r->stalls[i];
	}
	return count;
}

/* Sums up the stalls of @nr vCPUs, for the picture. */
static void add_stalls(struct meter_record *sum, const struct meter_record *r,
		       unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++) {
		for (unsigned int bucket = 0; bucket < METER_BUCKETS; bucket++)
			sum->stalls[bucket] += r[i].stalls[bucket];
	}
}

/* --- showing it ----------------------------------------------------------- */

static void print_time(uint64_t ns)
{
	static const char * const units[] = { "ns", "us", "ms", "s" };
	double value = ns;
	unsigned int i = 0;

	for (; value >= 1000 && i < 3; i++)
		value /= 1000;
	printf("%5.*f %-2s", value < 10 && i ? 1 : 0, value, units[i]);
}

static void print_histogram(const struct meter_record *sum)
{
	uint64_t counts[64], most = 0;
	unsigned int first = 64, last = 0;

	for (unsigned int power = 0; power < 64; power++) {
		counts[power] = stalls_of_power(sum, power);
		if (!counts[power])
			continue;
		if (first == 64)
			first = power;
		last = power;
		if (counts[power] > most)
			most = counts[power];
	}
	if (!most)
		return;

	puts("\nStalls: times out of guest mode, of all vCPUs");
	for (unsigned int power = first; power <= last; power++) {
		print_time(1ULL << power);
		printf(" to ");
		print_time(2ULL << power);
		printf(" %10llu |", (unsigned long long)counts[power]);
		for (unsigned int i = 0; i < counts[power] * BAR_WIDTH / most; i++)
			putchar('#');
		putchar('\n');
	}
}

static void print_text(const struct meter_record *r, unsigned int nr,
		       const struct meter_cost *cost, double seconds)
{
	struct meter_record sum = {};

	puts(" vCPU   thread  guest %   host %  ready % blocked % unseen %   entries   median us     99 % us  longest us");
	for (unsigned int i = 0; i < nr; i++) {
		if (r[i].vcpu_id < 0)
			printf("    - ");
		else
			printf("%5d ", r[i].vcpu_id);
		printf("%8u %8.3f %8.3f %8.3f  %8.3f %8.3f %9llu %11.1f %11.1f %11.1f\n",
		       r[i].tid, percent(&r[i], METER_GUEST),
		       percent(&r[i], METER_HOST), percent(&r[i], METER_RUNNABLE),
		       percent(&r[i], METER_BLOCKED), percent(&r[i], METER_UNSEEN),
		       (unsigned long long)r[i].entries,
		       percentile_ns(&r[i], 0.5) / 1e3,
		       percentile_ns(&r[i], 0.99) / 1e3, r[i].longest_ns / 1e3);
	}
	add_stalls(&sum, r, nr);
	print_histogram(&sum);
	if (cost->runs)
		printf("\nThe meter itself: %llu events of %.0f ns, %.3f %% of a CPU, in %.3f s.\n",
		       (unsigned long long)cost->runs, (double)cost->ns / cost->runs,
		       cost->ns / seconds / 1e7, seconds);
}

static struct json_object *json_percent(double value)
{
	char text[32];

	snprintf(text, sizeof(text), "%.4f", value);
	return json_object_new_double_s(value, text);
}

static void add_number(struct json_object *json, const char *name, uint64_t value)
{
	json_object_object_add(json, name, json_object_new_int64(value));
}

static struct json_object *json_stalls(const struct meter_record *r)
{
	struct json_object *json = json_object_new_object();
	struct json_object *histogram = json_object_new_array();

	for (unsigned int power = 0; power < 64; power++) {
		struct json_object *bar;
		uint64_t count = stalls_of_power(r, power);

		if (!count)
			continue;
		bar = json_object_new_object();
		add_number(bar, "from_ns", 1ULL << power);
		add_number(bar, "count", count);
		json_object_array_add(histogram, bar);
	}
	add_number(json, "count", count_stalls(r));
	add_number(json, "median_ns", percentile_ns(r, 0.5));
	add_number(json, "p99_ns", percentile_ns(r, 0.99));
	add_number(json, "longest_ns", r->longest_ns);
	json_object_object_add(json, "histogram", histogram);
	return json;
}

static struct json_object *json_vcpu(const struct meter_record *r)
{
	struct json_object *json = json_object_new_object();

	json_object_object_add(json, "id", r->vcpu_id < 0 ? NULL :
			       json_object_new_int(r->vcpu_id));
	add_number(json, "thread", r->tid);
	json_object_object_add(json, "guest_percent",
			       json_percent(percent(r, METER_GUEST)));
	add_number(json, "elapsed_ns", elapsed_ns(r));
	add_number(json, "guest_ns", r->ns[METER_GUEST]);
	add_number(json, "host_ns", r->ns[METER_HOST]);
	add_number(json, "ready_ns", r->ns[METER_RUNNABLE]);
	add_number(json, "blocked_ns", r->ns[METER_BLOCKED]);
	add_number(json, "unseen_ns", r->ns[METER_UNSEEN]);
	add_number(json, "entries", r->entries);
	json_object_object_add(json, "stalls", json_stalls(r));
	return json;
}

static void show_json(const struct process *process, const struct meter_record *r,
		      unsigned int nr, const struct meter_cost *cost, double seconds)
{
	struct json_object *json = json_object_new_object();
	struct json_object *vcpus = json_object_new_array();
	struct json_object *own = NULL;
	char text[32];

	for (unsigned int i = 0; i < nr; i++)
		json_object_array_add(vcpus, json_vcpu(&r[i]));
	if (cost->runs) {
		own = json_object_new_object();
		add_number(own, "events", cost->runs);
		add_number(own, "ns", cost->ns);
	}
	snprintf(text, sizeof(text), "%.6f", seconds);
	add_number(json, "pid", process->pid);
	json_object_object_add(json, "command", json_object_new_string(process->name));
	json_object_object_add(json, "seconds", json_object_new_double_s(seconds, text));
	json_object_object_add(json, "vcpus", vcpus);
	json_object_object_add(json, "cost", own);
	print_json(stdout, json);
}

/* --- main ----------------------------------------------------------------- */

static struct meter *start_meter(const struct options *o, const struct process *process)
{
	char why[256];
	struct meter *m = meter_open(process->pid, why, sizeof(why));

	if (!m)
		errx(EXIT_FAILURE, "%s", why);
	if (meter_count_cost(m))
		warn("what the meter itself takes can't be counted");
	if (!o->json && isatty(STDOUT_FILENO)) {
		printf("Measuring process %d (%s); Ctrl-C ends it.\n", process->pid,
		       process->name);
		fflush(stdout);
	}
	return m;
}

/* What each thread did that has run a vCPU; to be freed. */
static struct meter_record *read_meter(struct meter *m, unsigned int *nr)
{
	struct meter_record *r;

	*nr = meter_vcpus(m);
	if (*nr > METER_VCPUS_MAX) {
		warnx("of %u threads that ran vCPUs, only the first %u were measured",
		      *nr, METER_VCPUS_MAX);
		*nr = METER_VCPUS_MAX;
	}
	r = calloc(*nr ? *nr : 1, sizeof(*r));
	if (!r)
		err(EXIT_FAILURE, "calloc");
	for (unsigned int i = 0; i < *nr; i++)
		meter_read(m, i, &r[i]);
	return r;
}

static int measure(const struct options *o)
{
	struct process process = find_process(o->pid);
	struct meter_record *r;
	struct meter_cost cost;
	struct wait wait;
	struct meter *m;
	uint64_t start_ns;
	unsigned int nr;
	double seconds;
	int status;

	wait_init(&wait, &process);
	m = start_meter(o, &process);
	start_ns = now_ns();
	status = wait_for_end(&wait, o->for_ns) == END_VM ? EXIT_VM_ENDED : EXIT_SUCCESS;
	r = read_meter(m, &nr);
	seconds = (double)(now_ns() - start_ns) / NSEC_PER_SEC;
	cost = meter_cost(m);
	meter_close(m);
	close(wait.process.fd);
	loop_close(&wait.loop);

	if (!nr)
		errx(status ?: EXIT_FAILURE,
		     "no thread of process %d (%s) entered a guest in %.3f s",
		     process.pid, process.name, seconds);
	if (o->json)
		show_json(&process, r, nr, &cost, seconds);
	else
		print_text(r, nr, &cost, seconds);
	free(r);
	return status;
}

int main(int argc, char **argv)
{
	struct options o = {};

	/* getopt would print its whole path. */
	argv[0] = program_invocation_short_name;
	argp_err_exit_status = EXIT_USAGE;
	check_output_at_exit();
	argp_parse(&argp, argc, argv, 0, NULL, &o);
	return measure(&o);
}
