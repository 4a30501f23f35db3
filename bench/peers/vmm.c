// SPDX-License-Identifier: GPL-2.0
/*
 * The VM's process: a small VMM with what throttles need of one (see peers.h).
 *
 * It is built like QEMU: a main loop with timers, a thread for each vCPU, and
 * one big lock that is held by whichever of them isn't in the guest or asleep.
 * As it does nothing else, what a throttle costs in it is the least that it
 * costs in a real VMM.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "guest_arch.h"
#include "peers.h"

/* QEMU's CPU_THROTTLE_TIMESLICE_NS, and Cloud Hypervisor's TIMESLICE_MS. */
#define TIMER_RUN_NS		(10 * MS)
#define PAUSE_PERIOD_MS		100

/* Windows of BENCH_EXIT. */
#define EXIT_WINDOW_NS		5236000ULL

#define UNIT_LOOPS		100
#define UNITS_LOCKED		5

#define NEVER			(~0ULL)

/* In guest memory, and shared. */
static struct bench_memory guest_memory __aligned(4096);

static void guest_loops(u64 n)
{
	for (n *= UNIT_LOOPS; n; n--)
		barrier();
}

static void guest_gap(u64 last, u64 now)
{
	u64 nr = READ_ONCE(guest_memory.nr_gaps);

	if (nr < GAPS_MAX) {
		guest_memory.gaps[nr] = (struct bench_gap) { last, now };
		barrier();
		WRITE_ONCE(guest_memory.nr_gaps, nr + 1);
	}
}

static void guest_work_code(u64 i, u64 gap_cycles, u64 exit_cycles)
{
	u64 last = guest_clock(), start = last, now;

	for (;;) {
		guest_loops(1);
		WRITE_ONCE(guest_memory.vcpus[i].work, guest_memory.vcpus[i].work + 1);
		now = guest_clock();
		/* In this order, so that a unit is the same for all vCPUs. */
		if (now - last > gap_cycles && !i)
			guest_gap(last, now);
		last = now;
		if (now - start > exit_cycles) {
			guest_exit();
			start = guest_clock();
		}
	}
}

static void guest_lock_code(u64 i)
{
	for (;;) {
		while (__atomic_exchange_n(&guest_memory.lock, 1, __ATOMIC_ACQUIRE))
			while (READ_ONCE(guest_memory.lock))
				cpu_relax();
		guest_loops(UNITS_LOCKED);
		__atomic_store_n(&guest_memory.lock, 0, __ATOMIC_RELEASE);
		WRITE_ONCE(guest_memory.vcpus[i].work, guest_memory.vcpus[i].work + 1);
		guest_loops(UNITS_LOCKED);
	}
}

static void guest_token_code(u64 i, u64 nr_vcpus)
{
	for (;;) {
		while (__atomic_load_n(&guest_memory.token, __ATOMIC_ACQUIRE) != i)
			cpu_relax();
		guest_loops(UNITS_LOCKED);
		WRITE_ONCE(guest_memory.vcpus[i].work, guest_memory.vcpus[i].work + 1);
		__atomic_store_n(&guest_memory.token, (i + 1) % nr_vcpus, __ATOMIC_RELEASE);
	}
}

static void guest_code(u64 i, u64 kind, u64 nr_vcpus, u64 gap_cycles, u64 exit_cycles)
{
	if (kind == BENCH_LOCK)
		guest_lock_code(i);
	else if (kind == BENCH_TOKEN)
		guest_token_code(i, nr_vcpus);
	else
		guest_work_code(i, gap_cycles, exit_cycles);
}

/**
 * struct vmm_vcpu - a vCPU of this process
 * @vcpu: KVM's
 * @thread: its thread
 * @wake: signalled when anything below has changed
 * @stop: it shall stop
 * @stopped: it has
 * @sleeps: sleeps that were asked for and are not yet over
 * @timer_ns: when it is asked for the next
 */
struct vmm_vcpu {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	pthread_cond_t wake;
	bool stop;
	bool stopped;
	int sleeps;
	u64 timer_ns;
};

/* There is one VM in this process. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t stopped;
	struct vmm_vcpu vcpus[GUEST_VCPUS_MAX];
	int nr_vcpus;
	int running;
	enum bench_throttle throttle;
	u32 percent_x100;
	bool paused;
	u64 pause_timer_ns;
	volatile struct bench_state *state;
} vmm;

/* Requests to this process; it answers each with a byte. */
struct request {
	enum {
		REQUEST_RUN,
		REQUEST_STOP,
		REQUEST_THROTTLE,
	} what;
	u32 value;
};

static void kick_signal(int sig)
{
}

static void kick(struct vmm_vcpu *v)
{
	WRITE_ONCE(v->vcpu->run->immediate_exit, 1);
	pthread_kill(v->thread, SIGUSR1);
	pthread_cond_signal(&v->wake);
}

/* What QEMU 10's cpu_throttle_thread() does, with its roundings. */
static void sleep_as_qemu(struct vmm_vcpu *v)
{
	double percent = vmm.percent_x100 / 100 / 100.0;
	s64 sleep = percent / (1 - percent) * TIMER_RUN_NS + 1;
	u64 end = now_ns() + sleep;
	struct timespec until;
	u64 until_ns;

	if (!vmm.percent_x100)
		return;
	vmm.state->windows++;
	while (sleep > 0 && !v->stop) {
		if (sleep > MS) {
			until_ns = now_ns() + sleep / MS * MS;
			until.tv_sec = until_ns / 1000000000;
			until.tv_nsec = until_ns % 1000000000;
			pthread_cond_timedwait(&v->wake, &vmm.lock, &until);
		} else {
			pthread_mutex_unlock(&vmm.lock);
			usleep(sleep / 1000);
			pthread_mutex_lock(&vmm.lock);
		}
		sleep = end - now_ns();
	}
}

static void exited(struct vmm_vcpu *v)
{
	TEST_ASSERT(v->vcpu->run->exit_reason == GUEST_EXIT_REASON,
		    "exit reason %u", v->vcpu->run->exit_reason);
	vmm.state->windows++;
	sleep_ns(EXIT_WINDOW_NS);
}

static void *vcpu_thread(void *arg)
{
	struct vmm_vcpu *v = arg;
	int r;

	vmm.state->tids[v - vmm.vcpus] = syscall(SYS_gettid);
	pthread_mutex_lock(&vmm.lock);
	for (;;) {
		/* Before looking at what kick() is called for. */
		WRITE_ONCE(v->vcpu->run->immediate_exit, 0);
		if (v->stop) {
			v->stopped = true;
			pthread_cond_signal(&vmm.stopped);
			pthread_cond_wait(&v->wake, &vmm.lock);
			continue;
		}
		v->stopped = false;
		if (v->sleeps) {
			sleep_as_qemu(v);
			v->sleeps--;
			continue;
		}
		pthread_mutex_unlock(&vmm.lock);
		r = __vcpu_run(v->vcpu);
		TEST_ASSERT(!r || errno == EINTR, "KVM_RUN: errno %d", errno);
		if (!r)
			exited(v);
		pthread_mutex_lock(&vmm.lock);
	}
	return NULL;
}

/* Returns when all have stopped. */
static void stop_all(void)
{
	int i;

	for (i = 0; i < vmm.nr_vcpus; i++) {
		vmm.vcpus[i].stop = true;
		kick(&vmm.vcpus[i]);
	}
	for (i = 0; i < vmm.nr_vcpus; i++)
		while (!vmm.vcpus[i].stopped)
			pthread_cond_wait(&vmm.stopped, &vmm.lock);
}

static void run(int nr_vcpus)
{
	int i;

	vmm.running = nr_vcpus;
	for (i = 0; i < nr_vcpus; i++) {
		vmm.vcpus[i].stop = false;
		pthread_cond_signal(&vmm.vcpus[i].wake);
	}
}

/* The timers of QEMU: have a vCPU sleep as soon as it is out of the guest. */
static void ask_for_sleep(struct vmm_vcpu *v)
{
	/* One timer for all doesn't ask twice. */
	if (vmm.throttle == THROTTLE_VM_TIMER && v->sleeps)
		return;
	v->sleeps++;
	kick(v);
}

static u64 timer_period_ns(void)
{
	return TIMER_RUN_NS / (1 - vmm.percent_x100 / 100 / 100.0);
}

static void vcpu_timer(struct vmm_vcpu *v)
{
	ask_for_sleep(v);
	v->timer_ns = now_ns() + timer_period_ns();
}

static void vm_timer(void)
{
	int i;

	for (i = 0; i < vmm.running; i++)
		ask_for_sleep(&vmm.vcpus[i]);
	vmm.vcpus[0].timer_ns = now_ns() + timer_period_ns();
}

/* The steps of Cloud Hypervisor's throttle thread. */
static void pause_timer(void)
{
	u64 start = now_ns();
	u64 pause_ms = PAUSE_PERIOD_MS * (vmm.percent_x100 / 100) / 100;

	if (vmm.paused) {
		run(vmm.running);
		vmm.pause_timer_ns = start + (PAUSE_PERIOD_MS - pause_ms) * MS;
	} else {
		vmm.state->windows += vmm.running;
		stop_all();
		vmm.pause_timer_ns = start + pause_ms * MS;
	}
	vmm.paused = !vmm.paused;
}

/* Returns when the next timer expires. */
static u64 run_timers(void)
{
	u64 next = NEVER;
	int i;

	if (vmm.throttle == THROTTLE_PAUSE) {
		if (vmm.pause_timer_ns <= now_ns())
			pause_timer();
		return vmm.pause_timer_ns;
	}
	if (vmm.throttle == THROTTLE_VM_TIMER) {
		if (vmm.vcpus[0].timer_ns <= now_ns())
			vm_timer();
		return vmm.vcpus[0].timer_ns;
	}
	if (vmm.throttle == THROTTLE_VCPU_TIMERS) {
		for (i = 0; i < vmm.running; i++) {
			if (vmm.vcpus[i].timer_ns <= now_ns())
				vcpu_timer(&vmm.vcpus[i]);
			next = min(next, vmm.vcpus[i].timer_ns);
		}
	}
	return next;
}

static void set_throttle(u32 percent_x100)
{
	u64 now = now_ns();
	int i;

	vmm.percent_x100 = percent_x100;
	vmm.pause_timer_ns = percent_x100 ? now : NEVER;
	for (i = 0; i < vmm.nr_vcpus; i++) {
		vmm.vcpus[i].timer_ns = percent_x100 ? now : NEVER;
		/* The first tick of the seed's comes a period later. */
		if (percent_x100 && vmm.throttle == THROTTLE_VCPU_TIMERS)
			vmm.vcpus[i].timer_ns += timer_period_ns();
	}
	if (!percent_x100 && vmm.paused) {
		vmm.paused = false;
		run(vmm.running);
	}
}

static void handle_request(int socket)
{
	struct request request;
	ssize_t size = recv(socket, &request, sizeof(request), 0);

	if (size <= 0)
		_exit(0);
	switch (request.what) {
	case REQUEST_RUN:
		run(request.value);
		break;
	case REQUEST_STOP:
		/* Cloud Hypervisor ends its throttle first; QEMU doesn't. */
		if (vmm.throttle == THROTTLE_PAUSE)
			set_throttle(0);
		stop_all();
		break;
	case REQUEST_THROTTLE:
		set_throttle(request.value);
		break;
	}
	TEST_ASSERT(send(socket, "", 1, 0) == 1, "send");
}

static void main_loop(int socket)
{
	struct pollfd poll_socket = { .fd = socket, .events = POLLIN };
	struct timespec timeout;
	u64 next, now;

	pthread_mutex_lock(&vmm.lock);
	for (;;) {
		next = run_timers();
		pthread_mutex_unlock(&vmm.lock);
		now = now_ns();
		now = next > now ? next - now : 0;
		timeout.tv_sec = now / 1000000000;
		timeout.tv_nsec = now % 1000000000;
		poll_socket.revents = 0;
		ppoll(&poll_socket, 1, next == NEVER ? NULL : &timeout, NULL);
		pthread_mutex_lock(&vmm.lock);
		if (poll_socket.revents)
			handle_request(socket);
	}
}

static void share_memory(struct kvm_vm *vm, int fd)
{
	void *address = addr_gva2hva(vm, (uintptr_t)&guest_memory);

	TEST_ASSERT(mmap(address, sizeof(guest_memory), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, fd, 0) == address, "mmap");
}

static u64 vm_clock_offset(struct kvm_vcpu *vcpu)
{
	u64 offset = 0;

#ifdef __x86_64__
	vcpu_device_attr_get(vcpu, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, &offset);
#endif
	return offset;
}

static void vmm_init(enum bench_guest_kind kind, int memory_fd, int socket)
{
	struct sigaction action = { .sa_handler = kick_signal };
	struct kvm_vcpu *vcpus[GUEST_VCPUS_MAX];
	pthread_condattr_t monotonic;
	u64 khz, exit_cycles;
	struct kvm_vm *vm;
	int i, fd;

	/* As QEMU does. */
	prctl(PR_SET_TIMERSLACK, 1);
	sigaction(SIGUSR1, &action, NULL);
	pthread_mutex_init(&vmm.lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&vmm.stopped, &monotonic);
	vm = vm_create_with_vcpus(vmm.nr_vcpus, guest_code, vcpus);
	share_memory(vm, memory_fd);
	khz = guest_clock_khz(vcpus[0]);
	vmm.state->clock_khz = khz;
	vmm.state->vm_clock_offset = vm_clock_offset(vcpus[0]);
	exit_cycles = kind == BENCH_EXIT ? EXIT_WINDOW_NS * khz / 1000000 : NEVER;

	set_throttle(0);
	for (i = 0; i < vmm.nr_vcpus; i++) {
		struct vmm_vcpu *v = &vmm.vcpus[i];

		v->vcpu = vcpus[i];
		v->stop = true;
		pthread_cond_init(&v->wake, &monotonic);
		vcpu_args_set(v->vcpu, 5, (u64)i, (u64)kind, (u64)vmm.nr_vcpus,
			      GAP_MIN_NS * khz / 1000000, exit_cycles);
		TEST_ASSERT(!pthread_create(&v->thread, NULL, vcpu_thread, v),
			    "pthread_create");
	}
	pthread_mutex_lock(&vmm.lock);
	stop_all();
	pthread_mutex_unlock(&vmm.lock);

	/* The bench gets the throttle, or something else if there is none. */
	fd = throttle_attach(vm->fd);
	TEST_ASSERT(!send_fd(socket, fd >= 0 ? fd : socket), "send_fd");
	TEST_ASSERT(send(socket, fd >= 0 ? "t" : "-", 1, 0) == 1, "send");
	if (fd >= 0)
		close(fd);
}

static void *shared(size_t size, int *fd)
{
	void *address;

	*fd = memfd_create("bench", MFD_CLOEXEC);
	TEST_ASSERT(*fd >= 0 && !ftruncate(*fd, size), "memfd");
	address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	TEST_ASSERT(address != MAP_FAILED, "mmap");
	return address;
}

void bench_vm_start(struct bench_vm *vm, int index, enum bench_guest_kind kind,
		    enum bench_throttle throttle, int nr_vcpus)
{
	int sockets[2], memory_fd, state_fd;
	char answer;

	*vm = (struct bench_vm) { .nr_vcpus = nr_vcpus, .index = index };
	vm->memory = shared(sizeof(*vm->memory), &memory_fd);
	vm->state = shared(sizeof(*vm->state), &state_fd);
	close(state_fd);
	TEST_ASSERT(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), "socketpair");
	vm->pid = fork();
	TEST_ASSERT(vm->pid >= 0, "fork");
	if (!vm->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(sockets[0]);
		vmm.nr_vcpus = nr_vcpus;
		vmm.throttle = throttle;
		vmm.state = vm->state;
		vmm_init(kind, memory_fd, sockets[1]);
		main_loop(sockets[1]);
	}
	close(sockets[1]);
	close(memory_fd);
	vm->socket = sockets[0];
	vm->throttle_fd = receive_fd(vm->socket);
	TEST_ASSERT(vm->throttle_fd >= 0 && recv(vm->socket, &answer, 1, 0) == 1,
		    "the VM's process has failed");
	if (answer != 't') {
		close(vm->throttle_fd);
		vm->throttle_fd = -1;
	}
}

static void ask(struct bench_vm *vm, int what, u32 value)
{
	struct request request = { .what = what, .value = value };
	char answer;

	TEST_ASSERT(send(vm->socket, &request, sizeof(request), 0) == sizeof(request) &&
		    recv(vm->socket, &answer, 1, 0) == 1, "the VM's process has ended");
}

void bench_vm_run(struct bench_vm *vm, int nr_vcpus)
{
	ask(vm, REQUEST_RUN, nr_vcpus);
}

void bench_vm_stop(struct bench_vm *vm)
{
	ask(vm, REQUEST_STOP, 0);
}

void bench_vm_throttle(struct bench_vm *vm, u32 percent_x100)
{
	ask(vm, REQUEST_THROTTLE, percent_x100);
}

void bench_vm_end(struct bench_vm *vm)
{
	kill(vm->pid, SIGKILL);
	waitpid(vm->pid, NULL, 0);
	if (vm->throttle_fd >= 0)
		close(vm->throttle_fd);
	close(vm->socket);
	munmap((void *)vm->memory, sizeof(*vm->memory));
	munmap((void *)vm->state, sizeof(*vm->state));
}
