// SPDX-License-Identifier: GPL-2.0
/*
 * Runs a program and throttles each VM that it creates, from outside.
 *
 *	throttle_exec PERCENT PROGRAM [ARGUMENT]...
 *
 * No VM is missed and none runs before it is throttled: seccomp stops the
 * program, its threads and children at KVM_CREATE_VM, and nowhere else.  With 0
 * percent it does the same but throttles nothing.  At the end it prints how many
 * VMs there were, and in how many windows their vCPUs slept.  Its exit status is
 * that of the program, or 125 if a VM couldn't be throttled.
 */
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* In tools/include, which the library needs, there is another linux/filter.h. */
#include <../../usr/include/linux/filter.h>

#include "throttle_util.h"

#define EXIT_NOT_THROTTLED	125
#define VMS_MAX			10000
#define VCPUS_MAX		1024

/* How often to ask for the windows so far: they are gone with their VM. */
#define LOOK_NS			5000000

static u32 percent_x100;
static int nr_vms;
static int throttles[VMS_MAX];
static u64 windows[VMS_MAX];

static void stop_at_create_vm(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVM_CREATE_VM, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { ARRAY_SIZE(code), code };

	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		err(EXIT_NOT_THROTTLED, "seccomp");
}

static pid_t start(char **argv)
{
	int go[2];
	pid_t pid;
	char c;

	if (pipe(go))
		err(EXIT_NOT_THROTTLED, "pipe");
	pid = fork();
	if (pid < 0)
		err(EXIT_NOT_THROTTLED, "fork");
	if (!pid) {
		sigset_t none;

		close(go[1]);
		if (read(go[0], &c, 1))
			err(EXIT_NOT_THROTTLED, "pipe");
		close(go[0]);
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		stop_at_create_vm();
		execv(argv[0], argv);
		err(EXIT_NOT_THROTTLED, "%s", argv[0]);
	}
	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL | PTRACE_O_TRACESECCOMP |
		   PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
		   PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC))
		err(EXIT_NOT_THROTTLED, "ptrace");
	/* The child waits for the end of the file. */
	close(go[0]);
	close(go[1]);
	return pid;
}

static pid_t process_of(pid_t tid)
{
	char line[128];
	pid_t pid = tid;
	FILE *f;

	snprintf(line, sizeof(line), "/proc/%d/status", tid);
	f = fopen(line, "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Tgid: %d", &pid) == 1)
			break;
	}
	if (f)
		fclose(f);
	return pid;
}

/* The thread @tid, which is stopped, has created the VM @fd. */
static void throttle_vm(pid_t tid, int fd)
{
	int pidfd = syscall(SYS_pidfd_open, process_of(tid), 0);
	int copy = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	int r;

	if (copy < 0)
		err(EXIT_NOT_THROTTLED, "fd %d of thread %d", fd, tid);
	if (nr_vms == VMS_MAX)
		errx(EXIT_NOT_THROTTLED, "too many VMs");
	close(pidfd);
	throttles[nr_vms] = -1;
	if (percent_x100) {
		r = throttle_attach(copy);
		throttles[nr_vms] = r;
		if (r >= 0)
			r = throttle_set(r, percent_x100, 0);
		if (r)
			errx(EXIT_NOT_THROTTLED, "KVM_SET_THROTTLE: %s", strerror(-r));
	}
	close(copy);
	nr_vms++;
}

static void look(void)
{
	static struct kvm_throttle_vcpu_state states[VCPUS_MAX];
	int i, v, nr;
	u64 sum;

	for (i = 0; i < nr_vms; i++) {
		if (throttles[i] < 0)
			continue;
		nr = throttle_get(throttles[i], states, VCPUS_MAX, NULL);
		if (nr == -ESRCH) {
			close(throttles[i]);
			throttles[i] = -1;
		}
		for (v = 0, sum = 0; v < nr; v++)
			sum += states[v].windows;
		windows[i] = max(windows[i], sum);
	}
}

static void stopped(pid_t tid, int status)
{
	int signal = WSTOPSIG(status), event = status >> 16;
	struct __ptrace_syscall_info info;

	if (event == PTRACE_EVENT_SECCOMP) {
		/* To the end of the system call. */
		ptrace(PTRACE_SYSCALL, tid, 0, 0);
		return;
	}
	if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
		ptrace(PTRACE_LISTEN, tid, 0, 0);
		return;
	}
	if (signal == (SIGTRAP | 0x80)) {
		if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info) > 0 &&
		    info.op == PTRACE_SYSCALL_INFO_EXIT && info.exit.rval >= 0)
			throttle_vm(tid, info.exit.rval);
		signal = 0;
	}
	ptrace(PTRACE_CONT, tid, 0, event ? 0 : signal);
}

int main(int argc, char **argv)
{
	const struct timespec soon = { .tv_nsec = LOOK_NS };
	struct rlimit files = { VMS_MAX + 64, VMS_MAX + 64 };
	u64 slept = 0;
	sigset_t child;
	pid_t pid, tid;
	int status, i;

	if (argc < 3)
		errx(EXIT_NOT_THROTTLED, "usage: throttle_exec PERCENT PROGRAM [ARGUMENT]...");
	percent_x100 = atof(argv[1]) * 100;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	pid = start(argv + 2);
	/* Only here: the program's own is a part of what it tests. */
	if (setrlimit(RLIMIT_NOFILE, &files))
		err(EXIT_NOT_THROTTLED, "RLIMIT_NOFILE");

	for (;;) {
		tid = waitpid(-1, &status, __WALL | WNOHANG);
		if (tid < 0)
			err(EXIT_NOT_THROTTLED, "waitpid");
		if (!tid) {
			sigtimedwait(&child, NULL, &soon);
			look();
		} else if (WIFSTOPPED(status)) {
			stopped(tid, status);
		} else if (tid == pid) {
			break;
		}
	}
	for (i = 0; i < nr_vms; i++)
		slept += windows[i];
	printf("throttle_exec: %d VMs, %llu windows\n", nr_vms, (unsigned long long)slept);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
