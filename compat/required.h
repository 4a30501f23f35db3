/* SPDX-License-Identifier: GPL-2.0 */
/*
 * compat: what a kernel must have been configured with.  compat/probe compiles
 * this first, and says no more than what the first #error here says.
 */
#if !defined(CONFIG_X86_64) && !defined(CONFIG_ARM64)
/* Elsewhere KVM runs no task work before it enters the guest, or with kvm->srcu held. */
#error "it supports x86-64 and arm64 only"
#elif !IS_ENABLED(CONFIG_KVM)
#error "this kernel has no KVM (CONFIG_KVM), so there is nothing to throttle"
#elif !defined(CONFIG_MODULES)
#error "this kernel takes no modules (CONFIG_MODULES)"
#elif !defined(CONFIG_TRACEPOINTS)
#error "this kernel has no tracepoints (CONFIG_TRACEPOINTS): take one with CONFIG_FTRACE"
#elif !defined(CONFIG_HIGH_RES_TIMERS)
#error "this kernel has no high resolution timers (CONFIG_HIGH_RES_TIMERS)"
#elif !defined(KVT_TASK_WORK_ADD_EXPORTED) && !defined(CONFIG_KPROBES)
#error "this kernel neither exports task_work_add() nor has kprobes (CONFIG_KPROBES) for it"
#endif
