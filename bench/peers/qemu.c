// SPDX-License-Identifier: GPL-2.0
/*
 * QEMU as the VMM, with firmware.c as the guest, or one that somebody else has started
 * (see peers.h). QEMU throttles by itself only while it migrates: here into nothing, and
 * so slowly that it doesn't end.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "peers.h"

/* In memory, where measure.py has put it. */
#define DIRECTORY	"/tmp/migration/"
#define LOG		DIRECTORY "qemu.log"
#define KVM_DEBUGFS	"/sys/kernel/debug/kvm"

/* What QEMU calls them, with -name debug-threads=on. */
#define MIGRATION_THREAD	"mig/src/main"
#define VCPU_THREAD		"CPU 0/KVM"

#define POLL_NS		(20 * MS)

/*
 * Bytes per second: what the guest dirties takes a bit more than a second, since QEMU
 * looks no more often; and as little as can be, so that it takes minutes.
 */
#define BANDWIDTH_FAST	(48 << 20)
#define BANDWIDTH_SLOW	8192

/* Valid until the next one. */
static const char *qmp_answer(struct bench_vm *vm, const char *command)
{
	static size_t size;
	static char *line;

	do
		TEST_ASSERT(getline(&line, &size, vm->qmp) > 0, "QEMU has ended; see %s", LOG);
	while (strncmp(line, "{\"return\"", 9) && strncmp(line, "{\"error\"", 8));
	TEST_ASSERT(strncmp(line, "{\"error\"", 8), "QEMU: %s%s", command, line);
	return line;
}

__printf(2, 3)
static const char *qmp(struct bench_vm *vm, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	TEST_ASSERT(vdprintf(fileno(vm->qmp), format, arguments) > 0, "write to QEMU");
	va_end(arguments);
	return qmp_answer(vm, format);
}

/* Where a migration may go, as "fd:null", once: no program takes time to read it. */
static void qmp_send_null(struct bench_vm *vm)
{
	char command[] = "{'execute': 'getfd', 'arguments': {'fdname': 'null'}}";
	char control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec text = { .iov_base = command, .iov_len = strlen(command) };
	struct msghdr message = {
		.msg_iov = &text, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

	TEST_ASSERT(fd >= 0, "open /dev/null");
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	TEST_ASSERT(sendmsg(fileno(vm->qmp), &message, 0) == text.iov_len, "sendmsg");
	close(fd);
	qmp_answer(vm, command);
}

/* A number in an answer, or 0. */
static long qmp_number(const char *answer, const char *name)
{
	char key[64];
	const char *at;

	snprintf(key, sizeof(key), "\"%s\": ", name);
	at = strstr(answer, key);
	return at ? atol(at + strlen(key)) : 0;
}

/* The directory that KVM has for the VM, below @KVM_DEBUGFS: PID-FD. */
static long long debugfs_number(struct bench_vm *vm, const char *file)
{
	char path[320], prefix[16];
	long long value = 0;
	struct dirent *entry;
	DIR *dir;
	FILE *f;

	snprintf(prefix, sizeof(prefix), "%d-", vm->pid);
	dir = opendir(KVM_DEBUGFS);
	TEST_ASSERT(dir, "open %s", KVM_DEBUGFS);
	do {
		entry = readdir(dir);
		TEST_ASSERT(entry, "no VM in %s/%s*", KVM_DEBUGFS, prefix);
	} while (strncmp(entry->d_name, prefix, strlen(prefix)));
	snprintf(path, sizeof(path), KVM_DEBUGFS "/%.255s/%.31s", entry->d_name, file);
	closedir(dir);
	f = fopen(path, "re");
	TEST_ASSERT(f && fscanf(f, "%lli", &value) == 1, "read %s", path);
	fclose(f);
	return value;
}

/* From outside, as the kvm-throttle command does it. */
void qemu_attach(struct bench_vm *vm)
{
	int pidfd = syscall(SYS_pidfd_open, vm->pid, 0), fd, copy;
	char path[64], target[64];
	ssize_t size;

	TEST_ASSERT(pidfd >= 0, "pidfd_open");
	for (fd = 0; fd < 256; fd++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", vm->pid, fd);
		size = readlink(path, target, sizeof(target) - 1);
		target[max(size, 0L)] = '\0';
		if (strcmp(target, "anon_inode:kvm-vm"))
			continue;
		copy = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
		TEST_ASSERT(copy >= 0, "pidfd_getfd");
		vm->throttle_fd = throttle_attach(copy);
		close(copy);
	}
	close(pidfd);
}

static const char *binary_of(enum bench_vmm vmm)
{
	return vmm == VMM_QEMU_VCPU_TIMERS ? DIRECTORY "qemu-vcpu-timers" : DIRECTORY "qemu-stock";
}

static void execute(struct bench_vm *vm, int monitor)
{
	int log = open(LOG, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	char ram[128], socket[64], smp[16], megabytes[16];

	snprintf(ram, sizeof(ram), "memory-backend-file,id=ram,share=on,size=%d,mem-path=/proc/self/fd/%d",
		 FIRMWARE_END, vm->ram_fd);
	snprintf(socket, sizeof(socket), "socket,id=monitor,fd=%d", monitor);
	snprintf(smp, sizeof(smp), "%d", vm->nr_vcpus);
	snprintf(megabytes, sizeof(megabytes), "%dM", FIRMWARE_END >> 20);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(log, STDERR_FILENO);
	execl(binary_of(vm->vmm), "qemu", "-S", "-name", "bench,debug-threads=on", "-accel", "kvm", "-machine",
	      "q35,memory-backend=ram", "-cpu", "qemu64", "-smp", smp, "-m", megabytes,
	      "-object", ram, "-bios", DIRECTORY "firmware.bin", "-nodefaults",
	      "-no-user-config", "-display", "none", "-chardev", socket,
	      "-mon", "chardev=monitor,mode=control", NULL);
	perror(binary_of(vm->vmm));
	_exit(1);
}

static void launch(struct bench_vm *vm)
{
	int sockets[2];

	vm->memory->orders.started = 1;
	/* Who held it may have been killed. */
	vm->memory->lock = 0;
	TEST_ASSERT(!socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), "socketpair");
	fcntl(sockets[0], F_SETFD, FD_CLOEXEC);
	vm->pid = fork();
	TEST_ASSERT(vm->pid >= 0, "fork");
	if (!vm->pid)
		execute(vm, sockets[1]);
	close(sockets[1]);
	vm->qmp = fdopen(sockets[0], "r");
	qmp(vm, "{'execute': 'qmp_capabilities'}");
	vm->state->vm_clock_offset = debugfs_number(vm, "vcpu0/tsc-offset");
	vm->throttle_fd = -1;
}

static u64 clock_khz(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	int khz = ioctl(vm, KVM_GET_TSC_KHZ, 0);

	TEST_ASSERT(khz > 0, "KVM_GET_TSC_KHZ");
	close(vm);
	close(kvm);
	return khz;
}

void qemu_start(struct bench_vm *vm, enum bench_guest_kind kind)
{
	char *ram = bench_shared(FIRMWARE_END, &vm->ram_fd);

	/* QEMU inherits it. */
	fcntl(vm->ram_fd, F_SETFD, 0);
	vm->memory = (void *)(ram + FIRMWARE_MEMORY);
	vm->state->clock_khz = clock_khz();
	vm->memory->orders.kind = kind;
	vm->memory->orders.nr_vcpus = vm->nr_vcpus;
	vm->memory->orders.gap_cycles = GAP_MIN_NS * vm->state->clock_khz / 1000000;
	vm->memory->orders.exit_cycles = ~0ULL;
	launch(vm);
}

/* The thread of that name, or 0. */
static pid_t thread_of(struct bench_vm *vm, const char *wanted)
{
	char path[320], name[16];
	struct dirent *entry;
	pid_t tid = 0;
	DIR *dir;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task", vm->pid);
	dir = opendir(path);
	TEST_ASSERT(dir, "open %s", path);
	while ((entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%d/task/%.255s/comm", vm->pid, entry->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (fgets(name, sizeof(name), f) && !strncmp(name, wanted, strlen(wanted)))
			tid = atoi(entry->d_name);
		fclose(f);
	}
	closedir(dir);
	return tid;
}

void qemu_adopt(struct bench_vm *vm, pid_t pid, const char *ram, u64 offset,
		const char *monitor)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int socket_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;

	*vm = (struct bench_vm) {
		.nr_vcpus = 1, .vmm = VMM_QEMU, .pid = pid, .throttle_fd = -1,
	};
	vm->state = bench_shared(sizeof(*vm->state), &fd);
	close(fd);
	vm->state->clock_khz = 1000000;
	vm->state->tids[0] = thread_of(vm, VCPU_THREAD);
	TEST_ASSERT(vm->state->tids[0], "no thread %s in process %d", VCPU_THREAD, pid);
	fd = open(ram, O_RDWR | O_CLOEXEC);
	TEST_ASSERT(fd >= 0, "open %s", ram);
	vm->memory = mmap(NULL, sizeof(*vm->memory), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			  offset);
	TEST_ASSERT(vm->memory != MAP_FAILED, "mmap %s", ram);
	close(fd);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", monitor);
	TEST_ASSERT(!connect(socket_fd, (void *)&address, sizeof(address)), "connect to %s",
		    monitor);
	vm->qmp = fdopen(socket_fd, "r");
	qmp(vm, "{'execute': 'qmp_capabilities'}");
}

void qemu_end(struct bench_vm *vm)
{
	kill(vm->pid, SIGKILL);
	waitpid(vm->pid, NULL, 0);
	fclose(vm->qmp);
	if (vm->throttle_fd >= 0)
		close(vm->throttle_fd);
}

void qemu_run(struct bench_vm *vm, int nr_vcpus)
{
	u64 deadline = now_ns() + PATIENCE_NS;

	vm->memory->orders.running = nr_vcpus;
	vm->memory->orders.attend |= ATTEND_START;
	qmp(vm, "{'execute': 'cont'}");
	while (vm->memory->orders.attend & ATTEND_START) {
		TEST_ASSERT(now_ns() < deadline, "the guest doesn't run");
		sleep_ns(POLL_NS);
	}
}

void qemu_stop(struct bench_vm *vm)
{
	qmp(vm, "{'execute': 'stop'}");
}

static bool is_migrating(struct bench_vm *vm)
{
	const char *answer = qmp(vm, "{'execute': 'query-migrate'}");

	return strstr(answer, "\"status\": \"active\"") || strstr(answer, "\"status\": \"setup\"") ||
	       strstr(answer, "\"status\": \"cancelling\"");
}

/*
 * For half of a CPU beside all the vCPUs, or with many of them it would take minutes.
 * A nice value less makes 1.25 times as much.
 */
static int migration_nice(struct bench_vm *vm)
{
	int nice = 0;
	double share;

	for (share = 1; share < vm->nr_vcpus; share *= 1.25)
		nice--;
	return nice;
}

/* The less the guest runs, the less it dirties: the migration must not be done with it. */
static void let_dirty(struct bench_vm *vm, int percent)
{
	qmp(vm, "{'execute': 'migrate-set-parameters', 'arguments': {'max-bandwidth': %d, "
	    "'max-cpu-throttle': %d}}", BANDWIDTH_FAST / 100 * (100 - vm->percent), percent ?: 99);
	vm->memory->orders.attend |= ATTEND_DIRTY;
}

/* Until QEMU throttles the guest by that, which it holds then. */
static void await_throttle(struct bench_vm *vm, int percent)
{
	u64 deadline = now_ns() + PATIENCE_NS;
	const char *answer;
	pid_t tid;

	do {
		TEST_ASSERT(now_ns() < deadline, "QEMU doesn't throttle the guest");
		sleep_ns(POLL_NS);
		tid = thread_of(vm, MIGRATION_THREAD);
		if (tid)
			setpriority(PRIO_PROCESS, tid, migration_nice(vm));
		answer = qmp(vm, "{'execute': 'query-migrate'}");
		TEST_ASSERT(!strstr(answer, "\"completed\"") && !strstr(answer, "\"failed\""),
			    "the migration ended: %s", answer);
	} while (percent ? qmp_number(answer, "cpu-throttle-percentage") != percent :
			   qmp_number(answer, "dirty-sync-count") < 3);
	qmp(vm, "{'execute': 'migrate-set-parameters', 'arguments': {'max-bandwidth': %d}}",
	    BANDWIDTH_SLOW);
	vm->memory->orders.attend &= ~ATTEND_DIRTY;
	vm->percent = percent;
}

/* With @percent 0 there is no auto-converge, and all else is the same. */
static void begin_migration(struct bench_vm *vm, int percent)
{
	while (is_migrating(vm))
		sleep_ns(POLL_NS);
	qmp(vm, "{'execute': 'migrate-set-capabilities', 'arguments': {'capabilities': [{"
	    "'capability': 'auto-converge', 'state': %s}]}}", percent ? "true" : "false");
	qmp(vm, "{'execute': 'migrate-set-parameters', 'arguments': {'downtime-limit': 1, "
	    "'cpu-throttle-initial': %d, 'cpu-throttle-increment': 99}}", max(percent, 1));
	let_dirty(vm, percent);
	qmp_send_null(vm);
	qmp(vm, "{'execute': 'migrate', 'arguments': {'uri': 'fd:null'}}");
	await_throttle(vm, percent);
}

void qemu_ready(struct bench_vm *vm)
{
	begin_migration(vm, 0);
}

bool qemu_set(struct bench_vm *vm, u32 percent_x100)
{
	int percent = percent_x100 / 100;

	if (vm->percent && percent > vm->percent) {
		let_dirty(vm, percent);
		await_throttle(vm, percent);
		return true;
	}
	qmp(vm, "{'execute': 'migrate_cancel'}");
	vm->percent = 0;
	/* It knows no fractions. */
	if (!percent)
		return !percent_x100;
	/* QEMU 10 may leave some vCPUs alone once a throttle was cancelled. */
	if (vm->throttled) {
		qemu_end(vm);
		launch(vm);
		qemu_run(vm, vm->memory->orders.running);
	}
	vm->throttled = true;
	begin_migration(vm, percent);
	return true;
}

/* Cloud Hypervisor's steps, from outside. */
static void *pause_code(void *arg)
{
	struct bench_vm *vm = arg;
	u64 start;

	while (vm->percent) {
		start = now_ns();
		qmp(vm, "{'execute': 'stop'}");
		vm->state->windows += vm->nr_vcpus;
		sleep_until_ns(start + PAUSE_PERIOD_NS / 100 * vm->percent);
		start = now_ns();
		qmp(vm, "{'execute': 'cont'}");
		sleep_until_ns(start + PAUSE_PERIOD_NS / 100 * (100 - vm->percent));
	}
	return NULL;
}

bool qemu_pause_set(struct bench_vm *vm, u32 percent_x100)
{
	int before = vm->percent;

	vm->percent = percent_x100 / 100;
	if (!before && vm->percent)
		TEST_ASSERT(!pthread_create(&vm->pausing, NULL, pause_code, vm), "pthread_create");
	if (before && !vm->percent)
		pthread_join(vm->pausing, NULL);
	return true;
}

static u64 thread_ns(struct bench_vm *vm, pid_t tid)
{
	char path[64];
	u64 ns = 0;
	FILE *f;

	if (!tid)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/schedstat", tid);
	f = fopen(path, "re");
	TEST_ASSERT(f && fscanf(f, "%lu", &ns) == 1, "read %s", path);
	fclose(f);
	return ns;
}

u64 qemu_migration_ns(struct bench_vm *vm)
{
	return thread_ns(vm, thread_of(vm, MIGRATION_THREAD));
}

u64 qemu_vcpu_ns(struct bench_vm *vm)
{
	return thread_ns(vm, vm->state->tids[0]);
}

u64 qemu_windows(struct bench_vm *vm)
{
	/* To have a vCPU sleep, QEMU gets it out of the guest by a signal. */
	return debugfs_number(vm, "signal_exits");
}
