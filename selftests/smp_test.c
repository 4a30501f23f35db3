// SPDX-License-Identifier: GPL-2.0
/*
 * Does a guest whose vCPUs have several CPUs slow down by the percentage that was
 * asked for, as a whole and each of its vCPUs?  And for how long does it stall?
 *
 * accuracy_test has all vCPUs share one CPU.  Here they have four, where windows end
 * on each CPU by itself, and where the scheduler moves threads as they wake up.  As
 * there, the guest's own work is the judge, relative to its full speed on the same CPUs.
 *
 * It takes a machine with four CPUs whose virtual time is exact (vm/vm run --smp 4).
 */
#include <math.h>

#include "guest_arch.h"
#include "kselftest.h"
#include "throttle_util.h"

#define CPUS		4
#define NR_TARGETS	6

/* Whole periods of about that long are measured. */
#define MEASURE_NS	(1000 * MS)

/* The same where vCPUs share CPUs and each is judged: the scheduler is to be even. */
#define EVEN_NS		(12000 * MS)

/* A turn on a CPU that vCPUs share: a tick of the scheduler's. */
#define TURN_NS		(4 * MS)

/* Other tasks: so many, each of which runs for so long, then sleeps a while. */
#define NR_NOISES	2
#define NOISE_NS	(100000)

/* Of a noise's sleep. */
#define QUIET_MIN_NS	(500000)
#define QUIET_SPAN_NS	(2000000)

/**
 * struct goal - what is to be reached at a percentage
 * @percent: it
 * @stall_ms: the longest stall of any vCPU, or 0 if that isn't judged
 */
struct goal {
	int percent;
	double stall_ms;
};

/**
 * struct scene - a guest, and what is expected of its throttle
 * @text: what is special about it
 * @nr_vcpus: its vCPUs
 * @pinned: each has its CPU; otherwise all may use all
 * @noise: other tasks want the CPUs, too
 * @code: what the vCPUs run; NULL: they work
 * @vm_points: percentage points that the VM may be off; 0: not judged
 * @vcpu_points: the same of each vCPU
 * @goals: by percentage
 */
struct scene {
	const char *text;
	int nr_vcpus;
	bool pinned;
	bool noise;
	void *code;
	double vm_points;
	double vcpu_points;
	struct goal goals[NR_TARGETS];
};

/* A vCPU's turn comes after the one before it has worked. */
static struct {
	u64 turn;
	u64 nr_vcpus;
} ring;

static void pass_token(u64 i)
{
	u64 last = guest_clock();

	for (;;) {
		while (READ_ONCE(ring.turn) != i)
			cpu_relax();
		last = guest_unit(i, last);
		WRITE_ONCE(ring.turn, (i + 1) % ring.nr_vcpus);
	}
}

static const struct scene scenes[] = {
	{
		.text = "alone",
		.nr_vcpus = 1, .vm_points = 0.05,
		.goals = { { 20, 0 }, { 50, 0 }, { 80, 0 }, { 99, 12 } },
	}, {
		.text = "a CPU each",
		.nr_vcpus = 4, .pinned = true, .vm_points = 0.05, .vcpu_points = 0.25,
		.goals = { { 20, 0 }, { 50, 0 }, { 80, 0 }, { 99, 12 } },
	}, {
		.text = "free to move",
		.nr_vcpus = 4, .vm_points = 0.05, .vcpu_points = 0.25,
		.goals = { { 20, 0 }, { 50, 0 }, { 80, 10 }, { 90, 0 }, { 99, 12 } },
	}, {
		.text = "beside light noise",
		.nr_vcpus = 4, .noise = true,
		.goals = { { 80, 10 }, { 99, 12 } },
	}, {
		.text = "passing a token round",
		.nr_vcpus = 4, .code = pass_token, .vm_points = 0.25,
		.goals = { { 20, 0 }, { 50, 0 } },
	}, {
		.text = "two a CPU",
		.nr_vcpus = 8, .vm_points = 0.10, .vcpu_points = 1.5,
		.goals = { { 50, 0 } },
	}, {
		.text = "more than CPUs",
		.nr_vcpus = 22, .vm_points = 0.10,
		.goals = { { 20, 0 }, { 50, 0 }, { 80, 0 }, { 90, 0 }, { 99, 0 } },
	},
};

/**
 * struct measure - what a guest did for a while
 * @speed: units of work a second, all vCPUs
 * @speeds: of each vCPU
 * @starved: vCPUs that did nothing
 * @stall_ms: the longest that any vCPU saw
 */
struct measure {
	double speed;
	double speeds[GUEST_VCPUS_MAX];
	int starved;
	double stall_ms;
};

static volatile bool noisy;

static void *make_noise(void *seed)
{
	unsigned int state = (uintptr_t)seed;
	u64 end;

	while (noisy) {
		state = state * 1664525 + 1013904223;
		sleep_ns(QUIET_MIN_NS + (state >> 8) % QUIET_SPAN_NS);
		for (end = now_ns() + NOISE_NS; now_ns() < end;)
			;
	}
	return NULL;
}

static void start_scene(const struct scene *s, struct guest *g, pthread_t *noises)
{
	cpu_set_t cpus;
	int i;

	if (s->code) {
		guest_prepare(g, s->code, s->nr_vcpus);
		ring.nr_vcpus = s->nr_vcpus;
		sync_global_to_guest(g->vm, ring);
		for (i = 0; i < s->nr_vcpus; i++) {
			vcpu_args_set(g->vcpus[i], 1, (u64)i);
			guest_start(g, i);
		}
	} else {
		guest_create(g, GUEST_WORK, s->nr_vcpus);
	}
	for (i = 0; s->pinned && i < s->nr_vcpus; i++) {
		CPU_ZERO(&cpus);
		CPU_SET(i % CPUS, &cpus);
		TEST_ASSERT(!pthread_setaffinity_np(g->threads[i], sizeof(cpus), &cpus),
			    "pthread_setaffinity_np");
	}
	noisy = s->noise;
	for (i = 0; s->noise && i < NR_NOISES; i++)
		TEST_ASSERT(!pthread_create(&noises[i], NULL, make_noise,
					    (void *)(uintptr_t)(i + 1)), "pthread_create");
}

static void end_scene(const struct scene *s, struct guest *g, pthread_t *noises)
{
	int i;

	noisy = false;
	for (i = 0; s->noise && i < NR_NOISES; i++)
		pthread_join(noises[i], NULL);
	guest_destroy(g);
}

/* Settle, then measure whole periods, in which each vCPU has had several turns. */
static void measure(const struct scene *s, struct guest *g, u64 period_ns, int percent,
		    struct measure *m)
{
	u64 before[GUEST_VCPUS_MAX], after[GUEST_VCPUS_MAX], start, ns;
	u64 turns_ns = 4 * (g->nr_vcpus / CPUS) * TURN_NS * 100 / (100 - percent);
	int i;

	*m = (struct measure) {};
	ns = MEASURE_NS;
	if (g->nr_vcpus > CPUS)
		ns = max(turns_ns, s->vcpu_points ? (u64)EVEN_NS : ns);
	sleep_ns(MEASURE_NS / 10);
	for (i = 0; i < g->nr_vcpus; i++) {
		g->reports[i].gap_cycles = 0;
		before[i] = g->reports[i].work;
	}
	start = now_ns();
	sleep_until_ns(start + (ns + period_ns - 1) / period_ns * period_ns);
	for (i = 0; i < g->nr_vcpus; i++)
		after[i] = g->reports[i].work;
	ns = now_ns() - start;
	for (i = 0; i < g->nr_vcpus; i++) {
		m->speeds[i] = (after[i] - before[i]) * 1e9 / ns;
		m->speed += m->speeds[i];
		m->starved += after[i] == before[i];
		m->stall_ms = fmax(m->stall_ms,
				   (double)g->reports[i].gap_cycles / g->clock_khz);
	}
}

/*
 * By how many points the worst vCPU is off.  All do the same work, so the same is due to
 * all.  What each had at full speed is no measure: the scheduler may favour one for a while.
 */
static double worst_points(const struct guest *g, const struct measure *full,
			   const struct measure *m, int percent)
{
	double due = full->speed / g->nr_vcpus, points, worst = 0;
	int i;

	for (i = 0; i < g->nr_vcpus; i++) {
		points = 100 * (1 - m->speeds[i] / due) - percent;
		if (!(fabs(points) <= fabs(worst)))
			worst = points;
	}
	return worst;
}

static bool within(double value, double bound)
{
	return !bound || fabs(value) <= bound;
}

static void try_goal(const struct scene *s, struct guest *g, int fd,
		     const struct measure *full, const struct goal *goal)
{
	double vm_points, vcpu_points, sleep_ms;
	struct measure m;
	u64 period_ns = 0;

	TEST_ASSERT(!throttle_set(fd, goal->percent * 100, 0), "KVM_SET_THROTTLE");
	TEST_ASSERT(throttle_get(fd, NULL, 0, &period_ns) == g->nr_vcpus,
		    "KVM_GET_THROTTLE");
	measure(s, g, period_ns, goal->percent, &m);
	vm_points = 100 * (1 - m.speed / full->speed) - goal->percent;
	vcpu_points = worst_points(g, full, &m, goal->percent);
	/* No stall is as long as a sleep window: they don't sleep at all. */
	sleep_ms = period_ns / 1e6 * goal->percent / 100;
	ksft_test_result(within(vm_points, s->vm_points) &&
			 within(vcpu_points, s->vcpu_points) &&
			 within(m.stall_ms, goal->stall_ms) &&
			 m.stall_ms >= 0.9 * sleep_ms && !m.starved,
			 "%d %%: %d vCPUs, %s: VM %+.3f points of %.2f, worst vCPU %+.3f of %.2f, stall %.3f ms of %g, %d never ran\n",
			 goal->percent, g->nr_vcpus, s->text, vm_points, s->vm_points,
			 vcpu_points, s->vcpu_points, m.stall_ms, goal->stall_ms, m.starved);
}

static void play(const struct scene *s)
{
	pthread_t noises[NR_NOISES];
	struct measure full;
	struct guest guest;
	int fd, i;

	start_scene(s, &guest, noises);
	fd = throttle_attach(guest.vm->fd);
	TEST_ASSERT(fd >= 0, "KVM_THROTTLE_ATTACH: %d", fd);
	measure(s, &guest, 1, 0, &full);
	ksft_print_msg("%d vCPUs, %s: %.0f units/s at full speed, stall %.3f ms\n",
		       s->nr_vcpus, s->text, full.speed, full.stall_ms);
	for (i = 0; i < NR_TARGETS && s->goals[i].percent; i++)
		try_goal(s, &guest, fd, &full, &s->goals[i]);
	close(fd);
	end_scene(s, &guest, noises);
}

static int nr_goals(void)
{
	int i, k, nr = 0;

	for (i = 0; i < ARRAY_SIZE(scenes); i++)
		for (k = 0; k < NR_TARGETS && scenes[i].goals[k].percent; k++)
			nr++;
	return nr;
}

int main(void)
{
	const char *missing = throttle_missing();
	int i;

	ksft_print_header();
	if (missing)
		ksft_exit_skip("%s\n", missing);
	if (!throttle_exact() || sysconf(_SC_NPROCESSORS_ONLN) != CPUS)
		ksft_exit_skip("needs %d CPUs in exact time (KVM_THROTTLE_EXACT)\n", CPUS);
	ksft_set_plan(nr_goals());
	be_on_time();
	for (i = 0; i < ARRAY_SIZE(scenes); i++)
		play(&scenes[i]);
	ksft_finished();
}
