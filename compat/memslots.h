/* SPDX-License-Identifier: GPL-2.0 */
/*
 * compat: going through a VM's memory slots, which are in trees since 5.17, and were in
 * an array before.
 *
 * Variants: TREE ARRAY
 * Missing: kvm_for_each_memslot() as 5.17 or 5.16 has it
 */
#ifndef _KVM_THROTTLE_COMPAT_MEMSLOTS_H
#define _KVM_THROTTLE_COMPAT_MEMSLOTS_H

#include <linux/kvm_host.h>

/**
 * kvt_logged_pages() - of how many pages of guest memory does KVM log that they are dirtied?
 * @kvm: the VM; the caller is in a reader's section of kvm->srcu
 *
 * Return: how many; those of the memory that x86 has for SMM aren't among them.
 */
static inline u64 kvt_logged_pages(struct kvm *kvm)
{
	struct kvm_memslots *slots = kvm_memslots(kvm);
	struct kvm_memory_slot *slot;
	u64 pages = 0;
#ifdef KVT_MEMSLOTS_TREE
	int bucket;

	kvm_for_each_memslot(slot, bucket, slots)
#else
	kvm_for_each_memslot(slot, slots)
#endif
		pages += kvm_slot_dirty_track_enabled(slot) ? slot->npages : 0;
	return pages;
}

#endif /* _KVM_THROTTLE_COMPAT_MEMSLOTS_H */
