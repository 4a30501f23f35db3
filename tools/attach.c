// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How the VM of another process comes to be throttled by this one.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/kvm_throttle.h>

#include "attach.h"
#include "command.h"
#include "pidfd.h"
#include "throttle.h"

#define DEVICE		"/dev/kvm_throttle"

/* The oldest interface that has all of what is used here. */
#define API_NEEDED	1

/* Find the number that the process has for its VM, or for the one of @vm_fd. */
static int find_vm(const struct process *process, int vm_fd)
{
	int nr, nr_vms = 0, *fds, found;
	char list[256] = "";

	nr = find_vms(process, &fds);
	found = fds[0];
	for (int i = 0; i < nr; i++) {
		bool copy = false;

		if (fds[i] == vm_fd) {
			free(fds);
			return vm_fd;
		}
		for (int other = 0; other < i; other++)
			copy |= proc_same_file(process->pid, fds[other],
					       process->pid, fds[i]);
		if (!copy) {
			size_t len = strlen(list);

			snprintf(list + len, sizeof(list) - len, "%s--fd %d",
				 nr_vms++ ? ", " : "", fds[i]);
		}
	}
	free(fds);

	if (vm_fd >= 0)
		errx(EXIT_FAILURE,
		     "fd %d of process %d (%s) is not a KVM virtual machine; choose from: %s",
		     vm_fd, process->pid, process->name, list);
	if (nr_vms > 1)
		errx(EXIT_FAILURE,
		     "process %d (%s) has %d KVM virtual machines; choose one: %s",
		     process->pid, process->name, nr_vms, list);
	return found;
}

/* Copy the VM's fd out of its process. */
static int take_vm(const struct process *process, int vm_fd)
{
	int pidfd, fd;

	/* Open first: what is found then is this process's or can't be had. */
	pidfd = pidfd_open(process->pid, 0);
	if (pidfd < 0 && errno == ESRCH)
		errx(EXIT_FAILURE, "process %d (%s) has ended", process->pid,
		     process->name);
	if (pidfd < 0)
		err(EXIT_FAILURE, "pidfd_open");

	fd = pidfd_getfd(pidfd, find_vm(process, vm_fd), 0);
	if (fd < 0 && errno == EPERM)
		errx(EXIT_FAILURE,
		     "no permission to copy the VM's fd out of process %d (%s): run as root or with CAP_SYS_PTRACE, and kernel.yama.ptrace_scope below 3",
		     process->pid, process->name);
	if (fd < 0 && errno == ENOSYS)
		errx(EXIT_FAILURE,
		     "this kernel has no pidfd_getfd(): Linux 5.6 or later is needed");
	if (fd < 0 && (errno == EBADF || errno == ESRCH))
		errx(EXIT_VM_ENDED, "the VM of process %d (%s) has ended",
		     process->pid, process->name);
	if (fd < 0)
		err(EXIT_FAILURE, "pidfd_getfd");
	close(pidfd);
	return fd;
}

static int open_device(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0 && (errno == EACCES || errno == EPERM))
		errx(EXIT_FAILURE, "no permission to open " DEVICE ": run as root");
	if (fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO))
		errx(EXIT_FAILURE,
		     DEVICE " is missing: load the module with `modprobe kvm_throttle`");
	if (fd < 0)
		err(EXIT_FAILURE, DEVICE);
	if (ioctl(fd, KVM_THROTTLE_GET_API_VERSION, 0) < API_NEEDED)
		errx(EXIT_FAILURE,
		     DEVICE " doesn't have version %d of the interface: install the kvm_throttle module of this command's version",
		     API_NEEDED);
	return fd;
}

static _Noreturn void fail_busy(const struct process *process)
{
	struct throttle *found;
	bool hidden;

	if (throttle_find(process->pid, &found, &hidden) > 0)
		errx(EXIT_FAILURE,
		     "the VM of process %d (%s) is throttled already, by process %d (%s): end that first",
		     process->pid, process->name, found->holder.pid,
		     found->holder.name);
	errx(EXIT_FAILURE,
	     "the VM of process %d (%s) is throttled already, by a process that can't be found",
	     process->pid, process->name);
}

/**
 * attach() - get a throttle fd of a process's VM, at 0 %
 * @process: the process
 * @vm_fd: the VM's number there, if there are several; -1 if not
 *
 * The VM's fd is copied out of the process with pidfd_getfd(), the module is
 * given it in exchange for a throttle fd, and the copy is closed at once, so as
 * not to keep the VM alive.  The throttle ends with the throttle fd, however
 * this process ends.
 *
 * Return: the throttle fd.
 */
int attach(const struct process *process, int vm_fd)
{
	struct kvm_throttle_attach attach = { .vm_fd = take_vm(process, vm_fd) };
	int device = open_device();
	int fd = ioctl(device, KVM_THROTTLE_ATTACH, &attach);
	int error = errno;

	close(attach.vm_fd);
	close(device);
	if (fd >= 0)
		return fd;

	if (error == EBUSY)
		fail_busy(process);
	if (error == ESRCH)
		errx(EXIT_VM_ENDED, "the VM of process %d (%s) has ended",
		     process->pid, process->name);
	errno = error;
	err(EXIT_FAILURE, "KVM_THROTTLE_ATTACH");
}
