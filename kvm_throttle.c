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
 * Here are the VMs and the fds; the vCPUs' circle is in vcpu.c.
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
#include <linux/debugfs.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/magic.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/poll.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "vcpu.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* A number of those for local use, so that modprobe's alias can name it. */
#define KVM_THROTTLE_MINOR	249

/* How often to look for new vCPUs, for new threads and for the VM's death. */
#define KVM_THROTTLE_SCAN_MS	50

/*
 * What programs of the first API version know of a vCPU.  Fields that are added
 * behind that are for those who know them.
 */
#define KVM_THROTTLE_VCPU_SIZE_MIN \
	offsetofend(struct kvm_throttle_vcpu_state, reserved)

static DEFINE_MUTEX(kvm_throttle_list_lock);
static LIST_HEAD(kvm_throttle_list);
static u32 kvm_throttle_last_id;
static struct dentry *kvm_throttle_debugfs;
static struct workqueue_struct *kvm_throttle_wq;

void kvm_throttle_scan_now(struct kvm_throttle_vm *vm)
{
	mod_delayed_work(kvm_throttle_wq, &vm->scan, 0);
}

/* Know every vCPU of the VM, and the thread that runs it. */
static int kvm_throttle_update(struct kvm_throttle_vm *vm)
{
	int nr = atomic_read(&vm->kvm->online_vcpus);
	int i, r;

	lockdep_assert_held(&vm->lock);

	for (i = 0; i < nr; i++) {
		r = kvm_throttle_track(vm, kvm_get_vcpu(vm->kvm, i));
		if (r)
			return r;
	}
	WRITE_ONCE(vm->nr_vcpus, nr);
	return 0;
}

/* Tell the log, once, that the VM's throttle has started or ended. */
static void kvm_throttle_log(struct kvm_throttle_vm *vm, u32 percent_x100)
{
	bool throttled = percent_x100;

	lockdep_assert_held(&vm->lock);

	if (throttled == vm->throttled)
		return;
	vm->throttled = throttled;
	if (throttled)
		pr_info_ratelimited("VM of process %d throttled to %u.%02u %% by process %d (%*pE)\n",
				    vm->kvm->userspace_pid, percent_x100 / 100,
				    percent_x100 % 100, vm->owner,
				    (int)strlen(vm->comm), vm->comm);
	else
		pr_info_ratelimited("VM of process %d no longer throttled by process %d (%*pE)\n",
				    vm->kvm->userspace_pid, vm->owner,
				    (int)strlen(vm->comm), vm->comm);
}

/*
 * Let the VM go, at the end of its life or ours.  Releases vm->lock, below which
 * nothing of what it takes to destroy a VM shall nest.
 */
static void kvm_throttle_detach(struct kvm_throttle_vm *vm, bool dead)
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
	trace_kvm_throttle_detach(vm, dead);
	kvm_throttle_log(vm, 0);

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
		kvm_throttle_detach(vm, true);
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
			trace_kvm_throttle_set(vm, vcpu_id, setting);
			kvm_throttle_apply(v, setting);
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
		trace_kvm_throttle_set(vm, -1, setting);
		vm->setting = *setting;
	}
	xa_for_each(&vm->vcpus, i, v) {
		if (v->setting.serial != vm->setting.serial)
			kvm_throttle_apply(v, &vm->setting);
	}
}

/* The highest percentage that is in force for the VM or one of its vCPUs. */
static u32 kvm_throttle_most(struct kvm_throttle_vm *vm)
{
	u32 most = vm->setting.percent_x100;
	struct kvm_throttle_vcpu *v;
	unsigned long i;

	xa_for_each(&vm->vcpus, i, v)
		most = max(most, v->setting.percent_x100);
	return most;
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
	if (!r)
		kvm_throttle_log(vm, kvm_throttle_most(vm));
	mutex_unlock(&vm->lock);
	return r;
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
	if (get.nr_vcpus && (get.vcpu_size < KVM_THROTTLE_VCPU_SIZE_MIN ||
			     get.vcpu_size > PAGE_SIZE))
		return -EINVAL;
	if (!get.nr_vcpus && get.vcpu_size)
		return -EINVAL;

	room = get.nr_vcpus;
	r = kvm_throttle_get(vm, &get, &states);
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
	/* Waits for those who read it. */
	debugfs_remove(vm->debugfs);
	mutex_lock(&vm->lock);
	kvm_throttle_detach(vm, false);
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
		vm->id = ++kvm_throttle_last_id;
		list_add(&vm->node, &kvm_throttle_list);
	}
	mutex_unlock(&kvm_throttle_list_lock);
	return r;
}

/* A throttle and its vCPUs, for the administrator who finds a slow VM. */
static int kvm_throttle_show(struct seq_file *s, void *unused)
{
	struct kvm_throttle_vm *vm = s->private;
	struct kvm_throttle_vcpu_state state;
	struct kvm_throttle_vcpu *v;
	struct kvt_grid grid;
	unsigned long i;

	mutex_lock(&vm->lock);
	/* The VM is gone; its throttle fd isn't. */
	if (!vm->kvm)
		goto out;

	kvt_grid_init(&grid, vm->setting.percent_x100, vm->setting.period_ns);
	seq_printf(s, "pid %d\nowner %d %*pE\npercent %u.%02u\nperiod_ns %llu\n",
		   vm->kvm->userspace_pid, vm->owner, (int)strlen(vm->comm),
		   vm->comm,
		   vm->setting.percent_x100 / 100,
		   vm->setting.percent_x100 % 100, grid.period_ns);
	seq_puts(s, "vcpu tid percent period_ns elapsed_ns throttled_ns windows interrupted retries late_max_ns stall_max_ns\n");
	xa_for_each(&vm->vcpus, i, v) {
		kvm_throttle_get_vcpu(v, &state);
		seq_printf(s, "%u %u %u.%02u %llu %llu %llu %llu %llu %llu %llu %llu\n",
			   state.vcpu_id, state.tid, state.percent_x100 / 100,
			   state.percent_x100 % 100, state.period_ns,
			   state.elapsed_ns, state.throttled_ns, state.windows,
			   state.interrupted, state.retries, state.late_max_ns,
			   state.stall_max_ns);
	}
out:
	mutex_unlock(&vm->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(kvm_throttle);

static struct kvm_throttle_vm *kvm_throttle_create(struct kvm *kvm)
{
	struct kvm_throttle_vm *vm;
	char name[2 * 11 + 2];
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
	vm->owner = task_tgid_nr(current);
	get_task_comm(vm->comm, current);
	xa_init(&vm->vcpus);
	INIT_DELAYED_WORK(&vm->scan, kvm_throttle_scan);
	init_waitqueue_head(&vm->death);

	r = kvm_throttle_claim(vm, kvm);
	if (!r) {
		r = kvm_throttle_lock(vm);
		if (!r) {
			trace_kvm_throttle_attach(vm);
			mutex_unlock(&vm->lock);
		}
	}
	if (r) {
		kvm_throttle_free(vm);
		return ERR_PTR(r);
	}
	snprintf(name, sizeof(name), "%d-%u", kvm->userspace_pid, vm->id);
	vm->debugfs = debugfs_create_file(name, 0444, kvm_throttle_debugfs, vm,
					  &kvm_throttle_fops);
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

	r = kvm_throttle_vcpu_init();
	if (r) {
		pr_err("task_work_add() can't be found in this kernel\n");
		return r;
	}
	kvm_throttle_wq = alloc_workqueue("kvm_throttle", WQ_UNBOUND, 0);
	if (!kvm_throttle_wq)
		return -ENOMEM;
	kvm_throttle_debugfs = debugfs_create_dir(KBUILD_MODNAME, NULL);
	r = misc_register(&kvm_throttle_dev);
	if (r) {
		pr_err("can't register misc device %d: %pe\n",
		       KVM_THROTTLE_MINOR, ERR_PTR(r));
		debugfs_remove(kvm_throttle_debugfs);
		destroy_workqueue(kvm_throttle_wq);
	}
	return r;
}

static void __exit kvm_throttle_exit(void)
{
	misc_deregister(&kvm_throttle_dev);
	debugfs_remove(kvm_throttle_debugfs);
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
