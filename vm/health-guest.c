// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How a throttled Linux guest feels: process 1 of the guest of bench/peers.
 *
 * A thread with real-time priority wants to run every millisecond. Another one
 * computes what it sends to the host, by TCP, as much as it can: so the vCPU always has
 * something to do, and most of the work is the guest's. Both report in struct
 * bench_memory, where the host sees it (guest.h); gaps are in ns there.
 *
 * Arguments of the kernel's, beside those of guest.h:
 *
 *	address=ADDRESS		of this guest, in dots
 *	host=ADDRESS		of the host
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "guest.h"
#include "memory.h"

/* COUNTS_SIZE of linux_guest.py: the kernel's own memory is behind it. */
_Static_assert(sizeof(struct bench_memory) <= 256 << 10, "doesn't fit into COUNTS_SIZE");

#define MODULES		"/modules"
#define INTERFACE	"eth0"

/* How much to send at a time, and how much to compute for it. */
#define CHUNK		(16 << 10)
#define ROUNDS		10

/* What ATTEND_DIRTY dirties, and for each chunk: QEMU throttles no guest that doesn't. */
#define PAGE		4096
#define DIRTY_PAGES	4096
#define DIRTY_STEP	64

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void sleep_until(uint64_t ns)
{
	const struct timespec t = {
		.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000,
	};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void tick(volatile struct bench_memory *memory, uint64_t due, uint64_t now)
{
	const uint32_t nr = memory->nr_gaps;

	memory->gaps[nr % GAPS_MAX].start = due;
	memory->gaps[nr % GAPS_MAX].end = now;
	memory->nr_gaps = nr + 1;
	memory->vcpus[0].work++;
}

static void *tick_for_ever(void *memory)
{
	const struct sched_param param = { .sched_priority = 1 };
	uint64_t due = now_ns(), now;

	if (sched_setscheduler(0, SCHED_FIFO, &param))
		die("sched_setscheduler");
	for (;;) {
		sleep_until(due);
		/* One that was missed is late too. */
		for (now = now_ns(); due <= now; due += TICK_NS)
			tick(memory, due, now);
	}
	return NULL;
}

static void compute(uint64_t chunk[CHUNK / sizeof(uint64_t)])
{
	static uint64_t x = 1;

	for (size_t i = 0; i < CHUNK / sizeof(*chunk); i++) {
		for (int round = 0; round < ROUNDS; round++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
		}
		chunk[i] = x;
	}
}

static void dirty_memory(void)
{
	static volatile char pages[DIRTY_PAGES][PAGE];
	static int next;

	for (int i = 0; i < DIRTY_STEP; i++)
		pages[next++ % DIRTY_PAGES][0]++;
}

static uint32_t retransmits(int fd)
{
	struct tcp_info info = {};
	socklen_t size = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size))
		die("TCP_INFO");
	return info.tcpi_total_retrans;
}

/* Until the host has had enough. */
static void stream(volatile struct bench_memory *memory, int fd)
{
	static uint64_t chunk[CHUNK / sizeof(uint64_t)];

	do {
		compute(chunk);
		memory->retransmits = retransmits(fd);
		if (memory->orders.attend & ATTEND_DIRTY)
			dirty_memory();
	} while (write(fd, chunk, sizeof(chunk)) > 0);
}

static struct sockaddr_in address(const char *name)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(STREAM_PORT) };

	if (!inet_aton(text(name), &a.sin_addr))
		die(name);
	return a;
}

static void load_modules(void)
{
	struct dirent **names;
	char path[PATH_MAX];
	int nr, fd;

	nr = scandir(MODULES, &names, NULL, alphasort);
	if (nr < 0)
		die(MODULES);
	for (int i = 0; i < nr; i++) {
		if (names[i]->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), MODULES "/%s", names[i]->d_name);
		fd = open(path, O_RDONLY);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
			die(path);
		close(fd);
	}
}

static void bring_up(struct sockaddr_in own)
{
	struct ifreq request = { .ifr_name = INTERFACE };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	memcpy(&request.ifr_addr, &own, sizeof(own));
	if (ioctl(fd, SIOCSIFADDR, &request))
		die("SIOCSIFADDR");
	request.ifr_flags = IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &request))
		die("SIOCSIFFLAGS");
	close(fd);
}

int main(void)
{
	volatile struct bench_memory *memory = map_counts(sizeof(*memory));
	const struct sockaddr_in host = address("host");
	pthread_t thread;
	int fd;

	signal(SIGPIPE, SIG_IGN);
	load_modules();
	bring_up(address("address"));
	if (pthread_create(&thread, NULL, tick_for_ever, (void *)memory))
		die("pthread_create");
	for (;; sleep_until(now_ns() + 10 * TICK_NS)) {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		/* The host listens while it measures. */
		if (!connect(fd, (const struct sockaddr *)&host, sizeof(host)))
			stream(memory, fd);
		close(fd);
	}
}
