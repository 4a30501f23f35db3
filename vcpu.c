// SPDX-License-Identifier: GPL-2.0-only
/*
 * kvm_throttle: a vCPU's circle through its windows: timer, task work, sleep.
 *
 * The whole is explained at the top of kvm_throttle.c.
 */

#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/task_work.h>
#include <linux/xarray.h>

#include "compat.h"
#include "trace.h"
#include "vcpu.h"

/*
 * How soon to look again for a vCPU whose thread is outside KVM_RUN: what it
 * runs until then it has too much.  Each look takes twice as long as the last.
 */
#define KVM_THROTTLE_RETRY_MIN_NS	(5 * NSEC_PER_USEC)
#define KVM_THROTTLE_RETRY_MAX_NS	(80 * NSEC_PER_USEC)

/*
 * After a signal, the thread is not back before it has handled that.  It may be
 * a request to stop, which looks would only delay.
 */
#define KVM_THROTTLE_RETRY_KICKED_NS	(20 * NSEC_PER_USEC)

/*
 * A request to the vCPU that KVM has no name for and never takes back: while any
 * is pending, KVM_RUN goes round in its loop and doesn't enter the guest.  The
 * highest there can be, which KVM will be the last to use.
 */
#define KVM_THROTTLE_REQ_HOLD		63

/* The way out of the guest doesn't take longer than this. */
#define KVM_THROTTLE_EXIT_MAX_NS	(50 * NSEC_PER_USEC)

int __init kvm_throttle_vcpu_init(void)
{
	return kvt_task_work_init();
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

/*
 * Have @v not enter the guest, until kvm_throttle_release().  As it goes round
 * meanwhile, that has to come soon: the timer, which is started with this, sees
 * to it, or whoever parts the timer from the vCPU.
 */
static void kvm_throttle_hold(struct kvm_throttle_vcpu *v)
{
	lockdep_assert_held(&v->lock);

	BUILD_BUG_ON(KVM_THROTTLE_REQ_HOLD >=
		     sizeof_field(struct kvm_vcpu, requests) * BITS_PER_BYTE);
	set_bit(KVM_THROTTLE_REQ_HOLD, (void *)&v->vcpu->requests);
}

/* Let @v enter the guest, unless kvm_throttle_work() stops it before. */
static void kvm_throttle_release(struct kvm_throttle_vcpu *v)
{
	lockdep_assert_held(&v->lock);

	/* Work that was queued is seen first. */
	smp_mb__before_atomic();
	clear_bit(KVM_THROTTLE_REQ_HOLD, (void *)&v->vcpu->requests);
}

/* Have kvm_throttle_work() called before @v enters the guest. */
static void kvm_throttle_queue(struct kvm_throttle_vcpu *v)
{
	lockdep_assert_held(&v->lock);

	if (!v->queued) {
		v->queued = true;
		refcount_inc(&v->ref);
		if (kvt_task_work_add(v->task, &v->work)) {
			/* It is exiting.  kvm_throttle_vm has a reference. */
			v->queued = false;
			refcount_dec(&v->ref);
		}
	}
	kvm_throttle_release(v);
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

/*
 * Look again for @v, which is outside KVM_RUN, or about to leave it.  Whatever
 * it does until then, it doesn't enter the guest.
 */
static void kvm_throttle_retry(struct kvm_throttle_vcpu *v, u64 now)
{
	u64 least, at;

	least = v->kicked ? KVM_THROTTLE_RETRY_KICKED_NS :
			    KVM_THROTTLE_RETRY_MIN_NS;
	v->retry_ns = clamp(2 * v->retry_ns, least,
			    (u64)KVM_THROTTLE_RETRY_MAX_NS);
	trace_kvm_throttle_retry(v);
	kvm_throttle_hold(v);
	at = now + v->retry_ns;
	if (now < v->clock.open_ns)
		at = min(at, v->clock.open_ns);
	kvm_throttle_start(v, at, now);
}

/* Has the interrupt that is being handled come while the guest ran? */
static bool kvm_throttle_in_guest(const struct kvm_throttle_vcpu *v)
{
	return READ_ONCE(v->task->flags) & PF_VCPU;
}

/*
 * What this grows by is how long the thread has been without a CPU: the sum of
 * its runtime is brought up to when it last was.
 */
static u64 kvm_throttle_off_cpu_ns(const struct kvm_throttle_vcpu *v)
{
	return READ_ONCE(v->task->se.exec_start) -
	       READ_ONCE(v->task->se.sum_exec_runtime);
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
	v->ran_from_ns = 0;
	if (!v->sleeping && !v->kicked && kvt_task_on_cpu(v->task)) {
		if (now > from)
			kvt_charge(&v->grid, &v->clock, from, now);
		if (!v->retry_ns || now < v->clock.open_ns) {
			v->in_guest = !v->retry_ns && kvm_throttle_in_guest(v);
			v->irq_exits = kvt_irq_exits(v->vcpu);
			v->ran_from_ns = now;
			v->ran_off_ns = kvm_throttle_off_cpu_ns(v);
		}
	}

	if (v->sleeping) {
		v->stats.windows++;
		v->woken_ns = now;
		v->woken_idle = is_idle_task(current);
		kvm_throttle_wake(v, v->clock.open_ns);
	} else if (!kvt_vcpu_in_task(v->vcpu, v->task)) {
		v->ran_from_ns = 0;
		kvm_throttle_release(v);
		kvm_throttle_scan_now(v->vm);
	} else if (v->retry_ns && !READ_ONCE(v->vcpu->wants_to_run) &&
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

/* For how long the throttle has kept @v out of the guest since it last might run. */
static u64 kvm_throttle_stall_ns(const struct kvm_throttle_vcpu *v)
{
	return v->stats.throttled_ns - v->stall_from_ns;
}

static void kvm_throttle_end_stall(struct kvm_throttle_vcpu *v)
{
	v->stats.stall_max_ns = max(v->stats.stall_max_ns,
				    kvm_throttle_stall_ns(v));
	v->stall_from_ns = v->stats.throttled_ns;
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
 * Charge @v for what its thread has run since @from, when the timer found it on a
 * CPU.  Return: how much that was.
 */
static u64 kvm_throttle_charge(struct kvm_throttle_vcpu *v, u64 from, u64 now)
{
	u64 off_ns = kvm_throttle_off_cpu_ns(v) - v->ran_off_ns;

	/* After a move to a CPU whose clock differs, it may be anything. */
	if (off_ns >= now - from)
		return 0;
	kvt_charge(&v->grid, &v->clock, from + off_ns, now);
	return now - from - off_ns;
}

/*
 * Learn how long it takes from the end of a window to kvm_throttle_work(): what
 * is usual, not the worst.  Only where the guest had to be stopped: how long it
 * takes otherwise is up to the guest.
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
 * that the timer ended, it has been ready to run since @ready; if it does, it
 * will take @entry_ns more than it would have anyway to enter the guest.
 *
 * Return: true if it has to sleep until ->clock.open_ns.  Otherwise the timer
 * has been started if @v has to be looked at again.
 */
static bool kvm_throttle_must_sleep(struct kvm_throttle_vcpu *v, u64 ready,
				    u64 now, u64 entry_ns)
{
	struct kvt_late late = {
		.slept = v->woken_ns != 0,
		.waited_ns = v->woken_idle ? 0 : now - v->woken_ns,
		.entry_ns = entry_ns,
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
		kvm_throttle_end_stall(v);
		v->retry_ns = 0;
		v->kicked = false;
		kvm_throttle_start(v, v->clock.close_ns, v->clock.close_ns);
		trace_kvm_throttle_open(v, late.slept);
		return false;
	}

	if (in_run && !signal_pending(current)) {
		v->retry_ns = 0;
		return true;
	}

	if (in_run) {
		v->stats.interrupted++;
		v->kicked = true;
		trace_kvm_throttle_signal(v);
	} else {
		v->stats.retries++;
	}
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
	u64 before_ns = v->stats.throttled_ns;
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
	kvt_steal(v->stats.throttled_ns - before_ns);
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
	u64 now, ready, fired_ns, ran_from_ns, entry_ns;
	bool busy, ran = true;

	raw_spin_lock_irq(&v->lock);
	fired_ns = v->fired_ns;
	ran_from_ns = v->ran_from_ns;
	v->queued = false;
	v->fired_ns = 0;
	v->ran_from_ns = 0;
	v->woken_ns = 0;

	if (!v->vm || !v->grid.period_ns)
		goto out;

	now = kvm_throttle_now(v->vm);
	ready = fired_ns ?: now;
	/* It may have left guest mode by itself when the interrupt came. */
	busy = ran_from_ns &&
	       !(v->in_guest && kvt_was_interrupted(v->vcpu, v->irq_exits));
	if (busy)
		ready += kvm_throttle_charge(v, ran_from_ns, now);
	else if (fired_ns && READ_ONCE(v->vcpu->wants_to_run))
		kvm_throttle_learn_exit(v, now);
	if (atomic_read(&v->vcpu->kvm->online_vcpus) !=
	    READ_ONCE(v->vm->nr_vcpus))
		kvm_throttle_scan_now(v->vm);

	/* Who was busy outside the guest has to enter it anyway. */
	entry_ns = busy ? 0 : kvt_entry_ns(v->exit_ns);
	while (kvm_throttle_must_sleep(v, ready, now, entry_ns)) {
		trace_kvm_throttle_close(v, ran ? fired_ns : 0);
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
	} else if (v->fired_ns && (v->in_guest || !v->ran_from_ns)) {
		/* Otherwise it is busy outside the guest, which isn't our doing. */
		v->stats.throttled_ns += kvt_held_ns(&v->grid, v->fired_ns, now);
		v->fired_ns = now;
	}
}

/* Put @setting in force for @v, which has run for @debt_ns too long. */
static void kvm_throttle_start_over(struct kvm_throttle_vcpu *v,
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
	v->ran_from_ns = 0;
	v->woken_ns = 0;
	v->ran_window = 0;
	v->retry_ns = 0;
	v->kicked = false;
	kvm_throttle_release(v);
	if (!v->grid.period_ns)
		kvm_throttle_end_stall(v);

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

void kvm_throttle_apply(struct kvm_throttle_vcpu *v,
			const struct kvm_throttle_setting *setting)
{
	kvm_throttle_start_over(v, setting, 0);
}

void kvm_throttle_drop(struct kvm_throttle_vcpu *v)
{
	raw_spin_lock_irq(&v->lock);
	if (v->sleeping)
		kvm_throttle_wake(v, kvm_throttle_now(v->vm));
	kvm_throttle_release(v);
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
		v->stall_from_ns = old->stall_from_ns;
		raw_spin_unlock_irq(&old->lock);
		kvm_throttle_drop(old);
	}
	kvm_throttle_start_over(v, &setting, debt_ns);
	return 0;
}

int kvm_throttle_track(struct kvm_throttle_vm *vm, struct kvm_vcpu *vcpu)
{
	struct kvm_throttle_vcpu *v = xa_load(&vm->vcpus, vcpu->vcpu_idx);
	struct task_struct *task = kvt_vcpu_get_task(vcpu);
	int r = 0;

	lockdep_assert_held(&vm->lock);

	if (!v || (task && task != v->task)) {
		r = kvm_throttle_add(vm, vcpu, task, v);
		if (!r)
			return 0;
	} else {
		kvm_throttle_revive(v);
	}
	if (task)
		put_task_struct(task);
	return r;
}

void kvm_throttle_get_vcpu(struct kvm_throttle_vcpu *v,
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
		.stall_max_ns = max(v->stats.stall_max_ns,
				    kvm_throttle_stall_ns(v)),
	};
	raw_spin_unlock_irq(&v->lock);

	if (v->task)
		state->tid = task_pid_vnr(v->task);
}
