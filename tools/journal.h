/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a service tells systemd: its journal, and whether it works.
 */
#ifndef JOURNAL_H
#define JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>

/* As in syslog(3). */
#define JOURNAL_WARNING	4
#define JOURNAL_NOTICE	5
#define JOURNAL_INFO	6

void journal_open(void);
bool journal_is_open(void);
void journal_write(int priority, const char *text, struct json_object *fields);
void journal_notify(const char *state);
uint64_t journal_watchdog_ns(void);

#endif /* JOURNAL_H */
