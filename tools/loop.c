// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a subcommand waits for: files that become ready, times, and signals.
 *
 * There is one place where a subcommand sleeps, loop_run(), and whatever it has to
 * react to wakes it there.  What is called from there must not block.
 */
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "command.h"
#include "loop.h"

_Static_assert(EPOLLIN == POLLIN && EPOLLOUT == POLLOUT && EPOLLHUP == POLLHUP &&
	       EPOLLERR == POLLERR, "events of epoll(7) are those of poll(2)");

static void take_signal(void *context, short revents)
{
	struct loop *l = context;
	struct signalfd_siginfo info;

	(void)revents;
	if (read(l->signals, &info, sizeof(info)) != sizeof(info))
		return;
	if (l->on_signal && l->on_signal(l->context, info.ssi_signo))
		return;
	l->signal = info.ssi_signo;
	l->ended = true;
}

/**
 * loop_init() - make a loop
 * @l: the loop
 *
 * Signals that would end this process end the loop instead, until loop_close().
 */
void loop_init(struct loop *l)
{
	*l = (struct loop) {
		.epoll = epoll_create1(EPOLL_CLOEXEC),
		.signals = open_signals(),
	};
	if (l->epoll < 0)
		err(EXIT_FAILURE, "epoll");
	l->signal_watch = (struct loop_watch) {
		.fd = l->signals,
		.events = POLLIN,
		.ready = take_signal,
		.context = l,
	};
	loop_add(l, &l->signal_watch);
}

static void control(struct loop *l, int operation, struct loop_watch *watch)
{
	struct epoll_event event = { .events = watch->events, .data.ptr = watch };

	if (epoll_ctl(l->epoll, operation, watch->fd, &event))
		err(EXIT_FAILURE, "epoll_ctl");
}

/**
 * loop_add() - wait for a file
 * @l: the loop
 * @watch: the file, which stays open, and in its place, until loop_remove()
 */
void loop_add(struct loop *l, struct loop_watch *watch)
{
	control(l, EPOLL_CTL_ADD, watch);
}

/**
 * loop_change() - wait for something else of a file
 * @l: the loop
 * @watch: a file that is waited for
 * @events: what for, as in poll(2)
 */
void loop_change(struct loop *l, struct loop_watch *watch, short events)
{
	if (watch->events == events)
		return;
	watch->events = events;
	control(l, EPOLL_CTL_MOD, watch);
}

/**
 * loop_remove() - wait for a file no longer
 * @l: the loop
 * @watch: a file that is waited for; its function isn't called any more
 */
void loop_remove(struct loop *l, struct loop_watch *watch)
{
	control(l, EPOLL_CTL_DEL, watch);
	for (int i = 0; i < l->nr_batch; i++) {
		if (l->batch[i] == watch)
			l->batch[i] = NULL;
	}
}

/**
 * loop_start() - wait for a time
 * @l: the loop
 * @timer: the timer, which stays in its place until it was due, or loop_stop(); if it
 *	is running, it is set anew
 * @due_ns: when, in nanoseconds of CLOCK_MONOTONIC
 */
void loop_start(struct loop *l, struct loop_timer *timer, uint64_t due_ns)
{
	loop_stop(l, timer);
	timer->due_ns = due_ns;
	timer->next = l->timers;
	l->timers = timer;
}

/**
 * loop_stop() - wait for a time no longer
 * @l: the loop
 * @timer: the timer, which needn't be running
 */
void loop_stop(struct loop *l, struct loop_timer *timer)
{
	for (struct loop_timer **t = &l->timers; *t; t = &(*t)->next) {
		if (*t != timer)
			continue;
		*t = timer->next;
		break;
	}
	timer->due_ns = LOOP_NEVER;
}

static struct loop_timer *first_timer(const struct loop *l)
{
	struct loop_timer *first = NULL;

	for (struct loop_timer *t = l->timers; t; t = t->next) {
		if (!first || t->due_ns < first->due_ns)
			first = t;
	}
	return first;
}

/* How long to wait, in milliseconds, rounded up: a timer is never early. */
static int timeout_of(const struct loop *l)
{
	const struct loop_timer *first = first_timer(l);
	uint64_t now = now_ns();

	if (!first)
		return -1;
	if (first->due_ns <= now)
		return 0;
	if (first->due_ns - now > INT32_MAX * NSEC_PER_MSEC)
		return INT32_MAX;
	return (first->due_ns - now + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC;
}

/* Only those that were due when this began.  A timer that is set anew isn't called again. */
static void call_timers(struct loop *l)
{
	uint64_t now = now_ns();
	struct loop_timer *first;

	while (!l->ended && (first = first_timer(l)) && first->due_ns <= now) {
		loop_stop(l, first);
		first->due(first->context);
	}
}

/**
 * loop_run() - wait, and call the functions of what has come, until loop_end() or
 *	a signal
 * @l: the loop
 */
void loop_run(struct loop *l)
{
	struct epoll_event events[LOOP_BATCH];

	while (!l->ended) {
		int nr = epoll_wait(l->epoll, events, LOOP_BATCH, timeout_of(l));

		if (nr < 0 && errno != EINTR)
			err(EXIT_FAILURE, "epoll_wait");
		if (nr < 0 && l->on_resize)
			l->on_resize(l->context);
		l->nr_batch = nr < 0 ? 0 : nr;
		for (int i = 0; i < l->nr_batch; i++)
			l->batch[i] = events[i].data.ptr;
		for (int i = 0; i < l->nr_batch && !l->ended; i++) {
			if (l->batch[i])
				l->batch[i]->ready(l->batch[i]->context, events[i].events);
		}
		l->nr_batch = 0;
		call_timers(l);
	}
}

/**
 * loop_end() - have loop_run() return
 * @l: the loop
 */
void loop_end(struct loop *l)
{
	l->ended = true;
}

/**
 * loop_close() - free a loop; from here on, signals end this process
 * @l: the loop
 */
void loop_close(struct loop *l)
{
	sigset_t none;

	close(l->signals);
	close(l->epoll);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}
