"""A config of `experiments.continual`, checked."""

from collections.abc import Callable, Mapping
import functools
import inspect
import math
from typing import Any, NamedTuple

import jax
import ml_collections

from experiments import data
from experiments.engine import estimates
from experiments.engine import making
from experiments.engine import named
from experiments.engine import settings
from experiments.engine import validation
from experiments.engine.settings import ConfigError
from experiments.engine.settings import Settings
from powerprop import methods
from powerprop import private
from powerprop.methods.continual import sequential
from powerprop.types import Method, Params, Problem

_EXAMPLE = 'configs/digits_continual.py'
# Fields of `Settings` that mean nothing here, and what stands in for them.
UNUSED = {
  'steps': 10**9,  # follows from the epochs; schedules are checked with it
  'densities': (1.0,),
  'output_density_factor': 1.0,
  'near_zero': 0.01,
  'average_examples': 0,  # an option of methods that prune
  'accumulate': 1,  # such batches fit
  'data_devices': 0,  # one host, a device for each sequence
  'compute_dtype': 'float32',  # earlier tasks keep their bits
  'pretrained': '',  # the first task is learned from scratch
}
# What a method may have otherwise than the rest of the run.
OVERRIDES = (
  'network_kwargs',
  'optimizer',
  'optimizer_kwargs',
  'learning_rate',
  'learning_rate_schedule',
  'batch_size',
  'l2',
  'label_smoothing',
  'epochs',
  'task_epochs',
  'retrain_epochs',
  'retrain_factor',
  'clip_norm',
  'reset_optimizer',
  'num_tasks',
  'alphas',
  'evaluate_every',
)


class ContinualSettings(NamedTuple):
  """What `experiments.continual` is told.

  Attributes:
    training: the fields that it shares with `experiments.one_shot`; its steps
      are those of a task.
    sequence: a name in `experiments.data.SEQUENCES`, or a function of your own.
    scenario: 'task', 'domain' or 'class'.
    num_tasks: T ≥ 1.
    epochs: over a task's own training examples, > 0.
    retrain_epochs: of methods that retrain under their mask, ≥ 0.
    methods: names in `powerprop.methods`, functions of your own, or names of
      your own for which `method_kwargs` has the method.
    method_kwargs: by name, the method's keyword arguments. Two more are for
      all: 'method', what the name stands for; and 'coefficient', of the
      penalty: a number, or several. The first is the protocol's; where there
      are several, one is chosen on validation data.
    method_training: by name, fields that this method has otherwise: of
      `OVERRIDES`. Of `network_kwargs` only those named are replaced.
    sequence_kwargs: options of the sequence.
    choose_learning_rate: whether the learning rates are candidates as the
      coefficients are, each with each of these; else all are run. The first is
      the protocol's.
    run_protocol: whether the protocol's is run beside what was chosen.
    choose_margin: in [0, 1): with 0 the best on validation data is chosen;
      above it, of methods with masks the one with the fewest weights in use of
      those that before pruning and after it are at most so far below the best
      before pruning.
    search_tasks: tasks of the trainings that choose, ≥ 1.
    search_seeds: their number of seeds, ≥ 1.
    reset_optimizer: whether every task begins with fresh moments.
    clip_norm: global norm to which gradients are clipped; 0 is not at all.
    evaluate_every: all earlier tasks are evaluated after every so many, and
      after the last.
    forward_transfer: whether each task is evaluated before it is learned too.
    retries: how often a task that failed is tried again.
    task_epochs: by task, what `epochs` is of it; () is the same for all.
    retrain_factor: > 0, on the learning rate of the retraining.
    retry_factor: in (0, 1), on the learning rate of each further try.
    failure_accuracy: a task whose net has at most this validation accuracy
      before pruning counts as failed, as one that diverged does.
  """

  training: Settings
  sequence: str
  scenario: str
  num_tasks: int
  epochs: float
  retrain_epochs: float
  methods: tuple[str, ...]
  method_kwargs: dict[str, dict[str, Any]]
  method_training: dict[str, dict[str, Any]] = {}
  sequence_kwargs: dict[str, Any] = {}
  choose_learning_rate: bool = False
  run_protocol: bool = True
  choose_margin: float = 0.0
  search_tasks: int = 3
  search_seeds: int = 1
  reset_optimizer: bool = False
  clip_norm: float = 0.0
  evaluate_every: int = 1
  forward_transfer: bool = True
  retries: int = 2
  task_epochs: tuple[float, ...] = ()
  retrain_factor: float = 1.0
  retry_factor: float = 0.3
  failure_accuracy: float = 0.0


def method_names() -> list[str]:
  """Names of methods for several tasks: functions of `Tasks`."""

  def takes_tasks(fn: Any) -> bool:
    return (
      inspect.isfunction(fn) and 'tasks' in inspect.signature(fn).parameters
    )

  return sorted(n for n in dir(methods) if takes_tasks(getattr(methods, n)))


def method_of(s: ContinualSettings, name: str) -> str:
  """What a name stands for: the method among its options, or itself."""
  return named.stands_for(name, s.method_kwargs, 'method')


def function_of(s: ContinualSettings, name: str) -> Callable[..., Method]:
  """What makes the method that a name stands for."""
  return named.function('method', method_of(s, name), vars(methods))


def coefficients(s: ContinualSettings, name: str) -> tuple[float, ...]:
  """The candidates for a method's coefficient; the protocol's is the first."""
  method = method_of(s, name)
  given = s.method_kwargs.get(name, {}).get(
    'coefficient', methods.COEFFICIENTS.get(method, 0.0)
  )
  return validation.numbers(f'method_kwargs.{name}.coefficient', given)


def check(config: ml_collections.ConfigDict) -> ContinualSettings:
  """Checks a config by itself; what depends on data and net comes later.

  Args:
    config: as read from a config file and overridden on the command line.

  Returns:
    Settings.

  Raises:
    ConfigError: naming the first field that is missing, unknown or out of
      range.
  """
  s: ContinualSettings = settings.check_extended(
    config, ContinualSettings, UNUSED, _EXAMPLE
  )
  for name in ('method_kwargs', 'method_training'):
    value = getattr(s, name)
    validation.require(
      isinstance(value, dict)
      and all(isinstance(v, dict) for v in value.values()),
      name,
      repr(value),
      'a dict of dicts, by method',
    )
  s = s._replace(methods=validation.names('methods', s.methods))
  named.check('sequence', s.sequence, list(data.SEQUENCES))
  validation.require(
    isinstance(s.sequence_kwargs, dict),
    'sequence_kwargs',
    repr(s.sequence_kwargs),
    'a dict',
  )
  # Its first three parameters are no options.
  of_sequence = named.function('sequence', s.sequence, data.SEQUENCES)
  validation.check_options(
    'sequence_kwargs',
    s.sequence,
    functools.partial(of_sequence, None, None),
    s.sequence_kwargs,
  )
  validation.known('scenario', s.scenario, list(data.SCENARIOS))
  _check_numbers(s)
  t = s.training
  for changing in making.adaptive(t.transforms, t.transform_kwargs):
    raise ConfigError(
      f'transforms has {changing}, but what was learned is kept at a'
      ' constant alpha: choose powerprop or chain_rule.'
    )
  for name in {**dict.fromkeys(s.methods), **s.method_kwargs}:
    method = method_of(s, name)
    named.check('method', method, method_names(), name, 'tasks')
    validation.check_options(
      f'method_kwargs.{name}',
      method,
      function_of(s, name),
      {
        k: v
        for k, v in s.method_kwargs.get(name, {}).items()
        if k not in ('method', 'coefficient')
      },
    )
    is_gamma = s.method_kwargs.get(name, {}).get('gamma', 0) is None
    for c in coefficients(s, name):
      validation.require(
        0 < c <= 1 if is_gamma else 0 <= c <= validation.LARGEST_FLOAT,
        f'method_kwargs.{name}.coefficient',
        f'{c:g}',
        'in (0, 1]: it is γ where gamma is None'
        if is_gamma
        else 'finite in float32 and at least 0',
      )
  settings.check_labels(
    s.training, [*s.methods, *s.method_kwargs, *method_names()]
  )
  for name, fields in s.method_training.items():
    # Those that this run leaves out may stay in a config.
    there = [*s.methods, *s.method_kwargs, *method_names()]
    validation.known('method of method_training', name, there)
    for field in fields:
      validation.known(f'field of method_training.{name}', field, [*OVERRIDES])
    of_method(s, name)
  for name in s.methods:
    mine = of_method(s, name)
    t = mine.training
    make = making.optimizer(t.optimizer, t.optimizer_kwargs)
    if mine.retries and making.rate_is_of_the_start(make):
      raise ConfigError(
        f'retries is {s.retries} but optimizer {t.optimizer!r}, of'
        f' {name}, looks at the learning rate once, for its first step sizes:'
        ' retry_factor would change nothing; set retries to 0, or choose'
        ' another optimizer.'
      )
  return s


def resolved(given: Mapping[str, Any]) -> dict[str, Any]:
  """A config with all defaults; see `settings.resolved`."""
  shared = settings.resolved(given, UNUSED)
  out = {**ContinualSettings._field_defaults, **shared}
  of_sequence = named.if_there(out.get('sequence'), data.SEQUENCES)
  out['sequence_kwargs'] = validation.with_defaults(
    of_sequence, out['sequence_kwargs']
  )
  kwargs = out.get('method_kwargs')
  if isinstance(kwargs, dict):
    chosen = out.get('methods', ())
    every = [*([chosen] if isinstance(chosen, str) else chosen), *kwargs]
    made = {}
    for name in dict.fromkeys(every):
      mine = kwargs.get(name, {})
      method = named.stands_for(name, kwargs, 'method')
      fn = named.if_there(method, vars(methods))
      made[name] = validation.with_defaults(fn, mine)
      if method in methods.COEFFICIENTS and isinstance(mine, dict):
        made[name].setdefault('coefficient', methods.COEFFICIENTS[method])
    out['method_kwargs'] = {k: v for k, v in made.items() if v or k in kwargs}
  return out


def rules(s: ContinualSettings) -> settings.Rules:
  """What of a config may change when its run goes on.

  A task's row has the mean loss of its last chunk, so chunks are no free field.
  """
  del s
  return settings.Rules(resolved, settings.ALWAYS_FREE)


def _check_numbers(s: ContinualSettings) -> None:
  validation.check_whole(
    s,
    {
      'num_tasks': 1,
      'search_tasks': 1,
      'search_seeds': 1,
      'evaluate_every': 1,
      'retries': 0,
    },
  )
  at_least_0 = 'a number of at least 0', lambda x: x >= 0
  above_0 = 'a number above 0', lambda x: x > 0
  several = s.task_epochs
  validation.require(
    isinstance(several, tuple | list), 'task_epochs', repr(several), 'a tuple'
  )
  for x in several:
    validation.require(
      validation.is_number(x) and 0 < x <= validation.LARGEST_FLOAT,
      'task_epochs',
      repr(several),
      'a number above 0 for each task, finite in float32',
    )
  validation.check_ranges(
    s,
    {
      'epochs': above_0,
      'retrain_epochs': at_least_0,
      'retrain_factor': above_0,
      'clip_norm': at_least_0,
      'retry_factor': ('a number in (0, 1)', lambda x: 0 < x < 1),
      'failure_accuracy': ('a number in [0, 1)', lambda x: 0 <= x < 1),
      'choose_margin': ('a number in [0, 1)', lambda x: 0 <= x < 1),
    },
  )
  for name in (
    'reset_optimizer',
    'forward_transfer',
    'choose_learning_rate',
    'run_protocol',
  ):
    value = getattr(s, name)
    validation.require(
      isinstance(value, bool), name, repr(value), 'True or False'
    )


def of_method(s: ContinualSettings, name: str) -> ContinualSettings:
  """The settings with what one method has otherwise.

  Raises:
    ConfigError: naming what is out of range.
  """
  fields = dict(s.method_training.get(name, {}))
  if not fields:
    return s
  if isinstance(fields.get('network_kwargs'), dict):
    shared = s.training.network_kwargs
    fields['network_kwargs'] = shared | fields['network_kwargs']
  own = {k: v for k, v in fields.items() if k in ContinualSettings._fields}
  given = s.training._asdict() | {
    k: v for k, v in fields.items() if k not in own
  }
  try:
    training = settings.check_fields(given, Settings, _EXAMPLE)
    s = s._replace(training=training, **own)
    _check_numbers(s)
  except ConfigError as e:
    raise ConfigError(f'method_training.{name}: {e}') from None
  return s


def make_sequence(s: ContinualSettings, dataset: data.Dataset) -> data.Sequence:
  """The sequence that the settings name.

  Raises:
    ConfigError: if the data set cannot be made into it.
  """
  pixels = math.prod(dataset.train.image.shape[1:])
  estimates.require_memory(
    4 * pixels * s.num_tasks, f'num_tasks is {s.num_tasks}: their tables'
  )
  args = dataset, s.num_tasks, s.scenario
  try:
    if named.is_own(s.sequence):
      made = named.call('sequence', s.sequence, *args, **s.sequence_kwargs)
      return data.checked_sequence(s.sequence, made)
    return data.SEQUENCES[s.sequence](*args, **s.sequence_kwargs)
  except data.DataError as e:
    raise ConfigError(str(e)) from None


def steps(
  s: ContinualSettings,
  sequence: data.Sequence,
  epochs: float,
  several: tuple[float, ...] = (),
) -> tuple[int, ...]:
  """By task, the steps of so many epochs over its own examples.

  Args:
    s: settings.
    sequence: of the tasks.
    epochs: of every task.
    several: of each task, where they differ.

  Raises:
    ConfigError: if there are not as many as tasks, or they are too long.
  """
  sizes = sequence.sizes['train']
  validation.require(
    len(several) in (0, len(sizes)),
    'task_epochs',
    several,
    f'a number for each of the {len(sizes)} tasks',
  )
  numbers = [
    max(1, round(e * (int(n) // s.training.batch_size))) if e else 0
    for e, n in zip(several or [epochs] * len(sizes), sizes, strict=True)
  ]
  validation.require(
    max(numbers) <= validation.LARGEST,
    'the number of epochs',
    f'{max(several, default=epochs):g}, which makes {max(numbers):g} steps a'
    ' task,',
    f'lower: {validation.LARGEST} steps at most',
  )
  return tuple(numbers)


def make_method(
  s: ContinualSettings,
  name: str,
  sequence: data.Sequence,
  problem: Problem,
  shapes: Params,
) -> Method:
  """A method, for the sequence and the net.

  Args:
    s: settings of the method, from `of_method`.
    name: in s.methods.
    sequence: of `make_sequence`.
    problem: of the recipe, made of that sequence.
    shapes: the net's parameters, or their shapes.

  Returns:
    The method.

  Raises:
    ConfigError: if an argument is out of range.
  """
  kwargs = {
    k: tuple(v) if isinstance(v, list) else v
    for k, v in s.method_kwargs.get(name, {}).items()
    if k not in ('method', 'coefficient')
  }
  tasks = sequential.Tasks(
    shapes=private.split(shapes, problem.private)[0],
    number=min(s.num_tasks, sequence.num_tasks),
    example=example(sequence, problem),
    num_train=int(sequence.sizes['train'].max()),
    batch_size=s.training.batch_size,
    heads=problem.own,
    units=problem.units,
    retrain_steps=max(steps(s, sequence, s.retrain_epochs)),
  )
  try:
    made = function_of(s, name)(tasks, **kwargs)
  except (TypeError, ValueError) as e:
    raise ConfigError(
      f'method_kwargs.{name} is {kwargs}: {str(e).rstrip(".")}.'
    ) from None
  if (
    made.continual.penalty is not None
    and method_of(s, name) not in methods.COEFFICIENTS
  ):
    validation.require(
      'coefficient' in s.method_kwargs.get(name, {}),
      f'method_kwargs.{name}',
      f'{kwargs}, without a coefficient for its penalty,',
      'given one: a penalty of your own has no default',
    )
  return made


def example(sequence: data.Sequence, problem: Problem) -> Any:
  """The shapes of a batch of one example."""
  splits = {name: getattr(sequence.dataset, name) for name in data.SPLITS}

  def one(splits, task):
    source = data.Source(splits, sequence.tables(task), task, task)
    return problem.batch(source, 'train', task[None])

  task = jax.ShapeDtypeStruct((), jax.numpy.int32)
  return jax.eval_shape(one, splits, task)
