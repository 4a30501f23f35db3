// SPDX-License-Identifier: GPL-2.0
/*
 * What a throttled vCPU does, and its thread: exits, signals, other threads,
 * changes.  Bounds on time are tight in the deterministic VM only (see
 * accuracy_test.c); elsewhere they are far from what a failure looks like.
 */
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/prctl.h>

#include "guest_arch.h"
#include "kselftest_harness.h"
#include "spend_insns.h"
#include "throttle_util.h"

FIXTURE(vcpu) {
	struct guest guest;
	int fd;
};

FIXTURE_SETUP(vcpu)
{
	const char *missing = throttle_missing();

	self->fd = -1;
	if (missing)
		SKIP(return, "%s", missing);
	be_on_time();
}

FIXTURE_TEARDOWN(vcpu)
{
	if (self->fd < 0)
		return;
	close(self->fd);
	guest_destroy(&self->guest);
}

static void start(struct guest *g, int *fd, enum guest_kind kind, int nr_vcpus)
{
	guest_create(g, kind, nr_vcpus);
	sleep_ns(20 * MS);
	*fd = throttle_attach(g->vm->fd);
	TEST_ASSERT(*fd >= 0, "KVM_THROTTLE_ATTACH: %d", *fd);
}

#define START(kind, nr_vcpus) start(&self->guest, &self->fd, kind, nr_vcpus)

static void set(int fd, u32 percent_x100)
{
	int r = throttle_set(fd, percent_x100, 0);

	TEST_ASSERT(!r, "KVM_SET_THROTTLE: %d", r);
}

static struct kvm_throttle_vcpu_state state_of(int fd, int i)
{
	struct kvm_throttle_vcpu_state states[GUEST_VCPUS_MAX];
	int r = throttle_get(fd, states, GUEST_VCPUS_MAX, NULL);

	TEST_ASSERT(r > i, "KVM_GET_THROTTLE: %d", r);
	return states[i];
}

/* Has vCPU 0 had so many windows?  Where time is noise, it will have. */
static bool has_windows(int fd, u64 windows)
{
	return WAIT_FOR(state_of(fd, 0).windows >= windows, 10 * MS,
			throttle_exact() ? 0 : 20000 * MS);
}

/* Share of the next @ns for which a vCPU is held. */
static double held_share(int fd, int i, u64 ns)
{
	struct kvm_throttle_vcpu_state before = state_of(fd, i), after;

	sleep_ns(ns);
	after = state_of(fd, i);
	return (double)(after.throttled_ns - before.throttled_ns) /
	       (after.elapsed_ns - before.elapsed_ns);
}

/*
 * What a vCPU is held for.  Where timers are late by chance, it is exact only in
 * the long run, and not if they are late by more than a period.
 */
#define EXPECT_SHARE(i, ns, low, high) do {				\
	double share = held_share(self->fd, i, ns);			\
	struct kvm_throttle_vcpu_state state = state_of(self->fd, i);	\
	bool noisy = !throttle_exact() && state.late_max_ns > state.period_ns; \
	double noise = throttle_exact() ? 0 : 0.15;			\
									\
	EXPECT_TRUE(noisy ||						\
		    (share > (low) - noise && share < (high) + noise)) { \
		TH_LOG("vCPU %d: held for %.4f of the time, late by up to %llu ns", \
		       i, share, state.late_max_ns);			\
	}								\
} while (0)

/* How fast the guest is, over its full speed; means nothing elsewhere. */
#define EXPECT_SPEED(speed, low, high) do {				\
	double _speed = speed;						\
									\
	if (!throttle_exact())						\
		break;							\
	EXPECT_TRUE(_speed > (low) && _speed < (high)) {		\
		TH_LOG("%.4f of full speed", _speed);			\
	}								\
} while (0)

/* Sleep until a sleep window has just begun; its length is known. */
static void wait_for_sleep(int fd)
{
	u64 windows = state_of(fd, 0).windows;
	struct kvm_throttle_vcpu_state before, after;

	/* The window that is counted is over; the next run window is short. */
	while (state_of(fd, 0).windows == windows)
		sleep_ns(MS / 2);
	do {
		before = state_of(fd, 0);
		sleep_ns(MS / 2);
		after = state_of(fd, 0);
	} while (after.throttled_ns - before.throttled_ns < MS / 2);
}

/* Whoever finds a throttle tells by its threads which VM's it is. */
TEST_F(vcpu, threads_are_told_at_full_speed)
{
	pid_t tid;

	START(GUEST_WORK, 1);
	sleep_ns(10 * MS);
	tid = state_of(self->fd, 0).tid;
	EXPECT_NE(tid, getpid());
	EXPECT_EQ(syscall(SYS_tgkill, getpid(), tid, 0), 0);
}

TEST_F(vcpu, guest_that_exits_all_the_time)
{
	double full, slow;

	START(GUEST_IO, 1);
	full = guest_speed(&self->guest, 200 * MS);
	set(self->fd, 9000);
	sleep_ns(50 * MS);
	slow = guest_speed(&self->guest, 1000 * MS);
	EXPECT_SPEED(slow / full, 0.07, 0.11);
	EXPECT_TRUE(has_windows(self->fd, 20));
}

TEST_F(vcpu, guest_of_a_slow_device)
{
	double full, slow;

	/* Most of the vCPU's time is spent in user space, some 10 us at a time. */
	START(GUEST_IO, 1);
	self->guest.slow_exits = 1;
	full = guest_speed(&self->guest, 200 * MS);
	set(self->fd, 9000);
	sleep_ns(50 * MS);
	slow = guest_speed(&self->guest, 1000 * MS);
	EXPECT_SPEED(slow / full, 0.08, 0.104);
	EXPECT_GT(state_of(self->fd, 0).retries, 0);
}

TEST_F(vcpu, no_sleep_outside_kvm_run)
{
	/* The sleep windows are 90 ms long. */
	START(GUEST_IO, 1);
	self->guest.slow_exits = 20;
	ASSERT_EQ(throttle_set(self->fd, 9000, 100 * MS), 0);
	sleep_ns(1000 * MS);
	if (throttle_exact())
		EXPECT_LT(self->guest.outside_ns, 2 * MS);
	/* 20,000 loops are no less, even if one is an instruction. */
	EXPECT_GT(self->guest.outside_ns, 20 * 1000);
	EXPECT_TRUE(has_windows(self->fd, 2));
}

TEST_F(vcpu, signal_ends_the_sleep)
{
	u64 sent, patience;

	START(GUEST_WORK, 1);
	/* It sleeps for 999 ms. */
	ASSERT_EQ(throttle_set(self->fd, 9990, 1000 * MS), 0);
	patience = now_ns() + (throttle_exact() ? 0 : 20000 * MS);
	do {
		/* Where it is late, it may seem to sleep as it wakes up. */
		wait_for_sleep(self->fd);
		sent = now_ns();
		pthread_kill(self->guest.threads[0], SIGUSR1);
		sleep_ns(throttle_exact() ? MS : 1000 * MS);
		EXPECT_GT(self->guest.left_ns[0], sent);
	} while (!state_of(self->fd, 0).interrupted && now_ns() < patience);
	EXPECT_GE(state_of(self->fd, 0).interrupted, 1);
}

TEST_F(vcpu, signals_gain_nothing)
{
	double full, slow;
	u64 work, begin, patience;
	int i;

	START(GUEST_WORK, 1);
	full = guest_speed(&self->guest, 200 * MS);
	set(self->fd, 9900);
	sleep_ns(20 * MS);
	work = guest_work(&self->guest);
	begin = now_ns();
	for (i = 0; i < 1000; i++) {
		pthread_kill(self->guest.threads[0], SIGUSR1);
		sleep_ns(1 * MS);
	}
	slow = (guest_work(&self->guest) - work) * 1e9 / (now_ns() - begin);
	EXPECT_SPEED(slow / full, 0.005, 0.0101);
	/* On a busy machine, the thread handles several of them at once. */
	patience = begin + 20000 * MS;
	while (!throttle_exact() && state_of(self->fd, 0).interrupted <= 50 &&
	       now_ns() < patience) {
		pthread_kill(self->guest.threads[0], SIGUSR1);
		sleep_ns(1 * MS);
	}
	EXPECT_GT(state_of(self->fd, 0).interrupted, 50);
}

/* Time for adding and removing a memory slot, which waits for kvm->srcu. */
static u64 memslot_ns(struct kvm_vm *vm)
{
	static char memory[2][4096] __aligned(4096);
	u64 begin = now_ns();
	int i;

	for (i = 0; i < 20; i++) {
		vm_set_user_memory_region(vm, 9, 0, 0x100000000ULL,
					  sizeof(memory[0]), memory[0]);
		vm_set_user_memory_region(vm, 9, 0, 0x100000000ULL, 0, NULL);
	}
	return (now_ns() - begin) / 40;
}

TEST_F(vcpu, memslots_do_not_wait)
{
	u64 full, slow;

	START(GUEST_WORK, 1);
	full = memslot_ns(self->guest.vm);
	set(self->fd, 9990);
	wait_for_sleep(self->fd);
	slow = memslot_ns(self->guest.vm);
	TH_LOG("KVM_SET_USER_MEMORY_REGION: %lu ns, %lu ns at 99.9 %%",
	       (unsigned long)full, (unsigned long)slow);
	if (throttle_exact())
		EXPECT_LE(slow, full * 21 / 20);
}

/* Does the guest go on from @work at once? Where time is noise, at all. */
static bool goes_on(const struct guest *g, u64 work)
{
	return WAIT_FOR(guest_work(g) > work, MS, throttle_exact() ? MS : 10000 * MS);
}

TEST_F(vcpu, change_is_in_force_within_a_period)
{
	double full, slow;
	u64 work;

	START(GUEST_WORK, 1);
	full = guest_speed(&self->guest, 200 * MS);
	set(self->fd, 9900);
	sleep_ns(KVM_THROTTLE_PERIOD_DEFAULT_NS);
	slow = guest_speed(&self->guest, 10 * KVM_THROTTLE_PERIOD_DEFAULT_NS);
	EXPECT_SPEED(slow / full, 0.005, 0.03);

	/* From the middle of a sleep of 99.9 ms. */
	set(self->fd, 9990);
	wait_for_sleep(self->fd);
	set(self->fd, 5000);
	sleep_ns(KVM_THROTTLE_PERIOD_DEFAULT_NS);
	slow = guest_speed(&self->guest, 10 * KVM_THROTTLE_PERIOD_DEFAULT_NS);
	EXPECT_SPEED(slow / full, 0.45, 0.55);

	set(self->fd, 9990);
	wait_for_sleep(self->fd);
	work = guest_work(&self->guest);
	set(self->fd, 0);
	EXPECT_TRUE(goes_on(&self->guest, work));
	slow = guest_speed(&self->guest, 100 * MS);
	EXPECT_SPEED(slow / full, 0.99, 1.01);
}

TEST_F(vcpu, close_is_full_speed_at_once)
{
	u64 work;

	START(GUEST_WORK, 1);
	set(self->fd, 9990);
	wait_for_sleep(self->fd);
	work = guest_work(&self->guest);
	close(self->fd);
	EXPECT_TRUE(goes_on(&self->guest, work));
	self->fd = throttle_attach(self->guest.vm->fd);
	EXPECT_GE(self->fd, 0);
}

/* In KVM_RUN, but not allowed into the guest until the timer looks. */
TEST_F(vcpu, close_lets_go_of_a_held_vcpu)
{
	u64 work;
	int us;

	START(GUEST_WORK, 1);
	ASSERT_EQ(prctl(PR_SET_TIMERSLACK, 1), 0);
	for (us = 0; us < 60; us++) {
		set(self->fd, 9900);
		wait_for_sleep(self->fd);
		pthread_kill(self->guest.threads[0], SIGUSR1);
		sleep_ns(us * 1000);
		close(self->fd);
		work = guest_work(&self->guest);
		EXPECT_TRUE(goes_on(&self->guest, work)) {
			TH_LOG("closed %d us after the signal", us);
		}
		self->fd = throttle_attach(self->guest.vm->fd);
		ASSERT_GE(self->fd, 0);
	}
}

TEST_F(vcpu, same_setting_again_changes_nothing)
{
	double full, slow;
	u64 work, begin;

	START(GUEST_WORK, 1);
	full = guest_speed(&self->guest, 200 * MS);
	set(self->fd, 9900);
	sleep_ns(20 * MS);
	work = guest_work(&self->guest);
	begin = now_ns();
	while (now_ns() < begin + 500 * MS) {
		set(self->fd, 9900);
		sleep_ns(MS);
	}
	slow = (guest_work(&self->guest) - work) * 1e9 / (now_ns() - begin);
	EXPECT_SPEED(slow / full, 0.005, 0.015);
}

TEST_F(vcpu, other_settings_all_the_time)
{
	double full, slow;
	u64 work, begin;
	int i;

	START(GUEST_WORK, 1);
	full = guest_speed(&self->guest, 200 * MS);
	set(self->fd, 9900);
	work = guest_work(&self->guest);
	begin = now_ns();
	for (i = 0; now_ns() < begin + 500 * MS; i++) {
		set(self->fd, 9800 + i % 2 * 100);
		sleep_ns(MS);
	}
	slow = (guest_work(&self->guest) - work) * 1e9 / (now_ns() - begin);
	EXPECT_SPEED(slow / full, 0.005, 0.05);
}

TEST_F(vcpu, full_speed_after_throttle)
{
	u64 work;
	int i;

	/* The timer of the last window is still to come. */
	START(GUEST_WORK, 2);
	for (i = 0; i < 40; i++) {
		set(self->fd, 5000 + i * 100);
		sleep_ns(i * MS / 2);
		set(self->fd, 0);
		EXPECT_EQ(state_of(self->fd, 0).period_ns, 0);
		sleep_ns(i * MS);
		EXPECT_EQ(state_of(self->fd, 1).period_ns, 0);
	}
	work = guest_work(&self->guest);
	EXPECT_TRUE(goes_on(&self->guest, work));
}

/* What the module and the guest say is the same, where time is exact. */
#define EXPECT_STALL_SEEN() do {					\
	double seen_ms = self->guest.reports[0].gap_cycles /		\
			 (double)self->guest.clock_khz;			\
	double told_ms = state_of(self->fd, 0).stall_max_ns / 1e6;	\
									\
	EXPECT_TRUE(!throttle_exact() || fabs(seen_ms - told_ms) < 0.2) { \
		TH_LOG("told: %.3f ms, seen: %.3f ms", told_ms, seen_ms); \
	}								\
} while (0)

TEST_F(vcpu, longest_stall)
{
	u64 told_ns;
	int i;

	/*
	 * How many lines the log has suppressed in the last 5 s is a line too, which
	 * would make a stall longer: let it be now.
	 */
	sleep_ns(throttle_exact() ? 5100 * MS : 0);
	START(GUEST_WORK, 1);
	EXPECT_EQ(state_of(self->fd, 0).stall_max_ns, 0);
	set(self->fd, 5000);
	set(self->fd, 0);
	ASSERT_EQ(throttle_set(self->fd, 8000, 100 * MS), 0);
	self->guest.reports[0].gap_cycles = 0;
	sleep_ns(500 * MS);
	EXPECT_STALL_SEEN();
	told_ns = state_of(self->fd, 0).stall_max_ns;
	EXPECT_GT(told_ns, 79 * MS);

	/* Shorter ones don't change it. */
	set(self->fd, 5000);
	sleep_ns(100 * MS);
	EXPECT_TRUE(!throttle_exact() ||
		    state_of(self->fd, 0).stall_max_ns == told_ns);

	/* Full speed ends one.  They are parts of the same window. */
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(throttle_set(self->fd, 9999, 1000 * MS), 0);
		sleep_ns(300 * MS);
		/* It counts before it is over. */
		EXPECT_GT(state_of(self->fd, 0).stall_max_ns, 145 * MS);
		set(self->fd, 0);
		sleep_ns(20 * MS);
	}
	EXPECT_STALL_SEEN();
}

TEST_F(vcpu, time_does_not_go_backwards)
{
	struct kvm_throttle_vcpu_state states[4], last[4] = {};
	u64 begin;
	int i;

	START(GUEST_WORK, 4);
	set(self->fd, 7000);
	for (begin = now_ns(); now_ns() < begin + 500 * MS;) {
		ASSERT_EQ(throttle_get(self->fd, states, 4, NULL), 4);
		for (i = 0; i < 4; i++) {
			ASSERT_GE(states[i].throttled_ns, last[i].throttled_ns);
			ASSERT_GE(states[i].elapsed_ns, last[i].elapsed_ns);
			ASSERT_LE(states[i].throttled_ns, states[i].elapsed_ns);
		}
		memcpy(last, states, sizeof(last));
		pthread_kill(self->guest.threads[states[0].windows % 4], SIGUSR1);
		sleep_ns(now_ns() % 700000);
	}
	/* Nor does it stand still. */
	EXPECT_TRUE(has_windows(self->fd, 1));
	EXPECT_GT(state_of(self->fd, 0).throttled_ns, 0);
}

TEST_F(vcpu, percentages_of_their_own)
{
	START(GUEST_WORK, 3);
	set(self->fd, 5000);
	ASSERT_EQ(throttle_set_vcpu(self->fd, 1, 9000), 0);
	ASSERT_EQ(throttle_set_vcpu(self->fd, 2, 0), 0);
	sleep_ns(100 * MS);
	/* To wait for the CPU, which vCPU 2 never leaves, isn't to be held. */
	EXPECT_SHARE(0, 1000 * MS, 0.4, 0.52);
	EXPECT_SHARE(1, 1000 * MS, 0.6, 0.93);
	EXPECT_EQ(state_of(self->fd, 2).period_ns, 0);

	set(self->fd, 2000);
	sleep_ns(100 * MS);
	EXPECT_SHARE(2, 1000 * MS, 0.18, 0.22);
}

TEST_F(vcpu, new_vcpu)
{
	START(GUEST_WORK, 1);
	set(self->fd, 8000);
	sleep_ns(50 * MS);
	guest_add_vcpu(&self->guest, GUEST_WORK);
	sleep_ns(50 * MS);
	EXPECT_EQ(throttle_get(self->fd, NULL, 0, NULL), 2);
	EXPECT_SHARE(1, 500 * MS, 0.75, 0.85);
}

TEST_F(vcpu, another_thread)
{
	struct kvm_throttle_vcpu_state before, after;

	START(GUEST_WORK, 1);
	set(self->fd, 8000);
	sleep_ns(50 * MS);
	before = state_of(self->fd, 0);
	guest_stop(&self->guest, 0);
	guest_start(&self->guest, 0);
	sleep_ns(150 * MS);
	after = state_of(self->fd, 0);
	EXPECT_NE(before.tid, after.tid);
	EXPECT_GT(after.tid, 0);
	EXPECT_GT(after.throttled_ns, before.throttled_ns);
	EXPECT_SHARE(0, 500 * MS, 0.75, 0.85);
}

/*
 * The window that the old thread had opened still ends.  It is a long one, as KVM
 * waits for RCU until a new thread may run the vCPU.
 */
TEST_F(vcpu, another_thread_in_an_open_window)
{
	int i;

	START(GUEST_WORK, 1);
	ASSERT_EQ(throttle_set(self->fd, 2000, 100 * MS), 0);
	sleep_ns(30 * MS);
	for (i = 0; i < 3; i++) {
		guest_stop(&self->guest, 0);
		guest_start(&self->guest, 0);
		EXPECT_SHARE(0, 500 * MS, 0.15, 0.25);
	}
}

/* Runs the vCPU until told to stop, then lives on without it. */
static void *blocked_thread(void *arg)
{
	guest_run(arg, 0);
	pause();
	return NULL;
}

/* Has @function run the vCPU from now on, in the thread that is returned. */
static pthread_t start_instead(struct guest *g, void *(*function)(void *))
{
	pthread_t thread;

	guest_stop(g, 0);
	g->vcpus[0]->run->immediate_exit = 0;
	TEST_ASSERT(!pthread_create(&thread, NULL, function, g), "pthread_create");
	return thread;
}

/* It may not wait for the signal yet. */
static void end_thread(pthread_t thread)
{
	do {
		pthread_kill(thread, SIGUSR1);
		sleep_ns(MS);
	} while (pthread_tryjoin_np(thread, NULL));
}

static void leave_kvm_run(struct guest *g, pthread_t thread)
{
	g->vcpus[0]->run->immediate_exit = 1;
	pthread_kill(thread, SIGUSR1);
}

TEST_F(vcpu, another_thread_while_the_old_one_is_blocked)
{
	struct guest *g = &self->guest;
	pthread_t old;
	u64 windows;

	START(GUEST_WORK, 1);
	old = start_instead(g, blocked_thread);
	set(self->fd, 8000);
	sleep_ns(200 * MS);
	EXPECT_TRUE(has_windows(self->fd, 6));

	/* The signal is in the sleep window, so work is queued to the old one. */
	leave_kvm_run(g, old);
	sleep_ns(50 * MS);
	windows = state_of(self->fd, 0).windows;
	guest_start(g, 0);
	sleep_ns(150 * MS);
	/* On a slow machine, it takes long until the new one runs. */
	EXPECT_TRUE(has_windows(self->fd, windows + 3));
	EXPECT_SHARE(0, 500 * MS, 0.75, 0.85);
	end_thread(old);
	EXPECT_SHARE(0, 500 * MS, 0.75, 0.85);
}

/* Enters KVM_RUN again and again, and leaves it at once. */
static void *visiting_thread(void *arg)
{
	struct guest *g = arg;
	int i;

	for (i = 0; i < 300; i++) {
		g->vcpus[0]->run->immediate_exit = 1;
		pthread_kill(g->threads[0], SIGUSR1);
		__vcpu_run(g->vcpus[0]);
		g->vcpus[0]->run->immediate_exit = 0;
		sleep_ns(i % 7 * MS / 3);
	}
	return NULL;
}

/* As guest_run(), but for the visitor. */
static void *visited_thread(void *arg)
{
	struct guest *g = arg;

	for (;;) {
		__vcpu_run(g->vcpus[0]);
		pthread_testcancel();
	}
	return NULL;
}

TEST_F(vcpu, another_thread_for_a_moment)
{
	struct guest *g = &self->guest;
	pthread_t visitor;

	START(GUEST_WORK, 1);
	g->threads[0] = start_instead(g, visited_thread);
	set(self->fd, 8000);
	sleep_ns(100 * MS);
	ASSERT_EQ(pthread_create(&visitor, NULL, visiting_thread, g), 0);
	pthread_join(visitor, NULL);
	sleep_ns(150 * MS);
	EXPECT_SHARE(0, 500 * MS, 0.75, 0.85);

	pthread_cancel(g->threads[0]);
	leave_kvm_run(g, g->threads[0]);
	pthread_join(g->threads[0], NULL);
	guest_start(g, 0);
}

/*
 * In the first 100 ms at 99 %, 1 ms of the guest's time is due.  CFS puts a new
 * thread behind the others on its CPU, by a slice of theirs.  That is up to 7 ms of
 * the guest's time, which takes 700 ms at 99 %.
 */
#define EXPECT_SLOW_FROM_THE_START(i, full) do {			\
	u64 _work = self->guest.reports[i].work;			\
	double _first_ms, _ms;						\
									\
	sleep_ns(100 * MS);						\
	_first_ms = (self->guest.reports[i].work - _work) * 1e3 / (full); \
	sleep_ns(900 * MS);						\
	_ms = (self->guest.reports[i].work - _work) * 1e3 / (full);	\
	if (throttle_exact())						\
		EXPECT_TRUE(_first_ms < 1.1 && _ms > 0.1) {		\
			TH_LOG("%.3f ms of the guest's time, %.3f in 1 s", \
			       _first_ms, _ms);				\
		}							\
} while (0)

TEST_F(vcpu, new_ones_are_slow_from_the_start)
{
	double full;
	int i;

	START(GUEST_WORK, 1);
	full = guest_speed(&self->guest, 500 * MS);
	set(self->fd, 9900);
	sleep_ns(200 * MS);
	/* In another thread, at any time in a window. */
	for (i = 0; i < 4; i++) {
		guest_stop(&self->guest, 0);
		sleep_ns(7 * MS);
		guest_start(&self->guest, 0);
		EXPECT_SLOW_FROM_THE_START(0, full);
	}
	for (i = 1; i < 4; i++) {
		sleep_ns(7 * MS);
		guest_add_vcpu(&self->guest, GUEST_WORK);
		EXPECT_SLOW_FROM_THE_START(i, full);
	}
}

static void exit_all_the_time(void)
{
	for (;;)
		guest_exit();
}

/* How fast this thread is by itself. */
static double own_speed(u64 ns)
{
	u64 begin = now_ns(), loops = 0;

	for (; now_ns() < begin + ns; loops++)
		spend_insns();
	return loops * 1e9 / (now_ns() - begin);
}

/* It has left all of them in their sleep windows, and doesn't enter again. */
TEST_F(vcpu, busy_thread_that_owns_many)
{
	struct guest *g = &self->guest;
	double full, slow;
	int i;

	guest_prepare(g, exit_all_the_time, GUEST_VCPUS_MAX);
	full = own_speed(200 * MS);
	self->fd = throttle_attach(g->vm->fd);
	set(self->fd, 1);
	for (i = 0; i < GUEST_VCPUS_MAX; i++)
		ASSERT_EQ(__vcpu_run(g->vcpus[i]), 0);
	ASSERT_EQ(throttle_set(self->fd, 9999, 1000 * MS), 0);
	own_speed(50 * MS);
	slow = own_speed(500 * MS);
	EXPECT_SPEED(slow / full, 0.99, 1.01);
	close(self->fd);
	kvm_vm_free(g->vm);
	self->fd = -1;
}

/* Context switches of the whole machine until now. */
static u64 switches(void)
{
	FILE *f = fopen("/proc/stat", "r");
	unsigned long long all = 0;
	char line[4096];

	TEST_ASSERT(f, "/proc/stat");
	while (fgets(line, sizeof(line), f) && sscanf(line, "ctxt %llu", &all) != 1)
		;
	fclose(f);
	return all;
}

/* The fewest in one of three seconds: the kernel has work of its own in some. */
static u64 switches_per_second(void)
{
	u64 least = UINT64_MAX, before, now;
	int i;

	for (i = 0; i < 3; i++) {
		before = switches();
		sleep_ns(1000 * MS);
		now = switches();
		if (now - before < least)
			least = now - before;
	}
	return least;
}

TEST_F(vcpu, nothing_is_woken_at_full_speed)
{
	u64 without, with;

	START(GUEST_HALT, 4);
	close(self->fd);
	sleep_ns(1000 * MS);
	without = switches_per_second();
	self->fd = throttle_attach(self->guest.vm->fd);
	sleep_ns(1000 * MS);
	with = switches_per_second();
	if (throttle_exact())
		EXPECT_LE(with, without + 10);
}

TEST_F(vcpu, halted_vcpu_is_left_alone)
{
	struct kvm_throttle_vcpu_state before, after;

	START(GUEST_HALT, 1);
	set(self->fd, 5000);
	sleep_ns(100 * MS);
	before = state_of(self->fd, 0);
	sleep_ns(1000 * MS);
	after = state_of(self->fd, 0);
	EXPECT_EQ(after.windows, before.windows);
	EXPECT_EQ(after.retries, before.retries);
	EXPECT_EQ(after.throttled_ns, before.throttled_ns);
}

TEST_F(vcpu, paused_vcpu_is_left_alone)
{
	struct kvm_throttle_vcpu_state before, after;
	pthread_t thread;

	START(GUEST_WORK, 1);
	thread = start_instead(&self->guest, blocked_thread);
	set(self->fd, 5000);
	while (!state_of(self->fd, 0).windows)
		sleep_ns(10 * MS);
	leave_kvm_run(&self->guest, thread);
	sleep_ns(100 * MS);
	before = state_of(self->fd, 0);
	sleep_ns(1000 * MS);
	after = state_of(self->fd, 0);
	EXPECT_EQ(after.windows, before.windows);
	EXPECT_LE(after.retries - before.retries, 1);
	end_thread(thread);
	guest_start(&self->guest, 0);
}

/*
 * How a guest leaves guest mode, in its clock's ticks: so long after a run window began,
 * which it knows by a gap.
 */
static struct {
	u64 gap;
	u64 after;
	u64 by_halt;
} leaving;

static void leave_after_a_while(void)
{
	u64 last, now;

	for (;;) {
		now = guest_clock();
		do {
			last = now;
			now = guest_clock();
		} while (now - last < leaving.gap);
		last = now;
		while (guest_clock() - last < leaving.after)
			;
		if (leaving.by_halt)
			guest_halt();
		else
			guest_exit();
	}
}

#define LEAVING_US	25
/* At 50 %. */
#define WINDOW_US	(KVM_THROTTLE_PERIOD_DEFAULT_NS / 2 / 1000)

/*
 * In each round the guest leaves guest mode by itself, from 25 us before its window
 * ends to that very moment, and is left alone for the next 100 ms.
 */
static void *runs_what_leaves(void *arg)
{
	struct guest *g = arg;
	struct kvm_vcpu *vcpu = g->vcpus[0];
	u64 khz = guest_clock_khz(vcpu);
	int i;

	for (i = 0; i < 4 * LEAVING_US; i++) {
		leaving.after = (WINDOW_US - LEAVING_US) * khz / 1000 + i * khz / 4000;
		sync_global_to_guest(g->vm, leaving);
		vcpu->run->immediate_exit = 0;
		if (!__vcpu_run(vcpu))
			sleep_ns(100 * MS);
		else
			vcpu_mp_state_set(vcpu, &(struct kvm_mp_state) {
				.mp_state = KVM_MP_STATE_RUNNABLE });
	}
	return NULL;
}

static void leaves_near_the_end(struct guest *g, int *fd, bool by_halt)
{
	struct kvm_throttle_vcpu_state state;
	pthread_t thread;

	guest_prepare(g, leave_after_a_while, 1);
	leaving.gap = guest_clock_khz(g->vcpus[0]);
	leaving.by_halt = by_halt;
	*fd = throttle_attach(g->vm->fd);
	set(*fd, 5000);
	TEST_ASSERT(!pthread_create(&thread, NULL, runs_what_leaves, g), "pthread_create");
	do {
		sleep_ns(100 * MS);
		if (by_halt)
			pthread_kill(thread, SIGUSR1);
	} while (pthread_tryjoin_np(thread, NULL));
	state = state_of(*fd, 0);
	close(*fd);
	*fd = -1;
	kvm_vm_free(g->vm);
	/* A sleep window, and what the guest was late by. */
	TEST_ASSERT(!throttle_exact() || (state.stall_max_ns > 4 * MS &&
					  state.stall_max_ns < 7 * MS),
		    "longest stall %llu ns", state.stall_max_ns);
	TEST_ASSERT(!throttle_exact() || state.throttled_ns < state.elapsed_ns / 4,
		    "throttled for %llu ns of %llu", state.throttled_ns, state.elapsed_ns);
}

/* A pause of the VMM's, longer than a period. */
#define PAUSE_NS	(10 * MS)
#define BRIEF_NS	(2 * MS)
/* From attaching to the epoch, and from a window's opening to the guest. */
#define OPENING_US	600

static void *runs_and_pauses(void *vcpu)
{
	struct kvm_vcpu *v = vcpu;

	while (!v->run->immediate_exit) {
		if (__vcpu_run(v))
			sleep_ns(PAUSE_NS);
	}
	return NULL;
}

/* A signal ends KVM_RUN between a window's opening and the guest. */
TEST_F_TIMEOUT(vcpu, signal_when_its_window_opens, 60)
{
	struct kvm_throttle_vcpu_state state;
	struct guest *g = &self->guest;
	pthread_t thread;
	u64 epoch, at;
	int i;

	guest_prepare(g, leave_after_a_while, 1);
	leaving.after = ~0ULL;
	leaving.gap = ~0ULL;
	sync_global_to_guest(g->vm, leaving);
	epoch = now_ns();
	self->fd = throttle_attach(g->vm->fd);
	ASSERT_EQ(throttle_set(self->fd, 9000, BRIEF_NS), 0);
	ASSERT_EQ(pthread_create(&thread, NULL, runs_and_pauses, g->vcpus[0]), 0);
	sleep_ns(100 * MS);
	for (i = 0; i < OPENING_US; i++) {
		at = epoch + (now_ns() - epoch) / BRIEF_NS * BRIEF_NS;
		sleep_until_ns(at + 2 * PAUSE_NS + i * 1000);
		pthread_kill(thread, SIGUSR1);
	}
	sleep_ns(2 * PAUSE_NS);
	state = state_of(self->fd, 0);
	g->vcpus[0]->run->immediate_exit = 1;
	pthread_kill(thread, SIGUSR1);
	pthread_join(thread, NULL);
	close(self->fd);
	self->fd = -1;
	kvm_vm_free(g->vm);
	/* A sleep window, and what signals and the guest were late by. */
	if (throttle_exact()) {
		EXPECT_GT(state.stall_max_ns, BRIEF_NS / 2);
		EXPECT_LT(state.stall_max_ns, 2 * BRIEF_NS);
	}
}

/* The time until it comes back isn't the throttle's doing. */
TEST_F_TIMEOUT(vcpu, exits_when_its_window_ends, 60)
{
	leaves_near_the_end(&self->guest, &self->fd, false);
}

TEST_F_TIMEOUT(vcpu, halts_when_its_window_ends, 60)
{
#ifdef __x86_64__
	leaves_near_the_end(&self->guest, &self->fd, true);
#else
	SKIP(return, "a halt is no state that user space can end there");
#endif
}

/* Runs the vCPU until told to stop, and is busy with that for a while. */
static void *stopped_thread(void *arg)
{
	guest_run(arg, 0);
	for (int i = 0; i < 200; i++)
		spend_insns();
	pause();
	return NULL;
}

/* What the module does then is time that the VMM waits for it. */
TEST_F(vcpu, stopped_vcpu_is_rarely_looked_for)
{
	pthread_t thread;
	u64 retries;

	START(GUEST_WORK, 1);
	thread = start_instead(&self->guest, stopped_thread);
	set(self->fd, 9990);
	wait_for_sleep(self->fd);
	retries = state_of(self->fd, 0).retries;
	leave_kvm_run(&self->guest, thread);
	sleep_ns(10 * MS);
	retries = state_of(self->fd, 0).retries - retries;
	if (throttle_exact())
		EXPECT_LE(retries, 2);
	end_thread(thread);
	guest_start(&self->guest, 0);
}

TEST_HARNESS_MAIN
