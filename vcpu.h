/* SPDX-License-Identifier: GPL-2.0 */
/*
 * kvm_throttle: what kvm_throttle.c (VMs and their fds) and vcpu.c (a vCPU's
 * windows) share.  Ownership and locking are told at the top of kvm_throttle.c.
 */
#ifndef _KVM_THROTTLE_VCPU_H
#define _KVM_THROTTLE_VCPU_H

#include <linux/hrtimer.h>
#include <linux/kvm_host.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/timekeeping.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "kvm_throttle.h"

/**
 * struct kvm_throttle_setting - what the user asked for
 * @percent_x100: share to sleep, in hundredths of a percent
 * @own: the setting is that of one vCPU, not the VM's
 * @period_ns: period, or 0 for the default
 * @serial: differs from that of any other setting of the VM
 */
struct kvm_throttle_setting {
	u32 percent_x100;
	bool own;
	u64 period_ns;
	u64 serial;
};

/**
 * struct kvm_throttle_vm - a throttled VM, behind a throttle fd
 * @kvm: the VM, with a reference; NULL after its death
 * @id: differs from that of any other throttle fd; constant
 * @owner: the process that attached to the VM, for the administrator; constant
 * @comm: its name then, which may hold any bytes; constant
 * @lock: protects all that isn't said to be constant
 * @setting: for every vCPU that has none of its own
 * @serial: of the newest setting, the VM's or a vCPU's
 * @epoch_ns: when the grid began; constant
 * @vcpus: struct kvm_throttle_vcpu by vcpu_idx
 * @nr_vcpus: how many are in @vcpus; read without @lock too
 * @cpus: how far each CPU has given the VM its windows
 * @scan: kvm_throttle_scan()
 * @death: where poll() waits for @kvm to become NULL
 * @node: in kvm_throttle_list while @kvm isn't NULL
 * @throttled: the log says that the VM is throttled
 * @debugfs: lists @vcpus
 */
struct kvm_throttle_vm {
	struct kvm *kvm;
	u32 id;
	pid_t owner;
	char comm[TASK_COMM_LEN];
	struct mutex lock;	/* see above */
	struct kvm_throttle_setting setting;
	u64 serial;
	u64 epoch_ns;
	struct xarray vcpus;
	int nr_vcpus;
	struct kvt_cpu __percpu *cpus;
	struct delayed_work scan;
	wait_queue_head_t death;
	struct list_head node;
	bool throttled;
	struct dentry *debugfs;
};

/**
 * struct kvm_throttle_vcpu - a vCPU in the thread that runs it
 * @ref: one for kvm_throttle_vm::vcpus, one while @queued or at work
 * @lock: protects all that isn't said to be constant
 * @vm: the VM's throttle; NULL once that has let go
 * @vcpu: the vCPU; to be used only while @vm isn't NULL
 * @task: the thread, with a reference; NULL until there is one, then constant
 * @timer: ends the window that the vCPU is in
 * @work: kvm_throttle_work()
 * @queued: @work is in @task's list
 * @sleeping: @work sleeps until @timer or a change wakes it
 * @setting: what is in force
 * @grid: the windows that follow from @setting
 * @clock: where in them the vCPU is
 * @cpu: in place of kvm_throttle_vm::cpus for a vCPU with a setting of its own
 * @exit_ns: how long the way from the guest to @work takes, from the timer's
 *	expiry
 * @fired_ns: when the vCPU left the guest because of @timer; 0 if it didn't
 * @ran_from_ns: from when on what the thread runs is charged, if @timer found it on
 *	a CPU and @work comes next; 0 otherwise, and then the next three say nothing
 * @ran_off_ns: kvm_throttle_off_cpu_ns() when @timer did
 * @in_guest: @timer's interrupt, at a window's end, was handled as in guest mode
 * @irq_exits: kvt_irq_exits() then
 * @woken_ns: when @timer ended the sleep; 0 if it didn't
 * @woken_idle: the CPU had nothing to do then
 * @charge_ns: from when on running is charged, while @timer is armed
 * @retry_ns: how long @timer was set for to look for the vCPU again; 0 if it is
 *	set for a window's end
 * @kicked: a signal has ended the sleep.  What the thread does until the next
 *	window is nothing that the guest has asked for, and no debt
 * @ran_window: window in which the vCPU last entered the guest
 * @asleep_ns: since when the vCPU has been asleep, while @sleeping
 * @since_ns: when the vCPU was last found at a percentage other than 0
 * @stall_from_ns: what ->stats.throttled_ns was when it last might run
 * @stats: for KVM_GET_THROTTLE
 *
 * Times are on the VM's grid.
 */
struct kvm_throttle_vcpu {
	refcount_t ref;
	raw_spinlock_t lock;
	struct kvm_throttle_vm *vm;
	struct kvm_vcpu *vcpu;
	struct task_struct *task;
	struct hrtimer timer;
	struct callback_head work;
	bool queued;
	bool sleeping;
	struct kvm_throttle_setting setting;
	struct kvt_grid grid;
	struct kvt_clock clock;
	struct kvt_cpu cpu;
	u64 exit_ns;
	u64 fired_ns;
	u64 ran_from_ns;
	u64 ran_off_ns;
	bool in_guest;
	u64 irq_exits;
	u64 woken_ns;
	bool woken_idle;
	u64 charge_ns;
	u64 retry_ns;
	bool kicked;
	u64 ran_window;
	u64 asleep_ns;
	u64 since_ns;
	u64 stall_from_ns;
	struct {
		u64 elapsed_ns;
		u64 throttled_ns;
		u64 windows;
		u64 interrupted;
		u64 retries;
		u64 late_max_ns;
		u64 stall_max_ns;
	} stats;
};

/* The time on the VM's grid. */
static inline u64 kvm_throttle_now(const struct kvm_throttle_vm *vm)
{
	return ktime_get_ns() - vm->epoch_ns;
}

/**
 * kvm_throttle_scan_now() - have the VM looked at
 * @vm: the VM, of which a vCPU is new, or in another thread
 *
 * Any context.
 */
void kvm_throttle_scan_now(struct kvm_throttle_vm *vm);

/**
 * kvm_throttle_vcpu_init() - when the module is loaded, before all else here
 *
 * Return: 0, or an error if this kernel lacks what is needed.
 */
int kvm_throttle_vcpu_init(void);

/**
 * kvm_throttle_track() - know a vCPU and the thread that runs it
 * @vm: the VM; its lock is held
 * @vcpu: the vCPU; new, or known already in whatever thread
 *
 * May sleep.
 *
 * Return: 0, or -ENOMEM, in which case nothing has changed.
 */
int kvm_throttle_track(struct kvm_throttle_vm *vm, struct kvm_vcpu *vcpu);

/**
 * kvm_throttle_apply() - put a setting in force
 * @v: the vCPU; the VM's lock is held
 * @setting: the setting
 */
void kvm_throttle_apply(struct kvm_throttle_vcpu *v,
			const struct kvm_throttle_setting *setting);

/**
 * kvm_throttle_drop() - part a vCPU from its VM, and let go of it
 * @v: the vCPU; the VM's lock is held
 *
 * Full speed at once.  Waits for the timer's handler, not for task work.
 */
void kvm_throttle_drop(struct kvm_throttle_vcpu *v);

/**
 * kvm_throttle_get_vcpu() - what is in force for a vCPU, and what happened
 * @v: the vCPU; the VM's lock is held
 * @state: result; ->tid is in the pid namespace of the caller
 */
void kvm_throttle_get_vcpu(struct kvm_throttle_vcpu *v,
			   struct kvm_throttle_vcpu_state *state);

#endif /* _KVM_THROTTLE_VCPU_H */
