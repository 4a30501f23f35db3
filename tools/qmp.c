// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A QEMU's monitor: its own socket, or what libvirt passes on.
 *
 * A monitor serves one client.  That of a libvirt domain is libvirtd's, which
 * passes commands on: `virsh qemu-monitor-command`, run for each.
 */
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"
#include "qmp.h"

#define LIBVIRT_PID_FILE "/run/libvirt/qemu/%s.pid"

/* A QEMU that takes longer to answer is stuck, or serves somebody else. */
#define GREETING_MS	5000
#define ANSWER_MS	60000

/**
 * struct qmp - a monitor
 * @name: the socket's path or the domain's name, for messages
 * @fd: the socket, -1 if it is a domain
 * @signals: signalfd for those that end this process
 * @answered: it has answered before
 * @tokener: reads what comes from the socket
 * @buffer: what has been received from it
 * @start: where in that the rest begins that has not been looked at
 * @end: and ends
 */
struct qmp {
	const char *name;
	int fd;
	int signals;
	bool answered;
	struct json_tokener *tokener;
	char buffer[4096];
	size_t start;
	size_t end;
};

static struct qmp *new_qmp(const char *name, int signals)
{
	struct qmp *q = calloc(1, sizeof(*q));

	if (q)
		q->tokener = json_tokener_new();
	if (!q || !q->tokener)
		err(EXIT_FAILURE, "monitor");
	q->name = name;
	q->fd = -1;
	q->signals = signals;
	return q;
}

/* Wait until @fd can be read. */
static enum qmp_result wait_for(const struct qmp *q, int fd, int timeout_ms)
{
	struct pollfd fds[] = {
		{ .fd = fd, .events = POLLIN },
		{ .fd = q->signals, .events = POLLIN },
	};
	int nr;

	do {
		nr = poll(fds, 2, timeout_ms);
	} while (nr < 0 && errno == EINTR);
	if (nr < 0)
		err(EXIT_FAILURE, "poll");
	if (fds[1].revents)
		return QMP_SIGNAL;
	return nr ? QMP_OK : QMP_ERROR;
}

/*
 * The next object that QEMU has sent.  QMP_ERROR if none has come in time; with
 * no timeout that doesn't wait at all.
 */
static enum qmp_result next(struct qmp *q, int timeout_ms, struct json_object **object)
{
	for (;;) {
		enum json_tokener_error error;
		enum qmp_result result;
		ssize_t len;

		if (q->start < q->end) {
			*object = json_tokener_parse_ex(q->tokener, q->buffer + q->start,
							q->end - q->start);
			error = json_tokener_get_error(q->tokener);
			q->start += json_tokener_get_parse_end(q->tokener);
			if (*object)
				return QMP_OK;
			if (error != json_tokener_continue)
				errx(EXIT_FAILURE, "%s: this is not QMP: %s", q->name,
				     json_tokener_error_desc(error));
			continue;
		}
		result = wait_for(q, q->fd, timeout_ms);
		if (result != QMP_OK)
			return result;
		len = recv(q->fd, q->buffer, sizeof(q->buffer), 0);
		if (len < 0 && errno == EINTR)
			continue;
		if (len <= 0)
			return QMP_CLOSED;
		q->start = 0;
		q->end = len;
	}
}

static enum qmp_result ask_socket(struct qmp *q, const char *request,
				  struct json_object **answer)
{
	struct iovec parts[] = {
		{ .iov_base = (char *)request, .iov_len = strlen(request) },
		{ .iov_base = "\n", .iov_len = 1 },
	};
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
	enum qmp_result result;

	/* It is shorter than any socket's buffer. */
	if (sendmsg(q->fd, &message, MSG_NOSIGNAL) < 0)
		return QMP_CLOSED;
	for (;;) {
		struct json_object *event;

		result = next(q, ANSWER_MS, answer);
		if (result == QMP_ERROR)
			errx(EXIT_FAILURE, "%s: QEMU has not answered for %d s",
			     q->name, ANSWER_MS / 1000);
		if (result != QMP_OK)
			return result;
		if (!json_object_object_get_ex(*answer, "event", &event))
			return QMP_OK;
		json_object_put(*answer);
	}
}

/* Run virsh; what it prints comes to @output, which is to be freed. */
static enum qmp_result run_virsh(struct qmp *q, const char *request, char **output)
{
	char * const argv[] = { "virsh", "--quiet", "qemu-monitor-command", (char *)q->name,
			 (char *)request, NULL };
	posix_spawn_file_actions_t actions;
	enum qmp_result result;
	posix_spawnattr_t attr;
	size_t len = 0, size = 0;
	int fds[2], status, error;
	sigset_t none;
	pid_t pid;

	if (pipe(fds))
		err(EXIT_FAILURE, "pipe");
	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
	posix_spawn_file_actions_addclose(&actions, fds[0]);
	posix_spawn_file_actions_addclose(&actions, fds[1]);
	error = posix_spawnp(&pid, argv[0], &actions, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	close(fds[1]);
	if (error == ENOENT)
		errx(EXIT_FAILURE,
		     "virsh is missing: install libvirt's clients, or give QEMU's own monitor with --qmp");
	if (error) {
		errno = error;
		err(EXIT_FAILURE, "virsh");
	}

	*output = NULL;
	for (;;) {
		ssize_t got;

		if (size - len < 4096) {
			char *more = realloc(*output, size + 16384);

			if (!more)
				err(EXIT_FAILURE, "virsh");
			*output = more;
			size += 16384;
		}
		result = wait_for(q, fds[0], ANSWER_MS);
		if (result == QMP_ERROR)
			warnx("%s: virsh has not answered for %d s", q->name,
			      ANSWER_MS / 1000);
		if (result != QMP_OK)
			break;
		got = read(fds[0], *output + len, size - len - 1);
		if (got <= 0)
			break;
		len += got;
	}
	(*output)[len] = '\0';
	close(fds[0]);
	if (result != QMP_OK)
		kill(pid, SIGTERM);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (result == QMP_ERROR)
		exit(EXIT_FAILURE);
	if (result == QMP_OK && status)
		return QMP_ERROR;
	return result;
}

static enum qmp_result ask_domain(struct qmp *q, const char *request,
				  struct json_object **answer)
{
	enum qmp_result result;
	char *output;

	result = run_virsh(q, request, &output);
	if (result == QMP_ERROR) {
		/* Either it never was, or it has gone: libvirt ends a QEMU that has migrated. */
		output[strcspn(output, "\n")] = '\0';
		if (!q->answered)
			errx(EXIT_FAILURE, "%s: virsh: %s", q->name, output);
		result = QMP_CLOSED;
	}
	if (result == QMP_OK) {
		*answer = json_tokener_parse(output);
		if (!json_object_is_type(*answer, json_type_object))
			errx(EXIT_FAILURE, "%s: this is not QMP: %.60s", q->name, output);
		q->answered = true;
	}
	free(output);
	return result;
}

/**
 * qmp_ask() - have QEMU execute a command
 * @q: the monitor
 * @command: the command
 * @arguments: its arguments, or NULL; the caller's reference goes
 * @answer: result, to be put: what it returned, or QEMU's words if it failed
 *
 * Return: QMP_OK, QMP_ERROR, or another without an @answer.
 */
enum qmp_result qmp_ask(struct qmp *q, const char *command,
			struct json_object *arguments,
			struct json_object **answer)
{
	struct json_object *request = json_object_new_object();
	struct json_object *whole = NULL, *part, *text;
	enum qmp_result result;
	const char *line;

	*answer = NULL;
	json_object_object_add(request, "execute", json_object_new_string(command));
	if (arguments)
		json_object_object_add(request, "arguments", arguments);
	line = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN);
	result = q->fd >= 0 ? ask_socket(q, line, &whole) : ask_domain(q, line, &whole);
	json_object_put(request);
	if (result != QMP_OK)
		return result;

	if (json_object_object_get_ex(whole, "return", &part)) {
		*answer = json_object_get(part);
	} else if (json_object_object_get_ex(whole, "error", &part) &&
		   json_object_object_get_ex(part, "desc", &text)) {
		*answer = json_object_get(text);
		result = QMP_ERROR;
	} else {
		errx(EXIT_FAILURE, "%s: this is not QMP: neither a result nor an error",
		     q->name);
	}
	json_object_put(whole);
	return result;
}

/**
 * qmp_open() - connect to a monitor
 * @path: its socket
 * @signals: what open_signals() returned
 *
 * Return: the monitor.
 */
struct qmp *qmp_open(const char *path, int signals)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct qmp *q = new_qmp(path, signals);
	struct json_object *greeting, *answer;
	enum qmp_result result;

	if (strlen(path) >= sizeof(address.sun_path))
		errx(EXIT_FAILURE, "%s: too long for a socket's path", path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	q->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (q->fd < 0)
		err(EXIT_FAILURE, "socket");
	if (connect(q->fd, (struct sockaddr *)&address, sizeof(address)))
		err(EXIT_FAILURE, "%s", path);

	result = next(q, GREETING_MS, &greeting);
	if (result == QMP_ERROR)
		errx(EXIT_FAILURE,
		     "%s: no greeting: a monitor serves one client; start QEMU with a second -qmp for this one",
		     path);
	if (result == QMP_SIGNAL)
		exit(EXIT_SUCCESS);
	if (result != QMP_OK)
		errx(EXIT_VM_ENDED, "%s: QEMU has ended", path);
	if (!json_object_object_get_ex(greeting, "QMP", NULL))
		errx(EXIT_FAILURE, "%s: this is not QMP: no greeting", path);
	json_object_put(greeting);
	result = qmp_ask(q, "qmp_capabilities", NULL, &answer);
	if (result == QMP_ERROR)
		errx(EXIT_FAILURE, "%s: %s", path, json_object_get_string(answer));
	if (result == QMP_CLOSED)
		errx(EXIT_VM_ENDED, "%s: QEMU has ended", path);
	json_object_put(answer);
	return q;
}

/**
 * qmp_open_domain() - reach the monitor of a libvirt domain
 * @name: its name, UUID or id
 * @signals: what open_signals() returned
 *
 * Return: the monitor; whether it is there is seen when it is asked something.
 */
struct qmp *qmp_open_domain(const char *name, int signals)
{
	return new_qmp(name, signals);
}

/**
 * qmp_pid() - which process is it the monitor of?
 * @q: the monitor
 *
 * Return: its id, 0 if that isn't known.
 */
pid_t qmp_pid(const struct qmp *q)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	char path[4096];
	FILE *file;
	int pid;

	if (q->fd >= 0)
		return getsockopt(q->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) ? 0 : peer.pid;

	if (snprintf(path, sizeof(path), LIBVIRT_PID_FILE, q->name) >= (int)sizeof(path))
		return 0;
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%d", &pid) != 1)
		pid = 0;
	fclose(file);
	return pid;
}

/**
 * qmp_fd() - what to wait for
 * @q: the monitor
 *
 * Return: a file descriptor that can be read when qmp_drain() has something to do,
 * -1 if there is none.
 */
int qmp_fd(const struct qmp *q)
{
	return q->fd;
}

/**
 * qmp_drain() - forget the events that have come
 * @q: the monitor
 *
 * Return: false if QEMU has closed it.
 */
bool qmp_drain(struct qmp *q)
{
	struct json_object *event;
	enum qmp_result result;

	if (q->fd < 0)
		return true;
	do {
		result = next(q, 0, &event);
		if (result == QMP_OK)
			json_object_put(event);
	} while (result == QMP_OK);
	return result != QMP_CLOSED;
}

/**
 * qmp_close() - leave a monitor
 * @q: the monitor
 */
void qmp_close(struct qmp *q)
{
	if (q->fd >= 0)
		close(q->fd);
	json_tokener_free(q->tokener);
	free(q);
}
