"""What training and pruning did to the weights, as numbers.

Everything here is on the host and knows nothing of networks or files.
Weights and masks come as one array or as a sequence of arrays, one a layer.
Layers matter where a figure ranks weights, because pruning ranks them layer by
layer and layers are initialised at different scales.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

import numpy as np

from experiments.report import differences
from experiments.report.differences import Entry

_SETTING = ('transform', 'alpha', 'learning_rate', 'density')

Arrays = np.ndarray | Sequence[np.ndarray]


def sign_change(initial: Arrays, final: Arrays) -> float:
  r"""Share of the weights that training carried across zero.

  .. math::
    \frac{1}{n} \#\{i : \operatorname{sign}(\theta^0_i)
    \operatorname{sign}(\theta_i) < 0\}

  A weight that is exactly zero before or after has no sign to change: it counts
  among the :math:`n`, not among the changed.

  Args:
    initial: weights :math:`\theta^0` before training, one array or one a layer.
    final: weights :math:`\theta` after training, of the same shapes.

  Returns:
    A share in [0, 1].

  >>> sign_change(np.array([1., -1., 0., 2.]), np.array([-1., -2., 3., 0.]))
  0.25

  References:
    Schwarz et al., Powerpropagation, 2021, section 3, (iii).
  """
  changed = _pooled(np.sign, initial) * _pooled(np.sign, final)
  return float(np.mean(changed < 0))


def near_zero(theta: Arrays, epsilon: float) -> float:
  """Share of the weights inside the open interval (−ε, ε).

  Args:
    theta: weights, one array or one a layer.
    epsilon: half the width of the interval, > 0.

  Returns:
    A share in [0, 1]: what the report calls sparsity.

  >>> near_zero(np.array([-0.02, 0., 0.005, 0.01]), epsilon=0.01)
  0.5

  References:
    Jain, Raj and Asgaonkar, Powerpropagation, 2022, section 5.
  """
  return float(np.mean(_pooled(np.abs, theta) < epsilon))


def kurtosis(theta: Arrays) -> float:
  r"""Excess kurtosis of a layer's weights, averaged over layers by size.

  .. math::
    \frac{1}{\sum_l n_l} \sum_l n_l
    \left(\frac{m_4(\theta_l)}{m_2(\theta_l)^2} - 3\right)

  with the central moments :math:`m_k`. It is 0 for a normal distribution and
  grows with heavy tails. It is taken within each layer, where it does not
  depend on scale, because pooling layers of different widths makes tails of its
  own. A layer of identical weights counts as 0.

  Args:
    theta: weights, one array or one a layer.

  Returns:
    A number ≥ −2.

  >>> kurtosis(np.array([-1., 1., -1., 1.]))
  -2.0

  References:
    Schwarz et al., Powerpropagation, 2021, section 3, (ii).
  """
  total, size = 0.0, 0
  for layer in _layers(theta):
    centred = layer.ravel().astype(np.float64)
    centred = centred - centred.mean()
    largest = np.max(np.abs(centred))
    if largest != 0:
      centred /= largest  # tiny weights: their fourth power would underflow
      squares = centred**2
      excess = np.mean(squares**2) / np.mean(squares) ** 2 - 3
      total += layer.size * float(excess)
    size += layer.size
  return total / size


def kept_by_decile(initial: Arrays, kept: Arrays) -> np.ndarray:
  """Share of the weights in each decile of initial size that pruning kept.

  Weights are ranked by initial magnitude within their layer (ties by index) and
  the counts are pooled over layers. A method that lets every weight compete
  has a flat profile; the "rich get richer" has one that rises.

  Args:
    initial: weights before training, one array or one a layer.
    kept: the mask after training, true or 1 where kept, of the same shapes.

  Returns:
    An array [10] of shares in [0, 1], smallest initial magnitudes first; nan
    for a decile without weights (fewer than 10 in every layer).

  >>> kept_by_decile(np.arange(10.), np.arange(10) >= 8).tolist()
  [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]

  References:
    Schwarz et al., Powerpropagation, 2021, section 3, (i).
  """
  counts, survivors = np.zeros(10), np.zeros(10)
  for layer, mask in zip(_layers(initial), _layers(kept), strict=True):
    size = layer.size
    order = np.argsort(np.abs(layer.ravel()), kind='stable')
    decile = np.empty(size, np.int64)
    decile[order] = 10 * np.arange(size) // size
    counts += np.bincount(decile, minlength=10)
    survivors += np.bincount(decile[mask.ravel().astype(bool)], minlength=10)
  with np.errstate(invalid='ignore'):
    return survivors / counts


def mask_overlap(initial_mask: Arrays, final_mask: Arrays) -> float:
  r"""Share of the kept weights that a mask at initialisation keeps as well.

  .. math:: \frac{|M_0 \wedge M_1|}{|M_1|}

  where :math:`M_0` keeps as many weights of each layer as :math:`M_1` does.

  Args:
    initial_mask: mask :math:`M_0` by magnitude before training, one array or
      one a layer.
    final_mask: mask :math:`M_1` by magnitude after training, of the same
      shapes.

  Returns:
    A share in [0, 1]; nan when nothing is kept.

  >>> mask_overlap(np.array([1, 1, 0, 0]), np.array([0, 1, 1, 0]))
  0.5

  References:
    Schwarz et al., Powerpropagation, 2021, Figure 1(b).
  """
  before = _pooled(np.bool_, initial_mask)
  after = _pooled(np.bool_, final_mask)
  kept = np.count_nonzero(after)
  return float(np.count_nonzero(before & after) / kept) if kept else math.nan


def chance_overlap(sizes: Sequence[int], kept: Sequence[int]) -> float:
  r"""Expected `mask_overlap` of two masks that are independent.

  .. math:: \frac{\sum_l k_l^2 / n_l}{\sum_l k_l}

  Args:
    sizes: number of weights :math:`n_l` of each layer.
    kept: number of weights :math:`k_l` that both masks keep in each layer.

  Returns:
    A share in [0, 1], the density itself when all layers have the same; nan
    when nothing is kept.

  >>> chance_overlap([100, 10], [10, 5])
  0.23333333333333334
  """
  n, k = np.asarray(sizes, np.float64), np.asarray(kept, np.float64)
  return float(np.sum(k**2 / n) / np.sum(k)) if np.sum(k) else math.nan


def beats_baseline_below(
  densities: Sequence[float],
  accuracies: Sequence[float],
  baseline: Sequence[float],
) -> float | None:
  """Largest tested density at and below which the baseline always loses.

  The curves cross: a dense baseline often wins. One lost density at the sparse
  end, where every network is at chance, yields None; `largest_margin` says how
  far ahead a method is where it is best.

  Args:
    densities: tested densities in (0, 1], in any order.
    accuracies: mean accuracy at each density.
    baseline: the baseline's mean accuracy at each density.

  Returns:
    A tested density, or None when the baseline wins or ties at the smallest.

  >>> beats_baseline_below([1., 0.1, 0.01], [0.97, 0.96, 0.5],
  ...                      [0.98, 0.90, 0.2])
  0.1
  """
  found = None
  points = zip(densities, accuracies, baseline, strict=True)
  for density, accuracy, reference in sorted(points):
    if not accuracy > reference:
      break
    found = float(density)
  return found


def largest_margin(
  densities: Sequence[float],
  accuracies: Sequence[float],
  baseline: Sequence[float],
) -> tuple[float, float]:
  """Where, and by how much, accuracy is furthest above the baseline's.

  Args:
    densities: tested densities in (0, 1], at least one.
    accuracies: mean accuracy at each density.
    baseline: the baseline's mean accuracy at each density.

  Returns:
    A tested density and the difference there (negative when the baseline wins
    everywhere).

  >>> largest_margin([1., 0.1], [0.5, 0.75], [0.75, 0.5])
  (0.1, 0.25)
  """
  margins = np.asarray(accuracies) - np.asarray(baseline)
  best = int(np.argmax(margins))
  return float(densities[best]), float(margins[best])


def _layers(arrays: Arrays) -> list[np.ndarray]:
  single = hasattr(arrays, 'ndim')
  return [np.asarray(a) for a in ([arrays] if single else arrays)]


def _pooled(fn: Callable[[Any], Any], arrays: Arrays) -> np.ndarray:
  return np.concatenate([np.ravel(fn(a)) for a in _layers(arrays)])


def entries(results: Mapping[str, Any]) -> list[Entry]:
  """All nets of a run that did not diverge, for `report.compare`."""
  return [
    Entry(dict(zip(_SETTING, key, strict=True)), seed, {'test_accuracy': x})
    for key, seeds in differences.by_seed(results.get('rows', [])).items()
    for seed, x in seeds.items()
  ]
