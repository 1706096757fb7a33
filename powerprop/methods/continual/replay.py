"""Rehearsal: a memory of examples, and what to do with the gradient on it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from powerprop import trees
from powerprop.methods.continual import sequential
from powerprop.types import Ending, Method, Rehearsal, Updates


class Memory(NamedTuple):
  """Examples of the tasks so far, the same number of each, in their order.

  Attributes:
    examples: a batch of all M; zeros where nothing is stored yet.
    stored: int32, how many there are.
  """

  examples: Any
  stored: jax.Array


def empty(tasks: sequential.Tasks, share: int) -> Memory:
  """A memory with room for `share` examples of every task."""
  rows = tasks.number * share
  examples = jax.tree.map(
    lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), tasks.example
  )
  return Memory(examples, jnp.zeros((), jnp.int32))


def store(
  memory: Memory, tasks: sequential.Tasks, ending: Ending, key: jax.Array
) -> Memory:
  """Adds training examples of the task that ended, chosen at random.

  None is chosen twice, unless the task has fewer than its share.

  Args:
    memory: of `empty`.
    tasks: that it was made for.
    ending: of the task.
    key: a random key.

  Returns:
    The memory with the task's share filled.
  """
  share = len(jax.tree.leaves(memory.examples)[0]) // tasks.number
  size = ending.sizes['train']
  ranks = jax.random.uniform(key, (tasks.num_train,))
  order = jnp.argsort(jnp.where(jnp.arange(tasks.num_train) < size, ranks, 2.0))
  rows = order[jnp.arange(share) % size].astype(jnp.int32)
  new = ending.batch('train', rows)

  def put(old, part):
    start = memory.stored
    return jax.lax.dynamic_update_slice_in_dim(old, part, start, 0)

  examples = jax.tree.map(put, memory.examples, new)
  return Memory(examples, memory.stored + share)


def draw(memory: Memory, key: jax.Array, rows: int) -> Any:
  """Examples of the memory, uniformly and with replacement."""
  chosen = jax.random.randint(key, (rows,), 0, jnp.maximum(memory.stored, 1))
  return jax.tree.map(lambda x: x[chosen], memory.examples)


def experience_replay(
  tasks: sequential.Tasks, *, memory_size: int = 4000, replay_batch: int = 0
) -> Method:
  r"""Experience replay: the mean loss of the batch and of a batch of memory.

  .. math::
    g = \frac{B g_{batch} + R g_{memory}}{B + R}

  with B and R the sizes of the two; both losses are means. Every task keeps the
  same number of pictures, chosen at random at its end (the paper: a reservoir
  or a ring, filled as the examples come).

  Args:
    tasks: number of tasks, batch size and shapes.
    memory_size: pictures in all, ≥ the number of tasks; 4,000 is Hsu et al.'s
      for permuted MNIST, where they take as much room as online EWC's state.
      A task keeps no more than it has.
    replay_batch: pictures of memory in a step, ≥ 0; 0 is the batch size, as in
      the paper.

  Returns:
    A method; its state is the `Memory`.

  Raises:
    ValueError: if a value is out of range.

  References: Chaudhry et al., On tiny episodic memories in continual learning,
    2019, algorithm 1; Hsu et al., Re-evaluating continual learning scenarios,
    2018, Naive rehearsal, for the size.
  """

  def mix(dense, remembered, rows):
    part = rows / (rows + tasks.batch_size)
    return jax.tree.map(
      lambda g, r: (1 - part) * g + part * r, dense, remembered
    )

  return _method(tasks, memory_size, replay_batch, mix)


def a_gem(
  tasks: sequential.Tasks, *, memory_size: int = 4000, replay_batch: int = 0
) -> Method:
  r"""A-GEM: the gradient without what would raise the loss on memory.

  .. math::
    g ← g - \frac{g^⊤ g_{ref}}{g_{ref}^⊤ g_{ref}} g_{ref}
    \quad \text{if } g^⊤ g_{ref} < 0

  over all parameters at once; g_ref is the gradient on a batch of memory. Both
  are gradients in θ, before the optimiser: under Ψ or with Adam, the step
  itself need not keep to it. Memory is filled as in `experience_replay`.

  Args:
    tasks: number of tasks, batch size and shapes.
    memory_size: pictures in all, as in `experience_replay`.
    replay_batch: pictures of memory in a step, ≥ 0; 0 is the batch size.

  Returns:
    A method; its state is the `Memory`.

  Raises:
    ValueError: if a value is out of range.

  Reference: Chaudhry et al., Efficient lifelong learning with A-GEM, ICLR 2019,
    eq. (11).
  """

  def project(dense, remembered, rows):
    del rows
    along = _dot(dense, remembered)
    length = _dot(remembered, remembered)
    # Where the product is negative the length is not zero, but may underflow.
    scale = along / jnp.where(length > 0, length, 1.0)

    def leaf(g, r):
      projected = trees.wide(g) - scale * trees.wide(r)
      return jnp.where(along < 0, projected.astype(g.dtype), g)

    return jax.tree.map(leaf, dense, remembered)

  return _method(tasks, memory_size, replay_batch, project)


def _method(
  tasks: sequential.Tasks,
  memory_size: int,
  replay_batch: int,
  combine: Callable[[Updates, Updates, int], Updates],
) -> Method:
  """Keeps a memory; `combine(dense, remembered, rows)` once there is some."""
  if memory_size < tasks.number:
    raise ValueError(
      f'memory_size is {memory_size} but must be at least the number of tasks,'
      f' {tasks.number}: a picture of each'
    )
  if replay_batch < 0:
    raise ValueError(
      f'replay_batch is {replay_batch} but must be at least 0 (0 is the batch'
      ' size)'
    )
  share = min(memory_size // tasks.number, tasks.num_train)
  rows = replay_batch or tasks.batch_size

  def rehearse(dense, remembered, state):
    # A choice and not a product: what comes of an empty memory may be anything.
    return jax.tree.map(
      lambda new, g: jnp.where(state.stored > 0, new, g),
      combine(dense, remembered, rows),
      dense,
    )

  return sequential.method(
    lambda key, phi, psi, gradient: (phi, empty(tasks, share)),
    rehearsal=Rehearsal(lambda state, key: draw(state, key, rows), rehearse),
    end_task=lambda ending, phi, state: (
      phi,
      store(state, tasks, ending, ending.key),
      {},
    ),
  )


def _dot(a: Updates, b: Updates) -> jax.Array:
  """The inner product; as a sum, so that no accelerator rounds it to TF32."""
  parts = jax.tree.map(
    lambda x, y: jnp.sum(trees.wide(x) * trees.wide(y)), a, b
  )
  return jax.tree.reduce(jnp.add, parts)
