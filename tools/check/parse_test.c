// SPDX-License-Identifier: GPL-2.0-or-later
/* Tests parse.c: what it accepts, what it makes of that, what it refuses. */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "parse.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof(*(a)))
#define REFUSED		UINT64_MAX

/* What a text has to be read as. */
struct expectation {
	const char *text;
	uint64_t value;
};

static unsigned int nr_tests, nr_failed;

static void expect(const char *what, const struct expectation *e, int error,
		   uint64_t value)
{
	bool ok = e->value == REFUSED ? error != 0 :
					!error && value == e->value;

	nr_failed += !ok;
	printf("%sok %u %s '%s'\n", ok ? "" : "not ", ++nr_tests, what,
	       e->text);
	if (!ok)
		printf("# returned %d and %" PRIu64 "\n", error, value);
}

static const struct expectation percents[] = {
	{ "0", 0 },
	{ "80", 8000 },
	{ "80%", 8000 },
	{ "80.5", 8050 },
	{ "80.05%", 8005 },
	{ "0.01", 1 },
	{ "0.1", 10 },
	{ "0.29", 29 },		/* in floating point times 100: 28.999... */
	{ "99.99", 9999 },
	{ "99.99%", 9999 },
	{ "007", 700 },
	{ "100", REFUSED },
	{ "99.991", REFUSED },
	{ "99.990", REFUSED },
	{ "80.", REFUSED },
	{ ".5", REFUSED },
	{ "", REFUSED },
	{ "%", REFUSED },
	{ "-1", REFUSED },
	{ "+1", REFUSED },
	{ " 1", REFUSED },
	{ "1 ", REFUSED },
	{ "1 %", REFUSED },
	{ "1%%", REFUSED },
	{ "1e1", REFUSED },
	{ "0x10", REFUSED },
	{ "80,5", REFUSED },
	{ "1.5.5", REFUSED },
	{ "nan", REFUSED },
	{ "42949672.96", REFUSED },		/* 2^32 hundredths */
	{ "184467440737095516.16", REFUSED },	/* 2^64 hundredths */
	{ "368934881474191032.42", REFUSED },	/* 2^65 + 10 hundredths */
};

/* From 1 ms to 1 h. */
static const struct expectation durations[] = {
	{ "1ms", NSEC_PER_MSEC },
	{ "20ms", 20 * NSEC_PER_MSEC },
	{ "10.472ms", 10472000 },
	{ "1.000001ms", 1000001 },
	{ "0.001", NSEC_PER_MSEC },
	{ "1", NSEC_PER_SEC },
	{ "1s", NSEC_PER_SEC },
	{ "1.5s", 1500 * NSEC_PER_MSEC },
	{ "2m", 120 * NSEC_PER_SEC },
	{ "0.5m", 30 * NSEC_PER_SEC },
	{ "1h", 3600 * NSEC_PER_SEC },
	{ "3600", 3600 * NSEC_PER_SEC },
	{ "0.999999ms", REFUSED },
	{ "0", REFUSED },
	{ "3600.000001", REFUSED },
	{ "2h", REFUSED },
	{ "1.0000001s", REFUSED },
	{ "", REFUSED },
	{ "ms", REFUSED },
	{ "1 s", REFUSED },
	{ "1S", REFUSED },
	{ "1us", REFUSED },
	{ "1sec", REFUSED },
	{ "1s1", REFUSED },
	{ "-1s", REFUSED },
	{ "1.s", REFUSED },
	{ "18446744073709.551617", REFUSED },	/* 2^64 + 1 millionths */
	{ "18446744073.709551617", REFUSED },
	{ "18446744075", REFUSED },		/* more than 2^64 ns */
	{ "5124096h", REFUSED },		/* more than 2^64 ns */
};

/* Up to 2^32 - 1. */
static const struct expectation numbers[] = {
	{ "0", 0 },
	{ "42", 42 },
	{ "4294967295", UINT32_MAX },
	{ "4294967296", REFUSED },
	{ "18446744073709551615", REFUSED },
	{ "18446744073709551616", REFUSED },
	{ "36893488147419103242", REFUSED },
	{ "1.0", REFUSED },
	{ "-1", REFUSED },
	{ "1x", REFUSED },
	{ "", REFUSED },
};

/* With pages of 4096 bytes. */
static const struct expectation rates[] = {
	{ "1", 1 },
	{ "2000", 2000 },
	{ "10000000", 10000000 },
	{ "10000001", REFUSED },
	{ "0", REFUSED },
	{ "-1", REFUSED },
	{ "1.5", REFUSED },
	{ "8MiB/s", 2048 },
	{ "8MB/s", 1953 },
	{ "0.5MiB/s", 128 },
	{ "0.004096MB/s", 1 },
	{ "0.004095MB/s", REFUSED },
	{ "39062.5MiB/s", 10000000 },
	{ "39063MiB/s", REFUSED },
	{ "99999999999999MiB/s", REFUSED },
	{ "18446744073709551616MiB/s", REFUSED },
	{ "MiB/s", REFUSED },
	{ "8MiB", REFUSED },
	{ "8 MiB/s", REFUSED },
	{ "8mib/s", REFUSED },
	{ "8MiB/s ", REFUSED },
	{ "", REFUSED },
};

int main(void)
{
	printf("TAP version 13\n1..%zu\n", ARRAY_SIZE(percents) +
	       ARRAY_SIZE(durations) + ARRAY_SIZE(numbers) + ARRAY_SIZE(rates));

	for (size_t i = 0; i < ARRAY_SIZE(percents); i++) {
		uint32_t percent_x100 = 0;
		int error = parse_percent(percents[i].text, &percent_x100);

		expect("percentage", &percents[i], error, percent_x100);
	}
	for (size_t i = 0; i < ARRAY_SIZE(durations); i++) {
		uint64_t ns = 0;
		int error = parse_duration(durations[i].text, NSEC_PER_MSEC,
					   3600 * NSEC_PER_SEC, &ns);

		expect("duration", &durations[i], error, ns);
	}
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		uint64_t value = 0;
		int error = parse_number(numbers[i].text, UINT32_MAX, &value);

		expect("number", &numbers[i], error, value);
	}
	for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
		uint64_t rate = 0;
		int error = parse_dirty_rate(rates[i].text, 4096, &rate);

		expect("rate", &rates[i], error, rate);
	}
	return nr_failed != 0;
}
