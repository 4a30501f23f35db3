/* SPDX-License-Identifier: GPL-2.0 */
/*
 * compat: the lowest kernel, and what one must have been configured with.  compat/probe
 * compiles this first, and says no more than what the first #error here says.
 */
#if !defined(CONFIG_X86_64) && !defined(CONFIG_ARM64)
/* Elsewhere KVM runs no task work before it enters the guest, or with kvm->srcu held. */
#error "it supports x86-64 and arm64 only"
#elif !IS_ENABLED(CONFIG_KVM)
#error "this kernel has no KVM (CONFIG_KVM), so there is nothing to throttle"
#elif !defined(CONFIG_KVM_XFER_TO_GUEST_WORK) && !defined(CONFIG_VIRT_XFER_TO_GUEST_WORK)
/* As arm64's KVM of 5.14: a vCPU that is kept out would never sleep, but try again. */
#error "its KVM runs no task work before it enters the guest (CONFIG_KVM_XFER_TO_GUEST_WORK)"
#elif !defined(CONFIG_MODULES)
#error "this kernel takes no modules (CONFIG_MODULES)"
#elif !defined(CONFIG_TRACEPOINTS)
#error "this kernel has no tracepoints (CONFIG_TRACEPOINTS): take one with CONFIG_FTRACE"
#elif !defined(CONFIG_HIGH_RES_TIMERS)
#error "this kernel has no high resolution timers (CONFIG_HIGH_RES_TIMERS)"
#elif !defined(KVT_TASK_WORK_ADD_EXPORTED) && !defined(CONFIG_KPROBES)
#error "this kernel neither exports task_work_add() nor has kprobes (CONFIG_KPROBES) for it"
#else
/*
 * The lowest kernel is Linux 5.14, and RHEL 9's, which is called so.  What came with it is
 * task_is_running(); what else older ones lack, and how to do without, nobody has tried.
 */
#include <linux/sched.h>
#ifndef task_is_running
#error "it is too old, the lowest is 5.14 (Debian 12, Ubuntu 22.04, RHEL 9)"
#endif
#endif
