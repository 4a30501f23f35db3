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

#include "apic.h"

/* A port that nobody has a device for. */
#define GUEST_PORT		0x510
#define GUEST_EXIT_REASON	KVM_EXIT_IO

/* A register of the interrupt controller, which is in the kernel. */
#define GUEST_KERNEL_PORT	0x21

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

/* Interrupts of the guest: by the timer of its interrupt controller, or another vCPU. */
#define WAKE_VECTOR	0x40
#define APIC_MSR_EOI	0x80b
#define APIC_MSR_ICR	0x830
#define APIC_MSR_LVTT	0x832
#define APIC_MSR_TMICT	0x838
#define APIC_MSR_TDCR	0x83e

static inline void guest_woken(struct ex_regs *regs)
{
	wrmsr(APIC_MSR_EOI, 0);
}

static inline void guest_timer_init(void)
{
	x2apic_enable();
	wrmsr(APIC_MSR_LVTT, WAKE_VECTOR);
	/* Counts at KVM's 1 GHz. */
	wrmsr(APIC_MSR_TDCR, 0xb);
}

static inline void guest_timer_start(u64 ns)
{
	wrmsr(APIC_MSR_TMICT, ns);
}

/* Halts until there is an interrupt, of which none is lost before. */
static inline void guest_wait(void)
{
	asm volatile("sti; hlt; cli" ::: "memory");
}

/* Kernels before 6.11 leave that to the test. */
__weak void vm_init_descriptor_tables(struct kvm_vm *vm);
__weak void vcpu_init_descriptor_tables(struct kvm_vcpu *vcpu);

/* By the test: let a VM's vCPUs have such interrupts. */
static inline void guest_install_wake(struct kvm_vm *vm, struct kvm_vcpu **vcpus, int nr)
{
	int i;

	if (vm_init_descriptor_tables) {
		vm_init_descriptor_tables(vm);
		for (i = 0; i < nr; i++)
			vcpu_init_descriptor_tables(vcpus[i]);
	}
	vm_install_exception_handler(vm, WAKE_VECTOR, guest_woken);
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
