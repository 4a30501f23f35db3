// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The domains of a libvirt, whose QEMUs are asked through it.
 *
 * libvirt's functions wait for libvirtd, and that for QEMU; and its library is not
 * there on every host.  So another process uses it (libvirt-process.c).  Each
 * domain has a socket, over which that process does as a QEMU's monitor would.  The
 * sockets come over a control socket, with what is known of the domain.
 */
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <json-c/json.h>

#include "helper.h"
#include "libvirt.h"

/* Room for what is said of a domain; names have less than 256 bytes. */
#define MESSAGE_LEN	4096

/**
 * struct libvirt - the process that uses libvirt
 * @loop: what waits
 * @handlers: whom to tell
 * @watch: control socket
 * @pid: its id
 */
struct libvirt {
	struct loop *loop;
	struct libvirt_handlers handlers;
	struct loop_watch watch;
	pid_t pid;
};

/* A message, and the file descriptor that came with it, or -1. */
static ssize_t receive(int socket, char *text, size_t size, int *fd)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = { .iov_base = text, .iov_len = size - 1 };
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *head;
	ssize_t len = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	*fd = -1;
	if (len < 0)
		return -errno;
	text[len] = '\0';
	head = CMSG_FIRSTHDR(&message);
	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(head), sizeof(*fd));
	return len;
}

static void take_message(struct libvirt *l, const char *text, int fd)
{
	struct json_object *json = json_tokener_parse(text), *value;

	if (json_object_object_get_ex(json, "error", &value)) {
		l->handlers.failed(l->handlers.context, json_object_get_string(value));
	} else if (json_object_object_get_ex(json, "domain", &value) && fd >= 0) {
		struct libvirt_domain domain = {
			.name = json_object_get_string(value),
			.fd = fd,
		};

		if (json_object_object_get_ex(json, "pid", &value))
			domain.pid = json_object_get_int(value);
		l->handlers.found(l->handlers.context, &domain);
	}
	json_object_put(json);
}

static void is_ready(void *context, short revents)
{
	struct libvirt *l = context;
	char text[MESSAGE_LEN];
	int fd;
	ssize_t len = receive(l->watch.fd, text, sizeof(text), &fd);

	(void)revents;
	if (len == -EAGAIN || len == -EINTR)
		return;
	if (len > 0)
		take_message(l, text, fd);
	else
		l->handlers.failed(l->handlers.context,
				   "the process that talks to libvirt has ended");
}

/**
 * libvirt_open() - begin to use libvirt
 * @loop: what waits
 * @uri: which libvirt, or NULL for the one that libvirt takes itself
 * @domain: name, UUID or id of the only domain that is wanted, or NULL for all
 * @handlers: whom to tell
 *
 * Return: the libvirt.
 */
struct libvirt *libvirt_open(struct loop *loop, const char *uri, const char *domain,
			     const struct libvirt_handlers *handlers)
{
	struct libvirt *l = calloc(1, sizeof(*l));
	int sockets[2], files[3];

	if (!l || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets))
		err(EXIT_FAILURE, "libvirt");
	files[0] = sockets[1];
	files[1] = STDOUT_FILENO;
	files[2] = STDERR_FILENO;
	l->pid = helper_spawn(files, 3);
	if (l->pid < 0)
		err(EXIT_FAILURE, "fork");
	if (!l->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		libvirt_serve(STDIN_FILENO, uri, domain);
	}
	close(sockets[1]);
	l->loop = loop;
	l->handlers = *handlers;
	l->watch = (struct loop_watch) {
		.fd = sockets[0],
		.events = POLLIN,
		.ready = is_ready,
		.context = l,
	};
	loop_add(loop, &l->watch);
	return l;
}

/**
 * libvirt_list() - have all domains found that have no socket (any more)
 * @l: the libvirt
 */
void libvirt_list(struct libvirt *l)
{
	send(l->watch.fd, "list", strlen("list"), MSG_DONTWAIT | MSG_NOSIGNAL);
}

/**
 * libvirt_close() - use it no longer
 * @l: the libvirt; the sockets of its domains are closed at their other ends
 */
void libvirt_close(struct libvirt *l)
{
	loop_remove(l->loop, &l->watch);
	close(l->watch.fd);
	/* Whatever it waits for. */
	kill(l->pid, SIGKILL);
	waitpid(l->pid, NULL, 0);
	free(l);
}
