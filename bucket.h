/* SPDX-License-Identifier: GPL-2.0 */
/*
 * kvm_throttle: the arithmetic of the limit to the rate at which pages are dirtied.
 *
 * Pure code, as window.h: selftests/window_test.c compiles it as it is.  How the
 * module uses it is told at the top of dirty.c.
 *
 * A bucket is one number: when the pages that have been dirtied so far are due, that
 * is, would have been dirtied at exactly the rate.  Each page adds the time that it
 * takes at that rate.  A bucket that is due in the future is over; one that was due
 * in the past has a credit, of kvt_burst() at most.
 *
 * Times in buckets, and of pages, are in units of 1/16 ns since the VM's epoch.  At
 * the highest rate, a page is right by 1/3200 even so.  They wrap after 36 years.
 */
#ifndef _KVM_THROTTLE_BUCKET_H
#define _KVM_THROTTLE_BUCKET_H

#ifdef __KERNEL__
#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/time64.h>
#include <linux/types.h>
#endif

#include <linux/kvm_throttle.h>

#define KVT_BUCKET_SHIFT	4

/* A vCPU that is over by less goes on: a sleep that is shorter isn't worth its cost. */
#define KVT_QUANTUM_NS		(500 * NSEC_PER_USEC)

/* What is dirtied in less isn't charged for yet: to read the clock takes longer. */
#define KVT_BATCH_NS		(KVT_QUANTUM_NS / 4)

/* Credit, so that a vCPU that is woken late by no more than that gets its whole rate. */
#define KVT_BURST_NS		(10 * NSEC_PER_MSEC)

/* The most that a page costs. */
#define KVT_PAGE_NS_MAX		(NSEC_PER_SEC / KVM_THROTTLE_DIRTY_RATE_MIN)

/* The most that KVM marks as dirty for one exit, or on the way to an entry, without PML. */
#define KVT_EXIT_PAGES		6

/* The most that it does with PML: the CPU's list is full then. */
#define KVT_PML_PAGES		512

/* How long after its entry a guest has to exit to show its list; 0 is not at all. */
#define KVT_LOOK_NS_MIN		(2 * NSEC_PER_USEC)
#define KVT_LOOK_NS_MAX		(4 * NSEC_PER_MSEC)

/* The longest single sleep, unless more is dirtied while in debt. */
#define KVT_STALL_NS		(20 * NSEC_PER_MSEC)

/* The most that a vCPU is over by: a full list at the lowest rate. */
#define KVT_DEBT_NS_MAX		(KVT_PML_PAGES * KVT_PAGE_NS_MAX)

/* What is remembered of how far a vCPU is over its share while the VM isn't. */
#define KVT_KEEP_NS		(20 * NSEC_PER_MSEC)

/* What is left of a debt when the limit changes. */
#define KVT_CARRY_NS		(10 * NSEC_PER_MSEC)

/**
 * kvt_bucket_time() - a time on the VM's grid, in a bucket's unit
 * @ns: the time
 *
 * Return: the same time.
 */
static inline u64 kvt_bucket_time(u64 ns)
{
	return ns << KVT_BUCKET_SHIFT;
}

/**
 * kvt_bucket_ns() - a time in a bucket's unit, in nanoseconds
 * @time: the time
 *
 * Return: nanoseconds, rounded up.
 */
static inline u64 kvt_bucket_ns(u64 time)
{
	return (time + (1 << KVT_BUCKET_SHIFT) - 1) >> KVT_BUCKET_SHIFT;
}

/**
 * kvt_page_time() - what a page costs
 * @rate: pages a second, 0 to KVM_THROTTLE_DIRTY_RATE_MAX
 *
 * Return: its time; 0 if there is no limit.
 */
static inline u64 kvt_page_time(u64 rate)
{
	return rate ? div64_u64(kvt_bucket_time(NSEC_PER_SEC) + rate / 2, rate) : 0;
}

/**
 * kvt_share() - what a page costs where vCPUs share a limit
 * @page: what it costs at the whole rate; result: what to add to the VM's bucket
 * @sharers: how many vCPUs share that
 *
 * None waits longer for a page than KVT_PAGE_NS_MAX: the rate grows for it.
 *
 * Return: what to add to the vCPU's own bucket, which has its share.
 */
static inline u64 kvt_share(u64 *page, u32 sharers)
{
	u64 most = kvt_bucket_time(KVT_PAGE_NS_MAX);
	u32 n = max(sharers, 1U);

	*page = min(*page, div_u64(most, n));
	return *page * n;
}

/**
 * kvt_rate_in_force() - what kvt_share() makes of a rate
 * @rate: pages a second, or 0
 * @sharers: how many vCPUs share that
 *
 * Return: pages a second, or 0.
 */
static inline u64 kvt_rate_in_force(u64 rate, u32 sharers)
{
	u64 least = (u64)KVM_THROTTLE_DIRTY_RATE_MIN * max(sharers, 1U);

	return rate ? max(rate, least) : 0;
}

/**
 * kvt_burst() - the most credit that a bucket has
 * @sleep_ns: length of the sleep windows, in which a rate can't be used
 *
 * Return: a length of time in a bucket's unit.
 */
static inline u64 kvt_burst(u64 sleep_ns)
{
	return kvt_bucket_time(KVT_BURST_NS + sleep_ns);
}

/**
 * kvt_is_batch() - are some pages enough to be charged for?
 * @page: what each costs
 * @pages: how many there are; fewer were not
 *
 * Return: true if so.
 */
static inline bool kvt_is_batch(u64 page, u32 pages)
{
	return page * pages >= kvt_bucket_time(KVT_BATCH_NS);
}

/**
 * kvt_bucket_add() - pages are dirtied
 * @due: the bucket
 * @now: the time
 * @cost: what they cost
 * @burst: the most credit
 *
 * Return: what the bucket becomes.
 */
static inline u64 kvt_bucket_add(u64 due, u64 now, u64 cost, u64 burst)
{
	due = max(due, now > burst ? now - burst : 0) + cost;
	return min(due, now + kvt_bucket_time(KVT_DEBT_NS_MAX));
}

/**
 * kvt_bucket_is_over() - is it time to sleep?
 * @due: the bucket
 * @now: the time
 *
 * Return: true if so.
 */
static inline bool kvt_bucket_is_over(u64 due, u64 now)
{
	return due >= now + kvt_bucket_time(KVT_QUANTUM_NS);
}

/**
 * kvt_bucket_until() - until when a vCPU sleeps that is over
 * @due: the bucket, in which that is
 * @now: the time
 * @page: what a page costs the vCPU
 * @pages: how many it has dirtied since its last entry
 *
 * A full list of PML's is paid for in parts of KVT_STALL_NS.  If the vCPU was in debt
 * before these pages, or what it owes leaves no room for another full list, the part is at
 * least twice what they cost: to write between two parts gains nothing.
 *
 * Return: a time, @due at the latest.
 */
static inline u64 kvt_bucket_until(u64 due, u64 now, u64 page, u32 pages)
{
	u64 part = kvt_bucket_time(KVT_STALL_NS), cost = page * pages;
	u64 room = kvt_bucket_time(KVT_DEBT_NS_MAX) - KVT_PML_PAGES * page;
	u64 fine = cost + kvt_bucket_time(KVT_QUANTUM_NS + KVT_BATCH_NS);

	if (due - now > min(fine, room))
		part = max(part, 2 * cost);
	return min(due, now + part);
}

/**
 * kvt_look_sooner() - how long after an entry to have a guest exit that is over
 * @look_ns: what that was so far; 0: never
 * @over: by how much it is over
 * @page: what a page costs it
 *
 * Return: the same from now on.  It isn't shorter than it was if @over is what it would
 * be if each page were seen at once.
 */
static inline u64 kvt_look_sooner(u64 look_ns, u64 over, u64 page)
{
	u64 fine = page + kvt_bucket_time(KVT_QUANTUM_NS + KVT_BATCH_NS);

	if (over > fine)
		look_ns = max_t(u64, div64_u64(look_ns * fine, over),
				KVT_LOOK_NS_MIN);
	return look_ns;
}

/**
 * kvt_look_later() - how long after an entry to have a guest exit that wasn't over
 * @look_ns: what that was so far
 *
 * Return: the same from now on; 0: never.
 */
static inline u64 kvt_look_later(u64 look_ns)
{
	return look_ns > KVT_LOOK_NS_MAX / 2 ? 0 : 2 * look_ns;
}

/**
 * kvt_bucket_forget() - a vCPU may use what others leave of the VM's rate
 * @due: the bucket of its share
 * @now: the time
 * @vm_due: the VM's bucket
 *
 * Return: what its bucket becomes: no further over than the VM's, or than what is
 * remembered.
 */
static inline u64 kvt_bucket_forget(u64 due, u64 now, u64 vm_due)
{
	return min(due, max(vm_due, now + kvt_bucket_time(KVT_KEEP_NS)));
}

/**
 * kvt_bucket_renew() - the limit changes
 * @due: the bucket
 * @now: the time
 *
 * Return: what it becomes: no credit, and little debt.
 */
static inline u64 kvt_bucket_renew(u64 due, u64 now)
{
	return clamp(due, now, now + kvt_bucket_time(KVT_CARRY_NS));
}

#endif /* _KVM_THROTTLE_BUCKET_H */
