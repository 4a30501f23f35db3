// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The workload of vm/demo and vm/check-guest: process 1 of their Linux guest.
 *
 * One process per vCPU dirties memory in an endless loop, and counts the pages
 * where the host sees it (guest.h). Arguments of the kernel's, beside those there:
 *
 *	dirty_mb=MB		how much memory each process dirties
 *	report_steal=1		report steal time too, when the host asks for it
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <sys/stat.h>

#include "guest.h"

#define PAGE		4096

/* Counts are that far apart: a cache line each. */
#define COUNT_STRIDE	(64 / sizeof(uint64_t))
#define MAX_COUNTS	(PAGE / 64)

/*
 * What else is in a count's cache line: its CPU's steal time in 1/100 s, and in
 * the first line the number of the host's question, and that of the last answer.
 */
#define STEAL		1
#define ASKED		2
#define ANSWERED	3

typedef uint64_t vector __attribute__((vector_size(16)));

static void run_on(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
}

static void dirty_page(volatile vector *page, uint64_t value)
{
	const vector values = { value, value };

#pragma GCC unroll 16
	for (size_t i = 0; i < PAGE / sizeof(*page); i++)
		page[i] = values;
}

static _Noreturn void dirty_for_ever(volatile uint64_t *count, size_t size)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (memory == MAP_FAILED)
		die("mmap");

	for (uint64_t value = 1;; value++) {
		for (size_t at = 0; at < size; at += PAGE) {
			dirty_page((volatile vector *)(memory + at), value);
			(*count)++;
		}
	}
}

static void report_steal(volatile uint64_t *counts)
{
	FILE *file = fopen("/proc/stat", "r");
	unsigned long long steal;
	char line[256];
	int cpu;

	if (!file)
		die("/proc/stat");
	while (fgets(line, sizeof(line), file)) {
		/* The first line is the sum. */
		if (line[3] != ' ' &&
		    sscanf(line, "cpu%d %*u %*u %*u %*u %*u %*u %*u %llu",
			   &cpu, &steal) == 2 && cpu < MAX_COUNTS)
			counts[cpu * COUNT_STRIDE + STEAL] = steal;
	}
	fclose(file);
}

/* Little enough to do that it doesn't matter at any percentage. */
static _Noreturn void answer_for_ever(volatile uint64_t *counts)
{
	if (mkdir("/proc", 0555) || mount("proc", "/proc", "proc", 0, NULL))
		die("mount /proc");
	for (;; sleep(1)) {
		if (counts[ASKED] == counts[ANSWERED])
			continue;
		report_steal(counts);
		counts[ANSWERED] = counts[ASKED];
	}
}

int main(void)
{
	volatile uint64_t *counts = map_counts(PAGE);
	size_t size = number("dirty_mb") << 20;
	int cpus = sysconf(_SC_NPROCESSORS_ONLN);

	for (int cpu = 0; cpu < cpus && cpu < MAX_COUNTS; cpu++) {
		switch (fork()) {
		case -1:
			die("fork");
		case 0:
			run_on(cpu);
			dirty_for_ever(counts + cpu * COUNT_STRIDE, size);
		}
	}
	if (getenv("report_steal"))
		answer_for_ever(counts);
	for (;;)
		pause();
}
