// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Output that is never waited for.
 *
 * A write can block for ever: to a pipe whose reader has stopped, to a terminal after
 * Ctrl-S, to a file whose disk hangs.  No flag prevents that.  O_NONBLOCK does nothing
 * for files, and for pipes and terminals it would affect all who share them.  So another
 * process writes, which has no throttle.  It gets the text through a socket.  What the
 * socket doesn't take is kept here, up to a bound.  Beyond that, whole lines are dropped.
 *
 * stdout and stderr become streams that write there.  So whoever prints need not know.
 */
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"
#include "helper.h"
#include "output.h"

/* A stream is flushed by whoever prints, and that at the end of a line. */
#define STREAM_BYTES	(1024 * 1024)

/* What is kept for a reader that is slow. */
#define KEPT_BYTES	(256 * 1024)

/* How long the end waits for the last lines to be written. */
#define FINISH_MS	50

/* After that the writer has so much more time, without this process. */
#define ORPHAN_S	10

/**
 * struct output - a file, and the process that writes it
 * @name: what it is called in messages
 * @full: what to do if it doesn't take any more
 * @signals: signalfd for those that end waiting
 * @writer: the process
 * @socket: to it; what comes back is the number of an error
 * @stream: what to print to
 * @kept: what the socket didn't take
 * @nr_kept: how many bytes that are
 * @dropped: how many bytes are lost since the last notice
 * @error: the first error in writing, 0 if there was none
 * @told: whoever prints has been told of it
 */
struct output {
	const char *name;
	enum output_full full;
	int signals;
	pid_t writer;
	int socket;
	FILE *stream;
	char *kept;
	size_t nr_kept;
	unsigned long long dropped;
	int error;
	bool told;
};

/*
 * A file, if there is one; the standard output; errors.  They are finished in this order,
 * as failures are told on stderr, which may be the same as the standard output.
 */
enum {
	OUTPUT_FILE,
	OUTPUT_STANDARD,
	OUTPUT_ERRORS,
	NR_OUTPUTS,
};

static struct output outputs[NR_OUTPUTS];

/* --- the writer ----------------------------------------------------------- */

/* Returns 0, or the number of an error. */
static int write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t done = write(fd, data, len);
		struct pollfd room = { .fd = fd, .events = POLLOUT };

		/* Somebody else's flag. */
		if (done < 0 && errno == EAGAIN)
			poll(&room, 1, -1);
		if (done < 0 && errno != EINTR && errno != EAGAIN)
			return errno;
		if (done > 0) {
			data += done;
			len -= done;
		}
	}
	return 0;
}

static void end_soon(int signal)
{
	(void)signal;
	alarm(ORPHAN_S);
}

/* From a socket, 0, to the file, 1. */
static _Noreturn void be_writer(void)
{
	static char data[65536];
	ssize_t len;

	signal(SIGALRM, SIG_DFL);
	signal(SIGUSR1, end_soon);
	prctl(PR_SET_PDEATHSIG, SIGUSR1);
	while ((len = recv(0, data, sizeof(data), 0))) {
		int error = len < 0 ? 0 : write_all(1, data, len);

		if (error)
			send(0, &error, sizeof(error), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (error == EPIPE)
			break;
	}
	_exit(0);
}

static void start_writer(struct output *o, int fd)
{
	int sockets[2], files[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
		err(EXIT_FAILURE, "socketpair");
	files[0] = sockets[1];
	files[1] = fd;
	o->writer = helper_spawn(files, 2);
	if (o->writer < 0)
		err(EXIT_FAILURE, "fork");
	if (!o->writer)
		be_writer();
	close(sockets[1]);
	o->socket = sockets[0];
}

/* --- this side ------------------------------------------------------------ */

/* Look whether the writer has met an error. */
static void read_error(struct output *o)
{
	int error;

	while (recv(o->socket, &error, sizeof(error), MSG_DONTWAIT) == sizeof(error)) {
		if (!o->error)
			o->error = error;
	}
}

/* What the socket takes at once goes; returns how much that is. */
static size_t send_some(struct output *o, const char *data, size_t len)
{
	size_t sent = 0;

	while (sent < len) {
		ssize_t now = send(o->socket, data + sent, len - sent,
				   MSG_DONTWAIT | MSG_NOSIGNAL);

		if (now < 0 && errno == EINTR)
			continue;
		if (now < 0 && errno != EAGAIN) {
			/* The writer has gone, as the reader has. */
			read_error(o);
			return len;
		}
		if (now <= 0)
			break;
		sent += now;
	}
	return sent;
}

static void send_kept(struct output *o)
{
	size_t sent;

	if (!o->nr_kept)
		return;
	sent = send_some(o, o->kept, o->nr_kept);
	memmove(o->kept, o->kept + sent, o->nr_kept - sent);
	o->nr_kept -= sent;
}

/* Wait until more can be sent; false if a signal comes, or @ms have passed. */
static bool wait_for_room(struct output *o, int signals, int ms)
{
	struct pollfd fds[] = {
		{ .fd = o->socket, .events = POLLOUT },
		{ .fd = signals, .events = POLLIN },
	};
	int nr;

	do {
		nr = poll(fds, 2, ms);
	} while (nr < 0 && errno == EINTR);
	return nr > 0 && !fds[1].revents;
}

/* Keep what isn't sent.  If there is no room, drop all that was flushed at once. */
static void keep(struct output *o, const char *data, size_t len)
{
	char *more;

	if (o->nr_kept && o->nr_kept + len > KEPT_BYTES) {
		o->dropped += len;
		return;
	}
	more = realloc(o->kept, o->nr_kept + len);
	if (!more) {
		o->dropped += len;
		return;
	}
	memcpy(more + o->nr_kept, data, len);
	o->kept = more;
	o->nr_kept += len;
}

static void say_dropped(struct output *o)
{
	unsigned long long dropped = o->dropped;

	if (!dropped || o->nr_kept)
		return;
	o->dropped = 0;
	warnx("%s: %llu bytes were dropped, as nobody read them in time", o->name, dropped);
}

static ssize_t write_stream(void *cookie, const char *data, size_t len)
{
	struct output *o = cookie;
	size_t sent = 0;

	send_kept(o);
	while (o->full == OUTPUT_WAIT && o->nr_kept && wait_for_room(o, o->signals, -1))
		send_kept(o);
	if (!o->nr_kept)
		sent = send_some(o, data, len);
	while (o->full == OUTPUT_WAIT && sent < len && wait_for_room(o, o->signals, -1))
		sent += send_some(o, data + sent, len - sent);
	if (sent < len)
		keep(o, data + sent, len - sent);
	read_error(o);
	/* As if it had been written here. */
	if (o->error == EPIPE && o == &outputs[OUTPUT_STANDARD]) {
		raise(SIGPIPE);
		o->told = true;
		errno = EPIPE;
		return 0;
	}
	if (o != &outputs[OUTPUT_ERRORS])
		say_dropped(o);
	return len;
}

static FILE *open_stream(struct output *o, int mode)
{
	static const cookie_io_functions_t functions = { .write = write_stream };
	FILE *stream = fopencookie(o, "w", functions);

	if (!stream || setvbuf(stream, NULL, mode, STREAM_BYTES))
		err(EXIT_FAILURE, "%s", o->name);
	return stream;
}

static void open_output(struct output *o, int fd, const char *name, int mode)
{
	*o = (struct output) { .name = name, .signals = -1 };
	start_writer(o, fd);
	o->stream = open_stream(o, mode);
}

/* What is left has until @until_ns to be written. */
static void finish(struct output *o, uint64_t until_ns)
{
	struct pollfd end = { .fd = o->socket };
	uint64_t now;

	fflush(o->stream);
	while (o->nr_kept && (now = now_ns()) < until_ns &&
	       wait_for_room(o, -1, (until_ns - now) / NSEC_PER_MSEC + 1))
		send_kept(o);
	say_dropped(o);
	fflush(o->stream);
	shutdown(o->socket, SHUT_WR);
	/* The writer ends when it has written all. */
	while ((now = now_ns()) < until_ns) {
		if (poll(&end, 1, (until_ns - now) / NSEC_PER_MSEC + 1) > 0 &&
		    end.revents & POLLHUP)
			break;
		read_error(o);
	}
	read_error(o);
	waitpid(o->writer, NULL, WNOHANG);
	close(o->socket);
	free(o->kept);
}

/*
 * Write what is left, without waiting for long.  Errors in writing are told on
 * stderr.  Returns false if there were any.
 */
static bool finish_all(void)
{
	uint64_t until_ns = now_ns() + FINISH_MS * NSEC_PER_MSEC;
	bool right = true;

	for (int i = 0; i < NR_OUTPUTS; i++) {
		struct output *o = &outputs[i];

		if (!o->stream)
			continue;
		fflush(stderr);
		finish(o, until_ns);
		o->stream = NULL;
		if (!o->error || i == OUTPUT_ERRORS)
			continue;
		right = false;
		if (!o->told)
			warnx("%s: %s", o->name, strerror(o->error));
	}
	return right;
}

static void finish_at_exit(int status, void *unused)
{
	(void)unused;
	if (!finish_all() && status == EXIT_SUCCESS)
		_exit(EXIT_FAILURE);
}

static bool is_same_file(int fd1, int fd2)
{
	struct stat a, b;

	return !fstat(fd1, &a) && !fstat(fd2, &b) && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

/**
 * output_stdio() - never wait for the standard output, nor for that of errors
 * @full: what to do if nobody takes it; of errors, what is too much is dropped
 * @signals: what open_signals() returned, for OUTPUT_WAIT; or -1
 *
 * stdout and stderr are other streams from here on.  What is printed has to be
 * flushed at the end of a line.  To be called before there is a throttle.
 */
void output_stdio(enum output_full full, int signals)
{
	struct output *out = &outputs[OUTPUT_STANDARD], *errors = &outputs[OUTPUT_ERRORS];

	fflush(stdout);
	open_output(out, STDOUT_FILENO, "standard output", _IOFBF);
	out->full = full;
	out->signals = signals;
	stdout = out->stream;
	/* In the same file they have to stay in order. */
	if (is_same_file(STDOUT_FILENO, STDERR_FILENO)) {
		stderr = open_stream(out, _IOLBF);
	} else {
		open_output(errors, STDERR_FILENO, "standard error", _IOLBF);
		stderr = errors->stream;
	}
	on_exit(finish_at_exit, NULL);
}

/**
 * output_open() - never wait for a file, of which there can be one
 * @fd: the file, which the caller may close
 * @name: what it is called in messages
 *
 * What doesn't fit is dropped.  To be called before there is a throttle.
 *
 * Return: what to print to; what is printed has to be flushed at the end of a line.
 */
FILE *output_open(int fd, const char *name)
{
	open_output(&outputs[OUTPUT_FILE], fd, name, _IOFBF);
	return outputs[OUTPUT_FILE].stream;
}
