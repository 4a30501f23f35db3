// SPDX-License-Identifier: GPL-2.0
/*
 * Who owns a throttle, and what ends it: owners that crash, fds that travel,
 * VMs that die first, and unloading the module.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <linux/bpf.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "kselftest_harness.h"
#include "throttle_util.h"

#define DEVICE		"/dev/kvm_throttle"
#define DEVICE_MAJOR	10
#define DEVICE_MINOR	249

/*
 * For tests that run modprobe: in the deterministic VM, time runs ahead while it
 * is read from the disk.
 */
#define MODPROBE_S	600

FIXTURE(owner) {
	int sockets[2];
};

static void open_sockets(int sockets[2])
{
	TEST_ASSERT(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets),
		    "socketpair");
}

FIXTURE_SETUP(owner)
{
	const char *missing = throttle_missing();

	if (missing)
		SKIP(return, "%s", missing);
	open_sockets(self->sockets);
	wait_for_hooks();
}

FIXTURE_TEARDOWN(owner)
{
}

/* A process with a running VM, whose fd it sends; it lives until killed. */
static pid_t start_vm_process(int sockets[2], struct guest *g, bool keep_vm)
{
	pid_t pid = fork();

	TEST_ASSERT(pid >= 0, "fork");
	if (pid)
		return pid;

	guest_create(g, GUEST_WORK, 2);
	sleep_ns(50 * MS);
	send_fd(sockets[1], g->vm->fd);
	if (!keep_vm) {
		char c;

		/* Until told to. */
		TEST_ASSERT(recv(sockets[1], &c, 1, 0) == 1, "recv");
		guest_destroy(g);
		send_fd(sockets[1], 0);
	}
	for (;;)
		pause();
}

/* Attach to the VM of another process, by its fd. */
static int attach_to(int sockets[2])
{
	int vm_fd = receive_fd(sockets[0]);
	int fd = throttle_attach(vm_fd);

	TEST_ASSERT(fd >= 0, "KVM_THROTTLE_ATTACH: %d", fd);
	close(vm_fd);
	return fd;
}

TEST_F(owner, killed_owner)
{
	struct guest g;
	double full;
	pid_t pid;
	char c = 0;

	guest_create(&g, GUEST_WORK, 1);
	full = guest_speed(&g, 200 * MS);
	pid = fork();
	if (!pid) {
		int fd = throttle_attach(g.vm->fd);

		throttle_set(fd, SLOW, 0);
		send(self->sockets[1], &c, 1, 0);
		for (;;)
			pause();
	}
	ASSERT_EQ(recv(self->sockets[0], &c, 1, 0), 1);
	EXPECT_TRUE(guest_is_slow(&g, full));
	EXPECT_EQ(throttle_attach(g.vm->fd), -EBUSY);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	EXPECT_TRUE(guest_is_fast(&g, full));
	guest_destroy(&g);
}

TEST_F(owner, fd_that_travels)
{
	struct guest g;
	double full;
	pid_t pid;
	int fd, copy;

	guest_create(&g, GUEST_WORK, 1);
	full = guest_speed(&g, 200 * MS);
	pid = fork();
	if (!pid) {
		fd = throttle_attach(g.vm->fd);
		throttle_set(fd, SLOW, 0);
		send_fd(self->sockets[1], fd);
		_exit(0);
	}
	fd = receive_fd(self->sockets[0]);
	waitpid(pid, NULL, 0);
	EXPECT_TRUE(guest_is_slow(&g, full));
	copy = dup(fd);
	close(fd);
	EXPECT_TRUE(guest_is_slow(&g, full));

	/* On its way to nobody: the socket has the last copy. */
	send_fd(self->sockets[0], copy);
	close(copy);
	EXPECT_TRUE(guest_is_slow(&g, full));
	close(self->sockets[0]);
	close(self->sockets[1]);
	EXPECT_TRUE(guest_is_fast(&g, full));
	guest_destroy(&g);
}

TEST_F(owner, fd_that_is_inherited)
{
	struct guest g;
	double full;
	pid_t pid;
	int fd;

	guest_create(&g, GUEST_WORK, 1);
	full = guest_speed(&g, 200 * MS);
	fd = throttle_attach(g.vm->fd);
	ASSERT_EQ(throttle_set(fd, SLOW, 0), 0);
	pid = fork();
	if (!pid) {
		for (;;)
			pause();
	}
	close(fd);
	EXPECT_TRUE(guest_is_slow(&g, full));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	EXPECT_TRUE(guest_is_fast(&g, full));
	guest_destroy(&g);
}

static void expect_dead(struct __test_metadata *_metadata, int fd)
{
	struct pollfd pfd = { .fd = fd };

	EXPECT_EQ(poll(&pfd, 1, 2000), 1);
	EXPECT_EQ(pfd.revents, POLLHUP);
	EXPECT_EQ(throttle_set(fd, 5000, 0), -ESRCH);
	EXPECT_EQ(throttle_get(fd, NULL, 0, NULL), -ESRCH);
}

TEST_F(owner, vm_process_dies_first)
{
	int vms = vm_count(), fd;
	struct guest g;
	pid_t pid;

	pid = start_vm_process(self->sockets, &g, true);
	fd = attach_to(self->sockets);
	EXPECT_EQ(vm_count(), vms + 1);
	ASSERT_EQ(throttle_set(fd, 9990, 0), 0);
	sleep_ns(50 * MS);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	expect_dead(_metadata, fd);
	/* The throttle fd keeps nothing of the VM. */
	EXPECT_TRUE(vm_count_becomes(vms));
	close(fd);
}

TEST_F(owner, vm_dies_first_in_a_living_process)
{
	int vms = vm_count(), fd;
	struct guest g;
	pid_t pid;
	char c = 0;

	pid = start_vm_process(self->sockets, &g, false);
	fd = attach_to(self->sockets);
	ASSERT_EQ(throttle_set(fd, 9990, 0), 0);
	sleep_ns(50 * MS);
	send(self->sockets[0], &c, 1, 0);
	close(receive_fd(self->sockets[0]));
	expect_dead(_metadata, fd);
	EXPECT_TRUE(vm_count_becomes(vms));
	close(fd);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* Destroying a VM may mean to wait for its process; nobody else has to. */
TEST_F(owner, vm_dies_first_in_a_stopped_process)
{
	int vms = vm_count(), fd, status;
	struct guest g;
	u64 begin;
	pid_t pid;
	char c = 0;

	pid = fork();
	if (!pid) {
		guest_create(&g, GUEST_WORK, 2);
		sleep_ns(50 * MS);
		send_fd(self->sockets[1], g.vm->fd);
		recv(self->sockets[1], &c, 1, 0);
		guest_destroy(&g);
		raise(SIGSTOP);
		for (;;)
			pause();
	}
	fd = attach_to(self->sockets);
	ASSERT_EQ(throttle_set(fd, 9990, 0), 0);
	send(self->sockets[0], &c, 1, 0);
	ASSERT_EQ(waitpid(pid, &status, WUNTRACED), pid);
	begin = now_ns();
	expect_dead(_metadata, fd);
	close(fd);
	if (throttle_exact())
		EXPECT_LT(now_ns() - begin, 10 * MS);
	EXPECT_TRUE(vm_count_becomes(vms));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

TEST_F(owner, attach_to_a_dead_vm)
{
	struct guest g;
	pid_t pid;
	int vm_fd;

	pid = start_vm_process(self->sockets, &g, true);
	vm_fd = receive_fd(self->sockets[0]);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	EXPECT_EQ(throttle_attach(vm_fd), -ESRCH);
	close(vm_fd);
}

TEST_F(owner, one_owner_then_another)
{
	struct guest g;
	int fd, i;

	guest_create(&g, GUEST_WORK, 1);
	for (i = 0; i < 20; i++) {
		fd = throttle_attach(g.vm->fd);
		ASSERT_GE(fd, 0);
		EXPECT_EQ(throttle_attach(g.vm->fd), -EBUSY);
		EXPECT_EQ(throttle_set(fd, 9990, 0), 0);
		sleep_ns(i * MS);
		close(fd);
	}
	guest_destroy(&g);
}

TEST_F(owner, device_is_not_for_everybody)
{
	struct stat st;

	ASSERT_EQ(stat(DEVICE, &st), 0);
	EXPECT_EQ(st.st_mode & 0007, 0);
}

/* 0 if @path can't be opened for want of permission. */
static int can_open(const char *path, int flags)
{
	return open(path, flags | O_CLOEXEC) >= 0 || errno != EACCES;
}

/*
 * What a process of nobody's tries on the VM @vm_fd of process @pid: the number
 * of the first thing that it is let do, or 0.  @device is what it must not have.
 */
static int try_as_nobody(pid_t pid, int vm_fd, int device)
{
	struct kvm_throttle_attach attach = { .vm_fd = vm_fd };
	int pidfd = syscall(SYS_pidfd_open, pid, 0);
	char path[64];

	if (setgroups(0, NULL) || setgid(65534) || setuid(65534))
		return 1;
	if (can_open(DEVICE, O_RDWR))
		return 2;
	if (can_open(DEVICE, O_RDONLY))
		return 3;
	if (can_open("/sys/kernel/debug/kvm_throttle", O_RDONLY))
		return 4;
	if (can_open("/sys/kernel/tracing/events/kvm_throttle", O_RDONLY))
		return 5;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, vm_fd);
	if (can_open(path, O_RDWR))
		return 6;
	if (syscall(SYS_pidfd_getfd, pidfd, vm_fd, 0) >= 0 || errno != EPERM)
		return 7;
	/* Not with the device either: the VM's fd is another process's. */
	close(vm_fd);
	if (ioctl(device, KVM_THROTTLE_ATTACH, &attach) >= 0 || errno != EBADF)
		return 8;
	return 0;
}

TEST_F(owner, nobody_can_do_nothing)
{
	int device = open(DEVICE, O_RDWR | O_CLOEXEC), status;
	struct guest g;
	pid_t pid;

	ASSERT_GE(device, 0);
	guest_create(&g, GUEST_WORK, 1);
	pid = fork();
	if (!pid)
		_exit(try_as_nobody(getppid(), g.vm->fd, device));
	waitpid(pid, &status, 0);
	EXPECT_EQ(status, 0)
		TH_LOG("nobody could do %d", WEXITSTATUS(status));
	close(device);
	guest_destroy(&g);
}

#define CGROUPS		"/sys/fs/cgroup"
#define CGROUP		CGROUPS "/owner_test"

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	TEST_ASSERT(fd >= 0 && write(fd, text, strlen(text)) == strlen(text), "%s: errno %d",
		    path, errno);
	close(fd);
}

static void make_cgroup(void)
{
	TEST_ASSERT(!mkdir(CGROUP, 0755) || errno == EEXIST, CGROUP ": errno %d", errno);
}

/* Who was in it may be on its way out. */
static void remove_cgroup(void)
{
	int i;

	for (i = 0; i < 100 && rmdir(CGROUP); i++)
		sleep_ns(10 * MS);
}

/* Kernel memory that is charged to the cgroup; -1 where that isn't told. */
static long charged(void)
{
	FILE *file;
	char line[200];
	long bytes = -1;

	/*
	 * What CPUs have counted by themselves is put together every two seconds, but not by
	 * a CPU that is idle.  Up to 6.15, who reads this does it too.
	 */
	sleep_ns(3000 * MS);
	file = fopen(CGROUP "/cpu.stat", "r");
	while (file && fgets(line, sizeof(line), file))
		;
	if (file)
		fclose(file);
	file = fopen(CGROUP "/memory.stat", "r");
	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "kernel %ld", &bytes);
	if (file)
		fclose(file);
	return bytes;
}

#define CHARGED_VMS	4
#define CHARGED_VCPUS	64

/* What attaching to a VM is charged for, in bytes, on average. */
static long charged_for(int nr_vcpus)
{
	struct kvm_vcpu *vcpus[CHARGED_VCPUS];
	struct kvm_vm *vms[CHARGED_VMS];
	int fds[CHARGED_VMS], i;
	long bytes;

	for (i = 0; i < CHARGED_VMS; i++)
		vms[i] = vm_create_with_vcpus(nr_vcpus, NULL, vcpus);
	bytes = charged();
	for (i = 0; i < CHARGED_VMS; i++)
		fds[i] = throttle_attach(vms[i]->fd);
	bytes = charged() - bytes;
	for (i = 0; i < CHARGED_VMS; i++) {
		TEST_ASSERT(fds[i] >= 0, "KVM_THROTTLE_ATTACH: %d", fds[i]);
		close(fds[i]);
		kvm_vm_free(vms[i]);
	}
	return bytes / CHARGED_VMS;
}

/* A process that hardly ever gets a CPU, as guests run on all of them. */
static pid_t fork_starving(void)
{
	struct sched_param param = {};
	pid_t pid = fork();

	TEST_ASSERT(pid >= 0, "fork");
	if (!pid)
		TEST_ASSERT(!sched_setscheduler(0, SCHED_IDLE, &param), "SCHED_IDLE");
	return pid;
}

/* Does it wait, or has it run for @ns?  Its /proc/PID/stat, and its schedstat. */
static bool has_run(pid_t pid, u64 ns)
{
	unsigned long long ran_ns = 0;
	char path[64], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/schedstat", pid);
	file = fopen(path, "r");
	TEST_ASSERT(file && fscanf(file, "%llu", &ran_ns) == 1, "%s", path);
	fclose(file);
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "r");
	TEST_ASSERT(file && fscanf(file, "%*d (%*[^)]) %c", &state) == 1, "%s", path);
	fclose(file);
	return state != 'R' || ran_ns > ns;
}

/* The first limit on a host takes a tenth of a second of somebody's CPU time. */
TEST_F(owner, nobody_waits_for_who_has_no_cpu)
{
	struct guest g[2];
	int fds[2], i, r;
	u64 begin, ns;
	pid_t pid;

	be_on_time();
	for (i = 0; i < 2; i++) {
		guest_create(&g[i], GUEST_WORK, 1);
		fds[i] = throttle_attach(g[i].vm->fd);
		ASSERT_GE(fds[i], 0);
	}
	pid = fork_starving();
	if (!pid) {
		throttle_set_dirty(fds[0], 0, 1000);
		for (;;)
			pause();
	}
	begin = now_ns();
	while (!has_run(pid, 3 * MS) && now_ns() < begin + 60000 * MS)
		sleep_ns(10 * MS);
	begin = now_ns();
	r = throttle_set_dirty(fds[1], 0, 1000);
	ns = now_ns() - begin;
	EXPECT_TRUE(!r || r == -EOPNOTSUPP);
	TH_LOG("%llu ms", (unsigned long long)(ns / MS));
	if (throttle_exact())
		EXPECT_LT(ns, 1000 * MS);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	for (i = 0; i < 2; i++) {
		close(fds[i]);
		guest_destroy(&g[i]);
	}
}

/*
 * Who attaches pays for the throttle, with its pointers to vCPUs, and for what there is
 * for each vCPU.  There is nothing for each thread.
 */
TEST_F(owner, memory_is_charged)
{
	long one, many;

	write_text(CGROUPS "/cgroup.subtree_control", "+memory");
	make_cgroup();
	write_text(CGROUP "/cgroup.procs", "0");
	if (charged() < 0)
		SKIP(goto out, "memory.stat has no line \"kernel\"");
	one = charged_for(1);
	many = charged_for(CHARGED_VCPUS);
	TH_LOG("%ld bytes with 1 vCPU, %ld with %d", one, many, CHARGED_VCPUS);
	EXPECT_GE(one, kvm_check_cap(KVM_CAP_MAX_VCPUS) * (long)sizeof(void *));
	EXPECT_GE(many - one, (CHARGED_VCPUS - 1) * 512);
out:
	/* Back to the root, where the test began. */
	write_text(CGROUPS "/cgroup.procs", "0");
	remove_cgroup();
}

/* 0 or errno of opening the device by @path. */
static int open_error(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

/* Forbid all devices to who is in the cgroup @dir. */
static int forbid_devices(int dir)
{
	static const struct bpf_insn no[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr load = {
		.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
		.insns = (uintptr_t)no,
		.insn_cnt = ARRAY_SIZE(no),
		.license = (uintptr_t)"GPL",
	};
	union bpf_attr attach = {
		.target_fd = dir,
		.attach_bpf_fd = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load)),
		.attach_type = BPF_CGROUP_DEVICE,
	};

	return syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof(attach));
}

TEST_F(owner, device_cgroup)
{
	int dir, status;
	pid_t pid;

	make_cgroup();
	dir = open(CGROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_GE(dir, 0);
	if (forbid_devices(dir))
		SKIP(goto out, "this kernel has no BPF for cgroups");
	pid = fork();
	if (!pid) {
		write_text(CGROUP "/cgroup.procs", "0");
		_exit(open_error(DEVICE));
	}
	waitpid(pid, &status, 0);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(WEXITSTATUS(status), EPERM);
	EXPECT_EQ(open_error(DEVICE), 0);
out:
	close(dir);
	remove_cgroup();
}

/* A thread's id is told only to those whose pid namespace it is in. */
TEST_F(owner, pid_namespaces)
{
	struct kvm_throttle_vcpu_state state;
	struct guest g;
	int fd, status;
	pid_t pid;

	guest_create(&g, GUEST_WORK, 1);
	/* It is known when the vCPU has run. */
	fd = throttle_attach(g.vm->fd);
	EXPECT_TRUE(WAIT_FOR(throttle_get(fd, &state, 1, NULL) == 1 && state.tid > 0,
			     20 * MS, 20000 * MS));
	pid = fork();
	if (!pid) {
		if (unshare(CLONE_NEWPID))
			_exit(1);
		pid = fork();
		if (!pid)
			_exit(throttle_get(fd, &state, 1, NULL) == 1 && !state.tid ? 0 : 2);
		waitpid(pid, &status, 0);
		_exit(WEXITSTATUS(status));
	}
	waitpid(pid, &status, 0);
	EXPECT_EQ(status, 0);
	close(fd);
	guest_destroy(&g);
}

FIXTURE(module) {
	int sockets[2];
};

FIXTURE_SETUP(module)
{
	const char *missing = throttle_missing();

	if (!missing && system("modinfo -n kvm_throttle >/dev/null 2>&1"))
		missing = "modprobe doesn't know kvm_throttle: make install";
	if (missing)
		SKIP(return, "%s", missing);
	open_sockets(self->sockets);
}

FIXTURE_TEARDOWN(module)
{
}

#define EXPECT_UNLOADS() do {						\
	EXPECT_EQ(module_unload(1000 * MS), 0);				\
	EXPECT_EQ(system("modprobe kvm_throttle"), 0);			\
} while (0)

/* To open the device loads the module, or fails if that can't be loaded. */
TEST_F_TIMEOUT(module, is_loaded_by_open, MODPROBE_S)
{
	static const char helper[] = "/proc/sys/kernel/modprobe", node[] = DEVICE "_test";
	int file = open(helper, O_RDONLY | O_CLOEXEC);
	char old[256] = {};

	ASSERT_GT(read(file, old, sizeof(old) - 1), 0);
	close(file);
	EXPECT_EQ(module_unload(1000 * MS), 0);
	/* As systemd makes it at boot: here the module's own has gone with it. */
	ASSERT_EQ(mknod(node, S_IFCHR | 0600, makedev(DEVICE_MAJOR, DEVICE_MINOR)), 0);
	write_text(helper, "\n");
	EXPECT_EQ(open_error(node), ENODEV);
	write_text(helper, old);
	EXPECT_EQ(open_error(node), 0);
	unlink(node);
	EXPECT_EQ(open_error(DEVICE), 0);
}

TEST_F_TIMEOUT(module, in_use_while_attached, MODPROBE_S)
{
	struct guest g;
	int fd;

	guest_create(&g, GUEST_WORK, 1);
	fd = throttle_attach(g.vm->fd);
	EXPECT_EQ(module_unload(0), EWOULDBLOCK);
	ASSERT_EQ(throttle_set(fd, 9000, 0), 0);
	sleep_ns(50 * MS);
	EXPECT_EQ(module_unload(0), EWOULDBLOCK);
	close(fd);
	EXPECT_UNLOADS();
	guest_destroy(&g);
}

TEST_F_TIMEOUT(module, unloads_under_a_running_vm, MODPROBE_S)
{
	struct guest g;
	double full;
	int i, fd;

	guest_create(&g, GUEST_WORK, 2);
	full = guest_speed(&g, 200 * MS);
	for (i = 0; i < 5; i++) {
		fd = throttle_attach(g.vm->fd);
		ASSERT_EQ(throttle_set(fd, 9900, 0), 0);
		sleep_ns(15 * MS);
		close(fd);
		EXPECT_UNLOADS();
	}
	EXPECT_TRUE(guest_is_fast(&g, full));
	guest_destroy(&g);
}

/* A stopped thread keeps nothing of the module, and goes on without it. */
static void check_stopped(struct __test_metadata *_metadata, int sockets[2],
			  int goes_on_with)
{
	struct kvm_throttle_vcpu_state states[2];
	struct guest g;
	pid_t pid;
	u64 begin;
	int fd;

	pid = start_vm_process(sockets, &g, true);
	fd = attach_to(sockets);
	ASSERT_EQ(throttle_set(fd, 9990, 0), 0);
	sleep_ns(250 * MS);
	ASSERT_EQ(throttle_get(fd, states, 2, NULL), 2);
	ASSERT_GT(states[0].windows, 0);

	kill(pid, SIGSTOP);
	sleep_ns(50 * MS);
	begin = now_ns();
	close(fd);
	if (throttle_exact())
		EXPECT_LT(now_ns() - begin, 10 * MS);
	EXPECT_UNLOADS();
	kill(pid, goes_on_with);
	sleep_ns(50 * MS);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

TEST_F_TIMEOUT(module, stopped_thread_that_continues, MODPROBE_S)
{
	check_stopped(_metadata, self->sockets, SIGCONT);
}

TEST_F_TIMEOUT(module, stopped_thread_that_dies, MODPROBE_S)
{
	check_stopped(_metadata, self->sockets, SIGKILL);
}

TEST_HARNESS_MAIN
