// SPDX-License-Identifier: GPL-2.0
/*
 * No vCPU enters the guest between its window's close and its reopening, also if
 * its thread leaves KVM_RUN meanwhile, by a signal or an exit to user space, and
 * comes back.
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

/* On time, where time is exact: the interrupt's and the VM exit's time. */
#define LATE_MAX_NS	20000

struct watch {
	struct invariant_bpf *bpf;
	volatile struct invariant_counts *counts;
	struct guest guest;
	int fd;
};

FIXTURE(invariant) {
	struct watch w;
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
	self->w.bpf = invariant_bpf__open();
	ASSERT_NE(self->w.bpf, NULL);
	r = invariant_bpf__load(self->w.bpf);
	if (!r)
		r = invariant_bpf__attach(self->w.bpf);
	if (r)
		SKIP(return, "BPF programs can't be loaded: %s", strerror(-r));
	self->w.counts = &self->w.bpf->bss->counts;
}

FIXTURE_TEARDOWN(invariant)
{
	if (self->w.guest.vm) {
		/* At full speed, nobody tells that a vCPU may run. */
		self->w.bpf->bss->tgid = 0;
		close(self->w.fd);
		guest_destroy(&self->w.guest);
	}
	invariant_bpf__destroy(self->w.bpf);
}

static void start(struct watch *w, enum guest_kind kind, int nr_vcpus)
{
	guest_create(&w->guest, kind, nr_vcpus);
	w->bpf->bss->tgid = getpid();
	w->fd = throttle_attach(w->guest.vm->fd);
	TEST_ASSERT(w->fd >= 0 &&
		    !throttle_set(w->fd, PERCENT_X100, PERIOD_NS), "throttle");
}

static u64 enough_windows(void)
{
	return throttle_exact() ? EXACT_WINDOWS : ROUGH_WINDOWS;
}

/* Calls @act every @ns, until there have been @wanted windows. */
static void go_on(struct __test_metadata *_metadata, struct watch *w, u64 wanted,
		  u64 ns, void (*act)(struct watch *w, u64 round))
{
	u64 end = now_ns() + GIVE_UP_NS, round;

	for (round = 0; w->counts->windows < wanted && now_ns() < end; round++) {
		sleep_ns(ns);
		act(w, round);
	}
	w->bpf->bss->tgid = 0;

	TH_LOG("%llu windows, %llu entries, %llu signals, %llu retries; closed: %llu entries",
	       w->counts->windows, w->counts->entries, w->counts->signals,
	       w->counts->retries, w->counts->closed);
	TH_LOG("after the end: entered %.1f us, left %.1f us (kvm_exit: %.1f us)",
	       w->counts->late_max_ns / 1e3, w->counts->over_max_ns / 1e3,
	       w->counts->told_max_ns / 1e3);
	EXPECT_GE(w->counts->windows, wanted);
	EXPECT_GT(w->counts->entries, 0);
	EXPECT_EQ(w->counts->closed, 0);
	if (!throttle_exact())
		return;
	EXPECT_LE(w->counts->late_max_ns, LATE_MAX_NS);
	EXPECT_LE(w->counts->over_max_ns, LATE_MAX_NS);
}

static void nothing(struct watch *w, u64 round)
{
}

/* A guest that is left alone. */
TEST_F_TIMEOUT(invariant, work, 300)
{
	start(&self->w, GUEST_WORK, 1);
	go_on(_metadata, &self->w, enough_windows(), 50 * MS, nothing);
}

static void send_signal(struct watch *w, u64 round)
{
	pthread_kill(w->guest.threads[0], SIGUSR1);
}

/* Signals, where time is exact three in each period. */
TEST_F_TIMEOUT(invariant, signals, 300)
{
	start(&self->w, GUEST_WORK, 1);
	go_on(_metadata, &self->w, enough_windows(),
	      throttle_exact() ? 310000 : 5 * MS, send_signal);
	EXPECT_GT(self->w.counts->signals, throttle_exact() ? EXACT_WINDOWS : 0);
	EXPECT_GT(self->w.counts->retries, 0);
}

/* Exits to user space all the time. */
TEST_F_TIMEOUT(invariant, exits, 300)
{
	start(&self->w, GUEST_IO, 1);
	go_on(_metadata, &self->w, enough_windows(), 50 * MS, nothing);
	EXPECT_GT(self->w.guest.reports[0].exits, self->w.counts->windows);
}

static void move(struct watch *w, u64 round)
{
	cpu_set_t cpus;
	int i;

	CPU_ZERO(&cpus);
	CPU_SET(round % 2, &cpus);
	for (i = 0; i < w->guest.nr_vcpus; i++)
		TEST_ASSERT(!pthread_setaffinity_np(w->guest.threads[i], sizeof(cpus), &cpus),
			    "pthread_setaffinity_np");
}

/* Threads move from one CPU to the other; time is exact with one only. */
TEST_F_TIMEOUT(invariant, migration, 300)
{
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two CPUs");
	start(&self->w, GUEST_WORK, 2);
	go_on(_metadata, &self->w, EXACT_WINDOWS, 1300000, move);
}

/* A vCPU is added, or moves to another thread. */
static void plug(struct watch *w, u64 round)
{
	struct guest *g = &w->guest;
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
	start(&self->w, GUEST_WORK, 1);
	go_on(_metadata, &self->w, enough_windows(), 130 * MS, plug);
	EXPECT_GT(self->w.guest.nr_vcpus, 1);
}

TEST_HARNESS_MAIN
