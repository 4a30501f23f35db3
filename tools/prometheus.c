// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A file of metrics for Prometheus, as node_exporter's textfile collector reads
 * it.  Counters are left as they are: what happens in an interval is for
 * Prometheus to work out.
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
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
};

static void print_label(FILE *file, const char *name, const char *value)
{
	fprintf(file, "%s=\"", name);
	for (; *value; value++) {
		if (*value == '\\' || *value == '"')
			putc('\\', file);
		putc(*value, file);
	}
	fputs("\",", file);
}

/* The throttle fd is a label too: a process can have several VMs. */
static void print_labels(FILE *file, const struct throttle *t, uint32_t vcpu_id)
{
	putc('{', file);
	print_label(file, "vm", t->vm.guest);
	print_label(file, "command", t->vm.pid ? t->vm.name : "");
	fprintf(file, "pid=\"%d\",", t->vm.pid);
	print_label(file, "owner", t->holder.name);
	fprintf(file, "owner_pid=\"%d\",owner_fd=\"%d\",vcpu=\"%u\"}",
		t->holder.pid, t->fd, vcpu_id);
}

static void print_head(FILE *file, const char *name, const char *type,
		       const char *help)
{
	fprintf(file, "# HELP kvm_throttle_%s %s\n# TYPE kvm_throttle_%s %s\n",
		name, help, name, type);
}

static void print_all(FILE *file, const struct throttle *list, int nr,
		      bool hidden)
{
	print_head(file, "vms", "gauge", "Virtual machines with a throttle.");
	fprintf(file, "kvm_throttle_vms %d\n", nr);
	print_head(file, "complete", "gauge",
		   "Whether every process could be looked into for throttles.");
	fprintf(file, "kvm_throttle_complete %d\n", !hidden);

	for (size_t m = 0; m < sizeof(metrics) / sizeof(*metrics); m++) {
		const struct metric *metric = &metrics[m];

		print_head(file, metric->name, metric->type, metric->help);
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
 * prometheus_write() - replace a file by one with what is in force now
 * @path: the file; whoever reads it finds the old one or the new one, whole
 * @list: all throttles
 * @nr: how many
 * @hidden: there may be more
 */
void prometheus_write(const char *path, const struct throttle *list, int nr,
		      bool hidden)
{
	mode_t mask = umask(0);
	char *temporary;
	struct stat old;
	FILE *file;
	int fd;

	umask(mask);
	/* Put in the place of a device, it would be missed. */
	if (!stat(path, &old) && !S_ISREG(old.st_mode))
		errx(EXIT_FAILURE, "%s: is not a regular file", path);
	/* node_exporter reads no file whose name ends like that. */
	if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
		err(EXIT_FAILURE, "%s", path);
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		err(EXIT_FAILURE, "%s: can't create a file beside it", path);
	file = fdopen(fd, "w");
	if (!file)
		err(EXIT_FAILURE, "%s", temporary);

	print_all(file, list, nr, hidden);
	if (fchmod(fd, 0666 & ~mask) || fflush(file) || ferror(file) ||
	    rename(temporary, path)) {
		warn("%s: can't be written", path);
		unlink(temporary);
		exit(EXIT_FAILURE);
	}
	fclose(file);
	free(temporary);
}
