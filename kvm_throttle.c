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
 * While any throttle is in force, a probe on KVM's tracepoint kvm_entry sees every
 * entry into the guest (entry.c).  What it does is up to the vCPU's state:
 *
 *	              limited                  entry: the window is open
 *	  FREE ----------------------> CLOSED ---------------------------> OPEN
 *	   ^                            |  ^ <--------------------------- |
 *	   | full speed,  entry refused,|  |      hrtimer: the window ends
 *	   | from any     in task work: |  | a signal
 *	                                v  |
 *	                              ASLEEP -----------> WOKEN -------> OPEN
 *	                                       hrtimer            entry
 *
 *  - FREE and OPEN: the entry passes.  That is a few comparisons, with no lock and no
 *    clock, unless the thread is another one, has come to another CPU, or has dirtied
 *    more than it may.
 *  - CLOSED, WOKEN: the window may be open by now.  If it isn't, task work is queued
 *    to the thread, and an interrupt is left pending, so that the CPU leaves the
 *    guest before its first instruction.  KVM's run loop then drops kvm->srcu and
 *    calls kvt_work(), which sleeps.  A signal ends that.
 *  - When the window ends, the hrtimer's interrupt itself forces the VM exit.  A
 *    thread that waits for a CPU in KVM_RUN has its task work queued as well, and
 *    sleeps when it gets one.  One that is outside KVM_RUN is left alone: it is
 *    seen when it enters.
 *
 * A vCPU that halts or isn't run costs nothing.  Nothing looks for new vCPUs or
 * threads: their entries are refused until the thread has made itself known.  It
 * does that in task work too, where it may sleep and pays for its memory.
 *
 * The loop is closed.  What a vCPU's thread ran past a window's end is charged to
 * it and taken off its next windows.  What a late wake-up and the way into the
 * guest took of a window is added at its end.  The arithmetic of all that is in
 * window.h.
 *
 * Beside the windows, or without them, there may be a limit to the rate at which vCPUs
 * dirty memory.  dirty.c tells of it.  A vCPU that has a limit and no percentage is
 * OPEN for good, once it has entered.  One that is over its limit sleeps in kvt_work()
 * too, whatever its state is.  A new setting ends that sleep; a timer of its windows doesn't.
 *
 * This file has the VMs and the fds, vcpu.c the states, entry.c the fast path,
 * dirty.c what is dirtied, and probe.c how the two are put into the kernel.
 * Documentation/internals.md follows a window through them.
 *
 * Who owns what, and in what order it dies:
 *
 *  - struct kvt_vm is held by its file, the throttle fd; by kvt_vm::dev while that
 *    is in the VM's list of devices; by work that puts the VM's last reference; and by
 *    task work that admits a vCPU.
 *  - It holds no reference on the VM.  KVM destroys the devices of a VM with it, and
 *    kvt_vm_destroyed() then sets kvt_vm::kvm to NULL under kvt_vm::lock.  Who holds
 *    that lock may look at *kvm.  To look at its vCPUs takes a reference.  A worker
 *    puts that if it is the last: to destroy a VM may mean to wait for its process.
 *  - The last close of the file sets all vCPUs to FREE, and takes kvt_vm::dev out
 *    of the list.  If somebody has kvm->lock, a worker does that later: the
 *    VM's process may hold it for ever.
 *  - struct kvt_vm is freed an RCU grace period after its last reference, when no
 *    entry looks at it any more.  Its vCPUs' timers are stopped there.
 *  - struct kvt_vcpu is held by kvt_vm::vcpus and by its task work that is queued
 *    or running.  That can't be cancelled, so it may outlive the VM, and holds the
 *    module and the task_struct.  It is queued only to a thread that has the vCPU
 *    loaded, so is in an ioctl of it, and no thread returns from that without
 *    running it.
 *  - From a struct kvt_vcpu, struct kvt_vm may be reached under the vCPU's lock and while
 *    its state isn't FREE; by who found the VM under RCU, as entries and the hook of
 *    dirty.c do; or with a reference on the throttle.  The windows' timers are started only
 *    under that lock.
 *  - What the hook changes of a vCPU belongs to the thread that has it loaded, which KVM
 *    lets only one do.
 *
 * Locks, outermost first.  A vCPU's thread in KVM_RUN takes only raw ones, with interrupts
 * off.  Others may wait for a mutex whose holder gets no CPU because of a tenant.  So they
 * can be killed while they wait.  Only the end of a VM can't.
 *
 *   kvt_probe::lock		mutex; workers, to put a probe into the kernel
 *   kvm->lock			KVM's; its list of devices
 *   kvt_vm::lock		mutex; those who have the throttle fd
 *   kvt_watched_lock		entry.c's hash
 *   kvm->srcu			KVM's; read only, to look at memory slots
 *   kvt_vm::setting_lock	raw
 *   kvt_vcpu::lock		raw; also taken by the timers' handlers
 *   kvt_record::lock		raw; a CPU's, and another one's by trylock
 *
 * kvt_watched_lock, kvm->srcu, setting_lock and a vCPU's lock are not held together.
 *
 * The hook may be called under the scheduler's locks, and takes none.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/anon_inodes.h>
#include <linux/debugfs.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hash.h>
#include <linux/hrtimer.h>
#include <linux/kvm_host.h>
#include <linux/magic.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/poll.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "kvm_throttle.h"
#include "kvt_chosen.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* From the range for local use.  The module's alias needs a fixed one. */
#define KVT_MINOR	249

/* What programs of the first API version know of a vCPU; later fields follow. */
#define KVT_VCPU_SIZE_MIN \
	offsetofend(struct kvm_throttle_vcpu_state, reserved)

/* Each user has a limit to what is logged; users that hash alike share one. */
#define KVT_LOG_BITS	6

static struct ratelimit_state kvt_log_limits[1 << KVT_LOG_BITS];
static atomic_t kvt_last_id;
static struct dentry *kvt_debugfs;
static struct workqueue_struct *kvt_wq;

/* For work that may have to wait for a VM's process. */
static struct workqueue_struct *kvt_put_wq;

/* Return: the known vCPU that comes after index *@i, which is set to its own; or NULL. */
static struct kvt_vcpu *kvt_next_vcpu(const struct kvt_vm *vm, int *i)
{
	struct kvt_vcpu *v;

	while (++*i < READ_ONCE(vm->nr_vcpus)) {
		v = READ_ONCE(vm->vcpus[*i]);
		if (v)
			return v;
	}
	return NULL;
}

static void kvt_vm_free(struct work_struct *work)
{
	struct kvt_vm *vm = container_of(to_rcu_work(work), typeof(*vm), end.free);
	struct kvt_vcpu *v;
	int i = -1;

	while ((v = kvt_next_vcpu(vm, &i)))
		kvt_vcpu_free(v);
	mutex_destroy(&vm->lock);
	free_percpu(vm->cpus);
	kvfree(vm->vcpus);
	kfree(vm);
	/* kvm_throttle_exit() waits for what is left of this function. */
	module_put(THIS_MODULE);
}

void kvt_vm_put(struct kvt_vm *vm)
{
	if (refcount_dec_and_test(&vm->ref))
		queue_rcu_work(kvt_wq, &vm->end.free);
}

/*
 * Put a reference on the VM.  The last one destroys it, which waits for its process
 * on some kernels: a worker puts that.
 */
static void kvt_put_kvm(struct kvt_vm *vm, struct kvm *kvm)
{
	if (refcount_dec_not_one(&kvm->users_count))
		return;
	refcount_inc(&vm->ref);
	vm->end.last = kvm;
	queue_work(kvt_put_wq, &vm->end.put);
}

static void kvt_put_last(struct work_struct *work)
{
	struct kvt_vm *vm = container_of(work, typeof(*vm), end.put);

	kvm_put_kvm(vm->end.last);
	kvt_vm_put(vm);
}

/* What the log says of a setting. */
static void kvt_describe(const struct kvt_setting *setting, char *text, size_t size)
{
	u32 percent_x100 = setting->percent_x100;
	int n = 0;

	if (percent_x100)
		n = scnprintf(text, size, "%u.%02u %%%s", percent_x100 / 100,
			      percent_x100 % 100, setting->dirty_rate ? " and " : "");
	if (setting->dirty_rate)
		scnprintf(text + n, size - n, "%llu dirtied pages/s",
			  setting->dirty_rate);
}

static bool kvt_is_limited(const struct kvt_setting *setting)
{
	return setting->percent_x100 || setting->dirty_rate;
}

/* Tell the log, once, that the VM's throttle has started or ended. */
static void kvt_log(struct kvt_vm *vm, const struct kvt_setting *setting)
{
	u32 user = hash_32(__kuid_val(vm->who.uid), KVT_LOG_BITS);
	bool throttled = kvt_is_limited(setting);
	char text[64];

	lockdep_assert_held(&vm->lock);

	if (throttled == vm->logged)
		return;
	vm->logged = throttled;
	if (!___ratelimit(&kvt_log_limits[user], KBUILD_MODNAME))
		return;
	if (throttled) {
		kvt_describe(setting, text, sizeof(text));
		pr_info("VM of process %d throttled to %s by process %d (%*pE)\n",
			vm->who.pid, text, vm->who.owner, (int)strlen(vm->who.comm), vm->who.comm);
	} else {
		pr_info("VM of process %d no longer throttled by process %d (%*pE)\n",
			vm->who.pid, vm->who.owner, (int)strlen(vm->who.comm), vm->who.comm);
	}
}

/* Take vm->lock, and a reference on the VM if it is alive. */
static int kvt_vm_lock(struct kvt_vm *vm)
{
	struct kvm *kvm;

	/* A thread that has it may wait for a CPU for as long as its owner likes. */
	if (mutex_lock_killable(&vm->lock))
		return -EINTR;
	kvm = vm->kvm;
	if (kvm && atomic_read(&kvm->mm->mm_users) && kvm_get_kvm_safe(kvm))
		return 0;
	mutex_unlock(&vm->lock);
	return -ESRCH;
}

static void kvt_vm_unlock(struct kvt_vm *vm)
{
	struct kvm *kvm = vm->kvm;

	/* Before the put: the VM's end takes this lock. */
	mutex_unlock(&vm->lock);
	kvt_put_kvm(vm, kvm);
}

/* Know every vCPU that the VM has.  Return: how many those are, or an error. */
static int kvt_track_all(struct kvt_vm *vm)
{
	int nr = atomic_read(&vm->kvm->online_vcpus);
	struct kvt_vcpu *v;
	int i;

	for (i = 0; i < nr; i++) {
		v = kvt_vcpu_track(vm, kvm_get_vcpu(vm->kvm, i));
		if (IS_ERR(v))
			return PTR_ERR(v);
	}
	return nr;
}

static void kvt_kicked(void *unused)
{
}

/* Have all vCPUs that are in the guest leave it, to see what has changed. */
static void kvt_kick_all(struct kvt_vm *vm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;
	int cpu;

	lockdep_assert_held(&vm->lock);

	/* A vCPU that enters after its mode was read here sees the change. */
	smp_mb();
	kvm_for_each_vcpu(i, vcpu, vm->kvm) {
		cpu = READ_ONCE(vcpu->cpu);
		if (cpu >= 0 && READ_ONCE(vcpu->mode) != OUTSIDE_GUEST_MODE)
			smp_call_function_single(cpu, kvt_kicked, NULL, false);
	}
}

static bool kvt_same(const struct kvt_setting *a, const struct kvt_setting *b)
{
	return a->percent_x100 == b->percent_x100 &&
	       a->period_ns == b->period_ns && a->dirty_rate == b->dirty_rate &&
	       a->own == b->own;
}

static int kvt_set_vcpu(struct kvt_vm *vm, u32 vcpu_id,
			struct kvt_setting *setting)
{
	struct kvt_setting old;
	struct kvt_vcpu *v;
	int i = -1;
	int r;

	lockdep_assert_held(&vm->lock);

	r = kvt_track_all(vm);
	if (r < 0)
		return r;
	while ((v = kvt_next_vcpu(vm, &i))) {
		if (v->id != vcpu_id)
			continue;
		old = kvt_vcpu_setting(v);
		if (!kvt_same(&old, setting)) {
			setting->serial = ++vm->serial;
			trace_kvm_throttle_set(vm, vcpu_id, setting);
			kvt_vcpu_apply(v, setting);
		}
		return 0;
	}
	return -ENOENT;
}

/* Is the VM's setting that of each of its vCPUs? */
static bool kvt_is_for_all(struct kvt_vm *vm)
{
	struct kvt_vcpu *v;
	int i = -1;

	lockdep_assert_held(&vm->lock);

	while ((v = kvt_next_vcpu(vm, &i))) {
		if (kvt_vcpu_setting(v).serial != vm->setting.serial)
			return false;
	}
	return true;
}

/* A vCPU that isn't tracked yet gets it in kvt_vcpu_track(). */
static void kvt_set_all(struct kvt_vm *vm, struct kvt_setting *setting)
{
	struct kvt_vcpu *v;
	int i = -1;

	lockdep_assert_held(&vm->lock);

	if (kvt_same(&vm->setting, setting) && kvt_is_for_all(vm))
		return;
	setting->serial = ++vm->serial;
	trace_kvm_throttle_set(vm, -1, setting);
	raw_spin_lock_irq(&vm->setting_lock);
	vm->setting = *setting;
	raw_spin_unlock_irq(&vm->setting_lock);
	kvt_dirty_apply_vm(vm);
	while ((v = kvt_next_vcpu(vm, &i)))
		kvt_vcpu_apply(v, setting);
}

/*
 * The highest percentage and the lowest rate that are in force for the VM or one of its
 * vCPUs.
 */
static struct kvt_setting kvt_most(struct kvt_vm *vm)
{
	struct kvt_setting most = vm->setting, setting;
	struct kvt_vcpu *v;
	int i = -1;

	lockdep_assert_held(&vm->lock);

	while ((v = kvt_next_vcpu(vm, &i))) {
		setting = kvt_vcpu_setting(v);
		/* The VM's, or one before that if it is just being admitted. */
		if (!setting.own)
			continue;
		most.percent_x100 = max(most.percent_x100, setting.percent_x100);
		most.dirty_rate = min_not_zero(most.dirty_rate, setting.dirty_rate);
	}
	return most;
}

/*
 * Set full speed for good.  Nothing of the VM is used after this.  Its process may be
 * the caller, or may wait for it.
 */
static void kvt_let_go(struct kvt_vm *vm, bool dead)
{
	struct kvt_setting full_speed = {};

	lockdep_assert_held(&vm->lock);

	trace_kvm_throttle_detach(vm, dead);
	kvt_log(vm, &full_speed);
	kvt_entry_add(vm, false);
	kvt_dirty_add(vm, false);
	kvt_set_all(vm, &full_speed);
}

/* KVM destroys the VM, and with it all of its devices. */
static void kvt_vm_destroyed(struct kvm_device *dev)
{
	struct kvt_vm *vm = container_of(dev, typeof(*vm), dev);

	mutex_lock(&vm->lock);
	if (!vm->closed)
		kvt_let_go(vm, true);
	WRITE_ONCE(vm->kvm, NULL);
	mutex_unlock(&vm->lock);
	wake_up_interruptible_poll(&vm->end.death, EPOLLHUP);
	kvt_vm_put(vm);
}

static const struct kvm_device_ops kvt_dev_ops = {
	.name = KBUILD_MODNAME,
	.destroy = kvt_vm_destroyed,
};

/* Have KVM forget a throttle that is closed.  The caller puts KVM's reference. */
static void kvt_forget(struct kvt_vm *vm)
{
	lockdep_assert_held(&vm->lock);
	lockdep_assert_held(&vm->kvm->lock);

	list_del_rcu(&vm->dev.vm_node);
	WRITE_ONCE(vm->kvm, NULL);
}

/* Return: false if that has to be tried again. */
static bool kvt_try_to_remove(struct kvt_vm *vm)
{
	bool alive, removed = false;
	struct kvm *kvm;

	mutex_lock(&vm->lock);
	kvm = vm->kvm;
	/* A VM that is being destroyed does it itself. */
	alive = kvm && kvm_get_kvm_safe(kvm);
	if (alive)
		removed = mutex_trylock(&kvm->lock);
	if (removed) {
		kvt_forget(vm);
		mutex_unlock(&kvm->lock);
	}
	mutex_unlock(&vm->lock);
	if (alive)
		kvt_put_kvm(vm, kvm);
	if (removed)
		kvt_vm_put(vm);
	return removed || !alive;
}

/* Puts the file's reference when it has succeeded. */
static void kvt_remove(struct work_struct *work)
{
	struct kvt_vm *vm = container_of(to_delayed_work(work), typeof(*vm),
					 end.remove);

	if (kvt_try_to_remove(vm))
		kvt_vm_put(vm);
	else
		queue_delayed_work(kvt_wq, &vm->end.remove, HZ / 10);
}

/*
 * Put @setting in force.  The caller needs kvt_entry_probe if it limits anything, and
 * kvt_dirty_probe if that is a rate.
 */
static int kvt_set(struct kvt_vm *vm, u32 vcpu_id, struct kvt_setting *setting)
{
	struct kvt_setting most;
	u64 serial;
	int r;

	r = kvt_vm_lock(vm);
	if (r)
		return r;
	serial = vm->serial;
	/* Before the setting, so that no entry is missed. */
	if (kvt_is_limited(setting))
		kvt_entry_add(vm, true);
	if (setting->dirty_rate)
		kvt_dirty_add(vm, true);
	if (setting->own)
		r = kvt_set_vcpu(vm, vcpu_id, setting);
	else
		kvt_set_all(vm, setting);
	if (vm->serial != serial && kvt_is_limited(setting))
		kvt_kick_all(vm);
	most = kvt_most(vm);
	kvt_entry_add(vm, kvt_is_limited(&most));
	kvt_dirty_add(vm, most.dirty_rate);
	kvt_log(vm, &most);
	kvt_vm_unlock(vm);
	return r;
}

/* The same, with the probes. */
static int kvt_watch_and_set(struct kvt_vm *vm, u32 vcpu_id,
			     struct kvt_setting *setting)
{
	int r;

	r = kvt_probe_get(&kvt_entry_probe);
	if (r)
		return r;
	if (setting->dirty_rate) {
		r = kvt_probe_get(&kvt_dirty_probe);
		if (r)
			goto out;
	}
	r = kvt_set(vm, vcpu_id, setting);
	if (setting->dirty_rate)
		kvt_probe_put(&kvt_dirty_probe);
out:
	kvt_probe_put(&kvt_entry_probe);
	return r;
}

static int kvt_ioctl_set(struct kvt_vm *vm, const struct kvm_throttle __user *arg)
{
	struct kvt_setting setting;
	struct kvm_throttle set;

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
	if (set.dirty_rate > KVM_THROTTLE_DIRTY_RATE_MAX)
		return -EINVAL;

	setting = (struct kvt_setting) {
		.percent_x100 = set.percent_x100,
		.period_ns = set.period_ns,
		.dirty_rate = set.dirty_rate,
		.own = set.flags & KVM_THROTTLE_VCPU,
	};
	if (!kvt_is_limited(&setting))
		return kvt_set(vm, set.vcpu_id, &setting);
	return kvt_watch_and_set(vm, set.vcpu_id, &setting);
}

static u64 kvt_vm_dirty_rate(const struct kvt_vm *vm)
{
	lockdep_assert_held(&vm->lock);

	return kvt_rate_in_force(vm->setting.dirty_rate,
				 atomic_read(&vm->dirty.sharers));
}

/*
 * Fill in *@get, and up to get->nr_vcpus elements of *@states, which the caller
 * frees.
 */
static int kvt_get(struct kvt_vm *vm, struct kvm_throttle_state *get,
		   struct kvm_throttle_vcpu_state **states)
{
	struct kvt_grid grid;
	struct kvt_vcpu *v;
	int i = -1;
	int nr, r = 0;

	r = kvt_vm_lock(vm);
	if (r)
		return r;
	nr = kvt_track_all(vm);
	if (nr < 0) {
		r = nr;
		goto out;
	}
	*states = kvcalloc(min_t(u32, nr, get->nr_vcpus), sizeof(**states),
			   GFP_KERNEL_ACCOUNT);
	if (!*states) {
		r = -ENOMEM;
		goto out;
	}
	/* More may have come meanwhile. */
	while ((v = kvt_next_vcpu(vm, &i))) {
		if (i < min_t(u32, nr, get->nr_vcpus))
			kvt_vcpu_get(v, vm, &(*states)[i]);
	}

	kvt_grid_init(&grid, vm->setting.percent_x100, vm->setting.period_ns);
	get->percent_x100 = vm->setting.percent_x100;
	get->period_ns = grid.period_ns;
	get->nr_vcpus = nr;
	get->dirty_rate = kvt_vm_dirty_rate(vm);
	get->logged_pages = kvt_dirty_logged(vm->kvm);
out:
	kvt_vm_unlock(vm);
	return r;
}

static int kvt_ioctl_get(struct kvt_vm *vm,
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
	if (get.nr_vcpus && (get.vcpu_size < KVT_VCPU_SIZE_MIN ||
			     get.vcpu_size > PAGE_SIZE))
		return -EINVAL;
	if (!get.nr_vcpus && get.vcpu_size)
		return -EINVAL;

	room = get.nr_vcpus;
	r = kvt_get(vm, &get, &states);
	if (r)
		return r;

	to = u64_to_user_ptr(get.vcpus);
	size = min_t(size_t, sizeof(*states), get.vcpu_size);
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

static long kvt_vm_ioctl(struct file *file, unsigned int cmd,
			 unsigned long arg)
{
	struct kvt_vm *vm = file->private_data;

	switch (cmd) {
	case KVM_SET_THROTTLE:
		return kvt_ioctl_set(vm, (void __user *)arg);
	case KVM_GET_THROTTLE:
		return kvt_ioctl_get(vm, (void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static __poll_t kvt_vm_poll(struct file *file, poll_table *wait)
{
	struct kvt_vm *vm = file->private_data;

	poll_wait(file, &vm->end.death, wait);
	return READ_ONCE(vm->kvm) ? 0 : EPOLLHUP;
}

static void kvt_close_vm(struct kvt_vm *vm)
{
	mutex_lock(&vm->lock);
	if (vm->kvm)
		kvt_let_go(vm, false);
	WRITE_ONCE(vm->closed, true);
	mutex_unlock(&vm->lock);
	/* Waits for those who read it. */
	debugfs_remove(vm->debugfs);
	kvt_remove(&vm->end.remove.work);
}

static int kvt_vm_release(struct inode *inode, struct file *file)
{
	kvt_close_vm(file->private_data);
	return 0;
}

static const struct file_operations kvt_vm_fops = {
	.owner = THIS_MODULE,
	.release = kvt_vm_release,
	.poll = kvt_vm_poll,
	.unlocked_ioctl = kvt_vm_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

/* The throttle of @kvm, if it has one. */
static struct kvt_vm *kvt_of(struct kvm *kvm)
{
	struct kvm_device *dev;

	lockdep_assert_held(&kvm->lock);

	list_for_each_entry(dev, &kvm->devices, vm_node) {
		if (dev->ops == &kvt_dev_ops)
			return container_of(dev, struct kvt_vm, dev);
	}
	return NULL;
}

/* Make @vm the only one that throttles @kvm, on which the caller has a reference. */
static int kvt_claim(struct kvt_vm *vm, struct kvm *kvm)
{
	struct kvt_vm *other;
	int r = 0;

	/* Its process has ended; another one holds the VM's fd. */
	if (!atomic_read(&kvm->mm->mm_users))
		return -ESRCH;
	/* The VM's process may have it for as long as it likes. */
	if (mutex_lock_killable(&kvm->lock))
		return -EINTR;
	other = kvt_of(kvm);
	if (other && !READ_ONCE(other->closed)) {
		r = -EBUSY;
	} else if (other) {
		mutex_lock(&other->lock);
		kvt_forget(other);
		mutex_unlock(&other->lock);
		kvt_vm_put(other);
	}
	if (!r) {
		refcount_inc(&vm->ref);
		vm->kvm = kvm;
		vm->key = kvm;
		vm->dev.ops = &kvt_dev_ops;
		vm->dev.kvm = kvm;
		list_add_rcu(&vm->dev.vm_node, &kvm->devices);
	}
	mutex_unlock(&kvm->lock);
	return r;
}

/* A throttle and its vCPUs, for the administrator who finds a slow VM. */
static int kvt_list_show(struct seq_file *s, void *unused)
{
	struct kvt_vm *vm = s->private;
	struct kvm_throttle_vcpu_state state;
	struct kvt_grid grid;
	struct kvt_vcpu *v;
	int i = -1;

	/* The VM is gone, its throttle fd isn't; or the reader has been killed. */
	if (kvt_vm_lock(vm))
		return 0;

	kvt_grid_init(&grid, vm->setting.percent_x100, vm->setting.period_ns);
	seq_printf(s, "pid %d\nowner %d %*pE\npercent %u.%02u\nperiod_ns %llu\ndirty_rate %llu\nlogged_pages %llu\n",
		   vm->who.pid, vm->who.owner, (int)strlen(vm->who.comm), vm->who.comm,
		   vm->setting.percent_x100 / 100,
		   vm->setting.percent_x100 % 100, grid.period_ns,
		   kvt_vm_dirty_rate(vm), kvt_dirty_logged(vm->kvm));
	seq_puts(s, "vcpu tid percent period_ns elapsed_ns throttled_ns windows interrupted retries late_max_ns stall_max_ns dirty_rate dirtied dirty_held_ns dirty_sleeps\n");
	while ((v = kvt_next_vcpu(vm, &i))) {
		kvt_vcpu_get(v, vm, &state);
		seq_printf(s, "%u %u %u.%02u %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu\n",
			   state.vcpu_id, state.tid, state.percent_x100 / 100,
			   state.percent_x100 % 100, state.period_ns,
			   state.elapsed_ns, state.throttled_ns, state.windows,
			   state.interrupted, state.retries, state.late_max_ns,
			   state.stall_max_ns, state.dirty_rate, state.dirtied,
			   state.dirty_held_ns, state.dirty_sleeps);
	}
	kvt_vm_unlock(vm);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(kvt_list);

/* The id of the VM's process.  KVM has that of the thread which made the VM. */
static pid_t kvt_pid(const struct kvm *kvm)
{
	pid_t pid = kvm->userspace_pid;
#ifdef CONFIG_MEMCG
	struct task_struct *owner;

	rcu_read_lock();
	owner = rcu_dereference(kvm->mm->owner);
	if (owner)
		pid = task_tgid_nr(owner);
	rcu_read_unlock();
#endif
	return pid;
}

static struct kvt_vm *kvt_alloc_vm(struct kvm *kvm)
{
	struct kvt_vm *vm;
	int cpu;

	vm = kzalloc(sizeof(*vm), GFP_KERNEL_ACCOUNT);
	if (!vm)
		return NULL;
	vm->cpus = alloc_percpu_gfp(struct kvt_record, GFP_KERNEL_ACCOUNT);
	vm->vcpus = kvcalloc(KVM_MAX_VCPUS, sizeof(*vm->vcpus), GFP_KERNEL_ACCOUNT);
	if (!vm->cpus || !vm->vcpus) {
		free_percpu(vm->cpus);
		kvfree(vm->vcpus);
		kfree(vm);
		return NULL;
	}
	for_each_possible_cpu(cpu)
		raw_spin_lock_init(&per_cpu_ptr(vm->cpus, cpu)->lock);
	refcount_set(&vm->ref, 1);
	vm->who.id = atomic_inc_return(&kvt_last_id);
	vm->who.pid = kvt_pid(kvm);
	vm->who.owner = task_tgid_nr(current);
	get_task_comm(vm->who.comm, current);
	vm->who.uid = current_uid();
	vm->epoch_ns = ktime_get_ns();
	mutex_init(&vm->lock);
	raw_spin_lock_init(&vm->setting_lock);
	INIT_DELAYED_WORK(&vm->end.remove, kvt_remove);
	INIT_WORK(&vm->end.put, kvt_put_last);
	INIT_RCU_WORK(&vm->end.free, kvt_vm_free);
	init_waitqueue_head(&vm->end.death);
	/* The caller's file has a reference. */
	__module_get(THIS_MODULE);
	return vm;
}

/* Attach to @kvm, on which the caller has a reference. */
static struct kvt_vm *kvt_create(struct kvm *kvm)
{
	char name[2 * 11 + 2];
	struct kvt_vm *vm;
	int r;

	vm = kvt_alloc_vm(kvm);
	if (!vm)
		return ERR_PTR(-ENOMEM);
	r = kvt_claim(vm, kvm);
	if (r) {
		kvt_vm_put(vm);
		return ERR_PTR(r);
	}
	trace_kvm_throttle_attach(vm);
	r = kvt_track_all(vm);
	if (r < 0) {
		kvt_close_vm(vm);
		return ERR_PTR(r);
	}
	snprintf(name, sizeof(name), "%d-%u", vm->who.pid, vm->who.id);
	vm->debugfs = debugfs_create_file(name, 0444, kvt_debugfs, vm,
					  &kvt_list_fops);
	return vm;
}

/*
 * KVM exports its own test for this on some kernels only.  User space can't
 * choose the name of an anonymous inode.
 */
static bool kvt_file_is_vm(const struct file *file)
{
	return file_inode(file)->i_sb->s_magic == ANON_INODE_FS_MAGIC &&
	       !strcmp(file_dentry(file)->d_name.name, "kvm-vm");
}

static int kvt_ioctl_attach(const struct kvm_throttle_attach __user *arg)
{
	struct kvm_throttle_attach attach;
	struct kvt_vm *vm;
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

	if (kvt_file_is_vm(file))
		vm = kvt_create(file->private_data);
	else
		vm = ERR_PTR(-EINVAL);
	fput(file);
	if (IS_ERR(vm))
		return PTR_ERR(vm);

	r = anon_inode_getfd("kvm-throttle", &kvt_vm_fops, vm,
			     O_RDWR | O_CLOEXEC);
	if (r < 0)
		kvt_close_vm(vm);
	return r;
}

static long kvt_misc_ioctl(struct file *file, unsigned int cmd,
			   unsigned long arg)
{
	switch (cmd) {
	case KVM_THROTTLE_GET_API_VERSION:
		return arg ? -EINVAL : KVM_THROTTLE_API_VERSION;
	case KVM_THROTTLE_ATTACH:
		return kvt_ioctl_attach((void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations kvt_misc_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = kvt_misc_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice kvt_misc = {
	.minor = KVT_MINOR,
	.name = "kvm_throttle",
	.fops = &kvt_misc_fops,
};

static int __init kvm_throttle_init(void)
{
	int i, r;

	if (hrtimer_resolution > KVT_WINDOW_MIN_NS) {
		pr_err("timers are not exact enough: boot without highres=off\n");
		return -EOPNOTSUPP;
	}
	r = kvt_vcpu_init();
	if (r) {
		pr_err("task_work_add() can't be found in this kernel\n");
		return r;
	}
	r = kvt_entry_init();
	if (r) {
		pr_err("KVM's tracepoint kvm_entry can't be found in this kernel\n");
		return r;
	}
	for (i = 0; i < ARRAY_SIZE(kvt_log_limits); i++)
		ratelimit_state_init(&kvt_log_limits[i],
				     DEFAULT_RATELIMIT_INTERVAL,
				     DEFAULT_RATELIMIT_BURST);
	kvt_wq = alloc_workqueue("kvm_throttle", WQ_UNBOUND, 0);
	if (!kvt_wq)
		return -ENOMEM;
	kvt_put_wq = alloc_workqueue("kvm_throttle_put", WQ_UNBOUND,
				     WQ_UNBOUND_MAX_ACTIVE);
	if (!kvt_put_wq) {
		destroy_workqueue(kvt_wq);
		return -ENOMEM;
	}
	kvt_debugfs = debugfs_create_dir(KBUILD_MODNAME, NULL);
	r = misc_register(&kvt_misc);
	if (r) {
		pr_err("can't register misc device %d: %pe\n",
		       KVT_MINOR, ERR_PTR(r));
		debugfs_remove(kvt_debugfs);
		destroy_workqueue(kvt_put_wq);
		destroy_workqueue(kvt_wq);
	}
	return r;
}

static void __exit kvm_throttle_exit(void)
{
	misc_deregister(&kvt_misc);
	debugfs_remove(kvt_debugfs);
	destroy_workqueue(kvt_put_wq);
	destroy_workqueue(kvt_wq);
	kvt_probe_exit(&kvt_dirty_probe);
	kvt_entry_exit();
	/*
	 * Every thread has left its module_put() behind, but not yet the last
	 * instructions of kvt_work() or kvt_admit().
	 */
	synchronize_rcu_tasks();
}

module_init(kvm_throttle_init);
module_exit(kvm_throttle_exit);

MODULE_DESCRIPTION("Throttles the vCPUs of KVM virtual machines");
MODULE_AUTHOR("The kvm_throttle developers");
MODULE_LICENSE("GPL");
MODULE_VERSION(KVT_VERSION);
MODULE_INFO(compat, KVT_CHOSEN);
MODULE_ALIAS_MISCDEV(KVT_MINOR);
MODULE_ALIAS("devname:kvm_throttle");
