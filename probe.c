// SPDX-License-Identifier: GPL-2.0-only
/*
 * kvm_throttle: what is put into the kernel while a throttle needs it.
 *
 * To register a probe takes milliseconds, and more soon after it was unregistered. So it
 * stays for about a second after its last user. Workers add and remove it: if a tenant's
 * thread did that with little CPU time, all others would wait for it.
 */

#include <linux/atomic.h>
#include <linux/mutex.h>
#include <linux/wait.h>
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

void kvt_probe_add(struct work_struct *work)
{
	struct kvt_probe *probe = container_of(work, typeof(*probe), now);
	int asked = atomic_read(&probe->asked), r = 0;

	mutex_lock(&probe->lock);
	if (!probe->there)
		r = probe->add();
	if (!r)
		probe->there = true;
	WRITE_ONCE(probe->error, r);
	/* Pairs with kvt_probe_is_answered(): with that error. */
	smp_store_release(&probe->answered, asked);
	mutex_unlock(&probe->lock);
	wake_up_all(&probe->wait);
	/* Who has asked was killed, and @late may have come too early. */
	if (!atomic_read(&probe->users))
		mod_delayed_work(system_unbound_wq, &probe->late, HZ);
}

static bool kvt_probe_is_answered(const struct kvt_probe *probe, int asked)
{
	/* Pairs with kvt_probe_add(): the error is that one's, or a later one's. */
	return smp_load_acquire(&probe->answered) - asked >= 0;
}

int kvt_probe_get(struct kvt_probe *probe)
{
	int asked, r;

	/* From here on it isn't removed. */
	atomic_inc(&probe->users);
	asked = atomic_inc_return(&probe->asked);
	queue_work(system_unbound_wq, &probe->now);
	r = wait_event_killable(probe->wait, kvt_probe_is_answered(probe, asked));
	/* A later answer will do: it knows of this user, too. */
	if (!r)
		r = READ_ONCE(probe->error);
	if (r)
		kvt_probe_put(probe);
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
	/* A thread that was killed doesn't wait for it. */
	flush_work(&probe->now);
	cancel_delayed_work_sync(&probe->late);
	kvt_probe_remove_unused(&probe->late.work);
}
