// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How a VMM throttles its virtual machine: attach, set, read what came of it, poll,
 * and what can go wrong.  The first half can be copied into a VMM; the second one is
 * the smallest VMM there is, so that this runs on its own:
 *
 *	throttle [PERCENT]
 *
 * throttles a vCPU that spins by 50 % or so for a second.  Exit status 0 if it was.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm.h>
#include <linux/kvm_throttle.h>

/* --- the throttle ---------------------------------------------------------- */

/*
 * Returns a throttle fd for the VM, or -1 if it can't be had: then say why, and go on
 * without a throttle, or with one of your own.  Not if somebody else throttles this VM:
 * two throttles add up.
 */
static int throttle_attach(int vm_fd)
{
	struct kvm_throttle_attach attach = { .vm_fd = vm_fd };
	int dev = open("/dev/kvm_throttle", O_RDWR | O_CLOEXEC);
	int fd;

	if (dev < 0) {
		/* ENOENT, ENODEV: no module; EACCES: the udev rule; EPERM: the cgroup. */
		warn("/dev/kvm_throttle");
		return -1;
	}
	/* Versions only grow: ask for the one that has what you use. */
	if (ioctl(dev, KVM_THROTTLE_GET_API_VERSION, 0) < 2) {
		warnx("/dev/kvm_throttle: the module is too old");
		close(dev);
		return -1;
	}
	fd = ioctl(dev, KVM_THROTTLE_ATTACH, &attach);
	if (fd < 0 && errno == EBUSY)
		warnx("somebody else throttles this VM: see kvm-throttle stat");
	else if (fd < 0)
		warn("KVM_THROTTLE_ATTACH");
	/* The throttle fd is enough from here on. */
	close(dev);
	return fd;
}

/* Returns 0, or -1: nothing has changed then.  8000 is 80 %, 0 is full speed. */
static int throttle_set(int fd, uint32_t percent_x100)
{
	struct kvm_throttle set = { .percent_x100 = percent_x100 };

	if (!ioctl(fd, KVM_SET_THROTTLE, &set))
		return 0;
	/* ESRCH: the VM is gone. */
	warn("KVM_SET_THROTTLE");
	return -1;
}

/* Reads up to @room vCPUs.  Returns how many the VM has, or -1. */
static int throttle_get(int fd, struct kvm_throttle_vcpu_state *vcpus, unsigned int room)
{
	struct kvm_throttle_state get = {
		.nr_vcpus = room,
		/* As this was compiled: the module may know more, or less. */
		.vcpu_size = sizeof(*vcpus),
		.vcpus = (uintptr_t)vcpus,
	};

	if (ioctl(fd, KVM_GET_THROTTLE, &get)) {
		warn("KVM_GET_THROTTLE");
		return -1;
	}
	return get.nr_vcpus;
}

/* Returns 1 if the VM is gone within @ms. */
static int throttle_wait(int fd, int ms)
{
	/* POLLHUP comes without having been asked for. */
	struct pollfd pfd = { .fd = fd };

	return poll(&pfd, 1, ms) == 1 && pfd.revents & POLLHUP;
}

/* --- a VMM ----------------------------------------------------------------- */

#if defined(__x86_64__)
/* A CPU begins 16 bytes below 4 GiB: there it finds "jmp .". */
#define GUEST_PAGE	0xfffff000
#define GUEST_OFFSET	0xff0
static const char guest_code[] = "\xeb\xfe";

static void init_vcpu(int vm, int vcpu)
{
	(void)vm;
	(void)vcpu;
}
#elif defined(__aarch64__)
/* A CPU begins at 0: there it finds "b .". */
#define GUEST_PAGE	0
#define GUEST_OFFSET	0
static const char guest_code[] = "\x00\x00\x00\x14";

static void init_vcpu(int vm, int vcpu)
{
	struct kvm_vcpu_init init;

	if (ioctl(vm, KVM_ARM_PREFERRED_TARGET, &init) ||
	    ioctl(vcpu, KVM_ARM_VCPU_INIT, &init))
		err(1, "KVM_ARM_VCPU_INIT");
}
#endif

static void *run_vcpu(void *arg)
{
	int vcpu = (intptr_t)arg;

	for (;;) {
		if (ioctl(vcpu, KVM_RUN, 0) && errno != EINTR)
			err(1, "KVM_RUN");
	}
	return NULL;
}

static int create_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region memory = {
		.guest_phys_addr = GUEST_PAGE,
		.memory_size = 4096,
		.userspace_addr = (uintptr_t)page,
	};
	pthread_t thread;
	int vcpu;

	if (vm < 0)
		err(1, "/dev/kvm");
	if (page == MAP_FAILED)
		err(1, "mmap");
	memcpy(page + GUEST_OFFSET, guest_code, sizeof(guest_code) - 1);
	vcpu = ioctl(vm, KVM_SET_USER_MEMORY_REGION, &memory) ? -1 :
	       ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		err(1, "KVM_CREATE_VCPU");
	init_vcpu(vm, vcpu);
	if (pthread_create(&thread, NULL, run_vcpu, (void *)(intptr_t)vcpu))
		errx(1, "no thread");
	return vm;
}

int main(int argc, char **argv)
{
	double percent = argc > 1 ? atof(argv[1]) : 50, share;
	struct kvm_throttle_vcpu_state before, vcpu;
	int fd = throttle_attach(create_vm());

	if (fd < 0 || throttle_set(fd, percent * 100 + 0.5))
		return 1;
	/* What is counted are sums since the VM was attached to: take differences. */
	if (throttle_wait(fd, 100))
		errx(1, "the VM is gone");
	if (throttle_get(fd, &before, 1) != 1)
		return 1;
	if (throttle_wait(fd, 1000))
		errx(1, "the VM is gone");
	if (throttle_get(fd, &vcpu, 1) != 1)
		return 1;
	share = 100.0 * (vcpu.throttled_ns - before.throttled_ns) /
		(vcpu.elapsed_ns - before.elapsed_ns);
	printf("vCPU %u: throttled by %.2f %% of %.3f s in %llu windows; longest stall %.3f ms\n",
	       vcpu.vcpu_id, share, (vcpu.elapsed_ns - before.elapsed_ns) / 1e9,
	       (unsigned long long)(vcpu.windows - before.windows),
	       vcpu.stall_max_ns / 1e6);
	/* Full speed; it would be also if this process crashed. */
	close(fd);
	return share < percent - 2 || share > percent + 2;
}
