// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle top: all throttled VMs of this host, live, on the whole terminal.
 */
#include <err.h>
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <curses.h>

#include "command.h"
#include "loop.h"
#include "throttle.h"
#include "view.h"

/* How many intervals are remembered; no terminal is that wide. */
#define HISTORY		512

/* Room for what is in a column. */
#define TEXT_MAX_LEN	64

#define HELP \
	"q quit  Up Down  Enter vCPUs  e all  " \
	"sort by p v b c t n s l, again: reverse"

/**
 * struct options - the command line
 * @interval_ns: how often to look
 */
struct options {
	uint64_t interval_ns;
};

enum {
	OPTION_INTERVAL = 256,
};

static const struct argp_option argp_options[] = {
	{ "interval", OPTION_INTERVAL, "TIME", 0,
	  "how often to look, " INTERVAL_TEXT " (default: 1s)", 0 },
	{ 0 }
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case OPTION_INTERVAL:
		o->interval_ns = option_interval(state, arg);
		return 0;
	case ARGP_KEY_ARG:
		argp_failure(state, EXIT_USAGE, 0,
			     "what is '%s'? This command shows all VMs", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = argp_options,
	.parser = parse_option,
	.doc = "Show all throttled KVM virtual machines of this host, live.\v"
	       "Keys: " HELP ".",
};

/**
 * struct history - what something was in the last intervals
 * @percent: the newest at ->next - 1, then backwards; NAN where there is nothing
 * @next: where the next will be
 */
struct history {
	float percent[HISTORY];
	unsigned int next;
};

/**
 * struct entry - a throttled VM
 * @now: newest reading
 * @before: the one before; has no vCPUs if there is none
 * @average: the vCPUs' share in the last interval
 * @sleep_ns: mean length of their sleeps then, NAN if there were none
 * @longest_ns: the longest of them all so far, NAN if there were none
 * @late_ns: worst lateness of them all so far
 * @off_target: one of them was too far off its target
 * @seen: it was found this time
 * @expanded: its vCPUs are shown
 * @history: of ->average.mean
 * @vcpus: the same of each vCPU
 */
struct entry {
	struct throttle now;
	struct throttle before;
	struct average average;
	double sleep_ns;
	double longest_ns;
	double late_ns;
	bool off_target;
	bool seen;
	bool expanded;
	struct history history;
	struct history *vcpus;
};

/**
 * struct row - a line of the list
 * @entry: the VM
 * @vcpu: which of its vCPUs, -1 for the VM itself
 */
struct row {
	struct entry *entry;
	int vcpu;
};

/**
 * struct top - what is shown
 * @o: the command line
 * @entries: the VMs, in order
 * @nr_entries: how many they are
 * @hidden: there may be more
 * @sort: the column that they are sorted by
 * @reverse: in the other direction
 * @rows: the list
 * @nr_rows: how many lines it has
 * @selected: where the cursor is
 * @first: first line on the screen
 * @unicode: the terminal has more than ASCII
 * @colours: it has colours, and they are wanted
 * @loop: what waits
 * @input: for keys
 * @timer: for the next look
 */
struct top {
	const struct options *o;
	struct entry **entries;
	int nr_entries;
	bool hidden;
	unsigned int sort;
	bool reverse;
	struct row *rows;
	int nr_rows;
	int selected;
	int first;
	bool unicode;
	bool colours;
	struct loop loop;
	struct loop_watch input;
	struct loop_timer timer;
};

enum {
	COLOUR_OFF_TARGET = 1,
	COLOUR_IDLE,
};

/* --- columns -------------------------------------------------------------- */

/* Nothing comes last. */
static int compare_numbers(double a, double b)
{
	if (isnan(a) || isnan(b))
		return isnan(a) - isnan(b);
	return (a > b) - (a < b);
}

static const char *vm_name(const struct entry *e)
{
	return *e->now.vm.guest ? e->now.vm.guest : e->now.vm.name;
}

static int by_pid(const struct entry *a, const struct entry *b)
{
	return compare_numbers(a->now.vm.pid, b->now.vm.pid);
}

static int by_name(const struct entry *a, const struct entry *b)
{
	return strcmp(vm_name(a), vm_name(b));
}

static int by_owner(const struct entry *a, const struct entry *b)
{
	return compare_numbers(a->now.holder.pid, b->now.holder.pid);
}

static int by_vcpus(const struct entry *a, const struct entry *b)
{
	return compare_numbers(b->now.nr_vcpus, a->now.nr_vcpus);
}

static int by_target(const struct entry *a, const struct entry *b)
{
	return compare_numbers(b->now.percent_x100, a->now.percent_x100);
}

static int by_share(const struct entry *a, const struct entry *b)
{
	return compare_numbers(-a->average.mean, -b->average.mean);
}

static int by_longest(const struct entry *a, const struct entry *b)
{
	return compare_numbers(-a->longest_ns, -b->longest_ns);
}

static int by_late(const struct entry *a, const struct entry *b)
{
	return compare_numbers(-a->late_ns, -b->late_ns);
}

static void format_number(char *text, double value, const char *format)
{
	if (isnan(value))
		snprintf(text, TEXT_MAX_LEN, "-");
	else
		snprintf(text, TEXT_MAX_LEN, format, value);
}

static void format_pid(char *text, const struct row *row)
{
	const struct throttle *t = &row->entry->now;
	unsigned int id = row->vcpu < 0 ? (unsigned int)t->vm.pid :
					  t->vcpus[row->vcpu].tid;

	/* It hasn't run yet. */
	if (!id)
		snprintf(text, TEXT_MAX_LEN, "-");
	else
		snprintf(text, TEXT_MAX_LEN, "%u", id);
}

static void format_name(char *text, const struct row *row)
{
	const struct throttle *t = &row->entry->now;

	if (row->vcpu < 0)
		snprintf(text, TEXT_MAX_LEN, "%.*s", TEXT_MAX_LEN - 1,
			 vm_name(row->entry));
	else
		snprintf(text, TEXT_MAX_LEN, "  vCPU %u",
			 t->vcpus[row->vcpu].vcpu_id);
}

static void format_owner(char *text, const struct row *row)
{
	if (row->vcpu < 0)
		snprintf(text, TEXT_MAX_LEN, "%d", row->entry->now.holder.pid);
}

static void format_owner_name(char *text, const struct row *row)
{
	if (row->vcpu < 0)
		snprintf(text, TEXT_MAX_LEN, "%s", row->entry->now.holder.name);
}

static void format_vcpus(char *text, const struct row *row)
{
	if (row->vcpu < 0)
		snprintf(text, TEXT_MAX_LEN, "%u", row->entry->now.nr_vcpus);
}

static struct vcpu_view row_view(const struct row *row, bool all)
{
	const struct entry *e = row->entry;

	return view_vcpu(&e->now, all ? NULL : &e->before, row->vcpu);
}

static void format_target(char *text, const struct row *row)
{
	const struct throttle *t = &row->entry->now;
	bool mixed = false;

	if (row->vcpu >= 0) {
		format_number(text, row_view(row, true).target, "%.2f");
		return;
	}
	for (uint32_t i = 0; i < t->nr_vcpus; i++)
		mixed |= t->vcpus[i].percent_x100 != t->percent_x100;
	if (mixed)
		snprintf(text, TEXT_MAX_LEN, "mixed");
	else
		format_number(text, t->percent_x100 / 100.0, "%.2f");
}

static bool is_idle(const struct row *row)
{
	const struct entry *e = row->entry;

	if (row->vcpu >= 0)
		return row_view(row, false).idle;
	return e->now.nr_vcpus && e->average.idle == e->now.nr_vcpus;
}

static void format_share(char *text, const struct row *row)
{
	if (is_idle(row))
		snprintf(text, TEXT_MAX_LEN, "idle");
	else if (row->vcpu < 0)
		format_number(text, row->entry->average.mean, "%.2f");
	else
		format_number(text, row_view(row, false).share, "%.2f");
}

static void format_mean(char *text, const struct row *row)
{
	if (row->vcpu < 0)
		format_number(text, view_average(&row->entry->now, NULL).mean,
			      "%.2f");
	else
		format_number(text, row_view(row, true).share, "%.2f");
}

static void format_sleep(char *text, const struct row *row)
{
	double ns = row->vcpu < 0 ? row->entry->sleep_ns :
				    row_view(row, false).sleep_ns;

	format_number(text, ns / 1e6, "%.3f");
}

/* A module of the interface's version 1 doesn't tell. */
static double longest_ns(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->stall_max_ns ? vcpu->stall_max_ns : NAN;
}

static void format_longest(char *text, const struct row *row)
{
	const struct entry *e = row->entry;
	double ns = row->vcpu < 0 ? e->longest_ns :
				    longest_ns(&e->now.vcpus[row->vcpu]);

	format_number(text, ns / 1e6, "%.3f");
}

static void format_late(char *text, const struct row *row)
{
	const struct entry *e = row->entry;
	double ns = row->vcpu < 0 ? e->late_ns :
				    e->now.vcpus[row->vcpu].late_max_ns;

	format_number(text, ns / 1e3, "%.1f");
}

/**
 * struct column - a column of the list
 * @head: what is above it
 * @width: how wide it is; negative: to the left
 * @from: shown only on a terminal at least that wide, which has to have room for
 *	all columns that need no more
 * @key: sorts by it, 0 if none does
 * @compare: its order
 * @format: what is in it, nothing if it leaves the text alone
 */
struct column {
	const char *head;
	int width;
	int from;
	int key;
	int (*compare)(const struct entry *a, const struct entry *b);
	void (*format)(char *text, const struct row *row);
};

static const struct column columns[] = {
	{ "PID", 7, 46, 'p', by_pid, format_pid },
	{ "VM", -12, 0, 'v', by_name, format_name },
	{ "BY PID", 7, 60, 'b', by_owner, format_owner },
	{ "BY", -15, 115, 0, NULL, format_owner_name },
	{ "vCPUs", 5, 52, 'c', by_vcpus, format_vcpus },
	{ "TARGET", 6, 27, 't', by_target, format_target },
	{ "NOW %", 6, 19, 'n', by_share, format_share },
	{ "MEAN %", 6, 90, 0, NULL, format_mean },
	{ "SLEEP ms", 8, 99, 0, NULL, format_sleep },
	{ "LONGEST ms", 10, 38, 's', by_longest, format_longest },
	{ "LATE us", 8, 69, 'l', by_late, format_late },
};

#define NR_COLUMNS	(sizeof(columns) / sizeof(*columns))

/* --- what there is to show ------------------------------------------------ */

static void remember(struct history *h, double percent)
{
	h->percent[h->next] = percent;
	h->next = (h->next + 1) % HISTORY;
}

static struct history new_history(void)
{
	struct history h = { .next = 0 };

	for (unsigned int i = 0; i < HISTORY; i++)
		h.percent[i] = NAN;
	return h;
}

static void free_entry(struct entry *e)
{
	throttle_free(&e->now);
	throttle_free(&e->before);
	free(e->vcpus);
	free(e);
}

/* Put a new reading in; it is the entry's now. */
static void update_entry(struct entry *e, const struct throttle *now)
{
	uint32_t had = e->now.nr_vcpus;
	bool fresh = !had;
	double windows = 0;

	throttle_free(&e->before);
	e->before = e->now;
	e->now = *now;
	e->vcpus = reallocarray(e->vcpus, now->nr_vcpus + 1, sizeof(*e->vcpus));
	if (!e->vcpus)
		err(EXIT_FAILURE, "list of vCPUs");

	e->late_ns = NAN;
	e->longest_ns = NAN;
	e->sleep_ns = 0;
	e->off_target = false;
	e->average = view_average(now, &e->before);
	for (uint32_t i = 0; i < now->nr_vcpus; i++) {
		struct vcpu_view v = view_vcpu(now, &e->before, i);

		if (i >= had)
			e->vcpus[i] = new_history();
		/* The first is the mean since the beginning. */
		if (!fresh)
			remember(&e->vcpus[i], v.share);
		e->late_ns = fmax(e->late_ns, now->vcpus[i].late_max_ns);
		e->longest_ns = fmax(e->longest_ns, longest_ns(&now->vcpus[i]));
		e->off_target |= !v.idle &&
				 fabs(v.share - v.target) > OFF_TARGET_PERCENT;
		if (!isnan(v.sleep_ns)) {
			e->sleep_ns += v.sleep_ns;
			windows++;
		}
	}
	e->sleep_ns = windows ? e->sleep_ns / windows : NAN;
	if (!fresh)
		remember(&e->history, e->average.mean);
}

static struct entry *find_entry(struct top *top, const struct throttle *now)
{
	struct entry *e;

	for (int i = 0; i < top->nr_entries; i++) {
		if (throttle_before(now, &top->entries[i]->now, 1))
			return top->entries[i];
	}
	top->entries = reallocarray(top->entries, top->nr_entries + 1,
				    sizeof(*top->entries));
	e = calloc(1, sizeof(*e));
	if (!top->entries || !e)
		err(EXIT_FAILURE, "list of VMs");
	e->history = new_history();
	top->entries[top->nr_entries++] = e;
	return e;
}

static int compare_entries(const void *a, const void *b, void *arg)
{
	const struct entry *x = *(struct entry * const *)a;
	const struct entry *y = *(struct entry * const *)b;
	const struct top *top = arg;
	int order = columns[top->sort].compare(x, y);

	if (!order)
		order = by_pid(x, y) ?: compare_numbers(x->now.fd, y->now.fd);
	return top->reverse ? -order : order;
}

/* List the lines anew; the cursor stays on what it was on. */
static void list_rows(struct top *top)
{
	struct row selected = { 0 };
	int nr = 0;

	if (top->selected < top->nr_rows)
		selected = top->rows[top->selected];
	if (top->nr_entries)
		qsort_r(top->entries, top->nr_entries, sizeof(*top->entries),
			compare_entries, top);

	for (int i = 0; i < top->nr_entries; i++)
		nr += 1 + top->entries[i]->now.nr_vcpus;
	free(top->rows);
	top->rows = calloc(nr + 1, sizeof(*top->rows));
	if (!top->rows)
		err(EXIT_FAILURE, "list of vCPUs");

	nr = 0;
	for (int i = 0; i < top->nr_entries; i++) {
		struct entry *e = top->entries[i];
		int nr_vcpus = e->expanded ? e->now.nr_vcpus : 0;

		for (int vcpu = -1; vcpu < nr_vcpus; vcpu++) {
			/* Of a vCPU that is no longer shown, the VM. */
			if (e == selected.entry && vcpu <= selected.vcpu)
				top->selected = nr;
			top->rows[nr++] = (struct row) { e, vcpu };
		}
	}
	top->nr_rows = nr;
}

static void look(struct top *top)
{
	struct throttle *found;
	int nr, kept = 0;

	nr = throttle_find(0, &found, &top->hidden);
	if (nr < 0) {
		endwin();
		errno = -nr;
		err(EXIT_FAILURE, "/proc");
	}

	for (int i = 0; i < top->nr_entries; i++)
		top->entries[i]->seen = false;
	for (int i = 0; i < nr; i++) {
		struct entry *e = find_entry(top, &found[i]);

		update_entry(e, &found[i]);
		e->seen = true;
	}
	free(found);

	for (int i = 0; i < top->nr_rows; i++) {
		if (!top->rows[i].entry->seen)
			top->rows[i].entry = NULL;
	}
	for (int i = 0; i < top->nr_entries; i++) {
		if (top->entries[i]->seen)
			top->entries[kept++] = top->entries[i];
		else
			free_entry(top->entries[i]);
	}
	top->nr_entries = kept;
	list_rows(top);
}

/* --- drawing -------------------------------------------------------------- */

/* The newest is on the right. */
static void draw_history(const struct top *top, const struct history *h,
			 int width)
{
	static const char * const blocks[] = {
		"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"
	};
	static const char * const ascii[] = {
		"_", ".", ":", "-", "=", "+", "*", "#"
	};
	const char * const *levels = top->unicode ? blocks : ascii;

	for (int ago = width < HISTORY ? width : HISTORY; ago > 0; ago--) {
		float percent = h->percent[(h->next + HISTORY - ago) % HISTORY];
		int level = percent * 8 / 100;

		if (isnan(percent))
			addch(' ');
		else
			addstr(levels[level < 0 ? 0 : level > 7 ? 7 : level]);
	}
}

/* Draw text at @x, as much of it as fits: more would go on in the next line. */
static void draw_text(int y, int x, const char *text)
{
	if (x < COLS)
		mvaddnstr(y, x, text, COLS - x);
}

/* Draw a cell of a line at @x.  Returns where the next one begins. */
static int draw_cell(int y, int x, const struct column *column, const char *text)
{
	int width = abs(column->width);
	char cell[TEXT_MAX_LEN];

	snprintf(cell, sizeof(cell), column->width < 0 ? "%-*.*s" : "%*.*s", width,
		 width, text);
	draw_text(y, x, cell);
	return x + width + 1;
}

static void draw_head(const struct top *top, int y)
{
	int x = 0;

	attron(A_REVERSE);
	mvhline(y, 0, ' ', COLS);
	for (unsigned int i = 0; i < NR_COLUMNS; i++) {
		if (columns[i].from > COLS)
			continue;
		if (i == top->sort)
			attron(A_BOLD | A_UNDERLINE);
		x = draw_cell(y, x, &columns[i], columns[i].head);
		attroff(A_BOLD | A_UNDERLINE);
	}
	draw_text(y, x, "NOW % SO FAR");
	attroff(A_REVERSE);
}

static void draw_row(const struct top *top, int y, const struct row *row,
		     bool selected)
{
	const struct entry *e = row->entry;
	bool off_target = e->off_target;
	attr_t attributes = selected ? A_REVERSE : A_NORMAL;
	int x = 0;

	if (row->vcpu >= 0) {
		struct vcpu_view v = row_view(row, false);

		off_target = fabs(v.share - v.target) > OFF_TARGET_PERCENT;
	}
	if (top->colours && is_idle(row))
		attributes |= COLOR_PAIR(COLOUR_IDLE);
	else if (top->colours && off_target && e->before.nr_vcpus)
		attributes |= COLOR_PAIR(COLOUR_OFF_TARGET);

	attron(attributes);
	mvhline(y, 0, ' ', COLS);
	for (unsigned int i = 0; i < NR_COLUMNS; i++) {
		char text[TEXT_MAX_LEN] = "";

		if (columns[i].from > COLS)
			continue;
		columns[i].format(text, row);
		x = draw_cell(y, x, &columns[i], text);
	}
	if (x < COLS) {
		move(y, x);
		draw_history(top, row->vcpu < 0 ? &e->history :
			     &e->vcpus[row->vcpu], COLS - x);
	}
	attroff(attributes);
}

static void draw_title(const struct top *top)
{
	unsigned int vcpus = 0, idle = 0;
	time_t now = time(NULL);
	char clock[16], title[128];

	for (int i = 0; i < top->nr_entries; i++) {
		vcpus += top->entries[i]->now.nr_vcpus;
		idle += top->entries[i]->average.idle;
	}
	strftime(clock, sizeof(clock), " %T", localtime(&now));
	snprintf(title, sizeof(title), "%s%d VM%s, %u vCPUs, %u idle; every %g s%s",
		 COLS < 60 ? "" : "kvm-throttle top: ", top->nr_entries,
		 top->nr_entries == 1 ? "" : "s", vcpus, idle,
		 (double)top->o->interval_ns / NSEC_PER_SEC,
		 top->hidden ? "; only root sees all" : "");
	draw_text(0, 0, title);
	if (COLS > (int)(strlen(title) + strlen(clock)))
		draw_text(0, COLS - strlen(clock), clock);
}

static void draw(struct top *top)
{
	int room = LINES > 3 ? LINES - 3 : 0;

	if (top->selected >= top->nr_rows)
		top->selected = top->nr_rows ? top->nr_rows - 1 : 0;
	if (top->first > top->nr_rows - room)
		top->first = top->nr_rows > room ? top->nr_rows - room : 0;
	if (top->selected < top->first)
		top->first = top->selected;
	if (room && top->selected >= top->first + room)
		top->first = top->selected - room + 1;

	erase();
	draw_title(top);
	draw_head(top, 1);
	for (int i = 0; i < room && top->first + i < top->nr_rows; i++)
		draw_row(top, 2 + i, &top->rows[top->first + i],
			 top->first + i == top->selected);
	if (!top->nr_rows)
		draw_text(3, 0, top->hidden ?
			  "No VM is throttled by any process that you may look into." :
			  "No VM is throttled.");
	attron(A_DIM);
	mvaddnstr(LINES - 1, 0, HELP, COLS - 1);
	attroff(A_DIM);
	refresh();
}

/* --- keys ----------------------------------------------------------------- */

static void sort_by(struct top *top, int key)
{
	for (unsigned int i = 0; i < NR_COLUMNS; i++) {
		if (columns[i].key != key)
			continue;
		top->reverse = top->sort == i && !top->reverse;
		top->sort = i;
	}
}

static void expand_all(struct top *top)
{
	bool all = true;

	for (int i = 0; i < top->nr_entries; i++)
		all &= top->entries[i]->expanded;
	for (int i = 0; i < top->nr_entries; i++)
		top->entries[i]->expanded = !all;
}

/* Returns false to quit. */
static bool handle_key(struct top *top, int key)
{
	int page = LINES > 4 ? LINES - 4 : 1;

	switch (key) {
	case 'q':
		return false;
	case KEY_UP:
		top->selected -= 1;
		break;
	case KEY_DOWN:
		top->selected += 1;
		break;
	case KEY_PPAGE:
		top->selected -= page;
		break;
	case KEY_NPAGE:
		top->selected += page;
		break;
	case KEY_HOME:
		top->selected = 0;
		break;
	case KEY_END:
		top->selected = top->nr_rows - 1;
		break;
	case '\n':
	case '\r':
	case KEY_ENTER:
	case ' ':
		if (top->nr_rows)
			top->rows[top->selected].entry->expanded ^= true;
		break;
	case 'e':
		expand_all(top);
		break;
	default:
		sort_by(top, key);
	}
	if (top->selected > top->nr_rows - 1)
		top->selected = top->nr_rows - 1;
	if (top->selected < 0)
		top->selected = 0;
	list_rows(top);
	return true;
}

/* Keys were pressed, or the terminal has another size, which curses tells as a key. */
static void handle_keys(void *context)
{
	struct top *top = context;
	int key;

	while ((key = getch()) != ERR) {
		if (handle_key(top, key))
			continue;
		loop_end(&top->loop);
		return;
	}
	draw(top);
}

static void handle_input(void *context, short revents)
{
	struct top *top = context;

	/* The terminal has gone. */
	if (revents & ~POLLIN)
		loop_end(&top->loop);
	else
		handle_keys(top);
}

static void interval_is_over(void *context)
{
	struct top *top = context;

	look(top);
	draw(top);
	loop_start(&top->loop, &top->timer, now_ns() + top->o->interval_ns);
}

static void init_screen(struct top *top)
{
	const char *no_color = getenv("NO_COLOR");
	const char *term = getenv("TERM");

	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
		errx(EXIT_FAILURE,
		     "this is not a terminal: use `kvm-throttle stat --interval 1s` for files and pipes");
	setlocale(LC_CTYPE, "");
	top->unicode = !strcmp(nl_langinfo(CODESET), "UTF-8");
	/* newterm() draws on one whose cursor can't be moved, too. */
	if (!view_can_draw() || !newterm(NULL, stdout, stdin))
		errx(EXIT_FAILURE,
		     "the terminal '%s' can't be drawn on: set TERM, or use `kvm-throttle stat --interval 1s`",
		     term ?: "");
	cbreak();
	noecho();
	nonl();
	curs_set(0);
	keypad(stdscr, TRUE);
	set_escdelay(25);
	nodelay(stdscr, TRUE);

	top->colours = !(no_color && *no_color) && has_colors();
	if (top->colours) {
		start_color();
		use_default_colors();
		init_pair(COLOUR_OFF_TARGET, COLOR_YELLOW, -1);
		init_pair(COLOUR_IDLE, COLOR_BLUE, -1);
	}
}

int top_command(int argc, char **argv)
{
	struct options o = { .interval_ns = NSEC_PER_SEC };
	struct top top = {
		.o = &o,
		.input = { .fd = STDIN_FILENO, .events = POLLIN, .ready = handle_input,
			   .context = &top },
		.timer = { .due = interval_is_over, .context = &top },
	};

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	init_screen(&top);
	loop_init(&top.loop);
	top.loop.on_resize = handle_keys;
	top.loop.context = &top;
	loop_add(&top.loop, &top.input);
	interval_is_over(&top);
	loop_run(&top.loop);

	endwin();
	loop_close(&top.loop);
	for (int i = 0; i < top.nr_entries; i++)
		free_entry(top.entries[i]);
	free(top.entries);
	free(top.rows);
	return EXIT_SUCCESS;
}
