// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The module's tracepoints, read from a private instance of the kernel's tracing
 * that goes with this process.
 *
 * Each CPU has a ring buffer, whose pages are read as the kernel wrote them:
 * text has no more than microseconds.  What a page holds is told by header_page
 * and header_event in tracefs, and what an event holds by the file "format" of
 * its tracepoint.
 */
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tracefs.h"

#define TRACEFS		"/sys/kernel/tracing"
#define INSTANCES	TRACEFS "/instances"
#define INSTANCE_NAME	"kvm-throttle"
#define SYSTEM		"kvm_throttle"

/* For each CPU.  A thousand vCPUs of one CPU fill it in 50 ms. */
#define BUFFER_KB	"1024"

/* A page of the ring buffer isn't larger. */
#define PAGE_MAX	(1024 * 1024)

/* Of an event's first word the lower bits are its type, or its length... */
#define TYPE_LEN_BITS	5
#define TYPE_LEN_MASK	((1U << TYPE_LEN_BITS) - 1)
#define TYPE_PADDING	29
#define TYPE_TIME_EXTEND	30
#define TYPE_TIME_STAMP	31

/* ...and the others the time since the event before. */
#define TIME_BITS	27

/* A time stamp has no room for these bits; they are as before. */
#define TIME_STAMP_MISSING	(0xf8ULL << 56)

/* The upper bits of a page's length are flags. */
#define COMMIT_MASK	((1U << 27) - 1)

/* Where in a record of a tracepoint a field is; size 0 if there is none. */
struct place {
	unsigned int offset;
	unsigned int size;
	bool is_signed;
};

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
 * struct tracefs - the private instance
 * @path: its directory, empty if there is none
 * @cpus: the CPUs: their numbers, and their trace_pipe_raw
 * @nr_cpus: how many they are
 * @commit: where a page says how much of it is used
 * @data: where a page's events begin
 * @page: a page
 * @ids: the tracepoints' numbers
 * @common_type: where an event has its tracepoint's number
 * @common_pid: where it has the thread
 * @places: where it has its fields
 * @events: those that have been read and not yet handed on
 * @nr_events: how many they are
 * @room: how many there is room for
 */
static struct tracefs {
	char path[64];
	struct {
		int number;
		int pipe;
	} *cpus;
	int nr_cpus;
	struct place commit;
	unsigned int data;
	char *page;
	unsigned int ids[NR_TRACE_TYPES];
	struct place common_type;
	struct place common_pid;
	struct place places[NR_TRACE_TYPES][NR_TRACE_FIELDS];
	struct trace_event *events;
	size_t nr_events;
	size_t room;
} tracefs;

static int open_in(const char *dir, const char *name, int flags)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return open(path, flags | O_CLOEXEC);
}

static void write_in(const char *dir, const char *name, const char *value)
{
	int fd = open_in(dir, name, O_WRONLY);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		err(EXIT_FAILURE, "%s/%s", dir, name);
	close(fd);
}

/* Read a small file of tracefs's whole. */
static void read_in(const char *dir, const char *name, char *text, size_t size)
{
	int fd = open_in(dir, name, O_RDONLY);
	ssize_t len = fd < 0 ? -1 : read(fd, text, size - 1);

	if (len < 0)
		err(EXIT_FAILURE, "%s/%s", dir, name);
	text[len] = '\0';
	close(fd);
}

/* Find a field in the text of "format" or "header_page". */
static struct place find_place(const char *format, const char *name)
{
	size_t len = strlen(name);
	struct place place = { 0 };
	const char *semicolon = format;
	int is_signed = 0;

	while ((semicolon = strstr(semicolon, ";\toffset:"))) {
		/* "type name" or "type name[size]". */
		if ((size_t)(semicolon - format) > len &&
		    !strncmp(semicolon - len, name, len) &&
		    semicolon[-len - 1] == ' ' &&
		    sscanf(semicolon, ";\toffset:%u;\tsize:%u;\tsigned:%d",
			   &place.offset, &place.size, &is_signed) == 3) {
			place.is_signed = is_signed;
			return place;
		}
		semicolon++;
	}
	return (struct place) { 0 };
}

static uint64_t read_place(const char *record, struct place place)
{
	const char *at = record + place.offset;

	switch (place.size) {
	case 1:
		return place.is_signed ? (int64_t)*(int8_t *)at : *(uint8_t *)at;
	case 2:
		return place.is_signed ? (int64_t)*(int16_t *)at : *(uint16_t *)at;
	case 4:
		return place.is_signed ? (int64_t)*(int32_t *)at : *(uint32_t *)at;
	case 8:
		return *(uint64_t *)at;
	default:
		return 0;
	}
}

static void read_format(enum trace_type type)
{
	char dir[96], text[4096];
	const char *id;

	snprintf(dir, sizeof(dir), TRACEFS "/events/" SYSTEM "/" SYSTEM "_%s",
		 types[type].name);
	read_in(dir, "format", text, sizeof(text));
	id = strstr(text, "ID: ");
	tracefs.ids[type] = id ? atoi(id + strlen("ID: ")) : 0;
	tracefs.common_type = find_place(text, "common_type");
	tracefs.common_pid = find_place(text, "common_pid");
	for (int f = 0; f < NR_TRACE_FIELDS; f++) {
		struct place place = find_place(text, field_names[f]);

		if (!(types[type].fields & (1U << f)))
			continue;
		if (!place.size)
			errx(EXIT_FAILURE,
			     "the tracepoint " SYSTEM "_%s has no field %s: install the kvm_throttle module of this command's version",
			     types[type].name, field_names[f]);
		tracefs.places[type][f] = place;
	}
}

/* Remove the instance, however this process ends. */
static void remove_instance(void)
{
	for (int i = 0; i < tracefs.nr_cpus; i++)
		close(tracefs.cpus[i].pipe);
	tracefs.nr_cpus = 0;
	if (*tracefs.path && rmdir(tracefs.path))
		warn("%s: can't be removed", tracefs.path);
	*tracefs.path = '\0';
	free(tracefs.cpus);
	free(tracefs.page);
	free(tracefs.events);
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
	if (access(TRACEFS "/events", F_OK) && errno == EACCES)
		errx(EXIT_FAILURE, "no permission to use " TRACEFS ": run as root");
	if (access(INSTANCES, F_OK))
		errx(EXIT_FAILURE,
		     TRACEFS " is missing: mount it with `mount -t tracefs nodev " TRACEFS "`");
	if (access(TRACEFS "/events/" SYSTEM, F_OK))
		errx(EXIT_FAILURE,
		     "there are no tracepoints of the module: load it with `modprobe kvm_throttle`");
	remove_stale();

	snprintf(tracefs.path, sizeof(tracefs.path), INSTANCES "/" INSTANCE_NAME ".%d",
		 getpid());
	if (!mkdir(tracefs.path, 0700))
		return;
	*tracefs.path = '\0';
	if (errno == EACCES || errno == EPERM)
		errx(EXIT_FAILURE, "no permission to use " TRACEFS ": run as root");
	err(EXIT_FAILURE, INSTANCES);
}

static void open_cpus(void)
{
	char path[96];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/per_cpu", tracefs.path);
	dir = opendir(path);
	if (!dir)
		err(EXIT_FAILURE, "%s", path);
	while ((entry = readdir(dir))) {
		char name[300];
		int number, fd;

		if (sscanf(entry->d_name, "cpu%d", &number) != 1)
			continue;
		snprintf(name, sizeof(name), "%s/trace_pipe_raw", entry->d_name);
		fd = openat(dirfd(dir), name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			err(EXIT_FAILURE, "%s/%s", path, name);
		tracefs.cpus = reallocarray(tracefs.cpus, tracefs.nr_cpus + 1,
					    sizeof(*tracefs.cpus));
		if (!tracefs.cpus)
			err(EXIT_FAILURE, "list of CPUs");
		tracefs.cpus[tracefs.nr_cpus].number = number;
		tracefs.cpus[tracefs.nr_cpus++].pipe = fd;
	}
	closedir(dir);
}

/**
 * tracefs_open() - begin to trace
 *
 * What is made for it is removed when this process exits.
 */
void tracefs_open(void)
{
	char text[1024];

	create_instance();
	atexit(remove_instance);

	read_in(TRACEFS "/events", "header_page", text, sizeof(text));
	tracefs.commit = find_place(text, "commit");
	tracefs.data = find_place(text, "data").offset;
	if (!tracefs.commit.size || !tracefs.data)
		errx(EXIT_FAILURE, TRACEFS "/events/header_page: not understood");
	for (int t = 0; t < NR_TRACE_TYPES; t++)
		read_format(t);
	tracefs.page = malloc(PAGE_MAX);
	if (!tracefs.page)
		err(EXIT_FAILURE, "ring buffer");

	write_in(tracefs.path, "trace_clock", "mono");
	write_in(tracefs.path, "buffer_size_kb", BUFFER_KB);
	open_cpus();
	write_in(tracefs.path, "events/" SYSTEM "/enable", "1");
}

static void add_event(int cpu, uint64_t time_ns, const char *record)
{
	unsigned int id = read_place(record, tracefs.common_type);
	struct trace_event *e;
	int type = 0;

	while (type < NR_TRACE_TYPES && tracefs.ids[type] != id)
		type++;
	if (type == NR_TRACE_TYPES)
		return;

	if (tracefs.nr_events == tracefs.room) {
		tracefs.room = 2 * tracefs.room + 1024;
		tracefs.events = reallocarray(tracefs.events, tracefs.room,
					      sizeof(*tracefs.events));
		if (!tracefs.events)
			err(EXIT_FAILURE, "list of events");
	}
	e = &tracefs.events[tracefs.nr_events++];
	e->time_ns = time_ns;
	e->type = type;
	e->cpu = cpu;
	e->thread = read_place(record, tracefs.common_pid);
	for (int f = 0; f < NR_TRACE_FIELDS; f++)
		e->field[f] = read_place(record, tracefs.places[type][f]);
}

/* An event is aligned to 4 bytes. */
static uint32_t word(const char *at)
{
	return *(const uint32_t *)at;
}

static void read_page(int cpu, const char *page, size_t size)
{
	uint64_t time = *(const uint64_t *)page;
	size_t used = read_place(page, tracefs.commit) & COMMIT_MASK;
	const char *at = page + tracefs.data;
	const char *end = at + used;

	if (end > page + size)
		errx(EXIT_FAILURE, "ring buffer: not understood");
	while (at + sizeof(uint32_t) <= end) {
		uint32_t type_len = word(at) & TYPE_LEN_MASK;
		uint64_t delta = word(at) >> TYPE_LEN_BITS;

		at += sizeof(uint32_t);
		switch (type_len) {
		case TYPE_PADDING:
			/* The rest of the page is empty. */
			if (!delta)
				return;
			at += word(at);
			break;
		case TYPE_TIME_EXTEND:
			time += ((uint64_t)word(at) << TIME_BITS) + delta;
			at += sizeof(uint32_t);
			break;
		case TYPE_TIME_STAMP:
			time = (time & TIME_STAMP_MISSING) |
			       ((uint64_t)word(at) << TIME_BITS) | delta;
			at += sizeof(uint32_t);
			break;
		case 0:
			/* The length, which counts itself, comes first. */
			time += delta;
			add_event(cpu, time, at + sizeof(uint32_t));
			at += word(at);
			break;
		default:
			time += delta;
			add_event(cpu, time, at);
			at += type_len * sizeof(uint32_t);
		}
	}
}

static int by_time(const void *a, const void *b)
{
	const struct trace_event *x = a, *y = b;

	return (x->time_ns > y->time_ns) - (x->time_ns < y->time_ns);
}

/**
 * tracefs_read() - read what has happened, in the order of time
 * @before_ns: until when; by the time of this call, each CPU has to have
 *	finished with what it had to write of that
 * @handler: called for each event
 * @context: its second argument
 */
void tracefs_read(uint64_t before_ns, trace_handler handler, void *context)
{
	size_t done = 0;
	ssize_t len;

	for (int i = 0; i < tracefs.nr_cpus; i++) {
		while ((len = read(tracefs.cpus[i].pipe, tracefs.page, PAGE_MAX)) > 0)
			read_page(tracefs.cpus[i].number, tracefs.page, len);
		if (len < 0 && errno != EAGAIN && errno != EINTR)
			err(EXIT_FAILURE, "%s: ring buffer", tracefs.path);
	}

	qsort(tracefs.events, tracefs.nr_events, sizeof(*tracefs.events), by_time);
	while (done < tracefs.nr_events &&
	       tracefs.events[done].time_ns < before_ns)
		handler(&tracefs.events[done++], context);
	tracefs.nr_events -= done;
	memmove(tracefs.events, tracefs.events + done,
		tracefs.nr_events * sizeof(*tracefs.events));
}

/* Add up a number that each CPU's "stats" has. */
static uint64_t sum_stats(const char *name)
{
	uint64_t sum = 0;

	for (int i = 0; i < tracefs.nr_cpus; i++) {
		char dir[96], text[512];
		const char *at;

		snprintf(dir, sizeof(dir), "%s/per_cpu/cpu%d", tracefs.path,
			 tracefs.cpus[i].number);
		read_in(dir, "stats", text, sizeof(text));
		at = strstr(text, name);
		if (at)
			sum += strtoull(at + strlen(name), NULL, 10);
	}
	return sum;
}

/**
 * tracefs_lost() - how many events the ring buffers had no room for
 *
 * Return: how many, so far.
 */
uint64_t tracefs_lost(void)
{
	return sum_stats("\noverrun: ") + sum_stats("\ncommit overrun: ") +
	       sum_stats("\ndropped events: ");
}

/** tracefs_stop() - write no more into the ring buffers */
void tracefs_stop(void)
{
	write_in(tracefs.path, "events/" SYSTEM "/enable", "0");
}
