/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the meter's BPF programs write and meter.c reads: a record for each thread
 * that runs a vCPU.
 */
#ifndef METER_RECORD_H
#define METER_RECORD_H

#include <linux/types.h>

#define METER_VCPUS_MAX	1024

/* A stall's power of two, and this many bits of what is below its highest one. */
#define METER_FINE_BITS	3
#define METER_BUCKETS	(64 << METER_FINE_BITS)

/**
 * enum meter_state - where a vCPU's thread is
 * @METER_GUEST: in guest mode, from KVM's kvm_entry to its kvm_exit
 * @METER_HOST: on a CPU otherwise: in KVM, another part of the kernel, or the VMM
 * @METER_RUNNABLE: waits for a CPU
 * @METER_BLOCKED: sleeps
 * @METER_UNSEEN: not in guest mode; nothing else is known, as it hasn't entered
 *	the guest yet since the meter began
 * @METER_STATES: how many there are
 */
enum meter_state {
	METER_GUEST,
	METER_HOST,
	METER_RUNNABLE,
	METER_BLOCKED,
	METER_UNSEEN,
	METER_STATES,
};

/**
 * struct meter_record - a thread that runs a vCPU
 * @changes: odd while the record is being changed
 * @tid: the thread
 * @vcpu_id: the vCPU, or -1 where KVM's tracepoints don't tell
 * @state: enum meter_state
 * @pad: none
 * @since_ns: since when
 * @start_ns: when the meter began, or the thread if that was later
 * @left_ns: when it left guest mode last
 * @ns: time in each state
 * @entries: entries into the guest
 * @longest_ns: longest stall: time out of guest mode
 * @stalls: how many were how long
 *
 * Times are CLOCK_MONOTONIC.
 */
struct meter_record {
	__u64 changes;
	__u32 tid;
	__s32 vcpu_id;
	__u32 state;
	__u32 pad;
	__u64 since_ns;
	__u64 start_ns;
	__u64 left_ns;
	__u64 ns[METER_STATES];
	__u64 entries;
	__u64 longest_ns;
	__u32 stalls[METER_BUCKETS];
};

/* The shortest time that @bucket is for. */
static inline __u64 meter_bucket_ns(__u32 bucket)
{
	__u32 power = bucket >> METER_FINE_BITS;
	__u64 fine = (bucket & ((1 << METER_FINE_BITS) - 1)) |
		     (1 << METER_FINE_BITS);

	if (power < METER_FINE_BITS)
		return bucket;
	return fine << (power - METER_FINE_BITS);
}

/* Into which bucket does @ns belong? */
static inline __u32 meter_bucket(__u64 ns)
{
	__u64 rest = ns;
	__u32 power = 0;

	if (ns < 1 << METER_FINE_BITS)
		return ns;
#define METER_STEP(bits) do {			\
		if (rest >> (bits)) {		\
			rest >>= (bits);	\
			power += (bits);	\
		}				\
	} while (0)
	METER_STEP(32);
	METER_STEP(16);
	METER_STEP(8);
	METER_STEP(4);
	METER_STEP(2);
	METER_STEP(1);
#undef METER_STEP
	rest = ns >> (power - METER_FINE_BITS);
	return (power << METER_FINE_BITS) | (rest & ((1 << METER_FINE_BITS) - 1));
}

#endif /* METER_RECORD_H */
