// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tests policy.c: feeds it with migrations that are made up, sample by sample,
 * and looks at what it decides.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "policy.h"

#define MIB		(1024.0 * 1024)

/* The link: 100 MiB/s, so that 30 MiB can be sent while the guest is stopped. */
#define BANDWIDTH	(100 * MIB)
#define DOWNTIME_S	0.3

/* The lowest limit to what vCPUs dirty, in bytes per second: that of one. */
#define LOWEST		(50 * 4096.0)

static unsigned int nr_tests, nr_failed;

static void check(bool ok, const char *format, ...)
{
	va_list args;

	nr_failed += !ok;
	printf("%sok %u ", ok ? "" : "not ", ++nr_tests);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

/**
 * struct migration - one that is made up
 * @policy: what watches it
 * @sample: how it is
 * @d: what has been decided last
 * @probe_end_s: when the probe that is running will end
 * @probe_s: its length, 0 if none runs
 * @probe_rate: bytes per second that probes find; 0 if there are none
 */
struct migration {
	struct policy policy;
	struct policy_sample sample;
	struct policy_decision d;
	double probe_end_s;
	double probe_s;
	double probe_rate;
};

static void begin(struct migration *m, double bytes, uint32_t max_x100, double limit_s)
{
	struct policy_settings settings = { .max_x100 = max_x100, .time_limit_s = limit_s };

	*m = (struct migration) {
		.sample = {
			.syncs = 1,
			.remaining = bytes,
			.bandwidth = BANDWIDTH,
			.downtime_s = DOWNTIME_S,
		},
	};
	policy_init(&m->policy, &settings);
	m->d = policy_feed(&m->policy, &m->sample);
}

static void feed(struct migration *m)
{
	m->sample.probe = (struct policy_point) { 0 };
	m->sample.probe_error = 0;
	if (m->probe_s && m->sample.time_s >= m->probe_end_s) {
		m->sample.probe.used_s = m->probe_s;
		m->sample.probe.dirtied = m->probe_s * m->probe_rate;
		m->sample.probe_error = MIB;
		m->probe_s = 0;
	}
	m->d = policy_feed(&m->policy, &m->sample);
	if (m->d.probe_s && m->probe_rate) {
		m->probe_s = m->d.probe_s;
		m->probe_end_s = m->sample.time_s + m->probe_s;
	}
}

/* Send until QEMU looks again; then so much is found dirty. */
static void iterate(struct migration *m, double dirtied)
{
	while (m->sample.remaining > DOWNTIME_S * BANDWIDTH) {
		double sent = fmin(0.1 * BANDWIDTH, m->sample.remaining);

		m->sample.time_s += 0.1;
		m->sample.remaining -= sent;
		m->sample.sent += sent;
		if (m->sample.remaining > DOWNTIME_S * BANDWIDTH)
			feed(m);
	}
	m->sample.syncs++;
	m->sample.remaining += dirtied;
	feed(m);
}

static double percent(const struct migration *m)
{
	return m->d.percent_x100 / 100.0;
}

static bool about(double value, double other, double error)
{
	return fabs(value - other) <= error;
}

static void test_own(void)
{
	struct migration m;
	double left_s;

	begin(&m, 4000 * MIB, POLICY_MAX_X100, 0);
	check(!m.d.percent_x100 && m.d.reason == POLICY_WATCHING && isnan(m.d.left_s),
	      "nothing is known at first");
	for (double bytes = 2000 * MIB; bytes > 40 * MIB; bytes /= 1.5) {
		iterate(&m, bytes);
		if (m.d.percent_x100 || m.d.reason != POLICY_CONVERGES)
			break;
	}
	check(!m.d.percent_x100 && m.d.reason == POLICY_CONVERGES,
	      "what shrinks by a third each time is not throttled");

	begin(&m, 4000 * MIB, POLICY_MAX_X100, 0);
	iterate(&m, 1000 * MIB);
	iterate(&m, 500 * MIB);
	left_s = m.d.left_s;
	check(left_s > 5 && left_s < 30, "what halves each time ends in %.1f s", left_s);
}

static void test_stuck(void)
{
	struct migration m;

	begin(&m, 1000 * MIB, POLICY_MAX_X100, 0);
	iterate(&m, 900 * MIB);
	check(!m.d.percent_x100, "one iteration in which all was dirtied says too little");
	iterate(&m, 900 * MIB);
	check(m.d.percent_x100 && m.d.reason == POLICY_STUCK && m.d.corrected,
	      "but two do: %.2f %%", percent(&m));

	begin(&m, 1000 * MIB, 5000, 0);
	iterate(&m, 900 * MIB);
	iterate(&m, 900 * MIB);
	check(percent(&m) == 50, "%.2f %%, of at most 50", percent(&m));

	/* A small part of the memory is hot: the first pass says nothing. */
	begin(&m, 4000 * MIB, POLICY_MAX_X100, 0);
	iterate(&m, 400 * MIB);
	iterate(&m, 400 * MIB);
	check(!m.d.percent_x100, "it may yet shrink after the first pass");
	iterate(&m, 400 * MIB);
	check(m.d.percent_x100, "it doesn't: %.2f %%", percent(&m));

	/* Iterations of 0.2 s. */
	begin(&m, 200 * MIB, POLICY_MAX_X100, 0);
	for (int i = 0; i < 8 && !m.d.percent_x100; i++)
		iterate(&m, 20 * MIB);
	check(!m.d.percent_x100 || m.sample.time_s >= 2, "short iterations: not within %.1f s",
	      m.sample.time_s);
}

/* The guest dirties 1 GiB in a second that it runs, and 4 of 4 GiB in the end. */
static double sweep(double used_s)
{
	return fmin(1024 * MIB * used_s, 4096 * MIB);
}

static void test_choice(void)
{
	struct migration m;
	double iteration_s, share;

	begin(&m, 4096 * MIB, POLICY_MAX_X100, 0);
	m.probe_rate = 1024 * MIB;
	iterate(&m, 4066 * MIB);
	check(m.d.reason == POLICY_STUCK,
	      "probes tell at the end of the first pass: %.2f %%", percent(&m));

	/* From now on it does what a sweep does: 99 % is 1 % of 1024 MiB a second. */
	iteration_s = (m.sample.remaining - DOWNTIME_S * BANDWIDTH) / BANDWIDTH;
	iterate(&m, sweep(iteration_s * (1 - percent(&m) / 100)));
	iteration_s = m.sample.remaining / BANDWIDTH;
	share = 15 * MIB / sweep(1) / iteration_s;
	check(about(1 - percent(&m) / 100, share, 0.1 * share) || percent(&m) == 99,
	      "then W is half of what can be sent: %.2f %%, should be %.2f %%", percent(&m),
	      100 * (1 - share));

	m.sample.time_s += 10;
	feed(&m);
	check(!m.d.probe_s, "no probes of a guest that is throttled");
}

/* In an iteration the guest dirties 2000 MiB * u^0.8, but no more than 900 MiB. */
static void iterate_power(struct migration *m)
{
	double s = ceil((m->sample.remaining - DOWNTIME_S * BANDWIDTH) / BANDWIDTH * 10) / 10;

	iterate(m, fmin(2000 * MIB * pow(s * (1 - percent(m) / 100), 0.8), 900 * MIB));
}

static void test_correction(void)
{
	struct migration m;
	double before, share;

	begin(&m, 1000 * MIB, 9900, 0);
	iterate_power(&m);
	iterate_power(&m);
	check(percent(&m) == 99, "as much as is allowed: %.2f %%", percent(&m));
	iterate_power(&m);
	m.policy.settings.max_x100 = 9999;
	iterate_power(&m);
	share = pow(15.0 / 2000, 1 / 0.8) / (m.sample.remaining / BANDWIDTH);
	check(about(1 - percent(&m) / 100, share, 0.2 * share),
	      "with that known, %.2f %% is found: %.2f %%", 100 * (1 - share), percent(&m));

	/* Nearly there: not lowered any more. */
	begin(&m, 1000 * MIB, POLICY_MAX_X100, 0);
	iterate(&m, 900 * MIB);
	iterate(&m, 900 * MIB);
	before = percent(&m);
	iterate(&m, 20 * MIB);
	check(before && percent(&m) >= before, "near the end it stays: %.2f, %.2f %%", before,
	      percent(&m));

	/* Nothing helps but the highest. */
	begin(&m, 1000 * MIB, 9900, 0);
	for (int i = 0; i < 5; i++)
		iterate(&m, 900 * MIB);
	check(percent(&m) == 99, "what doesn't shrink gets the highest: %.2f %%", percent(&m));
}

/* Most of the first iteration goes by: until so much remains. */
static void send_until(struct migration *m, double remaining)
{
	while (m->sample.remaining > remaining) {
		m->sample.time_s += 0.1;
		m->sample.remaining -= 0.1 * BANDWIDTH;
		m->sample.sent += 0.1 * BANDWIDTH;
		feed(m);
	}
}

static void test_probe_length(void)
{
	struct migration m;

	begin(&m, 4000 * MIB, POLICY_MAX_X100, 0);
	m.probe_rate = MIB;
	m.sample.time_s += 0.1;
	feed(&m);
	check(!m.d.probe_s, "no probe before it is known how fast the link is");
	m.sample.time_s += 0.3;
	feed(&m);
	check(about(m.d.probe_s, DOWNTIME_S, 0.001), "a probe is as long as the downtime: %.3f s",
	      m.d.probe_s);
	m.sample.time_s += 0.1;
	feed(&m);
	check(!m.d.probe_s, "one at a time");

	/* A link so slow that QEMU's whole MiB are too coarse. */
	begin(&m, 400 * MIB, POLICY_MAX_X100, 0);
	m.sample.bandwidth = 8 * MIB;
	m.policy.link.bandwidth = m.sample.bandwidth;
	m.sample.time_s += 0.4;
	feed(&m);
	check(about(m.d.probe_s, 1, 0.01), "and long enough to tell: %.3f s", m.d.probe_s);

	begin(&m, 100 * MIB, POLICY_MAX_X100, 0);
	m.sample.time_s += 0.6;
	m.sample.remaining -= 60 * MIB;
	m.sample.sent += 60 * MIB;
	feed(&m);
	check(!m.d.probe_s, "no probe that an iteration's end would spoil");
	m.sample.remaining += 60 * MIB;
	m.sample.syncs++;
	feed(&m);
	check(m.d.probe_s, "but at the beginning of the next one");
}

static void test_probes(void)
{
	struct migration m;

	begin(&m, 4000 * MIB, POLICY_MAX_X100, 0);
	m.probe_rate = 2 * BANDWIDTH;
	send_until(&m, 2000 * MIB);
	check(!m.d.percent_x100, "the first pass is not throttled, whatever they say");
	iterate(&m, 500 * MIB);
	check(m.d.percent_x100, "its end is: %.2f %%", percent(&m));

	begin(&m, 4000 * MIB, POLICY_MAX_X100, 0);
	m.probe_rate = 0.5 * BANDWIDTH;
	iterate(&m, 3900 * MIB);
	for (int i = 0; i < 3; i++)
		iterate(&m, 500 * MIB);
	check(!m.d.percent_x100, "a guest that dirties less than is sent gets more time");
	for (int i = 0; i < 5; i++)
		iterate(&m, 500 * MIB);
	check(m.d.percent_x100, "but not for ever: %.2f %%", percent(&m));
}

static void test_bursts(void)
{
	struct migration m;

	/* Bursts of 6 s, again and again; one has lasted for 5.6 s at the end. */
	begin(&m, 8000 * MIB, POLICY_MAX_X100, 0);
	while (m.sample.remaining > 40 * MIB) {
		m.probe_rate = fmod(m.sample.time_s, 12.4) < 6 ? 5 * BANDWIDTH : 0.01 * BANDWIDTH;
		m.sample.time_s += 0.1;
		m.sample.remaining -= 0.1 * BANDWIDTH;
		m.sample.sent += 0.1 * BANDWIDTH;
		feed(&m);
	}
	iterate(&m, 200 * MIB);
	check(!m.d.percent_x100, "a burst as there were before may end");
	for (int i = 0; i < 2; i++)
		iterate(&m, 200 * MIB);
	check(!m.d.percent_x100, "even if what remains hasn't shrunk in two iterations");
	for (int i = 0; i < 6 && !m.d.percent_x100; i++)
		iterate(&m, 200 * MIB);
	check(m.d.percent_x100, "but it has to, at last: %.2f %% at %.1f s", percent(&m),
	      m.sample.time_s);
}

/* Of 1600 MiB any page is dirtied at any time, at so many MiB/s; without probes. */
static void migrate_uniform(struct migration *m, double rate, double limit_s, double until_s)
{
	begin(m, 1700 * MIB, POLICY_MAX_X100, limit_s);
	iterate(m, 1590 * MIB);
	while (!m->d.percent_x100 && m->sample.time_s < until_s &&
	       m->sample.remaining > DOWNTIME_S * BANDWIDTH) {
		double s = (m->sample.remaining - DOWNTIME_S * BANDWIDTH) / BANDWIDTH;

		iterate(m, -1600 * MIB * expm1(-rate * s / 1600));
	}
}

static void test_look_ahead(void)
{
	struct migration m;

	migrate_uniform(&m, 130, 0, 1000);
	check(m.d.percent_x100 && m.sample.remaining > 850 * MIB,
	      "it still shrinks, but won't do enough: %.2f %% at %.0f MiB", percent(&m),
	      m.sample.remaining / MIB);
	migrate_uniform(&m, 90, 0, 1000);
	check(!m.d.percent_x100, "and this one will");
}

static void test_slow(void)
{
	struct migration m;

	/* At the end, as much is dirtied as is sent: it would take for ever. */
	migrate_uniform(&m, 101, 0, 1000);
	check(m.d.reason == POLICY_SLOW && m.sample.time_s < 3 * 17,
	      "it shrinks, but so slowly that it is helped: %.2f %% at %.1f s, %.0f MiB",
	      percent(&m), m.sample.time_s, m.sample.remaining / MIB);
	migrate_uniform(&m, 101, 1000, 60);
	check(!m.d.percent_x100, "who has 1000 s doesn't need that at %.1f s",
	      m.sample.time_s);
}

static void test_limit(void)
{
	struct migration m;

	begin(&m, 4000 * MIB, POLICY_MAX_X100, 1000);
	iterate(&m, 3000 * MIB);
	iterate(&m, 2400 * MIB);
	check(!m.d.percent_x100 && !m.d.late, "there is time for what shrinks slowly");

	/* 40 s, 30 s, 24 s, ... and at the highest percentage 30 s from there. */
	begin(&m, 4000 * MIB, POLICY_MAX_X100, 90);
	iterate(&m, 3000 * MIB);
	check(m.d.percent_x100 && m.d.reason == POLICY_SLOW && !m.d.late,
	      "there is none for it within 90 s: %.2f %%", percent(&m));

	/* The first pass is so short that it says nothing. */
	begin(&m, 75 * MIB, POLICY_MAX_X100, 2.6);
	iterate(&m, 70 * MIB);
	check(!m.d.percent_x100 && m.d.reason == POLICY_CONVERGES,
	      "what isn't known isn't decided by, at %.1f s", m.sample.time_s);
	iterate(&m, 10 * MIB);
	iterate(&m, 5 * MIB);
	check(!m.d.percent_x100 && m.d.reason == POLICY_CONVERGES && m.sample.time_s < 2.6,
	      "what ends in time is left alone, at %.1f s", m.sample.time_s);

	/* Iterations of 0.7 s, of which one alone says too little for a fit. */
	begin(&m, 100 * MIB, POLICY_MAX_X100, 4.8);
	while (!m.d.percent_x100 && m.sample.time_s < 10)
		iterate(&m, 70 * MIB);
	check(m.d.percent_x100 && m.sample.time_s + DOWNTIME_S +
	      2 * m.sample.remaining / BANDWIDTH <= 4.8,
	      "there is time for two more, within 4.8 s: %.2f %% at %.1f s", percent(&m),
	      m.sample.time_s);

	begin(&m, 4000 * MIB, POLICY_MAX_X100, 60);
	check(!m.d.late, "nothing is said before anything is known");
	iterate(&m, 3000 * MIB);
	check(m.d.late, "60 s are too short, at %.1f s", m.sample.time_s);

	begin(&m, 4000 * MIB, POLICY_MAX_X100, 30);
	for (int i = 0; i < 5; i++) {
		m.sample.time_s += 0.1;
		m.sample.remaining -= 0.1 * BANDWIDTH;
		m.sample.sent += 0.1 * BANDWIDTH;
		feed(&m);
	}
	check(m.d.late && !m.d.percent_x100, "and 30 s for one pass alone, at %.1f s",
	      m.sample.time_s);
}

static void test_odd(void)
{
	struct migration m;

	begin(&m, 1000 * MIB, POLICY_MAX_X100, 0);
	m.sample.bandwidth = 0;
	m.policy.link.bandwidth = 0;
	for (int i = 0; i < 30; i++) {
		m.sample.time_s += 0.1;
		feed(&m);
	}
	check(!m.d.percent_x100 && !m.d.probe_s, "nothing is sent yet");

	/* Several iterations between two looks. */
	begin(&m, 1000 * MIB, POLICY_MAX_X100, 0);
	for (int i = 0; i < 8 && !m.d.percent_x100; i++) {
		m.sample.time_s += 5;
		m.sample.sent += 500 * MIB;
		m.sample.remaining = 800 * MIB;
		m.sample.syncs += 3;
		feed(&m);
	}
	check(m.d.percent_x100 && isfinite(m.d.dirty_rate), "several iterations between two looks: %.2f %%",
	      percent(&m));

	/* Watched from the middle of the migration on. */
	begin(&m, 500 * MIB, POLICY_MAX_X100, 0);
	m.sample.syncs = 17;
	m.policy.last.syncs = 17;
	m.probe_rate = 3 * BANDWIDTH;
	for (int i = 0; i < 40; i++) {
		m.sample.time_s += 0.1;
		m.sample.remaining -= 0.1 * BANDWIDTH;
		m.sample.sent += 0.1 * BANDWIDTH;
		feed(&m);
	}
	check(m.d.percent_x100, "watched from the middle on: %.2f %%", percent(&m));
}

/* Iterations until @n have dirtied @rate bytes per second, however much is throttled. */
static void iterate_at_rate(struct migration *m, int n, double rate)
{
	while (n--) {
		double s = fmax(m->sample.remaining / BANDWIDTH - DOWNTIME_S, 0.1);

		iterate(m, rate * s);
	}
}

static void test_useless(void)
{
	struct migration m;
	double began_s;
	int i;

	begin(&m, 1000 * MIB, POLICY_MAX_X100, 0);
	iterate_at_rate(&m, 4, 1.2 * BANDWIDTH);
	check(m.d.percent_x100, "what isn't dirtied by vCPUs is throttled at first: %.2f %%",
	      percent(&m));
	began_s = m.sample.time_s;
	for (i = 0; i < 20 && m.d.reason != POLICY_USELESS; i++)
		iterate_at_rate(&m, 1, 1.2 * BANDWIDTH);
	check(m.d.reason == POLICY_USELESS && !m.d.percent_x100 && m.d.corrected &&
	      i >= 3 && i <= 6,
	      "it is let go of after %d iterations, %.1f s", i, m.sample.time_s - began_s);
	iterate_at_rate(&m, 4, 1.2 * BANDWIDTH);
	check(!m.d.percent_x100 && m.d.reason == POLICY_USELESS, "and stays so");

	/* The same, but the throttle takes some of it: half is enough to go on. */
	begin(&m, 1000 * MIB, POLICY_MAX_X100, 0);
	iterate_at_rate(&m, 4, 1.2 * BANDWIDTH);
	iterate_at_rate(&m, 12, 0.97 * BANDWIDTH);
	check(m.d.percent_x100, "what becomes less is not given up: %.2f %%", percent(&m));
}

static void test_downtime(void)
{
	struct migration m;

	begin(&m, 1000 * MIB, POLICY_MAX_X100, 0);
	for (int i = 0; i < 8 && !(m.d.downtime_s > 0); i++)
		iterate(&m, 300 * MIB);
	check(m.d.downtime_s > 1.5 * DOWNTIME_S && m.d.downtime_s < 10,
	      "a downtime that can't be met is known before it is useless: %.1f s do",
	      m.d.downtime_s);
	begin(&m, 1000 * MIB, POLICY_MAX_X100, 0);
	iterate(&m, 900 * MIB);
	iterate(&m, 900 * MIB);
	for (int i = 0; i < 3; i++)
		iterate(&m, 20 * MIB);
	check(!(m.d.downtime_s > 0), "one that can be met");
}

static double share_beside(double other)
{
	struct migration m;

	begin(&m, 1000 * MIB, 9999, 0);
	m.sample.other = other;
	iterate(&m, 300 * MIB);
	for (int i = 0; i < 8 && !m.d.percent_x100; i++)
		iterate(&m, 60 * MIB);
	return 100 - percent(&m);
}

/* Begin with a migration whose vCPUs can be limited in what they dirty. */
static void begin_by(struct migration *m, double bytes, enum policy_by by, double limit_s)
{
	begin(m, bytes, POLICY_MAX_X100, limit_s);
	m->policy.settings.by = by;
	m->sample.vcpus = (struct policy_vcpus) { .usable = true, .lowest = LOWEST };
	m->policy.last = m->sample;
}

/*
 * Iterations in which the vCPUs would dirty @rate bytes per second, up to @all, and keep to
 * the limit, and others dirty @others.  Ends when what is left can be sent in the downtime.
 */
static void iterate_limited(struct migration *m, int n, double rate, double all, double others)
{
	while (n-- && m->sample.remaining > DOWNTIME_S * BANDWIDTH) {
		double left_s = m->sample.remaining / BANDWIDTH - DOWNTIME_S;
		double s = fmax(ceil(left_s * 10) / 10, 0.1);
		double vcpus = fmin(rate * s, all);

		if (m->d.limit) {
			vcpus = fmin(vcpus, m->d.limit * s);
			m->sample.vcpus.dirtied += vcpus;
		}
		iterate(m, vcpus + others * s);
	}
}

static bool has_ended(const struct migration *m)
{
	return m->sample.remaining <= DOWNTIME_S * BANDWIDTH;
}

static void test_rate(void)
{
	struct migration m;
	double promised_s, rate;

	/* Of 1000 MiB all are dirtied in no time: 97 % would be sent until that is seen. */
	begin_by(&m, 1000 * MIB, POLICY_BY_ANY, 0);
	check(!m.d.by_rate && !m.d.limit, "no limit before anything is known");
	m.probe_rate = 2 * BANDWIDTH;
	send_until(&m, 200 * MIB);
	check(m.d.by_rate && !m.d.limit, "nor in the first pass, whatever probes say");
	iterate(&m, 1000 * MIB);
	rate = 0.5 * DOWNTIME_S * BANDWIDTH / (m.sample.remaining / BANDWIDTH);
	check(about(m.d.limit, rate, rate / 1e6) && !m.d.percent_x100 && m.d.corrected,
	      "then half of what the downtime allows: %.2f MiB/s", m.d.limit / MIB);
	check(m.d.promised && m.d.left_s > 15 && m.d.left_s < 25,
	      "the end is promised, in %.1f s: the limit began within an iteration", m.d.left_s);
	promised_s = m.sample.time_s + m.d.left_s;
	/* It was all dirtied before the limit was in force. */
	iterate(&m, 1000 * MIB);
	check(m.d.limit && m.sample.time_s + m.d.left_s <= promised_s + 0.2,
	      "which holds even if the guest had dirtied all by then: %.1f s, %.1f s", promised_s,
	      m.sample.time_s + m.d.left_s);
	promised_s = m.sample.time_s + m.d.left_s;
	iterate_limited(&m, 4, INFINITY, 1000 * MIB, 0);
	check(has_ended(&m) && m.sample.time_s + DOWNTIME_S <= promised_s + 0.1,
	      "it ends after %.1f s, %.1f s were promised", m.sample.time_s + DOWNTIME_S, promised_s);

	/* Each iteration has a rate of its own, but near the end it isn't raised. */
	begin_by(&m, 1000 * MIB, POLICY_BY_ANY, 0);
	iterate(&m, 900 * MIB);
	rate = m.d.limit;
	iterate(&m, 300 * MIB);
	check(m.d.limit > rate, "a shorter iteration may dirty more a second: %.2f, %.2f MiB/s",
	      rate / MIB, m.d.limit / MIB);
	rate = m.d.limit;
	m.sample.vcpus.dirtied += 5 * MIB;
	iterate(&m, 5 * MIB);
	check(m.d.limit == rate, "the last one not: %.2f MiB/s", m.d.limit / MIB);
}

static void test_rate_or_not(void)
{
	struct migration m;
	int i;

	begin_by(&m, 4000 * MIB, POLICY_BY_ANY, 0);
	for (double bytes = 2000 * MIB; bytes > 40 * MIB; bytes /= 1.5) {
		iterate(&m, bytes);
		if (m.d.limit)
			break;
	}
	check(!m.d.limit && m.d.reason == POLICY_CONVERGES, "what shrinks by a third each time has no limit");

	begin_by(&m, 1000 * MIB, POLICY_BY_PERCENT, 0);
	iterate(&m, 900 * MIB);
	check(!m.d.limit && !m.d.percent_x100 && !m.d.by_rate, "by percent: one iteration says too little");
	iterate(&m, 900 * MIB);
	check(!m.d.limit && m.d.percent_x100, "by percent: there is no limit: %.2f %%", percent(&m));

	begin_by(&m, 1000 * MIB, POLICY_BY_ANY, 0);
	m.sample.vcpus.usable = false;
	iterate(&m, 900 * MIB);
	iterate(&m, 900 * MIB);
	check(!m.d.limit && m.d.percent_x100, "nor where it can't be had: %.2f %%", percent(&m));

	begin_by(&m, 1000 * MIB, POLICY_BY_RATE, 0);
	m.sample.vcpus.usable = false;
	for (i = 0; i < 12 && !m.d.percent_x100; i++)
		iterate(&m, 900 * MIB);
	check(i == 12 && !m.d.limit && !m.d.promised && !(m.d.downtime_s > 0),
	      "by rate alone: no percentage in its place");
}

static void test_rate_no_more(void)
{
	struct migration m;

	begin_by(&m, 1000 * MIB, POLICY_BY_ANY, 0);
	iterate(&m, 900 * MIB);
	m.sample.vcpus.usable = false;
	m.sample.time_s += 0.05;
	feed(&m);
	check(!m.d.limit && m.d.percent_x100 && m.d.corrected,
	      "a percentage takes its place at once: %.2f %%", percent(&m));

	/* The same after an iteration that had one: it doesn't tell what the guest would do. */
	begin_by(&m, 1000 * MIB, POLICY_BY_ANY, 0);
	iterate(&m, 900 * MIB);
	iterate(&m, 900 * MIB);
	iterate_limited(&m, 1, INFINITY, 900 * MIB, 0);
	m.sample.vcpus.usable = false;
	m.sample.time_s += 0.05;
	m.sample.remaining = 900 * MIB;
	feed(&m);
	check(!m.d.limit && percent(&m) == 99, "it is fitted to what was dirtied without a limit: %.2f %%",
	      percent(&m));
}

static void test_lowest_rate(void)
{
	struct migration m;

	begin_by(&m, 1000 * MIB, POLICY_BY_ANY, 0);
	m.sample.vcpus.lowest = 3 * MIB;
	iterate(&m, 900 * MIB);
	check(m.d.limit == 3 * MIB && m.d.promised, "the module's lowest rate: %.1f MiB/s",
	      m.d.limit / MIB);
	iterate_limited(&m, 8, INFINITY, 900 * MIB, 0);
	check(has_ended(&m), "it ends, but later: after %.1f s", m.sample.time_s);

	begin_by(&m, 1000 * MIB, POLICY_BY_ANY, 0);
	m.sample.vcpus.lowest = 2 * BANDWIDTH;
	iterate(&m, 900 * MIB);
	iterate_limited(&m, 6, INFINITY, 900 * MIB, 0);
	check(!m.d.promised && isinf(m.d.left_s), "no end is promised that isn't in sight");
}

static void test_futile(void)
{
	struct migration m;
	int i;

	/* Devices dirty it, and the vCPUs something too. */
	begin_by(&m, 1000 * MIB, POLICY_BY_ANY, 0);
	iterate_limited(&m, 2, 0.1 * BANDWIDTH, INFINITY, 1.2 * BANDWIDTH);
	check(m.d.limit, "what others dirty is limited at first");
	for (i = 0; i < 20 && m.d.limit; i++)
		iterate_limited(&m, 1, 0.1 * BANDWIDTH, INFINITY, 1.2 * BANDWIDTH);
	check(m.d.futile == POLICY_OTHERS && !m.d.limit && m.d.percent_x100 && i == 2,
	      "after %d more it is known, and a percentage tried: %.2f %%", i, percent(&m));
	for (i = 0; i < 20 && m.d.reason != POLICY_USELESS; i++)
		iterate_limited(&m, 1, 0.1 * BANDWIDTH, INFINITY, 1.2 * BANDWIDTH);
	check(m.d.reason == POLICY_USELESS && !m.d.percent_x100 && !m.d.limit,
	      "which is let go of, too");

	begin_by(&m, 1000 * MIB, POLICY_BY_RATE, 0);
	iterate_limited(&m, 6, 0, INFINITY, 1.2 * BANDWIDTH);
	check(m.d.futile == POLICY_UNSEEN && !m.d.limit && !m.d.percent_x100,
	      "none of it is seen: by rate alone, full speed");

	/* A bit more than what is counted is QEMU's own, or was looked at later. */
	begin_by(&m, 1000 * MIB, POLICY_BY_ANY, 0);
	m.sample.vcpus.lowest = 30 * MIB;
	for (i = 0; i < 6; i++)
		iterate_limited(&m, 1, INFINITY, 900 * MIB, 0.005 * BANDWIDTH);
	check(!m.d.futile && m.d.limit, "a bit that others dirty doesn't matter");
}

static void test_rate_in_time(void)
{
	struct migration m;

	begin_by(&m, 4000 * MIB, POLICY_BY_ANY, 1000);
	iterate(&m, 3000 * MIB);
	iterate(&m, 2400 * MIB);
	check(!m.d.limit && !m.d.late, "by rate, too: there is time for what shrinks slowly");

	begin_by(&m, 4000 * MIB, POLICY_BY_ANY, 90);
	iterate(&m, 3000 * MIB);
	check(m.d.limit && m.d.reason == POLICY_SLOW && !m.d.late,
	      "there is none for it within 90 s: %.2f MiB/s", m.d.limit / MIB);
	iterate_limited(&m, 6, BANDWIDTH, 3000 * MIB, 0);
	check(has_ended(&m) && m.sample.time_s < 90 && !m.d.late, "which are kept: %.1f s",
	      m.sample.time_s);

	begin_by(&m, 4000 * MIB, POLICY_BY_ANY, 60);
	iterate(&m, 3000 * MIB);
	check(m.d.late, "60 s are too short, at %.1f s", m.sample.time_s);
}

static void test_settings(void)
{
	struct policy_settings s = { .max_x100 = POLICY_MAX_X100 };

	policy_set_max(&s, 5000);
	check(s.max_x100 == 5000 && s.by == POLICY_BY_PERCENT, "a highest percentage is one");
	s = (struct policy_settings) { .max_x100 = POLICY_MAX_X100 };
	check(policy_set_by(&s, "rate") && s.by == POLICY_BY_RATE, "rate");
	policy_set_max(&s, 5000);
	check(s.by == POLICY_BY_RATE, "rate, with a highest percentage");
	check(policy_set_by(&s, "percent") && s.by == POLICY_BY_PERCENT, "percent");
	check(!policy_set_by(&s, "any") && !policy_set_by(&s, "Rate") && !policy_set_by(&s, ""),
	      "neither");
}

static void test_other(void)
{
	double alone = share_beside(0), beside = share_beside(0.5);

	check(about(beside, alone, 0.05) && beside < 20,
	      "beside a throttle of 50 %% that is there all the time: %.2f %% as without",
	      beside);
}

int main(void)
{
	puts("TAP version 13");
	test_own();
	test_stuck();
	test_choice();
	test_correction();
	test_probe_length();
	test_probes();
	test_bursts();
	test_look_ahead();
	test_slow();
	test_limit();
	test_odd();
	test_useless();
	test_downtime();
	test_rate();
	test_rate_or_not();
	test_rate_no_more();
	test_lowest_rate();
	test_futile();
	test_rate_in_time();
	test_settings();
	test_other();
	printf("1..%u\n", nr_tests);
	return nr_failed != 0;
}
