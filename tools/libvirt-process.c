// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The process that uses libvirt's library: see libvirt.c.
 *
 * The first thread runs libvirt's event loop, and tells of domains as they start and
 * end.  Each domain has a thread of its own, which passes its commands on: if
 * one QEMU doesn't answer, the others do.
 *
 * The library is loaded when it is needed, so that this program runs where it isn't
 * installed.
 */
#include <stdlib.h>

#include "libvirt.h"

#ifdef HAVE_LIBVIRT

#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <json-c/json.h>

/* How long to wait for a libvirtd that has gone: the first time, and at most. */
#define RECONNECT_US	500000
#define RECONNECT_MAX_US (16 * RECONNECT_US)

#define FUNCTIONS(F) \
	F(virConnectClose) F(virConnectDomainEventRegisterAny) F(virConnectGetType) \
	F(virConnectListAllDomains) F(virConnectOpen) F(virConnectRef) \
	F(virConnectRegisterCloseCallback) F(virDomainFree) F(virDomainGetName) \
	F(virDomainGetUUIDString) F(virDomainIsActive) F(virDomainLookupByID) \
	F(virDomainLookupByName) F(virDomainLookupByUUIDString) \
	F(virEventAddHandle) F(virEventRegisterDefaultImpl) F(virEventRunDefaultImpl) \
	F(virGetLastErrorMessage) F(virSetErrorFunc)
#define QEMU_FUNCTIONS(F) \
	F(virConnectDomainQemuMonitorEventRegister) F(virDomainQemuMonitorCommand)

#define POINTER(function) __typeof__(&(function)) function;
static struct {
	FUNCTIONS(POINTER)
	QEMU_FUNCTIONS(POINTER)
} api;

/**
 * struct domain - a domain that runs
 * @uuid: its UUID, which stays the same
 * @fd: this side of its socket
 * @lock: of who writes there
 * @ended: it runs no more, and its thread ends
 * @next: all of them
 */
struct domain {
	char uuid[VIR_UUID_STRING_BUFLEN];
	int fd;
	pthread_mutex_t lock;
	bool ended;
	struct domain *next;
};

/* The control socket, and what is wanted. */
static int control = -1;
static const char *wanted_uri;
/* Of the only domain that is; empty if all are. */
static char wanted_uuid[VIR_UUID_STRING_BUFLEN];

/* Of @connection, which changes when libvirtd is restarted, and of @domains. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static virConnectPtr connection;
static struct domain *domains;
static bool closed;

/* --- what is told --------------------------------------------------------- */

static void tell(struct json_object *json, int fd)
{
	const char *text = json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN);
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} rights = { .head = {
		.cmsg_level = SOL_SOCKET,
		.cmsg_type = SCM_RIGHTS,
		.cmsg_len = CMSG_LEN(sizeof(int)),
	} };
	struct iovec part = { .iov_base = (char *)text, .iov_len = strlen(text) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (fd >= 0) {
		memcpy(CMSG_DATA(&rights.head), &fd, sizeof(fd));
		message.msg_control = &rights;
		message.msg_controllen = sizeof(rights);
	}
	sendmsg(control, &message, MSG_NOSIGNAL);
	json_object_put(json);
}

static _Noreturn void fail(const char *format, ...)
{
	struct json_object *json = json_object_new_object();
	char *text;
	va_list args;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		_exit(EXIT_FAILURE);
	va_end(args);
	json_object_object_add(json, "error", json_object_new_string(text));
	tell(json, -1);
	_exit(EXIT_FAILURE);
}

static void send_json(struct domain *d, struct json_object *json)
{
	size_t len;
	const char *text = json_object_to_json_string_length(json, JSON_C_TO_STRING_PLAIN,
							     &len);

	pthread_mutex_lock(&d->lock);
	while (len) {
		ssize_t sent = send(d->fd, text, len, MSG_NOSIGNAL);

		if (sent <= 0)
			break;
		text += sent;
		len -= sent;
	}
	send(d->fd, "\n", 1, MSG_NOSIGNAL);
	pthread_mutex_unlock(&d->lock);
	json_object_put(json);
}

static void send_event(struct domain *d, const char *event, struct json_object *data)
{
	struct json_object *json = json_object_new_object();

	json_object_object_add(json, "event", json_object_new_string(event));
	if (data)
		json_object_object_add(json, "data", data);
	send_json(d, json);
}

/* --- a domain's thread ---------------------------------------------------- */

/* Returns what libvirt says of it, to be freed; NULL if it can't be reached. */
static char *pass_on(struct domain *d, const char *command)
{
	virConnectPtr c;
	virDomainPtr domain;
	char *result = NULL;

	pthread_mutex_lock(&lock);
	c = connection;
	if (c)
		api.virConnectRef(c);
	pthread_mutex_unlock(&lock);
	if (!c)
		return NULL;
	domain = api.virDomainLookupByUUIDString(c, d->uuid);
	if (domain && api.virDomainQemuMonitorCommand(domain, command, &result, 0))
		result = NULL;
	if (domain)
		api.virDomainFree(domain);
	api.virConnectClose(c);
	return result;
}

static struct json_object *unreached(const char *why)
{
	struct json_object *json = json_object_new_object();
	struct json_object *error = json_object_new_object();

	json_object_object_add(error, "class", json_object_new_string("Unreached"));
	json_object_object_add(error, "desc", json_object_new_string(why));
	json_object_object_add(json, "error", error);
	return json;
}

/* libvirt's number of the command isn't the client's. */
static void answer(struct domain *d, const char *line)
{
	struct json_object *request = json_tokener_parse(line), *id = NULL, *json = NULL, *command;
	const char *name;
	char *result;

	json_object_object_get_ex(request, "execute", &command);
	name = json_object_get_string(command);
	if (json_object_object_get_ex(request, "id", &id))
		json_object_get(id);
	json_object_object_del(request, "id");
	if (name && !strcmp(name, "qmp_capabilities")) {
		json = json_object_new_object();
		json_object_object_add(json, "return", json_object_new_object());
	} else {
		result = pass_on(d, json_object_to_json_string_ext(request,
					     JSON_C_TO_STRING_PLAIN));
		if (result)
			json = json_tokener_parse(result);
		free(result);
		if (!json_object_is_type(json, json_type_object))
			json = unreached(connection ? api.virGetLastErrorMessage() :
					 "libvirt's daemon has gone");
	}
	json_object_object_add(json, "id", id);
	send_json(d, json);
	json_object_put(request);
}

static void *serve(void *arg)
{
	struct domain *d = arg;
	struct json_object *greeting = json_object_new_object();
	FILE *lines = fdopen(dup(d->fd), "r");
	char *line = NULL;
	size_t size = 0;

	json_object_object_add(greeting, "QMP", json_object_new_object());
	send_json(d, greeting);
	while (lines && getline(&line, &size, lines) > 0)
		answer(d, line);
	free(line);
	if (lines)
		fclose(lines);
	pthread_mutex_lock(&lock);
	for (struct domain **p = &domains; *p; p = &(*p)->next) {
		if (*p != d)
			continue;
		*p = d->next;
		break;
	}
	/* Whoever has found it in the list has the lock. */
	close(d->fd);
	pthread_mutex_unlock(&lock);
	free(d);
	return NULL;
}

/* --- which process it is -------------------------------------------------- */

/* Does process @pid's command line have "-uuid" and then @uuid? */
static bool is_qemu_of(pid_t pid, const char *uuid)
{
	char path[32], *word = NULL;
	bool uuid_next = false, found = false;
	size_t size = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (!found && getdelim(&word, &size, '\0', f) > 0) {
		found = uuid_next && !strcmp(word, uuid);
		uuid_next = !strcmp(word, "-uuid");
	}
	free(word);
	fclose(f);
	return found;
}

static pid_t find_pid(const char *uuid)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	while (dir && !found && (entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);

		if (pid && is_qemu_of(pid, uuid))
			found = pid;
	}
	if (dir)
		closedir(dir);
	return found;
}

/* libvirt's own note of it, for which the system's domains needn't be searched. */
static pid_t pid_of(const char *name, const char *uuid)
{
	char path[512];
	int pid = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/run/libvirt/qemu/%s.pid", name);
	f = fopen(path, "re");
	if (f && fscanf(f, "%d", &pid) != 1)
		pid = 0;
	if (f)
		fclose(f);
	return pid && is_qemu_of(pid, uuid) ? pid : find_pid(uuid);
}

/* --- libvirt's thread ----------------------------------------------------- */

/* To be called with the lock. */
static struct domain *find(virDomainPtr domain)
{
	char uuid[VIR_UUID_STRING_BUFLEN];
	struct domain *d;

	if (api.virDomainGetUUIDString(domain, uuid))
		return NULL;
	for (d = domains; d; d = d->next) {
		if (!d->ended && !strcmp(d->uuid, uuid))
			break;
	}
	return d;
}

static void announce(virDomainPtr domain)
{
	struct domain *d = calloc(1, sizeof(*d));
	struct json_object *json = json_object_new_object();
	const char *name = api.virDomainGetName(domain);
	int sockets[2];
	pthread_t thread;

	if (!d || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
		fail("out of memory or file descriptors");
	api.virDomainGetUUIDString(domain, d->uuid);
	d->fd = sockets[0];
	pthread_mutex_init(&d->lock, NULL);
	pthread_mutex_lock(&lock);
	d->next = domains;
	domains = d;
	pthread_mutex_unlock(&lock);
	json_object_object_add(json, "domain", json_object_new_string(name));
	json_object_object_add(json, "pid", json_object_new_int(pid_of(name, d->uuid)));
	if (pthread_create(&thread, NULL, serve, d))
		fail("no thread");
	pthread_detach(thread);
	tell(json, sockets[1]);
	close(sockets[1]);
}

static const char *reason_of(int event, int detail)
{
	if (event == VIR_DOMAIN_EVENT_STOPPED && detail == VIR_DOMAIN_EVENT_STOPPED_MIGRATED)
		return "migrated";
	if (event == VIR_DOMAIN_EVENT_STOPPED && detail == VIR_DOMAIN_EVENT_STOPPED_SAVED)
		return "saved";
	return "other";
}

static int lifecycle(virConnectPtr c, virDomainPtr domain, int event, int detail,
		     void *opaque)
{
	char uuid[VIR_UUID_STRING_BUFLEN];
	struct domain *d;

	(void)c;
	(void)opaque;
	pthread_mutex_lock(&lock);
	d = find(domain);
	if (d && event == VIR_DOMAIN_EVENT_STOPPED) {
		struct json_object *data = json_object_new_object();

		json_object_object_add(data, "reason",
				       json_object_new_string(reason_of(event, detail)));
		send_event(d, "LIBVIRT_STOPPED", data);
		d->ended = true;
		shutdown(d->fd, SHUT_RD);
	}
	pthread_mutex_unlock(&lock);
	if (!d && event == VIR_DOMAIN_EVENT_STARTED &&
	    !api.virDomainGetUUIDString(domain, uuid) &&
	    (!*wanted_uuid || !strcmp(wanted_uuid, uuid)))
		announce(domain);
	return 0;
}

static void monitor_event(virConnectPtr c, virDomainPtr domain, const char *event,
			  long long seconds, unsigned int micros, const char *details,
			  void *opaque)
{
	struct domain *d;

	(void)c;
	(void)seconds;
	(void)micros;
	(void)opaque;
	pthread_mutex_lock(&lock);
	d = find(domain);
	if (d)
		send_event(d, event, details ? json_tokener_parse(details) : NULL);
	pthread_mutex_unlock(&lock);
}

static void connection_closed(virConnectPtr c, int reason, void *opaque)
{
	(void)c;
	(void)reason;
	(void)opaque;
	closed = true;
}

static void no_message(void *data, virErrorPtr error)
{
	(void)data;
	(void)error;
}

static virDomainPtr look_up(virConnectPtr c, const char *wanted)
{
	virDomainPtr domain = api.virDomainLookupByName(c, wanted);
	char *why = domain ? NULL : strdup(api.virGetLastErrorMessage()), *end;
	long id = strtol(wanted, &end, 10);

	if (!domain)
		domain = api.virDomainLookupByUUIDString(c, wanted);
	if (!domain && *wanted && !*end && id >= 0 && id <= INT32_MAX)
		domain = api.virDomainLookupByID(c, id);
	if (!domain)
		fail("libvirt: %s", why ?: "no such domain");
	free(why);
	if (api.virDomainIsActive(domain) != 1)
		fail("libvirt: the domain '%s' is not running", wanted);
	return domain;
}

static void subscribe(virConnectPtr c)
{
	api.virConnectRegisterCloseCallback(c, connection_closed, NULL, NULL);
	if (api.virConnectDomainEventRegisterAny(c, NULL, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
						 (virConnectDomainEventGenericCallback)
						 (void (*)(void))lifecycle,
						 NULL, NULL) < 0)
		fail("libvirt: %s", api.virGetLastErrorMessage());
	api.virConnectDomainQemuMonitorEventRegister(c, NULL, NULL, monitor_event, NULL,
						     NULL, 0);
}

/* Tell of those that are new. */
static void list_domains(virConnectPtr c)
{
	virDomainPtr *list;
	int nr = api.virConnectListAllDomains(c, &list, VIR_CONNECT_LIST_DOMAINS_ACTIVE);

	for (int i = 0; i < nr; i++) {
		bool known;

		pthread_mutex_lock(&lock);
		known = find(list[i]);
		pthread_mutex_unlock(&lock);
		if (!known)
			announce(list[i]);
		api.virDomainFree(list[i]);
	}
	if (nr >= 0)
		free(list);
}

/* Whoever has started this wants to hear of all domains again, or has ended. */
static void asked(int watch, int fd, int events, void *opaque)
{
	char text[16];

	(void)watch;
	(void)events;
	(void)opaque;
	if (recv(fd, text, sizeof(text), 0) <= 0)
		_exit(EXIT_SUCCESS);
	if (connection)
		list_domains(connection);
}

static void use(virConnectPtr c, const char *wanted)
{
	closed = false;
	subscribe(c);
	pthread_mutex_lock(&lock);
	connection = c;
	pthread_mutex_unlock(&lock);
	if (!wanted) {
		list_domains(c);
	} else if (!*wanted_uuid) {
		virDomainPtr domain = look_up(c, wanted);

		api.virDomainGetUUIDString(domain, wanted_uuid);
		announce(domain);
		api.virDomainFree(domain);
	}
	while (!closed && api.virEventRunDefaultImpl() >= 0)
		;
	pthread_mutex_lock(&lock);
	connection = NULL;
	pthread_mutex_unlock(&lock);
	api.virConnectClose(c);
}

static void load(void)
{
	void *library = dlopen("libvirt.so.0", RTLD_NOW | RTLD_GLOBAL);
	void *qemu = library ? dlopen("libvirt-qemu.so.0", RTLD_NOW) : NULL;

	if (!library || !qemu)
		fail("libvirt's library is missing: install libvirt0, or give QEMU's own monitor with --qmp (%s)",
		     dlerror());
#define LOAD(from, function) \
	api.function = (__typeof__(api.function))dlsym(from, #function); \
	if (!api.function) \
		fail("this libvirt is too old: it has no " #function "()");
#define LOAD_ONE(function) LOAD(library, function)
#define LOAD_QEMU(function) LOAD(qemu, function)
	FUNCTIONS(LOAD_ONE)
	QEMU_FUNCTIONS(LOAD_QEMU)
}

/**
 * libvirt_serve() - be the process that uses libvirt
 * @socket: the control socket
 * @uri: which libvirt, or NULL for the one that libvirt takes itself
 * @domain: name, UUID or id of the only domain that is wanted, or NULL for all
 */
void libvirt_serve(int socket, const char *uri, const char *domain)
{
	bool connected = false;
	useconds_t wait_us = RECONNECT_US;

	control = socket;
	wanted_uri = uri;
	load();
	api.virSetErrorFunc(NULL, no_message);
	if (api.virEventRegisterDefaultImpl() ||
	    api.virEventAddHandle(control, VIR_EVENT_HANDLE_READABLE, asked, NULL, NULL) < 0)
		fail("libvirt: %s", api.virGetLastErrorMessage());
	for (;;) {
		virConnectPtr c = api.virConnectOpen(wanted_uri);

		if (!c && !connected)
			fail("libvirt: %s", api.virGetLastErrorMessage());
		if (c && !connected && strcmp(api.virConnectGetType(c), "QEMU"))
			fail("libvirt's %s has no QEMU: say which libvirt with --connect",
			     api.virConnectGetType(c));
		connected |= !!c;
		if (c)
			use(c, domain);
		wait_us = c ? RECONNECT_US : 2 * wait_us;
		usleep(wait_us < RECONNECT_MAX_US ? wait_us : RECONNECT_MAX_US);
	}
}

#else

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void libvirt_serve(int socket, const char *uri, const char *domain)
{
	static const char text[] =
		"{\"error\":\"this program was built without libvirt: give QEMU's own monitor with --qmp\"}";

	(void)uri;
	(void)domain;
	send(socket, text, strlen(text), MSG_NOSIGNAL);
	_exit(EXIT_FAILURE);
}

#endif
