// SPDX-License-Identifier: GPL-2.0-or-later
/* Tests rules.c: what a file of rules says about VMs, and what is wrong with one. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "rules.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof(*(a)))

static unsigned int nr_tests, nr_failed;

static void result(bool ok, const char *name, const char *got)
{
	nr_failed += !ok;
	printf("%sok %u %s\n", ok ? "" : "not ", ++nr_tests, name);
	if (!ok)
		printf("# %s\n", got);
}

static int read_text(struct rules *r, const char *text, size_t len, char *why, size_t size)
{
	FILE *file = fmemopen((char *)text, len, "r");
	int error = rules_read(r, file, why, size);

	fclose(file);
	return error;
}

/* A file that is right. */
static const char file[] =
	"# what is so for all\n"
	"\n"
	"  sockets =  /run/vms with space \r\n"
	"prometheus=/var/lib/a=b.prom\n"
	"by = rate\n"
	"max = 95.5\n"
	"time-limit = 5m\n"
	"[web-[0-9]*]\n"
	"max = 80%\n"
	"[db]\n"
	"throttle = off\n"
	"by = percent\n"
	"[a [strange] na*me = #1]\n"
	"time-limit = none\n"
	"[ü*]\n"
	"time-limit = 1.5s\n"
	"[web-1]\n"
	"max = 1\n"
	"[on]\n"
	"throttle = off\n"
	"throttle = on";

/* What it says about each VM. */
static const struct {
	const char *vm;
	bool off;
	uint32_t max_x100;
	double time_limit_s;
	enum policy_by by;
} vms[] = {
	{ "other", false, 9550, 300, POLICY_BY_RATE },
	/* The first that fits. */
	{ "web-1", false, 8000, 300, POLICY_BY_RATE },
	{ "web-x", false, 9550, 300, POLICY_BY_RATE },
	{ "db", true, 9550, 300, POLICY_BY_PERCENT },
	{ "db2", false, 9550, 300, POLICY_BY_RATE },
	/* As it is written, though as a pattern it says something else. */
	{ "a [strange] na*me = #1", false, 9550, 0, POLICY_BY_RATE },
	{ "über", false, 9550, 1.5, POLICY_BY_RATE },
	{ "on", false, 9550, 300, POLICY_BY_RATE },
	{ "", false, 9550, 300, POLICY_BY_RATE },
};

static void test_right(void)
{
	struct rules r;
	char why[256] = "";

	result(!read_text(&r, file, strlen(file), why, sizeof(why)), "a file that is right", why);
	result(r.sockets && !strcmp(r.sockets, "/run/vms with space"), "sockets",
	       r.sockets ?: "none");
	result(r.prometheus && !strcmp(r.prometheus, "/var/lib/a=b.prom"), "prometheus",
	       r.prometheus ?: "none");
	result(r.libvirt && !strcmp(r.libvirt, "qemu:///system"), "libvirt", r.libvirt ?: "none");
	for (size_t i = 0; i < ARRAY_SIZE(vms); i++) {
		struct rules_choice c = rules_for(&r, vms[i].vm);
		char got[128];

		snprintf(got, sizeof(got), "%d %u %g %d", c.off, c.policy.max_x100,
			 c.policy.time_limit_s, c.policy.by);
		result(c.off == vms[i].off && c.policy.max_x100 == vms[i].max_x100 &&
		       c.policy.time_limit_s == vms[i].time_limit_s &&
		       c.policy.by == vms[i].by, vms[i].vm, got);
	}
	rules_free(&r);
	result(!read_text(&r, "libvirt = none\n", 15, why, sizeof(why)) && !r.libvirt,
	       "no libvirt", why);
	rules_free(&r);
	result(!rules_read(&r, NULL, why, sizeof(why)) && r.libvirt && !r.sockets &&
	       rules_for(&r, "any").policy.max_x100 == POLICY_MAX_X100 &&
	       rules_for(&r, "any").policy.by == POLICY_BY_ANY &&
	       !rules_for(&r, "any").off, "no file", why);
	rules_free(&r);
	result(!read_text(&r, "max = 80\n", 9, why, sizeof(why)) &&
	       rules_for(&r, "any").policy.by == POLICY_BY_PERCENT,
	       "a highest percentage is by percent", why);
	rules_free(&r);
}

/* Files that are wrong, and what is said of them. */
static const struct {
	const char *text;
	const char *why;
} mistakes[] = {
	{ "max = 100", "line 1: max: '100' is not a percentage" },
	{ "max = 0", "line 1: max: '0' is not a percentage" },
	{ "max = -1", "line 1: max" },
	{ "\n\nmax =", "line 3: max: ''" },
	{ "time-limit = 0.5s", "line 1: time-limit: '0.5s' is not a time" },
	{ "time-limit = never", "line 1: time-limit" },
	{ "by = any", "line 1: by: 'any' is neither rate nor percent" },
	{ "by =", "line 1: by: '' is neither" },
	{ "throttle = yes", "line 1: throttle: 'yes' is neither on nor off" },
	{ "maximum = 80", "line 1: there is no 'maximum'; there are libvirt" },
	{ "Max = 80", "line 1: there is no 'Max'" },
	{ "sockets = run/vms", "line 1: sockets: 'run/vms' is not a path" },
	{ "sockets =", "line 1: 'sockets' of what" },
	{ "prometheus = metrics.prom", "line 1: prometheus: 'metrics.prom'" },
	{ "[web]\nsockets = /run/vms", "line 2: 'sockets' is not for single VMs" },
	{ "[web]\nlibvirt = none", "line 2: 'libvirt' is not for single VMs" },
	{ "[web", "line 1: '[web' is not [NAME]" },
	{ "[]", "line 1: '[]' is not [NAME]" },
	{ "[web] # all", "line 1: '[web] # all' is not [NAME]" },
	{ "80", "line 1: '80' is neither KEY = VALUE" },
	{ "= 80", "line 1: there is no ''" },
};

static void test_mistakes(void)
{
	static const char binary[] = "max = 80\n\0\n";
	struct rules r;
	char why[256];

	for (size_t i = 0; i < ARRAY_SIZE(mistakes); i++) {
		int error;

		why[0] = '\0';
		error = read_text(&r, mistakes[i].text, strlen(mistakes[i].text), why,
				  sizeof(why));
		result(error && !strncmp(why, mistakes[i].why, strlen(mistakes[i].why)),
		       mistakes[i].why, why);
		rules_free(&r);
	}
	result(read_text(&r, binary, sizeof(binary) - 1, why, sizeof(why)) &&
	       !strcmp(why, "line 2: this is not text"), "no text", why);
	rules_free(&r);
	/* However little room there is for what is wrong. */
	result(read_text(&r, "maximum = 80", 12, why, 12), "little room", why);
	rules_free(&r);
}

int main(void)
{
	printf("TAP version 13\n");
	test_right();
	test_mistakes();
	printf("1..%u\n", nr_tests);
	return nr_failed != 0;
}
