// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle plot: makes a picture of what `kvm-throttle record` wrote, with
 * gnuplot: a row for each vCPU, on it its windows as they were planned and as
 * they were.
 */
#include <ctype.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/kvm_throttle.h>

#include "command.h"

/* How much of the recording is shown if the user doesn't say. */
#define PERIODS_DEFAULT	6

/* Off its plan by more than this share of a period, a window is called late. */
#define LATE_SHARE	0.01

/* With more, it would be a grey area. */
#define PERIODS_MAX	2000

#define WIDTH_PX	1000
#define ROW_PX		34
#define ABOVE_PX	60
#define BELOW_PX	90

/**
 * struct options - the command line
 * @pid: the process whose VMs are shown, 0 for all
 * @from_ns: where to begin, since the beginning of the recording; UINT64_MAX if
 *	it isn't given
 * @for_ns: how much to show, 0 if it isn't given
 * @recording: file name, "-" for the standard input
 * @picture: file name, "-" for the standard output
 */
struct options {
	pid_t pid;
	uint64_t from_ns;
	uint64_t for_ns;
	const char *recording;
	const char *picture;
};

enum {
	OPTION_FOR = 256,
	OPTION_FROM,
};

static const struct argp_option argp_options[] = {
	{ "pid", 'p', "PID", 0, "only the VMs of this process", 0 },
	{ "from", OPTION_FROM, "TIME", 0,
	  "begin so long after the recording began (default: its first window)",
	  0 },
	{ "for", OPTION_FOR, "TIME", 0,
	  "show so much (default: 6 periods)", 0 },
	{ 0 }
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case 'p':
		o->pid = option_pid(state, arg);
		return 0;
	case OPTION_FROM:
		if (parse_duration(arg, 0, INT64_MAX, &o->from_ns))
			argp_failure(state, EXIT_USAGE, 0,
				     "--from: '%s' is not a time, such as 500ms or 1.25s",
				     arg);
		return 0;
	case OPTION_FOR:
		o->for_ns = option_for(state, arg);
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num > 1)
			argp_failure(state, EXIT_USAGE, 0,
				     "two files are enough: '%s'", arg);
		if (!state->arg_num)
			o->recording = arg;
		else
			o->picture = arg;
		return 0;
	case ARGP_KEY_END:
		if (!o->recording)
			argp_failure(state, EXIT_USAGE, 0,
				     "of what? Give a file that `kvm-throttle record` wrote");
		if (!o->picture)
			argp_failure(state, EXIT_USAGE, 0,
				     "where to? Give an SVG file, or - for the standard output");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = argp_options,
	.parser = parse_option,
	.args_doc = "RECORDING PICTURE.svg",
	.doc = "Make a picture of what `kvm-throttle record` wrote: each vCPU's windows as they were planned, and as they were.",
};

/**
 * struct grid - the windows that a VM has with a setting
 * @vm: the VM's number in the recording
 * @period_ns: length of a run window and a sleep window, 0 at full speed
 * @run_ns: length of the run window
 * @start_ns: when one of them begins; 0 if none has been seen
 */
struct grid {
	int64_t vm;
	int64_t period_ns;
	int64_t run_ns;
	int64_t start_ns;
};

/**
 * struct setting - what a vCPU has for a time
 * @time_ns: from when on
 * @percent: the target; a negative one ends the throttle
 * @grid: number of the grid, -1 if there is none
 */
struct setting {
	int64_t time_ns;
	double percent;
	int grid;
};

/**
 * struct window - see record.c
 * @grid: number of the grid that it is on, -1 if there is none
 * @cpu: where it was
 * @slept: did the vCPU sleep after it?
 * @late_ns: how late it began, but for the time that siblings had the CPU
 * @planned_open_ns: when it was to begin
 * @planned_close_ns: when it was to end
 * @open_ns: when it began
 * @close_ns: when it ended
 * @sleep_ns: when the vCPU slept
 * @end_ns: when the guest stopped, or is supposed to have
 *
 * Times that are missing are 0.
 */
struct window {
	int grid;
	int64_t cpu;
	bool slept;
	int64_t late_ns;
	int64_t planned_open_ns;
	int64_t planned_close_ns;
	int64_t open_ns;
	int64_t close_ns;
	int64_t sleep_ns;
	int64_t end_ns;
};

/**
 * struct row - a vCPU, or what all of a VM's have while @vcpu is -1
 * @vm: the VM's number in the recording
 * @vcpu: the vCPU's id
 * @settings: what was in force
 * @nr_settings: how many they are
 * @windows: its windows
 * @nr_windows: how many they are
 * @signals: when signals came
 * @nr_signals: how many they are
 */
struct row {
	int64_t vm;
	int64_t vcpu;
	struct setting *settings;
	size_t nr_settings;
	struct window *windows;
	size_t nr_windows;
	int64_t *signals;
	size_t nr_signals;
};

struct vm {
	int64_t id;
	int64_t pid;
	char name[64];
	bool wanted;
};

/**
 * struct recording - what was read
 * @o: the command line
 * @line: how many lines
 * @start_ns: when it began
 * @end_ns: when it ended
 * @lost: how many events are missing
 * @vms: the VMs
 * @nr_vms: how many they are
 * @grids: the VMs' periods
 * @nr_grids: how many they are
 * @rows: the vCPUs, and what is of all of a VM's
 * @nr_rows: how many they are
 */
struct recording {
	const struct options *o;
	unsigned long line;
	int64_t start_ns;
	int64_t end_ns;
	int64_t lost;
	struct vm *vms;
	size_t nr_vms;
	struct grid *grids;
	size_t nr_grids;
	struct row *rows;
	size_t nr_rows;
};

/* Append a zeroed element to an array. */
#define APPEND(array, nr) ({						\
	(array) = reallocarray((array), (nr) + 1, sizeof(*(array)));	\
	if (!(array))							\
		err(EXIT_FAILURE, "recording");				\
	memset(&(array)[nr], 0, sizeof(*(array)));			\
	&(array)[(nr)++];						\
})

/* --- reading -------------------------------------------------------------- */

static _Noreturn void fail_line(const struct recording *r, const char *why)
{
	errx(EXIT_FAILURE,
	     "%s, line %lu: %s; is it a file that `kvm-throttle record` wrote?",
	     r->o->recording, r->line, why);
}

/* A number of the line; null is 0. */
static int64_t get(const struct recording *r, struct json_object *json,
		   const char *name)
{
	struct json_object *value;
	char why[64];

	if (json_object_object_get_ex(json, name, &value)) {
		if (!value)
			return 0;
		if (json_object_is_type(value, json_type_int) &&
		    json_object_get_int64(value) >= 0)
			return json_object_get_int64(value);
	}
	snprintf(why, sizeof(why), "there is no number '%s'", name);
	fail_line(r, why);
}

static bool is_null(struct json_object *json, const char *name)
{
	struct json_object *value;

	return json_object_object_get_ex(json, name, &value) && !value;
}

static const char *get_text(struct json_object *json, const char *name)
{
	struct json_object *value;

	if (!json_object_object_get_ex(json, name, &value) ||
	    !json_object_is_type(value, json_type_string))
		return NULL;
	return json_object_get_string(value);
}

static struct vm *find_vm(const struct recording *r, int64_t id)
{
	for (size_t i = 0; i < r->nr_vms; i++) {
		if (r->vms[i].id == id)
			return &r->vms[i];
	}
	fail_line(r, "it names a VM that no line before it does");
}

static int find_grid(struct recording *r, int64_t vm, int64_t period_ns,
		     int64_t run_ns)
{
	struct grid *grid;

	if (!period_ns)
		return -1;
	if (period_ns < (int64_t)KVM_THROTTLE_PERIOD_MIN_NS)
		fail_line(r, "the module has no period that is so short");
	for (size_t i = 0; i < r->nr_grids; i++) {
		if (r->grids[i].vm == vm && r->grids[i].period_ns == period_ns &&
		    r->grids[i].run_ns == run_ns)
			return i;
	}
	grid = APPEND(r->grids, r->nr_grids);
	*grid = (struct grid) { vm, period_ns, run_ns, 0 };
	return r->nr_grids - 1;
}

/* A vCPU's row; a new one begins with what the VM had so far. */
static struct row *find_row(struct recording *r, int64_t vm, int64_t vcpu)
{
	size_t whole = SIZE_MAX;
	struct row *row;

	for (size_t i = 0; i < r->nr_rows; i++) {
		if (r->rows[i].vm != vm)
			continue;
		if (r->rows[i].vcpu == vcpu)
			return &r->rows[i];
		if (r->rows[i].vcpu < 0)
			whole = i;
	}
	row = APPEND(r->rows, r->nr_rows);
	row->vm = vm;
	row->vcpu = vcpu;
	if (whole == SIZE_MAX)
		return row;
	for (size_t i = 0; i < r->rows[whole].nr_settings; i++)
		*APPEND(row->settings, row->nr_settings) =
			r->rows[whole].settings[i];
	return row;
}

/* From now on, one vCPU or all of a VM have another setting. */
static void add_setting(struct recording *r, int64_t vm, int64_t vcpu,
			struct setting setting)
{
	struct row *row = find_row(r, vm, vcpu);

	if (vcpu >= 0) {
		*APPEND(row->settings, row->nr_settings) = setting;
		return;
	}
	for (size_t i = 0; i < r->nr_rows; i++) {
		row = &r->rows[i];
		if (row->vm == vm)
			*APPEND(row->settings, row->nr_settings) = setting;
	}
}

static void read_vm(struct recording *r, struct json_object *json)
{
	const char *name = get_text(json, "name") ?: get_text(json, "command");
	struct vm *vm = APPEND(r->vms, r->nr_vms);

	vm->id = get(r, json, "vm");
	vm->pid = get(r, json, "pid");
	vm->wanted = !r->o->pid || r->o->pid == vm->pid;
	snprintf(vm->name, sizeof(vm->name), "%s", name ?: "?");
	/* Nothing that gnuplot would take for the end of a string, or more. */
	for (char *c = vm->name; *c; c++) {
		if (!isascii(*c) || !isprint(*c) || strchr("'`\"\\", *c))
			*c = '?';
	}
}

static void read_set(struct recording *r, struct json_object *json)
{
	int64_t vm = get(r, json, "vm");
	struct json_object *percent;
	struct setting setting = {
		.time_ns = get(r, json, "time_ns"),
		.grid = find_grid(r, vm, get(r, json, "period_ns"),
				  get(r, json, "run_ns")),
	};

	if (json_object_object_get_ex(json, "percent", &percent))
		setting.percent = json_object_get_double(percent);
	if (find_vm(r, vm)->wanted)
		add_setting(r, vm, is_null(json, "vcpu") ? -1 :
			    get(r, json, "vcpu"), setting);
}

static void read_detach(struct recording *r, struct json_object *json)
{
	struct setting end = {
		.time_ns = get(r, json, "time_ns"),
		.percent = -1,
		.grid = -1,
	};
	int64_t vm = get(r, json, "vm");

	if (find_vm(r, vm)->wanted)
		add_setting(r, vm, -1, end);
}

static void read_window(struct recording *r, struct json_object *json)
{
	struct json_object *slept;
	struct row *row;
	struct window w = {
		.planned_open_ns = get(r, json, "planned_open_ns"),
		.planned_close_ns = get(r, json, "planned_close_ns"),
		.open_ns = get(r, json, "open_ns"),
		.close_ns = get(r, json, "close_ns"),
		.sleep_ns = get(r, json, "sleep_ns"),
		.cpu = is_null(json, "cpu") ? -1 : get(r, json, "cpu"),
		.grid = -1,
	};

	if (!find_vm(r, get(r, json, "vm"))->wanted)
		return;
	if (json_object_object_get_ex(json, "slept", &slept))
		w.slept = json_object_get_boolean(slept);
	row = find_row(r, get(r, json, "vm"), get(r, json, "vcpu"));
	if (row->nr_settings)
		w.grid = row->settings[row->nr_settings - 1].grid;
	if (w.grid >= 0 && !r->grids[w.grid].start_ns)
		r->grids[w.grid].start_ns = w.planned_open_ns;

	/* A vCPU that wasn't in the guest at its end stopped some time before. */
	w.end_ns = w.close_ns ?: w.planned_close_ns;
	if (w.sleep_ns && w.sleep_ns < w.end_ns)
		w.end_ns = w.sleep_ns;
	*APPEND(row->windows, row->nr_windows) = w;
}

static void read_signal(struct recording *r, struct json_object *json)
{
	struct row *row;

	if (!find_vm(r, get(r, json, "vm"))->wanted)
		return;
	row = find_row(r, get(r, json, "vm"), get(r, json, "vcpu"));
	*APPEND(row->signals, row->nr_signals) = get(r, json, "time_ns");
}

static void read_start(struct recording *r, struct json_object *json)
{
	if (get(r, json, "version") != 1)
		errx(EXIT_FAILURE,
		     "%s: the recording is of version %lld, this command's is 1: use that which made it",
		     r->o->recording, (long long)get(r, json, "version"));
	r->start_ns = get(r, json, "time_ns");
}

static void read_end(struct recording *r, struct json_object *json)
{
	r->end_ns = get(r, json, "time_ns");
	r->lost = get(r, json, "lost_events");
}

static void read_line(struct recording *r, struct json_object *json)
{
	static const struct {
		const char *type;
		void (*read)(struct recording *r, struct json_object *json);
	} types[] = {
		{ "recording", read_start },
		{ "vm", read_vm },
		{ "set", read_set },
		{ "window", read_window },
		{ "signal", read_signal },
		{ "detach", read_detach },
		{ "end", read_end },
	};
	const char *type = get_text(json, "type");
	bool is_first = r->line == 1;

	if (!type || is_first != !strcmp(type, "recording"))
		fail_line(r, "it is of no known type");
	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
		if (strcmp(type, types[i].type))
			continue;
		types[i].read(r, json);
		return;
	}
	fail_line(r, "it is of no known type");
}

static int compare_rows(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	if (x->vm != y->vm)
		return x->vm > y->vm ? 1 : -1;
	return (x->vcpu > y->vcpu) - (x->vcpu < y->vcpu);
}

static void free_row(struct row *row)
{
	free(row->settings);
	free(row->windows);
	free(row->signals);
}

/* Keep the rows that are vCPUs with windows, in order. */
static void settle_rows(struct recording *r)
{
	size_t kept = 0;

	for (size_t i = 0; i < r->nr_rows; i++) {
		if (r->rows[i].nr_windows)
			r->rows[kept++] = r->rows[i];
		else
			free_row(&r->rows[i]);
	}
	r->nr_rows = kept;
	if (kept)
		qsort(r->rows, kept, sizeof(*r->rows), compare_rows);
}

static void read_recording(struct recording *r)
{
	FILE *file = strcmp(r->o->recording, "-") ?
		     fopen(r->o->recording, "re") : stdin;
	char *line = NULL;
	size_t room = 0;

	if (!file)
		err(EXIT_FAILURE, "%s", r->o->recording);
	while (getline(&line, &room, file) > 0) {
		struct json_object *json;

		r->line++;
		json = json_tokener_parse(line);
		/* A recording that was cut short is one too. */
		if (!json && r->line > 1 && !strchr(line, '\n'))
			break;
		if (!json_object_is_type(json, json_type_object))
			fail_line(r, "it is no JSON object");
		read_line(r, json);
		json_object_put(json);
	}
	if (ferror(file))
		err(EXIT_FAILURE, "%s", r->o->recording);
	if (!r->line)
		errx(EXIT_FAILURE, "%s: the file is empty", r->o->recording);
	free(line);
	if (file != stdin)
		fclose(file);
	settle_rows(r);
}

/* --- sums ----------------------------------------------------------------- */

/* The first of the row's windows that ends after @ns. */
static size_t first_after(const struct row *row, int64_t ns)
{
	size_t from = 0, to = row->nr_windows;

	while (from < to) {
		size_t middle = from + (to - from) / 2;

		if (row->windows[middle].end_ns > ns)
			to = middle;
		else
			from = middle + 1;
	}
	return from;
}

/*
 * For how long, from @from_ns until @w began, other vCPUs of the VM were in
 * their windows on the same CPU: while one waits for those, the VM runs, and is
 * not throttled.
 */
static int64_t siblings_ns(const struct recording *r, const struct row *row,
			   const struct window *w, int64_t from_ns)
{
	int64_t sum = 0, until = from_ns, next, end;

	/* Go from one to the next; no time counts twice. */
	do {
		next = INT64_MAX;
		end = 0;
		for (size_t i = 0; i < r->nr_rows; i++) {
			const struct row *other = &r->rows[i];
			size_t n = first_after(other, until);

			if (other == row || other->vm != row->vm)
				continue;
			while (n < other->nr_windows &&
			       (!other->windows[n].open_ns ||
				other->windows[n].cpu != w->cpu))
				n++;
			if (n == other->nr_windows ||
			    other->windows[n].open_ns >= next)
				continue;
			next = other->windows[n].open_ns;
			end = other->windows[n].end_ns;
		}
		if (next < until)
			next = until;
		if (end > w->open_ns)
			end = w->open_ns;
		if (next < end)
			sum += end - next;
		until = end;
	} while (next < w->open_ns && until < w->open_ns);
	return sum;
}

/* Find out how late each window began. */
static void judge_windows(const struct recording *r)
{
	for (size_t i = 0; i < r->nr_rows; i++) {
		for (size_t n = 0; n < r->rows[i].nr_windows; n++) {
			struct window *w = &r->rows[i].windows[n];

			if (w->open_ns)
				w->late_ns = w->open_ns - w->planned_open_ns -
					     siblings_ns(r, &r->rows[i], w,
							 w->planned_open_ns);
		}
	}
}

/**
 * struct lateness - how late something was
 * @nr: how often it was
 * @sum_ns: together
 * @worst_ns: at most
 * @worst_at_ns: when that was
 */
struct lateness {
	unsigned long nr;
	double sum_ns;
	int64_t worst_ns;
	int64_t worst_at_ns;
};

static void add_lateness(struct lateness *l, int64_t ns, int64_t at_ns)
{
	l->nr++;
	l->sum_ns += ns;
	if (ns > l->worst_ns) {
		l->worst_ns = ns;
		l->worst_at_ns = at_ns;
	}
}

/**
 * struct sums - the whole recording, in short
 * @open: how late windows opened
 * @close: how late they closed
 * @windows: how many there are
 * @late: how many of them are called late
 * @throttled_ns: from a window's end to the next one's beginning
 * @elapsed_ns: from a window's beginning to the next one's
 */
struct sums {
	struct lateness open;
	struct lateness close;
	unsigned long windows;
	unsigned long late;
	double throttled_ns;
	double elapsed_ns;
};

/* When the window closed too late, or opened so, or not where all others do. */
static bool is_late(const struct recording *r, const struct window *w)
{
	const struct grid *grid = w->grid < 0 ? NULL : &r->grids[w->grid];
	int64_t most, off;

	if (!grid || !w->open_ns)
		return false;
	most = grid->period_ns * LATE_SHARE;
	off = llabs(w->planned_open_ns - grid->start_ns) % grid->period_ns;
	if (off > grid->period_ns / 2)
		off = grid->period_ns - off;
	return off > most ||
	       (w->slept && llabs(w->late_ns) > most) ||
	       w->close_ns > w->planned_close_ns + most;
}

static struct sums sum_up(const struct recording *r)
{
	struct sums s = { 0 };

	for (size_t i = 0; i < r->nr_rows; i++) {
		const struct window *last = NULL;

		for (size_t n = 0; n < r->rows[i].nr_windows; n++) {
			const struct window *w = &r->rows[i].windows[n];

			s.windows++;
			s.late += is_late(r, w);
			/* Slept through: the sleep before it goes on. */
			if (!w->open_ns)
				continue;
			if (w->slept)
				add_lateness(&s.open, w->late_ns,
					     w->planned_open_ns);
			if (w->close_ns >= w->planned_close_ns)
				add_lateness(&s.close,
					     w->close_ns - w->planned_close_ns,
					     w->planned_close_ns);
			if (last && last->grid == w->grid && last->close_ns) {
				s.throttled_ns += w->open_ns - last->close_ns -
						  siblings_ns(r, &r->rows[i], w,
							      last->close_ns);
				s.elapsed_ns += w->open_ns - last->open_ns;
			}
			last = w;
		}
	}
	return s;
}

/* The target if there is but one, NAN otherwise. */
static double only_target(const struct recording *r)
{
	double target = NAN;

	for (size_t i = 0; i < r->nr_rows; i++) {
		for (size_t n = 0; n < r->rows[i].nr_settings; n++) {
			const struct setting *setting = &r->rows[i].settings[n];

			/* Before and after it, the VM ran at full speed. */
			if (setting->grid < 0)
				continue;
			if (!isnan(target) && target != setting->percent)
				return NAN;
			target = setting->percent;
		}
	}
	return target;
}

/* --- the picture ---------------------------------------------------------- */

/**
 * struct picture - what is shown
 * @r: the recording
 * @gnuplot: gnuplot's standard input
 * @from_ns: left border
 * @to_ns: right border
 */
struct picture {
	const struct recording *r;
	FILE *gnuplot;
	int64_t from_ns;
	int64_t to_ns;
};

static double ms(const struct picture *p, int64_t ns)
{
	return (ns - p->r->start_ns) / 1e6;
}

/* A box on row @row, 2 * @half of it high. */
static void draw_box(const struct picture *p, size_t row, double half,
		     int64_t from_ns, int64_t to_ns)
{
	if (to_ns < p->from_ns || from_ns > p->to_ns || to_ns <= from_ns)
		return;
	if (from_ns < p->from_ns)
		from_ns = p->from_ns;
	if (to_ns > p->to_ns)
		to_ns = p->to_ns;
	fprintf(p->gnuplot, "%.6f %.6f %.3f %.3f\n", ms(p, from_ns),
		ms(p, to_ns), row - half, row + half);
}

/* A block of data, which has a box outside the picture: none may be empty. */
static void begin_block(const struct picture *p, const char *name)
{
	fprintf(p->gnuplot, "$%s << EOD\n-2 -1 -2 -1\n", name);
}

static void end_block(const struct picture *p)
{
	fprintf(p->gnuplot, "EOD\n");
}

/* The windows of the grids: where they are for all vCPUs of a VM. */
static void draw_grids(const struct picture *p, size_t i)
{
	const struct row *row = &p->r->rows[i];

	for (size_t n = 0; n < row->nr_settings; n++) {
		const struct setting *setting = &row->settings[n];
		const struct grid *grid = setting->grid < 0 ? NULL :
					  &p->r->grids[setting->grid];
		int64_t from = setting->time_ns, to = p->to_ns, at;

		if (n + 1 < row->nr_settings && to > setting[1].time_ns)
			to = setting[1].time_ns;
		if (from < p->from_ns)
			from = p->from_ns;
		if (!grid || !grid->start_ns || to <= from)
			continue;
		at = grid->start_ns - ((grid->start_ns - from) / grid->period_ns + 1) *
		     grid->period_ns;
		for (; at < to; at += grid->period_ns) {
			int64_t end = at + grid->run_ns;

			draw_box(p, i, 0.5, at > from ? at : from,
				 end < to ? end : to);
		}
	}
}

static void draw_blocks(const struct picture *p)
{
	const struct recording *r = p->r;

	begin_block(p, "grid");
	for (size_t i = 0; i < r->nr_rows; i++)
		draw_grids(p, i);
	end_block(p);

	begin_block(p, "planned");
	for (size_t i = 0; i < r->nr_rows; i++) {
		for (size_t n = 0; n < r->rows[i].nr_windows; n++) {
			const struct window *w = &r->rows[i].windows[n];

			if (w->planned_open_ns)
				draw_box(p, i, 0.36, w->planned_open_ns,
					 w->planned_close_ns);
		}
	}
	end_block(p);

	for (int late = 0; late < 2; late++) {
		begin_block(p, late ? "late" : "real");
		for (size_t i = 0; i < r->nr_rows; i++) {
			for (size_t n = 0; n < r->rows[i].nr_windows; n++) {
				const struct window *w = &r->rows[i].windows[n];

				if (w->open_ns && is_late(r, w) == late)
					draw_box(p, i, 0.24, w->open_ns,
						 w->end_ns);
			}
		}
		end_block(p);
	}

	begin_block(p, "signals");
	for (size_t i = 0; i < r->nr_rows; i++) {
		for (size_t n = 0; n < r->rows[i].nr_signals; n++)
			fprintf(p->gnuplot, "%.6f %zu\n",
				ms(p, r->rows[i].signals[n]), i);
	}
	end_block(p);
}

static void print_lateness(FILE *file, const char *what,
			   const struct lateness *l)
{
	if (l->nr)
		fprintf(file, "%s %.1f µs late on average, %.1f µs at worst",
			what, l->sum_ns / l->nr / 1e3, l->worst_ns / 1e3);
}

static void draw_title(const struct picture *p, const struct sums *s)
{
	const struct recording *r = p->r;
	const struct vm *vm = find_vm(r, r->rows[0].vm);
	double target = only_target(r);

	fprintf(p->gnuplot, "set title '");
	if (r->rows[0].vm == r->rows[r->nr_rows - 1].vm)
		fprintf(p->gnuplot, "%s (process %lld)", vm->name,
			(long long)vm->pid);
	else
		fprintf(p->gnuplot, "%zu vCPUs of several VMs", r->nr_rows);
	if (!isnan(target))
		fprintf(p->gnuplot, ", throttled by %.2f %%", target);
	if (!isnan(target) && s->elapsed_ns)
		fprintf(p->gnuplot, ", measured %.2f %%",
			100 * s->throttled_ns / s->elapsed_ns);
	fprintf(p->gnuplot, "; %lu of %lu windows off their plan by more than %g %% of a period'.\"\\n\".'",
		s->late, s->windows, 100 * LATE_SHARE);
	print_lateness(p->gnuplot, "opened", &s->open);
	fprintf(p->gnuplot, "%s", s->open.nr && s->close.nr ? "; " : "");
	print_lateness(p->gnuplot, "closed", &s->close);
	if (r->lost)
		fprintf(p->gnuplot, "; %lld events are missing",
			(long long)r->lost);
	fprintf(p->gnuplot, "'\n");
}

static void draw_labels(const struct picture *p)
{
	const struct recording *r = p->r;
	bool several = r->rows[0].vm != r->rows[r->nr_rows - 1].vm;

	fprintf(p->gnuplot, "set ytics (");
	for (size_t i = 0; i < r->nr_rows; i++) {
		const struct vm *vm = find_vm(r, r->rows[i].vm);

		fprintf(p->gnuplot, "%s'", i ? ", " : "");
		if (several)
			fprintf(p->gnuplot, "%s (%lld) ", vm->name,
				(long long)vm->pid);
		fprintf(p->gnuplot, "vCPU %lld' %zu",
			(long long)r->rows[i].vcpu, i);
	}
	fprintf(p->gnuplot, ") scale 0\n");
}

static void draw(const struct picture *p, const struct sums *s)
{
	const struct recording *r = p->r;
	size_t height = ABOVE_PX + ROW_PX * r->nr_rows + BELOW_PX;

	fprintf(p->gnuplot,
		"set encoding utf8\n"
		"set terminal svg noenhanced size %d,%zu font 'sans-serif,13' background 'white'\n"
		"set xrange [%.6f:%.6f]\n"
		"set yrange [%zu.5:-0.5]\n"
		"set xlabel 'milliseconds since the recording began' offset 0,0.4\n"
		"set key at screen 0.5,screen %.4f center top horizontal maxrows 1 samplen 1.5 width -4\n"
		"set tmargin at screen %.4f\n"
		"set bmargin at screen %.4f\n"
		"set tics nomirror out\n"
		"set border 3\n",
		WIDTH_PX, height, ms(p, p->from_ns), ms(p, p->to_ns),
		r->nr_rows - 1, 30.0 / height, 1 - (double)ABOVE_PX / height,
		(double)BELOW_PX / height);
	draw_title(p, s);
	draw_labels(p);
	draw_blocks(p);
	fprintf(p->gnuplot,
		"set style fill solid noborder\n"
		"plot $grid using (($1+$2)/2):(($3+$4)/2):1:2:3:4 with boxxyerror fillcolor rgb '#e4e4ec' title 'grid', \\\n"
		" $real using (($1+$2)/2):(($3+$4)/2):1:2:3:4 with boxxyerror fillcolor rgb '#2a7fb8' title 'real', \\\n"
		" $late using (($1+$2)/2):(($3+$4)/2):1:2:3:4 with boxxyerror fillcolor rgb '#d9301a' title 'real, off its plan', \\\n"
		" $planned using (($1+$2)/2):(($3+$4)/2):1:2:3:4 with boxxyerror fillstyle empty border rgb '#202020' linecolor rgb '#202020' title 'planned', \\\n"
		" $signals using 1:2 with points pointtype 9 linecolor rgb '#e08a00' title 'signal'\n");
}

/* Find what is to be shown. */
static void choose_range(struct picture *p)
{
	const struct recording *r = p->r;
	int64_t first = INT64_MAX, last = 0, period = 0, shortest = INT64_MAX;

	for (size_t i = 0; i < r->nr_rows; i++) {
		for (size_t n = 0; n < r->rows[i].nr_windows; n++) {
			const struct window *w = &r->rows[i].windows[n];

			if (!w->open_ns)
				continue;
			first = w->planned_open_ns < first ? w->planned_open_ns : first;
			last = w->end_ns > last ? w->end_ns : last;
		}
	}
	for (size_t i = 0; i < r->nr_grids; i++) {
		if (!r->grids[i].start_ns)
			continue;
		period = r->grids[i].period_ns > period ?
			 r->grids[i].period_ns : period;
		shortest = r->grids[i].period_ns < shortest ?
			   r->grids[i].period_ns : shortest;
	}
	if (!last)
		errx(EXIT_FAILURE,
		     "%s has no windows%s: was a VM throttled, and did it run?",
		     r->o->recording, r->o->pid ? " of that process" : "");

	p->from_ns = first < r->start_ns ? r->start_ns : first;
	if (r->o->from_ns != UINT64_MAX)
		p->from_ns = r->start_ns + r->o->from_ns;
	p->to_ns = p->from_ns + ((int64_t)r->o->for_ns ?: PERIODS_DEFAULT * period);
	if ((p->to_ns - p->from_ns) / shortest > PERIODS_MAX)
		errx(EXIT_FAILURE,
		     "that is more than %d periods, too many to be seen: show less with --for",
		     PERIODS_MAX);
	if (p->from_ns > last || p->to_ns < first)
		errx(EXIT_FAILURE,
		     "there are no windows from %.3f to %.3f s; the recording has windows from %.3f to %.3f s",
		     ms(p, p->from_ns) / 1e3, ms(p, p->to_ns) / 1e3,
		     ms(p, first) / 1e3, ms(p, last) / 1e3);
}

/* Start gnuplot, which writes to @output.  Sets its standard input. */
static pid_t start_gnuplot(FILE *output, FILE **input)
{
	static char * const argv[] = { "gnuplot", "-d", NULL };
	posix_spawn_file_actions_t actions;
	int fds[2], error;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		err(EXIT_FAILURE, "pipe");
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, fds[0], STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, fileno(output), STDOUT_FILENO);
	error = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (error == ENOENT)
		errx(EXIT_FAILURE,
		     "gnuplot makes the picture, and isn't installed: install the package gnuplot-nox, or gnuplot");
	if (error) {
		errno = error;
		err(EXIT_FAILURE, "gnuplot");
	}
	close(fds[0]);
	*input = fdopen(fds[1], "w");
	if (!*input)
		err(EXIT_FAILURE, "gnuplot");
	return pid;
}

/* Copy what gnuplot made to where it is wanted. */
static void save_picture(const struct options *o, FILE *made)
{
	char buffer[65536];
	int fd = STDOUT_FILENO;
	size_t len;
	ssize_t nr;

	if (strcmp(o->picture, "-"))
		fd = open(o->picture, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0)
		err(EXIT_FAILURE, "%s", o->picture);
	rewind(made);
	while ((len = fread(buffer, 1, sizeof(buffer), made)) > 0) {
		for (size_t at = 0; at < len; at += nr) {
			nr = write(fd, buffer + at, len - at);
			if (nr < 0)
				err(EXIT_FAILURE, "%s", o->picture);
		}
	}
	if (ferror(made))
		err(EXIT_FAILURE, "gnuplot's picture");
	if (fd != STDOUT_FILENO && close(fd))
		err(EXIT_FAILURE, "%s", o->picture);
}

static void show_worst(const struct recording *r, const struct sums *s)
{
	const struct lateness *worst = s->open.worst_ns > s->close.worst_ns ?
				       &s->open : &s->close;

	if (worst->worst_ns)
		fprintf(stderr, "The worst lateness, %.1f us, is %.6f s after the recording began.\n",
			worst->worst_ns / 1e3,
			(worst->worst_at_ns - r->start_ns) / 1e9);
}

int plot_command(int argc, char **argv)
{
	struct options o = { .from_ns = UINT64_MAX };
	struct recording r = { .o = &o };
	struct picture p = { .r = &r };
	struct sums sums;
	int status;
	FILE *made;
	pid_t pid;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	read_recording(&r);
	choose_range(&p);
	judge_windows(&r);
	sums = sum_up(&r);

	/* It says itself what it died of. */
	signal(SIGPIPE, SIG_IGN);
	made = tmpfile();
	if (!made)
		err(EXIT_FAILURE, "temporary file");
	pid = start_gnuplot(made, &p.gnuplot);
	draw(&p, &sums);
	fclose(p.gnuplot);
	if (waitpid(pid, &status, 0) < 0 || status)
		errx(EXIT_FAILURE, "gnuplot failed");
	save_picture(&o, made);
	fclose(made);
	show_worst(&r, &sums);

	for (size_t i = 0; i < r.nr_rows; i++)
		free_row(&r.rows[i]);
	free(r.rows);
	free(r.grids);
	free(r.vms);
	return EXIT_SUCCESS;
}
