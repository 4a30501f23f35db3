// SPDX-License-Identifier: GPL-2.0-only
/*
 * kvm_throttle: keeps the vCPUs of a KVM virtual machine out of guest mode for
 * an exact percentage of the time.
 *
 * Live migration needs it: when a guest dirties memory faster than the network
 * carries it, the copy never ends unless the guest is slowed down.
 *
 * The time since a VM was attached to is cut into periods, and each of them
 * into a run window and a sleep window.  The grid belongs to the VM: all vCPUs
 * sleep at the same time, so that none fills the gap that another one leaves
 * on its CPU, or spins on a lock that a sleeping one holds.  Each vCPU works
 * out the windows on its own, from the epoch and two lengths.
 *
 *	VM grid   |---run---|------sleep------|---run---|------sleep------|
 *	vCPU 0    ==========.                 ==========.
 *	vCPU 1    ==========.                 ==========.
 *	                    ^ hrtimer on the vCPU's CPU: forces the VM exit,
 *	                      queues task_work.  KVM runs that before it enters
 *	                      the guest again: sleep until the next run window
 *
 * A vCPU's life under throttle is a circle of three stations:
 *
 *  - In the run window it is KVM's alone.  The hrtimer expires at the window's
 *    end; the interrupt itself makes the CPU leave the guest, and the handler
 *    queues kvm_throttle_work() with task_work_add().
 *  - KVM's run loop sees that work is pending, drops kvm->srcu and calls it
 *    through xfer_to_guest_mode_handle_work().  It sleeps until the grid's next
 *    run window; the same hrtimer ends that sleep.  A signal ends it too.
 *  - Work that is queued also runs when the thread returns to user mode.  It
 *    must not sleep there, since the VMM may hold any lock of its own.  So it
 *    asks for the hrtimer shortly after, until that meets the thread in KVM_RUN
 *    or the run window opens.
 *
 * A vCPU that halts keeps its work queued, and costs nothing until it wakes up.
 *
 * The loop is closed.  What a vCPU ran past a window's end is charged to it and
 * taken off its next windows.  What a late wake-up and the way into the guest
 * took of a window is added at its end, judged for the VM and not for each
 * vCPU: one that waits while a sibling has the CPU has lost nothing.  The
 * arithmetic of all that is in kvm_throttle.h.
 *
 * Lifetime, from the outside in:
 *
 *  - struct kvm_throttle_vm belongs to its file, the throttle fd.  The last
 *    close frees it, whatever the vCPUs' threads are doing.
 *  - It holds a reference on the VM.  kvm_throttle_scan() looks now and then
 *    whether that is the last sign of life, and then lets the VM go.
 *  - struct kvm_throttle_vcpu is one vCPU in one thread.  Its references are
 *    one that struct kvm_throttle_vm holds and one for task_work that is queued
 *    or running.  Task work can't be cancelled, and a blocked or stopped thread
 *    may keep it for ever; so it outlives the throttle fd and the VM, and holds
 *    the module and the task_struct.  If the vCPU moves to another thread, a
 *    new one takes its place.
 *  - kvm_throttle_drop() parts the two: it sets ->vm to NULL under ->lock.  From
 *    a struct kvm_throttle_vcpu, the VM, the vCPU and struct kvm_throttle_vm may
 *    be reached only under that lock and after seeing ->vm, and the hrtimer is
 *    started only there, so that hrtimer_cancel() is final after that.
 *
 * Locks, outermost first:
 *
 *   kvm_throttle_vm::lock	mutex; settings, the set of vCPUs, ->kvm
 *   kvm_throttle_list_lock	mutex; which VMs are attached to
 *   kvm_throttle_vcpu::lock	raw, taken by the hrtimer's handler; a vCPU's
 *				windows, statistics and whether it sleeps
 *
 * kvm_throttle_vm::cpus is written with interrupts off by the CPU it belongs to.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hrtimer.h>
#include <linux/kvm_host.h>
#include <linux/magic.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/poll.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/task_work.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "compat.h"
#include "kvm_throttle.h"

/* A number of those for local use, so that modprobe's alias can name it. */
#define KVM_THROTTLE_MINOR	249

/*
 * How soon to look again for a vCPU whose thread is outside KVM_RUN: what it
 * runs until then it has too much.  Each look takes twice as long as the last.
 */
#define KVM_THROTTLE_RETRY_MIN_NS	(5 * NSEC_PER_USEC)
#define KVM_THROTTLE_RETRY_MAX_NS	(80 * NSEC_PER_USEC)

/* The way out of the guest doesn't take longer than this. */
#define KVM_THROTTLE_EXIT_MAX_NS	(50 * NSEC_PER_USEC)

/* How often to look for new vCPUs, for new threads and for the VM's death. */
#define KVM_THROTTLE_SCAN_MS	50

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
 */
struct kvm_throttle_vm {
	struct kvm *kvm;
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
 *	expiry.  Nothing tells when the guest is entered; that takes about three
 *	quarters as long
 * @fired_ns: when the vCPU left the guest because of @timer; 0 if it didn't
 * @woken_ns: when @timer ended the sleep; 0 if it didn't
 * @woken_idle: the CPU had nothing to do then
 * @charge_ns: from when on running is charged, while @timer is armed
 * @retry_ns: how long @timer was set for to look for the vCPU again; 0 if it is
 *	set for a window's end
 * @ran_window: window in which the vCPU last entered the guest
 * @asleep_ns: since when the vCPU has been asleep, while @sleeping
 * @since_ns: when the vCPU was last found at a percentage other than 0
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
	u64 woken_ns;
	bool woken_idle;
	u64 charge_ns;
	u64 retry_ns;
	u64 ran_window;
	u64 asleep_ns;
	u64 since_ns;
	struct {
		u64 elapsed_ns;
		u64 throttled_ns;
		u64 windows;
		u64 interrupted;
		u64 retries;
		u64 late_max_ns;
	} stats;
};

static DEFINE_MUTEX(kvm_throttle_list_lock);
static LIST_HEAD(kvm_throttle_list);
static struct workqueue_struct *kvm_throttle_wq;

static u64 kvm_throttle_now(const struct kvm_throttle_vm *vm)
{
	return ktime_get_ns() - vm->epoch_ns;
}

/* Have the VM looked at; another thread runs a vCPU, or there is a new one. */
static void kvm_throttle_scan_now(struct kvm_throttle_vm *vm)
{
	mod_delayed_work(kvm_throttle_wq, &vm->scan, 0);
}

/* The last reference may be the one that task work held, so any task's. */
static void kvm_throttle_put(struct kvm_throttle_vcpu *v)
{
	if (!refcount_dec_and_test(&v->ref))
		return;
	if (v->task)
		put_task_struct(v->task);
	kfree(v);
	/* kvm_throttle_exit() waits for what is left of this function. */
	module_put(THIS_MODULE);
}

/* Have kvm_throttle_work() called before @v enters the guest. */
static void kvm_throttle_queue(struct kvm_throttle_vcpu *v)
{
	lockdep_assert_held(&v->lock);

	if (v->queued)
		return;
	v->queued = true;
	refcount_inc(&v->ref);
	if (kvt_task_work_add(v->task, &v->work)) {
		/* The thread is exiting.  kvm_throttle_vm has a reference. */
		v->queued = false;
		refcount_dec(&v->ref);
	}
}

/* End the sleep of @v in kvm_throttle_work(); it was held until @until. */
static void kvm_throttle_wake(struct kvm_throttle_vcpu *v, u64 until)
{
	lockdep_assert_held(&v->lock);

	v->sleeping = false;
	v->stats.throttled_ns += until - v->asleep_ns;
	wake_up_process(v->task);
}

/* Start the timer, to expire at @at; what @v runs after @charge is a debt. */
static void kvm_throttle_start(struct kvm_throttle_vcpu *v, u64 at, u64 charge)
{
	lockdep_assert_held(&v->lock);

	v->charge_ns = charge;
	hrtimer_start(&v->timer, ns_to_ktime(v->vm->epoch_ns + at),
		      HRTIMER_MODE_ABS_PINNED_HARD);
}

/* Look again for @v, which is outside KVM_RUN, or about to leave it. */
static void kvm_throttle_retry(struct kvm_throttle_vcpu *v, u64 now)
{
	v->retry_ns = clamp(2 * v->retry_ns, (u64)KVM_THROTTLE_RETRY_MIN_NS,
			    (u64)KVM_THROTTLE_RETRY_MAX_NS);
	kvm_throttle_start(v, now + v->retry_ns, now);
}

static enum hrtimer_restart kvm_throttle_timer(struct hrtimer *timer)
{
	struct kvm_throttle_vcpu *v = container_of(timer, typeof(*v), timer);
	unsigned long flags;
	u64 now, due, from;

	raw_spin_lock_irqsave(&v->lock, flags);
	/* While this waited for the lock, the timer may have been set anew. */
	if (!v->vm || !v->grid.period_ns || hrtimer_is_queued(timer))
		goto out;

	now = kvm_throttle_now(v->vm);
	due = ktime_to_ns(hrtimer_get_expires(timer)) - v->vm->epoch_ns;
	v->stats.late_max_ns = max(v->stats.late_max_ns, now - due);

	/* The guest has stopped on time if it took no longer than is usual. */
	from = v->charge_ns + (v->retry_ns ? 0 : v->exit_ns);
	if (!v->sleeping && kvt_task_on_cpu(v->task) && now > from)
		kvt_charge(&v->grid, &v->clock, from, now);

	if (v->sleeping) {
		v->stats.windows++;
		v->woken_ns = now;
		v->woken_idle = is_idle_task(current);
		kvm_throttle_wake(v, v->clock.open_ns);
	} else if (!kvt_vcpu_in_task(v->vcpu, v->task)) {
		kvm_throttle_scan_now(v->vm);
	} else if (v->retry_ns && !v->vcpu->wants_to_run &&
		   task_is_running(v->task) && now < v->clock.open_ns) {
		/* Still busy elsewhere: leave it alone. */
		v->stats.retries++;
		kvm_throttle_retry(v, now);
	} else {
		v->fired_ns = task_is_running(v->task) && !v->retry_ns ?
			      max(v->charge_ns, now - v->exit_ns) : 0;
		kvm_throttle_queue(v);
	}
out:
	raw_spin_unlock_irqrestore(&v->lock, flags);
	return HRTIMER_NORESTART;
}

/* The record of this CPU for the grid that @v is on. */
static struct kvt_cpu *kvm_throttle_cpu(struct kvm_throttle_vcpu *v)
{
	struct kvt_cpu *cpu;

	lockdep_assert_held(&v->lock);

	cpu = v->setting.own ? &v->cpu : this_cpu_ptr(v->vm->cpus);
	if (cpu->grid != v->setting.serial) {
		cpu->grid = v->setting.serial;
		cpu->window = KVT_NO_WINDOW;
	}
	return cpu;
}

/*
 * Learn how long it takes from the end of a window to kvm_throttle_work(): what
 * is usual, not the worst.
 */
static void kvm_throttle_learn_exit(struct kvm_throttle_vcpu *v, u64 now)
{
	u64 exit_ns = now - v->charge_ns;

	/* The timer was late, or another task had the CPU. */
	if (exit_ns > KVM_THROTTLE_EXIT_MAX_NS)
		return;
	if (exit_ns > v->exit_ns && v->exit_ns)
		v->exit_ns += (exit_ns - v->exit_ns) / 16;
	else
		v->exit_ns = exit_ns;
}

/*
 * Decide what @v does next, in its own thread.  If it doesn't come from a sleep
 * that the timer ended, it has been ready to run since @ready.
 *
 * Return: true if it has to sleep until ->clock.open_ns.  Otherwise the timer
 * has been started if @v has to be looked at again.
 */
static bool kvm_throttle_must_sleep(struct kvm_throttle_vcpu *v, u64 ready,
				    u64 now)
{
	struct kvt_late late = {
		.slept = v->woken_ns != 0,
		.waited_ns = v->woken_idle ? 0 : now - v->woken_ns,
		.entry_ns = v->exit_ns * 3 / 4,
	};
	struct kvt_cpu *cpu = kvm_throttle_cpu(v);
	bool may_run, in_run;

	in_run = READ_ONCE(v->vcpu->wants_to_run);
	/* A thread that takes the vCPU over sets its pid, then that. */
	smp_rmb();
	if (!kvt_vcpu_in_task(v->vcpu, v->task)) {
		kvm_throttle_scan_now(v->vm);
		return false;
	}

	may_run = kvt_may_run(&v->grid, &v->clock, cpu, now, &late);
	if (late.slept)
		v->stats.throttled_ns += late.held_ns;
	else
		v->stats.throttled_ns += kvt_held_ns(&v->grid, ready, now);
	if (may_run) {
		if (late.first)
			v->stats.late_max_ns = max(v->stats.late_max_ns,
						   late.held_ns);
		v->retry_ns = 0;
		kvm_throttle_start(v, v->clock.close_ns, v->clock.close_ns);
		return false;
	}

	if (in_run && !signal_pending(current)) {
		v->retry_ns = 0;
		return true;
	}

	if (in_run)
		v->stats.interrupted++;
	else
		v->stats.retries++;
	v->retry_ns = 0;
	kvm_throttle_retry(v, now);
	return false;
}

/*
 * Sleep until the next run window; ->lock is released meanwhile.  @ran tells
 * whether @v comes from the guest.
 *
 * Siblings on a CPU are woken one after the other, or else the scheduler would
 * run the same ones again and again.
 */
static void kvm_throttle_sleep(struct kvm_throttle_vcpu *v, u64 now, bool ran)
{
	u64 order_ns;

	v->asleep_ns = now;
	/* A timer that was set before a change may have left this behind. */
	v->fired_ns = 0;
	v->woken_ns = 0;
	v->sleeping = true;
	if (ran)
		v->ran_window = v->clock.window;
	order_ns = kvt_wake_order(v->clock.window - v->ran_window);
	kvm_throttle_start(v, v->clock.open_ns + order_ns, v->clock.open_ns);

	set_current_state(TASK_INTERRUPTIBLE);
	raw_spin_unlock_irq(&v->lock);
	schedule();
	raw_spin_lock_irq(&v->lock);

	/* A signal has ended it, or nothing in particular. */
	if (v->sleeping)
		kvm_throttle_wake(v, kvm_throttle_now(v->vm));
}

/**
 * kvm_throttle_work() - keep a vCPU out of the guest while it has to sleep
 * @work: the vCPU's
 *
 * Called in the vCPU's thread, before it enters the guest, returns to user mode
 * or exits.  May sleep; holds no lock of KVM's.
 */
static void kvm_throttle_work(struct callback_head *work)
{
	struct kvm_throttle_vcpu *v = container_of(work, typeof(*v), work);
	u64 now, ready, fired_ns;
	bool ran = true;

	raw_spin_lock_irq(&v->lock);
	fired_ns = v->fired_ns;
	v->queued = false;
	v->fired_ns = 0;
	v->woken_ns = 0;

	if (!v->vm || !v->grid.period_ns)
		goto out;

	now = kvm_throttle_now(v->vm);
	ready = fired_ns ?: now;
	if (fired_ns && v->vcpu->wants_to_run)
		kvm_throttle_learn_exit(v, now);
	if (atomic_read(&v->vcpu->kvm->online_vcpus) !=
	    READ_ONCE(v->vm->nr_vcpus))
		kvm_throttle_scan_now(v->vm);

	while (kvm_throttle_must_sleep(v, ready, now)) {
		kvm_throttle_sleep(v, now, ran);
		if (!v->vm || !v->grid.period_ns)
			break;

		now = kvm_throttle_now(v->vm);
		ready = now;
		ran = false;
	}
out:
	raw_spin_unlock_irq(&v->lock);
	kvm_throttle_put(v);
}

/*
 * Bring the time statistics up to @now, which the setting that is in force has
 * to be true for.
 */
static void kvm_throttle_account(struct kvm_throttle_vcpu *v, u64 now)
{
	lockdep_assert_held(&v->lock);

	if (v->grid.period_ns)
		v->stats.elapsed_ns += now - v->since_ns;
	v->since_ns = now;
	if (v->sleeping) {
		/* The timer may be late; kvm_throttle_work() sees to that. */
		now = clamp(v->clock.open_ns, v->asleep_ns, now);
		v->stats.throttled_ns += now - v->asleep_ns;
		v->asleep_ns = now;
	} else if (v->fired_ns) {
		v->stats.throttled_ns += kvt_held_ns(&v->grid, v->fired_ns, now);
		v->fired_ns = now;
	}
}

/* Put @setting in force for @v, which has run for @debt_ns too long. */
static void kvm_throttle_apply(struct kvm_throttle_vcpu *v,
			       const struct kvm_throttle_setting *setting,
			       u64 debt_ns)
{
	u64 now;

	raw_spin_lock_irq(&v->lock);
	now = kvm_throttle_now(v->vm);
	kvm_throttle_account(v, now);
	v->setting = *setting;
	kvt_grid_init(&v->grid, setting->percent_x100, setting->period_ns);
	kvt_clock_init(&v->clock);
	v->clock.debt_ns = debt_ns;
	v->fired_ns = 0;
	v->woken_ns = 0;
	v->ran_window = 0;

	v->retry_ns = 0;

	/* Either way kvm_throttle_work() looks at the new grid. */
	if (v->sleeping)
		kvm_throttle_wake(v, now);
	else if (v->task && v->grid.period_ns)
		kvm_throttle_queue(v);
	raw_spin_unlock_irq(&v->lock);
}

/*
 * Have @v looked at if nothing else will: when its timer or its work found the
 * vCPU in another thread, that was the end of it, but the vCPU may be back.
 */
static void kvm_throttle_revive(struct kvm_throttle_vcpu *v)
{
	raw_spin_lock_irq(&v->lock);
	if (v->task && v->grid.period_ns && !v->queued && !v->sleeping &&
	    !hrtimer_active(&v->timer))
		kvm_throttle_queue(v);
	raw_spin_unlock_irq(&v->lock);
}

/* Part @v from its VM, and let go of it.  Full speed at once. */
static void kvm_throttle_drop(struct kvm_throttle_vcpu *v)
{
	raw_spin_lock_irq(&v->lock);
	if (v->sleeping)
		kvm_throttle_wake(v, kvm_throttle_now(v->vm));
	v->vm = NULL;
	v->vcpu = NULL;
	raw_spin_unlock_irq(&v->lock);

	hrtimer_cancel(&v->timer);
	kvm_throttle_put(v);
}

/*
 * A vCPU that is new, or that runs in another thread than @old knows: there,
 * the work of @old may be queued for ever.  Takes the reference on @task.
 */
static int kvm_throttle_add(struct kvm_throttle_vm *vm, struct kvm_vcpu *vcpu,
			    struct task_struct *task,
			    struct kvm_throttle_vcpu *old)
{
	struct kvm_throttle_setting setting = vm->setting;
	struct kvm_throttle_vcpu *v;
	u64 debt_ns = 0;
	int r;

	v = kzalloc(sizeof(*v), GFP_KERNEL_ACCOUNT);
	if (!v)
		return -ENOMEM;

	refcount_set(&v->ref, 1);
	raw_spin_lock_init(&v->lock);
	v->vm = vm;
	v->vcpu = vcpu;
	v->task = task;
	kvt_hrtimer_setup(&v->timer, kvm_throttle_timer, CLOCK_MONOTONIC,
			  HRTIMER_MODE_ABS_PINNED_HARD);
	init_task_work(&v->work, kvm_throttle_work);

	r = xa_err(xa_store(&vm->vcpus, vcpu->vcpu_idx, v, GFP_KERNEL_ACCOUNT));
	if (r) {
		kfree(v);
		return r;
	}
	/* The caller's file has a reference. */
	__module_get(THIS_MODULE);

	if (old) {
		raw_spin_lock_irq(&old->lock);
		kvm_throttle_account(old, kvm_throttle_now(vm));
		setting = old->setting;
		debt_ns = old->clock.debt_ns;
		v->stats = old->stats;
		raw_spin_unlock_irq(&old->lock);
		kvm_throttle_drop(old);
	}
	kvm_throttle_apply(v, &setting, debt_ns);
	return 0;
}

/* Know every vCPU of the VM, and the thread that runs it. */
static int kvm_throttle_update(struct kvm_throttle_vm *vm)
{
	int nr = atomic_read(&vm->kvm->online_vcpus);
	int i, r = 0;

	lockdep_assert_held(&vm->lock);

	for (i = 0; i < nr; i++) {
		struct kvm_vcpu *vcpu = kvm_get_vcpu(vm->kvm, i);
		struct kvm_throttle_vcpu *v = xa_load(&vm->vcpus, i);
		struct task_struct *task = kvt_vcpu_get_task(vcpu);

		if (!v || (task && task != v->task)) {
			r = kvm_throttle_add(vm, vcpu, task, v);
			if (!r)
				task = NULL;
		} else {
			kvm_throttle_revive(v);
		}
		if (task)
			put_task_struct(task);
		if (r)
			return r;
	}
	WRITE_ONCE(vm->nr_vcpus, nr);
	return 0;
}

/*
 * Let the VM go, at the end of its life or ours.  Releases vm->lock, below which
 * nothing of what it takes to destroy a VM shall nest.
 */
static void kvm_throttle_detach(struct kvm_throttle_vm *vm)
	__releases(&vm->lock)
{
	struct kvm_throttle_vcpu *v;
	struct kvm *kvm = vm->kvm;
	unsigned long i;

	lockdep_assert_held(&vm->lock);

	if (!kvm) {
		mutex_unlock(&vm->lock);
		return;
	}
	mutex_lock(&kvm_throttle_list_lock);
	WRITE_ONCE(vm->kvm, NULL);
	list_del(&vm->node);
	mutex_unlock(&kvm_throttle_list_lock);

	xa_for_each(&vm->vcpus, i, v)
		kvm_throttle_drop(v);
	xa_destroy(&vm->vcpus);
	mutex_unlock(&vm->lock);

	kvm_put_kvm(kvm);
	wake_up_interruptible_poll(&vm->death, EPOLLHUP);
}

/*
 * The VM is dead once its process has no memory any more, in which case no vCPU
 * can run again, or once this module has the last reference.
 */
static bool kvm_throttle_is_dead(struct kvm *kvm)
{
	return !atomic_read(&kvm->mm->mm_users) ||
	       refcount_read(&kvm->users_count) == 1;
}

/* Take vm->lock if the VM is alive, and get to know its vCPUs. */
static int kvm_throttle_lock(struct kvm_throttle_vm *vm)
{
	int r;

	mutex_lock(&vm->lock);
	if (!vm->kvm || kvm_throttle_is_dead(vm->kvm)) {
		kvm_throttle_detach(vm);
		return -ESRCH;
	}
	r = kvm_throttle_update(vm);
	if (r)
		mutex_unlock(&vm->lock);
	return r;
}

static void kvm_throttle_scan(struct work_struct *work)
{
	struct kvm_throttle_vm *vm = container_of(work, typeof(*vm), scan.work);
	int r;

	r = kvm_throttle_lock(vm);
	if (r == -ESRCH)
		return;
	if (!r)
		mutex_unlock(&vm->lock);
	queue_delayed_work(kvm_throttle_wq, &vm->scan,
			   msecs_to_jiffies(KVM_THROTTLE_SCAN_MS));
}

static bool kvm_throttle_same(const struct kvm_throttle_setting *a,
			      const struct kvm_throttle_setting *b)
{
	return a->percent_x100 == b->percent_x100 &&
	       a->period_ns == b->period_ns && a->own == b->own;
}

static int kvm_throttle_set_vcpu(struct kvm_throttle_vm *vm, u32 vcpu_id,
				 struct kvm_throttle_setting *setting)
{
	struct kvm_throttle_vcpu *v;
	unsigned long i;

	xa_for_each(&vm->vcpus, i, v) {
		if (v->vcpu->vcpu_id != vcpu_id)
			continue;
		if (!kvm_throttle_same(&v->setting, setting)) {
			setting->serial = ++vm->serial;
			kvm_throttle_apply(v, setting, 0);
		}
		return 0;
	}
	return -ENOENT;
}

static void kvm_throttle_set_all(struct kvm_throttle_vm *vm,
				 struct kvm_throttle_setting *setting)
{
	struct kvm_throttle_vcpu *v;
	unsigned long i;

	if (!kvm_throttle_same(&vm->setting, setting)) {
		setting->serial = ++vm->serial;
		vm->setting = *setting;
	}
	xa_for_each(&vm->vcpus, i, v) {
		if (v->setting.serial != vm->setting.serial)
			kvm_throttle_apply(v, &vm->setting, 0);
	}
}

static int kvm_throttle_ioctl_set(struct kvm_throttle_vm *vm,
				  const struct kvm_throttle __user *arg)
{
	struct kvm_throttle_setting setting;
	struct kvm_throttle set;
	int r;

	if (copy_from_user(&set, arg, sizeof(set)))
		return -EFAULT;
	if (set.flags & ~KVM_THROTTLE_VCPU || set.pad ||
	    memchr_inv(set.reserved, 0, sizeof(set.reserved)))
		return -EINVAL;
	if (!(set.flags & KVM_THROTTLE_VCPU) && set.vcpu_id)
		return -EINVAL;
	if (set.percent_x100 > KVM_THROTTLE_PERCENT_MAX)
		return -EINVAL;
	if (set.period_ns && (set.period_ns < KVM_THROTTLE_PERIOD_MIN_NS ||
			      set.period_ns > KVM_THROTTLE_PERIOD_MAX_NS))
		return -EINVAL;

	setting = (struct kvm_throttle_setting) {
		.percent_x100 = set.percent_x100,
		.period_ns = set.period_ns,
		.own = set.flags & KVM_THROTTLE_VCPU,
	};
	r = kvm_throttle_lock(vm);
	if (r)
		return r;
	if (setting.own)
		r = kvm_throttle_set_vcpu(vm, set.vcpu_id, &setting);
	else
		kvm_throttle_set_all(vm, &setting);
	mutex_unlock(&vm->lock);
	return r;
}

static void kvm_throttle_get_vcpu(struct kvm_throttle_vcpu *v,
				  struct kvm_throttle_vcpu_state *state)
{
	raw_spin_lock_irq(&v->lock);
	kvm_throttle_account(v, kvm_throttle_now(v->vm));
	*state = (struct kvm_throttle_vcpu_state) {
		.vcpu_id = v->vcpu->vcpu_id,
		.flags = v->setting.own ? KVM_THROTTLE_VCPU : 0,
		.percent_x100 = v->setting.percent_x100,
		.period_ns = v->grid.period_ns,
		.elapsed_ns = v->stats.elapsed_ns,
		.throttled_ns = v->stats.throttled_ns,
		.windows = v->stats.windows,
		.interrupted = v->stats.interrupted,
		.retries = v->stats.retries,
		.late_max_ns = v->stats.late_max_ns,
	};
	raw_spin_unlock_irq(&v->lock);

	if (v->task)
		state->tid = task_pid_vnr(v->task);
}

/*
 * Fill in *@get, and up to get->nr_vcpus elements of *@states, which the caller
 * frees.
 */
static int kvm_throttle_get(struct kvm_throttle_vm *vm,
			    struct kvm_throttle_state *get,
			    struct kvm_throttle_vcpu_state **states)
{
	struct kvm_throttle_vcpu *v;
	struct kvt_grid grid;
	unsigned long i;
	int r;

	r = kvm_throttle_lock(vm);
	if (r)
		return r;

	*states = kvcalloc(min_t(u32, vm->nr_vcpus, get->nr_vcpus),
			   sizeof(**states), GFP_KERNEL_ACCOUNT);
	if (!*states) {
		r = -ENOMEM;
		goto out;
	}
	xa_for_each(&vm->vcpus, i, v) {
		if (i < get->nr_vcpus)
			kvm_throttle_get_vcpu(v, &(*states)[i]);
	}

	kvt_grid_init(&grid, vm->setting.percent_x100, vm->setting.period_ns);
	get->percent_x100 = vm->setting.percent_x100;
	get->period_ns = grid.period_ns;
	get->nr_vcpus = vm->nr_vcpus;
out:
	mutex_unlock(&vm->lock);
	return r;
}

static int kvm_throttle_ioctl_get(struct kvm_throttle_vm *vm,
				  struct kvm_throttle_state __user *arg)
{
	struct kvm_throttle_vcpu_state *states;
	struct kvm_throttle_state get;
	unsigned int room, i;
	char __user *to;
	size_t size;
	int r;

	if (copy_from_user(&get, arg, sizeof(get)))
		return -EFAULT;
	if (get.flags || memchr_inv(get.reserved, 0, sizeof(get.reserved)))
		return -EINVAL;
	if (get.nr_vcpus && (get.vcpu_size < sizeof(*states) ||
			     get.vcpu_size > PAGE_SIZE))
		return -EINVAL;
	if (!get.nr_vcpus && get.vcpu_size)
		return -EINVAL;

	room = get.nr_vcpus;
	r = kvm_throttle_get(vm, &get, &states);
	if (r)
		return r;

	to = u64_to_user_ptr(get.vcpus);
	size = sizeof(*states);
	r = -EFAULT;
	for (i = 0; i < min(room, get.nr_vcpus); i++) {
		if (copy_to_user(to, &states[i], size) ||
		    clear_user(to + size, get.vcpu_size - size))
			goto out;
		to += get.vcpu_size;
	}
	if (!copy_to_user(arg, &get, sizeof(get)))
		r = 0;
out:
	kvfree(states);
	return r;
}

static long kvm_throttle_vm_ioctl(struct file *file, unsigned int cmd,
				  unsigned long arg)
{
	struct kvm_throttle_vm *vm = file->private_data;

	switch (cmd) {
	case KVM_SET_THROTTLE:
		return kvm_throttle_ioctl_set(vm, (void __user *)arg);
	case KVM_GET_THROTTLE:
		return kvm_throttle_ioctl_get(vm, (void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static __poll_t kvm_throttle_vm_poll(struct file *file, poll_table *wait)
{
	struct kvm_throttle_vm *vm = file->private_data;

	poll_wait(file, &vm->death, wait);
	return READ_ONCE(vm->kvm) ? 0 : EPOLLHUP;
}

static void kvm_throttle_free(struct kvm_throttle_vm *vm)
{
	mutex_lock(&vm->lock);
	kvm_throttle_detach(vm);
	cancel_delayed_work_sync(&vm->scan);
	mutex_destroy(&vm->lock);
	free_percpu(vm->cpus);
	kfree(vm);
}

static int kvm_throttle_vm_release(struct inode *inode, struct file *file)
{
	kvm_throttle_free(file->private_data);
	return 0;
}

static const struct file_operations kvm_throttle_vm_fops = {
	.owner = THIS_MODULE,
	.release = kvm_throttle_vm_release,
	.poll = kvm_throttle_vm_poll,
	.unlocked_ioctl = kvm_throttle_vm_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

/* Make @vm the only one that throttles @kvm. */
static int kvm_throttle_claim(struct kvm_throttle_vm *vm, struct kvm *kvm)
{
	struct kvm_throttle_vm *other;
	int r = 0;

	mutex_lock(&kvm_throttle_list_lock);
	list_for_each_entry(other, &kvm_throttle_list, node) {
		if (other->kvm == kvm)
			r = -EBUSY;
	}
	if (!r) {
		kvm_get_kvm(kvm);
		vm->kvm = kvm;
		list_add(&vm->node, &kvm_throttle_list);
	}
	mutex_unlock(&kvm_throttle_list_lock);
	return r;
}

static struct kvm_throttle_vm *kvm_throttle_create(struct kvm *kvm)
{
	struct kvm_throttle_vm *vm;
	int r;

	vm = kzalloc(sizeof(*vm), GFP_KERNEL_ACCOUNT);
	if (!vm)
		return ERR_PTR(-ENOMEM);
	vm->cpus = alloc_percpu_gfp(struct kvt_cpu, GFP_KERNEL_ACCOUNT);
	if (!vm->cpus) {
		kfree(vm);
		return ERR_PTR(-ENOMEM);
	}

	mutex_init(&vm->lock);
	vm->epoch_ns = ktime_get_ns();
	xa_init(&vm->vcpus);
	INIT_DELAYED_WORK(&vm->scan, kvm_throttle_scan);
	init_waitqueue_head(&vm->death);

	r = kvm_throttle_claim(vm, kvm);
	if (!r) {
		r = kvm_throttle_lock(vm);
		if (!r)
			mutex_unlock(&vm->lock);
	}
	if (r) {
		kvm_throttle_free(vm);
		return ERR_PTR(r);
	}
	queue_delayed_work(kvm_throttle_wq, &vm->scan, 0);
	return vm;
}

/*
 * KVM exports its own test for this on some kernels only.  User space can't
 * choose the name of an anonymous inode.
 */
static bool kvm_throttle_file_is_vm(const struct file *file)
{
	return file_inode(file)->i_sb->s_magic == ANON_INODE_FS_MAGIC &&
	       !strcmp(file_dentry(file)->d_name.name, "kvm-vm");
}

static int kvm_throttle_ioctl_attach(const struct kvm_throttle_attach __user *arg)
{
	struct kvm_throttle_attach attach;
	struct kvm_throttle_vm *vm;
	struct file *file;
	int r;

	if (copy_from_user(&attach, arg, sizeof(attach)))
		return -EFAULT;
	if (attach.flags ||
	    memchr_inv(attach.reserved, 0, sizeof(attach.reserved)))
		return -EINVAL;

	file = fget(attach.vm_fd);
	if (!file)
		return -EBADF;

	/* struct kvm_throttle_vm gets a reference of its own. */
	if (kvm_throttle_file_is_vm(file))
		vm = kvm_throttle_create(file->private_data);
	else
		vm = ERR_PTR(-EINVAL);
	fput(file);
	if (IS_ERR(vm))
		return PTR_ERR(vm);

	r = anon_inode_getfd("kvm-throttle", &kvm_throttle_vm_fops, vm,
			     O_RDWR | O_CLOEXEC);
	if (r < 0)
		kvm_throttle_free(vm);
	return r;
}

static long kvm_throttle_dev_ioctl(struct file *file, unsigned int cmd,
				   unsigned long arg)
{
	switch (cmd) {
	case KVM_THROTTLE_GET_API_VERSION:
		return arg ? -EINVAL : KVM_THROTTLE_API_VERSION;
	case KVM_THROTTLE_ATTACH:
		return kvm_throttle_ioctl_attach((void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations kvm_throttle_dev_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = kvm_throttle_dev_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice kvm_throttle_dev = {
	.minor = KVM_THROTTLE_MINOR,
	.name = "kvm_throttle",
	.fops = &kvm_throttle_dev_fops,
};

static int __init kvm_throttle_init(void)
{
	int r;

	r = kvt_task_work_init();
	if (r) {
		pr_err("task_work_add() can't be found in this kernel\n");
		return r;
	}
	kvm_throttle_wq = alloc_workqueue("kvm_throttle", WQ_UNBOUND, 0);
	if (!kvm_throttle_wq)
		return -ENOMEM;
	r = misc_register(&kvm_throttle_dev);
	if (r) {
		pr_err("can't register misc device %d: %pe\n",
		       KVM_THROTTLE_MINOR, ERR_PTR(r));
		destroy_workqueue(kvm_throttle_wq);
	}
	return r;
}

static void __exit kvm_throttle_exit(void)
{
	misc_deregister(&kvm_throttle_dev);
	destroy_workqueue(kvm_throttle_wq);
	/*
	 * Every thread has left kvm_throttle_put()'s module_put() behind, but
	 * not yet the last instructions of kvm_throttle_work().
	 */
	synchronize_rcu_tasks();
}

module_init(kvm_throttle_init);
module_exit(kvm_throttle_exit);

MODULE_DESCRIPTION("Throttles the vCPUs of KVM virtual machines");
MODULE_LICENSE("GPL");
MODULE_ALIAS_MISCDEV(KVM_THROTTLE_MINOR);
MODULE_ALIAS("devname:kvm_throttle");
