"""Rehearsal: a memory of examples, and what to do with the gradient on it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import trees
from powerprop.methods.continual import sequential
from powerprop.types import Ending, Method, Rehearsal, Updates

# The rank of a place where nothing is stored: behind all others.
_EMPTY = np.iinfo(np.int32).max


class Memory(NamedTuple):
  """Examples of the tasks so far, of each as many as of another.

  Attributes:
    examples: a batch of all M, by task in their order; zeros where nothing is
      stored, at the end. What a problem has in a batch is kept as it is.
    ranks: int32 [M], each example's place in a random order of its task's.
    stored: int32, how many there are.
  """

  examples: Any
  ranks: jax.Array
  stored: jax.Array


def empty(tasks: sequential.Tasks, room: int) -> Memory:
  """A memory with room for so many examples of all tasks together."""
  examples = jax.tree.map(
    lambda x: jnp.zeros((room, *x.shape[1:]), x.dtype), tasks.example
  )
  ranks = jnp.full(room, _EMPTY, jnp.int32)
  return Memory(examples, ranks, jnp.zeros((), jnp.int32))


def store(
  memory: Memory,
  tasks: sequential.Tasks,
  ending: Ending,
  key: jax.Array,
  most: int = 0,
) -> Memory:
  """Adds training examples of the task that ended, chosen at random.

  None is chosen twice. Where there is no room, tasks that have more than
  another give some up, at random, until all have as many (to one, which the
  earlier keep): the memory is full from the first task on, and nobody has to
  know how many tasks there will be.

  Args:
    memory: of `empty`.
    tasks: that it was made for.
    ending: of the task.
    key: a random key.
    most: ≥ 0, that are kept of a task; 0 is as many as there is room for.

  Returns:
    The memory with examples of the task.
  """
  room = len(memory.ranks)
  size = ending.sizes['train']
  draws = jax.random.uniform(key, (tasks.num_train,))
  order = jnp.argsort(jnp.where(jnp.arange(tasks.num_train) < size, draws, 2.0))
  place = jnp.arange(min(most or room, room, tasks.num_train), dtype=jnp.int32)
  ranks = jnp.concatenate(
    [memory.ranks, jnp.where(place < size, place, _EMPTY)]
  )
  # Of a random order, the first so many are a choice at random.
  kept = jnp.argsort(ranks, stable=True)[:room]
  kept = jnp.sort(jnp.where(ranks[kept] < _EMPTY, kept, len(ranks)))
  stored = jnp.sum(kept < len(ranks), dtype=jnp.int32)
  kept = jnp.minimum(kept, len(ranks) - 1)
  is_new, is_there = kept >= room, jnp.arange(room) < stored
  rows = jnp.where(is_new, order[kept - room], 0).astype(jnp.int32)
  old = jnp.where(is_new, 0, kept)

  def put(before, part):
    which = lambda x: x.reshape(-1, *[1] * (part.ndim - 1))
    after = jnp.where(which(is_new), part, before[old])
    return jnp.where(which(is_there), after, jnp.zeros_like(after))

  new = ending.batch('train', rows)
  return Memory(
    jax.tree.map(put, memory.examples, new),
    jnp.where(is_there, ranks[kept], _EMPTY),
    stored,
  )


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

  with B and R the sizes of the two; both losses are means. The tasks so far
  share the memory equally; their pictures are chosen at random at the end of a
  task (the paper: a reservoir or a ring, filled as the examples come). What is
  remembered is augmented as what is new, where the problem augments.

  Args:
    tasks: number of tasks, batch size and shapes.
    memory_size: pictures in all, ≥ the number of tasks; 4,000 is Hsu et al.'s
      for permuted MNIST, where they take as much room as online EWC's state.
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
  room = min(memory_size, tasks.number * tasks.num_train)
  rows = replay_batch or tasks.batch_size

  def rehearse(dense, remembered, state):
    # A choice and not a product: what comes of an empty memory may be anything.
    return jax.tree.map(
      lambda new, g: jnp.where(state.stored > 0, new, g),
      combine(dense, remembered, rows),
      dense,
    )

  return sequential.method(
    lambda key, phi, psi, gradient: (phi, empty(tasks, room)),
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
