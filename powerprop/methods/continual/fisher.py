"""The diagonal of the Fisher information, estimated at the end of a task."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from powerprop import trees
from powerprop.methods.continual.sequential import Tasks
from powerprop.types import Ending, Params

KINDS = ('batch', 'example')
LABELS = ('argmax', 'sampled', 'true')

# Gradients of so many single examples are in memory at once.
_CHUNK = 16


def diagonal(
  ending: Ending,
  tasks: Tasks,
  theta: Params,
  *,
  kind: str,
  labels: str,
  num_examples: int = 0,
  split: str = 'train',
) -> Params:
  r"""The mean of squared gradients of the log-likelihood, for every parameter.

  .. math::
    F_i = \frac{1}{N} \sum_n (∂ \log p(y_n | x_n, θ) / ∂θ_i)^2

  for `kind` 'example'. 'batch' takes the gradient of a minibatch's mean, its
  square times the batch size, and the mean over minibatches: cheaper, and the
  same in expectation where gradients have mean zero, which labels drawn from
  the model grant and others do not.

  Args:
    ending: of the task.
    tasks: for their sizes.
    theta: the net's parameters, where F is measured.
    kind: 'example' or 'batch'; of the latter an incomplete last minibatch is
      left out.
    labels: y: 'true', the 'argmax' of the model, or 'sampled' from it once for
      every example (an unbiased estimate of the Fisher information, which for a
      softmax is the Gauss-Newton matrix).
    num_examples: N, ≥ 0; 0 is all of the training set. A task that has fewer
      gives all that it has.
    split: 'train', in an order drawn by the ending's key, or 'validation', the
      first `num_examples` as they come.

  Returns:
    Arrays ≥ 0 like theta, float32 or wider; 0 for outputs that are not visible.

  Raises:
    ValueError: for options that do not exist, and for a validation split
      without `num_examples`.

  Reference: Kirkpatrick et al., PNAS 2017, eq. (3); 'batch' with 'argmax' is
  the estimate of Hsu et al., Re-evaluating continual learning scenarios, 2018,
  in their code.
  """
  check(kind, labels, num_examples)
  group = 1 if kind == 'example' else tasks.batch_size

  def squares(batch, key):
    grads = jax.grad(ending.log_likelihood)(theta, batch, key, labels)
    return jax.tree.map(lambda g: group * jnp.square(trees.wide(g)), grads)

  return mean(
    squares, ending, tasks, group=group, num_examples=num_examples, split=split
  )


def check(kind: str, labels: str, num_examples: int) -> None:
  """Raises ValueError for options that `diagonal` does not have."""
  if kind not in KINDS:
    raise ValueError(f'fisher is {kind!r} but must be one of {KINDS}')
  if labels not in LABELS:
    raise ValueError(f'labels is {labels!r} but must be one of {LABELS}')
  if num_examples < 0:
    raise ValueError(
      f'the number of examples is {num_examples} but must be at least 0, which'
      ' is all of them'
    )


def mean(
  fn: Callable[[Any, jax.Array], Params],
  ending: Ending,
  tasks: Tasks,
  *,
  group: int,
  num_examples: int = 0,
  split: str = 'train',
) -> Params:
  """The mean of a function over groups of examples, as a running sum.

  Args:
    fn: (batch of a group, key) -> a pytree of float arrays.
    ending: of the task.
    tasks: for their sizes.
    group: examples in a group, ≥ 1; a smaller task repeats some to fill one.
    num_examples: as in `diagonal`.
    split: as in `diagonal`.

  Returns:
    A pytree like what `fn` returns.

  Raises:
    ValueError: for a validation split without `num_examples`.
  """
  if split != 'train' and not num_examples:
    raise ValueError(f'say how many examples of the {split} split to take')
  most = num_examples or tasks.num_train
  if split == 'train':
    most = min(most, tasks.num_train)
  size = ending.sizes[split]
  chunk = _CHUNK if group == 1 else 1
  steps = -(-max(1, most // group) // chunk)
  # How many groups differ from task to task, so those in excess weigh nothing.
  count = jnp.maximum(jnp.minimum(most, size) // group, 1)

  order_key, fn_key = jax.random.split(ending.key)
  if split == 'train':
    position = jnp.arange(tasks.num_train)
    draws = jax.random.uniform(order_key, (tasks.num_train,))
    # A permutation of the task's own examples, and then the excess.
    order = jnp.argsort(jnp.where(position < size, draws, 2.0))

  def one(index):
    rows = (index * group + jnp.arange(group)) % size
    rows = order[rows] if split == 'train' else rows
    key = jax.random.fold_in(fn_key, index)
    return fn(ending.batch(split, rows), key)

  def step(total, first):
    index = first + jnp.arange(chunk)
    parts = jax.vmap(one)(index)
    weight = jnp.where(index < count, 1.0 / count, 0.0)
    total = jax.tree.map(
      lambda t, x: t + jnp.tensordot(weight.astype(x.dtype), x, 1), total, parts
    )
    return total, None

  shapes = jax.eval_shape(one, jnp.int32(0))
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  total, _ = jax.lax.scan(step, zeros, chunk * jnp.arange(steps))
  return total
