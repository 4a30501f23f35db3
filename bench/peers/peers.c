// SPDX-License-Identifier: GPL-2.0
/*
 * Measures one way to throttle a VM, for bench/peers/measure.py: prints a line
 * of JSON.
 *
 * What it says is exact in the deterministic VM of vm/vm only, where virtual
 * time counts instructions.
 */
#include <limits.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "guest_arch.h"
#include "peers.h"
#include "spend_insns.h"

#define VMS_MAX		64
#define TARGETS_MAX	32

/* A pause of the bench's own, which takes the CPU, is no stall by a throttle. */
#define STALL_MIN_NS	(1 * MS)

/* From the directory that the bench is run in. */
#define METER		"tools/meter/kvm-throttle-meter"

/* A turn on a CPU that vCPUs share: a tick of the scheduler's. */
#define TURN_NS		(4 * MS)

/* Of a Linux guest, in which at 99 % all takes a hundred times as long. */
#define GUEST_SETTLE_NS	(2000 * MS)

static void usage(void)
{
	printf("Usage: peers share PEER GUEST VMS VCPUS MS TARGET...\n"
	       "       peers cost PEER VCPUS MS TARGET\n"
	       "       peers latency PEER VCPUS TARGET COUNT\n"
	       "       peers stall PEER VCPUS MS TARGET\n"
	       "       peers health PEER PID RAM OFFSET MONITOR MS TARGET...\n"
	       "       peers floor VCPUS MS\n"
	       "       peers speed PEER VCPUS MS\n"
	       "\n"
	       "Measures a way to throttle a VM; prints a line of JSON. Run it as root, on a\n"
	       "machine with KVM that does nothing else.\n"
	       "\n"
	       "  share     how much slower the guest is, and its stalls\n"
	       "  cost      time of a CPU that neither the guest nor anybody else gets\n"
	       "  latency   from a request to its effect, COUNT times\n"
	       "  stall     its stalls, by kvm-throttle-meter\n"
	       "  health    how late timers of a Linux guest are, vm/health-guest.c, and its TCP\n"
	       "            stream, in a QEMU that runs\n"
	       "  floor     cost of a guest that leaves KVM_RUN, sleeps and enters again\n"
	       "  speed     what an unthrottled guest does; with kvm_throttle, one that it is\n"
	       "            attached to\n"
	       "\n"
	       "  PID, RAM, OFFSET, MONITOR\n"
	       "            QEMU's process, the file that its guest's memory is, where in that the\n"
	       "            guest reports, and QEMU's QMP socket\n"
	       "  GUEST     work, lock (its vCPUs contend for a spinlock) or token (they pass one\n"
	       "            round)\n"
	       "  VMS, VCPUS  how many VMs, and how many vCPUs each has (1 to %d)\n"
	       "  MS        time to measure for, about\n"
	       "  TARGET    hundredths of a percent, 1 to 9999; where no PEER throttles, 0\n"
	       "  PEER      one of:\n", GUEST_VCPUS_MAX);
	peer_list();
}

struct sample {
	u64 ns;
	u64 work;
	u64 windows;
	u64 soaked;
	u64 other_ns;
};

static struct bench_vm vms[VMS_MAX];
static int nr_vms;

static volatile bool soaking;
static volatile u64 soaked;
static pthread_t soak_thread;

static u64 vm_work(const struct bench_vm *vm)
{
	u64 work = 0;
	int i;

	for (i = 0; i < vm->nr_vcpus; i++)
		work += vm->memory->vcpus[i].work;
	return work;
}

static struct sample sample(const struct peer *peer)
{
	struct sample s = { .soaked = soaked };
	int i;

	for (i = 0; i < nr_vms; i++)
		s.work += vm_work(&vms[i]);
	s.ns = now_ns();
	for (i = 0; i < nr_vms; i++)
		s.windows += peer->windows(&vms[i]);
	for (i = 0; peer->other_ns && i < nr_vms; i++)
		s.other_ns += peer->other_ns(&vms[i]);
	return s;
}

/* What happens in @ns. */
static struct sample measure(const struct peer *peer, u64 ns)
{
	struct sample before, after;

	before = sample(peer);
	sleep_until_ns(before.ns + ns);
	after = sample(peer);
	return (struct sample) {
		.ns = after.ns - before.ns,
		.work = after.work - before.work,
		.windows = after.windows - before.windows,
		.soaked = after.soaked - before.soaked,
		.other_ns = after.other_ns - before.other_ns,
	};
}

static double speed(struct sample s)
{
	return s.work * 1e9 / s.ns;
}

static void start_vms(const struct peer *peer, enum bench_guest_kind kind, int nr,
		      int nr_vcpus)
{
	int i;

	for (i = 0; i < nr; i++) {
		bench_vm_start(&vms[i], i, kind, peer->vmm, nr_vcpus);
		if (peer->prepare)
			peer->prepare(&vms[i]);
	}
	nr_vms = nr;
}

static void end_vms(const struct peer *peer)
{
	int i;

	/* The end of one may take away what the others are set by. */
	for (i = 0; i < nr_vms; i++)
		peer->set(&vms[i], 0);
	for (i = 0; i < nr_vms; i++) {
		bench_vm_end(&vms[i]);
		if (peer->finish)
			peer->finish(&vms[i]);
	}
	nr_vms = 0;
}

static void run_vms(int nr_vcpus)
{
	int i;

	for (i = 0; i < nr_vms; i++)
		bench_vm_run(&vms[i], nr_vcpus);
}

/* All vCPUs run. */
static void ready_vms(const struct peer *peer)
{
	int i;

	for (i = 0; peer->ready && i < nr_vms; i++)
		peer->ready(&vms[i]);
	sleep_ns(500 * MS);
}

/* Returns false if the peer has no such throttle. */
static bool set_vms(const struct peer *peer, u32 target)
{
	int i;

	if (target > peer->max_x100)
		return false;
	for (i = 0; i < nr_vms; i++)
		if (!peer->set(&vms[i], target))
			return false;
	return true;
}

/* Until what is measured doesn't change any more: cpulimit's feedback is slow. */
static void settle(const struct peer *peer, u32 target)
{
	sleep_ns(max((u64)(300 * MS), 3 * peer->period_ns(target)));
	if (!strcmp(peer->name, "sigstop") && target)
		sleep_ns(5000 * MS);
}

static u64 whole_periods(const struct peer *peer, u32 target, u64 ns)
{
	u64 period_ns = peer->period_ns(target);

	return (ns + period_ns - 1) / period_ns * period_ns;
}

static int compare_u64(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

/* Index of the median of three. */
static int median_of(const double v[3])
{
	const bool first = v[0] < v[1], second = v[1] < v[2], both = v[0] < v[2];

	if (first == second)
		return 1;
	return first == both ? 2 : 0;
}

/* Prints what the first vCPU of the first VM has seen, but for the first @skip of it. */
static void print_gaps(const char *plural, const char *length, u32 skip)
{
	static u64 gaps[GAPS_MAX];
	u32 nr = vms[0].memory->nr_gaps - skip, i;
	double ns = 1e6 / vms[0].state->clock_khz;
	volatile struct bench_gap *gap;

	TEST_ASSERT(nr <= GAPS_MAX, "%u %s are too many", nr, plural);
	for (i = 0; i < nr; i++) {
		gap = &vms[0].memory->gaps[(skip + i) % GAPS_MAX];
		gaps[i] = gap->end - gap->start;
	}
	qsort(gaps, nr, sizeof(gaps[0]), compare_u64);
	printf(", \"%s\": %u, \"%s_max_ns\": %.0f, \"%s_p99_ns\": %.0f, \"%s_p50_ns\": %.0f",
	       plural, nr, length, nr ? gaps[nr - 1] * ns : 0,
	       length, nr ? gaps[nr - 1 - nr / 100] * ns : 0, length, nr ? gaps[nr / 2] * ns : 0);
}

/*
 * The machine's own I/O may come between: one vCPU's speed is the median of three
 * parts of the time.  Many vCPUs take turns, which can't be divided.
 */
static struct sample measure_median(const struct peer *peer, u32 target, u64 ns, int nr_vcpus)
{
	struct sample s[3];
	double v[3];
	int i;

	if (nr_vms * nr_vcpus > 1)
		return measure(peer, whole_periods(peer, target, ns));
	for (i = 0; i < ARRAY_SIZE(s); i++) {
		s[i] = measure(peer, whole_periods(peer, target, ns / ARRAY_SIZE(s)));
		v[i] = speed(s[i]);
	}
	return s[median_of(v)];
}

static void share_of_target(const struct peer *peer, int nr_vcpus, u64 ns, u32 target,
			    double full)
{
	u64 everyone_ns = nr_vms * nr_vcpus * TURN_NS / sysconf(_SC_NPROCESSORS_ONLN) *
			  PERCENT_ALL / (PERCENT_ALL - target);
	u64 set_ns, clear_ns;
	struct sample s;
	bool done;

	if (nr_vms * nr_vcpus > 1)
		ns = max(ns, everyone_ns);
	set_ns = now_ns();
	done = set_vms(peer, target);
	set_ns = now_ns() - set_ns;
	if (!done) {
		set_vms(peer, 0);
		printf("{\"target_x100\": %u, \"actual\": null}", target);
		return;
	}
	settle(peer, target);
	vms[0].memory->nr_gaps = 0;
	s = measure_median(peer, target, ns, nr_vcpus);
	printf("{\"target_x100\": %u, \"actual\": %.5f", target, 100 * (1 - speed(s) / full));
	printf(", \"ns\": %lu, \"windows\": %lu", s.ns, s.windows);
	print_gaps("stalls", "stall", 0);
	clear_ns = now_ns();
	set_vms(peer, 0);
	clear_ns = now_ns() - clear_ns;
	printf(", \"set_ns\": %lu, \"clear_ns\": %lu}", set_ns, clear_ns);
	sleep_ns(200 * MS);
}

static void share(const struct peer *peer, enum bench_guest_kind kind, int nr, int nr_vcpus,
		  u64 ns, int nr_targets, const u32 *targets)
{
	double full;
	int i;

	start_vms(peer, kind, nr, nr_vcpus);
	run_vms(nr_vcpus);
	ready_vms(peer);
	full = speed(measure_median(peer, 0, max(ns, (u64)(nr * nr_vcpus * 5 * TURN_NS)), nr_vcpus));
	printf("\"full_speed\": %.1f, \"results\": [", full);
	for (i = 0; i < nr_targets; i++) {
		if (i)
			printf(", ");
		share_of_target(peer, nr_vcpus, ns, targets[i], full);
		fflush(stdout);
	}
	printf("]");
	end_vms(peer);
}

/* Takes what time the guest leaves. */
static void *soak_code(void *unused)
{
	struct sched_param param = {};

	TEST_ASSERT(!sched_setscheduler(0, SCHED_IDLE, &param), "SCHED_IDLE");
	while (soaking) {
		for (int i = 0; i < 10; i++)
			spend_insns();
		soaked++;
	}
	return NULL;
}

static void start_soak(void)
{
	soaking = true;
	TEST_ASSERT(!pthread_create(&soak_thread, NULL, soak_code, NULL), "pthread_create");
	sleep_ns(300 * MS);
}

static void stop_soak(void)
{
	soaking = false;
	pthread_join(soak_thread, NULL);
}

/**
 * struct cost_units - what is no cost
 * @work_ns: a unit of work of the guest
 * @soak_ns: a turn of soak_code()
 */
struct cost_units {
	double work_ns;
	double soak_ns;
};

/* Before there are VMs. */
static double soak_unit_ns(u64 ns)
{
	const struct peer *none = peer_find("none");
	struct sample s;
	double v[3];
	int i;

	start_soak();
	for (i = 0; i < ARRAY_SIZE(v); i++) {
		s = measure(none, ns / ARRAY_SIZE(v));
		v[i] = (double)s.ns / s.soaked;
	}
	stop_soak();
	return v[median_of(v)];
}

/* Without the soaking thread, to which SCHED_IDLE gives a little in any case. */
static double work_unit_ns(const struct peer *peer, u64 ns)
{
	double unit_ns;

	run_vms(1);
	sleep_ns(300 * MS);
	unit_ns = 1e9 / speed(measure_median(peer, 0, ns, 1));
	bench_vm_stop(&vms[0]);
	return unit_ns;
}

static double cost_ns(struct cost_units units, struct sample s)
{
	return s.ns - s.work * units.work_ns - s.soaked * units.soak_ns - s.other_ns;
}

/* As measure_median(). */
static struct sample measure_cost(const struct peer *peer, struct cost_units units, u32 target,
				  u64 ns)
{
	struct sample s[3];
	double v[3];
	int i;

	for (i = 0; i < ARRAY_SIZE(s); i++) {
		s[i] = measure(peer, whole_periods(peer, target, ns / ARRAY_SIZE(s)));
		v[i] = cost_ns(units, s[i]) / s[i].ns;
	}
	return s[median_of(v)];
}

static void print_cost(const char *prefix, struct cost_units units, struct sample s)
{
	double cost = cost_ns(units, s);

	printf(", \"%sns_per_s\": %.0f", prefix, cost * 1e9 / s.ns);
	printf(", \"%swork_share\": %.5f", prefix, s.work * units.work_ns / s.ns);
	if (s.windows)
		printf(", \"%swindows_per_s\": %.3f, \"%sns_per_window\": %.1f",
		       prefix, s.windows * 1e9 / s.ns, prefix, cost / s.windows);
}

static void cost(const struct peer *peer, int nr_vcpus, u64 ns, u32 target)
{
	struct cost_units units;

	units.soak_ns = soak_unit_ns(ns);
	start_vms(peer, BENCH_WORK, 1, nr_vcpus);
	units.work_ns = work_unit_ns(peer, ns);
	start_soak();
	run_vms(nr_vcpus);
	ready_vms(peer);
	printf("\"target_x100\": %u, \"work_ns\": %.2f, \"soak_ns\": %.2f", target,
	       units.work_ns, units.soak_ns);
	print_cost("full_", units, measure_cost(peer, units, 0, ns));
	if (set_vms(peer, target)) {
		settle(peer, target);
		print_cost("", units, measure_cost(peer, units, target, ns));
	}
	end_vms(peer);
}

/* As the meter's programs take time too, nothing else is measured meanwhile. */
static void stall(const struct peer *peer, int nr_vcpus, u64 ns, u32 target)
{
	char command[128];
	FILE *meter;
	int c;

	start_vms(peer, BENCH_WORK, 1, nr_vcpus);
	run_vms(nr_vcpus);
	ready_vms(peer);
	printf("\"target_x100\": %u, \"meter\": ", target);
	if (set_vms(peer, target)) {
		settle(peer, target);
		snprintf(command, sizeof(command), METER " --json --pid %d --for %llums",
			 vms[0].pid, ns / MS);
		meter = popen(command, "r");
		TEST_ASSERT(meter, "popen");
		while ((c = fgetc(meter)) != EOF)
			if (c != '\n')
				putchar(c);
		TEST_ASSERT(!pclose(meter), "%s failed", METER);
	} else {
		printf("null");
	}
	end_vms(peer);
}

static volatile u64 received;

static void *receive_code(void *listener)
{
	static char buffer[1 << 20];
	int fd = accept(*(int *)listener, NULL, NULL);
	ssize_t size;

	TEST_ASSERT(fd >= 0, "accept");
	while ((size = recv(fd, buffer, sizeof(buffer), 0)) > 0)
		received += size;
	return NULL;
}

/* Returns when the guest has found us. */
static void start_receiving(void)
{
	static int listener;
	const struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons(STREAM_PORT),
	};
	u64 deadline = now_ns() + PATIENCE_NS;
	const int yes = 1;
	pthread_t thread;

	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	TEST_ASSERT(!bind(listener, (const void *)&address, sizeof(address)) &&
		    !listen(listener, 1), "port %d", STREAM_PORT);
	TEST_ASSERT(!pthread_create(&thread, NULL, receive_code, &listener), "pthread_create");
	while (!received) {
		TEST_ASSERT(now_ns() < deadline, "the guest sends nothing");
		sleep_ns(10 * MS);
	}
	/* The stream has found its speed. */
	sleep_ns(1000 * MS);
}

static void health_of_target(const struct peer *peer, u64 ns, u32 target)
{
	u32 skip, retransmits = vms[0].memory->retransmits;
	u64 start, bytes, cpu_ns;

	printf("{\"target_x100\": %u", target);
	if (!set_vms(peer, target)) {
		set_vms(peer, 0);
		printf(", \"bytes\": null}");
		return;
	}
	settle(peer, target);
	sleep_ns(GUEST_SETTLE_NS);
	start = now_ns();
	skip = vms[0].memory->nr_gaps;
	bytes = received;
	cpu_ns = qemu_vcpu_ns(&vms[0]);
	sleep_until_ns(start + whole_periods(peer, target, ns));
	cpu_ns = qemu_vcpu_ns(&vms[0]) - cpu_ns;
	/* What was sent again because the throttle was set is part of what it does. */
	printf(", \"ns\": %lu, \"bytes\": %lu, \"cpu_ns\": %lu, \"retransmits\": %u",
	       now_ns() - start, received - bytes, cpu_ns,
	       vms[0].memory->retransmits - retransmits);
	print_gaps("ticks", "late", skip);
	printf("}");
}

static void health(const struct peer *peer, u64 ns, int nr_targets, const u32 *targets)
{
	int i;

	nr_vms = 1;
	start_receiving();
	if (peer->prepare)
		peer->prepare(&vms[0]);
	printf("\"results\": [");
	for (i = 0; i < nr_targets; i++) {
		if (i)
			printf(", ");
		health_of_target(peer, ns, targets[i]);
		fflush(stdout);
	}
	printf("]");
	set_vms(peer, 0);
	if (peer->finish)
		peer->finish(&vms[0]);
}

static void floor_cost(int nr_vcpus, u64 ns)
{
	struct peer none = *peer_find("none"), exits = none;
	struct cost_units units;

	exits.windows = peer_find("pause-resume")->windows;
	units.soak_ns = soak_unit_ns(ns);
	start_vms(&none, BENCH_WORK, 1, nr_vcpus);
	units.work_ns = work_unit_ns(&none, ns);
	end_vms(&none);
	start_soak();
	start_vms(&exits, BENCH_EXIT, 1, nr_vcpus);
	run_vms(nr_vcpus);
	sleep_ns(300 * MS);
	printf("\"work_ns\": %.2f", units.work_ns);
	print_cost("", units, measure_cost(&exits, units, 0, ns));
	end_vms(&exits);
}

static void full_speed(const struct peer *peer, int nr_vcpus, u64 ns)
{
	start_vms(peer, BENCH_WORK, 1, nr_vcpus);
	if (!peer->max_x100 && vms[0].throttle_fd >= 0) {
		close(vms[0].throttle_fd);
		vms[0].throttle_fd = -1;
	}
	run_vms(nr_vcpus);
	sleep_ns(500 * MS);
	printf("\"speed\": %.2f", speed(measure_median(peer, 0, ns, nr_vcpus)));
	end_vms(peer);
}

/* How long the guest went on after @from, a time of the host's clock. */
static double until_slow_ns(u64 from)
{
	volatile struct bench_memory *memory = vms[0].memory;
	u64 shortest = STALL_MIN_NS / 1000000 * vms[0].state->clock_khz, i;

	for (i = 0; i < memory->nr_gaps; i++) {
		if (memory->gaps[i].end <= from ||
		    memory->gaps[i].end - memory->gaps[i].start < shortest)
			continue;
		if (memory->gaps[i].start <= from)
			return 0;
		return (memory->gaps[i].start - from) * 1e6 / vms[0].state->clock_khz;
	}
	return -1;
}

/* How long after @from its last stall ended. */
static double until_fast_ns(u64 from)
{
	volatile struct bench_memory *memory = vms[0].memory;
	u64 last = memory->nr_gaps ? memory->gaps[memory->nr_gaps - 1].end : 0;

	return last > from ? (last - from) * 1e6 / vms[0].state->clock_khz : 0;
}

static u64 vm_clock(void)
{
	return guest_clock() + vms[0].state->vm_clock_offset;
}

/* Each at another place in the period. */
static void latency(const struct peer *peer, int nr_vcpus, u32 target, int count)
{
	u64 period_ns = peer->period_ns(target), from, stop_ns;
	int i;

	start_vms(peer, BENCH_WORK, 1, nr_vcpus);
	run_vms(nr_vcpus);
	ready_vms(peer);
	printf("\"target_x100\": %u, \"results\": [", target);
	for (i = 0; i < count; i++) {
		printf("%s{", i ? ", " : "");
		vms[0].memory->nr_gaps = 0;
		from = vm_clock();
		if (target && !set_vms(peer, target)) {
			printf("}");
			break;
		}
		if (target) {
			sleep_ns(5 * period_ns + period_ns * i / count);
			if (!peer->set_is_slow)
				printf("\"slow_ns\": %.0f, ", until_slow_ns(from));
			vms[0].memory->nr_gaps = 0;
			from = vm_clock();
			set_vms(peer, 0);
			sleep_ns(2 * period_ns + 200 * MS);
			printf("\"fast_ns\": %.0f, ", until_fast_ns(from));
			set_vms(peer, target);
		}
		sleep_ns(5 * period_ns + period_ns * i / count);
		stop_ns = now_ns();
		bench_vm_stop(&vms[0]);
		stop_ns = now_ns() - stop_ns;
		printf("\"stop_ns\": %lu}", stop_ns);
		set_vms(peer, 0);
		run_vms(nr_vcpus);
		sleep_ns(100 * MS);
	}
	printf("]");
	end_vms(peer);
}

static long integer(const char *text, long low, long high)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (*end || end == text || n < low || n > high) {
		fprintf(stderr, "peers: '%s' must be a number from %ld to %ld; see --help\n",
			text, low, high);
		exit(2);
	}
	return n;
}

static const struct peer *peer_argument(const char *name)
{
	const struct peer *peer = peer_find(name);

	if (!peer) {
		fprintf(stderr, "peers: there is no peer '%s'; see --help\n", name);
		exit(2);
	}
	return peer;
}

static enum bench_guest_kind guest_argument(const char *name)
{
	static const char * const names[] = { "work", "lock", "token" };
	int i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(names[i], name))
			return i;
	fprintf(stderr, "peers: there is no guest '%s'; see --help\n", name);
	exit(2);
}

static u64 ms_argument(const char *text)
{
	return integer(text, 1, 1000000) * MS;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	u32 targets[TARGETS_MAX];
	int i;

	if (!strcmp(what, "--help") || !strcmp(what, "-h")) {
		usage();
		return 0;
	}
	be_on_time();
	printf("{");
	if (!strcmp(what, "share") && argc > 7 && argc - 7 <= TARGETS_MAX) {
		for (i = 7; i < argc; i++)
			targets[i - 7] = integer(argv[i], 1, 9999);
		share(peer_argument(argv[2]), guest_argument(argv[3]), integer(argv[4], 1, VMS_MAX),
		      integer(argv[5], 1, GUEST_VCPUS_MAX), ms_argument(argv[6]), argc - 7, targets);
	} else if (!strcmp(what, "health") && argc > 8 && argc - 8 <= TARGETS_MAX) {
		for (i = 8; i < argc; i++)
			targets[i - 8] = integer(argv[i], 0, 9999);
		qemu_adopt(&vms[0], integer(argv[3], 1, INT_MAX), argv[4],
			   integer(argv[5], 0, LONG_MAX), argv[6]);
		health(peer_argument(argv[2]), ms_argument(argv[7]), argc - 8, targets);
	} else if (!strcmp(what, "cost") && argc == 6) {
		cost(peer_argument(argv[2]), integer(argv[3], 1, GUEST_VCPUS_MAX),
		     ms_argument(argv[4]), integer(argv[5], 1, 9999));
	} else if (!strcmp(what, "stall") && argc == 6) {
		stall(peer_argument(argv[2]), integer(argv[3], 1, GUEST_VCPUS_MAX),
		      ms_argument(argv[4]), integer(argv[5], 1, 9999));
	} else if (!strcmp(what, "latency") && argc == 6) {
		latency(peer_argument(argv[2]), integer(argv[3], 1, GUEST_VCPUS_MAX),
			integer(argv[4], 0, 9999), integer(argv[5], 1, 1000));
	} else if (!strcmp(what, "floor") && argc == 4) {
		floor_cost(integer(argv[2], 1, GUEST_VCPUS_MAX), ms_argument(argv[3]));
	} else if (!strcmp(what, "speed") && argc == 5) {
		full_speed(peer_argument(argv[2]), integer(argv[3], 1, GUEST_VCPUS_MAX),
			   ms_argument(argv[4]));
	} else {
		usage();
		return 2;
	}
	printf("}\n");
	return 0;
}
