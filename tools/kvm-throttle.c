// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle: throttles the VM of a running process by a percentage, and shows
 * what throttles do.  Here is only the choice between its subcommands; what has
 * none of their names is hold.c's.
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

/* What argp has --version print. */
const char *argp_program_version = "kvm-throttle " VERSION;

static const struct {
	const char *name;
	/* What its messages begin with. */
	char *full_name;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "converge", "kvm-throttle converge", converge_command },
	{ "plot", "kvm-throttle plot", plot_command },
	{ "record", "kvm-throttle record", record_command },
	{ "stat", "kvm-throttle stat", stat_command },
	{ "top", "kvm-throttle top", top_command },
};

int main(int argc, char **argv)
{
	int (*run)(int argc, char **argv) = hold_command;
	int result;

	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		if (argc < 2 || strcmp(argv[1], commands[i].name))
			continue;
		run = commands[i].run;
		argc--;
		argv++;
		argv[0] = commands[i].full_name;
		break;
	}

	argp_err_exit_status = EXIT_USAGE;
	result = run(argc, argv);
	if (fflush(stdout) || ferror(stdout))
		err(EXIT_FAILURE, "standard output");
	return result;
}
