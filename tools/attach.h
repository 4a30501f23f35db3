/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How the VM of another process comes to be throttled by this one.
 */
#ifndef ATTACH_H
#define ATTACH_H

#include <stddef.h>

#include "proc.h"

int attach_try(const struct process *process, int vm_fd, int *fd, char *why, size_t size);
int attach(const struct process *process, int vm_fd);

#endif /* ATTACH_H */
