// SPDX-License-Identifier: GPL-2.0
/*
 * What does a guest gain by playing tricks with its windows?
 *
 * The attackers here know the module: when windows open and close, what it charges
 * and what it makes up for.  They learn the grid from their own stalls.  Each is judged
 * by two figures:
 *
 *  - work: useful work per second, over what is due.  What is due is the work of
 *    a guest that just works, under the same throttle.  To a guest that makes exits
 *    all the time, its share of its own full speed is due.
 *  - CPU: the share of the host's CPU that the vCPUs' threads took, in guest
 *    mode, in the kernel and in the VMM together.  It is in points above that of a
 *    guest that just works.  Signals to the VMM cost CPU without a throttle, too.
 *    With one they may cost twice as much: each ends a sleep, and another one begins.
 *
 * Neither may be more than GAIN_BOUND.  Nor may the work be less than LEAST_SHARE of what
 * is due, without what the attacker itself gives away by leaving its windows early or by
 * keeping the host busy: a guest that does nothing is no attacker that has failed.
 *
 * Time can be judged in the deterministic VM only; elsewhere the attackers run, and
 * nothing but their end is asserted.
 */
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#include <linux/compiler.h>

#include "guest_arch.h"
#include "kselftest.h"
#include "throttle_util.h"

/* Percent of the work that is due, and points of the CPU. */
#define GAIN_BOUND	0.2

#define LEAST_SHARE	0.5

#define NR_VCPUS_MAX	2

#define EXACT_NS	(1500 * MS)
#define ROUGH_NS	(100 * MS)

/* A stall of a guest that isn't less than this is a sleep window. */
#define STALL_US	300

/* How long before a window's end an attacker is ready for it. */
#define EARLY_US	20

/* From a halted guest's timer to its next work, about. */
#define WAKE_US		25

/* What arch_long_exit() takes, about. */
#define LONG_EXIT_US	3000

/* For how long it then works between exits to user space. */
#define DODGE_US	84

enum attack {
	WORK,
	SPIN,
	EXIT_TO_USER,
	EXIT_TO_KERNEL,
	SLOW_DEVICE,
	KICKED,
	DODGE,
	HALT_BRIEFLY,
	HALT_THROUGH,
	LONG_EXIT,
	EXITS_AT_END,
	IPIS_AT_END,
	NR_ATTACKS
};

/**
 * struct attack_info - an attack as the test runs it
 * @text: what the guest does
 * @nr_vcpus: with how many vCPUs
 * @own: what is due is a share of its own full speed
 * @slow_exits: guest::slow_exits
 * @kick_us: how often a signal ends KVM_RUN, or 0
 * @gives_us: time that it gives away, or is charged for, with each window in which it works
 */
struct attack_info {
	const char *text;
	int nr_vcpus;
	bool own;
	int slow_exits;
	int kick_us;
	int gives_us;
};

static const struct attack_info attacks[] = {
	[WORK] = {
		.text = "works, for comparison",
	},
	[SPIN] = {
		.text = "spins with PAUSE",
		.nr_vcpus = 1,
		.own = true,
	},
	[EXIT_TO_USER] = {
		.text = "floods exits to user space",
		.nr_vcpus = 1,
		.own = true,
	},
	[EXIT_TO_KERNEL] = {
		.text = "floods exits that KVM handles",
		.nr_vcpus = 1,
		.own = true,
	},
	[SLOW_DEVICE] = {
		.text = "keeps its VMM busy at each exit",
		.nr_vcpus = 1,
		.own = true,
		.slow_exits = 24,
	},
	[KICKED] = {
		.text = "has its VMM kicked every 50 us",
		.nr_vcpus = 1,
		.own = true,
		.kick_us = 50,
	},
	[DODGE] = {
		.text = "is in user space when its window ends, and often then",
		.nr_vcpus = 1,
		.slow_exits = 1,
		.gives_us = EARLY_US / 2,
	},
	[HALT_BRIEFLY] = {
		.text = "halts over each window's end",
		.nr_vcpus = 1,
		.gives_us = EARLY_US / 2,
	},
	[HALT_THROUGH] = {
		.text = "halts through each sleep window",
		.nr_vcpus = 1,
		.gives_us = EARLY_US + WAKE_US,
	},
	[LONG_EXIT] = {
		.text = "makes a long exit at each window's end",
		.nr_vcpus = 1,
		.gives_us = EARLY_US + LONG_EXIT_US,
	},
	[EXITS_AT_END] = {
		.text = "floods exits at each window's end",
		.nr_vcpus = 1,
		.gives_us = EARLY_US,
	},
	[IPIS_AT_END] = {
		.text = "floods IPIs to a halting sibling at each window's end",
		.nr_vcpus = 2,
		.gives_us = EARLY_US,
	},
};

/* For the guest, whose clock it is counted in. */
static struct {
	u64 attack;
	u64 us;
	u64 period;
	u64 run;
	u64 khz;
} grid;

/* --- the guest --------------------------------------------------------------- */

#if defined(__x86_64__)
static const char port_bytes[4096] = { [0 ... 4095] = -1 };

static void arch_init(void)
{
	guest_timer_init();
}

static void arch_halt(void)
{
	guest_wait();
}

/* Halts until guest_clock() is @at. */
static void arch_halt_until(u64 at)
{
	u64 now = guest_clock();

	if (at <= now)
		return;
	guest_timer_start((at - now) * 1000000 / grid.khz);
	arch_halt();
}

static void arch_kernel_exit(void)
{
	u32 a = 0, b, c = 0, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
}

static void arch_long_exit(void)
{
	const char *from = port_bytes;
	u64 count = 500;

	asm volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(GUEST_KERNEL_PORT) : "memory");
}

static void arch_ipi(u64 vcpu)
{
	wrmsr(APIC_MSR_ICR, vcpu << 32 | WAKE_VECTOR);
}

static void arch_setup(struct guest *g)
{
	guest_install_wake(g->vm, g->vcpus, g->nr_vcpus);
}

static bool arch_has(enum attack attack)
{
	return true;
}

#else

static void arch_init(void)
{
}

static void arch_halt_until(u64 at)
{
}

/* A hypercall: which version of them is there? */
static void arch_kernel_exit(void)
{
	register u64 x0 asm("x0") = 0x80000000;

	asm volatile("hvc #0" : "+r"(x0) :: "x1", "x2", "x3", "memory");
}

static void arch_long_exit(void)
{
}

static void arch_ipi(u64 vcpu)
{
}

static void arch_halt(void)
{
}

static void arch_setup(struct guest *g)
{
}

/* There is no timer or interrupt controller in these guests. */
static bool arch_has(enum attack attack)
{
	return attack != HALT_BRIEFLY && attack != HALT_THROUGH &&
	       attack != LONG_EXIT && attack != IPIS_AT_END;
}

#endif

static u64 work_until(u64 i, u64 last, u64 until)
{
	do {
		last = guest_unit(i, last);
	} while (last < until);
	return last;
}

static bool stalled(u64 last, u64 now)
{
	return now - last > STALL_US * grid.us;
}

/* Works until a sleep window is over; returns when that was. */
static u64 next_open(u64 i)
{
	u64 last = guest_clock(), now;

	for (;;) {
		now = guest_unit(i, last);
		if (stalled(last, now))
			return now;
		last = now;
	}
}

/* Works from the opening of a window until @early before its end. */
static u64 work_to_end(u64 i, u64 open, u64 early)
{
	u64 last = open, end = open + grid.run - early, now;

	do {
		now = guest_unit(i, last);
		/* It was a short one, for a debt. */
		if (stalled(last, now))
			end = now + grid.run - early;
		last = now;
	} while (last < end);
	return last;
}

/* Not in KVM_RUN when the window ends, and then back at work for a bit at a time. */
static void dodge(u64 i)
{
	u64 last, now, end;

	for (;;) {
		last = work_to_end(i, next_open(i), EARLY_US * grid.us / 2);
		end = last + grid.period - grid.run;
		do {
			guest_exit();
			now = guest_clock();
			if (stalled(last, now))
				break;
			last = work_until(i, now, now + DODGE_US * grid.us);
		} while (last < end);
	}
}

static void halt_briefly(u64 i)
{
	u64 last;

	for (;;) {
		last = work_to_end(i, next_open(i), EARLY_US * grid.us / 2);
		/* Found polling, it seems to take that long to leave the guest. */
		arch_halt_until(last + 5 * EARLY_US * grid.us / 2);
	}
}

/* A time at which a window opens, the earliest of some: the first may be late. */
static u64 early_open(u64 i)
{
	u64 open = next_open(i), now, late;
	int n;

	for (n = 0; n < 8; n++) {
		now = next_open(i);
		late = (now - open) % grid.period;
		open = late < grid.period / 2 ? now - late : now;
	}
	return open;
}

static void halt_through(u64 i)
{
	u64 open = early_open(i);

	for (;;) {
		work_until(i, open, open + grid.run - EARLY_US * grid.us);
		open += grid.period;
		arch_halt_until(open);
	}
}

static void long_exit(u64 i)
{
	for (;;) {
		work_to_end(i, next_open(i), EARLY_US * grid.us);
		arch_long_exit();
	}
}

static void exits_at_end(u64 i)
{
	u64 last = next_open(i), now;

	for (;;) {
		now = work_to_end(i, last, EARLY_US * grid.us);
		do {
			last = now;
			arch_kernel_exit();
			now = guest_clock();
		} while (!stalled(last, now));
		last = now;
	}
}

/* The sibling works from when it is woken until its next sleep window. */
static void ipis_at_end(u64 i)
{
	u64 last = next_open(i), now;

	for (;;) {
		if (i) {
			now = work_to_end(i, last, EARLY_US * grid.us);
			do {
				last = now;
				arch_ipi(0);
				now = guest_clock();
			} while (!stalled(last, now));
			last = now;
		} else {
			arch_halt();
			next_open(i);
		}
	}
}

static void attacker(u64 i)
{
	u64 last;

	arch_init();
	last = guest_clock();
	for (;;) {
		switch (grid.attack) {
		case WORK:
			work_until(i, last, -1);
			break;
		case SPIN:
			cpu_relax();
			break;
		case EXIT_TO_USER:
		case SLOW_DEVICE:
			guest_exit();
			break;
		case EXIT_TO_KERNEL:
			arch_kernel_exit();
			break;
		case DODGE:
			dodge(i);
			break;
		case HALT_BRIEFLY:
			halt_briefly(i);
			break;
		case HALT_THROUGH:
			halt_through(i);
			break;
		case LONG_EXIT:
			long_exit(i);
			break;
		case EXITS_AT_END:
			exits_at_end(i);
			break;
		case IPIS_AT_END:
			ipis_at_end(i);
			break;
		}
		last = guest_unit(i, last);
	}
}

/* --- the host ---------------------------------------------------------------- */

/**
 * struct share - what a guest got
 * @work: units of work per second
 * @cpu: CPU time of its threads per second
 */
struct share {
	double work;
	double cpu;
};

static u64 measure_ns = ROUGH_NS;

static u64 thread_ns(const struct guest *g)
{
	struct timespec ts;
	clockid_t clock;
	u64 ns = 0;
	int i;

	for (i = 0; i < g->nr_vcpus; i++) {
		TEST_ASSERT(!pthread_getcpuclockid(g->threads[i], &clock) &&
			    !clock_gettime(clock, &ts), "the CPU clock of a thread");
		ns += ts.tv_sec * 1000000000ULL + ts.tv_nsec;
	}
	return ns;
}

static void wait_and_kick(const struct guest *g, int kick_us, u64 end)
{
	while (kick_us && now_ns() < end) {
		pthread_kill(g->threads[0], SIGUSR1);
		sleep_ns(kick_us * 1000);
	}
	sleep_until_ns(end);
}

static struct share measure(enum attack attack, int nr_vcpus, u32 percent_x100)
{
	const struct attack_info *info = &attacks[attack];
	u64 period_ns = 0, work, cpu, begin, ns;
	struct guest g;
	int fd, i;

	guest_prepare(&g, attacker, nr_vcpus);
	arch_setup(&g);
	fd = throttle_attach(g.vm->fd);
	TEST_ASSERT(fd >= 0 && !throttle_set(fd, percent_x100, 0) &&
		    throttle_get(fd, NULL, 0, &period_ns) > 0, "throttle");
	g.slow_exits = info->slow_exits;
	grid.attack = attack;
	grid.khz = g.clock_khz;
	grid.us = g.clock_khz / 1000;
	grid.period = period_ns * g.clock_khz / 1000000;
	grid.run = grid.period * (10000 - percent_x100) / 10000;
	sync_global_to_guest(g.vm, grid);
	for (i = 0; i < g.nr_vcpus; i++) {
		vcpu_args_set(g.vcpus[i], 1, (u64)i);
		guest_start(&g, i);
	}

	/* Settle, and measure whole periods. */
	wait_and_kick(&g, info->kick_us, now_ns() + measure_ns / 5);
	begin = now_ns();
	ns = period_ns ? measure_ns / period_ns * period_ns : measure_ns;
	work = guest_work(&g);
	cpu = thread_ns(&g);
	wait_and_kick(&g, info->kick_us, begin + ns);
	work = guest_work(&g) - work;
	cpu = thread_ns(&g) - cpu;
	ns = now_ns() - begin;
	close(fd);
	guest_destroy(&g);
	return (struct share) { work * 1e9 / ns, (double)cpu / ns };
}

/*
 * @full: a guest that just works, without a throttle; @own: this one then, if it
 * is judged by that; @honest: one that works under the same throttle.
 */
static void try_attack(enum attack attack, u32 percent_x100,
		       const struct share *full, const struct share *own,
		       const struct share *honest)
{
	double left = 1 - percent_x100 / 10000.0, due, due_cpu, work, cpu, least;
	double run_us = KVM_THROTTLE_PERIOD_DEFAULT_NS / 1e3 * left;
	const struct attack_info *info = &attacks[attack];
	struct share got;

	got = measure(attack, info->nr_vcpus, percent_x100);
	due = info->own ? own->work * left : honest->work;
	due_cpu = honest->cpu;
	if (info->kick_us)
		due_cpu += 2 * (1 - left) * (own->cpu - own->work / full->work);
	work = (got.work / due - 1) * 100;
	cpu = (got.cpu - due_cpu) * 100;
	least = (LEAST_SHARE * run_us / (run_us + info->gives_us) - 1) * 100;
	ksft_test_result(!throttle_exact() ||
			 (work <= GAIN_BOUND && work >= least && cpu <= GAIN_BOUND),
			 "%g %%: a guest that %s gains %+.2f %% of the work due (from %.2f to %+.2f), %+.2f points of the CPU (to %+.2f)\n",
			 percent_x100 / 100.0, info->text, work, least, GAIN_BOUND, cpu,
			 GAIN_BOUND);
}

int main(void)
{
	static const u32 percents[] = { 5000, 9000, 9900 };
	struct share honest[ARRAY_SIZE(percents)][NR_VCPUS_MAX + 1];
	const char *missing = throttle_missing();
	struct share full;
	int i, n, attack;

	ksft_print_header();
	if (missing)
		ksft_exit_skip("%s\n", missing);
	if (throttle_exact())
		measure_ns = EXACT_NS;
	ksft_set_plan(ARRAY_SIZE(percents) * (NR_ATTACKS - 1));
	be_on_time();
	full = measure(WORK, 1, 0);
	for (i = 0; i < ARRAY_SIZE(percents); i++) {
		for (n = 1; n <= NR_VCPUS_MAX; n++) {
			honest[i][n] = measure(WORK, n, percents[i]);
			ksft_print_msg("%g %%: a guest of %d vCPUs that works does %.2f %% of its work and has %.2f %% of the CPU\n",
				       percents[i] / 100.0, n,
				       honest[i][n].work / full.work * 100,
				       honest[i][n].cpu * 100);
		}
	}
	for (attack = WORK + 1; attack < NR_ATTACKS; attack++) {
		const struct attack_info *info = &attacks[attack];
		struct share own = {};

		if (arch_has(attack) && info->own) {
			own = measure(attack, info->nr_vcpus, 0);
			ksft_print_msg("full speed: a guest that %s does %.2f %% of the work and has %.2f %% of the CPU\n",
				       info->text, own.work / full.work * 100,
				       own.cpu * 100);
		}
		for (i = 0; i < ARRAY_SIZE(percents); i++) {
			if (arch_has(attack))
				try_attack(attack, percents[i], &full, &own,
					   &honest[i][info->nr_vcpus]);
			else
				ksft_test_result_skip("%s: no such guest on this architecture\n",
						      info->text);
		}
	}
	ksft_finished();
}
