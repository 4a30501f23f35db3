// SPDX-License-Identifier: GPL-2.0
/*
 * The VM's process: a small VMM with what throttles need of one (see peers.h).
 *
 * It is built like QEMU: a main loop with a timer, a thread for each vCPU, and
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
#include "work.h"

_Static_assert(BENCH_VCPUS_MAX == GUEST_VCPUS_MAX, "work.h");

/* Windows of BENCH_EXIT. */
#define EXIT_WINDOW_NS		5236000ULL

#define NEVER			(~0ULL)

/* In guest memory, and shared. */
static struct bench_memory guest_memory __aligned(4096);

static void guest_attend(volatile struct bench_memory *memory, unsigned int i)
{
}

static void guest_code(u64 i)
{
	guest_main(&guest_memory, i);
}

/**
 * struct vmm_vcpu - a vCPU of this process
 * @vcpu: KVM's
 * @thread: its thread
 * @wake: signalled when anything below has changed
 * @stop: it shall stop
 * @stopped: it has
 */
struct vmm_vcpu {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	pthread_cond_t wake;
	bool stop;
	bool stopped;
};

/* There is one VM in this process. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t stopped;
	struct vmm_vcpu vcpus[GUEST_VCPUS_MAX];
	int nr_vcpus;
	int running;
	u32 percent_x100;
	bool paused;
	u64 pause_timer_ns;
	volatile struct bench_memory *memory;
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

/* The steps of Cloud Hypervisor's throttle thread. */
static void pause_timer(void)
{
	u64 start = now_ns();
	u64 pause_ns = PAUSE_PERIOD_NS * (vmm.percent_x100 / 100) / 100;

	if (vmm.paused) {
		run(vmm.running);
		vmm.pause_timer_ns = start + PAUSE_PERIOD_NS - pause_ns;
	} else {
		vmm.state->windows += vmm.running;
		stop_all();
		vmm.pause_timer_ns = start + pause_ns;
	}
	vmm.paused = !vmm.paused;
}

static void set_throttle(u32 percent_x100)
{
	vmm.percent_x100 = percent_x100;
	vmm.pause_timer_ns = percent_x100 ? now_ns() : NEVER;
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
		/* As Cloud Hypervisor does. */
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
		if (vmm.pause_timer_ns <= now_ns())
			pause_timer();
		next = vmm.pause_timer_ns;
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
	u64 khz;
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
	vmm.memory->orders.kind = kind;
	vmm.memory->orders.nr_vcpus = vmm.nr_vcpus;
	vmm.memory->orders.gap_cycles = GAP_MIN_NS * khz / 1000000;
	vmm.memory->orders.exit_cycles =
		kind == BENCH_EXIT ? EXIT_WINDOW_NS * khz / 1000000 : NEVER;

	set_throttle(0);
	for (i = 0; i < vmm.nr_vcpus; i++) {
		struct vmm_vcpu *v = &vmm.vcpus[i];

		v->vcpu = vcpus[i];
		v->stop = true;
		pthread_cond_init(&v->wake, &monotonic);
		vcpu_args_set(v->vcpu, 1, (u64)i);
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

void *bench_shared(size_t size, int *fd)
{
	void *address;

	*fd = memfd_create("bench", MFD_CLOEXEC);
	TEST_ASSERT(*fd >= 0 && !ftruncate(*fd, size), "memfd");
	address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	TEST_ASSERT(address != MAP_FAILED, "mmap");
	return address;
}

static bool is_qemu(const struct bench_vm *vm)
{
	return vm->vmm != VMM_OWN;
}

void bench_vm_start(struct bench_vm *vm, int index, enum bench_guest_kind kind,
		    enum bench_vmm vmm_kind, int nr_vcpus)
{
	int sockets[2], memory_fd, state_fd;
	char answer = 0;

	*vm = (struct bench_vm) { .nr_vcpus = nr_vcpus, .index = index, .vmm = vmm_kind };
	vm->state = bench_shared(sizeof(*vm->state), &state_fd);
	close(state_fd);
	if (is_qemu(vm)) {
		qemu_start(vm, kind);
		return;
	}
	vm->memory = bench_shared(sizeof(*vm->memory), &memory_fd);
	TEST_ASSERT(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), "socketpair");
	vm->pid = fork();
	TEST_ASSERT(vm->pid >= 0, "fork");
	if (!vm->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(sockets[0]);
		vmm.nr_vcpus = nr_vcpus;
		vmm.memory = vm->memory;
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
	if (is_qemu(vm))
		qemu_run(vm, nr_vcpus);
	else
		ask(vm, REQUEST_RUN, nr_vcpus);
}

void bench_vm_stop(struct bench_vm *vm)
{
	if (is_qemu(vm))
		qemu_stop(vm);
	else
		ask(vm, REQUEST_STOP, 0);
}

void bench_vm_throttle(struct bench_vm *vm, u32 percent_x100)
{
	ask(vm, REQUEST_THROTTLE, percent_x100);
}

void bench_vm_end(struct bench_vm *vm)
{
	if (is_qemu(vm)) {
		qemu_end(vm);
		return;
	}
	kill(vm->pid, SIGKILL);
	waitpid(vm->pid, NULL, 0);
	if (vm->throttle_fd >= 0)
		close(vm->throttle_fd);
	close(vm->socket);
	munmap((void *)vm->memory, sizeof(*vm->memory));
	munmap((void *)vm->state, sizeof(*vm->state));
}
