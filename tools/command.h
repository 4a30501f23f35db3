/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the subcommands of kvm-throttle and kvm-throttle-meter share: exit status,
 * options that several have, and how they find a process, wait and end.
 */
#ifndef COMMAND_H
#define COMMAND_H

#include <argp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>

#include "parse.h"
#include "proc.h"

/* Exit status, as in the man page; anything else that fails is EXIT_FAILURE. */
#define EXIT_USAGE	2
#define EXIT_VM_ENDED	3
#define EXIT_NOT_MIGRATED 4
#define EXIT_LATE	5
#define EXIT_MONITOR	6

/* Room for a sentence about what is wrong. */
#define WHY_LEN		512

#define INTERVAL_MIN_NS	(100 * NSEC_PER_MSEC)
#define INTERVAL_MAX_NS	(3600 * NSEC_PER_SEC)
#define INTERVAL_TEXT	"100ms to 1h"

/* One subcommand each: its arguments, of which the first is its name. */
#define SUBCOMMAND(name, does) int name##_command(int argc, char **argv);
#include "subcommands.h"

/* What there is without one. */
int hold_command(int argc, char **argv);

/*
 * For .children of an argp: --vm and --pid, for a command about one VM, and for one that
 * may be about all.  The parser sets state->child_inputs[0], to where the process goes.
 */
extern const struct argp_child option_one_vm[], option_any_vm[];

pid_t option_pid(const struct argp_state *state, const char *arg);
uint64_t option_interval(const struct argp_state *state, const char *arg);
uint64_t option_for(const struct argp_state *state, const char *arg);

void check_output_at_exit(void);
uint64_t now_ns(void);
char *format_text(const char *format, va_list args);
void clean_text(char *text);
struct json_object *json_member(struct json_object *json, const char *name);
void print_json(FILE *file, struct json_object *json);
struct process find_process(pid_t pid);
_Noreturn void fail_which_vm(const struct argp_state *state);
int list_vms(const struct process *process, int **fds, int *nr, char *why, size_t size);
int find_vms(const struct process *process, int **fds);
int open_process(const struct process *process);
int open_signals(void);

#endif /* COMMAND_H */
