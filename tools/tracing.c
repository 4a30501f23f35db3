// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The module's tracepoints, read from a private instance of the kernel's tracing, which
 * ends with this process.
 *
 * Each CPU has a ring buffer.  Its pages are read in binary, as text has only
 * microseconds.  libtracefs makes the instance.  libtraceevent tells what is on a page
 * and in an event.
 */
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event-parse.h>
#include <kbuffer.h>
#include <tracefs.h>

#include "tracing.h"

#define TRACEFS		"/sys/kernel/tracing"
#define INSTANCES	TRACEFS "/instances"
#define INSTANCE_NAME	"kvm-throttle"
#define SYSTEM		"kvm_throttle"

/* For each CPU.  A thousand vCPUs of one CPU fill it in 50 ms. */
#define BUFFER_KB	"1024"

/* A page of the ring buffer isn't larger. */
#define PAGE_MAX	(1024 * 1024)

static const char * const field_names[NR_TRACE_FIELDS] = {
	[FIELD_ID] = "id",
	[FIELD_PID] = "pid",
	[FIELD_OWNER] = "owner",
	[FIELD_VCPU_ID] = "vcpu_id",
	[FIELD_PERCENT_X100] = "percent_x100",
	[FIELD_PERIOD_NS] = "period_ns",
	[FIELD_RUN_NS] = "run_ns",
	[FIELD_WINDOW] = "window",
	[FIELD_PLANNED_NS] = "planned_ns",
	[FIELD_CLOSE_NS] = "close_ns",
	[FIELD_OPEN_NS] = "open_ns",
	[FIELD_FIRED_NS] = "fired_ns",
	[FIELD_SLEPT] = "slept",
	[FIELD_DEAD] = "dead",
};

#define HAS(field)	(1U << FIELD_##field)

/* The tracepoints, and which fields they must have. */
static const struct {
	const char *name;
	unsigned int fields;
} types[NR_TRACE_TYPES] = {
	[TRACE_ATTACH] = { "attach", HAS(ID) | HAS(PID) | HAS(OWNER) },
	[TRACE_SET] = { "set", HAS(ID) | HAS(VCPU_ID) | HAS(PERCENT_X100) |
			HAS(PERIOD_NS) | HAS(RUN_NS) },
	[TRACE_OPEN] = { "open", HAS(ID) | HAS(VCPU_ID) | HAS(WINDOW) |
			 HAS(PLANNED_NS) | HAS(CLOSE_NS) | HAS(SLEPT) },
	[TRACE_CLOSE] = { "close", HAS(ID) | HAS(VCPU_ID) | HAS(WINDOW) |
			  HAS(PLANNED_NS) | HAS(FIRED_NS) | HAS(OPEN_NS) },
	[TRACE_SIGNAL] = { "signal", HAS(ID) | HAS(VCPU_ID) | HAS(WINDOW) },
	[TRACE_RETRY] = { "retry", HAS(ID) | HAS(VCPU_ID) | HAS(WINDOW) },
	[TRACE_DETACH] = { "detach", HAS(ID) | HAS(PID) | HAS(DEAD) },
};

/**
 * struct tracing - the private instance
 * @instance: it; NULL if there is none
 * @cpus: the CPUs: their numbers, and their trace_pipe_raw
 * @nr_cpus: how many they are
 * @tep: what libtraceevent knows of the tracepoints
 * @kbuf: how it goes through a page
 * @page: a page
 * @ids: the tracepoints' numbers
 * @fields: where they have their fields; NULL where they have none
 * @events: those that have been read and not yet handed on
 * @nr_events: how many they are
 * @room: how many there is room for
 */
static struct tracing {
	struct tracefs_instance *instance;
	struct {
		int number;
		int pipe;
	} *cpus;
	int nr_cpus;
	struct tep_handle *tep;
	struct kbuffer *kbuf;
	char *page;
	int ids[NR_TRACE_TYPES];
	struct tep_format_field *fields[NR_TRACE_TYPES][NR_TRACE_FIELDS];
	struct trace_event *events;
	size_t nr_events;
	size_t room;
} tracing;

static void write_in(const char *name, const char *value)
{
	if (tracefs_instance_file_write(tracing.instance, name, value) < 0)
		err(EXIT_FAILURE, "%s: %s", tracefs_instance_get_name(tracing.instance),
		    name);
}

static uint64_t read_field(const struct tep_format_field *field, void *record)
{
	unsigned long long value;

	if (!field || tep_read_number_field((void *)field, record, &value))
		return 0;
	if (field->flags & TEP_FIELD_IS_SIGNED && field->size == sizeof(int32_t))
		return (int32_t)value;
	return value;
}

/* What all events begin with. */
static void read_header(void)
{
	char *text;
	int size;

	text = tracefs_instance_file_read(NULL, "events/header_page", &size);
	if (!text || tep_parse_header_page(tracing.tep, text, size, sizeof(long)))
		err(EXIT_FAILURE, TRACEFS "/events/header_page");
	free(text);
}

static struct tep_event *read_format(const char *name)
{
	char *text;
	int size;

	text = tracefs_event_file_read(NULL, SYSTEM, name, "format", &size);
	if (text)
		tep_parse_event(tracing.tep, text, size, SYSTEM);
	free(text);
	return tep_find_event_by_name(tracing.tep, SYSTEM, name);
}

/*
 * Know what the tracepoints have.  tracefs_local_events_system() would read all symbols
 * of the kernel as well, which takes longer than all the rest.
 */
static void read_formats(void)
{
	tracing.tep = tep_alloc();
	if (!tracing.tep)
		err(EXIT_FAILURE, "trace events");
	read_header();
	for (int t = 0; t < NR_TRACE_TYPES; t++) {
		struct tep_event *event;
		char name[64];

		snprintf(name, sizeof(name), SYSTEM "_%s", types[t].name);
		event = read_format(name);
		tracing.ids[t] = event ? event->id : -1;
		for (int f = 0; f < NR_TRACE_FIELDS; f++) {
			if (!(types[t].fields & (1U << f)))
				continue;
			tracing.fields[t][f] = event ?
				tep_find_field(event, field_names[f]) : NULL;
			if (!tracing.fields[t][f])
				errx(EXIT_FAILURE,
				     "the tracepoint %s has no field %s: install the kvm_throttle module of this command's version",
				     name, field_names[f]);
		}
	}
}

/* Remove the instance, however this process ends. */
static void remove_instance(void)
{
	for (int i = 0; i < tracing.nr_cpus; i++)
		close(tracing.cpus[i].pipe);
	tracing.nr_cpus = 0;
	if (tracing.instance && tracefs_instance_destroy(tracing.instance))
		warn("%s can't be removed", tracefs_instance_get_name(tracing.instance));
	tracefs_instance_free(tracing.instance);
	tracing.instance = NULL;
	kbuffer_free(tracing.kbuf);
	tep_free(tracing.tep);
	free(tracing.cpus);
	free(tracing.page);
	free(tracing.events);
}

/* Remove what a process that was killed has left behind. */
static void remove_stale(void)
{
	DIR *dir = opendir(INSTANCES);
	struct dirent *entry;
	int pid;

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		if (sscanf(entry->d_name, INSTANCE_NAME ".%d", &pid) == 1 &&
		    kill(pid, 0) && errno == ESRCH)
			unlinkat(dirfd(dir), entry->d_name, AT_REMOVEDIR);
	}
	closedir(dir);
}

static void create_instance(void)
{
	char name[64];

	if (access(TRACEFS "/events", F_OK) && errno == EACCES)
		errx(EXIT_FAILURE, "no permission to use " TRACEFS ": run as root");
	if (access(INSTANCES, F_OK))
		errx(EXIT_FAILURE,
		     TRACEFS " is missing: mount it with `mount -t tracefs nodev " TRACEFS "`");
	if (access(TRACEFS "/events/" SYSTEM, F_OK))
		errx(EXIT_FAILURE,
		     "there are no tracepoints of the module: load it with `modprobe kvm_throttle`");
	remove_stale();

	snprintf(name, sizeof(name), INSTANCE_NAME ".%d", getpid());
	tracing.instance = tracefs_instance_create(name);
	if (tracing.instance)
		return;
	if (errno == EACCES || errno == EPERM)
		errx(EXIT_FAILURE, "no permission to use " TRACEFS ": run as root");
	err(EXIT_FAILURE, INSTANCES);
}

static void open_cpus(void)
{
	char *path = tracefs_instance_get_file(tracing.instance, "per_cpu");
	DIR *dir = path ? opendir(path) : NULL;
	struct dirent *entry;

	if (!dir)
		err(EXIT_FAILURE, "%s", path ?: "per_cpu");
	while ((entry = readdir(dir))) {
		char name[300];
		int number, fd;

		if (sscanf(entry->d_name, "cpu%d", &number) != 1)
			continue;
		snprintf(name, sizeof(name), "%s/trace_pipe_raw", entry->d_name);
		fd = openat(dirfd(dir), name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			err(EXIT_FAILURE, "%s/%s", path, name);
		tracing.cpus = reallocarray(tracing.cpus, tracing.nr_cpus + 1,
					    sizeof(*tracing.cpus));
		if (!tracing.cpus)
			err(EXIT_FAILURE, "list of CPUs");
		tracing.cpus[tracing.nr_cpus].number = number;
		tracing.cpus[tracing.nr_cpus++].pipe = fd;
	}
	closedir(dir);
	tracefs_put_tracing_file(path);
}

/**
 * tracing_open() - begin to trace
 *
 * What is made for it is removed when this process exits.
 */
void tracing_open(void)
{
	/* It has opinions on other formats than ours. */
	tep_set_loglevel(TEP_LOG_NONE);
	create_instance();
	atexit(remove_instance);

	read_formats();
	tracing.kbuf = kbuffer_alloc(KBUFFER_LSIZE_SAME_AS_HOST,
				     KBUFFER_ENDIAN_SAME_AS_HOST);
	tracing.page = malloc(PAGE_MAX);
	if (!tracing.kbuf || !tracing.page)
		err(EXIT_FAILURE, "ring buffer");

	write_in("trace_clock", "mono");
	write_in("buffer_size_kb", BUFFER_KB);
	open_cpus();
	write_in("events/" SYSTEM "/enable", "1");
}

static void add_event(int cpu, uint64_t time_ns, void *data)
{
	struct tep_record record = { .data = data };
	int id = tep_data_type(tracing.tep, &record), type = 0;
	struct trace_event *e;

	while (type < NR_TRACE_TYPES && tracing.ids[type] != id)
		type++;
	if (type == NR_TRACE_TYPES)
		return;

	if (tracing.nr_events == tracing.room) {
		tracing.room = 2 * tracing.room + 1024;
		tracing.events = reallocarray(tracing.events, tracing.room,
					      sizeof(*tracing.events));
		if (!tracing.events)
			err(EXIT_FAILURE, "list of events");
	}
	e = &tracing.events[tracing.nr_events++];
	e->time_ns = time_ns;
	e->type = type;
	e->cpu = cpu;
	e->thread = tep_data_pid(tracing.tep, &record);
	for (int f = 0; f < NR_TRACE_FIELDS; f++)
		e->field[f] = read_field(tracing.fields[type][f], data);
}

static void read_page(int cpu)
{
	unsigned long long time_ns;
	void *data;

	if (kbuffer_load_subbuffer(tracing.kbuf, tracing.page))
		errx(EXIT_FAILURE, "ring buffer: not understood");
	for (data = kbuffer_read_event(tracing.kbuf, &time_ns); data;
	     data = kbuffer_next_event(tracing.kbuf, &time_ns))
		add_event(cpu, time_ns, data);
}

static int by_time(const void *a, const void *b)
{
	const struct trace_event *x = a, *y = b;

	return (x->time_ns > y->time_ns) - (x->time_ns < y->time_ns);
}

/**
 * tracing_read() - read what has happened, in the order of time
 * @before_ns: until when; by the time of this call, each CPU has to have
 *	finished with what it had to write of that
 * @handler: called for each event
 * @context: its second argument
 */
void tracing_read(uint64_t before_ns, trace_handler handler, void *context)
{
	size_t done = 0;
	ssize_t len;

	for (int i = 0; i < tracing.nr_cpus; i++) {
		while ((len = read(tracing.cpus[i].pipe, tracing.page, PAGE_MAX)) > 0)
			read_page(tracing.cpus[i].number);
		if (len < 0 && errno != EAGAIN && errno != EINTR)
			err(EXIT_FAILURE, "ring buffer of CPU %d", tracing.cpus[i].number);
	}

	if (tracing.nr_events)
		qsort(tracing.events, tracing.nr_events, sizeof(*tracing.events), by_time);
	while (done < tracing.nr_events &&
	       tracing.events[done].time_ns < before_ns)
		handler(&tracing.events[done++], context);
	if (!done)
		return;
	tracing.nr_events -= done;
	memmove(tracing.events, tracing.events + done,
		tracing.nr_events * sizeof(*tracing.events));
}

/* Add up a number that each CPU's "stats" has. */
static uint64_t sum_stats(const char *name)
{
	uint64_t sum = 0;

	for (int i = 0; i < tracing.nr_cpus; i++) {
		char file[64], *text, *at;

		snprintf(file, sizeof(file), "per_cpu/cpu%d/stats",
			 tracing.cpus[i].number);
		text = tracefs_instance_file_read(tracing.instance, file, NULL);
		if (!text)
			err(EXIT_FAILURE, "%s", file);
		at = strstr(text, name);
		if (at)
			sum += strtoull(at + strlen(name), NULL, 10);
		free(text);
	}
	return sum;
}

/**
 * tracing_lost() - how many events the ring buffers had no room for
 *
 * Return: how many, so far.
 */
uint64_t tracing_lost(void)
{
	return sum_stats("\noverrun: ") + sum_stats("\ncommit overrun: ") +
	       sum_stats("\ndropped events: ");
}

/** tracing_stop() - write no more into the ring buffers */
void tracing_stop(void)
{
	write_in("events/" SYSTEM "/enable", "0");
}
