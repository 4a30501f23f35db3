// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm-throttle: throttles the VM of a running process by a percentage, and shows
 * what throttles do.  Here is only the choice between its subcommands; what has
 * none of their names is hold.c's.
 */
#include <errno.h>
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
#define SUBCOMMAND(name, does) { #name, "kvm-throttle " #name, name##_command },
#include "subcommands.h"
};

int main(int argc, char **argv)
{
	int (*run)(int argc, char **argv) = hold_command;

	/* getopt would print its whole path. */
	argv[0] = program_invocation_short_name;
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
	check_output_at_exit();
	return run(argc, argv);
}
