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

#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/sched.h>
#include <linux/time64.h>

#ifdef KVT_WAKE_ORDER_EEVDF
static_assert(sizeof_field(struct sched_entity, vlag));
#else
static_assert(sizeof_field(struct sched_entity, vruntime));
#endif

/* A nanosecond later for so much less run time. */
#define KVT_WAKE_STEP_NS	(256 * NSEC_PER_USEC)
#define KVT_WAKE_STEPS		16

/**
 * kvt_wake_order() - when to wake a task among others that are woken at one time
 * @age: how many windows ago it ran
 * @ahead_ns: how much more it has run than another one of them
 *
 * EEVDF forgets the lag of the first one to come: let it be one that ran, and of those the
 * one that has run most, to which nothing is owed.  CFS makes tasks that slept equal, and
 * takes them as they come: let them come in turn, but for those that have just run, which
 * are still behind.
 *
 * Return: nanoseconds after that time.
 */
#ifdef KVT_WAKE_ORDER_EEVDF
static inline u64 kvt_wake_order(u64 age, s64 ahead_ns)
{
	const u64 last = KVT_WAKE_STEPS - 1;
	s64 behind = -div_s64(ahead_ns, KVT_WAKE_STEP_NS);

	return min(age, last) * KVT_WAKE_STEPS +
	       clamp_t(s64, KVT_WAKE_STEPS / 2 + behind, 0, last);
}
#else
static inline u64 kvt_wake_order(u64 age, s64 ahead_ns)
{
	const u64 last = 255;

	return age ? last - min(age, last - 1) : 0;
}
#endif

#endif /* _KVM_THROTTLE_COMPAT_WAKE_ORDER_H */
