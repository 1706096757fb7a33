"""One-shot pruning of a population: train, prune, measure, draw.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 3, Figure 1.
"""

import io
import itertools
import pathlib
import sys
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from powerprop import analysis
from powerprop import data
from powerprop import plots
from powerprop import runs
from powerprop import settings as settings_lib
from powerprop import tables
from powerprop import train
from powerprop import trees
from powerprop.methods import magnitude
from powerprop.settings import Settings

_SAMPLE = 10_000  # weights in the scatter plots: the paper's Figure 1(c, d)
_SCATTER_DENSITY = 0.1  # its 90% sparsity
_BINS = 101
_LINE_SECONDS = 15.0  # between lines of progress where there is no terminal


def make_members(
  s: Settings, adaptive: tuple[str, ...] = ()
) -> list[train.Member]:
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
    train.Member(t, a, rate, seed)
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
    workdir: the run's folder, already opened with `runs.open_folder`.
    data_dir: where TFDS's prepared data lie; None for TFDS's default.

  Returns:
    What results.json holds.

  Raises:
    powerprop.data.DataError: if the data are missing or damaged.
    settings.ConfigError: if the settings do not fit the data.
    runs.RunError: if every member diverged, or the disk is full.
    runs.Interrupted: if a signal came; the state is saved.
  """
  dataset = data.load(s.dataset, data_dir)
  settings_lib.check_data(s, dataset)
  recipe = train.Recipe(
    net=settings_lib.network(s, dataset.num_classes),
    optimizer=settings_lib.optimizer(s),
    transforms=dict(settings_lib.make_transforms(s)),
    batch_size=s.batch_size,
    scale=dataset.scale,
    num_train=len(dataset.train.label),
    image_shape=dataset.train.image.shape[1:],
    epsilon=s.near_zero,
  )
  members = make_members(s, adaptive=('adaptive_powerprop',))
  if not members:
    raise settings_lib.ConfigError(
      'alphas is (1,) but adaptive_powerprop must start above 1; add an alpha'
      ' above 1.'
    )
  cells = train.make_cells(recipe, members, train.choose_executor(s.executor))
  with runs.disk_errors(workdir), runs.lock(workdir):
    states, seconds = _train(s, recipe, cells, dataset, workdir)
    results, records = _prune_all(s, recipe, cells, states, dataset, workdir)
    results['environment'] = {
      **runs.environment(),
      'executor': train.choose_executor(s.executor),
      'train_seconds': seconds['train'],
      'wall_seconds': seconds['wall'] + time.monotonic() - seconds['since'],
      'steps_per_second': (
        len(members) * s.steps / seconds['train'] if seconds['train'] else None
      ),
      'command': ' '.join(sys.argv),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **records)
    runs.write_atomically(workdir / 'records.npz', buffer.getvalue())
    runs.write_atomically(workdir / 'results.json', runs.to_json(results))
  return results


def _train(s, recipe, cells, dataset, workdir):
  """Chunks of training, each reported; returns the states and the seconds."""
  del recipe
  on_device = lambda split: jax.tree.map(jnp.asarray, split)
  training, validation = map(on_device, (dataset.train, dataset.validation))
  since = time.monotonic()
  states = train.initial_states(cells)
  checkpoints = runs.Checkpoints(workdir)
  step, spent = 0, {'train': 0.0, 'wall': 0.0, 'since': since}
  offset = 0
  if (restored := checkpoints.restore(states)) is not None:
    step, host, extra = restored
    states = [
      jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), h, st)
      for h, st in zip(host, states, strict=True)
    ]
    spent.update(train=extra['train_seconds'], wall=extra['wall_seconds'])
    offset = extra['metrics_offset']
    print(f'Resuming {workdir} at step {step:,} of {s.steps:,}.', flush=True)
  metrics = runs.Metrics(workdir, offset, step)

  def save():
    checkpoints.save(
      step,
      states,
      {
        'train_seconds': spent['train'],
        'wall_seconds': spent['wall'] + time.monotonic() - since,
        'metrics_offset': metrics.offset,
      },
    )

  count = sum(len(c.members) for c in cells)
  bar = tqdm.tqdm(
    total=count * s.steps,
    initial=count * step,
    unit='step',
    unit_scale=True,
    dynamic_ncols=True,
    desc=f'training {count} nets',
    disable=None if not sys.stderr.isatty() else False,
    mininterval=0.5,
  )
  line = _progress_lines(s.steps, step) if bar.disable else lambda *_: None
  told: set[train.Member] = set()
  saved_at, saved_step = time.monotonic(), step if restored else None
  with bar, runs.stop_signals() as signals:
    while step < s.steps:
      begun = time.monotonic()
      num_steps = min(s.chunk_steps, s.steps - step)
      new: list[Any] = [None] * len(cells)
      reports: list[Any] = [None] * len(cells)
      for i, state, report in train.advance(
        cells, states, num_steps, training, validation, s.near_zero
      ):
        new[i], reports[i] = state, report
        bar.update(num_steps * len(cells[i].members))
        bar.set_postfix(_means([report]), refresh=False)
        if signals:
          break
      if signals:
        # What this chunk has done so far is dropped: it will be done again.
        if saved_step != step:
          save()
        metrics.close()
        raise runs.Interrupted(signals[0])
      states, step = new, step + num_steps
      spent['train'] += time.monotonic() - begun
      rows, alive = _rows(cells, reports, step, told)
      metrics.write(rows)
      if not alive:
        metrics.close()
        raise runs.RunError(
          f'every training diverged (the loss is not finite) by step {step:,};'
          ' lower learning_rate'
          f' (now {", ".join(f"{r:g}" for r in s.learning_rate)}) or alphas.'
        )
      if step == s.steps or time.monotonic() - saved_at >= s.checkpoint_seconds:
        save()
        saved_at, saved_step = time.monotonic(), step
      line(step, reports)
  metrics.close()
  checkpoints.close()
  if signals:
    raise runs.Interrupted(signals[0])
  return states, spent


def _means(reports):
  """Loss and validation accuracy over the members that have not diverged."""
  loss, accuracy = (
    np.concatenate(x)
    for x in zip(
      *((r.loss, r.validation_accuracy) for r in reports), strict=True
    )
  )
  alive = np.isfinite(loss)
  mean = lambda x: f'{x[alive].mean():.3f}' if alive.any() else 'nan'
  return {'loss': mean(loss), 'validation': mean(accuracy)}


def _progress_lines(steps, start):
  """Where stderr is no terminal: a line now and then instead of a bar."""
  begun = told = time.monotonic()

  def line(step, reports):
    nonlocal told
    now = time.monotonic()
    if now - told < _LINE_SECONDS and step < steps:
      return
    told = now
    left = (now - begun) * (steps - step) / (step - start)
    print(
      f'step {step:,} of {steps:,}, {left:.0f} s to go: '
      + ', '.join(f'{k} {v}' for k, v in _means(reports).items()),
      file=sys.stderr,
      flush=True,
    )

  return line


def _rows(cells, reports, step, told):
  """Log rows of a chunk; says once of each member that it diverged."""
  rows, alive = [], False
  seen = set()
  for cell, report in zip(cells, reports, strict=True):
    for i, m in enumerate(cell.members):
      if m in seen:
        continue  # a copy that fills a device
      seen.add(m)
      finite = bool(report.finite[i])
      alive |= finite
      if not finite and m not in told:
        told.add(m)
        logging.warning(
          'alpha=%g seed=%d (%s, learning rate %g) diverged by step %d: it is'
          ' left out of the means.',
          m.alpha,
          m.seed,
          m.transform,
          m.learning_rate,
          step,
        )
      rows.append(
        {
          'step': step,
          **m._asdict(),
          'loss': float(report.loss[i]),
          'validation_accuracy': float(report.validation_accuracy[i]),
          'current_alpha': float(report.alpha[i]),
          'near_zero': float(report.near_zero[i]),
        }
      )
  return rows, alive


def _prune_all(s, recipe, cells, states, dataset, workdir):
  """Prunes every member at every density; rows, analysis and records."""
  test = jax.tree.map(jnp.asarray, dataset.test)
  shapes = jax.eval_shape(lambda: train.initial_theta(recipe, 0)[0])
  layers = list(trees.weights(shapes))
  output = [n for n in layers if n.startswith('output/')]
  kept = magnitude.counts(
    shapes,
    s.densities,
    dict.fromkeys(output, s.output_density_factor),
  )
  scatter = int(
    np.argmin(np.abs(np.log(np.array(s.densities) / _SCATTER_DENSITY)))
  )

  @jax.jit
  def measure(phi, theta, net_state, seed):
    """Accuracy, loss and masks by density, and the weights before training."""
    initial, _ = train.initial_theta(recipe, seed)

    def at(counts):
      before = magnitude.masks(initial, counts)
      after = magnitude.masks(phi, counts)
      pruned = magnitude.prune(theta, after)
      accuracy, nll = train.evaluate(recipe, pruned, net_state, test)
      return accuracy, nll, before, after

    return jax.lax.map(at, kept), trees.weights(initial)

  rows: list[dict[str, Any]] = []
  groups: dict[tuple[str, float, float], list[Any]] = {}
  read = {
    id(c): c.training.read(st) for c, st in zip(cells, states, strict=True)
  }
  total = len({m for c in cells for m in c.members})
  bar = tqdm.tqdm(
    total=total,
    desc=f'pruning at {len(s.densities)} densities',
    unit='net',
    disable=None if not sys.stderr.isatty() else False,
  )
  done = set()
  for cell, state in zip(cells, states, strict=True):
    parts = zip(
      cell.members,
      train.unstack(cell, state),
      train.unstack(cell, read[id(cell)]),
      strict=True,
    )
    for m, member_state, theta in parts:
      if m in done:
        continue
      done.add(m)
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
            **m._asdict(),
            'density': density,
            'test_accuracy': float(accuracy[d]),
            'test_nll': float(nll[d]) if finite else float('nan'),
            'mask_overlap': analysis.mask_overlap(
              [before[n][d] for n in layers], [after[n][d] for n in layers]
            ),
            'chance_overlap': analysis.chance_overlap(
              [final[n].size for n in layers], [kept[n][d] for n in layers]
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
            [after[n][scatter] for n in layers],
          )
        )
      bar.update()
  bar.close()

  summary = analysis.summarise(rows)
  results = {
    'rows': rows,
    'summary': summary,
    'analysis': [
      _analyse(s, key, group, summary) for key, group in groups.items()
    ],
    'diverged': analysis.diverged(rows),
    'layers': layers,
    'scatter_density': s.densities[scatter],
    'near_zero_epsilon': s.near_zero,
  }
  return results, _records(groups, layers, workdir)


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
      out[f'{name}_mean'], out[f'{name}_std'] = analysis.mean_and_std(values)
  if group:
    deciles = np.stack([analysis.kept_by_decile(i, k) for _, i, _, k in group])
    pairs = [analysis.mean_and_std(column) for column in deciles.T]
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
  log = runs.read_metrics(workdir)
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
      reach = max(np.abs(f[j]).max() for f in everything) or 1.0
      counts, edges = np.histogram(np.ravel(final[j]), _BINS, (-reach, reach))
      records[f'g{g}/layer{j}/counts'] = counts
      records[f'g{g}/layer{j}/edges'] = edges
    transform, alpha, rate = key
    mine = sorted(
      (
        row
        for row in log
        if (row['transform'], row['alpha'], row['learning_rate'], row['seed'])
        == (transform, alpha, rate, seed)
      ),
      key=lambda row: row['step'],
    )
    for field, name in (('current_alpha', 'alpha'), ('near_zero', 'near_zero')):
      records[f'g{g}/{name}_over_steps'] = np.array([r[field] for r in mine])
  return records


def report(results: dict[str, Any], workdir: pathlib.Path) -> None:
  """Prints the tables and draws the figures of a finished run."""
  with runs.disk_errors(workdir):
    drawn = plots.draw(workdir)
  print(tables.table(results))
  print()
  print(tables.analysis_table(results))
  e = results['environment']
  print(
    f'\nTrained in {e["train_seconds"]:.0f} s on {e["device"]}'
    f' ({e["processor"]}).'
  )
  print(f'Figures: {", ".join(str(p) for p in drawn if p.suffix == ".png")}')
