/* SPDX-License-Identifier: GPL-2.0 */
/*
 * compat: in what order to wake tasks that share an idle CPU, which has to do with
 * how the scheduler forgets who has waited.  EEVDF keeps each task's lag; since 6.12 it
 * dequeues a task that has run too much only when that is made up for.  CFS, before 6.6
 * and in RHEL 9, keeps none.
 *
 * Variants: DELAYED EEVDF CFS
 * Missing: a scheduler that is EEVDF or CFS
 */
#ifndef _KVM_THROTTLE_COMPAT_WAKE_ORDER_H
#define _KVM_THROTTLE_COMPAT_WAKE_ORDER_H

#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/sched.h>
#include <linux/time64.h>

#if defined(KVT_WAKE_ORDER_DELAYED)
static_assert(sizeof_field(struct sched_entity, vlag));
static_assert(offsetof(struct sched_entity, sched_delayed));
#elif defined(KVT_WAKE_ORDER_EEVDF)
static_assert(sizeof_field(struct sched_entity, vlag));
#else
static_assert(sizeof_field(struct sched_entity, vruntime));
#endif

/* So much more run time wakes a task a nanosecond earlier. */
#define KVT_WAKE_STEP_NS	(256 * NSEC_PER_USEC)
#define KVT_WAKE_STEPS		16

/**
 * kvt_wake_order() - when to wake a task among others that are woken at one time
 * @age: how many windows ago it ran
 * @ahead_ns: how much more it has run than another one of them; only for DELAYED
 *
 * EEVDF forgets the lag of the first one to come: let it be one that ran.  Where that is
 * dequeued late, let it be the one that has run most, as its lag is 0 by then.  CFS makes
 * tasks that slept equal, and takes them as they come: let them come in turn, but for
 * those that have just run, which are still behind.
 *
 * Return: nanoseconds after that time.
 */
static inline u64 kvt_wake_order(u64 age, s64 ahead_ns)
{
#if defined(KVT_WAKE_ORDER_DELAYED)
	const u64 last = KVT_WAKE_STEPS - 1;
	s64 behind = -div_s64(ahead_ns, KVT_WAKE_STEP_NS);

	return min(age, last) * KVT_WAKE_STEPS +
	       clamp_t(s64, KVT_WAKE_STEPS / 2 + behind, 0, last);
#elif defined(KVT_WAKE_ORDER_EEVDF)
	return min(age, 255ULL);
#else
	return age ? 255 - min(age, 254ULL) : 0;
#endif
}

#endif /* _KVM_THROTTLE_COMPAT_WAKE_ORDER_H */
