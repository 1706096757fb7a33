"""What a task's net of units costs, taken out of the wide net that has it."""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from experiments.engine import networks
from powerprop import units as units_lib

_CALLS = 5  # of a program, each time that it is timed


class Net(NamedTuple):
  """A net, and how much of it a task has.

  Attributes:
    make: widths of its hidden layers -> the net.
    sizes: of the wide one.
    shares: of each layer's units that the task's net has, in (0, 1].
    shape: of a picture, (H, W, C).
  """

  make: Callable[[tuple[int, ...]], hk.TransformedWithState]
  sizes: tuple[int, ...]
  shares: tuple[float, ...]
  shape: tuple[int, int, int]


NETS = {
  # CLNP's Table 1: 18% and 40% of the units are in use after ten tasks, and of
  # the last layer a task reads what it has added.
  'mlp, 2000-2000': Net(
    lambda sizes: networks.mlp(10, sizes),
    (2000, 2000),
    (0.18, 0.04),
    (28, 28, 1),
  ),
  'small_conv with norms': Net(
    lambda sizes: networks.small_conv(10, sizes[:-1], sizes[-1:]),
    (16, 32, 64, 128),
    (0.5, 0.5, 0.5, 0.25),
    (32, 32, 3),
  ),
}


def latency(
  say: timing.Say,
  nets: Mapping[str, Net] | None = None,
  batches: tuple[int, ...] = (1, 256),
  rounds: int = 7,
) -> timing.Table:
  """A forward pass of the severed net, against that of the narrow one.

  Args:
    say: told what is going on.
    nets: by name; None is `NETS`.
    batches: sizes of a batch, ≥ 1.
    rounds: how often each is timed, ≥ 1.

  Returns:
    Two rows for each net and batch. The ratio is to the narrow net's.
  """
  rows = []
  for name, net in (NETS if nets is None else nets).items():
    programs = _programs(net).items()
    say(name)
    for batch in batches:
      image = jnp.asarray(
        np.random.default_rng(0).uniform(size=(batch, *net.shape)), jnp.float32
      )
      timed = {n: functools.partial(_repeated, p, image) for n, p in programs}
      found = timing.compare(timed, 'narrow', rounds, say)
      rows += [
        {
          'net': name,
          'batch': batch,
          'what': what,
          'ms': 1e3 * t.seconds / _CALLS,
          **timing.ratio_cells(t),
        }
        for what, t in found.items()
      ]
  return timing.Table(
    "A task's net, in the wide net and taken out of it",
    (
      'A forward pass, jitted; severed: all other units are zeros. The share of'
      ' the units that the task has is in benchmarks/narrow.py.',
    ),
    rows,
  )


def _programs(net: Net) -> dict[str, Callable[[jax.Array], jax.Array]]:
  """Functions of pictures that give the same logits, to rounding."""
  wide = net.make(net.sizes)
  image = jnp.zeros((1, *net.shape))
  params: Any
  params, state = wide.init(jax.random.key(0), image, is_training=True)
  apply = lambda n, w, s, x: n.apply(w, s, None, x, is_training=False)[0]
  found = units_lib.find(functools.partial(apply, wide), params, state, image)
  kept = {
    name: np.arange(layer.size) < max(1, round(share * layer.size))
    for (name, layer), share in zip(
      found.layers.items(), net.shares, strict=True
    )
  }
  for name, layer in found.layers.items():
    for leaf in (layer.kernel, *layer.own):
      module, last = leaf.rsplit('/', 1)
      params[module][last] = jnp.where(kept[name], params[module][last], 0)
  smaller = units_lib.narrow(found, kept, params, state)
  thin = net.make(tuple(int(which.sum()) for which in kept.values()))
  run: Any = lambda n, tree: functools.partial(
    jax.jit(functools.partial(apply, n)), *tree
  )
  return {'severed': run(wide, (params, state)), 'narrow': run(thin, smaller)}


def _repeated(program: Callable[[jax.Array], jax.Array], image: jax.Array):
  for _ in range(_CALLS):
    out = jax.block_until_ready(program(image))
  return out
