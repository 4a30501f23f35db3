/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * kvm_throttle: the interface of /dev/kvm_throttle, which throttles the vCPUs
 * of a KVM virtual machine by an exact percentage, or the rate at which they dirty
 * memory.
 *
 *	int dev = open("/dev/kvm_throttle", O_RDWR | O_CLOEXEC);
 *	struct kvm_throttle_attach attach = { .vm_fd = vm_fd };
 *	int fd = ioctl(dev, KVM_THROTTLE_ATTACH, &attach);
 *	struct kvm_throttle set = { .percent_x100 = 8000 };
 *
 *	ioctl(fd, KVM_SET_THROTTLE, &set);
 *
 * Every field that is called reserved or pad must be zero, and so must every flag
 * bit that has no name here.  Anything else is EINVAL, so that they can be given a
 * meaning later.
 */
#ifndef _UAPI_LINUX_KVM_THROTTLE_H
#define _UAPI_LINUX_KVM_THROTTLE_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Grows when something is added.  What is here now keeps its meaning. */
#define KVM_THROTTLE_API_VERSION	3

/* A percentage is given in hundredths of a percent: 8000 is 80 %. */
#define KVM_THROTTLE_PERCENT_MAX	9999

/* Limits of struct kvm_throttle::period_ns, and what 0 stands for. */
#define KVM_THROTTLE_PERIOD_MIN_NS	1000000ULL
#define KVM_THROTTLE_PERIOD_MAX_NS	1000000000ULL
#define KVM_THROTTLE_PERIOD_DEFAULT_NS	10472000ULL

/*
 * Limits of struct kvm_throttle::dirty_rate: the least that it is for each vCPU, and
 * the most that may be asked for.
 */
#define KVM_THROTTLE_DIRTY_RATE_MIN	50
#define KVM_THROTTLE_DIRTY_RATE_MAX	10000000ULL

/**
 * struct kvm_throttle_attach - argument of KVM_THROTTLE_ATTACH
 * @vm_fd: a virtual machine, as KVM_CREATE_VM returned it
 * @flags: none yet, 0
 * @reserved: 0
 */
struct kvm_throttle_attach {
	__s32 vm_fd;
	__u32 flags;
	__u64 reserved[3];
};

/* The setting is for one vCPU, not for the whole VM. */
#define KVM_THROTTLE_VCPU	(1U << 0)

/**
 * struct kvm_throttle - argument of KVM_SET_THROTTLE
 * @flags: KVM_THROTTLE_VCPU for one vCPU; 0 for all, also for those that are
 *	created later and those that had a setting of their own
 * @vcpu_id: with KVM_THROTTLE_VCPU the vCPU's id, which is what KVM_CREATE_VCPU
 *	was given; 0 otherwise
 * @percent_x100: share of the time that a vCPU is kept out of guest mode, in
 *	hundredths of a percent, 0 to KVM_THROTTLE_PERCENT_MAX; 0 is full speed
 * @pad: 0
 * @period_ns: length of one run window and one sleep window together, in
 *	nanoseconds, KVM_THROTTLE_PERIOD_MIN_NS to KVM_THROTTLE_PERIOD_MAX_NS;
 *	0 is KVM_THROTTLE_PERIOD_DEFAULT_NS.  The module lengthens a period in
 *	which one of the windows would be shorter than 97 microseconds.
 *	KVM_GET_THROTTLE returns the period that is in force
 * @dirty_rate: pages of the host's page size that may be dirtied a second, up to
 *	KVM_THROTTLE_DIRTY_RATE_MAX; 0 is no limit.  All vCPUs of the VM share it,
 *	but for those with a setting of their own.  It counts what KVM logs as
 *	dirty, so acts only while KVM logs that (KVM_MEM_LOG_DIRTY_PAGES).  The
 *	module raises a rate that leaves a vCPU less than
 *	KVM_THROTTLE_DIRTY_RATE_MIN.  0 before version 3, where a program that
 *	doesn't know it lifts the limit
 * @reserved: 0
 *
 * What is set replaces all that was, the percentage, the period and the rate.
 */
struct kvm_throttle {
	__u32 flags;
	__u32 vcpu_id;
	__u32 percent_x100;
	__u32 pad;
	__u64 period_ns;
	__u64 dirty_rate;
	__u64 reserved[3];
};

/**
 * struct kvm_throttle_vcpu_state - one vCPU in the answer of KVM_GET_THROTTLE
 * @vcpu_id: the vCPU's id, which is what KVM_CREATE_VCPU was given
 * @flags: KVM_THROTTLE_VCPU if it has a setting of its own
 * @percent_x100: the percentage in force, in hundredths of a percent
 * @tid: the thread that ran the vCPU last, as the caller's pid namespace names
 *	it; 0 if none has, or if the thread has ended or isn't in that namespace
 * @period_ns: the period in force, in nanoseconds; 0 without a percentage
 * @elapsed_ns: for how long the vCPU has had a percentage or a rate other than 0
 * @throttled_ns: for how much of @elapsed_ns the throttle kept the vCPU out of
 *	guest mode; for a vCPU that never halts or leaves KVM_RUN, and has no rate,
 *	that is @percent_x100 / 10000
 * @windows: sleep windows that the vCPU slept in; none with a rate alone
 * @interrupted: sleeps that a signal ended or prevented, of windows and for what
 *	it had dirtied
 * @retries: entries into the guest that were refused, as the thread had been
 *	outside KVM_RUN when the sleep window began, for instance, or as a signal
 *	had ended a sleep for what it had dirtied
 * @late_max_ns: by how much a window has started or ended late at most.  Later
 *	windows repay that
 * @stall_max_ns: the longest time that the throttle kept the vCPU out of guest
 *	mode without a break, one that still lasts included; 0 before version 2
 * @reserved: 0
 * @dirty_rate: the rate in force, in pages a second, which is the vCPU's own, or
 *	else what it shares; 0 without a limit.  This and what follows came with
 *	version 3
 * @dirtied: pages that the vCPU has dirtied as far as KVM logs it, while the VM or a
 *	vCPU of it had a rate
 * @dirty_held_ns: the part of @throttled_ns that it slept for what it had dirtied
 * @dirty_sleeps: how often it did
 */
struct kvm_throttle_vcpu_state {
	__u32 vcpu_id;
	__u32 flags;
	__u32 percent_x100;
	__u32 tid;
	__u64 period_ns;
	__u64 elapsed_ns;
	__u64 throttled_ns;
	__u64 windows;
	__u64 interrupted;
	__u64 retries;
	__u64 late_max_ns;
	__u64 stall_max_ns;
	__u64 reserved;
	__u64 dirty_rate;
	__u64 dirtied;
	__u64 dirty_held_ns;
	__u64 dirty_sleeps;
};

/**
 * struct kvm_throttle_state - argument of KVM_GET_THROTTLE
 * @flags: none yet, 0
 * @percent_x100: out: the VM's percentage, in hundredths of a percent
 * @period_ns: out: the VM's period in nanoseconds; 0 without a percentage
 * @nr_vcpus: in: how many elements @vcpus has room for; out: how many vCPUs the
 *	VM has.  If that is more, only the first have been stored.  To be set anew
 *	before each call
 * @vcpu_size: in: size of one element of @vcpus, as the caller was compiled,
 *	sizeof(struct kvm_throttle_vcpu_state); 0 if @nr_vcpus is 0.  A module
 *	that knows more fields than the caller leaves out the last ones.  One
 *	that knows fewer stores zeroes in their place
 * @vcpus: in: address of the elements, which are in the order of the vCPUs'
 *	creation
 * @dirty_rate: out: the VM's rate in force, in pages a second; 0 without a limit,
 *	and before version 3
 * @logged_pages: out: of how many pages of guest memory KVM logs that they are dirtied,
 *	0 before version 3.  Without any, no limit acts
 * @reserved: 0
 */
struct kvm_throttle_state {
	__u32 flags;
	__u32 percent_x100;
	__u64 period_ns;
	__u32 nr_vcpus;
	__u32 vcpu_size;
	__u64 vcpus;
	__u64 dirty_rate;
	__u64 logged_pages;
	__u64 reserved[2];
};

/*
 * On /dev/kvm_throttle.  Any other ioctl is ENOTTY.
 *
 * KVM_THROTTLE_GET_API_VERSION: the argument is 0; returns KVM_THROTTLE_API_VERSION.
 *	EINVAL	the argument is not 0
 *
 * KVM_THROTTLE_ATTACH: returns a throttle fd for the VM, close-on-exec.  Who has
 * the VM's fd may attach; who is passed the throttle fd may throttle.  When its
 * last copy is closed, the VM runs at full speed again.
 *	EBADF	vm_fd is not open
 *	EBUSY	the VM has a throttle fd already
 *	EFAULT	the pointer is wrong
 *	EINVAL	vm_fd is not a VM; flags or reserved are not 0
 *	EMFILE	the process has no room for another fd
 *	ENFILE	the system has no room for another file
 *	ENOMEM	out of memory
 *	ESRCH	the VM's process has exited
 */
#define KVM_THROTTLE_GET_API_VERSION	_IO(0xB9, 0x00)
#define KVM_THROTTLE_ATTACH		_IOW(0xB9, 0x01, struct kvm_throttle_attach)

/*
 * On a throttle fd.  poll() reports POLLHUP when the VM is gone: nobody has its fd
 * or a vCPU's any more.  ESRCH comes sooner: when the process that called KVM_CREATE_VM
 * has exited, or has called exec().  Any other ioctl is ENOTTY; read() and write() are
 * EINVAL.
 *
 * KVM_SET_THROTTLE: returns 0.  A change is in force within one period, or within
 * 20 ms if it is of the rate; full speed is at once.  A new vCPU, or one in a new thread,
 * is throttled from its first entry into the guest on.  The call takes up to 15 ms each
 * time that no VM of the host has been throttled for about a second, and up to a tenth of
 * a second if none has had a rate for as long and a rate is set.
 *	EBUSY	dirty_rate is not 0, and the administrator has turned off ftrace,
 *		which it takes (kernel.ftrace_enabled)
 *	EFAULT	the pointer is wrong
 *	EINVAL	a field is out of its range; a flag, pad or reserved is not 0;
 *		vcpu_id is not 0 without KVM_THROTTLE_VCPU
 *	ENOENT	there is no vCPU with that id
 *	ENOMEM	out of memory
 *	EOPNOTSUPP	dirty_rate is not 0, and this kernel has no ftrace with
 *		arguments, or no kprobes
 *	ESRCH	the VM is gone, or its process
 * After an error nothing has changed.
 *
 * KVM_GET_THROTTLE: returns 0.
 *	EFAULT	a pointer is wrong
 *	EINVAL	flags or reserved are not 0; vcpu_size is smaller than the struct
 *		of version 1 or larger than a page, or not 0 while nr_vcpus is 0
 *	ENOMEM	out of memory
 *	ESRCH	the VM is gone, or its process
 */
#define KVM_SET_THROTTLE		_IOW(0xB9, 0x02, struct kvm_throttle)
#define KVM_GET_THROTTLE		_IOWR(0xB9, 0x03, struct kvm_throttle_state)

#endif /* _UAPI_LINUX_KVM_THROTTLE_H */
