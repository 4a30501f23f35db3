/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a subcommand waits for: files that become ready, times, and signals.
 */
#ifndef LOOP_H
#define LOOP_H

#include <stdbool.h>
#include <stdint.h>

/* A timer that isn't running. */
#define LOOP_NEVER	UINT64_MAX

/**
 * struct loop_watch - a file that is waited for; the caller's memory
 * @fd: the file descriptor
 * @events: what for, as in poll(2)
 * @ready: called when it is so, and when the file has an error or its end
 * @context: for @ready
 */
struct loop_watch {
	int fd;
	short events;
	void (*ready)(void *context, short revents);
	void *context;
};

/**
 * struct loop_timer - a time that is waited for; the caller's memory
 * @due_ns: when, in nanoseconds of CLOCK_MONOTONIC; LOOP_NEVER if it isn't
 * @due: called once then
 * @context: for @due
 * @next: the loop's
 */
struct loop_timer {
	uint64_t due_ns;
	void (*due)(void *context);
	void *context;
	struct loop_timer *next;
};

#define LOOP_BATCH	32

/**
 * struct loop - a loop; the fields that its user may write are marked so
 * @epoll: the kernel's part
 * @signals: signalfd for those that end this process
 * @ended: loop_run() is to return
 * @signal: the signal that ended it, 0 if none did
 * @on_signal: returns true if it has dealt with the signal, which else ends the
 *	loop; or NULL; the user's
 * @on_resize: called when the terminal may have another size; or NULL; the user's
 * @context: for these two; the user's
 * @timers: those that run
 * @batch: files that are ready, NULL where one is waited for no longer
 * @nr_batch: how many they are
 * @signal_watch: for @signals
 */
struct loop {
	int epoll;
	int signals;
	bool ended;
	int signal;
	bool (*on_signal)(void *context, int signal);
	void (*on_resize)(void *context);
	void *context;
	struct loop_timer *timers;
	struct loop_watch *batch[LOOP_BATCH];
	int nr_batch;
	struct loop_watch signal_watch;
};

void loop_init(struct loop *l);
void loop_add(struct loop *l, struct loop_watch *watch);
void loop_change(struct loop *l, struct loop_watch *watch, short events);
void loop_remove(struct loop *l, struct loop_watch *watch);
void loop_start(struct loop *l, struct loop_timer *timer, uint64_t due_ns);
void loop_stop(struct loop *l, struct loop_timer *timer);
void loop_run(struct loop *l);
void loop_end(struct loop *l);
void loop_close(struct loop *l);

#endif /* LOOP_H */
