/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What kvm_throttle's selftests need of an architecture, in the guest but for
 * guest_clock_khz().
 */
#ifndef SELFTEST_GUEST_ARCH_H
#define SELFTEST_GUEST_ARCH_H

#include "kvm_util.h"
#include "processor.h"

#if defined(__x86_64__)

/* A port that nobody has a device for. */
#define GUEST_PORT		0x510
#define GUEST_EXIT_REASON	KVM_EXIT_IO

static inline void guest_exit(void)
{
	asm volatile("outb %%al, %w0" :: "d"(GUEST_PORT), "a"(0));
}

static inline void guest_halt(void)
{
	asm volatile("hlt");
}

static inline u64 guest_clock(void)
{
	return rdtsc();
}

static inline u64 guest_clock_khz(struct kvm_vcpu *vcpu)
{
	return __vcpu_ioctl(vcpu, KVM_GET_TSC_KHZ, NULL);
}

#elif defined(__aarch64__)

#define GUEST_EXIT_REASON	KVM_EXIT_MMIO

/* The library has mapped a page there that has no memory. */
static inline void guest_exit(void)
{
	ucall_arch_do_ucall(0);
}

static inline void guest_halt(void)
{
	wfi();
}

static inline u64 guest_clock(void)
{
	u64 cycles;

	isb();
	asm volatile("mrs %0, cntvct_el0" : "=r"(cycles));
	return cycles;
}

static inline u64 guest_clock_khz(struct kvm_vcpu *vcpu)
{
	u64 hz;

	asm volatile("mrs %0, cntfrq_el0" : "=r"(hz));
	return hz / 1000;
}

#else
#error "the guest of these tests has no code for this architecture"
#endif

#endif /* SELFTEST_GUEST_ARCH_H */
