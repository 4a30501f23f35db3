// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Throttle fds: what they say about their VM, and who has them.
 *
 * Only a throttle fd tells how its VM is throttled, and only its holder has it.
 * Anyone who may debug the holder can copy it, and read from the copy.  The copy is
 * closed at once, because the throttle lasts as long as its last copy.
 */
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "proc.h"
#include "throttle.h"

#define THROTTLE_FILE	"anon_inode:kvm-throttle"
#define MODULE		"/sys/module/kvm_throttle"

/**
 * throttle_module_is_loaded() - is the module there?
 *
 * To open the device would load it.
 *
 * Return: true if it is.
 */
bool throttle_module_is_loaded(void)
{
	return !access(MODULE, F_OK);
}

/**
 * throttle_module_version() - which interface does the module have?
 *
 * Return: its version; 0 if it isn't loaded, or can't be asked.
 */
int throttle_module_version(void)
{
	int version, fd;

	if (!throttle_module_is_loaded())
		return 0;
	fd = open(THROTTLE_DEVICE, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return 0;
	version = ioctl(fd, KVM_THROTTLE_GET_API_VERSION, 0);
	close(fd);
	return version < 0 ? 0 : version;
}

/* The interface's version that brought the rate. */
#define RATE_VERSION	3

/**
 * throttle_no_rate() - why can't a dirty-rate limit be set?
 * @error: the error of KVM_SET_THROTTLE, a positive number
 *
 * Return: why; NULL if @error isn't about that.
 */
const char *throttle_no_rate(int error)
{
	switch (error) {
	case EBUSY:
		return "ftrace is turned off (sysctl kernel.ftrace_enabled=1)";
	case EINVAL:
		/* One that is older takes a rate for a field that has to be 0. */
		return throttle_module_version() < RATE_VERSION ?
		       "the module that is loaded is older than this command" : NULL;
	case EOPNOTSUPP:
		return "this kernel has no ftrace with arguments, or no kprobes";
	default:
		return NULL;
	}
}

/**
 * throttle_read() - read what is in force
 * @fd: the throttle fd
 * @t: where to store it; a zeroed one, or one that was read before
 *
 * Return: 0, or a negative error number; @t is unchanged then.
 */
int throttle_read(int fd, struct throttle *t)
{
	struct kvm_throttle_vcpu_state *vcpus = NULL, *more;
	struct kvm_throttle_state state = { 0 };
	uint32_t room;

	/* The VM can get more vCPUs between asking how many and reading them. */
	do {
		room = state.nr_vcpus;
		more = reallocarray(vcpus, room + 1, sizeof(*vcpus));
		if (!more)
			err(EXIT_FAILURE, "list of vCPUs");
		vcpus = more;
		state = (struct kvm_throttle_state) {
			.nr_vcpus = room,
			.vcpu_size = room ? sizeof(*vcpus) : 0,
			.vcpus = (uintptr_t)vcpus,
		};
		if (ioctl(fd, KVM_GET_THROTTLE, &state)) {
			int error = -errno;

			free(vcpus);
			return error;
		}
	} while (state.nr_vcpus > room);

	free(t->vcpus);
	t->percent_x100 = state.percent_x100;
	t->dirty_rate = state.dirty_rate;
	t->logged_pages = state.logged_pages;
	t->nr_vcpus = state.nr_vcpus;
	t->vcpus = vcpus;
	return 0;
}

/**
 * throttle_free() - free what throttle_read() allocated
 * @t: the throttle
 */
void throttle_free(struct throttle *t)
{
	free(t->vcpus);
	t->vcpus = NULL;
	t->nr_vcpus = 0;
}

/* Read the throttle that @t->holder has as @t->fd, and find whose VM it is. */
static int read_held(struct throttle *t)
{
	int pidfd = proc_open(t->holder.pid);
	int error, fd;

	if (pidfd < 0)
		return pidfd;
	fd = proc_get_fd(pidfd, t->fd);
	error = fd < 0 ? fd : throttle_read(fd, t);
	if (fd >= 0)
		close(fd);
	close(pidfd);

	for (uint32_t i = 0; !error && !t->vm.pid && i < t->nr_vcpus; i++) {
		if (t->vcpus[i].tid)
			t->vm = proc_of_thread(t->vcpus[i].tid);
	}
	return error;
}

/**
 * struct search - what has been found so far
 * @vm: the process whose VMs' throttles are wanted, 0 for all
 * @list: the throttles
 * @nr: how many
 * @order: their places in @list, by the kernel's order of files: so that each is compared
 *	with a few others only
 * @nr_order: how many of them can still be compared
 * @hidden: were there processes that the caller may not look into?
 */
struct search {
	pid_t vm;
	struct throttle *list;
	int nr;
	int *order;
	int nr_order;
	bool hidden;
};

static int compare(const struct throttle *a, const struct throttle *b)
{
	return proc_compare_files(a->holder.pid, a->fd, b->holder.pid, b->fd);
}

/*
 * Is it known, or gone?  If not, its place in the order comes to @place.  Those whose
 * holder has ended meanwhile can't be compared, and leave the order.
 */
static bool is_known(struct search *s, const struct throttle *t, int *place)
{
	int low = 0, high = s->nr_order;

	while (low < high) {
		int middle = low + (high - low) / 2;
		int order = compare(t, &s->list[s->order[middle]]);

		if (!order || (order < 0 && compare(t, t)))
			return true;
		if (order < 0) {
			s->nr_order--;
			high--;
			memmove(&s->order[middle], &s->order[middle + 1],
				(s->nr_order - middle) * sizeof(*s->order));
		} else if (order == 1) {
			high = middle;
		} else {
			low = middle + 1;
		}
	}
	*place = low;
	return false;
}

static void add(struct search *s, const struct throttle *t, int place)
{
	s->list = reallocarray(s->list, s->nr + 1, sizeof(*s->list));
	s->order = reallocarray(s->order, s->nr + 1, sizeof(*s->order));
	if (!s->list || !s->order)
		err(EXIT_FAILURE, "list of throttles");
	memmove(&s->order[place + 1], &s->order[place],
		(s->nr_order - place) * sizeof(*s->order));
	s->order[place] = s->nr;
	s->nr_order++;
	s->list[s->nr++] = *t;
}

/* All of a process's throttle fds. */
static void search_process(struct search *s, pid_t pid)
{
	int *fds, nr_fds = proc_find_fds(pid, THROTTLE_FILE, &fds);
	struct process holder = { 0 };

	if (nr_fds > 0)
		holder = proc_of_thread(pid);
	s->hidden |= nr_fds == -EACCES || nr_fds == -EPERM;
	for (int i = 0; i < nr_fds; i++) {
		struct throttle t = { .holder = holder, .fd = fds[i] };
		int error, place;

		if (is_known(s, &t, &place))
			continue;
		error = read_held(&t);
		s->hidden |= error == -EPERM;
		if (error || (s->vm && t.vm.pid != s->vm))
			throttle_free(&t);
		else
			add(s, &t, place);
	}
	free(fds);
}

static int by_holder(const void *a, const void *b)
{
	const struct throttle *x = a, *y = b;

	return x->holder.pid == y->holder.pid ? x->fd - y->fd : x->holder.pid - y->holder.pid;
}

/**
 * throttle_find() - find throttle fds in every process
 * @vm: the process whose VMs' throttles are wanted, 0 for all
 * @found: result, to be given to throttle_free_all(); by holder, then by fd
 * @hidden: result: were there processes that the caller may not look into?
 *
 * A throttle fd that several processes have copies of is found once.
 *
 * Return: how many there are, or a negative error number.
 */
int throttle_find(pid_t vm, struct throttle **found, bool *hidden)
{
	struct search s = { .vm = vm };
	struct dirent *entry;
	DIR *dir = opendir("/proc");

	*found = NULL;
	*hidden = false;
	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);

		if (pid)
			search_process(&s, pid);
	}
	closedir(dir);
	free(s.order);
	if (s.nr)
		qsort(s.list, s.nr, sizeof(*s.list), by_holder);
	*found = s.list;
	*hidden = s.hidden;
	return s.nr;
}

/**
 * throttle_before() - find a throttle in what throttle_find() found earlier
 * @now: the throttle
 * @list: what was found earlier
 * @nr: how many that are
 *
 * Return: the throttle as it was then, or NULL if it wasn't there.
 */
const struct throttle *throttle_before(const struct throttle *now,
				       const struct throttle *list, int nr)
{
	const struct throttle *before = nr ?
		bsearch(now, list, nr, sizeof(*list), by_holder) : NULL;
	bool same = before && before->nr_vcpus <= now->nr_vcpus;

	/* The number may be another throttle's now: it begins at 0. */
	for (uint32_t v = 0; same && v < before->nr_vcpus; v++) {
		same = before->vcpus[v].vcpu_id == now->vcpus[v].vcpu_id &&
		       before->vcpus[v].elapsed_ns <= now->vcpus[v].elapsed_ns;
	}
	return same ? before : NULL;
}

/**
 * throttle_free_all() - free what throttle_find() found
 * @list: what was found
 * @nr: how many that are
 */
void throttle_free_all(struct throttle *list, int nr)
{
	for (int i = 0; i < nr; i++)
		throttle_free(&list[i]);
	free(list);
}
