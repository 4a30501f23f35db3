// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How a throttled VM is shown: as a table, as a table that a terminal redraws in
 * place, or as JSON.
 *
 * What happened between two readings of the same VM is the difference of their
 * counters.  Where a function takes an earlier reading, NULL stands for the
 * beginning of the throttle, and "now" is left out.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <curses.h>
#include <term.h>

#include "view.h"

/* As wide as a terminal that has 80 columns, with "idle" behind it. */
#define TABLE_HEAD \
	" vCPU  thread target %  now % mean % period ms windows  late us longest ms"

/* What a vCPU did between two readings, or since it has been throttled. */
struct delta {
	uint64_t elapsed_ns;
	uint64_t throttled_ns;
	uint64_t windows;
};

/* vCPUs keep their place: new ones come last, and none ever goes. */
static struct delta delta_of(const struct throttle *now,
			     const struct throttle *before, uint32_t i)
{
	struct delta d = {
		.elapsed_ns = now->vcpus[i].elapsed_ns,
		.throttled_ns = now->vcpus[i].throttled_ns,
		.windows = now->vcpus[i].windows,
	};

	if (before && i < before->nr_vcpus) {
		d.elapsed_ns -= before->vcpus[i].elapsed_ns;
		d.throttled_ns -= before->vcpus[i].throttled_ns;
		d.windows -= before->vcpus[i].windows;
	}
	return d;
}

static double share(const struct delta *d)
{
	return d->elapsed_ns ? 100.0 * d->throttled_ns / d->elapsed_ns : NAN;
}

static double target(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->percent_x100 / 100.0;
}

/*
 * A vCPU that halts, or whose VMM is busy, has little left to be throttled.  A
 * time shorter than two periods doesn't show it.
 */
static bool is_idle(const struct kvm_throttle_vcpu_state *vcpu,
		    const struct delta *d)
{
	return vcpu->percent_x100 && d->elapsed_ns >= 2 * vcpu->period_ns &&
	       share(d) < target(vcpu) / 2;
}

/**
 * view_vcpu() - what happened to a vCPU
 * @now: the VM
 * @before: an earlier reading, or NULL
 * @i: which of its vCPUs
 *
 * Return: what happened.
 */
struct vcpu_view view_vcpu(const struct throttle *now,
			   const struct throttle *before, uint32_t i)
{
	struct delta d = delta_of(now, before, i);

	return (struct vcpu_view) {
		.target = target(&now->vcpus[i]),
		.share = share(&d),
		.sleep_ns = d.windows ? (double)d.throttled_ns / d.windows : NAN,
		.idle = is_idle(&now->vcpus[i], &d),
	};
}

/**
 * view_limits() - how a VM is throttled, in words
 * @text: result
 * @size: VIEW_LIMITS_SIZE
 * @percent_x100: by how much, in hundredths of a percent
 * @dirty_rate: to how many dirtied pages a second, 0 if to none
 */
void view_limits(char *text, size_t size, uint32_t percent_x100, uint64_t dirty_rate)
{
	int len = 0;

	if (percent_x100 || !dirty_rate)
		len = snprintf(text, size, "by %u.%02u %%%s", percent_x100 / 100,
			       percent_x100 % 100, dirty_rate ? " and " : "");
	if (dirty_rate)
		snprintf(text + len, size - len, "to %llu dirtied pages/s",
			 (unsigned long long)dirty_rate);
}

/**
 * view_average() - the shares of all vCPUs, summed up
 * @now: the VM
 * @before: an earlier reading, or NULL
 *
 * Return: the shares.
 */
struct average view_average(const struct throttle *now,
			    const struct throttle *before)
{
	struct average average = { NAN, NAN, NAN, 0 };
	struct delta sum = { 0 };

	for (uint32_t i = 0; i < now->nr_vcpus; i++) {
		struct delta d = delta_of(now, before, i);

		if (is_idle(&now->vcpus[i], &d)) {
			average.idle++;
			continue;
		}
		average.min = fmin(average.min, share(&d));
		average.max = fmax(average.max, share(&d));
		sum.elapsed_ns += d.elapsed_ns;
		sum.throttled_ns += d.throttled_ns;
	}
	average.mean = share(&sum);
	return average;
}

struct percent_text {
	char text[16];
};

static struct percent_text percent_text(double percent)
{
	struct percent_text t = { "-" };

	if (!isnan(percent))
		snprintf(t.text, sizeof(t.text), "%.2f", percent);
	return t;
}

/* A vCPU's line in a table; @now_percent can be NAN. */
static void format_vcpu(char *line, size_t size,
			const struct kvm_throttle_vcpu_state *vcpu,
			double now_percent, bool idle)
{
	struct delta all = { vcpu->elapsed_ns, vcpu->throttled_ns, 0 };
	char longest[32] = "-";

	/* A module of the interface's version 1 doesn't tell. */
	if (vcpu->stall_max_ns)
		snprintf(longest, sizeof(longest), "%.3f", vcpu->stall_max_ns / 1e6);
	snprintf(line, size, "%5u %7u %8.2f %6s %6s %9.3f %7llu %8.1f %10s%s",
		 vcpu->vcpu_id, vcpu->tid, target(vcpu),
		 percent_text(now_percent).text,
		 percent_text(share(&all)).text, vcpu->period_ns / 1e6,
		 (unsigned long long)vcpu->windows, vcpu->late_max_ns / 1e3,
		 longest, idle ? " idle" : "");
}

/**
 * view_table() - print a VM's vCPUs
 * @now: the VM
 * @before: an earlier reading, or NULL
 */
void view_table(const struct throttle *now, const struct throttle *before)
{
	char line[160];

	puts(TABLE_HEAD);
	for (uint32_t i = 0; i < now->nr_vcpus; i++) {
		struct vcpu_view v = view_vcpu(now, before, i);

		format_vcpu(line, sizeof(line), &now->vcpus[i],
			    before ? v.share : NAN, before && v.idle);
		puts(line);
	}
}

/** view_log_head() - print what view_log()'s columns are */
void view_log_head(void)
{
	puts(" seconds" TABLE_HEAD);
}

/**
 * view_log() - print a VM's vCPUs, one line for each, to a file or a pipe
 * @now: the VM
 * @before: the reading before that
 * @seconds: what each line starts with
 */
void view_log(const struct throttle *now, const struct throttle *before,
	      double seconds)
{
	char line[160];

	for (uint32_t i = 0; i < now->nr_vcpus; i++) {
		struct delta d = delta_of(now, before, i);

		format_vcpu(line, sizeof(line), &now->vcpus[i], share(&d),
			    is_idle(&now->vcpus[i], &d));
		printf("%8.1f%s\n", seconds, line);
	}
}

/**
 * view_can_draw() - can the standard output be drawn on anywhere?
 *
 * Return: true if it is a terminal whose cursor can be moved.
 */
bool view_can_draw(void)
{
	int error;

	return setupterm(NULL, STDOUT_FILENO, &error) == OK && cursor_address;
}

/* How many lines are on the terminal that the next view_screen() replaces. */
static unsigned int screen_drawn;
static bool screen_colours;

/**
 * view_screen_init() - can the standard output be redrawn in place?
 *
 * Return: true if it is a terminal that can.
 */
bool view_screen_init(void)
{
	const char *no_color = getenv("NO_COLOR");
	int error;

	if (!isatty(STDOUT_FILENO) ||
	    setupterm(NULL, STDOUT_FILENO, &error) != OK ||
	    !cursor_up || !carriage_return || !clr_eos)
		return false;
	screen_colours = !(no_color && *no_color) && max_colors >= 8 &&
			 set_a_foreground && exit_attribute_mode;
	return true;
}

/* Print a line, in @colour unless that is negative; too long a one is cut. */
static void screen_line(int width, int colour, const char *line)
{
	if (screen_colours && colour >= 0)
		putp(tiparm(set_a_foreground, colour));
	printf("%.*s", width, line);
	if (screen_colours && colour >= 0)
		putp(exit_attribute_mode);
	putchar('\n');
	screen_drawn++;
}

static void screen_summary(int width, const struct throttle *now,
			   const struct throttle *before)
{
	struct average last = view_average(now, before);
	struct average all = view_average(now, NULL);
	char line[160];

	snprintf(line, sizeof(line),
		 "%u vCPUs, %u idle; min/all/max now %s/%s/%s, mean %s/%s/%s",
		 now->nr_vcpus, last.idle, percent_text(last.min).text,
		 percent_text(last.mean).text, percent_text(last.max).text,
		 percent_text(all.min).text, percent_text(all.mean).text,
		 percent_text(all.max).text);
	screen_line(width, -1, line);
}

/**
 * view_screen() - draw a VM's vCPUs over what was drawn before
 * @now: the VM
 * @before: the reading before that
 *
 * If there are more than fit, a summary and the first.
 */
void view_screen(const struct throttle *now, const struct throttle *before)
{
	struct winsize size = { 0 };
	uint32_t room, shown = now->nr_vcpus;
	char line[160];
	int width;

	ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
	width = size.ws_col ?: 80;
	room = (size.ws_row ?: 24) - 1;

	for (; screen_drawn; screen_drawn--)
		putp(cursor_up);
	putp(carriage_return);
	putp(clr_eos);

	screen_line(width, COLOR_CYAN, TABLE_HEAD);
	if (shown + 1 > room) {
		shown = room > 3 ? room - 3 : 0;
		screen_summary(width, now, before);
	}
	for (uint32_t i = 0; i < shown; i++) {
		const struct kvm_throttle_vcpu_state *vcpu = &now->vcpus[i];
		struct delta d = delta_of(now, before, i);
		bool idle = is_idle(vcpu, &d);
		int colour = -1;

		if (idle)
			colour = COLOR_BLUE;
		else if (fabs(share(&d) - target(vcpu)) > OFF_TARGET_PERCENT)
			colour = COLOR_YELLOW;
		format_vcpu(line, sizeof(line), vcpu, share(&d), idle);
		screen_line(width, colour, line);
	}
	if (shown < now->nr_vcpus) {
		snprintf(line, sizeof(line), "... and %u more",
			 now->nr_vcpus - shown);
		screen_line(width, -1, line);
	}
	fflush(stdout);
}

/**
 * view_width() - how much fits into a line of the terminal
 *
 * Return: the number of columns.
 */
int view_width(void)
{
	struct winsize size = { 0 };

	ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
	return size.ws_col ?: 80;
}

/** view_screen_end() - begin a line below what view_screen() drew */
void view_screen_end(void)
{
	/* The terminal may have echoed the ^C. */
	putp(carriage_return);
	putp(clr_eos);
}

/**
 * view_json_percent() - a percentage with as many decimals as in the tables
 * @percent: the percentage
 *
 * Return: a new object, or NULL, which is JSON's null, for NAN.
 */
struct json_object *view_json_percent(double percent)
{
	if (isnan(percent))
		return NULL;
	return json_object_new_double_s(percent, percent_text(percent).text);
}

/**
 * view_json_process() - a process's id and name
 * @process: the process
 *
 * Return: a new object, or NULL, which is JSON's null, if there is none.
 */
struct json_object *view_json_process(const struct process *process)
{
	struct json_object *json;

	if (!process->pid)
		return NULL;
	json = json_object_new_object();
	json_object_object_add(json, "pid", json_object_new_int(process->pid));
	json_object_object_add(json, "command",
			       json_object_new_string(process->name));
	return json;
}

static struct json_object *json_vcpu(const struct throttle *now,
				     const struct throttle *before, uint32_t i)
{
	const struct kvm_throttle_vcpu_state *vcpu = &now->vcpus[i];
	const struct {
		const char *name;
		uint64_t value;
	} counters[] = {
		{ "period_ns", vcpu->period_ns },
		{ "elapsed_ns", vcpu->elapsed_ns },
		{ "throttled_ns", vcpu->throttled_ns },
		{ "windows", vcpu->windows },
		{ "interrupted", vcpu->interrupted },
		{ "retries", vcpu->retries },
		{ "late_max_ns", vcpu->late_max_ns },
		{ "stall_max_ns", vcpu->stall_max_ns },
		{ "dirty_rate", vcpu->dirty_rate },
		{ "dirtied", vcpu->dirtied },
		{ "dirty_held_ns", vcpu->dirty_held_ns },
		{ "dirty_sleeps", vcpu->dirty_sleeps },
	};
	struct json_object *json = json_object_new_object();
	struct delta last = delta_of(now, before, i);
	struct delta all = delta_of(now, NULL, i);

	json_object_object_add(json, "id",
			       json_object_new_uint64(vcpu->vcpu_id));
	json_object_object_add(json, "thread",
			       json_object_new_uint64(vcpu->tid));
	json_object_object_add(json, "percent",
			       view_json_percent(target(vcpu)));
	json_object_object_add(json, "own",
		json_object_new_boolean(vcpu->flags & KVM_THROTTLE_VCPU));
	if (before) {
		json_object_object_add(json, "interval_percent",
				       view_json_percent(share(&last)));
		json_object_object_add(json, "idle",
			json_object_new_boolean(is_idle(vcpu, &last)));
	}
	json_object_object_add(json, "average_percent",
			       view_json_percent(share(&all)));
	for (size_t c = 0; c < sizeof(counters) / sizeof(*counters); c++) {
		json_object_object_add(json, counters[c].name,
				       json_object_new_uint64(counters[c].value));
	}
	return json;
}

/**
 * view_json() - all there is to know about a throttled VM
 * @now: the VM
 * @before: the reading before that, or NULL
 *
 * Return: a new object.
 */
struct json_object *view_json(const struct throttle *now,
			      const struct throttle *before)
{
	struct json_object *json = json_object_new_object();
	struct json_object *vcpus = json_object_new_array();
	struct json_object *vm = view_json_process(&now->vm);

	for (uint32_t i = 0; i < now->nr_vcpus; i++)
		json_object_array_add(vcpus, json_vcpu(now, before, i));

	if (vm && *now->vm.guest)
		json_object_object_add(vm, "name",
				       json_object_new_string(now->vm.guest));
	json_object_object_add(json, "vm", vm);
	json_object_object_add(json, "holder", view_json_process(&now->holder));
	json_object_object_add(json, "percent",
			       view_json_percent(now->percent_x100 / 100.0));
	json_object_object_add(json, "average_percent",
			       view_json_percent(view_average(now, NULL).mean));
	json_object_object_add(json, "dirty_rate", json_object_new_uint64(now->dirty_rate));
	json_object_object_add(json, "logged_pages",
			       json_object_new_uint64(now->logged_pages));
	json_object_object_add(json, "vcpus", vcpus);
	return json;
}
