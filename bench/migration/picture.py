#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns what measure.py has measured into a gnuplot script for an SVG.

Reads JSON, writes the script. Of several runs it shows the first.
"""
import json
import sys

TITLES = {
    'none': 'stock, no auto-converge',
    'stock': 'stock, auto-converge',
    'module': 'patched, kvm\\\\_throttle',
}
COLOURS = {'none': '#888888', 'stock': '#d55e00', 'module': '#0072b2'}

HEAD = '''\
set terminal svg size 900,900 font "sans,13" background "white"
set multiplot layout 3,1 margins 0.09,0.98,0.06,0.94 spacing 0.06
set xrange [0:{end}]
set grid
set key at screen 0.5,0.975 center horizontal maxrows 1 samplen 2
'''

# What, its axis, range and how to draw it.
PANELS = (
    (2, 'throttle, %', '[0:105]', 'steps'),
    (3, 'remaining, MiB', '[0:*]', 'lines'),
    (4, 'guest throughput, % of full', '[0:105]', 'steps'),
)


def rows(result):
    """Seconds, percentage, MiB that remain, throughput since half a second before."""
    samples = result['samples']
    for last, (seconds, percent, remaining, work) in enumerate(samples):
        first = max(0, last - 5)
        then, _, _, before = samples[first]
        speed = (work - before) / (seconds - then) if last > first else result['full_speed']
        yield seconds, percent, remaining / (1 << 20), 100 * speed / result['full_speed']


def main():
    results = {name: runs[0] for name, runs in json.load(sys.stdin)['results'].items()}
    for name, result in results.items():
        print(f'${name} << END')
        for row in rows(result):
            print(*row)
        print('END')
    print(HEAD.format(end=max(result['seconds'] for result in results.values())))
    for number, (column, label, limits, style) in enumerate(PANELS):
        print(f'set ylabel "{label}"\nset yrange {limits}')
        if number == len(PANELS) - 1:
            print('set xlabel "seconds of virtual time" offset 0,0.5')
        print('plot ' + ', '.join(
            f'${name} using 1:{column} with {style} lw 2 lc rgb "{COLOURS[name]}" '
            f'title "{TITLES[name] if not number else ""}"' for name in results))
        print('unset key')


if __name__ == '__main__':
    main()
