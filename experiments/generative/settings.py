"""A config of `experiments.generative`, checked."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from experiments.continual import extended
from experiments.continual import settings as continual_settings
from experiments.continual.settings import ContinualSettings
from experiments.engine import autoencoder
from experiments.engine import settings
from experiments.engine import validation

_EXAMPLE = 'configs/digits_generative.py'
POWERPROP_ON = ('shared', 'all')
# Fields of `Settings` that mean nothing here: there is one net, without labels.
_UNUSED = (
  *continual_settings.UNUSED,
  *('network', 'network_kwargs', 'augment', 'label_smoothing', 'output_layer'),
)
# Fields of `ContinualSettings` that mean something here.
_TAKEN = (
  'num_tasks',
  'epochs',
  'retrain_epochs',
  'methods',
  'method_kwargs',
  'method_training',
  'choose_learning_rate',
  'search_tasks',
  'search_seeds',
  'reset_optimizer',
  'clip_norm',
  'retries',
  'retrain_factor',
  'retry_factor',
)
# What stands in for the others.
_FIXED: Mapping[str, Any] = {
  'network': 'mlp',
  'network_kwargs': {},
  'sequence': 'split',
  'sequence_kwargs': {'per_task': 1, 'padded': False},
  'scenario': 'task',
  'run_protocol': False,  # nobody has published a coefficient
  'forward_transfer': False,  # a net without the task's encoder draws nothing
}
# Fields that a method cannot have otherwise than the rest here.
_SAME = ('network_kwargs', 'label_smoothing', 'task_epochs', 'evaluate_every')


class GenerativeSettings(NamedTuple):
  """What `experiments.generative` is told.

  Attributes:
    training: the fields that it shares with `experiments.continual`; a task is
      a class of the data set, from the first.
    encoder: widths of the encoder's hidden layers, which each task has for
      itself.
    latent: number of latents, ≥ 1.
    head: widths of the decoder's first layers, which each task has for itself.
    decoder: widths of its shared hidden layers before the pixels.
    powerprop_on: 'shared', the decoder that tasks share, which methods govern;
      or 'all', the encoders and heads as well.
    likelihood_samples: K ≥ 1 of the log-likelihood after the last task.
    likelihood_pictures: how many of a task's test pictures it is of, the first;
      0 is all.
    matrix_samples: K ≥ 1 of the log-likelihoods of all tasks so far after each
      task, of as many pictures: what is forgotten goes by them.
  """

  training: ContinualSettings
  encoder: tuple[int, ...] = (500, 500)
  latent: int = 50
  head: tuple[int, ...] = (500, 500)
  decoder: tuple[int, ...] = (500,)
  powerprop_on: str = 'shared'
  likelihood_samples: int = 5000
  likelihood_pictures: int = 0
  matrix_samples: int = 100


_EXTENDED = extended.Extended(
  GenerativeSettings, _UNUSED, _TAKEN, _FIXED, _EXAMPLE
)


def check(config: ml_collections.ConfigDict) -> GenerativeSettings:
  """Checks a config by itself; what depends on the data comes later.

  Args:
    config: as read from a config file and overridden on the command line.

  Returns:
    Settings.

  Raises:
    ConfigError: naming the first field that is missing, unknown or out of
      range.
  """
  s: GenerativeSettings = extended.check(config, _EXTENDED)
  for name, fields in s.training.method_training.items():
    for field in fields:
      allowed = [n for n in continual_settings.OVERRIDES if n not in _SAME]
      validation.known(f'field of method_training.{name}', field, allowed)
  for name in s.training.methods:
    _check_labels(s.training, name)
  s = s._replace(
    encoder=_widths('encoder', s.encoder),
    head=_widths('head', s.head),
    decoder=_widths('decoder', s.decoder),
  )
  validation.check_whole(
    s,
    {
      'latent': 1,
      'likelihood_samples': 1,
      'likelihood_pictures': 0,
      'matrix_samples': 1,
    },
  )
  validation.known('powerprop_on', s.powerprop_on, [*POWERPROP_ON])
  return s


def _check_labels(s: ContinualSettings, name: str) -> None:
  """Refuses, before anything is trained, what only a task's end would."""
  given = s.method_kwargs.get(name, {})
  options = validation.with_defaults(
    continual_settings.function_of(s, name), given
  )
  labels = options.get('labels', autoencoder.LABELS[0])
  validation.require(
    labels in autoencoder.LABELS,
    f'method_kwargs.{name}.labels',
    repr(labels) if 'labels' in given else f'{labels!r} where it is not given',
    autoencoder.NO_LABELS,
  )


def _widths(name: str, value: Any) -> tuple[int, ...]:
  several = value if isinstance(value, tuple | list) else (value,)
  ok = lambda x: isinstance(x, int) and not isinstance(x, bool)
  validation.require(
    all(ok(x) and 1 <= x <= validation.LARGEST for x in several),
    name,
    repr(value),
    'whole numbers of at least 1, the widths of layers',
  )
  return tuple(several)


def resolved(given: Mapping[str, Any]) -> dict[str, Any]:
  """A config with all defaults; see `settings.resolved`."""
  return extended.resolved(given, _EXTENDED)


def rules(s: GenerativeSettings) -> settings.Rules:
  """What of a config may change when its run goes on."""
  del s
  return settings.Rules(resolved, settings.ALWAYS_FREE)
