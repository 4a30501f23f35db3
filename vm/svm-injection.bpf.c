// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Makes Linux guests safe in the emulated machine: has the CPU leave the guest
 * right after an interrupt was injected.
 *
 * QEMU's emulation of VMRUN (helper_vmrun() in target/i386/tcg, 7.2 to 10) leaves
 * the injected vector in the CPU's exception_index.  Should QEMU's main loop want
 * something of the CPU before the guest exits, the same interrupt is delivered
 * again, wherever the guest is and whether it can take it or not: it deadlocks,
 * or panics.  An exit clears the field.
 *
 * KVM injects with interrupts on, and enters the guest with interrupts off.  Only
 * then is there a signal to be sent, of number 0, which is none: the helper
 * defers it to an interrupt that the CPU sends itself, and that comes with the
 * guest's first instruction.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} injected SEC(".maps");

static const __u32 zero;

SEC("kprobe/svm_inject_irq")
int injecting(void *ctx)
{
	__u32 *flag = bpf_map_lookup_elem(&injected, &zero);

	if (flag)
		*flag = 1;
	return 0;
}

SEC("tracepoint/kvm/kvm_entry")
int entering(void *ctx)
{
	__u32 *flag = bpf_map_lookup_elem(&injected, &zero);

	if (flag && *flag) {
		*flag = 0;
		bpf_send_signal_thread(0);
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
