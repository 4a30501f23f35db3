/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the programs share that are process 1 of a Linux guest in the machine of
 * vm/vm: demo-guest.c and health-guest.c.
 *
 * They report in memory that the guest's kernel has been told to leave alone
 * (memmap=), and that the host reads as a file.  So the guest reports without
 * spending any of the time that is being measured.
 *
 * The kernel passes those of its arguments on as environment variables that it
 * doesn't know. This is for both:
 *
 *	counts=ADDRESS		physical address of that memory
 */
#ifndef VM_GUEST_H
#define VM_GUEST_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

/* The kernel panics when process 1 ends, and the host shows the console. */
static inline _Noreturn void die(const char *what)
{
	perror(what);
	exit(EXIT_FAILURE);
}

static inline const char *text(const char *name)
{
	const char *value = getenv(name);

	if (!value)
		die(name);
	return value;
}

static inline unsigned long long number(const char *name)
{
	return strtoull(text(name), NULL, 0);
}

/* Memory that the host reads. */
static inline volatile void *map_counts(size_t size)
{
	void *counts;
	int fd;

	if (mount("devtmpfs", "/dev", "devtmpfs", 0, NULL))
		die("mount /dev");
	fd = open("/dev/mem", O_RDWR);
	if (fd < 0)
		die("/dev/mem");
	counts = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		      number("counts"));
	if (counts == MAP_FAILED)
		die("mmap /dev/mem");
	close(fd);
	return counts;
}

#endif /* VM_GUEST_H */
