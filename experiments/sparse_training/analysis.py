"""Which setting of a sparse method is the best, and by how much.

A run's record is a list of *rows*: one trained net at one sparsity. `summarise`
takes means over seeds, `select` chooses α and the learning rate on validation
accuracy, `difference` compares two choices seed by seed. NumPy only.

α = 1 is the *baseline*; Powerprop is α > 1.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import Any

import numpy as np

from experiments.report import differences
from experiments.report import statistics
from experiments.report.differences import Entry
from experiments.report.naming import display_name
from experiments.report.naming import NO_LABELS
from experiments.report.statistics import Row

# In the order of the tables, with what they are called there.
METHODS = {
  'dense': 'dense',
  'one_shot': 'one-shot',
  'fine_tune': 'one-shot, fine-tuned',
  'lottery': 'lottery ticket',
  'iterative': 'iterative',
  'static': 'static',
  'snip': 'SNIP',
  'set': 'SET',
  'rigl': 'RigL',
  'snfs': 'SNFS',
  'dsr': 'DSR',
  'top_kast': 'Top-KAST',
  'top_kast_half': 'Top-KAST, half backward',
  'ac_dc': 'AC/DC',
}
# What is compared, likewise.
CHOICES = {'baseline': 'α = 1', 'powerprop': 'Powerprop'}

_DISTRIBUTIONS = {'erk': 'ERK', 'erdos_renyi': 'Erdős–Rényi'}
_WHERE = ('method', 'distribution', 'sparsity')
_SETTING = ('transform', 'alpha', 'learning_rate')
_MEANS = ('density', 'training_flops_ratio', 'inference_flops_ratio')


def title(name: str, labels: Mapping[str, str] = NO_LABELS) -> str:
  """What tables and figures call a method or a distribution.

  Args:
    name: as a config calls it.
    labels: what the config calls it otherwise.

  >>> title('rigl'), title('my_method'), title('mine', {'mine': 'Mine, 0.5'})
  ('RigL', 'my method', 'Mine, 0.5')
  """
  return display_name(name, METHODS | _DISTRIBUTIONS, labels)


def in_order(methods: Iterable[str]) -> list[str]:
  """Each method once, in the order of `METHODS`; unknown ones go last.

  >>> in_order(['mine', 'rigl', 'dense', 'rigl'])
  ['dense', 'rigl', 'mine']
  """
  known = list(METHODS)
  rank = lambda m: known.index(m) if m in METHODS else len(known)
  return sorted(dict.fromkeys(methods), key=rank)


def values(entries: Iterable[Row], name: str) -> list[Any]:
  """The values that a field has, sorted, or methods `in_order`.

  >>> values([{'alpha': 2.}, {'alpha': 1.}, {'alpha': 2.}], 'alpha')
  [1.0, 2.0]
  """
  found = sorted({entry[name] for entry in entries})
  return in_order(found) if name == 'method' else found


def finite(row: Row) -> bool:
  """Whether the net of a row has not diverged: its loss is a number."""
  nll = row['test_nll']
  return nll is not None and math.isfinite(nll)


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Means and standard deviations over seeds, of every setting.

  Args:
    rows: one mapping a net, with "method", "distribution", "sparsity",
      "transform", "alpha", "learning_rate", "seed", "density",
      "validation_accuracy", "test_accuracy", "test_nll",
      "training_flops_ratio" and "inference_flops_ratio". A net whose loss is
      None or not finite has diverged.

  Returns:
    One entry per (method, distribution, sparsity, transform, alpha, learning
    rate), the methods in the order of `METHODS`, the rest sorted: these six;
    "n" and "diverged", the numbers of seeds that are in the means and that are
    not; and, unless n is 0, "test_accuracy_mean" and "…_std", the same of
    "validation_accuracy", and the means of "density" and of the two ratios. The
    standard deviation is the sample's (ddof = 1), and 0.0 for a single seed.
  """
  groups = _grouped(rows, (*_WHERE, *_SETTING))
  methods = values(rows, 'method')
  out = []
  for key in sorted(groups, key=lambda k: (methods.index(k[0]), *k[1:])):
    whole = [row for row in groups[key] if finite(row)]
    entry: dict[str, Any] = dict(zip((*_WHERE, *_SETTING), key, strict=True))
    entry |= {'n': len(whole), 'diverged': len(groups[key]) - len(whole)}
    if whole:
      for name in ('test_accuracy', 'validation_accuracy'):
        mean, std = statistics.mean_and_std([row[name] for row in whole])
        entry |= {f'{name}_mean': mean, f'{name}_std': std}
      for name in _MEANS:
        entry[name], _ = statistics.mean_and_std([row[name] for row in whole])
    out.append(entry)
  return out


def select(summary: Sequence[Row]) -> list[dict[str, Any]]:
  """The best setting of every method and sparsity, on validation accuracy.

  The test accuracy plays no part. A setting of which a seed diverged is chosen
  only if there is no other, and never one of which all did. Of equals, the
  first is taken.

  Args:
    summary: from `summarise`.

  Returns:
    For every (method, distribution, sparsity), in the summary's order, up to
    two of its entries with a field more, "choice": 'baseline' is chosen among
    α = 1, 'powerprop' among α > 1.
  """
  out = []
  for entries in _grouped(summary, _WHERE).values():
    for choice in CHOICES:
      fit = [[e] for e in entries if family(e) == choice]
      out += [{**entry, 'choice': choice} for entry in _best(fit)]
  return out


def at_best_rate(summary: Sequence[Row]) -> list[Row]:
  """The curve of every α, at the one learning rate that is best for it.

  Where nets are pruned after training, all sparsities of a curve should be
  those of the same nets: the rate is chosen on the validation accuracy averaged
  over sparsities. What diverged is treated as in `select`.

  Args:
    summary: from `summarise`.

  Returns:
    Entries of the summary, one rate for every (method, distribution,
    transform, alpha), the sparsities rising.
  """
  out = []
  curve = ('method', 'distribution', 'transform', 'alpha')
  for entries in _grouped(summary, curve).values():
    rates = _grouped(entries, ('learning_rate',))
    out += [entry for entry in _best(list(rates.values())) if entry['n']]
  return out


def difference(
  rows: Sequence[Row], baseline: Row, powerprop: Row
) -> differences.Difference:
  """Test accuracy of one setting minus another's, seed by seed.

  Args:
    rows: as `summarise` takes them.
    baseline: an entry of the summary; what is subtracted.
    powerprop: an entry of the summary.

  Returns:
    The difference as a share, over the seeds that diverged in neither.
  """
  return differences.paired(_by_seed(rows, baseline), _by_seed(rows, powerprop))


def family(entry: Row) -> str:
  """To which of the `CHOICES` a row or an entry belongs."""
  return 'powerprop' if entry['alpha'] > 1 else 'baseline'


def _grouped(
  entries: Sequence[Row], names: Sequence[str]
) -> dict[tuple[Any, ...], list[Row]]:
  groups: dict[tuple[Any, ...], list[Row]] = {}
  for entry in entries:
    groups.setdefault(tuple(entry[n] for n in names), []).append(entry)
  return groups


def _best(candidates: Sequence[Sequence[Row]]) -> Sequence[Row]:
  """The candidate, some entries, of best mean validation accuracy, or ()."""
  usable = [c for c in candidates if any(e['n'] for e in c)]
  whole = [c for c in usable if not any(e['diverged'] for e in c)]

  def accuracy(candidate: Sequence[Row]) -> float:
    means = [e['validation_accuracy_mean'] for e in candidate if e['n']]
    return float(np.mean(means))

  return max(whole or usable, key=accuracy, default=())


def _by_seed(rows: Sequence[Row], entry: Row) -> dict[int, float]:
  names = (*_WHERE, *_SETTING)
  return {
    row['seed']: row['test_accuracy']
    for row in rows
    if finite(row) and all(row[n] == entry[n] for n in names)
  }


def entries(results: Mapping[str, Any]) -> list[Entry]:
  """All nets of a run that did not diverge, for `report.compare`."""
  return [
    Entry(
      {name: row[name] for name in (*_WHERE, *_SETTING)},
      row['seed'],
      {n: row[n] for n in ('validation_accuracy', 'test_accuracy')},
    )
    for row in results.get('rows', [])
    if finite(row)
  ]
