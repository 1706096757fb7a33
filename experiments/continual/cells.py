"""Populations that learn sequences: which members run as one program."""

from collections.abc import Mapping
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data
from experiments.continual import settings as continual_settings
from experiments.continual.analysis import net_name
from experiments.continual.settings import ContinualSettings
from experiments.engine import classification
from experiments.engine import fitting
from experiments.engine import population
from experiments.engine import settings as settings_lib
from experiments.engine import validation
from powerprop import lifetime
from powerprop import train
from powerprop.lifetime import Life
from powerprop.types import Hyper, Method, Params


class Member(NamedTuple):
  """One sequence of trainings, by name.

  Attributes:
    method: its name in the config.
    transform: of `powerprop.transforms`.
    alpha: α ≥ 1.
    coefficient: of the penalty.
    learning_rate: at the start.
    seed: from 0.
    search: whether it helps to choose the coefficient, and no more.
  """

  method: str
  transform: str
  alpha: float
  coefficient: float
  learning_rate: float
  seed: int
  search: bool = False

  @property
  def name(self) -> str:
    """A path that is this member's alone."""
    kind = 'search/' if self.search else ''
    return f'{kind}{net_name(self._asdict())}'


class Plan(NamedTuple):
  """What all members of a method share.

  Attributes:
    settings: the run's, with what this method has otherwise.
    recipe: of its trainings.
    method: how it learns tasks.
    shapes: the net's parameters.
    net_state: the shapes of its state.
    steps: of a task.
    retrain_steps: of a task's retraining phase.
    num_tasks: how many tasks its members learn at most.
    layers: names of the layers in the method's report; () if it has none.
    layer_sizes: their numbers of weights.
  """

  settings: ContinualSettings
  recipe: train.Recipe
  method: Method
  shapes: Params
  net_state: Any
  steps: int
  retrain_steps: int
  num_tasks: int
  layers: tuple[str, ...]
  layer_sizes: tuple[int, ...]


class Cell(NamedTuple):
  """Members that run as one program call.

  Attributes:
    name: a path that is this cell's alone.
    members: M of them.
    plan: of their method.
    num_tasks: how many tasks they learn.
    life: jitted functions, over the member axis where `stacked`.
    hyper: hyperparameters, [M] where stacked.
    stacked: whether arrays have a leading member axis.
  """

  name: str
  members: tuple[Member, ...]
  plan: Plan
  num_tasks: int
  life: Life
  hyper: Hyper
  stacked: bool


def make_plan(s: ContinualSettings, name: str, sequence: data.Sequence) -> Plan:
  """Builds a method with all that its members share.

  Args:
    s: the run's settings.
    name: of the method in the config.
    sequence: that is learned.

  Returns:
    A plan.

  Raises:
    settings.ConfigError: if settings do not fit the data or the net.
  """
  mine = continual_settings.of_method(s, name)
  dataset = sequence.dataset._replace(num_classes=sequence.num_outputs)
  validation.require(
    mine.training.batch_size <= int(sequence.sizes['train'].min()),
    'batch_size',
    mine.training.batch_size,
    f'at most {int(sequence.sizes["train"].min())}, the training examples of'
    ' the smallest task',
  )
  steps = continual_settings.steps(mine, sequence, mine.epochs)
  mine = mine._replace(training=mine.training._replace(steps=steps))
  validation.attempt(
    'learning_rate_schedule',
    mine.training.learning_rate_schedule,
    lambda: settings_lib.schedule(mine.training),
  )
  fitting.check_data(mine.training, dataset)
  recipe = classification.make_recipe(mine.training, dataset, sequence)
  shapes, net_state = jax.eval_shape(lambda: train.initial_theta(recipe, 0))
  if sequence.scenario != 'domain' and not recipe.problem.own:
    raise settings_lib.ConfigError(
      f'scenario is {sequence.scenario!r}, where tasks have outputs of their'
      f" own, but network {mine.training.network!r} has no layer 'output'"
      f' with {sequence.num_outputs} units: give its last layer that name, or'
      " choose scenario 'domain'."
    )
  if mine.clip_norm:
    plain = recipe.optimizer
    clip = optax.clip_by_global_norm(mine.clip_norm)
    recipe = recipe._replace(
      optimizer=lambda rate: optax.chain(clip, plain(rate))
    )
  method = continual_settings.make_method(
    mine, name, sequence, recipe.problem, shapes
  )
  if sequence.scenario == 'class' and method.continual.needs_identity:
    raise settings_lib.ConfigError(
      f"scenario is 'class' but {name} must know which task a picture is of, to"
      " choose its net: choose scenario 'task' or 'domain', or leave it out of"
      ' methods.'
    )
  retrain = 0
  if method.continual.retraining is not None:
    retrain = continual_settings.steps(mine, sequence, mine.retrain_epochs)
  return Plan(
    settings=mine,
    recipe=recipe,
    method=method,
    shapes=shapes,
    net_state=net_state,
    steps=steps,
    retrain_steps=retrain,
    num_tasks=min(mine.num_tasks, sequence.num_tasks),
    layers=tuple(method.continual.layers),
    layer_sizes=tuple(method.continual.layers.values()),
  )


def forgetting(plans: Mapping[str, Plan]) -> list[str]:
  """Methods with masks of tasks, whose options let these be forgotten."""
  return [
    name
    for name, plan in plans.items()
    if plan.layers and not plan.method.continual.zero_forgetting
  ]


class Key(NamedTuple):
  """What a coefficient is chosen for."""

  method: str
  transform: str
  alpha: float
  learning_rate: float


def keys(s: ContinualSettings, plans: Mapping[str, Plan]) -> list[Key]:
  """Method × transform × learning rate × α, as the settings have them.

  α = 1 is the same for every transform, and is under the first alone.
  """
  out = []
  for name, transform in itertools.product(s.methods, s.training.transforms):
    t = plans[name].settings.training
    out += [
      Key(name, transform, alpha, rate)
      for rate, alpha in itertools.product(t.learning_rate, t.alphas)
      if alpha > 1 or transform == s.training.transforms[0]
    ]
  return out


def make_members(
  s: ContinualSettings,
  plans: Mapping[str, Plan],
  coefficients: Mapping[Key, tuple[float, ...]],
  search: bool,
) -> list[Member]:
  """The population: every key × its coefficients × seeds.

  Args:
    s: the run's settings.
    plans: by method.
    coefficients: those to be run; a key that is not there has no members.
    search: whether they are to help to choose coefficients.

  Returns:
    Members, grouped by method and transform.
  """
  return [
    Member(*key[:3], c, key.learning_rate, seed, search)
    for key, several in coefficients.items()
    for c, seed in itertools.product(
      several,
      range(
        s.search_seeds if search else plans[key.method].settings.training.seeds
      ),
    )
  ]


def make_cells(
  plans: Mapping[str, Plan],
  members: list[Member],
  executor: str,
  tasks: int,
  lives: dict[Any, Life] | None = None,
) -> list[Cell]:
  """Arranges a population into programs.

  Args:
    plans: by method.
    members: the population.
    executor: 'vmap': one program per method and transform, α traced, members
      sharded over the local devices (padded with copies of the last to fill
      them); 'map': one call per member, α static.
    tasks: how many tasks they learn at most.
    lives: those of earlier calls with these plans and this executor, to which
      new ones are added: what one call's cells compile, another's need not.

  Returns:
    Cells that cover the members.
  """
  cells = []
  lives = {} if lives is None else lives
  if executor == 'map':
    for m in members:
      plan = plans[m.method]
      which = (m.method, m.transform, m.alpha)
      if which not in lives:
        lives[which] = _jit(make_life(plan, m.transform, m.alpha))
      hyper = jax.tree.map(lambda x: x[0], _hyper([m]))
      limit = min(tasks, plan.num_tasks)
      cells.append(Cell(m.name, (m,), plan, limit, lives[which], hyper, False))
    return cells
  sharding = population.member_sharding()
  for (method, transform), group in itertools.groupby(
    members, lambda m: (m.method, m.transform)
  ):
    ms = list(group)
    ms += [ms[-1]] * (-len(ms) % sharding.num_devices)
    plan = plans[method]
    kind = 'search/' if ms[0].search else ''
    if (method, transform) not in lives:
      lives[method, transform] = _jit(_vmap(make_life(plan, transform, None)))
    cells.append(
      Cell(
        f'{kind}{method}/{transform}',
        tuple(ms),
        plan,
        min(tasks, plan.num_tasks),
        lives[method, transform],
        jax.device_put(_hyper(ms), sharding),
        True,
      )
    )
  return cells


def make_life(plan: Plan, transform: str, alpha: float | None) -> Life:
  """The functions of one member, not jitted.

  Args:
    plan: of its method.
    transform: its name.
    alpha: static, or None to take it from the hyperparameters.

  Returns:
    A life.
  """
  again = None
  if plan.retrain_steps:
    t = plan.settings.training
    again = settings_lib.schedule(t._replace(steps=plan.retrain_steps))
  return lifetime.make_life(
    plan.recipe,
    transform,
    plan.method,
    alpha,
    plan.settings.reset_optimizer,
    again,
  )


def _hyper(members: list[Member]) -> Hyper:
  column = lambda name, dtype: np.array(
    [getattr(m, name) for m in members], dtype
  )
  return Hyper(
    seed=column('seed', np.int32),
    alpha=column('alpha', np.float32),
    learning_rate=column('learning_rate', np.float32),
    coefficient=column('coefficient', np.float32),
  )


_SOURCE = data.Source(splits=None, tables=0, task=None, now=None)  # type: ignore[arg-type]


def _vmap(life: Life) -> Life:
  """All functions over the member axis; tasks and steps are not batched."""

  def steps(fn):
    def chunk(state, hyper, source, step, num_steps):
      one = lambda s, h, tables: fn(
        s, h, source._replace(tables=tables), step, num_steps
      )
      return jax.vmap(one)(state, hyper, source.tables)

    return chunk

  def scored(fn):
    def score(*args):
      *first, source, split = args
      one = lambda tables, *a: fn(*a, source._replace(tables=tables), split)
      return jax.vmap(one)(source.tables, *first)

    return score

  over = lambda fn: jax.vmap(fn, in_axes=(0, 0, _SOURCE))
  return Life(
    start=jax.vmap(life.start, in_axes=(0, _SOURCE)),
    begin=jax.vmap(life.begin),
    chunk=steps(life.chunk),
    rechunk=None if life.rechunk is None else steps(life.rechunk),
    end=over(life.end),
    archive=over(life.archive),
    live=scored(life.live),
    params_for=jax.vmap(life.params_for),
    recall=scored(life.recall),
  )


def _jit(life: Life) -> Life:
  return Life(
    start=jax.jit(life.start),
    begin=jax.jit(life.begin),
    chunk=jax.jit(life.chunk, static_argnums=4),
    rechunk=(
      None if life.rechunk is None else jax.jit(life.rechunk, static_argnums=4)
    ),
    end=jax.jit(life.end),
    archive=jax.jit(life.archive),
    live=jax.jit(life.live, static_argnums=2),
    params_for=jax.jit(life.params_for),
    recall=jax.jit(life.recall, static_argnums=3),
  )


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
