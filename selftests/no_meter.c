// SPDX-License-Identifier: GPL-2.0
/*
 * Takes the place of ../tools/meter/meter.c where there is no libbpf: no meter can
 * be opened.
 */
#include <stdio.h>

#include "../tools/meter/meter.h"

struct meter *meter_open(pid_t pid, char *why, size_t size)
{
	(void)pid;
	snprintf(why, size, "built without libbpf, clang or bpftool");
	return NULL;
}

unsigned int meter_vcpus(const struct meter *m)
{
	(void)m;
	return 0;
}

void meter_read(const struct meter *m, unsigned int i, struct meter_record *r)
{
	(void)m;
	(void)i;
	(void)r;
}

void meter_close(struct meter *m)
{
	(void)m;
}
