#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes an SVG of what measure.py has measured, with gnuplot.

Reads JSON, writes the SVG. Of several runs it shows the first.
"""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
import svg  # noqa: E402

# What a migration is called, its colour and dashes.
LOOKS = {
    'none': ('no throttle', svg.GREY, 3),
    'stock': ('stock QEMU\'s auto-converge', svg.RED, 2),
    'module': ('patched, kvm_throttle', svg.BLUE, 1),
}
TITLE = 'A migration of a guest that dirties memory in a loop'
COMMAND = 'bench/migration/run demo; one emulated AMD CPU, virtual time'

# What is drawn over time, its axis and range.
PANELS = ((2, 'throttle, %', '[0:105]'), (3, 'guest throughput, %\\nof full speed', '[0:105]'))


def rows(result):
    """Seconds, percentage, throughput since half a second before."""
    samples = result['samples']
    for last, (seconds, percent, _, work) in enumerate(samples):
        first = max(0, last - 5)
        then, _, _, before = samples[first]
        speed = (work - before) / (seconds - then) if last > first else result['full_speed']
        yield seconds, percent, 100 * speed / result['full_speed']


def draw_lines(results):
    # Dashes are seen on top of what is drawn through.
    results = dict(sorted(results.items(), key=lambda result: LOOKS[result[0]][2]))
    for name, result in results.items():
        yield f'${name} << END'
        yield from (' '.join(map(str, row)) for row in rows(result))
        yield 'END'
    yield f'set xrange [0:{max(result["seconds"] for result in results.values())}]'
    yield 'set xlabel "seconds since the migration began" offset 0,0.5'
    for column, label, limits in PANELS:
        yield f'set ylabel "{label}"\nset yrange {limits}'
        yield 'plot ' + ', '.join(
            '${} using 1:{} with steps lw 2 lc rgb "{}" dt {} title "{}"'.format(
                name, column, LOOKS[name][1], LOOKS[name][2],
                LOOKS[name][0] if column == PANELS[0][0] else '') for name in results)
        yield 'unset label 1\nunset key'


def draw_stalls(results):
    """A bar for each, on a scale where a tenth is as long as ten times."""
    stalls = {name: 1e3 * result['stall_s'] for name, result in results.items()}
    yield '$stalls << END'
    for place, (name, stall) in enumerate(stalls.items()):
        yield f'{place} {stall} 0x{LOOKS[name][1][1:]} "{stall:.1f} ms: {LOOKS[name][0]}"'
    yield 'END'
    yield 'set xlabel "longest stall that the guest saw, ms"\nset logscale x'
    yield f'set xrange [1:{max(100 * max(stalls.values()), 1000):.0f}]\nunset ylabel'
    yield f'set yrange [{len(stalls) - 0.5}:-0.5]\nunset ytics\nset style fill solid noborder'
    yield ('plot $stalls using (sqrt($2)):1:(1):2:($1-0.3):($1+0.3):3 with boxxyerror '
           'lc rgb variable title "", $stalls using 2:1:4 with labels left offset 1,0 title ""')


def main():
    results = {name: runs[0] for name, runs in json.load(sys.stdin)['results'].items()}
    script = [svg.head(900, 760),
              'set multiplot layout 3,1 margins 0.1,0.98,0.08,0.88 spacing 0.13',
              f'set label 1 "{TITLE}\\n{COMMAND}" at screen 0.5,0.975 center',
              'set key at screen 0.5,0.91 center horizontal samplen 3',
              *draw_lines(results), *draw_stalls(results)]
    sys.stdout.write(svg.draw('\n'.join(script) + '\n', TITLE, COMMAND))


if __name__ == '__main__':
    main()
