/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The domains of a libvirt, whose QEMUs are asked through it.
 */
#ifndef KVM_THROTTLE_LIBVIRT_H
#define KVM_THROTTLE_LIBVIRT_H

#include <sys/types.h>

#include "loop.h"

/**
 * struct libvirt_domain - a domain that runs
 * @name: its name
 * @pid: its QEMU's process, 0 if that isn't on this host
 * @fd: a socket that behaves as QEMU's monitor does; the callee's
 */
struct libvirt_domain {
	const char *name;
	pid_t pid;
	int fd;
};

/**
 * struct libvirt_handlers - what is called; each may call libvirt_close()
 * @found: a domain runs, or can be reached again
 * @failed: libvirt can't be used, or doesn't know the domain
 * @context: for both
 */
struct libvirt_handlers {
	void (*found)(void *context, const struct libvirt_domain *domain);
	void (*failed)(void *context, const char *why);
	void *context;
};

struct libvirt;

struct libvirt *libvirt_open(struct loop *loop, const char *uri, const char *domain,
			     const struct libvirt_handlers *handlers);
void libvirt_list(struct libvirt *l);
void libvirt_close(struct libvirt *l);
_Noreturn void libvirt_serve(int control, const char *uri, const char *domain);

#endif /* KVM_THROTTLE_LIBVIRT_H */
