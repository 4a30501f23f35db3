// SPDX-License-Identifier: GPL-2.0
/*
 * What others see of a throttle: tracepoints, the list in debugfs, the kernel's
 * log, and the guest's steal time.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "kselftest_harness.h"
#include "throttle_util.h"
#ifdef __x86_64__
#include <asm/kvm_para.h>
#include "processor.h"
#endif

#define MS		1000000ULL
#define TRACING		"/sys/kernel/tracing"
#define EVENTS		TRACING "/events/kvm_throttle"
#define DEBUGFS		"/sys/kernel/debug/kvm_throttle"

/* The log is rate-limited, over 5 s. */
#define LOG_PAUSE_NS	(5100 * MS)

FIXTURE(observe) {
	char trace[100];
	struct guest guest;
};

static void write_file(const char *dir, const char *name, const char *value)
{
	char path[200];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	TEST_ASSERT(fd >= 0 && write(fd, value, strlen(value)) > 0,
		    "%s: %s", path, strerror(errno));
	close(fd);
}

FIXTURE_SETUP(observe)
{
	const char *missing = throttle_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (access(EVENTS, R_OK))
		SKIP(return, "%s: %s", EVENTS, strerror(errno));
	snprintf(self->trace, sizeof(self->trace), TRACING "/instances/observe_test.%d", getpid());
	ASSERT_EQ(mkdir(self->trace, 0700), 0);
	write_file(self->trace, "trace_clock", "mono");
	write_file(self->trace, "events/kvm_throttle/enable", "1");
	guest_create(&self->guest, GUEST_WORK, 1);
}

FIXTURE_TEARDOWN(observe)
{
	if (!self->guest.vm)
		return;
	guest_destroy(&self->guest);
	rmdir(self->trace);
}

/* What the trace says; to be freed by the caller. */
static char *read_trace(const char *dir)
{
	size_t size = 16 << 20;
	char path[200], *text = malloc(size);
	size_t used = 0;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/trace", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	TEST_ASSERT(fd >= 0 && text, "%s: %s", path, strerror(errno));
	while ((n = read(fd, text + used, size - 1 - used)) > 0)
		used += n;
	close(fd);
	TEST_ASSERT(used < size - 1, "the trace is too long");
	text[used] = 0;
	return text;
}

/* The number after " @name=" in a line of the trace. */
static long long field(const char *line, const char *name)
{
	char key[40];
	const char *at;

	snprintf(key, sizeof(key), " %s=", name);
	at = strstr(line, key);
	TEST_ASSERT(at, "no %s in: %s", name, line);
	return atoll(at + strlen(key));
}

/* When a line of the trace was written, in ns with the precision of 1 us. */
static u64 stamp(const char *line, const char *event)
{
	const char *at = strstr(line, event);
	unsigned long s, us;

	/* "   seconds.microseconds: kvm_throttle_..." */
	for (at -= 3; at > line && at[-1] != ' '; at--)
		;
	TEST_ASSERT(sscanf(at, "%lu.%lu", &s, &us) == 2, "no time in: %s", line);
	return s * 1000 * MS + us * 1000;
}

struct seen {
	int attach, set, open, close, signal, detach, dead;
	u64 slept_ns, late_ns, overrun_ns;
};

/* Reads the trace of one VM with one vCPU, and whether it makes sense. */
static void parse_trace(struct __test_metadata *_metadata, char *text,
			struct seen *seen)
{
	u64 closed_at = 0, opens_at = 0, at;
	char *line, *save;

	memset(seen, 0, sizeof(*seen));
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (strstr(line, ": kvm_throttle_attach:")) {
			seen->attach++;
			EXPECT_EQ(field(line, "pid"), getpid());
			EXPECT_EQ(field(line, "owner"), getpid());
			EXPECT_NE(strstr(line, " comm=observe_test"), NULL);
		} else if (strstr(line, ": kvm_throttle_set:")) {
			seen->set++;
			EXPECT_EQ(field(line, "vcpu"), -1);
		} else if (strstr(line, ": kvm_throttle_detach:")) {
			seen->detach++;
			seen->dead += field(line, "dead");
		} else if (strstr(line, ": kvm_throttle_signal:")) {
			seen->signal++;
		} else if (strstr(line, ": kvm_throttle_open:")) {
			at = stamp(line, "kvm_throttle_open:");
			seen->open++;
			if (field(line, "slept")) {
				/* Times in the trace are cut to 1 us. */
				EXPECT_GE(at + 1000, opens_at);
				seen->slept_ns += at - closed_at;
				seen->late_ns += at - opens_at;
			}
			EXPECT_GE(at + 1000, field(line, "planned_ns"));
			/* Another task may have the CPU between the two. */
			if (throttle_exact())
				EXPECT_GT(field(line, "close_ns"), at);
		} else if (strstr(line, ": kvm_throttle_close:")) {
			closed_at = stamp(line, "kvm_throttle_close:");
			opens_at = field(line, "open_ns");
			seen->close++;
			EXPECT_GE(closed_at + 1000, field(line, "planned_ns"));
			EXPECT_GT(opens_at, field(line, "planned_ns"));
			/* It may have opened since that was decided. */
			if (closed_at >= opens_at)
				seen->overrun_ns = max(seen->overrun_ns,
						       closed_at - opens_at + 1000);
			if (throttle_exact())
				EXPECT_GT(opens_at, closed_at);
		}
	}
}

/* Every window of a throttled VM is in the trace, with its times. */
TEST_F(observe, tracepoints)
{
	struct kvm_throttle_vcpu_state state;
	struct seen seen;
	char *text;
	int fd;

	fd = throttle_attach(self->guest.vm->fd);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(throttle_set(fd, 8000, 0), 0);
	/* This changes nothing. */
	ASSERT_EQ(throttle_set(fd, 8000, 0), 0);
	/* On a busy machine, a window may take long. */
	ASSERT_TRUE(WAIT_FOR(throttle_get(fd, &state, 1, NULL) == 1 && state.windows > 5,
			     500 * MS, 20000 * MS));
	ASSERT_EQ(throttle_set(fd, 0, 0), 0);
	ASSERT_EQ(throttle_get(fd, &state, 1, NULL), 1);
	close(fd);

	text = read_trace(self->trace);
	parse_trace(_metadata, text, &seen);
	free(text);
	EXPECT_EQ(seen.attach, 1);
	EXPECT_EQ(seen.set, 2);
	EXPECT_EQ(seen.detach, 1);
	EXPECT_EQ(seen.dead, 0);

	EXPECT_GT(state.windows, 5);
	/* Then the vCPU is woken late by that. */
	EXPECT_LE(seen.overrun_ns, state.late_max_ns + 2000);
	/* The last sleep may have been cut short. */
	EXPECT_GE(seen.close, state.windows);
	EXPECT_LE(seen.close, state.windows + 1);
	if (throttle_exact()) {
		EXPECT_GE(seen.open, state.windows);
		/* The trace's own sum is that of the counters. */
		EXPECT_GT(seen.slept_ns - seen.late_ns, state.throttled_ns - 10 * MS);
		EXPECT_LT(seen.slept_ns - seen.late_ns, state.throttled_ns + MS);
	}
}

/* A signal in a sleep window is in the trace. */
TEST_F(observe, signal_tracepoint)
{
	struct seen seen;
	char *text;
	int fd;

	fd = throttle_attach(self->guest.vm->fd);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(throttle_set(fd, 9990, 1000 * MS), 0);
	sleep_ns(300 * MS);
	guest_stop(&self->guest, 0);
	guest_start(&self->guest, 0);
	ASSERT_EQ(throttle_set(fd, 0, 0), 0);
	close(fd);

	text = read_trace(self->trace);
	parse_trace(_metadata, text, &seen);
	free(text);
	EXPECT_GE(seen.signal, 1);
}

/* When the VM dies, the trace says so. */
TEST_F(observe, death_tracepoint)
{
	struct pollfd poll_fd = { .events = POLLIN };
	struct seen seen;
	char *text;

	poll_fd.fd = throttle_attach(self->guest.vm->fd);
	ASSERT_GE(poll_fd.fd, 0);
	ASSERT_EQ(throttle_set(poll_fd.fd, 5000, 0), 0);
	guest_destroy(&self->guest);
	self->guest.vm = NULL;
	ASSERT_EQ(poll(&poll_fd, 1, 60000), 1);

	text = read_trace(self->trace);
	close(poll_fd.fd);
	rmdir(self->trace);
	parse_trace(_metadata, text, &seen);
	free(text);
	EXPECT_EQ(seen.detach, 1);
	EXPECT_EQ(seen.dead, 1);
}

/*
 * The text of this process' file in debugfs, NULL if there is none; it is valid
 * until the next call.
 */
static const char *debugfs_text(void)
{
	static char text[4096];
	char path[300], prefix[20];
	struct dirent *entry;
	const char *r = NULL;
	DIR *dir;
	ssize_t n;
	int fd;

	snprintf(prefix, sizeof(prefix), "%d-", getpid());
	dir = opendir(DEBUGFS);
	TEST_ASSERT(dir, DEBUGFS ": %s", strerror(errno));
	while ((entry = readdir(dir))) {
		if (strncmp(entry->d_name, prefix, strlen(prefix)))
			continue;
		snprintf(path, sizeof(path), DEBUGFS "/%s", entry->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		TEST_ASSERT(fd >= 0, "%s: %s", path, strerror(errno));
		n = read(fd, text, sizeof(text) - 1);
		TEST_ASSERT(n >= 0, "%s: %s", path, strerror(errno));
		text[n] = 0;
		close(fd);
		r = text;
	}
	closedir(dir);
	return r;
}

/* debugfs lists the throttle while it is there: the VM, the owner, each vCPU. */
TEST_F(observe, debugfs)
{
	struct kvm_throttle_vcpu_state states[2];
	unsigned int id, tid, percent, hundredths;
	u64 period_ns, elapsed_ns, throttled_ns;
	char expected[100];
	const char *text;
	int fd;

	EXPECT_EQ(debugfs_text(), NULL);
	guest_add_vcpu(&self->guest, GUEST_WORK);
	fd = throttle_attach(self->guest.vm->fd);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(throttle_set(fd, 8012, 0), 0);
	sleep_ns(100 * MS);
	text = debugfs_text();
	ASSERT_NE(text, NULL);
	snprintf(expected, sizeof(expected),
		 "pid %d\nowner %d observe_test\npercent 80.12\nperiod_ns 10472000\ndirty_rate 0\nlogged_pages 0\nvcpu ",
		 getpid(), getpid());
	EXPECT_EQ(strncmp(text, expected, strlen(expected)), 0)
		TH_LOG("%s", text);

	ASSERT_EQ(throttle_get(fd, states, 2, NULL), 2);
	text = strstr(text, "\n0 ");
	ASSERT_NE(text, NULL);
	ASSERT_EQ(sscanf(text, "%u %u %u.%u %" SCNu64 " %" SCNu64 " %" SCNu64, &id, &tid,
			 &percent, &hundredths, &period_ns, &elapsed_ns,
			 &throttled_ns), 7);
	EXPECT_EQ(tid, states[0].tid);
	EXPECT_EQ(percent * 100 + hundredths, 8012);
	EXPECT_EQ(period_ns, 10472000);
	EXPECT_GT(throttled_ns, 0);
	EXPECT_LE(throttled_ns, states[0].throttled_ns);
	EXPECT_LE(elapsed_ns, states[0].elapsed_ns);
	EXPECT_NE(strstr(text, "\n1 "), NULL);

	close(fd);
	EXPECT_EQ(debugfs_text(), NULL);
}

/* A process may have any name; it must not look like more lines, or colours. */
TEST_F(observe, name_of_the_owner)
{
	char name[16], expected[100];
	const char *text;
	int fd;

	ASSERT_EQ(prctl(PR_GET_NAME, name), 0);
	ASSERT_EQ(prctl(PR_SET_NAME, "a\npercent 0\33[m"), 0);
	fd = throttle_attach(self->guest.vm->fd);
	ASSERT_EQ(prctl(PR_SET_NAME, name), 0);
	ASSERT_GE(fd, 0);
	text = debugfs_text();
	ASSERT_NE(text, NULL);
	snprintf(expected, sizeof(expected), "\nowner %d a\\npercent 0\\e[m\n", getpid());
	EXPECT_NE(strstr(text, expected), NULL)
		TH_LOG("%s", text);
	close(fd);
}

/* Once the VM is dead, its file is empty until the throttle fd is closed. */
TEST_F(observe, debugfs_of_the_dead)
{
	struct pollfd poll_fd = { .events = POLLIN };
	const char *text;

	poll_fd.fd = throttle_attach(self->guest.vm->fd);
	ASSERT_GE(poll_fd.fd, 0);
	guest_destroy(&self->guest);
	self->guest.vm = NULL;
	rmdir(self->trace);
	ASSERT_EQ(poll(&poll_fd, 1, 60000), 1);
	text = debugfs_text();
	ASSERT_NE(text, NULL);
	EXPECT_EQ(text[0], 0);
	close(poll_fd.fd);
	EXPECT_EQ(debugfs_text(), NULL);
}

/* How many new lines the log has about throttles, and the last of them. */
static int read_log(int kmsg, char *last, size_t size)
{
	char record[1024], *at;
	ssize_t n;
	int lines = 0;

	for (;;) {
		n = read(kmsg, record, sizeof(record) - 1);
		if (n < 0 && errno == EPIPE)
			continue;
		if (n <= 0)
			return lines;
		record[n] = 0;
		at = strstr(record, ";kvm_throttle: VM of process ");
		if (!at)
			continue;
		*strchrnul(at, '\n') = 0;
		snprintf(last, size, "%s", at + 1);
		lines++;
	}
}

/* The log has one line when throttling starts, and one when it ends. */
TEST_F(observe, log)
{
	char last[200], expected[200];
	int kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	int fd, round;

	ASSERT_GE(kmsg, 0);
	sleep_ns(LOG_PAUSE_NS);
	lseek(kmsg, 0, SEEK_END);
	fd = throttle_attach(self->guest.vm->fd);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(read_log(kmsg, last, sizeof(last)), 0);

	for (round = 0; round < 2; round++) {
		ASSERT_EQ(throttle_set(fd, 8012, 0), 0);
		EXPECT_EQ(read_log(kmsg, last, sizeof(last)), 1);
		snprintf(expected, sizeof(expected),
			 "kvm_throttle: VM of process %d throttled to 80.12 %% by process %d (observe_test)",
			 getpid(), getpid());
		EXPECT_STREQ(last, expected);
		ASSERT_EQ(throttle_set(fd, 9000, 0), 0);
		EXPECT_EQ(read_log(kmsg, last, sizeof(last)), 0);

		if (round)
			close(fd);
		else
			ASSERT_EQ(throttle_set(fd, 0, 0), 0);
		EXPECT_EQ(read_log(kmsg, last, sizeof(last)), 1);
		snprintf(expected, sizeof(expected),
			 "kvm_throttle: VM of process %d no longer throttled by process %d (observe_test)",
			 getpid(), getpid());
		EXPECT_STREQ(last, expected);
	}
	close(kmsg);
}

/* Nor can its owner fill the log. */
TEST_F(observe, log_is_not_flooded)
{
	int kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	char last[200];
	int fd, i, lines;

	ASSERT_GE(kmsg, 0);
	lseek(kmsg, 0, SEEK_END);
	fd = throttle_attach(self->guest.vm->fd);
	ASSERT_GE(fd, 0);
	for (i = 0; i < 500; i++) {
		ASSERT_EQ(throttle_set(fd, 5000, 0), 0);
		ASSERT_EQ(throttle_set(fd, 0, 0), 0);
	}
	/* Ten lines of each kind in 5 s. */
	lines = read_log(kmsg, last, sizeof(last));
	EXPECT_LE(lines, throttle_exact() ? 20 : 200);
	EXPECT_GT(lines, 0);
	close(fd);
	close(kmsg);
}

#ifdef __x86_64__
/* Where the guest's first vCPU is told about the time that it didn't get. */
static volatile struct kvm_steal_time *ask_for_steal_time(struct guest *g)
{
	gva_t page;

	guest_stop(g, 0);
	page = vm_alloc_page(g->vm);
	vcpu_set_msr(g->vcpus[0], MSR_KVM_STEAL_TIME,
		     addr_gva2gpa(g->vm, page) | KVM_MSR_ENABLED);
	guest_start(g, 0);
	return addr_gva2hva(g->vm, page);
}
#endif

/* What the throttle takes from a guest is in the guest's steal time. */
TEST_F(observe, steal_time)
{
#ifdef __x86_64__
	struct kvm_throttle_vcpu_state before, after;
	volatile struct kvm_steal_time *st;
	struct guest *g = &self->guest;
	u64 steal, steal_before, throttled_ns, patience;
	int fd;

	st = ask_for_steal_time(g);

	fd = throttle_attach(g->vm->fd);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(throttle_set(fd, 8000, 0), 0);
	sleep_ns(200 * MS);
	ASSERT_GE(throttle_get(fd, &before, 1, NULL), 1);
	steal_before = st->steal;
	patience = now_ns() + (throttle_exact() ? 0 : 10000 * MS);
	do {
		sleep_ns(1000 * MS);
		ASSERT_GE(throttle_get(fd, &after, 1, NULL), 1);
		steal = st->steal - steal_before;
		throttled_ns = after.throttled_ns - before.throttled_ns;
	} while (steal <= throttled_ns / 2 && now_ns() < patience);
	close(fd);

	/* Waiting for the CPU is stolen too; what isn't slept off yet comes later. */
	EXPECT_GT(steal, throttled_ns / 2);
	if (throttle_exact()) {
		EXPECT_GT(steal + 30 * MS, throttled_ns);
		EXPECT_LT(steal, throttled_ns + 30 * MS);
	}
#else
	SKIP(return, "the guest would have to ask for it");
#endif
}

/* A thread that has waited less than the one before takes no time back. */
TEST_F(observe, steal_time_in_another_thread)
{
#ifdef __x86_64__
	volatile struct kvm_steal_time *st;
	u64 steal, work;
	int fd, i;

	st = ask_for_steal_time(&self->guest);
	fd = throttle_attach(self->guest.vm->fd);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(throttle_set(fd, 9000, 0), 0);
	for (i = 0; i < 3; i++) {
		sleep_ns(300 * MS);
		steal = st->steal;
		EXPECT_GT(steal, 0);
		guest_stop(&self->guest, 0);
		work = guest_work(&self->guest);
		guest_start(&self->guest, 0);
		/* It is told before it runs. */
		ASSERT_TRUE(WAIT_FOR(guest_work(&self->guest) > work, MS, 10000 * MS));
		EXPECT_GE(st->steal, steal);
	}
	close(fd);
#else
	SKIP(return, "the guest would have to ask for it");
#endif
}

/*
 * A vCPU that waits for another one, as for the answer to an IPI that flushes its
 * TLB, doesn't if it is told that the other one doesn't run.
 */
TEST_F(observe, siblings_know_who_sleeps)
{
#ifdef __x86_64__
	volatile struct kvm_steal_time *st;
	int fd, i, told = 0;

	st = ask_for_steal_time(&self->guest);
	fd = throttle_attach(self->guest.vm->fd);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(throttle_set(fd, 9900, 0), 0);
	sleep_ns(100 * MS);
	for (i = 0; i < 100; i++) {
		told += st->preempted & KVM_VCPU_PREEMPTED;
		sleep_ns(1300000);
	}
	close(fd);
	if (throttle_exact())
		EXPECT_GE(told, 95);
#else
	SKIP(return, "the guest would have to ask for it");
#endif
}

TEST_HARNESS_MAIN
