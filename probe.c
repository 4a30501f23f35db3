// SPDX-License-Identifier: GPL-2.0-only
/*
 * kvm_throttle: what is put into the kernel while a throttle needs it.
 *
 * To register a probe takes milliseconds, and more soon after it was unregistered. So it
 * stays for about a second after its last user, and a worker takes it away.
 */

#include <linux/atomic.h>
#include <linux/mutex.h>
#include <linux/workqueue.h>

#include "kvm_throttle.h"

void kvt_probe_remove_unused(struct work_struct *work)
{
	struct kvt_probe *probe = container_of(to_delayed_work(work),
					       typeof(*probe), late);

	mutex_lock(&probe->lock);
	if (probe->there && !atomic_read(&probe->users)) {
		probe->remove();
		probe->there = false;
	}
	mutex_unlock(&probe->lock);
}

int kvt_probe_get(struct kvt_probe *probe)
{
	int r = 0;

	mutex_lock(&probe->lock);
	if (!probe->there)
		r = probe->add();
	if (!r) {
		probe->there = true;
		atomic_inc(&probe->users);
	}
	mutex_unlock(&probe->lock);
	return r;
}

void kvt_probe_get_again(struct kvt_probe *probe)
{
	atomic_inc(&probe->users);
}

void kvt_probe_put(struct kvt_probe *probe)
{
	if (atomic_dec_and_test(&probe->users))
		mod_delayed_work(system_unbound_wq, &probe->late, HZ);
}

void kvt_probe_exit(struct kvt_probe *probe)
{
	cancel_delayed_work_sync(&probe->late);
	kvt_probe_remove_unused(&probe->late.work);
}
