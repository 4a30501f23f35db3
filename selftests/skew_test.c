// SPDX-License-Identifier: GPL-2.0
/*
 * A program that was compiled with the interface's first version, against the
 * module of today.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>

/* Before others include today's, which has the same guard. */
#include "api1/kvm_throttle.h"
#include "kselftest_harness.h"
#include "throttle_util.h"

/* Programs are built on these, whatever becomes of the names. */
_Static_assert(KVM_THROTTLE_API_VERSION == 1, "API version 1's header");
_Static_assert(KVM_THROTTLE_GET_API_VERSION == 0xb900, "API version 1's header");
_Static_assert(KVM_THROTTLE_ATTACH == 0x4020b901, "API version 1's header");
_Static_assert(KVM_SET_THROTTLE == 0x4038b902, "API version 1's header");
_Static_assert(KVM_GET_THROTTLE == 0xc040b903, "API version 1's header");
_Static_assert(sizeof(struct kvm_throttle_vcpu_state) == 88,
	       "API version 1's header");

#define NR_VCPUS	2

FIXTURE(skew) {
	struct guest guest;
	bool created;
	int dev;
	int fd;
};

FIXTURE_SETUP(skew)
{
	struct kvm_throttle_attach attach = { 0 };
	const char *missing = throttle_missing();

	self->created = false;
	if (missing)
		SKIP(return, "%s", missing);
	guest_create(&self->guest, GUEST_WORK, NR_VCPUS);
	self->created = true;
	self->dev = open("/dev/kvm_throttle", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->dev, 0);
	attach.vm_fd = self->guest.vm->fd;
	self->fd = ioctl(self->dev, KVM_THROTTLE_ATTACH, &attach);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(skew)
{
	if (!self->created)
		return;
	close(self->fd);
	close(self->dev);
	guest_destroy(&self->guest);
}

TEST_F(skew, version)
{
	EXPECT_GE(ioctl(self->dev, KVM_THROTTLE_GET_API_VERSION, 0),
		  KVM_THROTTLE_API_VERSION);
}

/* More vCPUs than one: the module must go by the caller's size from one to the next. */
TEST_F(skew, set_and_get)
{
	struct kvm_throttle set = { .percent_x100 = 5000, .period_ns = 20000000 };
	struct kvm_throttle own = {
		.flags = KVM_THROTTLE_VCPU,
		.vcpu_id = self->guest.vcpus[1]->id,
		.percent_x100 = 8000,
	};
	struct kvm_throttle_vcpu_state states[NR_VCPUS + 1];
	struct kvm_throttle_state get = {
		.nr_vcpus = NR_VCPUS,
		.vcpu_size = sizeof(states[0]),
		.vcpus = (uintptr_t)states,
	};
	const struct timespec a_while = { .tv_nsec = 100 * MS };
	unsigned char *behind = (unsigned char *)&states[NR_VCPUS];
	int i, tries = 0;

	memset(states, 0xa5, sizeof(states));
	ASSERT_EQ(ioctl(self->fd, KVM_SET_THROTTLE, &set), 0);
	ASSERT_EQ(ioctl(self->fd, KVM_SET_THROTTLE, &own), 0);
	/* On a busy machine it takes long until each has run. */
	do {
		nanosleep(&a_while, NULL);
		get.nr_vcpus = NR_VCPUS;
		ASSERT_EQ(ioctl(self->fd, KVM_GET_THROTTLE, &get), 0);
	} while (!(states[0].windows && states[1].windows) &&
		 ++tries < 300);

	EXPECT_EQ(get.nr_vcpus, NR_VCPUS);
	EXPECT_EQ(get.percent_x100, 5000);
	EXPECT_EQ(get.period_ns, 20000000);
	for (i = 0; i < NR_VCPUS; i++) {
		EXPECT_EQ(states[i].vcpu_id, self->guest.vcpus[i]->id);
		EXPECT_EQ(states[i].flags, i ? KVM_THROTTLE_VCPU : 0);
		EXPECT_EQ(states[i].percent_x100, i ? 8000 : 5000);
		EXPECT_EQ(states[i].period_ns,
			  i ? KVM_THROTTLE_PERIOD_DEFAULT_NS : 20000000);
		EXPECT_GT(states[i].tid, 0);
		EXPECT_GT(states[i].windows, 0);
		EXPECT_GT(states[i].throttled_ns, 0);
		EXPECT_GT(states[i].elapsed_ns, states[i].throttled_ns);
		/* Today, the first has a meaning. */
		EXPECT_NE(states[i].reserved[0], 0xa5a5a5a5a5a5a5a5ULL);
		EXPECT_EQ(states[i].reserved[1], 0);
	}
	for (i = 0; i < sizeof(states[0]); i++)
		ASSERT_EQ(behind[i], 0xa5);

	get.vcpu_size = sizeof(states[0]) - 1;
	EXPECT_EQ(ioctl(self->fd, KVM_GET_THROTTLE, &get), -1);
	EXPECT_EQ(errno, EINVAL);
}

/* How a program finds out that a module doesn't have what it would like. */
TEST_F(skew, what_is_not_there)
{
	struct kvm_throttle set = { .flags = 1U << 31 };

	EXPECT_EQ(ioctl(self->fd, KVM_SET_THROTTLE, &set), -1);
	EXPECT_EQ(errno, EINVAL);
	set = (struct kvm_throttle) { .reserved = { [3] = 1 } };
	EXPECT_EQ(ioctl(self->fd, KVM_SET_THROTTLE, &set), -1);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_EQ(ioctl(self->fd, _IO(0xB9, 0x7f)), -1);
	EXPECT_EQ(errno, ENOTTY);
}

TEST_F(skew, vm_dies)
{
	struct pollfd poll_fd = { .fd = self->fd };
	int fd = self->fd;

	EXPECT_EQ(poll(&poll_fd, 1, 0), 0);
	guest_destroy(&self->guest);
	self->created = false;
	EXPECT_EQ(poll(&poll_fd, 1, 5000), 1);
	EXPECT_EQ(poll_fd.revents, POLLHUP);
	close(fd);
	close(self->dev);
}

TEST_HARNESS_MAIN
