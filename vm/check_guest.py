#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a Linux guest says while its vCPUs are throttled; vm/check-guest runs it.

Boots the guest of vm/demo-guest.c and looks at two things: the steal time that it
counts, and what its kernel complains of: soft lockups, RCU stalls, clocksources.
While QEMU's own timer throttles it, kvm-throttle-meter has to see what its memory
shows. Prints TAP.
"""
import json
import os
import re
import select
import signal
import statistics
import subprocess
import sys
import time

import linux_guest
from linux_guest import CONSOLE, Failed, Guest, Throttle

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), '../bench/migration'))
from migration import Qmp, wait_until  # pylint: disable=wrong-import-position

METER = '/build/src/tools/meter/kvm-throttle-meter'
MONITOR = '/tmp/check-guest-monitor'

# The guest's kernel is to tell all warnings, and to watch its clocks.
KERNEL_ARGUMENTS = 'loglevel=5', 'tsc=watchdog', 'report_steal=1'

COMPLAINT = re.compile(
    r'soft lockup|hard LOCKUP|rcu.*(stall|starved)|clocksource|TSC.*unstable|'
    r'blocked for more than|workqueue lockup|csd:')

# What may be between the guest's steal time and the module's throttled time.
STEAL_BOUND_POINTS = 1.0
# And between that time and what is due.
THROTTLED_BOUND_POINTS = 1.0
STEAL_PERCENT = 50, 80, 99
STEAL_S = 10

COMPLAIN_S = 60
MODULE_PERCENT = 99.9
# One for each of its windows, which come every 97 ms.
PAGES_LEAST = COMPLAIN_S / 0.097
TIMER_PERCENT = 99

# A stop for so long has to be a soft lockup to the guest.
STOP_S = 40

# How often to look whether the guest has dirtied a page, and what that may be off.
LOOK_S = 0.004
METER_BOUND_POINTS = 0.2
METER_BOUND_S = 3 * LOOK_S
LONG_S = 0.1

# Time for the guest to say what it has to say.
SETTLE_S = 3

# QEMU's timer is only for migrations: one that can send much at first, so that there
# is a second iteration, and then next to nothing, so that it doesn't end.
BANDWIDTH = 64 << 20
HOLD_BANDWIDTH = 8 << 10


class Tests:
    """Counts and prints them."""

    def __init__(self):
        self.number = 0
        self.failed = 0

    def result(self, good, text):
        self.number += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.number} {text}", flush=True)

    def end(self):
        print(f'1..{self.number}')
        return self.failed


def console_size():
    return os.path.getsize(CONSOLE)


def complaints(start):
    """The lines that complain, since the console had that size."""
    time.sleep(SETTLE_S)
    with open(CONSOLE, 'rb') as console:
        console.seek(start)
        text = console.read().decode(errors='replace')
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines[:20]:
        print(f'# guest: {line}')
    return [line for line in lines if COMPLAINT.search(line)]


def throttle_for(guest, percent, seconds):
    """Returns the guest's steal time, the module's throttled and elapsed time, in s,
    and how many pages the guest has dirtied.

    The guest is asked while it isn't throttled, when it answers soon.
    """
    before = guest.steal_s()[0]
    with Throttle(guest, percent) as throttle:
        throttle.wait()
        pages = sum(guest.counts())
        time.sleep(seconds)
        pages = sum(guest.counts()) - pages
    vcpu = throttle.vcpus[0]
    return (guest.steal_s()[0] - before, vcpu['throttled_ns'] / 1e9,
            vcpu['elapsed_ns'] / 1e9, pages)


def measure_steal(tests, guest):
    """The guest's steal time is what the throttle took."""
    start, before = time.monotonic(), guest.steal_s()
    time.sleep(STEAL_S)
    percent = 100 * (guest.steal_s()[0] - before[0]) / (time.monotonic() - start)
    tests.result(percent <= STEAL_BOUND_POINTS, f'at full speed, steal time is {percent:.2f} %')

    for target in STEAL_PERCENT:
        steal, throttled, elapsed, _ = throttle_for(guest, target, STEAL_S)
        tests.result(100 * abs(steal - throttled) / elapsed <= STEAL_BOUND_POINTS and
                     abs(100 * throttled / elapsed - target) <= THROTTLED_BOUND_POINTS,
                     f'at {target} %, steal time is {100 * steal / elapsed:.2f} %, '
                     f'throttled {100 * throttled / elapsed:.2f} %')


def module(tests, guest):
    """Nothing worries the guest, and its steal time says where the time is."""
    console = console_size()
    steal, throttled, elapsed, pages = throttle_for(guest, MODULE_PERCENT, COMPLAIN_S)
    found = complaints(console)
    tests.result(not found and pages > PAGES_LEAST, f'the module at {MODULE_PERCENT} % for {COMPLAIN_S} s: '
                                      f'{len(found)} complaints, {pages} pages')
    tests.result(100 * abs(steal - throttled) / elapsed <= STEAL_BOUND_POINTS and
                 abs(100 * throttled / elapsed - MODULE_PERCENT) <= THROTTLED_BOUND_POINTS,
                 f'steal time {steal:.2f} s, throttled {throttled:.2f} s')


def watch(guest, stream):
    """Look what the guest has done, until something comes from the stream.

    Returns when each look was, and how many pages had been dirtied.
    """
    looks = []
    while not looks or not select.select((stream,), (), (), LOOK_S)[0]:
        looks.append((time.monotonic(), guest.counts()[0]))
    return looks


def judge(looks):
    """For which share the guest ran, in percent, and its long stalls in order, in s."""
    ran_at = looks[0][0]
    ran_s = 0
    stalls_s = []
    for (last, before), (now, count) in zip(looks, looks[1:]):
        if count == before:
            continue
        # On average it began and ended in the middle between two looks.
        if ran_at != last:
            stalls_s.append(now - ran_at)
            ran_s -= now - last
        ran_s += now - last
        ran_at = now
    return 100 * ran_s / (looks[-1][0] - looks[0][0]), sorted(s for s in stalls_s if s >= LONG_S)


def meter(tests, guest):
    """The meter, which knows nothing of QEMU's timer, sees what the guest's memory shows."""
    with subprocess.Popen((METER, f'--pid={guest.process.pid}', f'--for={COMPLAIN_S}s', '--json'),
                          stdout=subprocess.PIPE) as process:
        looks = watch(guest, process.stdout)
        vcpu, = json.load(process.stdout)['vcpus']
    start = looks[-1][0] - vcpu['elapsed_ns'] / 1e9
    share, stalls_s = judge([look for look in looks if look[0] >= start])
    metered_s = vcpu['stalls']['longest_ns'] / 1e9
    # To the guest, KVM's work on its page faults isn't a stall.
    metered = 100 * (vcpu['guest_ns'] + vcpu['host_ns']) / vcpu['elapsed_ns']
    # It may be in guest mode for so short that it dirties no page.
    tests.result(abs(metered - share) <= METER_BOUND_POINTS and
                 statistics.median(stalls_s) - METER_BOUND_S <= metered_s <=
                 stalls_s[-1] + METER_BOUND_S,
                 f"QEMU's timer at {TIMER_PERCENT} %: the meter says {metered:.2f} % on a CPU "
                 f"({vcpu['guest_percent']:.2f} % in guest mode), longest stall "
                 f"{1e3 * metered_s:.1f} ms; the guest's memory {share:.2f} %, "
                 f'median {1e3 * statistics.median(stalls_s):.1f}, longest {1e3 * stalls_s[-1]:.1f} ms')


def qemu_timer(tests, guest):
    """For comparison."""
    console = console_size()
    steal = guest.steal_s()[0]
    qmp = Qmp(MONITOR, guest.process)
    qmp('migrate-set-capabilities', capabilities=[
        {'capability': 'auto-converge', 'state': True}])
    qmp('migrate-set-parameters', max_bandwidth=BANDWIDTH, downtime_limit=1,
        cpu_throttle_initial=TIMER_PERCENT, max_cpu_throttle=TIMER_PERCENT)
    qmp('migrate', uri='exec:cat >/dev/null')
    wait_until(lambda: qmp('query-migrate').get('cpu-throttle-percentage') == TIMER_PERCENT,
               f"a throttle of {TIMER_PERCENT} % by QEMU's timer")
    qmp('migrate-set-parameters', max_bandwidth=HOLD_BANDWIDTH)
    meter(tests, guest)
    if qmp('query-migrate').get('cpu-throttle-percentage') != TIMER_PERCENT:
        raise Failed(f'{TIMER_PERCENT} % was not held')
    qmp('migrate_cancel')
    wait_until(lambda: qmp('query-migrate')['status'] == 'cancelled', 'the migration to end')
    qmp.close()
    steal = guest.steal_s()[0] - steal
    found = complaints(console)
    print(f"# QEMU's timer at {TIMER_PERCENT} % for {COMPLAIN_S} s: {len(found)} complaints, "
          f'steal time {steal:.2f} s', flush=True)


def stopped(tests, guest):
    """Shows that a complaint would be seen."""
    console = console_size()
    guest.process.send_signal(signal.SIGSTOP)
    time.sleep(STOP_S)
    guest.process.send_signal(signal.SIGCONT)
    found = complaints(console)
    tests.result(found, f'stopped for {STOP_S} s: {len(found)} complaints')


def main():
    tests = Tests()
    guest = None
    subprocess.run(('modprobe', 'kvm_throttle'), check=True)
    linux_guest.mend_emulator()
    try:
        guest = Guest(1, KERNEL_ARGUMENTS, ('-qmp', f'unix:{MONITOR},server=on,wait=off'))
        guest.boot()
        linux_guest.be_on_time()
        print('TAP version 13', flush=True)
        measure_steal(tests, guest)
        module(tests, guest)
        qemu_timer(tests, guest)
        stopped(tests, guest)
    finally:
        if guest:
            guest.end()
    return tests.end() != 0


if __name__ == '__main__':
    sys.exit(main())
