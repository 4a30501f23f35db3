/* SPDX-License-Identifier: GPL-2.0 */
/*
 * kvm_throttle: tracepoints.
 *
 * All times are CLOCK_MONOTONIC in nanoseconds, which is trace_clock "mono".
 * @id tells one throttle fd from another, @pid is the VM's process.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm_throttle

#if !defined(_KVM_THROTTLE_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _KVM_THROTTLE_TRACE_H

#include <linux/tracepoint.h>

#include "kvm_throttle.h"

/* A VM has been attached to, by process @owner. */
TRACE_EVENT(kvm_throttle_attach,
	TP_PROTO(const struct kvt_vm *vm),
	TP_ARGS(vm),

	TP_STRUCT__entry(
		__field(u32, id)
		__field(pid_t, pid)
		__field(pid_t, owner)
		__array(char, comm, TASK_COMM_LEN)
	),

	TP_fast_assign(
		__entry->id = vm->who.id;
		__entry->pid = vm->who.pid;
		__entry->owner = vm->who.owner;
		memcpy(__entry->comm, vm->who.comm, TASK_COMM_LEN);
	),

	TP_printk("id=%u pid=%d owner=%d comm=%s", __entry->id, __entry->pid,
		  __entry->owner, __entry->comm)
);

/* A setting has changed; @vcpu_id is -1 for the whole VM's. */
TRACE_EVENT(kvm_throttle_set,
	TP_PROTO(const struct kvt_vm *vm, int vcpu_id,
		 const struct kvt_setting *setting),
	TP_ARGS(vm, vcpu_id, setting),

	TP_STRUCT__entry(
		__field(u32, id)
		__field(int, vcpu_id)
		__field(u32, percent_x100)
		__field(u64, period_ns)
		__field(u64, run_ns)
		__field(u64, dirty_rate)
	),

	TP_fast_assign(
		struct kvt_grid grid;

		kvt_grid_init(&grid, setting->percent_x100, setting->period_ns);
		__entry->id = vm->who.id;
		__entry->vcpu_id = vcpu_id;
		__entry->percent_x100 = setting->percent_x100;
		__entry->period_ns = grid.period_ns;
		__entry->run_ns = grid.run_ns;
		__entry->dirty_rate = setting->dirty_rate;
	),

	TP_printk("id=%u vcpu=%d percent=%u.%02u period_ns=%llu run_ns=%llu dirty_rate=%llu",
		  __entry->id, __entry->vcpu_id, __entry->percent_x100 / 100,
		  __entry->percent_x100 % 100, __entry->period_ns,
		  __entry->run_ns, __entry->dirty_rate)
);

/*
 * A vCPU enters the guest, in a run window that was to begin at @planned_ns and
 * ends at @close_ns.  @slept: it was asleep until then.
 */
TRACE_EVENT(kvm_throttle_open,
	TP_PROTO(const struct kvt_vcpu *v, bool slept),
	TP_ARGS(v, slept),

	TP_STRUCT__entry(
		__field(u32, id)
		__field(u32, vcpu_id)
		__field(u64, window)
		__field(u64, planned_ns)
		__field(u64, close_ns)
		__field(bool, slept)
	),

	TP_fast_assign(
		__entry->id = v->vm->who.id;
		__entry->vcpu_id = v->id;
		__entry->window = v->window.clock.window;
		__entry->planned_ns = v->vm->epoch_ns +
				      v->window.clock.window * v->window.grid.period_ns;
		__entry->close_ns = v->vm->epoch_ns + v->window.clock.close_ns;
		__entry->slept = slept;
	),

	TP_printk("id=%u vcpu=%u window=%llu planned_ns=%llu close_ns=%llu slept=%d",
		  __entry->id, __entry->vcpu_id, __entry->window,
		  __entry->planned_ns, __entry->close_ns, __entry->slept)
);

/*
 * A vCPU that wanted to enter the guest goes to sleep until @open_ns.  The window
 * was to end at @planned_ns.  The timer ended it at @fired_ns, which is 0 if the
 * thread neither ran then nor waited for a CPU.
 */
TRACE_EVENT(kvm_throttle_close,
	TP_PROTO(const struct kvt_vcpu *v, u64 fired_ns),
	TP_ARGS(v, fired_ns),

	TP_STRUCT__entry(
		__field(u32, id)
		__field(u32, vcpu_id)
		__field(u64, window)
		__field(u64, planned_ns)
		__field(u64, fired_ns)
		__field(u64, open_ns)
	),

	TP_fast_assign(
		__entry->id = v->vm->who.id;
		__entry->vcpu_id = v->id;
		__entry->window = v->window.clock.window;
		__entry->planned_ns = v->vm->epoch_ns + v->window.clock.close_ns;
		__entry->fired_ns = fired_ns ? v->vm->epoch_ns + fired_ns : 0;
		__entry->open_ns = v->vm->epoch_ns + v->window.clock.open_ns;
	),

	TP_printk("id=%u vcpu=%u window=%llu planned_ns=%llu fired_ns=%llu open_ns=%llu",
		  __entry->id, __entry->vcpu_id, __entry->window,
		  __entry->planned_ns, __entry->fired_ns, __entry->open_ns)
);

/*
 * A vCPU that wanted to enter the guest goes to sleep until @until_ns, for the pages that
 * it has dirtied: @dirtied since the VM was attached to.
 */
TRACE_EVENT(kvm_throttle_dirty,
	TP_PROTO(const struct kvt_vcpu *v),
	TP_ARGS(v),

	TP_STRUCT__entry(
		__field(u32, id)
		__field(u32, vcpu_id)
		__field(u64, dirtied)
		__field(u64, until_ns)
	),

	TP_fast_assign(
		__entry->id = v->vm->who.id;
		__entry->vcpu_id = v->id;
		__entry->dirtied = v->dirty.pages;
		__entry->until_ns = v->vm->epoch_ns + v->dirty.pause.until_ns;
	),

	TP_printk("id=%u vcpu=%u dirtied=%llu until_ns=%llu", __entry->id,
		  __entry->vcpu_id, __entry->dirtied, __entry->until_ns)
);

/* A signal keeps a vCPU from sleeping; its thread leaves KVM_RUN. */
TRACE_EVENT(kvm_throttle_signal,
	TP_PROTO(const struct kvt_vcpu *v),
	TP_ARGS(v),

	TP_STRUCT__entry(
		__field(u32, id)
		__field(u32, vcpu_id)
		__field(u64, window)
	),

	TP_fast_assign(
		__entry->id = v->vm->who.id;
		__entry->vcpu_id = v->id;
		__entry->window = v->window.clock.window;
	),

	TP_printk("id=%u vcpu=%u window=%llu", __entry->id, __entry->vcpu_id,
		  __entry->window)
);

/*
 * A vCPU that may not enter the guest before @open_ns has tried to.  KVM will try
 * again after kvm_throttle_close and kvm_throttle_open, or a signal.
 */
TRACE_EVENT(kvm_throttle_retry,
	TP_PROTO(const struct kvt_vcpu *v),
	TP_ARGS(v),

	TP_STRUCT__entry(
		__field(u32, id)
		__field(u32, vcpu_id)
		__field(u64, window)
		__field(u64, open_ns)
	),

	TP_fast_assign(
		__entry->id = v->vm->who.id;
		__entry->vcpu_id = v->id;
		__entry->window = v->window.clock.window;
		__entry->open_ns = v->vm->epoch_ns + max(v->window.clock.open_ns,
							 v->dirty.pause.until_ns);
	),

	TP_printk("id=%u vcpu=%u window=%llu open_ns=%llu", __entry->id,
		  __entry->vcpu_id, __entry->window, __entry->open_ns)
);

/* A VM has been let go: it is @dead, or else its throttle fd was closed. */
TRACE_EVENT(kvm_throttle_detach,
	TP_PROTO(const struct kvt_vm *vm, bool dead),
	TP_ARGS(vm, dead),

	TP_STRUCT__entry(
		__field(u32, id)
		__field(pid_t, pid)
		__field(bool, dead)
	),

	TP_fast_assign(
		__entry->id = vm->who.id;
		__entry->pid = vm->who.pid;
		__entry->dead = dead;
	),

	TP_printk("id=%u pid=%d dead=%d", __entry->id, __entry->pid,
		  __entry->dead)
);

#endif /* _KVM_THROTTLE_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace

#include <trace/define_trace.h>
