// SPDX-License-Identifier: GPL-2.0
/*
 * The ways to throttle a VM, for the bench (see peers.h).
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "peers.h"

#define CGROUPS		"/sys/fs/cgroup"

/* cpulimit's: length of a cycle, of a measurement at least, and its smoothing. */
#define STOP_SLOT_NS	(100 * MS)
#define STOP_SAMPLE_NS	(20 * MS)
#define STOP_ALPHA	0.08
#define STOP_EPSILON	0.000001

/* How many CPUs the VM gets at full speed. */
static double vm_cpus(struct bench_vm *vm)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	return vm->nr_vcpus < cpus ? vm->nr_vcpus : cpus;
}

static bool no_set(struct bench_vm *vm, u32 percent_x100)
{
	return !percent_x100;
}

static u64 no_windows(struct bench_vm *vm)
{
	return 0;
}

static u64 no_period_ns(u32 percent_x100)
{
	return 10 * MS;
}

/* --- kvm_throttle ---------------------------------------------------------- */

static bool module_set(struct bench_vm *vm, u32 percent_x100)
{
	TEST_ASSERT(vm->throttle_fd >= 0, "kvm_throttle isn't loaded");
	return !throttle_set(vm->throttle_fd, percent_x100, 0);
}

static u64 module_windows(struct bench_vm *vm)
{
	struct kvm_throttle_vcpu_state states[GUEST_VCPUS_MAX];
	int nr = throttle_get(vm->throttle_fd, states, GUEST_VCPUS_MAX, NULL);
	u64 windows = 0;

	while (nr-- > 0)
		windows += states[nr].windows;
	return windows;
}

static u64 module_period_ns(u32 percent_x100)
{
	/* No run window is shorter than that. */
	return max((u64)KVM_THROTTLE_PERIOD_DEFAULT_NS,
		   (u64)97000 * PERCENT_ALL / (PERCENT_ALL - percent_x100));
}

/* --- throttles that the VMM makes itself ----------------------------------- */

static bool vmm_set(struct bench_vm *vm, u32 percent_x100)
{
	bench_vm_throttle(vm, percent_x100);
	return true;
}

static u64 vmm_windows(struct bench_vm *vm)
{
	return vm->state->windows;
}

static u64 timer_period_ns(u32 percent_x100)
{
	return 10 * MS * PERCENT_ALL / (PERCENT_ALL - percent_x100);
}

static u64 slow_period_ns(u32 percent_x100)
{
	return 100 * MS;
}

/* --- cgroup v2, cpu.max ---------------------------------------------------- */

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done;

	TEST_ASSERT(fd >= 0, "open %s", path);
	done = write(fd, text, strlen(text)) == strlen(text);
	close(fd);
	return done;
}

/* The VM's cgroup, or with @vcpu that of a vCPU, and a file in it. */
static void cgroup_path(char path[128], struct bench_vm *vm, int vcpu, const char *file)
{
	int size = snprintf(path, 128, CGROUPS "/bench%d", vm->index);

	if (vcpu >= 0)
		size += snprintf(path + size, 128 - size, "/vcpu%d", vcpu);
	snprintf(path + size, 128 - size, "/%s", file);
}

static void cgroup_make(struct bench_vm *vm, int vcpu)
{
	char path[128];

	cgroup_path(path, vm, vcpu, "");
	TEST_ASSERT(!mkdir(path, 0755), "mkdir %s", path);
}

static void cgroup_write(struct bench_vm *vm, int vcpu, const char *file, const char *text)
{
	char path[128];

	cgroup_path(path, vm, vcpu, file);
	TEST_ASSERT(write_file(path, text), "write %s to %s", text, path);
}

static void cgroup_prepare_vm(struct bench_vm *vm)
{
	char text[32];

	TEST_ASSERT(write_file(CGROUPS "/cgroup.subtree_control", "+cpu"), "+cpu");
	cgroup_make(vm, -1);
	snprintf(text, sizeof(text), "%d", vm->pid);
	cgroup_write(vm, -1, "cgroup.procs", text);
}

/* As libvirt does it: a cgroup for each vCPU's thread. */
static void cgroup_prepare_vcpus(struct bench_vm *vm)
{
	char text[32];
	int i;

	cgroup_prepare_vm(vm);
	for (i = 0; i < vm->nr_vcpus; i++) {
		cgroup_make(vm, i);
		cgroup_write(vm, i, "cgroup.type", "threaded");
	}
	cgroup_write(vm, -1, "cgroup.subtree_control", "+cpu");
	for (i = 0; i < vm->nr_vcpus; i++) {
		snprintf(text, sizeof(text), "%d", vm->state->tids[i]);
		cgroup_write(vm, i, "cgroup.threads", text);
	}
}

static void cgroup_finish(struct bench_vm *vm)
{
	char path[128];
	int i;

	/* If it lives on. */
	snprintf(path, sizeof(path), "%d", vm->pid);
	write_file(CGROUPS "/cgroup.procs", path);
	for (i = vm->nr_vcpus - 1; i >= -1; i--) {
		cgroup_path(path, vm, i, "");
		rmdir(path);
	}
	write_file(CGROUPS "/cgroup.subtree_control", "-cpu");
}

static bool cgroup_max(struct bench_vm *vm, int vcpu, u32 percent_x100, double cpus,
		       u64 period_us)
{
	u64 quota_us = cpus * period_us * (PERCENT_ALL - percent_x100) / PERCENT_ALL + 0.5;
	char path[128], text[64] = "max";

	cgroup_path(path, vm, vcpu, "cpu.max");
	if (percent_x100)
		snprintf(text, sizeof(text), "%lu %lu", quota_us, period_us);
	/* The kernel takes no quota of less than a millisecond. */
	return write_file(path, text);
}

static bool cgroup_set_vm(struct bench_vm *vm, u32 percent_x100, u64 period_us)
{
	return cgroup_max(vm, -1, percent_x100, vm_cpus(vm), period_us);
}

static bool cgroup_set_vcpus(struct bench_vm *vm, u32 percent_x100, u64 period_us)
{
	int i;

	for (i = 0; i < vm->nr_vcpus; i++)
		if (!cgroup_max(vm, i, percent_x100, 1, period_us))
			return false;
	return true;
}

static bool cgroup_set_vm_100(struct bench_vm *vm, u32 percent_x100)
{
	return cgroup_set_vm(vm, percent_x100, 100000);
}

static bool cgroup_set_vcpus_100(struct bench_vm *vm, u32 percent_x100)
{
	return cgroup_set_vcpus(vm, percent_x100, 100000);
}

static bool cgroup_set_vcpus_10(struct bench_vm *vm, u32 percent_x100)
{
	return cgroup_set_vcpus(vm, percent_x100, 10000);
}

static u64 cgroup_throttled(struct bench_vm *vm, int vcpu)
{
	char path[128], line[128];
	u64 windows = 0;
	FILE *file;

	cgroup_path(path, vm, vcpu, "cpu.stat");
	file = fopen(path, "re");
	TEST_ASSERT(file, "open %s", path);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "nr_throttled %lu", &windows) == 1)
			break;
	fclose(file);
	return windows;
}

static u64 cgroup_windows_vm(struct bench_vm *vm)
{
	return cgroup_throttled(vm, -1) * vm->nr_vcpus;
}

static u64 cgroup_windows_vcpus(struct bench_vm *vm)
{
	u64 windows = 0;
	int i;

	for (i = 0; i < vm->nr_vcpus; i++)
		windows += cgroup_throttled(vm, i);
	return windows;
}

/* --- SIGSTOP and SIGCONT ---------------------------------------------------- */

/* CPU time of a process, as exactly as /proc has it. */
static u64 cpu_time_ns(pid_t pid)
{
	unsigned long user, system;
	char path[64];
	FILE *file;
	int n;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	TEST_ASSERT(file, "open %s", path);
	n = fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
		   &user, &system);
	TEST_ASSERT(n == 2, "read %s", path);
	fclose(file);
	return (user + system) * (1000000000 / sysconf(_SC_CLK_TCK));
}

/* What cpulimit does: a share of each slot that follows the CPU time in use. */
static void stop_and_continue(struct bench_vm *vm, double limit)
{
	u64 then = now_ns(), used = cpu_time_ns(vm->pid), now, use;
	double usage = -1, rate = limit;

	setpriority(PRIO_PROCESS, 0, -20);
	for (;;) {
		now = now_ns();
		if (now - then >= STOP_SAMPLE_NS) {
			use = cpu_time_ns(vm->pid);
			if (usage < 0)
				usage = (double)(use - used) / (now - then);
			else
				usage += STOP_ALPHA * ((double)(use - used) / (now - then) - usage);
			then = now;
			used = use;
			rate *= (limit + STOP_EPSILON) / (usage + STOP_EPSILON);
			rate = max(min(rate, 1 - STOP_EPSILON), STOP_EPSILON);
		}
		kill(vm->pid, SIGCONT);
		sleep_ns(STOP_SLOT_NS * rate);
		kill(vm->pid, SIGSTOP);
		vm->state->windows += vm->nr_vcpus;
		sleep_ns(STOP_SLOT_NS * (1 - rate));
	}
}

static bool stop_set(struct bench_vm *vm, u32 percent_x100)
{
	if (vm->helper) {
		kill(vm->helper, SIGKILL);
		waitpid(vm->helper, NULL, 0);
		vm->helper = 0;
		kill(vm->pid, SIGCONT);
	}
	if (!percent_x100)
		return true;
	vm->helper = fork();
	TEST_ASSERT(vm->helper >= 0, "fork");
	if (!vm->helper) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		stop_and_continue(vm, vm_cpus(vm) * (PERCENT_ALL - percent_x100) / PERCENT_ALL);
	}
	return true;
}

static const struct peer peers[] = {
	{
		.name = "none",
		.set = no_set,
		.windows = no_windows,
		.period_ns = no_period_ns,
	},
	{
		.name = "kvm_throttle",
		.max_x100 = 9999,
		.set = module_set,
		.windows = module_windows,
		.period_ns = module_period_ns,
	},
	{
		.name = "kvm_throttle-qemu",
		.vmm = VMM_QEMU,
		.prepare = qemu_attach,
		.max_x100 = 9999,
		.set = module_set,
		.windows = module_windows,
		.period_ns = module_period_ns,
	},
	{
		.name = "qemu",
		.vmm = VMM_QEMU,
		.max_x100 = 9900,
		.ready = qemu_ready,
		.set = qemu_set,
		.set_is_slow = true,
		.windows = qemu_windows,
		.other_ns = qemu_migration_ns,
		.period_ns = timer_period_ns,
	},
	{
		.name = "qemu-vcpu-timers",
		.vmm = VMM_QEMU_VCPU_TIMERS,
		.max_x100 = 9900,
		.ready = qemu_ready,
		.set = qemu_set,
		.set_is_slow = true,
		.windows = qemu_windows,
		.other_ns = qemu_migration_ns,
		.period_ns = timer_period_ns,
	},
	{
		.name = "cpu.max-vcpu-100ms",
		.max_x100 = 9999,
		.prepare = cgroup_prepare_vcpus,
		.set = cgroup_set_vcpus_100,
		.windows = cgroup_windows_vcpus,
		.period_ns = slow_period_ns,
		.finish = cgroup_finish,
	},
	{
		.name = "cpu.max-vcpu-10ms",
		.max_x100 = 9999,
		.prepare = cgroup_prepare_vcpus,
		.set = cgroup_set_vcpus_10,
		.windows = cgroup_windows_vcpus,
		.period_ns = no_period_ns,
		.finish = cgroup_finish,
	},
	{
		.name = "cpu.max-vm-100ms",
		.max_x100 = 9999,
		.prepare = cgroup_prepare_vm,
		.set = cgroup_set_vm_100,
		.windows = cgroup_windows_vm,
		.period_ns = slow_period_ns,
		.finish = cgroup_finish,
	},
	{
		.name = "pause-resume",
		.max_x100 = 9900,
		.set = vmm_set,
		.windows = vmm_windows,
		.period_ns = slow_period_ns,
	},
	{
		.name = "pause-resume-qemu",
		.vmm = VMM_QEMU,
		.max_x100 = 9900,
		.set = qemu_pause_set,
		.windows = vmm_windows,
		.period_ns = slow_period_ns,
	},
	{
		.name = "sigstop",
		.max_x100 = 9900,
		.set = stop_set,
		.windows = vmm_windows,
		.period_ns = slow_period_ns,
	},
};

const struct peer *peer_find(const char *name)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(peers); i++)
		if (!strcmp(peers[i].name, name))
			return &peers[i];
	return NULL;
}

void peer_list(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(peers); i++)
		printf("  %s\n", peers[i].name);
}
