#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes Markdown tables of what measure.py has measured, and compares it with the goals.

Reads JSON, writes Markdown. A dash is what a peer can't do.
"""
import json
import statistics
import sys

OURS = 'kvm_throttle'
QEMU = 'qemu'

NAMES = {
    'none': 'no throttle', OURS: '**kvm_throttle**', 'kvm_throttle-qemu': 'kvm_throttle, of QEMU',
    QEMU: 'stock QEMU', 'qemu-vcpu-timers': 'QEMU, timers per vCPU',
    'cpu.max-vcpu-100ms': 'cpu.max, 100 ms', 'cpu.max-vcpu-10ms': 'cpu.max, 10 ms',
    'cpu.max-vm-100ms': 'cpu.max of the VM, 100 ms', 'pause-resume': 'pause and resume',
    'pause-resume-qemu': 'pause and resume, of QEMU', 'sigstop': 'SIGSTOP',
    'floor': 'a bare exit, sleep and entry'}


# Of the goals with one CPU.
VENDOR = 'AMD'


def plural(number, what):
    return f'{number} {what}{"s" if number > 1 else ""}'


def machine(run):
    """Of how many CPUs, and whose."""
    what = f'emulated {run["vendor"]} CPU'
    return f'one {what}' if run['cpus'] == 1 else plural(run['cpus'], what)


def by(runs, *keys):
    """Lists of those that have all these in common, in order."""
    groups = {}
    for run in runs:
        groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    return [groups[key] for key in sorted(groups)]


def name(run):
    return NAMES[run.get('peer', 'floor')]


def text(value, form='.2f', factor=1):
    return '-' if value is None else format(value * factor, form)


def table(title, head, rows):
    print(f'\n## {title}\n')
    print('| ' + ' | '.join(head) + ' |')
    print('|---' + '|---:' * (len(head) - 1) + '|')
    for row in rows:
        print('| ' + ' | '.join(row) + ' |')


def targets_of(runs):
    """All that any of them has been set to."""
    return sorted({result['target_x100'] / 100 for run in runs for result in run['results']})


def percents(runs):
    return [f'{target:g} %' for target in targets_of(runs)]


def cells(run, targets, form):
    """What form makes of each result: nothing of one that was not measured."""
    results = {result['target_x100'] / 100: result for result in run['results']}
    return ['' if target not in results else
            '-' if results[target]['actual'] is None else form(results[target])
            for target in targets]


def worst_error(run):
    """In points, of the targets that it can be set to."""
    return max(abs(result['actual'] - result['target_x100'] / 100)
               for result in run['results'] if result['actual'] is not None)


def result_at(run, target):
    """At a percentage."""
    for result in run['results']:
        if result['target_x100'] == target * 100 and result['actual'] is not None:
            return result
    return None


def useful_share(result):
    """Work over what the target leaves of full speed."""
    return (100 - result['actual']) / (100 - result['target_x100'] / 100)


def window_ns(run):
    """What a window costs the host."""
    return run.get('ns_per_window')


def added_window_ns(run):
    """The same without what it costs unthrottled, such as ticks."""
    if not run.get('windows_per_s') or 'full_ns_per_s' not in run:
        return None
    return (run['ns_per_s'] - run['full_ns_per_s']) / run['windows_per_s']


def values_of(run, key):
    """Below 0 is what nobody has seen."""
    return [result[key] for result in run['results'] if result.get(key, -1) >= 0]


def shares(runs, title):
    """A table of actual throttles for runs with the same targets."""
    table(title, ['actual, % at a target of'] + percents(runs) + ['worst error'],
          [[name(run)] + cells(run, targets_of(runs), lambda result: text(result['actual'])) +
           [text(worst_error(run))] for run in runs])


def stalls(runs):
    whose = 'the first of ' * (runs[0]['vcpus'] > 1) + plural(runs[0]['vcpus'], 'vCPU')
    table(f'Longest stall that the guest saw, {whose} on {machine(runs[0])}, ms', ['at'] + percents(runs),
          [[name(run)] + cells(run, targets_of(runs),
                               lambda result: text(result['stall_max_ns'], '.1f', 1e-6))
           for run in runs])


def meters(runs):
    def stalls_of(run):
        if not run['meter']:
            return '-', '-'
        seen = run['meter']['vcpus'][0]['stalls']
        return text(seen['longest_ns'], '.1f', 1e-6), text(seen['p99_ns'], '.1f', 1e-6)

    table('Stalls at 99 %, by kvm-throttle-meter, 1 vCPU, ms',
          ['', 'longest', '99th percentile'], [[name(run), *stalls_of(run)] for run in runs])


def useful(runs, title):
    table(title, ['', 'units/s at full speed'] + percents(runs),
          [[name(run), f'{run["full_speed"]:.0f}'] +
           cells(run, targets_of(runs), lambda result: f'{100 * useful_share(result):.0f} %')
           for run in runs])


def costs(runs):
    table('Host cost at 50 %: time of a CPU that neither the guest nor anybody else gets',
          ['', 'vCPUs', 'windows/s', 'ms/s', 'ms/s unthrottled', 'µs a window',
           'µs a window above unthrottled'],
          [[name(run), str(run['vcpus']), text(run.get('windows_per_s'), '.1f'),
            text(run.get('ns_per_s'), '.2f', 1e-6), text(run.get('full_ns_per_s'), '.2f', 1e-6),
            text(window_ns(run), '.1f', 1e-3), text(added_window_ns(run), '.1f', 1e-3)]
           for run in runs])
    print("\nWithout the time of QEMU's thread that migrates.")


def latencies(runs):
    def milliseconds(run, key):
        values = values_of(run, key)
        if not values:
            return '-'
        return f'{statistics.median(values) / 1e6:.2f} / {max(values) / 1e6:.2f}'

    table('Latency at 99 %, median and worst, ms',
          ['', 'vCPUs', 'set: slow', 'clear: full speed', 'stop request: all stopped'],
          [[name(run), str(run['vcpus'])] +
           [milliseconds(run, key) for key in ('slow_ns', 'fast_ns', 'stop_ns')]
           for run in runs])


def scales(runs):
    for run in runs:
        for result in run['results']:
            yield [name(run), f'{run["vms"]} × {run["vcpus"]}',
                   f'{result["target_x100"] / 100:g} %', text(result['actual']),
                   text(result['set_ns'], '.2f', 1e-6), text(result['clear_ns'], '.2f', 1e-6)]


def healths(runs):
    for run in runs:
        for result in run['results']:
            yield [name(run), f'{result["target_x100"] / 100:g} %'] + (
                ['-'] * 6 if result['bytes'] is None else
                [text(result['cpu_ns'] / result['ns'], '.2f', 100)] +
                [text(result[f'late_{which}_ns'], '.2f', 1e-6) for which in ('p50', 'p99', 'max')] +
                [text(result['bytes'] / result['ns'], '.3f', 1e3), str(result['retransmits'])])


class Goals:
    """Ours against what is to be reached."""

    def __init__(self, runs):
        self.runs = runs
        self.rows = []

    def find(self, what, peer=OURS, vcpus=None, cpus=1):
        for run in self.runs.get(what, ()):
            if run.get('peer') == peer and vcpus in (None, run['vcpus']) and \
                    (run['cpus'], run['vendor']) == (cpus, VENDOR):
                return run
        return None

    def has(self, what, cpus):
        return any(run['cpus'] == cpus for run in self.runs.get(what, ()))

    def check(self, measure, value, bound, form='.2f', unit=''):
        self.rows.append([measure, f'≤ {format(bound, form)}{unit}',
                          f'{format(value, form)}{unit}',
                          'met' if value <= bound else '**missed**'])

    def ratio(self, measure, ours, other, bound, bound_text):
        self.rows.append([measure, bound_text, f'{ours / other:.3f}',
                          'met' if ours <= bound * other else '**missed**'])

    def accuracy(self):
        ours, qemu = self.find('accuracy', vcpus=1), self.find('accuracy', QEMU, 1)
        self.check('worst accuracy error, 1 vCPU', worst_error(ours), 0.05, unit=' points')
        self.ratio("the same, over stock QEMU's", worst_error(ours), worst_error(qemu), 1 / 10,
                   '≤ 1/10')
        ours = self.find('accuracy', vcpus=22)
        best = min(worst_error(run) for run in self.runs['accuracy']
                   if (run['vcpus'], run['cpus']) == (22, 1) and OURS not in run['peer'])
        self.check('worst accuracy error, 22 vCPUs on 1 CPU', worst_error(ours), 0.25,
                   unit=' points')
        self.ratio("the same, over the best peer's", worst_error(ours), best, 1 / 20, '≤ 1/20')

    def accuracy_smp(self):
        for vcpus, bound in (4, 0.05), (22, 0.10):
            ours, qemu = [worst_error(self.find('accuracy', peer, vcpus, 4))
                          for peer in (OURS, QEMU)]
            self.check(f'worst accuracy error, {vcpus} vCPUs on 4 CPUs', ours, bound, '.3f',
                       ' points')
            self.rows.append(['the same, stock QEMU', '-', f'{qemu:.2f} points', '-'])

    def stall(self):
        ours, qemu = [result_at(self.find('accuracy', peer, 1), 99)['stall_max_ns']
                      for peer in (OURS, QEMU)]
        self.check('longest stall at 99 %, by the guest', ours / 1e6, 20, '.1f', ' ms')
        self.ratio("the same, over stock QEMU's", ours, qemu, 1 / 20, '≤ 1/20')

    def cost(self):
        one, many = self.find('cost', vcpus=1), self.find('cost', vcpus=64)
        self.ratio("cost of a window, 1 vCPU, over stock QEMU's", window_ns(one),
                   window_ns(self.find('cost', QEMU, 1)), 1 / 3, '≤ 1/3')
        self.rows.append(["a bare exit, sleep and entry, over stock QEMU's", '-', format(
            window_ns(self.find('floor', None, 1)) / window_ns(self.find('cost', QEMU, 1)),
            '.3f'), '-'])
        for vcpus in [run['vcpus'] for run in self.runs['floor']]:
            self.ratio(f'cost of a window over a bare exit, sleep and entry, vCPUs: {vcpus}',
                       window_ns(self.find('cost', vcpus=vcpus)),
                       window_ns(self.find('floor', None, vcpus)), 1.3, '≤ 1.3')
        if many:
            self.ratio('growth of the cost for each vCPU, 1 to 64', window_ns(many),
                       window_ns(one), 1.1, '≤ 1.1')

    def stop(self):
        for vcpus in sorted({run['vcpus'] for run in self.runs['latency']}):
            ours, none = [statistics.median(values_of(self.find('latency', peer, vcpus),
                                                      'stop_ns')) for peer in (OURS, 'none')]
            self.ratio(f'stop request at 99 % over unthrottled, with vCPUs: {vcpus}', ours, none, 1.1,
                       '≤ 1.1')

    def lock(self):
        share = 100 * useful_share(result_at(self.find('lock'), 50))
        self.rows.append(['contended spinlock at 50 %, of the ideal share', '≥ 95 %',
                          f'{share:.1f} %', 'met' if share >= 95 else '**missed**'])

    def idle(self):
        def speeds(loaded, attached):
            return [run['speed'] for run in self.runs['idle']
                    if (run['loaded'], run['attached']) == (loaded, attached)]

        unloaded = speeds(False, False)
        for measure, ours in (('loaded, over not loaded', speeds(True, False)),
                              ('attached to the VM at 0 %, over not loaded', speeds(True, True))):
            self.rows.append([f'speed with the module {measure}', '-',
                              f'{statistics.mean(ours) / statistics.mean(unloaded):.5f}', '-'])
        self.rows.append(['the same speed measured again', '-',
                          f'{max(unloaded) / min(unloaded):.5f}', '-'])

    def show(self):
        for cpus, needed, compare in (
                (1, ('accuracy',), self.accuracy), (1, ('accuracy',), self.stall),
                (4, ('accuracy',), self.accuracy_smp), (1, ('cost', 'floor'), self.cost),
                (1, ('latency',), self.stop), (1, ('lock',), self.lock),
                (1, ('idle',), self.idle)):
            if all(self.has(what, cpus) for what in needed):
                compare()
        if self.rows:
            table('Goals', ['measure', 'goal', 'reached', ''], self.rows)


def main():
    results = json.load(sys.stdin)
    runs = {some[0]['what']: some for some in by(results, 'what')}
    print('<!-- SPDX-License-Identifier: GPL-2.0-or-later -->')
    print('# Ways to throttle a VM, on the same guest\n')
    print('In virtual time: 4 ns are an instruction of one CPU. What isn\'t said to be of several\n'
          'CPUs is of one.\n')
    for some in by(results, 'command', 'kernel', 'cpus', 'vendor'):
        print(f'- {", ".join(sorted({run["what"] for run in some}))}: `{some[0]["command"]}`, '
              f'Linux {some[0]["kernel"]}, {machine(some[0])}')
    Goals(runs).show()
    for some in by(runs.get('accuracy', ()), 'cpus', 'vcpus', 'vendor'):
        shares(some, f'Accuracy, {plural(some[0]["vcpus"], "vCPU")} on {machine(some[0])}')
        if some[0]['vcpus'] == 1 or some[0]['cpus'] > 1:
            stalls(some)
    if 'stall' in runs:
        meters(runs['stall'])
    if 'cost' in runs or 'floor' in runs:
        costs(runs.get('cost', []) + runs.get('floor', []))
    if 'latency' in runs:
        latencies(runs['latency'])
    for guest, title in (('lock', 'contend for a spinlock'), ('token', 'pass a token')):
        for some in by(runs.get(guest, ()), 'cpus', 'vendor'):
            useful(some, f'Work over the ideal share: 4 vCPUs on {machine(some[0])} that {title}')
    if 'scale' in runs:
        table('Many vCPUs on 1 CPU', ['', 'VMs × vCPUs', 'target', 'actual, %', 'ms to set all',
                                      'ms to clear all'], list(scales(runs['scale'])))
    if 'health' in runs:
        table('A Linux guest of QEMU with a 1 kHz timer and a TCP stream to the host',
              ['', 'target', 'vCPU on the CPU, %', 'timer late by, ms: median',
               '99th percentile', 'most', 'MB/s', 'retransmissions'],
              list(healths(runs['health'])))


if __name__ == '__main__':
    main()
