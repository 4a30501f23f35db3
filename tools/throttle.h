/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Throttle fds: what they say about their VM, and who has them.
 */
#ifndef THROTTLE_H
#define THROTTLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <linux/kvm_throttle.h>

#include "proc.h"

#define THROTTLE_DEVICE	"/dev/kvm_throttle"

/**
 * struct throttle - a VM that has a throttle fd
 * @vm: the VM's process; its id is 0 if none of the vCPUs has run yet
 * @holder: the process that has the throttle fd
 * @fd: the throttle fd's number there
 * @percent_x100: see struct kvm_throttle_state, as for the next two
 * @dirty_rate: 0 also from a module before version 3
 * @logged_pages: the same
 * @nr_vcpus: number of elements of @vcpus
 * @vcpus: the VM's vCPUs in the order of their creation
 */
struct throttle {
	struct process vm;
	struct process holder;
	int fd;
	uint32_t percent_x100;
	uint64_t dirty_rate;
	uint64_t logged_pages;
	uint32_t nr_vcpus;
	struct kvm_throttle_vcpu_state *vcpus;
};

bool throttle_module_is_loaded(void);
int throttle_module_version(void);
const char *throttle_no_rate(int error);
int throttle_read(int fd, struct throttle *t);
void throttle_free(struct throttle *t);
int throttle_find(pid_t vm, struct throttle **found, bool *hidden);
const struct throttle *throttle_before(const struct throttle *now,
				       const struct throttle *list, int nr);
void throttle_free_all(struct throttle *list, int nr);

#endif /* THROTTLE_H */
