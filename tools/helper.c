// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Processes that do for a command what could block it.
 */
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "helper.h"

/**
 * helper_spawn() - begin a process that does something for this one
 * @files: all that it has open: its descriptors 0, 1, ..., each with a number here that
 *	is not lower
 * @nr: how many these are
 *
 * Signals that end this process don't end the other: this one may still need it.
 *
 * Return: its id; 0 in the process itself; negative, with errno, if it failed.
 */
pid_t helper_spawn(const int *files, int nr)
{
	static const int ignored[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT };
	pid_t pid = fork();
	sigset_t none;

	if (pid)
		return pid;
	for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
		signal(ignored[i], SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int i = 0; i < nr; i++)
		dup2(files[i], i);
	/* A throttle lasts as long as any copy of its fd. */
	syscall(SYS_close_range, nr, ~0U, 0);
	return 0;
}
