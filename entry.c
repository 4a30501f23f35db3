// SPDX-License-Identifier: GPL-2.0-only
/*
 * kvm_throttle: seeing, and refusing, KVM's entries into the guest.
 *
 * KVM's tracepoint kvm_entry is called in the vCPU's thread right before each
 * entry, with interrupts off and after KVM's last look at what is requested of
 * the vCPU.  So a vCPU that is let pass here is in the guest next, and an interrupt
 * that is sent after that forces it out again.
 *
 * The probe is there while any throttle is in force.  It is called for all VMs: one
 * that isn't throttled pays a look into a hash.
 */

#include <linux/hashtable.h>
#include <linux/irq_work.h>
#include <linux/kvm_host.h>
#include <linux/percpu.h>
#include <linux/string.h>
#include <linux/tracepoint.h>

#include "kvm_throttle.h"

/*
 * kvm_entry and what it is called with.  KVM doesn't ship its trace.h, so nothing
 * checks this where it is built: the probe doesn't use the arguments, but with kCFI
 * their types have to be right.
 */
#ifdef CONFIG_X86
#define KVT_ENTRY_ARGS	struct kvm_vcpu *entering, bool immediate

static struct tracepoint *kvt_entry_tracepoint(void)
{
	return &__tracepoint_kvm_entry;
}
#else
#define KVT_ENTRY_ARGS	unsigned long pc

static void kvt_match_entry(struct tracepoint *tp, void *found)
{
	if (!strcmp(tp->name, "kvm_entry"))
		*(struct tracepoint **)found = tp;
}

/* Not exported there, but KVM is never a module. */
static struct tracepoint *kvt_entry_tracepoint(void)
{
	struct tracepoint *found = NULL;

	for_each_kernel_tracepoint(kvt_match_entry, &found);
	return found;
}
#endif

DEFINE_HASHTABLE(kvt_watched, KVT_HASH_BITS);
static DEFINE_SPINLOCK(kvt_watched_lock);

static struct tracepoint *kvt_tracepoint;

static void kvt_refused(struct irq_work *work)
{
}

static DEFINE_PER_CPU(struct irq_work, kvt_futile);

void kvt_entry_refuse(void)
{
	irq_work_queue(this_cpu_ptr(&kvt_futile));
}

/* A vCPU of @vm is about to enter the guest. */
static noinline void kvt_entry_of(struct kvt_vm *vm, struct kvm_vcpu *vcpu)
{
	struct kvt_vcpu *v = READ_ONCE(vm->vcpus[vcpu->vcpu_idx]);
	enum kvt_state state;
	bool looked;

	if (!v) {
		kvt_vcpu_admit(vm, vcpu);
		return;
	}
	state = READ_ONCE(v->state);
	if (state == KVT_FREE)
		return;
	looked = state != KVT_OPEN || v->dirty.pause.until_ns ||
		 READ_ONCE(v->task) != current ||
		 READ_ONCE(v->cpu) != smp_processor_id();
	if (looked && !kvt_vcpu_enter(v))
		return;
	/* It enters.  A new setting has made it CLOSED, so it was looked at once. */
	v->dirty.bucket.pages_at_entry = v->dirty.pages;
	if (v->dirty.look.delay_ns || (looked && READ_ONCE(v->dirty.limit.page_time)))
		kvt_dirty_set_look(v);
}

static void kvt_entry(void *unused, KVT_ENTRY_ARGS)
{
	struct kvm_vcpu *vcpu = kvt_loaded_vcpu();
	struct kvt_vm *vm = kvt_find(vcpu->kvm);

	if (unlikely(vm))
		kvt_entry_of(vm, vcpu);
}

/* Before other probes, so that they see what is decided here. */
static int kvt_entry_register(void)
{
	return tracepoint_probe_register_prio(kvt_tracepoint, kvt_entry, NULL,
					      INT_MAX);
}

static void kvt_entry_unregister(void)
{
	tracepoint_probe_unregister(kvt_tracepoint, kvt_entry, NULL);
}

KVT_DEFINE_PROBE(kvt_entry_probe, kvt_entry_register, kvt_entry_unregister);

void kvt_entry_add(struct kvt_vm *vm, bool add)
{
	lockdep_assert_held(&vm->lock);

	if (add == vm->watched)
		return;
	vm->watched = add;
	if (add)
		kvt_probe_get_again(&kvt_entry_probe);
	spin_lock(&kvt_watched_lock);
	if (add)
		hash_add_rcu(kvt_watched, &vm->node, (unsigned long)vm->key);
	else
		hash_del_rcu(&vm->node);
	spin_unlock(&kvt_watched_lock);
	if (!add)
		kvt_probe_put(&kvt_entry_probe);
}

int __init kvt_entry_init(void)
{
	struct irq_work *futile;
	int cpu;

	for_each_possible_cpu(cpu) {
		futile = per_cpu_ptr(&kvt_futile, cpu);
		*futile = IRQ_WORK_INIT_HARD(kvt_refused);
	}
	kvt_tracepoint = kvt_entry_tracepoint();
	return kvt_tracepoint ? 0 : -ENOENT;
}

void kvt_entry_exit(void)
{
	int cpu;

	kvt_probe_exit(&kvt_entry_probe);
	tracepoint_synchronize_unregister();
	for_each_possible_cpu(cpu)
		irq_work_sync(per_cpu_ptr(&kvt_futile, cpu));
}
