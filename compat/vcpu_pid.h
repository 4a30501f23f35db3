/* SPDX-License-Identifier: GPL-2.0 */
/*
 * compat: the thread that ran a vCPU last.  vcpu->pid is under a lock of its own
 * since 6.13 and where that was backported, which RCU doesn't keep off; before,
 * it is under RCU.  So who has the lock is asked for first.
 *
 * Variants: LOCK RCU
 * Missing: a pid in struct kvm_vcpu, under a pid_lock or RCU
 */
#ifndef _KVM_THROTTLE_COMPAT_VCPU_PID_H
#define _KVM_THROTTLE_COMPAT_VCPU_PID_H

#include <linux/kvm_host.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>

#if defined(KVT_PROBING) && !defined(KVT_VCPU_PID_LOCK)
/* No two members have one name: there is no lock, of whatever type. */
struct kvt_no_pid_lock {
	struct kvm_vcpu;
	char pid_lock;
};
#endif

/**
 * kvt_vcpu_tid() - the thread that ran a vCPU last
 * @vcpu: the vCPU, whose VM the caller has a reference on
 *
 * Any context that may take KVM's pid_lock: none in an interrupt.
 *
 * Return: its id in the pid namespace of the caller; 0 if none ran it, that has
 * ended, or isn't seen there.
 */
static inline pid_t kvt_vcpu_tid(struct kvm_vcpu *vcpu)
{
	struct pid *pid;
	pid_t tid = 0;

	rcu_read_lock();
#ifdef KVT_VCPU_PID_LOCK
	read_lock(&vcpu->pid_lock);
	pid = vcpu->pid;
#else
	pid = rcu_dereference(vcpu->pid);
#endif
	if (pid && pid_task(pid, PIDTYPE_PID))
		tid = pid_vnr(pid);
#ifdef KVT_VCPU_PID_LOCK
	read_unlock(&vcpu->pid_lock);
#endif
	rcu_read_unlock();
	return tid;
}

#endif /* _KVM_THROTTLE_COMPAT_VCPU_PID_H */
