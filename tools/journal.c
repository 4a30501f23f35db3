// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a service tells systemd: its journal, and whether it works.
 *
 * Both are datagrams, in forms that systemd documents ("Native Journal Protocol",
 * sd_notify(3)).  What isn't taken at once is dropped: nothing here waits.
 */
#include <ctype.h>
#include <endian.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "journal.h"
#include "parse.h"

#define JOURNAL_SOCKET	"/run/systemd/journal/socket"

/* Of the journal; -1 if nothing is written there. */
static int journal = -1;

static void send_to(int fd, const char *path, const char *data, size_t len)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t path_len = strlen(path);

	if (path_len >= sizeof(address.sun_path))
		return;
	memcpy(address.sun_path, path, path_len);
	/* A name that isn't a file's. */
	if (*path == '@')
		address.sun_path[0] = '\0';
	sendto(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&address,
	       offsetof(struct sockaddr_un, sun_path) + path_len);
}

/**
 * journal_open() - write to the journal, if the standard output is it
 */
void journal_open(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat out;

	if (!stream || sscanf(stream, "%llu:%llu", &device, &inode) != 2 ||
	    fstat(STDOUT_FILENO, &out) || out.st_dev != device || out.st_ino != inode)
		return;
	journal = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

/**
 * journal_is_open() - is the journal written to?
 *
 * Return: true if it is.
 */
bool journal_is_open(void)
{
	return journal >= 0;
}

static void add_field(FILE *f, const char *name, const char *value)
{
	uint64_t len = htole64(strlen(value));

	for (; *name; name++)
		putc(*name == '-' ? '_' : toupper((unsigned char)*name), f);
	/* This form can hold any bytes. */
	putc('\n', f);
	fwrite(&len, sizeof(len), 1, f);
	fprintf(f, "%s\n", value);
}

/**
 * journal_write() - write an entry, if journal_open() has found the journal
 * @priority: how important it is
 * @text: what people read
 * @fields: what machines read, an object; NULL values are left out
 */
void journal_write(int priority, const char *text, struct json_object *fields)
{
	char *data = NULL, number[16];
	size_t len = 0;
	FILE *f;

	if (journal < 0)
		return;
	f = open_memstream(&data, &len);
	if (!f)
		return;
	snprintf(number, sizeof(number), "%d", priority);
	add_field(f, "PRIORITY", number);
	add_field(f, "SYSLOG_IDENTIFIER", "kvm-throttle");
	add_field(f, "MESSAGE", text);
	json_object_object_foreach(fields, key, value) {
		char name[64];

		snprintf(name, sizeof(name), "KVM_THROTTLE_%s", key);
		if (value)
			add_field(f, name, json_object_get_string(value));
	}
	if (!fclose(f))
		send_to(journal, JOURNAL_SOCKET, data, len);
	free(data);
}

/**
 * journal_notify() - tell systemd how the service is
 * @state: as in sd_notify(3)
 */
void journal_notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	int fd;

	if (!path || (*path != '/' && *path != '@'))
		return;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	send_to(fd, path, state, strlen(state));
	close(fd);
}

/**
 * journal_watchdog_ns() - how often does systemd want to hear that the service works?
 *
 * Return: so many nanoseconds, of which half is a good time; 0 if it doesn't.
 */
uint64_t journal_watchdog_ns(void)
{
	const char *us = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	uint64_t value;

	if (!us || parse_number(us, INT64_MAX / 1000, &value))
		return 0;
	if (pid && atoi(pid) != getpid())
		return 0;
	return value * 1000;
}
