// SPDX-License-Identifier: GPL-2.0
/*
 * Is a guest slowed down by the right percentage whatever it does when a window ends?
 *
 * Each guest here is in a mode of the CPU, or uses a feature of KVM, that the other
 * tests' guests don't use.  It counts its work in its memory.  How much slower that count
 * grows than at full speed is the actual throttle.
 *
 * While a throttle is in force, each entry into the guest takes some instructions more.
 * Guests that do little but leave guest mode are slowed down by that too.  So their full
 * speed is measured with a throttle of next to nothing.  How much it is below that without
 * a throttle, a test of its own judges.
 *
 * Some wait for something: an interrupt, a page of memory.  What they wait for goes on
 * in a sleep window, as a disk would.  So of each sleep window, they lose less by up to
 * one such wait.  The table of the guests has how much that may be.
 *
 * It needs a machine whose virtual time is exact (KVM_THROTTLE_EXACT).
 */
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <linux/userfaultfd.h>
#include <asm/barrier.h>

#include "guest_arch.h"
#include "kselftest.h"
#include "throttle_util.h"

#define MEASURE_NS	(1000 * MS)

/* As good as full speed, with all that a throttle takes. */
#define NEXT_TO_NOTHING	1

static const u32 targets[] = { 2000, 5000, 8000, 9900 };

/* What the guest's code counts in; the test has its address in guest::count. */
static u32 guest_count;

/**
 * struct mode_guest - a VM with one vCPU
 * @vm: the VM
 * @vcpu: its vCPU
 * @count: where the guest counts what it has done
 * @thread: runs the vCPU
 * @helper: serves what the guest waits for, if anything
 * @uffd: the pages that it waits for
 * @memory: where the host sees those
 * @ring: the vCPU's dirty ring
 * @fetch: the next entry of that
 * @ending: the threads are to end
 */
struct mode_guest {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	volatile u32 *count;
	pthread_t thread;
	pthread_t helper;
	int uffd;
	char *memory;
	struct kvm_dirty_gfn *ring;
	u32 fetch;
	volatile bool ending;
};

/* A region of memory beside the test's own. */
#define AREA_SLOT	10
#define AREA_GPA	0x10000000
#define AREA_PAGES	2048

static void add_area(struct mode_guest *g, u32 slot, u32 flags)
{
	vm_userspace_mem_region_add(g->vm, VM_MEM_SRC_ANONYMOUS, AREA_GPA, slot,
				    AREA_PAGES, flags);
	virt_map(g->vm, AREA_GPA, AREA_GPA, AREA_PAGES);
	g->memory = addr_gpa2hva(g->vm, AREA_GPA);
}

static void create(struct mode_guest *g, void *code)
{
	g->vm = vm_create_with_one_vcpu(&g->vcpu, code);
	g->count = addr_gva2hva(g->vm, (uintptr_t)&guest_count);
}

static void count(void)
{
	WRITE_ONCE(guest_count, guest_count + 1);
}

/* --- dirties memory until the ring of what it has dirtied is full ---------------- */

#define RING_ENTRIES	1024

static void dirty_code(void)
{
	u64 page;

	for (;;) {
		for (page = 0; page < AREA_PAGES; page++) {
			WRITE_ONCE(*(u32 *)(AREA_GPA + page * 4096), page);
			count();
		}
	}
}

static void create_dirty_ring(struct mode_guest *g)
{
	g->vm = vm_create(1);
	vm_enable_dirty_ring(g->vm, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
	g->vcpu = vm_vcpu_add(g->vm, 0, dirty_code);
	g->count = addr_gva2hva(g->vm, (uintptr_t)&guest_count);
	add_area(g, AREA_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	g->ring = vcpu_map_dirty_ring(g->vcpu);
	g->fetch = 0;
}

static void empty_ring(struct mode_guest *g)
{
	struct kvm_dirty_gfn *dirty;

	for (;;) {
		dirty = &g->ring[g->fetch % RING_ENTRIES];
		/* KVM fills in the rest before. */
		if (!(smp_load_acquire(&dirty->flags) & KVM_DIRTY_GFN_F_DIRTY))
			break;
		/* It has been seen before KVM uses it again. */
		smp_store_release(&dirty->flags, KVM_DIRTY_GFN_F_RESET);
		g->fetch++;
	}
	kvm_vm_reset_dirty_ring(g->vm);
}

/* --- waits for memory ------------------------------------------------------------ */

static void fault_code(void)
{
	u64 page;

	for (;;) {
		for (page = 0; page < AREA_PAGES; page++) {
			READ_ONCE(*(u32 *)(AREA_GPA + page * 4096));
			count();
		}
	}
}

/* Brings a page some time after it was asked for, and takes away an older one. */
static void *bring_pages(void *arg)
{
	struct mode_guest *g = arg;
	struct pollfd pollfd = { .fd = g->uffd, .events = POLLIN };
	struct uffdio_zeropage zero;
	struct uffd_msg msg;
	u64 at, old;

	be_on_time();
	while (!g->ending) {
		if (poll(&pollfd, 1, 10) <= 0 || read(g->uffd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		sleep_ns(MS / 10);
		at = msg.arg.pagefault.address & ~4095ULL;
		zero = (struct uffdio_zeropage) { .range = { at, 4096 } };
		TEST_ASSERT(!ioctl(g->uffd, UFFDIO_ZEROPAGE, &zero), "UFFDIO_ZEROPAGE: errno %d",
			    errno);
		old = (at - (uintptr_t)g->memory) / 4096 + AREA_PAGES / 2;
		madvise(g->memory + old % AREA_PAGES * 4096, 4096, MADV_DONTNEED);
	}
	return NULL;
}

static void create_faults(struct mode_guest *g)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range;

	create(g, fault_code);
	add_area(g, AREA_SLOT, 0);
	madvise(g->memory, AREA_PAGES * 4096, MADV_NOHUGEPAGE);
	g->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	TEST_ASSERT(g->uffd >= 0 && !ioctl(g->uffd, UFFDIO_API, &api), "userfaultfd: errno %d",
		    errno);
	range = (struct uffdio_register) {
		.range = { (uintptr_t)g->memory, AREA_PAGES * 4096 },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	TEST_ASSERT(!ioctl(g->uffd, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER: errno %d", errno);
	TEST_ASSERT(!pthread_create(&g->helper, NULL, bring_pages, g), "pthread_create");
}

/* --- x86's ------------------------------------------------------------------------ */

#if defined(__x86_64__)
#include "svm_util.h"
#include "vmx.h"

/* As tables have them, of both vendors. */
#define SEGMENT_CODE	0xb
#define SEGMENT_DATA	0x3

#define REAL_BASE	0x10000
/* In a page without code, whose writes an emulator would have to watch. */
#define REAL_COUNT	0x1000

/* In 16-bit code: 1: incl REAL_COUNT; jmp 1b */
static const u8 real_code[] = { 0x66, 0xff, 0x06, 0x00, 0x10, 0xeb, 0xf9 };

static struct kvm_segment real_segment(u8 type)
{
	return (struct kvm_segment) {
		.base = REAL_BASE,
		.limit = 0xffff,
		.selector = REAL_BASE >> 4,
		.type = type,
		.present = 1,
		.s = 1,
	};
}

static void create_real_mode(struct mode_guest *g)
{
	struct kvm_regs regs = { .rflags = 2 };
	struct kvm_sregs sregs;

	create(g, NULL);
	memcpy(addr_gpa2hva(g->vm, REAL_BASE), real_code, sizeof(real_code));
	vcpu_sregs_get(g->vcpu, &sregs);
	sregs.cs = real_segment(SEGMENT_CODE);
	sregs.ds = real_segment(SEGMENT_DATA);
	sregs.es = sregs.ds;
	sregs.fs = sregs.ds;
	sregs.gs = sregs.ds;
	sregs.ss = sregs.ds;
	sregs.cr0 = 0x60000010;
	sregs.cr4 = 0;
	sregs.efer = 0;
	vcpu_sregs_set(g->vcpu, &sregs);
	vcpu_regs_set(g->vcpu, &regs);
	g->count = addr_gpa2hva(g->vm, REAL_BASE + REAL_COUNT);
	*g->count = 0;
}

/* Where KVM enters it, and what it counts in. */
#define SMI_HANDLER	0x8000
#define SMI_COUNT	0x1000

/* AREA_SLOT in an address space of its own, which is what a CPU in SMM sees. */
#define SMM_SLOT	0x1000a

/* In 16-bit code: 1: addr32 incl AREA_GPA + SMI_COUNT; jmp 1b */
static const u8 smi_code[] = { 0x67, 0x66, 0xff, 0x05, 0x00, 0x10, 0x00, 0x10, 0xeb, 0xf6 };

static void spin(void)
{
	for (;;)
		barrier();
}

static void create_smm(struct mode_guest *g)
{
	struct kvm_vcpu_events events;

	create(g, spin);
	add_area(g, SMM_SLOT, 0);
	memcpy(g->memory + SMI_HANDLER, smi_code, sizeof(smi_code));
	vcpu_set_msr(g->vcpu, MSR_IA32_SMBASE, AREA_GPA);
	vcpu_events_get(g->vcpu, &events);
	events.smi.pending = 1;
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	vcpu_events_set(g->vcpu, &events);
	g->count = (u32 *)(g->memory + SMI_COUNT);
}

#define WAKE_NS		150000

/* Halts for so short that KVM polls for the interrupt. */
static void halt_code(void)
{
	guest_timer_init();
	for (;;) {
		guest_timer_start(WAKE_NS);
		guest_wait();
		count();
	}
}

static void create_halt_poll(struct mode_guest *g)
{
	create(g, halt_code);
	guest_install_wake(g->vm, &g->vcpu, 1);
	vm_enable_cap(g->vm, KVM_CAP_HALT_POLL, 2 * WAKE_NS / 1000);
}

static void l2_code(void)
{
	for (;;)
		count();
}

#define L2_STACK	64

static void l1_svm_code(struct svm_test_data *svm)
{
	unsigned long stack[L2_STACK];

	generic_svm_setup(svm, l2_code, &stack[L2_STACK]);
	for (;;)
		run_guest(svm->vmcb, svm->vmcb_gpa);
}

static void l1_vmx_code(struct vmx_pages *vmx)
{
	unsigned long stack[L2_STACK];

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_code, &stack[L2_STACK]);
	GUEST_ASSERT(!vmlaunch());
	for (;;)
		GUEST_ASSERT(!vmresume());
}

static void create_nested(struct mode_guest *g)
{
	bool svm = kvm_cpu_has(X86_FEATURE_SVM);
	gva_t data;

	create(g, svm ? (void *)l1_svm_code : (void *)l1_vmx_code);
	if (svm)
		vcpu_alloc_svm(g->vm, &data);
	else
		vcpu_alloc_vmx(g->vm, &data);
	vcpu_args_set(g->vcpu, 1, data);
}

static bool has_nested(void)
{
	return kvm_cpu_has(X86_FEATURE_SVM) || kvm_cpu_has(X86_FEATURE_VMX);
}

static bool has_smm(void)
{
	return kvm_has_cap(KVM_CAP_X86_SMM);
}
#endif

/* --- the test --------------------------------------------------------------------- */

static bool has_dirty_ring(void)
{
	return kvm_has_cap(KVM_CAP_DIRTY_LOG_RING) || kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
}

/**
 * struct mode - a kind of guest
 * @name: for the reader
 * @create: makes the VM
 * @has: can this machine do that?  NULL: always
 * @entries: how much of its speed it may lose while entries are seen, in percent
 * @points: how far the actual throttle may be from the target, in percentage points
 * @wait_ns: what it may wait for in a sleep window, at most
 * @pml_ns: what KVM has to do then on a CPU with PML, at most: to read a list of 512 pages
 */
struct mode {
	const char *name;
	void (*create)(struct mode_guest *g);
	bool (*has)(void);
	double entries;
	double points;
	u64 wait_ns;
	u64 pml_ns;
};

static const struct mode modes[] = {
	{ "a dirty ring that gets full", create_dirty_ring, has_dirty_ring, 3, 0.2, 0, 300000 },
	{ "waits for memory (userfaultfd)", create_faults, NULL, 1, 0.2, MS / 5, 0 },
#if defined(__x86_64__)
	{ "real mode", create_real_mode, NULL, 0.1, 0.1, 0, 0 },
	{ "SMM", create_smm, has_smm, 0.1, 0.1, 0, 0 },
	{ "halts, KVM polls", create_halt_poll, NULL, 0.3, 0.2, 2 * WAKE_NS, 0 },
	{ "a nested guest", create_nested, has_nested, 0.1, 0.1, 0, 0 },
#endif
};

static void *run(void *arg)
{
	struct mode_guest *g = arg;
	struct kvm_run *run = g->vcpu->run;

	while (!g->ending) {
		if (__vcpu_run(g->vcpu)) {
			TEST_ASSERT(errno == EINTR, "KVM_RUN: errno %d", errno);
			continue;
		}
		TEST_ASSERT(run->exit_reason == KVM_EXIT_DIRTY_RING_FULL, "exit reason %u",
			    run->exit_reason);
		empty_ring(g);
	}
	return NULL;
}

static void stop_signal(int sig)
{
}

static void start(struct mode_guest *g, const struct mode *mode)
{
	struct sigaction action = { .sa_handler = stop_signal };

	sigaction(SIGUSR1, &action, NULL);
	*g = (struct mode_guest) { .uffd = -1 };
	mode->create(g);
	TEST_ASSERT(!pthread_create(&g->thread, NULL, run, g), "pthread_create");
}

static void end(struct mode_guest *g)
{
	g->ending = true;
	g->vcpu->run->immediate_exit = 1;
	pthread_kill(g->thread, SIGUSR1);
	pthread_join(g->thread, NULL);
	if (g->uffd >= 0) {
		pthread_join(g->helper, NULL);
		close(g->uffd);
	}
	kvm_vm_free(g->vm);
}

/* Counts a second, over whole periods. */
static double speed(struct mode_guest *g, u64 period_ns)
{
	u64 ns = (MEASURE_NS + period_ns - 1) / period_ns * period_ns, start;
	u32 before;

	sleep_ns(MEASURE_NS / 10);
	before = *g->count;
	start = now_ns();
	sleep_until_ns(start + ns);
	return (*g->count - before) * 1e9 / (now_ns() - start);
}

static void set(int fd, u32 percent_x100)
{
	TEST_ASSERT(!throttle_set(fd, percent_x100, 0), "KVM_SET_THROTTLE");
}

/* Return: the speed while a throttle is in force that takes next to nothing. */
static double measure_full(const struct mode *mode, struct mode_guest *g, int fd)
{
	double alone = speed(g, 1), full, percent;

	set(fd, NEXT_TO_NOTHING);
	full = speed(g, 1);
	percent = 100 - 100 * full / alone;
	ksft_test_result(alone > 0 && fabs(percent) <= mode->entries,
			 "%s: %.0f a second, %.3f %% less while entries are seen, of %.1f\n",
			 mode->name, alone, percent, mode->entries);
	return full;
}

static void measure(const struct mode *mode)
{
	u64 wait_ns = mode->wait_ns + (host_has_pml() ? mode->pml_ns : 0);
	double full, actual, target, least, most;
	struct mode_guest g;
	u64 period_ns;
	int fd, i;

	start(&g, mode);
	fd = throttle_attach(g.vm->fd);
	TEST_ASSERT(fd >= 0, "KVM_THROTTLE_ATTACH: %d", fd);
	full = measure_full(mode, &g, fd);
	for (i = 0; i < ARRAY_SIZE(targets); i++) {
		set(fd, targets[i]);
		throttle_get(fd, NULL, 0, &period_ns);
		actual = 100 - 100 * speed(&g, period_ns) / full;
		target = targets[i] / 100.0;
		most = target + mode->points;
		least = target - mode->points - 100.0 * wait_ns / period_ns;
		ksft_test_result(full > 0 && actual >= least && actual <= most,
				 "%s, target %.2f: actual %.3f, of %.3f to %.3f\n", mode->name,
				 target, actual, least, most);
	}
	close(fd);
	end(&g);
}

int main(void)
{
	const char *missing = throttle_missing();
	int i, k;

	ksft_print_header();
	if (missing)
		ksft_exit_skip("%s\n", missing);
	if (!throttle_exact())
		ksft_exit_skip("needs exact time (KVM_THROTTLE_EXACT)\n");
	ksft_set_plan(ARRAY_SIZE(modes) * (ARRAY_SIZE(targets) + 1));
	be_on_time();
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		if (!modes[i].has || modes[i].has()) {
			measure(&modes[i]);
			continue;
		}
		for (k = 0; k <= ARRAY_SIZE(targets); k++)
			ksft_test_result_skip("%s\n", modes[i].name);
	}
	ksft_finished();
}
