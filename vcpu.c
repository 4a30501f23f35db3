// SPDX-License-Identifier: GPL-2.0-only
/*
 * kvm_throttle: a vCPU's circle through its windows: entry, timer, task work,
 * sleep; and the sleep for what it has dirtied.
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

#include "compat.h"
#include "compat/task_work.h"
#include "kvm_throttle.h"
#include "trace.h"

/* The way into or out of the guest takes less.  More is a late timer, or a task. */
#define KVT_WAY_NS	(KVT_WINDOW_MIN_NS / 2)

/*
 * For how long to put a wake-up off on a CPU that is busy.  The windows of all
 * CPUs open at the same time: until those that are idle have woken their own
 * vCPUs, the scheduler takes them for free and sends others' there.
 */
#define KVT_PUT_OFF_NS	(20 * NSEC_PER_USEC)

/* The most that is remembered of how far a vCPU is ahead of a sibling, or behind. */
#define KVT_AHEAD_MOST_NS	(64LL * NSEC_PER_MSEC)

int __init kvt_vcpu_init(void)
{
	return kvt_task_work_init();
}

/*
 * With PREEMPT_RT, normal tasks are woken from the softirq's thread, as by any sleep: to
 * wake all of a VM's vCPUs on a CPU takes too long for a hard interrupt.
 */
static enum hrtimer_mode kvt_opening_mode(void)
{
	if (IS_ENABLED(CONFIG_PREEMPT_RT) && current->normal_prio >= MAX_RT_PRIO)
		return HRTIMER_MODE_ABS_PINNED_SOFT;
	return HRTIMER_MODE_ABS_PINNED_HARD;
}

/*
 * Called by the handler that wakes @v: is this CPU free for it?  With PREEMPT_RT the
 * handler is a thread, which wakes several vCPUs in turn.  What it found for the
 * first of them goes for the others of that window too.
 */
static bool kvt_cpu_is_idle(const struct kvt_vcpu *v)
{
	struct kvt_record *here = this_cpu_ptr(v->vm->cpus);

	if (is_idle_task(current) || current->policy == SCHED_IDLE)
		return true;
	if (!IS_ENABLED(CONFIG_PREEMPT_RT))
		return false;
	if (single_task_running())
		here->idle_ns = v->window.clock.open_ns;
	return here->idle_ns == v->window.clock.open_ns;
}

/* Called in any task, as task work may hold the last reference. */
static void kvt_put(struct kvt_vcpu *v)
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
 * Have kvt_work() called in @task before it enters the guest.  With @v->lock, or in the
 * thread that has @v loaded.
 */
static void kvt_queue(struct kvt_vcpu *v, struct task_struct *task)
{
	struct kvt_turn *turn = &v->turns[0];

	if (READ_ONCE(turn->task) == task || READ_ONCE(v->turns[1].task) == task)
		return;
	/* A thread that has left KVM_RUN may still have the other one. */
	if (cmpxchg(&turn->task, NULL, task)) {
		turn = &v->turns[1];
		if (cmpxchg(&turn->task, NULL, task))
			return;
	}
	refcount_inc(&v->ref);
	if (kvt_task_work_add(task, &turn->work)) {
		/* It is exiting.  kvt_vm::vcpus has a reference. */
		WRITE_ONCE(turn->task, NULL);
		refcount_dec(&v->ref);
	}
}

void kvt_vcpu_turn(struct kvt_vcpu *v)
{
	kvt_queue(v, current);
}

/*
 * Grows while the thread has no CPU.  While it runs, the scheduler advances both
 * together, so that the difference stays the same.
 */
static u64 kvt_off_cpu_ns(const struct kvt_vcpu *v)
{
	return READ_ONCE(v->task->se.exec_start) -
	       READ_ONCE(v->task->se.sum_exec_runtime);
}

/* For how long the throttle has kept @v out of the guest since it last might run. */
static u64 kvt_stall_ns(const struct kvt_vcpu *v)
{
	return v->stats.throttled_ns - v->stall_from_ns;
}

static void kvt_end_stall(struct kvt_vcpu *v)
{
	lockdep_assert_held(&v->lock);

	v->stats.stall_max_ns = max(v->stats.stall_max_ns, kvt_stall_ns(v));
	v->stall_from_ns = v->stats.throttled_ns;
}

/* Does it have windows, or else a limit to what it dirties and no percentage? */
static bool kvt_has_windows(const struct kvt_vcpu *v)
{
	return v->window.grid.period_ns;
}

/* What @v was held for before @now goes into the statistics. */
static void kvt_end_hold(struct kvt_vcpu *v, u64 now)
{
	lockdep_assert_held(&v->lock);

	if (v->held_from_ns)
		v->stats.throttled_ns += kvt_held_ns(&v->window.grid,
						     v->held_from_ns, now);
	v->held_from_ns = 0;
}

/* End the sleep of @v in kvt_work(); it was held until @until. */
static void kvt_wake(struct kvt_vcpu *v, u64 until, enum kvt_state state)
{
	lockdep_assert_held(&v->lock);

	WRITE_ONCE(v->state, state);
	v->stats.throttled_ns += until - v->sleep.from_ns;
	wake_up_process(v->task);
}

/* End the sleep of @v in kvt_sleep_off(); it was held until @now. */
static void kvt_wake_sleeper(struct kvt_vcpu *v, u64 now)
{
	u64 ns = now - v->dirty.pause.from_ns;

	lockdep_assert_held(&v->lock);

	v->stats.throttled_ns += ns;
	v->dirty.pause.held_ns += ns;
	/* Its window has closed just now: that is counted from here on. */
	if (v->held_from_ns)
		v->held_from_ns = max(v->held_from_ns, now);
	wake_up_process(v->dirty.pause.sleeper);
	v->dirty.pause.sleeper = NULL;
}

static void kvt_start(struct kvt_vcpu *v, struct hrtimer *timer, u64 at,
		      enum hrtimer_mode mode)
{
	lockdep_assert_held(&v->lock);

	hrtimer_start(timer, ns_to_ktime(v->vm->epoch_ns + at), mode);
}

/*
 * Has its thread @v loaded, or, with @other, another vCPU?  It is in KVM_RUN then, but for
 * some short ioctls.  Not followed: the pointers are only compared.
 */
static bool kvt_has_loaded(const struct kvt_vcpu *v, bool other)
{
	const struct hlist_node *first = READ_ONCE(v->task->preempt_notifiers.first);

	return first && (first != &v->vcpu->preempt_notifier.link) == other;
}

/* The window of @v ended at @due.  Called in an interrupt, on any CPU. */
static void kvt_close(struct kvt_vcpu *v, u64 due)
{
	struct kvm_vcpu *loaded = v->task == current ? kvt_loaded_vcpu() : NULL;
	bool in_run = kvt_has_loaded(v, false) && task_is_running(v->task);
	/* It has left the guest by itself; KVM may poll for a while. */
	bool halted = loaded == v->vcpu && kvt_is_halted(loaded);
	u64 now = kvt_now(v->vm);

	lockdep_assert_held(&v->lock);

	WRITE_ONCE(v->state, KVT_CLOSED);
	v->stats.late_max_ns = max(v->stats.late_max_ns, now - due);
	v->held_from_ns = in_run && !halted ? due : 0;
	v->busy.from_ns = 0;
	v->busy.fired_ns = task_is_running(v->task) ? now : 0;

	/* What it does for another vCPU isn't charged to this one. */
	if (kvt_task_on_cpu(v->task) && !halted && !kvt_has_loaded(v, true)) {
		v->busy.from_ns = due;
		v->busy.off_ns = kvt_off_cpu_ns(v);
		v->busy.run_ns = READ_ONCE(v->task->se.sum_exec_runtime);
		v->busy.on_cpu = task_cpu(v->task);
	}
	v->busy.in_guest = loaded == v->vcpu && !halted &&
			   current->flags & PF_VCPU;
	if (v->busy.in_guest)
		v->busy.irq_exits = kvt_irq_exits(v->vcpu);

	/* Elsewhere it is left alone, and seen when it enters. */
	if (in_run)
		kvt_queue(v, v->task);
}

static enum hrtimer_restart kvt_closing(struct hrtimer *timer)
{
	struct kvt_vcpu *v = container_of(timer, typeof(*v), window.close_timer);
	unsigned long flags;

	raw_spin_lock_irqsave(&v->lock, flags);
	/* Nobody sets the timer while this waits for the lock: kvt_vcpu_enter(). */
	if (v->state == KVT_OPEN)
		kvt_close(v, ktime_to_ns(hrtimer_get_expires(timer)) -
			     v->vm->epoch_ns);
	raw_spin_unlock_irqrestore(&v->lock, flags);
	return HRTIMER_NORESTART;
}

/* Is this CPU busy with another task, while @v might be sent to an idle one? */
static bool kvt_must_put_off(const struct kvt_vcpu *v)
{
	return !v->sleep.idle && !v->sleep.put_off &&
	       v->task->nr_cpus_allowed > 1;
}

static enum hrtimer_restart kvt_opening(struct hrtimer *timer)
{
	struct kvt_vcpu *v = container_of(timer, typeof(*v), sleep.open_timer);
	enum hrtimer_restart restart = HRTIMER_NORESTART;
	unsigned long flags;
	u64 now, due;

	raw_spin_lock_irqsave(&v->lock, flags);
	/* A signal may have ended that sleep, and another one have begun. */
	if (v->state != KVT_ASLEEP || hrtimer_is_queued(timer))
		goto out;

	now = kvt_now(v->vm);
	v->sleep.idle = kvt_cpu_is_idle(v);
	if (kvt_must_put_off(v)) {
		v->sleep.put_off = true;
		hrtimer_forward_now(timer, KVT_PUT_OFF_NS);
		restart = HRTIMER_RESTART;
		goto out;
	}
	due = ktime_to_ns(hrtimer_get_expires(timer)) - v->vm->epoch_ns;
	v->stats.late_max_ns = max(v->stats.late_max_ns, now - due);
	v->stats.windows++;
	v->sleep.woken_ns = v->sleep.put_off ? v->window.clock.open_ns : now;
	kvt_wake(v, v->window.clock.open_ns, KVT_WOKEN);
out:
	raw_spin_unlock_irqrestore(&v->lock, flags);
	return restart;
}

/**
 * struct kvt_place - the records that a vCPU's window is decided by, locked
 * @here: the CPU's, or NULL
 * @home: that of the CPU that it had its last window on, if that is another one
 * @cpu: what @here holds, or the vCPU's own
 * @home_cpu: what @home holds, or NULL
 */
struct kvt_place {
	struct kvt_record *here;
	struct kvt_record *home;
	struct kvt_cpu *cpu;
	struct kvt_cpu *home_cpu;
};

/* Up to two locks, or none: sparse is told that it is one. */
static void kvt_place_lock(struct kvt_vcpu *v, struct kvt_place *place)
	__acquires(place->here)
{
	int home = v->window.home;

	lockdep_assert_held(&v->lock);

	*place = (struct kvt_place) { .cpu = &v->window.own };
	if (v->setting.own) {
		__acquire(place->here);
	} else {
		place->here = this_cpu_ptr(v->vm->cpus);
		raw_spin_lock(&place->here->lock);
		place->cpu = &place->here->cpu;
	}
	if (place->cpu->grid != v->setting.serial) {
		place->cpu->grid = v->setting.serial;
		place->cpu->window = KVT_NO_WINDOW;
		place->cpu->cost_ns = 0;
	}
	if (v->setting.own || home < 0 || home == smp_processor_id())
		return;
	place->home = per_cpu_ptr(v->vm->cpus, home);
	/* Never waited for: two CPUs may each want the other's. */
	if (!raw_spin_trylock(&place->home->lock)) {
		place->home = NULL;
		return;
	}
	__release(place->home);
	if (place->home->cpu.grid == v->setting.serial)
		place->home_cpu = &place->home->cpu;
}

static void kvt_place_unlock(const struct kvt_place *place)
	__releases(place->here)
{
	if (place->home) {
		__acquire(place->home);
		raw_spin_unlock(&place->home->lock);
	}
	if (place->here)
		raw_spin_unlock(&place->here->lock);
	else
		__release(place->here);
}

/*
 * For how long its thread, which is the current one, has run since @from, the end
 * of the window of @v.
 */
static u64 kvt_ran_ns(const struct kvt_vcpu *v, u64 from, u64 now)
{
	s64 off_ns = kvt_off_cpu_ns(v) - v->busy.off_ns;
	s64 all_ns = now - from;
	u64 ran_ns = all_ns - clamp_t(s64, off_ns, 0, all_ns);

	/*
	 * CPUs' clocks of what tasks run may differ, by the time of interrupts: @off_ns may
	 * be too much, or below 0.
	 */
	if (task_cpu(current) != v->busy.on_cpu)
		ran_ns = min(ran_ns, READ_ONCE(current->se.sum_exec_runtime) -
				     v->busy.run_ns);
	return ran_ns;
}

/* Charge @v for what its thread has run since its window ended. */
static void kvt_settle(struct kvt_vcpu *v, u64 now)
{
	u64 from = v->busy.from_ns, ran_ns;

	lockdep_assert_held(&v->lock);

	v->busy.from_ns = 0;
	if (!from || v->busy.signalled)
		return;

	/* It may have left guest mode by itself when the interrupt came. */
	if (!v->busy.in_guest || !kvt_was_interrupted(v->vcpu, v->busy.irq_exits))
		ran_ns = kvt_ran_ns(v, from, now);
	else if (v->busy.fired_ns - from > KVT_WAY_NS)
		ran_ns = v->busy.fired_ns - from;
	else
		return;
	kvt_charge(&v->window.grid, &v->window.clock, now - ran_ns, now);
	if (v->held_from_ns)
		v->held_from_ns += ran_ns;
}

/* May @v run now?  Its clock says until when, or from when. */
static bool kvt_decide(struct kvt_vcpu *v, u64 now)
{
	struct kvt_late late = {
		.slept = v->state == KVT_WOKEN,
		.waited_ns = v->sleep.waited_ns,
	};
	u64 used = v->window.clock.used;
	struct kvt_place place;
	bool may_run;

	kvt_place_lock(v, &place);
	/* Whatever came between, no more than a window was lost. */
	place.cpu->cost_ns += min(v->window.cost_ns, v->window.grid.run_ns);
	v->window.cost_ns = 0;
	may_run = kvt_may_run(&v->window.grid, &v->window.clock, place.cpu,
			      place.home_cpu, now, &late);
	kvt_place_unlock(&place);
	if (v->window.clock.used != used && !late.took_home)
		v->window.home = smp_processor_id();
	if (late.slept) {
		v->stats.throttled_ns += late.held_ns;
		v->held_from_ns = 0;
		WRITE_ONCE(v->state, KVT_CLOSED);
	} else {
		kvt_end_hold(v, now);
	}
	if (late.first)
		v->stats.late_max_ns = max(v->stats.late_max_ns, late.held_ns);
	return may_run;
}

/* Has the window on this CPU ended while @v, which was woken for it, waited? */
static bool kvt_is_too_late(struct kvt_vcpu *v, u64 now)
{
	struct kvt_place place;
	bool over;

	kvt_place_lock(v, &place);
	over = kvt_is_over(&v->window.grid, &v->window.clock, place.cpu,
			   place.home_cpu, now);
	kvt_place_unlock(&place);
	return over;
}

/* It goes on to the guest, after so long on a CPU that was busy. */
static void kvt_let_on(struct kvt_vcpu *v, u64 now, u64 waited_ns)
{
	v->sleep.waited_ns = waited_ns;
	v->sleep.left_ns = now;
	v->sleep.nvcsw = current->nvcsw;
}

/* Called in task work, in KVM_RUN: must @v sleep until its clock's open_ns? */
static bool kvt_must_sleep(struct kvt_vcpu *v, u64 now)
{
	lockdep_assert_held(&v->lock);

	if (v->state == KVT_FREE || v->state == KVT_OPEN || !kvt_has_windows(v))
		return false;
	kvt_settle(v, now);
	if (signal_pending(current)) {
		if (now < v->window.clock.open_ns || v->held_from_ns) {
			v->stats.interrupted++;
			v->busy.signalled = true;
			trace_kvm_throttle_signal(v);
		}
		/* The time until it enters again isn't the throttle's doing. */
		WRITE_ONCE(v->state, KVT_CLOSED);
		kvt_end_hold(v, now);
		return false;
	}
	if (now < v->window.clock.open_ns) {
		kvt_end_hold(v, now);
		return true;
	}
	if (v->state == KVT_WOKEN) {
		kvt_let_on(v, now, v->sleep.idle ? 0 : now - v->sleep.woken_ns);
		/* How late it is will be seen when it enters. */
		if (!kvt_is_too_late(v, now))
			return false;
	}
	return !kvt_decide(v, now);
}

/* May @v go straight on: woken on an idle CPU, in time, and no signal pending? */
static bool kvt_may_go_on(struct kvt_vcpu *v)
{
	u64 now;

	lockdep_assert_held(&v->lock);

	if (v->state != KVT_WOKEN || !v->sleep.idle || signal_pending(current))
		return false;
	now = kvt_now(v->vm);
	kvt_let_on(v, now, 0);
	return now < v->window.clock.open_ns + v->window.grid.run_ns;
}

/* The thread may have become a real-time one, or no longer be one. */
static void kvt_set_opening_mode(struct kvt_vcpu *v)
{
	enum hrtimer_mode mode = kvt_opening_mode();

	if (mode == v->sleep.mode || hrtimer_try_to_cancel(&v->sleep.open_timer) < 0)
		return;
	kvt_hrtimer_setup(&v->sleep.open_timer, kvt_opening, CLOCK_MONOTONIC, mode);
	v->sleep.mode = mode;
}

/* Sleep until @until, or until woken; the lock is released meanwhile. */
static void kvt_schedule(struct kvt_vcpu *v, ktime_t *until)
{
	lockdep_assert_held(&v->lock);

	set_current_state(TASK_INTERRUPTIBLE);
	/* The guest's other vCPUs needn't wait for this one. */
	if (kvt_guest_sees_preemption(v->vcpu))
		WRITE_ONCE(v->vcpu->preempted, true);
	raw_spin_unlock_irq(&v->lock);
	schedule_hrtimeout_range(until, 0, HRTIMER_MODE_ABS);
	raw_spin_lock_irq(&v->lock);
	WRITE_ONCE(v->vcpu->preempted, false);
}

/*
 * Note how long the current thread, which is that of @v, has run until @now.  Return: how
 * much more than the sibling that was the first to sleep here after this window.
 */
static s64 kvt_note_run(struct kvt_vcpu *v, u64 now)
{
	struct kvt_record *here = this_cpu_ptr(v->vm->cpus);
	/* Beside a difference that is the same for all on this CPU. */
	u64 ran_ns = now - kvt_off_cpu_ns(v);
	s64 ahead_ns = 0;

	lockdep_assert_held(&v->lock);

	if (v->setting.own)
		return 0;
	/* Elsewhere, it had other siblings. */
	if (v->share.cpu == smp_processor_id())
		ahead_ns = v->share.run_ns + (s64)(ran_ns - v->share.ran_ns) -
			   here->first.run_ns;
	ahead_ns = clamp(ahead_ns, -KVT_AHEAD_MOST_NS, KVT_AHEAD_MOST_NS);
	v->share.cpu = smp_processor_id();
	v->share.run_ns = here->first.run_ns + ahead_ns;
	v->share.ran_ns = ran_ns;
	if (here->first.window == v->window.clock.window)
		return ahead_ns;
	here->first.window = v->window.clock.window;
	here->first.run_ns = v->share.run_ns;
	return 0;
}

/*
 * Sleep until the next run window; the lock is released meanwhile.  @ran tells
 * whether @v comes from the guest.
 *
 * Siblings on a CPU are woken one after the other, or else the scheduler would
 * run the same ones again and again.
 */
static void kvt_sleep(struct kvt_vcpu *v, u64 now, bool ran)
{
	u64 before_ns = v->stats.throttled_ns, order_ns;
	s64 ahead_ns = kvt_note_run(v, now);

	WRITE_ONCE(v->state, KVT_ASLEEP);
	v->sleep.from_ns = now;
	v->sleep.put_off = false;
	if (ran)
		v->sleep.after_window = v->window.clock.window;
	order_ns = kvt_wake_order(v->window.clock.window - v->sleep.after_window,
				  ahead_ns);
	kvt_set_opening_mode(v);
	kvt_start(v, &v->sleep.open_timer, v->window.clock.open_ns + order_ns,
		  v->sleep.mode);

	kvt_schedule(v, NULL);

	/* Ended by a signal, or for no reason. */
	if (v->state == KVT_ASLEEP)
		kvt_wake(v, kvt_now(v->vm), KVT_CLOSED);
	kvt_steal(v->stats.throttled_ns - before_ns);
}

/* Charge @v for what its thread until now has run since its window ended. */
static void kvt_settle_former(struct kvt_vcpu *v)
{
	u64 now, ran_ns;

	lockdep_assert_held(&v->lock);

	if (!v->busy.from_ns || v->busy.signalled || v->busy.in_guest)
		return;
	now = kvt_now(v->vm);
	ran_ns = min(now - v->busy.from_ns,
		     READ_ONCE(v->task->se.sum_exec_runtime) - v->busy.run_ns);
	kvt_charge(&v->window.grid, &v->window.clock, now - ran_ns, now);
}

/* This thread, which has @v loaded, is the one that runs it now.  In task work. */
static void kvt_adopt(struct kvt_vcpu *v)
{
	struct task_struct *old = NULL;

	raw_spin_lock_irq(&v->lock);
	if (v->state != KVT_FREE) {
		kvt_settle_former(v);
		old = v->task;
		WRITE_ONCE(v->task, get_task_struct(current));
		v->busy.from_ns = 0;
		v->held_from_ns = 0;
		v->share.cpu = -1;
		if (v->state == KVT_WOKEN)
			WRITE_ONCE(v->state, KVT_CLOSED);
	}
	raw_spin_unlock_irq(&v->lock);
	if (!old)
		return;
	kvt_steal_keep(v->vcpu, old);
	put_task_struct(old);
}

/*
 * This thread doesn't want to enter the guest now.  The time until it does isn't the
 * throttle's doing.
 */
static void kvt_leave_alone(struct kvt_vcpu *v)
{
	raw_spin_lock_irq(&v->lock);
	if (v->task == current && v->state == KVT_CLOSED) {
		kvt_end_hold(v, kvt_now(v->vm));
		kvt_end_stall(v);
		v->busy.fired_ns = 0;
	}
	raw_spin_unlock_irq(&v->lock);
}

/*
 * Sleep for what @v has dirtied beyond its limit (dirty.c), in task work, in KVM_RUN; the
 * lock is released meanwhile.  A window that opens or closes meanwhile is looked at when
 * that is over, as if the thread had been outside KVM_RUN.
 *
 * Return: true if it has slept, so that the window is to be looked at again.
 */
static bool kvt_sleep_off(struct kvt_vcpu *v)
{
	u64 before_ns, now;
	ktime_t until;

	lockdep_assert_held(&v->lock);

	if (v->state == KVT_FREE || !v->dirty.pause.until_ns)
		return false;
	now = kvt_now(v->vm);
	if (!kvt_dirty_is_over(v, now)) {
		if (v->state == KVT_OPEN)
			kvt_end_stall(v);
		return false;
	}
	if (signal_pending(current)) {
		v->stats.interrupted++;
		trace_kvm_throttle_signal(v);
		return false;
	}
	trace_kvm_throttle_dirty(v);
	/* It won't come straight from its window's opening. */
	if (v->state == KVT_WOKEN)
		WRITE_ONCE(v->state, KVT_CLOSED);
	kvt_end_hold(v, now);
	before_ns = v->stats.throttled_ns;
	v->dirty.pause.sleeps++;
	v->dirty.pause.from_ns = now;
	v->dirty.pause.sleeper = current;
	until = ns_to_ktime(v->vm->epoch_ns + v->dirty.pause.until_ns);
	kvt_schedule(v, &until);

	/* By a new setting, somebody else has.  @v->vm may be gone then. */
	if (v->dirty.pause.sleeper)
		kvt_wake_sleeper(v, kvt_now(v->vm));
	kvt_steal(v->stats.throttled_ns - before_ns);
	return true;
}

/* Sleep until the window is open, if it isn't; the lock is released meanwhile. */
static void kvt_sleep_until_open(struct kvt_vcpu *v, bool *ran)
{
	u64 now;

	while (v->state != KVT_FREE && v->task == current && !kvt_may_go_on(v)) {
		now = kvt_now(v->vm);
		if (!kvt_must_sleep(v, now))
			return;
		trace_kvm_throttle_close(v, *ran ? v->busy.fired_ns : 0);
		kvt_sleep(v, now, *ran);
		*ran = false;
	}
}

/**
 * kvt_work() - keep a vCPU out of the guest while it has to sleep
 * @work: the vCPU's
 *
 * Called in the thread that was about to enter the guest, before it does, or else
 * before it returns to user mode: there it must not sleep, and needn't.  In
 * KVM_RUN, no lock of KVM's but the vCPU's own is held.
 */
static void kvt_work(struct callback_head *work)
{
	struct kvt_turn *turn = container_of(work, typeof(*turn), work);
	struct kvt_vcpu *v = turn->v;
	bool ran = true;

	xchg(&turn->task, NULL);
	if (kvt_loaded_vcpu() != v->vcpu) {
		kvt_leave_alone(v);
		goto out;
	}
	if (READ_ONCE(v->task) != current)
		kvt_adopt(v);

	raw_spin_lock_irq(&v->lock);
	do {
		kvt_sleep_until_open(v, &ran);
	} while (kvt_sleep_off(v));
	/* It might run, but has halted: how late it enters says nothing. */
	if (v->state == KVT_WOKEN && kvt_is_halted(v->vcpu)) {
		WRITE_ONCE(v->state, KVT_CLOSED);
		kvt_end_stall(v);
	}
	v->busy.fired_ns = 0;
	raw_spin_unlock_irq(&v->lock);
out:
	kvt_put(v);
}

/* @v may enter the guest on this CPU. */
static void kvt_open_window(struct kvt_vcpu *v, u64 now, bool slept)
{
	kvt_end_stall(v);
	v->busy.signalled = false;
	WRITE_ONCE(v->state, KVT_OPEN);
	WRITE_ONCE(v->cpu, smp_processor_id());
	kvt_start(v, &v->window.close_timer, v->window.clock.close_ns,
		  HRTIMER_MODE_ABS_PINNED_HARD);
	trace_kvm_throttle_open(v, slept);
	/* What all this took is made up for in the next window. */
	v->window.cost_ns = kvt_now(v->vm) - now;
	v->stats.throttled_ns += v->window.cost_ns;
}

/* The timer of an open window has to be on the CPU that the guest runs on. */
static void kvt_follow(struct kvt_vcpu *v)
{
	lockdep_assert_held(&v->lock);

	WRITE_ONCE(v->cpu, smp_processor_id());
	if (kvt_has_windows(v))
		kvt_start(v, &v->window.close_timer, v->window.clock.close_ns,
			  HRTIMER_MODE_ABS_PINNED_HARD);
}

/* @v may enter the guest, and stay there; the hook of dirty.c sees what it does. */
static void kvt_open_for_good(struct kvt_vcpu *v)
{
	kvt_end_stall(v);
	WRITE_ONCE(v->state, KVT_OPEN);
	kvt_follow(v);
}

/* Have this thread go through kvt_work() in place of the guest. */
static void kvt_turn_back(struct kvt_vcpu *v)
{
	kvt_queue(v, current);
	kvt_entry_refuse();
}

static void kvt_refuse(struct kvt_vcpu *v)
{
	lockdep_assert_held(&v->lock);

	v->stats.retries++;
	kvt_turn_back(v);
	trace_kvm_throttle_retry(v);
}

/* @v isn't known to be allowed to enter.  Return: whether it is. */
static bool kvt_try_to_open(struct kvt_vcpu *v)
{
	u64 now = kvt_now(v->vm);
	bool slept;

	kvt_settle(v, now);
	/* It has left KVM_RUN meanwhile, for a signal, and comes in its own time. */
	if (v->state == KVT_WOKEN && v->sleep.nvcsw != current->nvcsw) {
		WRITE_ONCE(v->state, KVT_CLOSED);
		kvt_end_stall(v);
	}
	slept = v->state == KVT_WOKEN;
	/* From kvt_work() to here, something else has come between. */
	if (slept && now - v->sleep.left_ns > KVT_WAY_NS)
		v->sleep.waited_ns += now - v->sleep.left_ns;
	if (kvt_decide(v, now)) {
		kvt_open_window(v, now, slept);
		return true;
	}
	v->held_from_ns = now;
	kvt_refuse(v);
	return false;
}

bool kvt_vcpu_enter(struct kvt_vcpu *v)
{
	bool enters = false;

	raw_spin_lock(&v->lock);
	if (v->state == KVT_FREE) {
		enters = true;
	} else if (v->task != current) {
		/* The former thread's window goes on: its timer stays. */
		kvt_turn_back(v);
	} else if (v->dirty.pause.until_ns && kvt_dirty_is_over(v, kvt_now(v->vm))) {
		/* It sleeps for pages first; the window's timer stays. */
		kvt_refuse(v);
	} else if (hrtimer_try_to_cancel(&v->window.close_timer) < 0) {
		/* The handler waits for this lock: exit, and try again. */
		kvt_entry_refuse();
	} else if (v->state == KVT_OPEN) {
		kvt_follow(v);
		enters = true;
	} else if (!kvt_has_windows(v)) {
		kvt_open_for_good(v);
		enters = true;
	} else {
		enters = kvt_try_to_open(v);
	}
	raw_spin_unlock(&v->lock);
	return enters;
}

/* Bring the time statistics up to @now; the setting has been in force until then. */
static void kvt_account(struct kvt_vcpu *v, u64 now)
{
	lockdep_assert_held(&v->lock);

	if (v->state != KVT_FREE)
		v->stats.elapsed_ns += now - v->since_ns;
	v->since_ns = now;
	if (v->dirty.pause.sleeper) {
		v->stats.throttled_ns += now - v->dirty.pause.from_ns;
		v->dirty.pause.held_ns += now - v->dirty.pause.from_ns;
		v->dirty.pause.from_ns = now;
		/* Its window has closed meanwhile: that is counted from here on. */
		if (v->held_from_ns)
			v->held_from_ns = max(v->held_from_ns, now);
	}
	if (v->state == KVT_ASLEEP) {
		/* The timer may be late; what that is will be seen at entry. */
		now = clamp(v->window.clock.open_ns, v->sleep.from_ns, now);
		v->stats.throttled_ns += now - v->sleep.from_ns;
		v->sleep.from_ns = now;
	} else if (v->held_from_ns && !v->busy.from_ns) {
		kvt_end_hold(v, now);
		v->held_from_ns = now;
	}
}

void kvt_vcpu_apply(struct kvt_vcpu *v, const struct kvt_setting *setting)
{
	u64 now;

	raw_spin_lock_irq(&v->lock);
	if (setting->serial <= v->setting.serial)
		goto out;
	now = kvt_now(v->vm);
	kvt_account(v, now);
	if (v->dirty.pause.sleeper)
		kvt_wake_sleeper(v, now);
	v->setting = *setting;
	kvt_grid_init(&v->window.grid, setting->percent_x100,
		      setting->period_ns);
	kvt_dirty_apply(v, setting);
	kvt_clock_init(&v->window.clock);
	v->window.home = -1;
	v->window.cost_ns = 0;
	v->busy.from_ns = 0;
	v->busy.signalled = false;
	v->held_from_ns = 0;
	v->sleep.after_window = 0;
	v->share.cpu = -1;

	/* Its thread looks at the new grid, when it enters or at once. */
	if (v->state == KVT_ASLEEP)
		kvt_wake(v, now, KVT_CLOSED);
	WRITE_ONCE(v->state, kvt_has_windows(v) || v->dirty.limit.page_time ? KVT_CLOSED :
								   KVT_FREE);
	if (v->state == KVT_FREE)
		kvt_end_stall(v);
out:
	raw_spin_unlock_irq(&v->lock);
}

struct kvt_setting kvt_vcpu_setting(struct kvt_vcpu *v)
{
	struct kvt_setting setting;

	raw_spin_lock_irq(&v->lock);
	setting = v->setting;
	raw_spin_unlock_irq(&v->lock);
	return setting;
}

static struct kvt_vcpu *kvt_alloc(struct kvt_vm *vm, struct kvm_vcpu *vcpu)
{
	struct kvt_vcpu *v;
	int i;

	v = kzalloc(sizeof(*v), GFP_KERNEL_ACCOUNT);
	if (!v)
		return NULL;
	refcount_set(&v->ref, 1);
	raw_spin_lock_init(&v->lock);
	v->vm = vm;
	v->vcpu = vcpu;
	v->id = vcpu->vcpu_id;
	v->cpu = -1;
	v->share.cpu = -1;
	for (i = 0; i < ARRAY_SIZE(v->turns); i++) {
		v->turns[i].v = v;
		init_task_work(&v->turns[i].work, kvt_work);
	}
	v->sleep.mode = HRTIMER_MODE_ABS_PINNED_HARD;
	kvt_hrtimer_setup(&v->window.close_timer, kvt_closing, CLOCK_MONOTONIC,
			  HRTIMER_MODE_ABS_PINNED_HARD);
	kvt_hrtimer_setup(&v->sleep.open_timer, kvt_opening, CLOCK_MONOTONIC,
			  v->sleep.mode);
	kvt_hrtimer_setup(&v->dirty.look.timer, kvt_dirty_look, CLOCK_MONOTONIC,
			  HRTIMER_MODE_ABS_PINNED_HARD);
	/* The caller's file or work has a reference. */
	__module_get(THIS_MODULE);
	return v;
}

static void kvt_apply_vms(struct kvt_vcpu *v, struct kvt_vm *vm)
{
	struct kvt_setting setting;

	raw_spin_lock_irq(&vm->setting_lock);
	setting = vm->setting;
	raw_spin_unlock_irq(&vm->setting_lock);
	kvt_vcpu_apply(v, &setting);
}

/* Have others find @v.  Return: it, or the one that was there before. */
static struct kvt_vcpu *kvt_publish(struct kvt_vm *vm, int i, struct kvt_vcpu *v)
{
	int nr = READ_ONCE(vm->nr_vcpus);

	/* First: one that is in kvt_vm::vcpus is found by all. */
	while (nr <= i && !try_cmpxchg(&vm->nr_vcpus, &nr, i + 1))
		;
	return cmpxchg(&vm->vcpus[i], NULL, v) ?: v;
}

struct kvt_vcpu *kvt_vcpu_track(struct kvt_vm *vm, struct kvm_vcpu *vcpu)
{
	/* Pairs with kvt_publish(): the caller then sees nr_vcpus. */
	struct kvt_vcpu *v = smp_load_acquire(&vm->vcpus[vcpu->vcpu_idx]), *new;

	if (v)
		return v;
	new = kvt_alloc(vm, vcpu);
	if (!new)
		return ERR_PTR(-ENOMEM);
	/* Before anybody sees it, and again after: the setting may have changed. */
	kvt_apply_vms(new, vm);
	/* A setting of its own, by another thread, takes it away from those that share. */
	atomic_inc(&vm->dirty.sharers);
	v = kvt_publish(vm, vcpu->vcpu_idx, new);
	if (v == new) {
		kvt_apply_vms(v, vm);
	} else {
		atomic_dec(&vm->dirty.sharers);
		kvt_put(new);
	}
	return v;
}

/* The vCPU that this thread has tried to enter the guest with isn't known. */
static void kvt_admit(struct callback_head *work)
{
	struct kvt_admit *admit = container_of(work, typeof(*admit), work);
	struct kvm_vcpu *vcpu = kvt_loaded_vcpu();
	struct kvt_vm *vm = admit->vm;
	struct kvt_vcpu *v;

	xchg(&admit->queued, false);
	if (vcpu && vcpu->kvm == vm->key) {
		v = kvt_vcpu_track(vm, vcpu);
		/* Without memory it is kept out, and tries again. */
		if (IS_ERR(v))
			schedule_timeout_interruptible(1);
		else
			kvt_adopt(v);
	}
	kvt_vm_put(vm);
}

void kvt_vcpu_admit(struct kvt_vm *vm, const struct kvm_vcpu *vcpu)
{
	struct kvt_admit *admit = &vm->admits[vcpu->vcpu_idx % KVT_ADMITS];

	/* The VM has been let go. */
	if (!refcount_inc_not_zero(&vm->ref))
		return;
	kvt_entry_refuse();
	/* With the slot taken, KVM enters again until it is free. */
	if (!xchg(&admit->queued, true)) {
		admit->vm = vm;
		init_task_work(&admit->work, kvt_admit);
		if (!kvt_task_work_add(current, &admit->work))
			return;
		xchg(&admit->queued, false);
	}
	kvt_vm_put(vm);
}

void kvt_vcpu_free(struct kvt_vcpu *v)
{
	/*
	 * Whoever saw another state starts the windows' timers under the lock: wait for
	 * that.  The look is started at an entry, and no entry sees @v any more.
	 */
	raw_spin_lock_irq(&v->lock);
	raw_spin_unlock_irq(&v->lock);
	hrtimer_cancel(&v->window.close_timer);
	hrtimer_cancel(&v->sleep.open_timer);
	hrtimer_cancel(&v->dirty.look.timer);
	kvt_put(v);
}

void kvt_vcpu_get(struct kvt_vcpu *v, const struct kvt_vm *vm,
		  struct kvm_throttle_vcpu_state *state)
{
	pid_t tid = kvt_vcpu_tid(v->vcpu);
	u32 sharers;

	raw_spin_lock_irq(&v->lock);
	kvt_account(v, kvt_now(vm));
	sharers = v->setting.own ? 1 : atomic_read(&vm->dirty.sharers);
	*state = (struct kvm_throttle_vcpu_state) {
		.vcpu_id = v->id,
		.flags = v->setting.own ? KVM_THROTTLE_VCPU : 0,
		.percent_x100 = v->setting.percent_x100,
		.tid = tid,
		.period_ns = v->window.grid.period_ns,
		.elapsed_ns = v->stats.elapsed_ns,
		.throttled_ns = v->stats.throttled_ns,
		.windows = v->stats.windows,
		.interrupted = v->stats.interrupted,
		.retries = v->stats.retries,
		.late_max_ns = v->stats.late_max_ns,
		.stall_max_ns = max(v->stats.stall_max_ns, kvt_stall_ns(v)),
		.dirty_rate = kvt_rate_in_force(v->setting.dirty_rate, sharers),
		.dirtied = READ_ONCE(v->dirty.pages),
		.dirty_held_ns = v->dirty.pause.held_ns,
		.dirty_sleeps = v->dirty.pause.sleeps,
	};
	raw_spin_unlock_irq(&v->lock);
}
