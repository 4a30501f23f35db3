// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What /proc tells about other processes: their names, and the files that they
 * have open.
 */
#include <ctype.h>
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/kcmp.h>

#include "pidfd.h"
#include "proc.h"

static pid_t read_tgid(pid_t tid)
{
	char line[128];
	pid_t pid = 0;
	FILE *f;

	snprintf(line, sizeof(line), "/proc/%d/status", tid);
	f = fopen(line, "re");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Tgid: %d", &pid) == 1)
			break;
	}
	fclose(f);
	return pid;
}

/* A process can call itself anything, also what confuses terminals. */
static void make_printable(char *name)
{
	for (; *name; name++) {
		if (!isascii(*name) || !isprint(*name))
			*name = '?';
	}
}

static void read_comm(pid_t pid, char *name, size_t size)
{
	char path[32];
	size_t len;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	f = fopen(path, "re");
	if (!f)
		return;
	len = fread(name, 1, size - 1, f);
	fclose(f);

	if (len && name[len - 1] == '\n')
		len--;
	name[len] = '\0';
	make_printable(name);
}

/*
 * The name among QEMU's options of -name: guest=NAME or, as the first, NAME.  A comma
 * in it is doubled.  It is put at the beginning of @options.  Returns false if there
 * is none.
 */
static bool take_qemu_name(char *options)
{
	bool first = true;

	for (char *from = options; *from; first = false) {
		bool named = !strncmp(from, "guest=", strlen("guest="));
		bool found = named || (first && from[strcspn(from, "=,")] != '=');
		char *to = options;

		if (named)
			from += strlen("guest=");
		for (; *from && (*from != ',' || from[1] == ','); from++) {
			from += *from == ',';
			if (found)
				*to++ = *from;
		}
		if (found) {
			*to = '\0';
			return true;
		}
		from += *from == ',';
	}
	return false;
}

/*
 * The VM's name on the command line: QEMU has -name [guest=]NAME[,...],
 * kvmtool and crosvm have --name NAME, Firecracker has --id NAME.
 * Returns it, to be freed, or NULL.
 */
static char *read_guest(pid_t pid)
{
	char *arg = NULL, path[32];
	bool found = false, qemu = false;
	size_t room = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	f = fopen(path, "re");
	if (!f)
		return NULL;
	while (!found && getdelim(&arg, &room, '\0', f) > 0) {
		qemu = !strcmp(arg, "-name");
		found = qemu || !strcmp(arg, "--name") || !strcmp(arg, "--id");
	}
	found = found && getdelim(&arg, &room, '\0', f) > 0;
	fclose(f);
	/* QEMU takes two dashes, too. */
	if (found && (qemu || strchr(arg, ',') || !strncmp(arg, "guest=", strlen("guest="))))
		found = take_qemu_name(arg);
	if (found)
		return arg;
	free(arg);
	return NULL;
}

/**
 * proc_has_guest() - does a process's command line call its VM so?
 * @pid: the process
 * @name: the whole name, with any characters
 *
 * Return: true if it does.
 */
bool proc_has_guest(pid_t pid, const char *name)
{
	char *guest = read_guest(pid);
	bool same = guest && !strcmp(guest, name);

	free(guest);
	return same;
}

/**
 * proc_of_thread() - the process that a thread belongs to
 * @tid: the thread, which may be a process's first
 *
 * Return: the process; its id is 0 if there is no such thread.
 */
struct process proc_of_thread(pid_t tid)
{
	struct process process = { .pid = read_tgid(tid), .name = "?" };
	char *guest;

	if (!process.pid)
		return process;
	read_comm(process.pid, process.name, sizeof(process.name));
	guest = read_guest(process.pid);
	snprintf(process.guest, sizeof(process.guest), "%s", guest ?: "");
	make_printable(process.guest);
	free(guest);
	return process;
}

/**
 * proc_find_fds() - find a process's open files by their name
 * @pid: the process
 * @file: what the link of the file in /proc reads
 * @fds: result, ascending; to be freed
 *
 * Return: how many there are, or a negative error number.
 */
int proc_find_fds(pid_t pid, const char *file, int **fds)
{
	char link[64], path[32];
	struct dirent *entry;
	int found = 0;
	DIR *dir;

	*fds = NULL;
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir)
		return -errno;

	while ((entry = readdir(dir))) {
		ssize_t len = readlinkat(dirfd(dir), entry->d_name, link,
					 sizeof(link) - 1);
		int *more;

		if (len < 0 && errno == EACCES) {
			found = -EACCES;
			break;
		}
		if (len < 0)
			continue;
		link[len] = '\0';
		if (strcmp(link, file))
			continue;

		more = reallocarray(*fds, found + 1, sizeof(**fds));
		if (!more)
			err(EXIT_FAILURE, "list of files");
		more[found++] = atoi(entry->d_name);
		*fds = more;
	}
	closedir(dir);
	return found;
}

/**
 * proc_compare_files() - compare two file descriptors by what they are copies of
 * @pid1: the process that has the first
 * @fd1: the first
 * @pid2: the process that has the second
 * @fd2: the second
 *
 * Return: 0 if they are copies of one another; 1 or 2 if they aren't, by an order that all
 * files have; a negative error number if the kernel can't tell.
 */
int proc_compare_files(pid_t pid1, int fd1, pid_t pid2, int fd2)
{
	int order = syscall(SYS_kcmp, pid1, pid2, KCMP_FILE, fd1, fd2);

	return order < 0 ? -errno : order;
}

/**
 * proc_same_file() - are two file descriptors copies of one another?
 * @pid1: the process that has the first
 * @fd1: the first
 * @pid2: the process that has the second
 * @fd2: the second
 *
 * Return: true if they are; false also if the kernel can't tell.
 */
bool proc_same_file(pid_t pid1, int fd1, pid_t pid2, int fd2)
{
	return !proc_compare_files(pid1, fd1, pid2, fd2);
}

/**
 * proc_open() - get hold of a process
 * @pid: the process
 *
 * Return: its pidfd, which becomes readable when it ends, or a negative error number.
 */
int proc_open(pid_t pid)
{
	int fd = pidfd_open(pid, 0);

	return fd < 0 ? -errno : fd;
}

/**
 * proc_get_fd() - copy a file descriptor out of another process
 * @pidfd: what proc_open() returned
 * @fd: its number there
 *
 * Return: a file descriptor, or a negative error number.
 */
int proc_get_fd(int pidfd, int fd)
{
	int copy = pidfd_getfd(pidfd, fd, 0);

	return copy < 0 ? -errno : copy;
}

/**
 * proc_has_vm() - has a process a VM?
 * @pid: its id
 *
 * Return: true if so, and if it can be seen.
 */
bool proc_has_vm(pid_t pid)
{
	int *fds, nr = proc_find_fds(pid, "anon_inode:kvm-vm", &fds);

	free(fds);
	return nr > 0;
}

/* The inode of the socket that listens at @path, 0 if there is none here. */
static unsigned long listener(const char *path)
{
	char line[512], found[256];
	unsigned long inode = 0, this;
	FILE *f = fopen("/proc/net/unix", "re");
	char *real = realpath(path, NULL);
	unsigned int flags;

	while (f && fgets(line, sizeof(line), f)) {
		/* 0x10000: it listens. */
		if (sscanf(line, "%*s %*s %*s %x %*s %*s %lu %255[^\n]", &flags,
			   &this, found) == 3 && flags & 0x10000 &&
		    (!strcmp(found, path) || (real && !strcmp(found, real))))
			inode = this;
	}
	free(real);
	if (f)
		fclose(f);
	return inode;
}

/**
 * proc_of_monitor() - the process that is at the other end of a monitor's socket
 * @fd: the socket
 * @path: its path
 *
 * The kernel knows who called listen(), which may be whoever started the VMM, and
 * handed the socket down to it.  So it has to have a VM, or another process that
 * has the socket too.
 *
 * Return: its id; if there is none with a VM, that of who called listen(); 0 if that
 * isn't known, as it is in another namespace.
 */
pid_t proc_of_monitor(int fd, const char *path)
{
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);
	unsigned long inode;
	pid_t found = 0;
	struct dirent *entry;
	char file[64];
	DIR *dir;

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	if (peer.pid && proc_has_vm(peer.pid))
		return peer.pid;
	inode = listener(path);
	snprintf(file, sizeof(file), "socket:[%lu]", inode);
	dir = inode ? opendir("/proc") : NULL;
	while (dir && (entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);
		int *fds, nr = pid ? proc_find_fds(pid, file, &fds) : 0;

		if (nr > 0 && proc_has_vm(pid))
			found = pid;
		if (pid)
			free(fds);
	}
	if (dir)
		closedir(dir);
	return found ?: peer.pid;
}
