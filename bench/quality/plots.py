"""The plots of docs/quality.md, drawn by gnuplot as SVG, each from the rows of its table."""
import os
import shutil
import subprocess
import sys

import tables

TITLES = {
    'frontier': 'KL against bytes moved',
    'rules': 'KL against k by rule, SmolLM2 and Gemma',
    'calibration': 'KL against tokens of calibration by kind of text',
    'recall': 'mass held by layer',
    'break_even': 'time of a token against dense by context',
    'needle': 'keys found by length and depth',
}
BESIDE = {name: [name] for name in TITLES} | {'gemma_rules': [], 'rules': ['rules']}

HEAD = '''set encoding utf8
set terminal svg size {width},{height} font "sans,12" background "white"
set key outside right
set grid
set style data linespoints
'''


def curves(series, labels, extra='', width=760, height=420):
    """A script that draws named lists of points; labels of x and y."""
    lines = [HEAD.format(width=width, height=height), extra,
             f'set xlabel "{labels[0]}"\nset ylabel "{labels[1]}"\n']
    names = [name for name, points in series.items() if points]
    for i, name in enumerate(names):
        points = '\n'.join(f'{x:g} {y:g}' for x, y in sorted(series[name]))
        lines.append(f'$d{i} << END\n{points}\nEND\n')
    if not names:
        return None
    drawn = ', '.join(f'$d{i} using 1:2 title "{name}" lw 2 pt 7 ps 0.6'
                      for i, name in enumerate(names))
    return ''.join(lines) + f'plot {drawn}\n'


def group(rows, name_of, x_of, y_of):
    series = {}
    for row in rows:
        x, y = x_of(row), y_of(row)
        if x is not None and y is not None and y > 0:
            series.setdefault(name_of(row), []).append((x, y))
    return series


def frontier(data):
    def name(r):
        if r['attn'] == 'dense':
            return 'dense, coded cache'
        kind = tables.types(r)
        if r['attn'] == 'select':
            return f'select, {kind}, {tables.number(tables.selector_bytes(r["selector"]))} bytes'
        if r['attn'] == 'pages':
            return f'pages of {r["page"]}, {kind}'
        return f'{r["attn"]}, {kind}'
    series = group(tables.frontier_rows(data), name, lambda r: r['bytes_moved'],
                   lambda r: r['kl'])
    return curves(series, ('bytes moved a token of context and KV head', 'KL to dense, nats'),
                  'set logscale xy\n')


def rules(data):
    rows = [r for e in ('rules', 'gemma_rules') for r in data.get(e, [])]
    series = group(rows, lambda r: f'{tables.model(r)}, {r["rank_by"]}',
                   lambda r: r['k_ratio'], lambda r: r['kl'])
    return curves(series, ('share of dimensions that decide', 'KL to dense, nats'),
                  'set logscale y\n')


def calibration(data):
    series = group(data.get('calibration', []),
                   lambda r: f'{r["projection"].split("-")[0]}, {tables.way(r)}',
                   lambda r: int(r['projection'].split('-')[1]), lambda r: r['kl'])
    return curves(series, ('tokens of calibration', 'KL to dense, nats'),
                  'set logscale xy\nset logscale x 2\n')


def recall(data):
    series = group(data.get('recall', []), lambda r: f'mass {r["mass_asked"]:g}',
                   lambda r: r['layer'], lambda r: r['mass'])
    return curves(series, ('layer', 'softmax mass held'))


def break_even(data):
    rows = [r for r in data.get('break_even', []) if 'ratio_median' in r and r['attn'] != 'dense']
    series = group(rows, lambda r: r['attn'], lambda r: r['depth'], lambda r: r['ratio_median'])
    return curves(series, ('tokens of context', 'time of a token, dense = 1'),
                  'set logscale x 2\nset arrow from graph 0, first 1 to graph 1, first 1 nohead '
                  'dashtype 2\n')


def needle(data):
    """One small grid for each way, side by side."""
    rows = data.get('needle', [])
    ways = tables.unique(tables.way(r) for r in rows)
    if not ways:
        return None
    lengths = sorted(tables.unique(r['length'] for r in rows))
    ticks = ', '.join(f'"{n}" {i}' for i, n in enumerate(lengths))
    script = HEAD.format(width=260 * len(ways), height=300) + f'''unset key
unset grid
set cbrange [0:1]
set palette defined (0 "#b2182b", 0.5 "#f7f7f7", 1 "#2166ac")
set xtics ({ticks})
set xrange [-0.5:{len(lengths) - 0.5}]
set yrange [1.125:-0.125]
unset colorbox
set multiplot layout 1,{len(ways)}
'''
    for i, name in enumerate(ways):
        cells = [f'{lengths.index(r["length"])} {c["depth"]:g} {c["ok"] / c["tries"]:g}'
                 for r in rows if tables.way(r) == name for c in r['cells']]
        script += f'$d{i} << END\n' + '\n'.join(cells) + '\nEND\n'
        script += f'set title "{name}"\nset ylabel "{"depth" if i == 0 else " "}"\n'
        script += (f'plot $d{i} using 1:2:(0.5):(0.125):3 with boxxyerror fc palette fs solid, '
                   f'$d{i} using 1:2:(sprintf("%.2f", $3)) with labels\n')
    return script + 'unset multiplot\n'


SCRIPTS = {'frontier': frontier, 'rules': rules, 'calibration': calibration, 'recall': recall,
           'break_even': break_even, 'needle': needle}


def draw(script):
    done = subprocess.run(['gnuplot'], input=script, capture_output=True, text=True)
    if done.returncode != 0 or '</svg>' not in done.stdout:
        sys.exit('render: gnuplot: ' + (done.stderr.strip() or 'drew nothing'))
    return '\n'.join(line.rstrip() for line in done.stdout.expandtabs(1).splitlines()) + '\n'


def draw_all(data, folder):
    if not shutil.which('gnuplot'):
        print('render: gnuplot is missing, so plots are left as they are: apt-get install '
              'gnuplot-nox', file=sys.stderr)
        return
    for name, script_of in SCRIPTS.items():
        script = script_of(data)
        if script:
            with open(os.path.join(folder, name + '.svg'), 'w', encoding='utf-8') as file:
                file.write(draw(script))
