"""What PackNet and EfficientPackNet share: masks of tasks, frozen weights.

A task's net is the weights in its mask. Weights in any task's mask are never
changed again, bit for bit, so every task's net stays what it was.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import trees
from powerprop.methods import magnitude
from powerprop.methods import targets
from powerprop.methods.continual import sequential
from powerprop.types import Ending, Masks, Method, Params, Trial

BIASES = ('frozen', 'per_task', 'free')
AVERAGE_EXAMPLES = 2_000  # the methods' default

Layers = dict[str, jax.Array]


class Packing(NamedTuple):
  """A method's state.

  Attributes:
    used: bool arrays by path, the weights in some earlier task's mask.
    mask: the same of the task that ended last.
    ended: int32, how many tasks have ended.
    tried: bool [layers that may be done without], those of them that the task
      does without; () where that is not tried.
  """

  used: Layers
  mask: Layers
  ended: jax.Array
  tried: Any = ()


class Record(NamedTuple):
  """What is kept of a task.

  Attributes:
    bits: uint8 [⌈n/8⌉], its mask of all n governed weights in the order of
      their paths, as `jax.numpy.packbits` has it.
    others: by path, the task's own biases and normalisation parameters; {}
      where the tasks share them.
  """

  bits: jax.Array
  others: Layers


class Layout(NamedTuple):
  """Which leaves are masked and which are the rest.

  Attributes:
    shapes: of the governed weights, by path.
    rest: paths of biases and normalisation parameters outside of heads.
    biases: what becomes of the rest; see `layout`.
    without: paths of the governed weights that a new task does without where
      earlier tasks use them, or may do without.
    trial_steps: of the trial that chooses one of them, or none; 0 is no trial.
  """

  shapes: dict[str, tuple[int, ...]]
  rest: tuple[str, ...]
  biases: str
  without: tuple[str, ...] = ()
  trial_steps: int = 0

  @property
  def size(self) -> int:
    """The number n of governed weights."""
    return sum(int(np.prod(s)) for s in self.shapes.values())


def layout(
  tasks: sequential.Tasks,
  biases: str,
  without: tuple[str, ...] = (),
  trial_steps: int = 0,
) -> Layout:
  """Sorts a net's leaves.

  Weights are governed, but for those of heads: a head's columns belong to one
  task and move while that task is learned, and never else. Weights are what
  the tasks' `where` chooses, under Ψ or not.

  Args:
    tasks: of the sequence.
    biases: 'frozen': learned on the first task, then fixed, as PackNet has it.
      'per_task': every task has its own. 'free': never fixed: then earlier
      tasks are forgotten.
    without: regular expressions: where one is found in a layer's path, a new
      task does without earlier tasks' weights of that layer.
    trial_steps: ≥ 0. Above 0 a new task does without those of one of these
      layers at most: the one without which it learns fastest.

  Returns:
    A layout.

  Raises:
    ValueError: if `biases` is none of them, there are no weights, an expression
      is found in no layer, or a trial has nothing to try.
  """
  if trial_steps < 0 or (trial_steps and not without):
    raise ValueError(
      f'trial_steps is {trial_steps} and without is {without} but must be at'
      " least 0, and above it without names the layers to try: ('.',) is all"
    )
  if biases not in BIASES:
    raise ValueError(
      f'biases is {biases!r} but must be one of {", ".join(BIASES)}'
    )
  weights = trees.weights(tasks.shapes, tasks.where)
  every = trees.weights(tasks.shapes, lambda *_: True)
  governed = {n: x for n, x in weights.items() if n not in tasks.heads}
  if not governed:
    raise ValueError(
      f'none of {len(every)} leaves is a weight to share among tasks: choose'
      ' other leaves by where'
    )
  return Layout(
    {n: tuple(x.shape) for n, x in governed.items()},
    tuple(n for n in every if n not in weights and n not in tasks.heads),
    biases,
    tuple(targets.matches('without', dict.fromkeys(without), governed)),
    trial_steps,
  )


def flat(layers: Layers) -> jax.Array:
  """All entries in one row, in the order of the paths."""
  return jnp.concatenate([layers[name].ravel() for name in sorted(layers)])


def unflat(row: jax.Array, shapes: dict[str, tuple[int, ...]]) -> Layers:
  """The inverse of `flat`."""
  names = sorted(shapes)
  ends = np.cumsum([int(np.prod(shapes[n])) for n in names])
  parts = jnp.split(row, ends[:-1].tolist())
  return {n: x.reshape(shapes[n]) for n, x in zip(names, parts, strict=True)}


def governed(where: Layout, tree: Params) -> Layers:
  """The governed weights of a tree, by path."""
  return trees.weights(tree, lambda path, _: path in where.shapes)


def free(state: Packing) -> Layers:
  """The weights that no task has used."""
  return {name: ~x for name, x in state.used.items()}


def left_out(where: Layout, state: Packing) -> Layers:
  """The earlier tasks' weights that a new task does without; {} is none."""
  off = {n: state.used[n] for n in where.without}
  if where.trial_steps:
    off = {n: x & state.tried[i] for i, (n, x) in enumerate(off.items())}
  return off


def computing(where: Layout, theta: Params, state: Packing) -> Params:
  """θ as a new task computes with it while it is learned and ranked."""
  off = left_out(where, state)
  return magnitude.prune(theta, {n: ~x for n, x in off.items()})


def trial(where: Layout) -> Trial | None:
  """With all earlier weights, and without those of each layer in turn."""
  if not where.trial_steps:
    return None
  layers = len(where.without)
  return Trial(
    where.trial_steps,
    1 + layers,
    # The first way is -1, which is no layer.
    lambda state, way: state._replace(tried=jnp.arange(layers) == way - 1),
  )


def check_average_examples(number: int) -> None:
  """Raises ValueError if it is below 0; see `method`."""
  if number < 0:
    raise ValueError(
      f'average_examples is {number} but must be at least 0, which tries masks'
      ' with the averages of the dense net'
    )


def method(
  where: Layout,
  end_task: Any,
  retrain: bool,
  reinitialise: bool,
  average_examples: int,
  fresh_scale: float = 0.0,
) -> Method:
  """A method that gives each task a mask, and freezes what is in it.

  While a task is learned the net computes with all weights, but for those that
  it does `without`, and free ones move.
  What the optimiser sees, gradients and params, and what it answers is masked,
  so that neither norms nor moments nor decay know of frozen weights.

  Args:
    where: of `layout`.
    end_task: chooses `mask`; see `types.Method`.
    retrain: whether training goes on under the mask before the next task.
    reinitialise: whether weights in no mask are drawn anew for the next task.
    average_examples: where the net's own state has averages, as those of batch
      normalisation, from how many training examples they are made anew for
      each mask that is tried, and for the one that is kept; ≥ 0. With 0 masks
      are tried with the averages of the dense net. A net without such a state
      is not concerned.
    fresh_scale: c ≥ 0: how large the weights that are drawn anew are, by layer:
      the root of their mean square at least c times that of the weights in use.

  Returns:
    A method.

  Raises:
    ValueError: if a number is below 0, or there is a scale for nothing.

  Reference: Schwarz et al. 2021, section 4 and Algorithm 1, lines 4, 12 to 14.
  """
  check_average_examples(average_examples)
  if not 0 <= fresh_scale < float('inf') or (fresh_scale and not reinitialise):
    raise ValueError(
      f'fresh_scale is {fresh_scale} and reinitialise is {reinitialise} but the'
      ' scale must be at least 0, and above it weights must be drawn anew'
    )

  def masked(masks):
    return {
      'gradients': lambda dense, theta, s: hold(where, dense, s, masks(s)),
      'constrain': lambda updates, s: hold(where, updates, s, masks(s)),
    }

  base = sequential.method(
    lambda key, phi, psi, gradient: (phi, empty(where)),
    end_task=end_task,
    archive=functools.partial(archive, where, reinitialise, fresh_scale),
    predict=functools.partial(predict, where),
    needs_identity=True,
    trial=trial(where),
    zero_forgetting=where.biases != 'free',
    average_examples=average_examples,
    layers={n: int(np.prod(s)) for n, s in where.shapes.items()},
    weights=functools.partial(computing, where),
    **masked(free),
  )
  if not retrain:
    return base
  again = base._replace(
    weights=lambda theta, state: magnitude.prune(theta, state.mask),
    masks=lambda state: Masks({}, {}),
    **masked(learnable),
  )
  return base._replace(continual=base.continual._replace(retraining=again))


def empty(where: Layout) -> Packing:
  """The state before the first task."""
  nothing = lambda: {n: jnp.zeros(s, bool) for n, s in where.shapes.items()}
  tried = jnp.zeros(len(where.without), bool) if where.trial_steps else ()
  return Packing(nothing(), nothing(), jnp.zeros((), jnp.int32), tried)


def learnable(state: Packing) -> Layers:
  """The weights of the last task's mask that no task before it has used."""
  return {n: m & ~state.used[n] for n, m in state.mask.items()}


def hold(where: Layout, tree: Params, state: Packing, moving: Layers) -> Params:
  """The tree with zeros wherever it is not to move.

  Args:
    where: of `layout`.
    tree: updates, gradients or φ.
    state: says whether the first task has ended.
    moving: masks of the weights that move.

  Returns:
    A tree like `tree`.
  """
  tree = magnitude.prune(tree, moving)
  if where.biases != 'frozen':
    return tree
  return trees.map_where(
    lambda x: jnp.where(state.ended > 0, 0, x).astype(x.dtype),
    lambda path, _: path in where.rest,
    tree,
  )


def archive(
  where: Layout,
  reinitialise: bool,
  fresh_scale: float,
  ending: Ending,
  phi: Params,
  state: Packing,
) -> tuple[Params, Packing, Record]:
  """Freezes the task's mask, and draws what is free anew if asked."""
  others = {}
  if where.biases == 'per_task':
    others = trees.copied(
      trees.weights(phi, lambda path, _: path in where.rest)
    )
  record = Record(jnp.packbits(flat(state.mask)), others)
  used = {n: m | state.used[n] for n, m in state.mask.items()}
  if reinitialise:
    old, theta = governed(where, phi), ending.fresh()
    if fresh_scale:
      there = governed(where, ending.psi.to_theta(phi))
      scaled = {
        n: _at_least(x, there[n], used[n], fresh_scale)
        for n, x in governed(where, theta).items()
      }
      theta = trees.replace_weights(theta, scaled)
    fresh = governed(where, ending.psi.to_phi(theta))
    phi = trees.replace_weights(
      phi, {n: jnp.where(used[n], x, fresh[n]) for n, x in old.items()}
    )
  return phi, state._replace(used=used, ended=state.ended + 1), record


def _at_least(
  fresh: jax.Array, theta: jax.Array, used: jax.Array, scale: float
) -> jax.Array:
  """Fresh weights, enlarged to `scale` times the rms of those in use."""
  mean = jnp.sum(jnp.where(used, jnp.square(trees.wide(theta)), 0))
  mean = mean / jnp.maximum(jnp.sum(used), 1)
  own = jnp.mean(jnp.square(trees.wide(fresh)))
  # A law of zeros stays so.
  by = scale * jnp.sqrt(mean / jnp.where(own > 0, own, 1))
  return (fresh * jnp.maximum(by, 1)).astype(fresh.dtype)


def predict(where: Layout, theta: Params, record: Record) -> Params:
  """The weights of the task whose record it is."""
  row = jnp.unpackbits(record.bits, count=where.size).astype(bool)
  w = magnitude.prune(theta, unflat(row, where.shapes))
  return trees.replace_weights(w, record.others)


def report(where: Layout, state: Packing, mask: Layers) -> dict[str, jax.Array]:
  """How a new mask fills the net; int32 by layer, in the order of the paths.

  Args:
    where: of `layout`.
    state: before the task's weights count as used.
    mask: the task's.

  Returns:
    'used_by_layer', 'new_by_layer' and 'reused_by_layer', int32 [layers]; and
    where there is a choice of layers 'without_by_layer', bool [layers]: where
    the task did without weights in use.
  """
  names = list(where.shapes)
  count = lambda layers: sequential.count(layers, names)
  found = {}
  if where.without:
    off = left_out(where, state)
    found['without_by_layer'] = jnp.stack(
      [jnp.any(off[n]) if n in off else jnp.asarray(False) for n in names]
    )
  return found | {
    'used_by_layer': count({n: mask[n] | state.used[n] for n in names}),
    'new_by_layer': count({n: mask[n] & ~state.used[n] for n in names}),
    'reused_by_layer': count({n: mask[n] & state.used[n] for n in names}),
  }
