#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests live migration with a QEMU that throttles by kvm_throttle; prints TAP.

Runs in the deterministic machine of vm/vm; see run. Every test ends with a look at the
guest's memory, and at whether somebody is still throttled.
"""
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time
import traceback

import migration
from migration import Failed, Migration, Qemu, Workload, wait_until

# The working set is sent in half a second. At full speed the guest dirties all of it
# in a tenth of that, at 90 % in a second: that takes a throttle of more.
WORKLOAD = Workload(pages=512, spin=4500)
SETTINGS = {'max_bandwidth': 4 << 20, 'downtime_limit': 100}
THROTTLE = {'cpu_throttle_initial': 99, 'max_cpu_throttle': 99}
# So that it doesn't end: even at 99 % the guest dirties memory faster.
ENDLESS = {'max_bandwidth': 128 << 10, 'downtime_limit': 1}

# Stalls of 99 % last 10.4 ms, then other threads on this CPU may have their turn.
STALL_S = 0.03

# How much slower a guest may be that nobody throttles, to call it at full speed.
FULL_SPEED = 0.97

# Later than this, a stop request has waited for the vCPU to wake up.
STOP_LATER_S = 0.001

# The throttle's steps, where it is by QEMU's timer.
STEPS = {'cpu_throttle_initial': 50, 'cpu_throttle_increment': 20}
TIMER_STEPS = [0, 50, 70, 90, 99]

# What the guest does, of what is due to it: the one CPU is QEMU's too.
WORK_OF_DUE = 0.75, 0.95

TESTS = []
stock = patched = None


def test(function):
    TESTS.append(function)
    return function


def check(truth, what):
    if not truth:
        raise Failed(what)


def boot(workload=WORKLOAD, binary=None, **options):
    return Qemu(binary or patched, workload, **options)


@contextlib.contextmanager
def endless(source, percent=99):
    """A migration that doesn't end, throttled at that percentage or at 0; cancels it."""
    with source.destination() as destination:
        source.start_migration(destination, auto_converge=bool(percent),
                               **SETTINGS | THROTTLE | {'downtime_limit': 1})
        source.wait_for_percentage(percent)
        source.qmp('migrate-set-parameters', **ENDLESS)
        yield destination
        if source.process and source.info()['status'] not in migration.ENDS:
            source.cancel()


def check_full_speed(source, full):
    check(not migration.throttled_vms(), 'a VM is still throttled')
    speed = source.speed()
    check(speed >= FULL_SPEED * full, f'{speed:.0f} units of work per second, not {full:.0f}')
    check(not source.check_memory(), 'wrong pages')


def check_slow(source, full):
    """At 99 %; its pages cost it faults meanwhile."""
    speed = source.speed()
    check(0.002 * full < speed < 0.02 * full,
          f'at 99 %: {speed:.0f} units per second of {full:.0f}')


def check_completes(source, method='kernel', **settings):
    """Migrate; returns what it was like."""
    with source.destination() as destination:
        done = Migration(source, destination, **SETTINGS | THROTTLE | settings)
        check(done.completed, f"the migration has {done.info['status']}")
        check(not done.errors, f'{done.errors} wrong pages')
        check(done.methods == {method}, f'throttled by {done.methods}')
        # Several on one CPU wait for each other too.
        check(method != 'kernel' or source.vcpus > 1 or done.stall_s < STALL_S,
              f'a stall of {done.stall_s:.3f} s')
        check(not migration.throttled_vms(), 'a VM is still throttled')
    return done


@test
def wrong_pages_are_noticed():
    """Or the other tests would pass whatever a migration does to memory."""
    first = slice(migration.WORKING_SET, migration.WORKING_SET + migration.PAGE)
    with boot() as source:
        check(not source.check_memory(), 'wrong pages from the start')
        lost = source.memory[first]
        source.check_memory()
        source.memory[first] = lost
        check(source.check_memory() == 1, 'a page that is older than it should be')
        # The first cache lines are of now, the last one is not.
        source.memory[first.stop - 64:first.stop] = lost[-64:]
        check(source.check_memory() == 2, 'a torn page')


@test
def converges_only_with_a_throttle():
    with boot() as source:
        with source.destination() as destination:
            done = Migration(source, destination, limit_s=5, auto_converge=False, **SETTINGS)
            check(not done.completed, 'converges without a throttle')
            check(not done.errors, f'{done.errors} wrong pages')
        done = check_completes(source, cpu_throttle_initial=50, cpu_throttle_increment=49)
        check(done.percent == 99, f'at {done.percent} %')


@test
def downtime_is_within_its_limit():
    limit_s = SETTINGS['downtime_limit'] / 1e3
    few = Workload(pages=64, spin=4500)
    with boot(few) as source, source.destination() as destination:
        done = Migration(source, destination, **SETTINGS)
        check(done.completed and not done.percent, 'throttled')
        print(f'# {done.downtime_s * 1e3:.0f} ms at 0 %')
        check(done.downtime_s <= limit_s, 'too long')
    with boot() as source:
        done = check_completes(source)
        print(f'# {done.downtime_s * 1e3:.0f} ms at 99 %')
        check(done.downtime_s <= limit_s, 'too long')


def stop_times(source, times=15):
    took = []
    for _ in range(times):
        start = time.monotonic()
        source.qmp('stop')
        took.append(time.monotonic() - start)
        check(source.qmp('query-status')['status'] == 'paused', 'not paused')
        source.qmp('cont')
        # Not in step with the throttle's windows.
        time.sleep(0.0237)
    return took


@test
def stop_and_cont():
    with boot() as source:
        full = source.speed()
        with endless(source, 0):
            at_0 = statistics.mean(stop_times(source))
        with endless(source) as destination:
            at_99 = statistics.mean(stop_times(source))
            print(f'# stop takes {at_0 * 1e3:.2f} ms at 0 %, {at_99 * 1e3:.2f} ms at 99 %')
            check(at_99 < at_0 + STOP_LATER_S, 'late at 99 %')
            check_slow(source, full)
            source.qmp('migrate-set-parameters', max_bandwidth=1 << 30, downtime_limit=300)
            source.wait_for_end()
            check(not destination.check_memory(), 'wrong pages')


@test
def cancel_and_retry():
    with boot() as source:
        full = source.speed()
        for _ in range(2):
            with endless(source):
                check(source.info()['cpu-throttle-method'] == 'kernel', 'not by the module')
                vm, = migration.throttled_vms()
                check(vm['percent'] == 99 and vm['vm']['pid'] == source.process.pid, vm)
            check('cpu-throttle-percentage' not in source.info(), 'query-migrate: throttled')
            check_full_speed(source, full)
        check_completes(source)


@test
def destination_fails():
    with boot() as source:
        full = source.speed()
        with endless(source) as destination:
            destination.end()
            source.wait_for_end('failed')
            check_full_speed(source, full)
        check_completes(source)


def unload_module():
    """A thread that has just ended may hold it for a moment."""
    wait_until(lambda: not subprocess.run(('rmmod', 'kvm_throttle'), check=False,
                                          stderr=subprocess.DEVNULL).returncode,
               'the module to be unused', seconds=10)


@test
def source_is_killed():
    with boot() as source:
        with endless(source) as destination:
            took = source.end()
            check(took < 0.5, f'took {took:.3f} s to die')
            check(not migration.throttled_vms(), 'a VM is still throttled')
            destination.process.wait(migration.PATIENCE_S)
    # Nothing holds the module any more.
    unload_module()
    subprocess.run(('modprobe', 'kvm_throttle'), check=True)


def make_disk(qemu):
    """A disk to save snapshots on; QEMU makes it."""
    path = os.path.join(migration.DIRECTORY, 'disk')
    jobs = (('file', {'driver': 'file', 'filename': path, 'size': 0}),
            ('qcow2', {'driver': 'qcow2', 'file': 'file', 'size': 64 << 20}))
    for name, options in jobs:
        run_job(qemu, 'blockdev-create', name, options=options)
        backend = {'filename': path} if name == 'file' else {'file': 'file'}
        qemu.qmp('blockdev-add', driver=name, node_name=name, **backend)


def run_job(qemu, command, job_id, **arguments):
    qemu.qmp(command, job_id=job_id, **arguments)

    def job():
        found, = (job for job in qemu.qmp('query-jobs') if job['id'] == job_id)
        return found if found['status'] == 'concluded' else None

    error = wait_until(job, f'{command} to end').get('error')
    check(not error, f'{command}: {error}')
    qemu.qmp('job-dismiss', id=job_id)


SNAPSHOT = {'tag': 'snapshot', 'vmstate': 'qcow2', 'devices': ['qcow2']}


@test
def savevm():
    with boot() as source:
        full = source.speed()
        make_disk(source)
        with endless(source):
            answer = source.qmp.ask('human-monitor-command', command_line='savevm snapshot')
            check('Error' in answer.get('return', ''), f'savevm during a migration: {answer}')
        run_job(source, 'snapshot-save', 'save', **SNAPSHOT)
        check_full_speed(source, full)
        run_job(source, 'snapshot-load', 'load', **SNAPSHOT)
        source.qmp('cont')
        check_full_speed(source, full)
        check_completes(source)


@test
def hotplug():
    with boot(max_vcpus=2) as source:
        with endless(source):
            plug, = (slot for slot in source.qmp('query-hotpluggable-cpus')
                     if 'qom-path' not in slot)
            vcpu = {'driver': plug['type'], 'id': 'plugged', **plug['props']}
            check('error' in source.qmp.ask('device_add', **vcpu), 'plugged during a migration')
        source.qmp('device_add', **vcpu)
        source.vcpus = 2
        source.set(vcpus=2)
        wait_until(source.ready, 'the new vCPU')
        full = source.speed()
        with endless(source):
            check([state['percent'] for state in migration.throttled_vms()[0]['vcpus']] ==
                  [99, 99], 'the new vCPU is not throttled')
        check_full_speed(source, full)
        check_completes(source)


@test
def four_vcpus():
    with boot(Workload(pages=128, spin=4500), vcpus=4) as source:
        full = source.speed()
        with endless(source):
            check_slow(source, full)
        check_full_speed(source, full)
        check_completes(source)


def answer_times(qemu, times=50):
    took = []
    for _ in range(times):
        start = time.monotonic()
        qemu.qmp('query-status')
        took.append(time.monotonic() - start)
        time.sleep(0.0137)
    return sorted(took)


@test
def device_emulation():
    """A guest in QEMU's device emulation all the time doesn't keep its main loop."""
    with boot(Workload(pages=512, kind=migration.DEVICE)) as source:
        full = source.speed()
        with endless(source, 0):
            at_0 = answer_times(source)
        with endless(source):
            at_99 = answer_times(source)
            speed = source.speed()
        print(f'# QMP answers in {statistics.mean(at_0) * 1e3:.2f} ms at 0 %, '
              f'{statistics.mean(at_99) * 1e3:.2f} ms at 99 %, worst {at_0[-1] * 1e3:.2f} '
              f'and {at_99[-1] * 1e3:.2f} ms; work at 99 %: {100 * speed / full:.2f} %')
        check(statistics.mean(at_99) <= 1.1 * statistics.mean(at_0), 'slower than at 0 %')
        check(at_99[-1] <= 1.1 * at_0[-1], 'slower than at 0 %')
        check_full_speed(source, full)


def steps(samples):
    """The percentages, in their order; at the end there may be none any more."""
    percents = [percent for percent, _ in itertools.groupby(sample.percent for sample in samples)]
    return percents if percents[-1] else percents[:-1]


def due_share(done):
    """Share of full speed that the percentages leave which QEMU said, by its samples."""
    shares = [(after.seconds - before.seconds) * (1 - before.percent / 100)
              for before, after in itertools.pairwise(done.samples)]
    return sum(shares) / (done.samples[-1].seconds - done.samples[0].seconds)


def check_timer(done, full):
    """Each vCPU runs for 10 ms, then sleeps; the last sleep may be cut short."""
    percents = steps(done.samples)
    run_s = 0.01
    sleeps_s = [run_s / (1 - percent / 100) - run_s for percent in percents]
    share = done.work / full / done.seconds
    print(f'# {percents} %, {done.iterations} iterations, {done.seconds:.2f} s, stall '
          f'{done.stall_s * 1e3:.1f} ms, work {100 * share:.2f} % of full speed, '
          f'{100 * due_share(done):.2f} % due')
    check(percents == TIMER_STEPS, 'other percentages')
    check(0.95 * sleeps_s[-2] <= done.stall_s <= 1.05 * sleeps_s[-1], 'another stall')
    check(WORK_OF_DUE[0] <= share / due_share(done) <= WORK_OF_DUE[1], 'other work')


@test
def without_the_module():
    """As stock QEMU does: by its timer.

    Where in the timer's period of a second a migration ends is chance, so the two
    are not compared with each other, but with what the timer is to do.
    """
    unload_module()
    try:
        for binary, method in (stock, None), (patched, 'timer'):
            with boot(binary=binary) as source:
                full = source.speed()
                with endless(source):
                    check(source.info().get('cpu-throttle-method') == method, 'not by the timer')
                # The timer lets a vCPU finish its sleep.
                time.sleep(1)
                check(source.speed() >= FULL_SPEED * full, 'not at full speed again')
                check_timer(check_completes(source, method=method, **STEPS), full)
    finally:
        subprocess.run(('modprobe', 'kvm_throttle'), check=True)


@test
def to_stock_and_back():
    """What is sent is the same."""
    with boot() as source, source.destination(stock) as middle:
        done = Migration(source, middle, **SETTINGS | THROTTLE)
        check(done.completed and done.methods == {'kernel'}, f'to stock: {done.info}')
        check(not done.errors, f'to stock: {done.errors} wrong pages')
        source.end()
        with middle.destination(patched) as last:
            done = Migration(middle, last, **SETTINGS | THROTTLE)
            check(done.completed and done.methods == {None}, f'back: {done.info}')
            check(not done.errors, f'back: {done.errors} wrong pages')


def run(function):
    """Returns whether it passed."""
    try:
        function()
        check(not migration.throttled_vms(), 'a VM is still throttled')
    except Exception as failure:
        print(f'# {failure!r}')
        for frame in traceback.extract_tb(failure.__traceback__):
            print(f'#   {os.path.basename(frame.filename)}:{frame.lineno}: {frame.line}')
        return False
    return True


def main():
    global stock, patched
    wanted = sys.argv[1:]
    subprocess.run(('modprobe', 'kvm_throttle'), check=True)
    migration.prepare()
    stock = migration.into_memory(migration.STOCK, 'qemu-stock')
    patched = migration.into_memory(migration.PATCHED, 'qemu-patched')
    for binary in stock, patched:
        migration.warm_up(binary)
    migration.throttled_vms()
    migration.be_on_time()
    tests = [function for function in TESTS if not wanted or function.__name__ in wanted]
    print(f'1..{len(tests)}', flush=True)
    failed = 0
    for number, function in enumerate(tests, 1):
        start = time.monotonic()
        passed = run(function)
        failed += not passed
        print(f'{"" if passed else "not "}ok {number} {function.__name__} '
              f'# {time.monotonic() - start:.1f} s of virtual time', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
