// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A meter for the vCPUs of a process: loads the programs of meter.bpf.c, and
 * reads what they have written, which is in memory that is shared with them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "meter.h"
#include "meter.skel.h"

#define BTF_FILE	"/sys/kernel/btf/vmlinux"

/* Process ids in BPF are those of this namespace; the kernel's PROC_PID_INIT_INO. */
#define INITIAL_PID_NS	0xeffffffcU

struct meter {
	struct meter_bpf *bpf;
	int stats;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* What libbpf says is for its developers; explain() is for users. */
static int print_nothing(enum libbpf_print_level level, const char *format,
			 va_list arguments)
{
	(void)level;
	(void)format;
	(void)arguments;
	return 0;
}

static void explain(int error, char *why, size_t size)
{
	if (access(BTF_FILE, R_OK))
		snprintf(why, size, "this kernel doesn't describe its types to BPF ("
			 BTF_FILE " is missing): one with CONFIG_DEBUG_INFO_BTF is needed");
	else if (error == -EPERM || error == -EACCES)
		snprintf(why, size, "no permission to load BPF programs: run as root");
	else if (error == -ENOENT)
		snprintf(why, size, "the tracepoints kvm_entry and kvm_exit are missing: load KVM's module (kvm_intel or kvm_amd)");
	else
		snprintf(why, size, "BPF programs can't be loaded: %s", strerror(-error));
}

/**
 * meter_open() - begin to measure the vCPUs of a process
 * @pid: the process
 * @why: if that fails, what to do about it
 * @size: of @why
 *
 * Return: the meter, or NULL.
 */
struct meter *meter_open(pid_t pid, char *why, size_t size)
{
	struct meter *m;
	struct stat ns;
	int error;

	if (!stat("/proc/self/ns/pid", &ns) && ns.st_ino != INITIAL_PID_NS) {
		snprintf(why, size, "this is a pid namespace (a container?), whose process ids BPF doesn't know: run outside");
		return NULL;
	}
	m = calloc(1, sizeof(*m));
	if (!m) {
		snprintf(why, size, "out of memory");
		return NULL;
	}

	libbpf_set_print(print_nothing);
	m->stats = -1;
	m->bpf = meter_bpf__open();
	if (!m->bpf) {
		explain(-errno, why, size);
		meter_close(m);
		return NULL;
	}
	m->bpf->rodata->tgid = pid;
	error = meter_bpf__load(m->bpf);
	if (!error)
		error = meter_bpf__attach(m->bpf);
	if (error) {
		explain(error, why, size);
		meter_close(m);
		return NULL;
	}
	__atomic_store_n(&m->bpf->bss->start_ns, now_ns(), __ATOMIC_RELEASE);
	return m;
}

/**
 * meter_vcpus() - how many threads that run vCPUs have been seen?
 * @m: the meter
 *
 * Return: their number, of which at most METER_VCPUS_MAX can be read.
 */
unsigned int meter_vcpus(const struct meter *m)
{
	return __atomic_load_n(&m->bpf->bss->nr_records, __ATOMIC_ACQUIRE);
}

/**
 * meter_read() - what is known of a vCPU, up to now
 * @m: the meter
 * @i: the number of its thread, in the order in which they were seen
 * @r: result
 */
void meter_read(const struct meter *m, unsigned int i, struct meter_record *r)
{
	struct meter_record *from = &m->bpf->bss->records[i];
	uint64_t changes, now, stall;

	do {
		changes = __atomic_load_n(&from->changes, __ATOMIC_ACQUIRE);
		memcpy(r, from, sizeof(*r));
		now = now_ns();
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	} while (changes & 1 ||
		 changes != __atomic_load_n(&from->changes, __ATOMIC_RELAXED));

	r->ns[r->state] += now - r->since_ns;
	r->since_ns = now;
	if (r->state == METER_GUEST)
		return;
	/* It isn't over yet. */
	stall = now - r->left_ns;
	r->stalls[meter_bucket(stall)]++;
	if (stall > r->longest_ns)
		r->longest_ns = stall;
}

/**
 * meter_count_cost() - have the kernel count what the meter itself takes
 * @m: the meter
 *
 * That takes time too: a quarter of the whole, or so.
 *
 * Return: 0, or a negative error number.
 */
int meter_count_cost(struct meter *m)
{
	m->stats = bpf_enable_stats(BPF_STATS_RUN_TIME);
	return m->stats < 0 ? -errno : 0;
}

/**
 * meter_cost() - what the meter itself has taken since meter_count_cost()
 * @m: the meter
 *
 * Return: the sum over its programs.
 */
struct meter_cost meter_cost(const struct meter *m)
{
	struct meter_cost cost = {};
	struct bpf_program *program;

	bpf_object__for_each_program(program, m->bpf->obj) {
		struct bpf_prog_info info = {};
		__u32 size = sizeof(info);

		if (bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size))
			continue;
		cost.runs += info.run_cnt;
		cost.ns += info.run_time_ns;
	}
	return cost;
}

/**
 * meter_close() - end measuring
 * @m: the meter
 */
void meter_close(struct meter *m)
{
	if (m->stats >= 0)
		close(m->stats);
	meter_bpf__destroy(m->bpf);
	free(m);
}
