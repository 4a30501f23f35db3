/* SPDX-License-Identifier: GPL-2.0 */
/*
 * compat: what a function is called with, where ftrace saves that at each call.  There
 * is a getter since 6.2, on arm64 too; before, x86 had the registers.  Where there is
 * neither, pages that are dirtied can't be seen, and there is no limit to their rate.
 *
 * Variants: GETTER REGS NONE
 * Missing: nothing that it can't do without
 */
#ifndef _KVM_THROTTLE_COMPAT_FTRACE_ARGS_H
#define _KVM_THROTTLE_COMPAT_FTRACE_ARGS_H

#ifndef KVT_FTRACE_ARGS_NONE

#include <linux/ftrace.h>
#include <linux/ptrace.h>

#if !defined(CONFIG_DYNAMIC_FTRACE_WITH_ARGS) || !defined(CONFIG_KPROBES) || \
	defined(KVT_NO_FTRACE_ARGS)
#error "functions can't be seen, or not be found"
#endif

/**
 * kvt_ftrace_arg() - what a function that is seen has been called with
 * @fregs: what ftrace has saved of it
 * @n: which of its arguments, from 0; one of those in registers
 *
 * Return: the argument.
 */
static __always_inline unsigned long kvt_ftrace_arg(struct ftrace_regs *fregs,
						    unsigned int n)
{
#ifdef KVT_FTRACE_ARGS_GETTER
	return ftrace_regs_get_argument(fregs, n);
#else
	return regs_get_kernel_argument(&fregs->regs, n);
#endif
}

#endif /* !KVT_FTRACE_ARGS_NONE */

#endif /* _KVM_THROTTLE_COMPAT_FTRACE_ARGS_H */
