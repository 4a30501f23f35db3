/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Memory in which the guest tells of itself, with the same layout for 32 and 64 bits.
 */
#ifndef BENCH_MEMORY_H
#define BENCH_MEMORY_H

#include <stdint.h>

#define BENCH_VCPUS_MAX	64

/* How many of the guest's stalls are remembered. */
#define GAPS_MAX	8000

/* vm/health-guest.c: its ticks, and where on the host its stream goes. */
#define TICK_NS		1000000
#define STREAM_PORT	5001

/* bench_memory::orders.attend */
#define ATTEND_START	1	/* start vCPUs */
#define ATTEND_DIRTY	2	/* dirty memory */

/* Where firmware.c has struct bench_memory, and memory that it dirties. */
#define FIRMWARE_MEMORY		0x200000
#define FIRMWARE_DIRTY		0x400000
#define FIRMWARE_PAGE		4096
#define FIRMWARE_DIRTY_PAGES	(1 << 14)
#define FIRMWARE_END		(FIRMWARE_DIRTY + FIRMWARE_DIRTY_PAGES * FIRMWARE_PAGE)

enum bench_guest_kind {
	BENCH_WORK,	/* works */
	BENCH_LOCK,	/* its vCPUs contend for a spinlock */
	BENCH_TOKEN,	/* its vCPUs pass a token round */
	BENCH_EXIT,	/* works, exits to user space and sleeps there, in turn */
};

/**
 * struct bench_gap - a stall, in cycles of the guest's clock
 * @start: last sign of life
 * @end: next one
 */
struct bench_gap {
	uint64_t start;
	uint64_t end;
};

/*
 * struct bench_memory - memory that the guest, its VMM and the bench share
 * @vcpus: what each vCPU has done
 * @lock: of BENCH_LOCK
 * @token: index of the vCPU whose turn it is, of BENCH_TOKEN
 * @nr_gaps: stalls that the first vCPU has seen; the bench may set it to 0, but
 *	not where they are ticks
 * @retransmits: of the TCP connection
 * @orders: what the guest is to do; it reads the last four before it runs
 * @orders.attend: call guest_attend() after each unit of work, for firmware.c's
 *	ATTEND_* bits
 * @orders.running: how many vCPUs firmware.c shall have started
 * @orders.started: how many it has
 * @orders.kind: enum bench_guest_kind
 * @orders.nr_vcpus: how many there are
 * @orders.gap_cycles: what is no longer a unit of work, but a stall
 * @orders.exit_cycles: how long to work between exits
 * @gaps: the first of the stalls; or the last ticks, from when each was due to
 *	when it came
 */
struct bench_memory {
	struct {
		_Alignas(64) uint32_t work;
	} vcpus[BENCH_VCPUS_MAX];
	_Alignas(64) uint32_t lock;
	_Alignas(64) uint32_t token;
	_Alignas(64) uint32_t nr_gaps;
	uint32_t retransmits;
	struct {
		_Alignas(64) uint32_t attend;
		uint32_t running;
		uint32_t started;
		uint32_t kind;
		uint32_t nr_vcpus;
		uint32_t pad;
		uint64_t gap_cycles;
		uint64_t exit_cycles;
	} orders;
	struct bench_gap gaps[GAPS_MAX];
};

#endif /* BENCH_MEMORY_H */
