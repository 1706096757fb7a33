"""What a config's names and keyword arguments stand for: it is made here."""

from collections.abc import Callable, Iterable, Mapping
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import data
from experiments.engine import named
from experiments.engine import networks
from experiments.engine import precision
from powerprop import schedules
from powerprop import transforms
from powerprop import trees
from powerprop.psi import Psi
from powerprop.types import Where

Optimizer = Callable[[Any], optax.GradientTransformation]
Kwargs = Mapping[str, Any]


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


def dataset(
  name: str, data_dir: str | None = None, kwargs: Kwargs | None = None
) -> data.Dataset | data.Streamed:
  """The data set of that name: on the host, or read while it is learned.

  Args:
    name: in a config.
    data_dir: where TFDS's prepared data lie; None for TFDS's default.
    kwargs: its `dataset_kwargs`.

  Raises:
    experiments.data.DataError: if the data are missing, damaged or not as
      `data.Dataset` promises.
    ConfigError: if the user's own function raises.
  """
  if data.streams(name) is not None:
    return data.stream(name, data_dir, **(kwargs or {}))
  if data.is_path(name) or not named.is_own(name):
    return data.load(name, data_dir, **(kwargs or {}))
  made = named.call('data set', name, **(kwargs or {}))
  if isinstance(made, data.Streamed):
    return made
  if isinstance(made, data.Dataset):
    return data.checked(made)
  return data.of_arrays(name, made)


def dataset_of(name: str) -> Callable[..., Any] | None:
  """The function that takes a data set's keyword arguments, if any does."""
  if data.is_path(name) or not named.is_own(name):
    return data.takes_options(name)
  return named.function('data set', name, {})


def network_of(name: str) -> Callable[..., Any]:
  """The function that makes the nets of that name."""
  return named.function('network', name, networks.NETWORKS)


def network(
  name: str, kwargs: Kwargs, num_classes: int, compute_dtype: str = 'float32'
) -> Any:
  """The net of that name, which computes in float32 or bfloat16."""
  given = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
  net = network_of(name)(num_classes, **given)
  return net if compute_dtype == 'float32' else precision.in_bfloat16(net)


def optimizer(name: str, kwargs: Kwargs) -> Optimizer:
  """learning rate -> the optimiser of that name."""
  fn = named.function('optimizer', name, vars(optax))
  return lambda rate: fn(rate, **kwargs)


def rate_is_of_the_start(make: Optimizer) -> bool:
  """Whether an optimiser's updates do not depend on its learning rate.

  Rprop's do not: its first state has step sizes from it, which adapt. What
  changes the rate later on, a schedule or a retry, would change nothing.

  Args:
    make: learning rate -> the optimiser.
  """
  x = jnp.zeros((2, 2))
  state = make(0.1).init(x)
  update = lambda rate: make(rate).update(x, state, x)
  program = jax.make_jaxpr(update)(0.1).jaxpr  # nothing is computed
  return not any(program.invars[0] in e.invars for e in program.eqns)


def schedule(kwargs: Kwargs, steps: int) -> Callable[[Any], Any] | None:
  """step -> factor on the learning rate; None where it is always 1."""
  if kwargs == {'kind': 'constant'}:
    return None
  return schedules.learning_rate(steps=steps, **kwargs)


def transform(name: str, kwargs: Kwargs) -> Callable[..., Any]:
  """The function that a transform's name stands for."""
  meant = named.stands_for(name, kwargs, 'transform')
  return named.function('transform', meant, vars(transforms))


def psis(
  names: Iterable[str], kwargs: Kwargs, where: Where | None = None
) -> dict[str, Psi]:
  """By name of a transform, Ψ under it; its α is still to be said.

  Args:
    names: of transforms.
    kwargs: by name, keyword arguments.
    where: which leaves are under Ψ; None is the default, of which transforms
      are not told, so that one's own need not take it.
  """

  def make(name):
    fn = transform(name, kwargs)
    given = {k: v for k, v in kwargs.get(name, {}).items() if k != 'transform'}

    def under(inner, alpha, where):
      told = {} if where is trees.is_weight else {'where': where}
      return fn(inner, alpha=alpha, **told, **given)

    psi = Psi(None, transform=under)
    return psi if where is None else psi._replace(where=where)

  return {name: make(name) for name in names}


def adapts(psi: Psi) -> bool:
  """Whether the transform keeps its α as an array, whatever it is given."""
  made = psi._replace(alpha=2.0).optimizer(optax.identity())
  state = jax.eval_shape(made.init, {'w': jnp.zeros((1, 1))})
  return not isinstance(psi.at(state).alpha, float)


def adaptive(names: Iterable[str], kwargs: Kwargs) -> tuple[str, ...]:
  """The transforms of `psis` under which α is not constant."""
  return tuple(n for n, psi in psis(names, kwargs).items() if adapts(psi))
