"""How far one setting is ahead of another, and how sure that is.

Seeds of the same number start from the same weights and see the same batches,
so what they share cancels in their difference. One setting is called better
than another only where the 95% interval of the mean difference leaves out zero.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import Any, NamedTuple

from scipy import special

from experiments.report import statistics
from experiments.report.statistics import Row

# Measures that are no shares.
NATS = ('log_likelihood', 'elbo')


def scale_of(measure: str) -> float:
  """What a measure is shown times: shares are in percent, nats as they are."""
  return 1.0 if measure in NATS else 100.0


class Difference(NamedTuple):
  """How far one setting is ahead of another, over the seeds that both have.

  Attributes:
    mean: of the differences; nan where there is none.
    half: half the width of its 95% interval; nan for fewer than three seeds.
    n: number of seeds.
    ahead: number of seeds in which the difference is positive.
    behind: number of seeds in which it is negative.
  """

  mean: float
  half: float
  n: int
  ahead: int
  behind: int

  @property
  def clear(self) -> bool:
    """Whether the interval leaves out zero; false where there is none."""
    return abs(self.mean) > self.half


class Entry(NamedTuple):
  """A trained net.

  Attributes:
    setting: its fields but for the seed, by name.
    seed: its seed.
    measures: shares in [−1, 1] but for those of `NATS`, by name; nan where one
      does not apply.
    tasks: how many its measures are of.
  """

  setting: Mapping[str, Any]
  seed: Any
  measures: Mapping[str, float]
  tasks: int = 1

  @property
  def pair(self) -> tuple[Any, int]:
    """What it shares with a net that it can be compared with."""
    return self.seed, self.tasks


def half_width(std: float, n: int) -> float:
  r"""Half the width of Student's 95% interval of a mean.

  .. math:: t_{0.975,\, n - 1}\, s / \sqrt{n}

  There is none for two values: the factor is 12.7 then, and two that happen to
  be equal, as accuracies on a few hundred pictures do, would make it zero.

  Args:
    std: sample standard deviation s (ddof = 1) of n values, ≥ 0.
    n: number of values.

  Returns:
    A number ≥ 0, or nan for fewer than three values.

  >>> round(half_width(1., 5), 3)
  1.242

  References:
    Student, The probable error of a mean, Biometrika, 1908.
  """
  if n < 3:
    return math.nan
  return float(special.stdtrit(n - 1, 0.975)) * std / math.sqrt(n)


def paired(
  baseline: Mapping[Any, float], other: Mapping[Any, float]
) -> Difference:
  """How far one setting is ahead of the baseline, seed by seed.

  One difference in twenty that is none has an interval that leaves out zero all
  the same.

  Args:
    baseline: a number for each seed, or for each seed and number of tasks; what
      is subtracted.
    other: likewise; those that only one of the two has are left out.

  Returns:
    The difference, in the unit of the numbers; without a mean where one of them
    is not finite.

  >>> paired({0: .5, 1: .25, 2: 0.}, {0: .75, 1: .25})
  Difference(mean=0.125, half=nan, n=2, ahead=1, behind=0)
  """
  pairs = [other[s] - baseline[s] for s in baseline if s in other]
  if not pairs:
    return Difference(math.nan, math.nan, 0, 0, 0)
  finite = all(map(math.isfinite, pairs))
  mean, std = statistics.mean_and_std(pairs) if finite else (math.nan, math.nan)
  ahead, behind = sum(p > 0 for p in pairs), sum(p < 0 for p in pairs)
  return Difference(
    mean, half_width(std, len(pairs)), len(pairs), ahead, behind
  )


def unequal(
  baseline: Iterable[tuple[Any, int]], other: Iterable[tuple[Any, int]]
) -> tuple[str, str] | None:
  """The numbers of tasks of seeds that both have, but not of as many tasks.

  Args:
    baseline: seeds and numbers of tasks.
    other: likewise.

  Returns:
    Of the baseline and of the other as texts, or None where there are no such
    seeds.

  >>> unequal([(0, 10), (1, 10), (2, 9)], [(0, 3), (1, 4), (2, 9)])
  ('10', '3 to 4')
  """
  mine, theirs = dict(baseline), dict(other)
  lost = [s for s in mine if s in theirs and mine[s] != theirs[s]]
  if not lost:
    return None
  first, second = (sorted({of[s] for s in lost}) for of in (mine, theirs))
  text = lambda x: f'{x[0]} to {x[-1]}' if x[1:] else str(x[0])
  return text(first), text(second)


def by_seed(rows: Sequence[Row]) -> dict[tuple[Any, ...], dict[Any, float]]:
  """Test accuracies of what did not diverge, for `paired`.

  Args:
    rows: as `statistics.summarise` takes them.

  Returns:
    By (transform, alpha, learning rate, density), the accuracy of every seed.
  """
  lost = [tuple(member.values()) for member in statistics.diverged(rows)]
  out: dict[tuple[Any, ...], dict[Any, float]] = {}
  for row in rows:
    setting = row['transform'], row['alpha'], row['learning_rate']
    if (*setting, row['seed']) not in lost:
      seeds = out.setdefault((*setting, row['density']), {})
      seeds[row['seed']] = row['test_accuracy']
  return out
