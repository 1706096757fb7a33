"""One table of all recorded runs: does Powerprop help, when, at what price?

  python -m experiments.report.overview docs/results

writes it between the two marks in DIR/README.md. DIR/overview.toml lists its
rows; every number in them comes from the records beside it.
"""

import argparse
from collections.abc import Mapping, Sequence
import math
import pathlib
import sys
import tomllib
from typing import Any

from experiments.report import differences
from experiments.report import files
from experiments.report import markup
from experiments.report import statistics
from experiments.report.differences import Difference
from experiments.report.statistics import Row

MARK = '<!-- overview -->'

_HEADERS = (
  'setting',
  'method',
  'baseline (α = 1)',
  'other (α > 1)',
  'n',
  'difference',
  'here the other is',
  'the paper or the report says',
  'source',
)
# What is compared unless a row says otherwise.
_BASELINE: Row = {'transform': 'powerprop', 'alpha': 1.0}
_OTHER: Row = {'transform': 'powerprop', 'alpha': '> 1'}
_ACCURACIES = ('test_accuracy', 'average_accuracy', 'log_likelihood')
_CHOSEN = ('alpha', 'coefficient', 'learning_rate')

# Settings that fit a row, as their items: a number for each seed and number of
# tasks.
_Side = Mapping[tuple[tuple[str, Any], ...], Mapping[Any, float]]


def table(root: pathlib.Path) -> str:
  """All rows, in the order of overview.toml.

  Args:
    root: the folder that has it, and the runs' folders.

  Returns:
    A table in Markdown, without a newline at the end.

  Raises:
    FileNotFoundError: overview.toml or a run's record is missing.
    ValueError: one of them cannot be read, or a row does not fit its record.
  """
  path = root / 'overview.toml'
  if not path.is_file():
    raise FileNotFoundError(f'There is no overview.toml in {root}.')
  try:
    runs = tomllib.loads(path.read_text('utf-8'))['run']
  except (ValueError, KeyError) as error:
    raise ValueError(f'{path} cannot be read: {error}') from error
  lines = [_HEADERS, ('---',) * len(_HEADERS)]
  for run in runs:
    # Of several the nets compete: the same, run with other candidates.
    folders = run['folders']
    loaded = [files.load(root / folder)[0] for folder in folders]
    source = ', '.join(f'[{name}]({name}/README.md)' for name in folders)
    for i, row in enumerate(run['row']):
      setting = '' if i else run['setting']
      try:
        cells = _cells(loaded, row)
      except ValueError as error:
        raise ValueError(f'{path}, {folders}, {row}: {error}') from error
      lines.append((setting, *cells, source))
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def page(text: str, root: pathlib.Path) -> str:
  """A page with the table between its two marks.

  Args:
    text: of the page.
    root: as `table` takes it.

  Raises:
    FileNotFoundError: as `table` has it.
    ValueError: likewise, or there are not two marks.
  """
  parts = text.split(MARK)
  if len(parts) != 3:
    raise ValueError(f'The page has {MARK} {len(parts) - 1} times, not twice.')
  return f'{parts[0]}{MARK}\n{table(root)}\n{MARK}{parts[2]}'


def _cells(runs: Sequence[Row], row: Row) -> tuple[str, ...]:
  """The cells of a row but for the first and the last.

  Args:
    runs: the results of its run, or of several, whose nets are compared as if
      they were of one.
    row: its "method", which may have a {density}; and, where they are not the
      usual ones, "where", fields of both sides, "baseline" and "other", of one
      of them, "names", what to call these, and "measure"; "note" on what was
      found, and what is said elsewhere, "says".
  """
  nets = [
    net
    for results in runs
    for net in files.part_of(results, 'analysis').entries(results)
  ]
  if not nets:
    raise ValueError('the run has no nets.')
  where = dict(row.get('where', {}))
  if 'density' in where:  # the nearest that was tested
    tested = {net.setting['density'] for net in nets}
    where['density'] = min(tested, key=lambda d: abs(d - where['density']))
  usual = [name for name in _ACCURACIES if name in nets[0].measures]
  measure = row.get('measure', usual[0])
  scale = differences.scale_of(measure)
  sides = []
  for name, fields in (('baseline', _BASELINE), ('other', _OTHER)):
    fields = {**fields, **row.get(name, {}), **where}
    side: dict[tuple[tuple[str, Any], ...], dict[Any, float]] = {}
    for net in nets:
      value = net.measures[measure]
      if _fits(net.setting, fields) and math.isfinite(value):
        seeds = side.setdefault(tuple(net.setting.items()), {})
        if net.pair in seeds:
          raise ValueError(f'two of its runs have {net.setting}.')
        seeds[net.pair] = value
    sides.append(side)
  summaries = [e for results in runs for e in results.get('summary', ())]
  baseline, other = (_chosen(side, summaries) for side in sides)
  if len(baseline) > 1:
    raise ValueError('several baselines fit, and no validation chooses.')
  if not other:
    raise ValueError('no net fits.')
  reference = next(iter(baseline.values()), {})
  gaps = {
    dict(setting)['alpha']: differences.paired(reference, seeds)
    for setting, seeds in other.items()
  }
  if len(gaps) < len(other):
    raise ValueError(
      'several nets of one alpha fit, and no validation chooses.'
    )
  names = row.get('names', (None, None))
  numbers = [
    str(gap.n or len(seeds))
    for gap, seeds in zip(gaps.values(), other.values(), strict=True)
  ]
  return (
    row['method'].format(density=f'{100 * where.get("density", 1):.3g}%'),
    _side(baseline, sides[0], names[0] or '', scale),
    _side(other, sides[1], names[1], scale),
    '<br>'.join(numbers if len(set(numbers)) > 1 else numbers[:1]),
    '<br>'.join(
      markup.difference_cell(gap, scale=scale) for gap in gaps.values()
    ),
    '; '.join(filter(None, [_verdict(gaps), row.get('note')])),
    row.get('says', ''),
  )


def _fits(setting: Row, fields: Row) -> bool:
  """Whether a setting has the fields; '> 1' stands for any such number."""
  for name, value in fields.items():
    if name not in setting:
      raise ValueError(f'there is no {name}: it has {", ".join(setting)}.')
    mine = setting[name]
    if not (mine > 1 if value == '> 1' else mine == value):
      return False
  return True


def _chosen(side: _Side, summaries: Sequence[Row]) -> _Side:
  """The settings to show: all, or the best one on validation accuracy.

  A setting of which a seed diverged loses to any of which none did.
  """
  means = {
    tuple((name, entry[name]) for name, _ in setting): mean
    for setting in list(side)[:1]
    for entry in summaries
    if (mean := entry.get('validation_accuracy_mean')) is not None
  }
  if not means or len(side) < 2:
    return side
  merit = lambda setting: (len(side[setting]), means[setting])
  best = max(side, key=merit)
  return {best: side[best]}


def _side(
  shown: _Side, candidates: _Side, title: str | None, scale: float
) -> str:
  """Mean and standard deviation of every setting, and what tells it apart."""
  lines = []
  for setting, seeds in shown.items():
    fields = dict(setting)
    several = [
      name
      for name in _CHOSEN
      if len({dict(key).get(name) for key in candidates}) > 1
    ]
    label = [f'α = {fields["alpha"]:g}'] if title is None else [title]
    label += [
      f'{name.replace("learning_rate", "lr")} {fields[name]:g}'
      for name in several
      if name != 'alpha' and fields[name]
    ]
    mean, std = statistics.mean_and_std(list(seeds.values()))
    text = f'{scale * mean:.1f}'
    text += f' ± {scale * std:.1f}' if len(seeds) > 1 else ''
    label = [part for part in label if part]
    lines.append(text + (f' ({", ".join(label)})' if label else ''))
  return '<br>'.join(lines) or '–'


def _verdict(gaps: Mapping[float, Difference]) -> str:
  """What the differences say, by α where they do not say the same."""
  said: dict[str, list[str]] = {}
  for alpha, gap in gaps.items():
    word = 'not told apart'
    if gap.n < 3:
      word = 'not compared: too few seeds' if gap.n else 'not compared'
    elif gap.clear:
      word = 'higher' if gap.mean > 0 else 'lower'
    said.setdefault(word, []).append(f'{alpha:g}')
  if len(said) == 1:
    return next(iter(said))
  return ', '.join(f'{w} (α = {", ".join(a)})' for w, a in said.items())


def main(arguments: Sequence[str] | None = None) -> int:
  """Writes the table into the page of the folder on the command line."""
  files.print_anywhere()
  parser = argparse.ArgumentParser(
    prog='python -m experiments.report.overview',
    description='Makes the table of all recorded runs again.',
  )
  parser.add_argument('root', help='the folder with README.md, overview.toml')
  root = pathlib.Path(parser.parse_args(arguments).root)
  path = root / 'README.md'
  try:
    text = page(path.read_text('utf-8'), root)
    files.write_atomically(path, text.encode())
  except (OSError, ValueError) as error:
    print(error, file=sys.stderr)
    return 1
  print(path)
  return 0


if __name__ == '__main__':
  sys.exit(main())
