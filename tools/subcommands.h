/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The subcommands of kvm-throttle: NAME, and what it does.  This list is the
 * only one: NAME_command(), --help and the choice between them are made of it,
 * the completion reads --help, and check/command_test.sh holds the man page
 * against that.
 *
 * To be included by who has defined SUBCOMMAND(name, does); it is undefined
 * again at the end.
 */
SUBCOMMAND(converge, "throttle a guest just enough for its migration to finish")
SUBCOMMAND(plot, "make a picture of a recording")
SUBCOMMAND(record, "write the windows of all virtual machines to a file")
SUBCOMMAND(stat, "print what is in force for all virtual machines")
SUBCOMMAND(top, "show the same live, on the whole terminal")

#undef SUBCOMMAND
