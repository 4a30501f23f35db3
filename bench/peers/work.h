/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the guest does, whatever its VMM is: vmm.c and firmware.c compile the same
 * code, for 64 and for 32 bits.
 *
 * Before this, they define guest_clock(), guest_exit() and cpu_relax(), and after it
 * guest_attend(), which is called while struct bench_memory says so.
 */
#ifndef BENCH_WORK_H
#define BENCH_WORK_H

#include "memory.h"
#include "spend_insns.h"

/* Of a lock, on average. */
#define UNITS_LOCKED	5

static void guest_attend(volatile struct bench_memory *memory, unsigned int i);

static inline void guest_units(unsigned int n)
{
	for (; n; n--)
		spend_insns();
}

static inline void guest_gap(volatile struct bench_memory *memory, uint64_t last,
			     uint64_t now)
{
	uint32_t nr = memory->nr_gaps;

	if (nr < GAPS_MAX) {
		memory->gaps[nr].start = last;
		memory->gaps[nr].end = now;
		memory->nr_gaps = nr + 1;
	}
}

static inline void work_loop(volatile struct bench_memory *memory, unsigned int i)
{
	uint64_t last = guest_clock(), start = last, now;
	const uint64_t gap_cycles = memory->orders.gap_cycles;
	const uint64_t exit_cycles = memory->orders.exit_cycles;

	for (;;) {
		guest_units(1);
		memory->vcpus[i].work++;
		now = guest_clock();
		/* In this order, so that a unit is the same for all vCPUs. */
		if (now - last > gap_cycles && !i)
			guest_gap(memory, last, now);
		last = now;
		if (memory->orders.attend)
			guest_attend(memory, i);
		if (now - start > exit_cycles) {
			guest_exit();
			start = guest_clock();
		}
	}
}

/* From 1 to twice the average, less 1: what is regular would meet the same ticks. */
static inline unsigned int units_locked(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return (*seed >> 16) % (2 * UNITS_LOCKED - 1) + 1;
}

static inline void lock_loop(volatile struct bench_memory *memory, unsigned int i)
{
	uint32_t seed = i;

	for (;;) {
		while (__atomic_exchange_n(&memory->lock, 1, __ATOMIC_ACQUIRE))
			while (memory->lock)
				cpu_relax();
		guest_units(units_locked(&seed));
		__atomic_store_n(&memory->lock, 0, __ATOMIC_RELEASE);
		memory->vcpus[i].work++;
		if (memory->orders.attend)
			guest_attend(memory, i);
		guest_units(units_locked(&seed));
	}
}

static inline void token_loop(volatile struct bench_memory *memory, unsigned int i)
{
	const unsigned int next = (i + 1) % memory->orders.nr_vcpus;

	for (;;) {
		while (__atomic_load_n(&memory->token, __ATOMIC_ACQUIRE) != i)
			cpu_relax();
		guest_units(UNITS_LOCKED);
		memory->vcpus[i].work++;
		if (memory->orders.attend)
			guest_attend(memory, i);
		__atomic_store_n(&memory->token, next, __ATOMIC_RELEASE);
	}
}

static inline void guest_main(volatile struct bench_memory *memory, unsigned int i)
{
	switch (memory->orders.kind) {
	case BENCH_LOCK:
		lock_loop(memory, i);
		break;
	case BENCH_TOKEN:
		token_loop(memory, i);
		break;
	default:
		work_loop(memory, i);
	}
}

#endif /* BENCH_WORK_H */
