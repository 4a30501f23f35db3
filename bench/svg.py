# SPDX-License-Identifier: GPL-2.0-or-later
"""What the pictures of all benchmarks have in common."""
import html
import re
import subprocess

# Okabe and Ito's colours, which the colour-blind tell apart; each line also has marks and
# dashes of its own, for who sees none.
BLUE, RED, YELLOW, GREEN, SKY, PINK, GREY, BLACK = (
    '#0072b2', '#d55e00', '#e69f00', '#009e73', '#56b4e9', '#cc79a7', '#888888', '#000000')

# A browser that shows dark pages turns the lightness round, and leaves the hues.
STYLE = ('<style>@media (prefers-color-scheme: dark) '
         '{ svg { filter: invert(0.92) hue-rotate(180deg) } }</style>')


def head(width, height):
    """How each gnuplot script begins."""
    return (f'set terminal svg noenhanced size {width},{height} font "sans-serif,13" '
            'background "white"\nset encoding utf8\nset grid lc rgb "#cccccc"\n'
            'set tics nomirror\nset border 3\n')


def draw(script, title, description):
    """Returns the SVG that gnuplot makes of a script, with a title and a description."""
    svg = subprocess.run(['gnuplot', '-d'], input=script, capture_output=True, text=True,
                         check=True).stdout
    about = (f'<title>{html.escape(title)}</title>\n'
             f'<desc>{html.escape(description)}</desc>\n{STYLE}')
    svg, nr = re.subn(r'<title>.*?</title>\s*<desc>.*?</desc>', lambda _: about, svg,
                      count=1, flags=re.DOTALL)
    assert nr == 1, 'gnuplot makes other SVGs than it did'
    return svg
