"""A config, checked: one clear sentence for whatever is wrong with it."""

from collections.abc import Callable, Collection, Mapping, Sequence
import difflib
import functools
import inspect
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from powerprop import data
from powerprop import networks
from powerprop import schedules
from powerprop import transforms


class ConfigError(ValueError):
  """A config value is wrong; the message names it and the remedy."""


class Settings(NamedTuple):
  """What `experiments.one_shot` is told; the fields of every config.

  Attributes:
    dataset: a name in `powerprop.data.names()`.
    network: a function of `powerprop.networks`.
    network_kwargs: its keyword arguments.
    optimizer: an optax alias.
    optimizer_kwargs: its keyword arguments but the learning rate.
    learning_rate: one or several, each ≥ 0; several are a sweep.
    transforms: names in `powerprop.transforms`; several are compared. α = 1 is
      the same for all, and runs once, under the first.
    transform_kwargs: by transform, its keyword arguments.
    alphas: powers ≥ 1 (where they start, for an adaptive transform).
    seeds: how many, from 0; a seed's θ at the start is the same for every α.
    steps: optimisation steps, ≥ 0.
    batch_size: examples per step.
    densities: shares kept by pruning, each in (0, 1].
    output_density_factor: the output layer keeps min(1, factor·density).
    executor: 'auto', 'map' or 'vmap'; see `powerprop.population.make_cells`.
    chunk_steps: steps between two reports (and so between two checkpoints).
    checkpoint_seconds: least time between two checkpoints.
    near_zero: ε; weights in (−ε, ε) count as near zero.
    learning_rate_schedule: kind ('constant', 'piecewise' or 'cosine') and the
      arguments of `powerprop.schedules.learning_rate`; steps are those of the
      config.
    augment: 'none' or 'crop_flip', applied to training pictures.
    l2: coefficient of ½‖w‖² over the kernels, as part of the loss.
    label_smoothing: share in [0, 1) of a label spread over all classes.
  """

  dataset: str
  network: str
  network_kwargs: dict[str, Any]
  optimizer: str
  optimizer_kwargs: dict[str, Any]
  learning_rate: tuple[float, ...]
  transforms: tuple[str, ...]
  transform_kwargs: dict[str, Any]
  alphas: tuple[float, ...]
  seeds: int
  steps: int
  batch_size: int
  densities: tuple[float, ...]
  output_density_factor: float
  executor: str
  chunk_steps: int
  checkpoint_seconds: float
  near_zero: float
  # A config may leave out what comes below.
  learning_rate_schedule: dict[str, Any] = {'kind': 'constant'}
  augment: str = 'none'
  l2: float = 0.0
  label_smoothing: float = 0.0


def known(kind: str, name: str, names: list[str]) -> None:
  """Raises ConfigError, with the nearest name, where there is no such name."""
  if name not in names:
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    raise ConfigError(
      f'{kind} {name!r} is unknown{hint}; choose one of'
      f' {", ".join(sorted(names))}.'
    )


def numbers(name: str, values: Any) -> tuple[float, ...]:
  """A number or several, as a tuple of floats."""
  several = values if isinstance(values, tuple | list) else (values,)
  if not several:
    raise ConfigError(f'{name} is empty; give at least one number.')
  try:
    out = tuple(float(v) for v in several)
  except (TypeError, ValueError):
    raise ConfigError(
      f'{name} is {values!r} but must be a number or a tuple of numbers.'
    ) from None
  if len(set(out)) != len(out):
    raise ConfigError(f'{name} is {values} with a value twice; name each once.')
  return out


def names(name: str, value: Any, empty: bool = False) -> tuple[str, ...]:
  """A name or several, as a tuple without repetitions."""
  chosen = (value,) if isinstance(value, str) else value
  require(
    isinstance(chosen, tuple | list)
    and all(isinstance(x, str) for x in chosen)
    and (empty or bool(chosen)),
    name,
    repr(chosen),
    'a name or a tuple of names',
  )
  return tuple(dict.fromkeys(chosen))


def require(ok: bool, name: str, value: Any, must: str) -> None:
  """Raises ConfigError, naming the value and what it must be, unless ok."""
  if not ok:
    raise ConfigError(f'{name} is {value} but must be {must}.')


def optimizers() -> list[str]:
  """Names of optax's optimisers: what takes a learning rate first.

  Left out are those that need the loss, which a training step does not give
  them, one that needs a random key, and a deprecated alias.
  """
  skipped = ('lbfgs', 'noisy_sgd', 'optimistic_adam', 'polyak_sgd')

  def first_argument(fn: Any) -> str:
    try:
      return next(iter(inspect.signature(fn).parameters), '')
    except (TypeError, ValueError):
      return ''

  return [
    name
    for name in dir(optax)
    if name not in skipped
    and not name.startswith(('_', 'scale_by_'))
    and not isinstance(getattr(optax, name), type)
    and first_argument(getattr(optax, name)) == 'learning_rate'
  ]


def transform_names() -> list[str]:
  """Names of the transformations that a config may choose."""
  return ['adaptive_powerprop', 'chain_rule', 'powerprop']


def check(config: ml_collections.ConfigDict) -> Settings:
  """Checks a config of `experiments.one_shot` by itself.

  Args:
    config: as read from a config file and overridden on the command line.

  Returns:
    Settings.

  Raises:
    ConfigError: naming the first field that is missing, unknown or out of
      range.
  """
  return check_fields(config.to_dict(), Settings, 'configs/digits.py')


def check_names(
  given: Mapping[str, Any],
  fields: Sequence[str],
  optional: Collection[str],
  example: str,
) -> None:
  """Checks that a config has certain fields, and no others.

  Args:
    given: the config's fields.
    fields: all that it may have.
    optional: those of them that it may leave out.
    example: a config to point to.

  Raises:
    ConfigError: naming the field that is unknown or missing.
  """
  for name in given:
    known('config field', name, list(fields))
  for name in fields:
    if name not in given and name not in optional:
      raise ConfigError(
        f'the config has no field {name!r}; add it ({example} shows every'
        ' field).'
      )


def check_fields(given: Mapping[str, Any], kind: Any, example: str) -> Settings:
  """Checks the fields of `Settings`; see `check`."""
  check_names(given, kind._fields, kind._field_defaults, example)
  s = Settings(**given)
  for name in (
    'network_kwargs',
    'optimizer_kwargs',
    'transform_kwargs',
    'learning_rate_schedule',
  ):
    value = getattr(s, name)
    require(isinstance(value, dict), name, repr(value), 'a dict')
  known('data set', s.dataset, list(data.names()))
  known('network', s.network, list(networks.NETWORKS))
  known('optimizer', s.optimizer, optimizers())
  chosen = names('transforms', s.transforms)
  for name in (*chosen, *s.transform_kwargs):
    known('transform', name, transform_names())
  known('executor', s.executor, ['auto', 'map', 'vmap'])
  known('augment', s.augment, list(data.AUGMENTATIONS))

  s = s._replace(
    transforms=chosen,
    learning_rate=numbers('learning_rate', s.learning_rate),
    alphas=numbers('alphas', s.alphas),
    densities=tuple(sorted(numbers('densities', s.densities), reverse=True)),
  )
  for a in s.alphas:
    require(
      math.isfinite(a) and a >= 1,
      'alphas',
      f'{a:g}',
      'finite and at least 1 (1 is ordinary training)',
    )
  for d in s.densities:
    require(0 < d <= 1, 'densities', f'{d:g}', 'in (0, 1], the share kept')
  for rate in s.learning_rate:
    require(
      math.isfinite(rate) and rate >= 0,
      'learning_rate',
      f'{rate:g}',
      'finite and at least 0',
    )
  for name, low in (
    ('seeds', 1),
    ('steps', 0),
    ('batch_size', 1),
    ('chunk_steps', 1),
  ):
    value = getattr(s, name)
    require(
      isinstance(value, int) and value >= low,
      name,
      value,
      f'a whole number of at least {low}',
    )
  for name, must, ok in (
    ('output_density_factor', 'a number above 0', lambda x: x > 0),
    ('near_zero', 'a number above 0', lambda x: x > 0),
    ('checkpoint_seconds', 'a number of at least 0', lambda x: x >= 0),
    ('l2', 'a number of at least 0', lambda x: 0 <= x < math.inf),
    ('label_smoothing', 'a number in [0, 1)', lambda x: 0 <= x < 1),
  ):
    value = getattr(s, name)
    require(
      isinstance(value, int | float) and ok(value), name, repr(value), must
    )
  attempt('network_kwargs', s.network_kwargs, lambda: network(s, 10))
  attempt(
    'learning_rate_schedule', s.learning_rate_schedule, lambda: schedule(s)
  )
  attempt('optimizer_kwargs', s.optimizer_kwargs, lambda: optimizer(s)(0.1))
  given_rates = s.learning_rate_schedule
  varies = given_rates.get('kind') != 'constant' or given_rates.get('warmup')
  if varies and rate_is_of_the_start(s):
    raise ConfigError(
      f'learning_rate_schedule is {given_rates} but optimizer {s.optimizer!r}'
      ' looks at the learning rate once, for its first step sizes: leave the'
      ' schedule out, or choose another optimizer.'
    )
  for name, tx in make_transforms(s).items():
    build = functools.partial(tx, optax.sgd(0.1), alpha=2.0)
    attempt(f'transform_kwargs.{name}', s.transform_kwargs.get(name, {}), build)
  return s


def attempt(name: str, value: Any, build: Callable[[], Any]) -> None:
  """Raises ConfigError, naming the value, where it cannot be built with."""
  try:
    build()
  except (ArithmeticError, AttributeError, TypeError, ValueError) as e:
    why = ' '.join(str(e).split())
    why = why if len(why) <= 200 else why[:199] + '…'
    raise ConfigError(
      f'{name} is {value} but that does not fit ({why}); change or remove it.'
    ) from None


def check_data(s: Settings, dataset: data.Dataset) -> None:
  """Checks what depends on the data.

  Raises:
    ConfigError: if a batch is larger than the training data, or the network or
      the optimiser cannot be built for it.
  """
  n = len(dataset.train.label)
  require(
    s.batch_size <= n,
    'batch_size',
    s.batch_size,
    f"at most {n}, the number of {s.dataset}'s training examples",
  )

  def init():
    image = jnp.zeros((1, *dataset.train.image.shape[1:]))
    net = network(s, dataset.num_classes)
    params, _ = net.init(jax.random.key(0), image, is_training=True)
    if not all(x.size for x in jax.tree.leaves(params)):
      raise ValueError('a layer has no units')
    return params

  def update(params):
    tx = optimizer(s)(0.1)
    return tx.update(params, tx.init(params), params)

  # Shapes alone: nothing is computed.
  attempt('network_kwargs', s.network_kwargs, lambda: jax.eval_shape(init))
  shapes = jax.eval_shape(init)
  attempt(
    'optimizer_kwargs',
    s.optimizer_kwargs,
    lambda: jax.eval_shape(update, shapes),
  )


def network(s: Settings, num_classes: int) -> Any:
  """The net that the settings name."""
  kwargs = {
    k: tuple(v) if isinstance(v, list) else v
    for k, v in s.network_kwargs.items()
  }
  return networks.NETWORKS[s.network](num_classes, **kwargs)


def optimizer(s: Settings) -> Callable[[Any], optax.GradientTransformation]:
  """learning rate -> the optimiser that the settings name."""
  return lambda rate: getattr(optax, s.optimizer)(rate, **s.optimizer_kwargs)


def rate_is_of_the_start(s: Settings) -> bool:
  """Whether the optimiser's updates do not depend on its learning rate.

  Rprop's does not: its first state has step sizes from it, which adapt. What
  changes the rate later on, a schedule or a retry, would change nothing.

  Args:
    s: whose optimiser and its arguments have been checked.
  """
  x = jnp.zeros((2, 2))
  state = optimizer(s)(0.1).init(x)
  update = lambda rate: optimizer(s)(rate).update(x, state, x)
  program = jax.make_jaxpr(update)(0.1).jaxpr  # nothing is computed
  return not any(program.invars[0] in e.invars for e in program.eqns)


def schedule(s: Settings) -> Callable[[Any], Any] | None:
  """step -> factor on the learning rate; None where it is always 1."""
  if s.learning_rate_schedule == {'kind': 'constant'}:
    return None
  return schedules.learning_rate(steps=s.steps, **s.learning_rate_schedule)


def make_transforms(
  s: Settings,
) -> Mapping[str, Callable[..., optax.GradientTransformation]]:
  """By name, (inner, alpha) -> the transformation with its arguments."""

  def make(name):
    fn = getattr(transforms, name)
    kwargs = s.transform_kwargs.get(name, {})
    return lambda inner, alpha: fn(inner, alpha=alpha, **kwargs)

  return {name: make(name) for name in s.transforms}
