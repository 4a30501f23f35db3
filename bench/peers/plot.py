#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes an SVG of what measure.py has measured, with gnuplot.

Reads JSON, writes the SVG.
"""
import argparse
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import report  # noqa: E402
import svg  # noqa: E402

# Colour, gnuplot's mark and dashes.
LOOKS = {
    report.OURS: (svg.BLUE, 7, 1), report.QEMU: (svg.RED, 4, 1),
    'qemu-vcpu-timers': (svg.YELLOW, 2, 2), 'cpu.max-vcpu-100ms': (svg.GREEN, 8, 4),
    'cpu.max-vcpu-10ms': (svg.SKY, 10, 4), 'pause-resume': (svg.PINK, 12, 3),
    'sigstop': (svg.GREY, 1, 5), None: (svg.BLACK, 6, 2)}

# What the least that can be told is drawn as.
ACCURACY_MIN = 0.01

# The targets, evenly spaced: what matters is at the upper end.
TARGETS = (20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.9)


def name(peer):
    """What a line is called; the floor of report.py isn't one, as others are cheaper."""
    return report.NAMES[peer].strip('*') if peer else 'a bare exit and sleep'


def targets_axis(targets):
    ticks = ', '.join(f'"{target:g}" {TARGETS.index(target)}' for target in targets)
    print_to(f'set xlabel "target, %"\nset xtics ({ticks})\n'
             f'set xrange [-0.3:{len(targets) - 0.7}]')


def results(run):
    """Each target that the peer has, by its place on the axis."""
    for result in run['results']:
        if result['actual'] is not None:
            yield TARGETS.index(result['target_x100'] / 100), result


script = []


def print_to(*words):
    script.append(' '.join(map(str, words)))


def accuracy(runs):
    """How far 22 vCPUs on one CPU are off their target"""
    print_to(f'set ylabel "error, points (0 to {ACCURACY_MIN} is drawn as {ACCURACY_MIN})"')
    targets_axis(TARGETS[:-1])
    for run in runs:
        if run['what'] == 'accuracy' and run['vcpus'] == 22:
            yield run['peer'], [(at, max(ACCURACY_MIN, abs(
                result['actual'] - result['target_x100'] / 100)))
                                for at, result in results(run) if at < len(TARGETS) - 1]


def stalls(runs):
    """Longest stall that a guest with one vCPU sees"""
    print_to('set ylabel "longest stall, ms"')
    targets_axis(TARGETS)
    for run in runs:
        if run['what'] != 'accuracy' or run['vcpus'] != 1:
            continue
        points = [(at, result['stall_max_ns'] / 1e6) for at, result in results(run)]
        if run['peer'] == report.OURS and points[-1][0] == len(TARGETS) - 1:
            print_to('set label "99.9 %: only kvm_throttle goes there;\\nits period is 97 ms" '
                     f'at graph 0.98,0.12 right tc rgb "{svg.BLUE}"')
        yield run['peer'], points


def cost(runs):
    """What a window costs the host"""
    print_to('set xlabel "vCPUs, all on one CPU"\nset logscale x 2\nset xtics (1, 4, 22, 64)\n'
             'set xrange [0.9:72]\nset ylabel "time of a CPU for a window and a vCPU, µs"')
    points = {}
    for run in runs:
        if run['what'] in ('cost', 'floor') and report.window_ns(run) is not None:
            points.setdefault(run.get('peer'), []).append(
                (run['vcpus'], report.window_ns(run) / 1e3))
    for peer, line in points.items():
        if len(line) > 1:
            yield peer, line


def main():
    pictures = {'accuracy': accuracy, 'stalls': stalls, 'cost': cost}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('picture', choices=pictures)
    picture = pictures[parser.parse_args().picture]
    # Those of several CPUs are tables only.
    runs = [run for run in json.load(sys.stdin) if run['cpus'] == 1]
    command = runs[0]['command'].split(' --only')[0] if runs else ''
    kernels = sorted({f'Linux {run["kernel"]}; {report.machine(run)}' for run in runs})
    description = f'{command}, {", ".join(kernels)}, virtual time'

    lines = [(peer, line) for peer, line in picture(runs) if peer in LOOKS]
    for number, (_, line) in enumerate(lines):
        print_to(f'$line{number} << END')
        for point in line:
            print_to(*point)
        print_to('END')
    print_to('plot ' + ', '.join(
        '$line{} with linespoints lw 2 lc rgb "{}" pt {} dt {} ps 0.8 title "{}"'.format(
            number, *LOOKS[peer], name(peer)) for number, (peer, _) in enumerate(lines)))
    setup = (svg.head(760, 440) + 'set logscale y\n'
             'set key outside right top Left reverse samplen 3 spacing 1.2\n'
             f'set title "{picture.__doc__}\\n{description}"\n')
    sys.stdout.write(svg.draw(setup + '\n'.join(script) + '\n', picture.__doc__, description))


if __name__ == '__main__':
    main()
