/* SPDX-License-Identifier: GPL-2.0 */
/*
 * kvm_throttle: what differs between the kernels that it is built for.
 *
 * The rest of the module is written for the newest kernel.
 */
#ifndef _KVM_THROTTLE_COMPAT_H
#define _KVM_THROTTLE_COMPAT_H

#include <linux/hrtimer.h>
#include <linux/kvm_host.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/task_work.h>
#include <linux/version.h>

/*
 * Elsewhere KVM doesn't run task work before it enters the guest, or with
 * kvm->srcu held.
 */
#if !defined(CONFIG_X86) && !defined(CONFIG_ARM64)
#error "kvm_throttle supports x86 and arm64 only"
#endif

/*
 * It is called under a raw lock, where KASAN must not allocate memory to record
 * who called.  6.12 and 6.13 have to be told, later kernels never do.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0) && \
	LINUX_VERSION_CODE < KERNEL_VERSION(6, 14, 0)
#define KVT_TASK_WORK_NOTIFY	(TWA_RESUME | TWAF_NO_ALLOC)
#else
#define KVT_TASK_WORK_NOTIFY	TWA_RESUME
#endif

/*
 * task_work_add() is exported by distributions, not upstream.  Kbuild looks for
 * it in the kernel's Module.symvers.
 */
#ifdef KVT_TASK_WORK_ADD_EXPORTED

static inline int kvt_task_work_init(void)
{
	return 0;
}

static inline int kvt_task_work_add(struct task_struct *task,
				    struct callback_head *work)
{
	return task_work_add(task, work, KVT_TASK_WORK_NOTIFY);
}

#else

#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/static_call.h>

#ifdef CONFIG_X86
#include <asm/ibt.h>
#else
#define ENDBR_INSN_SIZE	0
#endif

static int kvt_no_task_work_add(struct task_struct *task,
				struct callback_head *work,
				enum task_work_notify_mode notify)
{
	return -ESRCH;
}

/* A direct call, which neither IBT nor kCFI has to check. */
DEFINE_STATIC_CALL(kvt_task_work_add_call, kvt_no_task_work_add);

/*
 * Registering a kprobe is the one way left to ask for a symbol's address.  It is
 * registered disabled, so that the function stays as it is.
 */
static inline int kvt_task_work_init(void)
{
	struct kprobe probe = {
		.symbol_name = "task_work_add",
		.flags = KPROBE_FLAG_DISABLED,
	};
	static const char start[] = "task_work_add+0x0/";
	char symbol[KSYM_SYMBOL_LEN];
	void *address;
	int r;

	r = register_kprobe(&probe);
	if (r)
		return r;
	/* The probe sits behind the ENDBR that the function starts with. */
	address = (void *)((unsigned long)probe.addr - ENDBR_INSN_SIZE);
	unregister_kprobe(&probe);
	sprint_symbol(symbol, (unsigned long)address);
	if (strncmp(symbol, start, strlen(start)))
		return -ENOENT;
	static_call_update(kvt_task_work_add_call, address);
	return 0;
}

static inline int kvt_task_work_add(struct task_struct *task,
				    struct callback_head *work)
{
	return static_call(kvt_task_work_add_call)(task, work,
						   KVT_TASK_WORK_NOTIFY);
}

#endif /* KVT_TASK_WORK_ADD_EXPORTED */

/* hrtimer_setup() came with 6.13. */
static inline void
kvt_hrtimer_setup(struct hrtimer *timer,
		  enum hrtimer_restart (*function)(struct hrtimer *),
		  clockid_t clock, enum hrtimer_mode mode)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
	hrtimer_setup(timer, function, clock, mode);
#else
	hrtimer_init(timer, clock, mode);
	timer->function = function;
#endif
}

/* vcpu->pid is under a lock of its own since 6.13, under RCU before. */
static inline struct task_struct *kvt_vcpu_get_task(struct kvm_vcpu *vcpu)
{
	struct task_struct *task;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
	read_lock(&vcpu->pid_lock);
	task = get_pid_task(vcpu->pid, PIDTYPE_PID);
	read_unlock(&vcpu->pid_lock);
#else
	rcu_read_lock();
	task = get_pid_task(rcu_dereference(vcpu->pid), PIDTYPE_PID);
	rcu_read_unlock();
#endif
	return task;
}

/* Is @task the thread that ran @vcpu last? */
static inline bool kvt_vcpu_in_task(const struct kvm_vcpu *vcpu,
				    struct task_struct *task)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
	return READ_ONCE(vcpu->pid) == task_pid(task);
#else
	return rcu_access_pointer(vcpu->pid) == task_pid(task);
#endif
}

/* Does a CPU run @task? */
static inline bool kvt_task_on_cpu(const struct task_struct *task)
{
#ifdef CONFIG_SMP
	return READ_ONCE(task->on_cpu);
#else
	return task == current;
#endif
}

/* How often an interrupt has made @vcpu leave guest mode, where that is counted. */
static inline u64 kvt_irq_exits(const struct kvm_vcpu *vcpu)
{
#ifdef CONFIG_X86
	return READ_ONCE(vcpu->stat.irq_exits);
#else
	return 0;
#endif
}

/*
 * Was it the interrupt that made @vcpu leave guest mode, if one was handled as if it
 * had come there, and kvt_irq_exits() said @irq_exits?  x86 handles those like this
 * that come with any exit, arm64 only those that are its reason.
 */
static inline bool kvt_was_interrupted(const struct kvm_vcpu *vcpu, u64 irq_exits)
{
	return !IS_ENABLED(CONFIG_X86) || kvt_irq_exits(vcpu) != irq_exits;
}

/*
 * How much longer than without a throttle it takes from task work into the guest,
 * if the way from the guest to task work takes @exit_ns.  Nothing tells; these are
 * the shares with which the windows are as long as they should be.
 */
static inline u64 kvt_entry_ns(u64 exit_ns)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0) && \
	defined(CONFIG_HAVE_GENERIC_TIF_BITS)
	return exit_ns / 2;
#else
	/* A switch of tasks has rseq's work done on that way, twice. */
	return exit_ns * 3 / 4;
#endif
}

/*
 * Have the guest know that @ns were taken from it: KVM makes its steal time of
 * how long the vCPU's thread had to wait for a CPU, which only the thread itself
 * changes while it runs.  A kernel that doesn't count that has no steal time.
 */
static inline void kvt_steal(u64 ns)
{
#ifdef CONFIG_SCHED_INFO
	/* /proc may be read meanwhile. */
	WRITE_ONCE(current->sched_info.run_delay,
		   current->sched_info.run_delay + ns);
#endif
}

/*
 * When to wake a task that shares an idle CPU with others which are woken at the
 * same time, if it ran @age windows ago: the result is in nanoseconds.  It has
 * to do with how the scheduler forgets who has waited.
 *
 * EEVDF, since 6.6, does so for the first one to come: let it be one that ran.
 * CFS makes tasks that slept equal, and takes them as they come: let them come
 * in turn, but for those that have just run, which are still behind.
 */
static inline u64 kvt_wake_order(u64 age)
{
	const u64 last = 255;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	return min(age, last);
#else
	return age ? last - min(age, last - 1) : 0;
#endif
}

#endif /* _KVM_THROTTLE_COMPAT_H */
