#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrates guests with stock QEMU, by its own auto-converge and with kvm-throttle
converge, and says what that was like, and what the simulator says of it.

Runs in the machine of vm/vm; see run. Lines that begin with "migration:" are progress.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '../migration'))

# pylint: disable=wrong-import-position
import migration
from migration import Failed, Migration, Qemu, Workload, wait_until

SIMULATE = os.path.join(HERE, 'simulate')
MIB = 1 << 20
DOWNTIME_S = 0.3

# No migration is waited for longer.
LIMIT_S = 120
# Nor one that isn't throttled.
OWN_LIMIT_S = 15


class Case:
    """A guest, and a link."""

    def __init__(self, name, bandwidth, converges=False, **workload):
        self.name = name
        self.bandwidth = bandwidth * MIB
        self.converges = converges
        self.workload = Workload(**workload)

    def sets(self, rate):
        """What the simulator is told; rate is in units of work per second."""
        pages, fields = self.workload.pages, self.workload.fields
        size, rate = pages * migration.PAGE / MIB, rate * migration.PAGE / MIB
        if fields['workload'] == migration.HOT_SET:
            hot = size * fields['hot_pages'] / pages
            return (f'uniform:{hot}:{rate * (.9 + .1 * hot / size)}',
                    f'uniform:{size - hot}:{rate * .1 * (1 - hot / size)}')
        shape = 'uniform' if fields['workload'] == migration.UNIFORM else 'sweep'
        return (f'{shape}:{size}:{rate}',)


# A working set is sent in about a second, or in a few.
CASES = (
    Case('loop, 19 x link', 8, pages=1536, spin=4500),
    Case('uniform, 2 x link', 8, pages=4096, spin=58600, kind=migration.UNIFORM),
    Case('hot set', 8, pages=4096, spin=20000, kind=migration.HOT_SET, hot_pages=1024),
    Case('slow loop', 8, converges=True, pages=4096, spin=240000),
    Case('streaming, 2.3 x link', 8, pages=4096, spin=50000),
    Case('slow link', 2, pages=1024, spin=4500),
    Case('idle', 8, converges=True, pages=2048, spin=4500, kind=migration.IDLE, quiet_ms=20),
    Case('bursty', 8, pages=2048, spin=4500, kind=migration.BURST, busy_ms=3000,
         quiet_ms=400),
    Case('uniform, 19 x link', 8, pages=1536, spin=4500, kind=migration.UNIFORM),
)


class Variant:
    """A way to throttle."""

    def __init__(self, name, title, initial=None, increment=None, converge=()):
        self.name = name
        self.title = title
        self.converge = converge
        self.settings = {'auto_converge': bool(initial)}
        if initial:
            self.settings.update(cpu_throttle_initial=initial, max_cpu_throttle=99,
                                 cpu_throttle_increment=increment)


DEFAULTS = Variant('defaults', 'QEMU, defaults', 20, 10)
TUNED = Variant('tuned', 'QEMU, 50 + 20', 50, 20)
CONVERGE = Variant('converge', 'converge', converge=('--quiet',))
NONE = Variant('none', 'none')


def progress(text):
    print(f'migration: {text}', flush=True)


def lost_s(samples):
    """The share that auto-converge took, integrated."""
    return sum(before.percent / 100 * (now.seconds - before.seconds)
               for before, now in zip(samples, samples[1:]))


class Converge:
    """The command, from before a migration begins."""

    def __init__(self, command, source, options):
        self.log = os.path.join(migration.DIRECTORY, 'converge.log')
        self.output = os.path.join(migration.DIRECTORY, 'converge.out')
        for path in self.log, self.output:
            if os.path.exists(path):
                os.unlink(path)
        with open(self.output, 'w', encoding='utf-8') as output:
            # Not in real time, as this one is.
            self.process = subprocess.Popen(
                (command, 'converge', '--qmp', source.control, '--log', self.log, *options),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        wait_until(lambda: migration.held_by(self.process.pid) or self.process.poll(),
                   'the command to begin')

    def end(self, timeout=migration.PATIENCE_S):
        """Returns its exit status and its log."""
        status = self.process.wait(timeout)
        with open(self.output, encoding='utf-8') as file:
            self.said = file.read()
        if not os.path.exists(self.log):
            raise Failed(f'converge: {self.said}')
        with open(self.log, encoding='utf-8') as file:
            return status, [json.loads(line) for line in file]

    def stop(self):
        self.process.terminate()
        return self.end()


def migrate(case, variant, binary, command, options=()):
    """One migration; returns what to show of it."""
    with Qemu(binary, case.workload) as source, source.destination() as destination:
        full = source.speed()
        converge = None
        if variant.converge:
            converge = Converge(command, source, (*variant.converge, *options))
        done = Migration(source, destination,
                         OWN_LIMIT_S if variant is NONE else LIMIT_S,
                         max_bandwidth=case.bandwidth, downtime_limit=int(DOWNTIME_S * 1e3),
                         **variant.settings)
        result = {'case': case.name, 'variant': variant.name, 'completed': done.completed,
                  'seconds': done.seconds, 'iterations': done.iterations,
                  'downtime_s': done.downtime_s, 'stall_s': done.stall_s,
                  'percent': done.percent, 'lost_s': lost_s(done.samples),
                  'work': done.work, 'full_speed': full,
                  'work_lost_s': done.seconds - done.work / full}
        if converge:
            status, log = converge.end()
            ends = [event for event in log if event['event'] == 'end']
            if done.completed != (status in (0, 5)) or len(ends) != 1:
                raise Failed(f'{case.name}: converge: exit status {status}: {converge.said}')
            result.update(percent=ends[0]['highest_percent'], lost_s=ends[0]['lost_s'],
                          rate=ends[0]['lowest_rate_limit'],
                          status=status, log=log)
    if done.errors:
        raise Failed(f'{case.name}, {variant.title}: {done.errors} wrong pages in the guest')
    return result


def simulated(case, full, by):
    """The simulator's time and work lost of each variant; converge throttles by what @by says."""
    command = [SIMULATE, '--memory', '1', '--bandwidth', str(case.bandwidth / MIB),
               '--downtime', str(DOWNTIME_S)]
    fields = case.workload.fields
    if fields['workload'] == migration.BURST:
        command += ['--burst', ':'.join(str(migration.from_clock(fields[name]))
                                        for name in ('busy', 'quiet'))]
    if fields['workload'] == migration.IDLE:
        full = 1 / migration.from_clock(fields['quiet'])
    for one in case.sets(full):
        command += ['--set', one]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    names = {'none': 'none', 'QEMU, defaults': 'defaults', 'QEMU, 50 + 20': 'tuned',
             'converge --by=percent' if by == 'percent' else 'converge': 'converge'}
    rows = {}
    for line in answer.stdout.splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if cells[0] in names:
            rows[names[cells[0]]] = {'seconds': float(cells[2].split()[0]),
                                     'lost_s': float(cells[3].split()[0]),
                                     'completed': cells[1] == 'yes'}
    return rows


def strongest(runs):
    """The strongest throttle of each run, in the median."""
    rate = statistics.median(run.get('rate') or 0 for run in runs)
    if rate:
        return f'{rate:.0f} pages/s'
    return f"{median_of(runs, 'percent'):.2f} %"


def median_of(results, key):
    return statistics.median(result[key] for result in results)


class Goals:
    """Compares with what is to be reached."""

    def __init__(self):
        self.missed = 0
        print('\n| | goal | worst | reached |\n|---|---|---|---|')

    def check(self, title, goal, value, reached):
        self.missed += not reached
        print(f'| {title} | {goal} | {value} | {"yes" if reached else "MISSED"} |', flush=True)


def show(results, simulations, cases):
    print('Medians. s, ms: virtual time. lost: the share of the time that the guest was '
          'throttled, integrated. stall: the longest that the guest saw; none: without a throttle, '
          'in one run. In brackets: what the simulator says.\n')
    print('| | time: defaults | 50 + 20 | converge | lost: defaults | 50 + 20 | converge | '
          'stall: defaults | 50 + 20 | converge | none | strongest |')
    print('|---|' + '---:|' * 11)
    for case in cases:
        cells = []
        for key, form, factor in (('seconds', '.1f', 1), ('lost_s', '.1f', 1),
                                  ('stall_s', '.0f', 1e3)):
            for variant in DEFAULTS, TUNED, CONVERGE:
                runs = results[case.name, variant.name]
                cell = format(median_of(runs, key) * factor, form)
                if not runs[0]['completed']:
                    cell = '> ' + cell
                prediction = simulations[case.name][variant.name].get(key)
                if prediction is not None:
                    cell += f' ({prediction:{form}})'
                cells.append(cell)
        cells.append(f"{median_of(results[case.name, NONE.name], 'stall_s') * 1e3:.0f}")
        cells.append(strongest(results[case.name, 'converge']))
        print(f'| {case.name} | ' + ' | '.join(cells) + ' |', flush=True)


def compare(results, cases, own, limits):
    """Returns how many goals are missed."""
    goals = Goals()

    def ratios(key, other, variant=CONVERGE):
        return {case.name: median_of(results[case.name, variant.name], key) /
                median_of(results[case.name, other.name], key)
                for case in cases if not case.converges}

    def within(values, bound):
        return f'{sum(value <= bound for value in values.values())} of {len(values)} within'

    def check(title, goal, bound, values, more=''):
        # None of the cases that were asked for needs help.
        if not values:
            return
        name = max(values, key=values.get)
        goals.check(title, goal, f'{values[name]:.2f} ({name}); {within(values, bound)}{more}',
                    values[name] <= bound)

    check('total time / defaults', '<= 1/3', 1 / 3, ratios('seconds', DEFAULTS))
    check('total time / tuned', '<= 1', 1, ratios('seconds', TUNED))
    check('guest work lost / defaults', '<= 1/2', 1 / 2, ratios('lost_s', DEFAULTS))
    check('longest stall / defaults', '<= 1/20', 1 / 20, ratios('stall_s', DEFAULTS),
          f"; without a throttle {within(ratios('stall_s', DEFAULTS, NONE), 1 / 20)}")
    throttled = [name for name, runs in own.items() if any(run['percent'] or run['rate'] for run in runs)]
    goals.check('throttled, though it converges', '0', str(throttled or 0), not throttled)
    if limits:
        kept = [run['seconds'] <= run['limit_s'] for run in limits]
        goals.check('time limit kept', '>= 95 %', f'{sum(kept)} of {len(kept)}',
                    sum(kept) >= 0.95 * len(kept))
    return goals.missed


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--runs', type=int, default=1)
    parser.add_argument('--case', action='append', help='only this one; several times')
    parser.add_argument('--by', choices=('rate', 'percent'), help='how converge throttles')
    parser.add_argument('--output', required=True)
    return parser.parse_args()


def main():
    options = parse_options()
    progress('reading the programs into memory')
    migration.prepare()
    stock = migration.into_memory(migration.STOCK, 'qemu-stock')
    command = migration.into_memory(migration.KVM_THROTTLE, 'kvm-throttle')
    migration.warm_up(stock)
    subprocess.run((command, 'stat'), stdout=subprocess.DEVNULL, check=True)
    migration.be_on_time()
    cases = [case for case in CASES if not options.case or case.name in options.case]
    results, simulations, own, limits = {}, {}, {}, []
    means = ('--by', options.by) if options.by else ()

    def save():
        with open(options.output, 'w', encoding='utf-8') as file:
            json.dump({'results': list(results.values()), 'simulated': simulations,
                       'limits': limits}, file)

    for case in cases:
        for run in range(options.runs):
            for variant in DEFAULTS, TUNED, CONVERGE, NONE:
                # Once is enough of what isn't throttled.
                if run and (variant is NONE or case.converges and variant is not CONVERGE):
                    continue
                result = migrate(case, variant, stock, command, means)
                progress(f"run {run + 1} of {options.runs}: {case.name}, {variant.title}: "
                         f"{'' if result['completed'] else '> '}{result['seconds']:.1f} s, "
                         f"lost {result['lost_s']:.1f} s, {strongest([result])}")
                results.setdefault((case.name, variant.name), []).append(result)
                save()
                if variant is NONE and result['completed'] != case.converges:
                    progress(f"{case.name}: {'converges' if result['completed'] else 'does not converge'} "
                             'without a throttle')
                    case.converges = result['completed']
        simulations[case.name] = simulated(
            case, median_of(results[case.name, 'converge'], 'full_speed'), options.by)
        if case.converges:
            own[case.name] = results[case.name, 'converge']
            save()
            continue
        # A fifth more than it takes anyway.
        limit_s = 1.2 * median_of(results[case.name, 'converge'], 'seconds')
        run = migrate(case, CONVERGE, stock, command,
                      (*means, '--time-limit', f'{limit_s:.3f}s'))
        progress(f"{case.name}, limit {limit_s:.1f} s: {run['seconds']:.1f} s")
        limits.append({**run, 'limit_s': limit_s})
        save()
    show(results, simulations, cases)
    return 1 if compare(results, cases, own, limits) else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except Failed as failure:
        progress(failure)
        sys.exit(1)
