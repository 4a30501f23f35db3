// SPDX-License-Identifier: GPL-2.0
/*
 * Does a throttled guest slow down by the percentage that was asked for?
 *
 * The guest counts its own work.  How much less it does in a second than it did at
 * full speed, on the same vCPUs, is the actual throttle.
 *
 * In the deterministic VM (KVM_THROTTLE_EXACT=1 in the environment) virtual
 * time counts instructions, and the bounds are tight.  Elsewhere the speed of
 * the guest depends on what else the machine does.  There the judge is the module's
 * own count of how long each vCPU was kept out of the guest, with wider bounds.
 *
 * At the end, where time is exact, a meter is a second judge: BPF programs that
 * tell from KVM's tracepoints how long the vCPUs were in guest mode, relative to
 * full speed.  The guest, the meter and the module's counters have to agree.  The
 * meter takes time itself, so all before that is measured without it.  Switches
 * between vCPUs that share a CPU take time too, and a throttle saves some of them.  So
 * the scheduler is asked to switch rarely there.
 */
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "kselftest.h"
#include "throttle_util.h"
#include "../tools/meter/meter.h"

/* Bounds in hundredths of a percentage point. */
#define ONE_VCPU_BOUND		5
#define MANY_VCPUS_BOUND	25
#define AGREE_BOUND		10
#define SHARE_BOUND		2000

/* A sleep window is 10.37 ms. */
#define STALL_LEAST_NS		10000000
#define STALL_BOUND_NS		20000000
#define SPREAD_BOUND		0.005
#define IDLE_COST_BOUND		0.0005

#define MANY_VCPUS		22

/* Long enough for an error of a microsecond a window to show. */
#define EXACT_NS		2000000000ULL

/* All in all less than the 45 s that kselftest's runner allows a test. */
#define ROUGH_NS		500000000ULL

/* A turn on a CPU that vCPUs share: a tick of the scheduler's. */
#define TURN_NS			4000000ULL

/* The seed's, then more, which are for one vCPU. */
static const u32 targets[] = {
	2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 9900,
	50, 500, 9500, 9990,
};

#define NR_SEED_TARGETS		9

static int nr_targets(int nr_vcpus)
{
	return nr_vcpus == 1 ? ARRAY_SIZE(targets) : NR_SEED_TARGETS;
}

static bool exact;
static u64 measure_ns = ROUGH_NS;
static struct meter *meter;

/**
 * struct measure - what was measured over some time
 * @speed: units of work per second
 * @share: share of the time that the vCPUs were kept out, on average
 * @spread: how far the vCPUs are apart in that, over the average
 * @gap_ns: longest stall that the guest saw
 * @starved: vCPUs that did nothing
 * @late_ns: worst lateness of a window so far
 * @guest: share of the time in guest mode, the sum over the vCPUs, as the meter
 *	tells it; 0 without one
 */
struct measure {
	double speed;
	double share;
	double spread;
	double gap_ns;
	int starved;
	u64 late_ns;
	double guest;
};

/* How long the vCPUs have been in guest mode so far, as the meter tells it. */
static u64 metered_ns(void)
{
	static struct meter_record record;
	u64 ns = 0;
	int i;

	for (i = 0; meter && i < meter_vcpus(meter); i++) {
		meter_read(meter, i, &record);
		ns += record.ns[METER_GUEST];
	}
	return ns;
}

static void measure(struct guest *g, int fd, u64 ns, struct measure *m)
{
	struct kvm_throttle_vcpu_state before[GUEST_VCPUS_MAX], after[GUEST_VCPUS_MAX];
	double low = 1, high = 0, sum = 0;
	u64 start, end, work, period_ns, metered, worked[GUEST_VCPUS_MAX];
	int i;

	*m = (struct measure) {};
	/* Settle, then measure whole periods: where they start doesn't matter. */
	sleep_ns(min(ns, measure_ns) / 10);
	throttle_get(fd, before, g->nr_vcpus, &period_ns);
	for (i = 0; i < g->nr_vcpus; i++) {
		g->reports[i].gap_cycles = 0;
		worked[i] = g->reports[i].work;
	}
	if (!period_ns)
		period_ns = 1;
	metered = metered_ns();
	work = guest_work(g);
	start = now_ns();
	sleep_until_ns(start + (ns + period_ns - 1) / period_ns * period_ns);
	work = guest_work(g) - work;
	end = now_ns();
	metered = metered_ns() - metered;
	throttle_get(fd, after, g->nr_vcpus, NULL);

	m->speed = work * 1e9 / (end - start);
	m->guest = (double)metered / (end - start);
	for (i = 0; i < g->nr_vcpus; i++) {
		double elapsed = after[i].elapsed_ns - before[i].elapsed_ns;
		double share = 0;

		if (elapsed)
			share = (after[i].throttled_ns - before[i].throttled_ns) / elapsed;
		sum += share;
		m->late_ns = max(m->late_ns, (u64)after[i].late_max_ns);
		m->starved += g->reports[i].work == worked[i];
		low = min(low, share);
		high = max(high, share);
		m->gap_ns = max(m->gap_ns, g->reports[i].gap_cycles * 1e6 / g->clock_khz);
	}
	m->share = sum / g->nr_vcpus;
	if (sum)
		m->spread = (high - low) / m->share;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, int nr)
{
	qsort(values, nr, sizeof(*values), compare);
	return values[nr / 2];
}

/*
 * The kernel's own workers take their part of the CPU, some once a second for a few
 * seconds: vmstat_update() has 0.4 ms to do when much memory was freed.  So, where time
 * is exact, the time is measured in parts.  Workers meet less than half of these, so the
 * median is the speed of one vCPU.  The same goes for what the meter says.  Many vCPUs
 * take turns, which can't be divided.
 */
static void measure_parts(struct guest *g, int fd, u64 ns, struct measure *m)
{
	double speed[9], guest[ARRAY_SIZE(speed)], gap_ns = 0;
	int i;

	if (!exact || g->nr_vcpus > 1) {
		measure(g, fd, ns, m);
		return;
	}
	for (i = 0; i < ARRAY_SIZE(speed); i++) {
		measure(g, fd, ns / ARRAY_SIZE(speed), m);
		speed[i] = m->speed;
		guest[i] = m->guest;
		gap_ns = max(gap_ns, m->gap_ns);
	}
	m->speed = median(speed, ARRAY_SIZE(speed));
	m->guest = median(guest, ARRAY_SIZE(guest));
	m->gap_ns = gap_ns;
}

static double measure_actual(struct guest *g, int fd, const struct measure *full,
			     u32 target, struct measure *m)
{
	u64 everyone_ns = g->nr_vcpus * TURN_NS * 10000 / (10000 - target);
	bool wait_for_turns = exact && g->nr_vcpus > 1;

	measure_parts(g, fd, wait_for_turns ? max(measure_ns, everyone_ns) : measure_ns, m);
	return exact ? 1 - m->speed / full->speed : m->share;
}

static void test_target(struct guest *g, int fd, const struct measure *full,
			u32 target, int bound)
{
	struct measure m;
	double actual;
	bool noisy;

	TEST_ASSERT(!throttle_set(fd, target, 0), "KVM_SET_THROTTLE");
	actual = measure_actual(g, fd, full, target, &m);
	/* Lateness of more than a period isn't promised to be repaid. */
	noisy = !exact && m.late_ns > KVM_THROTTLE_PERIOD_DEFAULT_NS;
	ksft_test_result(noisy || fabs(actual * 10000 - target) <= bound,
			 "%d vCPUs, target %.2f: actual %.3f, held %.3f, spread %.3f %%, stall %.3f ms, error %+.3f of %.2f\n",
			 g->nr_vcpus, target / 100.0, actual * 100, m.share * 100,
			 m.spread * 100, m.gap_ns / 1e6,
			 actual * 100 - target / 100.0, bound / 100.0);
	if (g->nr_vcpus == 1 && target == 9900)
		ksft_test_result(!exact || (m.gap_ns >= STALL_LEAST_NS && m.gap_ns <= STALL_BOUND_NS),
				 "longest stall at 99 %%: %.3f ms\n", m.gap_ns / 1e6);
	if (g->nr_vcpus > 1) {
		ksft_test_result(!exact || (m.share > 0 && m.spread <= SPREAD_BOUND),
				 "spread between the vCPUs: %.3f %%\n", m.spread * 100);
		ksft_test_result(!exact || !m.starved, "vCPUs that never ran: %d\n", m.starved);
	}
}

static void test_targets(int nr_vcpus, int bound)
{
	struct measure full;
	struct guest guest;
	int fd, i;

	if (!exact)
		bound = SHARE_BOUND;

	guest_create(&guest, GUEST_WORK, nr_vcpus);
	fd = throttle_attach(guest.vm->fd);
	TEST_ASSERT(fd >= 0, "KVM_THROTTLE_ATTACH: %d", fd);
	measure_parts(&guest, fd, measure_ns, &full);
	ksft_print_msg("%d vCPUs at full speed: %.0f units/s, stall %.3f ms\n",
		       nr_vcpus, full.speed, full.gap_ns / 1e6);

	for (i = 0; i < nr_targets(nr_vcpus); i++)
		test_target(&guest, fd, &full, targets[i], bound);

	close(fd);
	guest_destroy(&guest);
}

static void set_long_turns(int fd, int nr_vcpus)
{
	struct kvm_throttle_vcpu_state states[GUEST_VCPUS_MAX];
	int i;

	for (i = 0; i < nr_vcpus; i++) {
		/* The thread is known when the vCPU has run. */
		do {
			sleep_ns(100 * MS);
			TEST_ASSERT(throttle_get(fd, states, nr_vcpus, NULL) == nr_vcpus,
				    "KVM_GET_THROTTLE");
		} while (!states[i].tid);
		take_long_turns(states[i].tid);
	}
}

/* Do the guest, the meter and the module's counters say the same? */
static void test_agreement(struct guest *g, int fd, const struct measure *full,
			   u32 target)
{
	double by_work, by_meter, low, high;
	struct measure m;

	TEST_ASSERT(!throttle_set(fd, target, 0), "KVM_SET_THROTTLE");
	by_work = measure_actual(g, fd, full, target, &m);
	by_meter = 1 - m.guest / full->guest;
	low = min(min(by_work, by_meter), m.share);
	high = max(max(by_work, by_meter), m.share);
	/* Of a guest, or a meter, that stands still, all of these are no numbers. */
	ksft_test_result(by_work > 0 && by_meter > 0 && (high - low) * 10000 <= AGREE_BOUND,
			 "%d vCPUs, target %.2f: guest %.3f, meter %.3f, counters %.3f, apart %.3f of %.2f\n",
			 g->nr_vcpus, target / 100.0, by_work * 100, by_meter * 100,
			 m.share * 100, (high - low) * 100, AGREE_BOUND / 100.0);
}

static void test_agreements(int nr_vcpus)
{
	int i, nr = nr_targets(nr_vcpus);
	struct measure full;
	struct guest guest;
	char why[256];
	int fd;

	guest_create(&guest, GUEST_WORK, nr_vcpus);
	if (exact)
		meter = meter_open(getpid(), why, sizeof(why));
	else
		snprintf(why, sizeof(why), "needs the deterministic VM");
	if (!meter) {
		for (i = 0; i < nr; i++)
			ksft_test_result_skip("%d vCPUs, metered: %s\n", nr_vcpus, why);
		guest_destroy(&guest);
		return;
	}
	fd = throttle_attach(guest.vm->fd);
	TEST_ASSERT(fd >= 0, "KVM_THROTTLE_ATTACH: %d", fd);
	set_long_turns(fd, nr_vcpus);
	measure_parts(&guest, fd, measure_ns, &full);
	ksft_print_msg("%d vCPUs at full speed, metered: %.0f units/s, %.3f %% in guest mode\n",
		       nr_vcpus, full.speed, full.guest * 100);

	for (i = 0; i < nr; i++)
		test_agreement(&guest, fd, &full, targets[i]);

	meter_close(meter);
	meter = NULL;
	close(fd);
	guest_destroy(&guest);
}

/*
 * Work per second of a guest that nobody throttles.  With the module or without, something
 * of the host takes half a millisecond now and then.  So it is a median.  Each of its times
 * is long enough to meet what the module might do now and then.
 */
static double free_speed(void)
{
	struct guest guest;
	double speed[3];
	int i;

	guest_create(&guest, GUEST_WORK, 1);
	sleep_ns(measure_ns / 10);
	for (i = 0; i < ARRAY_SIZE(speed); i++)
		speed[i] = guest_speed(&guest, measure_ns);
	guest_destroy(&guest);
	return median(speed, ARRAY_SIZE(speed));
}

static void test_idle_cost(void)
{
	double loaded = 0, unloaded;

	if (exact)
		loaded = free_speed();
	if (!exact || system("modprobe -r kvm_throttle")) {
		ksft_test_result_skip("cost when not throttling: needs the deterministic VM, and modprobe\n");
		return;
	}
	unloaded = free_speed();
	TEST_ASSERT(!system("modprobe kvm_throttle"), "modprobe");
	ksft_test_result(fabs(loaded / unloaded - 1) <= IDLE_COST_BOUND,
			 "speed with the module loaded, over not loaded: %.5f\n",
			 loaded / unloaded);
}

/* All vCPUs do. */
static void share_cpu_0(void)
{
	cpu_set_t cpu_0;

	CPU_ZERO(&cpu_0);
	CPU_SET(0, &cpu_0);
	TEST_ASSERT(!sched_setaffinity(0, sizeof(cpu_0), &cpu_0), "sched_setaffinity");
}

int main(void)
{
	const char *missing = throttle_missing();

	ksft_print_header();
	if (missing)
		ksft_exit_skip("%s\n", missing);

	exact = throttle_exact();
	if (exact)
		measure_ns = EXACT_NS;
	/* For many vCPUs, each target is three tests; one is for the stall. */
	ksft_set_plan(2 * nr_targets(1) + 4 * nr_targets(MANY_VCPUS) + 2);
	share_cpu_0();
	be_on_time();
	wait_for_hooks();
	test_idle_cost();
	test_targets(1, ONE_VCPU_BOUND);
	test_targets(MANY_VCPUS, MANY_VCPUS_BOUND);
	test_agreements(1);
	/* Who waits for a long turn is counted late. */
	measure_ns *= 3;
	test_agreements(MANY_VCPUS);
	ksft_finished();
}
