// SPDX-License-Identifier: GPL-2.0
/*
 * What a window costs the host: the time of a CPU that neither the guest gets
 * nor a thread that takes all that is left, per window.
 *
 * In the deterministic VM 4 ns are an instruction; elsewhere this has nothing to
 * judge.  An argument is how many seconds to measure for: with 20, the medians of
 * five runs tell builds of the module apart by 0.5 %; single runs may be 2 % off.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "kselftest.h"
#include "throttle_util.h"

#define MS		1000000ULL
#define PERIOD_NS	(1 * MS)

/* A fourth more than it was when this was written. */
#define COST_MAX_NS	60000

static volatile u64 soaked;

/* Takes what time the guest leaves. */
static void *soak(void *unused)
{
	struct sched_param param = {};

	TEST_ASSERT(!sched_setscheduler(0, SCHED_IDLE, &param), "SCHED_IDLE");
	for (;;) {
		for (int i = 0; i < 1000; i++)
			barrier();
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

int main(int argc, char **argv)
{
	u64 measure_ns = (argc > 1 ? atoi(argv[1]) : 2) * 1000 * MS;
	const char *missing = throttle_missing();
	struct kvm_throttle_vcpu_state before, after;
	double per_unit_ns, per_soak_ns, ns, cost_ns;
	u64 start, work, from;
	struct guest guest;
	pthread_t thread;
	int fd;

	ksft_print_header();
	if (missing)
		ksft_exit_skip("%s\n", missing);
	if (!throttle_exact())
		ksft_exit_skip("time can't be judged here (KVM_THROTTLE_EXACT)\n");
	ksft_set_plan(1);

	guest_create(&guest, GUEST_WORK, 1);
	sleep_ns(500 * MS);
	per_unit_ns = 1e9 / guest_speed(&guest, measure_ns);
	guest_stop(&guest, 0);

	TEST_ASSERT(!pthread_create(&thread, NULL, soak, NULL), "pthread_create");
	sleep_ns(500 * MS);
	per_soak_ns = soak_ns(measure_ns);
	guest_start(&guest, 0);

	fd = throttle_attach(guest.vm->fd);
	TEST_ASSERT(fd >= 0 && !throttle_set(fd, 5000, PERIOD_NS), "throttle");
	sleep_ns(500 * MS);

	TEST_ASSERT(throttle_get(fd, &before, 1, NULL) == 1, "get");
	start = now_ns();
	work = guest_work(&guest);
	from = soaked;
	sleep_until_ns(start + measure_ns);
	ns = now_ns() - start;
	work = guest_work(&guest) - work;
	from = soaked - from;
	TEST_ASSERT(throttle_get(fd, &after, 1, NULL) == 1, "get");

	cost_ns = (ns - work * per_unit_ns - from * per_soak_ns) /
		  (after.windows - before.windows);
	ksft_test_result(cost_ns > 0 && cost_ns < COST_MAX_NS,
			 "a window costs %.0f ns, %.0f instructions, of at most %d ns\n",
			 cost_ns, cost_ns / 4, COST_MAX_NS);
	ksft_finished();
}
