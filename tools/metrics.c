// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What `kvm-throttle converge --all` has done, as Prometheus reads it.
 *
 * To write to a disk can take for ever.  So another process does it, a new one each
 * time.  It has a copy of what is to be written, and nothing else.
 */
#include <err.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "helper.h"
#include "metrics.h"
#include "prometheus.h"
#include "throttle.h"

const char * const metrics_ends[METRICS_ENDS] = {
	"completed", "postcopy", "failed", "cancelled", "gone", "lost",
};

/**
 * metrics_ended() - count a migration that has ended
 * @m: the metrics
 * @end: how, one of metrics_ends
 * @throttled: the guest was throttled
 * @took_s: how long it took
 * @unhelped_s: how long it would have taken without, as predicted; INFINITY if for ever
 * @lost_s: for how long the guest was throttled: its share, integrated
 */
void metrics_ended(struct metrics *m, const char *end, bool throttled, double took_s,
		   double unhelped_s, double lost_s)
{
	bool completed = !strcmp(end, metrics_ends[0]);

	for (size_t i = 0; i < METRICS_ENDS; i++)
		m->ends[i] += !strcmp(end, metrics_ends[i]);
	m->lost_s += lost_s;
	if (!completed || !throttled)
		return;
	m->helped++;
	if (isinf(unhelped_s))
		m->endless++;
	else if (unhelped_s > took_s)
		m->saved_s += unhelped_s - took_s;
}

static void print(FILE *f, const char *name, const char *type, const char *help,
		  double value)
{
	prometheus_head(f, name, type, help);
	fprintf(f, "kvm_throttle_%s %.15g\n", name, value);
}

static void print_totals(FILE *f, const struct metrics *m)
{
	static const char name[] = "converge_migrations_total";

	prometheus_head(f, name, "counter", "Migrations that have ended, and how.");
	for (size_t i = 0; i < METRICS_ENDS; i++)
		fprintf(f, "kvm_throttle_%s{end=\"%s\"} %lu\n", name, metrics_ends[i],
			m->ends[i]);
	print(f, "converge_helped_total", "counter",
	      "Migrations that have completed and were throttled.", m->helped);
	print(f, "converge_endless_total", "counter",
	      "Of these, those that would never have ended, as predicted.", m->endless);
	print(f, "converge_saved_seconds_total", "counter",
	      "By how much sooner the others of these have ended, as predicted.", m->saved_s);
	print(f, "converge_lost_seconds_total", "counter",
	      "Time that guests were throttled: their shares, integrated.", m->lost_s);
}

static double percent_of(const struct metrics_vm *vm)
{
	return vm->percent / 100;
}

static double dirty_rate_of(const struct metrics_vm *vm)
{
	return vm->dirty_rate;
}

static double remaining_of(const struct metrics_vm *vm)
{
	return vm->remaining;
}

static double left_of(const struct metrics_vm *vm)
{
	return vm->left_s;
}

static void print_each(FILE *f, const struct metrics_vm *vms, size_t nr, const char *name,
		       const char *help, double (*value)(const struct metrics_vm *vm))
{
	prometheus_head(f, name, "gauge", help);
	for (size_t i = 0; i < nr; i++) {
		double v = value(&vms[i]);

		if (!vms[i].migrates)
			continue;
		fprintf(f, "kvm_throttle_%s{", name);
		prometheus_label(f, "vm", vms[i].name);
		if (isfinite(v))
			fprintf(f, "pid=\"%d\"} %.15g\n", vms[i].pid, v);
		else
			fprintf(f, "pid=\"%d\"} %s\n", vms[i].pid,
				isnan(v) ? "NaN" : "+Inf");
	}
}

static void print_module(FILE *f)
{
	print(f, "module_loaded", "gauge", "Whether the module is loaded.",
	      throttle_module_is_loaded());
	print(f, "module_api_version", "gauge",
	      "Version of its interface, 0 if it isn't loaded.", throttle_module_version());
}

/**
 * metrics_text() - put all into the form that Prometheus reads
 * @m: what was done
 * @vms: the VMs that are watched
 * @nr: how many they are
 * @len: result, the length
 *
 * Return: the text, to be freed.
 */
char *metrics_text(const struct metrics *m, const struct metrics_vm *vms, size_t nr,
		   size_t *len)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, len);

	if (!f)
		err(EXIT_FAILURE, "metrics");
	print_module(f);
	print(f, "converge_vms", "gauge", "Virtual machines that are watched.", nr);
	print_totals(f, m);
	print_each(f, vms, nr, "converge_throttle_ratio",
		   "Share of the time that a guest which migrates is throttled.", percent_of);
	print_each(f, vms, nr, "converge_dirty_rate",
		   "Pages a second that its vCPUs may dirty; 0 without a limit.", dirty_rate_of);
	print_each(f, vms, nr, "converge_remaining_bytes",
		   "Memory that has still to be sent.", remaining_of);
	print_each(f, vms, nr, "converge_left_seconds",
		   "Predicted time until the migration's end.", left_of);
	if (fclose(f))
		err(EXIT_FAILURE, "metrics");
	return text;
}

/**
 * metrics_write() - have a file written, without waiting for that
 * @m: the metrics
 * @path: the file; whoever reads it finds the old one or the new one, whole
 * @text: what comes in
 * @len: the length of that
 *
 * While one is still being written, nothing is.
 *
 * Return: false if the one before this could not be written.
 */
bool metrics_write(struct metrics *m, const char *path, const char *text, size_t len)
{
	static const int files[] = { STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO };
	int status = 0;

	if (m->writer > 0 && !waitpid(m->writer, &status, WNOHANG))
		return true;
	m->writer = helper_spawn(files, 3);
	if (!m->writer)
		_exit(prometheus_replace(path, text, len) ? EXIT_FAILURE : EXIT_SUCCESS);
	return !status && m->writer > 0;
}
