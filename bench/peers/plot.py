#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns what measure.py has measured into a gnuplot script for an SVG.

Reads JSON, writes the script.
"""
import argparse
import json
import sys

import report

COLOURS = {
    report.OURS: '#0072b2', report.QEMU: '#d55e00', 'qemu-vcpu-timers': '#e69f00',
    'cpu.max-vcpu-100ms': '#009e73', 'cpu.max-vcpu-10ms': '#56b4e9', 'pause-resume': '#cc79a7',
    'sigstop': '#888888', None: '#000000'}

HEAD = '''\
set terminal svg size 720,420 font "sans,13" background "white"
set key outside right top Left reverse samplen 2
set encoding utf8
set grid
set logscale y
'''


def title(peer):
    return report.NAMES[peer or 'floor'].strip('*').replace('_', '\\\\_')


def accuracy(runs):
    """Error over target, of many vCPUs."""
    print('set xlabel "target, %"\nset ylabel "error, points (22 vCPUs on 1 CPU)"')
    for run in runs:
        if run['what'] == 'accuracy' and run['vcpus'] == 22:
            # Less than can be told is drawn as that.
            yield run['peer'], [(result['target_x100'] / 100,
                                 max(.01, abs(result['actual'] - result['target_x100'] / 100)))
                                for result in run['results'] if result['actual'] is not None]


def stalls(runs):
    """Longest stall over target."""
    print('set xlabel "target, %"\nset ylabel "longest stall, ms (1 vCPU)"')
    for run in runs:
        if run['what'] == 'accuracy' and run['vcpus'] == 1:
            yield run['peer'], [(result['target_x100'] / 100, result['stall_max_ns'] / 1e6)
                                for result in run['results'] if result['actual'] is not None]


def cost(runs):
    """Cost of a window over number of vCPUs."""
    print('set xlabel "vCPUs"\nset ylabel "host time for a window, µs"\nset logscale x 2')
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
    print(HEAD)
    lines = [(peer, line) for peer, line in picture(json.load(sys.stdin)['runs'])
             if peer in COLOURS]
    for number, (_, line) in enumerate(lines):
        print(f'$line{number} << END')
        for point in line:
            print(*point)
        print('END')
    print('plot ' * bool(lines) + ', '.join(
        f'$line{number} with linespoints lw 2 pt 7 ps 0.5 lc rgb "{COLOURS[peer]}" '
        f'title "{title(peer)}"' for number, (peer, _) in enumerate(lines)))


if __name__ == '__main__':
    main()
