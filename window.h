/* SPDX-License-Identifier: GPL-2.0 */
/*
 * kvm_throttle: the arithmetic of the run and sleep windows.
 *
 * Pure code: it reads no clock, takes no lock and knows no vCPU, so that
 * selftests/window_test.c can compile it as it is and try its corners without
 * a VM.  How the module uses it is told at the top of kvm_throttle.c.
 *
 * Lateness is judged for the VM on each CPU (struct kvt_cpu), not for each vCPU:
 * while one vCPU waits for a sibling that has the CPU, the VM runs, and nothing
 * is lost.  So a VM has one window on each CPU that its vCPUs run on: the first
 * vCPU to come settles where it ends, and the others share it, each as far as it
 * is due to itself.  A vCPU that was woken on another CPU than its own, and finds
 * the window there over, uses its own CPU's window if nobody else needs that.
 *
 * The long-run share is exact, as long as windows start and end late by less than
 * a period, and by less than what kvt_repay_most() and kvt_debt_most() allow.
 *
 * All times are nanoseconds on the VM's grid, that is, since its epoch: a grid
 * that starts at 0 can't wrap.
 */
#ifndef _KVM_THROTTLE_WINDOW_H
#define _KVM_THROTTLE_WINDOW_H

#ifdef __KERNEL__
#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/time64.h>
#include <linux/types.h>
#endif

#include <linux/kvm_throttle.h>

/*
 * A shorter window would mostly be spent on getting into and out of the guest.  Not
 * a round number, so that a period which follows from it is no multiple of the tick.
 */
#define KVT_WINDOW_MIN_NS	(97 * NSEC_PER_USEC)

/* How many windows' worth of lateness is remembered, to be repaid... */
#define KVT_REPAY_WINDOWS	16

/* ...unless the repayment would take longer than this. */
#define KVT_REPAY_NS		(200 * NSEC_PER_MSEC)

/* Of debts, so many times both: guests can run them up on purpose, by long exits. */
#define KVT_DEBT_TIMES		4

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
 * @window: last window in which a vCPU of the VM was let into the guest here
 * @users: how many vCPUs were, in that window
 * @open_ns: when the first one was, or would have been if it had not had to wait
 * @close_ns: end of that window on this CPU
 * @repaid_ns: the part of that which repaid @cost_ns
 * @cost_ns: what it has taken to open windows since; the next one is longer by that
 */
struct kvt_cpu {
	u64 grid;
	u64 window;
	u64 users;
	u64 open_ns;
	u64 close_ns;
	u64 repaid_ns;
	u64 cost_ns;
};

/**
 * struct kvt_clock - a vCPU's place on its grid
 * @window: window that @close_ns belongs to, KVT_NO_WINDOW before the first
 * @open_ns: the vCPU stays out of the guest until then
 * @close_ns: end of the run window; past the end of the period if the vCPU is
 *	owed more than is left of that
 * @debt_ns: run time that the vCPU has had beyond its share
 * @used: the last window in which it was let into the guest
 */
struct kvt_clock {
	u64 window;
	u64 open_ns;
	u64 close_ns;
	u64 debt_ns;
	u64 used;
};

/**
 * struct kvt_late - what came between a window's opening and the guest
 * @slept: the vCPU slept until the window opened; otherwise it comes in its own
 *	time, and the window has not waited for it
 * @waited_ns: how long another VM or task had the CPU meanwhile, which is lost
 *	without a throttle too
 * @first: result: the vCPU has settled the window's end
 * @took_home: result: that of its own CPU's window, not of the one that it is on
 * @held_ns: result: for how long no window was open since the vCPU was to be
 *	woken, for the VM on its CPU
 */
struct kvt_late {
	bool slept;
	u64 waited_ns;
	bool first;
	bool took_home;
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

/* The most that is owed by a vCPU. */
static inline u64 kvt_debt_most(const struct kvt_grid *g)
{
	return kvt_run_time(g, KVT_DEBT_TIMES * KVT_REPAY_WINDOWS,
			    KVT_DEBT_TIMES * KVT_REPAY_NS);
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
	c->used = KVT_NO_WINDOW;
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

/*
 * How many run windows have passed: from @from, or from the last that @cpu knows
 * of, to window @n, or to when the vCPU was woken if that was earlier.
 */
static inline u64 kvt_missed(const struct kvt_grid *g, const struct kvt_cpu *cpu,
			     u64 from, u64 n, u64 t, const struct kvt_late *late)
{
	u64 woken = div64_u64(t - min(late->waited_ns, t), g->period_ns);
	u64 due = div64_u64(from, g->period_ns);

	if (cpu && cpu->window != KVT_NO_WINDOW && cpu->window >= due)
		due = cpu->window + 1;
	n = min(n, woken);
	return n > due ? n - due : 0;
}

/* The run time of @missed windows and the one that is open. */
static inline u64 kvt_owed(const struct kvt_grid *g, u64 missed)
{
	return min(g->run_ns * (missed + 1), kvt_repay_most(g));
}

/* May a vCPU that is on another CPU use the window @n of @home, its own CPU? */
static inline bool kvt_may_take(const struct kvt_clock *c,
				const struct kvt_cpu *home, u64 n)
{
	return home && home->window != n && home->window == c->used &&
	       home->users == 1;
}

/* The window of @cpu that opens now ends at @close_ns. */
static inline void kvt_settle_cpu(struct kvt_cpu *cpu, u64 open_ns, u64 close_ns)
{
	cpu->open_ns = open_ns;
	cpu->close_ns = close_ns;
	cpu->repaid_ns = cpu->cost_ns;
	cpu->cost_ns = 0;
}

/*
 * Settle the end of window @n for a vCPU that comes from a sleep: on @cpu, whose
 * window it opens, or by that of @home.
 */
static inline void kvt_open_slept(const struct kvt_grid *g, struct kvt_clock *c,
				  struct kvt_cpu *cpu, struct kvt_cpu *home,
				  u64 n, u64 t, struct kvt_late *late)
{
	u64 missed = kvt_missed(g, NULL, c->open_ns, n, t, late);
	u64 start = n * g->period_ns, owed;

	if (cpu->window != n) {
		missed = kvt_missed(g, cpu, c->open_ns, n, t, late);
		owed = kvt_owed(g, missed);
		late->held_ns = owed - g->run_ns;
		start = max(start, t - min(late->waited_ns, t));
		/* However long it had to wait, it gets to run. */
		c->close_ns = max(start + owed + cpu->cost_ns, t + g->run_ns / 2);
		kvt_settle_cpu(cpu, start, c->close_ns);
		late->first = true;
	} else if (kvt_may_take(c, home, n)) {
		c->close_ns = t + g->run_ns;
		kvt_settle_cpu(home, t, c->close_ns);
		late->first = true;
		late->took_home = true;
	} else {
		c->close_ns = min(cpu->close_ns, cpu->open_ns + cpu->repaid_ns +
						 kvt_owed(g, missed));
	}
}

/* The same for one that comes in its own time. */
static inline void kvt_open_awake(const struct kvt_grid *g, struct kvt_clock *c,
				  const struct kvt_cpu *cpu, u64 n, u64 t)
{
	if (cpu->window == n) {
		c->close_ns = min(cpu->close_ns,
				  cpu->open_ns + cpu->repaid_ns + g->run_ns);
	} else if (kvt_runs_on(g, c)) {
		/* It was owed the time until now, so this window is still due. */
		c->close_ns = min(c->close_ns + (n - c->window) * g->run_ns,
				  t + kvt_repay_most(g));
		c->window = n;
		if (t > c->close_ns)
			kvt_charge(g, c, c->close_ns, t);
	} else {
		c->close_ns = n * g->period_ns + g->run_ns;
	}
}

/* Settle when the run window @n ends for a vCPU that looks at it first at @t. */
static inline void kvt_open(const struct kvt_grid *g, struct kvt_clock *c,
			    struct kvt_cpu *cpu, struct kvt_cpu *home, u64 n,
			    u64 t, struct kvt_late *late)
{
	u64 repay;

	if (late->slept)
		kvt_open_slept(g, c, cpu, home, n, t, late);
	else
		kvt_open_awake(g, c, cpu, n, t);
	c->window = n;
	if (t >= c->close_ns)
		return;

	cpu = late->took_home ? home : cpu;
	if (cpu->window == n) {
		cpu->users++;
	} else {
		cpu->window = n;
		cpu->users = 1;
		if (!late->slept)
			kvt_settle_cpu(cpu, n * g->period_ns, c->close_ns);
	}
	c->used = n;

	/* Repay at most half a window, so that none is too short to use. */
	repay = min(c->debt_ns, g->run_ns / 2);
	c->close_ns -= repay;
	c->debt_ns -= repay;
}

/**
 * kvt_is_over() - has a vCPU that is still to be let in missed its window?
 * @g: the vCPU's grid
 * @c: the vCPU's clock
 * @cpu: how far the CPU that it is on has given the VM its windows
 * @home: the same of the CPU that it had its last window on, if that is another
 *	one; NULL otherwise
 * @t: now
 *
 * Return: true if kvt_may_run() would say no to one that comes from a sleep.
 */
static inline bool kvt_is_over(const struct kvt_grid *g, const struct kvt_clock *c,
			       const struct kvt_cpu *cpu,
			       const struct kvt_cpu *home, u64 t)
{
	u64 n = div64_u64(t, g->period_ns);

	if (c->window == n)
		return t >= c->close_ns;
	return cpu->window == n && t >= cpu->close_ns && !kvt_may_take(c, home, n);
}

/**
 * kvt_may_run() - may a vCPU enter the guest now?
 * @g: the vCPU's grid
 * @c: the vCPU's clock
 * @cpu: how far the CPU that it is on has given the VM its windows
 * @home: the same of the CPU that it had its last window on, if that is another
 *	one; NULL otherwise
 * @t: now
 * @late: what came between, if it comes from a sleep
 *
 * Return: true if it may, until @c->close_ns; false if it has to sleep until
 * @c->open_ns.
 */
static inline bool kvt_may_run(const struct kvt_grid *g, struct kvt_clock *c,
			       struct kvt_cpu *cpu, struct kvt_cpu *home, u64 t,
			       struct kvt_late *late)
{
	u64 n = div64_u64(t, g->period_ns);
	u64 skip;

	late->first = false;
	late->took_home = false;
	late->held_ns = 0;
	if (t < c->open_ns)
		return false;
	if (c->window != n)
		kvt_open(g, c, cpu, home, n, t, late);
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

#endif /* _KVM_THROTTLE_WINDOW_H */
