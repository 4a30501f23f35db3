// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Numbers as they are written on the command line.  Exact: no floating point,
 * and what doesn't fit is an error, not a nearby value.
 */
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <linux/kvm_throttle.h>

#include "parse.h"

static bool append_digit(uint64_t *value, char digit)
{
	return !__builtin_mul_overflow(*value, 10, value) &&
	       !__builtin_add_overflow(*value, digit - '0', value);
}

/*
 * Read digits, and up to @places more after a point, as an integer number of
 * 10^-@places.  Returns what follows them, NULL if there is no such number.
 */
static const char *scan_decimal(const char *text, unsigned int places,
				uint64_t *value)
{
	if (!isdigit((unsigned char)*text))
		return NULL;

	*value = 0;
	for (; isdigit((unsigned char)*text); text++) {
		if (!append_digit(value, *text))
			return NULL;
	}
	if (places && text[0] == '.' && isdigit((unsigned char)text[1])) {
		text++;
		for (; places && isdigit((unsigned char)*text); places--) {
			if (!append_digit(value, *text++))
				return NULL;
		}
	}
	for (; places; places--) {
		if (!append_digit(value, '0'))
			return NULL;
	}
	return text;
}

/**
 * parse_number() - read a whole number that isn't negative
 * @text: the number, and nothing else
 * @max: the largest that is accepted
 * @value: result
 *
 * Return: 0, or -EINVAL.
 */
int parse_number(const char *text, uint64_t max, uint64_t *value)
{
	const char *end = scan_decimal(text, 0, value);

	return end && !*end && *value <= max ? 0 : -EINVAL;
}

/**
 * parse_percent() - read a percentage that the module accepts
 * @text: the percentage, with up to two decimals; it may end in "%"
 * @percent_x100: result, in hundredths of a percent
 *
 * Return: 0, or -EINVAL.
 */
int parse_percent(const char *text, uint32_t *percent_x100)
{
	uint64_t value;
	const char *end = scan_decimal(text, 2, &value);

	if (!end || (strcmp(end, "") && strcmp(end, "%")) ||
	    value > KVM_THROTTLE_PERCENT_MAX)
		return -EINVAL;
	*percent_x100 = value;
	return 0;
}

/**
 * parse_duration() - read a length of time
 * @text: a number, with decimals if need be, and its unit: ms, s, m or h; no
 *	unit is seconds
 * @min_ns: the shortest that is accepted
 * @max_ns: the longest that is accepted
 * @ns: result, in nanoseconds
 *
 * Return: 0, or -EINVAL.
 */
int parse_duration(const char *text, uint64_t min_ns, uint64_t max_ns,
		   uint64_t *ns)
{
	static const struct {
		const char *name;
		uint64_t ns;
	} units[] = {
		{ "", NSEC_PER_SEC },
		{ "ms", NSEC_PER_MSEC },
		{ "s", NSEC_PER_SEC },
		{ "m", 60 * NSEC_PER_SEC },
		{ "h", 3600 * NSEC_PER_SEC },
	};
	uint64_t millionths;
	const char *unit = scan_decimal(text, 6, &millionths);

	for (size_t i = 0; unit && i < sizeof(units) / sizeof(*units); i++) {
		if (strcmp(unit, units[i].name))
			continue;
		if (__builtin_mul_overflow(millionths, units[i].ns / 1000000, ns))
			break;
		return *ns >= min_ns && *ns <= max_ns ? 0 : -EINVAL;
	}
	return -EINVAL;
}

/**
 * parse_dirty_rate() - read a rate of dirtied memory that the module accepts
 * @text: pages a second, or a number, with decimals if need be, and its unit: MiB/s or
 *	MB/s
 * @page_size: size of a page in bytes
 * @rate: result, in whole pages a second
 *
 * Return: 0, or -EINVAL.
 */
int parse_dirty_rate(const char *text, uint64_t page_size, uint64_t *rate)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} units[] = {
		{ "MiB/s", 1 << 20 },
		{ "MB/s", 1000000 },
	};
	uint64_t millionths, bytes;
	const char *unit = scan_decimal(text, 6, &millionths);

	if (!parse_number(text, KVM_THROTTLE_DIRTY_RATE_MAX, rate))
		return *rate ? 0 : -EINVAL;
	for (size_t i = 0; unit && i < sizeof(units) / sizeof(*units); i++) {
		if (strcmp(unit, units[i].name))
			continue;
		if (__builtin_mul_overflow(millionths, units[i].bytes, &bytes))
			break;
		*rate = bytes / 1000000 / page_size;
		return *rate && *rate <= KVM_THROTTLE_DIRTY_RATE_MAX ? 0 : -EINVAL;
	}
	return -EINVAL;
}
