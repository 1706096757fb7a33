"""A config of `experiments.stream`, checked."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from experiments.continual import extended
from experiments.continual import settings as continual_settings
from experiments.continual.settings import ContinualSettings
from experiments.engine import settings
from experiments.engine import validation
from experiments.engine.settings import ConfigError

_EXAMPLE = 'configs/stream_digits.py'
BOUNDARIES = ('known', 'detected')
# Fields of `Settings` that mean nothing here.
_UNUSED = (
  *continual_settings.UNUSED,
  'executor',  # members stop at steps of their own: one after the other
  'chunk_steps',  # is the window
  'learning_rate_schedule',  # nobody says how long a task will be
)
# And those of `ContinualSettings` that do mean something: no searches, no
# retries, and no 'scenario', as outputs of a task's own need its name.
_TAKEN = (
  'sequence',
  'num_tasks',
  'epochs',
  'retrain_epochs',
  'methods',
  'method_kwargs',
  'sequence_kwargs',
  'reset_optimizer',
  'clip_norm',
)
_FIXED = {
  'executor': 'map',
  'chunk_steps': 1,
  'scenario': 'domain',
  'retries': 0,
}


class StreamSettings(NamedTuple):
  """What `experiments.stream` is told.

  Attributes:
    training: the fields that it shares with `experiments.continual`; epochs are
      those of a visit of a task, and a method has one coefficient.
    window: w ≥ 1, steps whose mean loss is one observation.
    hazard: steps after which a change is expected, above the window: the
      probability of one in a window is w over it.
    threshold: in (0, 1): an alarm is a probability of at least this of any
      change of the loss within the last four windows, where log(loss + 0.05)
      has risen by more than 0.25 since, which is 28%.
    boundaries: of 'known', which is told when which task begins, and
      'detected'.
    order: of the visits, by the numbers of their tasks; () is each task in
      turn.
    returns: with an order of (), how many visits of earlier tasks come between,
      drawn from the seed.
    lengths: steps of each visit; () is as many as the epochs make.
    unequal: with lengths of (), whether they are drawn from the seed, from half
      to three halves of that.
    recognise: ≥ 0, in nats: where a stored net's loss on the window after an
      alarm is at most so much above that when its task ended, its task has come
      back. 0 recognises none.
  """

  training: ContinualSettings
  window: int
  hazard: float
  threshold: float
  boundaries: tuple[str, ...] = ('known', 'detected')
  order: tuple[int, ...] = ()
  returns: int = 0
  lengths: tuple[int, ...] = ()
  unequal: bool = False
  recognise: float = 0.5


_EXTENDED = extended.Extended(StreamSettings, _UNUSED, _TAKEN, _FIXED, _EXAMPLE)


def check(config: ml_collections.ConfigDict) -> StreamSettings:
  """Checks a config by itself; what depends on data and net comes later.

  Args:
    config: as read from a config file and overridden on the command line.

  Returns:
    Settings.

  Raises:
    ConfigError: naming the first field that is missing, unknown or out of
      range.
  """
  s: StreamSettings = extended.check(config, _EXTENDED)
  validation.check_whole(s, {'window': 1, 'returns': 0})
  validation.check_ranges(
    s,
    {
      'hazard': ('a number above 0', lambda x: x > 0),
      'threshold': ('a number in (0, 1)', lambda x: 0 < x < 1),
      'recognise': ('a number of at least 0', lambda x: x >= 0),
    },
  )
  validation.require(
    s.hazard > s.window,
    'hazard',
    f'{s.hazard:g}',
    f'above window, which is {s.window}: a change is expected after more steps'
    ' than one observation has',
  )
  validation.require(
    isinstance(s.unequal, bool), 'unequal', repr(s.unequal), 'True or False'
  )
  s = s._replace(
    training=s.training._replace(
      training=s.training.training._replace(chunk_steps=s.window)
    ),
    boundaries=validation.names('boundaries', s.boundaries),
    order=_whole('order', s.order, 0),
    lengths=_whole('lengths', s.lengths, 1),
  )
  for name in s.boundaries:
    validation.known('boundaries', name, [*BOUNDARIES])
  _check_visits(s)
  for name in s.training.methods:
    several = continual_settings.coefficients(s.training, name)
    validation.require(
      len(several) == 1,
      f'method_kwargs.{name}.coefficient',
      several,
      'one number: in a stream nothing is searched for',
    )
  return s


def _whole(name: str, value: Any, low: int) -> tuple[int, ...]:
  """Whole numbers, each at least `low`."""
  several = value if isinstance(value, tuple | list) else (value,)
  ok = lambda x: isinstance(x, int) and not isinstance(x, bool)
  validation.require(
    all(ok(x) and low <= x <= validation.LARGEST for x in several),
    name,
    repr(value),
    f'whole numbers of at least {low}',
  )
  return tuple(several)


def _check_visits(s: StreamSettings) -> None:
  """Checks orders and lengths against the tasks."""
  tasks = s.training.num_tasks
  if s.order:
    validation.require(
      set(s.order) == set(range(tasks)),
      'order',
      s.order,
      f'of all tasks, 0 to {tasks - 1}, as num_tasks is {tasks}',
    )
    again = [a for a, b in zip(s.order, s.order[1:], strict=False) if a == b]
    validation.require(
      not again, 'order', s.order, 'such that no task follows itself'
    )
    validation.require(
      not s.returns, 'returns', s.returns, '0 where there is an order'
    )
  validation.require(
    tasks > 1, 'num_tasks', tasks, 'at least 2: one task does not change'
  )
  if s.lengths:
    count = visits(s)
    validation.require(
      len(s.lengths) == count,
      'lengths',
      f'{len(s.lengths)} numbers',
      f'{count}, the steps of each visit, or () for as many as the epochs make',
    )
    validation.require(
      not s.unequal, 'unequal', s.unequal, 'False where there are lengths'
    )
    check_window(s, min(s.lengths))


def visits(s: StreamSettings) -> int:
  """How many visits of tasks a stream has."""
  return len(s.order) or s.training.num_tasks + s.returns


def check_window(s: StreamSettings, shortest: int) -> None:
  """Raises ConfigError where a window has room for more than a task."""
  validation.require(
    s.window <= shortest,
    'window',
    s.window,
    f'at most {shortest}, the steps of the shortest visit; lower it, or raise'
    ' epochs or lengths',
  )


def check_method(s: StreamSettings, name: str, method: Any) -> None:
  """Raises ConfigError where a method needs more than a stream tells."""
  continual = method.continual
  ours = continual_settings.method_of(s.training, name)
  options = s.training.method_kwargs.get(name, {})
  why = ''
  if continual.joint:
    why = 'learns from all tasks by their names, which nobody tells here'
  elif ours == 'packnet':
    why = 'shares the net out among a number of tasks that nobody tells here'
  elif ours == 'vcl' and options.get('coreset'):
    why = 'has coresets for a number of tasks that nobody tells here'
  elif continual.trial is not None:
    why = 'tries ways to learn a task on data that a stream has not brought yet'
  if why:
    raise ConfigError(
      f'methods has {name}, which {why}: leave it out, or choose'
      ' efficient_packnet, online_ewc or naive.'
    )


def resolved(given: Mapping[str, Any]) -> dict[str, Any]:
  """A config with all defaults; see `settings.resolved`."""
  return extended.resolved(given, _EXTENDED)


def rules(s: StreamSettings) -> settings.Rules:
  """What of a config may change when its run goes on."""
  del s
  return settings.Rules(resolved, settings.ALWAYS_FREE)
