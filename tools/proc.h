/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What /proc tells about other processes: their names, and the files that they
 * have open.
 */
#ifndef PROC_H
#define PROC_H

#include <stdbool.h>
#include <sys/types.h>

/**
 * struct process - a process
 * @pid: its id, 0 if there is none
 * @name: its command name
 * @guest: what its command line calls its VM, empty if it doesn't
 *
 * The names are of printable ASCII, and cut if they are longer: proc_has_guest() has the
 * whole one.
 */
struct process {
	pid_t pid;
	char name[16];
	char guest[256];
};

struct process proc_of_thread(pid_t tid);
bool proc_has_guest(pid_t pid, const char *name);
int proc_find_fds(pid_t pid, const char *file, int **fds);
bool proc_has_vm(pid_t pid);
pid_t proc_of_monitor(int fd, const char *path);
int proc_open(pid_t pid);
int proc_get_fd(int pidfd, int fd);
int proc_compare_files(pid_t pid1, int fd1, pid_t pid2, int fd2);
bool proc_same_file(pid_t pid1, int fd1, pid_t pid2, int fd2);

#endif /* PROC_H */
