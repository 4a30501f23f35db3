// SPDX-License-Identifier: GPL-2.0
/*
 * Stress and fuzz: everything at the same time, and nothing must be left of it.
 *
 *	fuzz_test [SECONDS [SEED]]
 *
 * Processes play VMMs.  In each, threads create, run, extend, pause and destroy
 * VMs, and try right, almost right and wrong ioctls on any fd that they can get
 * hold of: their own, a neighbour's, copies, ones that came through a socket.
 * Meanwhile other actors send signals to those processes, stop, kill and debug
 * them; freeze them and limit their CPU time; take CPUs away; and unload the
 * module.
 *
 * The operations of an actor and their arguments follow from the seed; how the
 * actors are interleaved doesn't, but in the deterministic VM.  The time is
 * that of CLOCK_MONOTONIC.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "kselftest.h"
#include "throttle_util.h"

/* Less than the 45 s that kselftest's runner allows a test. */
#define SECONDS_DEFAULT	20

#define NR_WORKERS	3
/* A thread for each; every one has a VM of its own. */
#define NR_ACTORS	2
#define NR_VCPUS	3
#define NR_FOREIGN	4

#define CGROUP_ROOT	"/sys/fs/cgroup/"
#define CGROUP		CGROUP_ROOT "kvm_throttle_fuzz"
#define CGROUP_LIMITED	CGROUP_ROOT "kvm_throttle_fuzz_limited"
#define CPU_ONLINE	"/sys/devices/system/cpu/cpu1/online"

/* What else may be going on in the machine that has to do with open files. */
#define FILES_SLACK	200
/* Tasks that are free but not counted so: slabs that a CPU keeps. */
#define TASKS_SLACK	300

enum kind {
	ATTACH,
	SET,
	GET,
	BAD_SET,
	BAD_GET,
	BAD_ATTACH,
	BAD_COMMAND,
	BAD_POINTER,
	POLL,
	DUP,
	SEND,
	RECEIVE,
	CLOSE,
	FORK,
	CREATE,
	ADD_VCPU,
	PAUSE,
	MOVE,
	DESTROY,
	SIGNAL,
	STOP,
	CONT,
	KILL,
	DEBUG,
	FREEZE,
	CPU_MAX,
	CPU_HOTPLUG,
	UNLOAD,
	NR_KINDS
};

static const char * const kind_text[] = {
	[ATTACH] = "attach",
	[SET] = "set",
	[GET] = "get",
	[BAD_SET] = "set, mutated",
	[BAD_GET] = "get, mutated",
	[BAD_ATTACH] = "attach, mutated",
	[BAD_COMMAND] = "unknown command",
	[BAD_POINTER] = "bad pointer",
	[POLL] = "poll",
	[DUP] = "dup",
	[SEND] = "send fd",
	[RECEIVE] = "receive fd",
	[CLOSE] = "close",
	[FORK] = "fork",
	[CREATE] = "create VM",
	[ADD_VCPU] = "add vCPU",
	[PAUSE] = "pause vCPU",
	[MOVE] = "move vCPU to a new thread",
	[DESTROY] = "destroy VM",
	[SIGNAL] = "signal",
	[STOP] = "SIGSTOP",
	[CONT] = "SIGCONT",
	[KILL] = "SIGKILL",
	[DEBUG] = "debugger",
	[FREEZE] = "freeze or thaw",
	[CPU_MAX] = "cpu.max",
	[CPU_HOTPLUG] = "CPU offline or online",
	[UNLOAD] = "unload the module",
};

/**
 * struct vm - the VM of an actor, as other processes see it
 * @fd: the VM, -1 if there is none
 * @throttle: its throttle fd, or -1
 * @throttled: that has set a percentage other than 0
 * @tids: the vCPUs' threads, 0 if there is none
 */
struct vm {
	int fd;
	int throttle;
	int throttled;
	pid_t tids[NR_VCPUS];
};

/**
 * struct shared - what all processes share
 * @stop: it is over
 * @quiet: let go of everything that keeps the module
 * @tried: operations of each kind
 * @done: of those, how many succeeded
 * @destroyed: VMs that were destroyed while throttled
 * @wrong: operations with an outcome that must not be
 * @worker: process of each VMM
 * @vms: their VMs
 */
struct shared {
	volatile int stop;
	volatile int quiet;
	u64 tried[NR_KINDS];
	u64 done[NR_KINDS];
	u64 destroyed;
	u64 wrong;
	volatile pid_t worker[NR_WORKERS];
	struct vm vms[NR_WORKERS][NR_ACTORS];
};

static struct shared *shared;
static u64 seed;

/* The VM that outlives all, in the main process. */
static struct guest survivor;

/* Nobody waits here: what isn't fetched is dropped at the end. */
static int mail[2];

/* --- operations ------------------------------------------------------------- */

/* An actor's operations; the generator is Steele and others' SplitMix64. */
struct actor {
	u64 random;
	int worker;
	int index;
	int device;
};

static u64 draw(struct actor *a)
{
	u64 z = a->random += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static struct actor actor_init(int worker, int index, int generation)
{
	struct actor a = { .worker = worker, .index = index, .device = -1 };

	a.random = seed ^ (u64)(generation * NR_WORKERS + worker) << 8 ^ index;
	a.random = draw(&a);
	return a;
}

static void count(enum kind kind, bool done)
{
	__atomic_fetch_add(&shared->tried[kind], 1, __ATOMIC_RELAXED);
	if (done)
		__atomic_fetch_add(&shared->done[kind], 1, __ATOMIC_RELAXED);
}

/* The operation has ended with @r, 0 or above, or -1 and errno. */
static void outcome(enum kind kind, long r, bool may_succeed)
{
	static const int allowed[] = {
		EBADF, EINVAL, EFAULT, ENOTTY, ENOENT, ESRCH, EBUSY, EMFILE,
		EIO, EAGAIN, EWOULDBLOCK, EEXIST, EINTR, ENXIO, EPERM, EOPNOTSUPP,
	};
	int error = errno, i;

	count(kind, r >= 0);
	if (r >= 0) {
		if (may_succeed)
			return;
		error = 0;
	}
	for (i = 0; error && i < ARRAY_SIZE(allowed); i++) {
		if (error == allowed[i])
			return;
	}
	if (__atomic_fetch_add(&shared->wrong, 1, __ATOMIC_RELAXED) < 10)
		ksft_print_msg("%s: %s\n", kind_text[kind],
			       error ? strerror(error) : "succeeded");
}

static void start_process(void)
{
	/* Nobody outlives the test. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == 1)
		_exit(0);
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, text, strlen(text)) == strlen(text);
	close(fd);
	return ok;
}

static bool have_cgroup, have_cpu_max, have_cpu, have_rate;

/*
 * The kernel patches the scheduler when the first CPU limit comes and when the last
 * one goes.  Emulators may fail at that while all is busy.  So one limit is always there.
 */
static void create_cgroups(void)
{
	have_cpu = !access(CPU_ONLINE, W_OK);
	write_file(CGROUP_ROOT "cgroup.subtree_control", "+cpu");
	have_cgroup = !mkdir(CGROUP, 0755) || errno == EEXIST;
	have_cgroup = have_cgroup && write_file(CGROUP "/cgroup.freeze", "0");
	have_cpu_max = !mkdir(CGROUP_LIMITED, 0755) || errno == EEXIST;
	have_cpu_max = have_cpu_max && have_cgroup &&
		       write_file(CGROUP_LIMITED "/cpu.max", "10000 100000");
}

static bool remove_cgroups(void)
{
	int i;

	for (i = 0; have_cgroup && rmdir(CGROUP) && i < 500; i++)
		usleep(10000);
	rmdir(CGROUP_LIMITED);
	return !have_cgroup || access(CGROUP, F_OK);
}

/* Has the kernel ftrace with arguments? */
static bool can_limit_rate(int vm_fd)
{
	int fd = throttle_attach(vm_fd);
	bool can = !throttle_set_dirty(fd, 0, KVM_THROTTLE_DIRTY_RATE_MAX);

	close(fd);
	return can;
}

static void reset_host(void)
{
	write_file(CGROUP "/cgroup.freeze", "0");
	write_file(CGROUP "/cpu.max", "max");
	if (have_cpu)
		write_file(CPU_ONLINE, "1");
}

/* --- a VMM: its VM ---------------------------------------------------------- */

/**
 * struct vcpu - a vCPU of a VMM
 * @fd: the vCPU, -1 if there is none
 * @run: shared with KVM
 * @thread: the thread
 * @tid: where to tell its id
 * @stop: end the thread
 * @paused: stay outside KVM_RUN
 */
struct vcpu {
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	volatile pid_t *tid;
	volatile bool stop;
	volatile bool paused;
};

/* Those of a process. */
static struct vcpu vcpus[NR_ACTORS][NR_VCPUS];
static int foreign[NR_FOREIGN];

/*
 * The reset vector, where a vCPU starts: spin, halt, or exit again and again; or write to
 * the page that it is in.
 */
static const char guests[][8] = {
	"\xeb\xfe", "\xf4\xeb\xfd", "\xe6\x10\xeb\xfc", "\x2e\xff\x06\x00\xf0\xeb\xf9",
};

#define GUEST_PAGE	0xfffff000ULL
#define GUEST_START	0xff0
static char *guest_pages[ARRAY_SIZE(guests)];

static void *run_vcpu(void *arg)
{
	struct vcpu *v = arg;

	*v->tid = syscall(SYS_gettid);
	/* The actors shall get most of the CPU. */
	setpriority(PRIO_PROCESS, *v->tid, 10);
	while (!v->stop) {
		if (v->paused || ioctl(v->fd, KVM_RUN, 0) ||
		    v->run->exit_reason != KVM_EXIT_IO)
			usleep(1000);
	}
	*v->tid = 0;
	return NULL;
}

static void start_vcpu(struct vcpu *v)
{
	v->stop = false;
	v->run->immediate_exit = v->paused;
	TEST_ASSERT(!pthread_create(&v->thread, NULL, run_vcpu, v), "pthread_create");
}

/* Ends KVM_RUN, the thread comes round to its loop. */
static void kick_vcpu(struct vcpu *v)
{
	v->run->immediate_exit = 1;
	pthread_kill(v->thread, SIGUSR1);
}

static void stop_vcpu(struct vcpu *v)
{
	v->stop = true;
	kick_vcpu(v);
	pthread_join(v->thread, NULL);
}

static int create_vcpu(struct actor *a, struct vm *vm, int i, u64 id)
{
	struct kvm_mp_state runnable = { KVM_MP_STATE_RUNNABLE };
	struct vcpu *v = &vcpus[a->index][i];
	int fd;

	fd = ioctl(vm->fd, KVM_CREATE_VCPU, id);
	if (fd < 0)
		return -1;
	ioctl(fd, KVM_SET_MP_STATE, &runnable);
	v->run = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	TEST_ASSERT(v->run != MAP_FAILED, "mmap of a vCPU");
	v->tid = &vm->tids[i];
	v->paused = false;
	v->fd = fd;
	start_vcpu(v);
	return fd;
}

static int create_vm(struct actor *a, struct vm *vm, u64 x)
{
	/* Few exits, which take long in an emulated machine. */
	static const int kinds[] = { 0, 0, 0, 3, 3, 1, 1, 2 };
	struct kvm_userspace_memory_region memory = {
		.flags = kinds[x % 8] == 3 ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = GUEST_PAGE,
		.memory_size = 0x1000,
		.userspace_addr = (uintptr_t)guest_pages[kinds[x % 8]],
	};
	int kvm, fd;

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	fd = ioctl(kvm, KVM_CREATE_VM, 0);
	close(kvm);
	if (fd < 0)
		return -1;
	ioctl(fd, KVM_SET_USER_MEMORY_REGION, &memory);
	if (x & 256)
		ioctl(fd, KVM_CREATE_IRQCHIP);
	vm->fd = fd;
	return create_vcpu(a, vm, 0, 0);
}

/* Nobody else closes what is taken away like this. */
static bool take_and_close(int *fd)
{
	int taken = __atomic_exchange_n(fd, -1, __ATOMIC_SEQ_CST);

	return taken >= 0 && !close(taken);
}

/* Puts an fd into a place, and closes what was there. */
static void keep(int *place, int fd)
{
	int old;

	if (fd < 0)
		return;
	old = __atomic_exchange_n(place, fd, __ATOMIC_SEQ_CST);
	if (old >= 0)
		close(old);
}

static void close_throttle(struct vm *vm)
{
	__atomic_store_n(&vm->throttled, 0, __ATOMIC_SEQ_CST);
	take_and_close(&vm->throttle);
}

static void count_destroyed(struct vm *vm)
{
	if (__atomic_exchange_n(&vm->throttled, 0, __ATOMIC_SEQ_CST))
		__atomic_fetch_add(&shared->destroyed, 1, __ATOMIC_RELAXED);
}

static void destroy_vcpu(struct vcpu *v)
{
	if (v->fd < 0)
		return;
	stop_vcpu(v);
	munmap(v->run, getpagesize());
	take_and_close(&v->fd);
}

/* Takes the VM apart in the order that @x says. */
static void destroy_vm(struct actor *a, struct vm *vm, u64 x)
{
	int i, part, parts = NR_VCPUS + 1;

	/* The throttle first, or after all else. */
	if (!(x & 3))
		close_throttle(vm);
	x >>= 2;
	for (i = 0; i < parts; i++) {
		part = (x + i) % parts;
		if (part < NR_VCPUS)
			destroy_vcpu(&vcpus[a->index][part]);
		else
			take_and_close(&vm->fd);
	}
	count_destroyed(vm);
	/* It may be kept for the next VM to meet. */
	if (x & 64)
		keep(&foreign[x % NR_FOREIGN],
		     __atomic_exchange_n(&vm->throttle, -1, __ATOMIC_SEQ_CST));
	else
		close_throttle(vm);
}

/* --- a VMM: ioctls ---------------------------------------------------------- */

static u64 nearly(u64 x)
{
	static const u64 edges[] = {
		0, 1, KVM_THROTTLE_PERCENT_MAX, KVM_THROTTLE_PERCENT_MAX + 1,
		KVM_THROTTLE_PERIOD_MIN_NS - 1, KVM_THROTTLE_PERIOD_MIN_NS,
		KVM_THROTTLE_PERIOD_MAX_NS, KVM_THROTTLE_PERIOD_MAX_NS + 1,
		~0U, 1U << 31, 1ULL << 63, ~0ULL,
	};

	return x & 1 ? x >> 1 : edges[(x >> 1) % ARRAY_SIZE(edges)];
}

/* Puts something else into an aligned piece of an argument. */
static void mutate(void *arg, size_t size, u64 x, u64 y)
{
	u64 value = nearly(y);

	if (x & 1)
		memcpy(arg + (x >> 1) % (size / 8) * 8, &value, 8);
	else
		memcpy(arg + (x >> 1) % (size / 4) * 4, &value, 4);
}

static bool all_zero(const void *p, size_t size)
{
	const char *c = p;

	while (size && !*c)
		c++, size--;
	return !size;
}

static bool set_is_valid(const struct kvm_throttle *set)
{
	return !(set->flags & ~KVM_THROTTLE_VCPU) && !set->pad &&
	       all_zero(set->reserved, sizeof(set->reserved)) &&
	       (set->flags & KVM_THROTTLE_VCPU || !set->vcpu_id) &&
	       set->percent_x100 <= KVM_THROTTLE_PERCENT_MAX &&
	       set->dirty_rate <= KVM_THROTTLE_DIRTY_RATE_MAX &&
	       (!set->period_ns ||
		(set->period_ns >= KVM_THROTTLE_PERIOD_MIN_NS &&
		 set->period_ns <= KVM_THROTTLE_PERIOD_MAX_NS));
}

static bool get_is_valid(const struct kvm_throttle_state *get)
{
	return !get->flags && all_zero(get->reserved, sizeof(get->reserved)) &&
	       (get->nr_vcpus ?
		get->vcpu_size >= offsetof(struct kvm_throttle_vcpu_state, dirty_rate) :
		!get->vcpu_size);
}

static bool attach_is_valid(const struct kvm_throttle_attach *attach)
{
	return !attach->flags && all_zero(attach->reserved, sizeof(attach->reserved));
}

/* Some fd, most often one that makes sense. */
static int any_fd(struct actor *a, int sense, u64 x)
{
	struct vm *vm = &shared->vms[a->worker][x % NR_ACTORS];
	const int fds[] = {
		sense, sense, sense, sense, vm->fd, vm->throttle, a->device,
		foreign[x % NR_FOREIGN], foreign[x / 2 % NR_FOREIGN],
		vcpus[x % NR_ACTORS][x % NR_VCPUS].fd, survivor.vm->fd, -1,
		x % 64,
	};

	return fds[(x >> 8) % ARRAY_SIZE(fds)];
}

static void do_set(struct actor *a, struct vm *vm, bool bad, u64 x, u64 y)
{
	struct kvm_throttle set = { .percent_x100 = x % 5 ? 8000 + y % 2000 : 0 };
	int r, fd;

	/* Where there is no ftrace, that is tried only with mutated settings. */
	if (have_rate && x & 2048)
		set.dirty_rate = y >> 16 & 4096 ? 1 + y % 1000 : 0;

	if (x & 256)
		set.period_ns = KVM_THROTTLE_PERIOD_MIN_NS + y % (100 * MS);
	if ((x & 1536) == 1536) {
		set.flags = KVM_THROTTLE_VCPU;
		set.vcpu_id = x % 4;
	}
	fd = bad ? any_fd(a, vm->throttle, x) : vm->throttle;
	if (bad)
		mutate(&set, sizeof(set), x >> 16, y);
	r = ioctl(fd, KVM_SET_THROTTLE, &set);
	outcome(bad ? BAD_SET : SET, r, set_is_valid(&set));
	if (!r && fd == vm->throttle && !set.flags && (set.percent_x100 || set.dirty_rate))
		__atomic_store_n(&vm->throttled, vm->fd >= 0, __ATOMIC_SEQ_CST);
	else if (!r && fd == vm->throttle && !set.percent_x100)
		__atomic_store_n(&vm->throttled, 0, __ATOMIC_SEQ_CST);
}

static void do_get(struct actor *a, struct vm *vm, bool bad, u64 x, u64 y)
{
	struct kvm_throttle_vcpu_state states[8];
	struct kvm_throttle_state get = {
		.nr_vcpus = x % 8,
		.vcpu_size = x % 8 ? sizeof(states[0]) : 0,
		.vcpus = (uintptr_t)states,
	};
	u64 bits;
	struct kvm_dirty_log log = { .dirty_bitmap = &bits };
	bool valid;
	int r, fd;

	fd = bad ? any_fd(a, vm->throttle, x) : vm->throttle;
	if (bad) {
		mutate(&get, sizeof(get), x >> 16, y);
		/* Not to be overwritten: what lies behind. */
		get.nr_vcpus %= 1024;
		if (get.vcpu_size > sizeof(states[0]) || get.nr_vcpus > 8 ||
		    get.vcpus != (uintptr_t)states)
			get.vcpus = -4096UL;
	}
	valid = get_is_valid(&get);
	r = ioctl(fd, KVM_GET_THROTTLE, &get);
	outcome(bad ? BAD_GET : GET, r, valid);
	/* Its page becomes one that can be dirtied. */
	ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log);
}

static void do_attach(struct actor *a, struct vm *vm, bool bad, u64 x, u64 y)
{
	struct kvm_throttle_attach attach = { .vm_fd = vm->fd };
	int r;

	if (a->device < 0)
		a->device = open("/dev/kvm_throttle", O_RDWR | O_CLOEXEC);
	if (bad) {
		attach.vm_fd = any_fd(a, vm->fd, x);
		if (x & 1)
			mutate(&attach, sizeof(attach), x >> 16, y);
	}
	r = ioctl(a->device, KVM_THROTTLE_ATTACH, &attach);
	outcome(bad ? BAD_ATTACH : ATTACH, r, attach_is_valid(&attach));
	if (r < 0)
		return;
	if (!bad)
		__atomic_store_n(&vm->throttled, 0, __ATOMIC_SEQ_CST);
	keep(bad ? &foreign[x % NR_FOREIGN] : &vm->throttle, r);
}

static void do_bad_command(struct actor *a, struct vm *vm, u64 x, u64 y)
{
	static const unsigned int commands[] = {
		KVM_THROTTLE_GET_API_VERSION, KVM_THROTTLE_ATTACH,
		KVM_SET_THROTTLE, KVM_GET_THROTTLE,
	};
	char argument[256] = {};

	/* Another number, size or direction; never another type. */
	outcome(BAD_COMMAND, ioctl(any_fd(a, vm->throttle, x),
				   commands[y % 4] ^ 1U << (16 + y / 4 % 16),
				   argument), false);
}

static void do_bad_pointer(struct actor *a, struct vm *vm, u64 x, u64 y)
{
	const uintptr_t pointers[] = {
		0, 1, -1UL, -4096UL, 0xffff888000000000UL, 1UL << 47,
		(1UL << 47) - 4096, (uintptr_t)guest_pages[0] + 4096 - y % 24,
	};
	static const unsigned int commands[] = {
		KVM_THROTTLE_ATTACH, KVM_SET_THROTTLE, KVM_GET_THROTTLE,
	};

	outcome(BAD_POINTER, ioctl(any_fd(a, vm->throttle, x), commands[y % 3],
				   pointers[y / 8 % ARRAY_SIZE(pointers)]), false);
}

/* A child with copies of all that the process has, which it closes by dying. */
static int do_fork(struct actor *a, struct vm *vm, u64 x, u64 y)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	start_process();
	do_set(a, vm, false, x, y);
	do_get(a, vm, true, x, y);
	close(vm->throttle);
	usleep(x % 4000);
	_exit(0);
}

static void receive(u64 x)
{
	int fd = receive_fd(mail[1]);

	count(RECEIVE, fd >= 0);
	keep(&foreign[x % NR_FOREIGN], fd);
}

/* --- a VMM: its actors ------------------------------------------------------ */

static const struct {
	enum kind kind;
	int weight;
} mix[] = {
	{ ATTACH, 60 }, { SET, 80 }, { GET, 30 }, { BAD_SET, 40 },
	{ BAD_GET, 40 }, { BAD_ATTACH, 20 }, { BAD_COMMAND, 20 },
	{ BAD_POINTER, 20 }, { POLL, 20 }, { DUP, 15 }, { SEND, 8 },
	{ RECEIVE, 10 }, { CLOSE, 20 }, { FORK, 1 }, { CREATE, 60 },
	{ ADD_VCPU, 10 }, { PAUSE, 8 }, { MOVE, 3 }, { DESTROY, 10 },
};

/* Those cost little, so there can be many. */
#define BATCH		64

static bool try_batch(struct actor *a, struct vm *vm, enum kind kind)
{
	u64 x, y;
	int i;

	for (i = 0; i < BATCH; i++) {
		x = draw(a);
		y = draw(a);
		switch (kind) {
		case BAD_ATTACH:
			do_attach(a, vm, true, x, y);
			break;
		case BAD_SET:
			do_set(a, vm, true, x, y);
			break;
		case BAD_GET:
			do_get(a, vm, true, x, y);
			break;
		case BAD_COMMAND:
			do_bad_command(a, vm, x, y);
			break;
		case BAD_POINTER:
			do_bad_pointer(a, vm, x, y);
			break;
		default:
			return false;
		}
	}
	return true;
}

static enum kind choose(u64 x)
{
	int i, sum = 0;

	for (i = 0; i < ARRAY_SIZE(mix); i++)
		sum += mix[i].weight;
	x %= sum;
	for (i = 0; x >= mix[i].weight; i++)
		x -= mix[i].weight;
	return mix[i].kind;
}

static void step(struct actor *a)
{
	struct vm *vm = &shared->vms[a->worker][a->index];
	/* Always as many: the next operation doesn't depend on what happened. */
	enum kind kind = choose(draw(a));
	u64 x = draw(a), y = draw(a);
	int i = y % NR_VCPUS;
	struct vcpu *v = &vcpus[a->index][i];
	struct pollfd pfd;
	int r;

	if (try_batch(a, vm, kind))
		return;
	switch (kind) {
	case ATTACH:
		do_attach(a, vm, false, x, y);
		break;
	case SET:
		do_set(a, vm, false, x, y);
		break;
	case GET:
		do_get(a, vm, false, x, y);
		break;
	case POLL:
		pfd = (struct pollfd){ .fd = any_fd(a, vm->throttle, x) };
		outcome(POLL, poll(&pfd, 1, 0), true);
		break;
	case DUP:
		r = fcntl(any_fd(a, vm->throttle, x), F_DUPFD_CLOEXEC, 3);
		outcome(DUP, r, true);
		keep(&foreign[y % NR_FOREIGN], r);
		break;
	case SEND:
		count(SEND, !send_fd(mail[0], any_fd(a, vm->throttle, x)));
		break;
	case RECEIVE:
		receive(x);
		break;
	case CLOSE:
		count(CLOSE, take_and_close(&foreign[x % NR_FOREIGN]));
		if (!(y % 16))
			close_throttle(vm);
		break;
	case FORK:
		outcome(FORK, do_fork(a, vm, x, y), true);
		break;
	case CREATE:
		if (vm->fd < 0)
			outcome(CREATE, create_vm(a, vm, x), true);
		break;
	case ADD_VCPU:
		if (vm->fd >= 0 && v->fd < 0)
			outcome(ADD_VCPU, create_vcpu(a, vm, i, 1 + x % 3), true);
		break;
	case PAUSE:
		if (v->fd < 0)
			break;
		v->paused = !v->paused;
		if (v->paused)
			kick_vcpu(v);
		else
			v->run->immediate_exit = 0;
		count(PAUSE, true);
		break;
	case MOVE:
		if (v->fd < 0)
			break;
		stop_vcpu(v);
		start_vcpu(v);
		count(MOVE, true);
		break;
	case DESTROY:
		if (vm->fd < 0)
			break;
		if (x & 128) {
			do_attach(a, vm, false, x, y);
			do_set(a, vm, false, x, y);
		}
		destroy_vm(a, vm, x);
		count(DESTROY, true);
		break;
	default:
		break;
	}
}

/* Keep nothing that keeps the module. */
static void let_go(struct actor *a)
{
	int i;

	take_and_close(&a->device);
	close_throttle(&shared->vms[a->worker][a->index]);
	for (i = 0; i < NR_FOREIGN; i++)
		take_and_close(&foreign[i]);
	while ((i = receive_fd(mail[1])) >= 0)
		close(i);
	usleep(1000);
}

static void *act(void *arg)
{
	struct actor *a = arg;

	while (!shared->stop) {
		if (shared->quiet)
			let_go(a);
		else
			step(a);
	}
	return NULL;
}

/* A single step that its debugger didn't wait for. */
static void ignore(int signal)
{
}

static pid_t start_worker(int worker, int generation)
{
	struct actor actors[NR_ACTORS];
	pthread_t threads[NR_ACTORS];
	pid_t pid = fork();
	int i, j;

	TEST_ASSERT(pid >= 0, "fork");
	if (pid)
		return pid;
	start_process();
	if (have_cgroup)
		write_file(CGROUP "/cgroup.procs", "0");
	signal(SIGTRAP, ignore);
	/* Children that it forks aren't waited for. */
	signal(SIGCHLD, SIG_IGN);
	for (i = 0; i < NR_FOREIGN; i++)
		foreign[i] = -1;
	for (i = 0; i < NR_ACTORS; i++) {
		shared->vms[worker][i] = (struct vm){ .fd = -1, .throttle = -1 };
		for (j = 0; j < NR_VCPUS; j++)
			vcpus[i][j].fd = -1;
		actors[i] = actor_init(worker, i, generation);
	}
	for (i = 0; i < NR_ACTORS; i++)
		TEST_ASSERT(!pthread_create(&threads[i], NULL, act, &actors[i]),
			    "pthread_create");
	for (i = 0; i < NR_ACTORS; i++)
		pthread_join(threads[i], NULL);
	_exit(0);
}

/* --- the module ------------------------------------------------------------- */

/* On a debug kernel it takes long until everybody has let go of it. */
#define QUIET_NS	(4000 * MS)

static void do_unload(struct actor *a, u64 x)
{
	static u64 next_quiet_ns;
	u64 begin = now_ns();
	int r;

	/* Most often it is in use; now and then nobody uses it. */
	shared->quiet = x % 32 == 0 && begin >= next_quiet_ns;
	do {
		r = module_unload(0);
		errno = r;
		outcome(UNLOAD, r ? -1 : 0, true);
		usleep(2000);
	} while (shared->quiet && r && now_ns() < begin + QUIET_NS);
	if (!r && system("modprobe kvm_throttle"))
		__atomic_fetch_add(&shared->wrong, 1, __ATOMIC_RELAXED);
	/* The others want to do something, too. */
	if (shared->quiet)
		next_quiet_ns = now_ns() + 4 * (now_ns() - begin);
	shared->quiet = 0;
	usleep(x / 32 % 60000);
}

/* --- the host --------------------------------------------------------------- */

static void do_host(struct actor *a, u64 x)
{
	static const char * const limits[] = {
		"5000 10000", "50000 100000", "max 100000", "max 100000",
		"max 100000", "max 100000", "max 100000", "max 100000",
	};
	u64 y = x >> 8;

	switch (x % 16) {
	case 0 ... 3:
		if (have_cgroup) {
			count(FREEZE, write_file(CGROUP "/cgroup.freeze", "1"));
			usleep(y % 20000);
			count(FREEZE, write_file(CGROUP "/cgroup.freeze", "0"));
		}
		break;
	default:
		if (have_cpu_max)
			count(CPU_MAX, write_file(CGROUP "/cpu.max",
						  limits[y % ARRAY_SIZE(limits)]));
		break;
	case 4:
		if (have_cpu) {
			count(CPU_HOTPLUG, write_file(CPU_ONLINE, "0"));
			usleep(y % 20000);
			count(CPU_HOTPLUG, write_file(CPU_ONLINE, "1"));
		}
		break;
	}
	usleep(x % 100000);
}

/* An actor in a process of its own. */
static pid_t start_actor(void (*act)(struct actor *a, u64 x), int index)
{
	struct actor a = actor_init(NR_WORKERS, index, 0);
	pid_t pid = fork();

	TEST_ASSERT(pid >= 0, "fork");
	if (pid)
		return pid;
	start_process();
	while (!shared->stop)
		act(&a, draw(&a));
	_exit(0);
}

/* --- signals and debuggers, from the main process ----------------------------- */

/* Stops a thread that is debugged; a frozen one answers late. */
static bool debug_stop(pid_t tid)
{
	int tries;

	ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	for (tries = 0; tries < 1000; tries++) {
		if (waitpid(tid, NULL, __WALL | WNOHANG) == tid)
			return true;
		usleep(1000);
	}
	return false;
}

/*
 * Stops a thread a few times, looks at it, steps it, and leaves.  It leaves no
 * step under way: the trap would kill a thread that blocks signals just then.
 */
static void debug_thread(pid_t tid, u64 x)
{
	siginfo_t info;
	int i;

	/* A stopped one may not answer at all. */
	alarm(5);
	if (ptrace(PTRACE_SEIZE, tid, 0, 0))
		_exit(1);
	for (i = 0; i < x % 4 && debug_stop(tid); i++) {
		ptrace(PTRACE_GETSIGINFO, tid, 0, &info);
		usleep(x / 4 % 10000);
		ptrace(x & 64 ? PTRACE_SINGLESTEP : PTRACE_CONT, tid, 0, 0);
	}
	if (debug_stop(tid))
		ptrace(PTRACE_DETACH, tid, 0, 0);
	_exit(0);
}

static void do_debug(pid_t tid, u64 x)
{
	pid_t pid = fork();
	int status = 0;

	TEST_ASSERT(pid >= 0, "fork");
	if (!pid) {
		start_process();
		signal(SIGALRM, SIG_DFL);
		debug_thread(tid, x);
	}
	waitpid(pid, &status, 0);
	count(DEBUG, WIFEXITED(status) && !WEXITSTATUS(status));
}

/*
 * A worker that ends may close the last fd of another one's VM.  KVM then waits for a
 * thread of that one's process, which mustn't be stopped.
 */
static void wait_for_worker(pid_t pid, int *status)
{
	int i;

	while (!waitpid(pid, status, WNOHANG)) {
		for (i = 0; i < NR_WORKERS; i++)
			kill(shared->worker[i], SIGCONT);
		usleep(1000);
	}
}

static void reap_worker(int worker, pid_t pid)
{
	int i, status;

	/* It may have ended by itself when it was told to, not before. */
	wait_for_worker(pid, &status);
	if (WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status) != SIGKILL) {
		ksft_print_msg("a worker ended with status 0x%x\n", status);
		shared->wrong++;
	}
	for (i = 0; i < NR_ACTORS; i++)
		count_destroyed(&shared->vms[worker][i]);
}

/* The thread of a running vCPU, or 0; the search begins at @x. */
static pid_t any_vcpu(int worker, u64 x)
{
	pid_t tid = 0;
	int i;

	for (i = 0; i < NR_ACTORS * NR_VCPUS && !tid; i++, x++)
		tid = shared->vms[worker][x % NR_ACTORS].tids[x / NR_ACTORS % NR_VCPUS];
	return tid;
}

static void do_signal(struct actor *a, int *generation)
{
	u64 x = draw(a), y = draw(a);
	int worker = y % NR_WORKERS;
	pid_t pid = shared->worker[worker];
	pid_t tid = any_vcpu(worker, y / 8);

	switch (x % 16) {
	default:
		count(SIGNAL, tid && !syscall(SYS_tgkill, pid, tid, SIGUSR1));
		break;
	case 0:
		count(STOP, !kill(pid, SIGSTOP));
		break;
	case 1 ... 5:
		count(CONT, !kill(pid, SIGCONT));
		break;
	case 6:
		if (tid)
			do_debug(tid, x >> 8);
		break;
	case 7:
		count(KILL, !kill(pid, SIGKILL));
		reap_worker(worker, pid);
		shared->worker[worker] = start_worker(worker, ++*generation);
		break;
	}
	usleep(x / 16 % 20000);
}

/* --- what is left ----------------------------------------------------------- */

struct residue {
	int vms;
	int own_fds;
	long files;
	long tasks;
};

/* The number after @word in a file; the first one if that is empty. */
static long number_in(const char *path, const char *word)
{
	char line[512];
	long n = 0;
	FILE *f = fopen(path, "re");

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, word, strlen(word)))
			continue;
		n = atol(line + strlen(word));
		break;
	}
	fclose(f);
	return n;
}

/* Those that keep a VM or the module: the selftest library leaks others. */
static int own_kvm_fds(void)
{
	char path[40], name[40];
	int fd, n = 0;

	for (fd = 0; fd < 1024; fd++) {
		memset(name, 0, sizeof(name));
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n += readlink(path, name, sizeof(name) - 1) > 0 &&
		     (!strncmp(name, "anon_inode:kvm", 14) ||
		      !strncmp(name, "/dev/kvm", 8));
	}
	return n;
}

static struct residue look(void)
{
	/* KASAN keeps what is freed for some time: not what is shrunk. */
	write_file("/sys/kernel/slab/task_struct/shrink", "1");
	return (struct residue) {
		.vms = vm_count(),
		.own_fds = own_kvm_fds(),
		.files = number_in("/proc/sys/fs/file-nr", ""),
		.tasks = number_in("/proc/slabinfo", "task_struct "),
	};
}

static bool is_more(const struct residue *r, const struct residue *than)
{
	return r->vms > than->vms || r->own_fds > than->own_fds ||
	       r->files > than->files + FILES_SLACK ||
	       r->tasks > than->tasks + TASKS_SLACK;
}

/* Much is freed later: by RCU, by kernel threads. */
static void check_residue(const struct residue *before)
{
	struct residue after;
	int i;

	for (i = 0; i < 100; i++) {
		after = look();
		if (!is_more(&after, before))
			break;
		usleep(100000);
	}
	ksft_test_result(after.vms <= before->vms, "VMs: %d, now %d\n",
			 before->vms, after.vms);
	ksft_test_result(after.own_fds <= before->own_fds &&
			 after.files <= before->files + FILES_SLACK,
			 "open files: %ld, now %ld; own: %d, now %d\n",
			 before->files, after.files, before->own_fds, after.own_fds);
	ksft_test_result(after.tasks <= before->tasks + TASKS_SLACK,
			 "tasks: %ld, now %ld\n", before->tasks, after.tasks);
}

/* Best of some: it may be slow by chance, but not fast.  A throttle takes 80 %. */
static double survivor_speed(double enough)
{
	double best = 0;
	int i;

	for (i = 0; i < 100 && best < enough; i++)
		best = max(best, guest_speed(&survivor, 200 * MS));
	return best;
}

static void check_survivor(double full)
{
	struct kvm_throttle_vcpu_state states[2] = {};
	double speed = survivor_speed(full * 0.4);
	int fd, r;

	ksft_test_result(speed >= full * 0.4, "the VM that is left: %.2f of its speed\n",
			 speed / full);
	fd = throttle_attach(survivor.vm->fd);
	r = throttle_get(fd, states, 2, NULL);
	ksft_test_result(fd >= 0 && r == 2 && !states[0].elapsed_ns && !states[1].period_ns,
			 "it can be attached to and isn't throttled: %d\n", r);
	close(fd);
}

static void check_unloads(void)
{
	int r = module_unload(10000 * MS);

	ksft_test_result(!r, "the module can be unloaded: %s\n", strerror(r));
	if (!r)
		TEST_ASSERT(!system("modprobe kvm_throttle"), "modprobe");
}

static void report(u64 ns)
{
	u64 sum = 0;
	int i;

	for (i = 0; i < NR_KINDS; i++) {
		ksft_print_msg("%10llu tried, %10llu succeeded: %s\n",
			       (unsigned long long)shared->tried[i],
			       (unsigned long long)shared->done[i], kind_text[i]);
		sum += shared->tried[i];
	}
	ksft_print_msg("%llu operations in %.1f s; %llu VMs destroyed while throttled; seed %llu\n",
		       (unsigned long long)sum, ns / 1e9,
		       (unsigned long long)shared->destroyed, (unsigned long long)seed);
}

static void check_kinds(void)
{
	int i, missing = 0;

	for (i = 0; i < NR_KINDS; i++) {
		if (shared->done[i] || i == BAD_COMMAND || i == BAD_POINTER ||
		    (i == FREEZE && !have_cgroup) || (i == CPU_MAX && !have_cpu_max) ||
		    (i == CPU_HOTPLUG && !have_cpu))
			continue;
		ksft_print_msg("never succeeded: %s\n", kind_text[i]);
		missing++;
	}
	ksft_test_result(!missing && shared->destroyed,
			 "all kinds of operations were done\n");
}

static void run(u64 seconds)
{
	struct actor signals = actor_init(NR_WORKERS, 0, 0);
	u64 begin = now_ns();
	int i, status, generation = 0;
	pid_t module, host;

	for (i = 0; i < NR_WORKERS; i++)
		shared->worker[i] = start_worker(i, generation);
	module = start_actor(do_unload, 1);
	host = start_actor(do_host, 2);

	while (now_ns() < begin + seconds * 1000 * MS)
		do_signal(&signals, &generation);

	shared->stop = 1;
	for (i = 0; i < 2; i++) {
		waitpid(i ? host : module, &status, 0);
		shared->wrong += !!status;
	}
	reset_host();
	for (i = 0; i < NR_WORKERS; i++) {
		kill(shared->worker[i], SIGKILL);
		reap_worker(i, shared->worker[i]);
	}
	close(mail[0]);
	close(mail[1]);
	report(now_ns() - begin);
}

int main(int argc, char **argv)
{
	const char *missing = throttle_missing();
	struct residue before;
	double full;
	u64 seconds;
	int i;

	ksft_print_header();
	if (missing)
		ksft_exit_skip("%s\n", missing);
	seconds = argc > 1 ? strtoull(argv[1], NULL, 0) : SECONDS_DEFAULT;
	seed = argc > 2 ? strtoull(argv[2], NULL, 0) : now_ns();
	ksft_set_plan(9);
	ksft_print_msg("%llu s, seed %llu\n", (unsigned long long)seconds,
		       (unsigned long long)seed);

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(shared != MAP_FAILED, "mmap");
	for (i = 0; i < ARRAY_SIZE(guests); i++) {
		/* Nothing can be read behind it. */
		guest_pages[i] = mmap(NULL, 2 * getpagesize(), PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		TEST_ASSERT(guest_pages[i] != MAP_FAILED, "mmap");
		mprotect(guest_pages[i] + getpagesize(), getpagesize(), PROT_NONE);
		memcpy(guest_pages[i] + GUEST_START, guests[i], sizeof(guests[i]));
	}
	create_cgroups();
	before = look();
	/* Its threads inherit this: the actors shall get most of the CPU. */
	setpriority(PRIO_PROCESS, 0, 10);
	guest_create(&survivor, GUEST_WORK, 2);
	setpriority(PRIO_PROCESS, 0, 0);
	have_rate = can_limit_rate(survivor.vm->fd);
	full = guest_speed(&survivor, 2000 * MS);
	TEST_ASSERT(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
				0, mail), "socketpair");

	run(seconds);
	check_kinds();
	ksft_test_result(!shared->wrong, "outcomes that must not be: %llu\n",
			 (unsigned long long)shared->wrong);
	check_survivor(full);
	guest_destroy(&survivor);
	check_residue(&before);
	check_unloads();
	ksft_test_result(remove_cgroups(), "no process is left\n");
	ksft_finished();
}
