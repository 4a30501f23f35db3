// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of bench/peers for a VMM that needs one whole (qemu -bios). How it
 * comes to main() is bench/migration's, guest.S and guest.h; with
 * more than 16 vCPUs their stacks are where variables would be, so there are none.
 */
#include "apic.h"

static inline unsigned long long guest_clock(void)
{
	unsigned long long clock;

	asm volatile("rdtsc" : "=A"(clock));
	return clock;
}

static inline void guest_exit(void)
{
}

static inline void cpu_relax(void)
{
	asm volatile("pause");
}

#include "work.h"

static volatile struct bench_memory *const shared = (void *)FIRMWARE_MEMORY;

/* Many, for guests that do a unit of work now and then. */
#define DIRTIED_AT_ONCE	1024

static void dirty_page(unsigned int page)
{
	*(volatile char *)(FIRMWARE_DIRTY + page * FIRMWARE_PAGE) = page;
}

static void start_vcpus(void)
{
	while (shared->orders.started < shared->orders.running)
		start_vcpu(shared->orders.started++);
}

static void guest_attend(volatile struct bench_memory *memory, unsigned int i)
{
	unsigned int n, page = memory->vcpus[i].work * DIRTIED_AT_ONCE;

	if (!i && memory->orders.attend & ATTEND_START) {
		start_vcpus();
		memory->orders.attend &= ~ATTEND_START;
	}
	/* QEMU throttles only a guest that dirties memory while it is migrated. */
	if (memory->orders.attend & ATTEND_DIRTY)
		for (n = 0; n < DIRTIED_AT_ONCE; n++)
			dirty_page((page + n) % FIRMWARE_DIRTY_PAGES);
}

void main(unsigned int id)
{
	if (!id)
		start_vcpus();
	guest_main(shared, id);
}
