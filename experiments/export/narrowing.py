"""The smaller dense net of one whose units are pruned."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import making
from experiments.export import nets
from powerprop import trees
from powerprop import units as units_lib
from powerprop.sparse_file import Sparse

_CLOSE = 1e-4  # of the largest logit


def narrow(wide: Sparse) -> Sparse:
  """Takes out the units that do nothing, with the weights that read them.

  A unit does nothing where it answers 0 to everything, or where no unit that
  is left reads it. One without weights whose bias, or normalisation, lets it
  answer something else stays.

  Args:
    wide: a net of `nets`, whose layers are called conv_0, conv_1, … and
      hidden_0, hidden_1, ….

  Returns:
    The net of the units that are left, at least one of each layer, with the
    widths in the network_kwargs of its meta. Its masks are what is left of the
    wide one's; where they are all ones it has none.

  Raises:
    ValueError: if the net says nothing of its units, or its widths cannot be
      set.
  """
  about = wide.meta
  net = nets.made(about)
  image = jnp.zeros((1, *about['image_shape']), jnp.float32)

  def apply(params, state, x):
    return net.apply(params, state, None, x, is_training=False)[0]

  found = units_lib.find(apply, wide.params, wide.state, image)
  answering = jax.jit(units_lib.with_activations(apply))
  _, answers = answering(wide.params, wide.state, image)
  kept = left(found, wide.params, answers)
  sizes = {name: int(which.sum()) for name, which in kept.items()}
  kwargs = about['network_kwargs'] | _widths(about['network'], sizes)
  host = lambda tree: jax.tree.map(np.asarray, tree)
  params, state = host(units_lib.narrow(found, kept, wide.params, wide.state))
  ones = jax.tree.map(lambda x: np.ones(x.shape, bool), wide.params)
  every = trees.replace_weights(ones, dict[str, Any](wide.masks))
  cut = trees.weights(
    units_lib.narrow(found, kept, every)[0], lambda path, _: path in wide.masks
  )
  masks = {n: np.asarray(m) for n, m in cut.items() if not np.all(m)}
  out = Sparse(params, state, masks, about | {'network_kwargs': kwargs})
  _check_same(wide, out)
  return out


def left(
  found: units_lib.Units, params: Any, answers: dict[str, jax.Array]
) -> dict[str, np.ndarray]:
  """Which units are left, bool [C] by layer.

  Args:
    found: of `units.find`.
    params: w.
    answers: what every unit answers to some picture.
  """
  every = trees.weights(params, lambda *_: True)
  layers = list(found.layers.items())
  # Whether there is a weight, [inputs, units], by layer, the output's last.
  kernels = [x.kernel for _, x in layers] + [found.output]
  linked = [
    np.any(np.asarray(every[k]) != 0, tuple(range(every[k].ndim - 2)))
    for k in kernels
  ]
  for i, (_, layer) in enumerate(layers, 1):  # inputs that are of one unit
    linked[i] = linked[i].reshape(-1, layer.size, linked[i].shape[-1]).any(0)
  silent = [
    ~np.any(np.asarray(answers[n]) != 0, tuple(range(answers[n].ndim - 1)))
    for n, _ in layers
  ]
  kept = [np.ones(len(linked[0]), bool)]
  kept += [np.ones(layer.size, bool) for _, layer in layers]
  kept += [np.ones(linked[-1].shape[1], bool)]
  while True:
    before = [k.copy() for k in kept]
    for i in range(1, len(kept) - 1):
      driven = linked[i - 1][kept[i - 1]].any(0)
      read = linked[i][:, kept[i + 1]].any(1)
      kept[i] &= read & (driven | ~silent[i - 1])
    if all(np.array_equal(a, b) for a, b in zip(before, kept, strict=True)):
      break
  for which in kept:
    which[0] |= not which.any()
  return {
    name: which for (name, _), which in zip(layers, kept[1:], strict=False)
  }


def _widths(network: str, sizes: dict[str, int]) -> dict[str, list[int]]:
  """The keyword arguments that give a net these widths."""
  of = lambda start: [n for name, n in sizes.items() if name.startswith(start)]
  widths = {'channels': of('conv_'), 'hidden': of('hidden_')}
  taken = inspect.signature(making.network_of(network)).parameters
  if sum(map(len, widths.values())) < len(sizes) or any(
    several and name not in taken for name, several in widths.items()
  ):
    raise ValueError(
      f'the network {network!r} takes no widths, channels and hidden, of the'
      f' layers {", ".join(sizes)}: leave out --narrow.'
    )
  return {name: x for name, x in widths.items() if name in taken}


def _check_same(wide: Sparse, thin: Sparse) -> None:
  """Raises ValueError where the two do not answer the same, to rounding."""
  shape = (8, *wide.meta['image_shape'])
  image = np.random.default_rng(0).uniform(size=shape).astype(np.float32)

  def logits(it):
    apply = jax.jit(
      functools.partial(nets.made(it.meta).apply, is_training=False)
    )
    return np.asarray(apply(it.params, it.state, None, image)[0], np.float64)

  one, other = logits(wide), logits(thin)
  most = np.max(np.abs(one - other)) if one.shape == other.shape else np.inf
  if not most <= _CLOSE * np.max(np.abs(one)):
    raise ValueError(
      f'the narrow net would answer otherwise, by {most:.3g}: leave out'
      ' --narrow.'
    )
