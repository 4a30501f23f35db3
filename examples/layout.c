// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The numbers of the interface, for languages that can't read its header: each ioctl,
 * each constant, and where each struct has its fields.  Documentation/api.rst has what
 * this prints; `make test` compares.
 */
#include <err.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <linux/kvm_throttle.h>

/* Where the fields of the struct that is being printed end so far. */
static size_t end;

static void print_field(const char *name, const char *type, int right, size_t offset,
			size_t size)
{
	if (offset != end || !right)
		errx(1, "%s isn't %s behind the field before it", name, type);
	end = offset + size;
	printf("    %-14s %-5s %3zu %3zu\n", name, type + strlen("__"), offset, size);
}

static void end_struct(const char *name, size_t size)
{
	if (end != size)
		errx(1, "struct %s has fields that aren't printed", name);
	end = 0;
}

#define IOCTL(name)	printf("%-29s 0x%08lx\n", #name, (unsigned long)(name))
#define VALUE(name)	printf("%-31s %llu\n", #name, (unsigned long long)(name))
#define BEGIN(name)	printf("\nstruct %s, %zu bytes\n", #name, sizeof(struct name))
#define HAS_TYPE(s, type, field) \
	__builtin_types_compatible_p(__typeof__(((struct s *)0)->field), type)
#define FIELD(s, type, field) \
	print_field(#field, #type, HAS_TYPE(s, type, field), offsetof(struct s, field), \
		    sizeof(((struct s *)0)->field))
/* Of 64 bits each; what is printed is the size of all. */
#define RESERVED(s) \
	print_field("reserved", "__u64", HAS_TYPE(s, __u64, reserved[0]), \
		    offsetof(struct s, reserved), sizeof(((struct s *)0)->reserved))
#define END(name)	end_struct(#name, sizeof(struct name))

static void print_numbers(void)
{
	IOCTL(KVM_THROTTLE_GET_API_VERSION);
	IOCTL(KVM_THROTTLE_ATTACH);
	IOCTL(KVM_SET_THROTTLE);
	IOCTL(KVM_GET_THROTTLE);
	putchar('\n');
	VALUE(KVM_THROTTLE_API_VERSION);
	VALUE(KVM_THROTTLE_PERCENT_MAX);
	VALUE(KVM_THROTTLE_PERIOD_MIN_NS);
	VALUE(KVM_THROTTLE_PERIOD_MAX_NS);
	VALUE(KVM_THROTTLE_PERIOD_DEFAULT_NS);
	VALUE(KVM_THROTTLE_DIRTY_RATE_MIN);
	VALUE(KVM_THROTTLE_DIRTY_RATE_MAX);
	VALUE(KVM_THROTTLE_VCPU);
}

static void print_structs(void)
{
	BEGIN(kvm_throttle_attach);
	FIELD(kvm_throttle_attach, __s32, vm_fd);
	FIELD(kvm_throttle_attach, __u32, flags);
	RESERVED(kvm_throttle_attach);
	END(kvm_throttle_attach);

	BEGIN(kvm_throttle);
	FIELD(kvm_throttle, __u32, flags);
	FIELD(kvm_throttle, __u32, vcpu_id);
	FIELD(kvm_throttle, __u32, percent_x100);
	FIELD(kvm_throttle, __u32, pad);
	FIELD(kvm_throttle, __u64, period_ns);
	FIELD(kvm_throttle, __u64, dirty_rate);
	RESERVED(kvm_throttle);
	END(kvm_throttle);

	BEGIN(kvm_throttle_vcpu_state);
	FIELD(kvm_throttle_vcpu_state, __u32, vcpu_id);
	FIELD(kvm_throttle_vcpu_state, __u32, flags);
	FIELD(kvm_throttle_vcpu_state, __u32, percent_x100);
	FIELD(kvm_throttle_vcpu_state, __u32, tid);
	FIELD(kvm_throttle_vcpu_state, __u64, period_ns);
	FIELD(kvm_throttle_vcpu_state, __u64, elapsed_ns);
	FIELD(kvm_throttle_vcpu_state, __u64, throttled_ns);
	FIELD(kvm_throttle_vcpu_state, __u64, windows);
	FIELD(kvm_throttle_vcpu_state, __u64, interrupted);
	FIELD(kvm_throttle_vcpu_state, __u64, retries);
	FIELD(kvm_throttle_vcpu_state, __u64, late_max_ns);
	FIELD(kvm_throttle_vcpu_state, __u64, stall_max_ns);
	FIELD(kvm_throttle_vcpu_state, __u64, reserved);
	FIELD(kvm_throttle_vcpu_state, __u64, dirty_rate);
	FIELD(kvm_throttle_vcpu_state, __u64, dirtied);
	FIELD(kvm_throttle_vcpu_state, __u64, dirty_held_ns);
	FIELD(kvm_throttle_vcpu_state, __u64, dirty_sleeps);
	END(kvm_throttle_vcpu_state);

	BEGIN(kvm_throttle_state);
	FIELD(kvm_throttle_state, __u32, flags);
	FIELD(kvm_throttle_state, __u32, percent_x100);
	FIELD(kvm_throttle_state, __u64, period_ns);
	FIELD(kvm_throttle_state, __u32, nr_vcpus);
	FIELD(kvm_throttle_state, __u32, vcpu_size);
	FIELD(kvm_throttle_state, __u64, vcpus);
	FIELD(kvm_throttle_state, __u64, dirty_rate);
	FIELD(kvm_throttle_state, __u64, logged_pages);
	RESERVED(kvm_throttle_state);
	END(kvm_throttle_state);
}

int main(void)
{
	print_numbers();
	print_structs();
	return 0;
}
