"""Sparse training on data that are read while they are learned."""

import os
import signal

import numpy as np
import pytest

from experiments.engine import feed
from experiments.engine import runs
from experiments.report import files
from powerprop import modules
from tests import sparse_tiny
from tests.experiments.engine import test_runs

# Three batches and a third make an epoch: chunks end in its midst.
FIELDS = {
  'dataset': 'synthetic',
  'dataset_kwargs': {
    'size': 8,
    'num_classes': 4,
    'sizes': (107, 45, 70),
  },
  'batch_size': 32,
  'learning_rate': 0.1,
  'methods': ('one_shot', 'snfs'),
  'alphas': (2.0,),
  'densities': (0.3,),
  'seeds': 1,
}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return folder, sparse_tiny.run(folder, **FIELDS)


def test_it_learns_and_every_picture_counts_once(whole):
  folder, results = whole
  for row in results['rows']:
    assert row['test_accuracy'] > 0.5  # of four classes
    right = 70 * row['test_accuracy']
    assert abs(right - round(right)) < 1e-3
  loss = [r['loss'] for r in files.read_metrics(folder)]
  assert loss[-1] < loss[0]


def test_stopped_in_the_midst_of_an_epoch(whole, tmp_path, capsys):
  stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
  with test_runs.during_chunk(3, stop), pytest.raises(runs.Interrupted):
    sparse_tiny.run(tmp_path, **FIELDS)
  results = sparse_tiny.run(tmp_path, **FIELDS)
  assert 'at step 20 of 40' in capsys.readouterr().out
  test_runs._assert_same_run(tmp_path, results, whole)


def test_a_signal_is_heeded_between_two_windows(tmp_path, monkeypatch, capsys):
  """A chunk may be long; of one that is not over, nothing is kept."""
  monkeypatch.setattr(feed, '_WINDOW_BYTES', 2 * 32 * 8 * 8 * 3)
  plain, number = feed.Streaming._window, []

  def window(self, reader, steps):
    number.append(steps)
    if len(number) == 1 + 7:  # the first is what methods look at
      os.kill(os.getpid(), signal.SIGTERM)
    return plain(self, reader, steps)

  monkeypatch.setattr(feed.Streaming, '_window', window)
  with pytest.raises(runs.Interrupted):
    sparse_tiny.run(tmp_path, **FIELDS | {'near_zero': 0.012})
  assert len(number) == 8
  sparse_tiny.run(tmp_path, **FIELDS | {'near_zero': 0.012})
  assert 'at step 10 of 40' in capsys.readouterr().out


def test_windows_are_parts_of_a_chunk(whole, tmp_path, monkeypatch):
  """However many steps fit into memory, they are the same steps."""
  read = []
  plain = feed.Streaming._window

  def window(self, reader, steps):
    read.append(steps)
    return plain(self, reader, steps)

  monkeypatch.setattr(feed.Streaming, '_window', window)
  monkeypatch.setattr(feed, '_WINDOW_BYTES', 2 * 32 * 8 * 8 * 3)
  # Another field than in the fixture: what was prepared for it is not shared.
  results = sparse_tiny.run(tmp_path, **FIELDS | {'near_zero': 0.011})
  assert read[0] == 1 and read[1:] == [2] * 20  # what a method looks at, first
  loss = lambda folder: [r['loss'] for r in files.read_metrics(folder)]
  np.testing.assert_allclose(loss(tmp_path), loss(whole[0]), 1e-4)
  for row, wanted in zip(results['rows'], whole[1]['rows'], strict=True):
    assert abs(row['test_accuracy'] - wanted['test_accuracy']) < 0.1


def test_averages_are_made_anew_of_streamed_pictures(tmp_path, monkeypatch):
  """And batches go through the net in parts, wherever they do."""
  fields = FIELDS | {
    'network': 'wide_resnet',
    'network_kwargs': {'depth': 10, 'width': 1},
    'methods': 'dense',
    'average_examples': 60,
    'steps': 10,
    'accumulate': 2,
  }
  sizes = set()
  plain = modules.BatchNorm.__call__

  def call(self, x, *args, **kwargs):
    sizes.add(len(x))
    return plain(self, x, *args, **kwargs)

  monkeypatch.setattr(modules.BatchNorm, '__call__', call)
  results = sparse_tiny.run(tmp_path, **fields)
  assert np.isfinite(results['rows'][0]['test_nll'])
  # Never a whole batch, neither in training nor in what is measured; one is to
  # make the net.
  assert sizes <= {1, 16}, sizes
