/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file of metrics for Prometheus, as node_exporter's textfile collector reads
 * it.
 */
#ifndef PROMETHEUS_H
#define PROMETHEUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "throttle.h"

void prometheus_label(FILE *file, const char *name, const char *value);
void prometheus_head(FILE *file, const char *name, const char *type, const char *help);
int prometheus_replace(const char *path, const char *text, size_t len);
void prometheus_write(const char *path, const struct throttle *list, int nr,
		      bool hidden);

#endif /* PROMETHEUS_H */
