// SPDX-License-Identifier: GPL-2.0
/*
 * Faults: whatever fails in a call of the module, an error comes back or the
 * call works without it; nothing is left of it, and nothing stays throttled.
 *
 * The kernel counts what can fail (slab and page allocations, copies from and to
 * user space, and here percpu allocations) in one thread, and fails the n-th of
 * them.  Only what is called by the module is counted.  So each call is made
 * again and again, with the first of them failing, then the second, until none is
 * left.  In what vCPUs' threads and workers do for the module, all allocations fail.
 *
 * It takes a kernel with fault injection: vm/kernels/debug.config.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "kselftest_harness.h"
#include "throttle_util.h"

#define DEBUG_DIR	"/sys/kernel/debug"
/* Waiting in the kernel for what takes a moment. */
#define PATIENCE	(20000 * MS)
#define TIMEOUT_S	600

enum fault {
	SLAB,
	PAGE,
	COPY,
	PERCPU,
	NR_FAULTS
};

static const char * const fault_dir[] = {
	[SLAB] = DEBUG_DIR "/failslab",
	[PAGE] = DEBUG_DIR "/fail_page_alloc",
	[COPY] = DEBUG_DIR "/fail_usercopy",
	[PERCPU] = DEBUG_DIR "/fail_function",
};

/* More than will happen: what is left tells how many did. */
#define TIMES	1000000

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	TEST_ASSERT(fd >= 0, "open %s", path);
	TEST_ASSERT(write(fd, text, strlen(text)) == strlen(text),
		    "write %s to %s", text, path);
	close(fd);
}

static void fault_option(enum fault fault, const char *option, u64 value)
{
	char path[PATH_MAX], text[24];

	snprintf(path, sizeof(path), "%s/%s", fault_dir[fault], option);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	write_text(path, text);
}

/* How many faults of a kind there were since fault_reset(). */
static int faults(enum fault fault)
{
	char path[PATH_MAX];
	int left = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s/times", fault_dir[fault]);
	f = fopen(path, "re");
	TEST_ASSERT(f && fscanf(f, "%d", &left) == 1, "read %s", path);
	fclose(f);
	return TIMES - left;
}

/* No fault but by fail_nth(), there in what is called by code in a range. */
static void fault_reset(u64 start, u64 end)
{
	int i;

	for (i = 0; i < NR_FAULTS; i++) {
		fault_option(i, "probability", 0);
		fault_option(i, "times", TIMES);
		/* A message in the kernel's log would be taken for a bug. */
		fault_option(i, "verbose", 0);
		/* A probe at a function's entry may not see who calls that. */
		fault_option(i, "require-start", i == PERCPU ? 0 : start);
		fault_option(i, "require-end", i == PERCPU ? ~0ULL : end);
		fault_option(i, "stacktrace-depth", 32);
	}
	write_text(DEBUG_DIR "/failslab/ignore-gfp-wait", "N");
	write_text(DEBUG_DIR "/fail_page_alloc/ignore-gfp-wait", "N");
	write_text(DEBUG_DIR "/fail_page_alloc/ignore-gfp-highmem", "N");
	write_text(DEBUG_DIR "/fail_page_alloc/min-order", "0");
}

/* The module: its address and size. */
static void fault_reset_to_module(void)
{
	unsigned long long address;
	unsigned int size;
	char line[256];
	FILE *f = fopen("/proc/modules", "re");
	bool found = false;

	TEST_ASSERT(f, "/proc/modules");
	while (!found && fgets(line, sizeof(line), f))
		found = sscanf(line, "kvm_throttle %u %*s %*s %*s %llx", &size, &address) == 2;
	fclose(f);
	TEST_ASSERT(found && address, "/proc/modules lacks the module's address");
	fault_reset(address, address + size);
}

/* The address of a symbol of the kernel, and of the one that follows it. */
static void find_symbol(const char *symbol, u64 *start, u64 *end)
{
	unsigned long long address;
	char line[512], name[256];
	FILE *f;

	*start = 0;
	f = fopen("/proc/kallsyms", "re");
	TEST_ASSERT(f, "/proc/kallsyms");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%llx %*c %255s", &address, name) == 2 &&
		    !strcmp(name, symbol))
			*start = address;
	}
	TEST_ASSERT(*start, "/proc/kallsyms lacks %s", symbol);
	rewind(f);
	*end = ~0ULL;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%llx", &address) == 1 && address > *start &&
		    address < *end)
			*end = address;
	}
	fclose(f);
}

/* Every slab allocation that the module makes fails, in any thread. */
static void fail_allocations(bool on)
{
	fault_option(SLAB, "probability", on ? 100 : 0);
}

static int fail_nth_fd;

/* Fail the @n-th operation of this thread that can fail. */
static void fail_nth(int n)
{
	char text[12];
	int size = snprintf(text, sizeof(text), "%d", n);

	TEST_ASSERT(pwrite(fail_nth_fd, text, size, 0) == size, "write fail-nth");
}

/* Has it?  After this, nothing fails. */
static bool has_failed(void)
{
	char text[12] = {};

	TEST_ASSERT(pread(fail_nth_fd, text, sizeof(text) - 1, 0) > 0, "read fail-nth");
	fail_nth(0);
	return !atoi(text);
}

static bool wait_for_faults(enum fault fault, int n)
{
	return WAIT_FOR(faults(fault) >= n, 10 * MS, PATIENCE);
}

static int open_fds(void)
{
	int fd, n = 0;

	for (fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

FIXTURE(fault) {
	struct guest g;
	double full;
	int vms;
	int fds;
};

static const char *injection_missing(void)
{
	const char *missing = throttle_missing();
	int i;

	if (missing)
		return missing;
	for (i = 0; i < NR_FAULTS; i++) {
		if (access(fault_dir[i], F_OK))
			return "no fault injection in this kernel, or no debugfs: KERNEL=debug vm/vm";
	}
	return NULL;
}

FIXTURE_SETUP(fault)
{
	const char *missing = injection_missing();
	int fd;

	if (missing)
		SKIP(return, "%s", missing);
	self->vms = vm_count();
	fail_nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	TEST_ASSERT(fail_nth_fd >= 0, "/proc/thread-self/fail-nth");
	/* All are forgotten, then there is one. */
	fd = open(DEBUG_DIR "/fail_function/inject", O_WRONLY | O_TRUNC | O_CLOEXEC);
	TEST_ASSERT(fd >= 0 && write(fd, "\n", 1) == 1, "fail_function/inject");
	close(fd);
	write_text(DEBUG_DIR "/fail_function/inject", "pcpu_alloc_noprof");
	write_text(DEBUG_DIR "/fail_function/pcpu_alloc_noprof/retval", "0");
	fault_reset_to_module();

	guest_create(&self->g, GUEST_WORK, 2);
	self->full = guest_speed(&self->g, 200 * MS);
	self->fds = open_fds();
}

/* The guest runs as before, and whatever belongs to it goes when it does. */
FIXTURE_TEARDOWN(fault)
{
	double speed = 0;
	int i;

	fault_reset(0, ~0ULL);
	EXPECT_EQ(open_fds(), self->fds);
	/* By chance it may be slow, but not fast. */
	for (i = 0; i < 10 && speed < self->full * 0.4; i++)
		speed = guest_speed(&self->g, 200 * MS);
	EXPECT_GE(speed, self->full * 0.4);
	guest_destroy(&self->g);
	EXPECT_TRUE(vm_count_becomes(self->vms));
	EXPECT_EQ(module_unload(PATIENCE), 0);
	EXPECT_EQ(system("modprobe kvm_throttle"), 0);
	close(fail_nth_fd);
}

TEST_F_TIMEOUT(fault, attach, TIMEOUT_S)
{
	struct kvm_throttle_vcpu_state states[2];
	int nth, fd, errors = 0;
	bool failed;

	for (nth = 1, failed = true; failed; nth++) {
		fail_nth(nth);
		fd = throttle_attach(self->g.vm->fd);
		failed = has_failed();
		if (fd < 0) {
			ASSERT_TRUE(failed);
			ASSERT_TRUE(fd == -ENOMEM || fd == -EFAULT);
			errors++;
			/* Nobody is attached now. */
			fd = throttle_attach(self->g.vm->fd);
		}
		ASSERT_GE(fd, 0);
		ASSERT_EQ(throttle_set(fd, SLOW, 0), 0);
		ASSERT_EQ(throttle_get(fd, states, 2, NULL), 2);
		close(fd);
	}
	TH_LOG("%d faults in slab, %d in page, %d in percpu allocations, %d in copies; %d errors",
	       faults(SLAB), faults(PAGE), faults(PERCPU), faults(COPY), errors);
	EXPECT_EQ(faults(COPY), 1);
	/* The percpu records, and what they are made of. */
	EXPECT_GE(faults(PERCPU), 1);
	/* The throttle, two vCPUs, the fd's file. */
	EXPECT_GE(faults(SLAB), 4);
	/* Not the pages for pointers to vCPUs, which come from elsewhere then; nor debugfs. */
	EXPECT_GE(errors, 6);
}

TEST_F_TIMEOUT(fault, no_fd_left, TIMEOUT_S)
{
	struct rlimit limit, old;
	int dev, fd;
	struct kvm_throttle_attach attach = { .vm_fd = self->g.vm->fd };

	dev = open("/dev/kvm_throttle", O_RDWR | O_CLOEXEC);
	ASSERT_GE(dev, 0);
	getrlimit(RLIMIT_NOFILE, &old);
	limit = old;
	limit.rlim_cur = 3;
	setrlimit(RLIMIT_NOFILE, &limit);
	fd = ioctl(dev, KVM_THROTTLE_ATTACH, &attach);
	EXPECT_EQ(errno, EMFILE);
	setrlimit(RLIMIT_NOFILE, &old);
	EXPECT_EQ(fd, -1);
	fd = ioctl(dev, KVM_THROTTLE_ATTACH, &attach);
	EXPECT_GE(fd, 0);
	close(fd);
	close(dev);
}

TEST_F_TIMEOUT(fault, set_and_get, TIMEOUT_S)
{
	struct kvm_throttle_vcpu_state states[2];
	int nth, r, no_memory = 0, fd = throttle_attach(self->g.vm->fd);
	u64 period_ns;
	bool failed;

	ASSERT_GE(fd, 0);
	/* For the first throttle, a worker adds a probe to a tracepoint. */
	fail_allocations(true);
	EXPECT_EQ(throttle_set(fd, 5000, 2 * MS), -ENOMEM);
	fail_allocations(false);
	ASSERT_EQ(throttle_get(fd, NULL, 0, &period_ns), 2);
	EXPECT_EQ(period_ns, 0);

	for (nth = 1, failed = true; failed; nth++) {
		fail_nth(nth);
		r = throttle_set(fd, 5000, nth * 2 * MS);
		failed = has_failed();
		ASSERT_TRUE(!r || (failed && r == -EFAULT));
		/* Nothing has come of a call that failed. */
		ASSERT_EQ(throttle_get(fd, NULL, 0, &period_ns), 2);
		ASSERT_EQ(period_ns == nth * 2 * MS, !r);
	}
	EXPECT_EQ(faults(COPY), 1);

	for (nth = 1, failed = true; failed; nth++) {
		fail_nth(nth);
		r = throttle_get(fd, states, 2, NULL);
		failed = has_failed();
		ASSERT_TRUE(r == 2 || (failed && (r == -ENOMEM || r == -EFAULT)));
		no_memory += r == -ENOMEM;
	}
	/* The argument, and back again, and both vCPUs. */
	EXPECT_EQ(faults(COPY), 1 + 4);
	EXPECT_GE(no_memory, 1);
	close(fd);
}

TEST_F_TIMEOUT(fault, close, TIMEOUT_S)
{
	bool failed;
	int nth, fd;

	for (nth = 1, failed = true; failed; nth++) {
		fd = throttle_attach(self->g.vm->fd);
		ASSERT_GE(fd, 0);
		ASSERT_EQ(throttle_set(fd, SLOW, 0), 0);
		fail_nth(nth);
		ASSERT_EQ(close(fd), 0);
		failed = has_failed();
	}
}

TEST_F_TIMEOUT(fault, debugfs_file, TIMEOUT_S)
{
	int nth, file, fd = throttle_attach(self->g.vm->fd);
	char path[PATH_MAX] = {};
	bool failed;
	FILE *ls;

	ASSERT_GE(fd, 0);
	ls = popen("ls " DEBUG_DIR "/kvm_throttle/*", "re");
	ASSERT_NE(ls, NULL);
	ASSERT_EQ(fscanf(ls, "%4095s", path), 1);
	pclose(ls);
	for (nth = 1, failed = true; failed; nth++) {
		fail_nth(nth);
		file = open(path, O_RDONLY | O_CLOEXEC);
		failed = has_failed();
		ASSERT_TRUE(file >= 0 || failed);
		close(file);
	}
	EXPECT_GE(faults(SLAB), 1);
	close(fd);
}

/* Does vCPU @i do more than @work? */
static bool wait_for_work(const struct guest *g, int i, u64 work)
{
	return WAIT_FOR(g->reports[i].work > work, 10 * MS, PATIENCE);
}

/*
 * Attach, throttle, and add a vCPU, whose thread gets no memory to make it known.  It
 * tries again and again, and stays out of the guest.
 */
static int attach_and_add_vcpu(struct guest *g)
{
	int fd = throttle_attach(g->vm->fd);

	TEST_ASSERT(fd >= 0 && !throttle_set(fd, SLOW, 0), "attach and set");
	fail_allocations(true);
	guest_add_vcpu(g, GUEST_WORK);
	TEST_ASSERT(wait_for_faults(SLAB, 4), "nobody needs memory for a new vCPU");
	TEST_ASSERT(!g->reports[g->nr_vcpus - 1].work, "a vCPU that isn't known runs");
	return fd;
}

TEST_F_TIMEOUT(fault, new_vcpu, TIMEOUT_S)
{
	struct kvm_throttle_vcpu_state states[3] = {};
	int fd = attach_and_add_vcpu(&self->g);

	/* These look at all vCPUs, so have to know it.  Nothing changes. */
	EXPECT_EQ(throttle_set_vcpu(fd, 0, 5000), -ENOMEM);
	EXPECT_EQ(throttle_get(fd, states, 3, NULL), -ENOMEM);
	fail_allocations(false);

	EXPECT_TRUE(wait_for_work(&self->g, 2, 0));
	EXPECT_TRUE(WAIT_FOR(throttle_get(fd, states, 3, NULL) == 3 && states[2].windows,
			     100 * MS, PATIENCE));
	EXPECT_EQ(states[0].percent_x100, SLOW);
	EXPECT_EQ(states[2].percent_x100, SLOW);
	close(fd);
	/* The new one's. */
	self->fds++;
}

/* Full speed takes no memory, and then a vCPU that isn't known runs too. */
TEST_F_TIMEOUT(fault, full_speed, TIMEOUT_S)
{
	int fd = attach_and_add_vcpu(&self->g);

	EXPECT_EQ(throttle_set(fd, 0, 0), 0);
	EXPECT_TRUE(wait_for_work(&self->g, 2, 0));
	fail_allocations(false);
	close(fd);
	/* The new one's. */
	self->fds++;
}

/* The vCPU's thread is another, which is throttled from its first entry on, without memory. */
TEST_F_TIMEOUT(fault, moved_vcpu, TIMEOUT_S)
{
	struct kvm_throttle_vcpu_state states[2] = {};
	int fd = throttle_attach(self->g.vm->fd);
	u64 windows, work, tid;

	ASSERT_GE(fd, 0);
	ASSERT_EQ(throttle_set(fd, SLOW, 0), 0);
	EXPECT_TRUE(guest_is_slow(&self->g, self->full));
	ASSERT_EQ(throttle_get(fd, states, 2, NULL), 2);
	tid = states[0].tid;
	fail_allocations(true);
	guest_stop(&self->g, 0);
	windows = states[0].windows;
	work = self->g.reports[0].work;
	guest_start(&self->g, 0);
	EXPECT_TRUE(wait_for_work(&self->g, 0, work));
	EXPECT_TRUE(guest_is_slow(&self->g, self->full));
	/* What is read needs some. */
	EXPECT_EQ(throttle_get(fd, states, 2, NULL), -ENOMEM);
	fail_allocations(false);

	ASSERT_EQ(throttle_get(fd, states, 2, NULL), 2);
	EXPECT_NE(states[0].tid, tid);
	EXPECT_EQ(states[0].percent_x100, SLOW);
	EXPECT_GT(states[0].windows, windows);
	close(fd);
}

/* To let go of it takes no memory. */
TEST_F_TIMEOUT(fault, dying_vm, TIMEOUT_S)
{
	struct pollfd pfd;
	struct guest g;

	guest_create(&g, GUEST_WORK, 2);
	pfd.fd = throttle_attach(g.vm->fd);
	ASSERT_GE(pfd.fd, 0);
	ASSERT_EQ(throttle_set(pfd.fd, SLOW, 0), 0);
	fail_allocations(true);
	guest_destroy(&g);
	EXPECT_EQ(poll(&pfd, 1, PATIENCE / MS), 1);
	EXPECT_EQ(pfd.revents, POLLHUP);
	EXPECT_TRUE(vm_count_becomes(self->vms + 1));
	fail_allocations(false);
	close(pfd.fd);
}

static int open_module(void)
{
	char path[PATH_MAX] = {};
	FILE *modinfo = popen("modinfo -n kvm_throttle", "re");

	TEST_ASSERT(modinfo && fscanf(modinfo, "%4095s", path) == 1, "modinfo");
	pclose(modinfo);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* What is called by its init function, of which nobody knows the address yet. */
TEST_F_TIMEOUT(fault, load, TIMEOUT_S)
{
	int nth, r, file, errors = 0;
	u64 start, end;
	bool failed;

	ASSERT_EQ(module_unload(PATIENCE), 0);
	file = open_module();
	ASSERT_GE(file, 0);
	find_symbol("do_one_initcall", &start, &end);
	fault_reset(start, end);
	for (nth = 1, failed = true; failed; nth++) {
		fail_nth(nth);
		r = syscall(SYS_finit_module, file, "", 0) ? errno : 0;
		failed = has_failed();
		if (r) {
			ASSERT_TRUE(failed);
			ASSERT_EQ(r, ENOMEM);
			errors++;
			ASSERT_NE(access("/sys/module/kvm_throttle", F_OK), 0);
			ASSERT_NE(access(DEBUG_DIR "/kvm_throttle", F_OK), 0);
		} else {
			ASSERT_EQ(module_unload(PATIENCE), 0);
		}
	}
	TH_LOG("%d faults in slab, %d in page, %d in percpu allocations; %d errors",
	       faults(SLAB), faults(PAGE), faults(PERCPU), errors);
	/* The workqueues, their attributes, their percpu parts; the device. */
	EXPECT_GE(faults(PERCPU), 1);
	EXPECT_GE(errors, 4);
	close(file);
	ASSERT_EQ(system("modprobe kvm_throttle"), 0);
	EXPECT_EQ(throttle_missing(), NULL);
}

TEST_HARNESS_MAIN
