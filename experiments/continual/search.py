"""Which settings compete on validation data, and which are run in full.

A *contest* is all candidates for one place in the tables: the coefficients of a
method at one α, transform and learning rate; or, where the learning rate is
chosen as well, the pairs of both. The first is the protocol's.
"""

from collections.abc import Mapping, Sequence

from absl import logging

from experiments.continual import analysis as continual_analysis
from experiments.continual import cells as continual_cells
from experiments.continual import settings as continual_settings
from experiments.continual.cells import Course
from experiments.continual.cells import Key
from experiments.continual.settings import ContinualSettings
from experiments.report import naming
from experiments.report.statistics import Row

Contest = dict[Key, tuple[float, ...]]


def contests(
  s: ContinualSettings, plans: Mapping[str, Course]
) -> list[Contest]:
  """All contests of a run: by key, the coefficients that take part."""
  out: dict[tuple[object, ...], Contest] = {}
  for key in continual_cells.keys(s, plans):
    of_line = tuple(getattr(key, name) for name in continual_analysis.LINE)
    which = of_line if s.choose_learning_rate else key
    coefficients = continual_settings.coefficients(s, key.method)
    out.setdefault(which, {})[key] = coefficients
  return list(out.values())


def candidates(every: Sequence[Contest]) -> Contest:
  """What is to be searched: all of the contests that have several."""
  several = (c for c in every if len(_pairs(c)) > 1)
  return {key: mine for contest in several for key, mine in contest.items()}


def at_most(s: ContinualSettings, every: Sequence[Contest]) -> Contest:
  """As many as can be run in full of each contest, before it is decided."""
  number = 2 if s.run_protocol else 1
  return _by_key(pair for c in every for pair in _pairs(c)[:number])


def chosen(
  s: ContinualSettings, every: Sequence[Contest], searched: Sequence[Row]
) -> Contest:
  """What is run in full: the best on validation data, and the protocol's.

  Which is the best says `continual_analysis.select`, with `choose_margin`.

  Args:
    s: the run's settings; without `run_protocol` the best alone is run.
    every: of `contests`.
    searched: rows of the search.

  Returns:
    By key, its coefficients. A contest of which no candidate has learned all
    tasks of the search is run with the protocol's. What is at the edge of what
    was tried is told in a warning.
  """
  out = []
  for contest in every:
    pairs = _pairs(contest)
    mine = [row for row in searched if _key(row) in contest]
    best = continual_analysis.select(mine, s.choose_margin)
    if not best:
      out.append(pairs[0])
      if len(pairs) > 1:
        logging.warning(
          '%s: every candidate failed in the search; the first of them is run.'
          ' Lower learning_rate.',
          _name(pairs[0][0]._asdict()),
        )
      continue
    found = best[0]
    pair = _key(found), found['coefficient']
    out += [pairs[0], pair] if s.run_protocol else [pair]
    for field in continual_analysis.at_edge(found, mine):
      logging.warning(
        '%s: the best %s, %g, is at the edge of those that were tried; what is'
        ' beyond it may be better.',
        _name(found),
        field.replace('_', ' '),
        found[field],
      )
  return _by_key(out)


def _pairs(contest: Contest) -> list[tuple[Key, float]]:
  return [(key, c) for key, several in contest.items() for c in several]


def _by_key(pairs) -> Contest:
  out: Contest = {}
  for key, coefficient in dict.fromkeys(pairs):
    out[key] = (*out.get(key, ()), coefficient)
  return out


def _key(row: Row) -> Key:
  return Key(*(row[name] for name in Key._fields))


def _name(row: Row) -> str:
  line = continual_analysis.LINE
  return naming.net_name({name: row[name] for name in line})
