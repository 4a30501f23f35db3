// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How exactly the windows of a recording were where they were planned.
 *
 * While a vCPU waits for another one of its VM that has the CPU, the VM runs and isn't
 * throttled.  So that time isn't lateness.
 */
#include <err.h>
#include <math.h>
#include <stdlib.h>

#include "lateness.h"

/**
 * struct turn - a window, as its CPU sees it
 * @vm: whose it is
 * @cpu: where it was
 * @row: the vCPU
 * @open_ns: when it began
 * @end_ns: when it ended
 * @ends_ns: when this and all earlier ones of the VM on that CPU had ended
 */
struct turn {
	int64_t vm;
	int64_t cpu;
	size_t row;
	int64_t open_ns;
	int64_t end_ns;
	int64_t ends_ns;
};

/**
 * struct turns - all turns, by VM, CPU and time
 * @list: the turns
 * @nr: how many they are
 */
struct turns {
	struct turn *list;
	size_t nr;
};

static int compare_places(const struct turn *a, int64_t vm, int64_t cpu)
{
	if (a->vm != vm)
		return a->vm > vm ? 1 : -1;
	return (a->cpu > cpu) - (a->cpu < cpu);
}

static int compare_turns(const void *a, const void *b)
{
	const struct turn *x = a, *y = b;

	return compare_places(x, y->vm, y->cpu) ?:
	       (x->open_ns > y->open_ns) - (x->open_ns < y->open_ns);
}

static struct turns list_turns(const struct recording *r)
{
	struct turns turns = { 0 };
	size_t room = 1;

	for (size_t i = 0; i < r->nr_rows; i++)
		room += r->rows[i].nr_windows;
	turns.list = calloc(room, sizeof(*turns.list));
	if (!turns.list)
		err(EXIT_FAILURE, "recording");

	for (size_t i = 0; i < r->nr_rows; i++) {
		for (size_t n = 0; n < r->rows[i].nr_windows; n++) {
			const struct window *w = &r->rows[i].windows[n];

			if (w->open_ns)
				turns.list[turns.nr++] = (struct turn) {
					.vm = r->rows[i].vm,
					.cpu = w->cpu,
					.row = i,
					.open_ns = w->open_ns,
					.end_ns = w->end_ns,
				};
		}
	}
	qsort(turns.list, turns.nr, sizeof(*turns.list), compare_turns);
	for (size_t i = 0; i < turns.nr; i++) {
		struct turn *turn = &turns.list[i];
		bool first = !i || compare_places(turn - 1, turn->vm, turn->cpu);

		turn->ends_ns = turn->end_ns;
		if (!first && turn[-1].ends_ns > turn->end_ns)
			turn->ends_ns = turn[-1].ends_ns;
	}
	return turns;
}

/* The first turn of @vm on @cpu before whose end not all is over at @ns. */
static size_t first_after(const struct turns *turns, int64_t vm, int64_t cpu, int64_t ns)
{
	size_t from = 0, to = turns->nr;

	while (from < to) {
		size_t middle = from + (to - from) / 2;
		const struct turn *turn = &turns->list[middle];
		int place = compare_places(turn, vm, cpu);

		if (place > 0 || (!place && turn->ends_ns > ns))
			to = middle;
		else
			from = middle + 1;
	}
	return from;
}

/*
 * For how long, from @from_ns until @w of row @row began, other vCPUs of the VM
 * had turns on the same CPU.
 */
static int64_t siblings_ns(const struct recording *r, const struct turns *turns,
			   size_t row, const struct window *w, int64_t from_ns)
{
	int64_t vm = r->rows[row].vm, until = from_ns, sum = 0;

	for (size_t i = first_after(turns, vm, w->cpu, from_ns); i < turns->nr; i++) {
		const struct turn *turn = &turns->list[i];
		int64_t begin = turn->open_ns > until ? turn->open_ns : until;
		int64_t end = turn->end_ns < w->open_ns ? turn->end_ns : w->open_ns;

		if (compare_places(turn, vm, w->cpu) || turn->open_ns >= w->open_ns)
			break;
		/* No time counts twice. */
		if (turn->row == row || end <= begin)
			continue;
		sum += end - begin;
		until = end;
	}
	return sum;
}

/* Find out how late each window began. */
static void judge_windows(const struct recording *r, const struct turns *turns,
			  struct sums *s)
{
	for (size_t i = 0; i < r->nr_rows; i++) {
		for (size_t n = 0; n < r->rows[i].nr_windows; n++) {
			struct window *w = &r->rows[i].windows[n];
			int64_t waited;

			if (!w->open_ns)
				continue;
			waited = siblings_ns(r, turns, i, w, w->planned_open_ns);
			w->late_ns = w->open_ns - w->planned_open_ns - waited;
			s->turns |= waited;
		}
	}
}

static void add_lateness(struct lateness *l, int64_t ns, int64_t at_ns)
{
	l->nr++;
	l->sum_ns += ns;
	if (ns > l->worst_ns) {
		l->worst_ns = ns;
		l->worst_at_ns = at_ns;
	}
}

/**
 * lateness_is_late() - was a window off its plan?
 * @r: the recording, which lateness_judge() has seen
 * @w: the window
 *
 * Return: true if it closed too late, or opened so, or not where all others do.
 */
bool lateness_is_late(const struct recording *r, const struct window *w)
{
	const struct grid *grid = w->grid < 0 ? NULL : &r->grids[w->grid];
	int64_t most, off;

	if (!grid || !w->open_ns)
		return false;
	most = grid->period_ns * LATE_SHARE;
	off = llabs(w->planned_open_ns - grid->start_ns) % grid->period_ns;
	if (off > grid->period_ns / 2)
		off = grid->period_ns - off;
	return off > most ||
	       (w->slept && llabs(w->late_ns) > most) ||
	       w->close_ns > w->planned_close_ns + most;
}

/**
 * lateness_judge() - find out how late each window began, and sum up
 * @r: the recording
 *
 * Return: the sums.
 */
struct sums lateness_judge(const struct recording *r)
{
	struct turns turns = list_turns(r);
	struct sums s = { 0 };

	judge_windows(r, &turns, &s);

	for (size_t i = 0; i < r->nr_rows; i++) {
		const struct window *last = NULL;

		for (size_t n = 0; n < r->rows[i].nr_windows; n++) {
			const struct window *w = &r->rows[i].windows[n];

			s.windows++;
			s.late += lateness_is_late(r, w);
			/* Slept through: the sleep before it goes on. */
			if (!w->open_ns)
				continue;
			if (w->slept)
				add_lateness(&s.open, w->late_ns,
					     w->planned_open_ns);
			if (w->close_ns >= w->planned_close_ns)
				add_lateness(&s.close,
					     w->close_ns - w->planned_close_ns,
					     w->planned_close_ns);
			if (last && last->grid == w->grid && last->close_ns) {
				s.throttled_ns += w->open_ns - last->close_ns -
						  siblings_ns(r, &turns, i, w,
							      last->close_ns);
				s.elapsed_ns += w->open_ns - last->open_ns;
			}
			last = w;
		}
	}
	free(turns.list);
	return s;
}

/**
 * lateness_only_target() - what the VMs were throttled by
 * @r: the recording
 *
 * Return: the target in percent if there is but one, NAN otherwise.
 */
double lateness_only_target(const struct recording *r)
{
	double target = NAN;

	for (size_t i = 0; i < r->nr_rows; i++) {
		for (size_t n = 0; n < r->rows[i].nr_settings; n++) {
			const struct setting *setting = &r->rows[i].settings[n];

			/* Before and after it, the VM ran at full speed. */
			if (setting->grid < 0)
				continue;
			if (!isnan(target) && target != setting->percent)
				return NAN;
			target = setting->percent;
		}
	}
	return target;
}
