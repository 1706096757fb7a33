"""Sparse training of a population: plan, train, evaluate, report.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 4, Tables 1
and 2, Figures 2 and 3.
"""

import functools
import itertools
import pathlib
from typing import Any, NamedTuple

from absl import logging
import jax
import numpy as np

from experiments import data
from experiments.engine import classification
from experiments.engine import estimates
from experiments.engine import feed as feed_lib
from experiments.engine import fit
from experiments.engine import fitting
from experiments.engine import folder
from experiments.engine import making
from experiments.engine import population
from experiments.engine import runs
from experiments.engine import trainings
from experiments.engine.population import Member
from experiments.report import naming
from experiments.report import progress
from experiments.report import statistics
from experiments.report.weights import Weights
from experiments.sparse_training import analysis as sparse_analysis
from experiments.sparse_training import plan as sparse_plan
from experiments.sparse_training import settings as sparse_settings
from experiments.sparse_training.settings import SparseSettings
from experiments.sparse_training.settings import sparsity
from experiments.sparse_training.settings import Variant
from powerprop import costs
from powerprop import train
from powerprop import transforms
from powerprop import trees
from powerprop.methods import magnitude
from powerprop.methods import step as steps_lib
from powerprop.methods import targets
from powerprop.methods.sparse import pruning
from powerprop.types import Method

_SMALLEST = 100_000  # weights in Figure 2(c)


def make_members(s: SparseSettings, variants: list[Variant]) -> list[Member]:
  """The population: dense, then every variant, × learning rates × α × seeds.

  α = 1 is the same training for every transform: it runs once, under the first.

  Args:
    s: the run's settings.
    variants: the sparse methods with what they aim at.

  Returns:
    Members, grouped by transform and variant.
  """
  t = s.training
  every: list[Any] = list(variants)
  if len(sparse_settings.sparse_methods(s)) < len(s.methods):
    every.insert(0, ())
  return [
    Member(transform, alpha, rate, seed, variant)
    for transform, variant, rate, alpha, seed in itertools.product(
      t.transforms, every, t.learning_rate, t.alphas, range(t.seeds)
    )
    if alpha > 1 or transform == t.transforms[0]
  ]


def run(
  s: SparseSettings, workdir: pathlib.Path, data_dir: str | None = None
) -> dict[str, Any]:
  """Plans, trains and evaluates; goes on where an earlier call stopped.

  Args:
    s: checked settings.
    workdir: the run's folder, already opened with `folder.open_folder`.
    data_dir: where TFDS's prepared data lie; None for TFDS's default.

  Returns:
    What results.json holds.

  Raises:
    experiments.data.DataError: if the data are missing or damaged.
    settings.ConfigError: if the settings do not fit the data or the net.
    runs.RunError: if every member diverged, or the disk is full.
    runs.Interrupted: if a signal came; the state is saved.
  """
  t = s.training
  made = _prepare(s, data_dir)
  recipe, cells = made.recipe, made.cells
  feed = feed_lib.make(t, made.dataset, cells[0].mesh)
  print(sparse_plan.markdown(made.plans), flush=True)
  _tell_of_shared_moments(s, recipe, made.shapes)
  estimates.check(_estimate(s, made))

  def measure(states):
    rows, records = _evaluate(
      s, recipe, cells, states, made.aims, made.sparse, feed
    )
    summary = sparse_analysis.summarise(rows)
    results = {
      'rows': rows,
      'summary': summary,
      'selected': sparse_analysis.select(summary),
      'plans': made.plans,
      'diverged': [r for r in rows if not np.isfinite(r['test_nll'])],
      'dataset': t.dataset,
      'network': t.network,
      'steps': t.steps,
    }
    return results, records

  return fit.run_population(
    t, recipe, cells, feed, workdir, 'sparse_training', measure
  )


def dry_run(s: SparseSettings, data_dir: str | None = None) -> str:
  """The plan, and what a run will take; trains and writes nothing."""
  made = _prepare(s, data_dir)
  text = sparse_plan.markdown(made.plans, most=len(made.plans))
  return f'{text}\n{_estimate(s, made).markdown()}'


class _Prepared(NamedTuple):
  """A run before its first step; see `_prepare`."""

  recipe: train.Recipe
  shapes: Any
  aims: dict[tuple[str, float], targets.Target]
  sparse: dict[Variant, Method]
  plans: list[dict[str, Any]]
  members: list[Member]
  cells: list[population.Cell]
  dataset: data.Dataset | data.Streamed


def _prepare(s: SparseSettings, data_dir: str | None) -> _Prepared:
  t = s.training
  dataset = making.dataset(t.dataset, data_dir, t.dataset_kwargs)
  fitting.check_data(t, dataset)
  fitting.warn_of_long_periods(t, sparse_settings.periods(s))
  if t.pretrained and t.seeds > 1 and isinstance(dataset, data.Streamed):
    logging.warning(
      'seeds is %d, but they all start from %s and have the same batches: they'
      ' differ only in what a method draws.',
      t.seeds,
      t.pretrained,
    )
  executor, shared, spread = trainings.devices(t, dataset)
  recipe = classification.make_recipe(t, dataset, spread=spread)
  shapes, net_state = jax.eval_shape(lambda: train.initial_theta(recipe, 0))
  recipe = recipe._replace(layer_flops=recipe.problem.flops(shapes, net_state))
  aims = sparse_settings.make_targets(s, shapes, recipe.layer_flops)
  sparse = sparse_settings.make_methods(s, aims)
  once = s._replace(training=t._replace(seeds=1))
  several = len(make_members(once, list(sparse)))
  estimates.few(several * t.seeds, 'seeds', t.seeds)
  plans = sparse_plan.make(s, recipe.layer_flops, shapes, aims, sparse)
  members = make_members(s, list(sparse))
  psis = making.psis(t.transforms, t.transform_kwargs)
  cells = trainings.make_cells(recipe, psis, members, executor, sparse, shared)
  return _Prepared(recipe, shapes, aims, sparse, plans, members, cells, dataset)


def _estimate(s: SparseSettings, made: _Prepared) -> estimates.Estimate:
  forward = sum(made.recipe.layer_flops.values())
  return trainings.estimate(
    made.recipe, made.cells, made.dataset, s.training, forward
  )


def _tell_of_shared_moments(s, recipe, shapes):
  """Logs which optimiser state a method cannot reset."""
  if not sparse_settings.sparse_methods(s):
    return
  t = s.training
  psi = making.psis(t.transforms[:1], t.transform_kwargs)[t.transforms[0]]
  tx = psi._replace(alpha=2.0).optimizer(recipe.optimizer(0.1))
  if layers := steps_lib.shared_moments(tx, shapes):
    logging.warning(
      '%s keeps factored moments of %s: they are left alone where a method'
      ' resets the moments of single weights.',
      s.training.optimizer,
      ', '.join(layers),
    )


def _measurement(recipe, aims):
  """Programs: of a pruned net's accuracies, and of the masks of each target."""

  @jax.jit
  def measure(theta, net_state, masks, source):
    w = magnitude.prune(theta, masks)
    return train.evaluate(recipe, w, net_state, source)

  choose = {
    where: jax.jit(functools.partial(pruning.largest, target))
    for where, target in aims.items()
  }
  return measure, choose


def _evaluate(s, recipe, cells, states, aims, sparse, feed):
  """Rows of the results, and what the figures need beside them."""
  measure, choose = _measurement(recipe, aims)
  own_state = trainings.own_states(s.training, recipe, feed)
  rows: list[dict[str, Any]] = []
  smallest: dict[Any, list[np.ndarray]] = {}
  count = population.count(cells)
  with progress.Progress('evaluating', count, 'net') as bar:
    for member, state, theta in trainings.every_member(cells, states):
      weights = trees.weights(theta)
      nets = [*_nets(s, member, state, choose, sparse)]
      of_nets = []
      for _, masks in nets:
        pruned = magnitude.prune(theta, masks)
        net_state = own_state(pruned, state.net, member.seed)
        of_nets.append(functools.partial(measure, theta, net_state, masks))
      found = (
        trainings.scored(of_nets, feed.parts(split))
        for split in ('validation', 'test')
      )
      for (names, masks), (validation, _), (accuracy, nll) in zip(
        nets, *found, strict=True
      ):
        finite = bool(state.finite) and np.isfinite(nll)
        shares = {n: float(np.mean(m)) for n, m in masks.items()}
        rows.append(
          {
            'method': names.method,
            'transform': member.transform,
            'alpha': member.alpha,
            'learning_rate': member.learning_rate,
            'seed': member.seed,
            'sparsity': names.sparsity,
            'distribution': names.distribution,
            'density': _density(masks),
            'emptied_layers': statistics.emptied(
              {n: np.where(m, weights[n], 0) for n, m in masks.items()}
            ),
            'validation_accuracy': float(validation),
            'test_accuracy': float(accuracy),
            'test_nll': float(nll) if finite else float('nan'),
            'training_flops_ratio': (
              s.training_multiplier * float(state.work.training)
            ),
            'inference_flops_ratio': costs.relative(recipe.layer_flops, shares),
          }
        )
      if not member.variant and bool(state.finite):
        key = (member.alpha, member.learning_rate)
        smallest.setdefault(key, []).append(_smallest(theta))
      bar.add()
  return rows, _records(rows, smallest)


def _nets(s, member, state, choose, sparse):
  """What is evaluated of a member: its name, and masks by layer path."""
  if member.variant:
    masks = sparse[member.variant].masks(state.method).forward
    yield member.variant, jax.tree.map(np.asarray, masks)
    return
  if 'dense' in s.methods:
    yield Variant('dense', s.distributions[0], 0.0), {}
  if 'one_shot' in s.methods:
    alpha = float(transforms.current_alpha(state.opt))
    for (distribution, density), largest in choose.items():
      masks = largest(state.phi, alpha)
      name = Variant('one_shot', distribution, sparsity(density))
      yield name, jax.tree.map(np.asarray, masks)


def weights(
  workdir: pathlib.Path, name: str, data_dir: str | None = None
) -> Weights:
  """A net of a finished run; see `experiments.report.weights.of_run`.

  Args:
    workdir: the run's folder.
    name: of `report.naming.net_name`.
    data_dir: as in `run`.
  """
  config, _ = folder.finished(workdir, sparse_settings.resolved)
  s = sparse_settings.check(config)
  made = _prepare(s, data_dir)
  feed = feed_lib.make(s.training, made.dataset, made.cells[0].mesh)
  states = fit.last_states(s.training, made.recipe, made.cells, feed, workdir)
  _, choose = _measurement(made.recipe, made.aims)
  for member, state, theta in trainings.every_member(made.cells, states):
    for names, masks in _nets(s, member, state, choose, made.sparse):
      if naming.net_name(member.row() | names._asdict()) == name:
        own_state = trainings.own_states(s.training, made.recipe, feed)
        return trainings.weights_of(state, theta, masks, own_state, member.seed)
  raise runs.RunError(f'{workdir} has no net {name!r}.')


def _density(masks) -> float:
  size = sum(m.size for m in masks.values())
  return sum(int(np.sum(m)) for m in masks.values()) / size if size else 1.0


def _smallest(theta) -> np.ndarray:
  """The smallest weights by magnitude, with their signs: Figure 2(c)."""
  flat = np.concatenate([x.ravel() for x in trees.weights(theta).values()])
  number = min(_SMALLEST, flat.size // 2)
  return flat[np.argpartition(np.abs(flat), number - 1)[:number]]


def _records(rows, smallest) -> dict[str, np.ndarray]:
  """The smallest weights by α, at the rate that is best on validation."""
  out = {}
  for alpha in sorted({a for a, _ in smallest}):

    def accuracy(rate, alpha=alpha):
      return np.mean(
        [
          r['validation_accuracy']
          for r in rows
          if (r['alpha'], r['learning_rate']) == (alpha, rate)
          and r['method'] in sparse_settings.DENSE
        ]
      )

    rate = max((r for a, r in smallest if a == alpha), key=accuracy)
    pooled = np.concatenate(smallest[alpha, rate])
    chosen = np.random.default_rng(0).permutation(pooled.size)[:_SMALLEST]
    out[f'smallest/{alpha:g}'] = np.sort(pooled[chosen])
  return out
