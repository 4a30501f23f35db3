// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What `kvm-throttle record` wrote, read again for `kvm-throttle plot`.
 */
#include <ctype.h>
#include <err.h>
#include <stdlib.h>
#include <string.h>

#include <json-c/json.h>

#include <linux/kvm_throttle.h>

#include "parse.h"
#include "recording.h"

/* Times and numbers are smaller: sums of some don't overflow. */
#define NUMBER_MAX	(INT64_MAX / 8)

/* No period is that long. */
#define PERIOD_MAX	((int64_t)(3600 * NSEC_PER_SEC))

/* Append a zeroed element to an array, whose room is the next power of two. */
#define APPEND(array, nr) ({						\
	if (!((nr) & ((nr) - 1)))					\
		(array) = reallocarray((array), (nr) ? 2 * (nr) : 1,	\
				       sizeof(*(array)));		\
	if (!(array))							\
		err(EXIT_FAILURE, "recording");				\
	memset(&(array)[nr], 0, sizeof(*(array)));			\
	&(array)[(nr)++];						\
})

static _Noreturn void fail_line(const struct recording *r, const char *why)
{
	errx(EXIT_FAILURE,
	     "%s, line %lu: %s; is it a file that `kvm-throttle record` wrote?",
	     r->path, r->line, why);
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
		    json_object_get_int64(value) >= 0 &&
		    json_object_get_int64(value) <= NUMBER_MAX)
			return json_object_get_int64(value);
	}
	snprintf(why, sizeof(why), "there is no number '%s' that can be", name);
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

/**
 * recording_vm() - find a VM
 * @r: the recording
 * @id: its number there
 *
 * Return: the VM; if there is none, this doesn't return.
 */
struct vm *recording_vm(const struct recording *r, int64_t id)
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
	if (period_ns < (int64_t)KVM_THROTTLE_PERIOD_MIN_NS || period_ns > PERIOD_MAX ||
	    run_ns > period_ns)
		fail_line(r, "the module has no such period");
	for (size_t i = 0; i < r->nr_grids; i++) {
		if (r->grids[i].vm == vm && r->grids[i].period_ns == period_ns &&
		    r->grids[i].run_ns == run_ns)
			return i;
	}
	grid = APPEND(r->grids, r->nr_grids);
	*grid = (struct grid) { vm, period_ns, run_ns, 0 };
	return r->nr_grids - 1;
}

/* The place of a row among all, which are in order; it may be another's. */
static size_t row_place(const struct recording *r, int64_t vm, int64_t vcpu)
{
	size_t from = 0, to = r->nr_rows;

	while (from < to) {
		size_t middle = from + (to - from) / 2;
		const struct row *row = &r->rows[middle];

		if (row->vm < vm || (row->vm == vm && row->vcpu < vcpu))
			from = middle + 1;
		else
			to = middle;
	}
	return from;
}

static struct row *find_row(const struct recording *r, int64_t vm, int64_t vcpu)
{
	size_t place = row_place(r, vm, vcpu);
	struct row *row = &r->rows[place];

	return place < r->nr_rows && row->vm == vm && row->vcpu == vcpu ? row : NULL;
}

/* A vCPU's row; a new one begins with what the VM had so far. */
static struct row *get_row(struct recording *r, int64_t vm, int64_t vcpu)
{
	struct row *row = find_row(r, vm, vcpu), *whole;
	size_t place;

	if (row)
		return row;
	place = row_place(r, vm, vcpu);
	APPEND(r->rows, r->nr_rows);
	row = &r->rows[place];
	memmove(row + 1, row, (r->nr_rows - 1 - place) * sizeof(*row));
	*row = (struct row) { .vm = vm, .vcpu = vcpu };

	whole = vcpu < 0 ? NULL : find_row(r, vm, -1);
	for (size_t i = 0; whole && i < whole->nr_settings; i++)
		*APPEND(row->settings, row->nr_settings) = whole->settings[i];
	return row;
}

/* From now on, one vCPU or all of a VM have another setting. */
static void add_setting(struct recording *r, int64_t vm, int64_t vcpu,
			struct setting setting)
{
	struct row *row = get_row(r, vm, vcpu);

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
	vm->wanted = (!r->pid || r->pid == vm->pid) &&
		     (!r->vm_name || !strcmp(r->vm_name, get_text(json, "name") ?: ""));
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
	if (!(setting.percent >= 0 && setting.percent < 100))
		fail_line(r, "there is no number 'percent' that can be");
	if (recording_vm(r, vm)->wanted)
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

	if (recording_vm(r, vm)->wanted)
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

	if (!recording_vm(r, get(r, json, "vm"))->wanted)
		return;
	if (json_object_object_get_ex(json, "slept", &slept))
		w.slept = json_object_get_boolean(slept);
	row = get_row(r, get(r, json, "vm"), get(r, json, "vcpu"));
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

	if (!recording_vm(r, get(r, json, "vm"))->wanted)
		return;
	row = get_row(r, get(r, json, "vm"), get(r, json, "vcpu"));
	*APPEND(row->signals, row->nr_signals) = get(r, json, "time_ns");
}

static void read_start(struct recording *r, struct json_object *json)
{
	if (get(r, json, "version") != 1)
		errx(EXIT_FAILURE,
		     "%s: the recording is of version %lld, this command's is 1: use that which made it",
		     r->path, (long long)get(r, json, "version"));
	r->start_ns = get(r, json, "time_ns");
}

static void read_end(struct recording *r, struct json_object *json)
{
	r->whole = true;
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

static void free_row(struct row *row)
{
	free(row->settings);
	free(row->windows);
	free(row->signals);
}

/* Keep the rows that are vCPUs with windows. */
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
}

/**
 * recording_read() - read a recording
 * @r: where to; its path and what is wanted of it are given
 * @file: where from
 *
 * What makes no sense is an error, and this doesn't return.  A recording that was
 * cut short is one too.
 */
void recording_read(struct recording *r, FILE *file)
{
	char *line = NULL;
	size_t room = 0;

	while (getline(&line, &room, file) > 0) {
		struct json_object *json;

		r->line++;
		json = json_tokener_parse(line);
		if (!json && r->line > 1 && !strchr(line, '\n'))
			break;
		if (!json_object_is_type(json, json_type_object))
			fail_line(r, "it is no JSON object");
		read_line(r, json);
		json_object_put(json);
	}
	if (ferror(file))
		err(EXIT_FAILURE, "%s", r->path);
	if (!r->line)
		errx(EXIT_FAILURE, "%s: the file is empty", r->path);
	free(line);
	settle_rows(r);
}

/**
 * recording_free() - free what recording_read() allocated
 * @r: the recording
 */
void recording_free(struct recording *r)
{
	for (size_t i = 0; i < r->nr_rows; i++)
		free_row(&r->rows[i]);
	free(r->rows);
	free(r->grids);
	free(r->vms);
}
