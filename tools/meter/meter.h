/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A meter for the vCPUs of a process: how long each is in guest mode, and where
 * its thread is otherwise.
 */
#ifndef METER_H
#define METER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "record.h"

struct meter;

/**
 * struct meter_cost - what a meter itself has taken since meter_count_cost()
 * @runs: how often one of its programs ran, for whatever process
 * @ns: how long they ran, all in all
 */
struct meter_cost {
	uint64_t runs;
	uint64_t ns;
};

struct meter *meter_open(pid_t pid, char *why, size_t size);
unsigned int meter_vcpus(const struct meter *m);
void meter_read(const struct meter *m, unsigned int i, struct meter_record *r);
int meter_count_cost(struct meter *m);
struct meter_cost meter_cost(const struct meter *m);
void meter_close(struct meter *m);

#endif /* METER_H */
