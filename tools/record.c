// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle record: writes down when each vCPU's run windows were to begin
 * and to end, and when they did, from the module's tracepoints.
 *
 * Events are put together to windows: a window is written when the next one of
 * the same vCPU begins.
 */
#include <err.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "command.h"
#include "loop.h"
#include "output.h"
#include "throttle.h"
#include "tracing.h"
#include "view.h"

/* The ring buffers are read this often... */
#define READ_INTERVAL_NS	(50 * NSEC_PER_MSEC)

/* ...and what is as old as this is sure to be in them. */
#define SETTLE_NS	NSEC_PER_MSEC

/* A VM may end a moment after its process. */
#define DEATH_NS	(100 * NSEC_PER_MSEC)

#define PROGRESS_NS	NSEC_PER_SEC

/**
 * struct options - the command line
 * @pid: the process whose VMs are wanted, 0 for all
 * @for_ns: after which time to end, 0 for never
 * @file: where to write, "-" for the standard output
 */
struct options {
	pid_t pid;
	uint64_t for_ns;
	const char *file;
};

#define OPTION_FOR	256

static const struct argp_option argp_options[] = {
	{ "for", OPTION_FOR, "TIME", 0,
	  "end after this time (default: when interrupted)", 0 },
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
	case ARGP_KEY_ARG:
		if (o->file)
			argp_failure(state, EXIT_USAGE, 0,
				     "one FILE is enough: '%s'", arg);
		o->file = arg;
		return 0;
	case ARGP_KEY_END:
		if (!o->file)
			argp_failure(state, EXIT_USAGE, 0,
				     "where to? Give a FILE, or - for the standard output");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = argp_options,
	.parser = parse_option,
	.args_doc = "FILE",
	.doc = "Write the windows of the throttled virtual machines of this host to FILE, until Ctrl-C: one JSON object a line, which `kvm-throttle plot` makes a picture of.",
	.children = option_any_vm,
};

/**
 * struct window - a vCPU's run window, and the sleep after it
 * @number: its number on the grid
 * @cpu: on which CPU it began, -1 if it didn't
 * @slept: it began with the end of a sleep
 * @planned_open_ns: when it was to begin; 0 if it didn't
 * @planned_close_ns: when it was to end
 * @open_ns: when the vCPU entered the guest; 0 if it didn't
 * @close_ns: when it left it for good; 0 if it wasn't there, or isn't known to
 *	have been
 * @sleep_ns: when it went to sleep; 0 if it didn't
 * @sleep_until_ns: until when it was to sleep
 * @signals: how many signals kept it from that
 * @retries: how often it was kept from entering the guest
 */
struct window {
	uint64_t number;
	int cpu;
	bool slept;
	uint64_t planned_open_ns;
	uint64_t planned_close_ns;
	uint64_t open_ns;
	uint64_t close_ns;
	uint64_t sleep_ns;
	uint64_t sleep_until_ns;
	unsigned int signals;
	unsigned int retries;
};

/**
 * struct vcpu - a vCPU
 * @id: its id
 * @begun: there is a @window
 * @whole: the recording has the beginning of @window
 * @window: the newest window
 */
struct vcpu {
	uint32_t id;
	bool begun;
	bool whole;
	struct window window;
};

/**
 * struct vm - a VM that has, or had, a throttle fd
 * @id: what the module calls the throttle
 * @known: the process is known
 * @wanted: it goes into the recording
 * @seen_attach: so does the beginning of its throttle
 * @vcpus: its vCPUs, as far as they have been seen
 * @nr_vcpus: how many they are
 */
struct vm {
	uint32_t id;
	bool known;
	bool wanted;
	bool seen_attach;
	struct vcpu *vcpus;
	unsigned int nr_vcpus;
};

/**
 * struct recording - a recording in progress
 * @o: the command line
 * @file: where it is written
 * @start_ns: when it began
 * @before: the throttles that were there already
 * @nr_before: how many
 * @vms: all VMs
 * @nr_vms: how many
 * @nr_windows: how many windows were written
 */
struct recording {
	const struct options *o;
	FILE *file;
	uint64_t start_ns;
	struct throttle *before;
	int nr_before;
	struct vm *vms;
	unsigned int nr_vms;
	uint64_t nr_windows;
};

/* --- lines ---------------------------------------------------------------- */

static struct json_object *line(const char *type)
{
	struct json_object *json = json_object_new_object();

	json_object_object_add(json, "type", json_object_new_string(type));
	return json;
}

static void add_number(struct json_object *json, const char *name,
		       uint64_t value)
{
	json_object_object_add(json, name, json_object_new_uint64(value));
}

/* A time that is not known, or not there, is null. */
static void add_time(struct json_object *json, const char *name, uint64_t ns)
{
	json_object_object_add(json, name,
			       ns ? json_object_new_uint64(ns) : NULL);
}

static void write_line(struct recording *r, struct json_object *json)
{
	print_json(r->file, json);
	if (ferror(r->file))
		err(EXIT_FAILURE, "%s", r->o->file);
}

static void write_start(struct recording *r)
{
	struct json_object *json = line("recording");
	struct timespec t;
	char text[32];

	add_number(json, "version", 1);
	add_number(json, "time_ns", r->start_ns);
	clock_gettime(CLOCK_REALTIME, &t);
	snprintf(text, sizeof(text), "%lld.%03ld", (long long)t.tv_sec,
		 t.tv_nsec / 1000000);
	json_object_object_add(json, "unix_time",
			       json_object_new_double_s(t.tv_sec, text));
	write_line(r, json);
}

static void write_vm(struct recording *r, const struct vm *vm,
		     const struct process *process, const struct process *owner)
{
	struct json_object *json = line("vm");

	add_number(json, "vm", vm->id);
	add_number(json, "pid", process->pid);
	json_object_object_add(json, "command",
			       json_object_new_string(process->name));
	if (*process->guest)
		json_object_object_add(json, "name",
				       json_object_new_string(process->guest));
	json_object_object_add(json, "owner", view_json_process(owner));
	write_line(r, json);
}

static void write_set(struct recording *r, const struct vm *vm, int64_t vcpu_id,
		      uint64_t time_ns, uint32_t percent_x100,
		      uint64_t period_ns, uint64_t run_ns)
{
	struct json_object *json = line("set");

	add_number(json, "vm", vm->id);
	json_object_object_add(json, "vcpu", vcpu_id < 0 ? NULL :
			       json_object_new_int64(vcpu_id));
	add_number(json, "time_ns", time_ns);
	json_object_object_add(json, "percent",
			       view_json_percent(percent_x100 / 100.0));
	add_number(json, "period_ns", period_ns);
	add_number(json, "run_ns", run_ns);
	write_line(r, json);
}

static void write_window(struct recording *r, const struct vm *vm,
			 const struct vcpu *vcpu)
{
	const struct window *w = &vcpu->window;
	struct json_object *json = line("window");

	add_number(json, "vm", vm->id);
	add_number(json, "vcpu", vcpu->id);
	add_number(json, "window", w->number);
	json_object_object_add(json, "cpu",
			       w->cpu < 0 ? NULL : json_object_new_int(w->cpu));
	json_object_object_add(json, "slept", json_object_new_boolean(w->slept));
	add_time(json, "planned_open_ns", w->planned_open_ns);
	add_time(json, "planned_close_ns", w->planned_close_ns);
	add_time(json, "open_ns", w->open_ns);
	add_time(json, "close_ns", w->close_ns);
	add_time(json, "sleep_ns", w->sleep_ns);
	add_time(json, "sleep_until_ns", w->sleep_until_ns);
	add_number(json, "signals", w->signals);
	add_number(json, "retries", w->retries);
	write_line(r, json);
	r->nr_windows++;
}

/* A signal can come long after its window, so it gets a line of its own. */
static void write_signal(struct recording *r, const struct vm *vm,
			 const struct vcpu *vcpu, uint64_t time_ns)
{
	struct json_object *json = line("signal");

	add_number(json, "vm", vm->id);
	add_number(json, "vcpu", vcpu->id);
	add_number(json, "window", vcpu->window.number);
	add_number(json, "time_ns", time_ns);
	write_line(r, json);
}

static void write_detach(struct recording *r, const struct vm *vm,
			 uint64_t time_ns, bool dead)
{
	struct json_object *json = line("detach");

	add_number(json, "vm", vm->id);
	add_number(json, "time_ns", time_ns);
	json_object_object_add(json, "dead", json_object_new_boolean(dead));
	write_line(r, json);
}

static void write_end(struct recording *r, uint64_t lost)
{
	struct json_object *json = line("end");

	add_number(json, "time_ns", now_ns());
	add_number(json, "lost_events", lost);
	write_line(r, json);
}

/* --- which VM ------------------------------------------------------------- */

static struct vm *find_vm(struct recording *r, uint32_t id)
{
	for (unsigned int i = 0; i < r->nr_vms; i++) {
		if (r->vms[i].id == id)
			return &r->vms[i];
	}

	r->vms = reallocarray(r->vms, r->nr_vms + 1, sizeof(*r->vms));
	if (!r->vms)
		err(EXIT_FAILURE, "list of VMs");
	r->vms[r->nr_vms] = (struct vm) { .id = id };
	return &r->vms[r->nr_vms++];
}

static struct vcpu *find_vcpu(struct vm *vm, uint32_t id)
{
	for (unsigned int i = 0; i < vm->nr_vcpus; i++) {
		if (vm->vcpus[i].id == id)
			return &vm->vcpus[i];
	}

	vm->vcpus = reallocarray(vm->vcpus, vm->nr_vcpus + 1,
				 sizeof(*vm->vcpus));
	if (!vm->vcpus)
		err(EXIT_FAILURE, "list of vCPUs");
	vm->vcpus[vm->nr_vcpus] = (struct vcpu) { .id = id };
	return &vm->vcpus[vm->nr_vcpus++];
}

/* Now it is known which process's VM it is. */
static void know_vm(struct recording *r, struct vm *vm,
		    const struct process *process, const struct process *owner)
{
	vm->known = true;
	vm->wanted = !r->o->pid || r->o->pid == process->pid;
	if (vm->wanted)
		write_vm(r, vm, process, owner);
}

/* The length of the run windows that the module makes of a setting. */
static uint64_t run_ns(const struct kvm_throttle_vcpu_state *vcpu)
{
	uint32_t all = KVM_THROTTLE_PERCENT_MAX + 1;

	return vcpu->period_ns * (all - vcpu->percent_x100) / all;
}

/* The throttle is older than the recording.  The vCPU's thread @thread tells whose VM it is. */
static void know_by_thread(struct recording *r, struct vm *vm, pid_t thread)
{
	struct process process, nobody = { 0 };

	for (int i = 0; i < r->nr_before; i++) {
		const struct throttle *t = &r->before[i];
		bool mine = false;

		for (uint32_t v = 0; v < t->nr_vcpus; v++)
			mine |= t->vcpus[v].tid == (uint32_t)thread;
		if (!mine)
			continue;
		know_vm(r, vm, &t->vm, &t->holder);
		for (uint32_t v = 0; vm->wanted && v < t->nr_vcpus; v++)
			write_set(r, vm, t->vcpus[v].vcpu_id, r->start_ns,
				  t->vcpus[v].percent_x100,
				  t->vcpus[v].period_ns, run_ns(&t->vcpus[v]));
		return;
	}

	/* Its thread is new, or who throttles it can't be looked into. */
	process = proc_of_thread(thread);
	if (process.pid)
		know_vm(r, vm, &process, &nobody);
}

/* --- events --------------------------------------------------------------- */

/* The window of @vcpu is over.  What hasn't been seen of it hasn't happened. */
static void end_window(struct recording *r, const struct vm *vm,
		       struct vcpu *vcpu, uint64_t time_ns)
{
	struct window *w = &vcpu->window;

	if (!vcpu->begun)
		return;
	/* It ran on: the next window is part of it, or full speed. */
	if (!w->sleep_ns && time_ns <= w->planned_close_ns)
		w->close_ns = time_ns;
	if (vcpu->whole)
		write_window(r, vm, vcpu);
	vcpu->begun = false;
	vcpu->whole = true;
}

/* The window that an event of @vcpu belongs to, which may be a new one. */
static struct window *begin_window(struct recording *r, const struct vm *vm,
				   struct vcpu *vcpu, const struct trace_event *e)
{
	struct window *w = &vcpu->window;

	if (vcpu->begun && w->number != e->field[FIELD_WINDOW])
		end_window(r, vm, vcpu, e->time_ns);
	if (!vcpu->begun) {
		*w = (struct window) {
			.number = e->field[FIELD_WINDOW],
			.cpu = -1,
		};
		vcpu->begun = true;
		vcpu->whole |= vm->seen_attach || e->type == TRACE_OPEN;
	}
	return w;
}

static void handle_open(struct recording *r, const struct vm *vm, struct vcpu *vcpu,
			const struct trace_event *e)
{
	struct window *w = begin_window(r, vm, vcpu, e);

	w->planned_open_ns = e->field[FIELD_PLANNED_NS];
	w->planned_close_ns = e->field[FIELD_CLOSE_NS];
	if (w->open_ns)
		return;
	w->open_ns = e->time_ns;
	w->cpu = e->cpu;
	w->slept = e->field[FIELD_SLEPT];
}

static void handle_close(struct recording *r, const struct vm *vm, struct vcpu *vcpu,
			 const struct trace_event *e)
{
	struct window *w = begin_window(r, vm, vcpu, e);

	w->sleep_until_ns = e->field[FIELD_OPEN_NS];
	/* A signal may have ended an earlier sleep of the same window. */
	if (w->sleep_ns)
		return;
	w->sleep_ns = e->time_ns;
	w->planned_close_ns = e->field[FIELD_PLANNED_NS];
	if (e->field[FIELD_FIRED_NS])
		w->close_ns = e->field[FIELD_FIRED_NS];
}

/* @vcpu is found outside the guest when its window has closed. */
static void handle_outside(struct recording *r, const struct vm *vm,
			   struct vcpu *vcpu, const struct trace_event *e)
{
	struct window *w = begin_window(r, vm, vcpu, e);

	if (!w->sleep_ns && !w->close_ns)
		w->close_ns = e->time_ns;
	if (e->type == TRACE_RETRY) {
		w->retries++;
		return;
	}
	w->signals++;
	write_signal(r, vm, vcpu, e->time_ns);
}

static void handle_set(struct recording *r, struct vm *vm,
		       const struct trace_event *e)
{
	int64_t vcpu_id = e->field[FIELD_VCPU_ID];

	for (unsigned int i = 0; i < vm->nr_vcpus; i++) {
		if (vcpu_id < 0 || vm->vcpus[i].id == vcpu_id)
			end_window(r, vm, &vm->vcpus[i], e->time_ns);
	}
	write_set(r, vm, vcpu_id, e->time_ns, e->field[FIELD_PERCENT_X100],
		  e->field[FIELD_PERIOD_NS], e->field[FIELD_RUN_NS]);
}

static void handle_detach(struct recording *r, struct vm *vm,
			  const struct trace_event *e)
{
	for (unsigned int i = 0; i < vm->nr_vcpus; i++)
		end_window(r, vm, &vm->vcpus[i], e->time_ns);
	write_detach(r, vm, e->time_ns, e->field[FIELD_DEAD]);
	/* Its number may come again only after four thousand million others. */
	vm->wanted = false;
}

static void handle_attach(struct recording *r, struct vm *vm,
			  const struct trace_event *e)
{
	struct process process = proc_of_thread(e->field[FIELD_PID]);
	struct process owner = proc_of_thread(e->field[FIELD_OWNER]);

	process.pid = e->field[FIELD_PID];
	vm->seen_attach = true;
	know_vm(r, vm, &process, &owner);
}

static void handle_event(const struct trace_event *e, void *context)
{
	struct recording *r = context;
	struct vm *vm = find_vm(r, e->field[FIELD_ID]);

	if (e->type == TRACE_ATTACH)
		handle_attach(r, vm, e);
	else if (!vm->known && (e->type == TRACE_OPEN || e->type == TRACE_CLOSE))
		know_by_thread(r, vm, e->thread);
	if (!vm->wanted)
		return;

	switch (e->type) {
	case TRACE_SET:
		handle_set(r, vm, e);
		return;
	case TRACE_DETACH:
		handle_detach(r, vm, e);
		return;
	case TRACE_OPEN:
		handle_open(r, vm, find_vcpu(vm, e->field[FIELD_VCPU_ID]), e);
		return;
	case TRACE_CLOSE:
		handle_close(r, vm, find_vcpu(vm, e->field[FIELD_VCPU_ID]), e);
		return;
	case TRACE_SIGNAL:
	case TRACE_RETRY:
		handle_outside(r, vm, find_vcpu(vm, e->field[FIELD_VCPU_ID]), e);
		return;
	default:
		return;
	}
}

/* --- the recording -------------------------------------------------------- */

static void show_progress(const struct recording *r)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r%.0f s, %llu windows; Ctrl-C ends it ",
			(double)(now_ns() - r->start_ns) / NSEC_PER_SEC,
			(unsigned long long)r->nr_windows);
}

static void show_end(const struct recording *r, uint64_t lost)
{
	unsigned int nr_vcpus = 0;

	for (unsigned int i = 0; i < r->nr_vms; i++)
		nr_vcpus += r->vms[i].nr_vcpus;
	fprintf(stderr, "%s%llu windows of %u vCPUs in %.1f s\n",
		isatty(STDERR_FILENO) ? "\r\033[K" : "",
		(unsigned long long)r->nr_windows, nr_vcpus,
		(double)(now_ns() - r->start_ns) / NSEC_PER_SEC);
	if (lost)
		warnx("%llu events were lost, so windows are missing or incomplete: this machine is too busy",
		      (unsigned long long)lost);
}

/**
 * struct follower - what follows the events to the end
 * @r: the recording
 * @loop: what waits
 * @vm: the end of the VM's process
 * @read: when to read
 * @end: when to end
 * @progress_ns: when to show progress
 * @result: how to exit
 */
struct follower {
	struct recording *r;
	struct loop loop;
	struct loop_watch vm;
	struct loop_timer read;
	struct loop_timer end;
	uint64_t progress_ns;
	int result;
};

static void read_events(void *context)
{
	struct follower *f = context;
	struct recording *r = f->r;
	uint64_t now = now_ns();

	tracing_read(now - SETTLE_NS, handle_event, r);
	if (fflush(r->file))
		err(EXIT_FAILURE, "%s", r->o->file);
	if (now >= f->progress_ns) {
		show_progress(r);
		f->progress_ns += PROGRESS_NS;
	}
	loop_start(&f->loop, &f->read, now + READ_INTERVAL_NS);
}

static void end_following(void *context)
{
	struct follower *f = context;

	loop_end(&f->loop);
}

static void vm_ended(void *context, short revents)
{
	struct follower *f = context;

	(void)revents;
	f->result = EXIT_VM_ENDED;
	loop_remove(&f->loop, &f->vm);
	loop_start(&f->loop, &f->end, now_ns() + DEATH_NS);
}

/* Follow the events until a signal comes, the time is over or the VM ends. */
static void follow(struct follower *f)
{
	struct recording *r = f->r;

	f->progress_ns = r->start_ns;
	loop_start(&f->loop, &f->read, r->start_ns);
	if (r->o->for_ns)
		loop_start(&f->loop, &f->end, r->start_ns + r->o->for_ns);
	if (f->vm.fd >= 0)
		loop_add(&f->loop, &f->vm);
	loop_run(&f->loop);
}

/* Write the windows whose sleep hasn't ended. */
static void write_last(struct recording *r)
{
	for (unsigned int i = 0; i < r->nr_vms; i++) {
		struct vm *vm = &r->vms[i];

		for (unsigned int v = 0; v < vm->nr_vcpus; v++) {
			if (vm->vcpus[v].window.sleep_ns)
				end_window(r, vm, &vm->vcpus[v], now_ns());
		}
	}
}

static void free_recording(struct recording *r)
{
	throttle_free_all(r->before, r->nr_before);
	for (unsigned int i = 0; i < r->nr_vms; i++)
		free(r->vms[i].vcpus);
	free(r->vms);
}

static void prepare(struct follower *f, const struct process *process)
{
	int *fds;

	if (process->pid) {
		f->vm.fd = open_process(process);
		find_vms(process, &fds);
		free(fds);
	}
	/* Not to be killed: what tracing_open() makes has to be removed. */
	signal(SIGPIPE, SIG_IGN);
	loop_init(&f->loop);
	if (!strcmp(f->r->o->file, "-"))
		output_stdio(OUTPUT_WAIT, f->loop.signals);
}

static void start_recording(struct recording *r)
{
	const char *file = r->o->file;
	bool hidden;

	tracing_open();
	r->file = strcmp(file, "-") ? fopen(file, "we") : stdout;
	if (!r->file)
		err(EXIT_FAILURE, "%s", file);
	r->start_ns = now_ns();
	write_start(r);
	/* What comes later has events. */
	r->nr_before = throttle_find(0, &r->before, &hidden);
}

/* Returns how many events were lost. */
static uint64_t end_recording(struct recording *r)
{
	uint64_t lost;

	tracing_stop();
	tracing_read(UINT64_MAX, handle_event, r);
	write_last(r);
	lost = tracing_lost();
	write_end(r, lost);
	if (fflush(r->file) || (r->file != stdout && fclose(r->file)))
		err(EXIT_FAILURE, "%s", r->o->file);
	return lost;
}

int record_command(int argc, char **argv)
{
	struct options o = { 0 };
	struct recording r = { .o = &o };
	struct follower f = {
		.r = &r,
		.vm = { .fd = -1, .events = POLLIN, .ready = vm_ended, .context = &f },
		.read = { .due = read_events, .context = &f },
		.end = { .due = end_following, .context = &f },
	};
	struct process process = { 0 };

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (o.pid)
		process = find_process(o.pid);
	prepare(&f, &process);
	start_recording(&r);
	follow(&f);
	show_end(&r, end_recording(&r));
	if (f.result == EXIT_VM_ENDED)
		warnx("process %d (%s) has ended", process.pid, process.name);
	if (f.vm.fd >= 0)
		close(f.vm.fd);
	loop_close(&f.loop);
	free_recording(&r);
	return f.result;
}
