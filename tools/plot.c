// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle plot: makes a picture of what `kvm-throttle record` wrote, with
 * gnuplot.  recording.c reads it, lateness.c judges it, picture.c draws it.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/kvm_throttle.h>

#include "command.h"
#include "picture.h"

/* How much of the recording is shown if the user doesn't say. */
#define PERIODS_DEFAULT	6

/* With more, it would be a grey area. */
#define PERIODS_MAX	2000

#define FROM_MAX_NS	(365 * 24 * 3600 * NSEC_PER_SEC)

/**
 * struct options - the command line
 * @pid: the process whose VMs are shown, 0 for all
 * @vm: the name of the VM that is shown, NULL for all
 * @from_ns: where to begin, since the beginning of the recording; UINT64_MAX if
 *	it isn't given
 * @for_ns: how much to show, 0 if it isn't given
 * @recording: file name, "-" for the standard input
 * @picture: file name, "-" for the standard output
 */
struct options {
	pid_t pid;
	const char *vm;
	uint64_t from_ns;
	uint64_t for_ns;
	const char *recording;
	const char *picture;
};

enum {
	OPTION_FOR = 256,
	OPTION_FROM,
	OPTION_VM,
};

static const struct argp_option argp_options[] = {
	{ "vm", OPTION_VM, "NAME", 0, "only the VM of this name", 0 },
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
	case OPTION_VM:
		o->vm = arg;
		return 0;
	case 'p':
		o->pid = option_pid(state, arg);
		return 0;
	case OPTION_FROM:
		if (parse_duration(arg, 0, FROM_MAX_NS, &o->from_ns))
			argp_failure(state, EXIT_USAGE, 0,
				     "--from: '%s' is not a time up to 8760h, such as 500ms or 1.25s",
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
 * struct extent - what a recording has
 * @first_ns: when its first window was to begin
 * @last_ns: when its last one ended, 0 if there are none
 * @period_ns: its longest period
 * @shortest_ns: its shortest
 */
struct extent {
	int64_t first_ns;
	int64_t last_ns;
	int64_t period_ns;
	int64_t shortest_ns;
};

static void add_period(struct extent *e, int64_t period_ns)
{
	if (period_ns > e->period_ns)
		e->period_ns = period_ns;
	if (period_ns < e->shortest_ns)
		e->shortest_ns = period_ns;
}

static struct extent find_extent(const struct recording *r)
{
	struct extent e = { .first_ns = INT64_MAX, .shortest_ns = INT64_MAX };

	for (size_t i = 0; i < r->nr_rows; i++) {
		for (size_t n = 0; n < r->rows[i].nr_windows; n++) {
			const struct window *w = &r->rows[i].windows[n];

			if (!w->open_ns)
				continue;
			if (w->planned_open_ns < e.first_ns)
				e.first_ns = w->planned_open_ns;
			if (w->end_ns > e.last_ns)
				e.last_ns = w->end_ns;
		}
	}
	for (size_t i = 0; i < r->nr_grids; i++) {
		if (r->grids[i].start_ns)
			add_period(&e, r->grids[i].period_ns);
	}
	/* Who recorded it wasn't allowed to read the settings. */
	if (!e.period_ns)
		add_period(&e, KVM_THROTTLE_PERIOD_DEFAULT_NS);
	return e;
}

/* Find what is to be shown. */
static void choose_range(struct picture *p, const struct options *o)
{
	const struct recording *r = p->r;
	struct extent e = find_extent(r);

	if (!e.last_ns)
		errx(EXIT_FAILURE,
		     "%s has no windows%s: was a VM throttled, and did it run?",
		     o->recording, o->pid ? " of that process" :
		     o->vm ? " of a VM of that name" : "");

	p->from_ns = e.first_ns < r->start_ns ? r->start_ns : e.first_ns;
	if (o->from_ns != UINT64_MAX)
		p->from_ns = r->start_ns + o->from_ns;
	p->to_ns = p->from_ns + ((int64_t)o->for_ns ?: PERIODS_DEFAULT * e.period_ns);
	if ((p->to_ns - p->from_ns) / e.shortest_ns > PERIODS_MAX)
		errx(EXIT_FAILURE,
		     "that is more than %d periods, too many to be seen: show less with --for",
		     PERIODS_MAX);
	if (p->from_ns > e.last_ns || p->to_ns < e.first_ns)
		errx(EXIT_FAILURE,
		     "there are no windows from %.3f to %.3f s; the recording has windows from %.3f to %.3f s",
		     picture_ms(p, p->from_ns) / 1e3, picture_ms(p, p->to_ns) / 1e3,
		     picture_ms(p, e.first_ns) / 1e3, picture_ms(p, e.last_ns) / 1e3);
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

/* What gnuplot calls each of its pictures... */
#define TITLE		"<title>Gnuplot</title>"

/* ...and what this one is called.  On dark pages, its lightness is inverted. */
#define OWN_TITLE	"<title>Run windows of vCPUs, as planned and as they were</title>\n" \
			"<desc>By `kvm-throttle plot`, of what `kvm-throttle record` wrote</desc>\n" \
			"<style>@media (prefers-color-scheme: dark) " \
			"{ svg { filter: invert(0.92) hue-rotate(180deg) } }</style>"

static void write_all(const struct options *o, int fd, const char *data, size_t len)
{
	ssize_t nr;

	for (size_t at = 0; at < len; at += nr) {
		nr = write(fd, data + at, len - at);
		if (nr < 0)
			err(EXIT_FAILURE, "%s", o->picture);
	}
}

/* Copy what gnuplot made to where it is wanted. */
static void save_picture(const struct options *o, FILE *made)
{
	char buffer[65536];
	int fd = STDOUT_FILENO;
	const char *title;
	size_t len;

	if (strcmp(o->picture, "-"))
		fd = open(o->picture, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0)
		err(EXIT_FAILURE, "%s", o->picture);
	rewind(made);
	len = fread(buffer, 1, sizeof(buffer), made);
	title = memmem(buffer, len, TITLE, strlen(TITLE));
	if (title) {
		write_all(o, fd, buffer, title - buffer);
		write_all(o, fd, OWN_TITLE, strlen(OWN_TITLE));
		title += strlen(TITLE);
		write_all(o, fd, title, buffer + len - title);
	} else {
		write_all(o, fd, buffer, len);
	}
	while ((len = fread(buffer, 1, sizeof(buffer), made)) > 0)
		write_all(o, fd, buffer, len);
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

/* Is @path the regular file that @file tells of? */
static bool is_file(const char *path, const struct stat *file)
{
	struct stat it;

	return !stat(path, &it) && S_ISREG(it.st_mode) &&
	       it.st_dev == file->st_dev && it.st_ino == file->st_ino;
}

/* Open the recording, which the picture must not replace. */
static FILE *open_recording(const struct options *o)
{
	bool piped = !strcmp(o->recording, "-");
	struct stat from;
	FILE *file;

	if (piped ? fstat(STDIN_FILENO, &from) : stat(o->recording, &from))
		err(EXIT_FAILURE, "%s", o->recording);
	if (strcmp(o->picture, "-") && is_file(o->picture, &from))
		errx(EXIT_USAGE,
		     "%s is the recording: give the picture a name of its own",
		     o->picture);
	file = piped ? stdin : fopen(o->recording, "re");
	if (!file)
		err(EXIT_FAILURE, "%s", o->recording);
	return file;
}

static void warn_if_incomplete(const struct recording *r)
{
	if (r->lost)
		warnx("%s: %lld events were lost when it was made, so windows are missing or incomplete",
		      r->path, (long long)r->lost);
	if (!r->whole)
		warnx("%s: the recording has no end: it was cut short", r->path);
}

int plot_command(int argc, char **argv)
{
	struct options o = { .from_ns = UINT64_MAX };
	struct recording r = { 0 };
	struct picture p = { .r = &r };
	FILE *file, *made;
	struct sums sums;
	int status;
	pid_t pid;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	r.path = o.recording;
	r.pid = o.pid;
	r.vm_name = o.vm;
	file = open_recording(&o);
	recording_read(&r, file);
	if (file != stdin)
		fclose(file);
	choose_range(&p, &o);
	sums = lateness_judge(&r);

	/* It says itself what it died of. */
	signal(SIGPIPE, SIG_IGN);
	made = tmpfile();
	if (!made)
		err(EXIT_FAILURE, "temporary file");
	pid = start_gnuplot(made, &p.gnuplot);
	picture_draw(&p, &sums);
	fclose(p.gnuplot);
	if (waitpid(pid, &status, 0) < 0 || status)
		errx(EXIT_FAILURE, "gnuplot failed");
	save_picture(&o, made);
	fclose(made);
	warn_if_incomplete(&r);
	show_worst(&r, &sums);
	recording_free(&r);
	return EXIT_SUCCESS;
}
