/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Numbers as they are written on the command line: percentages, durations, ids.
 * Apart from the rest, so that check/parse_test.c can try them directly.
 */
#ifndef PARSE_H
#define PARSE_H

#include <stdint.h>

#define NSEC_PER_MSEC	1000000ULL
#define NSEC_PER_SEC	1000000000ULL

int parse_number(const char *text, uint64_t max, uint64_t *value);
int parse_percent(const char *text, uint32_t *percent_x100);
int parse_duration(const char *text, uint64_t min_ns, uint64_t max_ns,
		   uint64_t *ns);
int parse_dirty_rate(const char *text, uint64_t page_size, uint64_t *rate);

#endif /* PARSE_H */
