"""Populations of trainings: which run as one program, on which devices."""

from collections.abc import Callable, Mapping, Sequence
import itertools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.report import naming
from powerprop.types import Hyper


class Member(NamedTuple):
  """One training of a population, or one sequence of them, by name.

  Attributes:
    transform: of `powerprop.transforms`.
    alpha: α ≥ 1, at the start.
    learning_rate: at the start.
    seed: from 0.
    variant: what else of an experiment tells it apart, a NamedTuple.
  """

  transform: str
  alpha: float
  learning_rate: float
  seed: int
  variant: Any = ()

  @property
  def name(self) -> str:
    """A path that is this member's alone."""
    return naming.net_name(self.row())

  def row(self) -> dict[str, Any]:
    """The names as fields of a record."""
    fields = self._asdict()
    del fields['variant']
    return fields | (self.variant._asdict() if self.variant else {})


class Cell(NamedTuple):
  """Members that run as one program call: all of a program, or just one.

  Attributes:
    name: a path that is this cell's alone.
    members: M of them.
    programs: jitted functions, a `Training` or a `Life`, over the member axis
      where `stacked`.
    hyper: their hyperparameters on the device, [M, ...] where stacked.
    stacked: whether arrays have a leading member axis.
    plan: what else the experiment has to know of its members.
  """

  name: str
  members: tuple[Any, ...]
  programs: Any
  hyper: Hyper
  stacked: bool
  plan: Any = None


def choose_executor(executor: str) -> str:
  """Resolves 'auto': `map` on CPU, where it was faster, else `vmap`."""
  if executor == 'auto':
    return 'map' if jax.default_backend() == 'cpu' else 'vmap'
  return executor


# As the last of a function's axes in `arrange`: that argument is static.
STATIC = 'static'


def arrange(
  members: list[Any],
  executor: str,
  key: Callable[[Any], tuple[Any, ...]],
  build: Callable[[Any, float | None], Any],
  axes: Mapping[str, tuple[Any, ...]],
  made: dict[Any, Any],
) -> list[Cell]:
  """Members as cells, and the programs that these share.

  Args:
    members: of a population, those of a program one after the other.
    executor: 'vmap': one program for each key, α traced, the member axis
      sharded over all local devices (padded with copies of the last member to
      fill them). 'map': one call per member, α static, one program for each key
      and α.
    key: member -> what tells programs apart.
    build: (key, static α or None) -> functions of one member.
    axes: of these functions' arguments, as `jax.vmap` has them; a last `STATIC`
      is a static argument.
    made: programs of earlier calls with the same executor, to which new ones
      are added: what one call's cells compile, another's need not.

  Returns:
    Cells that cover the members, each once but for padding.
  """
  cells = []
  if executor == 'map':
    for m in members:
      which = (key(m), m.alpha)
      if which not in made:
        made[which] = _compiled(build(*which), axes, False)
      hyper = jax.tree.map(lambda x: x[0], hypers([m]))
      cells.append(Cell(m.name, (m,), made[which], hyper, False))
    return cells
  sharding = member_sharding()
  for which, group in itertools.groupby(members, key):
    ms = list(group)
    ms += [ms[-1]] * (-len(ms) % sharding.num_devices)
    if which not in made:
      made[which] = _compiled(build(which, None), axes, True)
    hyper = jax.device_put(hypers(ms), sharding)
    name = '/'.join(str(x) for x in which)
    cells.append(Cell(name, tuple(ms), made[which], hyper, True))
  return cells


def hypers(members: Sequence[Any]) -> Hyper:
  """The hyperparameters of members, [M] each."""
  column = lambda name, dtype: np.array(
    [m.row().get(name, 0.0) for m in members], dtype
  )
  return Hyper(
    seed=column('seed', np.int32),
    alpha=column('alpha', np.float32),
    learning_rate=column('learning_rate', np.float32),
    coefficient=column('coefficient', np.float32),
  )


def _compiled(
  functions: Any, axes: Mapping[str, tuple[Any, ...]], stacked: bool
) -> Any:
  """The same functions, jitted, and over the member axis where stacked."""

  def over(fn, its, count):
    def mapped(*args):
      one = lambda *batched: fn(*batched, *args[count:])
      return jax.vmap(one, its[:count])(*args[:count])

    return mapped

  out = {}
  for name, its in axes.items():
    fn = getattr(functions, name)
    if fn is not None:
      count = len(its) - (its[-1] == STATIC)
      fn = over(fn, its, count) if stacked else fn
      static = None if count == len(its) else count
      out[name] = jax.jit(fn, static_argnums=static)
  return functions._replace(**out)


def member_sharding() -> jax.sharding.NamedSharding:
  """The member axis over all local devices."""
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ('runs',))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('runs'))


def workers() -> int:
  """Threads that advance cells: small nets do not fill the cores of a CPU."""
  return os.cpu_count() or 1 if jax.default_backend() == 'cpu' else 1


def count(cells: Sequence[Cell]) -> int:
  """Members of all cells together, without padding."""
  return len({m for c in cells for m in c.members})


def unstack(cell: Cell, tree: Any) -> list[Any]:
  """One tree of NumPy arrays per member of a cell, padding included."""
  host = jax.tree.map(np.asarray, tree)
  if not cell.stacked:
    return [host]
  return [
    jax.tree.map(lambda x, i=i: x[i], host) for i in range(len(cell.members))
  ]


def choose(cell: Cell, which: np.ndarray, yes: Any, no: Any) -> Any:
  """A tree with the members of `which` from `yes` and the rest from `no`.

  Args:
    cell: whose trees they are.
    which: bool [M].
    yes: a tree.
    no: a tree of the same shapes.

  Returns:
    A tree.
  """
  if not which.any():
    return no
  if which.all():
    return yes
  return _merge(jnp.asarray(which), yes, no)


@jax.jit
def _merge(which, yes, no):
  def leaf(a, b):
    return jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b)

  return jax.tree.map(leaf, yes, no)


def per_member(cell: Cell, x: Any) -> np.ndarray:
  """An array of the device as NumPy [M, ...]."""
  host = np.asarray(x)
  return host if cell.stacked else host[None]


def pack(tree: Any, codes: bool = False) -> Any:
  """Masks as bits, as checkpoints keep them.

  Args:
    tree: of arrays.
    codes: whether uint8 arrays are two masks in one, as Top-KAST's.

  Returns:
    The same as NumPy arrays, every mask as uint8 [⌈n/8⌉], and two of them as
    uint8 [2, ⌈n/8⌉].
  """

  def bits(x):
    host = np.asarray(x)
    if host.dtype == bool and host.ndim:
      return np.packbits(host)
    if codes and host.dtype == np.uint8:
      return np.stack([np.packbits(host & 1), np.packbits(host >> 1)])
    return host

  return jax.tree.map(bits, tree)


def unpack(packed: Any, like: Any, codes: bool = False) -> Any:
  """The inverse of `pack`; `like` has the shapes and the devices."""

  def unbits(x, old):
    bits = lambda row: np.unpackbits(row, count=old.size).reshape(old.shape)
    if old.dtype == bool and old.ndim:
      x = bits(x).astype(bool)
    elif codes and old.dtype == np.uint8:
      x = bits(x[0]) + 2 * bits(x[1])
    return jax.device_put(x, old.sharding)

  return jax.tree.map(unbits, packed, like)
