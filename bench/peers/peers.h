/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of bench/peers share: a VM in a process of its own, and the
 * ways to throttle it.
 *
 * peers.c	what is measured
 * vmm.c	the VM's process, and throttles that a VMM makes itself
 * throttles.c	all throttles, as the measuring process sees them
 */
#ifndef BENCH_PEERS_H
#define BENCH_PEERS_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

#include "throttle_util.h"

#define PERCENT_ALL	10000

/* How many of the guest's stalls are remembered. */
#define GAPS_MAX	8000

/* What isn't a unit of work, but a stall. */
#define GAP_MIN_NS	100000ULL

enum bench_guest_kind {
	BENCH_WORK,	/* works */
	BENCH_LOCK,	/* its vCPUs contend for a spinlock */
	BENCH_TOKEN,	/* its vCPUs pass a token round */
	BENCH_EXIT,	/* works, exits to user space and sleeps there, in turn */
};

/**
 * struct bench_gap - a stall, in cycles of the guest's clock
 * @start: last sign of life
 * @end: next one
 */
struct bench_gap {
	u64 start;
	u64 end;
};

/**
 * struct bench_memory - memory that the guest, its VMM and the bench share
 * @vcpus: what each vCPU has done
 * @lock: of BENCH_LOCK
 * @token: index of the vCPU whose turn it is, of BENCH_TOKEN
 * @nr_gaps: stalls that the first vCPU has seen; the bench may set it to 0
 * @gaps: the first of them
 */
struct bench_memory {
	struct {
		u64 work;
	} __aligned(64) vcpus[GUEST_VCPUS_MAX];
	u64 lock __aligned(64);
	u64 token __aligned(64);
	u64 nr_gaps __aligned(64);
	struct bench_gap gaps[GAPS_MAX];
};

/**
 * struct bench_state - what the VM's process tells
 * @tids: the vCPUs' threads
 * @vm_clock_offset: the guest's clock is the host's, plus this
 * @clock_khz: of both
 * @windows: times that a vCPU was kept out of the guest by a throttle that the
 *	VMM makes itself, or slept as BENCH_EXIT
 */
struct bench_state {
	pid_t tids[GUEST_VCPUS_MAX];
	u64 vm_clock_offset;
	u64 clock_khz;
	u64 windows;
};

enum bench_throttle {
	THROTTLE_OUTSIDE,	/* none that the VMM makes itself */
	THROTTLE_VM_TIMER,
	THROTTLE_VCPU_TIMERS,
	THROTTLE_PAUSE,
};

/**
 * struct bench_vm - a VM in a process of its own
 * @nr_vcpus: its vCPUs
 * @index: number among the bench's VMs
 * @pid: the process
 * @socket: to it
 * @memory: shared with the guest
 * @state: shared with the process
 * @throttle_fd: of kvm_throttle, -1 if it isn't loaded
 * @helper: process that throttles it, or 0
 */
struct bench_vm {
	int nr_vcpus;
	int index;
	pid_t pid;
	int socket;
	volatile struct bench_memory *memory;
	volatile struct bench_state *state;
	int throttle_fd;
	pid_t helper;
};

/**
 * bench_vm_start() - make a VM; none of its vCPUs runs yet
 * @vm: result
 * @index: number among the bench's VMs
 * @kind: what the guest does
 * @throttle: what the VMM can do by itself
 * @nr_vcpus: its vCPUs
 */
void bench_vm_start(struct bench_vm *vm, int index, enum bench_guest_kind kind,
		    enum bench_throttle throttle, int nr_vcpus);

/**
 * bench_vm_end() - end a VM and its process
 * @vm: the VM
 */
void bench_vm_end(struct bench_vm *vm);

/**
 * bench_vm_run() - let vCPUs run, all others stay stopped
 * @vm: the VM
 * @nr_vcpus: how many
 */
void bench_vm_run(struct bench_vm *vm, int nr_vcpus);

/**
 * bench_vm_stop() - stop all vCPUs, as for a migration's switch-over
 * @vm: the VM
 */
void bench_vm_stop(struct bench_vm *vm);

/**
 * bench_vm_throttle() - have the VMM throttle by itself
 * @vm: the VM
 * @percent_x100: hundredths of a percent
 */
void bench_vm_throttle(struct bench_vm *vm, u32 percent_x100);

/**
 * struct peer - a way to throttle
 * @name: for the command line and the results
 * @throttle: what it takes of the VMM
 * @max_x100: highest percentage that it can express, in hundredths
 * @prepare: called for each VM once its vCPUs run, or NULL
 * @set: set the throttle of a VM, 0 is full speed; false if it can't be
 * @windows: times that a vCPU was kept out of the guest
 * @period_ns: length of its cycle at a percentage
 * @finish: called when the VM has ended, or NULL
 */
struct peer {
	const char *name;
	enum bench_throttle throttle;
	u32 max_x100;
	void (*prepare)(struct bench_vm *vm);
	bool (*set)(struct bench_vm *vm, u32 percent_x100);
	u64 (*windows)(struct bench_vm *vm);
	u64 (*period_ns)(u32 percent_x100);
	void (*finish)(struct bench_vm *vm);
};

/**
 * peer_find() - the peer of a name
 * @name: the name
 *
 * Return: the peer, or NULL.
 */
const struct peer *peer_find(const char *name);

/* Print the names of all peers. */
void peer_list(void);

#endif /* BENCH_PEERS_H */
