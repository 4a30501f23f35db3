/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QEMU's monitor: its own socket, or what libvirt passes on.
 */
#ifndef QMP_H
#define QMP_H

#include <stdbool.h>
#include <sys/types.h>

#include <json-c/json.h>

/* What came of a command. */
enum qmp_result {
	QMP_OK,
	/* QEMU says no. */
	QMP_ERROR,
	/* QEMU, or libvirt's domain, is gone. */
	QMP_CLOSED,
	/* A signal has come meanwhile. */
	QMP_SIGNAL,
};

struct qmp;

struct qmp *qmp_open(const char *path, int signals);
struct qmp *qmp_open_domain(const char *name, int signals);
pid_t qmp_pid(const struct qmp *q);
int qmp_fd(const struct qmp *q);
enum qmp_result qmp_ask(struct qmp *q, const char *command,
			struct json_object *arguments,
			struct json_object **answer);
bool qmp_drain(struct qmp *q);
void qmp_close(struct qmp *q);

#endif /* QMP_H */
