/* SPDX-License-Identifier: GPL-2.0 */
/*
 * kvm_throttle: what kvm_throttle.c (VMs and their fds), entry.c (KVM's entries
 * into the guest), vcpu.c (a vCPU's windows), dirty.c (dirtied pages) and probe.c
 * share.  States, ownership and locking are told at the top of kvm_throttle.c.
 *
 * Names inside the module begin with kvt_; kvm_throttle_ is what others see: the
 * interface, the tracepoints, the device.
 */
#ifndef _KVM_THROTTLE_H
#define _KVM_THROTTLE_H

#include <linux/hashtable.h>
#include <linux/hrtimer.h>
#include <linux/kvm_host.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/timekeeping.h>
#include <linux/uidgid.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "bucket.h"
#include "window.h"

/**
 * struct kvt_setting - what the user asked for
 * @percent_x100: share to sleep, in hundredths of a percent
 * @own: the setting is that of one vCPU, not the VM's
 * @period_ns: period, or 0 for the default
 * @dirty_rate: pages that may be dirtied a second; 0 is no limit
 * @serial: differs from that of any other setting of the VM, and grows
 */
struct kvt_setting {
	u32 percent_x100;
	bool own;
	u64 period_ns;
	u64 dirty_rate;
	u64 serial;
};

/**
 * struct kvt_record - how far a CPU has given a VM its windows, with a lock
 * @lock: raw, innermost; a vCPU may look at the record of the CPU that it left
 * @cpu: what is said there
 * @idle_ns: start of the last window for which a vCPU was woken while the CPU was
 *	idle.  Without @lock: only that CPU's timers look at it
 * @first: the vCPU that was the first to sleep there after a window.  Without @lock: only
 *	that CPU looks at it, with interrupts off
 * @first.window: that window
 * @first.run_ns: its kvt_vcpu::share.run_ns
 */
struct kvt_record {
	raw_spinlock_t lock;	/* protects cpu */
	struct kvt_cpu cpu;
	u64 idle_ns;
	struct {
		u64 window;
		s64 run_ns;
	} first;
};

struct kvt_vcpu;

/* Slots for vCPUs that are being admitted.  One whose slot is taken tries again. */
#define KVT_ADMITS	16

/**
 * struct kvt_admit - a vCPU that isn't known yet, in task work of its thread
 * @work: kvt_admit()
 * @vm: the VM's throttle, with a reference until @work has been done
 * @queued: @work is in a thread's list
 */
struct kvt_admit {
	struct callback_head work;
	struct kvt_vm *vm;
	bool queued;
};

/**
 * struct kvt_vm - a throttle fd, and the VM that it throttles
 * @ref: one for the file, and then for @end.remove; one while @dev is in the VM's list; one
 *	while @end.put is queued or at work; one for each of @admits until its work is done
 * @who: for the administrator; constant
 * @who.id: differs from that of any other throttle fd
 * @who.pid: the VM's process
 * @who.owner: the process that attached to the VM
 * @who.comm: its name then, which may hold any bytes
 * @who.uid: its user then
 * @epoch_ns: when the grid began; constant
 *
 * @lock: protects what follows, up to @end; taken by those who have the throttle fd, and
 *	at the VM's end, but by no vCPU's thread in KVM_RUN
 * @kvm: the VM, without a reference; NULL after its end, or once @dev is gone.
 *	While @lock is held it isn't freed, but it may be dying
 * @dev: tells of the VM's end; in kvm->devices, which kvm->lock protects
 * @closed: the throttle fd is closed; read without @lock too
 * @serial: of the newest setting, the VM's or a vCPU's
 * @logged: the log says that the VM is throttled
 * @watched: @node is in entry.c's hash
 * @hooked: dirty.c's hook counts for this VM; read without @lock too
 *
 * @end: how it ends
 * @end.remove: kvt_remove(), while another holds kvm->lock
 * @end.put: puts the last reference on @end.last
 * @end.last: the VM, if this has its last reference
 * @end.free: frees this when no entry looks at it any more
 * @end.death: where poll() waits for @kvm to become NULL
 * @debugfs: lists @vcpus
 *
 * @node: by @kvm
 * @key: @kvm for entry.c, which never follows it; constant
 * @setting_lock: protects @setting
 * @setting: for every vCPU that has none of its own
 * @cpus: how far each CPU has given the VM its windows
 * @dirty: what the vCPUs without a setting of their own share (bucket.h)
 * @dirty.due: their bucket
 * @dirty.sharers: how many those are
 * @admits: by vcpu_idx, for vCPUs that aren't in @vcpus yet
 * @nr_vcpus: those in @vcpus have a lower index
 * @vcpus: KVM_MAX_VCPUS of them, by vcpu_idx; NULL where none is known.  They stay until
 *	this is freed
 */
struct kvt_vm {
	refcount_t ref;
	struct {
		u32 id;
		pid_t pid;
		pid_t owner;
		char comm[TASK_COMM_LEN];
		kuid_t uid;
	} who;
	u64 epoch_ns;

	struct mutex lock;	/* protects what follows, up to end */
	struct kvm *kvm;
	struct kvm_device dev;
	bool closed;
	u64 serial;
	bool logged;
	bool watched;
	bool hooked;

	struct {
		struct delayed_work remove;
		struct work_struct put;
		struct kvm *last;
		struct rcu_work free;
		wait_queue_head_t death;
	} end;
	struct dentry *debugfs;

	struct hlist_node node;
	const struct kvm *key;
	raw_spinlock_t setting_lock;	/* protects setting */
	struct kvt_setting setting;
	struct kvt_record __percpu *cpus;
	struct {
		atomic64_t due;
		atomic_t sharers;
	} dirty;
	struct kvt_admit admits[KVT_ADMITS];
	int nr_vcpus;
	struct kvt_vcpu **vcpus;
};

/**
 * enum kvt_state - what a vCPU may do
 * @KVT_FREE: enter the guest; nothing is done about it
 * @KVT_OPEN: enter the guest on kvt_vcpu::cpu, where the timer ends that; without
 *	a percentage, it doesn't end
 * @KVT_CLOSED: not enter; whether its window is open again is looked at when it
 *	tries to
 * @KVT_ASLEEP: it sleeps in kvt_work()
 * @KVT_WOKEN: enter, as soon as it gets there
 */
enum kvt_state {
	KVT_FREE,
	KVT_OPEN,
	KVT_CLOSED,
	KVT_ASLEEP,
	KVT_WOKEN,
};

/**
 * struct kvt_turn - task work of a thread that runs a vCPU
 * @work: kvt_work()
 * @v: the vCPU
 * @task: in whose list @work is; NULL if in nobody's
 */
struct kvt_turn {
	struct callback_head work;
	struct kvt_vcpu *v;
	struct task_struct *task;
};

/**
 * struct kvt_vcpu - a vCPU
 * @ref: one for kvt_vm::vcpus, one for each of @turns that is queued or at work
 * @vm: the VM's throttle; valid under @lock if @state isn't KVT_FREE
 * @vcpu: the vCPU; followed only where it is loaded, or with a reference on the VM
 * @id: its id for user space; constant
 *
 * @lock: raw; protects all that follows but @turns and parts of @dirty
 * @state: what it may do; entry.c reads it, @task and @cpu without @lock
 * @cpu: where it was let into the guest last, -1 if it wasn't
 * @task: the thread that runs it, with a reference; NULL until it is known
 * @turns: one for @task, one for a former thread whose task work isn't done yet
 *
 * @setting: what is in force
 * @window: its windows
 * @window.grid: they follow from @setting
 * @window.clock: where in them it is
 * @window.own: in place of kvt_vm::cpus for a vCPU with a setting of its own
 * @window.home: the CPU whose record @window.clock.window is in, or -1
 * @window.cost_ns: what it took to open the last one, not yet in a record
 * @window.close_timer: the timer that ends it
 *
 * @sleep: its sleep between two of them
 * @sleep.open_timer: the timer that ends it
 * @sleep.mode: what that was set up for
 * @sleep.from_ns: since when, while KVT_ASLEEP; up to then, it is in @stats
 * @sleep.woken_ns: when @sleep.open_timer ended it, if KVT_WOKEN
 * @sleep.left_ns: when kvt_work() let it go on to the guest, if KVT_WOKEN
 * @sleep.nvcsw: current->nvcsw then; if that has grown at the entry, the thread has blocked,
 *	so has left KVM_RUN
 * @sleep.waited_ns: how long another task had the CPU between those two
 * @sleep.idle: the CPU had nothing to do at @sleep.woken_ns
 * @sleep.put_off: @sleep.open_timer has been put off once
 * @sleep.after_window: the window that it last ran in
 *
 * @share: how it shares a CPU with its siblings
 * @share.cpu: where its thread slept for a window last; -1 if it didn't yet
 * @share.run_ns: how long the thread had run then, from an origin that they share there
 * @share.ran_ns: what kvt_note_run() took for its run time
 *
 * @busy: what its thread does after a window's end
 * @busy.from_ns: since when the thread's running is charged; 0 if it isn't
 * @busy.off_ns: kvt_off_cpu_ns() then
 * @busy.run_ns: how long the thread had run then
 * @busy.on_cpu: where
 * @busy.in_guest: the interrupt that ended the window was handled as in guest mode
 * @busy.irq_exits: kvt_irq_exits() then
 * @busy.fired_ns: when the window ended, if the thread ran then or waited for a
 *	CPU; otherwise 0
 * @busy.signalled: a signal has ended the sleep.  The guest hasn't asked for what the
 *	thread does until the next window, so that is no debt
 *
 * @dirty: its limit to the rate at which pages are dirtied.  @lock protects @limit, which
 *	is read without it too; @bucket, @look and @pages belong to the thread that has @vcpu
 *	loaded, as does @pause.until_ns
 * @dirty.limit: of @setting, in bucket.h's units
 * @dirty.limit.page_time: what a page costs at the whole rate, 0 without a limit
 * @dirty.limit.burst: the most credit, with its windows
 * @dirty.limit.own: it doesn't share the VM's bucket
 * @dirty.limit.serial: of the setting that these are from
 * @dirty.bucket: its own, or that of its share
 * @dirty.bucket.serial: the @limit.serial that it belongs to
 * @dirty.bucket.due: when what it has is due
 * @dirty.bucket.uncharged: pages that aren't in it yet
 * @dirty.bucket.pages_at_entry: @pages at the last entry; ahead of them after a sleep for
 *	pages, by what KVM may mark until the entry
 * @dirty.look: has it exit, to see what PML's list has
 * @dirty.look.timer: the timer that does
 * @dirty.look.delay_ns: how long after an entry; 0: not at all
 * @dirty.look.at_ns: when; 0: that is decided at the next entry
 * @dirty.look.cpu: where @look.timer was started
 * @dirty.pause: its sleep in kvt_sleep_off()
 * @dirty.pause.until_ns: it may not enter the guest before; 0 if it may
 * @dirty.pause.sleeper: the thread that sleeps, or NULL
 * @dirty.pause.from_ns: since when; up to then, it is in @stats
 * @dirty.pause.held_ns: for how long it has slept there
 * @dirty.pause.sleeps: how often
 * @dirty.pages: for KVM_GET_THROTTLE, which may read it at any time
 *
 * @stats: for KVM_GET_THROTTLE, where each is told of
 * @held_from_ns: since when it has wanted to run while KVT_CLOSED, which isn't in
 *	@stats yet; 0 if it doesn't
 * @since_ns: up to when stats.elapsed_ns counts
 * @stall_from_ns: what stats.throttled_ns was when it last could run
 *
 * Times are on the VM's grid.
 */
struct kvt_vcpu {
	refcount_t ref;
	struct kvt_vm *vm;
	struct kvm_vcpu *vcpu;
	u32 id;

	raw_spinlock_t lock;	/* protects what follows, but for turns and parts of dirty */
	enum kvt_state state;
	int cpu;
	struct task_struct *task;
	struct kvt_turn turns[2];

	struct kvt_setting setting;
	struct {
		struct kvt_grid grid;
		struct kvt_clock clock;
		struct kvt_cpu own;
		int home;
		u64 cost_ns;
		struct hrtimer close_timer;
	} window;

	struct {
		struct hrtimer open_timer;
		enum hrtimer_mode mode;
		u64 from_ns;
		u64 woken_ns;
		u64 left_ns;
		unsigned long nvcsw;
		u64 waited_ns;
		bool idle;
		bool put_off;
		u64 after_window;
	} sleep;

	struct {
		int cpu;
		s64 run_ns;
		u64 ran_ns;
	} share;

	struct {
		u64 from_ns;
		u64 off_ns;
		u64 run_ns;
		int on_cpu;
		bool in_guest;
		u64 irq_exits;
		u64 fired_ns;
		bool signalled;
	} busy;

	struct {
		struct {
			u64 page_time;
			u64 burst;
			bool own;
			u64 serial;
		} limit;
		struct {
			u64 serial;
			u64 due;
			u32 uncharged;
			u64 pages_at_entry;
		} bucket;
		struct {
			struct hrtimer timer;
			u64 delay_ns;
			u64 at_ns;
			int cpu;
		} look;
		struct {
			u64 until_ns;
			struct task_struct *sleeper;
			u64 from_ns;
			u64 held_ns;
			u64 sleeps;
		} pause;
		u64 pages;
	} dirty;

	struct {
		u64 elapsed_ns;
		u64 throttled_ns;
		u64 windows;
		u64 interrupted;
		u64 retries;
		u64 late_max_ns;
		u64 stall_max_ns;
	} stats;
	u64 held_from_ns;
	u64 since_ns;
	u64 stall_from_ns;
};

/**
 * kvt_now() - the time on a VM's grid
 * @vm: the VM's throttle
 *
 * Any context.
 *
 * Return: nanoseconds since the VM was attached to.
 */
static inline u64 kvt_now(const struct kvt_vm *vm)
{
	return ktime_get_ns() - vm->epoch_ns;
}

/**
 * kvt_loaded_vcpu() - the vCPU that this thread has loaded
 *
 * In a task's context, and in an interrupt for the task that it interrupted.  KVM
 * is the only user of preempt notifiers.
 *
 * Return: the vCPU, which is there for as long as it is loaded; NULL if there is
 * none.  In task work, one that is loaded is one in KVM_RUN.
 */
static inline struct kvm_vcpu *kvt_loaded_vcpu(void)
{
	struct hlist_node *first = READ_ONCE(current->preempt_notifiers.first);

	return hlist_entry_safe(first, struct kvm_vcpu, preempt_notifier.link);
}

/* --- kvm_throttle.c --- */

/**
 * kvt_vm_put() - let go of a throttle
 * @vm: the throttle
 *
 * Any context in which work may be queued.
 */
void kvt_vm_put(struct kvt_vm *vm);

/* --- probe.c --- */

/**
 * struct kvt_probe - what is put into the kernel while somebody needs it
 * @add: puts it there; returns 0 or an error.  May sleep
 * @remove: takes it away.  May sleep
 * @lock: serializes the two; only workers take it
 * @there: it is there; under @lock
 * @users: who needs it, or has asked for it
 * @asked: how often it was asked for
 * @answered: up to which of those @error is the answer
 * @error: what @add returned, or 0 if it was there already
 * @wait: where those who have asked wait
 * @now: kvt_probe_add()
 * @late: kvt_probe_remove_unused(), about a second after the last user
 */
struct kvt_probe {
	int (*add)(void);
	void (*remove)(void);
	struct mutex lock;	/* serializes add and remove */
	bool there;
	atomic_t users;
	atomic_t asked;
	int answered;
	int error;
	wait_queue_head_t wait;
	struct work_struct now;
	struct delayed_work late;
};

/* Define a probe, with what adds and removes it. */
#define KVT_DEFINE_PROBE(name, add_fn, remove_fn)			\
	struct kvt_probe name = {					\
		.add = add_fn,						\
		.remove = remove_fn,					\
		.lock = __MUTEX_INITIALIZER((name).lock),		\
		.wait = __WAIT_QUEUE_HEAD_INITIALIZER((name).wait),	\
		.now = __WORK_INITIALIZER((name).now, kvt_probe_add),	\
		.late = __DELAYED_WORK_INITIALIZER((name).late,		\
						   kvt_probe_remove_unused, 0), \
	}

/**
 * kvt_probe_add() - put a probe there for those who have asked for it
 * @work: its @now
 */
void kvt_probe_add(struct work_struct *work);

/**
 * kvt_probe_remove_unused() - take a probe away if nobody needs it
 * @work: its @late
 */
void kvt_probe_remove_unused(struct work_struct *work);

/**
 * kvt_probe_get() - need a probe
 * @probe: the probe
 *
 * Sleeps for as long as it takes to add or to remove it, or until the thread is killed.
 *
 * Return: 0, to be followed by kvt_probe_put(); what adding it returned; or -ERESTARTSYS.
 */
int kvt_probe_get(struct kvt_probe *probe);

/**
 * kvt_probe_get_again() - need a probe that is needed by the caller already
 * @probe: the probe
 *
 * Any context.  To be followed by another kvt_probe_put().
 */
void kvt_probe_get_again(struct kvt_probe *probe);

/**
 * kvt_probe_put() - no longer need a probe
 * @probe: the probe
 *
 * Doesn't wait.
 */
void kvt_probe_put(struct kvt_probe *probe);

/**
 * kvt_probe_exit() - take a probe away that nobody will need any more
 * @probe: the probe
 *
 * May sleep for as long as that takes.
 */
void kvt_probe_exit(struct kvt_probe *probe);

/* --- entry.c --- */

#ifdef CONFIG_X86
/* Exported by KVM. */
extern struct tracepoint __tracepoint_kvm_entry;
#endif

/**
 * kvt_entry_init() - find what is needed to see entries into the guest
 *
 * Return: 0, or an error if this kernel lacks it.
 */
int kvt_entry_init(void);

/*
 * Sees entries into the guest: needed before a throttle is in force.  Adding it takes
 * some milliseconds, or fails with -ENOMEM.
 */
extern struct kvt_probe kvt_entry_probe;

/**
 * kvt_entry_exit() - when nobody needs kvt_entry_probe any more: see them no more
 *
 * Waits for those who see one now.
 */
void kvt_entry_exit(void);

/**
 * kvt_entry_add() - look at the entries of a VM's vCPUs, or no longer
 * @vm: the VM's throttle; its lock is held
 * @add: whether to
 *
 * Entries that are on their way may be looked at until an RCU grace period later.
 */
void kvt_entry_add(struct kvt_vm *vm, bool add);

/*
 * Room for as many throttled VMs as a host has.  With more, buckets have several, and
 * the entries of all VMs take longer.
 */
#define KVT_HASH_BITS	10

/* The throttles whose VMs' vCPUs' entries are looked at. */
extern struct hlist_head kvt_watched[1 << KVT_HASH_BITS];

/**
 * kvt_find() - a VM whose vCPUs' entries are looked at
 * @kvm: the VM, which may be any
 *
 * The caller has preemption off, which RCU takes for a reader.
 *
 * Return: its throttle, which is valid until an RCU grace period later; or NULL.
 */
static __always_inline struct kvt_vm *kvt_find(const struct kvm *kvm)
{
	struct kvt_vm *vm;

	hash_for_each_possible_rcu_notrace(kvt_watched, vm, node,
					   (unsigned long)kvm) {
		if (vm->key == kvm)
			return vm;
	}
	return NULL;
}

/**
 * kvt_entry_refuse() - keep the vCPU that is about to enter out of the guest
 *
 * From the tracepoint's probe, with interrupts off.  Leaves an interrupt pending on this
 * CPU, so that the guest is left before its first instruction.
 */
void kvt_entry_refuse(void);

/* --- dirty.c --- */

/*
 * Sees pages being dirtied: needed before a limit is in force.  Adding it takes up to a
 * tenth of a second, or fails with -ENOMEM, with -EBUSY if the administrator has turned
 * ftrace off, or with -EOPNOTSUPP if this kernel hasn't what it takes.
 */
extern struct kvt_probe kvt_dirty_probe;

/**
 * kvt_dirty_add() - need kvt_dirty_probe for a VM, or no longer
 * @vm: the VM's throttle; its lock is held.  To add it, the caller needs the probe
 * @add: whether to
 */
void kvt_dirty_add(struct kvt_vm *vm, bool add);

/**
 * kvt_dirty_apply() - put a setting's limit in force for a vCPU
 * @v: the vCPU, locked
 * @setting: the setting; @v has its windows already
 *
 * What it owes is carried over by its thread, when that looks at it.
 */
void kvt_dirty_apply(struct kvt_vcpu *v, const struct kvt_setting *setting);

/**
 * kvt_dirty_apply_vm() - the same for what the vCPUs share
 * @vm: the VM's throttle; its lock is held
 */
void kvt_dirty_apply_vm(struct kvt_vm *vm);

/**
 * kvt_dirty_is_over() - may a vCPU not enter the guest for what it has dirtied?
 * @v: the vCPU, which this thread has loaded
 * @now: the time
 *
 * Return: true if it may not before @v->dirty.pause.until_ns.
 */
bool kvt_dirty_is_over(struct kvt_vcpu *v, u64 now);

/**
 * kvt_dirty_set_look() - have a vCPU exit soon after this entry, if it has to
 * @v: the vCPU, which enters the guest now, in this thread, with interrupts off
 *
 * To be called if it has to already, and for the first entry with a setting.
 */
void kvt_dirty_set_look(struct kvt_vcpu *v);

/**
 * kvt_dirty_look() - have a vCPU exit, and KVM look at what it has dirtied
 * @timer: @v->dirty.look.timer.  Its interrupt does that: there is nothing else to do
 *
 * Return: HRTIMER_NORESTART.
 */
enum hrtimer_restart kvt_dirty_look(struct hrtimer *timer);

/**
 * kvt_dirty_logged() - for how much memory is it logged what is dirtied?
 * @kvm: the VM, on which the caller has a reference
 *
 * Return: pages; without any, no limit acts.
 */
u64 kvt_dirty_logged(struct kvm *kvm);

/* --- vcpu.c --- */

/**
 * kvt_vcpu_init() - when the module is loaded
 *
 * Return: 0, or an error if this kernel lacks what is needed.
 */
int kvt_vcpu_init(void);

/**
 * kvt_vcpu_track() - know a vCPU
 * @vm: the VM's throttle, with a reference
 * @vcpu: the vCPU, which must not go away meanwhile; new, or known already
 *
 * May sleep; allocates for the caller's cgroup.
 *
 * Return: the vCPU, to be used while @vm is; or ERR_PTR(-ENOMEM).
 */
struct kvt_vcpu *kvt_vcpu_track(struct kvt_vm *vm, struct kvm_vcpu *vcpu);

/**
 * kvt_vcpu_admit() - have the vCPU that is about to enter tracked by its thread
 * @vm: the VM's throttle
 * @vcpu: the vCPU
 *
 * From the tracepoint's probe, for a vCPU that isn't known.  It is kept out.
 */
void kvt_vcpu_admit(struct kvt_vm *vm, const struct kvm_vcpu *vcpu);

/**
 * kvt_vcpu_turn() - have a vCPU's thread look at it before it enters the guest
 * @v: the vCPU, which this thread has loaded
 *
 * In a task's context, under any lock.
 */
void kvt_vcpu_turn(struct kvt_vcpu *v);

/**
 * kvt_vcpu_enter() - a vCPU is about to enter the guest: may it?
 * @v: the vCPU
 *
 * From the tracepoint's probe, unless it is KVT_FREE or KVT_OPEN for sure.
 *
 * Return: true if it does.  Otherwise it is kept out.  Task work is queued, unless its timer's
 * handler is at work just now: then it tries again at once.
 */
bool kvt_vcpu_enter(struct kvt_vcpu *v);

/**
 * kvt_vcpu_apply() - put a setting in force
 * @v: the vCPU, with a reference on its VM's throttle
 * @setting: the setting; nothing happens if it is older than that in force
 *
 * A vCPU that is in the guest stays there until it is kicked out.
 */
void kvt_vcpu_apply(struct kvt_vcpu *v, const struct kvt_setting *setting);

/**
 * kvt_vcpu_setting() - what is in force for a vCPU
 * @v: the vCPU
 *
 * It may be newer than the caller's: a thread that has just been admitted sets it, too.
 *
 * Return: a copy.
 */
struct kvt_setting kvt_vcpu_setting(struct kvt_vcpu *v);

/**
 * kvt_vcpu_free() - let go of a vCPU
 * @v: the vCPU, KVT_FREE, which no entry looks at any more
 *
 * Waits for its timers' handlers, not for task work.
 */
void kvt_vcpu_free(struct kvt_vcpu *v);

/**
 * kvt_vcpu_get() - what is in force for a vCPU, and what happened
 * @v: the vCPU
 * @vm: its VM's throttle, locked; the caller has a reference on the VM
 * @state: result; ->tid is in the pid namespace of the caller
 */
void kvt_vcpu_get(struct kvt_vcpu *v, const struct kvt_vm *vm,
		  struct kvm_throttle_vcpu_state *state);

#endif /* _KVM_THROTTLE_H */
