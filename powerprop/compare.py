"""Compares two settings of a finished run, seed by seed.

  python -m powerprop.compare DIR BASELINE OTHER

BASELINE and OTHER say what differs, as in `method=epn method=retrain` or
`alpha=1 alpha=2,learning_rate=0.1`; everything else is the same in both, and
has a line for each of its values.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
import io
import math
import sys
from typing import Any, NamedTuple

from powerprop import continual_analysis
from powerprop import differences
from powerprop import redraw
from powerprop import sparse_analysis
from powerprop import tables

_CONTINUAL = ('average_accuracy', 'accuracy_before_pruning', 'used_weights')
_ONE_SHOT = ('transform', 'alpha', 'learning_rate', 'density')
_SPARSE = (
  *('method', 'distribution', 'sparsity'),
  *('transform', 'alpha', 'learning_rate'),
)


class Entry(NamedTuple):
  """A trained net.

  Attributes:
    setting: its fields but for the seed, by name.
    seed: its seed.
    measures: shares in [−1, 1], by name; nan where one does not apply.
  """

  setting: Mapping[str, Any]
  seed: Any
  measures: Mapping[str, float]


def entries(results: Mapping[str, Any]) -> list[Entry]:
  """All nets of a run that did not diverge.

  Args:
    results: the record of a run of any experiment.
  """
  rows = results.get('rows', [])
  if results.get('experiment') == 'continual':
    return [
      Entry(
        dict(zip(continual_analysis.SETTING, key, strict=True)),
        member[0]['seed'],
        {n: continual_analysis.measures(member, {})[n] for n in _CONTINUAL},
      )
      for key, group in continual_analysis.settings(rows).items()
      for member in group
    ]
  if 'plans' in results:  # sparse training has them
    return [
      Entry(
        {name: row[name] for name in _SPARSE},
        row['seed'],
        {n: row[n] for n in ('validation_accuracy', 'test_accuracy')},
      )
      for row in rows
      if sparse_analysis.finite(row)
    ]
  return [
    Entry(dict(zip(_ONE_SHOT, key, strict=True)), seed, {'test_accuracy': x})
    for key, seeds in differences.by_seed(rows).items()
    for seed, x in seeds.items()
  ]


def table(nets: Sequence[Entry], baseline: str, other: str) -> str:
  """How far one setting is ahead of another.

  Args:
    nets: of a run.
    baseline: 'field=value', or several with commas: what is subtracted.
    other: likewise, of the same fields. All others are the same in both.

  Returns:
    A table in Markdown with a line for every setting of the other fields that
    both have, and a line on what its cells are.

  Raises:
    ValueError: if there is no net, a field or a value is unknown, the two name
      different fields, or they have nothing in common.
  """
  if not nets:
    raise ValueError('The run has no nets to compare.')
  wanted = [_parsed(text, nets) for text in (baseline, other)]
  if wanted[0].keys() != wanted[1].keys():
    raise ValueError(
      f'{baseline} and {other} name different fields: name the same in both.'
    )
  named = set(wanted[0])
  sides = [_by_rest(_chosen(nets, fields), named) for fields in wanted]
  rests = [rest for rest in sides[0] if rest in sides[1]]
  if not rests:
    raise ValueError(
      f'{baseline} and {other} have no setting of the other fields in common:'
      ' name one of these as well, as in method=epn,learning_rate=0.1.'
    )
  shown = [
    i for i in range(len(rests[0])) if len({rest[i] for rest in rests}) > 1
  ]
  measures = list(nets[0].measures)
  body = []
  for rest in rests:
    cells = []
    for name in measures:
      first, second = (
        {
          net.seed: net.measures[name]
          for net in side[rest]
          if math.isfinite(net.measures[name])
        }
        for side in sides
      )
      found = differences.paired(first, second)
      cells.append(tables.difference_cell(found, digits=2))
    body.append([*(_text(rest[i][1]) for i in shown), *cells])
  names = [rests[0][i][0] for i in shown]
  headers = [name.replace('_', ' ') for name in (*names, *measures)]
  lines = tables.grid(body, headers, 'left', max(len(names), 1))
  return f'{other} minus {baseline}:\n\n{lines}\n\n{tables.DIFFERENCE}'


def _parsed(text: str, nets: Sequence[Entry]) -> dict[str, str]:
  """The fields that a text names, with their values as texts."""
  known = list(nets[0].setting)
  out = {}
  for part in text.split(','):
    name, equals, value = part.partition('=')
    if not equals or name not in known:
      raise ValueError(
        f'{part!r} is no field=value: the fields are {", ".join(known)}.'
      )
    try:
      out[name] = _text(float(value))
    except ValueError:
      out[name] = value
  return out


def _chosen(nets: Sequence[Entry], fields: Mapping[str, str]) -> list[Entry]:
  """The nets of these fields."""
  for name, value in fields.items():
    there = list(dict.fromkeys(_text(net.setting[name]) for net in nets))
    if value not in there:
      raise ValueError(f'No {name} is {value}: there are {", ".join(there)}.')
  return [
    net
    for net in nets
    if all(_text(net.setting[n]) == value for n, value in fields.items())
  ]


def _by_rest(
  nets: Iterable[Entry], named: set[str]
) -> dict[tuple[tuple[str, Any], ...], list[Entry]]:
  """The nets by the fields that nobody named."""
  out: dict[tuple[tuple[str, Any], ...], list[Entry]] = {}
  for net in nets:
    rest = tuple(i for i in net.setting.items() if i[0] not in named)
    out.setdefault(rest, []).append(net)
  return out


def _text(value: Any) -> str:
  """A value as it is given on the command line."""
  return f'{value:g}' if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints the table of the settings named on the command line."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='replace')  # a terminal may be ASCII
  parser = argparse.ArgumentParser(
    prog='python -m powerprop.compare',
    description='Compares two settings of a finished run, seeds paired.',
  )
  parser.add_argument('workdir', help="a run's folder")
  parser.add_argument('baseline', help='such as method=rigl, or alpha=1')
  parser.add_argument('other', help='likewise: what it is subtracted from')
  given = parser.parse_args(arguments)
  try:
    results, _ = redraw.load(given.workdir)
    print(table(entries(results), given.baseline, given.other))
  except (OSError, ValueError) as error:
    print(error, file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
