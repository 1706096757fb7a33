"""Times programs in turn, and compares each with one of them, round by round.

Absolute times of a shared machine say little. The ratio of two runs that follow
each other says more, and the median over rounds still more.
"""

from collections.abc import Callable, Mapping
import statistics
import time
from typing import Any, NamedTuple

import jax

Say = Callable[[str], None]


class Table(NamedTuple):
  """What a benchmark hands back.

  Attributes:
    title: one line.
    notes: sentences below the table: sizes, and what the rows are.
    rows: one per program, all with the same keys, which head the columns.
  """

  title: str
  notes: tuple[str, ...]
  rows: list[dict[str, Any]]


class Timing(NamedTuple):
  """Seconds of one program, and its ratios to the base, over the rounds.

  Attributes:
    seconds: median.
    ratio: median over rounds of (this program's / the base's seconds).
    low: smallest of these ratios.
    high: largest of these ratios.
  """

  seconds: float
  ratio: float
  low: float
  high: float


def compare(
  programs: Mapping[str, Callable[[], Any]], base: str, rounds: int, say: Say
) -> dict[str, Timing]:
  """Runs every program once to warm up and then once per round.

  The order turns from round to round, so that no program always follows the
  same one.

  Args:
    programs: by name, functions that return arrays or nothing.
    base: the program that the others are compared with.
    rounds: how often each is timed, ≥ 1.
    say: told what is going on.

  Returns:
    A timing per program, in the order of `programs`.
  """
  names = list(programs)
  for name in names:
    say(f'warming up {name}')
    jax.block_until_ready(programs[name]())
  seconds: dict[str, list[float]] = {name: [] for name in names}
  for i in range(rounds):
    first = i % len(names)
    for name in names[first:] + names[:first]:
      say(f'round {i + 1}/{rounds}: {name}')
      since = time.perf_counter()
      jax.block_until_ready(programs[name]())
      seconds[name].append(time.perf_counter() - since)

  def timing(mine: list[float]) -> Timing:
    ratios = [x / y for x, y in zip(mine, seconds[base], strict=True)]
    median = statistics.median(ratios)
    return Timing(statistics.median(mine), median, min(ratios), max(ratios))

  return {name: timing(mine) for name, mine in seconds.items()}


def ratio_cells(timing: Timing, at_most: float | None = None) -> dict[str, Any]:
  """The columns of a ratio: median, extremes, its target, whether it is met.

  Args:
    timing: of one program.
    at_most: the target, None where there is none.

  Returns:
    Column -> value.
  """
  met = None if at_most is None else timing.ratio <= at_most
  return {
    'ratio': timing.ratio,
    'low': timing.low,
    'high': timing.high,
    'target': '' if at_most is None else f'≤ {at_most:g}',
    'met': {None: '', True: 'yes', False: 'no'}[met],
  }
