"""One-shot pruning of a population: train, prune, measure, draw.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 3, Figure 1.
"""

import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import classification
from experiments.engine import estimates
from experiments.engine import feed as feed_lib
from experiments.engine import fit
from experiments.engine import fitting
from experiments.engine import folder
from experiments.engine import making
from experiments.engine import population
from experiments.engine import runs
from experiments.engine import settings as settings_lib
from experiments.engine import trainings
from experiments.engine.settings import Settings
from experiments.one_shot import analysis
from experiments.report import files
from experiments.report import naming
from experiments.report import progress
from experiments.report import statistics
from experiments.report.weights import Weights
from powerprop import train
from powerprop import trees
from powerprop.methods import magnitude

_SAMPLE = 10_000  # weights in the scatter plots: the paper's Figure 1(c, d)
_ANALYSIS_DENSITY = 0.1  # its 90% sparsity: what is kept, decile by decile
_BINS = 161


def make_members(
  s: Settings, adaptive: tuple[str, ...] = ()
) -> list[population.Member]:
  """The population: transforms × learning rates × alphas × seeds.

  α = 1 is the same training for every transform (and a fixed point of an
  adaptive rule): it runs once, under the first transform that is not adaptive.

  Args:
    s: the run's settings.
    adaptive: names of transforms that refuse α = 1.

  Returns:
    Members, grouped by transform.
  """
  plain = [t for t in s.transforms if t not in adaptive]
  return [
    population.Member(t, a, rate, seed)
    for t, rate, a, seed in itertools.product(
      s.transforms, s.learning_rate, s.alphas, range(s.seeds)
    )
    if a > 1 or t == next(iter(plain), None)
  ]


def run(
  s: Settings,
  workdir: pathlib.Path,
  data_dir: str | None = None,
) -> dict[str, Any]:
  """Trains, prunes and reports; goes on where an earlier call stopped.

  Args:
    s: checked settings.
    workdir: the run's folder, already opened with `folder.open_folder`.
    data_dir: where TFDS's prepared data lie; None for TFDS's default.

  Returns:
    What results.json holds.

  Raises:
    experiments.data.DataError: if the data are missing or damaged.
    settings.ConfigError: if the settings do not fit the data.
    runs.RunError: if every member diverged, or the disk is full.
    runs.Interrupted: if a signal came; the state is saved.
  """
  recipe, _, cells, dataset = _prepare(s, data_dir)
  estimates.check(_estimate(s, recipe, cells, dataset))
  feed = feed_lib.Held(dataset, cells[0].mesh)
  return fit.run_population(
    s,
    recipe,
    cells,
    feed,
    workdir,
    'one_shot',
    lambda states: _prune_all(s, recipe, cells, states, dataset, workdir),
  )


def dry_run(s: Settings, data_dir: str | None = None) -> str:
  """What a run will take, in Markdown; trains and writes nothing."""
  recipe, _, cells, dataset = _prepare(s, data_dir)
  return _estimate(s, recipe, cells, dataset).markdown()


def _prepare(s: Settings, data_dir: str | None):
  """What the members share, the members, their cells, and the data."""
  dataset = feed_lib.in_memory(
    making.dataset(s.dataset, data_dir, s.dataset_kwargs), 'one_shot'
  )
  fitting.check_data(s, dataset)
  fitting.warn_of_long_periods(s, {})
  executor, shared, spread = trainings.devices(s, dataset)
  recipe = classification.make_recipe(s, dataset, spread=spread)
  adaptive = making.adaptive(s.transforms, s.transform_kwargs)
  several = len(make_members(s._replace(seeds=1), adaptive))
  estimates.few(several * s.seeds, 'seeds', s.seeds)
  members = make_members(s, adaptive)
  if 1.0 in s.alphas and not any(m.alpha == 1 for m in members):
    raise settings_lib.ConfigError(
      'alphas has 1, but an adaptive alpha must start above 1; leave it out, or'
      " add 'powerprop' to transforms for a baseline."
    )
  psis = making.psis(s.transforms, s.transform_kwargs)
  cells = trainings.make_cells(
    recipe, psis, members, executor, data_devices=shared
  )
  return recipe, members, cells, dataset


def _estimate(s, recipe, cells, dataset):
  shapes, state = jax.eval_shape(lambda: train.initial_theta(recipe, 0))
  flops = recipe.problem.flops(shapes, state)
  return trainings.estimate(recipe, cells, dataset, s, sum(flops.values()))


def _factors(s, params, dataset) -> dict[str, float]:
  """By layer, what the density is multiplied by, where it is not 1."""
  if s.output_density_factor == 1:
    return {}
  output = fitting.output_leaves(s, params, dataset.num_classes)
  return dict.fromkeys(output, s.output_density_factor)


def _measurement(recipe, s, dataset):
  """What is left of every layer, and the program that prunes a member to it."""
  test = jax.tree.map(jnp.asarray, dataset.test)
  own_state = trainings.own_states(s, recipe, feed_lib.Held(dataset, None))
  shapes = jax.eval_shape(lambda: train.initial_theta(recipe, 0)[0])
  kept = magnitude.counts(
    shapes,
    (*s.densities, _ANALYSIS_DENSITY),
    _factors(s, shapes, dataset),
  )

  @jax.jit
  def measure(phi, theta, net_state, seed):
    """Accuracy, loss and masks by density, and the weights before training."""
    initial, _ = train.initial_theta(recipe, seed)

    def at(counts):
      before = magnitude.masks(initial, counts)
      after = magnitude.masks(phi, counts)
      pruned = magnitude.prune(theta, after)
      own = own_state(pruned, net_state, seed)
      accuracy, nll = train.evaluate(recipe, pruned, own, test)
      return accuracy, nll, before, after

    return jax.lax.map(at, kept), trees.weights(initial)

  return kept, measure


def _prune_all(s, recipe, cells, states, dataset, workdir):
  """Prunes every member at every density; rows, analysis and records."""
  kept, measure = _measurement(recipe, s, dataset)
  layers = list(kept)
  rows: list[dict[str, Any]] = []
  groups: dict[tuple[str, float, float], list[Any]] = {}
  total = population.count(cells)
  bar = progress.Progress(
    f'pruning at {len(s.densities)} densities', total, 'net'
  )
  for m, member_state, theta in trainings.every_member(cells, states):
    (accuracy, nll, before, after), initial = jax.device_get(
      measure(member_state.phi, theta, member_state.net, m.seed)
    )
    final = trees.weights(theta)
    finite = bool(member_state.finite) and all(
      np.isfinite(x).all() for x in final.values()
    )
    for d, density in enumerate(s.densities):
      rows.append(
        {
          **m.row(),
          'density': density,
          'test_accuracy': float(accuracy[d]),
          'test_nll': float(nll[d]) if finite else float('nan'),
          'mask_overlap': analysis.mask_overlap(
            [before[n][d] for n in layers], [after[n][d] for n in layers]
          ),
          'chance_overlap': analysis.chance_overlap(
            [final[n].size for n in layers], [kept[n][d] for n in layers]
          ),
          'emptied_layers': statistics.emptied(
            {n: np.where(after[n][d], final[n], 0) for n in layers}
          ),
        }
      )
    group = groups.setdefault((m.transform, m.alpha, m.learning_rate), [])
    if finite:
      group.append(
        (
          m.seed,
          [initial[n] for n in layers],
          [final[n] for n in layers],
          [after[n][-1] for n in layers],
        )
      )
    bar.add()
  bar.close()

  summary = statistics.summarise(rows)
  results = {
    'rows': rows,
    'summary': summary,
    'analysis': [
      _analyse(s, key, group, summary) for key, group in groups.items()
    ],
    'diverged': statistics.diverged(rows),
    'layers': layers,
    'analysis_density': _ANALYSIS_DENSITY,
    'near_zero_epsilon': s.near_zero,
  }
  return results, _records(groups, layers, workdir)


def weights(
  workdir: pathlib.Path, name: str, data_dir: str | None = None
) -> Weights:
  """A net of a finished run, pruned; see `experiments.report.weights.of_run`.

  Args:
    workdir: the run's folder.
    name: of `report.naming.net_name`.
    data_dir: as in `run`.
  """
  config, _ = folder.finished(workdir, settings_lib.resolved)
  s = settings_lib.check(config)
  recipe, _, cells, dataset = _prepare(s, data_dir)
  feed = feed_lib.Held(dataset, cells[0].mesh)
  states = fit.last_states(s, recipe, cells, feed, workdir)
  for member, state, theta in trainings.every_member(cells, states):
    for density in s.densities:
      if naming.net_name({**member.row(), 'density': density}) != name:
        continue
      kept = magnitude.counts(
        theta,
        (density,),
        _factors(s, theta, dataset),
      )
      masks = magnitude.masks(state.phi, {n: k[0] for n, k in kept.items()})
      own_state = trainings.own_states(s, recipe, feed)
      return trainings.weights_of(state, theta, masks, own_state, member.seed)
  raise runs.RunError(f'{workdir} has no net {name!r}.')


def _analyse(s, key, group, summary):
  """Section 3 of the paper as numbers, for one α."""
  transform, alpha, rate = key
  columns = {
    'sign_change': [analysis.sign_change(i, f) for _, i, f, _ in group],
    'kurtosis': [analysis.kurtosis(f) for _, _, f, _ in group],
    'near_zero': [analysis.near_zero(f, s.near_zero) for _, _, f, _ in group],
  }
  out: dict[str, Any] = {
    'transform': transform,
    'alpha': alpha,
    'learning_rate': rate,
    'n': len(group),
  }
  for name, values in columns.items():
    if values:
      out[f'{name}_mean'], out[f'{name}_std'] = statistics.mean_and_std(values)
  if group:
    deciles = np.stack([analysis.kept_by_decile(i, k) for _, i, _, k in group])
    pairs = [statistics.mean_and_std(column) for column in deciles.T]
    out['kept_by_decile_mean'] = [p[0] for p in pairs]
    out['kept_by_decile_std'] = [p[1] for p in pairs]

  def curve(t, a):
    return {
      e['density']: e['test_accuracy_mean']
      for e in summary
      if (e['transform'], e['alpha'], e['learning_rate']) == (t, a, rate)
    }

  ours = curve(transform, alpha)
  baseline = next((c for t in s.transforms if (c := curve(t, 1.0))), None)
  out['beats_baseline_below'] = (
    analysis.beats_baseline_below(
      list(s.densities),
      [ours[d] for d in s.densities],
      [baseline[d] for d in s.densities],
    )
    if alpha > 1 and ours and baseline
    else None
  )
  return out


def _records(groups, layers, workdir):
  """Arrays for the figures: a weight sample, histograms, α over the steps."""
  records: dict[str, np.ndarray] = {}
  log = files.read_metrics(workdir)
  records['steps'] = np.array(sorted({row['step'] for row in log}))
  everything = [f for group in groups.values() for _, _, f, _ in group]
  for g, (key, group) in enumerate(groups.items()):
    if not group:
      continue
    seed, initial, final, kept = group[0]
    flat = lambda xs: np.concatenate([np.ravel(x) for x in xs])
    total = sum(x.size for x in final)
    chosen = np.random.default_rng(seed).permutation(total)[:_SAMPLE]
    for name, arrays in (
      ('initial', initial),
      ('final', final),
      ('kept', kept),
    ):
      records[f'g{g}/{name}'] = flat(arrays)[chosen]
    for j in range(len(layers)):
      # A few weights grow far beyond all others: they fall in the last bins.
      reach = max(np.quantile(np.abs(f[j]), 0.999) for f in everything) or 1.0
      every = [f[j] for f in everything]
      # Of few weights, narrow bins would show nothing but chance.
      bins = min(_BINS, max(21, int(final[j].size ** 0.5)))
      edges = statistics.histogram_edges(every, float(reach), bins)
      inside = np.clip(final[j].astype(np.float64), edges[0], edges[-1])
      counts, edges = np.histogram(inside, edges)
      records[f'g{g}/layer{j}/counts'] = counts
      records[f'g{g}/layer{j}/edges'] = edges
    transform, alpha, rate = key
    mine = {
      row['step']: row
      for row in log
      if (row['transform'], row['alpha'], row['learning_rate'], row['seed'])
      == (transform, alpha, rate, seed)
    }
    for field, name in (('current_alpha', 'alpha'), ('near_zero', 'near_zero')):
      # NaN where a line of the log is damaged.
      records[f'g{g}/{name}_over_steps'] = np.array(
        [mine.get(step, {}).get(field, np.nan) for step in records['steps']]
      )
  return records
