/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of a migration, as it is seen from beside the QEMU that it leaves.  Pure:
 * it is told what QEMU says, and has no clock and no I/O of its own.
 */
#ifndef MIGRATION_H
#define MIGRATION_H

#include <stdbool.h>

/* How far a migration has come. */
enum migration_phase {
	/* There is none, or one before this, or one that comes in. */
	MIGRATION_WAITING,
	/* It has begun, and nothing is sent yet. */
	MIGRATION_SETUP,
	/* Memory is sent while the guest runs: the only phase with a throttle. */
	MIGRATION_PRECOPY,
	/* The guest is about to be stopped, or is. */
	MIGRATION_PRE_SWITCHOVER,
	MIGRATION_SWITCHOVER,
	MIGRATION_CANCELLING,
	/* QEMU is in a state that this program doesn't know. */
	MIGRATION_UNKNOWN,
	/* From here on it has ended. */
	MIGRATION_COMPLETED,
	MIGRATION_POSTCOPY,
	MIGRATION_FAILED,
	MIGRATION_CANCELLED,
	/* QEMU has ended. */
	MIGRATION_GONE,
	/* QEMU is there, but its monitor can't be reached any more. */
	MIGRATION_LOST,
};

/* Why a QEMU has ended, if that is known. */
enum migration_reason {
	MIGRATION_REASON_UNKNOWN,
	/* Orderly: somebody told it to. */
	MIGRATION_REASON_SHUTDOWN,
	/* libvirt: because it had been migrated, or saved. */
	MIGRATION_REASON_MIGRATED,
	/* libvirt: for another reason. */
	MIGRATION_REASON_OTHER,
};

#define MIGRATION_STATUS_LEN	32
#define MIGRATION_WHY_LEN	256

/**
 * struct migration_info - what query-migrate says
 * @status: QEMU's word, NULL if there is none
 * @why: what it says about an error, or NULL
 * @total_s: how long it has taken, negative if it doesn't say
 * @ram: it says something of memory, as only the side does that sends
 */
struct migration_info {
	const char *status;
	const char *why;
	double total_s;
	bool ram;
};

/**
 * struct migration - what is known of a VM's migrations
 * @phase: of the newest
 * @number: how many have been seen to begin
 * @silent: QEMU doesn't answer: nobody knows how far it is
 * @status: QEMU's word for it
 * @why: what it says about its failure
 * @looked: it has been looked at
 * @incoming: the VM came here by a migration that hasn't ended
 * @paused: the guest was stopped in precopy
 * @reason: why QEMU has ended or is about to
 * @total_s: how long the newest had taken when it was looked at
 * @old_status: how the one before ended
 * @old_why: the same
 * @old_total_s: the same
 */
struct migration {
	enum migration_phase phase;
	unsigned int number;
	bool silent;
	char status[MIGRATION_STATUS_LEN];
	char why[MIGRATION_WHY_LEN];
	bool looked;
	bool incoming;
	bool paused;
	enum migration_reason reason;
	double total_s;
	char old_status[MIGRATION_STATUS_LEN];
	char old_why[MIGRATION_WHY_LEN];
	double old_total_s;
};

void migration_init(struct migration *m);
void migration_look(struct migration *m, const struct migration_info *info);
void migration_event(struct migration *m, const char *event);
void migration_reason(struct migration *m, enum migration_reason reason);
void migration_silence(struct migration *m, double seconds);
void migration_lost(struct migration *m);
void migration_gone(struct migration *m);
void migration_next(struct migration *m);
bool migration_may_throttle(const struct migration *m);
bool migration_has_ended(const struct migration *m);

#endif /* MIGRATION_H */
