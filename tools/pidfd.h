/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pidfds, for C libraries that have no <sys/pidfd.h> too: glibc's came with 2.36,
 * which is later than Ubuntu 22.04 and RHEL 9.
 */
#ifndef PIDFD_H
#define PIDFD_H

#include <sys/syscall.h>
#include <unistd.h>

/**
 * pidfd_open() - see pidfd_open(2)
 * @pid: a process
 * @flags: none are needed here
 *
 * Return: a pidfd, or -1 with errno.
 */
static inline int pidfd_open(pid_t pid, unsigned int flags)
{
	return syscall(SYS_pidfd_open, pid, flags);
}

/**
 * pidfd_getfd() - see pidfd_getfd(2)
 * @pidfd: of a process
 * @fd: one of its descriptors
 * @flags: must be 0
 *
 * Return: a copy of that, close-on-exec, or -1 with errno.
 */
static inline int pidfd_getfd(int pidfd, int fd, unsigned int flags)
{
	return syscall(SYS_pidfd_getfd, pidfd, fd, flags);
}

#endif /* PIDFD_H */
