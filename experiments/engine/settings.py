"""A config, checked: one clear sentence for whatever is wrong with it."""

from collections.abc import Callable, Collection, Mapping
import functools
import inspect
from typing import Any, NamedTuple

import ml_collections
import optax

from experiments import data
from experiments.engine import making
from experiments.engine import named
from experiments.engine import networks
from experiments.engine import precision
from experiments.engine import validation
from experiments.engine.validation import ConfigError
from powerprop import schedules
from powerprop import transforms


class Settings(NamedTuple):
  """What `experiments.one_shot` is told; the fields of every config.

  Where a field names something of ours, it may name a function of your own
  instead, as 'package.module:function': see docs/own_code.md.

  Attributes:
    dataset: a name in `experiments.data.names()`, several joined by '+', the
      path of an .npz file or of a folder of pictures (with a slash in it), or a
      function of your own that returns arrays.
    network: a function of `experiments.engine.networks`, or your own.
    network_kwargs: its keyword arguments.
    optimizer: an optax alias, or a function of your own.
    optimizer_kwargs: its keyword arguments but the learning rate.
    learning_rate: one or several, each ≥ 0; several are a sweep.
    transforms: names in `powerprop.transforms`, or functions of your own;
      several are compared. α = 1 is the same for all, and runs once, under the
      first.
    transform_kwargs: by transform, its keyword arguments. With one more,
      'transform', the same transform can run under several names.
    alphas: powers ≥ 1 (where they start, for an adaptive transform).
    seeds: how many, from 0; a seed's θ at the start is the same for every α.
    steps: optimisation steps, ≥ 0.
    batch_size: examples per step.
    densities: shares kept by pruning, each in (0, 1].
    output_density_factor: the output layer keeps min(1, factor·density).
    executor: 'auto', 'map' or 'vmap'; see `trainings.make_cells`.
    chunk_steps: steps between two reports (and so between two checkpoints).
    checkpoint_seconds: least time between two checkpoints.
    near_zero: ε; weights in (−ε, ε) count as near zero.
    learning_rate_schedule: kind ('constant', 'piecewise' or 'cosine') and the
      arguments of `powerprop.schedules.learning_rate`; steps are those of the
      config.
    augment: 'none' or 'crop_flip', applied to training pictures.
    l2: coefficient of ½‖w‖² over the kernels, as part of the loss.
    label_smoothing: share in [0, 1) of a label spread over all classes.
    output_layer: the module that gives the logits, by its name, or by as much
      of the end of its path as tells it apart.
    average_examples: training examples from which batch normalisation's
      averages are made anew for every net that is measured at the end; 0 takes
      those that training left.
    labels: what tables and figures call transforms and methods, by what the
      config calls them; no two alike.
    accumulate: parts of equal size that a batch goes through the net in, one
      after the other, for want of memory; a divisor of `batch_size`.
    data_devices: devices that share each batch of a training; 0 is all where
      the data are streamed, else one on each host.
    compute_dtype: 'float32', 'bfloat16', or 'auto', which a check resolves; of
      the forward and the backward pass, φ being float32.
    pretrained: path of a file of weights that every seed starts from; '' draws
      them.
    dataset_kwargs: keyword arguments of a data set that is read while it is
      learned, of notmnist, or of your own function; others take none. `workers`
      and `corrupt` may change when a run is resumed.
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
  output_layer: str = 'output'
  average_examples: int = 0
  labels: dict[str, str] = {}
  accumulate: int = 1
  data_devices: int = 0
  compute_dtype: str = 'float32'
  pretrained: str = ''
  dataset_kwargs: dict[str, Any] = {}


# What touches no result of any experiment.
ALWAYS_FREE = (
  'checkpoint_seconds',
  'labels',
  'dataset_kwargs.workers',
  'dataset_kwargs.corrupt',
)


class Rules(NamedTuple):
  """How the config of a run may differ from the one that it began with.

  Attributes:
    resolve: config -> the same with all defaults, as config.json keeps it: a
      default that changes later does not change what a record means.
    free: fields that touch no result; 'field.key' is one key of a dict.
    growing: fields that may rise; results of before are set aside.
  """

  resolve: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
  free: Collection[str] = ()
  growing: Collection[str] = ()


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
  s = check_fields(config.to_dict(), Settings, 'configs/digits.py')
  check_labels(s, ())
  return s


def check_fields(given: Mapping[str, Any], kind: Any, example: str) -> Settings:
  """Checks the fields of `Settings`; see `check`."""
  validation.check_names(given, kind._fields, kind._field_defaults, example)
  s = Settings(**named.by_short_names(given))
  for name in (
    'network_kwargs',
    'optimizer_kwargs',
    'transform_kwargs',
    'learning_rate_schedule',
    'labels',
    'dataset_kwargs',
  ):
    value = getattr(s, name)
    validation.require(isinstance(value, dict), name, repr(value), 'a dict')
  if not data.is_path(s.dataset):
    whole = not isinstance(s.dataset, str) or named.is_own(s.dataset)
    for part in [s.dataset] if whole else s.dataset.split('+'):
      named.check('data set', part, list(data.names()))
  named.check('network', s.network, list(networks.NETWORKS))
  named.check('optimizer', s.optimizer, making.optimizers())
  chosen = validation.names('transforms', s.transforms)
  for name in (*chosen, *s.transform_kwargs):
    meant = named.stands_for(name, s.transform_kwargs, 'transform')
    named.check('transform', meant, making.transform_names(), name, 'alpha')
  validation.known('executor', s.executor, ['auto', 'map', 'vmap'])
  validation.known('augment', s.augment, list(data.AUGMENTATIONS))
  validation.require(
    isinstance(s.pretrained, str), 'pretrained', repr(s.pretrained), 'a path'
  )
  validation.known('compute_dtype', s.compute_dtype, list(precision.DTYPES))
  validation.require(
    isinstance(s.output_layer, str) and bool(s.output_layer),
    'output_layer',
    repr(s.output_layer),
    'the name of a layer',
  )

  s = s._replace(
    transforms=chosen,
    compute_dtype=precision.choose(s.compute_dtype),
    learning_rate=validation.numbers('learning_rate', s.learning_rate),
    alphas=validation.numbers('alphas', s.alphas),
    densities=tuple(
      sorted(validation.numbers('densities', s.densities), reverse=True)
    ),
  )
  for a in s.alphas:
    validation.require(
      1 <= a <= validation.LARGEST_FLOAT,
      'alphas',
      f'{a:g}',
      'finite in float32 and at least 1 (1 is ordinary training)',
    )
  for d in s.densities:
    validation.require(
      0 < d <= 1, 'densities', f'{d:g}', 'in (0, 1], the share kept'
    )
  for rate in s.learning_rate:
    validation.require(
      0 <= rate <= validation.LARGEST_FLOAT,
      'learning_rate',
      f'{rate:g}',
      'finite in float32 and at least 0',
    )
  validation.check_whole(
    s,
    {
      'seeds': 1,
      'steps': 0,
      'batch_size': 1,
      'chunk_steps': 1,
      'average_examples': 0,
      'accumulate': 1,
      'data_devices': 0,
    },
  )
  validation.require(
    s.batch_size % s.accumulate == 0,
    'accumulate',
    s.accumulate,
    f'a divisor of batch_size, {s.batch_size}',
  )
  validation.check_ranges(
    s,
    {
      'output_density_factor': ('a number above 0', lambda x: x > 0),
      'near_zero': ('a number above 0', lambda x: x > 0),
      'checkpoint_seconds': ('a number of at least 0', lambda x: x >= 0),
      'l2': ('a number of at least 0', lambda x: x >= 0),
      'label_smoothing': ('a number in [0, 1)', lambda x: 0 <= x < 1),
    },
  )
  for name in (
    'network_kwargs',
    'optimizer_kwargs',
    'transform_kwargs',
    'learning_rate_schedule',
  ):
    validation.no_nan(name, getattr(s, name))
  _check_made(s)
  return s


def _check_made(s: Settings) -> None:
  """Checks keyword arguments, by making what they are of."""
  _check_dataset(s)
  of_net = making.network_of(s.network)
  validation.check_types('network_kwargs', of_net, s.network_kwargs)
  validation.attempt(
    'network_kwargs',
    s.network_kwargs,
    lambda: making.network(s.network, s.network_kwargs, 10),
  )
  given_rates = s.learning_rate_schedule
  validation.attempt(
    'learning_rate_schedule',
    given_rates,
    lambda: making.schedule(given_rates, s.steps),
  )
  make = making.optimizer(s.optimizer, s.optimizer_kwargs)
  validation.attempt('optimizer_kwargs', s.optimizer_kwargs, lambda: make(0.1))
  varies = given_rates.get('kind') != 'constant' or given_rates.get('warmup')
  if varies and making.rate_is_of_the_start(make):
    raise ConfigError(
      f'learning_rate_schedule is {given_rates} but optimizer {s.optimizer!r}'
      ' looks at the learning rate once, for its first step sizes: leave the'
      ' schedule out, or choose another optimizer.'
    )
  for name, kwargs in s.transform_kwargs.items():
    path = f'transform_kwargs.{name}'
    validation.require(isinstance(kwargs, dict), path, repr(kwargs), 'a dict')
    of_transform = making.transform(name, s.transform_kwargs)
    validation.check_types(path, of_transform, kwargs)
  for name, psi in making.psis(s.transforms, s.transform_kwargs).items():
    given = s.transform_kwargs.get(name, {})
    validation.attempt(
      f'transform_kwargs.{name}', given, functools.partial(making.adapts, psi)
    )


def _check_dataset(s: Settings) -> None:
  """Checks `dataset_kwargs`; the data set itself checks their values."""
  given, fn = s.dataset_kwargs, making.dataset_of(s.dataset)
  if fn is None:
    validation.require(
      not given,
      'dataset_kwargs',
      given,
      f'empty with dataset {s.dataset!r}, which takes none',
    )
  elif data.takes_options(s.dataset) is not None:
    validation.check_options('dataset_kwargs', repr(s.dataset), fn, given)
  else:
    validation.check_types('dataset_kwargs', fn, given)
    bind = inspect.signature(fn).bind
    validation.attempt('dataset_kwargs', given, lambda: bind(**given))


def check_extended(
  config: ml_collections.ConfigDict,
  kind: Any,
  unused: Mapping[str, Any],
  example: str,
) -> Any:
  """Checks a config that has the fields of `Settings` and others.

  Args:
    config: as read from a config file and overridden on the command line.
    kind: a NamedTuple of `training`, which are the `Settings`, and its own
      fields.
    unused: fields of `Settings` that such a config does not have, and what
      stands in for them.
    example: a config to point to.

  Returns:
    A `kind`; its own fields are as they were given.

  Raises:
    ConfigError: naming the first field that is missing, unknown or, of
      `Settings`, out of range.
  """
  given = named.by_short_names(config.to_dict())
  own = [n for n in kind._fields if n != 'training']
  shared = [n for n in Settings._fields if n not in unused]
  optional = {**kind._field_defaults, **Settings._field_defaults}
  validation.check_names(given, [*own, *shared], optional, example)
  rest = {k: v for k, v in given.items() if k not in own}
  training = check_fields({**rest, **unused}, Settings, example)
  return kind(training, **{k: v for k, v in given.items() if k in own})


def check_labels(s: Settings, methods: Collection[str]) -> None:
  """Checks that labels name what there is, and tell it apart.

  Args:
    s: checked otherwise.
    methods: that the config has names for, or may choose.

  Raises:
    ConfigError: naming the label that is wrong.
  """
  there = sorted({*making.transform_names(), *s.transforms, *methods})
  for name, label in s.labels.items():
    validation.known('label of', name, there)
    validation.require(
      isinstance(label, str) and bool(label.strip()) and label.isprintable(),
      f'labels.{name}',
      repr(label),
      'a line of text',
    )
    others = [n for n in s.labels if n != name and s.labels[n] == label]
    validation.require(
      not others,
      f'labels.{name}',
      f'{label!r}, as is that of {", ".join(others)},',
      'different',
    )


def resolved(
  given: Mapping[str, Any], unused: Collection[str] = ()
) -> dict[str, Any]:
  """A config with every field, and all defaults of what it names.

  Args:
    given: a config, as a dict; also of an earlier version.
    unused: fields that the experiment has not.

  Returns:
    The same with the fields that it leaves out, and the keyword arguments that
    it leaves out of nets, optimisers, transforms and schedules.
  """
  out = named.by_short_names({**Settings._field_defaults, **given})
  # On another device a run that goes on does not change its arithmetic.
  out['compute_dtype'] = precision.choose(out['compute_dtype'])
  functions = {
    'dataset_kwargs': data.takes_options(out.get('dataset'))
    or named.if_there(out.get('dataset'), {}),
    'network_kwargs': named.if_there(out.get('network'), networks.NETWORKS),
    'optimizer_kwargs': named.if_there(out.get('optimizer'), vars(optax)),
    'learning_rate_schedule': schedules.learning_rate,
  }
  for name, fn in functions.items():
    out[name] = validation.with_defaults(fn, out.get(name))
  chosen = out.get('transforms', ())
  kwargs = out.get('transform_kwargs')
  if isinstance(kwargs, dict):
    for name in [chosen] if isinstance(chosen, str) else chosen:
      stands = named.stands_for(name, kwargs, 'transform')
      fn = named.if_there(stands, vars(transforms))
      made = validation.with_defaults(fn, kwargs.get(name, {}))
      kwargs = {**kwargs, name: made}
    out['transform_kwargs'] = kwargs
  return {name: value for name, value in out.items() if name not in unused}


def rules(s: Settings) -> Rules:
  """What of a config may change when its run goes on.

  The steps of a training do not depend on how many are in a chunk, nor, where
  the learning rate is constant, on how many there will be.
  """
  made = making.schedule(s.learning_rate_schedule, s.steps)
  growing = ('steps',) if made is None else ()
  free = (*ALWAYS_FREE, 'chunk_steps', 'data_devices')
  return Rules(resolved, free, growing)
