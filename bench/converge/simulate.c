// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Simulates the pre-copy phase of live migrations, to compare policies of throttling
 * over thousands of workloads in seconds: `make simulate-converge`.
 *
 * A guest is some sets of pages.  In a uniform set, pages are dirtied at random, in a
 * sweep one after the other.  Only the number of a set's dirty pages is simulated, not
 * which they are.  In a uniform set of S bytes, of which D are written in a second,
 * S (1 - exp(-D t / S)) are dirty after the time t.
 *
 * QEMU is simulated as in migration.c and ram.c of version 10.0.  It sends for PORTION_S,
 * then looks how much is left.  If that can be sent within the downtime, it reads which
 * pages have been dirtied.  If all can still be sent within the downtime, the migration
 * completes.  If not, the next iteration has begun.
 */
#include <argp.h>
#include <err.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "policy.h"

#define MIB		(1024.0 * 1024)
#define PORTION_S	0.1
#define MAX_STEP_S	1
#define MAX_SETS	2

/* Nobody waits longer: it has not converged. */
#define HORIZON_PASSES	100

/* Lengths of a run and a sleep window together; see Documentation/internals.md. */
#define TIMER_RUN_S	0.01
#define MODULE_PERIOD_S	0.010472

/* The lowest limit to the rate that the module takes for a vCPU, in bytes per second. */
#define LOWEST_RATE	(50 * 4096.0)

enum shape {
	UNIFORM,
	SWEEP,
};

/**
 * struct set - a set of pages
 * @shape: how they are written
 * @size: bytes
 * @rate: bytes per second, when the guest runs
 * @log: bytes dirtied since the bitmap was read
 * @left: bytes still to be sent
 */
struct set {
	enum shape shape;
	double size;
	double rate;
	double log;
	double left;
};

/**
 * struct workload - a guest, and the link that it is migrated over
 * @kind: one of K_IDLE to K_BURSTY
 * @memory: bytes of the guest's memory that are in no set
 * @sets: the others
 * @nr_sets: how many they are
 * @busy_s: how long memory is dirtied, 0 for always
 * @quiet_s: and how long not
 * @phase_s: where in that it begins
 * @bandwidth: bytes per second
 * @jitter: by which share the bandwidth varies
 * @downtime_s: limit
 * @time_limit_s: of the policies that have one
 */
struct workload {
	unsigned int kind;
	double memory;
	struct set sets[MAX_SETS];
	unsigned int nr_sets;
	double busy_s;
	double quiet_s;
	double phase_s;
	double bandwidth;
	double jitter;
	double downtime_s;
	double time_limit_s;
};

/**
 * struct outcome - what a migration was like
 * @completed: it was
 * @time_s: how long it took
 * @lost_s: how much of that the guest was throttled: its share, integrated
 * @stall_s: the longest time at once
 * @percent: the highest percentage
 * @iterations: dirty-sync-count
 * @late_s: when it was said that the time limit can't be kept, or INFINITY
 * @first_s: when it was throttled first, or INFINITY
 * @promised_s: the end that was promised first, or INFINITY
 */
struct outcome {
	bool completed;
	double time_s;
	double lost_s;
	double stall_s;
	double percent;
	unsigned int iterations;
	double late_s;
	double first_s;
	double promised_s;
};

/* QEMU's auto-converge, as ram.c has it. */
struct auto_converge {
	double initial;
	double increment;
	double percent;
	double time_s;
	double dirtied;
	double sent;
	unsigned int high;
};

enum policy_kind {
	NONE,
	QEMU,
	CONVERGE,
	/* The highest percentage from the end of the first pass on. */
	HIGHEST,
};

struct variant {
	const char *name;
	enum policy_kind kind;
	double initial;
	double increment;
	bool limited;
	enum policy_by by;
};

static const struct variant variants[] = {
	{ .name = "none", .kind = NONE },
	{ .name = "QEMU, defaults", .kind = QEMU, .initial = 20, .increment = 10 },
	{ .name = "QEMU, 50 + 20", .kind = QEMU, .initial = 50, .increment = 20 },
	{ .name = "converge", .kind = CONVERGE },
	{ .name = "converge --by=percent", .kind = CONVERGE, .by = POLICY_BY_PERCENT },
	{ .name = "converge --time-limit", .kind = CONVERGE, .limited = true },
	{ .name = "highest at once", .kind = HIGHEST },
};

enum {
	V_NONE, V_DEFAULTS, V_TUNED, V_CONVERGE, V_PERCENT, V_LIMITED, V_HIGHEST,
	NR_VARIANTS
};

static double left_of(const struct workload *w)
{
	double left = w->memory;

	for (unsigned int i = 0; i < w->nr_sets; i++)
		left += w->sets[i].left;
	return left;
}

static bool is_quiet(const struct workload *w, double time_s)
{
	return w->busy_s && fmod(time_s + w->phase_s, w->busy_s + w->quiet_s) >= w->busy_s;
}

/* The guest runs for a while.  Returns how many bytes it dirties in that. */
static double run_guest(struct workload *w, double used_s)
{
	double dirtied = 0;

	for (unsigned int i = 0; i < w->nr_sets; i++) {
		struct set *set = &w->sets[i];
		double before = set->log;

		if (set->shape == UNIFORM)
			set->log += (set->size - set->log) *
				    -expm1(-set->rate * used_s / set->size);
		else
			set->log = fmin(set->size, set->log + set->rate * used_s);
		dirtied += set->log - before;
	}
	return dirtied;
}

/* How long does the guest run in @s if it may dirty no more than @bytes? */
static double used_with(const struct workload *w, double s, double bytes)
{
	double low_s = 0, high_s = s;
	struct workload copy = *w;

	if (run_guest(&copy, s) <= bytes)
		return s;
	for (int i = 0; i < 40; i++) {
		double used_s = (low_s + high_s) / 2;

		copy = *w;
		if (run_guest(&copy, used_s) <= bytes)
			low_s = used_s;
		else
			high_s = used_s;
	}
	return low_s;
}

/*
 * How long nothing happens but that memory is sent and dirtied: a number of
 * portions, so that what is left comes near the threshold, but not below it.
 */
static double step_of(const struct workload *w, double time_s, double threshold)
{
	double s = (left_of(w) - threshold) / w->bandwidth - 2 * PORTION_S;

	if (w->busy_s) {
		double in_cycle_s = fmod(time_s + w->phase_s, w->busy_s + w->quiet_s);
		double until_s = in_cycle_s < w->busy_s ? w->busy_s : w->busy_s + w->quiet_s;

		s = fmin(s, until_s - in_cycle_s);
	}
	return PORTION_S * fmax(floor(fmin(s, MAX_STEP_S) / PORTION_S), 1);
}

/* Send from everywhere alike.  Returns the bytes that were sent. */
static double send(struct workload *w, double bytes)
{
	double left = left_of(w), share = left > bytes ? bytes / left : 1;

	w->memory -= share * w->memory;
	for (unsigned int i = 0; i < w->nr_sets; i++)
		w->sets[i].left -= share * w->sets[i].left;
	return share * left;
}

/* What QEMU's calc-dirty-rate says, in whole MiB, of a guest that was busy for so long. */
static double probe(struct workload w, double busy_s)
{
	double dirtied = 0;

	for (unsigned int i = 0; i < w.nr_sets; i++)
		w.sets[i].log = 0;
	run_guest(&w, busy_s);
	for (unsigned int i = 0; i < w.nr_sets; i++)
		dirtied += w.sets[i].log;
	return floor(dirtied / MIB) * MIB;
}

/* Read which pages are dirty.  Returns the bytes of those that weren't known to be. */
static double sync_bitmap(struct workload *w)
{
	double dirtied = 0;

	for (unsigned int i = 0; i < w->nr_sets; i++) {
		struct set *set = &w->sets[i];
		double new = set->log * (1 - set->left / set->size);

		set->left += new;
		set->log = 0;
		dirtied += new;
	}
	return dirtied;
}

/* migration_trigger_throttle(), which is called after every sync. */
static void auto_converge(struct auto_converge *a, double time_s, double dirtied,
			  double sent)
{
	a->dirtied += dirtied;
	if (time_s <= a->time_s + 1)
		return;
	if (a->dirtied > (sent - a->sent) * 50 / 100 && ++a->high >= 2) {
		a->high = 0;
		a->percent = a->percent ? fmin(a->percent + a->increment, 99) : a->initial;
	}
	a->time_s = time_s;
	a->dirtied = 0;
	a->sent = sent;
}

static double stall_of(const struct variant *v, double percent)
{
	double share = percent / 100;

	if (!percent)
		return 0;
	return v->kind == QEMU ? TIMER_RUN_S * share / (1 - share) :
				 MODULE_PERIOD_S * share;
}

/* Between 0 and 1, the same on every machine. */
static double random_of(uint64_t *state)
{
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (*state >> 11) / (double)(1ULL << 53);
}

static struct outcome migrate(struct workload w, const struct variant *v, uint64_t seed)
{
	struct outcome o = {
		.late_s = INFINITY, .first_s = INFINITY, .promised_s = INFINITY,
	};
	struct auto_converge a = { .initial = v->initial, .increment = v->increment };
	struct policy_settings settings = {
		.max_x100 = POLICY_MAX_X100,
		.time_limit_s = v->limited ? w.time_limit_s : 0,
		.by = v->by,
	};
	struct policy policy;
	double percent = 0, limit = INFINITY, counted = 0, sent = 0, forced_s = 5, horizon_s;
	double probe_s = 0, probe_left_s = 0, probe_busy_s = 0;
	unsigned int forced_syncs = 0, probe_syncs = 0;

	policy_init(&policy, &settings);
	for (unsigned int i = 0; i < w.nr_sets; i++)
		w.sets[i].left = w.sets[i].size;
	horizon_s = HORIZON_PASSES * left_of(&w) / w.bandwidth;
	o.iterations = 1;

	while (o.time_s < horizon_s) {
		double now = w.bandwidth * (1 + w.jitter * (2 * random_of(&seed) - 1));
		double threshold = now * w.downtime_s;
		double share = 1 - percent / 100;
		double s = step_of(&w, o.time_s, threshold);

		if (probe_left_s > 0)
			s = fmin(s, PORTION_S * ceil(probe_left_s / PORTION_S));
		sent += send(&w, now * s);
		if (!is_quiet(&w, o.time_s)) {
			share = fmin(share, used_with(&w, s, limit * s) / s);
			counted += run_guest(&w, s * share);
			probe_busy_s += fmin(s, probe_left_s) * share;
		}
		o.lost_s += s * (1 - share);
		o.time_s += s;
		probe_left_s = fmax(probe_left_s - s, 0);

		if (left_of(&w) < threshold) {
			double dirtied = sync_bitmap(&w);

			o.iterations++;
			auto_converge(&a, o.time_s, dirtied, sent);
			if (left_of(&w) < threshold) {
				o.completed = true;
				o.time_s += left_of(&w) / now;
				break;
			}
		}
		if (v->kind == QEMU && o.time_s >= forced_s) {
			/* cpu_throttle_dirty_sync_timer_tick() */
			if (o.iterations > 1 && o.iterations == forced_syncs) {
				double dirtied = sync_bitmap(&w);

				o.iterations++;
				auto_converge(&a, o.time_s, dirtied, sent);
			}
			forced_syncs = o.iterations;
			forced_s += 5;
		}

		if (v->kind == QEMU) {
			percent = a.percent;
		} else if (v->kind == HIGHEST) {
			percent = o.iterations > 1 ? POLICY_MAX_X100 / 100.0 : 0;
		} else if (v->kind == CONVERGE) {
			struct policy_sample sample = {
				.time_s = o.time_s,
				.syncs = o.iterations,
				.remaining = left_of(&w),
				.sent = sent,
				.bandwidth = now,
				.downtime_s = w.downtime_s,
				.vcpus = {
					.usable = true,
					.lowest = LOWEST_RATE,
					.dirtied = counted,
				},
			};
			struct policy_decision d;

			/* If the bitmap was read meanwhile, pages were counted twice. */
			if (probe_s && !probe_left_s && o.iterations == probe_syncs) {
				sample.probe.used_s = probe_s;
				sample.probe.dirtied = probe(w, probe_busy_s);
				sample.probe_error = MIB * (1 + probe_s);
			}
			if (!probe_left_s)
				probe_s = 0;
			d = policy_feed(&policy, &sample);
			if (d.probe_s && !probe_s) {
				probe_s = d.probe_s;
				probe_left_s = probe_s;
				probe_busy_s = 0;
				probe_syncs = o.iterations;
			}

			percent = d.percent_x100 / 100.0;
			limit = d.limit ?: INFINITY;
			if (d.promised && isinf(o.promised_s))
				o.promised_s = o.time_s + d.left_s;
			if (d.late)
				o.late_s = fmin(o.late_s, o.time_s);
		}
		o.percent = fmax(o.percent, percent);
		o.stall_s = fmax(o.stall_s, stall_of(v, percent));
		if (percent || isfinite(limit))
			o.first_s = fmin(o.first_s, o.time_s);
	}
	return o;
}

/* --- workloads ------------------------------------------------------------ */

enum { K_IDLE, K_UNIFORM, K_HOT, K_LOOP, K_STREAM, K_BURSTY, NR_KINDS };

/* As likely to be between 1 and 2 as between 2 and 4. */
static double between(uint64_t *state, double low, double high)
{
	return low * pow(high / low, random_of(state));
}

static struct workload draw(unsigned int kind, uint64_t *state)
{
	struct workload w = {
		.kind = kind,
		.bandwidth = between(state, 4 * MIB, 10240 * MIB),
		.jitter = between(state, 0.01, 0.2),
		.downtime_s = between(state, 0.1, 1),
		.nr_sets = 1,
	};
	double total = w.bandwidth * between(state, 2, 300);
	double share = between(state, 0.02, 1);
	double rate = w.bandwidth * between(state, 0.1, 50);

	switch (kind) {
	case K_IDLE:
		rate = w.bandwidth * between(state, 0.001, 0.1);
		break;
	case K_STREAM:
		share = between(state, 0.5, 1);
		break;
	case K_BURSTY:
		w.busy_s = between(state, 0.5, 60);
		w.quiet_s = between(state, 0.5, 60);
		w.phase_s = random_of(state) * (w.busy_s + w.quiet_s);
		break;
	}
	w.sets[0] = (struct set) {
		.shape = kind == K_LOOP || kind == K_STREAM ||
			 (kind == K_BURSTY && random_of(state) < 0.5) ? SWEEP : UNIFORM,
		.size = share * total,
		.rate = rate,
	};
	if (kind == K_HOT) {
		double hot = between(state, 0.01, 0.3);

		w.nr_sets = 2;
		w.sets[1] = w.sets[0];
		w.sets[1].size *= hot;
		w.sets[1].rate *= 0.9;
		w.sets[0].size *= 1 - hot;
		w.sets[0].rate *= 0.1;
	}
	w.memory = total - share * total;
	w.time_limit_s = total / w.bandwidth * between(state, 1.2, 10);
	return w;
}

/* --- comparing ------------------------------------------------------------ */

/* Who waits longer for a migration to end by itself? */
#define PATIENCE_PASSES	2

/* Of a time limit: what is said later is no help. */
#define EARLY		0.8

/* A link that gets slower lets a promise be late. */
#define LATENESS	1.05

#define GIB		(1024 * MIB)
#define SMALL		(16 * GIB)
#define SLOW		(128 * MIB)

enum { G_SMALL = NR_KINDS, G_HUGE, G_SLOW, G_FAST, G_ALL, NR_GROUPS };

static const char * const groups[NR_GROUPS] = {
	[K_IDLE] = "idle",
	[K_UNIFORM] = "uniform",
	[K_HOT] = "hot set",
	[K_LOOP] = "working set in a loop",
	[K_STREAM] = "streaming",
	[K_BURSTY] = "bursty",
	[G_SMALL] = "guests < 16 GiB",
	[G_HUGE] = "guests >= 16 GiB",
	[G_SLOW] = "links < 128 MiB/s",
	[G_FAST] = "links >= 128 MiB/s",
	[G_ALL] = "all",
};

/**
 * struct group - what became of the migrations of a kind of workloads
 * @stuck: how many don't converge without a throttle
 * @times: their times by each variant, in passes over all memory
 * @losts: and the work lost
 * @stalls: and the longest stalls
 * @ended: and how many of them end
 * @slower: how many take longer with converge than with QEMU, tuned
 * @time_s: all of their times together
 * @lost_s: all of the work lost together
 * @soon: how many converge without a throttle, within PATIENCE_PASSES
 * @soon_throttled: which converge throttles
 * @late: how many take longer for that
 * @late_throttled: which converge throttles
 * @possible: how many time limits can be kept
 * @kept: and are
 * @missed: how many are not kept
 * @told: of which that is said early
 * @alarms: how many are kept, although it was said that they wouldn't be
 * @promised: in how many an end was promised
 * @in_time: how many of these end by then, or LATENESS later
 */
struct group {
	unsigned int stuck;
	double *times[NR_VARIANTS];
	double *losts[NR_VARIANTS];
	double *stalls[NR_VARIANTS];
	unsigned int ended[NR_VARIANTS];
	unsigned int slower;
	double time_s[NR_VARIANTS];
	double lost_s[NR_VARIANTS];
	unsigned int soon;
	unsigned int soon_throttled;
	unsigned int late;
	unsigned int late_throttled;
	unsigned int possible;
	unsigned int kept;
	unsigned int missed;
	unsigned int told;
	unsigned int alarms;
	unsigned int promised;
	unsigned int in_time;
};

static void *array(unsigned int nr)
{
	double *values = calloc(nr, sizeof(*values));

	if (!values)
		err(EXIT_FAILURE, "results");
	return values;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, unsigned int nr)
{
	if (!nr)
		return NAN;
	qsort(values, nr, sizeof(*values), compare);
	return (values[nr / 2] + values[(nr - 1) / 2]) / 2;
}

static void add(struct group *g, const struct workload *w, const struct outcome *o,
		double pass_s)
{
	bool kept = o[V_LIMITED].completed && o[V_LIMITED].time_s <= w->time_limit_s;

	/* Of itself, or by what throttles as much as is allowed, from the first sync on. */
	if ((o[V_HIGHEST].completed && o[V_HIGHEST].time_s <= w->time_limit_s) ||
	    (o[V_NONE].completed && o[V_NONE].time_s <= w->time_limit_s)) {
		g->possible++;
		g->kept += kept;
	}
	g->missed += !kept;
	g->told += !kept && o[V_LIMITED].late_s < EARLY * w->time_limit_s;
	g->alarms += kept && o[V_LIMITED].late_s < w->time_limit_s;

	if (o[V_NONE].completed && o[V_NONE].time_s <= PATIENCE_PASSES * pass_s) {
		g->soon++;
		g->soon_throttled += isfinite(o[V_CONVERGE].first_s);
	} else if (o[V_NONE].completed) {
		g->late++;
		g->late_throttled += isfinite(o[V_CONVERGE].first_s);
	} else {
		for (unsigned int v = 0; v < NR_VARIANTS; v++) {
			g->times[v][g->stuck] = o[v].time_s / pass_s;
			g->losts[v][g->stuck] = o[v].lost_s / pass_s;
			g->stalls[v][g->stuck] = 1e3 * o[v].stall_s;
			g->ended[v] += o[v].completed;
			g->time_s[v] += o[v].time_s / pass_s;
			g->lost_s[v] += o[v].lost_s / pass_s;
		}
		g->stuck++;
		g->slower += o[V_CONVERGE].time_s > o[V_TUNED].time_s;
	}
	if (isfinite(o[V_CONVERGE].promised_s)) {
		g->promised++;
		g->in_time += o[V_CONVERGE].completed &&
			      o[V_CONVERGE].time_s <= LATENESS * o[V_CONVERGE].promised_s;
	}
}

static void print_groups(struct group *all, unsigned int nr)
{
	printf("Medians over the workloads that don't converge without a throttle; all %u of them end, but for those in brackets.\n"
	       "Time, and the guest's work lost: 1 is the time of one pass over all memory. best: %d %% from the end of the first pass on.\n\n",
	       all[G_ALL].stuck, POLICY_MAX_X100 / 100);
	puts("| | workloads | time: defaults | 50 + 20 | converge | by percent | best | work lost: defaults | 50 + 20 | converge | by percent | stall: defaults | 50 + 20 | by percent | slower than 50 + 20 |");
	puts("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
	for (unsigned int i = 0; i < NR_GROUPS; i++) {
		static const int times[] = { V_DEFAULTS, V_TUNED, V_CONVERGE, V_PERCENT, V_HIGHEST };
		static const int stalls[] = { V_DEFAULTS, V_TUNED, V_PERCENT };
		struct group *g = &all[i];

		if (!g->stuck)
			continue;
		printf("| %s | %u |", groups[i], g->stuck);
		for (unsigned int v = 0; v < 5; v++) {
			printf(" %.2f", median(g->times[times[v]], g->stuck));
			if (g->ended[times[v]] < g->stuck)
				printf(" (%u)", g->stuck - g->ended[times[v]]);
			printf(" |");
		}
		for (unsigned int v = 0; v < 4; v++)
			printf(" %.2f |", median(g->losts[times[v]], g->stuck));
		for (unsigned int v = 0; v < 3; v++)
			printf(" %.0f ms |", median(g->stalls[stalls[v]], g->stuck));
		printf(" %u |\n", g->slower);
	}
	puts("\nWithout a throttle they converge within two passes, or later. A time limit can be kept if `best` or no throttle keeps it.\n");
	puts("| | soon | throttled | later | throttled | limits that can be kept | kept | missed | foretold early | foretold, but kept | ends promised | in time |");
	puts("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
	for (unsigned int i = 0; i < NR_GROUPS; i++) {
		const struct group *g = &all[i];

		printf("| %s | %u | %u | %u | %u | %u | %u (%.1f %%) | %u | %u | %u | %u | %u |\n", groups[i],
		       g->soon, g->soon_throttled, g->late, g->late_throttled, g->possible,
		       g->kept, 100.0 * g->kept / g->possible, g->missed, g->told, g->alarms,
		       g->promised, g->in_time);
	}
	printf("\n%u workloads. All times together, of converge and of the defaults: %.2f; of converge and of 50 + 20: %.2f. Work lost: %.2f, %.2f.\n",
	       nr, all[G_ALL].time_s[V_CONVERGE] / all[G_ALL].time_s[V_DEFAULTS],
	       all[G_ALL].time_s[V_CONVERGE] / all[G_ALL].time_s[V_TUNED],
	       all[G_ALL].lost_s[V_CONVERGE] / all[G_ALL].lost_s[V_DEFAULTS],
	       all[G_ALL].lost_s[V_CONVERGE] / all[G_ALL].lost_s[V_TUNED]);
}

static double pass_of(const struct workload *w)
{
	double bytes = w->memory;

	for (unsigned int i = 0; i < w->nr_sets; i++)
		bytes += w->sets[i].size;
	return bytes / w->bandwidth;
}

static void compare_all(unsigned int nr_each)
{
	static struct group all[NR_GROUPS];
	unsigned int nr = nr_each * NR_KINDS;
	uint64_t state = 1;

	for (unsigned int i = 0; i < NR_GROUPS; i++) {
		for (unsigned int v = 0; v < NR_VARIANTS; v++) {
			all[i].times[v] = array(nr);
			all[i].losts[v] = array(nr);
			all[i].stalls[v] = array(nr);
		}
	}
	for (unsigned int i = 0; i < nr; i++) {
		struct workload w = draw(i % NR_KINDS, &state);
		double pass_s = pass_of(&w);
		struct outcome o[NR_VARIANTS];

		for (unsigned int v = 0; v < NR_VARIANTS; v++)
			o[v] = migrate(w, &variants[v], i);
		add(&all[w.kind], &w, o, pass_s);
		add(&all[pass_s * w.bandwidth < SMALL ? G_SMALL : G_HUGE], &w, o, pass_s);
		add(&all[w.bandwidth < SLOW ? G_SLOW : G_FAST], &w, o, pass_s);
		add(&all[G_ALL], &w, o, pass_s);
	}
	print_groups(all, nr);
	for (unsigned int i = 0; i < NR_GROUPS; i++) {
		for (unsigned int v = 0; v < NR_VARIANTS; v++) {
			free(all[i].times[v]);
			free(all[i].losts[v]);
			free(all[i].stalls[v]);
		}
	}
}

/* --- the command line ----------------------------------------------------- */

/**
 * struct options - the command line
 * @nr_each: how many workloads of each kind
 * @one: the only workload, if it has sets
 */
struct options {
	unsigned int nr_each;
	struct workload one;
};

static const struct argp_option argp_options[] = {
	{ "workloads", 'n', "NUMBER", 0, "of each kind (default: 1000)", 0 },
	{ "set", 's', "SHAPE:MIB:RATE", 0,
	  "only one workload, whose guest dirties so many MiB at RATE MiB/s; SHAPE is uniform or sweep; once or twice", 0 },
	{ "memory", 'm', "MIB", 0, "its memory besides that", 0 },
	{ "burst", 'b', "BUSY:QUIET", 0, "it dirties none now and then; seconds", 0 },
	{ "bandwidth", 'B', "RATE", 0, "MiB/s (default: 100)", 0 },
	{ "downtime", 'd', "SECONDS", 0, "its limit (default: 0.3)", 0 },
	{ "time-limit", 't', "SECONDS", 0, "of converge --time-limit", 0 },
	{ 0 }
};

static void parse_set(struct argp_state *state, struct workload *w, const char *arg)
{
	struct set *set = &w->sets[w->nr_sets];
	char shape[8];

	if (w->nr_sets == MAX_SETS)
		argp_failure(state, EXIT_FAILURE, 0, "--set: %d are enough", MAX_SETS);
	if (sscanf(arg, "%7[a-z]:%lf:%lf", shape, &set->size, &set->rate) != 3 ||
	    (strcmp(shape, "uniform") && strcmp(shape, "sweep")) || set->size <= 0)
		argp_failure(state, EXIT_FAILURE, 0,
			     "--set: '%s' is not such as uniform:100:20", arg);
	set->shape = strcmp(shape, "sweep") ? UNIFORM : SWEEP;
	set->size *= MIB;
	set->rate *= MIB;
	w->nr_sets++;
}

static double read_number(struct argp_state *state, const char *arg)
{
	char *end;
	double value = strtod(arg, &end);

	if (end == arg || *end || !(value > 0))
		argp_failure(state, EXIT_FAILURE, 0, "'%s' is not a positive number", arg);
	return value;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case 'n':
		o->nr_each = read_number(state, arg);
		return 0;
	case 's':
		parse_set(state, &o->one, arg);
		return 0;
	case 'm':
		o->one.memory = read_number(state, arg) * MIB;
		return 0;
	case 'b':
		if (sscanf(arg, "%lf:%lf", &o->one.busy_s, &o->one.quiet_s) != 2)
			argp_failure(state, EXIT_FAILURE, 0,
				     "--burst: '%s' is not such as 2:3", arg);
		return 0;
	case 'B':
		o->one.bandwidth = read_number(state, arg) * MIB;
		return 0;
	case 'd':
		o->one.downtime_s = read_number(state, arg);
		return 0;
	case 't':
		o->one.time_limit_s = read_number(state, arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int main(int argc, char **argv)
{
	static const struct argp argp = {
		.options = argp_options,
		.parser = parse_option,
		.doc = "Simulate live migrations by several policies of throttling, and compare these in Markdown.",
	};
	struct options o = {
		.nr_each = 1000,
		.one = { .bandwidth = 100 * MIB, .downtime_s = 0.3 },
	};

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (!o.one.nr_sets) {
		compare_all(o.nr_each);
		return EXIT_SUCCESS;
	}
	puts("| | ends | time | work lost | highest | syncs |\n|---|---|---:|---:|---:|---:|");
	for (unsigned int v = 0; v < NR_VARIANTS; v++) {
		struct outcome r = migrate(o.one, &variants[v], 0);

		printf("| %s | %s | %.2f s | %.2f s | %.2f %% | %u |\n", variants[v].name,
		       r.completed ? "yes" : "no", r.time_s, r.lost_s, r.percent, r.iterations);
	}
	return EXIT_SUCCESS;
}
