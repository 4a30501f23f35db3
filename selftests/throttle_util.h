/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What kvm_throttle's selftests share: the device, and guests that run by
 * themselves in threads of the test.
 */
#ifndef SELFTEST_THROTTLE_UTIL_H
#define SELFTEST_THROTTLE_UTIL_H

#include <pthread.h>
#include <stdbool.h>

#include "kvm_util.h"
#include "test_util.h"
#include <linux/kvm_throttle.h>

#define GUEST_VCPUS_MAX	64

/* A percentage so high that nobody takes it for full speed. */
#define SLOW	9900

#define MS	1000000ULL

/**
 * struct guest_report - what a vCPU of the guest tells about itself
 * @work: units of work done
 * @gap_cycles: longest time between two units, in cycles of the guest's clock;
 *	the test may clear it
 * @exits: exits to user space that it made
 */
struct guest_report {
	u64 work;
	u64 gap_cycles;
	u64 exits;
} __aligned(64);

/**
 * struct guest - a VM whose vCPUs run, each in a thread of its own
 * @vm: the VM
 * @nr_vcpus: how many of the following there are
 * @vcpus: the vCPUs
 * @threads: the threads that run them
 * @reports: where the test sees the guest's reports
 * @clock_khz: what guest_report::gap_cycles is counted in
 * @slow_exits: thousands of loops that a thread works at each exit of the guest
 * @left_ns: when each thread left KVM_RUN last
 * @outside_ns: longest time that a thread took from leaving KVM_RUN, other than
 *	by a signal, to entering it again
 */
struct guest {
	struct kvm_vm *vm;
	int nr_vcpus;
	struct kvm_vcpu *vcpus[GUEST_VCPUS_MAX];
	pthread_t threads[GUEST_VCPUS_MAX];
	volatile struct guest_report *reports;
	u64 clock_khz;
	volatile int slow_exits;
	volatile u64 left_ns[GUEST_VCPUS_MAX];
	volatile u64 outside_ns;
};

enum guest_kind {
	GUEST_WORK,	/* works, and never leaves guest mode by itself */
	GUEST_IO,	/* exits to user space all the time */
	GUEST_HALT,	/* halts; nothing wakes it but the test */
};

/**
 * throttle_missing() - can these tests run here?
 *
 * Return: NULL if so, otherwise the reason why not.
 */
const char *throttle_missing(void);

/**
 * throttle_attach() - attach to a VM
 * @vm_fd: the VM
 *
 * Return: a throttle fd, or -errno.
 */
int throttle_attach(int vm_fd);

/**
 * throttle_set() - set the throttle of a VM
 * @fd: throttle fd
 * @percent_x100: hundredths of a percent
 * @period_ns: period, or 0
 *
 * Return: 0 or -errno.
 */
int throttle_set(int fd, u32 percent_x100, u64 period_ns);

/**
 * throttle_set_vcpu() - set the throttle of one vCPU
 * @fd: throttle fd
 * @vcpu_id: its id
 * @percent_x100: hundredths of a percent
 *
 * Return: 0 or -errno.
 */
int throttle_set_vcpu(int fd, u32 vcpu_id, u32 percent_x100);

/**
 * throttle_set_dirty() - set the throttle of a VM, with a rate
 * @fd: throttle fd
 * @percent_x100: hundredths of a percent
 * @dirty_rate: pages a second, or 0
 *
 * Return: 0 or -errno.
 */
int throttle_set_dirty(int fd, u32 percent_x100, u64 dirty_rate);

/**
 * throttle_get() - ask for what is in force, and what happened
 * @fd: throttle fd
 * @states: one for each vCPU, or NULL
 * @nr: how many there is room for
 * @period_ns: the VM's period, or NULL
 *
 * Return: how many vCPUs the VM has, or -errno.
 */
int throttle_get(int fd, struct kvm_throttle_vcpu_state *states, u32 nr,
		 u64 *period_ns);

/**
 * send_fd() - send a file descriptor to another process
 * @socket: a socket of the AF_UNIX family
 * @fd: the file descriptor
 *
 * Return: 0 or -errno.
 */
int send_fd(int socket, int fd);

/**
 * receive_fd() - receive what send_fd() sent
 * @socket: the socket's other end
 *
 * Return: a file descriptor, close-on-exec, or -errno.
 */
int receive_fd(int socket);

/**
 * guest_create() - make a VM with vCPUs, and run them
 * @g: result
 * @kind: what the guest does
 * @nr_vcpus: with how many vCPUs, up to GUEST_VCPUS_MAX
 */
void guest_create(struct guest *g, enum guest_kind kind, int nr_vcpus);

/**
 * guest_prepare() - make a VM with vCPUs that run the caller's code
 * @g: result
 * @code: what the vCPUs run; guest_start() starts each
 * @nr_vcpus: with how many vCPUs, up to GUEST_VCPUS_MAX
 */
void guest_prepare(struct guest *g, void *code, int nr_vcpus);

/**
 * guest_prepare_in() - make vCPUs that run the caller's code in a VM that has none
 * @g: result
 * @vm: the VM, from vm_create()
 * @code: what the vCPUs run; guest_start() starts each
 * @nr_vcpus: how many vCPUs, up to GUEST_VCPUS_MAX
 */
void guest_prepare_in(struct guest *g, struct kvm_vm *vm, void *code, int nr_vcpus);

/**
 * guest_unit() - in the guest: do a unit of work
 * @i: index of the vCPU
 * @last: guest_clock() at the end of the unit before
 *
 * Return: guest_clock().
 */
u64 guest_unit(u64 i, u64 last);

/**
 * guest_add_vcpu() - add a vCPU to a running guest, and run it
 * @g: the guest
 * @kind: what the vCPU does
 */
void guest_add_vcpu(struct guest *g, enum guest_kind kind);

/**
 * guest_start() - run a vCPU in a new thread
 * @g: the guest
 * @i: index of the vCPU, whose thread has been stopped
 */
void guest_start(struct guest *g, int i);

/**
 * guest_run() - run a vCPU in the calling thread, until guest_stop()
 * @g: the guest
 * @i: index of the vCPU
 */
void guest_run(struct guest *g, int i);

/**
 * guest_stop() - end a vCPU's thread
 * @g: the guest
 * @i: index of the vCPU
 *
 * The thread leaves KVM_RUN by a signal, as a VMM does it.
 */
void guest_stop(struct guest *g, int i);

/**
 * guest_destroy() - stop the guest and free the VM
 * @g: the guest
 */
void guest_destroy(struct guest *g);

/**
 * guest_work() - how much has the guest done?
 * @g: the guest
 *
 * Return: the sum over its vCPUs.
 */
u64 guest_work(const struct guest *g);

/**
 * guest_speed() - how fast is the guest?
 * @g: the guest
 * @ns: for how long to look
 *
 * Return: units of work per second, the sum over its vCPUs.
 */
double guest_speed(const struct guest *g, u64 ns);

/**
 * guest_is_slow() - is the guest throttled by SLOW?
 * @g: the guest
 * @full: its speed without a throttle
 *
 * Return: true if so.
 */
bool guest_is_slow(const struct guest *g, double full);

/**
 * guest_is_fast() - does the guest run at full speed?
 * @g: the guest
 * @full: its speed without a throttle
 *
 * Return: true if so.
 */
bool guest_is_fast(const struct guest *g, double full);

/**
 * vm_count() - how many VMs are there on this machine?
 *
 * Return: their number; debugfs has to be mounted.
 */
int vm_count(void);

/**
 * vm_count_becomes() - wait until there is a number of VMs
 * @n: the number
 *
 * Return: false if there wasn't within two seconds.
 */
bool vm_count_becomes(int n);

/**
 * module_unload() - unload kvm_throttle
 * @wait_ns: for how long to try, while it is in use
 *
 * Return: 0 or errno.
 */
int module_unload(u64 wait_ns);

/* In the deterministic VM, where time can be judged. */
bool throttle_exact(void);

/**
 * host_has_pml() - does the CPU list the pages that a guest dirties?
 *
 * Then KVM sees them at the next exit only, up to 512 at once (page-modification log).
 *
 * Return: true if so.
 */
bool host_has_pml(void);

/* CLOCK_MONOTONIC in nanoseconds. */
u64 now_ns(void);

/* Sleep until now_ns() is @ns. */
void sleep_until_ns(u64 ns);

/* Sleep for @ns. */
void sleep_ns(u64 ns);

/**
 * WAIT_FOR() - wait until something is true, but not for ever
 * @condition: what
 * @step_ns: for how long to sleep until it is looked at again
 * @patience_ns: for how long in all
 *
 * Return: whether it is true.
 */
#define WAIT_FOR(condition, step_ns, patience_ns) ({			\
	u64 __end = now_ns() + (patience_ns);				\
	bool __true;							\
									\
	while (!(__true = (condition)) && now_ns() < __end)		\
		sleep_ns(step_ns);					\
	__true;								\
})

/**
 * be_on_time() - have this thread run before any guest that it shares a CPU with
 *
 * Threads that it makes are as any other.
 */
void be_on_time(void);

/**
 * wait_for_hooks() - until what throttles before needed in the kernel is gone
 *
 * A worker takes it away a second after the last one, which takes the CPU for so long that
 * a guest's speed isn't its own.
 */
void wait_for_hooks(void);

/**
 * take_long_turns() - have a thread run for long before others on its CPU do
 * @tid: the thread, or 0 for the one that calls; it gets the policy SCHED_OTHER
 *
 * For as long as the scheduler allows, a tenth of a second.  Kernels before 6.12
 * take no notice of that.
 */
void take_long_turns(pid_t tid);

#endif /* SELFTEST_THROTTLE_UTIL_H */
