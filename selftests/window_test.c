// SPDX-License-Identifier: GPL-2.0
/*
 * The arithmetic of the run and sleep windows, and of the limit to the rate of dirtying
 * pages, at its corners.  Needs no VM, no module and no privileges.
 */
#include <stdbool.h>
#include <stdlib.h>

#include <linux/kernel.h>
#include <linux/types.h>

#include "kselftest_harness.h"

/* As in the kernel, but for the checks of types. */
#ifndef clamp
#define clamp(x, low, high)	min(max(x, low), high)
#endif

#define NSEC_PER_USEC	1000L
#define NSEC_PER_MSEC	1000000L
#define NSEC_PER_SEC	1000000000L
#ifndef U64_MAX
#define U64_MAX		((u64)~0ULL)
#endif

static u64 div64_u64(u64 a, u64 b)
{
	return a / b;
}

static u64 div_u64(u64 a, u32 b)
{
	return a / b;
}

#include "../bucket.h"
#include "../window.h"

#define MS	((u64)NSEC_PER_MSEC)

/* One vCPU, alone on its CPU, whose windows are 6 ms and 4 ms long. */
FIXTURE(window) {
	struct kvt_grid grid;
	struct kvt_clock clock;
	struct kvt_cpu cpu;
};

FIXTURE_SETUP(window)
{
	kvt_grid_init(&self->grid, 4000, 10 * MS);
	kvt_clock_init(&self->clock);
	self->cpu = (struct kvt_cpu) { .window = KVT_NO_WINDOW };
}

FIXTURE_TEARDOWN(window)
{
}

#define MAY_RUN(t, ...) ({						\
	struct kvt_late late = { __VA_ARGS__ };				\
									\
	kvt_may_run(&self->grid, &self->clock, &self->cpu, NULL, t, &late); \
})

static void check_grid(struct __test_metadata *_metadata, u32 percent_x100,
		       u64 period_ns)
{
	struct kvt_grid g;
	double share;

	kvt_grid_init(&g, percent_x100, period_ns);
	EXPECT_GE(g.run_ns, KVT_WINDOW_MIN_NS);
	EXPECT_GE(g.period_ns - g.run_ns, KVT_WINDOW_MIN_NS);
	EXPECT_GE(g.period_ns, period_ns ?: KVM_THROTTLE_PERIOD_DEFAULT_NS);
	EXPECT_LE(g.period_ns, KVM_THROTTLE_PERIOD_MAX_NS);
	share = (double)(g.period_ns - g.run_ns) / g.period_ns;
	EXPECT_LT(__builtin_fabs(share * 10000 - percent_x100), 0.01) {
		TH_LOG("%u of period %llu: %f", percent_x100,
		       (unsigned long long)period_ns, share);
	}
}

TEST(every_percentage_has_useful_windows)
{
	u32 percent_x100;

	for (percent_x100 = 1; percent_x100 <= KVM_THROTTLE_PERCENT_MAX;
	     percent_x100++) {
		check_grid(_metadata, percent_x100, 0);
		check_grid(_metadata, percent_x100, KVM_THROTTLE_PERIOD_MIN_NS);
		check_grid(_metadata, percent_x100, KVM_THROTTLE_PERIOD_MAX_NS);
	}
}

TEST(full_speed_has_no_windows)
{
	struct kvt_grid g;

	kvt_grid_init(&g, 0, 20 * MS);
	EXPECT_EQ(g.period_ns, 0);
}

TEST(period_grows_only_where_it_must)
{
	struct kvt_grid g;

	kvt_grid_init(&g, 9900, 0);
	EXPECT_EQ(g.period_ns, KVM_THROTTLE_PERIOD_DEFAULT_NS);
	kvt_grid_init(&g, 9990, 0);
	EXPECT_EQ(g.period_ns, 97 * MS);
	kvt_grid_init(&g, 1, 0);
	EXPECT_EQ(g.period_ns, 970 * MS);
	kvt_grid_init(&g, 9999, 0);
	EXPECT_EQ(g.period_ns, 970 * MS);
	kvt_grid_init(&g, 5000, 30 * MS);
	EXPECT_EQ(g.period_ns, 30 * MS);
}

TEST_F(window, runs_first_then_sleeps)
{
	EXPECT_TRUE(MAY_RUN(0));
	EXPECT_EQ(self->clock.close_ns, 6 * MS);
	EXPECT_TRUE(MAY_RUN(6 * MS - 1));
	EXPECT_FALSE(MAY_RUN(6 * MS));
	EXPECT_EQ(self->clock.open_ns, 10 * MS);
	EXPECT_FALSE(MAY_RUN(10 * MS - 1));
	EXPECT_TRUE(MAY_RUN(10 * MS));
	EXPECT_EQ(self->clock.close_ns, 16 * MS);
}

TEST_F(window, idle_wakes_in_own_time)
{
	/* In a run window it gets the rest, in a sleep window it waits. */
	EXPECT_TRUE(MAY_RUN(32 * MS));
	EXPECT_EQ(self->clock.close_ns, 36 * MS);
	EXPECT_FALSE(MAY_RUN(57 * MS));
	EXPECT_EQ(self->clock.open_ns, 60 * MS);
}

TEST_F(window, late_wake_is_made_up_for_at_once)
{
	EXPECT_FALSE(MAY_RUN(6 * MS));
	/* And so is what it took to open windows. */
	self->cpu.cost_ns = 5;
	EXPECT_TRUE(MAY_RUN(12 * MS, .slept = true));
	EXPECT_EQ(self->clock.close_ns, 18 * MS + 5);
	EXPECT_EQ(self->cpu.cost_ns, 0);
	/* So late that what it is owed doesn't fit into the period. */
	EXPECT_FALSE(MAY_RUN(19 * MS));
	EXPECT_TRUE(MAY_RUN(27 * MS, .slept = true));
	EXPECT_EQ(self->clock.close_ns, 33 * MS);
	/* At that time it still has to get the next window. */
	EXPECT_TRUE(MAY_RUN(33 * MS));
	EXPECT_EQ(self->clock.close_ns, 39 * MS);
	EXPECT_FALSE(MAY_RUN(39 * MS));
	EXPECT_EQ(self->clock.open_ns, 40 * MS);
}

TEST_F(window, late_by_several_periods)
{
	EXPECT_FALSE(MAY_RUN(6 * MS));
	/* Due at 10, gets in at 41: windows 1, 2, 3 and 4 are owed. */
	EXPECT_TRUE(MAY_RUN(41 * MS, .slept = true));
	EXPECT_EQ(self->clock.close_ns, (41 + 4 * 6) * MS);
	/* Then 5 and 6. */
	EXPECT_TRUE(MAY_RUN(65 * MS));
	EXPECT_EQ(self->clock.close_ns, (65 + 2 * 6) * MS);
}

TEST_F(window, credit_is_bounded)
{
	u64 t = 3600ULL * NSEC_PER_SEC;

	EXPECT_FALSE(MAY_RUN(6 * MS));
	EXPECT_TRUE(MAY_RUN(t, .slept = true));
	EXPECT_EQ(self->clock.close_ns, t + KVT_REPAY_WINDOWS * 6 * MS);
	/* Nor does it grow while it runs on. */
	t = self->clock.close_ns;
	self->clock.window -= 1000;
	EXPECT_TRUE(MAY_RUN(t));
	EXPECT_EQ(self->clock.close_ns, t + KVT_REPAY_WINDOWS * 6 * MS);
}

TEST_F(window, waiting_for_others_is_not_made_up_for)
{
	EXPECT_FALSE(MAY_RUN(6 * MS));
	/* The timer was 1 ms late, then another task had the CPU for 2 ms. */
	EXPECT_TRUE(MAY_RUN(13 * MS, .slept = true, .waited_ns = 2 * MS));
	EXPECT_EQ(self->clock.close_ns, 17 * MS);
	EXPECT_FALSE(MAY_RUN(17 * MS));
}

TEST_F(window, waiting_does_not_starve)
{
	u64 start;

	/* Another task has the CPU whenever the window is open. */
	EXPECT_FALSE(MAY_RUN(6 * MS));
	for (start = 10 * MS; start < 100 * MS; start += 10 * MS) {
		EXPECT_TRUE(MAY_RUN(start + 6 * MS, .slept = true,
				    .waited_ns = 6 * MS));
		EXPECT_EQ(self->clock.close_ns, start + 9 * MS);
		EXPECT_FALSE(MAY_RUN(start + 9 * MS));
	}
}

TEST_F(window, waiting_for_a_sibling_is_not_made_up_for)
{
	struct kvt_clock sibling;
	struct kvt_late late = {};

	kvt_clock_init(&sibling);
	EXPECT_FALSE(MAY_RUN(6 * MS));
	EXPECT_FALSE(kvt_may_run(&self->grid, &sibling, &self->cpu, NULL, 6 * MS, &late));
	late.slept = true;

	/* The first one to come makes up for the 1 ms, for both. */
	EXPECT_TRUE(kvt_may_run(&self->grid, &sibling, &self->cpu, NULL, 11 * MS, &late));
	EXPECT_TRUE(late.first);
	EXPECT_EQ(sibling.close_ns, 17 * MS);
	EXPECT_TRUE(MAY_RUN(15 * MS, .slept = true));
	EXPECT_EQ(self->clock.close_ns, 17 * MS);

	/* One that gets the CPU too late waits for the next window. */
	EXPECT_FALSE(MAY_RUN(17 * MS));
	late.slept = false;
	EXPECT_FALSE(kvt_may_run(&self->grid, &sibling, &self->cpu, NULL, 17 * MS, &late));
	late.slept = true;
	EXPECT_TRUE(MAY_RUN(20 * MS, .slept = true));
	EXPECT_FALSE(kvt_may_run(&self->grid, &sibling, &self->cpu, NULL, 27 * MS, &late));
	EXPECT_EQ(sibling.open_ns, 30 * MS);
	/* Held from when the window closed, not while the sibling ran. */
	EXPECT_EQ(late.held_ns, 1 * MS);
}

/* Nor is it if it takes longer than a period. */
TEST_F(window, waiting_for_long_is_not_made_up_for)
{
	EXPECT_FALSE(MAY_RUN(6 * MS));
	EXPECT_TRUE(MAY_RUN(42 * MS, .slept = true, .waited_ns = 32 * MS));
	EXPECT_EQ(self->clock.close_ns, 46 * MS);
	EXPECT_FALSE(MAY_RUN(46 * MS));
	EXPECT_EQ(self->clock.open_ns, 50 * MS);

	/* Three windows had passed when it was woken, and then another. */
	EXPECT_TRUE(MAY_RUN(91 * MS, .slept = true, .waited_ns = 10 * MS));
	EXPECT_EQ(self->clock.close_ns, (90 + 4 * 6) * MS);
}

/* Who comes from another CPU isn't owed what this one is. */
TEST_F(window, what_a_cpu_is_owed_is_its_own_vcpus)
{
	struct kvt_cpu there = { .window = KVT_NO_WINDOW };
	struct kvt_clock visitor;
	struct kvt_late late = {};

	kvt_clock_init(&visitor);
	EXPECT_FALSE(MAY_RUN(6 * MS));
	EXPECT_FALSE(kvt_may_run(&self->grid, &visitor, &there, NULL, 6 * MS, &late));
	/* The visitor has its windows, until it comes over in the one at 40. */
	late.slept = true;
	EXPECT_TRUE(kvt_may_run(&self->grid, &visitor, &there, NULL, 10 * MS, &late));
	late.slept = false;
	EXPECT_FALSE(kvt_may_run(&self->grid, &visitor, &there, NULL, 36 * MS, &late));
	EXPECT_TRUE(MAY_RUN(41 * MS, .slept = true));
	EXPECT_EQ(self->clock.close_ns, (41 + 4 * 6) * MS);
	late.slept = true;
	there.users = 2;
	EXPECT_TRUE(kvt_may_run(&self->grid, &visitor, &self->cpu, &there, 42 * MS, &late));
	EXPECT_EQ(visitor.close_ns, 47 * MS);

	/* One that comes in its own time isn't, either. */
	kvt_clock_init(&visitor);
	late.slept = false;
	EXPECT_TRUE(kvt_may_run(&self->grid, &visitor, &self->cpu, NULL, 42 * MS, &late));
	EXPECT_EQ(visitor.close_ns, 47 * MS);
}

/*
 * Two vCPUs have a CPU each.  One is woken on the other's, while its own is idle: it
 * loses nothing, and neither does the VM.
 */
TEST_F(window, own_window_is_taken_along)
{
	struct kvt_cpu home = { .window = KVT_NO_WINDOW };
	struct kvt_clock visitor;
	struct kvt_late late = {};

	kvt_clock_init(&visitor);
	EXPECT_TRUE(MAY_RUN(0));
	EXPECT_TRUE(kvt_may_run(&self->grid, &visitor, &home, NULL, 0, &late));
	EXPECT_FALSE(MAY_RUN(6 * MS));
	EXPECT_FALSE(kvt_may_run(&self->grid, &visitor, &home, NULL, 6 * MS, &late));

	EXPECT_TRUE(MAY_RUN(10 * MS, .slept = true));
	late.slept = true;
	EXPECT_FALSE(kvt_is_over(&self->grid, &visitor, &self->cpu, &home, 17 * MS));
	EXPECT_TRUE(kvt_may_run(&self->grid, &visitor, &self->cpu, &home, 17 * MS, &late));
	EXPECT_TRUE(late.took_home);
	EXPECT_EQ(visitor.close_ns, 23 * MS);
	EXPECT_EQ(home.window, 1);

	/* If somebody else has used it, there is none to take. */
	EXPECT_FALSE(MAY_RUN(16 * MS));
	late.slept = false;
	/* That took it into the next one, which is still due to it. */
	EXPECT_TRUE(kvt_may_run(&self->grid, &visitor, &self->cpu, &home, 23 * MS, &late));
	EXPECT_EQ(visitor.close_ns, 29 * MS);
	EXPECT_FALSE(kvt_may_run(&self->grid, &visitor, &self->cpu, &home, 29 * MS, &late));
	EXPECT_TRUE(MAY_RUN(30 * MS, .slept = true));
	late.slept = true;
	home.window = 3;
	EXPECT_TRUE(kvt_is_over(&self->grid, &visitor, &self->cpu, &home, 37 * MS));
	EXPECT_FALSE(kvt_may_run(&self->grid, &visitor, &self->cpu, &home, 37 * MS, &late));
}

TEST_F(window, debt_shortens_the_next_window)
{
	EXPECT_TRUE(MAY_RUN(0));
	kvt_charge(&self->grid, &self->clock, 6 * MS, 7 * MS);
	EXPECT_FALSE(MAY_RUN(7 * MS));
	EXPECT_EQ(self->clock.open_ns, 10 * MS);
	EXPECT_TRUE(MAY_RUN(10 * MS, .slept = true));
	EXPECT_EQ(self->clock.close_ns, 15 * MS);
	EXPECT_EQ(self->clock.debt_ns, 0);
}

TEST_F(window, debt_never_leaves_less_than_half_a_window)
{
	EXPECT_TRUE(MAY_RUN(0));
	kvt_charge(&self->grid, &self->clock, 6 * MS, 10 * MS);
	EXPECT_FALSE(MAY_RUN(10 * MS - 1));
	EXPECT_TRUE(MAY_RUN(10 * MS, .slept = true));
	EXPECT_EQ(self->clock.close_ns, 13 * MS);
	EXPECT_EQ(self->clock.debt_ns, 1 * MS);
}

TEST_F(window, debt_of_windows_is_slept_off)
{
	EXPECT_TRUE(MAY_RUN(0));
	/* Three sleep windows and a bit; the run windows between were its own. */
	kvt_charge(&self->grid, &self->clock, 6 * MS, 37 * MS);
	EXPECT_EQ(self->clock.debt_ns, 13 * MS);
	EXPECT_FALSE(MAY_RUN(37 * MS));
	EXPECT_EQ(self->clock.open_ns, 60 * MS);
	EXPECT_EQ(self->clock.debt_ns, 1 * MS);
	/* Also if something else ends the sleep before, and then all counts. */
	EXPECT_FALSE(MAY_RUN(51 * MS));
	kvt_charge(&self->grid, &self->clock, 51 * MS, 52 * MS);
	EXPECT_EQ(self->clock.debt_ns, 2 * MS);
}

TEST_F(window, debt_is_bounded)
{
	EXPECT_TRUE(MAY_RUN(0));
	kvt_charge(&self->grid, &self->clock, 6 * MS, U64_MAX / 2);
	kvt_charge(&self->grid, &self->clock, 6 * MS, U64_MAX / 2);
	EXPECT_EQ(self->clock.debt_ns, KVT_DEBT_TIMES * KVT_REPAY_WINDOWS * 6 * MS);
	EXPECT_FALSE(MAY_RUN(9 * MS));
	EXPECT_EQ(self->clock.open_ns, (1 + KVT_DEBT_TIMES * KVT_REPAY_WINDOWS) * 10 * MS);
}

TEST(stall_from_debt_is_bounded)
{
	u32 percent_x100;

	for (percent_x100 = 1; percent_x100 <= KVM_THROTTLE_PERCENT_MAX;
	     percent_x100++) {
		struct kvt_cpu cpu = { .window = KVT_NO_WINDOW };
		struct kvt_late late = {};
		struct kvt_clock c;
		struct kvt_grid g;

		kvt_grid_init(&g, percent_x100, 0);
		kvt_clock_init(&c);
		EXPECT_TRUE(kvt_may_run(&g, &c, &cpu, NULL, 0, &late));
		kvt_charge(&g, &c, g.run_ns, U64_MAX / 2);
		EXPECT_FALSE(kvt_may_run(&g, &c, &cpu, NULL, g.run_ns, &late));
		EXPECT_LE(c.open_ns, KVT_DEBT_TIMES * KVT_REPAY_NS + 2 * g.period_ns);
	}
}

TEST_F(window, centuries)
{
	u64 start = 58000000000ULL * 10 * MS;	/* 18 years */
	int i;

	for (i = 0; i < 5; i++, start *= 2) {
		EXPECT_TRUE(MAY_RUN(start + 5 * MS));
		EXPECT_EQ(self->clock.close_ns, start + 6 * MS);
		EXPECT_FALSE(MAY_RUN(start + 6 * MS));
		EXPECT_EQ(self->clock.open_ns, start + 10 * MS);
	}
}

/* A vCPU whose timers are late at random; returns the share that it slept. */
static double simulate(u32 percent_x100, u64 late_max_ns, double *held)
{
	u64 t = 0, end = 400 * (u64)NSEC_PER_SEC, slept_ns = 0, held_ns = 0;
	struct kvt_cpu cpu = { .window = KVT_NO_WINDOW };
	struct kvt_late late = {};
	struct kvt_clock c;
	struct kvt_grid g;
	u64 ready = 0;

	kvt_grid_init(&g, percent_x100, 0);
	kvt_clock_init(&c);
	srandom(percent_x100);
	while (t < end) {
		bool may_run = kvt_may_run(&g, &c, &cpu, NULL, t, &late);
		u64 lateness = late_max_ns ? random() % late_max_ns : 0;

		held_ns += late.slept ? late.held_ns : kvt_held_ns(&g, ready, t);
		if (may_run) {
			t = c.close_ns + lateness;
			kvt_charge(&g, &c, c.close_ns, t);
			ready = t;
			late.slept = false;
		} else {
			slept_ns += c.open_ns + lateness - t;
			held_ns += c.open_ns - t;
			t = c.open_ns + lateness;
			late.slept = true;
		}
	}
	*held = (double)held_ns / t;
	return (double)slept_ns / t;
}

TEST(share_is_exact_however_late_timers_are)
{
	static const u32 percent_x100[] = { 1, 50, 2000, 5000, 9000, 9900, 9990, 9999 };
	static const u64 late_max_ns[] = { 0, 20000, 200000, 3000000, 15000000 };
	double share, held;
	int i, j;

	for (i = 0; i < ARRAY_SIZE(percent_x100); i++) {
		for (j = 0; j < ARRAY_SIZE(late_max_ns); j++) {
			struct kvt_grid g;

			kvt_grid_init(&g, percent_x100[i], 0);
			/* More than that isn't promised to be repaid. */
			if (late_max_ns[j] > g.period_ns ||
			    late_max_ns[j] > kvt_repay_most(&g) / 2)
				continue;
			share = simulate(percent_x100[i], late_max_ns[j], &held);
			EXPECT_LT(__builtin_fabs(share * 10000 - percent_x100[i]), 1) {
				TH_LOG("%u, late by up to %llu ns: %f",
				       percent_x100[i],
				       (unsigned long long)late_max_ns[j], share);
			}
			EXPECT_LT(__builtin_fabs(held - share) * 10000, 1) {
				TH_LOG("%u, late by up to %llu ns: slept %f, held %f",
				       percent_x100[i],
				       (unsigned long long)late_max_ns[j], share, held);
			}
		}
	}
}

/* Time in buckets. */
#define AT(ns)	kvt_bucket_time(ns)

TEST(pages_cost_what_the_rate_says)
{
	static const u64 rates[] = {
		1, KVM_THROTTLE_DIRTY_RATE_MIN, 500, 2000, 33333, 1000003,
		KVM_THROTTLE_DIRTY_RATE_MAX - 1, KVM_THROTTLE_DIRTY_RATE_MAX,
	};
	double pages;
	int i;

	EXPECT_EQ(kvt_page_time(0), 0);
	for (i = 0; i < ARRAY_SIZE(rates); i++) {
		pages = (double)AT(NSEC_PER_SEC) / kvt_page_time(rates[i]);
		EXPECT_LT(__builtin_fabs(pages / rates[i] - 1), 0.0004) {
			TH_LOG("%llu: %f", (unsigned long long)rates[i], pages);
		}
	}
	EXPECT_EQ(kvt_bucket_ns(AT(12345)), 12345);
	EXPECT_EQ(kvt_bucket_ns(AT(12345) + 1), 12346);
	EXPECT_EQ(kvt_bucket_ns(0), 0);
}

TEST(shares_add_up_to_the_rate)
{
	u64 page = kvt_page_time(10000), own;

	own = kvt_share(&page, 4);
	EXPECT_EQ(page, kvt_page_time(10000));
	EXPECT_EQ(own, 4 * page);
	EXPECT_EQ(kvt_rate_in_force(10000, 4), 10000);
	/* With none, as if it were one. */
	EXPECT_EQ(kvt_share(&page, 0), page);
	/* None waits longer for a page than that. */
	EXPECT_EQ(kvt_share(&page, 1000), AT(KVT_PAGE_NS_MAX));
	EXPECT_EQ(page, AT(KVT_PAGE_NS_MAX) / 1000);
	EXPECT_EQ(kvt_rate_in_force(10000, 1000), 1000 * KVM_THROTTLE_DIRTY_RATE_MIN);
	page = kvt_page_time(1);
	EXPECT_EQ(kvt_share(&page, 1), AT(KVT_PAGE_NS_MAX));
	EXPECT_EQ(kvt_rate_in_force(1, 1), KVM_THROTTLE_DIRTY_RATE_MIN);
	EXPECT_EQ(kvt_rate_in_force(0, 1000), 0);
	/* As many vCPUs as there can be. */
	page = kvt_page_time(KVM_THROTTLE_DIRTY_RATE_MAX);
	own = kvt_share(&page, UINT32_MAX);
	EXPECT_GE(AT(KVT_PAGE_NS_MAX), own);
}

TEST(credit_is_bounded)
{
	u64 page = kvt_page_time(1000), burst = kvt_burst(0), due;

	/* Before there was time for any. */
	EXPECT_EQ(kvt_bucket_add(0, 0, page, burst), page);
	EXPECT_EQ(kvt_bucket_add(0, AT(MS), page, burst), page);
	/* After an hour of nothing. */
	due = kvt_bucket_add(0, AT(3600000 * MS), page, burst);
	EXPECT_EQ(due, AT(3600000 * MS) - burst + page);
	EXPECT_FALSE(kvt_bucket_is_over(due, AT(3600000 * MS)));
	/* What is due to somebody while his window is closed is kept for him. */
	due = kvt_bucket_add(0, AT(3600000 * MS), page, kvt_burst(100 * MS));
	EXPECT_EQ(due, AT(3600000 * MS - 100 * MS) - burst + page);
	/* A new setting begins without. */
	EXPECT_EQ(kvt_bucket_renew(0, AT(MS)), AT(MS));
}

TEST(debt_is_bounded)
{
	u64 page = AT(KVT_PAGE_NS_MAX), now = AT(5 * MS), due = now;
	int i;

	/* A whole buffer of PML at the lowest rate is paid for... */
	for (i = 0; i < 512; i++)
		due = kvt_bucket_add(due, now, page, kvt_burst(0));
	EXPECT_EQ(due, now + 512 * page);
	/* ...but whoever can't stop writing doesn't owe for ever. */
	for (i = 0; i < 100000; i++)
		due = kvt_bucket_add(due, now, page, kvt_burst(0));
	EXPECT_EQ(due, now + AT(KVT_DEBT_NS_MAX));
	EXPECT_EQ(kvt_bucket_renew(due, now), now + AT(KVT_CARRY_NS));
	EXPECT_EQ(kvt_bucket_renew(now + 1, now), now + 1);

	/* The highest time that there is: 36 years. */
	now = AT(U64_MAX >> (KVT_BUCKET_SHIFT + 1));
	due = kvt_bucket_add(now, now, page, kvt_burst(NSEC_PER_SEC));
	EXPECT_EQ(due, now + page);
	EXPECT_TRUE(kvt_bucket_is_over(due, now));
}

TEST(over_is_over_by_a_quantum)
{
	u64 now = AT(100 * MS);

	EXPECT_FALSE(kvt_bucket_is_over(now - 1, now));
	EXPECT_FALSE(kvt_bucket_is_over(now + AT(KVT_QUANTUM_NS) - 1, now));
	EXPECT_TRUE(kvt_bucket_is_over(now + AT(KVT_QUANTUM_NS), now));
}

TEST(share_is_forgotten_but_not_debt)
{
	u64 now = AT(100 * MS), keep = AT(KVT_KEEP_NS);

	/* The VM isn't over: what others leave may be used. */
	EXPECT_EQ(kvt_bucket_forget(now + 2 * keep, now, now), now + keep);
	EXPECT_EQ(kvt_bucket_forget(now + keep / 2, now, now), now + keep / 2);
	/* It is: nothing is forgotten, or who dirties many pages at once would win. */
	EXPECT_EQ(kvt_bucket_forget(now + 9 * keep, now, now + 9 * keep), now + 9 * keep);
	EXPECT_EQ(kvt_bucket_forget(now + 9 * keep, now, now + 5 * keep), now + 5 * keep);
}

/*
 * The pages a second of one vCPU that dirties @batch of them at a time, as PML has it, in
 * a microsecond each, and is woken late by up to @late_max_ns.
 */
static double simulate_writer(u64 rate, u32 batch, u64 late_max_ns)
{
	u64 page = kvt_page_time(rate), burst = kvt_burst(0), pages = 0;
	u64 t = 0, end = 20 * NSEC_PER_SEC, due = 0;
	u32 i;

	srandom(rate);
	while (t < end) {
		t += batch * NSEC_PER_USEC;
		for (i = 0; i < batch; i++)
			due = kvt_bucket_add(due, AT(t), page, burst);
		pages += batch;
		if (kvt_bucket_is_over(due, AT(t)))
			t = kvt_bucket_ns(due) + (late_max_ns ? random() % late_max_ns : 0);
	}
	return pages * 1e9 / t;
}

TEST(rate_is_exact_however_late_wake_ups_are)
{
	static const u64 rates[] = { 50, 500, 2000, 10000, 50000, 500000 };
	static const u32 batches[] = { 1, 512 };
	static const u64 late_max_ns[] = { 0, 20000, 1000000, KVT_BURST_NS - 500000 };
	double got;
	int i, j, k;

	for (i = 0; i < ARRAY_SIZE(rates); i++) {
		for (j = 0; j < ARRAY_SIZE(batches); j++) {
			for (k = 0; k < ARRAY_SIZE(late_max_ns); k++) {
				got = simulate_writer(rates[i], batches[j], late_max_ns[k]);
				/* The last sleep's lateness isn't made up for yet. */
				EXPECT_LT(__builtin_fabs(got / rates[i] - 1), 0.001) {
					TH_LOG("%llu/s, %u at a time, late by up to %llu ns: %f",
					       (unsigned long long)rates[i], batches[j],
					       (unsigned long long)late_max_ns[k], got);
				}
			}
		}
	}
}

/* The most vCPUs of a guest below. */
#define PML_VCPUS	16

/**
 * struct pml - a guest whose vCPUs write on CPUs with PML, each on one of its own
 * @vcpus: how many there are; they share the rate
 * @rate: pages a second that they may dirty
 * @page_ns: what a page takes one of them
 * @burst: how many pages each writes at once, between pauses
 * @then: how many it writes every other time
 * @pause_ns: for how long it writes nothing
 */
struct pml {
	u32 vcpus;
	u64 rate;
	u64 page_ns;
	u64 burst;
	u64 then;
	u64 pause_ns;
};

/* One of them. */
struct pml_vcpu {
	u64 t;
	u64 due;
	u64 look;
	u64 left;
	u32 bursts;
};

static void begin_burst(const struct pml *guest, struct pml_vcpu *v)
{
	v->left = v->bursts++ % 2 && guest->then ? guest->then : guest->burst;
}

/* Charges for what is dirtied up to an exit, as dirty.c does.  Returns when that is due. */
static u64 charge_exit(const struct pml *guest, struct pml_vcpu *v, u64 *shared, u32 pages)
{
	u64 page = kvt_page_time(guest->rate), own = kvt_share(&page, guest->vcpus), now = AT(v->t);
	u32 i;

	for (i = 0; i < pages; i++) {
		*shared = kvt_bucket_add(*shared, now, page, kvt_burst(0));
		v->due = kvt_bucket_forget(kvt_bucket_add(v->due, now, own, kvt_burst(0)), now,
					   *shared);
	}
	return min(v->due, *shared);
}

/* From one entry to the next.  Returns how many pages were dirtied. */
static u32 enter(const struct pml *guest, struct pml_vcpu *v, u64 *shared, u64 *stall_ns)
{
	u64 page = kvt_page_time(guest->rate), own = kvt_share(&page, guest->vcpus), due, until;
	/* Until it exits: for the timer, as the list is full, or to do nothing. */
	u64 pages = v->look ? v->look / guest->page_ns + 1 : KVT_PML_PAGES;

	pages = min(min(pages, (u64)KVT_PML_PAGES), v->left);
	v->t += pages * guest->page_ns;
	v->left -= pages;
	due = charge_exit(guest, v, shared, pages);
	if (kvt_bucket_is_over(due, AT(v->t))) {
		if (pages > KVT_EXIT_PAGES)
			v->look = kvt_look_sooner(v->look, due - AT(v->t), own);
		until = kvt_bucket_ns(kvt_bucket_until(due, AT(v->t), own, pages));
		*stall_ns = max(*stall_ns, until - v->t);
		v->t = until;
	} else if (v->look) {
		v->look = kvt_look_later(v->look);
	}
	if (!v->left) {
		begin_burst(guest, v);
		v->t += guest->pause_ns;
		if (guest->pause_ns > 2 * KVT_LOOK_NS_MAX)
			v->look = 0;
	}
	return pages;
}

/* Writes for 60 s.  Returns pages a second; *@stall_ns is the longest sleep. */
static double simulate_pml(const struct pml *guest, u64 *stall_ns)
{
	struct pml_vcpu vcpus[PML_VCPUS] = {}, *v, *first = &vcpus[0];
	u64 shared = 0, pages = 0;
	u32 i;

	*stall_ns = 0;
	for (i = 0; i < guest->vcpus; i++) {
		vcpus[i].look = KVT_LOOK_NS_MIN;
		begin_burst(guest, &vcpus[i]);
	}
	while (first->t < 60 * NSEC_PER_SEC) {
		pages += enter(guest, first, &shared, stall_ns);
		for (v = vcpus; v < vcpus + guest->vcpus; v++)
			first = v->t < first->t ? v : first;
	}
	return pages * 1e9 / first->t;
}

TEST(looks_become_rare)
{
	u64 look = KVT_LOOK_NS_MIN, page = AT(500000);
	int looks;

	for (looks = 0; look && looks < 100; looks++)
		look = kvt_look_later(look);
	EXPECT_EQ(looks, 11);
	/* They don't begin for who is over by what is seen at once, nor become more. */
	EXPECT_EQ(kvt_look_sooner(0, page + AT(KVT_QUANTUM_NS), page), 0);
	EXPECT_EQ(kvt_look_sooner(64000, page + AT(KVT_QUANTUM_NS), page), 64000);
	EXPECT_EQ(kvt_look_sooner(0, 512 * page, page), KVT_LOOK_NS_MIN);
	EXPECT_LT(kvt_look_sooner(64000, 10 * page, page), 20000);
	EXPECT_GT(kvt_look_sooner(64000, 10 * page, page), 10000);
}

TEST(hidden_pages_cost_no_long_sleep)
{
	/* The last ones write a list or more, and pause until all is paid. */
	static const struct pml guests[] = {
		{ 1, 500, 868, -1, 0, 0 }, { 1, 2000, 868, -1, 0, 0 }, { 1, 50000, 868, -1, 0, 0 },
		{ 1, 2000, 100, -1, 0, 0 }, { 1, 10000, 100, -1, 0, 0 }, { 1, 50000, 100, -1, 0, 0 },
		{ 1, 2000, 100, 512, 0, 300 * MS }, { 1, 5000, 100, 512, 0, 110 * MS },
		{ 1, 2000, 868, 4096, 0, 2000 * MS },
	};
	u64 stall_ns;
	double got;
	int i;

	for (i = 0; i < ARRAY_SIZE(guests); i++) {
		got = simulate_pml(&guests[i], &stall_ns);
		TH_LOG("%llu/s, a page in %llu ns: %.1f/s, at most %.3f ms",
		       (unsigned long long)guests[i].rate, (unsigned long long)guests[i].page_ns,
		       got, stall_ns / 1e6);
		EXPECT_LE(stall_ns, KVT_STALL_NS);
		EXPECT_LT(got / guests[i].rate, 1.001);
		EXPECT_GT(got / guests[i].rate, guests[i].pause_ns ? 0.4 : 0.999);
	}
}

TEST(hidden_pages_gain_nothing)
{
	static const struct pml guests[] = {
		{ 1, 2000, 100, 4096, 0, 10 * MS }, { 1, 2000, 100, 512, 0, 20 * MS },
		{ 1, 50, 100, 512, 0, 10 * MS }, { 1, 100, 100, 300, 0, 10 * MS },
		{ 1, 50, 100, 255, 512, 10 * MS }, { 1, 75, 100, 200, 512, 10 * MS },
		{ 4, 2000, 100, -1, 0, 0 }, { 16, 2000, 100, -1, 0, 0 },
		{ 16, 2000, 868, -1, 0, 0 }, { 16, 5000, 100, 512, 0, 20 * MS },
		{ 16, 1000, 1000, 4, 0, MS },
	};
	u64 stall_ns, buffers_ns;
	double got;
	int i;

	for (i = 0; i < ARRAY_SIZE(guests); i++) {
		got = simulate_pml(&guests[i], &stall_ns);
		TH_LOG("%u vCPUs, %llu/s, a page in %llu ns, %llu at a time: %.1f/s, at most %.3f ms",
		       guests[i].vcpus, (unsigned long long)guests[i].rate,
		       (unsigned long long)guests[i].page_ns, (unsigned long long)guests[i].burst,
		       got, stall_ns / 1e6);
		/* In a minute: each may be ahead by two lists. */
		EXPECT_LT(got * 60, guests[i].rate * 60 * 1.003 +
				    2 * guests[i].vcpus * KVT_PML_PAGES);
		EXPECT_GT(got / guests[i].rate, 0.9);
		buffers_ns = 2ULL * KVT_PML_PAGES * guests[i].vcpus * NSEC_PER_SEC / guests[i].rate;
		EXPECT_LE(stall_ns, max(buffers_ns, (u64)KVT_STALL_NS));
	}
}

TEST_HARNESS_MAIN
