/* SPDX-License-Identifier: GPL-2.0 */
/*
 * compat: queueing task work, under a raw lock, where KASAN must not allocate memory
 * to record who called.  Some kernels, from 6.12 on, have to be told
 * that; later ones never do.
 *
 * Variants: NO_ALLOC PLAIN
 * Missing: task_work_add() with TWA_RESUME
 *
 * Distributions export task_work_add(), upstream and RHEL don't.  Kbuild looks for
 * it in the kernel's Module.symvers, and defines KVT_TASK_WORK_ADD_EXPORTED.  Without,
 * a static call is defined here: so one file includes this, not compat.h.
 */
#ifndef _KVM_THROTTLE_COMPAT_TASK_WORK_H
#define _KVM_THROTTLE_COMPAT_TASK_WORK_H

#include <linux/sched.h>
#include <linux/task_work.h>

#ifdef KVT_TASK_WORK_NO_ALLOC
#define KVT_TASK_WORK_NOTIFY	(TWA_RESUME | TWAF_NO_ALLOC)
#else
#define KVT_TASK_WORK_NOTIFY	TWA_RESUME
#endif

#ifdef KVT_TASK_WORK_ADD_EXPORTED

static inline int kvt_task_work_init(void)
{
	return 0;
}

/**
 * kvt_task_work_add() - task_work_add(), before the task next enters the guest
 * @task: the task
 * @work: the work
 *
 * Return: 0, or -ESRCH if the task is exiting.
 */
static inline int kvt_task_work_add(struct task_struct *task,
				    struct callback_head *work)
{
	return task_work_add(task, work, KVT_TASK_WORK_NOTIFY);
}

#else

#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/static_call.h>
#if __has_include("asm/ibt.h")
#include <asm/ibt.h>
#endif
#ifndef ENDBR_INSN_SIZE
#define ENDBR_INSN_SIZE	0
#endif
static int kvt_no_task_work_add(struct task_struct *task,
				struct callback_head *work,
				enum task_work_notify_mode notify)
{
	return -ESRCH;
}

/* A direct call, which neither IBT nor kCFI has to check. */
DEFINE_STATIC_CALL(kvt_task_work_add_call, kvt_no_task_work_add);

/*
 * Registering a kprobe is the one way left to ask for a symbol's address.  It is
 * registered disabled, so that the function stays as it is.
 */
static inline int kvt_task_work_init(void)
{
	struct kprobe probe = {
		.symbol_name = "task_work_add",
		.flags = KPROBE_FLAG_DISABLED,
	};
	static const char start[] = "task_work_add+0x0/";
	char symbol[KSYM_SYMBOL_LEN];
	void *address;
	int r;

	r = register_kprobe(&probe);
	if (r)
		return r;
	/* The probe sits behind the ENDBR that the function starts with. */
	address = (void *)((unsigned long)probe.addr - ENDBR_INSN_SIZE);
	unregister_kprobe(&probe);
	sprint_symbol(symbol, (unsigned long)address);
	if (strncmp(symbol, start, strlen(start)))
		return -ENOENT;
	static_call_update(kvt_task_work_add_call, address);
	return 0;
}

static inline int kvt_task_work_add(struct task_struct *task,
				    struct callback_head *work)
{
	return static_call(kvt_task_work_add_call)(task, work,
						   KVT_TASK_WORK_NOTIFY);
}

#endif /* KVT_TASK_WORK_ADD_EXPORTED */

#endif /* _KVM_THROTTLE_COMPAT_TASK_WORK_H */
