// SPDX-License-Identifier: GPL-2.0
/*
 * Every field of every ioctl, right, wrong and almost right.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "kselftest_harness.h"
#include "throttle_util.h"

/* A pointer that no process has anything at. */
#define BAD_POINTER	((void *)-4096L)

FIXTURE(abi) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int dev;
	int fd;
};

static void guest_nothing(void)
{
}

FIXTURE_SETUP(abi)
{
	const char *missing = throttle_missing();

	self->dev = -1;
	self->fd = -1;
	if (missing)
		SKIP(return, "%s", missing);
	self->vm = vm_create_with_one_vcpu(&self->vcpu, guest_nothing);
	self->dev = open("/dev/kvm_throttle", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->dev, 0);
	self->fd = throttle_attach(self->vm->fd);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(abi)
{
	if (self->dev < 0)
		return;
	close(self->fd);
	close(self->dev);
	kvm_vm_free(self->vm);
}

/*
 * What KVM_SET_THROTTLE has to say of a rate: 0, or EOPNOTSUPP if the module was built
 * for a kernel whose ftrace doesn't save what functions are called with.
 */
static int rate_error(void)
{
	return system("modinfo -F compat kvm_throttle | grep -q ftrace_args=NONE") ? 0 : EOPNOTSUPP;
}

/* 0 or errno of an ioctl. */
static int error_of(int fd, unsigned long cmd, void *arg)
{
	return ioctl(fd, cmd, arg) < 0 ? errno : 0;
}

static int attach_error(int dev, int fd)
{
	struct kvm_throttle_attach attach = { .vm_fd = fd };

	return error_of(dev, KVM_THROTTLE_ATTACH, &attach);
}

TEST_F(abi, version)
{
	EXPECT_EQ(ioctl(self->dev, KVM_THROTTLE_GET_API_VERSION, 0),
		  KVM_THROTTLE_API_VERSION);
	EXPECT_EQ(error_of(self->dev, KVM_THROTTLE_GET_API_VERSION, (void *)1), EINVAL);
}

TEST_F(abi, unknown_ioctls)
{
	struct kvm_throttle set = {};

	EXPECT_EQ(error_of(self->dev, KVM_SET_THROTTLE, &set), ENOTTY);
	EXPECT_EQ(error_of(self->dev, _IO(0xB9, 0x7f), NULL), ENOTTY);
	EXPECT_EQ(error_of(self->fd, KVM_THROTTLE_ATTACH, &set), ENOTTY);
	EXPECT_EQ(error_of(self->fd, _IO(0xB9, 0x7f), NULL), ENOTTY);
	/* The same number with another size of the argument. */
	EXPECT_EQ(error_of(self->fd, _IOW(0xB9, 0x02, __u32), &set), ENOTTY);
}

TEST_F(abi, attach_takes_only_vm_fds)
{
	int file, dir, event, pipes[2];

	EXPECT_EQ(attach_error(self->dev, -1), EBADF);
	EXPECT_EQ(attach_error(self->dev, 1000), EBADF);
	EXPECT_EQ(attach_error(self->dev, INT32_MIN), EBADF);

	file = open("/tmp/kvm-vm", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_GE(file, 0);
	unlink("/tmp/kvm-vm");
	EXPECT_EQ(attach_error(self->dev, file), EINVAL);
	close(file);

	file = memfd_create("kvm-vm", MFD_CLOEXEC);
	ASSERT_GE(file, 0);
	EXPECT_EQ(attach_error(self->dev, file), EINVAL);
	close(file);

	dir = open("/", O_RDONLY | O_CLOEXEC);
	EXPECT_EQ(attach_error(self->dev, dir), EINVAL);
	close(dir);

	dir = open("/", O_PATH | O_CLOEXEC);
	EXPECT_EQ(attach_error(self->dev, dir), EBADF);
	close(dir);

	event = eventfd(0, EFD_CLOEXEC);
	EXPECT_EQ(attach_error(self->dev, event), EINVAL);
	close(event);

	ASSERT_EQ(pipe(pipes), 0);
	EXPECT_EQ(attach_error(self->dev, pipes[0]), EINVAL);
	close(pipes[0]);
	close(pipes[1]);

	file = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	EXPECT_EQ(attach_error(self->dev, file), EINVAL);
	close(file);

	EXPECT_EQ(attach_error(self->dev, self->vcpu->fd), EINVAL);
	EXPECT_EQ(attach_error(self->dev, self->dev), EINVAL);
	EXPECT_EQ(attach_error(self->dev, self->fd), EINVAL);
}

TEST_F(abi, attach_arguments)
{
	struct kvm_throttle_attach attach = { .vm_fd = self->vm->fd };
	int i, bit;

	/* Whatever is wrong comes before EBUSY. */
	EXPECT_EQ(error_of(self->dev, KVM_THROTTLE_ATTACH, &attach), EBUSY);
	EXPECT_EQ(error_of(self->dev, KVM_THROTTLE_ATTACH, NULL), EFAULT);
	EXPECT_EQ(error_of(self->dev, KVM_THROTTLE_ATTACH, BAD_POINTER), EFAULT);
	for (bit = 0; bit < 32; bit++) {
		attach.flags = 1U << bit;
		EXPECT_EQ(error_of(self->dev, KVM_THROTTLE_ATTACH, &attach), EINVAL);
	}
	attach.flags = 0;
	for (i = 0; i < ARRAY_SIZE(attach.reserved); i++) {
		attach.reserved[i] = 1ULL << 63;
		EXPECT_EQ(error_of(self->dev, KVM_THROTTLE_ATTACH, &attach), EINVAL);
		attach.reserved[i] = 0;
	}
}

TEST_F(abi, one_owner)
{
	int dup_fd = dup(self->vm->fd);

	EXPECT_EQ(throttle_attach(self->vm->fd), -EBUSY);
	EXPECT_EQ(throttle_attach(dup_fd), -EBUSY);
	close(self->fd);
	self->fd = throttle_attach(dup_fd);
	EXPECT_GE(self->fd, 0);
	close(dup_fd);
}

TEST_F(abi, fd_is_close_on_exec)
{
	EXPECT_EQ(fcntl(self->fd, F_GETFD), FD_CLOEXEC);
}

TEST_F(abi, no_fd_left)
{
	struct rlimit old, none;
	int first, fd;

	/* The descriptor table is full: an error, and the VM is not taken. */
	close(self->fd);
	first = dup(self->dev);
	close(first);
	ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = old;
	none.rlim_cur = first;
	ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
	EXPECT_EQ(attach_error(self->dev, self->vm->fd), EMFILE);
	ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
	fd = throttle_attach(self->vm->fd);
	EXPECT_GE(fd, 0);
	self->fd = fd;
}

/* Write a number to a file of /proc/sys/fs; returns 0 if that works. */
static int write_limit(const char *file, const char *number)
{
	int fd = open(file, O_WRONLY | O_CLOEXEC);
	ssize_t len = write(fd, number, strlen(number));

	close(fd);
	return len == (ssize_t)strlen(number) ? 0 : -1;
}

/* The system has no room for another file, and who attaches isn't root. */
TEST_F(abi, no_file_left)
{
	static const char limit[] = "/proc/sys/fs/file-max";
	char old[32];
	int file = open(limit, O_RDONLY | O_CLOEXEC);
	ssize_t len = read(file, old, sizeof(old) - 1);
	int error;

	close(file);
	ASSERT_GT(len, 0);
	old[len] = '\0';
	close(self->fd);
	/* Each CPU may have some that aren't counted yet. */
	ASSERT_EQ(write_limit(limit, "0"), 0);
	error = seteuid(65534) ? -1 : attach_error(self->dev, self->vm->fd);
	EXPECT_EQ(seteuid(0), 0);
	EXPECT_EQ(write_limit(limit, old), 0);
	EXPECT_EQ(error, ENFILE);
	/* The VM is not taken. */
	self->fd = throttle_attach(self->vm->fd);
	EXPECT_GE(self->fd, 0);
}

TEST_F(abi, set_arguments)
{
	struct kvm_throttle good = { .percent_x100 = 5000 }, set;
	u64 period_ns;
	int i, bit;

	EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, NULL), EFAULT);
	EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, BAD_POINTER), EFAULT);
	for (bit = 1; bit < 32; bit++) {
		set = good;
		set.flags = 1U << bit;
		EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), EINVAL);
		set = good;
		set.pad = 1U << bit;
		EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), EINVAL);
	}
	for (i = 0; i < ARRAY_SIZE(set.reserved); i++) {
		set = good;
		set.reserved[i] = 1;
		EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), EINVAL);
	}
	set = good;
	set.dirty_rate = KVM_THROTTLE_DIRTY_RATE_MAX + 1;
	EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), EINVAL);
	set.dirty_rate = UINT64_MAX;
	EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), EINVAL);
	set = good;
	set.vcpu_id = 1;
	EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), EINVAL);
	set.flags = KVM_THROTTLE_VCPU;
	EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), ENOENT);
	set.vcpu_id = UINT32_MAX;
	EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), ENOENT);
	/* None of these has changed anything. */
	EXPECT_EQ(throttle_get(self->fd, NULL, 0, &period_ns), 1);
	EXPECT_EQ(period_ns, 0);
}

TEST_F(abi, set_ranges)
{
	static const struct {
		u32 percent_x100;
		u64 period_ns;
		int error;
	} cases[] = {
		{ 0, 0, 0 },
		{ 1, 0, 0 },
		{ 9999, 0, 0 },
		{ 10000, 0, EINVAL },
		{ UINT32_MAX, 0, EINVAL },
		{ 5000, 1, EINVAL },
		{ 5000, KVM_THROTTLE_PERIOD_MIN_NS - 1, EINVAL },
		{ 5000, KVM_THROTTLE_PERIOD_MIN_NS, 0 },
		{ 5000, KVM_THROTTLE_PERIOD_MAX_NS, 0 },
		{ 5000, KVM_THROTTLE_PERIOD_MAX_NS + 1, EINVAL },
		{ 5000, UINT64_MAX, EINVAL },
		{ 0, 1, EINVAL },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		EXPECT_EQ(throttle_set(self->fd, cases[i].percent_x100,
				       cases[i].period_ns), -cases[i].error) {
			TH_LOG("case %d", i);
		}
	}
}

TEST_F(abi, get_what_was_set)
{
	struct kvm_throttle_vcpu_state state;
	struct kvm_throttle_state get;

	ASSERT_EQ(throttle_set(self->fd, 9990, 0), 0);
	get = (struct kvm_throttle_state) {};
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), 0);
	EXPECT_EQ(get.percent_x100, 9990);
	EXPECT_EQ(get.period_ns, 97000000);
	EXPECT_EQ(get.nr_vcpus, 1);

	ASSERT_EQ(throttle_set_vcpu(self->fd, 0, 2000), 0);
	EXPECT_EQ(throttle_get(self->fd, &state, 1, NULL), 1);
	EXPECT_EQ(state.vcpu_id, 0);
	EXPECT_EQ(state.flags, KVM_THROTTLE_VCPU);
	EXPECT_EQ(state.percent_x100, 2000);
	EXPECT_EQ(state.period_ns, KVM_THROTTLE_PERIOD_DEFAULT_NS);
	EXPECT_EQ(state.tid, 0);

	/* The whole VM includes the vCPU again. */
	ASSERT_EQ(throttle_set(self->fd, 9990, 0), 0);
	EXPECT_EQ(throttle_get(self->fd, &state, 1, NULL), 1);
	EXPECT_EQ(state.flags, 0);
	EXPECT_EQ(state.percent_x100, 9990);
}

TEST_F(abi, get_the_rate_that_was_set)
{
	struct kvm_throttle set = { .dirty_rate = 5000 };
	struct kvm_throttle_state get = {};

	if (rate_error())
		SKIP(return, "this kernel has no ftrace with arguments");
	ASSERT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), 0);
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), 0);
	EXPECT_EQ(get.dirty_rate, 5000);
	EXPECT_EQ(get.percent_x100, 0);
	EXPECT_EQ(get.period_ns, 0);
	/* None of the VM's memory is logged. */
	EXPECT_EQ(get.logged_pages, 0);
	/* What is out only may be passed in again. */
	get.nr_vcpus = 0;
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), 0);
	EXPECT_EQ(get.dirty_rate, 5000);

	set.dirty_rate = KVM_THROTTLE_DIRTY_RATE_MAX;
	EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), 0);
	set.dirty_rate = 1;
	EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), 0);
	get.nr_vcpus = 0;
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), 0);
	EXPECT_EQ(get.dirty_rate, KVM_THROTTLE_DIRTY_RATE_MIN);

	/* A percentage alone lifts it: one setting replaces the other. */
	ASSERT_EQ(throttle_set(self->fd, 5000, 0), 0);
	get.nr_vcpus = 0;
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), 0);
	EXPECT_EQ(get.dirty_rate, 0);
}

/* A kernel without it says so, changes nothing, and still takes a percentage. */
TEST_F(abi, rate_or_no_rate)
{
	struct kvm_throttle set = { .percent_x100 = 2000, .dirty_rate = 5000 };
	struct kvm_throttle_vcpu_state state;
	int want = rate_error();

	ASSERT_EQ(throttle_set(self->fd, 5000, 0), 0);
	EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), want);
	EXPECT_EQ(throttle_get(self->fd, &state, 1, NULL), 1);
	EXPECT_EQ(state.percent_x100, want ? 5000 : 2000);
	EXPECT_EQ(state.dirty_rate, want ? 0 : 5000);
	set.flags = KVM_THROTTLE_VCPU;
	set.percent_x100 = 3000;
	EXPECT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), want);
	EXPECT_EQ(throttle_get(self->fd, &state, 1, NULL), 1);
	EXPECT_EQ(state.flags, want ? 0 : KVM_THROTTLE_VCPU);
	EXPECT_EQ(state.percent_x100, want ? 5000 : 3000);
	EXPECT_EQ(throttle_set(self->fd, 7000, 0), 0);
	EXPECT_EQ(throttle_get(self->fd, &state, 1, NULL), 1);
	EXPECT_EQ(state.percent_x100, 7000);
	EXPECT_EQ(state.dirty_rate, 0);
}

/* A program of version 2 knows no more of a vCPU than this. */
TEST_F(abi, get_for_an_older_caller)
{
	struct kvm_throttle set = { .percent_x100 = 5000, .dirty_rate = 5000 };
	struct kvm_throttle_vcpu_state states[2];
	struct kvm_throttle_state get = {
		.nr_vcpus = 2,
		.vcpu_size = offsetof(struct kvm_throttle_vcpu_state, dirty_rate),
		.vcpus = (uintptr_t)states,
	};

	if (rate_error())
		set.dirty_rate = 0;
	ASSERT_EQ(error_of(self->fd, KVM_SET_THROTTLE, &set), 0);
	memset(states, 0xff, sizeof(states));
	EXPECT_EQ(get.vcpu_size, 88);
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), 0);
	EXPECT_EQ(states[0].percent_x100, 5000);
	EXPECT_EQ(states[0].reserved, 0);
	/* What follows is left alone. */
	EXPECT_EQ(states[0].dirty_rate, UINT64_MAX);
	EXPECT_EQ(states[0].dirty_sleeps, UINT64_MAX);
	get.vcpu_size += sizeof(u64);
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), 0);
	EXPECT_EQ(states[0].dirty_rate, set.dirty_rate);
	EXPECT_EQ(states[0].dirtied, UINT64_MAX);
}

TEST_F(abi, get_arguments)
{
	struct kvm_throttle_vcpu_state state;
	struct kvm_throttle_state good = {
		.nr_vcpus = 1,
		.vcpu_size = sizeof(state),
		.vcpus = (uintptr_t)&state,
	}, get;
	int i, bit;

	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, NULL), EFAULT);
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, BAD_POINTER), EFAULT);
	for (bit = 0; bit < 32; bit++) {
		get = good;
		get.flags = 1U << bit;
		EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), EINVAL);
	}
	for (i = 0; i < ARRAY_SIZE(get.reserved); i++) {
		get = good;
		get.reserved[i] = 1;
		EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), EINVAL);
	}
	get = good;
	get.vcpus = 0;
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), EFAULT);
	get = good;
	get.vcpu_size = 0;
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), EINVAL);
	/* Fields that came later needn't be known, those before that must. */
	get.vcpu_size = offsetof(struct kvm_throttle_vcpu_state, reserved) +
			sizeof(state.reserved) - 1;
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), EINVAL);
	get.vcpu_size++;
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), 0);
	get = good;
	get.vcpu_size = UINT32_MAX;
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), EINVAL);
	/* More room than there are vCPUs is no reason to allocate it. */
	get = good;
	get.nr_vcpus = UINT32_MAX;
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), 0);
	EXPECT_EQ(get.nr_vcpus, 1);
	/* Not asked for vCPUs, their address is not looked at. */
	get = (struct kvm_throttle_state) { .vcpus = -4096UL };
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), 0);
	get.vcpu_size = sizeof(state);
	get.nr_vcpus = 0;
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), EINVAL);
}

TEST_F(abi, get_for_a_newer_caller)
{
	struct {
		struct kvm_throttle_vcpu_state state;
		u64 newer[2];
	} states[2];
	struct kvm_throttle_state get = {
		.nr_vcpus = 2,
		.vcpu_size = sizeof(states[0]),
		.vcpus = (uintptr_t)states,
	};

	memset(states, 0xff, sizeof(states));
	ASSERT_EQ(throttle_set(self->fd, 5000, 0), 0);
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), 0);
	EXPECT_EQ(get.nr_vcpus, 1);
	EXPECT_EQ(states[0].state.percent_x100, 5000);
	EXPECT_EQ(states[0].newer[0], 0);
	EXPECT_EQ(states[0].newer[1], 0);
	/* What is behind the last vCPU is left alone. */
	EXPECT_EQ(states[1].state.vcpu_id, UINT32_MAX);
}

TEST_F(abi, get_with_large_elements)
{
	size_t page = getpagesize();
	struct kvm_throttle_state get = { .nr_vcpus = 1 };
	char *states = calloc(1, page + 1);

	ASSERT_NE(states, NULL);
	get.vcpus = (uintptr_t)states;
	get.vcpu_size = page;
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), 0);
	get.nr_vcpus = 1;
	get.vcpu_size = page + 1;
	EXPECT_EQ(error_of(self->fd, KVM_GET_THROTTLE, &get), EINVAL);
	free(states);
}

TEST_F(abi, get_with_little_room)
{
	struct kvm_throttle_vcpu_state states[2];

	memset(states, 0xff, sizeof(states));
	vm_vcpu_add(self->vm, 7, guest_nothing);
	EXPECT_EQ(throttle_get(self->fd, states, 1, NULL), 2);
	EXPECT_EQ(states[0].vcpu_id, 0);
	EXPECT_EQ(states[1].vcpu_id, UINT32_MAX);
	EXPECT_EQ(throttle_get(self->fd, states, 2, NULL), 2);
	EXPECT_EQ(states[1].vcpu_id, 7);
	EXPECT_EQ(throttle_set_vcpu(self->fd, 7, 100), 0);
	EXPECT_EQ(throttle_set_vcpu(self->fd, 1, 100), -ENOENT);
}

TEST_F(abi, poll_of_a_living_vm)
{
	struct pollfd pfd = { .fd = self->fd, .events = POLLIN | POLLOUT };

	EXPECT_EQ(poll(&pfd, 1, 0), 0);
}

TEST_F(abi, read_and_write)
{
	char c = 0;

	EXPECT_EQ(read(self->fd, &c, 1), -1);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_EQ(write(self->fd, &c, 1), -1);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_EQ(read(self->dev, &c, 1), -1);
	EXPECT_EQ(mmap(NULL, 4096, PROT_READ, MAP_SHARED, self->fd, 0), MAP_FAILED);
}

TEST_HARNESS_MAIN
