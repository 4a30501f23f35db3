// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The life of a migration, as it is seen from beside the QEMU that it leaves.
 *
 *	  WAITING <------------------------------ what an earlier one left, or none
 *	     |   \
 *	     |    \ setup, wait-unplug
 *	     |     v
 *	     |   SETUP -------------------------------------------+
 *	     |     |                                              |
 *	     | active, with what memory is left to send           |
 *	     v     v                                              |
 *	   PRECOPY <------> UNKNOWN (a word of a later QEMU)      |
 *	     |  |  |                                              |
 *	     |  |  +-----> CANCELLING (cancelling) --> CANCELLED <+
 *	     |  |                                                 |
 *	     |  +--> PRE_SWITCHOVER (pre-switchover)              |
 *	     |         |                                          |
 *	     |         v                                          |
 *	     +-----> SWITCHOVER (device) ----------> COMPLETED    |
 *	     |                                                    |
 *	     +-----> POSTCOPY (postcopy-*, colo)      FAILED <----+
 *
 * QEMU is asked from time to time only, so any state can be missed.  Each word of
 * QEMU's leads to its phase, whichever phase was before.  Three things do depend on the
 * phase before:
 *
 * - Are "completed", "failed" and "cancelled" of this migration?  QEMU goes on saying
 *   them until the next one begins.  So when waiting, they have to differ from what
 *   was there at first.
 * - Is "active" the migration that is known, or the next one?  The time that it has
 *   taken tells.  On the receiving side, QEMU says "active" too, but nothing of memory.
 * - What does it mean that QEMU has gone?  In SWITCHOVER the other side has all, and
 *   whoever migrates the VM ends this QEMU at once: COMPLETED.  It is COMPLETED before
 *   that, too, if QEMU was told to end after the guest had been stopped, or if libvirt
 *   says so.  Otherwise QEMU has crashed, or was killed: GONE.
 *
 * A guest is throttled in PRECOPY only, and only as long as QEMU answers.  A silent QEMU
 * may have ended the migration long ago.
 */
#include <stddef.h>
#include <string.h>

#include "migration.h"

/* Without an answer for so long, the guest isn't throttled any more. */
#define SILENT_S	10.0

/* After so long, nothing is expected any more. */
#define LOST_S		60.0

/* A migration's time doesn't go back from one look to the next, but for rounding. */
#define TIME_ERROR_S	0.0015

/* What QEMU's words mean. */
enum word {
	WORD_NONE,
	WORD_SETUP,
	WORD_ACTIVE,
	WORD_PRE_SWITCHOVER,
	WORD_DEVICE,
	WORD_CANCELLING,
	WORD_POSTCOPY,
	WORD_COMPLETED,
	WORD_FAILED,
	WORD_CANCELLED,
	WORD_UNKNOWN,
};

static enum word word_of(const char *status)
{
	static const struct {
		const char *status;
		enum word word;
	} words[] = {
		{ "none", WORD_NONE },
		{ "setup", WORD_SETUP },
		{ "wait-unplug", WORD_SETUP },
		{ "active", WORD_ACTIVE },
		{ "pre-switchover", WORD_PRE_SWITCHOVER },
		{ "device", WORD_DEVICE },
		{ "cancelling", WORD_CANCELLING },
		{ "colo", WORD_POSTCOPY },
		{ "completed", WORD_COMPLETED },
		{ "failed", WORD_FAILED },
		{ "cancelled", WORD_CANCELLED },
	};

	if (!status)
		return WORD_NONE;
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		if (!strcmp(status, words[i].status))
			return words[i].word;
	}
	/* There are several, and new ones come: the guest runs elsewhere in all. */
	if (!strncmp(status, "postcopy", strlen("postcopy")))
		return WORD_POSTCOPY;
	return WORD_UNKNOWN;
}

static void copy(char *to, size_t size, const char *from)
{
	size_t len = from ? strnlen(from, size - 1) : 0;

	if (len)
		memcpy(to, from, len);
	to[len] = '\0';
}

/**
 * migration_init() - begin to watch a VM
 * @m: its migrations, none of which is known yet
 */
void migration_init(struct migration *m)
{
	*m = (struct migration) { .total_s = -1, .old_total_s = -1 };
}

static void set_phase(struct migration *m, enum migration_phase phase)
{
	if (m->phase == MIGRATION_WAITING && phase != MIGRATION_WAITING) {
		m->number++;
		m->paused = false;
	}
	m->phase = phase;
}

/* Remember how the migration ended, to know it again. */
static void keep_end(struct migration *m, const struct migration_info *info)
{
	copy(m->old_status, sizeof(m->old_status), info->status);
	copy(m->old_why, sizeof(m->old_why), info->why);
	m->old_total_s = info->total_s;
}

static bool is_old_end(const struct migration *m, const struct migration_info *info)
{
	char why[MIGRATION_WHY_LEN];

	copy(why, sizeof(why), info->why);
	return !strcmp(m->old_status, info->status) && !strcmp(m->old_why, why) &&
	       m->old_total_s == info->total_s;
}

/* It says that a migration has ended.  Which one? */
static void look_at_end(struct migration *m, const struct migration_info *info,
			enum word word)
{
	bool waiting = m->phase == MIGRATION_WAITING;
	bool arrived = m->incoming || (word == WORD_COMPLETED && !info->ram &&
				       info->total_s < 0);
	bool old = waiting && (!m->looked || arrived || is_old_end(m, info));

	m->incoming = false;
	keep_end(m, info);
	if (old)
		return;
	copy(m->why, sizeof(m->why), info->why);
	m->total_s = info->total_s;
	set_phase(m, word == WORD_COMPLETED ? MIGRATION_COMPLETED :
		  word == WORD_FAILED ? MIGRATION_FAILED : MIGRATION_CANCELLED);
}

/* Is it the side that receives? */
static bool is_incoming(const struct migration *m, const struct migration_info *info,
			enum word word)
{
	return m->phase == MIGRATION_WAITING && !info->ram &&
	       (word == WORD_ACTIVE || word == WORD_POSTCOPY);
}

static enum migration_phase phase_of(enum word word)
{
	static const enum migration_phase phases[] = {
		[WORD_NONE] = MIGRATION_WAITING,
		[WORD_SETUP] = MIGRATION_SETUP,
		[WORD_ACTIVE] = MIGRATION_PRECOPY,
		[WORD_PRE_SWITCHOVER] = MIGRATION_PRE_SWITCHOVER,
		[WORD_DEVICE] = MIGRATION_SWITCHOVER,
		[WORD_CANCELLING] = MIGRATION_CANCELLING,
		[WORD_POSTCOPY] = MIGRATION_POSTCOPY,
		[WORD_UNKNOWN] = MIGRATION_UNKNOWN,
	};

	return phases[word];
}

/**
 * migration_look() - QEMU says how the migration is
 * @m: the VM's migrations, of which the newest hasn't ended
 * @info: what it says
 */
void migration_look(struct migration *m, const struct migration_info *info)
{
	enum word word = word_of(info->status);

	if (migration_has_ended(m))
		return;
	m->silent = false;
	copy(m->status, sizeof(m->status), info->status ? info->status : "none");
	if (word == WORD_COMPLETED || word == WORD_FAILED || word == WORD_CANCELLED) {
		look_at_end(m, info, word);
		m->looked = true;
		return;
	}
	m->looked = true;
	if (is_incoming(m, info, word)) {
		m->incoming = true;
		return;
	}
	m->incoming = false;
	if (word == WORD_ACTIVE && info->total_s >= 0) {
		/* Its end, and the beginning of this one, were missed. */
		if (m->phase != MIGRATION_WAITING && m->phase != MIGRATION_SETUP &&
		    info->total_s < m->total_s - TIME_ERROR_S)
			set_phase(m, MIGRATION_WAITING);
		m->total_s = info->total_s;
	}
	if (word == WORD_SETUP || word == WORD_NONE)
		m->total_s = -1;
	/* Once more: the one that is known has ended without being seen. */
	if (word == WORD_SETUP && m->phase != MIGRATION_SETUP)
		set_phase(m, MIGRATION_WAITING);
	copy(m->why, sizeof(m->why), info->why);
	set_phase(m, phase_of(word));
}

/**
 * migration_event() - QEMU has sent an event
 * @m: the VM's migrations
 * @event: its name; most mean nothing here
 */
void migration_event(struct migration *m, const char *event)
{
	if (!strcmp(event, "STOP"))
		m->paused = true;
	else if (!strcmp(event, "RESUME"))
		m->paused = false;
	else if (!strcmp(event, "SHUTDOWN"))
		migration_reason(m, MIGRATION_REASON_SHUTDOWN);
}

/**
 * migration_reason() - it is known why QEMU has ended, or will
 * @m: the VM's migrations
 * @reason: why; what libvirt says counts for more than what QEMU does
 */
void migration_reason(struct migration *m, enum migration_reason reason)
{
	if (reason > m->reason)
		m->reason = reason;
}

/**
 * migration_silence() - QEMU hasn't answered
 * @m: the VM's migrations
 * @seconds: for how long
 */
void migration_silence(struct migration *m, double seconds)
{
	if (migration_has_ended(m))
		return;
	if (seconds >= SILENT_S)
		m->silent = true;
	if (seconds >= LOST_S)
		migration_lost(m);
}

/**
 * migration_lost() - the monitor can't be reached any more, though QEMU is there
 * @m: the VM's migrations
 */
void migration_lost(struct migration *m)
{
	if (migration_has_ended(m))
		return;
	if (m->phase == MIGRATION_SWITCHOVER)
		m->phase = MIGRATION_COMPLETED;
	else
		m->phase = MIGRATION_LOST;
}

/**
 * migration_gone() - QEMU has ended
 * @m: the VM's migrations
 */
void migration_gone(struct migration *m)
{
	bool late = m->phase == MIGRATION_SWITCHOVER;
	bool told = m->reason == MIGRATION_REASON_SHUTDOWN &&
		    (m->phase == MIGRATION_PRE_SWITCHOVER ||
		     (m->phase == MIGRATION_PRECOPY && m->paused));

	if (migration_has_ended(m))
		return;
	if (m->reason == MIGRATION_REASON_MIGRATED ||
	    (m->reason != MIGRATION_REASON_OTHER && (late || told)))
		set_phase(m, MIGRATION_COMPLETED);
	else
		m->phase = MIGRATION_GONE;
}

/**
 * migration_next() - wait for the next migration, as the newest has ended
 * @m: the VM's migrations
 */
void migration_next(struct migration *m)
{
	m->phase = MIGRATION_WAITING;
	m->silent = false;
	m->total_s = -1;
	m->why[0] = '\0';
}

/**
 * migration_may_throttle() - may the guest be throttled now?
 * @m: the VM's migrations
 *
 * Return: true if it may.
 */
bool migration_may_throttle(const struct migration *m)
{
	return m->phase == MIGRATION_PRECOPY && !m->silent;
}

/**
 * migration_has_ended() - has the newest migration ended?
 * @m: the VM's migrations
 *
 * Return: true if it has; false also if there was none.
 */
bool migration_has_ended(const struct migration *m)
{
	return m->phase >= MIGRATION_COMPLETED;
}
