"""Lives of a few tasks, in milliseconds: data, a net, and their programs."""

from collections.abc import Callable, Iterator
import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments import data
from experiments.engine import classification
from experiments.engine import networks
from powerprop import batches
from powerprop import lifetime
from powerprop import methods
from powerprop import train
from powerprop import transforms
from powerprop.psi import Psi
from powerprop.types import Hyper, Method, TrainState
from tests import endings

STEPS = 6
# 64·7 + 7·10 = 518 weights: no multiple of 8.
HIDDEN = (7,)
BATCH = 20
# A large ε: where a gradient is next to zero, Adam would make its rounding a
# step as large as any.
ADAM = functools.partial(optax.adam, eps=1e-3)


def in_turn(
  key: jax.Array,
  start: Any,
  num_steps: int,
  num_examples: int,
  batch_size: int,
  size: Any = None,
) -> jax.Array:
  """For `batches.batch_indices`: examples in turn, from a row of the key's.

  The random order has tests of its own, and is half of what a chunk takes to
  compile.
  """
  num_examples = num_examples if size is None else size
  first = jax.random.key_data(key)[-1] % num_examples
  place = start * batch_size + jnp.arange(num_steps * batch_size)
  rows = (first.astype(jnp.int32) + place) % num_examples
  return rows.reshape(num_steps, batch_size)


@contextlib.contextmanager
def batches_in_turn() -> Iterator[None]:
  """Trains with `in_turn`."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(batches, 'batch_indices', in_turn)
    yield


class Learned(NamedTuple):
  """A member's states on its way through one task.

  Attributes:
    trained: after the task's steps.
    ended: with the method's end of the task.
    retrained: after the retraining, where there is one.
    archived: before the next task.
    record: what is kept of the task.
    report: of the method.
    loss: mean of the last chunk of the task's steps.
  """

  trained: TrainState
  ended: TrainState
  retrained: TrainState
  archived: TrainState
  record: Any
  report: dict[str, jax.Array]
  loss: jax.Array


class Setup(NamedTuple):
  """A method on a sequence.

  Attributes:
    sequence: of digits.
    pictures: of which the problem is made.
    recipe: of the trainings.
    tasks: what the method was told.
    method: the method.
    life: of make_life.
  """

  sequence: data.Sequence
  pictures: classification.Pictures
  recipe: train.Recipe
  tasks: methods.Tasks
  method: Method
  life: lifetime.Life


@functools.cache
def digits() -> data.Dataset:
  """120 pictures to train on, 60 to validate and 40 to test."""
  whole = data.load('digits')
  cut = lambda s, n: data.Split(s.image[:n], s.label[:n])
  return whole._replace(
    train=cut(whole.train, 120),
    validation=cut(whole.validation, 60),
    test=cut(whole.test, 40),
  )


@functools.cache
def sequence(scenario: str = 'domain', num_tasks: int = 4) -> data.Sequence:
  """Permuted digits."""
  return data.SEQUENCES['permuted'](digits(), num_tasks, scenario)


def setup(
  make: Callable[..., Method],
  scenario: str = 'domain',
  *,
  num_tasks: int = 4,
  optimizer: Callable[..., Any] = ADAM,
  alpha: float | None = None,
  transform: Callable[..., Any] = transforms.powerprop,
  retrain_steps: int = 0,
  hidden: tuple[int, ...] = HIDDEN,
  network: Callable[[int], Any] | None = None,
) -> Setup:
  """A life of a method.

  Args:
    make: tasks -> Method.
    scenario: of the sequence.
    num_tasks: of the sequence.
    optimizer: learning rate -> optax transformation.
    alpha: a static α, or None to have it traced.
    transform: what stands for `powerprop`.
    retrain_steps: that the method is told.
    hidden: widths of the net's hidden layers.
    network: number of outputs -> the net; None is a perceptron.

  Returns:
    The life, and all that it is made of.
  """
  s = sequence(scenario, num_tasks)
  network = network or functools.partial(networks.mlp, hidden=hidden)
  net = network(s.num_outputs)
  image_shape = s.dataset.train.image.shape[1:]
  own = () if scenario == 'domain' else ('output/b', 'output/w')
  pictures = classification.Pictures(
    net, image_shape, s.dataset.scale, sequence=s, heads=own
  )
  recipe = train.Recipe(
    problem=classification.classification(pictures),
    optimizer=optimizer,
    batch_size=BATCH,
    num_train=int(s.sizes['train'].max()),
    epsilon=0.01,
  )
  tasks = methods.Tasks(
    shapes=jax.eval_shape(lambda: train.initial_theta(recipe, 0)[0]),
    number=num_tasks,
    example=endings.example(image_shape, s.num_outputs),
    num_train=recipe.num_train,
    batch_size=BATCH,
    heads=own,
    units=recipe.problem.units,
    retrain_steps=retrain_steps,
  )
  method = make(tasks)
  life = lifetime.make_life(recipe, Psi(alpha, transform=transform), method)
  return Setup(s, pictures, recipe, tasks, method, life)


def hyper(
  alpha: float = 1.0, seed: int = 0, rate: float = 0.02, coefficient: float = 0
) -> Hyper:
  """Hyperparameters of one member, as arrays."""
  floats = (jnp.float32(x) for x in (alpha, rate, coefficient))
  return Hyper(jnp.int32(seed), *floats)


@functools.cache
def _splits() -> dict[str, data.Split]:
  return {
    name: jax.tree.map(jnp.asarray, getattr(digits(), name))
    for name in data.SPLITS
  }


@functools.cache
def _tables(num_tasks: int) -> jax.Array:
  return sequence('domain', num_tasks).tables(0)


def source(task: int, now: int | None = None, num_tasks: int = 4):
  """A task, its pictures permuted by seed 0, after task `now` was seen."""
  return data.Source(
    _splits(),
    _tables(num_tasks),
    jnp.int32(task),
    jnp.int32(task if now is None else now),
  )


def learner(life: lifetime.Life, chunks=(STEPS,), retrain_chunk: int = STEPS):
  """(state, hyper, source) -> Learned: all that happens in a task."""

  def learn(state, hyper, source):
    state = life.begin(state, hyper)
    start = 0
    for steps in chunks:
      state, loss = life.chunk(state, hyper, source, start, steps)
      start += steps
    ended, report = life.end(state, hyper, source)
    retrained = ended
    if life.rechunk is not None:
      retrained, _ = life.rechunk(ended, hyper, source, 0, retrain_chunk)
    archived, record = life.archive(retrained, hyper, source)
    return Learned(state, ended, retrained, archived, record, report, loss)

  return learn
