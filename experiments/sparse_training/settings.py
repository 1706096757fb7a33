"""A config of `experiments.sparse_training`, checked."""

from collections.abc import Callable, Mapping
import inspect
import itertools
from typing import Any, NamedTuple

import ml_collections

from experiments.engine import making
from experiments.engine import named
from experiments.engine import settings
from experiments.engine import validation
from experiments.engine.settings import ConfigError
from experiments.engine.settings import Settings
from powerprop import methods
from powerprop.types import Method, Params

DISTRIBUTIONS = ('uniform', 'erdos_renyi', 'erk', 'global')
# Both train densely; one_shot prunes what came out, once for every density.
DENSE = ('dense', 'one_shot')
# Options of methods that are steps of the training, but no periods.
_STEPS = ('begin', 'end', 'at', 'rewind')
_SCHEDULE_STEPS = ('warmup', 'boundaries')


class Variant(NamedTuple):
  """A sparse method and what it aims at, by name."""

  method: str
  distribution: str
  sparsity: float


# Fields of `Settings` that mean nothing here, and what stands in for them.
UNUSED = {'output_density_factor': 1.0, 'output_layer': 'output'}


class SparseSettings(NamedTuple):
  """What `experiments.sparse_training` is told.

  Attributes:
    training: the fields that it shares with `experiments.one_shot`.
    methods: names in `powerprop.methods`, 'one_shot', functions of your own, or
      names of your own for which `method_kwargs` names the method.
    method_kwargs: by name, the method's keyword arguments. With one more,
      'method', the same method can run under several names.
    distributions: of 'uniform', 'erdos_renyi', 'erk', 'global'; each is run.
    layer_densities: regular expression over parameter paths -> density. A
      config may also give pairs, (('hidden_.*', 0.1), …): its dicts are sorted,
      where the first expression counts, and have no keys with dots.
    exclude: regular expressions; what they match stays dense.
    patterns: regular expression -> 'unstructured', '2:4', 'block:4x4',
      'channel'; or pairs.
    training_multiplier: M > 0: M times the steps, with the learning rate's
      schedule and the mask's window stretched alike; periods stay.
  """

  training: Settings
  methods: tuple[str, ...]
  method_kwargs: dict[str, dict[str, Any]]
  distributions: tuple[str, ...]
  layer_densities: dict[str, float]
  exclude: tuple[str, ...]
  patterns: dict[str, str]
  training_multiplier: float = 1.0


def method_names() -> list[str]:
  """Names that a config may choose: functions of a `Brief`, and 'one_shot'."""

  def takes_brief(fn: Any) -> bool:
    return (
      inspect.isfunction(fn) and 'brief' in inspect.signature(fn).parameters
    )

  found = [n for n in dir(methods) if takes_brief(getattr(methods, n))]
  return sorted([*found, 'one_shot'])


def check(config: ml_collections.ConfigDict) -> SparseSettings:
  """Checks a config by itself; what depends on the net comes later.

  Args:
    config: as read from a config file and overridden on the command line.

  Returns:
    Settings, with all steps multiplied by the training multiplier.

  Raises:
    ConfigError: naming the first field that is missing, unknown or out of
      range.
  """
  s: SparseSettings = settings.check_extended(
    config,
    SparseSettings,
    UNUSED,
    'configs/digits_sparse.py',
  )
  training = s.training
  validation.require(
    isinstance(s.method_kwargs, dict),
    'method_kwargs',
    repr(s.method_kwargs),
    'a dict',
  )
  s = s._replace(
    layer_densities=_rules('layer_densities', s.layer_densities),
    patterns=_rules('patterns', s.patterns),
    methods=validation.names('methods', s.methods),
    distributions=validation.names('distributions', s.distributions),
    exclude=validation.names('exclude', s.exclude, empty=True),
  )
  for regex, density in s.layer_densities.items():
    validation.require(
      not isinstance(density, bool),
      f'layer_densities[{regex!r}]',
      density,
      'a number in (0, 1]',
    )
  for name in (*s.methods, *s.method_kwargs):
    method = _method_of(s, name)
    mine = [n for n in method_names() if method == name or n not in DENSE]
    every = method_names() if named.is_own(method) else mine
    named.check('method', method, every, name, 'brief')
  for name in s.distributions:
    validation.known('distribution', name, list(DISTRIBUTIONS))
  for name, kwargs in s.method_kwargs.items():
    validation.require(
      isinstance(kwargs, dict), f'method_kwargs.{name}', repr(kwargs), 'a dict'
    )
    method = _method_of(s, name)
    validation.check_options(
      f'method_kwargs.{name}',
      method,
      (lambda brief: None) if method in DENSE else _function(s, name),
      {k: v for k, v in kwargs.items() if k != 'method'},
    )
  settings.check_labels(
    s.training, [*s.methods, *s.method_kwargs, *method_names(), *DISTRIBUTIONS]
  )
  validation.check_ranges(
    s, {'training_multiplier': ('a finite number above 0', lambda x: x > 0)}
  )
  m = s.training_multiplier
  s = _stretched(s)
  validation.require(
    s.training.steps <= validation.LARGEST,
    f'steps times training_multiplier {m:g}',
    s.training.steps,
    f'at most {validation.LARGEST}',
  )
  if sparse_methods(s) and not s.training.steps:
    raise ConfigError(
      f'steps is {training.steps} and training_multiplier is {m:g}, which'
      ' leaves no step, but a sparse method needs one: raise either.'
    )
  # A small multiplier may let boundaries fall together.
  schedule = s.training.learning_rate_schedule
  validation.attempt(
    'learning_rate_schedule',
    f'{schedule} after training_multiplier {m:g}',
    lambda: making.schedule(schedule, s.training.steps),
  )
  return s


def resolved(given: Mapping[str, Any]) -> dict[str, Any]:
  """A config with all defaults; see `settings.resolved`."""
  shared = settings.resolved(given, UNUSED)
  out = {**SparseSettings._field_defaults, **shared}
  kwargs = out.get('method_kwargs')
  if isinstance(kwargs, dict):
    made = {}
    for name in dict.fromkeys([*_several(out.get('methods')), *kwargs]):
      mine = kwargs.get(name, {})
      method = named.stands_for(name, kwargs, 'method')
      fn = None if method in DENSE else named.if_there(method, vars(methods))
      made[name] = validation.with_defaults(fn, mine)
    out['method_kwargs'] = {k: v for k, v in made.items() if v or k in kwargs}
  return out


def _several(value: Any) -> list[Any]:
  """A name or several, in a config that need not be right."""
  return list(value) if isinstance(value, tuple | list) else [value]


def rules(s: SparseSettings) -> settings.Rules:
  """What of a config may change when its run goes on.

  More steps only where no method's steps are shares of the training.
  """
  shared = settings.rules(s.training)._replace(resolve=resolved)
  for name in sparse_methods(s):
    options = _options_of(s, name)
    if any(options.get(k, 0) is None for k in (*_STEPS, 'every')):
      return shared._replace(growing=())
  return shared


def _options_of(s: SparseSettings, name: str) -> dict[str, Any]:
  """A method's options, with its defaults."""
  fn = _function(s, name)
  return validation.with_defaults(fn, s.method_kwargs.get(name, {}))


def periods(s: SparseSettings) -> dict[str, int | None]:
  """By field, the steps between two changes of a method's masks."""
  return {
    f'method_kwargs.{name}.every': _options_of(s, name).get('every')
    for name in sparse_methods(s)
  }


def _rules(name: str, value: Any) -> dict[str, Any]:
  """A dict, or pairs, as a dict in the order that was given."""
  pairs = tuple(value.items()) if isinstance(value, dict) else value
  validation.require(
    isinstance(pairs, tuple | list)
    and all(isinstance(p, tuple | list) and len(p) == 2 for p in pairs)
    and all(isinstance(regex, str) for regex, _ in pairs),
    name,
    repr(value),
    'a dict, or a tuple of pairs, of regular expressions and what they choose',
  )
  return dict(pairs)


def _method_of(s: SparseSettings, name: str) -> Any:
  """What a name stands for: the method among its options, or itself."""
  return named.stands_for(name, s.method_kwargs, 'method')


def _function(s: SparseSettings, name: str) -> Callable[..., Method]:
  return named.function('method', _method_of(s, name), vars(methods))


def _stretched(s: SparseSettings) -> SparseSettings:
  """All steps of the config, times the training multiplier."""

  def times(value: Any) -> Any:
    if isinstance(value, tuple | list):
      return tuple(times(v) for v in value)
    return value if value is None else round(value * s.training_multiplier)

  def stretched(kwargs: Mapping[str, Any], which: tuple[str, ...]) -> Any:
    return {k: times(v) if k in which else v for k, v in kwargs.items()}

  t = s.training
  return s._replace(
    training=t._replace(
      steps=times(t.steps),
      learning_rate_schedule=stretched(
        t.learning_rate_schedule, _SCHEDULE_STEPS
      ),
    ),
    method_kwargs={
      name: stretched(kwargs, _STEPS)
      for name, kwargs in s.method_kwargs.items()
    },
  )


def sparse_methods(s: SparseSettings) -> list[str]:
  """The methods that need trainings of their own."""
  return [name for name in s.methods if name not in DENSE]


def make_targets(
  s: SparseSettings, theta: Params, layer_flops: Mapping[str, float]
) -> dict[tuple[str, float], methods.Target]:
  """By (distribution, density), what is left of which layer.

  Args:
    s: checked settings.
    theta: the net's parameters, or their shapes.
    layer_flops: of `powerprop.flops`; its first layer is the stem.

  Returns:
    A target for every pair, the densities falling.

  Raises:
    ConfigError: if a pattern matches no layer, or a layer cannot meet a
      density.
  """
  stem = next((n for n in layer_flops if n), None)
  out = {}
  for name, density in itertools.product(s.distributions, s.training.densities):
    try:
      out[name, density] = methods.make_target(
        theta,
        density,
        name,
        layer_densities=s.layer_densities,
        exclude=s.exclude,
        patterns=s.patterns,
        stem=stem,
      )
    except ValueError as e:
      raise ConfigError(f'{str(e).rstrip(".")}.') from None
  return out


def make_methods(
  s: SparseSettings, aims: Mapping[tuple[str, float], methods.Target]
) -> dict[Variant, Method]:
  """The sparse methods, for every distribution and density.

  Args:
    s: checked settings.
    aims: of `make_targets`.

  Returns:
    Methods by their names; dense and one_shot are not among them.

  Raises:
    ConfigError: if an argument of a method is unknown or out of range, or a
      method needs a constant α and a transform adapts it.
  """
  out = {}
  t = s.training
  changing = making.adaptive(t.transforms, t.transform_kwargs)
  for name, ((distribution, density), target) in itertools.product(
    sparse_methods(s), aims.items()
  ):
    kwargs = s.method_kwargs.get(name, {})
    brief = methods.Brief(target, s.training.steps, s.training.l2)
    try:
      options = {k: v for k, v in kwargs.items() if k != 'method'}
      made = _function(s, name)(brief, **options)
    except (TypeError, ValueError) as e:
      raise ConfigError(
        f'method_kwargs.{name} is {kwargs}: {str(e).rstrip(".")}.'
      ) from None
    if made.constant_alpha and changing:
      raise ConfigError(
        f'transforms has {changing[0]}, but {name} masks weights, which'
        ' need a constant alpha: choose powerprop or chain_rule, or only'
        ' methods without masks, such as dense and one_shot.'
      )
    out[Variant(name, distribution, sparsity(density))] = made
  return out


def sparsity(density: float) -> float:
  """1 − density, without the noise of the last digits."""
  return round(1 - density, 10)
