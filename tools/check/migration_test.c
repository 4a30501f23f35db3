// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tests the life of a migration (migration.c) with sequences of what QEMU and
 * libvirt say.
 *
 * A sequence is of words: a status of query-migrate's, "@MS" behind it is the time
 * that it has taken, "/WHY" an error, "~" before it that it says nothing of
 * memory; "!EVENT"; "?REASON" why QEMU has ended; "quiet:S" seconds without an answer;
 * "gone", "lost", "next".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migration.h"

#define LINE	512

static const char * const phases[] = {
	[MIGRATION_WAITING] = "waiting",
	[MIGRATION_SETUP] = "setup",
	[MIGRATION_PRECOPY] = "precopy",
	[MIGRATION_PRE_SWITCHOVER] = "pre-switchover",
	[MIGRATION_SWITCHOVER] = "switchover",
	[MIGRATION_CANCELLING] = "cancelling",
	[MIGRATION_UNKNOWN] = "unknown",
	[MIGRATION_COMPLETED] = "completed",
	[MIGRATION_POSTCOPY] = "postcopy",
	[MIGRATION_FAILED] = "failed",
	[MIGRATION_CANCELLED] = "cancelled",
	[MIGRATION_GONE] = "gone",
	[MIGRATION_LOST] = "lost",
};

static const struct {
	const char *name;
	const char *words;
	const char *phase;
	unsigned int number;
} sequences[] = {
	{ "it begins, and completes", "none setup active@10 active@260 device completed@500",
	  "completed", 1 },
	{ "it was running already", "active@9000 completed@9500", "completed", 1 },
	{ "nothing between two looks", "none completed@40", "completed", 1 },
	{ "no answer yet", "", "waiting", 0 },

	{ "what an earlier one left isn't this one's end", "completed@800 completed@800",
	  "waiting", 0 },
	{ "the next one is", "completed@800 setup active@5 completed@90", "completed", 1 },
	{ "one that was short, after one that was there",
	  "completed@800 completed@90", "completed", 1 },
	{ "an earlier one had failed", "failed/x failed/x active@5", "precopy", 1 },
	{ "two fail in a row, for other reasons", "failed/x failed/y", "failed", 1 },
	{ "an earlier one was cancelled", "cancelled@70 cancelled@70 setup", "setup", 1 },
	{ "two in a row, watched", "active@10 completed@90 next completed@90 setup active@5",
	  "precopy", 2 },
	{ "the second one fails", "active@10 completed@90 next completed@90 setup failed/x",
	  "failed", 2 },
	{ "the second one as well, for the same reason",
	  "setup failed/x next failed/x setup failed/x", "failed", 2 },
	{ "one ends and the next begins between two looks", "active@9000 active@100",
	  "precopy", 2 },
	{ "so does one whose setup is seen", "active@9000 setup", "setup", 2 },
	{ "a clock that is rounded isn't another one", "active@100 active@99", "precopy", 1 },

	{ "the VM came here by one, and goes on by the next",
	  "~active ~active ~completed setup active@5 completed@90", "completed", 1 },
	{ "it comes here", "none ~active", "waiting", 0 },
	{ "it has come here", "none ~active ~completed", "waiting", 0 },
	{ "it has come here between two looks", "none ~completed", "waiting", 0 },
	{ "it comes here by postcopy", "~active ~postcopy-active ~completed", "waiting", 0 },

	{ "the other side can't be reached", "none setup failed/refused", "failed", 1 },
	{ "nor between two looks", "none failed/refused", "failed", 1 },
	{ "setup is given up", "setup none", "waiting", 1 },
	{ "a device is unplugged first", "wait-unplug active@5", "precopy", 1 },
	{ "it is cancelled in setup", "setup cancelling cancelled", "cancelled", 1 },

	{ "postcopy", "active@5 postcopy-active", "postcopy", 1 },
	{ "postcopy, of QEMU 10.2", "active@5 postcopy-device postcopy-active", "postcopy", 1 },
	{ "postcopy that is recovered", "active@5 ~postcopy-recover-setup", "postcopy", 1 },
	{ "postcopy of a later QEMU", "active@5 postcopy-in-a-hurry", "postcopy", 1 },
	{ "colo", "active@5 colo", "postcopy", 1 },
	{ "postcopy was running already", "postcopy-paused", "postcopy", 1 },

	{ "a word that nobody knows", "active@5 levitating", "unknown", 1 },
	{ "a word that nobody knows, in between", "active@5 levitating active@500", "precopy", 1 },
	{ "and before the end", "active@5 levitating completed@90", "completed", 1 },
	{ "and before a failure", "active@5 failing failed/x", "failed", 1 },
	{ "and before the beginning", "none levitating active@5", "precopy", 1 },
	{ "no word at all", "active@5 none", "waiting", 1 },

	{ "it fails", "active@5 failed/x", "failed", 1 },
	{ "it is being cancelled", "active@5 cancelling", "cancelling", 1 },
	{ "it was being cancelled already", "cancelling cancelled", "cancelled", 1 },
	{ "the switch-over fails, and it goes on", "active@5 device active@700", "precopy", 1 },
	{ "libvirt holds it before the switch-over", "active@5 pre-switchover", "pre-switchover", 1 },
	{ "what comes after the end is another one's", "completed@5 active@5 failed active@9",
	  "failed", 1 },

	{ "QEMU crashes", "active@5 gone", "gone", 1 },
	{ "QEMU crashes with nothing going on", "none gone", "gone", 0 },
	{ "the source is ended after device", "active@5 device gone", "completed", 1 },
	{ "and libvirt says why", "active@5 device ?migrated gone", "completed", 1 },
	{ "QEMU crashes in device, says libvirt", "active@5 device ?other gone", "gone", 1 },
	{ "libvirt ends it before anything was seen", "active@5 ?migrated gone", "completed", 1 },
	{ "even its beginning", "none ?migrated gone", "completed", 1 },
	{ "QEMU is told to end after a switch-over that wasn't seen",
	  "active@5 !STOP !SHUTDOWN gone", "completed", 1 },
	{ "QEMU is told to end in the midst of it", "active@5 !SHUTDOWN gone", "gone", 1 },
	{ "a guest that was stopped before", "none !STOP active@5 !SHUTDOWN gone", "gone", 1 },
	{ "a guest that was stopped, and goes on",
	  "active@5 !STOP !RESUME !SHUTDOWN gone", "gone", 1 },
	{ "it crashes while libvirt holds it", "active@5 pre-switchover gone", "gone", 1 },
	{ "it is told to end, from there", "active@5 pre-switchover !SHUTDOWN gone",
	  "completed", 1 },
	{ "it completed before QEMU went", "active@5 completed@90 gone", "completed", 1 },

	{ "QEMU is busy", "active@5 quiet:9", "precopy", 1 },
	{ "QEMU hangs", "active@5 quiet:9 quiet:60", "lost", 1 },
	{ "QEMU hung for a while", "active@5 quiet:59 active@60000", "precopy", 1 },
	{ "the monitor is closed", "active@5 lost", "lost", 1 },
	{ "the monitor is closed after device", "active@5 device lost", "completed", 1 },
	{ "libvirtd is restarted", "active@5 quiet:8 active@9000 completed@9900", "completed", 1 },
};

static int nr, failed;

static void result(bool ok, const char *name)
{
	printf("%s %d %s\n", ok ? "ok" : "not ok", ++nr, name);
	failed += !ok;
}

static void look(struct migration *m, char *word)
{
	struct migration_info info = { .ram = true, .total_s = -1 };
	char *at;

	if (*word == '~') {
		info.ram = false;
		word++;
	}
	at = strchr(word, '/');
	if (at) {
		*at = '\0';
		info.why = at + 1;
	}
	at = strchr(word, '@');
	if (at) {
		*at = '\0';
		info.total_s = atoi(at + 1) / 1e3;
	}
	info.status = strcmp(word, "none") ? word : NULL;
	migration_look(m, &info);
}

static void tell(struct migration *m, char *word)
{
	if (*word == '!')
		migration_event(m, word + 1);
	else if (*word == '?')
		migration_reason(m, !strcmp(word, "?migrated") ? MIGRATION_REASON_MIGRATED :
				 MIGRATION_REASON_OTHER);
	else if (!strncmp(word, "quiet:", 6))
		migration_silence(m, atoi(word + 6));
	else if (!strcmp(word, "gone"))
		migration_gone(m);
	else if (!strcmp(word, "lost"))
		migration_lost(m);
	else if (!strcmp(word, "next"))
		migration_next(m);
	else
		look(m, word);
}

/* Returns false if the guest might have been throttled when it must not. */
static bool run(struct migration *m, const char *words)
{
	char line[LINE], *rest = line, *word;
	bool right = true;

	snprintf(line, sizeof(line), "%s", words);
	migration_init(m);
	while ((word = strsep(&rest, " "))) {
		char first[LINE];

		if (!*word)
			continue;
		snprintf(first, sizeof(first), "%s", word);
		tell(m, word);
		if (migration_may_throttle(m) && m->phase != MIGRATION_PRECOPY)
			right = false;
		/* Nothing but "active" is known to be a time to throttle. */
		if (first[0] >= 'a' && first[0] <= 'z' && strncmp(first, "active", 6) &&
		    strncmp(first, "quiet", 5) && migration_may_throttle(m))
			right = false;
	}
	return right;
}

int main(void)
{
	struct migration m;

	puts("TAP version 13");
	for (size_t i = 0; i < sizeof(sequences) / sizeof(*sequences); i++) {
		bool right = run(&m, sequences[i].words);

		right &= !strcmp(phases[m.phase], sequences[i].phase) &&
			 m.number == sequences[i].number;
		result(right, sequences[i].name);
		if (!right)
			printf("# %s: %s, number %u\n", sequences[i].words, phases[m.phase],
			       m.number);
	}
	run(&m, "active@5 quiet:9");
	result(migration_may_throttle(&m), "a throttle while QEMU is busy");
	run(&m, "active@5 quiet:10");
	result(!migration_may_throttle(&m), "none while it is silent");
	run(&m, "active@5 quiet:10 active@20000");
	result(migration_may_throttle(&m), "one again when it answers");
	printf("1..%d\n", nr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
