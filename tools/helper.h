/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Processes that do for a command what could block it.
 */
#ifndef HELPER_H
#define HELPER_H

#include <sys/types.h>

pid_t helper_spawn(const int *files, int nr);

#endif /* HELPER_H */
