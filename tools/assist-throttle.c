// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The throttle of a VM that is migrated: by which means, what is in force, and what it
 * takes from the guest.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/kvm_throttle.h>

#include "assist.h"
#include "assist-parts.h"
#include "command.h"
#include "throttle.h"
#include "view.h"

static double page_size(void)
{
	return sysconf(_SC_PAGESIZE);
}

/* What the vCPUs have dirtied while the rate was limited, and have slept for that. */
static void read_vcpus(struct assist *a)
{
	struct policy_vcpus *vcpus = &a->sample.vcpus;
	struct throttle t = { .nr_vcpus = 0 };
	double dirtied = 0, held_s = 0;

	if (throttle_read(a->throttle.fd, &t))
		return;
	for (uint32_t i = 0; i < t.nr_vcpus; i++) {
		dirtied += t.vcpus[i].dirtied;
		held_s += (double)t.vcpus[i].dirty_held_ns / NSEC_PER_SEC / t.nr_vcpus;
	}
	vcpus->lowest = page_size() * KVM_THROTTLE_DIRTY_RATE_MIN * t.nr_vcpus;
	vcpus->dirtied = page_size() * dirtied;
	a->force.lost_s += held_s - a->force.held_s;
	a->force.held_s = held_s;
	throttle_free(&t);
}

/**
 * assist_account() - take account of what the throttle has done up to now
 * @a: the VM
 *
 * QEMU's own throttle takes its share of what ours leaves.
 */
void assist_account(struct assist *a)
{
	struct assist_force *f = &a->force;

	f->lost_s += (a->sample.time_s - f->since_s) * f->percent_x100 / 10000.0;
	f->since_s = a->sample.time_s;
	a->sample.vcpus.usable = f->usable;
	if (f->usable && a->throttle.fd >= 0)
		read_vcpus(a);
}

/**
 * assist_close_throttle() - end the VM's throttle, if there is one
 * @a: the VM
 */
void assist_close_throttle(struct assist *a)
{
	if (a->throttle.fd < 0)
		return;
	assist_account(a);
	loop_remove(a->loop, &a->throttle);
	close(a->throttle.fd);
	a->throttle.fd = -1;
	a->force.percent_x100 = 0;
	a->force.rate = 0;
	/* The next throttle counts anew. */
	a->force.held_s = 0;
	a->force.usable = false;
}

/**
 * assist_vm_is_gone() - the VM is not there any more: QEMU is ending, or has
 * @context: the VM
 * @revents: of the throttle fd
 */
void assist_vm_is_gone(void *context, short revents)
{
	struct assist *a = context;

	(void)revents;
	assist_close_throttle(a);
	a->vm_gone = true;
	if (a->timers.gone.due_ns == LOOP_NEVER)
		loop_start(a->loop, &a->timers.gone, now_ns() + ASSIST_REASON_NS);
}

/* All throttling is begun and ended here.  Returns 0, or the number of an error. */
static int put_in_force(struct assist *a, uint32_t percent_x100, uint64_t rate)
{
	struct kvm_throttle set = { .percent_x100 = percent_x100, .dirty_rate = rate };

	if (ioctl(a->throttle.fd, KVM_SET_THROTTLE, &set))
		return errno;
	a->force.percent_x100 = percent_x100;
	a->force.rate = rate;
	return 0;
}

/* The rate can't be limited: say why, and by what the guest will be throttled then. */
static void do_without_rate(struct assist *a, const char *why)
{
	char text[512];

	a->force.usable = false;
	snprintf(text, sizeof(text), a->settings.by == POLICY_BY_RATE ?
		 "It isn't throttled: %s." : "If it must be throttled, a percentage of its time is taken; its writes can't be limited: %s.",
		 why);
	a->owner->chose(a, false, text);
}

/* Returns NULL, or why the rate at which the vCPUs dirty memory can't be limited. */
static const char *why_no_rate(struct assist *a)
{
	/* The highest one limits nothing. */
	int error = put_in_force(a, 0, KVM_THROTTLE_DIRTY_RATE_MAX);
	struct throttle t = { .nr_vcpus = 0 };

	if (error)
		return throttle_no_rate(error) ?: strerror(error);
	put_in_force(a, 0, 0);
	if (!throttle_read(a->throttle.fd, &t))
		throttle_free(&t);
	return t.logged_pages ? NULL : "KVM doesn't log what it dirties";
}

/**
 * assist_choose_means() - find out by what the guest will be throttled
 * @a: the VM; once in each migration
 */
void assist_choose_means(struct assist *a)
{
	const char *why;

	a->force.tried = true;
	if (a->settings.by == POLICY_BY_PERCENT || a->throttle.fd < 0)
		return;
	why = why_no_rate(a);
	a->force.usable = !why;
	if (why)
		do_without_rate(a, why);
	else
		a->owner->chose(a, true,
				"If it must be throttled, its writes to memory are limited.");
}

/**
 * assist_set_throttle() - throttle the guest
 * @a: the VM; nothing is done if it has no throttle
 * @percent_x100: by so much of its time, in hundredths of a percent
 * @limit: bytes per second that its vCPUs may dirty, 0 for any number
 */
void assist_set_throttle(struct assist *a, uint32_t percent_x100, double limit)
{
	uint64_t rate = fmin(ceil(limit / page_size()), KVM_THROTTLE_DIRTY_RATE_MAX);
	struct assist_force *f = &a->force;
	const char *why;
	int error;

	if ((percent_x100 == f->percent_x100 && rate == f->rate) || a->throttle.fd < 0)
		return;
	assist_account(a);
	error = put_in_force(a, percent_x100, rate);
	why = rate ? throttle_no_rate(error) : NULL;
	if (error && why) {
		do_without_rate(a, why);
	} else if (error) {
		if (error != ESRCH)
			assist_say(a, "The throttle can't be set: %s.", strerror(error));
		assist_vm_is_gone(a, 0);
		return;
	}
	if (f->percent_x100 > f->highest_x100)
		f->highest_x100 = f->percent_x100;
	if (f->rate && (f->rate < f->lowest_rate || !f->lowest_rate))
		f->lowest_rate = f->rate;
}
