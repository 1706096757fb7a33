"""Several tasks in turn, as one function; arrays of examples as a problem."""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from powerprop import costs
from powerprop import lifetime
from powerprop import private
from powerprop import reparam
from powerprop import train
from powerprop import trees
from powerprop import units
from powerprop.methods.continual.sequential import Tasks
from powerprop.psi import Psi
from powerprop.types import Hyper, Method, Params, Problem, Score, TrainState

_ORDINARY = Psi(1.0)


class Learned(NamedTuple):
  """What is left of a sequence of tasks.

  Attributes:
    state: after the last task.
    records: what the method keeps of each task.
    reports: what it said at the end of each, such as the rate of its mask.
    scores: float32 [T, T], of task j (column) after task t (row); nan above
      the diagonal.
    weights: task -> w, the task's own net, as the forward pass uses it.
  """

  state: TrainState
  records: tuple[Any, ...]
  reports: tuple[dict[str, jax.Array], ...]
  scores: np.ndarray
  weights: Callable[[int], Params]


def learn(
  problem: Problem,
  method: Callable[[Tasks], Method],
  tasks: Sequence[Any],
  optimizer: Callable[[Any], optax.GradientTransformation],
  *,
  steps: int | Sequence[int],
  batch_size: int,
  learning_rate: float,
  psi: Psi = _ORDINARY,
  coefficient: float = 0.0,
  retrain_steps: int | Sequence[int] = 0,
  seed: int = 0,
  split: str = 'test',
) -> Learned:
  """Learns tasks one after the other; each function is compiled once.

  Args:
    problem: what is learned.
    method: how, of `powerprop.methods`, such as `methods.efficient_packnet`;
      `functools.partial` sets its options.
    tasks: a source of the problem for each; those of the same shapes share
      their programs.
    optimizer: learning rate -> optax transformation; it is put under `psi`.
    steps: of each task, ≥ 1: one number for all, or one for each. An epoch of
      a task is `size // batch_size` steps over its own examples.
    batch_size: examples of a step, ≥ 1.
    learning_rate: > 0.
    psi: α ≥ 1, a number; which leaves are under it; and the transform.
    coefficient: what the method's penalty is multiplied by, as
      `methods.COEFFICIENTS` has it by name.
    retrain_steps: of a packing method under each new mask, likewise; 0 is none.
    seed: of the initial weights, the batches, and all else.
    split: whose scores are measured.

  Returns:
    What was learned.

  Raises:
    ValueError: if there is not a number of steps for each task.
  """
  sizes = [int(problem.size(source, 'train')) for source in tasks]
  longest, steps = _by_task('steps', steps, len(tasks))
  most, again = _by_task('retrain_steps', retrain_steps, len(tasks))
  recipe = train.Recipe(
    problem=problem,
    optimizer=optimizer,
    batch_size=batch_size,
    num_train=max(sizes),
    epsilon=0.0,
    unequal=min(sizes) < max(sizes),
    task_steps=steps,
  )
  row = jnp.zeros(1, jnp.int32)
  shapes = jax.eval_shape(lambda: train.initial_theta(recipe, seed)[0])
  made = method(
    Tasks(
      shapes=private.split(shapes, problem.private)[0],
      number=len(tasks),
      example=jax.eval_shape(lambda: problem.batch(tasks[0], 'train', row)),
      num_train=max(sizes),
      batch_size=batch_size,
      heads=problem.own,
      units=problem.units,
      retrain_steps=most,
      where=psi.where,
    )
  )
  life = lifetime.make_life(recipe, psi, made, retrain_steps=again)
  chunk = jax.jit(life.chunk, static_argnums=4)
  choose = None if life.choose is None else jax.jit(life.choose)
  rechunk = None
  if life.rechunk is not None and most:
    rechunk = jax.jit(life.rechunk, static_argnums=4)
  end, archive = jax.jit(life.end), jax.jit(life.archive)
  recall = jax.jit(life.recall, static_argnums=3)
  hyper = Hyper(
    np.int32(seed),
    np.float32(reparam.check_alpha(psi.alpha)),
    np.float32(learning_rate),
    np.float32(coefficient),
  )
  state = jax.jit(life.start)(hyper, tasks[0])
  records, reports = [], []
  scores = np.full((len(tasks), len(tasks)), np.nan, np.float32)
  for t, source in enumerate(tasks):
    state = life.begin(state, hyper)
    if choose is not None:
      state = choose(state, hyper, source)
    state, _ = chunk(state, hyper, source, np.int32(0), longest)
    state, report = end(state, hyper, source)
    if rechunk is not None:
      state, _ = rechunk(state, hyper, source, np.int32(0), most)
    state, record = archive(state, hyper, source)
    records.append(record)
    reports.append(report)
    for j, kept in enumerate(records):
      scores[t, j] = recall(state, kept, tasks[j], split).value
  return Learned(
    state,
    tuple(records),
    tuple(reports),
    scores,
    lambda task: life.params_for(state, records[task]),
  )


def _by_task(
  name: str, given: int | Sequence[int], tasks: int
) -> tuple[int, tuple[int, ...]]:
  """The largest number, and, where they differ, that of each task."""
  if not isinstance(given, Sequence):
    return int(given), ()
  numbers = tuple(int(n) for n in given)
  if len(numbers) != tasks:
    raise ValueError(
      f'{name} are {len(numbers)} numbers but there are {tasks} tasks: give one'
      ' number for all, or one for each'
    )
  return max(numbers), train.where_they_differ(numbers)


class Labelled(NamedTuple):
  """A batch of `classifier`: inputs [B, ...] and labels, int32 [B]."""

  x: jax.Array
  y: jax.Array


def classifier(net: hk.TransformedWithState, example: Any) -> Problem:
  """The mean cross-entropy of a net's softmax, scored by its accuracy.

  All tasks share the outputs. A source is a dict: 'task', its number from 0,
  and `Labelled` by split: 'train', 'validation' and 'test'.

  Args:
    net: of `hk.transform_with_state`, called as net(x, is_training).
    example: an x of one example, [1, ...], or its shape.

  Returns:
    A problem.
  """

  def logits(w, net_state, x):
    found, _ = net.apply(w, net_state, None, x, is_training=False)
    return trees.wide(found)

  def loss(w, net_state, key, batch):
    found, net_state = net.apply(w, net_state, key, batch.x, is_training=True)
    return -mean_log_p(found, batch.y), net_state

  def score(w, net_state, source, split):
    found = logits(w, net_state, source[split].x)
    bits = jax.lax.bitcast_convert_type(found, jnp.uint32).ravel()
    odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    return Score(
      jnp.mean(jnp.argmax(found, -1) == source[split].y),
      -mean_log_p(found, source[split].y),
      jnp.stack([jnp.sum(bits), jnp.sum(bits * odd)]),
    )

  def log_likelihood(w, net_state, batch, key, targets):
    found = logits(w, net_state, batch.x)
    return mean_log_p(found, batch.y, key, targets)

  def outputs(w, net_state, batch):
    found = logits(w, net_state, batch.x)
    return found, jnp.ones(found.shape, bool)

  x = jax.ShapeDtypeStruct(example.shape, example.dtype)
  zeros = functools.partial(jnp.zeros, x.shape, x.dtype)
  init = lambda key: net.init(key, zeros(), is_training=True)
  return Problem(
    init=init,
    task=lambda source: jnp.asarray(source['task'], jnp.int32),
    size=lambda source, split: jnp.int32(len(source[split].y)),
    batch=lambda source, split, rows: jax.tree.map(
      lambda leaf: jnp.asarray(leaf)[rows], source[split]
    ),
    augment=None,
    loss=loss,
    score=score,
    least=lambda accuracy, gamma: gamma * accuracy,
    log_likelihood=log_likelihood,
    outputs=outputs,
    flops=lambda params, net_state: costs.flops(
      lambda w, state, x: logits(w, state, x), params, net_state, x
    ),
    averages=averages_of(init, loss),
    activations=lambda w, net_state, batch: units.with_activations(logits)(
      w, net_state, batch.x
    )[1],
    units=units_of(init, logits, x),
  )


def averages_of(
  init: Callable[[jax.Array], tuple[Params, Any]],
  loss: Callable[..., tuple[jax.Array, Any]],
) -> Callable[..., Any]:
  """`Problem.averages` of a net whose whole state is averages over batches.

  They start as a fresh net's do and run over the batches by the net's own law:
  those of `hk.BatchNorm` with a decay of 0.9 look back at about 20 batches.

  Args:
    init: key -> (θ, net state), `Problem.init`.
    loss: `Problem.loss`.

  Returns:
    A function.
  """

  def averages(w, net_state, key, batch, number):
    key = jax.random.fold_in(key, number)  # batch i has that of i
    step = lambda i, state: loss(
      w, state, jax.random.fold_in(key, i), batch(i)
    )[1]
    start = units.hold_frozen(init(key)[1], net_state)  # what is frozen stays
    return jax.lax.fori_loop(0, number, step, start)

  return averages


def units_of(
  init: Callable[[jax.Array], tuple[Params, Any]],
  apply: Callable[[Params, Any, Any], jax.Array],
  x: Any,
) -> Callable[[], units.Units]:
  """`Problem.units` of a net, from its init and what `units.find` takes."""

  def found():
    w, net_state = jax.eval_shape(init, jax.random.key(0))
    return units.find(apply, w, net_state, x)

  return found


def mean_log_p(
  logits: jax.Array,
  label: jax.Array,
  key: jax.Array | None = None,
  targets: str = 'true',
) -> jax.Array:
  """The mean log-probability of labels, or of the net's own.

  Args:
    logits: [B, outputs]; finite, or a gradient is NaN.
    label: int32 [B].
    key: that labels are drawn with.
    targets: 'true' for these labels, 'argmax', or 'sampled'.

  Returns:
    A scalar ≤ 0, float32 or wider.
  """
  logits = trees.wide(logits)
  if targets == 'argmax':
    label = jnp.argmax(logits, -1)
  elif targets == 'sampled':
    assert key is not None
    label = jax.random.categorical(key, logits)
  log_p = jax.nn.log_softmax(logits)
  return jnp.mean(jnp.take_along_axis(log_p, label[:, None], -1))
