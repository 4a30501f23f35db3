/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file that says which virtual machines `kvm-throttle converge --all` helps, and
 * how.  Apart from the rest, so that check/rules_test.c can try it directly.
 */
#ifndef RULES_H
#define RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "policy.h"

/**
 * struct rules_choice - what is to be done about a VM
 * @off: leave it alone
 * @policy: how to throttle it
 */
struct rules_choice {
	bool off;
	struct policy_settings policy;
};

struct rules_section;

/**
 * struct rules - what the file says
 * @libvirt: URI of the libvirt whose domains are watched, NULL if none are
 * @sockets: folder that has monitors' sockets, NULL if there is none
 * @prometheus: file for metrics, NULL if there is none
 * @every: for VMs that no section is for, and what a section doesn't say
 * @sections: those for some VMs, in the order of the file
 * @nr: how many they are
 */
struct rules {
	char *libvirt;
	char *sockets;
	char *prometheus;
	struct rules_choice every;
	struct rules_section *sections;
	unsigned int nr;
};

int rules_read(struct rules *r, FILE *file, char *why, size_t size);
struct rules_choice rules_for(const struct rules *r, const char *vm);
void rules_free(struct rules *r);

#endif /* RULES_H */
