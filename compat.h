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

/* Has @vcpu, which is loaded here, halted?  KVM may look for a while before it sleeps. */
static inline bool kvt_is_halted(const struct kvm_vcpu *vcpu)
{
#ifdef CONFIG_X86
	return READ_ONCE(vcpu->arch.mp_state) == KVM_MP_STATE_HALTED;
#else
	return false;
#endif
}

/* Does the guest look whether @vcpu runs, where KVM tells? */
static inline bool kvt_guest_sees_preemption(const struct kvm_vcpu *vcpu)
{
#ifdef CONFIG_X86
	return vcpu->arch.st.msr_val & KVM_MSR_ENABLED;
#else
	return false;
#endif
}

/*
 * @vcpu is run by this thread from now on, not by @before.  KVM takes what this one
 * has waited less than that off the guest's steal time: let it be no less, and the
 * guest told so before it runs.
 */
static inline void kvt_steal_keep(struct kvm_vcpu *vcpu,
				  const struct task_struct *before)
{
#ifdef CONFIG_SCHED_INFO
	u64 ns = READ_ONCE(before->sched_info.run_delay);

	if (current->sched_info.run_delay >= ns)
		return;
	WRITE_ONCE(current->sched_info.run_delay, ns);
#ifdef CONFIG_X86
	kvm_make_request(KVM_REQ_STEAL_UPDATE, vcpu);
#else
	kvm_make_request(KVM_REQ_RECORD_STEAL, vcpu);
#endif
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
