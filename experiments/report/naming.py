"""What tables and figures call what a config has short names for.

A config's `labels` come first: names of methods and transforms, by what the
config calls them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_PARTS = {
  'method': '{}',
  'boundaries': '{}',
  'distribution': '{}',
  'sparsity': 'sparsity_{:g}',
  'transform': '{}',
  'alpha': 'alpha_{:g}',
  'coefficient': 'coefficient_{:g}',
  'learning_rate': 'lr_{:g}',
  'seed': 'seed_{}',
  'density': 'density_{:g}',
}
NO_LABELS: Mapping[str, str] = MappingProxyType({})


def display_name(
  name: str, names: Mapping[str, str], labels: Mapping[str, str]
) -> str:
  """A config's label, else a name of ours, else its own without underscores."""
  return labels.get(name) or names.get(name, name.replace('_', ' '))


def short_name(name: str) -> str:
  """Of ours the name; of a user's function what comes after the colon.

  >>> short_name('digits'), short_name('package.module:function')
  ('digits', 'function')
  """
  return name.rpartition(':')[2]


def net_name(row: Mapping[str, Any]) -> str:
  """What one net of a run is called in its folder, records and logs.

  Args:
    row: of its results or metrics; what it does not have is left out.

  >>> net_name({'transform': 'powerprop', 'alpha': 1.5, 'learning_rate': 0.1,
  ...           'seed': 0, 'method': 'ewc', 'coefficient': 150.0})
  'ewc/powerprop/alpha_1.5/coefficient_150/lr_0.1/seed_0'
  """
  parts = ['search'] if row.get('search') else []
  for name, part in _PARTS.items():
    # The density of a net that has a sparsity is measured, not chosen.
    if name in row and not (name == 'density' and 'sparsity' in row):
      parts.append(part.format(row[name]))
  return '/'.join(parts)


def transform_name(
  transform: str, labels: Mapping[str, str] = NO_LABELS
) -> str:
  """What tables and figures call a transform, where α has a name of its own.

  Args:
    transform: as a config calls it.
    labels: what the config calls it otherwise.

  >>> transform_name('chain_rule'), transform_name('mine', {'mine': 'Mine'})
  ('naive chain rule', 'Mine')
  """
  names = {'powerprop': 'Powerprop', 'chain_rule': 'naive chain rule'}
  if 'adaptive' in transform:
    names[transform] = 'adaptive from that α'
  return display_name(transform, names, labels)


def setting_name(
  transform: str, alpha: float, labels: Mapping[str, str] = NO_LABELS
) -> str:
  """What tables and figures call a transform at an α; Powerprop needs no name.

  Args:
    transform: as a config calls it.
    alpha: its α.
    labels: what the config calls it otherwise.

  >>> setting_name('powerprop', 2.), setting_name('adaptive_powerprop', 1.5)
  ('α = 2', 'adaptive from α = 1.5')
  """
  power = f'α = {alpha:g}'
  if transform not in labels and 'adaptive' in transform:
    return f'adaptive from {power}'
  if transform not in labels and transform == 'powerprop':
    return power
  return f'{power}, {transform_name(transform, labels)}'
