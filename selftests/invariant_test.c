// SPDX-License-Identifier: GPL-2.0
/*
 * No vCPU enters the guest between its window's close and its reopening, but for
 * the edge: when its thread has been outside KVM_RUN in the sleep window, by a
 * signal or an exit to user space, until the module looks for it again.  That is
 * 80 us later at most.
 *
 * invariant.bpf.c sees each entry and each window, in the kernel.  How late the
 * timers are is judged only where time is exact.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/libbpf.h>

#include "kselftest_harness.h"
#include "throttle_util.h"
#include "invariant.h"
#include "invariant.skel.h"

#define PERIOD_NS	MS
#define PERCENT_X100	7000

#define EXACT_WINDOWS	10000
#define ROUGH_WINDOWS	1000

/* However slow the machine is. */
#define GIVE_UP_NS	(120000 * MS)

/* The edge; KVM_THROTTLE_RETRY_MAX_NS in the module. */
#define RETRY_MAX_NS	80000

/* On time, where time is exact: the interrupt's and the VM exit's time. */
#define LATE_MAX_NS	20000

FIXTURE(invariant) {
	struct invariant_bpf *bpf;
	volatile struct invariant_counts *counts;
	struct guest guest;
	int fd;
};

static int print_nothing(enum libbpf_print_level level, const char *format,
			 va_list arguments)
{
	return 0;
}

FIXTURE_SETUP(invariant)
{
	const char *missing = throttle_missing();
	int r;

	if (missing)
		SKIP(return, "%s", missing);
	libbpf_set_print(print_nothing);
	self->bpf = invariant_bpf__open();
	ASSERT_NE(self->bpf, NULL);
	r = invariant_bpf__load(self->bpf);
	if (!r)
		r = invariant_bpf__attach(self->bpf);
	if (r)
		SKIP(return, "BPF programs can't be loaded: %s", strerror(-r));
	self->counts = &self->bpf->bss->counts;
}

FIXTURE_TEARDOWN(invariant)
{
	if (self->guest.vm) {
		/* At full speed, nobody tells that a vCPU may run. */
		self->bpf->bss->tgid = 0;
		close(self->fd);
		guest_destroy(&self->guest);
	}
	invariant_bpf__destroy(self->bpf);
}

static void start(FIXTURE_DATA(invariant) *self, enum guest_kind kind, int nr_vcpus)
{
	guest_create(&self->guest, kind, nr_vcpus);
	self->bpf->bss->tgid = getpid();
	self->fd = throttle_attach(self->guest.vm->fd);
	TEST_ASSERT(self->fd >= 0 &&
		    !throttle_set(self->fd, PERCENT_X100, PERIOD_NS), "throttle");
}

/* Calls @act every @ns, until there have been enough windows. */
static void go_on(struct __test_metadata *_metadata, FIXTURE_DATA(invariant) *self,
		  u64 ns, void (*act)(FIXTURE_DATA(invariant) *self, u64 round))
{
	u64 wanted = throttle_exact() ? EXACT_WINDOWS : ROUGH_WINDOWS;
	u64 end = now_ns() + GIVE_UP_NS, round;

	for (round = 0; self->counts->windows < wanted && now_ns() < end; round++) {
		sleep_ns(ns);
		act(self, round);
	}
	self->bpf->bss->tgid = 0;

	TH_LOG("%llu windows, %llu entries, %llu signals; closed: %llu entries, edge: %llu entries, %.3f ms",
	       self->counts->windows, self->counts->entries, self->counts->signals,
	       self->counts->closed, self->counts->edge, self->counts->edge_ns / 1e6);
	TH_LOG("after the end: entered %.1f us, left %.1f us; after the next look: %.1f us",
	       self->counts->late_max_ns / 1e3, self->counts->over_max_ns / 1e3,
	       self->counts->edge_late_max_ns / 1e3);
	EXPECT_GE(self->counts->windows, wanted);
	EXPECT_GT(self->counts->entries, 0);
	EXPECT_EQ(self->counts->closed, 0);
	EXPECT_LE(self->counts->retry_max_ns, RETRY_MAX_NS);
	if (!throttle_exact())
		return;
	EXPECT_LE(self->counts->late_max_ns, LATE_MAX_NS);
	EXPECT_LE(self->counts->over_max_ns, LATE_MAX_NS);
	EXPECT_LE(self->counts->edge_late_max_ns, LATE_MAX_NS);
}

static void nothing(FIXTURE_DATA(invariant) *self, u64 round)
{
}

/* A guest that is left alone: there is no edge. */
TEST_F_TIMEOUT(invariant, work, 300)
{
	start(self, GUEST_WORK, 1);
	go_on(_metadata, self, 50 * MS, nothing);
	EXPECT_EQ(self->counts->edge, 0);
}

static void send_signal(FIXTURE_DATA(invariant) *self, u64 round)
{
	pthread_kill(self->guest.threads[0], SIGUSR1);
}

/* Signals, where time is exact three in each period. */
TEST_F_TIMEOUT(invariant, signals, 300)
{
	start(self, GUEST_WORK, 1);
	go_on(_metadata, self, throttle_exact() ? 310000 : 5 * MS, send_signal);
	EXPECT_GT(self->counts->signals, throttle_exact() ? EXACT_WINDOWS : 0);
	EXPECT_GT(self->counts->edge, 0);
}

/* Exits to user space all the time. */
TEST_F_TIMEOUT(invariant, exits, 300)
{
	start(self, GUEST_IO, 1);
	go_on(_metadata, self, 50 * MS, nothing);
	EXPECT_GT(self->guest.reports[0].exits, self->counts->windows);
}

static void move(FIXTURE_DATA(invariant) *self, u64 round)
{
	cpu_set_t cpus;
	int i;

	CPU_ZERO(&cpus);
	CPU_SET(round % 2, &cpus);
	for (i = 0; i < self->guest.nr_vcpus; i++)
		TEST_ASSERT(!pthread_setaffinity_np(self->guest.threads[i], sizeof(cpus), &cpus),
			    "pthread_setaffinity_np");
}

/* Threads move from one CPU to the other. */
TEST_F_TIMEOUT(invariant, migration, 300)
{
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two CPUs");
	start(self, GUEST_WORK, 2);
	go_on(_metadata, self, 1300000, move);
}

/* A vCPU is added, or moves to another thread. */
static void plug(FIXTURE_DATA(invariant) *self, u64 round)
{
	struct guest *g = &self->guest;
	int i = round % g->nr_vcpus;

	if (round % 4 == 0 && g->nr_vcpus < 8) {
		guest_add_vcpu(g, GUEST_WORK);
		return;
	}
	guest_stop(g, i);
	guest_start(g, i);
}

/* vCPUs come, and move from one thread to another. */
TEST_F_TIMEOUT(invariant, hotplug, 300)
{
	start(self, GUEST_WORK, 1);
	go_on(_metadata, self, 130 * MS, plug);
	EXPECT_GT(self->guest.nr_vcpus, 1);
}

TEST_HARNESS_MAIN
