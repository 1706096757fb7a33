"""Means over seeds, and other small things that tables and figures share.

NumPy only.

Everything here is on the host and knows nothing of networks or files.
Weights and masks come as one array or as a sequence of arrays, one a layer.
Layers matter where a figure ranks weights, because pruning ranks them layer by
layer and layers are initialised at different scales.

A run's record is a list of *rows* (one trained network at one density);
`summarise` turns it into a *summary* (one entry a density, over seeds), which
`experiments.report.tables` prints. A *member* is one trained network:
(transform, alpha, learning rate, seed).
"""

from collections.abc import Mapping, Sequence
import itertools
import math
from typing import Any, TypeGuard

import numpy as np

Row = Mapping[str, Any]

_GROUP = ('transform', 'alpha', 'learning_rate')
_MEANS = ('test_accuracy', 'test_nll', 'mask_overlap')


def emptied(weights: Mapping[str, np.ndarray]) -> list[str]:
  """Layers that pruning left next to nothing of.

  Every layer keeps a weight by the rules of pruning; through a layer that has
  one alone hardly anything passes.

  Args:
    weights: by layer, w as the forward pass uses them.

  Returns:
    The layers of several weights of which at most one is not zero.

  Example:
    >>> emptied({'a': np.array([0., 3., 0.]), 'b': np.ones(3)})
    ['a']
  """
  return [
    name for name, w in weights.items() if np.count_nonzero(w) <= 1 < w.size
  ]


def diverged(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Members with a test accuracy or loss that is not finite, at any density.

  A network of NaNs still has an accuracy (that of always answering class 0), so
  the loss is looked at too.

  Args:
    rows: as `summarise` takes them; None counts as not finite.

  Returns:
    One {"transform", "alpha", "learning_rate", "seed"} a member, in the order
    of the rows.
  """
  members: dict[tuple[Any, ...], None] = {}
  for row in rows:
    if not (_finite(row['test_accuracy']) and _finite(row['test_nll'])):
      members[_member(row)] = None
  return [dict(zip((*_GROUP, 'seed'), m, strict=True)) for m in members]


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Means and standard deviations over seeds, at every density.

  Members that diverged (see `diverged`) are left out of every number, at every
  density. A group none of whose members is left has no entry.

  Args:
    rows: one mapping a member and density, with "transform", "alpha",
      "learning_rate", "seed", "density", "test_accuracy", "test_nll" and, where
      masks were compared, "mask_overlap" and "chance_overlap".

  Returns:
    One entry per (transform, alpha, learning rate, density), sorted by these,
    dense first: these four, the number "n" of members, and "…_mean" and "…_std"
    of accuracy, loss and overlap, and "chance_overlap". The standard deviation
    is the sample's (ddof = 1) and 0.0 for a single member: look at "n".
  """
  lost = {tuple(member.values()) for member in diverged(rows)}
  groups: dict[tuple[Any, ...], list[Row]] = {}
  for row in rows:
    if _member(row) not in lost:
      key = (*(row[name] for name in _GROUP), -row['density'])
      groups.setdefault(key, []).append(row)
  summary = []
  for key in sorted(groups):
    members = groups[key]
    entry: dict[str, Any] = dict(zip(_GROUP, key[:-1], strict=True))
    entry |= {'density': -key[-1], 'n': len(members)}
    for field in _MEANS:
      if all(field in row for row in members):
        mean, std = mean_and_std([row[field] for row in members])
        entry |= {f'{field}_mean': mean, f'{field}_std': std}
    if all('chance_overlap' in row for row in members):
      chance, _ = mean_and_std([row['chance_overlap'] for row in members])
      entry['chance_overlap'] = chance
    summary.append(entry)
  return summary


def summary_of(results: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
  """A run's summary, made from its rows where it is missing."""
  return results.get('summary') or summarise(results.get('rows', []))


def spread(items: Sequence[Any], most: int) -> list[Any]:
  """At most so many of the items, the first and the last among them.

  >>> spread('abcdefg', 4)
  ['a', 'c', 'e', 'g']
  """
  if len(items) <= most:
    return list(items)
  places = np.linspace(0, len(items) - 1, most).round()
  return [items[int(place)] for place in places]


def chunks(items: Sequence[Any], most: int) -> list[Sequence[Any]]:
  """The items in as few parts as can be, of at most so many and even length.

  >>> chunks('abcdefghi', 4)
  ['abc', 'def', 'ghi']
  """
  number = math.ceil(len(items) / most)
  ends = [i * len(items) // number for i in range(number + 1)]
  return [items[a:b] for a, b in itertools.pairwise(ends)] if number else []


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
  """Mean and sample standard deviation (ddof = 1; 0.0 for a single value).

  >>> mean_and_std([1., 3.])
  (2.0, 1.4142135623730951)
  """
  array = np.asarray(values, np.float64)
  std = float(np.std(array, ddof=1)) if array.size > 1 else 0.0
  return float(np.mean(array)), std


def _finite(value: Any) -> TypeGuard[float]:
  return value is not None and math.isfinite(value)


def _member(row: Row) -> tuple[Any, ...]:
  return (*(row[name] for name in _GROUP), row['seed'])


def histogram_edges(
  layers: Sequence[np.ndarray], reach: float, bins: int
) -> np.ndarray:
  r"""Edges of bins that are fine where weights are many, around zero.

  .. math:: e_i = s \sinh(u_i), \quad u_i \text{ equally spaced}

  with s the smallest of the arrays' median magnitudes: about as wide as they
  are far from zero, but for the middle ones. Equal bins as wide as outliers ask
  for would have nearly all of the weights in a few of them.

  Args:
    layers: weights to be compared, which share the edges; not none.
    reach: the outer edges are at ± reach > 0.
    bins: their number, ≥ 1.

  Returns:
    float64 [bins + 1], rising.

  >>> histogram_edges([np.array([-1., 1.])], 2., 4).round(2).tolist()
  [-2.0, -0.79, 0.0, 0.79, 2.0]
  """
  scale = min(float(np.median(np.abs(x))) for x in layers)
  scale = min(max(scale, 1e-6 * reach), reach)
  end = np.arcsinh(reach / scale)
  edges = scale * np.sinh(np.linspace(-end, end, bins + 1))
  edges[0], edges[-1] = -reach, reach
  return edges
