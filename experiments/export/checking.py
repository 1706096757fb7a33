"""A file's net, measured on the test set of the run that it comes from."""

import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import classification
from experiments.engine import feed
from experiments.engine import trainings
from experiments.export import nets
from powerprop import train
from powerprop.sparse_file import Sparse


class Checked(NamedTuple):
  """What was measured of a file, and what the run has recorded.

  Attributes:
    accuracy: on the test set, in [0, 1].
    loss: nats.
    recorded: accuracy, of results.json.
    recorded_loss: likewise; NaN where the net has diverged.
  """

  accuracy: float
  loss: float
  recorded: float
  recorded_loss: float

  @property
  def same(self) -> bool:
    """Whether the accuracy is the recorded one to the last bit."""
    return self.accuracy == self.recorded


def check(
  found: Sparse, workdir: str | os.PathLike[str], data_dir: str | None = None
) -> Checked:
  """Measures a file's net as the run has measured it.

  Args:
    found: of a file of `python -m experiments.export`.
    workdir: the folder of its run, with config.json and results.json; no
      checkpoint is read.
    data_dir: where prepared data lie; None for the default.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: the run has no such net, or it is one of several tasks.
    runs.RunError: the run is not finished.
  """
  if (name := found.meta.get('net')) is None:
    raise ValueError(
      'the file does not say of which net of a run it is: name one that python'
      ' -m experiments.export has written.'
    )
  if found.meta['task'] is not None:
    raise ValueError(
      'the file is of a run of several tasks, which this does not measure: its'
      ' weights are those of the run to the bit, but no accuracy was compared.'
    )
  run = nets.of_run(workdir, name, data_dir)
  kwargs = found.meta['network_kwargs']  # those of a narrow net are its own
  s = run.settings._replace(network_kwargs=kwargs, pretrained='')
  recipe = classification.make_recipe(s, run.dataset)
  params, state = jax.tree.map(jnp.asarray, (found.params, found.state))

  @jax.jit
  def evaluate(params, state, source):
    return train.evaluate(recipe, params, state, source)

  source: Any = feed.make(s, run.dataset, None)
  of_net = functools.partial(evaluate, params, state)
  [(accuracy, loss)] = trainings.scored([of_net], source.parts('test'))
  (row,) = run.rows
  return Checked(
    float(accuracy),
    float(loss),
    row['test_accuracy'],
    np.nan if row['test_nll'] is None else row['test_nll'],
  )
