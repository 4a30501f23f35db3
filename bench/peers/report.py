#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes Markdown tables of what measure.py has measured.

Reads JSON, writes Markdown. A dash is what a peer can't do.
"""
import json
import sys


def text(value, form='.2f', factor=1):
    return '-' if value is None else format(value * factor, form)


def table(title, head, rows):
    print(f'\n## {title}\n')
    print('| ' + ' | '.join(head) + ' |')
    print('|---' + '|---:' * (len(head) - 1) + '|')
    for row in rows:
        print('| ' + ' | '.join(row) + ' |')


def errors(run):
    """Percentage points that each target was missed by."""
    return [None if result['actual'] is None else
            abs(result['actual'] - result['target_x100'] / 100) for result in run['results']]


def worst(values):
    return None if None in values else max(values)


def shares(runs, title):
    """A table of actual throttles for runs with the same targets."""
    targets = [result['target_x100'] for result in runs[0]['results']]
    table(title, ['peer'] + [f'{target / 100:g} %' for target in targets] + ['worst error'],
          [[run['peer']] + [text(result['actual']) for result in run['results']] +
           [text(worst(errors(run)))] for run in runs])


def stalls(runs):
    table('Longest and 99th-percentile stall of the guest, 1 vCPU, ms',
          ['peer'] + [f'{result["target_x100"] / 100:g} %' for result in runs[0]['results']],
          [[run['peer']] + [
              '-' if result['actual'] is None else
              f'{result["stall_max_ns"] / 1e6:.1f} / {result["stall_p99_ns"] / 1e6:.1f}'
              for result in run['results']] for run in runs])


def useful(runs, title):
    """Work over the share of full speed that the target leaves."""
    table(title, ['peer', 'full, units/s'] + [
        f'{result["target_x100"] / 100:g} %' for result in runs[0]['results']],
          [[run['peer'], f'{run["full_speed"]:.0f}'] + [
              '-' if result['actual'] is None else
              f'{100 * (100 - result["actual"]) / (100 - result["target_x100"] / 100):.0f} %'
              for result in run['results']] for run in runs])


def costs(runs):
    table('Host cost at 50 %: a CPU that neither the guest nor anybody else gets',
          ['peer', 'vCPUs', 'µs per window', 'windows/s', 'ms/s', 'ms/s unthrottled'],
          [[run.get('peer', 'floor: exit, sleep, wake, entry'), str(run['vcpus']),
            text(run.get('ns_per_window'), '.1f', 1e-3), text(run.get('windows_per_s'), '.1f'),
            text(run.get('ns_per_s'), '.2f', 1e-6), text(run.get('full_ns_per_s'), '.2f', 1e-6)]
           for run in runs])


def latencies(runs):
    def worst_of(run, key):
        values = [result[key] for result in run['results'] if key in result]
        return text(max(values) if values else None, '.2f', 1e-6)

    table('Latency at 99 %, worst, ms', ['peer', 'vCPUs', 'slow', 'full speed', 'stop'],
          [[run['peer'], str(run['vcpus'])] +
           [worst_of(run, key) for key in ('slow_ns', 'fast_ns', 'stop_ns')] for run in runs])


def main():
    results = json.load(sys.stdin)
    runs = {}
    for run in results['runs']:
        runs.setdefault(run['what'], []).append(run)
    print('# Ways to throttle a VM, on the same guest\n')
    print(f'`make bench{" QUICK=1" if results["quick"] else ""}`, Linux {results["kernel"]}, '
          'one emulated CPU, virtual time.')
    for vcpus in sorted({run['vcpus'] for run in runs.get('accuracy', ())}):
        some = [run for run in runs['accuracy'] if run['vcpus'] == vcpus]
        shares(some, f'Actual throttle in percent, {vcpus} vCPUs on 1 CPU')
        if vcpus == 1:
            stalls(some)
    if 'cost' in runs or 'floor' in runs:
        costs(runs.get('cost', []) + runs.get('floor', []))
    if 'latency' in runs:
        latencies(runs['latency'])
    for guest, title in (('lock', 'contends for a spinlock'), ('token', 'passes a token')):
        if guest in runs:
            useful(runs[guest], f'Work over the ideal share: 4 vCPUs on 1 CPU, a guest that {title}')
    for run in runs.get('scale', ()):
        shares([run], f'Actual throttle in percent, {run["vms"]} VMs of {run["vcpus"]} vCPUs on 1 CPU')
    speeds = {run['loaded']: run['speed'] for run in runs.get('idle', ())}
    if len(speeds) == 2:
        print(f'\nSpeed with the module loaded, over not loaded: {speeds[True] / speeds[False]:.5f}')


if __name__ == '__main__':
    main()
