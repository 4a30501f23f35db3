/* SPDX-License-Identifier: GPL-2.0 */
/*
 * compat: in what order to wake tasks that share an idle CPU, which has to do with
 * how the scheduler forgets who has waited.  EEVDF keeps each task's lag, CFS,
 * before 6.6 and in RHEL 9, doesn't.
 *
 * Variants: EEVDF CFS
 * Missing: a scheduler that is EEVDF or CFS
 */
#ifndef _KVM_THROTTLE_COMPAT_WAKE_ORDER_H
#define _KVM_THROTTLE_COMPAT_WAKE_ORDER_H

#include <linux/minmax.h>
#include <linux/sched.h>

#ifdef KVT_WAKE_ORDER_EEVDF
static_assert(sizeof_field(struct sched_entity, vlag));
#else
static_assert(sizeof_field(struct sched_entity, vruntime));
#endif

/**
 * kvt_wake_order() - when to wake a task among others that are woken at one time
 * @age: how many windows ago it ran
 *
 * EEVDF forgets the lag of the first one to come: let it be one that ran.  CFS
 * makes tasks that slept equal, and takes them as they come: let them come in
 * turn, but for those that have just run, which are still behind.
 *
 * Return: nanoseconds after that time.
 */
static inline u64 kvt_wake_order(u64 age)
{
	const u64 last = 255;

#ifdef KVT_WAKE_ORDER_EEVDF
	return min(age, last);
#else
	return age ? last - min(age, last - 1) : 0;
#endif
}

#endif /* _KVM_THROTTLE_COMPAT_WAKE_ORDER_H */
