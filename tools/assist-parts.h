/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of assist.c call of each other.
 */
#ifndef ASSIST_PARTS_H
#define ASSIST_PARTS_H

#include "assist.h"

/* How long QEMU's end, or libvirt, may take to say why it came. */
#define ASSIST_REASON_NS	(300 * NSEC_PER_MSEC)

/* assist-log.c */
void assist_add_boolean(struct json_object *json, const char *name, bool value);
void assist_log_start(struct assist *a);
void assist_log_decision(struct assist *a);
void assist_log_probe(struct assist *a, double seconds, double dirtied, const char *error);
void assist_say(struct assist *a, const char *format, ...);
void assist_say_what_is_wrong(struct assist *a);

/* assist-throttle.c */
void assist_account(struct assist *a);
void assist_choose_means(struct assist *a);
void assist_set_throttle(struct assist *a, uint32_t percent_x100, double limit);
void assist_close_throttle(struct assist *a);
void assist_vm_is_gone(void *context, short revents);

#endif /* ASSIST_PARTS_H */
