// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A file of metrics for Prometheus, as node_exporter's textfile collector reads
 * it.  Counters are left as they are: what happens in an interval is for
 * Prometheus to work out.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prometheus.h"

/**
 * struct metric - a number that each vCPU has
 * @name: without the prefix
 * @type: gauge or counter
 * @help: what it is
 * @value: reads it
 */
struct metric {
	const char *name;
	const char *type;
	const char *help;
	double (*value)(const struct kvm_throttle_vcpu_state *vcpu);
};

static double target(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->percent_x100 / 1e4;
}

static double period(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->period_ns / 1e9;
}

static double elapsed(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->elapsed_ns / 1e9;
}

static double throttled(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->throttled_ns / 1e9;
}

static double windows(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->windows;
}

static double interrupted(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->interrupted;
}

static double retries(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->retries;
}

static double late_max(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->late_max_ns / 1e9;
}

static double stall_max(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->stall_max_ns / 1e9;
}

static double dirty_rate(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->dirty_rate;
}

static double dirtied(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->dirtied;
}

static double dirty_held(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->dirty_held_ns / 1e9;
}

static double dirty_sleeps(const struct kvm_throttle_vcpu_state *vcpu)
{
	return vcpu->dirty_sleeps;
}

static const struct metric metrics[] = {
	{ "target_ratio", "gauge",
	  "Share of the time that the vCPU is to be kept out of guest mode.",
	  target },
	{ "period_seconds", "gauge",
	  "Length of a run window and a sleep window together, 0 at full speed.",
	  period },
	{ "elapsed_seconds_total", "counter",
	  "Time that the vCPU has had a target other than 0.", elapsed },
	{ "throttled_seconds_total", "counter",
	  "Time that the throttle kept the vCPU out of guest mode.", throttled },
	{ "windows_total", "counter",
	  "Sleep windows that the vCPU slept in.", windows },
	{ "interrupted_total", "counter",
	  "Sleeps that a signal ended.", interrupted },
	{ "retries_total", "counter",
	  "Times that the vCPU was kept from entering the guest in a sleep window.",
	  retries },
	{ "late_max_seconds", "gauge",
	  "Worst lateness of a window so far, which later windows make up for.",
	  late_max },
	{ "stall_max_seconds", "gauge",
	  "Longest that the throttle kept the vCPU out of guest mode at a time.",
	  stall_max },
	{ "dirty_rate", "gauge",
	  "Pages a second that the vCPU may dirty, by itself or shared; 0 without a limit.",
	  dirty_rate },
	{ "dirtied_pages_total", "counter",
	  "Pages that the vCPU has dirtied, as far as KVM logs it.", dirtied },
	{ "dirty_held_seconds_total", "counter",
	  "Time that the vCPU was kept out of guest mode for what it had dirtied.",
	  dirty_held },
	{ "dirty_sleeps_total", "counter",
	  "Sleeps of the vCPU for what it had dirtied.", dirty_sleeps },
};

/**
 * prometheus_label() - print a label, and a comma, which may stand at the end
 * @file: where to
 * @name: its name
 * @value: its value, which may have any characters
 */
void prometheus_label(FILE *file, const char *name, const char *value)
{
	fprintf(file, "%s=\"", name);
	for (; *value; value++) {
		if (*value == '\\' || *value == '"' || *value == '\n')
			putc('\\', file);
		putc(*value == '\n' ? 'n' : *value, file);
	}
	fputs("\",", file);
}

/* The throttle fd is a label too: a process can have several VMs. */
static void print_labels(FILE *file, const struct throttle *t, uint32_t vcpu_id)
{
	putc('{', file);
	prometheus_label(file, "vm", t->vm.guest);
	prometheus_label(file, "command", t->vm.pid ? t->vm.name : "");
	fprintf(file, "pid=\"%d\",", t->vm.pid);
	prometheus_label(file, "owner", t->holder.name);
	fprintf(file, "owner_pid=\"%d\",owner_fd=\"%d\",vcpu=\"%u\"}",
		t->holder.pid, t->fd, vcpu_id);
}

/**
 * prometheus_head() - print what a metric is
 * @file: where to
 * @name: its name, without the prefix
 * @type: gauge or counter
 * @help: a sentence
 */
void prometheus_head(FILE *file, const char *name, const char *type, const char *help)
{
	fprintf(file, "# HELP kvm_throttle_%s %s\n# TYPE kvm_throttle_%s %s\n",
		name, help, name, type);
}

static void print_all(FILE *file, const struct throttle *list, int nr,
		      bool hidden)
{
	prometheus_head(file, "vms", "gauge", "Virtual machines with a throttle.");
	fprintf(file, "kvm_throttle_vms %d\n", nr);
	prometheus_head(file, "complete", "gauge",
		   "Whether every process could be looked into for throttles.");
	fprintf(file, "kvm_throttle_complete %d\n", !hidden);

	for (size_t m = 0; m < sizeof(metrics) / sizeof(*metrics); m++) {
		const struct metric *metric = &metrics[m];

		prometheus_head(file, metric->name, metric->type, metric->help);
		for (int i = 0; i < nr; i++) {
			for (uint32_t v = 0; v < list[i].nr_vcpus; v++) {
				fprintf(file, "kvm_throttle_%s", metric->name);
				print_labels(file, &list[i],
					     list[i].vcpus[v].vcpu_id);
				fprintf(file, " %.15g\n",
					metric->value(&list[i].vcpus[v]));
			}
		}
	}
}

/**
 * prometheus_replace() - replace a file, as a whole
 * @path: the file; whoever reads it finds the old one or the new one, whole
 * @text: what comes in
 * @len: the length of that
 *
 * Return: 0, or a negative error number.
 */
int prometheus_replace(const char *path, const char *text, size_t len)
{
	mode_t mask = umask(0);
	char *temporary;
	int fd, error = 0;

	umask(mask);
	/* node_exporter reads no file whose name ends like that. */
	if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
		return -ENOMEM;
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0) {
		error = -errno;
		free(temporary);
		return error;
	}
	while (len && !error) {
		ssize_t done = write(fd, text, len);

		if (done < 0 && errno != EINTR)
			error = -errno;
		text += done > 0 ? done : 0;
		len -= done > 0 ? done : 0;
	}
	if (!error && (fchmod(fd, 0666 & ~mask) || rename(temporary, path)))
		error = -errno;
	if (error)
		unlink(temporary);
	close(fd);
	free(temporary);
	return error;
}

/**
 * prometheus_write() - replace a file by one with what is in force now
 * @path: the file
 * @list: all throttles
 * @nr: how many
 * @hidden: there may be more
 */
void prometheus_write(const char *path, const struct throttle *list, int nr,
		      bool hidden)
{
	struct stat old;
	char *text = NULL;
	size_t len;
	FILE *file;
	int error;

	/* Put in the place of a device, it would be missed. */
	if (!stat(path, &old) && !S_ISREG(old.st_mode))
		errx(EXIT_FAILURE, "%s: is not a regular file", path);
	file = open_memstream(&text, &len);
	if (!file)
		err(EXIT_FAILURE, "%s", path);
	print_all(file, list, nr, hidden);
	if (fclose(file))
		err(EXIT_FAILURE, "%s", path);
	error = prometheus_replace(path, text, len);
	if (error)
		errx(EXIT_FAILURE, "%s: can't be written: %s", path, strerror(-error));
	free(text);
}
