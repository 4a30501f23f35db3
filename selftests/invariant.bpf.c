// SPDX-License-Identifier: GPL-2.0
/*
 * Does a vCPU enter the guest only while its window is open?  The windows come from
 * kvm_throttle's tracepoints, the entries from KVM's own.  Of the latter only the current
 * thread is used.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "invariant.h"

/* The tracepoints' records, as in their format files. */
struct set_record {
	__u64 common;
	__u32 id;
	int vcpu_id;
};

struct open_record {
	__u64 common;
	__u32 id;
	__u32 vcpu_id;
	__u64 window;
	__u64 planned_ns;
	__u64 close_ns;
	bool slept;
};

struct close_record {
	__u64 common;
	__u32 id;
	__u32 vcpu_id;
	__u64 window;
	__u64 planned_ns;
	__u64 fired_ns;
	__u64 open_ns;
};

struct signal_record {
	__u64 common;
	__u32 id;
	__u32 vcpu_id;
	__u64 window;
};

struct retry_record {
	__u64 common;
	__u32 id;
	__u32 vcpu_id;
	__u64 window;
	__u64 open_ns;
};

/* KVM's: where the guest goes on, and where it was stopped. */
struct entry_record {
	__u64 common;
#ifdef __TARGET_ARCH_x86
	__u32 vcpu_id;
#endif
	__u64 pc;
};

struct exit_record {
	__u64 common;
	__u32 reason;
	__u64 pc;
};

enum { UNKNOWN, OPEN, CLOSED };

struct vcpu {
	__u32 state;
	__u32 setting;		/* the setting that @state is for */
	__u64 close_ns;		/* OPEN: the window's end */
	__u64 entered_ns;	/* when it entered the guest, or 0 */
	__u64 left_ns;		/* when it had left it for certain, or 0 */
	__u64 pc;		/* where it entered the guest */
	bool closed;		/* it did while it had to sleep */
};

/* Whose VM is watched; 0 for nobody's. */
__u32 tgid;

struct invariant_counts counts;

static __u32 throttle_id;
static __u32 nr_settings;
static struct vcpu vcpus[INVARIANT_VCPUS];

/* Of a thread: its vCPU's id. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} threads SEC(".maps");

static __always_inline void raise_to(__u64 *max, __u64 value)
{
	if (value > *max)
		*max = value;
}

/* The vCPU of a record of kvm_throttle's.  The module holds a lock of the vCPU. */
static __always_inline struct vcpu *vcpu_of(__u32 id, __u32 vcpu_id)
{
	if (!tgid || id != throttle_id || vcpu_id >= INVARIANT_VCPUS)
		return NULL;
	return &vcpus[vcpu_id];
}

static __always_inline void become(struct vcpu *v, __u32 state, __u64 close_ns)
{
	v->state = state;
	v->setting = nr_settings;
	v->close_ns = close_ns;
	v->entered_ns = 0;
	v->left_ns = 0;
}

static __always_inline void learn_thread(__u32 vcpu_id)
{
	__u32 tid = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&threads, &tid, &vcpu_id, BPF_ANY);
}

/* The current thread's vCPU, if it's known whether its window is open. */
static __always_inline struct vcpu *current_vcpu(void)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tid = id, *vcpu_id;
	struct vcpu *v;

	if (!tgid || id >> 32 != tgid)
		return NULL;
	vcpu_id = bpf_map_lookup_elem(&threads, &tid);
	if (!vcpu_id || *vcpu_id >= INVARIANT_VCPUS)
		return NULL;
	v = &vcpus[*vcpu_id];
	return v->state != UNKNOWN && v->setting == nr_settings ? v : NULL;
}

/* What was open or closed before, isn't known to be so any more. */
SEC("tp/kvm_throttle/kvm_throttle_set")
int set(struct set_record *record)
{
	if (tgid && bpf_get_current_pid_tgid() >> 32 == tgid) {
		throttle_id = record->id;
		nr_settings++;
	}
	return 0;
}

SEC("tp/kvm_throttle/kvm_throttle_open")
int open(struct open_record *record)
{
	struct vcpu *v = vcpu_of(record->id, record->vcpu_id);

	if (!v)
		return 0;
	if (record->slept && v->state == CLOSED)
		__sync_fetch_and_add(&counts.windows, 1);
	become(v, OPEN, record->close_ns);
	learn_thread(record->vcpu_id);
	return 0;
}

SEC("tp/kvm_throttle/kvm_throttle_close")
int close(struct close_record *record)
{
	struct vcpu *v = vcpu_of(record->id, record->vcpu_id);

	if (!v)
		return 0;
	become(v, CLOSED, 0);
	learn_thread(record->vcpu_id);
	return 0;
}

SEC("tp/kvm_throttle/kvm_throttle_signal")
int signal(struct signal_record *record)
{
	if (vcpu_of(record->id, record->vcpu_id))
		__sync_fetch_and_add(&counts.signals, 1);
	return 0;
}

/* This may be in the timer's interrupt, whatever it has interrupted. */
SEC("tp/kvm_throttle/kvm_throttle_retry")
int retry(struct retry_record *record)
{
	struct vcpu *v = vcpu_of(record->id, record->vcpu_id);

	if (!v)
		return 0;
	become(v, CLOSED, 0);
	__sync_fetch_and_add(&counts.retries, 1);
	return 0;
}

/* Where it must not, it is made to leave before its first instruction. */
SEC("tp/kvm/kvm_entry")
int entering(struct entry_record *record)
{
	struct vcpu *v = current_vcpu();
	__u64 now = bpf_ktime_get_ns();

	if (!v)
		return 0;
	v->entered_ns = now;
	v->left_ns = 0;
	v->pc = record->pc;
	v->closed = v->state == CLOSED;
	if (!v->closed) {
		__sync_fetch_and_add(&counts.entries, 1);
		if (now > v->close_ns)
			raise_to(&counts.late_max_ns, now - v->close_ns);
	}
	return 0;
}

/*
 * KVM enters the guest with interrupts off, so a thread that handles one has left it.  On
 * SVM, up to 6.1, kvm_exit comes only after that: after the timers of all vCPUs
 * on the CPU, which expire at the same time.
 */
SEC("raw_tp/hrtimer_expire_entry")
int timer(void *ctx)
{
	struct vcpu *v = current_vcpu();

	if (v && v->entered_ns && !v->left_ns)
		v->left_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("tp/kvm/kvm_exit")
int leaving(struct exit_record *record)
{
	struct vcpu *v = current_vcpu();
	__u64 now = bpf_ktime_get_ns(), left;

	if (!v || !v->entered_ns)
		return 0;
	left = v->left_ns ?: now;
	if (v->closed && record->pc != v->pc)
		__sync_fetch_and_add(&counts.closed, 1);
	if (v->state == OPEN) {
		if (left > v->close_ns)
			raise_to(&counts.over_max_ns, left - v->close_ns);
		if (now > v->close_ns)
			raise_to(&counts.told_max_ns, now - v->close_ns);
	}
	v->entered_ns = 0;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
