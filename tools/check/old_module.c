// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * To be preloaded into the kvm-throttle command: the module answers as one of
 * version 2 of the interface would, which takes a rate for a field that has to be 0.
 */
#include <errno.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/kvm_throttle.h>

int ioctl(int fd, unsigned long request, ...)
{
	void *argument;
	va_list args;

	va_start(args, request);
	argument = va_arg(args, void *);
	va_end(args);
	if (request == KVM_THROTTLE_GET_API_VERSION)
		return 2;
	if (request == KVM_SET_THROTTLE && ((struct kvm_throttle *)argument)->dirty_rate) {
		errno = EINVAL;
		return -1;
	}
	return syscall(SYS_ioctl, fd, request, argument);
}
