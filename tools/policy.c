// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How a guest has to be throttled for its migration to finish.  Documentation/converge.md
 * has the rules in words.
 *
 * QEMU sends what is dirty.  When no more is left than it can send while the guest is
 * stopped (the threshold), it asks KVM which pages have been dirtied meanwhile.  That ends
 * an iteration.  The number of these pages, W, depends on u, which is how long the guest
 * ran in the iteration: its share of the time, integrated.  Twice the time is at most
 * twice the pages, as some are dirtied again.  So W is taken for a power of u.  The
 * exponent is that of the last iterations, and the curve goes through the last one.
 *
 * The percentage is the lowest one at which the guest dirties, in one iteration, half of
 * the threshold.  To get there in several iterations, by a lower percentage, takes longer,
 * and costs the guest more in the end: it is throttled for all of that time.
 *
 * Where the module can limit the rate at which vCPUs dirty memory, a rate takes the place
 * of the percentage.  An iteration dirties no more than the rate times its length, so
 * nothing has to be fitted, and the end is known.  The rate, too, lets the guest dirty half
 * of the threshold, and is chosen anew in each iteration.  It costs only those who write,
 * so it begins sooner.
 *
 * A guest is left alone until what remains has stopped shrinking, or shrinks so slowly
 * that it would take several times as long as the first pass, or until it would be too
 * late for the time limit.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "policy.h"

/* What remains shrinks only if less is dirtied than this share of what is sent. */
#define STUCK_SHARE	0.95
/* It is stuck after so many iterations. */
#define STUCK_ROUNDS	2
/* Or after so many, if it may still shrink, or is nearly small enough. */
#define DOUBT_ROUNDS	6
#define NEAR		1.5
/*
 * In the first iteration all memory is sent, most of which may never be dirtied.
 * If at least this share of it is dirtied, that iteration tells something too.
 */
#define FIRST_SHARE	0.5

/*
 * A probe is as long as it takes to send the threshold.  If more than the threshold is
 * dirtied in it, what remains will never shrink to that.  If less is dirtied, it will.
 */
#define HOT_SHARE	1.1
#define COOL_SHARE	1.0
#define PROBE_MIN_S	0.05
#define PROBE_MAX_S	2.0
/* Or it is longer: what can be sent in it has to be more than its error. */
#define PROBE_BYTES	(8 * 1024 * 1024)
/* Its figure can be used in a prediction if it is so many times its error. */
#define PROBE_EXACT	4
#define GOLDEN		0.618034
#define PROBE_EVERY_S	1.0
#define PROBE_EVERY	4
/* Probes have to say so for so long, and so many times longer than ever before. */
#define HOT_S		3.0
#define HOT_LONGER	2.0

/* It won't converge if more than this will be dirtied for each byte sent. */
#define HOPELESS_RATIO	1.05

/*
 * With more than this it may end by itself, but slowly.  If it takes longer than so many
 * times the first pass, it is throttled.  A ratio above SLOW_MOST counts as SLOW_MOST
 * there: one iteration may have met a burst.
 */
#define SLOW_RATIO	0.92
#define SLOW_PASSES	2.5
#define SLOW_MOST	0.87
#define SLOW_S		2.0

/* Where the rate can be limited, more than this is enough, if it takes that long. */
#define LONG_RATIO	0.75

/* Iterations that are shorter are taken together: they say too little. */
#define ROUND_S		0.75
#define THROTTLED_ROUND_S 0.25

/* How much may be dirtied in the last iteration, of what the downtime allows. */
#define TARGET_SHARE	0.5
/* QEMU sends in portions of so much time. */
#define PORTION_S	0.1

/* The exponent if all iterations were alike, and its bounds. */
#define SLOPE	0.7
#define SLOPE_MIN	0.3
#define ALIKE		1.3

/*
 * After so many iterations, throttled by as much as this, the guest has to dirty less than
 * this share of what it dirtied in a second without.
 */
#define USELESS_X100	9000
#define USELESS_ROUNDS	6
#define USELESS_SHARE	0.9

/* A prediction of what will be dirtied may be wrong by so much. */
#define CERTAIN		1.2

/* The rest of the time limit is for what is predicted wrongly. */
#define LIMIT_SHARE	0.9

/* The least that is dirtied, so that there is a logarithm. */
#define PAGE		4096

#define SETTLE_S	0.3

#define MAX_ITERATIONS	200

/*
 * With a limit to the rate: if so many iterations dirty more than this for each byte that
 * the vCPUs have dirtied, others dirty it.
 */
#define FUTILE_RATIO	2.0
#define FUTILE_ROUNDS	2

/**
 * policy_set_by() - set how to throttle
 * @settings: what the user wants
 * @name: "rate" or "percent"
 *
 * Return: false if it is neither.
 */
bool policy_set_by(struct policy_settings *settings, const char *name)
{
	if (!strcmp(name, "rate"))
		settings->by = POLICY_BY_RATE;
	else if (!strcmp(name, "percent"))
		settings->by = POLICY_BY_PERCENT;
	else
		return false;
	return true;
}

/**
 * policy_set_max() - set the highest percentage
 * @settings: what the user wants
 * @max_x100: the percentage, in hundredths of a percent
 *
 * Whoever sets it wants percentages, unless policy_set_by() says otherwise.
 */
void policy_set_max(struct policy_settings *settings, uint32_t max_x100)
{
	settings->max_x100 = max_x100;
	if (settings->by == POLICY_BY_ANY)
		settings->by = POLICY_BY_PERCENT;
}

/**
 * policy_init() - begin with a migration
 * @p: the policy
 * @settings: what the user wants
 */
void policy_init(struct policy *p, const struct policy_settings *settings)
{
	*p = (struct policy) {
		.settings = *settings,
		.decision.left_s = NAN,
		.decision.unhelped_s = NAN,
		.decision.dirty_rate = NAN,
	};
}

static double share_of(uint32_t percent_x100)
{
	return 1 - percent_x100 / 10000.0;
}

/* How much can be sent while the guest is stopped. */
static double threshold(const struct policy *p)
{
	return p->link.bandwidth * p->last.downtime_s;
}

static bool is_throttled(const struct policy *p)
{
	return p->decision.percent_x100 || p->decision.limit;
}

/* Is it the rate that is limited, or would be? */
static bool is_by_rate(const struct policy *p)
{
	return p->last.vcpus.usable && p->settings.by != POLICY_BY_PERCENT &&
	       !p->decision.futile;
}

/* The newest point of W, which predictions begin with. */
static const struct policy_point *newest(const struct policy *p)
{
	if (p->probes.exact.used_s && !p->decision.percent_x100)
		return &p->probes.exact;
	return &p->points.list[0];
}

static bool differs(const struct policy_point *a, const struct policy_point *b)
{
	return a->used_s > ALIKE * b->used_s || b->used_s > ALIKE * a->used_s;
}

/* The newest iteration that differs from @point, or NULL. */
static const struct policy_point *other_than(const struct policy *p,
					     const struct policy_point *point)
{
	for (unsigned int i = 0; i < p->points.nr; i++) {
		if (differs(&p->points.list[i], point))
			return &p->points.list[i];
	}
	return NULL;
}

/*
 * The slope from an iteration to the one before that differed, in a diagram with
 * logarithmic scales.
 */
static double exponent(const struct policy *p)
{
	const struct policy_point *last = newest(p), *other = other_than(p, last);

	if (!other && p->probes.exact.used_s && differs(&p->probes.exact, last))
		other = &p->probes.exact;
	if (!other)
		return SLOPE;
	return fmin(fmax(log(last->dirtied / other->dirtied) /
			 log(last->used_s / other->used_s), SLOPE_MIN), 1);
}

/*
 * What the guest will dirty when it runs for @used_s.  In less time than it has
 * ever been seen to run, it may well dirty one page after the other.  In more, it
 * dirties more than in any shorter time, and less than in any longer one.
 */
static double dirtied(const struct policy *p, double slope, double used_s)
{
	const struct policy_point *least = newest(p), *last = newest(p);
	double most = p->remained.most;

	for (unsigned int i = 0; i < p->points.nr; i++) {
		const struct policy_point *point = &p->points.list[i];

		if (point->used_s < least->used_s)
			least = point;
		if (point->used_s >= used_s)
			most = fmin(most, point->dirtied);
	}
	if (used_s < least->used_s)
		return fmin(most, least->dirtied * used_s / least->used_s);
	return fmin(most, last->dirtied * pow(used_s / last->used_s, slope));
}

static double lowest_rate(const struct policy *p)
{
	return fmax(p->last.vcpus.lowest, PAGE);
}

/* What the vCPUs may dirty a second, so that @remaining is sent in one iteration. */
static double rate_for(const struct policy *p, double remaining)
{
	double time_s = fmax(remaining / p->link.drain, PORTION_S);

	return fmax(TARGET_SHARE * threshold(p) / time_s, lowest_rate(p));
}

/**
 * struct pace - how fast a guest is
 * @share: of the time that it has
 * @rate: what its vCPUs may dirty a second, 0 for any number of bytes
 * @at_once: they don't dirty more in this iteration either, though there was no limit
 *	when it began
 */
struct pace {
	double share;
	double rate;
	bool at_once;
};

static const struct pace full_speed = { .share = 1 };

/* How long the migration will take from here at that pace. */
static double predict(const struct policy *p, struct pace pace)
{
	double share = pace.share * (1 - p->last.other), rate = pace.rate;
	double used_s = p->round.used_s, left_s = 0, remaining = p->last.remaining;
	double counted = p->last.vcpus.dirtied - p->round.before;
	bool limited = rate && (p->round.limited || pace.at_once);
	double slope = exponent(p);

	if (!p->points.nr && !p->probes.exact.used_s && !limited)
		return NAN;
	for (int i = 0; i < MAX_ITERATIONS; i++) {
		double s = fmax(remaining - threshold(p), 0) / p->link.drain;
		double rest = fmin(remaining, threshold(p));

		s = ceil(s / PORTION_S) * PORTION_S;
		left_s += s;
		used_s += share * s;
		remaining = rest - PORTION_S / 2 * p->link.drain +
			    (limited ? counted + rate * s : dirtied(p, slope, used_s));
		if (remaining <= threshold(p))
			return left_s + p->last.downtime_s;
		limited = rate;
		if (limited)
			rate = rate_for(p, remaining);
		counted = 0;
		used_s = 0;
	}
	return INFINITY;
}

/* At the end QEMU looks after every portion. */
static bool is_last_one(const struct policy *p)
{
	return p->last.remaining < 2 * threshold(p);
}

/* The highest rate that makes this iteration the last one.  Near the end it isn't raised. */
static double choose_rate(const struct policy *p)
{
	double rate = rate_for(p, p->last.remaining), now = p->decision.limit;

	if (now && p->rounds.stuck >= STUCK_ROUNDS)
		return lowest_rate(p);
	return now && is_last_one(p) ? fmin(rate, now) : rate;
}

/*
 * The lowest percentage that makes this iteration the last one.  Near the end it would
 * take long to find the percentage anew.
 */
static uint32_t choose(const struct policy *p)
{
	uint32_t least = is_last_one(p) ? p->decision.percent_x100 : 0;
	const struct policy_point *last = newest(p);
	double time_s = fmax(p->last.remaining / p->link.drain, PORTION_S);
	double target = TARGET_SHARE * threshold(p);
	double used_s = last->used_s *
			pow(target / last->dirtied, 1 / exponent(p));
	double share = fmin(used_s / time_s / (1 - p->last.other), 1);

	if (p->decision.percent_x100 && p->rounds.stuck >= STUCK_ROUNDS)
		return p->settings.max_x100;
	return fmin(fmax(ceil(10000 * (1 - share)), least), p->settings.max_x100);
}

static void add_point(struct policy *p)
{
	for (unsigned int i = POLICY_POINTS - 1; i; i--)
		p->points.list[i] = p->points.list[i - 1];
	p->points.list[0] = (struct policy_point) {
		.used_s = p->round.used_s / p->round.syncs,
		.dirtied = fmax(p->round.dirtied / p->round.syncs, PAGE),
	};
	if (p->points.nr < POLICY_POINTS)
		p->points.nr++;
}

/*
 * The shorter an iteration, the more is dirtied for each byte sent, by a convex curve.
 * So a line through the second iteration and this one is below what is to come.  If even
 * the line says that more will be dirtied than sent when the threshold is reached, then
 * it won't be reached.
 */
static void look_ahead(struct policy *p)
{
	double ratio = p->round.dirtied / p->round.sent;
	double length = p->round.sent / p->round.syncs;
	double slope;

	if (!p->second.length) {
		p->second.ratio = ratio;
		p->second.length = length;
	}
	if (length * ALIKE > p->second.length)
		return;
	slope = (ratio - p->second.ratio) / (p->second.length - length);
	if (ratio + slope * (length - threshold(p)) > HOPELESS_RATIO)
		p->rounds.hopeless++;
	else
		p->rounds.hopeless = 0;
}

/*
 * If as much is dirtied in a second as without a throttle, it isn't the vCPUs that do it,
 * or they need next to no time for it.
 */
static void look_back(struct policy *p)
{
	double rate = p->round.dirtied / p->round.s;
	uint32_t enough = fmin(USELESS_X100, p->settings.max_x100);

	if (!p->decision.percent_x100) {
		p->free_rate = rate;
		p->rounds.useless = 0;
	} else if (p->free_rate && p->decision.percent_x100 >= enough &&
		   rate >= USELESS_SHARE * p->free_rate) {
		p->rounds.useless++;
	} else {
		p->rounds.useless = 0;
	}
}

/*
 * The rate was limited in all of this iteration, so what was dirtied should be what the
 * vCPUs have.  Otherwise the limit changes nothing.
 */
static void look_at_limit(struct policy *p)
{
	double counted = p->last.vcpus.dirtied - p->round.before;
	double slack = TARGET_SHARE * threshold(p) * p->round.syncs;

	if (p->round.dirtied > FUTILE_RATIO * counted + slack) {
		p->rounds.futile++;
		/* This is what is dirtied with no throttle that does anything. */
		p->free_rate = p->round.dirtied / p->round.s;
	} else {
		p->rounds.futile = 0;
	}
	if (p->rounds.futile >= FUTILE_ROUNDS)
		p->decision.futile = counted < PAGE ? POLICY_UNSEEN : POLICY_OTHERS;
}

/* What is to be learnt from an iteration that has ended. */
static void learn(struct policy *p, bool first)
{
	if (p->round.limited) {
		look_at_limit(p);
		return;
	}
	/* It had a limit in a part of it. */
	if (p->decision.limit)
		return;
	if (p->round.used_s > 0)
		add_point(p);
	if (!first) {
		look_ahead(p);
		look_back(p);
	}
}

/*
 * Has it become less?  What remains and what was dirtied both have to: how much remained
 * just when the iteration ended isn't known exactly, and a guest that dirties less now may
 * dirty more next time.
 */
static void look_at_progress(struct policy *p, bool first)
{
	double share = first ? FIRST_SHARE : STUCK_SHARE;

	if (p->last.remaining < share * p->remained.least &&
	    p->round.dirtied < share * p->round.sent)
		p->rounds.stuck = 0;
	else
		p->rounds.stuck++;
	/* The first iteration began with all memory: the next is compared with this one. */
	if (first || !p->rounds.stuck)
		p->remained.least = p->last.remaining;
	/* It began without the limit, which isn't to blame then. */
	if (p->decision.limit && !p->round.limited)
		p->rounds.stuck = 0;
}

/* An iteration has ended, or several short ones. */
static void end_round(struct policy *p)
{
	bool first = !p->pass.ended;

	if (first)
		p->pass.s = p->last.time_s;
	p->pass.ended = true;
	learn(p, first);
	/* Zeroes, of which the first iteration has the most, are sent in no time. */
	if (!first)
		p->link.drain = p->round.sent / p->round.s;
	p->decision.dirty_rate = p->round.dirtied / p->round.s;
	look_at_progress(p, first);
	p->round = (struct policy_round) {
		.limited = p->decision.limit,
		.before = p->last.vcpus.dirtied,
	};
}

/* Account for the time since the last sample.  Returns true if an iteration ended. */
static bool take(struct policy *p, const struct policy_sample *sample)
{
	const struct policy_sample *last = &p->last;
	double s = sample->time_s - last->time_s;
	double sent = sample->sent - last->sent;
	double smooth = fmin(s, 1);
	uint64_t last_syncs = last->syncs;

	p->round.s += s;
	p->round.used_s += s * share_of(p->decision.percent_x100) * (1 - sample->other);
	p->round.sent += sent;
	if (sample->syncs != last_syncs) {
		p->round.dirtied += fmax(sample->remaining - last->remaining + sent, 0);
		p->round.syncs += sample->syncs - last_syncs;
	}
	/* QEMU's first figures are of next to nothing. */
	if (!p->link.bandwidth || sample->time_s < SETTLE_S)
		p->link.bandwidth = sample->bandwidth;
	p->link.bandwidth += smooth * (sample->bandwidth - p->link.bandwidth);
	if (!p->pass.ended)
		p->link.drain = p->link.bandwidth;
	p->remained.most = fmax(p->remained.most, sample->remaining);
	p->last = *sample;
	return sample->syncs != last_syncs && p->link.drain > 0 && p->round.sent > 0 &&
	       p->round.s >= (is_throttled(p) ? THROTTLED_ROUND_S : ROUND_S);
}

/* A probe has ended. */
static void take_probe(struct policy *p, const struct policy_sample *sample)
{
	const struct policy_point *probe = &sample->probe;
	double most = probe->dirtied + sample->probe_error;

	p->probes.nr++;
	if (probe->dirtied >= PROBE_EXACT * sample->probe_error)
		p->probes.exact = *probe;
	if (probe->dirtied >= HOT_SHARE * p->link.drain * probe->used_s) {
		p->hot.until_s = sample->time_s;
		if (!p->hot.since_s)
			p->hot.since_s = sample->time_s;
	} else if (p->hot.since_s) {
		p->hot.longest_s = fmax(p->hot.longest_s, p->hot.until_s - p->hot.since_s);
		p->hot.since_s = 0;
	}
	if (most < COOL_SHARE * threshold(p))
		p->probes.cool_s = sample->time_s;
}

/* Do the probes say that what remains can't shrink to what the downtime allows? */
static bool is_hot(const struct policy *p)
{
	double s = p->hot.until_s - p->hot.since_s;

	return p->hot.since_s && s >= HOT_S && s >= HOT_LONGER * p->hot.longest_s &&
	       p->last.remaining > NEAR * threshold(p);
}

/* Is this a burst that may end soon, as there were before? */
static bool is_burst(const struct policy *p)
{
	return p->hot.longest_s && p->hot.since_s &&
	       p->last.time_s - p->hot.since_s < HOT_LONGER * p->hot.longest_s;
}

static double probe_s(const struct policy *p)
{
	double s = fmax(threshold(p) / p->link.drain, PROBE_MIN_S);

	return fmin(fmax(s, PROBE_BYTES / p->link.drain), fmax(s, PROBE_MAX_S));
}

/* Did the last probes say that what remains will shrink to the threshold? */
static bool is_cool(const struct policy *p)
{
	return p->probes.cool_s && p->last.time_s < p->probes.cool_s + 2 * PROBE_EVERY * probe_s(p);
}

static bool may_shrink(const struct policy *p)
{
	return is_cool(p) || is_burst(p);
}

static bool is_stuck(const struct policy *p)
{
	bool hopeless = p->rounds.hopeless >= STUCK_ROUNDS &&
			p->last.remaining > HOPELESS_RATIO * threshold(p);
	bool doubt = may_shrink(p) || p->last.remaining < NEAR * threshold(p);

	return (hopeless && !may_shrink(p)) ||
	       p->rounds.stuck >= (doubt ? DOUBT_ROUNDS : STUCK_ROUNDS);
}

/* How long may it take in all, if it ends by itself? */
static double patience_s(const struct policy *p)
{
	return fmax(SLOW_PASSES * p->pass.s, SLOW_S);
}

static double ratio_of(const struct policy *p, const struct policy_point *point)
{
	return point->dirtied / (point->used_s * p->link.drain);
}

/*
 * Will it take too long to end by itself, even if the ratio of what is dirtied to what
 * is sent stays as it is?  It isn't throttled for that if a line through two iterations
 * says that the ratio will be well below 1 in the end.
 */
static bool is_slow(const struct policy *p)
{
	const struct policy_point *last = &p->points.list[0], *other = other_than(p, last);
	double first_s = (p->last.remaining - threshold(p)) / p->link.drain - PORTION_S;
	double ratio = ratio_of(p, last), end_ratio = ratio, left_s;

	if (p->points.nr < 2 || p->settings.time_limit_s || is_cool(p) || first_s <= 0)
		return false;
	if (other && other->used_s > last->used_s)
		end_ratio += (ratio - ratio_of(p, other)) / (other->used_s - last->used_s) *
			     (last->used_s - threshold(p) / p->link.drain);
	left_s = first_s / (1 - fmin(ratio, SLOW_MOST));
	return end_ratio > SLOW_RATIO && p->last.time_s + left_s > patience_s(p);
}

/*
 * The same where the rate is limited.  That costs little, so there needn't be as much
 * evidence: the first iteration alone may do.
 */
static bool is_slow_by_rate(const struct policy *p)
{
	return is_by_rate(p) && p->points.nr && !p->settings.time_limit_s && !may_shrink(p) &&
	       p->last.remaining > NEAR * threshold(p) &&
	       ratio_of(p, &p->points.list[0]) > LONG_RATIO &&
	       p->last.time_s + predict(p, full_speed) > patience_s(p);
}

/* How long shall a probe be that begins now?  0: none.  None begins while it is throttled. */
static double next_probe(struct policy *p)
{
	double s, every_s;

	if (is_throttled(p) || p->last.time_s < fmax(p->probes.next_s, SETTLE_S) ||
	    !(p->link.drain > 0))
		return 0;
	s = probe_s(p);
	/* An iteration that ends meanwhile spoils it. */
	if (s > (p->last.remaining - threshold(p)) / p->link.drain)
		return 0;
	every_s = fmax(PROBE_EVERY_S, PROBE_EVERY * s);
	/* Not in step with what the guest does. */
	p->probes.next_s = p->last.time_s + every_s * (0.75 + 0.5 * fmod(p->probes.nr * GOLDEN, 1));
	return s;
}

/*
 * Is there no time any more for another iteration at full speed, which would tell more,
 * before one at the highest percentage?
 */
static bool is_pressed(const struct policy *p)
{
	double limit_s = LIMIT_SHARE * p->settings.time_limit_s;
	double iteration_s = p->last.remaining / p->link.drain;

	return limit_s && p->last.time_s + 2 * iteration_s +
			  p->last.downtime_s > limit_s &&
	       !(p->last.time_s + predict(p, full_speed) <= limit_s);
}

/* How long will it take if all is done that can be done? */
static double predict_best(const struct policy *p)
{
	struct pace pace = { .share = share_of(p->settings.max_x100) };

	if (is_by_rate(p))
		pace = (struct pace) { 1, choose_rate(p), true };
	return predict(p, pace);
}

/* Can the time limit no longer be kept, whatever is done? */
static bool is_late(const struct policy *p)
{
	double left_s;

	if (!p->settings.time_limit_s || !(p->link.drain > 0))
		return false;
	if (p->last.syncs <= 1 && !p->round.sent)
		return false;
	if (p->last.syncs > 1)
		left_s = predict_best(p);
	else
		left_s = p->last.remaining / fmax(p->link.drain, p->round.sent / p->round.s);
	return p->last.time_s + left_s > p->settings.time_limit_s;
}

/*
 * Which downtime would do at the highest percentage, if the one that is allowed doesn't?
 * Iterations get shorter until what one dirties is as much as it sends.
 */
static double downtime_needed(const struct policy *p)
{
	double share = share_of(p->settings.max_x100) * (1 - p->last.other);
	double slope = exponent(p), remaining = p->last.remaining;

	if (!p->decision.percent_x100 || p->decision.percent_x100 < p->settings.max_x100 ||
	    !(p->link.bandwidth > 0) || p->rounds.stuck < STUCK_ROUNDS ||
	    isfinite(predict_best(p)))
		return 0;
	for (int i = 0; i < MAX_ITERATIONS; i++)
		remaining = dirtied(p, slope, share * fmax(remaining / p->link.drain, PORTION_S));
	return fmax(CERTAIN * remaining / p->link.bandwidth, p->last.downtime_s);
}

/* Begin to throttle, or do it by another percentage or rate, or give it up. */
static void correct(struct policy *p)
{
	struct policy_decision *d = &p->decision;
	bool by_rate = is_by_rate(p);

	d->corrected = true;
	/* A limit that is given up for a percentage begins anew, too. */
	if (!is_throttled(p) || (d->limit && !by_rate))
		p->rounds.stuck = 0;
	if (isnan(d->unhelped_s))
		d->unhelped_s = p->last.time_s + predict(p, full_speed);
	if (p->rounds.useless >= USELESS_ROUNDS)
		d->reason = POLICY_USELESS;
	d->limit = by_rate ? choose_rate(p) : 0;
	d->percent_x100 = by_rate || p->settings.by == POLICY_BY_RATE ||
			  d->reason == POLICY_USELESS ? 0 : choose(p);
}

/* Why a guest that isn't throttled has to be, or needn't. */
static enum policy_reason look_for_reason(const struct policy *p, bool ended, bool synced)
{
	if (is_hot(p) || (ended && is_stuck(p)))
		return POLICY_STUCK;
	if (ended && (is_slow(p) || is_slow_by_rate(p)))
		return POLICY_SLOW;
	if (synced && p->points.nr && is_pressed(p))
		return POLICY_SLOW;
	return POLICY_CONVERGES;
}

/**
 * policy_feed() - decide
 * @p: the policy
 * @sample: what is known now; what was decided before has been in force since
 *	the sample before this one
 *
 * Return: what to do.
 */
struct policy_decision policy_feed(struct policy *p,
				   const struct policy_sample *sample)
{
	struct policy_decision *d = &p->decision;
	bool ended, synced = sample->syncs != p->last.syncs;
	struct pace pace;

	d->corrected = false;
	if (!p->started) {
		p->started = true;
		p->last = *sample;
		p->link.bandwidth = sample->bandwidth;
		p->remained.least = sample->remaining;
		p->remained.most = sample->remaining;
		return *d;
	}
	ended = take(p, sample);
	if (ended)
		end_round(p);
	if (sample->probe.used_s > 0)
		take_probe(p, sample);
	if (d->reason < POLICY_STUCK && p->last.syncs > 1) {
		d->reason = look_for_reason(p, ended, synced);
		ended |= d->reason >= POLICY_STUCK;
	}
	/* The rate can't be limited any more. */
	ended |= d->limit && !is_by_rate(p);
	if (ended && d->reason >= POLICY_STUCK && d->reason != POLICY_USELESS)
		correct(p);
	d->probe_s = next_probe(p);
	pace = (struct pace) { share_of(d->percent_x100), d->limit, false };
	d->left_s = predict(p, pace);
	d->by_rate = is_by_rate(p);
	d->promised = d->limit && isfinite(d->left_s);
	d->late = is_late(p);
	if (ended && p->points.nr)
		d->downtime_s = downtime_needed(p);
	return *d;
}
