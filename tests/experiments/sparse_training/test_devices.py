"""Trainings whose batches several devices share: as on one, to rounding."""

import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.engine import feed
from experiments.engine import hosts
from experiments.engine import population
from experiments.engine import runs
from experiments.engine import trainings
from experiments.report import files
from experiments.sparse_training import run as sparse_training
from experiments.sparse_training import settings as sparse_settings
from tests import sparse_tiny
from tests import tiny
from tests.experiments.engine import test_runs
from tests.experiments.sparse_training import test_streamed

_EIGHT = '--xla_force_host_platform_device_count=8'
# A method that grows by ∂L/∂w of all weights, which devices have to add up.
_FIELDS = {
  'methods': ('one_shot', 'snfs'),
  'alphas': (2.0,),
  'densities': (0.3,),
  'seeds': 1,
  'batch_size': 32,
}
_SENT = ('all-reduce', 'all-gather', 'all-to-all', 'collective-permute')
_NUMBERS = ('loss', 'validation_accuracy', 'density', 'training_flops_ratio')


def _told(folder: pathlib.Path) -> np.ndarray:
  """Numbers of every line of a run's metrics."""
  log = files.read_metrics(folder)
  assert len(log) == 2 * 4  # trainings × chunks
  return np.array([[row.get(n, 0) for n in _NUMBERS] for row in log])


def _program(**fields) -> str:
  """What a chunk of SNFS is compiled to."""
  s = sparse_settings.check(sparse_tiny.config(**_FIELDS, **fields))
  with tiny.prepared_once(sparse_training):
    made = sparse_training._prepare(s, None)
  (cell,) = [c for c in made.cells if c.members[0].variant]
  source = feed.make(s.training, made.dataset, cell.mesh).some(1)
  (state,) = trainings.initial_states(made.recipe, [cell], source)
  lowered = cell.programs.chunk.lower(state, cell.hyper, source, 0, 10)
  return lowered.compile().as_text()


def _one_bit_is_seen() -> None:
  """Of an array that all devices have, and of one that has two parts."""
  mesh = population.make_mesh('vmap', 4)
  for axes in ((), ('runs',)):
    where = population.sharding(mesh, *axes)
    good = jax.device_put(np.arange(8.0, dtype=np.float32), where)
    mask = jax.device_put(np.ones((4, 3), bool), where)
    hosts.check_replicas({'phi': good, 'mask': mask})
    parts = [shard.data for shard in mask.addressable_shards]
    parts[5] = jax.device_put(~parts[5], parts[5].device)
    bad = jax.make_array_from_single_device_arrays(mask.shape, where, parts)
    with pytest.raises(runs.RunError, match=r"other values of \['mask'\]"):
      hosts.check_replicas({'phi': good, 'mask': bad})


def _as_on_one(folder: pathlib.Path, rtol: float, fields) -> None:
  """The losses of one device and of eight."""
  loss = []
  for count in (1, 8):
    sparse_tiny.run(folder / f'{count}', data_devices=count, **fields)
    log = files.read_metrics(folder / f'{count}')
    loss.append([row['loss'] for row in log])
  np.testing.assert_allclose(*loss, rtol)


def _as_one(folder: pathlib.Path) -> None:
  """Runs on one of eight devices, on all, and moved from all to four."""
  assert jax.device_count() == 8
  _one_bit_is_seen()
  sparse_tiny.run(folder / 'one', data_devices=1, **_FIELDS)
  wanted = _told(folder / 'one')
  for name, fields in (
    ('eight', {'data_devices': 8}),
    ('two rows of four', {'data_devices': 4, 'executor': 'vmap'}),
  ):
    sparse_tiny.run(folder / name, **_FIELDS, **fields)
    np.testing.assert_allclose(_told(folder / name), wanted, 2e-3, 1e-4)
  assert 'all-reduce' in _program(data_devices=8)
  assert 'all-reduce' not in _program(data_devices=1)
  _as_on_one(
    folder / 'streamed', 1e-4, test_streamed.FIELDS | {'methods': 'snfs'}
  )
  # Batch normalisation is over the whole batch, wherever its parts lie.
  fields = _FIELDS | {
    'network': 'small_conv',
    'network_kwargs': {'channels': (4, 4), 'hidden': (8,)},
    'methods': 'dense',
    'steps': 20,
  }
  _as_on_one(folder / 'normed', 1e-3, fields)
  # Parts of a batch are cut such that no example goes to another device.
  of = lambda text: {kind for kind in _SENT if kind in text}
  parted = of(_program(data_devices=8, accumulate=2))
  assert parted == of(_program(data_devices=8)), parted
  stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
  # The second moves one member from two rows of devices to eight.
  for executor, before, after in (('map', 8, 4), ('vmap', 4, 1)):
    moved = folder / f'moved {executor}'
    fields = _FIELDS | {'executor': executor}
    with test_runs.during_chunk(2, stop), pytest.raises(runs.Interrupted):
      sparse_tiny.run(moved, data_devices=before, **fields)
    sparse_tiny.run(moved, data_devices=after, **fields)
    np.testing.assert_allclose(_told(moved), wanted, 2e-3, 1e-4)
    changes = (moved / 'changes.jsonl').read_text()
    assert changes == f'{{"data_devices": [{before}, {after}]}}\n'


def test_devices_that_share_batches_are_one_device(tmp_path):
  """On eight simulated CPU devices."""
  flags = [os.environ.get('XLA_FLAGS', ''), _EIGHT]
  done = subprocess.run(
    [sys.executable, '-m', __spec__.name, str(tmp_path)],
    cwd=tiny.ROOT,
    env=tiny.environment(XLA_FLAGS=' '.join(flags)),
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr[-3000:]


if __name__ == '__main__':
  _as_one(pathlib.Path(sys.argv[1]))
