/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The module's tracepoints, read from a private instance of the kernel's tracing
 * that goes with this process.
 */
#ifndef TRACING_H
#define TRACING_H

#include <stdint.h>
#include <sys/types.h>

/* The tracepoints; trace.h of the module tells when each is met. */
enum trace_type {
	TRACE_ATTACH,
	TRACE_SET,
	TRACE_OPEN,
	TRACE_CLOSE,
	TRACE_SIGNAL,
	TRACE_RETRY,
	TRACE_DETACH,
	NR_TRACE_TYPES,
};

/* Their fields; not each has all. */
enum trace_field {
	FIELD_ID,
	FIELD_PID,
	FIELD_OWNER,
	FIELD_VCPU_ID,
	FIELD_PERCENT_X100,
	FIELD_PERIOD_NS,
	FIELD_RUN_NS,
	FIELD_WINDOW,
	FIELD_PLANNED_NS,
	FIELD_CLOSE_NS,
	FIELD_OPEN_NS,
	FIELD_FIRED_NS,
	FIELD_SLEPT,
	FIELD_DEAD,
	NR_TRACE_FIELDS,
};

/**
 * struct trace_event - a tracepoint was met
 * @time_ns: when, of CLOCK_MONOTONIC
 * @type: which
 * @thread: which thread met it
 * @cpu: on which CPU
 * @field: its fields; those that it doesn't have are 0
 */
struct trace_event {
	uint64_t time_ns;
	enum trace_type type;
	pid_t thread;
	int cpu;
	uint64_t field[NR_TRACE_FIELDS];
};

typedef void (*trace_handler)(const struct trace_event *event, void *context);

void tracing_open(void);
void tracing_read(uint64_t before_ns, trace_handler handler, void *context);
uint64_t tracing_lost(void);
void tracing_stop(void);

#endif /* TRACING_H */
