// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How a VMM throttles its virtual machine: attach, set, read what came of it, poll,
 * and what can go wrong.  The first part can be copied into a VMM; the second one is
 * the smallest VMM there is, so that this runs on its own:
 *
 *	throttle [PERCENT [RATE]]
 *
 * throttles a vCPU that writes to its memory by 50 % or so for a second.  With RATE, as
 * in a migration, it limits what the vCPU dirties to so many pages a second, or
 * throttles it by PERCENT where that can't be had.  Exit status 0 if it was.
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

/* The interface's version that brought the rate. */
#define RATE_VERSION	3

/*
 * Returns a throttle fd for the VM, or -1 if it can't be had: then say why, and go on
 * without a throttle, or with one of your own.  Not if somebody else throttles this VM:
 * two throttles add up.
 */
static int throttle_attach(int vm_fd, int *version)
{
	struct kvm_throttle_attach attach = { .vm_fd = vm_fd };
	int dev = open("/dev/kvm_throttle", O_RDWR | O_CLOEXEC);
	int fd;

	if (dev < 0) {
		/* ENOENT, ENODEV: no module; EACCES: the udev rule; EPERM: the cgroup. */
		warn("/dev/kvm_throttle");
		return -1;
	}
	/* Versions only grow: compare with the one that has what you use. */
	*version = ioctl(dev, KVM_THROTTLE_GET_API_VERSION, 0);
	fd = ioctl(dev, KVM_THROTTLE_ATTACH, &attach);
	if (fd < 0 && errno == EBUSY)
		warnx("somebody else throttles this VM: see kvm-throttle stat");
	else if (fd < 0)
		warn("KVM_THROTTLE_ATTACH");
	/* The throttle fd is enough from here on. */
	close(dev);
	return fd;
}

/*
 * 8000 is 80 %, 0 is full speed.  Replaces what was set before, also a rate.  Returns 0,
 * or -1: nothing has changed then.
 */
static int throttle_set(int fd, uint32_t percent_x100)
{
	struct kvm_throttle set = { .percent_x100 = percent_x100 };

	if (!ioctl(fd, KVM_SET_THROTTLE, &set))
		return 0;
	/* ESRCH: the VM is gone. */
	warn("KVM_SET_THROTTLE");
	return -1;
}

/*
 * Limits what the vCPUs dirty to @rate pages a second, or throttles them by a percentage
 * where that can't be had.  Returns 0, or -1: nothing has changed then.
 */
static int throttle_set_rate(int fd, int version, uint64_t rate, uint32_t percent_x100)
{
	struct kvm_throttle set = { .dirty_rate = rate };

	/* 0 is no limit, more than the highest is EINVAL. */
	if (set.dirty_rate < 1)
		set.dirty_rate = 1;
	if (set.dirty_rate > KVM_THROTTLE_DIRTY_RATE_MAX)
		set.dirty_rate = KVM_THROTTLE_DIRTY_RATE_MAX;
	/* An older module has no such field: EINVAL. */
	if (version >= RATE_VERSION) {
		if (!ioctl(fd, KVM_SET_THROTTLE, &set))
			return 0;
		/* The kernel has no ftrace with arguments, or it is turned off. */
		if (errno != EOPNOTSUPP && errno != EBUSY) {
			warn("KVM_SET_THROTTLE");
			return -1;
		}
		warn("a percentage in place of a rate");
	}
	return throttle_set(fd, percent_x100);
}

/*
 * Reads the VM's state, and up to @room vCPUs.  Returns how many it has stored, or -1.
 * @state->nr_vcpus is how many the VM has: if that is more, make room and call it again.
 */
static int throttle_get(int fd, struct kvm_throttle_state *state,
			struct kvm_throttle_vcpu_state *vcpus, unsigned int room)
{
	*state = (struct kvm_throttle_state) {
		.nr_vcpus = room,
		/* As this was compiled: the module may know more, or less. */
		.vcpu_size = room ? sizeof(*vcpus) : 0,
		.vcpus = (uintptr_t)vcpus,
	};
	if (ioctl(fd, KVM_GET_THROTTLE, state)) {
		warn("KVM_GET_THROTTLE");
		return -1;
	}
	return state->nr_vcpus < room ? state->nr_vcpus : room;
}

/* Returns 1 if the VM is gone within @ms. */
static int throttle_wait(int fd, int ms)
{
	/* POLLHUP comes without having been asked for. */
	struct pollfd pfd = { .fd = fd };

	return poll(&pfd, 1, ms) == 1 && pfd.revents & POLLHUP;
}

/* --- a VMM ----------------------------------------------------------------- */

#define PAGE_BYTES	4096
#define MEMORY_BYTES	(1024 * 1024)
#define MEMORY_PAGES	(MEMORY_BYTES / PAGE_BYTES)

/*
 * The guest writes to one page of its memory after the other, for ever.  Between two it
 * counts to 200, as no guest does nothing but that: a CPU with a list of dirtied pages
 * (Intel's PML) would have hundreds in it before the guest could be made to exit.
 */
#if defined(__x86_64__)
/* A CPU begins 16 bytes below 4 GiB, where all registers that this uses are 0. */
#define GUEST_PAGE	0xfffff000
#define GUEST_OFFSET	0xff0
#define GUEST_MEMORY	0
static const unsigned char guest_code[] = {
	0x8e, 0xd8,		/* 1: mov %ax, %ds */
	0xa2, 0x00, 0x00,	/*    mov %al, 0 */
	0x80, 0xc4, 0x01,	/*    add $1, %ah */
	0xb9, 0xc8, 0x00,	/*    mov $200, %cx */
	0xe2, 0xfe,		/* 2: loop 2b */
	0xeb, 0xf1,		/*    jmp 1b */
};

static void init_vcpu(int vm, int vcpu)
{
	(void)vm;
	(void)vcpu;
}
#elif defined(__aarch64__)
/* A CPU begins at 0, without its MMU. */
#define GUEST_PAGE	0
#define GUEST_OFFSET	0
#define GUEST_MEMORY	MEMORY_BYTES
static const uint32_t guest_code[] = {
	0xd2a00200,		/* 1: mov x0, #0x100000 */
	0xb900001f,		/* 2: str wzr, [x0] */
	0x91400400,		/*    add x0, x0, #0x1000 */
	0xd2801901,		/*    mov x1, #200 */
	0xf1000421,		/* 3: subs x1, x1, #1 */
	0x54ffffe1,		/*    b.ne 3b */
	0x36afff60,		/*    tbz x0, #21, 2b */
	0x17fffff9,		/*    b 1b */
};

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

/* Where the VMM has the guest's memory: the page with its code, and what it writes to. */
static struct kvm_userspace_memory_region slots[] = {
	{ .slot = 0, .guest_phys_addr = GUEST_PAGE, .memory_size = PAGE_BYTES },
	{ .slot = 1, .guest_phys_addr = GUEST_MEMORY, .memory_size = MEMORY_BYTES },
};

static void set_slot(int vm, struct kvm_userspace_memory_region *slot, uint32_t flags)
{
	slot->flags = flags;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, slot))
		err(1, "KVM_SET_USER_MEMORY_REGION");
}

static void set_slots(int vm, uint32_t flags)
{
	set_slot(vm, &slots[0], flags);
	set_slot(vm, &slots[1], flags);
}

static void *map_slot(struct kvm_userspace_memory_region *slot)
{
	void *memory = mmap(NULL, slot->memory_size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		err(1, "mmap");
	slot->userspace_addr = (uintptr_t)memory;
	return memory;
}

static int create_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
	pthread_t thread;
	int vcpu;

	if (vm < 0)
		err(1, "/dev/kvm");
	memcpy((char *)map_slot(&slots[0]) + GUEST_OFFSET, guest_code, sizeof(guest_code));
	map_slot(&slots[1]);
	set_slots(vm, 0);
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		err(1, "KVM_CREATE_VCPU");
	init_vcpu(vm, vcpu);
	if (pthread_create(&thread, NULL, run_vcpu, (void *)(intptr_t)vcpu))
		errx(1, "no thread");
	return vm;
}

/* A VMM would send these pages.  Returns how many there are. */
static unsigned int read_dirty_log(int vm)
{
	uint64_t bits[MEMORY_PAGES / 64] = { 0 };
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bits };
	unsigned int i, pages = 0;

	if (ioctl(vm, KVM_GET_DIRTY_LOG, &log))
		err(1, "KVM_GET_DIRTY_LOG");
	for (i = 0; i < MEMORY_PAGES / 64; i++)
		pages += __builtin_popcountll(bits[i]);
	return pages;
}

/* --- both ------------------------------------------------------------------ */

static int is_near(double is, double want, double by)
{
	return is >= want - by && is <= want + by;
}

static void wait_ms(int fd, int ms)
{
	if (throttle_wait(fd, ms))
		errx(1, "the VM is gone");
}

/* Returns 1 if the vCPU is throttled by the percentage that is set. */
static int show_percent(int fd, double percent)
{
	struct kvm_throttle_vcpu_state before, vcpu;
	struct kvm_throttle_state state;
	double share;

	/* What is counted are sums since the VM was attached to: take differences. */
	wait_ms(fd, 100);
	if (throttle_get(fd, &state, &before, 1) != 1)
		return 0;
	wait_ms(fd, 1000);
	if (throttle_get(fd, &state, &vcpu, 1) != 1)
		return 0;
	share = 100.0 * (vcpu.throttled_ns - before.throttled_ns) /
		(vcpu.elapsed_ns - before.elapsed_ns);
	printf("vCPU %u: throttled by %.2f %% of %.3f s in %llu windows; longest stall %.3f ms\n",
	       vcpu.vcpu_id, share, (vcpu.elapsed_ns - before.elapsed_ns) / 1e9,
	       (unsigned long long)(vcpu.windows - before.windows),
	       vcpu.stall_max_ns / 1e6);
	return is_near(share, percent, 2);
}

/* Returns 1 if the vCPU dirties as many pages a second as are in force. */
static int show_rate(int fd, int vm, uint64_t rate)
{
	struct kvm_throttle_vcpu_state before, vcpu;
	struct kvm_throttle_state state;
	unsigned int pages = 0;
	double dirtied;
	int i;

	wait_ms(fd, 100);
	read_dirty_log(vm);
	if (throttle_get(fd, &state, &before, 1) != 1)
		return 0;
	/* No limit acts on memory whose dirty log is off. */
	if (!state.logged_pages)
		errx(1, "the dirty log is off");
	/* The module has raised it.  In a migration: this pass may not be the last. */
	if (state.dirty_rate > rate)
		warnx("the lowest rate is %llu pages/s", (unsigned long long)state.dirty_rate);
	for (i = 0; i < 100; i++) {
		wait_ms(fd, 10);
		pages += read_dirty_log(vm);
	}
	if (throttle_get(fd, &state, &vcpu, 1) != 1)
		return 0;
	dirtied = (vcpu.dirtied - before.dirtied) * 1e9 / (vcpu.elapsed_ns - before.elapsed_ns);
	printf("vCPU %u: dirtied %.0f pages/s in %.3f s, the log had %u; longest stall %.3f ms\n",
	       vcpu.vcpu_id, dirtied, (vcpu.elapsed_ns - before.elapsed_ns) / 1e9, pages,
	       vcpu.stall_max_ns / 1e6);
	return is_near(dirtied, state.dirty_rate, state.dirty_rate * 0.02 + 16);
}

int main(int argc, char **argv)
{
	double percent = argc > 1 ? atof(argv[1]) : 50;
	uint64_t rate = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
	int vm = create_vm(), version, fd, ok;
	struct kvm_throttle_state state;

	if (rate) {
		/* A migration begins: the first pass sends all memory, at full speed. */
		set_slots(vm, KVM_MEM_LOG_DIRTY_PAGES);
		read_dirty_log(vm);
	}
	fd = throttle_attach(vm, &version);
	if (fd < 0)
		return 1;
	if (rate ? throttle_set_rate(fd, version, rate, percent * 100 + 0.5) :
		   throttle_set(fd, percent * 100 + 0.5))
		return 1;
	/* Which of the two is in force? */
	if (throttle_get(fd, &state, NULL, 0) < 0)
		return 1;
	ok = state.dirty_rate ? show_rate(fd, vm, rate) : show_percent(fd, percent);
	/* Full speed; it would be also if this process crashed. */
	close(fd);
	return !ok;
}
