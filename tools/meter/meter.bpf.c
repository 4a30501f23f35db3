// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How long the vCPUs of a process are in guest mode, and where they are
 * otherwise: from KVM's own kvm_entry and kvm_exit, and the scheduler's events.
 * It knows of no throttle, so it can judge any.
 *
 * A thread's record is changed in the thread, but for its wake-up, when it isn't
 * running.  KVM's tracepoints have different arguments on each architecture; all
 * that is used of them is the vCPU's id, on x86.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "record.h"

/* Of the kernel's structures, what is used here; CO-RE finds it. */
struct task_struct {
	__u32 pid;
	__u32 tgid;
	__u64 start_time;
} __attribute__((preserve_access_index));

struct kvm_vcpu {
	int vcpu_id;
} __attribute__((preserve_access_index));

/* The process. */
const volatile __u32 tgid;

/* When the meter began, or 0. */
__u64 start_ns;

/* Threads, and how many there were; the first METER_VCPUS_MAX have a record. */
struct meter_record records[METER_VCPUS_MAX];
__u32 nr_records;

/* Of a thread: the index of its record. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, METER_VCPUS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} threads SEC(".maps");

static __always_inline struct meter_record *find(__u32 tid)
{
	__u32 *index = bpf_map_lookup_elem(&threads, &tid);

	return index && *index < METER_VCPUS_MAX ? &records[*index] : NULL;
}

/*
 * A thread is seen for the first time, as it enters or leaves the guest.  @state is
 * the one in which it has been since the meter began.
 */
static __noinline struct meter_record *add(enum meter_state state)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 tid = task->pid, index;
	struct meter_record *r;

	index = __sync_fetch_and_add(&nr_records, 1);
	if (index >= METER_VCPUS_MAX)
		return NULL;
	r = &records[index];
	r->tid = tid;
	r->vcpu_id = -1;
	r->state = state;
	r->start_ns = task->start_time > start_ns ? task->start_time : start_ns;
	r->since_ns = r->start_ns;
	r->left_ns = r->start_ns;
	bpf_map_update_elem(&threads, &tid, &index, BPF_ANY);
	return r;
}

/* Pairs with meter_read(): each of the two is a full barrier. */
static __always_inline void begin_change(struct meter_record *r)
{
	__sync_fetch_and_add(&r->changes, 1);
}

static __always_inline void end_change(struct meter_record *r)
{
	__sync_fetch_and_add(&r->changes, 1);
}

static __always_inline void become(struct meter_record *r, enum meter_state state,
				   __u64 now)
{
	__u32 before = r->state;

	if (before < METER_STATES)
		r->ns[before] += now - r->since_ns;
	r->since_ns = now;
	r->state = state;
}

SEC("raw_tp/kvm_entry")
int entering(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct meter_record *r;
	__u64 now, stall;
	__u32 bucket;

	if (id >> 32 != tgid || !start_ns)
		return 0;
	r = find(id);
	if (!r) {
		r = add(METER_UNSEEN);
		if (!r)
			return 0;
	}
#ifdef __TARGET_ARCH_x86
	if (r->vcpu_id < 0) {
		struct kvm_vcpu *vcpu = (void *)ctx->args[0];

		if (bpf_core_field_exists(vcpu->vcpu_id))
			r->vcpu_id = BPF_CORE_READ(vcpu, vcpu_id);
	}
#endif
	now = bpf_ktime_get_ns();
	begin_change(r);
	/* KVM may enter again without having told of an exit. */
	if (r->state != METER_GUEST) {
		stall = now - r->left_ns;
		bucket = meter_bucket(stall);
		if (bucket < METER_BUCKETS)
			r->stalls[bucket]++;
		if (stall > r->longest_ns)
			r->longest_ns = stall;
	}
	r->entries++;
	become(r, METER_GUEST, now);
	end_change(r);
	return 0;
}

/* The thread @r has left the guest.  If that was seen before, nothing is to be done. */
static __always_inline void leave(struct meter_record *r)
{
	begin_change(r);
	if (r->state == METER_GUEST) {
		r->left_ns = bpf_ktime_get_ns();
		become(r, METER_HOST, r->left_ns);
	}
	end_change(r);
}

SEC("raw_tp/kvm_exit")
int leaving(void *ctx)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct meter_record *r;

	if (id >> 32 != tgid || !start_ns)
		return 0;
	r = find(id);
	if (!r) {
		r = add(METER_GUEST);
		if (!r)
			return 0;
	}
	leave(r);
	return 0;
}

/*
 * KVM enters the guest with interrupts off, so a thread that handles one has left the
 * guest.  On SVM, up to 6.1, kvm_exit comes only after that, and interrupts may be on then.
 */
SEC("raw_tp/hrtimer_expire_entry")
int interrupted(void *ctx)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct meter_record *r;

	if (id >> 32 != tgid || !start_ns)
		return 0;
	r = find(id);
	if (r && !(r->changes & 1))
		leave(r);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(switching, bool preempt, struct task_struct *prev,
	     struct task_struct *next, unsigned int prev_state)
{
	struct meter_record *r;
	__u64 now;

	if (prev->tgid != tgid && next->tgid != tgid)
		return 0;
	now = bpf_ktime_get_ns();
	r = prev->tgid == tgid ? find(prev->pid) : NULL;
	if (r) {
		begin_change(r);
		/* On 6.1, kvm_exit comes after interrupts, and so may this. */
		if (r->state == METER_GUEST)
			r->left_ns = now;
		become(r, preempt || !prev_state ? METER_RUNNABLE : METER_BLOCKED, now);
		end_change(r);
	}
	r = next->tgid == tgid ? find(next->pid) : NULL;
	if (r) {
		begin_change(r);
		become(r, METER_HOST, now);
		end_change(r);
	}
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(waking, struct task_struct *task)
{
	struct meter_record *r = task->tgid == tgid ? find(task->pid) : NULL;

	if (r && r->state == METER_BLOCKED) {
		begin_change(r);
		become(r, METER_RUNNABLE, bpf_ktime_get_ns());
		end_change(r);
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
