// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How the VM of another process comes to be throttled by this one.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/kvm_throttle.h>

#include "attach.h"
#include "command.h"
#include "throttle.h"

/* The oldest interface that has all of what is used here. */
#define API_NEEDED	1

/**
 * struct failure - why a VM can't be throttled
 * @why: room for the words
 * @size: of that
 */
struct failure {
	char *why;
	size_t size;
};

/* Returns @status. */
static int fail(const struct failure *f, int status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(f->why, f->size, format, args);
	va_end(args);
	return status;
}

/* Is it a copy of one of those before it? */
static bool is_copy(const struct process *process, const int *fds, int i)
{
	for (int other = 0; other < i; other++) {
		if (proc_same_file(process->pid, fds[other], process->pid, fds[i]))
			return true;
	}
	return false;
}

/*
 * Find the number that the process has for its VM, or for the one of *@vm_fd.  Returns
 * 0, or an exit status.
 */
static int find_vm(const struct process *process, int *vm_fd, const struct failure *f)
{
	int status, nr, nr_vms = 0, *fds, found;
	char list[256] = "";

	status = list_vms(process, &fds, &nr, f->why, f->size);
	if (status)
		return status;
	found = fds[0];
	for (int i = 0; i < nr; i++) {
		size_t len = strlen(list);

		if (fds[i] == *vm_fd) {
			free(fds);
			return 0;
		}
		if (!is_copy(process, fds, i))
			snprintf(list + len, sizeof(list) - len, "%s--fd %d",
				 nr_vms++ ? ", " : "", fds[i]);
	}
	free(fds);

	if (*vm_fd >= 0)
		return fail(f, EXIT_FAILURE,
			    "fd %d of process %d (%s) is not a KVM virtual machine; choose from: %s",
			    *vm_fd, process->pid, process->name, list);
	if (nr_vms > 1)
		return fail(f, EXIT_FAILURE,
			    "process %d (%s) has %d KVM virtual machines; choose one: %s",
			    process->pid, process->name, nr_vms, list);
	*vm_fd = found;
	return 0;
}

/* Copy the VM's fd out of its process, to *@copy.  Returns 0, or an exit status. */
static int take_vm(const struct process *process, int vm_fd, int *copy,
		   const struct failure *f)
{
	/* Open first: what is found then is this process's or can't be had. */
	int status, error, pidfd = proc_open(process->pid);

	if (pidfd == -ESRCH)
		return fail(f, EXIT_FAILURE, "process %d (%s) has ended", process->pid,
			    process->name);
	if (pidfd < 0)
		return fail(f, EXIT_FAILURE, "pidfd_open: %s", strerror(-pidfd));
	status = find_vm(process, &vm_fd, f);
	if (status) {
		close(pidfd);
		return status;
	}
	*copy = proc_get_fd(pidfd, vm_fd);
	error = -*copy;
	close(pidfd);
	if (*copy >= 0)
		return 0;
	if (error == EPERM)
		return fail(f, EXIT_FAILURE,
			    "no permission to copy the VM's fd out of process %d (%s): run as root or with CAP_SYS_PTRACE, and kernel.yama.ptrace_scope below 3",
			    process->pid, process->name);
	if (error == ENOSYS)
		return fail(f, EXIT_FAILURE,
			    "this kernel has no pidfd_getfd(): Linux 5.6 or later is needed");
	if (error == EBADF || error == ESRCH)
		return fail(f, EXIT_VM_ENDED, "the VM of process %d (%s) has ended",
			    process->pid, process->name);
	return fail(f, EXIT_FAILURE, "pidfd_getfd: %s", strerror(error));
}

/* Open the module's device, as *@device.  Returns 0, or an exit status. */
static int open_device(int *device, const struct failure *f)
{
	int fd = open(THROTTLE_DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0 && (errno == EACCES || errno == EPERM))
		return fail(f, EXIT_FAILURE, "no permission to open " THROTTLE_DEVICE ": run as root");
	if (fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO))
		return fail(f, EXIT_FAILURE,
			    THROTTLE_DEVICE " is missing: load the module with `modprobe kvm_throttle`");
	if (fd < 0)
		return fail(f, EXIT_FAILURE, THROTTLE_DEVICE ": %s", strerror(errno));
	if (ioctl(fd, KVM_THROTTLE_GET_API_VERSION, 0) < API_NEEDED) {
		close(fd);
		return fail(f, EXIT_FAILURE,
			    THROTTLE_DEVICE " doesn't have version %d of the interface: install the kvm_throttle module of this command's version",
			    API_NEEDED);
	}
	*device = fd;
	return 0;
}

static int fail_busy(const struct process *process, const struct failure *f)
{
	struct throttle *found;
	bool hidden;
	int nr = throttle_find(process->pid, &found, &hidden);

	if (nr <= 0)
		return fail(f, EXIT_FAILURE,
			    "the VM of process %d (%s) is throttled already, by a process that can't be found",
			    process->pid, process->name);
	fail(f, EXIT_FAILURE,
	     "the VM of process %d (%s) is throttled already, by process %d (%s): end that first",
	     process->pid, process->name, found->holder.pid, found->holder.name);
	throttle_free_all(found, nr);
	return EXIT_FAILURE;
}

/**
 * attach_try() - get a throttle fd of a process's VM, at 0 %
 * @process: the process
 * @vm_fd: the VM's number there, if there are several; -1 if not
 * @fd: result, the throttle fd; unchanged if it fails
 * @why: what is wrong, if it fails
 * @size: room for that
 *
 * The VM's fd is copied out of the process with pidfd_getfd(), the module is
 * given it in exchange for a throttle fd, and the copy is closed at once, so as
 * not to keep the VM alive.  The throttle ends with the throttle fd, however
 * this process ends.
 *
 * Return: 0, or the exit status that tells what is wrong.
 */
int attach_try(const struct process *process, int vm_fd, int *fd, char *why, size_t size)
{
	const struct failure f = { why, size };
	struct kvm_throttle_attach attach = { 0 };
	int status, device = -1, copy = -1, result, error;

	status = take_vm(process, vm_fd, &copy, &f);
	if (status)
		return status;
	status = open_device(&device, &f);
	if (status) {
		close(copy);
		return status;
	}
	attach.vm_fd = copy;
	result = ioctl(device, KVM_THROTTLE_ATTACH, &attach);
	error = errno;
	close(copy);
	close(device);
	if (result >= 0) {
		*fd = result;
		return 0;
	}
	if (error == EBUSY)
		return fail_busy(process, &f);
	if (error == ESRCH)
		return fail(&f, EXIT_VM_ENDED, "the VM of process %d (%s) has ended",
			    process->pid, process->name);
	return fail(&f, EXIT_FAILURE, "KVM_THROTTLE_ATTACH: %s", strerror(error));
}

/**
 * attach() - the same, which has to succeed
 * @process: the process
 * @vm_fd: the VM's number there, if there are several; -1 if not
 *
 * Return: the throttle fd.
 */
int attach(const struct process *process, int vm_fd)
{
	char why[WHY_LEN];
	int fd, status = attach_try(process, vm_fd, &fd, why, sizeof(why));

	if (status)
		errx(status, "%s", why);
	return fd;
}
