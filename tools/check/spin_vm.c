// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A process with virtual machines for vm_test.sh to throttle.
 *
 *	spin_vm NUMBER ID[i]... [-name NAME]
 *
 * creates NUMBER virtual machines and prints their fds, and a copy of the last,
 * which a VMM may have too.  Each has the vCPUs of those ids, which spin, or
 * stay idle where an "i" follows.  The name is for others to read, as QEMU's is.
 * Ends when it is killed.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm.h>

#define PAGE		4096

#if defined(__x86_64__)

/* An x86 CPU begins 16 bytes below 4 GiB: there it finds "jmp .". */
#define RESET_PAGE	0xfffff000
#define RESET_OFFSET	0xff0
static const char spin[] = "\xeb\xfe";

static void create_irqchip(int vm)
{
	if (ioctl(vm, KVM_CREATE_IRQCHIP))
		err(1, "KVM_CREATE_IRQCHIP");
}

/* A vCPU that isn't the first waits to be started. */
static void init_vcpu(int vm, int vcpu, bool idle)
{
	struct kvm_mp_state state = { KVM_MP_STATE_RUNNABLE };

	(void)vm;
	if (!idle && ioctl(vcpu, KVM_SET_MP_STATE, &state))
		err(1, "KVM_SET_MP_STATE");
}

#elif defined(__aarch64__)

/* An arm64 CPU of KVM's begins at 0: there it finds "b .". */
#define RESET_PAGE	0
#define RESET_OFFSET	0
static const char spin[] = "\x00\x00\x00\x14";

/* None is needed. */
static void create_irqchip(int vm)
{
	(void)vm;
}

static void init_vcpu(int vm, int vcpu, bool idle)
{
	struct kvm_vcpu_init init;

	if (ioctl(vm, KVM_ARM_PREFERRED_TARGET, &init))
		err(1, "KVM_ARM_PREFERRED_TARGET");
	if (idle)
		init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
	if (ioctl(vcpu, KVM_ARM_VCPU_INIT, &init))
		err(1, "KVM_ARM_VCPU_INIT");
}

#endif

static void *run(void *arg)
{
	int vcpu = (intptr_t)arg;

	while (ioctl(vcpu, KVM_RUN, 0) && errno == EINTR)
		;
	err(1, "KVM_RUN returned");
}

static void create_vcpu(int vm, const char *arg)
{
	unsigned long id;
	pthread_t thread;
	char *idle;
	int vcpu;

	id = strtoul(arg, &idle, 10);
	vcpu = ioctl(vm, KVM_CREATE_VCPU, id);
	if (vcpu < 0)
		err(1, "KVM_CREATE_VCPU");
	init_vcpu(vm, vcpu, *idle);
	if (pthread_create(&thread, NULL, run, (void *)(intptr_t)vcpu))
		errx(1, "no thread");
}

static int create_vm(int kvm, char *page)
{
	struct kvm_userspace_memory_region memory = {
		.guest_phys_addr = RESET_PAGE,
		.memory_size = PAGE,
		.userspace_addr = (uintptr_t)page,
	};
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);

	if (vm < 0)
		err(1, "KVM_CREATE_VM");
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &memory))
		err(1, "KVM_SET_USER_MEMORY_REGION");
	create_irqchip(vm);
	return vm;
}

int main(int argc, char **argv)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int nr, copy, vm = -1;
	char *page;

	if (kvm < 0)
		err(1, "/dev/kvm");
	nr = argc < 3 ? 0 : atoi(argv[1]);
	if (nr < 1)
		errx(2, "how many VMs, with which vCPUs?");
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		err(1, "mmap");
	memcpy(page + RESET_OFFSET, spin, sizeof(spin));

	for (int i = 0; i < nr; i++) {
		vm = create_vm(kvm, page);
		printf("%d ", vm);
		for (int v = 2; v < argc && *argv[v] != '-'; v++)
			create_vcpu(vm, argv[v]);
	}
	copy = dup(vm);
	if (copy < 0)
		err(1, "dup");
	printf("%d\n", copy);
	fflush(stdout);
	for (;;)
		pause();
}
