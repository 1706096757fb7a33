"""Populations that learn sequences: which members run as one program."""

from collections.abc import Callable, Mapping
import itertools
from typing import Any, NamedTuple

import jax
import optax

from experiments import data
from experiments.continual import settings as continual_settings
from experiments.continual.settings import ContinualSettings
from experiments.engine import classification
from experiments.engine import fitting
from experiments.engine import making
from experiments.engine import population
from experiments.engine import settings as settings_lib
from experiments.engine import validation
from experiments.engine.population import Cell
from experiments.engine.population import Member
from experiments.engine.settings import Settings
from powerprop import lifetime
from powerprop import train
from powerprop import trees
from powerprop.lifetime import Life
from powerprop.types import Method, Params, Where


class Way(NamedTuple):
  """What tells sequences apart, beside transform, α, learning rate and seed.

  Attributes:
    method: its name in the config.
    coefficient: of the penalty.
    search: whether it helps to choose among candidates, and no more.
  """

  method: str
  coefficient: float
  search: bool = False


class Course(NamedTuple):
  """What all members of a method share.

  Attributes:
    settings: the run's, with what this method has otherwise.
    recipe: of its trainings.
    method: how it learns tasks.
    shapes: the net's parameters.
    net_state: the shapes of its state.
    steps: of each task.
    retrain_steps: of each task's retraining phase; 0 where there is none.
    num_tasks: how many tasks its members learn at most.
    where: which leaves are under Ψ; None is the kernels.
    layers: names of the layers in the method's report; () if it has none.
    layer_sizes: their numbers of weights.
  """

  settings: ContinualSettings
  recipe: train.Recipe
  method: Method
  shapes: Params
  net_state: Any
  steps: tuple[int, ...]
  retrain_steps: tuple[int, ...]
  num_tasks: int
  layers: tuple[str, ...]
  layer_sizes: tuple[int, ...]
  where: Where | None = None

  @property
  def masks_of(self) -> str:
    """What tasks' masks are of: 'weights', whole 'units', or '' for none."""
    if not self.layers:
      return ''
    paths = trees.weights(self.shapes, lambda *_: True)
    return 'weights' if set(self.layers) <= set(paths) else 'units'

  @property
  def trial_steps(self) -> int:
    """Of the method's trial before a task, all its ways together."""
    trial = self.method.continual.trial
    return trial.steps * trial.ways if trial else 0


def of_pictures(
  s: Settings, dataset: data.Dataset, sequence: data.Sequence
) -> train.Recipe:
  """Pictures and their labels, with the net that the settings name."""
  fitting.check_data(s, dataset)
  return classification.make_recipe(s, dataset, sequence)


def make_plan(
  s: ContinualSettings,
  name: str,
  sequence: data.Sequence,
  make_recipe: Callable[..., train.Recipe] = of_pictures,
) -> Course:
  """Builds a method with all that its members share.

  Args:
    s: the run's settings.
    name: of the method in the config.
    sequence: that is learned.
    make_recipe: (settings of its trainings, data set, sequence) -> what is
      learned of it, checked.

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
  steps = continual_settings.steps(
    mine, sequence, mine.epochs, mine.task_epochs
  )
  most = max(steps)
  mine = mine._replace(training=mine.training._replace(steps=most))
  validation.attempt(
    'learning_rate_schedule',
    mine.training.learning_rate_schedule,
    lambda: making.schedule(mine.training.learning_rate_schedule, most),
  )
  recipe = make_recipe(mine.training, dataset, sequence)
  recipe = recipe._replace(task_steps=train.where_they_differ(steps))
  shapes, net_state = jax.eval_shape(lambda: train.initial_theta(recipe, 0))
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
  retrain = (0,) * len(steps)
  if method.continual.retraining is not None:
    retrain = continual_settings.steps(mine, sequence, mine.retrain_epochs)
  return Course(
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


def efforts(plans: Mapping[str, Course]) -> dict[str, dict[str, Any]]:
  """What a task takes, by method.

  Args:
    plans: by method.

  Returns:
    "steps" of a task and "retrain_steps" under its new mask (the mean of the
    tasks where they differ), "trial_steps" before it, their "batch_size",
    whether the method "rehearses" (each step has a second batch, of its
    memory), and whether it is "joint" (batches are of all tasks so far).
  """
  return {
    name: {
      'steps': round(sum(plan.steps) / len(plan.steps)),
      'retrain_steps': round(sum(plan.retrain_steps) / len(plan.steps)),
      'trial_steps': plan.trial_steps,
      'batch_size': plan.recipe.batch_size,
      'rehearses': plan.method.continual.rehearsal is not None,
      'joint': plan.method.continual.joint,
    }
    for name, plan in plans.items()
  }


def forgetting(plans: Mapping[str, Course]) -> list[str]:
  """Methods with masks of tasks, whose options let these be forgotten."""
  return [
    name
    for name, plan in plans.items()
    if plan.layers and not plan.method.continual.zero_forgetting
  ]


class Key(NamedTuple):
  """What may have several coefficients."""

  method: str
  transform: str
  alpha: float
  learning_rate: float


def keys(s: ContinualSettings, plans: Mapping[str, Course]) -> list[Key]:
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
  plans: Mapping[str, Course],
  coefficients: Mapping[Key, tuple[float, ...]],
  search: bool,
) -> list[Member]:
  """The population: every key × its coefficients × seeds.

  Args:
    s: the run's settings.
    plans: by method.
    coefficients: those to be run; a key that is not there has no members.
    search: whether they are to help to choose among them.

  Returns:
    Members, grouped by method and transform.
  """
  return [
    Member(
      key.transform,
      key.alpha,
      key.learning_rate,
      seed,
      Way(key.method, c, search),
    )
    for key, several in coefficients.items()
    for c, seed in itertools.product(
      several,
      range(
        s.search_seeds if search else plans[key.method].settings.training.seeds
      ),
    )
  ]


def make_cells(
  plans: Mapping[str, Course],
  members: list[Member],
  executor: str,
  tasks: int,
  lives: dict[Any, Life] | None = None,
) -> list[Cell]:
  """Arranges a population into programs.

  Args:
    plans: by method.
    members: the population.
    executor: as in `population.arrange`: a program for each method and
      transform.
    tasks: how many tasks they learn at most.
    lives: programs of earlier calls with these plans and this executor.

  Returns:
    Cells that cover the members, each with the plan of its members' method.
  """
  build = lambda key, alpha: make_life(plans[key[0]], key[1], alpha)
  cells = population.arrange(
    members,
    executor,
    lambda m: (m.variant.method, m.transform),
    build,
    _AXES,
    {} if lives is None else lives,
  )
  out = []
  for cell in cells:
    variant = cell.members[0].variant
    plan = plans[variant.method]
    search = cell.stacked and variant.search
    name = f'search/{cell.name}' if search else cell.name
    plan = plan._replace(num_tasks=min(tasks, plan.num_tasks))
    if variant.search and plan.settings.choose_learning_rate:
      # A rate that needs to be lowered is not the one that is to be chosen.
      plan = plan._replace(settings=plan.settings._replace(retries=0))
    out.append(cell._replace(name=name, plan=plan))
  return out


def retrain_schedule(plan: Course) -> Callable[[Any], Any] | None:
  """step -> factor on the learning rate of a retraining; None is 1."""
  factor, made = plan.settings.retrain_factor, None
  if most := max(plan.retrain_steps):
    of_task = plan.settings.training.learning_rate_schedule
    made = making.schedule(of_task, most)
  if made is None:
    return None if factor == 1 else lambda step: factor
  return made if factor == 1 else lambda step: factor * made(step)


def make_life(plan: Course, transform: str, alpha: float | None) -> Life:
  """The functions of one member, not jitted.

  Args:
    plan: of its method.
    transform: its name.
    alpha: static, or None to take it from the hyperparameters.

  Returns:
    A life.
  """
  t = plan.settings.training
  psis = making.psis(t.transforms, t.transform_kwargs, plan.where)
  return lifetime.make_life(
    plan.recipe,
    psis[transform]._replace(alpha=alpha),
    plan.method,
    plan.settings.reset_optimizer,
    retrain_schedule(plan),
    train.where_they_differ(plan.retrain_steps),
  )


# Tasks and steps are not batched; the tables of a sequence go with the seed.
_SOURCE = data.Source(splits=None, tables=0, task=None, now=None)  # type: ignore[arg-type]
_CHUNK = (0, 0, _SOURCE, None, population.STATIC)
_AXES: dict[str, tuple[Any, ...]] = {
  'start': (0, _SOURCE),
  'begin': (0, 0),
  'choose': (0, 0, _SOURCE),
  'chunk': _CHUNK,
  'rechunk': _CHUNK,
  'end': (0, 0, _SOURCE),
  'archive': (0, 0, _SOURCE),
  'live': (0, _SOURCE, population.STATIC),
  'params_for': (0, 0),
  'recall': (0, 0, _SOURCE, population.STATIC),
}
