// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A QEMU's monitor: its own socket, or what libvirt.c passes on.
 *
 * One command is on its way at a time.  Nothing here waits: what QEMU sends is read
 * when it comes, in whatever pieces, and functions are called then.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "command.h"
#include "qmp.h"

/* A QEMU that takes longer to greet serves somebody else. */
#define GREETING_S	5

/* A longer answer isn't QMP.  What is asked for here takes some KiB. */
#define ANSWER_MAX	(1024 * 1024)

/* If more comes in a second, it isn't a monitor, and to read it would keep others waiting. */
#define FLOOD		(4 * 1024 * 1024)

/* So much is looked at of what isn't QMP. */
#define HEAD_LEN	64

/* How far a QMP session is: it goes through these one after the other. */
enum state {
	GREETING,
	NEGOTIATING,
	READY,
	/* Nothing comes any more. */
	CLOSED,
};

/**
 * struct input - what comes from a monitor
 * @tokener: reads it
 * @len: how long the answer is so far that is being read
 * @second_ns: when a second began
 * @second_len: how much has come in that second
 * @head: what came first, to say what it is if it isn't QMP
 * @head_len: the length of that
 */
struct input {
	struct json_tokener *tokener;
	size_t len;
	uint64_t second_ns;
	size_t second_len;
	char head[HEAD_LEN];
	size_t head_len;
};

/**
 * struct output - what goes to a monitor
 * @data: what the socket didn't take yet, or NULL
 * @len: the length of that
 */
struct output {
	char *data;
	size_t len;
};

/**
 * struct command - the command that is on its way, or was last
 * @id: its number
 * @answered: whom to tell what came of it; NULL if none is on its way
 * @asked_ns: when it was sent
 */
struct command {
	int64_t id;
	qmp_answer_fn *answered;
	uint64_t asked_ns;
};

/**
 * struct qmp - a monitor
 * @loop: what waits for it
 * @handlers: whom to tell
 * @watch: its socket
 * @greeting: how long to wait for the greeting
 * @state: how far the session is
 * @in: what comes
 * @out: what goes
 * @command: what it is asked
 * @in_use: functions of this file that are running
 * @freed: qmp_close() was called meanwhile
 */
struct qmp {
	struct loop *loop;
	struct qmp_handlers handlers;
	struct loop_watch watch;
	struct loop_timer greeting;
	enum state state;
	struct input in;
	struct output out;
	struct command command;
	unsigned int in_use;
	bool freed;
};

static void destroy(struct qmp *q)
{
	json_tokener_free(q->in.tokener);
	free(q->out.data);
	free(q);
}

static void enter(struct qmp *q)
{
	q->in_use++;
}

static void leave(struct qmp *q)
{
	if (!--q->in_use && q->freed)
		destroy(q);
}

static void fail(struct qmp *q, const char *why)
{
	if (q->state == CLOSED)
		return;
	q->state = CLOSED;
	q->command.answered = NULL;
	loop_stop(q->loop, &q->greeting);
	loop_remove(q->loop, &q->watch);
	q->handlers.closed(q->handlers.context, why);
}

/* --- what comes ----------------------------------------------------------- */

static void take_answer(struct qmp *q, struct json_object *whole)
{
	struct json_object *answer, *id = json_member(whole, "id");
	qmp_answer_fn *answered = q->command.answered;
	enum qmp_result result = QMP_OK;

	/* To a command that nobody waits for any more, or of another client. */
	if (!answered || (id && json_object_get_int64(id) != q->command.id))
		return;
	if (!json_object_object_get_ex(whole, "return", &answer)) {
		const char *class;

		answer = json_member(whole, "error");
		if (!json_object_is_type(answer, json_type_object)) {
			fail(q, "this is not QMP: neither a result nor an error");
			return;
		}
		class = json_object_get_string(json_member(answer, "class"));
		result = class && !strcmp(class, "Unreached") ? QMP_UNREACHED : QMP_ERROR;
	}
	q->command.answered = NULL;
	answered(q->handlers.context, result, answer);
}

static void send_line(struct qmp *q, const char *line);

static void take_greeting(struct qmp *q, struct json_object *whole)
{
	if (!json_member(whole, "QMP")) {
		fail(q, "this is not QMP: no greeting");
		return;
	}
	q->state = NEGOTIATING;
	send_line(q, "{\"execute\":\"qmp_capabilities\",\"id\":0}\n");
}

static void take_negotiated(struct qmp *q, struct json_object *whole)
{
	struct json_object *error = json_member(whole, "error");

	loop_stop(q->loop, &q->greeting);
	q->state = READY;
	if (error)
		fail(q, qmp_error(error));
	else
		q->handlers.ready(q->handlers.context);
}

static void take_object(struct qmp *q, struct json_object *whole)
{
	struct json_object *event;

	if (json_object_object_get_ex(whole, "event", &event)) {
		const char *name = json_object_get_string(event);

		/* Before that, they are of no use. */
		if (q->state == READY && name)
			q->handlers.event(q->handlers.context, name, json_member(whole, "data"));
	} else if (q->state == GREETING) {
		take_greeting(q, whole);
	} else if (q->state == NEGOTIATING) {
		take_negotiated(q, whole);
	} else {
		take_answer(q, whole);
	}
}

/* It doesn't parse.  What may it be? */
static void fail_parse(struct qmp *q, enum json_tokener_error error)
{
	char why[160];

	if (q->state == GREETING && memmem(q->in.head, q->in.head_len, "monitor - type 'help'", 21))
		snprintf(why, sizeof(why),
			 "this is QEMU's monitor for people: give the socket of its -qmp");
	else
		snprintf(why, sizeof(why), "this is not QMP: %s",
			 json_tokener_error_desc(error));
	fail(q, why);
}

static bool is_space(const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (!strchr(" \t\r\n", data[i]) || !data[i])
			return false;
	}
	return true;
}

static void parse(struct qmp *q, const char *data, size_t len)
{
	while (len && q->state != CLOSED) {
		struct json_object *whole = json_tokener_parse_ex(q->in.tokener, data, len);
		enum json_tokener_error error = json_tokener_get_error(q->in.tokener);
		size_t used = json_tokener_get_parse_end(q->in.tokener);

		if (error == json_tokener_continue) {
			/* What is between two of them isn't a part of the next. */
			q->in.len += q->in.len || !is_space(data, len) ? len : 0;
			if (q->in.len > ANSWER_MAX)
				fail(q, "this is not QMP: it doesn't end");
			return;
		}
		if (error != json_tokener_success) {
			fail_parse(q, error);
			return;
		}
		q->in.len = 0;
		data += used;
		len -= used;
		if (json_object_is_type(whole, json_type_object))
			take_object(q, whole);
		else
			fail(q, "this is not QMP: not an object");
		json_object_put(whole);
	}
}

static bool is_flood(struct qmp *q, size_t len)
{
	uint64_t now = now_ns();

	if (now >= q->in.second_ns + NSEC_PER_SEC) {
		q->in.second_ns = now;
		q->in.second_len = 0;
	}
	q->in.second_len += len;
	return q->in.second_len > FLOOD;
}

static void receive(struct qmp *q)
{
	static char data[65536];

	for (;;) {
		ssize_t len = recv(q->watch.fd, data, sizeof(data), MSG_DONTWAIT);

		if (len < 0 && errno == EINTR)
			continue;
		if (len < 0 && errno == EAGAIN)
			return;
		if (len <= 0) {
			fail(q, NULL);
			return;
		}
		if (q->in.head_len < sizeof(q->in.head)) {
			size_t room = sizeof(q->in.head) - q->in.head_len;
			size_t more = (size_t)len < room ? (size_t)len : room;

			memcpy(q->in.head + q->in.head_len, data, more);
			q->in.head_len += more;
		}
		if (is_flood(q, len)) {
			fail(q, "it sends more than a monitor has to say");
			return;
		}
		parse(q, data, len);
		if (q->state == CLOSED)
			return;
		/* The rest, if there is any, is announced again. */
		if ((size_t)len < sizeof(data))
			return;
	}
}

/* --- what goes ------------------------------------------------------------ */

static void send_out(struct qmp *q)
{
	size_t done = 0;

	while (done < q->out.len) {
		ssize_t len = send(q->watch.fd, q->out.data + done, q->out.len - done,
				   MSG_DONTWAIT | MSG_NOSIGNAL);

		if (len < 0 && errno == EINTR)
			continue;
		/* An end is seen by reading, and what came before it. */
		if (len < 0)
			break;
		done += len;
	}
	memmove(q->out.data, q->out.data + done, q->out.len - done);
	q->out.len -= done;
	loop_change(q->loop, &q->watch, q->out.len ? POLLIN | POLLOUT : POLLIN);
}

static void send_line(struct qmp *q, const char *line)
{
	size_t len = strlen(line);
	char *more = realloc(q->out.data, q->out.len + len);

	if (!more)
		err(EXIT_FAILURE, "monitor");
	memcpy(more + q->out.len, line, len);
	q->out.data = more;
	q->out.len += len;
	send_out(q);
}

static void is_ready(void *context, short revents)
{
	struct qmp *q = context;

	enter(q);
	if (revents & POLLOUT)
		send_out(q);
	if (revents & ~POLLOUT)
		receive(q);
	leave(q);
}

static void greeting_is_late(void *context)
{
	struct qmp *q = context;

	enter(q);
	fail(q, q->state == NEGOTIATING ? "QEMU doesn't answer" :
	     "no greeting: a monitor serves one client; start QEMU with a second -qmp for this one, or give libvirt's domain with --domain");
	leave(q);
}

/**
 * qmp_ask() - have QEMU execute a command
 * @q: the monitor, which is ready, with no command on its way
 * @command: the command
 * @arguments: its arguments, or NULL; the caller's reference goes
 * @answered: called with what came of it, unless the monitor is closed
 */
void qmp_ask(struct qmp *q, const char *command, struct json_object *arguments,
	     qmp_answer_fn *answered)
{
	struct json_object *request = json_object_new_object();
	char *line;

	json_object_object_add(request, "execute", json_object_new_string(command));
	if (arguments)
		json_object_object_add(request, "arguments", arguments);
	json_object_object_add(request, "id", json_object_new_int64(++q->command.id));
	q->command.answered = answered;
	if (asprintf(&line, "%s\n", json_object_to_json_string_ext(request,
			     JSON_C_TO_STRING_PLAIN)) < 0)
		err(EXIT_FAILURE, "monitor");
	json_object_put(request);
	q->command.asked_ns = now_ns();
	send_line(q, line);
	free(line);
}

/**
 * qmp_asked_ns() - since when has an answer been awaited?
 * @q: the monitor
 *
 * Return: when the command was sent, in nanoseconds of CLOCK_MONOTONIC; 0 if none is
 * on its way.
 */
uint64_t qmp_asked_ns(const struct qmp *q)
{
	return q->command.answered ? q->command.asked_ns : 0;
}

/**
 * qmp_error() - what an error says
 * @answer: the error
 *
 * Return: a text, which lives as long as @answer.
 */
const char *qmp_error(struct json_object *answer)
{
	const char *text = json_object_get_string(json_member(answer, "desc"));

	return text ?: "an error without a description";
}

/* Returns the file, which is a socket; through it, the socket can't be another's. */
static int open_socket_file(const char *path)
{
	struct stat file;
	int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (!fstat(fd, &file) && S_ISSOCK(file.st_mode))
		return fd;
	close(fd);
	return -ENOTSOCK;
}

static int connect_path(int fd, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path) + 1);
	return connect(fd, (struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
}

/* Whoever may write to a folder could have a link lead to the monitor of another. */
static int connect_no_link(int fd, const char *path)
{
	int error, file = open_socket_file(path);
	char self[32];

	if (file < 0)
		return file;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", file);
	error = connect_path(fd, self);
	close(file);
	return error;
}

/**
 * qmp_connect() - connect to a monitor's socket
 * @path: its path
 * @follow: it may be a symbolic link
 * @why: what is wrong, if it fails
 * @size: room for that
 *
 * Return: the socket, or a negative error number.
 */
int qmp_connect(const char *path, bool follow, char *why, size_t size)
{
	struct stat file;
	int error, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	error = fd < 0 ? -errno : follow ? connect_path(fd, path) : connect_no_link(fd, path);
	if (!error)
		return fd;
	if (fd >= 0)
		close(fd);
	if (error == -ENAMETOOLONG)
		snprintf(why, size, "too long for a socket's path");
	else if (error == -ENOTSOCK || (!stat(path, &file) && !S_ISSOCK(file.st_mode)))
		snprintf(why, size, "is not a socket");
	else if (error == -EAGAIN)
		snprintf(why, size, "too many wait for it already: a monitor serves one client");
	else if (error == -ECONNREFUSED)
		snprintf(why, size, "%s: no QEMU serves it any more", strerror(-error));
	else
		snprintf(why, size, "%s", strerror(-error));
	return error;
}

/**
 * qmp_open() - begin to talk to a monitor
 * @loop: what waits for it
 * @fd: its socket, which comes to belong to it
 * @handlers: whom to tell; ->ready or ->closed comes first
 *
 * Return: the monitor.
 */
struct qmp *qmp_open(struct loop *loop, int fd, const struct qmp_handlers *handlers)
{
	struct qmp *q = calloc(1, sizeof(*q));

	if (q)
		q->in.tokener = json_tokener_new();
	if (!q || !q->in.tokener)
		err(EXIT_FAILURE, "monitor");
	q->loop = loop;
	q->handlers = *handlers;
	q->watch = (struct loop_watch) {
		.fd = fd,
		.events = POLLIN,
		.ready = is_ready,
		.context = q,
	};
	q->greeting = (struct loop_timer) { .due = greeting_is_late, .context = q };
	loop_add(loop, &q->watch);
	loop_start(loop, &q->greeting, now_ns() + GREETING_S * NSEC_PER_SEC);
	return q;
}

/**
 * qmp_fd() - the monitor's socket
 * @q: the monitor
 *
 * Return: the file descriptor.
 */
int qmp_fd(const struct qmp *q)
{
	return q->watch.fd;
}

/**
 * qmp_close() - leave a monitor
 * @q: the monitor; may be called from its handlers
 */
void qmp_close(struct qmp *q)
{
	if (q->state != CLOSED) {
		loop_stop(q->loop, &q->greeting);
		loop_remove(q->loop, &q->watch);
	}
	close(q->watch.fd);
	q->state = CLOSED;
	q->freed = true;
	if (!q->in_use)
		destroy(q);
}
