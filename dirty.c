// SPDX-License-Identifier: GPL-2.0-only
/*
 * kvm_throttle: a limit to the rate at which vCPUs dirty memory.
 *
 * A percentage takes from every vCPU what a few of them cause: a migration doesn't end
 * for those that write.  With a limit only those sleep, and only as much as it takes.
 *
 * The hook.  While KVM logs which pages are dirtied, whatever marks one goes through its
 * function mark_page_dirty_in_slot(): write-protection faults, PML's buffer at an
 * exit, the emulator, steal time.  An ftrace_ops sees the calls, before the function
 * itself runs.  It is there while any limit is in force, and about a second longer.
 * It may be called under the runqueue's lock and under mmu_lock: it takes no lock, wakes
 * nobody and allocates nothing.
 *
 * The count.  A call counts for the vCPU that the calling thread has loaded: with the
 * dirty ring always, with a bitmap if the page's bit isn't set yet.  So the sum is what
 * whoever reads the log gets.  Threads without a vCPU aren't counted (a VMM that
 * writes to guest memory, vhost), nor are interrupts.
 *
 * The buckets (bucket.h).  A vCPU with a setting of its own has a bucket with its own
 * rate.  The others share the VM's, and each has one for its share besides: it
 * sleeps if both are over.  So one that writes little never sleeps for one that writes
 * much.  What the first leaves of its share, the second may use.
 *
 * The sleep.  The hook notes until when the vCPU stays out of the guest, and queues
 * its task work.  KVM runs that before it enters the guest again, and kvt_sleep_off()
 * in vcpu.c sleeps.  If a signal ends that, what is left is still owed: kvt_vcpu_enter()
 * refuses the vCPU.  A new setting wakes it at once.
 *
 * The look.  A CPU with PML lists what the guest dirties, and KVM reads that at an exit:
 * up to 512 pages at once, which at a low rate would be a long sleep.  So a timer has the
 * guest exit: soon after its entry if it came to be over by many pages at once, and
 * otherwise later each time, up to no timer.  What is dirtied before the first entry
 * with a setting isn't charged: it may have been listed before.
 *
 * Who changes what.  A vCPU's bucket, its count and until when it sleeps belong to the
 * thread that has the vCPU loaded, which KVM lets only one thread do.  The VM's bucket is
 * changed by a cmpxchg.  Settings come from other threads, so each has a serial number:
 * the vCPU's thread sees that it is another one, and puts its bucket in order.
 */

#include <linux/atomic.h>
#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/kvm_host.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/srcu.h>

#include "compat.h"
#include "kvm_throttle.h"

/* The thread has @v loaded, so @v->dirty is its.  Has the limit changed? */
static void kvt_renew(struct kvt_vcpu *v, u64 now)
{
	/* Pairs with kvt_dirty_apply(): what follows is of this setting, or newer. */
	u64 serial = smp_load_acquire(&v->dirty.limit.serial);

	if (serial == v->dirty.bucket.serial)
		return;
	v->dirty.bucket.serial = serial;
	v->dirty.bucket.uncharged = 0;
	v->dirty.look.delay_ns = READ_ONCE(v->dirty.limit.page_time) ? KVT_LOOK_NS_MIN : 0;
	v->dirty.look.at_ns = 0;
	v->dirty.bucket.due = kvt_bucket_renew(v->dirty.bucket.due, kvt_bucket_time(now));
	v->dirty.pause.until_ns = READ_ONCE(v->dirty.limit.page_time) ?
			    min(v->dirty.pause.until_ns, now + KVT_CARRY_NS) : 0;
}

bool kvt_dirty_is_over(struct kvt_vcpu *v, u64 now)
{
	kvt_renew(v, now);
	if (now < v->dirty.pause.until_ns)
		return true;
	v->dirty.pause.until_ns = 0;
	/* Once it has slept it enters, whatever KVM marks on the way there. */
	v->dirty.bucket.pages_at_entry = v->dirty.pages + KVT_EXIT_PAGES;
	return false;
}

void kvt_dirty_set_look(struct kvt_vcpu *v)
{
	u64 now = kvt_now(v->vm);

	kvt_renew(v, now);
	if (v->dirty.look.at_ns && now >= v->dirty.look.at_ns) {
		v->dirty.look.delay_ns = kvt_look_later(v->dirty.look.delay_ns);
		v->dirty.look.at_ns = 0;
	}
	if (!v->dirty.look.delay_ns)
		return;
	if (!v->dirty.look.at_ns)
		v->dirty.look.at_ns = now + v->dirty.look.delay_ns;
	else if (v->dirty.look.cpu == smp_processor_id())
		return;
	v->dirty.look.cpu = smp_processor_id();
	hrtimer_start(&v->dirty.look.timer,
		      ns_to_ktime(v->vm->epoch_ns + v->dirty.look.at_ns),
		      HRTIMER_MODE_ABS_PINNED_HARD);
}

enum hrtimer_restart kvt_dirty_look(struct hrtimer *timer)
{
	return HRTIMER_NORESTART;
}

void kvt_dirty_apply(struct kvt_vcpu *v, const struct kvt_setting *setting)
{
	lockdep_assert_held(&v->lock);

	WRITE_ONCE(v->dirty.limit.page_time, kvt_page_time(setting->dirty_rate));
	if (v->dirty.limit.own != setting->own)
		atomic_add(setting->own ? -1 : 1, &v->vm->dirty.sharers);
	WRITE_ONCE(v->dirty.limit.own, setting->own);
	WRITE_ONCE(v->dirty.limit.burst, kvt_burst(v->window.grid.period_ns -
					     v->window.grid.run_ns));
	/* Pairs with kvt_renew(): what is above is there before. */
	smp_store_release(&v->dirty.limit.serial, setting->serial);
}

void kvt_dirty_apply_vm(struct kvt_vm *vm)
{
	s64 old = atomic64_read(&vm->dirty.due);
	u64 now = kvt_bucket_time(kvt_now(vm));

	lockdep_assert_held(&vm->lock);

	while (!atomic64_try_cmpxchg_relaxed(&vm->dirty.due, &old,
					     kvt_bucket_renew(old, now)))
		;
}

u64 kvt_dirty_logged(struct kvm *kvm)
{
	int idx = srcu_read_lock(&kvm->srcu);
	u64 pages = kvt_logged_pages(kvm);

	srcu_read_unlock(&kvm->srcu, idx);
	return pages;
}

#ifndef KVT_FTRACE_ARGS_NONE

/* Charge @pages to @v, which has a bucket of its own.  Return: when they are due. */
static u64 kvt_charge_own(struct kvt_vcpu *v, u64 now, u64 page, u32 pages)
{
	v->dirty.bucket.due = kvt_bucket_add(v->dirty.bucket.due, now, pages * page,
					     READ_ONCE(v->dirty.limit.burst));
	return v->dirty.bucket.due;
}

/* The same for one that shares the VM's, where each costs @page; its share's: @own. */
static u64 kvt_charge_shared(struct kvt_vcpu *v, u64 now, u64 page, u64 own,
			     u32 pages)
{
	atomic64_t *shared = &v->vm->dirty.due;
	s64 old = atomic64_read(shared);
	u64 burst = READ_ONCE(v->dirty.limit.burst);
	u64 due;

	do {
		due = kvt_bucket_add(old, now, pages * page, burst);
	} while (!atomic64_try_cmpxchg_relaxed(shared, &old, due));
	own = kvt_bucket_add(v->dirty.bucket.due, now, pages * own, burst);
	v->dirty.bucket.due = kvt_bucket_forget(own, now, due);
	/* Both have to be over. */
	return min(v->dirty.bucket.due, due);
}

/* @v has dirtied so many pages that were not charged for. */
static void kvt_charge_pages(struct kvt_vcpu *v, u64 page, u32 pages)
{
	bool is_own = READ_ONCE(v->dirty.limit.own);
	u64 now = kvt_bucket_time(kvt_now(v->vm)), own, due;
	s64 went = v->dirty.pages - v->dirty.bucket.pages_at_entry;

	own = kvt_share(&page, is_own ? 1 : atomic_read(&v->vm->dirty.sharers));
	if (is_own)
		due = kvt_charge_own(v, now, page, pages);
	else
		due = kvt_charge_shared(v, now, page, own, pages);
	if (went <= 0 || !kvt_bucket_is_over(due, now))
		return;
	if (went > KVT_EXIT_PAGES) {
		v->dirty.look.delay_ns = kvt_look_sooner(v->dirty.look.delay_ns, due - now, own);
		v->dirty.look.at_ns = 0;
	}
	due = kvt_bucket_until(due, now, own, went);
	v->dirty.pause.until_ns = max(v->dirty.pause.until_ns, kvt_bucket_ns(due));
	kvt_vcpu_turn(v);
}

/* This thread, which has @v loaded, dirties a page. */
static void kvt_dirtied(struct kvt_vcpu *v)
{
	u64 page = READ_ONCE(v->dirty.limit.page_time);
	u32 pages;

	WRITE_ONCE(v->dirty.pages, v->dirty.pages + 1);
	if (!page)
		return;
	pages = ++v->dirty.bucket.uncharged;
	if (!kvt_is_batch(page, pages))
		return;
	v->dirty.bucket.uncharged = 0;
	/* Pairs with kvt_dirty_apply(), as in kvt_renew(). */
	if (v->dirty.bucket.serial != smp_load_acquire(&v->dirty.limit.serial)) {
		/* Dirtied before the setting, maybe: none of it is charged.  Renew. */
		v->dirty.pause.until_ns = max(v->dirty.pause.until_ns, 1ULL);
		kvt_vcpu_turn(v);
		return;
	}
	kvt_charge_pages(v, page, pages);
}

/* Will whoever reads the log find page @gfn of @slot for the call that is seen? */
static bool kvt_is_logged(const struct kvm *kvm,
			  const struct kvm_memory_slot *slot, gfn_t gfn)
{
	if (!slot || !kvm_slot_dirty_track_enabled(slot))
		return false;
	if (kvm->dirty_ring_size)
		return true;
	return slot->dirty_bitmap &&
	       !test_bit_le(gfn - slot->base_gfn, slot->dirty_bitmap);
}

/* A vCPU of @vm does.  Few others' calls come so far. */
static noinline void kvt_dirty_call(struct kvt_vm *vm, const struct kvm_vcpu *vcpu,
				    struct ftrace_regs *fregs)
{
	const struct kvm_memory_slot *slot = (const void *)kvt_ftrace_arg(fregs, 1);
	struct kvt_vcpu *v;

	/* An interrupt is nothing that this thread does: Xen's timers mark pages. */
	if (!in_task() || !kvt_is_logged(vcpu->kvm, slot, kvt_ftrace_arg(fregs, 2)))
		return;
	v = READ_ONCE(vm->vcpus[vcpu->vcpu_idx]);
	if (v && READ_ONCE(vm->hooked))
		kvt_dirtied(v);
}

/*
 * Somebody calls mark_page_dirty_in_slot(kvm, slot, gfn).  Nothing that is called from
 * here does, so there is no recursion to look out for.
 */
static void kvt_hook(unsigned long ip, unsigned long parent_ip,
		     struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	const struct kvm *kvm = (const void *)kvt_ftrace_arg(fregs, 0);
	struct kvm_vcpu *vcpu = kvt_loaded_vcpu();
	struct kvt_vm *vm;

	if (!vcpu || vcpu->kvm != kvm)
		return;
	preempt_disable_notrace();
	vm = kvt_find(kvm);
	if (vm)
		kvt_dirty_call(vm, vcpu, fregs);
	preempt_enable_notrace();
}

static struct ftrace_ops kvt_ops = {
	.func = kvt_hook,
	/* Nobody turns it off with kernel.ftrace_enabled. */
	.flags = FTRACE_OPS_FL_PERMANENT,
};

/*
 * KVM exports the function to its own modules only on some kernels.  As for
 * compat/task_work.h, a kprobe asks for the address; it is registered disabled, so that
 * the function stays as it is.  KVM isn't unloaded before this module.
 */
static unsigned long kvt_find_function(void)
{
	static unsigned long found;
	struct kprobe probe = {
		.symbol_name = "mark_page_dirty_in_slot",
		.flags = KPROBE_FLAG_DISABLED,
	};

	if (!found && !register_kprobe(&probe)) {
		found = (unsigned long)probe.addr;
		unregister_kprobe(&probe);
	}
	return found;
}

static void kvt_forget_function(void)
{
	ftrace_set_filter(&kvt_ops, NULL, 0, 1);
}

/* By address: to look for a name takes a second. */
static int kvt_hook_add(void)
{
	unsigned long function = kvt_find_function();
	int r;

	if (!function)
		return -EOPNOTSUPP;
	r = ftrace_set_filter_ip(&kvt_ops, function, 0, 1);
	if (!r)
		r = register_ftrace_function(&kvt_ops);
	if (!r)
		return 0;
	kvt_forget_function();
	return r == -EBUSY || r == -ENOMEM ? r : -EOPNOTSUPP;
}

static void kvt_hook_remove(void)
{
	unregister_ftrace_function(&kvt_ops);
	kvt_forget_function();
}

#else

static int kvt_hook_add(void)
{
	return -EOPNOTSUPP;
}

static void kvt_hook_remove(void)
{
}

#endif /* !KVT_FTRACE_ARGS_NONE */

KVT_DEFINE_PROBE(kvt_dirty_probe, kvt_hook_add, kvt_hook_remove);

void kvt_dirty_add(struct kvt_vm *vm, bool add)
{
	lockdep_assert_held(&vm->lock);

	if (add == vm->hooked)
		return;
	WRITE_ONCE(vm->hooked, add);
	if (add)
		kvt_probe_get_again(&kvt_dirty_probe);
	else
		kvt_probe_put(&kvt_dirty_probe);
}
