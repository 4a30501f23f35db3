/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of bench/peers share: a VM in a process of its own, and the
 * ways to throttle it.
 *
 * peers.c	what is measured
 * vmm.c	the VM's process, and throttles that a VMM makes itself
 * qemu.c	the same with QEMU
 * memory.h, work.h, firmware.c
 *		the guest
 * throttles.c	all throttles, as the measuring process sees them
 */
#ifndef BENCH_PEERS_H
#define BENCH_PEERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "memory.h"
#include "throttle_util.h"

#define PERCENT_ALL	10000

/* What isn't a unit of work, but a stall. */
#define GAP_MIN_NS	100000ULL

/* To wait for what must come. */
#define PATIENCE_NS	(120000 * MS)

/* Cloud Hypervisor's TIMESLICE_MS. */
#define PAUSE_PERIOD_NS	(100 * MS)

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

/* Which program the VM's process runs. */
enum bench_vmm {
	VMM_OWN,		/* that of vmm.c */
	VMM_QEMU,
	VMM_QEMU_VCPU_TIMERS,	/* with vcpu-timers.patch */
};

/**
 * struct bench_vm - a VM in a process of its own
 * @nr_vcpus: its vCPUs
 * @index: number among the bench's VMs
 * @vmm: its VMM
 * @pid: the process
 * @socket: to it, if it isn't QEMU
 * @qmp: to it, if it is QEMU
 * @ram_fd: QEMU's memory for the guest
 * @percent: that this QEMU throttles its vCPUs by
 * @throttled: it has throttled them before
 * @pausing: thread that has QEMU pause and resume, while @percent isn't 0
 * @memory: shared with the guest
 * @state: shared with the process
 * @throttle_fd: of kvm_throttle, -1 if it isn't loaded
 * @helper: process that throttles it, or 0
 */
struct bench_vm {
	int nr_vcpus;
	int index;
	enum bench_vmm vmm;
	pid_t pid;
	int socket;
	FILE *qmp;
	int ram_fd;
	int percent;
	bool throttled;
	pthread_t pausing;
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
 * @vmm: its VMM
 * @nr_vcpus: its vCPUs
 */
void bench_vm_start(struct bench_vm *vm, int index, enum bench_guest_kind kind,
		    enum bench_vmm vmm, int nr_vcpus);

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

/* What these do where the VMM is QEMU, with VMM_QEMU*. */
void qemu_start(struct bench_vm *vm, enum bench_guest_kind kind);
void qemu_end(struct bench_vm *vm);
void qemu_run(struct bench_vm *vm, int nr_vcpus);
void qemu_stop(struct bench_vm *vm);

/**
 * qemu_adopt() - take a QEMU for a VM of the bench
 * @vm: result, which must not be ended
 * @pid: the process; it has one vCPU
 * @ram: file that is the guest's memory
 * @offset: where the guest has struct bench_memory there, with gaps in ns
 * @monitor: its QMP socket
 */
void qemu_adopt(struct bench_vm *vm, pid_t pid, const char *ram, u64 offset,
		const char *monitor);

/**
 * qemu_vcpu_ns() - CPU time of an adopted QEMU's vCPU
 * @vm: the VM
 *
 * Return: it in ns, with that of what KVM does for it.
 */
u64 qemu_vcpu_ns(struct bench_vm *vm);

/* Of struct peer. */
void qemu_attach(struct bench_vm *vm);
void qemu_ready(struct bench_vm *vm);
bool qemu_set(struct bench_vm *vm, u32 percent_x100);
u64 qemu_windows(struct bench_vm *vm);
u64 qemu_migration_ns(struct bench_vm *vm);
bool qemu_pause_set(struct bench_vm *vm, u32 percent_x100);

/**
 * bench_shared() - make memory to share with other processes
 * @size: its size
 * @fd: its file descriptor
 *
 * Return: where it is.
 */
void *bench_shared(size_t size, int *fd);

/**
 * struct peer - a way to throttle
 * @name: for the command line and the results
 * @vmm: the VMM that it takes
 * @max_x100: highest percentage that it can express, in hundredths
 * @prepare: called for each VM once it has vCPUs, or NULL
 * @ready: called for each VM once all of its vCPUs run, before anything is set, or NULL
 * @set_is_slow: by what it takes until @set has an effect, nothing can be told
 * @set: set the throttle of a VM, 0 is full speed; false if it can't be
 * @windows: times that a vCPU was kept out of the guest
 * @other_ns: CPU time that is no cost of the throttle, or NULL
 * @period_ns: length of its cycle at a percentage
 * @finish: called when the VM has ended, or NULL
 */
struct peer {
	const char *name;
	enum bench_vmm vmm;
	u32 max_x100;
	void (*prepare)(struct bench_vm *vm);
	void (*ready)(struct bench_vm *vm);
	bool set_is_slow;
	bool (*set)(struct bench_vm *vm, u32 percent_x100);
	u64 (*windows)(struct bench_vm *vm);
	u64 (*other_ns)(struct bench_vm *vm);
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
