/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kvm-throttle converge --all: helps the migrations of all VMs of this host.
 */
#ifndef SERVICE_H
#define SERVICE_H

#include <stdbool.h>

/**
 * struct service_options - the command line
 * @config: file with the rules, NULL for the usual one, which needn't be there
 * @check: only read that
 * @json: print all events, in JSON
 * @quiet: print nothing
 */
struct service_options {
	const char *config;
	bool check;
	bool json;
	bool quiet;
};

int service_run(const struct service_options *o);

#endif /* SERVICE_H */
