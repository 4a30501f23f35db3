// SPDX-License-Identifier: GPL-2.0
/*
 * What kvm_throttle's selftests share (see throttle_util.h).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
/* Before Linux 6.12's, that header has one of its own. */
#define sched_param	kernel_sched_param
#include <linux/sched/types.h>
#undef sched_param

#include "guest_arch.h"
#include "spend_insns.h"
#include "throttle_util.h"

/* In guest memory; the test sees it through guest::reports. */
static struct guest_report guest_reports[GUEST_VCPUS_MAX];

u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

void sleep_until_ns(u64 ns)
{
	struct timespec ts = {
		.tv_sec = ns / 1000000000,
		.tv_nsec = ns % 1000000000,
	};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL))
		;
}

void sleep_ns(u64 ns)
{
	sleep_until_ns(now_ns() + ns);
}

void be_on_time(void)
{
	struct sched_param param = { .sched_priority = 1 };

	TEST_ASSERT(!sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param),
		    "sched_setscheduler");
}

void wait_for_hooks(void)
{
	sleep_ns(2500 * MS);
}

void take_long_turns(pid_t tid)
{
	struct sched_attr attr = { .size = sizeof(attr), .sched_runtime = 100 * MS };

	TEST_ASSERT(!syscall(SYS_sched_setattr, tid, &attr, 0),
		    "sched_setattr for thread %d: errno %d", tid, errno);
}

const char *throttle_missing(void)
{
	int fd;

	fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return "/dev/kvm can't be opened: load kvm_intel or kvm_amd, and run as root";
	close(fd);
	fd = open("/dev/kvm_throttle", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return "/dev/kvm_throttle can't be opened: modprobe kvm_throttle, and run as root";
	close(fd);
	return NULL;
}

int throttle_attach(int vm_fd)
{
	struct kvm_throttle_attach attach = { .vm_fd = vm_fd };
	int dev = open("/dev/kvm_throttle", O_RDWR | O_CLOEXEC);
	int fd = -1;

	if (dev >= 0) {
		fd = ioctl(dev, KVM_THROTTLE_ATTACH, &attach);
		if (fd < 0)
			fd = -errno;
		close(dev);
	}
	return fd;
}

static int throttle_ioctl(int fd, struct kvm_throttle *set)
{
	return ioctl(fd, KVM_SET_THROTTLE, set) ? -errno : 0;
}

int throttle_set(int fd, u32 percent_x100, u64 period_ns)
{
	struct kvm_throttle set = {
		.percent_x100 = percent_x100,
		.period_ns = period_ns,
	};

	return throttle_ioctl(fd, &set);
}

int throttle_set_vcpu(int fd, u32 vcpu_id, u32 percent_x100)
{
	struct kvm_throttle set = {
		.flags = KVM_THROTTLE_VCPU,
		.vcpu_id = vcpu_id,
		.percent_x100 = percent_x100,
	};

	return throttle_ioctl(fd, &set);
}

int throttle_set_dirty(int fd, u32 percent_x100, u64 dirty_rate)
{
	struct kvm_throttle set = {
		.percent_x100 = percent_x100,
		.dirty_rate = dirty_rate,
	};

	return throttle_ioctl(fd, &set);
}

int throttle_get(int fd, struct kvm_throttle_vcpu_state *states, u32 nr,
		 u64 *period_ns)
{
	struct kvm_throttle_state get = {
		.nr_vcpus = states ? nr : 0,
		.vcpu_size = states ? sizeof(*states) : 0,
		.vcpus = (uintptr_t)states,
	};

	if (ioctl(fd, KVM_GET_THROTTLE, &get))
		return -errno;
	if (period_ns)
		*period_ns = get.period_ns;
	return get.nr_vcpus;
}

int send_fd(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = {}, c = 0;
	struct iovec iov = { &c, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	return sendmsg(socket, &msg, 0) == 1 ? 0 : -errno;
}

int receive_fd(int socket)
{
	char control[CMSG_SPACE(sizeof(int))], c;
	struct iovec iov = { &c, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	int fd;

	if (recvmsg(socket, &msg, MSG_CMSG_CLOEXEC) < 0)
		return -errno;
	if (!CMSG_FIRSTHDR(&msg))
		return -EBADMSG;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

u64 guest_unit(u64 i, u64 last)
{
	u64 now;

	spend_insns();
	WRITE_ONCE(guest_reports[i].work, guest_reports[i].work + 1);
	now = guest_clock();
	if (now - last > READ_ONCE(guest_reports[i].gap_cycles))
		WRITE_ONCE(guest_reports[i].gap_cycles, now - last);
	return now;
}

static void guest_code(u64 i, u64 kind)
{
	u64 last = guest_clock();

	for (;;) {
		if (kind == GUEST_HALT)
			guest_halt();
		if (kind == GUEST_IO) {
			guest_exit();
			guest_reports[i].exits++;
		}
		last = guest_unit(i, last);
	}
}

/* Its only purpose is to end KVM_RUN. */
static void stop_signal(int sig)
{
}

struct vcpu_thread {
	struct guest *guest;
	int i;
};

static void *vcpu_thread(void *arg)
{
	struct guest *g = ((struct vcpu_thread *)arg)->guest;
	int i = ((struct vcpu_thread *)arg)->i;

	free(arg);
	guest_run(g, i);
	return NULL;
}

void guest_run(struct guest *g, int i)
{
	struct kvm_run *run = g->vcpus[i]->run;
	int loop, r;
	u64 ns;

	for (;;) {
		r = __vcpu_run(g->vcpus[i]);
		g->left_ns[i] = now_ns();
		if (r) {
			TEST_ASSERT(errno == EINTR, "KVM_RUN: errno %d", errno);
			if (run->immediate_exit)
				return;
			continue;
		}
		TEST_ASSERT(run->exit_reason == GUEST_EXIT_REASON,
			    "exit reason %u", run->exit_reason);
		for (loop = 0; loop < g->slow_exits * 1000; loop++)
			barrier();
		ns = now_ns() - g->left_ns[i];
		if (ns > g->outside_ns)
			g->outside_ns = ns;
	}
}

void guest_start(struct guest *g, int i)
{
	struct vcpu_thread *arg = malloc(sizeof(*arg));

	TEST_ASSERT(arg, "out of memory");
	arg->guest = g;
	arg->i = i;
	g->vcpus[i]->run->immediate_exit = 0;
	TEST_ASSERT(!pthread_create(&g->threads[i], NULL, vcpu_thread, arg),
		    "pthread_create");
}

void guest_stop(struct guest *g, int i)
{
	g->vcpus[i]->run->immediate_exit = 1;
	pthread_kill(g->threads[i], SIGUSR1);
	pthread_join(g->threads[i], NULL);
}

static void guest_setup_vcpu(struct guest *g, int i, enum guest_kind kind)
{
	vcpu_args_set(g->vcpus[i], 2, (u64)i, (u64)kind);
	guest_start(g, i);
}

void guest_create(struct guest *g, enum guest_kind kind, int nr_vcpus)
{
	int i;

	guest_prepare(g, guest_code, nr_vcpus);
	for (i = 0; i < nr_vcpus; i++)
		guest_setup_vcpu(g, i, kind);
}

void guest_prepare(struct guest *g, void *code, int nr_vcpus)
{
	guest_prepare_in(g, vm_create(nr_vcpus), code, nr_vcpus);
}

void guest_prepare_in(struct guest *g, struct kvm_vm *vm, void *code, int nr_vcpus)
{
	struct sigaction action = { .sa_handler = stop_signal };
	int i;

	sigaction(SIGUSR1, &action, NULL);
	g->nr_vcpus = nr_vcpus;
	g->slow_exits = 0;
	g->outside_ns = 0;
	g->vm = vm;
	for (i = 0; i < nr_vcpus; i++)
		g->vcpus[i] = vm_vcpu_add(vm, i, code);
	g->reports = addr_gva2hva(g->vm, (uintptr_t)guest_reports);
	/* Not to be asked for while a vCPU runs: KVM_RUN holds its mutex. */
	g->clock_khz = guest_clock_khz(g->vcpus[0]);
}

void guest_add_vcpu(struct guest *g, enum guest_kind kind)
{
	int i = g->nr_vcpus++;

	g->vcpus[i] = vm_vcpu_add(g->vm, i, guest_code);
	guest_setup_vcpu(g, i, kind);
}

void guest_destroy(struct guest *g)
{
	int i;

	for (i = 0; i < g->nr_vcpus; i++)
		guest_stop(g, i);
	kvm_vm_free(g->vm);
}

u64 guest_work(const struct guest *g)
{
	u64 work = 0;
	int i;

	for (i = 0; i < g->nr_vcpus; i++)
		work += g->reports[i].work;
	return work;
}

double guest_speed(const struct guest *g, u64 ns)
{
	u64 work = guest_work(g), start = now_ns();

	sleep_until_ns(start + ns);
	work = guest_work(g) - work;
	return work * 1e9 / (now_ns() - start);
}

/*
 * Is the speed over @full between the two?  Where timers are late, the guest may be
 * anything for a while.
 */
static bool guest_becomes(const struct guest *g, double full, double low, double high)
{
	int tries = throttle_exact() ? 1 : 20;
	double speed;

	sleep_ns(30 * MS);
	while (tries--) {
		speed = guest_speed(g, 300 * MS);
		/* A guest that does nothing is neither. */
		if (speed > 0 && speed >= low * full && speed <= high * full)
			return true;
	}
	return false;
}

bool guest_is_slow(const struct guest *g, double full)
{
	return throttle_exact() ? guest_becomes(g, full, 0.005, 0.02) :
				  guest_becomes(g, full, 0, 0.1);
}

bool guest_is_fast(const struct guest *g, double full)
{
	return throttle_exact() ? guest_becomes(g, full, 0.9, 1.1) :
				  guest_becomes(g, full, 0.1, INFINITY);
}

/* KVM keeps a directory for each VM while it exists. */
int vm_count(void)
{
	DIR *dir = opendir("/sys/kernel/debug/kvm");
	struct dirent *entry;
	int n = 0;

	TEST_ASSERT(dir, "debugfs");
	/* Only directories are VMs; the files beside them are statistics. */
	while ((entry = readdir(dir)))
		n += entry->d_type == DT_DIR && entry->d_name[0] != '.';
	closedir(dir);
	return n;
}

bool vm_count_becomes(int n)
{
	int i;

	for (i = 0; i < 100 && vm_count() != n; i++)
		sleep_ns(20 * MS);
	return vm_count() == n;
}

int module_unload(u64 wait_ns)
{
	u64 end = now_ns() + wait_ns;

	while (syscall(SYS_delete_module, "kvm_throttle", O_NONBLOCK)) {
		if (errno != EWOULDBLOCK || now_ns() >= end)
			return errno;
		sleep_ns(10 * MS);
	}
	return 0;
}

bool throttle_exact(void)
{
	return getenv("KVM_THROTTLE_EXACT");
}

bool host_has_pml(void)
{
	FILE *file = fopen("/sys/module/kvm_intel/parameters/pml", "re");
	bool has;

	if (!file)
		return false;
	has = fgetc(file) == 'Y';
	fclose(file);
	return has;
}
