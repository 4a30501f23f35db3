/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What invariant.bpf.c counts, and invariant_test.c judges.
 */
#ifndef SELFTEST_INVARIANT_H
#define SELFTEST_INVARIANT_H

#include <linux/types.h>

#define INVARIANT_VCPUS	64

/**
 * struct invariant_counts - entries into the guest, and windows
 * @windows: how often a vCPU slept and then entered the guest again
 * @signals: how often a signal kept one from sleeping
 * @entries: how often one entered the guest while its window was open
 * @closed: how often the guest of one went on while it had to sleep
 * @retries: how often one that had to was kept from entering
 * @late_max_ns: how long after its window's end one entered the guest
 * @over_max_ns: how long after its window's end one was in the guest still
 * @told_max_ns: how long after its window's end kvm_exit was traced
 */
struct invariant_counts {
	__u64 windows;
	__u64 signals;
	__u64 entries;
	__u64 closed;
	__u64 retries;
	__u64 late_max_ns;
	__u64 over_max_ns;
	__u64 told_max_ns;
};

#endif /* SELFTEST_INVARIANT_H */
