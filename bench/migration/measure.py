#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrates the same guest with and without a throttle, and says what that was like.

Runs in the machine of vm/vm; see run. Lines that begin with "migration:" are progress.
"""
import argparse
import json
import math
import signal
import statistics
import sys
import time

import migration
from migration import Failed, Migration, Qemu, Sink, Workload

# The working set is sent in 0.75 s. At full speed the guest dirties 20 times as much in
# that time and at 90 % twice, so that only the highest percentage converges:
# auto-converge goes through all of its steps. (Not in one second: that is the period of
# stock QEMU's timer at 99 %.)
BANDWIDTH = 8 << 20
PAGES = 1536
SPIN = 4500
SETTINGS = {'max_bandwidth': BANDWIDTH, 'downtime_limit': 300}
DEFAULTS = {'cpu_throttle_initial': 20, 'cpu_throttle_increment': 10,
            'max_cpu_throttle': 99}

# A migration that doesn't converge is stopped after it.
LIMIT_S = 30

# How exactly a percentage is held, the guest's work tells, if a unit of it takes the
# same time always. But dirtying a page costs a fault once in each iteration. So when
# the percentage is there, no more pages are dirtied. And QEMU's threads want this only
# CPU, of which a throttled guest would lose less than another, as they can have it while
# that one sleeps. So nobody reads what is sent any more: the migration stands still. For
# less than 10 s, though, or QEMU's main loop waits for that too, to read the bitmap.
PERCENTAGES = 20, 50, 80, 90, 99
HOLD_PAGES = 6144
HOLD_SPIN = 2000
HOLD_SETTINGS = {'max_bandwidth': 16 << 20, 'downtime_limit': 1}
HOLD_S = 5
SETTLE_S = 0.3

# Half of the downtime goes into what is left to send then. That is anything below the
# limit: what QEMU finds when it first looks, which it does every 100 ms. To compare the
# rest, here it is a whole working set, about as much as above: all is written to again
# while the destination stands still.
SWITCH_PAGES = 512
SWITCH_WAITS = {'max_bandwidth': 4 << 20, 'downtime_limit': 1}
SWITCH_SETTINGS = {'avail_switchover_bandwidth': 1 << 30, 'downtime_limit': 300}
SWITCH_RUNS = 9
SWITCH_PHASE_S = 0.0137

# Lengths of a run and a sleep window together, at a percentage.
TIMER_RUN_S = 0.01
MODULE_PERIOD_S = 0.010472


def progress(text):
    print(f'migration: {text}', flush=True)


class Variant:
    """A way to throttle."""

    def __init__(self, name, title, binary, auto_converge=True, method=None):
        self.name = name
        self.title = title
        self.binary = binary
        self.auto_converge = auto_converge
        self.method = method

    def period_s(self, percent):
        if self.method == 'kernel':
            return MODULE_PERIOD_S
        return TIMER_RUN_S / (1 - percent / 100)


def variants(stock, patched):
    return (Variant('none', 'stock, no auto-converge', stock, auto_converge=False),
            Variant('stock', 'stock, auto-converge', stock),
            Variant('module', 'patched, kvm_throttle', patched, method='kernel'))


def migrate(variant):
    """One migration; returns what to show of it."""
    workload = Workload(pages=PAGES, spin=SPIN)
    with Qemu(variant.binary, workload) as source, source.destination() as destination:
        full = source.speed()
        done = Migration(source, destination, LIMIT_S if not variant.auto_converge
                         else migration.PATIENCE_S, auto_converge=variant.auto_converge,
                         **SETTINGS, **DEFAULTS)
    if done.completed != variant.auto_converge:
        raise Failed(f'{variant.title}: the migration '
                     f'{"converged" if done.completed else "did not converge"}')
    if variant.method and done.methods != {variant.method}:
        raise Failed(f'{variant.title}: throttled by {done.methods}')
    if done.errors:
        raise Failed(f'{variant.title}: {done.errors} wrong pages in the guest')
    return {
        'variant': variant.name, 'completed': done.completed, 'seconds': done.seconds,
        'iterations': done.iterations, 'downtime_s': done.downtime_s, 'left': done.left,
        'percent': done.percent, 'stall_s': done.stall_s, 'work': done.work,
        'work_share': done.work / (full * done.seconds), 'full_speed': full,
        'samples': done.samples}


def median_of(results, key):
    return statistics.median(result[key] for result in results)


class Table:
    COLUMNS = (
        # title, unit, key, format, factor
        ('time', 's', 'seconds', '.1f', 1),
        ('iterations', '', 'iterations', '.0f', 1),
        ('downtime', 'ms', 'downtime_s', '.0f', 1e3),
        ('left', 'MiB', 'left', '.2f', 1 / (1 << 20)),
        ('highest', '%', 'percent', '.0f', 1),
        ('stall', 'ms', 'stall_s', '.1f', 1e3),
        ('work', 'pages', 'work', '.0f', 1),
        ('of full', '%', 'work_share', '.1f', 100))
    WIDTH = 11

    def __init__(self, runs):
        print(f'A guest that dirties {PAGES * migration.PAGE >> 20} MiB in a loop, migrated at '
              f'{BANDWIDTH >> 20} MiB/s; times are virtual' +
              (f'; medians of {runs} runs.' if runs > 1 else '.'))
        print('left: what was sent in the downtime. stall: longest that the guest saw, without '
              'the downtime.\nwork: what it did meanwhile, and how much that is of what it does '
              'unthrottled and not migrated.\n')
        for row in 0, 1:
            print(' ' * 24 + ''.join(column[row].rjust(self.WIDTH)
                                     for column in self.COLUMNS))

    def row(self, variant, results):
        cells = [format(median_of(results, key) * factor, form)
                 for _, _, key, form, factor in self.COLUMNS]
        if not results[0]['completed']:
            cells[0] = '> ' + cells[0]
            cells[2] = cells[3] = '-'
        print(variant.title.ljust(24) + ''.join(cell.rjust(self.WIDTH) for cell in cells),
              flush=True)


def demo(stock, patched, runs):
    results = {}
    everything = variants(stock, patched)
    for run in range(runs):
        for variant in everything:
            # Once is enough of what never ends.
            if run and not variant.auto_converge:
                continue
            progress(f'run {run + 1} of {runs}: {variant.title}')
            results.setdefault(variant.name, []).append(migrate(variant))
    table = Table(runs)
    for variant in everything:
        table.row(variant, results[variant.name])
    return results


def speed_at(source, variant, percent):
    """What the guest does in a migration that holds a percentage."""
    sink = Sink(source)
    source.start_migration(
        sink, auto_converge=bool(percent), **HOLD_SETTINGS,
        cpu_throttle_initial=percent or 1, max_cpu_throttle=percent or 99)
    source.wait_for_percentage(percent)
    source.set(workload=migration.IDLE)
    sink.reading.clear()
    time.sleep(SETTLE_S)
    period = variant.period_s(percent)
    speed = source.speed(math.ceil(HOLD_S / period) * period)
    sink.reading.set()
    if source.info().get('cpu-throttle-percentage', 0) != percent:
        raise Failed(f'{percent} % was not held')
    source.set(workload=migration.SWEEP)
    source.cancel()
    return speed


def hold(variant):
    """Yields percentages that were asked for, and by how much the guest was slower."""
    workload = Workload(pages=HOLD_PAGES, spin=HOLD_SPIN, quiet_ms=1000000)
    for percent in PERCENTAGES:
        # A new one each time: a throttle that was cancelled may leave stock QEMU's
        # timer without effect, see the first of the patches.
        with Qemu(variant.binary, workload) as source:
            full = speed_at(source, variant, 0)
            yield percent, 100 * (1 - speed_at(source, variant, percent) / full)


def accuracy(stock, patched):
    """Prints a table of what hold() says; returns it, by variant and percentage."""
    held = {}
    for variant in variants(stock, patched):
        if variant.auto_converge:
            progress(f'holding percentages: {variant.title}')
            held[variant.name] = dict(hold(variant))
    print('\nActual throttle: by how much less the guest does than at full speed in a migration\n')
    print('    asked for' + ''.join(f'{name:>10}{"error":>8}' for name in held))
    for percent in PERCENTAGES:
        print(f'{percent:11} %' + ''.join(
            f'{values[percent]:10.2f}{values[percent] - percent:+8.2f}'
            for values in held.values()), flush=True)
    return held


def switch_over(variant, run):
    """The downtime of a migration at 99 % with all of the working set left, and that."""
    workload = Workload(pages=SWITCH_PAGES, spin=SPIN)
    with Qemu(variant.binary, workload) as source, source.destination() as destination:
        source.start_migration(destination, **SWITCH_WAITS,
                               cpu_throttle_initial=99, max_cpu_throttle=99)
        source.wait_for_percentage(99)
        destination.process.send_signal(signal.SIGSTOP)
        source.check_memory()
        source.qmp('migrate-set-parameters', **SWITCH_SETTINGS)
        time.sleep(run * SWITCH_PHASE_S)
        destination.process.send_signal(signal.SIGCONT)
        info = source.wait_for_end()
        if destination.check_memory():
            raise Failed(f'{variant.title}: wrong pages in the guest')
    return {'downtime_s': info['downtime'] / 1e3, 'left': info['ram']['downtime-bytes']}


def switch_overs(stock, patched):
    """Prints a table of what switch_over() says; returns it, by variant."""
    switched = {}
    print(f'\nDowntime at 99 %, medians of {SWITCH_RUNS} runs\n')
    for variant in variants(stock, patched):
        if variant.auto_converge:
            progress(f'downtime: {variant.title}')
            results = [switch_over(variant, run) for run in range(SWITCH_RUNS)]
            switched[variant.name] = results
            times = [result['downtime_s'] * 1e3 for result in results]
            print(f'{variant.title:24}{statistics.median(times):6.0f} ms, {min(times):.0f} to '
                  f"{max(times):.0f} ms; left {median_of(results, 'left') / (1 << 20):.2f} MiB",
                  flush=True)
    return switched


class Goals:
    """Compares with what is to be reached."""

    def __init__(self):
        self.missed = 0
        print('\nAgainst stock auto-converge' + f'{"stock":>21}{"module":>10}{"goal":>26}')

    def check(self, title, stock, module, goal, reached):
        self.missed += not reached
        print(f'{title:<34}{stock:>14}{module:>10}{goal:>26}  '
              f'{"reached" if reached else "MISSED"}', flush=True)

    def ratio(self, title, results, key, bound, bound_text):
        stock, module = (median_of(results[name], key) for name in ('stock', 'module'))
        self.check(title, f'{stock:.3f}', f'{module:.3f}',
                   f'{bound_text}, is {module / stock:.3f}', module <= bound * stock)


def compare(results, switched, held):
    goals = Goals()
    goals.ratio('longest stall, s', results, 'stall_s', 1 / 20, '<= 1/20')
    goals.ratio('total time, s', results, 'seconds', 1, '<= 1.0')
    goals.ratio('downtime with as much left, s', switched, 'downtime_s', 1, '<= 1.0')
    worst = {name: max(abs(value - percent) for percent, value in values.items())
             for name, values in held.items()}
    goals.check('worst error of the throttle, points', f"{worst['stock']:.2f}",
                f"{worst['module']:.2f}", '<= 0.25', worst['module'] <= 0.25)
    return goals.missed


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--runs', type=int, default=1)
    parser.add_argument('--compare', action='store_true')
    parser.add_argument('--output', required=True)
    return parser.parse_args()


def main():
    options = parse_options()
    progress('reading the QEMUs into memory')
    migration.prepare()
    stock = migration.into_memory(migration.STOCK, 'qemu-stock')
    patched = migration.into_memory(migration.PATCHED, 'qemu-patched')
    for binary in stock, patched:
        migration.warm_up(binary)
    migration.be_on_time()
    output = {'results': demo(stock, patched, options.runs)}
    missed = 0
    if options.compare:
        output['switched'] = switch_overs(stock, patched)
        output['held'] = accuracy(stock, patched)
        missed = compare(output['results'], output['switched'], output['held'])
    with open(options.output, 'w', encoding='utf-8') as file:
        json.dump(output, file)
    return 1 if missed else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except Failed as failure:
        progress(failure)
        sys.exit(1)
