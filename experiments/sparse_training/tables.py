"""A sparse-training run as Markdown tables, and what papers have published."""

from collections.abc import Collection, Mapping, Sequence
import itertools
import math
from typing import Any

from experiments.report import markup
from experiments.report import naming
from experiments.report import published
from experiments.report.naming import NO_LABELS
from experiments.report.published import Number
from experiments.report.published import Published
from experiments.report.statistics import Row
from experiments.sparse_training import analysis as sparse_analysis
from experiments.sparse_training.analysis import CHOICES
from experiments.sparse_training.analysis import title
from experiments.sparse_training.analysis import values

Column = tuple[float, str]  # a sparsity and a choice

_DIFFERENCE = (
  f'Difference: Powerprop minus α = 1. {markup.DIFFERENCE} Two numbers in a'
  ' cell are those of α = 1 and of Powerprop.'
)
_FLOPS = (
  'FLOPs are relative to dense training without the training multiplier, and to'
  ' the dense forward pass.'
)


def markdown(results: Mapping[str, Any]) -> str:
  """What tables.md holds and what is printed at the end of a run.

  Args:
    results: a run's record, with "rows" as `sparse_analysis.summarise` takes
      them, "dataset", "network" and "steps".

  Returns:
    Markdown, ending in a newline: test accuracies; differences, costs and what
    was chosen on validation accuracy; what has layers without weights; what
    diverged; and published numbers of the same methods and sparsities.
  """
  rows = results['rows']
  summary = sparse_analysis.summarise(rows)
  selected = sparse_analysis.select(summary)
  labels = results.get('labels', {})
  parts = [
    f'{_setting(results)}. {_how(summary, selected)}',
    _dense(selected),
    accuracy_table(summary, selected, labels),
    detail_table(rows, selected, labels),
    _notes(selected),
    emptied_line(rows, labels),
    diverged_line(rows, labels),
    *published_tables(results),
  ]
  return '\n\n'.join(part for part in parts if part) + '\n'


def accuracy_table(
  summary: Sequence[Row],
  selected: Sequence[Row],
  labels: Mapping[str, str] = NO_LABELS,
) -> str:
  """Test accuracy in percent: methods down, sparsities across.

  Args:
    summary: from `sparse_analysis.summarise`.
    selected: from `sparse_analysis.select`.
    labels: what the config calls methods.

  Returns:
    A table in Markdown, or '' for a run of dense nets alone. Every sparsity has
    a column for α = 1 and for Powerprop, whichever the run has.
  """
  sparse = [entry for entry in summary if entry['method'] != 'dense']
  chosen = {(_line(e), (e['sparsity'], e['choice'])): e for e in selected}
  ran = {(_line(e), (e['sparsity'], sparse_analysis.family(e))) for e in sparse}
  most = _most(selected)

  def cell(line: tuple[str, str], column: Column) -> str:
    entry = chosen.get((line, column))
    if entry is None:
      return 'diverged' if (line, column) in ran else 'not run'
    return _accuracy(entry, most)

  if not sparse:
    return ''
  columns = sorted({column for _, column in ran})
  body = [
    [*_names(line, labels), *(cell(line, column) for column in columns)]
    for line in dict.fromkeys(map(_line, sparse))
  ]
  headers = ['method', 'distribution', *map(_header, columns)]
  return markup.grid(body, headers, 'left', 2)


def detail_table(
  rows: Sequence[Row],
  selected: Sequence[Row],
  labels: Mapping[str, str] = NO_LABELS,
) -> str:
  """How far Powerprop is ahead, what it costs, and what was chosen.

  Args:
    rows: as `sparse_analysis.summarise` takes them.
    selected: from `sparse_analysis.select`.
    labels: what the config calls methods and transforms.

  Returns:
    A table in Markdown with a line for every method, distribution and sparsity,
    or '' where nothing was selected.
  """
  places: dict[tuple[Any, ...], dict[str, Row]] = {}
  for entry in selected:
    place = (*_line(entry), entry['sparsity'])
    places.setdefault(place, {})[entry['choice']] = entry
  choices = [c for c in CHOICES if any(c in pair for pair in places.values())]

  def both(pair: Mapping[str, Row], name: str, scale: float, unit: str) -> str:
    texts = [f'{scale * pair[c][name]:.3g}{unit}' for c in CHOICES if c in pair]
    return ' / '.join(dict.fromkeys(texts))

  body = []
  for (method, distribution, sparsity), pair in places.items():
    line = [*_names((method, distribution), labels), _percent(sparsity)]
    if len(choices) > 1:
      line.append(_difference(rows, pair))
    line += [
      _chosen(pair[choice], rows, labels) if choice in pair else '–'
      for choice in choices
    ]
    line += [
      both(pair, 'density', 100, '%'),
      both(pair, 'training_flops_ratio', 1, '×'),
      both(pair, 'inference_flops_ratio', 1, '×'),
    ]
    body.append(line)
  headers = ['method', 'distribution', 'sparsity']
  headers += ['difference'] if len(choices) > 1 else []
  headers += [f'chosen, {CHOICES[choice]}' for choice in choices]
  headers += ['weights kept', 'training FLOPs', 'inference FLOPs']
  return markup.grid(body, headers, 'left', 3) if body else ''


def emptied_line(rows: Sequence[Row], labels: Mapping[str, str]) -> str:
  """Which nets have layers without weights, in a sentence, or ''.

  Args:
    rows: with "emptied_layers"; those of older runs have none.
    labels: of the config.
  """
  return markup.emptied_line(
    rows,
    lambda row: ' '.join(
      [*_names(_line(row), labels), _percent(row['sparsity'])]
    ),
  )


def diverged_line(
  rows: Sequence[Row], labels: Mapping[str, str] = NO_LABELS
) -> str:
  """What diverged and is in no mean, in a sentence, or ''.

  Args:
    rows: as `sparse_analysis.summarise` takes them.
    labels: what the config calls methods and transforms.
  """
  seeds: dict[tuple[Any, ...], list[str]] = {}
  for row in rows:
    if not sparse_analysis.finite(row):
      key = (_line(row), _chosen(row, rows, labels), row['sparsity'])
      seeds.setdefault(key, []).append(str(row['seed']))
  # A net that was pruned to many sparsities is named once.
  sparsities: dict[tuple[Any, ...], list[str]] = {}
  for (line, setting, sparsity), which in seeds.items():
    key = (line, setting, ', '.join(which))
    sparse = line[0] != 'dense'
    sparsities.setdefault(key, []).append(_percent(sparsity) if sparse else '')
  parts = [
    ' '.join(filter(None, [*_names(line, labels), ', '.join(where)]))
    + f' ({setting}) seed{"s" if "," in which else ""} {which}'
    for (line, setting, which), where in sparsities.items()
  ]
  return f'Diverged and left out: {"; ".join(parts)}.' if parts else ''


def published_tables(results: Mapping[str, Any]) -> list[str]:
  """Published numbers of the run's methods at the run's sparsities.

  Args:
    results: as `markdown` takes them.

  Returns:
    For every setting that has such numbers a sentence that names it and this
    run's, and tables in Markdown.
  """
  methods = {row['method'] for row in results['rows']} - {'dense'}
  sparsities = {row['sparsity'] for row in results['rows']}
  out = []
  for setting in dict.fromkeys(line.setting for line in published.ROWS):
    lines = [
      line
      for line in published.ROWS
      if line.setting == setting
      and line.method in methods
      and sparsities & (line.baseline.keys() | line.powerprop.keys())
    ]
    if not lines:
      continue
    same = (results['dataset'], results['network']) == setting[1:]
    (dense,) = (
      line.baseline[0.0]
      for line in published.ROWS
      if line.setting == setting and line.method == 'dense'
    )
    out.append(
      f'Published for {setting.title}. This run is'
      f'{"" if same else " in another setting"}: {_setting(results)}. Published'
      f' dense: {_number(dense)}. In brackets: training FLOPs relative to dense'
      ' training without the training multiplier.'
    )
    out.append(_published(lines, sparsities, results.get('labels', {})))
  return out


def _published(
  lines: Sequence[Published],
  sparsities: Collection[float],
  labels: Mapping[str, str],
) -> str:
  """A table of these lines at these sparsities."""
  methods = sparse_analysis.in_order(line.method for line in lines)
  lines = sorted(lines, key=lambda line: methods.index(line.method))
  numbers = [
    {
      (sparsity, choice): number
      for choice in CHOICES
      for sparsity, number in getattr(line, choice).items()
      if sparsity in sparsities
    }
    for line in lines
  ]
  columns = sorted(set(itertools.chain(*numbers)))
  body = [
    [
      *_names((line.method, line.distribution), labels),
      line.note,
      *(_number(found[c]) if c in found else '' for c in columns),
      line.source,
    ]
    for line, found in zip(lines, numbers, strict=True)
  ]
  headers = ['method', 'distribution', '', *map(_header, columns), 'source']
  return markup.grid(body, headers, 'left', 3)


def _setting(results: Mapping[str, Any]) -> str:
  short = lambda field: naming.short_name(results[field])
  return f'{short("dataset")}, {short("network")}, {results["steps"]:,} steps'


def _how(summary: Sequence[Row], selected: Sequence[Row]) -> str:
  """What the cells are, and what was chosen how."""
  most = _most(selected)
  text = 'Test accuracy in percent, '
  text += f'mean ± std of {most} runs.' if most > 1 else 'one run each.'
  named = []
  for name, found in (
    ('α', [a for a in values(summary, 'alpha') if a > 1]),
    ('learning rate', values(summary, 'learning_rate')),
  ):
    if len(found) > 1:
      named.append(f'{name} (of {", ".join(f"{x:g}" for x in found)})')
  if named:
    text += f' By mean validation accuracy were chosen: {" and ".join(named)}.'
  return text


def _notes(selected: Sequence[Row]) -> str:
  """What the columns of the detail table mean."""
  both = len({entry['choice'] for entry in selected}) > 1
  return f'{_DIFFERENCE} {_FLOPS}' if both else _FLOPS


def _dense(selected: Sequence[Row]) -> str:
  """Dense nets have no sparsity, and so a sentence instead of a column."""
  most = _most(selected)
  parts = [
    f'{_accuracy(e, most)}' + ('' if e['alpha'] > 1 else ' (α = 1)')
    for e in selected
    if e['method'] == 'dense'
  ]
  return f'Dense: {", ".join(parts)}.' if parts else ''


def _accuracy(entry: Row, most: int) -> str:
  text = f'{100 * entry["test_accuracy_mean"]:.2f}'
  if entry['n'] > 1:
    text += f' ± {100 * entry["test_accuracy_std"]:.2f}'
  notes = [f'α = {entry["alpha"]:g}'] if entry['alpha'] > 1 else []
  notes += [f'n = {entry["n"]}'] if entry['n'] < most else []
  return text + (f' ({", ".join(notes)})' if notes else '')


def _number(number: Number) -> str:
  text = f'{number.accuracy}'
  if not math.isnan(number.std):
    text += f' ± {number.std:.2f}'
  if not math.isnan(number.training_flops_ratio):
    text += f' [{number.training_flops_ratio:.2f}×]'
  return text


def _difference(rows: Sequence[Row], pair: Mapping[str, Row]) -> str:
  if len(pair) < 2:
    return '–'
  found = sparse_analysis.difference(rows, pair['baseline'], pair['powerprop'])
  return markup.difference_cell(found, digits=2)


def _most(selected: Sequence[Row]) -> int:
  return max((entry['n'] for entry in selected), default=0)


def _chosen(entry: Row, rows: Sequence[Row], labels: Mapping[str, str]) -> str:
  """α, learning rate, and the transform if the run has several."""
  text = f'α = {entry["alpha"]:g}, lr {entry["learning_rate"]:g}'
  several = len(values(rows, 'transform')) > 1
  name = naming.transform_name(entry['transform'], labels)
  return text + (f', {name}' if several else '')


def _line(entry: Row) -> tuple[str, str]:
  return entry['method'], entry['distribution']


def _names(line: Sequence[str], labels: Mapping[str, str]) -> tuple[str, str]:
  """What a line begins with; a dense net has no distribution."""
  method, distribution = line
  where = '' if method == 'dense' else title(distribution, labels)
  return title(method, labels), where


def _percent(sparsity: float) -> str:
  return f'{100 * sparsity:.4g}%'


def _header(column: Column) -> str:
  return f'{_percent(column[0])}, {CHOICES[column[1]]}'
