/* SPDX-License-Identifier: GPL-2.0 */
/*
 * compat: setting an hrtimer up.  hrtimer_setup() came with 6.13; hrtimer_init(),
 * after which ->function was to be set, went with 6.15.
 *
 * Variants: SETUP INIT
 * Missing: hrtimer_setup() and hrtimer_init()
 */
#ifndef _KVM_THROTTLE_COMPAT_HRTIMER_H
#define _KVM_THROTTLE_COMPAT_HRTIMER_H

#include <linux/hrtimer.h>

/**
 * kvt_hrtimer_setup() - prepare a timer, as hrtimer_setup() does
 * @timer: the timer, uninitialized
 * @function: called when it expires
 * @clock: the clock that it expires by
 * @mode: as it will be started with
 */
static inline void
kvt_hrtimer_setup(struct hrtimer *timer,
		  enum hrtimer_restart (*function)(struct hrtimer *),
		  clockid_t clock, enum hrtimer_mode mode)
{
#ifdef KVT_HRTIMER_SETUP
	hrtimer_setup(timer, function, clock, mode);
#else
	hrtimer_init(timer, clock, mode);
	timer->function = function;
#endif
}

#endif /* _KVM_THROTTLE_COMPAT_HRTIMER_H */
