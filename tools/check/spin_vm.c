// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A process with virtual machines for vm_test.sh to throttle.
 *
 *	spin_vm NUMBER ID[i|w]... [-log SOCKET] [-throttle PERCENT] [-name NAME]
 *
 * creates NUMBER virtual machines and prints their fds, and a copy of the last,
 * which a VMM may have too.  Each has the vCPUs of those ids, which spin, or
 * stay idle where an "i" follows, or write to one page after the other of 1 MiB of
 * memory where a "w" does.  With -log, KVM logs which of those pages are dirtied;
 * who connects to the socket reads how many were since the last time, of the last
 * machine.  With -throttle, it throttles them itself.  The name is for others to read, as
 * QEMU's is.  SIGUSR1 is a reboot as some VMMs do it: another machine takes the place of the
 * only one, and its fds are printed.  Ends when it is killed.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/kvm.h>
#include <linux/kvm_throttle.h>

#define PAGE		4096

/* The memory that vCPUs write to, which is another slot than that with their code. */
#define DIRTY_SIZE	0x100000
#define DIRTY_SLOT	1

#if defined(__x86_64__)

/* An x86 CPU begins 16 bytes below 4 GiB. */
#define RESET_PAGE	0xfffff000
#define RESET_OFFSET	0xff0
#define DIRTY_START	0
/* One page is 0x100 in a segment register: "mov ds, ax; inc [0]; add ax, 0x100", again. */
static const char write_pages[] = "\x8e\xd8\xfe\x06\x00\x00\x05\x00\x01\xeb\xf5";

/* Back by 126 "nop", for which an emulator needs less time than for the jump. */
static void write_spin(char *code)
{
	memset(code, 0x90, RESET_OFFSET);
	memcpy(code + RESET_OFFSET, "\xeb\x80", 2);
}

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

/* An arm64 CPU of KVM's begins at 0. */
#define RESET_PAGE	0
#define RESET_OFFSET	0
#define DIRTY_START	0x100000
/* "mov x0, 0x100000", then "str w0, [x0]; add x0, x0, 0x1000; tbz w0, 21", again. */
static const char write_pages[] = "\x00\x02\xa0\xd2\x00\x00\x00\xb9\x00\x04\x40\x91"
	"\xc0\xff\xaf\x36\xfc\xff\xff\x17";

/* 126 "nop", then back. */
static void write_spin(char *code)
{
	uint32_t *insns = (uint32_t *)code;
	int i;

	for (i = 0; i < 126; i++)
		insns[i] = 0xd503201f;
	insns[i] = 0x17ffff82;
}

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

/* Threads of vCPUs; all end for a reboot. */
#define VCPUS_MAX	64
static pthread_t vcpus[VCPUS_MAX];
static int nr_vcpus;
static atomic_bool ends;

static void *run(void *arg)
{
	int vcpu = (intptr_t)arg;

	while (!ends) {
		if (!ioctl(vcpu, KVM_RUN, 0) || errno != EINTR)
			err(1, "KVM_RUN returned");
	}
	close(vcpu);
	return NULL;
}

static void create_vcpu(int vm, const char *arg)
{
	unsigned long id;
	pthread_t thread;
	char *what;
	int vcpu;

	id = strtoul(arg, &what, 10);
	vcpu = ioctl(vm, KVM_CREATE_VCPU, id);
	if (vcpu < 0)
		err(1, "KVM_CREATE_VCPU");
	init_vcpu(vm, vcpu, *what == 'i');
	if (pthread_create(&thread, NULL, run, (void *)(intptr_t)vcpu))
		errx(1, "no thread");
	if (nr_vcpus < VCPUS_MAX)
		vcpus[nr_vcpus++] = thread;
}

static void nothing(int signal)
{
	(void)signal;
}

/* One that isn't in KVM_RUN yet misses the first signals. */
static void end_vcpus(void)
{
	ends = true;
	for (; nr_vcpus; nr_vcpus--) {
		while (pthread_tryjoin_np(vcpus[nr_vcpus - 1], NULL)) {
			pthread_kill(vcpus[nr_vcpus - 1], SIGUSR2);
			usleep(1000);
		}
	}
	ends = false;
}

static void *allocate(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);

	if (memory == MAP_FAILED)
		err(1, "mmap");
	return memory;
}

static void add_memory(int vm, uint32_t slot, uint32_t flags, uint64_t start, size_t size,
		       void *memory)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = start,
		.memory_size = size,
		.userspace_addr = (uintptr_t)memory,
	};

	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		err(1, "KVM_SET_USER_MEMORY_REGION");
}

static int create_vm(int kvm, void *code, bool log)
{
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);

	if (vm < 0)
		err(1, "KVM_CREATE_VM");
	add_memory(vm, 0, 0, RESET_PAGE, PAGE, code);
	add_memory(vm, DIRTY_SLOT, log ? KVM_MEM_LOG_DIRTY_PAGES : 0, DIRTY_START, DIRTY_SIZE,
		   allocate(DIRTY_SIZE));
	create_irqchip(vm);
	return vm;
}

/* The throttle fd stays open. */
static void throttle_vm(int vm, unsigned int percent)
{
	struct kvm_throttle_attach attach = { .vm_fd = vm };
	struct kvm_throttle set = { .percent_x100 = 100 * percent };
	int device = open("/dev/kvm_throttle", O_RDWR | O_CLOEXEC);
	int fd = ioctl(device, KVM_THROTTLE_ATTACH, &attach);

	if (fd < 0 || ioctl(fd, KVM_SET_THROTTLE, &set))
		err(1, "/dev/kvm_throttle");
	close(device);
}

/* How many pages have been dirtied since the last time? */
static int read_log(int vm)
{
	uint64_t bits[DIRTY_SIZE / PAGE / 64] = { 0 };
	struct kvm_dirty_log log = { .slot = DIRTY_SLOT, .dirty_bitmap = bits };
	int pages = 0;

	if (ioctl(vm, KVM_GET_DIRTY_LOG, &log))
		err(1, "KVM_GET_DIRTY_LOG");
	for (size_t i = 0; i < sizeof(bits) / sizeof(*bits); i++)
		pages += __builtin_popcountll(bits[i]);
	return pages;
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path))
		errx(2, "%s: too long", path);
	memcpy(address.sun_path, path, strlen(path));
	if (server < 0 || bind(server, (struct sockaddr *)&address, sizeof(address)) ||
	    listen(server, 1))
		err(1, "%s", path);
	return server;
}

static _Noreturn void serve_log(int server, int vm)
{
	for (;;) {
		int client = accept(server, NULL, NULL);

		if (client < 0)
			err(1, "accept");
		dprintf(client, "%d\n", read_log(vm));
		close(client);
	}
}

/* Do the vCPUs write? */
static bool do_write(char **args)
{
	for (; *args && **args != '-'; args++) {
		if (strchr(*args, 'w'))
			return true;
	}
	return false;
}

/**
 * struct options - the command line
 * @nr: how many VMs
 * @ids: what is said of their vCPUs; the last is NULL or begins with "-"
 * @code: what they run
 * @log: KVM logs what they dirty
 * @percent: by how much they are throttled, 0 if not
 */
struct options {
	int nr;
	char **ids;
	char *code;
	bool log;
	unsigned int percent;
};

static int create_throttled_vm(int kvm, const struct options *o)
{
	int vm = create_vm(kvm, o->code, o->log);

	printf("%d ", vm);
	for (char **id = o->ids; *id && **id != '-'; id++)
		create_vcpu(vm, *id);
	if (o->percent)
		throttle_vm(vm, o->percent);
	return vm;
}

/* Returns the last VM; @copy is of that. */
static int create_vms(int kvm, const struct options *o, int *copy)
{
	int vm = create_throttled_vm(kvm, o);

	for (int i = 1; i < o->nr; i++)
		vm = create_throttled_vm(kvm, o);
	*copy = dup(vm);
	if (*copy < 0)
		err(1, "dup");
	printf("%d\n", *copy);
	fflush(stdout);
	return vm;
}

int main(int argc, char **argv)
{
	struct options o = { .nr = argc < 3 ? 0 : atoi(argv[1]), .ids = argv + 2 };
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int copy, vm, signal, server = -1;
	struct sigaction kick = { .sa_handler = nothing };
	sigset_t reboot;

	if (kvm < 0)
		err(1, "/dev/kvm");
	if (o.nr < 1)
		errx(2, "how many VMs, with which vCPUs?");
	o.code = allocate(PAGE);
	if (do_write(o.ids))
		memcpy(o.code + RESET_OFFSET, write_pages, sizeof(write_pages));
	else
		write_spin(o.code);
	for (int i = 2; i < argc - 1; i++) {
		if (!strcmp(argv[i], "-log"))
			server = listen_at(argv[i + 1]);
		if (!strcmp(argv[i], "-throttle"))
			o.percent = atoi(argv[i + 1]);
	}
	o.log = server >= 0;
	sigaction(SIGUSR2, &kick, NULL);
	sigemptyset(&reboot);
	sigaddset(&reboot, SIGUSR1);
	sigprocmask(SIG_BLOCK, &reboot, NULL);

	vm = create_vms(kvm, &o, &copy);
	if (server >= 0)
		serve_log(server, vm);
	while (!sigwait(&reboot, &signal)) {
		end_vcpus();
		close(vm);
		close(copy);
		vm = create_vms(kvm, &o, &copy);
	}
	return 1;
}
