/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What `kvm-throttle record` wrote, read again for `kvm-throttle plot`.
 */
#ifndef RECORDING_H
#define RECORDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/**
 * struct grid - the windows that a VM has with a setting
 * @vm: the VM's number in the recording
 * @period_ns: length of a run window and a sleep window, 0 at full speed
 * @run_ns: length of the run window
 * @start_ns: when one of them begins; 0 if none has been seen
 */
struct grid {
	int64_t vm;
	int64_t period_ns;
	int64_t run_ns;
	int64_t start_ns;
};

/**
 * struct setting - what a vCPU has for a time
 * @time_ns: from when on
 * @percent: the target; a negative one ends the throttle
 * @grid: number of the grid, -1 if there is none
 */
struct setting {
	int64_t time_ns;
	double percent;
	int grid;
};

/**
 * struct window - see record.c
 * @grid: number of the grid that it is on, -1 if there is none
 * @cpu: where it was
 * @slept: did the vCPU sleep after it?
 * @late_ns: how late it began, but for the time that siblings had the CPU;
 *	lateness.c works it out
 * @planned_open_ns: when it was to begin
 * @planned_close_ns: when it was to end
 * @open_ns: when it began
 * @close_ns: when it ended
 * @sleep_ns: when the vCPU slept
 * @end_ns: when the guest stopped, or is supposed to have
 *
 * Times that are missing are 0.
 */
struct window {
	int grid;
	int64_t cpu;
	bool slept;
	int64_t late_ns;
	int64_t planned_open_ns;
	int64_t planned_close_ns;
	int64_t open_ns;
	int64_t close_ns;
	int64_t sleep_ns;
	int64_t end_ns;
};

/**
 * struct row - a vCPU; while it is read, -1 is what all of a VM's have
 * @vm: the VM's number in the recording
 * @vcpu: the vCPU's id
 * @settings: what was in force
 * @nr_settings: how many they are
 * @windows: its windows
 * @nr_windows: how many they are
 * @signals: when signals came
 * @nr_signals: how many they are
 */
struct row {
	int64_t vm;
	int64_t vcpu;
	struct setting *settings;
	size_t nr_settings;
	struct window *windows;
	size_t nr_windows;
	int64_t *signals;
	size_t nr_signals;
};

/**
 * struct vm - a VM of the recording
 * @id: its number there
 * @pid: its process
 * @name: its name, or its process's command, without what gnuplot would misread
 * @wanted: the user wants to see it
 */
struct vm {
	int64_t id;
	int64_t pid;
	char name[64];
	bool wanted;
};

/**
 * struct recording - what was read
 * @path: file name, "-" for the standard input
 * @pid: the process whose VMs are wanted, 0 for all
 * @vm_name: the VM that is wanted, NULL for all
 * @line: how many lines
 * @start_ns: when it began
 * @whole: it has an end: it wasn't cut short
 * @lost: how many events are missing
 * @vms: the VMs
 * @nr_vms: how many they are
 * @grids: the VMs' periods
 * @nr_grids: how many they are
 * @rows: the vCPUs, in the order of VMs and ids
 * @nr_rows: how many they are
 */
struct recording {
	const char *path;
	pid_t pid;
	const char *vm_name;
	unsigned long line;
	int64_t start_ns;
	bool whole;
	int64_t lost;
	struct vm *vms;
	size_t nr_vms;
	struct grid *grids;
	size_t nr_grids;
	struct row *rows;
	size_t nr_rows;
};

struct vm *recording_vm(const struct recording *r, int64_t id);
void recording_read(struct recording *r, FILE *file);
void recording_free(struct recording *r);

#endif /* RECORDING_H */
