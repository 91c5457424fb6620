"""The tables of docs/quality.md: for each name a function of the record that gives lines of
Markdown, or none when nothing was measured. Nothing here knows a measured number."""
import re

MODELS = {'SmolLM2-135M-Instruct.Q4_1': 'SmolLM2-135M', 'gemma-3-270m-q4_k_m': 'Gemma-3-270M'}
TEXTS = {'wikitext': 'WikiText-2', 'code-test': 'code', 'technical-test': 'technical',
         'hindi-test': 'Hindi'}
DOMAINS = ('prose', 'code', 'technical', 'hindi')


# ---- numbers and names --------------------------------------------------------------------------

def number(value, digits=3):
    """With so many significant digits and no exponent."""
    if value is None:
        return ''
    text = f'{float(f"{value:.{digits}g}"):.9f}'.rstrip('0').rstrip('.')
    return '0' if text in ('-0', '') else text


def fixed(value, places):
    return '' if value is None else f'{value:.{places}f}'


def percent(value, places=1):
    return '' if value is None else f'{100 * value:.{places}f} %'


def model(row):
    return MODELS.get(row['model'], row['model'])


def selector_bytes(layout):
    """Bytes of codes of a token: 16x4,32x2 -> 16."""
    return sum(int(c) * int(b) for c, b in re.findall(r'(\d+)x(\d+)', layout or '')) / 8


def setting(row):
    """The number that tells rows of one way apart."""
    return row.get('mass_asked') if row['attn'] == 'select' else row.get('k_ratio')


def way(row):
    """How attention was done, for people."""
    if row['attn'] == 'aqua' and row.get('k_budget'):
        return 'aqua, budgets'
    if row['attn'] == 'aqua' and row.get('k_tau'):
        return f'aqua, tau {row["k_tau"]:g}'
    if row['attn'] == 'aqua':
        return f'aqua, k {row["k_ratio"]:g}'
    if row['attn'] == 'select':
        return f'select, mass {row["mass_asked"]:g}'
    if row['attn'] == 'pages':
        return f'pages of {row["page"]}, {100 * row["attended_asked"]:g} %'
    return row['attn']


def types(row):
    keys, values = row.get('key_type', ''), row.get('value_type', '')
    return keys if keys == values else f'{keys}/{values}'


def cache_bytes(row):
    return (row.get('cache_bytes_per_token') or {}).get('all')


# ---- layout -------------------------------------------------------------------------------------

def grid(titles, rows, left=1):
    """A table whose first `left` columns are text."""
    if not rows:
        return []
    rule = ['---'] * left + ['--:'] * (len(titles) - left)
    lines = ['| ' + ' | '.join(titles) + ' |', '|' + '|'.join(rule) + '|']
    return lines + ['| ' + ' | '.join(str(cell) for cell in row) + ' |' for row in rows]


def unique(values):
    return list(dict.fromkeys(values))


def find(rows, **wanted):
    """The last row with these values, or None."""
    found = [r for r in rows if all(r.get(k) == v for k, v in wanted.items())]
    return found[-1] if found else None


def protocol(rows):
    """What the rows have in common, as a sentence in front of their table."""
    first = rows[0]
    dense = first.get('ppl_dense') or (first.get('ppl') if first['attn'] == 'dense' else None)
    text = f'{model(first)}, {first["chunks"]} chunks of {first["n_ctx"]} tokens'
    return [f'{text}; dense perplexity {fixed(dense, 3)}.' if dense else text + '.', '']


# ---- the paper's experiments --------------------------------------------------------------------

def break_even(data):
    rows = data.get('break_even', [])
    timed = [r for r in rows if 'ratio_median' in r]
    ways = unique(r['attn'] for r in timed if r['attn'] != 'dense')
    body = []
    for depth in unique(r['depth'] for r in timed):
        cells = []
        for name in ways:
            r = find(timed, attn=name, depth=depth)
            cells.append(f'{r["ratio_median"]:.3f} ({r["ratio_least"]:.3f} to '
                         f'{r["ratio_most"]:.3f})' if r else '')
        body.append([depth] + cells)
    lines = grid(['tokens of context'] + [f'{n}: time of dense\'s' for n in ways], body, 0)
    for name in ways:
        end = next((r for r in rows if r['attn'] == name and r.get('test') == 'breakeven'), None)
        if end:
            at = end.get('break_even')
            lines += ['', f'`{name}`: ' + (f'faster than dense from {at} tokens on.' if at
                                           else f'never, up to {end["longest"]} tokens.')]
    return lines


def rules_of(experiment):
    def table(data):
        rows = data.get(experiment, [])
        ratios = unique(r['k_ratio'] for r in rows)
        body = []
        for rule in unique(r['rank_by'] for r in rows):
            cells = [find(rows, rank_by=rule, k_ratio=k) for k in ratios]
            body.append([f'`{rule}`'] + [f'{c["ppl"]:.3f} / {number(c["kl"])}' if c else ''
                                         for c in cells])
        lines = grid(['perplexity / KL'] + [f'k {k:g}' for k in ratios], body)
        return protocol(rows) + lines if lines else []
    return table


def found(row):
    return sum(c['ok'] for c in row['cells']), sum(c['tries'] for c in row['cells'])


def h2o(data):
    rows = data.get('h2o', [])
    lengths = sorted(unique(r['length'] for r in rows if 'length' in r))
    body = []
    for name in unique(r['attn'] for r in rows):
        for half in (False, True):
            some = [r for r in rows if r['attn'] == name and ('h2o' in r) == half]
            score = next((r for r in some if 'ppl' in r), {})
            cells = [next((r for r in some if r.get('length') == n), None) for n in lengths]
            body.append([f'`{name}`', 'half' if half else 'all', fixed(score.get('ppl'), 3),
                         number(score.get('kl'))] +
                        ['%d of %d' % found(c) if c else '' for c in cells])
    return grid(['', 'tokens kept', 'perplexity', 'KL'] + [f'keys found at {n}' for n in lengths],
                body, 2)


# ---- bytes --------------------------------------------------------------------------------------

def cache(data):
    rows = data.get('cache', [])
    body = [[f'`{r["key_type"]}`', f'`{r["value_type"]}`', fixed(cache_bytes(r), 1),
             number(r['kl']), percent(r['top1']), fixed(r['ppl'], 3)] for r in rows]
    lines = grid(['keys', 'values', 'bytes', 'KL', 'same first choice', 'perplexity'], body, 2)
    return protocol(rows) + lines if lines else []


SELECT_TITLES = ['attended', 'mass held', 'bytes moved', 'KL', 'same first choice', 'perplexity']


def select_cells(r):
    return [percent(r['attended']), fixed(r.get('mass'), 4), fixed(r['bytes_moved'], 1),
            number(r['kl']), percent(r['top1']), fixed(r['ppl'], 3)]


def select(data):
    rows = data.get('select', [])
    body = [[f'{r["mass_asked"]:g}', r['group_by'], 'dense' if r['prefill'] == 'dense' else 'same']
            + select_cells(r) for r in rows]
    lines = grid(['mass', 'group by', 'prefill'] + SELECT_TITLES, body, 3)
    return protocol(rows) + lines if lines else []


def selectors(data):
    rows = data.get('selectors', [])
    body = []
    for r in rows:
        found = find(data.get('projections', []), projection=r['projection']) or {}
        searched = found.get('selector') == r['selector']
        name = selector_found(found) if searched else f'`{r["selector"]}`'
        read = found['bytes_read'] if searched else selector_bytes(r['selector'])
        body.append([name, r.get('basis', ''), 'searched' if searched else 'given', number(read)]
                    + select_cells(r))
    body.sort(key=lambda line: (float(line[3]), line[2]))
    return grid(['selector', 'basis', 'layout', 'bytes'] + SELECT_TITLES, body, 3)


def ranks(data):
    rows = data.get('ranks', [])
    body = []
    for r in rows:
        one = find(rows, mass_asked=r['mass_asked'], n_rank=1)
        change = percent(r['kl'] / one['kl'] - 1, 0) if one and one['kl'] else ''
        body.append([f'{r["mass_asked"]:g}', r['n_rank']] + select_cells(r) + [change])
    return grid(['mass', 'ranks'] + SELECT_TITLES + ['KL against one rank'], body, 2)


def frontier_rows(data):
    """Every measured way over 8192 tokens of WikiText-2 that loses something, on one rank, prefill
    as decode."""
    rows = [r for e in ('cache', 'select', 'frontier', 'compact')
            for r in data.get(e, [])]
    return [r for r in rows if r.get('kl') and r.get('n_rank', 1) == 1 and
            r.get('prefill') != 'dense' and r.get('bytes_moved')]


def frontier(data):
    rows = sorted(frontier_rows(data), key=lambda r: r['bytes_moved'])
    body, least = [], float('inf')
    for r in rows:
        best = r['kl'] < least
        least = min(least, r['kl'])
        name = way(r) + (f', `{r["selector"]}`' if r['attn'] == 'select' else '') + \
            (', by the mean' if r.get('group_by') == 'mean' else '')
        body.append([name, f'`{types(r)}`', percent(r.get('attended')), fixed(r['bytes_moved'], 1),
                     number(r['kl']), 'yes' if best else ''])
    return grid(['', 'cache', 'attended', 'bytes moved', 'KL', 'best of its bytes'], body, 2)


def compact(data):
    dense = [r for r in data.get('cache', []) if r['key_type'] in ('q8', 'q5m')
             and r['value_type'] in ('q8', 'q5')]
    plain = [r for r in data.get('select', []) if r['mass_asked'] in (0.95, 0.98)
             and r['group_by'] == 'max' and r['prefill'] != 'dense']
    body = [[way(r), f'`{types(r)}`', fixed(cache_bytes(r), 1), fixed(r.get('bytes_moved'), 1),
             number(r['kl']) if r['kl'] else 'reference', fixed(r['ppl'], 3)]
            for r in data.get('compact', []) + dense + plain]
    return grid(['', 'cache', 'bytes held', 'bytes moved', 'KL', 'perplexity'], body, 2)


# ---- retrieval and tasks ------------------------------------------------------------------------

def needle_of(experiment):
    def table(data):
        rows = data.get(experiment, [])
        lengths = sorted(unique(r['length'] for r in rows))
        body = []
        for name in unique(way(r) for r in rows):
            some = {r['length']: r for r in rows if way(r) == name}
            body.append([name] + ['%d of %d' % found(some[n]) if n in some else ''
                                  for n in lengths])
        return grid(['keys found'] + [f'{n} tokens' for n in lengths], body)
    return table


def tasks(data):
    rows = data.get('tasks', [])
    body = []
    for r in rows:
        dense = find(rows, task=r['task'], attn='dense')
        change = f'{r["acc"] - dense["acc"]:+.3f}' if dense else ''
        body.append([r['task'], way(r), r.get('docs', ''), fixed(r['acc'], 3),
                     fixed(r['acc_norm'], 3), change])
    return grid(['task', '', 'questions', 'acc', 'acc per character', 'acc against dense'], body, 2)


def recall(data):
    rows = data.get('recall', [])
    body = []
    for mass in unique(r['mass_asked'] for r in rows):
        some = [r for r in rows if r['mass_asked'] == mass]
        least, most = min(some, key=lambda r: r['mass']), max(some, key=lambda r: r['mass'])
        mean = sum(r['mass'] for r in some) / len(some)
        attended = [r['attended'] for r in some]
        body.append([f'{mass:g}', fixed(mean, 4), f'{least["mass"]:.4f} ({least["layer"]})',
                     f'{most["mass"]:.4f} ({most["layer"]})', percent(min(attended)),
                     percent(max(attended))])
    return grid(['mass asked', 'held, mean of layers', 'least (layer)', 'most (layer)',
                 'attended, least', 'attended, most'], body, 0)


# ---- calibration --------------------------------------------------------------------------------

def by_way(rows):
    """The rows of each way, as (what it is, rows)."""
    return [(name, [r for r in rows if way(r) == name]) for name in unique(map(way, rows))]


def kl_of(rows, **wanted):
    row = find(rows, **wanted)
    return number(row['kl']) if row else ''


def calibration(data):
    rows = data.get('calibration', [])
    ways, body = by_way(rows), []
    for name in unique(r['projection'] for r in rows):
        domain, tokens = name.split('-')[:2]
        body.append([domain, tokens] + [kl_of(some, projection=name) for _, some in ways])
    body.sort(key=lambda line: (DOMAINS.index(line[0]), int(line[1])))
    return grid(['calibrated on', 'tokens'] + [title for title, _ in ways], body, 1)


def transfer_between(rows, ways, domains):
    body = []
    for title, some in ways:
        for text in unique(r['text'] for r in some):
            own = [r for r in some if r['text'] == text]
            kls = [next((r['kl'] for r in own if r['projection'].startswith(d + '-')), None)
                   for d in domains]
            known = [k for k in kls if k is not None]
            worst = f'{max(known) / min(known):.2f}' if known and min(known) > 0 else ''
            body.append([title, TEXTS.get(text, text)] + [number(k) for k in kls] + [worst])
    titles = ['KL', 'read'] + [f'calibrated on {d}' for d in domains] + ['worst / best']
    return grid(titles, body, 2)


def transfer_rows(data):
    """Every text with every projection of 64K tokens; WikiText-2 stands with the amounts."""
    most = [r for r in data.get('calibration', []) if r['projection'].endswith('-65536')]
    return most + data.get('transfer', [])


def transfer(data):
    rows = transfer_rows(data)
    return transfer_between(rows, by_way(rows), DOMAINS)


def gemma_transfer(data):
    rows = data.get('gemma_transfer', [])
    ways = [(f'aqua, k 0.75, {rule}', [r for r in rows if r.get('rank_by') == rule])
            for rule in ('magnitude', 'energy')]
    ways.append(('select, mass 0.95', [r for r in rows if r['attn'] == 'select']))
    return transfer_between(rows, ways, ('prose', 'hindi'))


def auto(data):
    rows = data.get('auto', [])
    body = []
    for title, some in by_way(rows):
        for text in unique(r['text'] for r in some):
            own = find(some, text=text, projection='auto')
            other = next((r for r in some if r['text'] == text and r['projection'] != 'auto'), None)
            change = percent(own['kl'] / other['kl'] - 1) if own and other and other['kl'] else ''
            body.append([title, TEXTS.get(text, text), number(own['kl']) if own else '',
                         number(other['kl']) if other else '', change])
    return grid(['KL', 'read', 'from the context', 'from 64K tokens of prose', 'difference'],
                body, 2)


def adaptive(data):
    rows = data.get('adaptive', [])
    body = []
    for name in unique(r['pair'] for r in rows):
        some = [r for r in rows if r['pair'] == name]
        own = next((r for r in some if r.get('k_tau') or r.get('k_budget')), None)
        other = next((r for r in some if r is not own), None)
        kind, value = name.split('-')
        change = percent(own['kl'] / other['kl'] - 1, 0) if own and other else ''
        body.append([f'`--k-{kind}` {value}', fixed((own or {}).get('dims'), 1),
                     number((own or {}).get('kl')), number((other or {}).get('k_ratio')),
                     number((other or {}).get('kl')), change])
    return grid(['', 'dimensions', 'KL', 'fixed k: share', 'KL', 'difference'], body)


def searches(data):
    """What calibrate chose, from the reports of projections."""
    body = []
    for r in data.get('projections', []):
        columns = selector_found(r)
        body.append([f'`{r["projection"]}`', r.get('basis', ''), columns, r.get('tokens', ''),
                     r.get('tried', ''), number(r.get('loss'))])
    return grid(['projection', 'basis', 'selector found', 'tokens', 'tried', 'loss'], body, 3)


def selector_found(r):
    """A selector that was found, and how many of its columns a query reads if not all."""
    if not r.get('selector'):
        return ''
    return f'`{r["selector"]}`' + (f', {r["n_dynamic"]} read' if r.get('n_dynamic') else '')


def ablate(data):
    rows = data.get('ablate', [])
    lines = []
    for name in unique(r['id'] for r in rows):
        lines += [''] * bool(lines) + ablation([r for r in rows if r['id'] == name])
    return lines


def ablation(rows):
    body = []
    for r in rows:
        rule = r.get('rule') or r.get('rank_by') or ''
        value = setting(r) if r.get('attn') in ('aqua', 'select') else None
        body.append([r.get('basis', ''), r.get('attn', ''), rule, number(value),
                     r.get('key_type', ''), number(r.get('kl')), percent(r.get('top1')),
                     fixed(r.get('ppl'), 3), fixed(r.get('bytes_moved'), 1)])
    return grid(['basis', '', 'rule', 'k or mass', 'keys', 'KL', 'same first choice', 'perplexity',
                 'bytes moved'], body, 3)


def gemma_select(data):
    rows = data.get('gemma_select', [])
    body = [[way(r), f'`{r["selector"]}`' if r['attn'] == 'select' else '',
             number(selector_bytes(r.get('selector'))) if r['attn'] == 'select' else '']
            + select_cells(r) for r in rows]
    lines = grid(['', 'selector', 'bytes'] + SELECT_TITLES, body, 2)
    return protocol(rows) + lines if lines else []


# ---- the worst ----------------------------------------------------------------------------------

def worst(data):
    """For each way the text, the length and the task on which it loses most."""
    texts = [r for r in transfer_rows(data) if r['projection'].startswith('prose-')]
    needles, judged = data.get('needle', []), data.get('tasks', [])
    body = []
    for name in unique(way(r) for r in texts + needles + judged if r['attn'] != 'dense'):
        own = [r for r in texts if way(r) == name]
        far = max(own, key=lambda r: r['kl'], default=None)
        lost = [(found(d)[0] - found(r)[0], r['length'], found(r)[1]) for r in needles
                if way(r) == name for d in [find(needles, attn='dense', length=r['length'])] if d]
        drops = [(d['acc'] - r['acc'], r['task']) for r in judged
                 if way(r) == name for d in [find(judged, attn='dense', task=r['task'])] if d]
        cells = [f'{number(far["kl"])}, {TEXTS.get(far["text"], far["text"])}' if far else '']
        n, length, of = max(lost, default=(None, 0, 0))
        if n is None:
            cells.append('')
        else:
            cells.append(f'{n} fewer of {of}, {length} tokens' if n > 0 else 'none')
        drop, task = max(drops, default=(None, ''))
        cells.append('' if drop is None else f'{-drop:+.3f}, {task}' if drop > 0 else 'none')
        body.append([name] + cells)
    return grid(['', 'largest KL, text', 'keys lost against dense', 'acc lost, task'], body, 4)


ALL = {
    'break_even': break_even, 'rules': rules_of('rules'), 'h2o': h2o, 'cache': cache,
    'select': select, 'selectors': selectors, 'ranks': ranks, 'frontier': frontier,
    'compact': compact, 'needle': needle_of('needle'), 'tasks': tasks, 'recall': recall,
    'calibration': calibration, 'transfer': transfer, 'auto': auto, 'adaptive': adaptive,
    'searches': searches, 'ablate': ablate, 'gemma_rules': rules_of('gemma_rules'),
    'gemma_select': gemma_select, 'gemma_transfer': gemma_transfer,
    'gemma_needle': needle_of('gemma_needle'), 'worst': worst,
}
