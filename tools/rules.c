// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The file that says which virtual machines `kvm-throttle converge --all` helps, and
 * how: lines of KEY = VALUE, and sections [PATTERN] for VMs whose names fit.
 */
#include <err.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "parse.h"
#include "rules.h"

#define LIBVIRT_DEFAULT	"qemu:///system"

#define TIME_LIMIT_MIN_NS NSEC_PER_SEC
#define TIME_LIMIT_MAX_NS (365 * 24 * 3600 * NSEC_PER_SEC)

/**
 * struct rules_section - what is said of some VMs
 * @pattern: which, as in fnmatch(3)
 * @choice: what is to be done about them
 */
struct rules_section {
	char *pattern;
	struct rules_choice choice;
};

/**
 * struct reader - the file as it is read
 * @r: what it says
 * @line: number of the line
 * @why: what is wrong
 * @size: room for that
 */
struct reader {
	struct rules *r;
	unsigned int line;
	char *why;
	size_t size;
};

/* Returns -1. */
static int wrong(const struct reader *reader, const char *format, ...)
{
	int len = snprintf(reader->why, reader->size, "line %u: ", reader->line);
	va_list args;

	va_start(args, format);
	vsnprintf(reader->why + len, reader->size - len, format, args);
	va_end(args);
	return -1;
}

static void set_text(char **where, const char *value)
{
	free(*where);
	*where = NULL;
	if (!strcmp(value, "none"))
		return;
	*where = strdup(value);
	if (!*where)
		err(EXIT_FAILURE, "rules");
}

/* Returns the place of a text that isn't for single VMs, NULL if @key has none. */
static char **text_of(struct rules *r, const char *key)
{
	if (!strcmp(key, "libvirt"))
		return &r->libvirt;
	if (!strcmp(key, "sockets"))
		return &r->sockets;
	if (!strcmp(key, "prometheus"))
		return &r->prometheus;
	return NULL;
}

static int set_file(const struct reader *reader, char **where, const char *key,
		    const char *value)
{
	if (reader->r->nr)
		return wrong(reader, "'%s' is not for single VMs: it belongs before the first [...]",
			     key);
	if (!*value)
		return wrong(reader, "'%s' of what? Or is it 'none'?", key);
	if (strcmp(key, "libvirt") && strcmp(value, "none") && *value != '/')
		return wrong(reader, "%s: '%s' is not a path that begins with /", key, value);
	set_text(where, value);
	return 0;
}

static int set_throttle(const struct reader *reader, struct rules_choice *choice,
			const char *value)
{
	choice->off = !strcmp(value, "off");
	if (choice->off || !strcmp(value, "on"))
		return 0;
	return wrong(reader, "throttle: '%s' is neither on nor off", value);
}

static int set_max(const struct reader *reader, struct rules_choice *choice,
		   const char *value)
{
	uint32_t percent_x100;

	if (parse_percent(value, &percent_x100) || !percent_x100)
		return wrong(reader, "max: '%s' is not a percentage from 0.01 to 99.99", value);
	policy_set_max(&choice->policy, percent_x100);
	return 0;
}

static int set_by(const struct reader *reader, struct rules_choice *choice,
		  const char *value)
{
	if (policy_set_by(&choice->policy, value))
		return 0;
	return wrong(reader, "by: '%s' is neither rate nor percent", value);
}

static int set_time_limit(const struct reader *reader, struct rules_choice *choice,
			  const char *value)
{
	uint64_t ns = 0;

	if (strcmp(value, "none") &&
	    parse_duration(value, TIME_LIMIT_MIN_NS, TIME_LIMIT_MAX_NS, &ns))
		return wrong(reader, "time-limit: '%s' is not a time from 1s to 8760h, such as 60s or 5m, nor none",
			     value);
	choice->policy.time_limit_s = (double)ns / NSEC_PER_SEC;
	return 0;
}

static int set(const struct reader *reader, const char *key, const char *value)
{
	struct rules *r = reader->r;
	struct rules_choice *choice = r->nr ? &r->sections[r->nr - 1].choice : &r->every;
	char **text = text_of(r, key);

	if (text)
		return set_file(reader, text, key, value);
	if (!strcmp(key, "throttle"))
		return set_throttle(reader, choice, value);
	if (!strcmp(key, "by"))
		return set_by(reader, choice, value);
	if (!strcmp(key, "max"))
		return set_max(reader, choice, value);
	if (!strcmp(key, "time-limit"))
		return set_time_limit(reader, choice, value);
	return wrong(reader, "there is no '%s'; there are libvirt, sockets, prometheus, throttle, by, max, time-limit",
		     key);
}

/* What it doesn't say is as for every VM. */
static int begin_section(const struct reader *reader, char *line)
{
	struct rules *r = reader->r;
	size_t len = strlen(line);

	if (len < 3 || line[len - 1] != ']')
		return wrong(reader, "'%s' is not [NAME]", line);
	line[len - 1] = '\0';
	r->sections = reallocarray(r->sections, r->nr + 1, sizeof(*r->sections));
	if (!r->sections)
		err(EXIT_FAILURE, "rules");
	r->sections[r->nr] = (struct rules_section) {
		.pattern = strdup(line + 1),
		.choice = r->every,
	};
	if (!r->sections[r->nr].pattern)
		err(EXIT_FAILURE, "rules");
	r->nr++;
	return 0;
}

/* Returns the text without space around it, in its place. */
static char *strip(char *text)
{
	size_t len;

	text += strspn(text, " \t\r\n");
	len = strlen(text);
	while (len && strchr(" \t\r\n", text[len - 1]))
		text[--len] = '\0';
	return text;
}

static int read_line(const struct reader *reader, char *line)
{
	char *equals;

	line = strip(line);
	if (!*line || *line == '#')
		return 0;
	if (*line == '[')
		return begin_section(reader, line);
	equals = strchr(line, '=');
	if (!equals)
		return wrong(reader, "'%s' is neither KEY = VALUE nor [NAME]", line);
	*equals = '\0';
	return set(reader, strip(line), strip(equals + 1));
}

/**
 * rules_read() - read the file
 * @r: what it says; to be given to rules_free(), also if it is wrong
 * @file: the file, or NULL for what is so without one
 * @why: what is wrong
 * @size: room for that
 *
 * Return: 0, or -1 if it is wrong.
 */
int rules_read(struct rules *r, FILE *file, char *why, size_t size)
{
	struct reader reader = { .r = r, .why = why, .size = size };
	char *line = NULL;
	size_t room = 0;
	ssize_t len;
	int error = 0;

	*r = (struct rules) { .every.policy.max_x100 = POLICY_MAX_X100 };
	set_text(&r->libvirt, LIBVIRT_DEFAULT);
	while (!error && file && (len = getline(&line, &room, file)) >= 0) {
		reader.line++;
		error = strlen(line) == (size_t)len ? read_line(&reader, line) :
			wrong(&reader, "this is not text");
	}
	free(line);
	if (!error && file && ferror(file)) {
		snprintf(why, size, "%s", strerror(errno));
		return -1;
	}
	return error;
}

/**
 * rules_for() - what is to be done about a VM
 * @r: the rules
 * @vm: its name
 *
 * The first section that fits counts.
 *
 * Return: what.
 */
struct rules_choice rules_for(const struct rules *r, const char *vm)
{
	for (unsigned int i = 0; i < r->nr; i++) {
		const struct rules_section *section = &r->sections[i];

		if (!strcmp(section->pattern, vm) || !fnmatch(section->pattern, vm, 0))
			return section->choice;
	}
	return r->every;
}

/**
 * rules_free() - free what rules_read() allocated
 * @r: the rules
 */
void rules_free(struct rules *r)
{
	for (unsigned int i = 0; i < r->nr; i++)
		free(r->sections[i].pattern);
	free(r->sections);
	free(r->libvirt);
	free(r->sockets);
	free(r->prometheus);
	*r = (struct rules) { 0 };
}
