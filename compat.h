/* SPDX-License-Identifier: GPL-2.0 */
/*
 * kvm_throttle: what differs between the kernels that it is built for.
 *
 * The rest of the module is written for the newest kernel.  Where a difference can
 * be compiled, it has a header of its own in compat/, with what to do in either
 * case, and compat/probe has chosen.
 */
#ifndef _KVM_THROTTLE_COMPAT_H
#define _KVM_THROTTLE_COMPAT_H

#include <linux/kvm_host.h>
#include <linux/sched.h>

#include "kvt_chosen.h"

#include "compat/ftrace_args.h"
#include "compat/hrtimer.h"
#include "compat/memslots.h"
#include "compat/vcpu_pid.h"
#include "compat/wake_order.h"

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
 * An interrupt was handled as if it had come in guest mode, and kvt_irq_exits() said
 * @irq_exits then.  Did it make @vcpu leave guest mode?  On arm64 always; x86 handles
 * an interrupt that way after an exit for any reason.
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
 * @vcpu is run by this thread from now on, not by @before.  If this thread has waited
 * less than that one, KVM would take the difference off the guest's steal time.  So
 * raise it to the same, and have KVM update the guest's before it runs.
 */
static inline void kvt_steal_keep(struct kvm_vcpu *vcpu,
				  const struct task_struct *before)
{
#ifdef CONFIG_SCHED_INFO
	u64 ns = READ_ONCE(before->sched_info.run_delay);
	bool less;

	/* The scheduler adds to it when the thread gets a CPU. */
	preempt_disable();
	less = current->sched_info.run_delay < ns;
	if (less)
		WRITE_ONCE(current->sched_info.run_delay, ns);
	preempt_enable();
	if (!less)
		return;
#ifdef CONFIG_X86
	kvm_make_request(KVM_REQ_STEAL_UPDATE, vcpu);
#else
	kvm_make_request(KVM_REQ_RECORD_STEAL, vcpu);
#endif
#endif
}

#endif /* _KVM_THROTTLE_COMPAT_H */
