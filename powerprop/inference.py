"""Which task an example is of, where nobody says it: a choice among nets.

Ours: the Powerpropagation paper (Schwarz et al. 2021, section 4) leaves its own
way to a supplement. A method that must be told the task (`needs_identity`)
keeps a record of each, and `predict` makes a net of a record. Here

* `answers` asks every task's net, and the surest has it: T forward passes;
* `by_gradient` asks a mixture of all nets once, for a batch of one task, or in
  rounds that halve the candidates;
* `by_halves` goes down a fixed tree of mixtures: 2 log₂ T forward passes, and
  the making of the mixtures, which all examples share;
* `log_likelihood` asks what each task's inputs were like, and no net.

No more than one net of a task and one mixture are there at a time.
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from powerprop import trees
from powerprop.types import Continual, Params

# A share of a task's mean variance that every input's is raised by: an input
# that was always the same may still be another a little.
FLOOR = 0.01

# A pytree of arrays: weights, the net's own state, and which outputs take part.
Net = Any


class Nets(NamedTuple):
  """The nets of all tasks; see `of_records`.

  Attributes:
    number: of tasks, T ≥ 2.
    net: int32 in [0, T), traced -> the task's net.
    answer: (net, batch) -> outputs [B, C], and bool [C], which take part.
  """

  number: int
  net: Callable[[jax.Array], Net]
  answer: Callable[[Net, Any], tuple[jax.Array, jax.Array]]


def of_records(
  continual: Continual,
  theta: Params,
  records: Any,
  outputs: Callable[[Params, Any, Any], jax.Array],
  seen: jax.Array | None = None,
) -> Nets:
  """The nets that a method's records stand for.

  Args:
    continual: of the method.
    theta: θ after the last task.
    records: of all tasks, one upon the other, [T, ...]: as
      `lifetime.Life.archive` gives them, with what each keeps of the net's own
      state.
    outputs: (w, net state, batch) -> logits [B, C].
    seen: bool [T, C], each task's outputs; None is all of them.

  Returns:
    Nets; the records stay packed.

  Raises:
    ValueError: if there is nothing to choose from.
  """
  if not continual.needs_identity:
    raise ValueError(
      'the method answers all tasks with one net, so there is no task to infer:'
      ' take one that has a net for each, such as efficient_packnet'
    )
  number = jax.tree.leaves(records)[0].shape[0]
  if number < 2:
    raise ValueError(
      f'there is a record of {number} task but to infer one takes at least 2:'
      ' learn more of them'
    )

  def net(task):
    kept, net_state, private = jax.tree.map(lambda x: x[task], records)
    # As numbers, so that a mixture has the outputs of any of its nets.
    own = None if seen is None else jnp.asarray(seen, jnp.float32)[task]
    every = {**theta, **private} if private else theta
    return continual.predict(every, kept), net_state, own

  def answer(it, batch):
    w, net_state, own = it
    found = trees.wide(outputs(w, net_state, batch))
    if own is None:
      return found, jnp.ones(found.shape[-1], bool)
    return found, own > 0

  return Nets(number, net, answer)


class Answers(NamedTuple):
  """What the nets of all tasks answer.

  Attributes:
    energy: float32 [T, B], log Σ exp over a net's outputs.
    entropy: float32 [T, B], minus the entropy of its softmax, as a share of the
      largest, log C; −1 where a task has one output.
    label: int32 [T, B], the largest output.
  """

  energy: jax.Array
  entropy: jax.Array
  label: jax.Array


def answers(nets: Nets, batch: Any) -> Answers:
  """Every task's net on every example; the larger a score, the surer it is.

  Args:
    nets: of the tasks.
    batch: of B examples, whose tasks may differ.

  Returns:
    Answers; `chosen` takes the scores.
  """

  def one(task):
    found, seen = nets.answer(nets.net(task), batch)
    found = jnp.where(seen, found, -jnp.inf)
    log_p = jax.nn.log_softmax(found)
    entropy = -jnp.sum(jnp.where(seen, jnp.exp(log_p) * log_p, 0), -1)
    most = jnp.log(jnp.sum(seen))
    share = jnp.where(most > 0, entropy / jnp.where(most > 0, most, 1), 1)
    label = jnp.argmax(found, -1).astype(jnp.int32)
    return Answers(jax.nn.logsumexp(found, -1), -share, label)

  return jax.lax.map(one, jnp.arange(nets.number))


def chosen(scores: jax.Array, size: int = 1) -> jax.Array:
  """The task of every `size` examples in a row, which are of one.

  Args:
    scores: [T, B]; those of examples that belong together are averaged.
    size: ≥ 1, a divisor of B.

  Returns:
    int32 [B / size].
  """
  means = jnp.mean(scores.reshape(len(scores), -1, size), -1)
  return jnp.argmax(means, 0).astype(jnp.int32)


def spread(outputs: jax.Array, seen: jax.Array) -> jax.Array:
  """The log of the variance of the outputs that take part, [B].

  Small outputs have an entropy of log C less half their variance, which in a
  mixture of many nets is below what float32 can tell: its log is not.
  """
  number = jnp.maximum(jnp.sum(seen), 1)
  mean = jnp.sum(jnp.where(seen, outputs, 0), -1, keepdims=True) / number
  square = jnp.where(seen, jnp.square(outputs - mean), 0)
  return jnp.log(jnp.sum(square, -1) / number + jnp.finfo(square.dtype).tiny)


def mixture(
  nets: Nets, shares: jax.Array, first: Any = 0, end: Any = None
) -> Net:
  """Σ shares[i] · net(i) over the tasks first ≤ i < end, one at a time."""
  end = nets.number if end is None else end
  like = jax.eval_shape(nets.net, jnp.int32(0))

  def step(task, total):
    share, net = shares[task], nets.net(task)
    return jax.tree.map(lambda s, x: s + share * x, total, net)

  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, _wide(x)), like)
  total = jax.lax.fori_loop(first, end, step, zeros)
  return jax.tree.map(lambda s, x: s.astype(x.dtype), total, like)


def _wide(x: Any) -> Any:
  return jnp.promote_types(x.dtype, jnp.float32)


def by_gradient(nets: Nets, batch: Any, halve: bool = False) -> jax.Array:
  """The task of a batch, by the derivative at a mixture of the nets.

  The one whose share in the mixture, 1/T of each, makes the outputs' `spread`
  rise the most. It takes one pass forward and backward, and of each net its
  part in the mixture and a product with the gradient, each of which costs as
  much as a pass of one example: so it is for batches.

  Args:
    nets: of the tasks.
    batch: of examples of one task.
    halve: whether the better half of the candidates is mixed anew, until one is
      left: ⌈log₂ T⌉ rounds.

  Returns:
    int32 scalar.

  Reference: Wortsman et al., Supermasks in superposition, NeurIPS 2020, section
    3.3, which has the entropy for the spread.
  """
  tasks = jnp.arange(nets.number)

  def derivatives(shares):
    surer = lambda net: jnp.mean(spread(*nets.answer(net, batch)))
    at = jax.grad(surer, allow_int=True)(mixture(nets, shares))

    def product(task):
      pairs = zip(
        jax.tree.leaves(at), jax.tree.leaves(nets.net(task)), strict=True
      )
      return sum(jnp.vdot(g, x) for g, x in pairs if _is_real(x))

    return jax.lax.map(product, tasks)

  def step(_, alive):
    found = derivatives(alive / jnp.sum(alive))
    # Those that are out come last.
    order = jnp.lexsort((-found, ~alive))
    keep = (jnp.sum(alive) + 1) // 2 if halve else 1
    return jnp.zeros_like(alive).at[order].set(tasks < keep)

  rounds = math.ceil(math.log2(nets.number)) if halve else 1
  everyone = jnp.ones(nets.number, bool)
  alive = jax.lax.fori_loop(0, rounds, step, everyone)
  return jnp.argmax(alive).astype(jnp.int32)


def _is_real(x: Any) -> bool:
  return bool(jnp.issubdtype(x.dtype, jnp.inexact))


def by_halves(nets: Nets, units: Any, block: int = 1) -> jax.Array:
  """The task of each of many units, by a search through mixtures.

  A unit is one example, or several of one task. Its candidates are those that
  follow each other in a fixed tree, all at first. It runs on the mean of the
  nets of either half, and the half with the larger `spread` (the mean over the
  unit) has it: 2 ⌈log₂ T⌉ passes an example.

  The mixtures are made level by level, each once for all units that need it,
  from the records: T of them unpacked and added a level, at about a pass of
  one example each.

  Args:
    nets: of the tasks.
    units: a batch whose arrays are [U, examples, ...].
    block: how many units run at a time, ≥ 1.

  Returns:
    int32 [U].
  """
  number = jax.tree.leaves(units)[0].shape[0]
  levels = math.ceil(math.log2(nets.number))

  def bounds(node, level):  # the tasks of a node, which may be none
    edge = lambda k: (nets.number * k) >> level
    return edge(node), edge(node + 1)

  def of_node(node, level, order, at, scores):
    """The scores of the units whose node is the parent."""
    first, end = bounds(node, level)
    begun = jnp.searchsorted(at, node // 2, side='left')
    ended = jnp.searchsorted(at, node // 2, side='right')
    ended = jnp.where(first < end, ended, begun)
    # No unit needs the mixture of a node that it cannot come to.
    end = jnp.where(begun < ended, end, first)
    shares = jnp.full(nets.number, 1 / jnp.maximum(end - first, 1))
    net = mixture(nets, shares, first, end)

    def some(i, scores):
      start = begun + i * block
      rows = order[jnp.minimum(start + jnp.arange(block), number - 1)]
      mine = jax.tree.map(lambda x: x[rows].reshape(-1, *x.shape[2:]), units)
      found = spread(*nets.answer(net, mine)).reshape(block, -1).mean(-1)
      # The rest of a block is of later nodes, which put their own there.
      place = (node % 2, start)
      return jax.lax.dynamic_update_slice(scores, found[None], place)

    blocks = (ended - begun + block - 1) // block
    return jax.lax.fori_loop(0, blocks, some, scores)

  def step(level, node):
    order = jnp.argsort(node)
    at, below = node[order], level + 1
    scores = jnp.zeros((2, number + block))
    scores = jax.lax.fori_loop(
      0, 1 << below, lambda k, s: of_node(k, below, order, at, s), scores
    )
    left, right = scores[:, :number]
    # Of one task a half is empty.
    first, end = bounds(2 * at, below)
    no_left = first == end
    first, end = bounds(2 * at + 1, below)
    goes = no_left | ((right > left) & (first < end))
    return node.at[order].set(2 * at + goes)

  node = jax.lax.fori_loop(0, levels, step, jnp.zeros(number, jnp.int32))
  return bounds(node, levels)[0].astype(jnp.int32)


class Moments(NamedTuple):
  """What a task's inputs were like, to be kept at its end.

  Attributes:
    mean: float32 [D], of each input.
    variance: float32 [D] ≥ 0.
  """

  mean: jax.Array
  variance: jax.Array


def moments(x: jax.Array) -> Moments:
  """The moments of a task's training inputs [N, D]."""
  return Moments(jnp.mean(x, 0), jnp.var(x, 0))


def log_likelihood(
  kept: Moments, x: jax.Array, floor: float = FLOOR
) -> jax.Array:
  """How likely inputs are under each task's Gaussian of independent inputs.

  Args:
    kept: of T tasks, arrays [T, D].
    x: inputs [B, D].
    floor: ≥ 0, a share of a task's mean variance that is added to each.

  Returns:
    float32 [T, B], up to a constant; `chosen` takes it.
  """

  def one(task):
    variance = task.variance + floor * jnp.mean(task.variance)
    variance = jnp.maximum(variance, jnp.finfo(variance.dtype).tiny ** 0.5)
    square = jnp.square(x - task.mean) / variance
    return -0.5 * jnp.sum(square + jnp.log(variance), -1)

  return jax.lax.map(one, kept)
