/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the guest and those who read its memory agree on. migration.py has the
 * same layout as Python's struct formats; all fields are 32 bits wide, so that
 * each is read and written at once.
 */
#ifndef GUEST_H
#define GUEST_H

#define PAGE		4096
#define MAX_VCPUS	16

/* Where the control page and the working set are in the guest's memory. */
#define CONTROL		0x8000
#define WORKING_SET	0x200000

/* Where the image runs; its first byte is where a second vCPU starts. */
#define IMAGE		0x10000
#define IMAGE_SIZE	0x10000
#define ROM		(0x100000000 - IMAGE_SIZE)
#define STACKS		(IMAGE + IMAGE_SIZE)

/* The clock that the guest reports in: the TSC, shifted right by so much. */
#define CLOCK_SHIFT	10

#ifndef __ASSEMBLER__

enum workload {
	/* One page after the other. */
	SWEEP,
	/* Any page. */
	UNIFORM,
	/* Of ten pages nine are of the hot ones. */
	HOT_SET,
	/* One page after the other, then none for a while. */
	BURST,
	/* A page now and then. */
	IDLE,
	/* SWEEP, with port I/O and MMIO that QEMU emulates. */
	DEVICE,
};

/* What one vCPU has to say. */
struct report {
	unsigned int work;		/* units of work done */
	unsigned int sweeps;		/* times that it has checked all of its pages */
	unsigned int errors;		/* pages that were not as it had written them */
	unsigned int error_page;	/* the last of them */
	int stall;			/* longest time between two units of work, by the clock */
	unsigned int clock;		/* when the last unit of work was begun */
	unsigned int epoch;		/* since when @stall: struct control::epoch */
	unsigned int ready;		/* its pages have been written for the first time */
	unsigned int pad[8];
};

/*
 * The control page. The harness writes the first part, before the guest starts
 * or while it runs: it writes to the file that is the guest's memory. Migration
 * doesn't track that, but the guest dirties this page all the time.
 */
struct control {
	unsigned int vcpus;		/* how many shall run */
	unsigned int pages;		/* of the working set, for each vCPU */
	unsigned int workload;		/* enum workload */
	unsigned int hot_pages;		/* HOT_SET: how many of @pages are hot */
	unsigned int spin;		/* how long a unit of work takes otherwise */
	unsigned int busy;		/* BURST: how long to dirty memory, by the clock */
	unsigned int quiet;		/* BURST, IDLE: how long not to */
	unsigned int epoch;		/* changes when the longest stall shall be forgotten */
	unsigned int pad[8];
	struct report report[MAX_VCPUS];
};

#endif
#endif
