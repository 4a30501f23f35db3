/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QEMU's monitor: its own socket, or what libvirt.c passes on.
 */
#ifndef QMP_H
#define QMP_H

#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>

#include "loop.h"

/* What came of a command. */
enum qmp_result {
	QMP_OK,
	/* QEMU says no. */
	QMP_ERROR,
	/* It has never come to QEMU: libvirt says why. */
	QMP_UNREACHED,
};

/**
 * struct qmp_handlers - what is called when something comes; each may call
 *	qmp_close()
 * @ready: commands can be sent
 * @event: QEMU has sent an event, with @data, or NULL
 * @closed: nothing comes any more; @why is NULL if the other side has closed it, or
 *	what is wrong with it.  qmp_close() is all that can still be called
 * @context: for all of them
 */
struct qmp_handlers {
	void (*ready)(void *context);
	void (*event)(void *context, const char *event, struct json_object *data);
	void (*closed)(void *context, const char *why);
	void *context;
};

/* @answer is what the command returned, or its error; the caller's. */
typedef void qmp_answer_fn(void *context, enum qmp_result result,
			   struct json_object *answer);

struct qmp;

int qmp_connect(const char *path, bool follow, char *why, size_t size);
struct qmp *qmp_open(struct loop *loop, int fd, const struct qmp_handlers *handlers);
void qmp_ask(struct qmp *q, const char *command, struct json_object *arguments,
	     qmp_answer_fn *answered);
uint64_t qmp_asked_ns(const struct qmp *q);
const char *qmp_error(struct json_object *answer);
int qmp_fd(const struct qmp *q);
void qmp_close(struct qmp *q);

#endif /* QMP_H */
