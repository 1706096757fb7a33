"""Compares two settings of a finished run, or of several, seed by seed.

  python -m experiments.report.compare DIR [DIR ...] BASELINE OTHER

BASELINE and OTHER say what differs, as in `method=epn method=retrain` or
`alpha=1 alpha=2,learning_rate=0.1`; everything else is the same in both, and
has a line for each of its values. Of several runs each net has the name of its
folder as `run`, and the command says in what their configs differ:

  python -m experiments.report.compare runs/a runs/b run=a run=b
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
import math
import pathlib
import sys
from typing import Any

from experiments.report import differences
from experiments.report import files
from experiments.report import markup
from experiments.report.differences import Entry


def nets_of(workdirs: Sequence[str]) -> list[Entry]:
  """The nets of finished runs.

  Args:
    workdirs: the folders, of one experiment. Where there are several, each net
      has the field `run` as well: the name of its folder.

  Raises:
    FileNotFoundError: a folder or its results.json is missing.
    ValueError: a file cannot be read, two folders have one name, or the runs
      are of different experiments.
  """
  out: list[Entry] = []
  kinds: dict[str, str] = {}
  for workdir in workdirs:
    results, _ = files.load(workdir)
    name = pathlib.Path(workdir).resolve().name
    if name in kinds:
      raise ValueError(f'Two folders are named {name}: rename one of them.')
    kinds[name] = files.experiment(results)
    nets = files.part_of(results, 'analysis').entries(results)
    if len(workdirs) > 1:
      nets = [n._replace(setting={'run': name, **n.setting}) for n in nets]
    out += nets
  if len(set(kinds.values())) > 1:
    told = ', '.join(f'{name} of {kind}' for name, kind in kinds.items())
    raise ValueError(f'Runs of one experiment are compared; these are: {told}.')
  return out


def configs_line(workdirs: Sequence[str]) -> str:
  """In which fields the configs of runs differ, and which not all have.

  Args:
    workdirs: their folders; those without a config.json are left out.

  Returns:
    A sentence, or '' where there is nothing to say.

  Raises:
    ValueError: one of them is no JSON.
  """
  configs = list(filter(None, map(files.config_of, workdirs)))
  names = dict.fromkeys(name for config in configs for name in config)
  part = [n for n in names if any(n not in config for config in configs)]
  other = [
    n
    for n in names
    if n not in part and any(c[n] != configs[0][n] for c in configs)
  ]
  told = [f'differ in {", ".join(other)}'] if other else []
  # A run does not know the fields that came after it.
  told += [f'do not all have {", ".join(part)}'] if part else []
  return f'Their configs {", and ".join(told)}.' if told else ''


def table(nets: Sequence[Entry], baseline: str, other: str) -> str:
  """How far one setting is ahead of another.

  Args:
    nets: of a run.
    baseline: 'field=value', or several with commas: what is subtracted.
    other: likewise, of the same fields. All others are the same in both.

  Returns:
    A table in Markdown with a line for every setting of the other fields that
    both have, and a line on what its cells are. Nets that have not learned as
    many tasks as each other are not compared; a sentence names them.

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
  body, apart = [], []
  for rest in rests:
    cells = []
    told = ', '.join(f'{rest[i][0]}={_text(rest[i][1])}' for i in shown)
    if lengths := differences.unequal(
      *([net.pair for net in side[rest]] for side in sides)
    ):
      apart.append(
        f'{told}{": " if told else ""}{lengths[1]}, and {lengths[0]} of'
        f' {baseline}'
      )
    for name in measures:
      first, second = (
        {
          net.pair: net.measures[name]
          for net in side[rest]
          if math.isfinite(net.measures[name])
        }
        for side in sides
      )
      found = differences.paired(first, second)
      scale = differences.scale_of(name)
      cells.append(markup.difference_cell(found, digits=2, scale=scale))
    body.append([*(_text(rest[i][1]) for i in shown), *cells])
  names = [rests[0][i][0] for i in shown]
  headers = [name.replace('_', ' ') for name in (*names, *measures)]
  lines = markup.grid(body, headers, 'left', max(len(names), 1))
  nats = [n.replace('_', ' ') for n in measures if n in differences.NATS]
  told = (
    f'{" and ".join(nats).capitalize()} in nats, all else: ' if nats else ''
  )
  note = told + markup.DIFFERENCE
  parts = [
    f'{other} minus {baseline}:',
    lines,
    note,
    markup.unequal_line(apart),
  ]
  return '\n\n'.join(filter(None, parts))


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
  files.print_anywhere()
  parser = argparse.ArgumentParser(
    prog='python -m experiments.report.compare',
    description='Compares two settings of finished runs, seeds paired.',
  )
  parser.add_argument('workdir', nargs='+', help="a run's folder")
  parser.add_argument('baseline', help='such as method=rigl, or alpha=1')
  parser.add_argument('other', help='likewise: what it is subtracted from')
  given = parser.parse_args(arguments)
  try:
    text = table(nets_of(given.workdir), given.baseline, given.other)
    line = configs_line(given.workdir)
  except (OSError, ValueError) as error:
    print(error, file=sys.stderr)
    return 1
  print('\n\n'.join(filter(None, (text, line))))
  return 0


if __name__ == '__main__':
  sys.exit(main())
