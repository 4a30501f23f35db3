// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the subcommands of kvm-throttle and kvm-throttle-meter share.
 */
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "command.h"

#define VM_FILE		"anon_inode:kvm-vm"

/* The other options of a command are numbered in its own argp. */
#define OPTION_VM	256

#define FOR_MIN_NS	NSEC_PER_MSEC
#define FOR_MAX_NS	(365 * 24 * 3600 * NSEC_PER_SEC)

/**
 * option_pid() - read the argument of --pid
 * @state: where to complain
 * @arg: the argument
 *
 * Return: the process id.
 */
pid_t option_pid(const struct argp_state *state, const char *arg)
{
	uint64_t value;

	if (parse_number(arg, INT32_MAX, &value) || !value)
		argp_failure(state, EXIT_USAGE, 0,
			     "--pid: '%s' is not a process id", arg);
	return value;
}

/**
 * option_interval() - read the argument of --interval
 * @state: where to complain
 * @arg: the argument
 *
 * Return: nanoseconds.
 */
uint64_t option_interval(const struct argp_state *state, const char *arg)
{
	uint64_t ns;

	if (parse_duration(arg, INTERVAL_MIN_NS, INTERVAL_MAX_NS, &ns))
		argp_failure(state, EXIT_USAGE, 0,
			     "--interval: '%s' is not a time from " INTERVAL_TEXT,
			     arg);
	return ns;
}

/**
 * option_for() - read the argument of --for
 * @state: where to complain
 * @arg: the argument
 *
 * Return: nanoseconds.
 */
uint64_t option_for(const struct argp_state *state, const char *arg)
{
	uint64_t ns;

	if (parse_duration(arg, FOR_MIN_NS, FOR_MAX_NS, &ns))
		argp_failure(state, EXIT_USAGE, 0,
			     "--for: '%s' is not a time from 1ms to 8760h, such as 500ms, 10s, 5m or 2h",
			     arg);
	return ns;
}

static void check_output(int status, void *unused)
{
	(void)unused;
	/* Who has failed has said why. */
	if ((!fflush(stdout) && !ferror(stdout)) || status != EXIT_SUCCESS)
		return;
	warn("standard output");
	_exit(EXIT_FAILURE);
}

/**
 * check_output_at_exit() - have this process fail if what it printed got lost
 *
 * To be called before anything else is registered with atexit().
 */
void check_output_at_exit(void)
{
	on_exit(check_output, NULL);
}

/**
 * now_ns() - the time
 *
 * Return: nanoseconds of CLOCK_MONOTONIC.
 */
uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NSEC_PER_SEC + t.tv_nsec;
}

/**
 * format_text() - make a text
 * @format: as for printf(3)
 * @args: what it is about
 *
 * Return: the text, to be freed.
 */
char *format_text(const char *format, va_list args)
{
	char *text;

	if (vasprintf(&text, format, args) < 0)
		err(EXIT_FAILURE, "message");
	return text;
}

/**
 * clean_text() - make a text safe to be shown
 * @text: the text, some of which is another's; its control characters become '?', as
 *	they can begin a line or make a terminal do things
 */
void clean_text(char *text)
{
	for (unsigned char *c = (unsigned char *)text; *c; c++) {
		/* U+0080 to U+009F are control characters, too. */
		if (*c < ' ' || *c == 0x7f || (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0))
			*c = '?';
		if (*c == '?' && c[1] >= 0x80 && c[1] < 0xa0)
			*++c = '?';
	}
}

/**
 * json_member() - look into an object
 * @json: the object, or anything else
 * @name: what is looked for
 *
 * Return: what is called so there, which is @json's; or NULL.
 */
struct json_object *json_member(struct json_object *json, const char *name)
{
	struct json_object *value = NULL;

	json_object_object_get_ex(json, name, &value);
	return value;
}

/**
 * print_json() - print an object on a line of its own, and free it
 * @file: where to
 * @json: the object
 */
void print_json(FILE *file, struct json_object *json)
{
	fprintf(file, "%s\n",
		json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN));
	json_object_put(json);
}

/**
 * find_process() - the process that the user means, which must exist
 * @pid: its id
 *
 * Return: the process.
 */
struct process find_process(pid_t pid)
{
	struct process process = proc_of_thread(pid);

	if (!process.pid)
		errx(EXIT_FAILURE, "there is no process %d", pid);
	return process;
}

/**
 * struct vm_processes - the processes of this host that have a VM
 * @list: the processes
 * @nr: how many they are
 * @hidden: one that may be such a process, but can't be looked into; its id is 0
 *	if there is none
 */
struct vm_processes {
	struct process *list;
	unsigned int nr;
	struct process hidden;
};

/* Add process @pid if it has a VM, and that has the name @name unless it is NULL. */
static void add_vm_process(struct vm_processes *vms, pid_t pid, const char *name)
{
	struct process process = proc_of_thread(pid);
	int nr, *fds;

	if (!process.pid || (name && !proc_has_guest(pid, name)))
		return;
	nr = proc_find_fds(pid, VM_FILE, &fds);
	if (nr > 0)
		free(fds);
	if (nr == -EACCES)
		vms->hidden = process;
	if (nr <= 0)
		return;
	vms->list = reallocarray(vms->list, vms->nr + 1, sizeof(*vms->list));
	if (!vms->list)
		err(EXIT_FAILURE, "list of processes");
	vms->list[vms->nr++] = process;
}

static struct vm_processes find_vm_processes(const char *name)
{
	struct vm_processes vms = { 0 };
	DIR *dir = opendir("/proc");
	struct dirent *entry;

	if (!dir)
		err(EXIT_FAILURE, "/proc");
	while ((entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);

		if (pid)
			add_vm_process(&vms, pid, name);
	}
	closedir(dir);
	return vms;
}

/* What a user can choose from, in words; to be freed. */
static char *list_vm_processes(const struct vm_processes *vms)
{
	size_t size;
	char *text;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		err(EXIT_FAILURE, "list of processes");
	if (!vms->nr)
		fputs(vms->hidden.pid ?
		      "this host has none that you may look into: run as root or with CAP_SYS_PTRACE to see all" :
		      "this host has none", f);
	for (unsigned int i = 0; i < vms->nr; i++) {
		const struct process *p = &vms->list[i];

		fprintf(f, "%s%s (--pid %d%s%s)", i ? ", " : "this host has ",
			p->name, p->pid, *p->guest ? ", --vm " : "", p->guest);
	}
	fclose(f);
	return text;
}

/**
 * fail_which_vm() - say that the user has to choose a VM, and from which
 * @state: where to complain
 */
void fail_which_vm(const struct argp_state *state)
{
	struct vm_processes vms = find_vm_processes(NULL);

	argp_failure(state, EXIT_USAGE, 0,
		     "which VM? Give its name with --vm or its process with --pid; %s",
		     list_vm_processes(&vms));
	abort();
}

/* The process whose command line calls its VM @name, of which there must be one. */
static pid_t find_vm(const struct argp_state *state, const char *name)
{
	struct vm_processes vms = find_vm_processes(name);
	pid_t pid = vms.nr ? vms.list[0].pid : 0;

	if (!*name)
		argp_failure(state, EXIT_USAGE, 0, "--vm: '' is not a VM's name");
	if (vms.nr > 1)
		errx(EXIT_FAILURE,
		     "%u processes have a VM that is called '%s': give one with --pid: %d, %d%s",
		     vms.nr, name, pid, vms.list[1].pid, vms.nr > 2 ? ", ..." : "");
	if (!pid && vms.hidden.pid)
		errx(EXIT_FAILURE,
		     "no permission to look into process %d (%s): run as root or with CAP_SYS_PTRACE",
		     vms.hidden.pid, vms.hidden.name);
	if (!pid) {
		vms = find_vm_processes(NULL);
		errx(EXIT_FAILURE, "there is no VM '%s'; %s", name,
		     list_vm_processes(&vms));
	}
	free(vms.list);
	return pid;
}

static error_t parse_vm_option(int key, char *arg, struct argp_state *state)
{
	pid_t *pid = state->input;

	switch (key) {
	case OPTION_VM:
		*pid = find_vm(state, arg);
		return 0;
	case 'p':
		*pid = option_pid(state, arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp one_vm = {
	.options = (const struct argp_option[]) {
		{ "vm", OPTION_VM, "NAME", 0,
		  "the VM's name, as the command line of its process has it", 0 },
		{ "pid", 'p', "PID", 0, "the VM's process", 0 },
		{ 0 }
	},
	.parser = parse_vm_option,
};

static const struct argp any_vm = {
	.options = (const struct argp_option[]) {
		{ "vm", OPTION_VM, "NAME", 0, "only the VM of this name", 0 },
		{ "pid", 'p', "PID", 0, "only the VMs of this process", 0 },
		{ 0 }
	},
	.parser = parse_vm_option,
};

const struct argp_child option_one_vm[] = { { &one_vm, 0, NULL, 0 }, { 0 } };
const struct argp_child option_any_vm[] = { { &any_vm, 0, NULL, 0 }, { 0 } };

/**
 * list_vms() - the VMs of a process
 * @process: the process
 * @fds: result, their numbers there; to be freed
 * @nr: result, how many there are: one at least
 * @why: what is wrong, if it fails
 * @size: room for that
 *
 * Return: 0, or the exit status that tells what is wrong.
 */
int list_vms(const struct process *process, int **fds, int *nr, char *why, size_t size)
{
	*nr = proc_find_fds(process->pid, VM_FILE, fds);
	if (*nr > 0)
		return 0;
	if (*nr == -EACCES)
		snprintf(why, size,
			 "no permission to look into process %d (%s): run as root or with CAP_SYS_PTRACE",
			 process->pid, process->name);
	else if (*nr == -ENOENT)
		snprintf(why, size, "process %d (%s) has ended", process->pid, process->name);
	else if (*nr < 0)
		snprintf(why, size, "process %d (%s): %s", process->pid, process->name,
			 strerror(-*nr));
	else
		snprintf(why, size, "process %d (%s) has no KVM virtual machine",
			 process->pid, process->name);
	return EXIT_FAILURE;
}

/**
 * find_vms() - the VMs of a process, which must have some
 * @process: the process
 * @fds: result, their numbers there; to be freed
 *
 * Return: how many there are.
 */
int find_vms(const struct process *process, int **fds)
{
	char why[WHY_LEN];
	int nr, status = list_vms(process, fds, &nr, why, sizeof(why));

	if (status)
		errx(status, "%s", why);
	return nr;
}

/**
 * open_process() - begin to watch a process
 * @process: the process
 *
 * Return: its pidfd, which becomes readable when it ends.
 */
int open_process(const struct process *process)
{
	int fd = proc_open(process->pid);

	if (fd < 0)
		errx(EXIT_FAILURE, "process %d (%s): %s", process->pid, process->name,
		     strerror(-fd));
	return fd;
}

/**
 * open_signals() - have signals that would end this process announced instead
 *
 * Return: a file descriptor that becomes readable when one comes.
 */
int open_signals(void)
{
	static const int ends[] = { SIGINT, SIGTERM, SIGHUP };
	sigset_t set;
	int fd;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		struct sigaction action;

		/* nohup has them ignored. */
		sigaction(ends[i], NULL, &action);
		if (action.sa_handler != SIG_IGN)
			sigaddset(&set, ends[i]);
	}
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (fd < 0)
		err(EXIT_FAILURE, "signalfd");
	return fd;
}
