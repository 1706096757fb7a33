"""Made-up records of a run on a sequence of tasks."""

import numpy as np

from experiments.continual import analysis as continual_analysis
from experiments.report import files
from experiments.report import naming

LAYERS = ('mlp/~/linear_0/w', 'mlp/~/linear_1/w', 'mlp/~/linear_2/w')
SIZES = (64_000, 4_000, 640)
UNITS = {'hidden_0': 2_000, 'hidden_1': 2_000}
MASKED = ('packnet', 'efficient_packnet', 'clnp')
MASKS = {
  'packnet': {
    'of': 'weights',
    'layers': dict(zip(LAYERS, SIZES, strict=True)),
  },
  'clnp': {'of': 'units', 'layers': UNITS},
}


def member(
  method='naive',
  alpha=1.0,
  coefficient=0.0,
  rate=0.1,
  seed=0,
  tasks=4,
  search=False,
  validation=0.8,
  every=1,
):
  """The rows and records of a member; the larger α, the fewer weights used."""
  rng = np.random.default_rng([seed, tasks])
  masked = method in MASKED
  learned = 0.95 - 0.02 * alpha + 0.01 * rng.random(tasks)
  age = np.arange(tasks)[:, None] - np.arange(tasks)[None, :]
  matrix = learned[None, :] - (0 if masked else 0.5) * age / (abs(age) + 5.0)
  matrix = np.where(age < 0, np.nan, matrix)
  measured = (np.arange(tasks) % every == 0) | (np.arange(tasks) == tasks - 1)
  full = matrix
  matrix = np.where(measured[:, None] | (age == 0), matrix, np.nan)
  time = np.arange(1, tasks + 1)
  used = 1 - np.exp(-time / (20 * alpha))
  units = method == 'clnp'
  sizes = [*UNITS.values()] if units else SIZES
  by_layer = used[:, None] * np.array([0.5, 0.9, 1.0][: len(sizes)])
  counts = by_layer * np.array(sizes)
  new = np.diff(counts, axis=0, prepend=0).round().astype(np.int64)
  reused = (0.2 * (counts - new) / time[:, None]).astype(np.int64)
  rows = [
    {
      'method': method,
      'transform': 'powerprop',
      'alpha': alpha,
      'coefficient': coefficient,
      'learning_rate': rate,
      'seed': seed,
      'task': t,
      'search': search,
      'accuracy_when_learned': full[t, t],
      'accuracy_before_pruning': full[t, t] + 0.02,
      'validation_accuracy': validation,
      'validation_before_pruning': validation,
      'accuracy_before': 0.12,
      'accuracy_at_start': 0.1,
      'final_accuracy': full[-1, t],
      'final_validation_accuracy': validation,
      'used_weights': used[t] if masked else None,
      'new_weights': int(new[t].sum()) if masked else None,
      'reused_weights': int(reused[t].sum()) if masked else None,
      'units_by_layer': {
        layer: {
          'used': round(counts[t, i]),
          'new': int(new[t, i]),
          'reused': int(reused[t, i]),
        }
        for i, layer in enumerate(UNITS)
      }
      if units
      else None,
      'rate': 0.05 if masked else None,
      'reached': True,
      'failed': masked and t == 1,
      'attempts': 1,
      'seconds': 1.0,
      'unchanged': True if masked else None,
    }
    for t in range(tasks)
  ]
  name = naming.net_name(rows[0])
  records = {f'{name}/accuracy': matrix.astype(np.float32)}
  if masked:
    jaccard = 0.3 * np.exp(-np.abs(age) / 10)
    np.fill_diagonal(jaccard, 1)
    records |= {
      f'{name}/used_by_layer': by_layer.astype(np.float32),
      f'{name}/new_by_layer': new,
      f'{name}/reused_by_layer': reused,
      f'{name}/overlap': jaccard.astype(np.float32),
    }
  return rows, {} if search else records


def run(members):
  """results.json and the records of these members."""
  rows, records = [], {}
  for some, arrays in members:
    rows += some
    records |= arrays
  results = {
    'experiment': 'continual',
    'rows': rows,
    'sequence': 'permuted',
    'scenario': 'domain',
    'num_tasks': max((row['task'] + 1 for row in rows), default=0),
    'dataset': 'mnist',
    'network': 'mlp',
    'layers': list(LAYERS),
    'layer_sizes': list(SIZES),
    'summary': continual_analysis.summarise(rows, records),
    'selected': continual_analysis.select(rows),
    'defaults': {'ewc': 150.0},
  }
  return results, records


def write(folder, results, records):
  """Such a run's folder."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'results.json').write_bytes(files.to_json(results))
  if records:
    np.savez(folder / 'records.npz', **records)
