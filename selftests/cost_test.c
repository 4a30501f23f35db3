// SPDX-License-Identifier: GPL-2.0
/*
 * What a window costs the host.  Beside the guest, a thread takes all of the CPU's time
 * that is left.  What neither of the two gets is the cost.
 *
 * It is compared with a guest that leaves KVM_RUN and whose thread sleeps, wakes up and
 * enters again.  On that kernel and CPU, so much a sleep costs anyhow.
 *
 * The guest takes long turns: 7.2 ends each turn by a timer of its own (HRTICK),
 * but only where tasks share a CPU.  Here they do, because of that other thread.
 *
 * In the deterministic VM 4 ns are an instruction; elsewhere this has nothing to
 * judge.  An argument is how many seconds to measure for: with 20, the medians of
 * five runs tell builds of the module apart by 0.5 %; single runs may be 2 % off.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "guest_arch.h"
#include "kselftest.h"
#include "spend_insns.h"
#include "throttle_util.h"

#define PERIOD_NS	(1 * MS)
#define RUN_NS		(PERIOD_NS / 2)

/* A fourth more than it was on Linux 6.12 when this was written. */
#define COST_MAX_NS	60000

/* In hundredths of what it costs anyhow. */
#define COST_MAX	110

/* Of the guest's clock, until it takes a nap. */
static u64 run_cycles = -1;

static volatile u64 naps;
static volatile u64 soaked;

/* Takes what time the guest leaves. */
static void *soak(void *unused)
{
	struct sched_param param = {};

	TEST_ASSERT(!sched_setscheduler(0, SCHED_IDLE, &param), "SCHED_IDLE");
	for (;;) {
		for (int i = 0; i < 10; i++)
			spend_insns();
		soaked++;
	}
	return NULL;
}

/* Of a time in which only the soaker has run, how much went into one loop? */
static double soak_ns(u64 measure_ns)
{
	u64 start, from = soaked;

	start = now_ns();
	sleep_until_ns(start + measure_ns);
	return (double)(now_ns() - start) / (soaked - from);
}

static void guest_code(void)
{
	u64 start = guest_clock(), last = start;

	for (;;) {
		last = guest_unit(0, last);
		if (last - start < READ_ONCE(run_cycles))
			continue;
		guest_exit();
		start = guest_clock();
	}
}

static void *vcpu_thread(void *arg)
{
	struct guest *g = arg;
	u64 until = now_ns();

	take_long_turns(0);
	while (!__vcpu_run(g->vcpus[0])) {
		naps++;
		/* The first one after a while of work. */
		until = max(until + (u64)PERIOD_NS, now_ns());
		sleep_until_ns(until);
	}
	return NULL;
}

static void start(struct guest *g)
{
	g->vcpus[0]->run->immediate_exit = 0;
	TEST_ASSERT(!pthread_create(&g->threads[0], NULL, vcpu_thread, g),
		    "pthread_create");
}

static void set_run_cycles(struct guest *g, u64 cycles)
{
	run_cycles = cycles;
	sync_global_to_guest(g->vm, run_cycles);
	sleep_ns(500 * MS);
}

static int throttle_fd = -1;

static u64 windows(void)
{
	struct kvm_throttle_vcpu_state state;

	if (throttle_fd < 0)
		return naps;
	TEST_ASSERT(throttle_get(throttle_fd, &state, 1, NULL) == 1, "get");
	return state.windows;
}

/* What neither the guest nor the soaker got, per window or nap. */
static double cost_ns(const struct guest *g, double per_unit_ns,
		      double per_soak_ns, u64 measure_ns)
{
	u64 work, from, count, begin, ns;

	count = windows();
	begin = now_ns();
	work = guest_work(g);
	from = soaked;
	sleep_until_ns(begin + measure_ns);
	ns = now_ns() - begin;
	work = guest_work(g) - work;
	from = soaked - from;
	count = windows() - count;
	/* Of each period, half is for work. */
	TEST_ASSERT(count > 0.9 * ns / PERIOD_NS && work * per_unit_ns > 0.4 * ns &&
		    work * per_unit_ns < 0.55 * ns,
		    "%.2f %% of work, %lu sleeps in %lu ns", 100 * work * per_unit_ns / ns,
		    count, ns);
	return (ns - work * per_unit_ns - from * per_soak_ns) / count;
}

int main(int argc, char **argv)
{
	u64 measure_ns = (argc > 1 ? atoi(argv[1]) : 2) * 1000 * MS;
	const char *missing = throttle_missing();
	double per_unit_ns, per_soak_ns, floor_ns, ours_ns;
	struct guest guest;
	pthread_t thread;

	ksft_print_header();
	if (missing)
		ksft_exit_skip("%s\n", missing);
	if (!throttle_exact())
		ksft_exit_skip("time can't be judged here (KVM_THROTTLE_EXACT)\n");
	ksft_set_plan(2);

	guest_prepare(&guest, guest_code, 1);
	start(&guest);
	set_run_cycles(&guest, -1);
	per_unit_ns = 1e9 / guest_speed(&guest, measure_ns);
	guest_stop(&guest, 0);

	TEST_ASSERT(!pthread_create(&thread, NULL, soak, NULL), "pthread_create");
	sleep_ns(500 * MS);
	per_soak_ns = soak_ns(measure_ns);

	start(&guest);
	set_run_cycles(&guest, RUN_NS * guest.clock_khz / 1000000);
	floor_ns = cost_ns(&guest, per_unit_ns, per_soak_ns, measure_ns);

	set_run_cycles(&guest, -1);
	throttle_fd = throttle_attach(guest.vm->fd);
	TEST_ASSERT(throttle_fd >= 0 && !throttle_set(throttle_fd, 5000, PERIOD_NS),
		    "throttle");
	sleep_ns(500 * MS);
	ours_ns = cost_ns(&guest, per_unit_ns, per_soak_ns, measure_ns);

	ksft_test_result(ours_ns > 0 && ours_ns < COST_MAX_NS,
			 "a window costs %.0f ns, %.0f instructions, of at most %d ns\n",
			 ours_ns, ours_ns / 4, COST_MAX_NS);
	ksft_test_result(ours_ns > 0 && ours_ns * 100 < floor_ns * COST_MAX,
			 "that is %.1f %% of what a sleep takes anyhow, of at most %d %%\n",
			 100 * ours_ns / floor_ns, COST_MAX);
	ksft_finished();
}
