// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A recording as orders to gnuplot: a row for each vCPU, on it its windows as they
 * were planned and as they were.
 */
#include <math.h>

#include "picture.h"

#define WIDTH_PX	1000
#define ROW_PX		34
#define ABOVE_PX	60
#define BELOW_PX	90

/**
 * picture_ms() - a time on the picture's axis
 * @p: the picture
 * @ns: the time
 *
 * Return: milliseconds since the recording began.
 */
double picture_ms(const struct picture *p, int64_t ns)
{
	return (ns - p->r->start_ns) / 1e6;
}

/* A box on row @row, 2 * @half of it high. */
static void draw_box(const struct picture *p, size_t row, double half,
		     int64_t from_ns, int64_t to_ns)
{
	if (to_ns < p->from_ns || from_ns > p->to_ns || to_ns <= from_ns)
		return;
	if (from_ns < p->from_ns)
		from_ns = p->from_ns;
	if (to_ns > p->to_ns)
		to_ns = p->to_ns;
	fprintf(p->gnuplot, "%.6f %.6f %.3f %.3f\n", picture_ms(p, from_ns),
		picture_ms(p, to_ns), row - half, row + half);
}

/* A block of data.  As none may be empty, it begins with a box outside the picture. */
static void begin_block(const struct picture *p, const char *name)
{
	fprintf(p->gnuplot, "$%s << EOD\n-2 -1 -2 -1\n", name);
}

static void end_block(const struct picture *p)
{
	fprintf(p->gnuplot, "EOD\n");
}

/* The windows of the grids: where they are for all vCPUs of a VM. */
static void draw_grids(const struct picture *p, size_t i)
{
	const struct row *row = &p->r->rows[i];

	for (size_t n = 0; n < row->nr_settings; n++) {
		const struct setting *setting = &row->settings[n];
		const struct grid *grid = setting->grid < 0 ? NULL :
					  &p->r->grids[setting->grid];
		int64_t from = setting->time_ns, to = p->to_ns, at;

		if (n + 1 < row->nr_settings && to > setting[1].time_ns)
			to = setting[1].time_ns;
		if (from < p->from_ns)
			from = p->from_ns;
		if (!grid || !grid->start_ns || to <= from)
			continue;
		at = grid->start_ns - ((grid->start_ns - from) / grid->period_ns + 1) *
		     grid->period_ns;
		for (; at < to; at += grid->period_ns) {
			int64_t end = at + grid->run_ns;

			draw_box(p, i, 0.5, at > from ? at : from,
				 end < to ? end : to);
		}
	}
}

static void draw_blocks(const struct picture *p)
{
	const struct recording *r = p->r;

	begin_block(p, "grid");
	for (size_t i = 0; i < r->nr_rows; i++)
		draw_grids(p, i);
	end_block(p);

	begin_block(p, "planned");
	for (size_t i = 0; i < r->nr_rows; i++) {
		for (size_t n = 0; n < r->rows[i].nr_windows; n++) {
			const struct window *w = &r->rows[i].windows[n];

			if (w->planned_open_ns)
				draw_box(p, i, 0.36, w->planned_open_ns,
					 w->planned_close_ns);
		}
	}
	end_block(p);

	for (int late = 0; late < 2; late++) {
		begin_block(p, late ? "late" : "real");
		for (size_t i = 0; i < r->nr_rows; i++) {
			for (size_t n = 0; n < r->rows[i].nr_windows; n++) {
				const struct window *w = &r->rows[i].windows[n];

				if (w->open_ns && lateness_is_late(r, w) == late)
					draw_box(p, i, 0.24, w->open_ns,
						 w->end_ns);
			}
		}
		end_block(p);
	}

	begin_block(p, "signals");
	for (size_t i = 0; i < r->nr_rows; i++) {
		for (size_t n = 0; n < r->rows[i].nr_signals; n++)
			fprintf(p->gnuplot, "%.6f %zu\n",
				picture_ms(p, r->rows[i].signals[n]), i);
	}
	end_block(p);
}

static void print_lateness(FILE *file, const char *what,
			   const struct lateness *l)
{
	if (l->nr)
		fprintf(file, "%s %.1f µs late on average, %.1f µs at worst",
			what, l->sum_ns / l->nr / 1e3, l->worst_ns / 1e3);
}

static void draw_title(const struct picture *p, const struct sums *s)
{
	const struct recording *r = p->r;
	const struct vm *vm = recording_vm(r, r->rows[0].vm);
	double target = lateness_only_target(r);

	fprintf(p->gnuplot, "set title '");
	if (r->rows[0].vm == r->rows[r->nr_rows - 1].vm)
		fprintf(p->gnuplot, "%s (process %lld)", vm->name,
			(long long)vm->pid);
	else
		fprintf(p->gnuplot, "%zu vCPUs of several VMs", r->nr_rows);
	if (!isnan(target))
		fprintf(p->gnuplot, ", throttled by %.2f %%", target);
	if (!isnan(target) && s->elapsed_ns)
		fprintf(p->gnuplot, ", measured %.2f %%",
			100 * s->throttled_ns / s->elapsed_ns);
	fprintf(p->gnuplot, "; %lu of %lu windows off their plan by more than %g %% of a period'.\"\\n\".'",
		s->late, s->windows, 100 * LATE_SHARE);
	print_lateness(p->gnuplot, "opened", &s->open);
	fprintf(p->gnuplot, "%s", s->open.nr && s->close.nr ? "; " : "");
	print_lateness(p->gnuplot, "closed", &s->close);
	if (s->turns)
		fprintf(p->gnuplot, "; vCPUs that share a CPU take turns");
	if (r->lost)
		fprintf(p->gnuplot, "; %lld events are missing",
			(long long)r->lost);
	if (!r->whole)
		fprintf(p->gnuplot, "; the recording was cut short");
	fprintf(p->gnuplot, "'\n");
}

static void draw_labels(const struct picture *p)
{
	const struct recording *r = p->r;
	bool several = r->rows[0].vm != r->rows[r->nr_rows - 1].vm;

	fprintf(p->gnuplot, "set ytics (");
	for (size_t i = 0; i < r->nr_rows; i++) {
		const struct vm *vm = recording_vm(r, r->rows[i].vm);

		fprintf(p->gnuplot, "%s'", i ? ", " : "");
		if (several)
			fprintf(p->gnuplot, "%s (%lld) ", vm->name,
				(long long)vm->pid);
		fprintf(p->gnuplot, "vCPU %lld' %zu",
			(long long)r->rows[i].vcpu, i);
	}
	fprintf(p->gnuplot, ") scale 0\n");
}

/**
 * picture_draw() - draw it
 * @p: the picture
 * @s: what is said about it
 */
void picture_draw(const struct picture *p, const struct sums *s)
{
	const struct recording *r = p->r;
	size_t height = ABOVE_PX + ROW_PX * r->nr_rows + BELOW_PX;

	fprintf(p->gnuplot,
		"set encoding utf8\n"
		"set terminal svg noenhanced size %d,%zu font 'sans-serif,13' background 'white'\n"
		"set xrange [%.6f:%.6f]\n"
		"set yrange [%zu.5:-0.5]\n"
		"set xlabel 'milliseconds since the recording began' offset 0,0.4\n"
		"set key at screen 0.5,screen %.4f center top horizontal maxrows 1 samplen 1.5 width -4\n"
		"set tmargin at screen %.4f\n"
		"set bmargin at screen %.4f\n"
		"set tics nomirror out\n"
		"set border 3\n",
		WIDTH_PX, height, picture_ms(p, p->from_ns), picture_ms(p, p->to_ns),
		r->nr_rows - 1, 30.0 / height, 1 - (double)ABOVE_PX / height,
		(double)BELOW_PX / height);
	draw_title(p, s);
	draw_labels(p);
	draw_blocks(p);
	fprintf(p->gnuplot,
		"set style fill solid noborder\n"
		"plot $grid using (($1+$2)/2):(($3+$4)/2):1:2:3:4 with boxxyerror fillcolor rgb '#e4e4ec' title 'grid', \\\n"
		" $real using (($1+$2)/2):(($3+$4)/2):1:2:3:4 with boxxyerror fillcolor rgb '#2a7fb8' title 'real', \\\n"
		" $late using (($1+$2)/2):(($3+$4)/2):1:2:3:4 with boxxyerror fillcolor rgb '#d9301a' title 'real, off its plan', \\\n"
		" $planned using (($1+$2)/2):(($3+$4)/2):1:2:3:4 with boxxyerror fillstyle empty border rgb '#202020' linecolor rgb '#202020' title 'planned', \\\n"
		" $signals using 1:2 with points pointtype 9 linecolor rgb '#e08a00' title 'signal'\n");
}
