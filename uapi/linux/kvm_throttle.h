/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * kvm_throttle: the interface of /dev/kvm_throttle, which throttles the vCPUs
 * of a KVM virtual machine by an exact percentage.
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
#define KVM_THROTTLE_API_VERSION	2

/* A percentage is given in hundredths of a percent: 8000 is 80 %. */
#define KVM_THROTTLE_PERCENT_MAX	9999

/* Limits of struct kvm_throttle::period_ns, and what 0 stands for. */
#define KVM_THROTTLE_PERIOD_MIN_NS	1000000ULL
#define KVM_THROTTLE_PERIOD_MAX_NS	1000000000ULL
#define KVM_THROTTLE_PERIOD_DEFAULT_NS	10472000ULL

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
 * @reserved: 0
 */
struct kvm_throttle {
	__u32 flags;
	__u32 vcpu_id;
	__u32 percent_x100;
	__u32 pad;
	__u64 period_ns;
	__u64 reserved[4];
};

/**
 * struct kvm_throttle_vcpu_state - one vCPU in the answer of KVM_GET_THROTTLE
 * @vcpu_id: the vCPU's id, which is what KVM_CREATE_VCPU was given
 * @flags: KVM_THROTTLE_VCPU if it has a setting of its own
 * @percent_x100: the percentage in force, in hundredths of a percent
 * @tid: the thread that ran the vCPU last, as the caller's pid namespace names
 *	it; 0 if none has, or if the thread has ended or isn't in that namespace
 * @period_ns: the period in force, in nanoseconds; 0 at full speed
 * @elapsed_ns: for how long the vCPU has had a percentage other than 0
 * @throttled_ns: for how much of @elapsed_ns the throttle kept the vCPU out of
 *	guest mode; for a vCPU that never halts or leaves KVM_RUN that is
 *	@percent_x100 / 10000
 * @windows: sleep windows that the vCPU slept in
 * @interrupted: sleeps that a signal ended
 * @retries: entries into the guest that were refused, as the thread had been
 *	outside KVM_RUN when the sleep window began, for instance
 * @late_max_ns: by how much a window has started or ended late at most.  Later
 *	windows repay that
 * @stall_max_ns: the longest time that the throttle kept the vCPU out of guest
 *	mode without a break, one that still lasts included; 0 before version 2
 * @reserved: 0
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
};

/**
 * struct kvm_throttle_state - argument of KVM_GET_THROTTLE
 * @flags: none yet, 0
 * @percent_x100: out: the VM's percentage, in hundredths of a percent
 * @period_ns: out: the VM's period in nanoseconds; 0 at full speed
 * @nr_vcpus: in: how many elements @vcpus has room for; out: how many vCPUs the
 *	VM has.  If that is more, only the first have been stored
 * @vcpu_size: in: size of one element of @vcpus, as the caller was compiled,
 *	sizeof(struct kvm_throttle_vcpu_state); 0 if @nr_vcpus is 0.  A module
 *	that knows more fields than the caller leaves out the last ones.  One
 *	that knows fewer stores zeroes in their place
 * @vcpus: in: address of the elements, which are in the order of the vCPUs'
 *	creation
 * @reserved: 0
 */
struct kvm_throttle_state {
	__u32 flags;
	__u32 percent_x100;
	__u64 period_ns;
	__u32 nr_vcpus;
	__u32 vcpu_size;
	__u64 vcpus;
	__u64 reserved[4];
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
 * or a vCPU's any more.  Any other ioctl is ENOTTY; read() and write() are EINVAL.
 *
 * KVM_SET_THROTTLE: returns 0.  A change is in force within one period; full
 * speed is at once.  A new vCPU, or one in a new thread, is throttled from its
 * first entry into the guest on.
 *	EFAULT	the pointer is wrong
 *	EINVAL	a field is out of its range; a flag, pad or reserved is not 0;
 *		vcpu_id is not 0 without KVM_THROTTLE_VCPU
 *	ENOENT	there is no vCPU with that id
 *	ENOMEM	out of memory
 *	ESRCH	the VM is gone, or its process
 * After an error nothing has changed.
 *
 * KVM_GET_THROTTLE: returns 0.
 *	EFAULT	a pointer is wrong
 *	EINVAL	flags or reserved are not 0; vcpu_size is smaller than the struct
 *		of version 1 or larger than a page, or not 0 while nr_vcpus is 0
 *	ENOMEM	out of memory
 *	ESRCH	the VM is gone
 */
#define KVM_SET_THROTTLE		_IOW(0xB9, 0x02, struct kvm_throttle)
#define KVM_GET_THROTTLE		_IOWR(0xB9, 0x03, struct kvm_throttle_state)

#endif /* _UAPI_LINUX_KVM_THROTTLE_H */
