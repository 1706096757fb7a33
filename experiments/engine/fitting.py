"""Whether data, nets and periods fit the settings, before any training."""

from collections.abc import Mapping
import functools
from typing import Any

from absl import logging
import haiku as hk
import jax
import jax.numpy as jnp

from experiments import data
from experiments.engine import estimates
from experiments.engine import making
from experiments.engine import named
from experiments.engine import validation
from experiments.engine.settings import Settings
from experiments.engine.validation import ConfigError
from powerprop import trees
from powerprop.types import Params

# So many of a layer's outputs are looked at: one alone may be dead.
_OUTPUTS_CHECKED = 8


def check_data(s: Settings, dataset: data.Dataset | data.Streamed) -> None:
  """Checks what depends on the data.

  Raises:
    ConfigError: if a batch is larger than the training data, the network or
      the optimiser cannot be built for it, or a network of one's own is not as
      `experiments.engine.networks` promises.
  """
  n = dataset.sizes['train']
  validation.require(
    s.batch_size <= n,
    'batch_size',
    s.batch_size,
    f"at most {n}, the number of {s.dataset}'s training examples",
  )

  net = making.network(
    s.network, s.network_kwargs, dataset.num_classes, s.compute_dtype
  )
  guide = 'docs/experiments.md says how to add a network'
  if not isinstance(net, hk.TransformedWithState):
    raise ConfigError(
      f'network {s.network!r} gives a {type(net).__name__}, but it must be made'
      f' by hk.transform_with_state: {guide}.'
    )
  image = jnp.zeros((1, *dataset.image_shape))
  key = jax.random.key(0)

  # Shapes alone: nothing is computed.
  def init():
    try:
      return jax.eval_shape(
        functools.partial(net.init, key, image, is_training=True)
      )
    except TypeError as e:
      if 'is_training' in str(e):
        raise ConfigError(
          f'network {s.network!r} does not take is_training, but it is called'
          f' as net(image, is_training): {guide}.'
        ) from None
      raise

  def update(params):
    tx = making.optimizer(s.optimizer, s.optimizer_kwargs)(0.1)
    return tx.update(params, tx.init(params), params)

  params, state = validation.attempt('network_kwargs', s.network_kwargs, init)
  validation.require(
    all(x.size for x in jax.tree.leaves(params)),
    'network_kwargs',
    s.network_kwargs,
    'such that every layer has some units; one of them has no units',
  )
  number = sum(x.size for x in jax.tree.leaves(params))
  estimates.require_memory(
    8 * number,  # φ before and after a step
    f'network_kwargs is {s.network_kwargs}: the {number:,} parameters',
  )
  # As many as go through the net at once: groups of them may be normalised.
  at_once = s.batch_size // s.accumulate, *image.shape[1:]
  some = jax.ShapeDtypeStruct(at_once, image.dtype)
  for training, pictures in ((False, image), (True, some)):
    args = params, state, pictures
    _check_logits(s, net, args, training, dataset.num_classes)
  if s.output_density_factor != 1:
    leaves = output_leaves(s, params, dataset.num_classes)
    check_outputs(s, net, dataset.image_shape, leaves)
  validation.attempt(
    'optimizer_kwargs',
    s.optimizer_kwargs,
    lambda: jax.eval_shape(update, params),
  )


def _check_logits(
  s: Settings, net: Any, args: tuple[Any, ...], training: bool, classes: int
) -> None:
  """Raises ConfigError unless a net gives logits, and its state as it was."""
  *given, image = args
  key = jax.random.key(0) if training else None
  try:
    logits, state = jax.eval_shape(
      lambda *a, x: net.apply(*a, key, x, is_training=training),
      *given,
      x=image,
    )
    what = f'{logits.dtype}{list(logits.shape)}'
  except Exception as e:  # whatever a net of the user's own may raise
    logits, state, what = None, given[1], f'an error ({validation.why(e)})'
  within = '' if s.compute_dtype == 'float32' else f' in {s.compute_dtype}'
  number = image.shape[0]
  ok = logits is not None and logits.shape == (number, classes)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  if not ok or not jnp.issubdtype(logits.dtype, jnp.floating):
    raise ConfigError(
      f'network {s.network!r} gives {what} for {number} pictures{within} when'
      f' is_training is {training}, but it must give logits, float32[{number},'
      f' {classes}]: see docs/experiments.md.'
    )
  if shapes(state) != shapes(given[1]):
    raise ConfigError(
      f'network {s.network!r} changes the shape of its state when it is'
      f' called with is_training = {training}: see docs/experiments.md.'
    )


def output_leaves(s: Settings, params: Params, width: int) -> list[str]:
  """Paths of the leaves of the layer that gives the logits.

  Args:
    s: says which layer it is.
    params: of the net, or their shapes.
    width: number of the net's outputs.

  Returns:
    Paths; the last axis of each leaf is the outputs.

  Raises:
    ConfigError: if there is no such layer, if there are several, or if it is of
      another width.
  """
  every = trees.weights(params, lambda *_: True)
  layers = dict.fromkeys(n.rpartition('/')[0] for n in every)
  found = [n for n in layers if f'/{n}'.endswith(f'/{s.output_layer}')]
  which = f'output_layer is {s.output_layer!r}, but network {s.network!r} has'
  if not found:
    raise ConfigError(
      f'{which} no such layer: name the one that gives the logits, of'
      f' {", ".join(layers)}.'
    )
  if len(found) > 1:
    raise ConfigError(
      f'{which} several, {", ".join(found)}: give more of the path of the one'
      ' that gives the logits.'
    )
  leaves = [n for n in every if n.rpartition('/')[0] == found[0]]
  for name in leaves:
    shape = every[name].shape
    if shape[-1:] != (width,):
      raise ConfigError(
        f'{which} there {name!r} of shape {list(shape)}: name the layer that'
        f' gives the {width} logits.'
      )
  return leaves


def check_outputs(
  s: Settings, net: Any, image_shape: tuple[int, ...], leaves: list[str]
) -> None:
  """Checks that the i-th of a layer's outputs is the i-th logit, and no other.

  Else a task would train with another's. Of our own nets it is known.

  Args:
    s: says which net it is.
    net: that is to be trained.
    image_shape: (H, W, C).
    leaves: of `output_leaves`.

  Raises:
    ConfigError: if it is not.
  """
  if not named.is_own(s.network):
    return
  key = jax.random.key(0)
  image = jax.random.uniform(key, (1, *image_shape))

  @jax.jit
  def moved():
    params, state = net.init(key, image, is_training=True)
    logits = lambda w: net.apply(w, state, None, image, is_training=False)[0][0]

    def by(output):
      tangent = trees.map_where(
        lambda x: jnp.zeros_like(x).at[..., output].set(1),
        lambda path, _: path in leaves,
        jax.tree.map(jnp.zeros_like, params),
      )
      return jax.jvp(logits, (params,), (tangent,))[1] != 0

    return jax.vmap(by)(jnp.arange(_OUTPUTS_CHECKED))

  found = moved()
  own = jnp.eye(_OUTPUTS_CHECKED, found.shape[1], dtype=bool)
  if jnp.any(found & ~own) or not jnp.any(found):
    raise ConfigError(
      f'output_layer is {s.output_layer!r}, but in network {s.network!r} what'
      ' comes out there are not the logits, each by itself: name the layer that'
      ' gives them.'
    )


def warn_of_long_periods(
  s: Settings, periods: Mapping[str, int | None]
) -> None:
  """Warns of what changes once in the training or never, for a long period.

  Args:
    s: checked settings.
    periods: by field, in steps, beside that of an adaptive α.
  """
  adaptive = 'adaptive_powerprop'
  if adaptive in s.transforms:
    every = s.transform_kwargs.get(adaptive, {}).get('every')
    periods = {**periods, f'transform_kwargs.{adaptive}.every': every}
  for name, period in periods.items():
    if period and period > s.steps > 0:
      logging.warning(
        '%s is %d but a training has %d steps: what changes by it changes at'
        ' most once; lower it, or raise steps.',
        name,
        period,
        s.steps,
      )
