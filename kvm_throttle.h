/* SPDX-License-Identifier: GPL-2.0 */
/*
 * kvm_throttle: the arithmetic of the run and sleep windows.
 *
 * Pure code: it reads no clock, takes no lock and knows no vCPU, so that
 * selftests/window_test.c can compile it as it is and try its corners without
 * a VM.  How the module uses it is told at the top of kvm_throttle.c.
 *
 * The loop is closed: the long-run share is exact while windows start and end
 * late by less than a period, and by less than what kvt_repay_most() and
 * kvt_debt_most() allow.
 *
 * All times are nanoseconds on the VM's grid, that is, since its epoch: a grid
 * that starts at 0 can't wrap.
 */
#ifndef _KVM_THROTTLE_H
#define _KVM_THROTTLE_H

#ifdef __KERNEL__
#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/time64.h>
#include <linux/types.h>
#endif

#include <linux/kvm_throttle.h>

/*
 * A shorter window is mostly spent on getting into and out of the guest.  Where
 * this sets the period, it keeps that from being a multiple of the clock's tick.
 */
#define KVT_WINDOW_MIN_NS	(97 * NSEC_PER_USEC)

/*
 * How many windows' worth of lateness is remembered, to be repaid; of debts,
 * twice as many...
 */
#define KVT_REPAY_WINDOWS	16

/* ...unless the repayment would take longer than this; for debts, twice that. */
#define KVT_REPAY_NS		(200 * NSEC_PER_MSEC)

/* No window has this number: it would start after 584 years. */
#define KVT_NO_WINDOW		U64_MAX

/**
 * struct kvt_grid - run and sleep windows of a VM or of one vCPU
 * @period_ns: length of a run window and a sleep window together, 0 if the
 *	guest runs all the time
 * @run_ns: length of the run window, which comes first
 */
struct kvt_grid {
	u64 period_ns;
	u64 run_ns;
};

/**
 * struct kvt_cpu - how far a CPU has given a VM its run windows
 * @grid: serial number of the grid that the rest speaks of
 * @window: last window in which a vCPU of the VM entered the guest on this CPU
 * @open_ns: when the first one did, or would have if it had not had to wait
 * @close_ns: end of that window on this CPU
 *
 * This is what lateness is judged by: while one vCPU waits for a sibling that
 * has the CPU, the VM runs, and nothing is lost.
 */
struct kvt_cpu {
	u64 grid;
	u64 window;
	u64 open_ns;
	u64 close_ns;
};

/**
 * struct kvt_clock - a vCPU's place on its grid
 * @window: window that @close_ns belongs to, KVT_NO_WINDOW before the first
 * @open_ns: the vCPU stays out of the guest until then
 * @close_ns: end of the run window; past the end of the period if the vCPU is
 *	owed more than is left of that
 * @debt_ns: run time that the vCPU has had too much
 */
struct kvt_clock {
	u64 window;
	u64 open_ns;
	u64 close_ns;
	u64 debt_ns;
};

/**
 * struct kvt_late - what came between a window's opening and the guest
 * @slept: the vCPU slept until the window opened; otherwise it comes in its own
 *	time, and the window has not waited for it
 * @waited_ns: how long another VM or task had the CPU meanwhile, which is lost
 *	without a throttle too
 * @entry_ns: how much longer than without a throttle it still takes to enter
 *	the guest
 * @first: result: the vCPU is the first to enter the guest on its CPU
 * @held_ns: result: for how long no window was open since the vCPU was to be
 *	woken, for the VM on its CPU
 */
struct kvt_late {
	bool slept;
	u64 waited_ns;
	u64 entry_ns;
	bool first;
	u64 held_ns;
};

/**
 * kvt_grid_init() - the windows for a percentage
 * @g: result
 * @percent_x100: share to sleep, in hundredths of a percent, 0 to
 *	KVM_THROTTLE_PERCENT_MAX
 * @period_ns: wanted period, KVM_THROTTLE_PERIOD_MIN_NS to
 *	KVM_THROTTLE_PERIOD_MAX_NS, or 0 for the default
 *
 * The period grows where one of its windows would be shorter than
 * KVT_WINDOW_MIN_NS; it never passes KVM_THROTTLE_PERIOD_MAX_NS.
 */
static inline void kvt_grid_init(struct kvt_grid *g, u32 percent_x100,
				 u64 period_ns)
{
	u32 all = KVM_THROTTLE_PERCENT_MAX + 1;
	u32 shorter = min(percent_x100, all - percent_x100);

	if (!percent_x100) {
		g->period_ns = 0;
		g->run_ns = 0;
		return;
	}

	if (!period_ns)
		period_ns = KVM_THROTTLE_PERIOD_DEFAULT_NS;
	g->period_ns = max(period_ns,
			   div64_u64((u64)KVT_WINDOW_MIN_NS * all + shorter - 1,
				     shorter));
	g->run_ns = div64_u64(g->period_ns * (all - percent_x100), all);
}

/* The run time of @windows, or of fewer if their periods take more than @ns. */
static inline u64 kvt_run_time(const struct kvt_grid *g, u64 windows, u64 ns)
{
	return g->run_ns * clamp(div64_u64(ns, g->period_ns), (u64)1, windows);
}

/* The most run time that is owed to a vCPU. */
static inline u64 kvt_repay_most(const struct kvt_grid *g)
{
	return kvt_run_time(g, KVT_REPAY_WINDOWS, KVT_REPAY_NS);
}

/*
 * The most that is owed by a vCPU.  It is more, as guests can run up debts on
 * purpose, by exits that take long.
 */
static inline u64 kvt_debt_most(const struct kvt_grid *g)
{
	return kvt_run_time(g, 2 * KVT_REPAY_WINDOWS, 2 * KVT_REPAY_NS);
}

/**
 * kvt_clock_init() - put a vCPU on a new grid
 * @c: the vCPU's clock
 */
static inline void kvt_clock_init(struct kvt_clock *c)
{
	c->window = KVT_NO_WINDOW;
	c->open_ns = 0;
	c->close_ns = 0;
	c->debt_ns = 0;
}

/* Time in sleep windows before @t, if all of them were on time. */
static inline u64 kvt_sleep_before(const struct kvt_grid *g, u64 t)
{
	u64 n = div64_u64(t, g->period_ns);
	u64 into = t - n * g->period_ns;

	return n * (g->period_ns - g->run_ns) +
	       (into > g->run_ns ? into - g->run_ns : 0);
}

/**
 * kvt_held_ns() - for how long a vCPU that wanted to run found no window open
 * @g: the vCPU's grid
 * @from: when its window closed, be that early or late
 * @to: until when
 *
 * Return: nanoseconds; 0 if @to is before @from.
 */
static inline u64 kvt_held_ns(const struct kvt_grid *g, u64 from, u64 to)
{
	u64 end = (div64_u64(from, g->period_ns) + 1) * g->period_ns;

	if (to <= from)
		return 0;
	if (to <= end)
		return to - from;
	return end - from + kvt_sleep_before(g, to) - kvt_sleep_before(g, end);
}

/* Does the run window end in a later period than the one it began in? */
static inline bool kvt_runs_on(const struct kvt_grid *g,
			       const struct kvt_clock *c)
{
	return c->window != KVT_NO_WINDOW &&
	       c->close_ns > (c->window + 1) * g->period_ns;
}

/**
 * kvt_charge() - a vCPU ran when it should have slept
 * @g: the vCPU's grid
 * @c: the vCPU's clock
 * @from: since when, which is when its window closed or later
 * @to: until when
 *
 * Later windows are shorter or fewer for it.  The debt is bounded, so that no
 * vCPU starves.
 */
static inline void kvt_charge(const struct kvt_grid *g, struct kvt_clock *c,
			      u64 from, u64 to)
{
	u64 most = kvt_debt_most(g);
	u64 ns;

	/* What it was owed took it into the next run window. */
	if (kvt_runs_on(g, c))
		return;

	/* If a new window has opened meanwhile, it was entitled to that. */
	ns = to < c->open_ns ? to - from : kvt_held_ns(g, from, to);
	c->debt_ns = min(c->debt_ns + min(ns, most), most);
}

/*
 * For how long the VM had no window open on @cpu, from the start of one at
 * @from to @to.
 */
static inline u64 kvt_closed_ns(const struct kvt_grid *g,
				const struct kvt_cpu *cpu, u64 from, u64 to)
{
	u64 n = div64_u64(to, g->period_ns);
	u64 start = n * g->period_ns;
	u64 open = start, close = start + g->run_ns;

	if (cpu->window == n) {
		open = cpu->open_ns;
		close = cpu->close_ns;
	}
	return kvt_sleep_before(g, start) - kvt_sleep_before(g, from) +
	       open - start + (to > close ? to - close : 0);
}

/* The run time that a vCPU which slept finds when it comes late to window @n. */
static inline u64 kvt_owed(const struct kvt_grid *g, const struct kvt_clock *c,
			   const struct kvt_cpu *cpu, u64 n)
{
	u64 due = div64_u64(c->open_ns, g->period_ns);

	if (cpu->window != KVT_NO_WINDOW && cpu->window >= due)
		due = cpu->window + 1;
	return min(g->run_ns * (n - due + 1), kvt_repay_most(g));
}

/* Settle when the run window @n ends for a vCPU that looks at it first at @t. */
static inline void kvt_open(const struct kvt_grid *g, struct kvt_clock *c,
			    struct kvt_cpu *cpu, u64 n, u64 t,
			    struct kvt_late *late)
{
	u64 start = n * g->period_ns;
	u64 open = start, owed, repay;

	if (cpu->window == n) {
		c->close_ns = cpu->close_ns;
	} else if (late->slept) {
		owed = kvt_owed(g, c, cpu, n);
		late->held_ns = owed - g->run_ns;
		open = max(start, t + late->entry_ns - min(late->waited_ns, t));
		/* However long it had to wait, it gets to run. */
		c->close_ns = max(open + owed, t + g->run_ns / 2);
	} else if (kvt_runs_on(g, c)) {
		/* It was owed the time until now, so this window is still due. */
		c->close_ns = min(c->close_ns + (n - c->window) * g->run_ns,
				  t + kvt_repay_most(g));
		c->window = n;
		if (t > c->close_ns)
			kvt_charge(g, c, c->close_ns, t);
	} else {
		c->close_ns = start + g->run_ns;
	}
	c->window = n;
	if (t >= c->close_ns)
		return;

	if (cpu->window != n) {
		cpu->window = n;
		cpu->open_ns = open;
		cpu->close_ns = c->close_ns;
		late->first = late->slept;
	}

	/* Repay at most half a window, so that none is too short to use. */
	repay = min(c->debt_ns, g->run_ns / 2);
	c->close_ns -= repay;
	c->debt_ns -= repay;
}

/**
 * kvt_may_run() - may a vCPU enter the guest now?
 * @g: the vCPU's grid
 * @c: the vCPU's clock
 * @cpu: how far the CPU that it is on has given the VM its windows
 * @t: now
 * @late: what came between, if it comes from a sleep
 *
 * Return: true if it may, until @c->close_ns; false if it has to sleep until
 * @c->open_ns.
 */
static inline bool kvt_may_run(const struct kvt_grid *g, struct kvt_clock *c,
			       struct kvt_cpu *cpu, u64 t,
			       struct kvt_late *late)
{
	u64 n = div64_u64(t, g->period_ns);
	u64 skip;

	late->first = false;
	late->held_ns = 0;
	if (t < c->open_ns)
		return false;
	if (c->window != n)
		kvt_open(g, c, cpu, n, t, late);
	if (late->slept)
		late->held_ns += kvt_closed_ns(g, cpu, c->open_ns, t);
	if (t < c->close_ns)
		return true;

	/* A debt of whole windows is slept off in one piece. */
	skip = div64_u64(c->debt_ns, g->run_ns);
	c->debt_ns -= skip * g->run_ns;
	c->open_ns = (n + 1 + skip) * g->period_ns;
	return false;
}

#endif /* _KVM_THROTTLE_H */
