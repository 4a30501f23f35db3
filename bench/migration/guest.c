// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A guest to migrate: its vCPUs dirty memory, check it, and measure how long
 * they were kept from that.
 *
 * It is the machine's firmware (qemu -bios), so that it runs within
 * milliseconds, on any machine with or without disks, kernels or other ROMs.
 * It has interrupts off for ever: QEMU's emulation of SVM can deliver one twice.
 *
 * A page of the working set has, in each of its cache lines, how often it has been
 * written, and a number made of that, of the page and of the line. A page that the
 * migration lost is older than it should be. In a torn page, the lines differ. A unit of
 * work is to check and write one page, which the workload chooses, and to check another,
 * in turn.
 *
 * The TSC stands still while a migration switches over, so that downtime isn't
 * taken for a stall. But if a TSC is set to within a second of what it would be
 * anyway, KVM takes that for an attempt to synchronize vCPUs, and changes nothing.
 * So this guest's TSC is far ahead.
 */
#include "apic.h"

#define LINE		64
#define LINES		(PAGE / LINE)
#define MAX_PAGES	65536

#define HPET_COUNTER	((volatile unsigned int *)0xfed000f0)
#define DELAY_PORT	0x80

#define MSR_TSC_ADJUST	0x3b
#define TSC_AHEAD	(1ULL << 40)

struct line {
	unsigned int generation;
	unsigned int check;
	unsigned char rest[LINE - 8];
};

static volatile struct control *const control = (void *)CONTROL;

/* How often each page has been written; a vCPU's pages are its own. */
static unsigned int generations[MAX_PAGES];

/* Has a vCPU been started? */
static unsigned int started = 1;

static unsigned int now(void)
{
	unsigned int low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high));
	return low >> CLOCK_SHIFT | high << (32 - CLOCK_SHIFT);
}

static void set_clock_ahead(void)
{
	asm volatile("wrmsr" : : "c"(MSR_TSC_ADJUST), "A"(TSC_AHEAD));
}

static unsigned int check_of(unsigned int generation, unsigned int page, unsigned int line)
{
	return (generation * 0x9e3779b1 + page) * 0x85ebca6b + line;
}

static volatile struct line *lines_of(unsigned int page)
{
	return (volatile struct line *)(WORKING_SET + page * PAGE);
}

static void write_page(unsigned int page)
{
	volatile struct line *line = lines_of(page);
	unsigned int generation = ++generations[page];

	for (unsigned int i = 0; i < LINES; i++) {
		line[i].generation = generation;
		line[i].check = check_of(generation, page, i);
	}
}

static void check_page(unsigned int page, volatile struct report *report)
{
	volatile struct line *line = lines_of(page);
	unsigned int generation = generations[page];
	unsigned int wrong = 0;

	for (unsigned int i = 0; i < LINES; i++)
		wrong |= (line[i].generation ^ generation) |
			 (line[i].check ^ check_of(generation, page, i));
	if (wrong) {
		report->error_page = page;
		report->errors++;
	}
}

static void use_devices(void)
{
	asm volatile("outb %%al, %0" : : "i"(DELAY_PORT), "a"(0));
	(void)*HPET_COUNTER;
}

static unsigned int random(unsigned int *state, unsigned int limit)
{
	*state = *state * 1664525 + 1013904223;
	return (*state >> 8) % limit;
}

/* How a vCPU goes through its pages. */
struct walk {
	unsigned int seed;
	unsigned int next;
	unsigned int since;		/* BURST, IDLE: when this phase began */
	unsigned int quiet;
};

static unsigned int next_page(struct walk *walk, unsigned int pages)
{
	if (++walk->next >= pages)
		walk->next = 0;
	return walk->next;
}

/* Returns @pages if none shall be written now. */
static unsigned int choose_page(struct walk *walk, unsigned int clock, unsigned int pages)
{
	switch (control->workload) {
	case UNIFORM:
		return random(&walk->seed, pages);
	case HOT_SET:
		if (random(&walk->seed, 10))
			return random(&walk->seed, control->hot_pages);
		return random(&walk->seed, pages);
	case BURST:
		if (clock - walk->since > (walk->quiet ? control->quiet : control->busy)) {
			walk->quiet = !walk->quiet;
			walk->since = clock;
		}
		return walk->quiet ? pages : next_page(walk, pages);
	case IDLE:
		if (clock - walk->since <= control->quiet)
			return pages;
		walk->since = clock;
		return next_page(walk, pages);
	default:
		return next_page(walk, pages);
	}
}

static void note_time(volatile struct report *report, unsigned int clock)
{
	int gap = clock - report->clock;
	unsigned int epoch = control->epoch;

	report->clock = clock;
	if (report->epoch != epoch) {
		report->stall = 0;
		report->epoch = epoch;
	} else if (gap > report->stall) {
		report->stall = gap;
	}
}

void main(unsigned int id)
{
	volatile struct report *report = &control->report[id];
	const unsigned int pages = control->pages;
	const unsigned int first = id * pages;
	struct walk walk = { .seed = id };
	unsigned int checked = 0;

	set_clock_ahead();
	for (unsigned int i = 0; i < pages; i++)
		write_page(first + i);
	report->clock = now();
	report->ready = 1;

	for (;;) {
		unsigned int clock = now();
		unsigned int page;

		note_time(report, clock);
		page = choose_page(&walk, clock, pages);
		if (page < pages) {
			check_page(first + page, report);
			write_page(first + page);
		}
		check_page(first + checked, report);
		if (++checked == pages) {
			checked = 0;
			report->sweeps++;
		}
		if (control->workload == DEVICE)
			use_devices();
		for (unsigned int i = control->spin; i; i--)
			asm volatile("" : : : "memory");
		if (!id && started < control->vcpus)
			start_vcpu(started++);
		report->work++;
	}
}
