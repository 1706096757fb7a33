"""Populations of trainings: which run as one program, on which devices."""

from collections.abc import Callable, Mapping, Sequence
import functools
import itertools
import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine.validation import ConfigError
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
    mesh: devices [runs, data] that compute it; None is the default device.
    plan: what else the experiment has to know of its members.
  """

  name: str
  members: tuple[Any, ...]
  programs: Any
  hyper: Hyper
  stacked: bool
  mesh: jax.sharding.Mesh | None = None
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
  data_devices: int = 1,
) -> list[Cell]:
  """Members as cells, and the programs that these share.

  Args:
    members: of a population, those of a program one after the other.
    executor: 'vmap': one program for each key, α traced, the member axis
      sharded over the devices (padded with copies of the last member to fill
      them). 'map': one call per member, α static, one program for each key and
      α.
    key: member -> what tells programs apart.
    build: (key, static α or None) -> functions of one member.
    axes: of these functions' arguments, as `jax.vmap` has them; a last `STATIC`
      is a static argument.
    made: programs of earlier calls with the same executor, to which new ones
      are added: what one call's cells compile, another's need not.
    data_devices: as of `make_mesh`.

  Returns:
    Cells that cover the members, each once but for padding.
  """
  cells = []
  mesh = make_mesh(executor, data_devices)
  if executor == 'map':
    for m in members:
      which = (key(m), m.alpha)
      if which not in made:
        made[which] = _compiled(build(*which), axes, False, mesh)
      hyper = jax.tree.map(lambda x: x[0], hypers([m]))
      hyper = place(hyper, mesh)
      cells.append(Cell(m.name, (m,), made[which], hyper, False, mesh))
    return cells
  assert mesh is not None
  for which, group in itertools.groupby(members, key):
    ms = list(group)
    ms += [ms[-1]] * (-len(ms) % mesh.shape['runs'])
    if which not in made:
      made[which] = _compiled(build(which, None), axes, True, mesh)
    hyper = place(hypers(ms), mesh, 'runs')
    name = '/'.join(str(x) for x in which)
    cells.append(Cell(name, tuple(ms), made[which], hyper, True, mesh))
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
  functions: Any,
  axes: Mapping[str, tuple[Any, ...]],
  stacked: bool,
  mesh: jax.sharding.Mesh | None,
) -> Any:
  """The same functions, jitted, and over the member axis where stacked."""
  kept: dict[str, Any] = {}
  if mesh is not None and mesh.shape['data'] > 1:
    # Without it, the compiler may scatter what all devices are to have.
    kept['out_shardings'] = sharding(mesh, *(['runs'] if stacked else []))

  def over(fn, its, count):
    def mapped(*args):
      one = lambda *batched: fn(*batched, *args[count:])
      along = jax.vmap(one, its[:count], spmd_axis_name='runs')
      return along(*args[:count])

    return mapped

  out = {}
  for name, its in axes.items():
    fn = getattr(functions, name)
    if fn is not None:
      count = len(its) - (its[-1] == STATIC)
      fn = over(fn, its, count) if stacked else fn
      static = None if count == len(its) else count
      out[name] = jax.jit(fn, static_argnums=static, **kept)
  return functions._replace(**out)


def make_mesh(executor: str, data_devices: int = 1) -> jax.sharding.Mesh | None:
  """The devices of all hosts, with axes `runs` and `data`.

  Members are spread over `runs`, and each member's batches over `data`. Every
  row of the mesh has devices of every host, so that a host has a part of every
  batch, and all of every member's state.

  Args:
    executor: 'map', whose members run one after the other, or 'vmap'.
    data_devices: D ≥ 1, devices for each member's batches.

  Returns:
    A mesh [runs, D], for 'map' [1, D]; None for 'map' on one device, the
    default one.

  Raises:
    ConfigError: if the devices cannot be parted so.
  """
  devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  hosts = jax.process_count()
  if executor == 'map' and hosts == 1 and data_devices <= len(devices):
    devices = devices[:data_devices]
    if data_devices == 1:
      return None
  if len(devices) % data_devices or data_devices % hosts:
    raise ConfigError(
      f'data_devices is {data_devices} but must divide the number of devices,'
      f' {len(devices)}'
      + (f', and be a multiple of that of hosts, {hosts}' if hosts > 1 else '')
      + '.'
    )
  runs = len(devices) // data_devices
  if executor == 'map' and runs > 1:
    raise ConfigError(
      f'data_devices is {data_devices}, but with the executor map, several'
      f' hosts share each training: make it {len(devices)}, the number of their'
      ' devices, or 0, or choose the executor vmap.'
    )
  grid = np.array(devices).reshape(hosts, runs, -1).transpose(1, 0, 2)
  return jax.sharding.Mesh(grid.reshape(runs, -1), ('runs', 'data'))


def share_batches(
  asked: int,
  executor: str,
  streamed: bool,
  batch_size: int,
  accumulate: int = 1,
) -> int:
  """How many devices share each batch.

  Args:
    asked: 0 is all where the data are streamed, or several hosts run one
      training after the other; else one on each host.
    executor: as in `make_mesh`.
    streamed: whether the data are.
    batch_size: examples in a batch.
    accumulate: parts that it goes through the net in, each of them shared.

  Returns:
    At least 1.

  Raises:
    ConfigError: if the batch cannot be parted so.
  """
  every, hosts = jax.device_count(), jax.process_count()
  together = streamed or (executor == 'map' and hosts > 1)
  count = asked or (every if together else hosts)
  if batch_size % (count * accumulate):
    parts = f' times {accumulate}, accumulate' if accumulate > 1 else ''
    raise ConfigError(
      f'batch_size is {batch_size} but must be a multiple of {count}, the'
      f' number of devices that share a batch{parts}: change it, or'
      ' data_devices.'
    )
  return count


def spread(mesh: jax.sharding.Mesh | None) -> Callable[[Any], Any]:
  """batch -> the same, in a program where each device is to have its part."""
  if mesh is None or mesh.shape['data'] == 1:
    return lambda batch: batch

  def leaf(x):
    if x.shape[0] % mesh.shape['data']:
      return x  # the last batch of an evaluation
    return jax.lax.with_sharding_constraint(x, sharding(mesh, 'data'))

  return lambda batch: jax.tree.map(leaf, batch)


def sharding(
  mesh: jax.sharding.Mesh, *axes: str | None
) -> jax.sharding.NamedSharding:
  """Of an array whose first axes are spread over these axes of a mesh."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def place(tree: Any, mesh: jax.sharding.Mesh | None, *axes: str | None) -> Any:
  """Arrays that every host has whole, on a mesh; as they are without one."""
  if mesh is None:
    return tree
  return put(tree, jax.tree.map(lambda _: sharding(mesh, *axes), tree))


def put(tree: Any, shardings: Any) -> Any:
  """Arrays that every host has whole, on devices of several hosts or of one."""

  def leaf(x, where):
    if where.is_fully_addressable:
      return jax.device_put(x, where)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, where, host.__getitem__)

  return jax.tree.map(leaf, tree, shardings)


def to_host(x: Any) -> np.ndarray:
  """An array of the devices as NumPy's, of whose parts this host has all."""
  if not isinstance(x, jax.Array) or x.is_fully_addressable:
    return np.asarray(x)
  out = np.empty(x.shape, x.dtype)
  for shard in x.addressable_shards:
    out[shard.index] = np.asarray(shard.data)
  return out


def workers(mesh: jax.sharding.Mesh | None = None) -> int:
  """Threads that advance cells: small nets do not fill the cores of a CPU.

  Programs that need the same devices at the same time would wait for each other
  for ever.
  """
  alone = jax.default_backend() != 'cpu' or (mesh is not None and mesh.size > 1)
  return 1 if alone else os.cpu_count() or 1


def own(cell: Cell) -> int:
  """Members of a cell, without padding, which comes after them."""
  return len(set(cell.members))


def count(cells: Sequence[Cell]) -> int:
  """Members of all cells together, without padding."""
  return len({m for c in cells for m in c.members})


def unstack(cell: Cell, tree: Any) -> list[Any]:
  """One tree of NumPy arrays per member of a cell, padding included."""
  host = jax.tree.map(to_host, tree)
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
  host = to_host(x)
  return host if cell.stacked else host[None]


def pack(
  tree: Any, codes: bool = False, cells: Sequence[Cell] | None = None
) -> Any:
  """Masks as bits, as checkpoints keep them.

  Args:
    tree: of arrays.
    codes: whether uint8 arrays are two masks in one, as Top-KAST's.
    cells: of which `tree` is a list of states: what fills devices is left out,
      so that a run may go on with another number of them.

  Returns:
    The same as NumPy arrays, every mask as uint8 [⌈n/8⌉], and two of them as
    uint8 [2, ⌈n/8⌉].
  """
  if cells is not None:
    first = lambda x, number: to_host(x)[:number]
    tree = [
      jax.tree.map(functools.partial(first, number=own(cell)), state)
      if cell.stacked
      else state
      for cell, state in zip(cells, tree, strict=True)
    ]

  def bits(x):
    host = to_host(x)
    if host.dtype == bool and host.ndim:
      return np.packbits(host)
    if codes and host.dtype == np.uint8:
      return np.stack([np.packbits(host & 1), np.packbits(host >> 1)])
    return host

  return jax.tree.map(bits, tree)


def unpack(
  packed: Any,
  like: Any,
  codes: bool = False,
  cells: Sequence[Cell] | None = None,
) -> Any:
  """The inverse of `pack`; `like` has the shapes and the devices."""

  def unbits(x, old, number=None):
    shape = old.shape if number is None else (number, *old.shape[1:])
    size = math.prod(shape)
    bits = lambda row: np.unpackbits(row, count=size).reshape(shape)
    if old.dtype == bool and old.ndim:
      x = bits(x).astype(bool)
    elif codes and old.dtype == np.uint8:
      x = bits(x[0]) + 2 * bits(x[1])
    if number is not None:
      x = np.concatenate([x, np.repeat(x[-1:], old.shape[0] - number, 0)])
    return put(x, old.sharding)

  if cells is None:
    return jax.tree.map(unbits, packed, like)
  return [
    jax.tree.map(
      functools.partial(unbits, number=own(cell) if cell.stacked else None),
      mine,
      old,
    )
    for cell, mine, old in zip(cells, packed, like, strict=True)
  ]
