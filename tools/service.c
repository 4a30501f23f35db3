// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle converge --all: helps the migrations of all VMs of this host.
 *
 * VMs are found through libvirt, which tells as they start and end, and through the
 * sockets of their monitors in a folder, which inotify tells of.  What to do
 * about each is in a file of rules (rules.c), and done by assist.c.  A VM has a
 * throttle fd only while it is migrated, so that others can throttle it.
 *
 * Nothing runs while nothing happens, but for looks a minute apart.
 */
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "assist.h"
#include "command.h"
#include "journal.h"
#include "libvirt.h"
#include "metrics.h"
#include "output.h"
#include "rules.h"
#include "service.h"
#include "view.h"

#define CONFIG		"/etc/kvm-throttle/converge.conf"

/* How long until what has failed is tried again: a libvirt, a folder, a monitor. */
#define RETRY_NS	(60 * NSEC_PER_SEC)

/* QEMU makes its socket first, and listens to it then. */
#define LISTEN_NS	(200 * NSEC_PER_MSEC)
#define LISTEN_TRIES	10

/* How often metrics are written while something is migrated. */
#define METRICS_NS	(10 * NSEC_PER_SEC)

/*
 * How far a VM is:
 *
 *              its QEMU is found          began()
 *   VM_UNKNOWN -----------------> VM_IDLE <-----> VM_MIGRATES
 *        |                           |   ended()      |
 *        +---------------------------+----------------+
 *                                    v drop()
 *                                 VM_DEAD
 */
enum vm_state {
	/* A socket whose QEMU isn't known yet, or never will be. */
	VM_UNKNOWN,
	/* It isn't migrated. */
	VM_IDLE,
	VM_MIGRATES,
	/* It is to be freed. */
	VM_DEAD,
};

/**
 * struct vm - a VM that is watched, or a socket that may become one
 * @s: the service
 * @state: how far it is
 * @a: how it is helped
 * @name: what rules and messages call it; NULL while it is VM_UNKNOWN
 * @path: its monitor's socket, NULL if that is libvirt's
 * @retry: when to try again to connect
 * @tries: how often that was done
 * @next: the next one
 */
struct vm {
	struct service *s;
	enum vm_state state;
	struct assist a;
	char *name;
	char *path;
	struct loop_timer retry;
	unsigned int tries;
	struct vm *next;
};

/**
 * struct service - all VMs of this host
 * @o: the command line
 * @loop: what waits
 * @rules: what to do about each VM
 * @vms: those that are watched
 * @libvirt: where domains are, NULL if they can't be reached now
 * @libvirt_why: what was said of that last
 * @libvirt_timer: when to try again
 * @folder: inotify of the folder of sockets, its descriptor -1 if there is none
 * @folder_missing: it has been said that it is
 * @folder_timer: when to try again
 * @reaper: frees what is dead
 * @watchdog: when to tell systemd that all is well
 * @watchdog_ns: how often
 * @metrics: what was done
 * @metrics_timer: when to write it
 * @metrics_failed: it has been said that it can't be written
 */
struct service {
	const struct service_options *o;
	struct loop loop;
	struct rules rules;
	struct vm *vms;
	struct libvirt *libvirt;
	char libvirt_why[WHY_LEN];
	struct loop_timer libvirt_timer;
	struct loop_watch folder;
	bool folder_missing;
	struct loop_timer folder_timer;
	struct loop_timer reaper;
	struct loop_timer watchdog;
	uint64_t watchdog_ns;
	struct metrics metrics;
	struct loop_timer metrics_timer;
	bool metrics_failed;
};

/* Has QEMU's process been found? */
static bool is_known(const struct vm *vm)
{
	return vm->state == VM_IDLE || vm->state == VM_MIGRATES;
}

/* --- what is said --------------------------------------------------------- */

/* @fields is the callee's, or NULL. */
static void tell(struct service *s, int priority, const struct vm *vm,
		 struct json_object *fields, const char *text)
{
	const char *name = vm ? vm->name ?: vm->path : NULL;
	char *line;

	if (asprintf(&line, "%s%s%s", name ?: "", name ? ": " : "", text) < 0)
		err(EXIT_FAILURE, "message");
	clean_text(line);
	if (!fields)
		fields = json_object_new_object();
	if (name)
		assist_add_string(fields, "vm_name", name);
	if (vm && is_known(vm))
		json_object_object_add(fields, "pid", json_object_new_int(vm->a.vm.pid));
	journal_write(priority, line, fields);
	if (!journal_is_open() && !s->o->quiet && !s->o->json) {
		puts(line);
		fflush(stdout);
	}
	json_object_put(fields);
	free(line);
}

static void tell_format(struct service *s, int priority, const struct vm *vm,
			const char *format, ...)
{
	char *text;
	va_list args;

	va_start(args, format);
	text = format_text(format, args);
	va_end(args);
	tell(s, priority, vm, NULL, text);
	free(text);
}

static void say(struct assist *a, const char *text)
{
	struct vm *vm = a->context;

	tell(vm->s, JOURNAL_WARNING, vm, NULL, text);
}

static void write_event(struct assist *a, struct json_object *json)
{
	struct vm *vm = a->context;

	if (vm->s->o->json) {
		assist_add_string(json, "vm_name", vm->name);
		json_object_object_add(json, "pid", json_object_new_int(a->vm.pid));
		print_json(stdout, json);
		fflush(stdout);
	} else {
		json_object_put(json);
	}
}

/* --- metrics -------------------------------------------------------------- */

static void write_metrics(void *context)
{
	struct service *s = context;
	struct metrics_vm *list = NULL;
	bool migrates = false;
	size_t nr = 0, len;
	char *text;

	if (!s->rules.prometheus)
		return;
	for (struct vm *vm = s->vms; vm; vm = vm->next) {
		if (!is_known(vm) || !assist_is_connected(&vm->a))
			continue;
		list = reallocarray(list, nr + 1, sizeof(*list));
		if (!list)
			err(EXIT_FAILURE, "metrics");
		list[nr++] = (struct metrics_vm) {
			.name = vm->name,
			.pid = vm->a.vm.pid,
			.migrates = vm->state == VM_MIGRATES,
			.percent = vm->a.force.percent_x100 / 100.0,
			.dirty_rate = vm->a.force.rate,
			.remaining = vm->a.sample.remaining,
			.left_s = vm->a.decision.left_s,
		};
		migrates |= vm->state == VM_MIGRATES;
	}
	text = metrics_text(&s->metrics, list, nr, &len);
	if (!metrics_write(&s->metrics, s->rules.prometheus, text, len) &&
	    !s->metrics_failed) {
		s->metrics_failed = true;
		tell_format(s, JOURNAL_WARNING, NULL, "%s can't be written",
			    s->rules.prometheus);
	}
	free(text);
	free(list);
	if (migrates)
		loop_start(&s->loop, &s->metrics_timer, now_ns() + METRICS_NS);
}

/* Soon: much may change at once. */
static void metrics_changed(struct service *s)
{
	uint64_t soon = now_ns() + NSEC_PER_SEC;

	if (s->rules.prometheus && s->metrics_timer.due_ns > soon)
		loop_start(&s->loop, &s->metrics_timer, soon);
}

/* --- a VM's life ---------------------------------------------------------- */

static void reap(void *context)
{
	struct service *s = context;
	struct vm **p = &s->vms;

	while (*p) {
		struct vm *vm = *p;

		if (vm->state != VM_DEAD) {
			p = &vm->next;
			continue;
		}
		*p = vm->next;
		free(vm->name);
		free(vm->path);
		free(vm);
	}
}

/* Leave a VM.  It may be in use by the caller's caller, so it is freed later. */
static void drop(struct vm *vm)
{
	struct service *s = vm->s;

	if (vm->state == VM_DEAD)
		return;
	vm->state = VM_DEAD;
	assist_end(&vm->a);
	loop_stop(&s->loop, &vm->retry);
	loop_start(&s->loop, &s->reaper, now_ns());
	metrics_changed(s);
}

/* What its command line calls it, or its socket is called. */
static void name_vm(struct vm *vm)
{
	const char *file = strrchr(vm->path, '/') + 1;

	vm->name = strdup(*vm->a.vm.guest ? vm->a.vm.guest : file);
	if (!vm->name)
		err(EXIT_FAILURE, "virtual machine");
}

/*
 * Do as the rules say about a VM.  The monitor of one that is left alone isn't kept: a
 * socket serves one client, and nobody would read a domain's.
 */
static void follow_rules(struct vm *vm)
{
	struct rules_choice choice = rules_for(&vm->s->rules, vm->name);

	vm->a.settings = choice.policy;
	if (choice.off)
		assist_disconnect(&vm->a);
}

/* Nothing can be done about this socket, at least now. */
static void give_up(struct vm *vm, int error, const char *why)
{
	/* What a QEMU has left is made anew by the next one. */
	if (error != -ECONNREFUSED && error != -ENOENT)
		tell(vm->s, JOURNAL_WARNING, vm, NULL, why);
	drop(vm);
	if (error == -EMFILE || error == -ENFILE)
		loop_start(&vm->s->loop, &vm->s->folder_timer, now_ns() + RETRY_NS);
}

/* Files for what takes two at a time, such as to go through the processes of this host. */
static bool has_files(void)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC))
		return false;
	close(fds[0]);
	close(fds[1]);
	return true;
}

/*
 * Find out whose monitor a socket is.  When QEMU has @greeted it has made its VM.  Before
 * that, whoever made the socket may be taken for it, if not for a VM that is there.
 */
static int find_vm(struct vm *vm, bool greeted)
{
	struct process process;
	pid_t pid;

	/* Without, /proc says nothing of processes that are there. */
	if (!has_files())
		return -errno;
	pid = proc_of_monitor(qmp_fd(vm->a.monitor.qmp), vm->path);
	if (!greeted && !proc_has_vm(pid))
		return -EAGAIN;
	process = proc_of_thread(pid);
	if (!process.pid || assist_vm(&vm->a, &process))
		return -ESRCH;
	vm->state = VM_IDLE;
	name_vm(vm);
	return 0;
}

static void ready(struct assist *a)
{
	struct vm *vm = a->context;
	int error;

	vm->tries = 0;
	if (!is_known(vm)) {
		error = find_vm(vm, true);
		if (error) {
			give_up(vm, error, error == -ESRCH ?
				"which process is its QEMU? That can't be found" :
				strerror(-error));
			return;
		}
		follow_rules(vm);
	}
	metrics_changed(vm->s);
}

static void refused(struct assist *a, const char *why)
{
	struct vm *vm = a->context;

	if (!why || !vm->path || (is_known(vm) && !proc_of_thread(a->vm.pid).pid)) {
		drop(vm);
		return;
	}
	if (!vm->tries++)
		tell(vm->s, JOURNAL_WARNING, vm, NULL, why);
	loop_start(&vm->s->loop, &vm->retry, now_ns() + RETRY_NS);
}

static void began(struct assist *a)
{
	struct vm *vm = a->context;
	char why[WHY_LEN];

	vm->state = VM_MIGRATES;
	tell(vm->s, JOURNAL_INFO, vm, NULL, "a migration has begun");
	if (a->throttle.fd < 0 && assist_attach(a, why, sizeof(why)))
		tell_format(vm->s, JOURNAL_WARNING, vm,
			    "its migration can't be helped: %s", why);
	metrics_changed(vm->s);
}

static void chose(struct assist *a, bool as_wanted, const char *text)
{
	struct vm *vm = a->context;

	tell(vm->s, as_wanted ? JOURNAL_INFO : JOURNAL_NOTICE, vm, NULL, text);
}

static void looked(struct assist *a)
{
	(void)a;
}

static void tell_end(struct vm *vm)
{
	struct assist *a = &vm->a;
	const struct assist_end *end = assist_end_of(a);
	struct json_object *fields = json_object_new_object();
	double unhelped_s = a->decision.unhelped_s;
	char *text = assist_sum_up(a, end);

	assist_log_end(a, end);
	metrics_ended(&vm->s->metrics, end->name, assist_has_throttled(a), a->sample.time_s,
		      unhelped_s, a->force.lost_s);
	assist_add_string(fields, "end", end->name);
	assist_add_number(fields, "migration_s", a->sample.time_s, 3);
	assist_add_number(fields, "highest_percent", a->force.highest_x100 / 100.0, 2);
	assist_add_number(fields, "lowest_rate_limit", a->force.lowest_rate ?: NAN, 0);
	assist_add_number(fields, "lost_s", a->force.lost_s, 3);
	assist_add_number(fields, "unhelped_s", unhelped_s, 3);
	tell(vm->s, a->migration.phase == MIGRATION_COMPLETED ? JOURNAL_INFO : JOURNAL_NOTICE,
	     vm, fields, text);
	free(text);
}

static void ended(struct assist *a)
{
	struct vm *vm = a->context;

	if (vm->state == VM_MIGRATES) {
		tell_end(vm);
		vm->state = VM_IDLE;
	}
	metrics_changed(vm->s);
	if (assist_is_connected(a) && !a->vm_gone) {
		assist_next(a);
		return;
	}
	drop(vm);
	/* Its QEMU is there: it may be reached later. */
	if (vm->path && !a->vm_gone)
		loop_start(&vm->s->loop, &vm->s->folder_timer, now_ns() + RETRY_NS);
}

static int reconnect(struct assist *a)
{
	struct vm *vm = a->context;
	char why[WHY_LEN];

	return qmp_connect(vm->path, false, why, sizeof(why));
}

static const struct assist_owner owner = {
	.say = say,
	.log = write_event,
	.ready = ready,
	.refused = refused,
	.began = began,
	.chose = chose,
	.looked = looked,
	.ended = ended,
	.reconnect = reconnect,
};

static void try_socket(void *context);

static struct vm *new_vm(struct service *s, const char *path)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		err(EXIT_FAILURE, "virtual machine");
	vm->s = s;
	vm->path = path ? strdup(path) : NULL;
	vm->retry = (struct loop_timer) { .due_ns = LOOP_NEVER, .due = try_socket, .context = vm };
	assist_init(&vm->a, &s->loop, &owner, vm, &s->rules.every.policy);
	vm->a.frugal = true;
	vm->a.want_events = !!path;
	/* libvirt.c tells of a domain again if there is a new connection. */
	vm->a.own_socket = !!path;
	vm->next = s->vms;
	s->vms = vm;
	return vm;
}

/* --- monitors with sockets of their own ----------------------------------- */

static void try_socket(void *context)
{
	struct vm *vm = context;
	char why[WHY_LEN];
	int fd = qmp_connect(vm->path, false, why, sizeof(why));

	if (fd == -ECONNREFUSED && !is_known(vm) && vm->tries++ < LISTEN_TRIES) {
		loop_start(&vm->s->loop, &vm->retry, now_ns() + LISTEN_NS);
		return;
	}
	if (fd < 0) {
		give_up(vm, fd, why);
		return;
	}
	assist_connect(&vm->a, fd);
	/* One that is to be left alone need not greet: its monitor may be in use. */
	if (is_known(vm) || !find_vm(vm, false))
		follow_rules(vm);
}

static struct vm *find_socket(struct service *s, const char *path)
{
	for (struct vm *vm = s->vms; vm; vm = vm->next) {
		if (vm->state != VM_DEAD && vm->path && !strcmp(vm->path, path))
			return vm;
	}
	return NULL;
}

/* Has the QEMU of a socket ended, though nobody has looked yet? */
static bool has_ended(const struct vm *vm)
{
	return is_known(vm) ? !proc_of_thread(vm->a.vm.pid).pid : !assist_is_connected(&vm->a);
}

/* A file of that name has appeared in the folder. */
static void add_socket(struct service *s, const char *name)
{
	struct stat file;
	struct vm *vm;
	char *path;

	if (asprintf(&path, "%s/%s", s->rules.sockets, name) < 0)
		err(EXIT_FAILURE, "socket");
	vm = find_socket(s, path);
	if (vm && has_ended(vm)) {
		drop(vm);
		vm = NULL;
	}
	if (!vm && !lstat(path, &file) && S_ISSOCK(file.st_mode)) {
		vm = new_vm(s, path);
		try_socket(vm);
	}
	free(path);
}

static void folder_changed(void *context, short revents)
{
	struct service *s = context;
	union {
		struct inotify_event event;
		char room[65536];
	} buffer;
	ssize_t len = read(s->folder.fd, &buffer, sizeof(buffer));

	(void)revents;
	for (char *p = buffer.room; len > 0 && p < buffer.room + len;) {
		struct inotify_event *event = (struct inotify_event *)p;

		if (event->mask & (IN_Q_OVERFLOW | IN_IGNORED))
			loop_start(&s->loop, &s->folder_timer, now_ns());
		else if (event->len)
			add_socket(s, event->name);
		p += sizeof(*event) + event->len;
	}
}

static void leave_folder(struct service *s)
{
	loop_stop(&s->loop, &s->folder_timer);
	if (s->folder.fd < 0)
		return;
	loop_remove(&s->loop, &s->folder);
	close(s->folder.fd);
	s->folder.fd = -1;
}

/* Watch the folder, from the beginning: what appears meanwhile is seen twice. */
static void open_folder(void *context)
{
	struct service *s = context;
	const char *path = s->rules.sockets;
	struct dirent *entry;
	DIR *dir = NULL;

	leave_folder(s);
	if (!path)
		return;
	s->folder.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (s->folder.fd >= 0) {
		loop_add(&s->loop, &s->folder);
		if (inotify_add_watch(s->folder.fd, path,
				      IN_CREATE | IN_MOVED_TO | IN_ONLYDIR) >= 0)
			dir = opendir(path);
	}
	if (!dir) {
		if (!s->folder_missing)
			tell_format(s, JOURNAL_WARNING, NULL, "%s: %s; trying again each minute",
				    path, strerror(errno));
		s->folder_missing = true;
		leave_folder(s);
		loop_start(&s->loop, &s->folder_timer, now_ns() + RETRY_NS);
		return;
	}
	s->folder_missing = false;
	while ((entry = readdir(dir)))
		add_socket(s, entry->d_name);
	closedir(dir);
}

/* --- libvirt's domains ---------------------------------------------------- */

static struct vm *find_domain(struct service *s, const struct libvirt_domain *domain)
{
	for (struct vm *vm = s->vms; vm; vm = vm->next) {
		if (vm->state != VM_DEAD && !vm->path && vm->a.vm.pid == domain->pid &&
		    !strcmp(vm->name, domain->name))
			return vm;
	}
	return NULL;
}

static void domain_found(void *context, const struct libvirt_domain *domain)
{
	struct service *s = context;
	struct vm *vm = find_domain(s, domain);
	struct process process = proc_of_thread(domain->pid);

	*s->libvirt_why = '\0';
	/* A domain of another host, or one that is known. */
	if (!process.pid || (vm && assist_is_connected(&vm->a))) {
		close(domain->fd);
		return;
	}
	if (!vm) {
		vm = new_vm(s, NULL);
		vm->name = strdup(domain->name);
		if (!vm->name)
			err(EXIT_FAILURE, "virtual machine");
		if (assist_vm(&vm->a, &process)) {
			close(domain->fd);
			drop(vm);
			return;
		}
		vm->state = VM_IDLE;
	}
	assist_connect(&vm->a, domain->fd);
	follow_rules(vm);
}

static void libvirt_failed(void *context, const char *why)
{
	struct service *s = context;

	if (strcmp(s->libvirt_why, why))
		tell_format(s, JOURNAL_WARNING, NULL, "%s; trying again each minute", why);
	snprintf(s->libvirt_why, sizeof(s->libvirt_why), "%s", why);
	libvirt_close(s->libvirt);
	s->libvirt = NULL;
	loop_start(&s->loop, &s->libvirt_timer, now_ns() + RETRY_NS);
}

static void open_libvirt(void *context)
{
	struct service *s = context;
	const struct libvirt_handlers handlers = {
		.found = domain_found,
		.failed = libvirt_failed,
		.context = s,
	};

	if (s->rules.libvirt)
		s->libvirt = libvirt_open(&s->loop, s->rules.libvirt, NULL, &handlers);
}

/* --- rules ---------------------------------------------------------------- */

/* Returns 0, or -1 with what is wrong in @why. */
static int read_rules(const struct service_options *o, struct rules *rules, char *why,
		      size_t size)
{
	const char *path = o->config ?: CONFIG;
	FILE *file = fopen(path, "re");
	char text[WHY_LEN - 128];
	int error;

	if (!file && (o->config || errno != ENOENT)) {
		snprintf(why, size, "%s: %s", path, strerror(errno));
		*rules = (struct rules) { 0 };
		return -1;
	}
	error = rules_read(rules, file, text, sizeof(text));
	if (error)
		snprintf(why, size, "%s: %s", path, text);
	if (file)
		fclose(file);
	return error;
}

static bool differ(const char *a, const char *b)
{
	return !a != !b || (a && strcmp(a, b));
}

/* Returns false if the VM is to be looked for again. */
static bool apply_rules_to(struct vm *vm, bool elsewhere)
{
	struct rules_choice choice;

	if (elsewhere)
		return false;
	if (!is_known(vm))
		return true;
	choice = rules_for(&vm->s->rules, vm->name);
	if (choice.off && assist_is_connected(&vm->a)) {
		tell(vm->s, JOURNAL_INFO, vm, NULL, "it is left alone from now on");
		return false;
	}
	/* Its monitor is connected to as if it had just appeared. */
	if (!choice.off && !assist_is_connected(&vm->a))
		return vm->retry.due_ns != LOOP_NEVER;
	vm->a.settings = choice.policy;
	return true;
}

static void apply_rules(struct service *s, const struct rules *old)
{
	bool other_libvirt = differ(old->libvirt, s->rules.libvirt);
	bool other_folder = differ(old->sockets, s->rules.sockets);

	for (struct vm *vm = s->vms; vm; vm = vm->next) {
		bool elsewhere = vm->path ? other_folder : other_libvirt;

		if (vm->state != VM_DEAD && !apply_rules_to(vm, elsewhere))
			drop(vm);
	}
	if (other_libvirt && s->libvirt) {
		libvirt_close(s->libvirt);
		s->libvirt = NULL;
	}
	if (s->libvirt) {
		libvirt_list(s->libvirt);
	} else {
		loop_stop(&s->loop, &s->libvirt_timer);
		open_libvirt(s);
	}
	s->folder_missing = false;
	open_folder(s);
}

static void reload(struct service *s)
{
	struct rules old = s->rules, rules;
	char why[WHY_LEN];

	if (read_rules(s->o, &rules, why, sizeof(why))) {
		tell_format(s, JOURNAL_WARNING, NULL, "%s; the rules stay as they were", why);
		rules_free(&rules);
		return;
	}
	s->rules = rules;
	apply_rules(s, &old);
	rules_free(&old);
	s->metrics_failed = false;
	metrics_changed(s);
	tell(s, JOURNAL_INFO, NULL, NULL, "the rules were read again");
}

static bool on_signal(void *context, int signal)
{
	if (signal != SIGHUP)
		return false;
	reload(context);
	return true;
}

/* --- the whole ------------------------------------------------------------ */

static void pat_watchdog(void *context)
{
	struct service *s = context;

	journal_notify("WATCHDOG=1");
	loop_start(&s->loop, &s->watchdog, now_ns() + s->watchdog_ns / 2);
}

/* Each VM takes several. */
static void allow_many_files(void)
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static void start(struct service *s)
{
	loop_init(&s->loop);
	s->loop.on_signal = on_signal;
	s->loop.context = s;
	s->folder = (struct loop_watch) {
		.fd = -1, .events = POLLIN, .ready = folder_changed, .context = s,
	};
	s->reaper = (struct loop_timer) { .due_ns = LOOP_NEVER, .due = reap, .context = s };
	s->libvirt_timer = (struct loop_timer) {
		.due_ns = LOOP_NEVER, .due = open_libvirt, .context = s,
	};
	s->folder_timer = (struct loop_timer) {
		.due_ns = LOOP_NEVER, .due = open_folder, .context = s,
	};
	s->metrics_timer = (struct loop_timer) {
		.due_ns = LOOP_NEVER, .due = write_metrics, .context = s,
	};
	s->watchdog = (struct loop_timer) {
		.due_ns = LOOP_NEVER, .due = pat_watchdog, .context = s,
	};
	s->watchdog_ns = journal_watchdog_ns();
	if (s->watchdog_ns)
		pat_watchdog(s);
	open_libvirt(s);
	open_folder(s);
	metrics_changed(s);
	tell(s, JOURNAL_INFO, NULL, NULL, "watching for migrations");
	journal_notify("READY=1");
}

/**
 * service_run() - help all VMs until a signal comes
 * @o: the command line
 *
 * Return: the exit status.
 */
int service_run(const struct service_options *o)
{
	struct service s = { .o = o };
	char why[WHY_LEN];

	if (read_rules(o, &s.rules, why, sizeof(why)))
		errx(EXIT_FAILURE, "%s", why);
	if (o->check) {
		printf("%s is right.\n", o->config ?: CONFIG);
		rules_free(&s.rules);
		return EXIT_SUCCESS;
	}
	journal_open();
	allow_many_files();
	output_stdio(OUTPUT_DROP, -1);
	start(&s);
	loop_run(&s.loop);
	journal_notify("STOPPING=1");
	for (struct vm *vm = s.vms; vm; vm = vm->next)
		drop(vm);
	reap(&s);
	if (s.libvirt)
		libvirt_close(s.libvirt);
	leave_folder(&s);
	rules_free(&s.rules);
	loop_close(&s.loop);
	return EXIT_SUCCESS;
}
