"""Every number of every config: NaN, infinite, True, no whole one, or huge."""

import ml_collections
import pytest

from experiments.continual import settings as continual_settings
from experiments.engine import settings
from experiments.generative import settings as generative_settings
from experiments.sparse_training import settings as sparse_settings
from experiments.stream import settings as stream_settings
from tests import continual_run_tiny
from tests import generative_tiny
from tests import sparse_tiny
from tests import stream_tiny
from tests import tiny

_NAN, _INF = float('nan'), float('inf')
_NO_NUMBER = (True, '1', None)
_NOT_FINITE = (_NAN, _INF, -_INF, 1e39, 10**400)
_NOT_WHOLE = (*_NO_NUMBER, _NAN, _INF, 2.0, 1e20, 10**20, -1)

_SHARED_WHOLE = ('seeds', 'batch_size', 'chunk_steps')
_OF_POPULATIONS = ('steps', 'average_examples', 'accumulate', 'data_devices')
_SHARED = ('checkpoint_seconds', 'l2', 'label_smoothing')
_SEVERAL = ('alphas', 'learning_rate')
# By experiment: a config, its check, and the names of its numeric fields.
_EXPERIMENTS = {
  'one_shot': (
    tiny.config,
    settings.check,
    (*_SHARED_WHOLE, *_OF_POPULATIONS),
    (*_SHARED, 'near_zero', 'output_density_factor'),
    (*_SEVERAL, 'densities'),
  ),
  'sparse_training': (
    sparse_tiny.config,
    sparse_settings.check,
    (*_SHARED_WHOLE, *_OF_POPULATIONS),
    (*_SHARED, 'near_zero', 'training_multiplier'),
    (*_SEVERAL, 'densities'),
  ),
  'continual': (
    continual_run_tiny.config,
    continual_settings.check,
    (
      *_SHARED_WHOLE,
      *('num_tasks', 'search_tasks', 'search_seeds'),
      *('evaluate_every', 'retries'),
    ),
    (
      *_SHARED,
      *('epochs', 'retrain_epochs', 'clip_norm', 'retry_factor'),
      *('retrain_factor', 'failure_accuracy', 'choose_margin'),
    ),
    (*_SEVERAL, 'task_epochs'),
  ),
  'stream': (
    stream_tiny.config,
    stream_settings.check,
    ('seeds', 'batch_size', 'num_tasks', 'window', 'returns'),
    (
      *_SHARED,
      *('epochs', 'retrain_epochs', 'clip_norm'),
      *('hazard', 'threshold', 'recognise'),
    ),
    _SEVERAL,
  ),
  'generative': (
    generative_tiny.config,
    generative_settings.check,
    (
      *('seeds', 'batch_size', 'num_tasks', 'latent', 'likelihood_samples'),
      *('likelihood_pictures', 'matrix_samples'),
    ),
    (
      *(name for name in _SHARED if name != 'label_smoothing'),
      *('epochs', 'retrain_epochs', 'clip_norm', 'retrain_factor'),
    ),
    _SEVERAL,
  ),
}


def _cases():
  for experiment, (_, _, whole, real, several) in _EXPERIMENTS.items():
    for name in whole:
      yield experiment, name, _NOT_WHOLE
    for name in real:
      yield experiment, name, (*_NO_NUMBER, *_NOT_FINITE)
    for name in several:
      wrong = (*_NO_NUMBER, *_NOT_FINITE)
      yield experiment, name, (*wrong, *((0.5, x) for x in wrong))


@pytest.mark.parametrize('experiment, name, wrong', list(_cases()))
def test_a_number_of_a_config(experiment, name, wrong):
  config, check, *_ = _EXPERIMENTS[experiment]
  check(config())
  for value in wrong:
    with pytest.raises(settings.ConfigError) as error:
      # Made anew: a ConfigDict with a field of floats casts what it is given.
      check(ml_collections.ConfigDict({**config().to_dict(), name: value}))
    text = str(error.value)
    assert text.startswith(f'{name} is') and 'but must be' in text, text
    assert text.endswith('.') and '\n' not in text, text


def test_no_number_of_a_config_is_missing_here():
  """A field of a number that is added later belongs to a table above."""
  for experiment, kinds in (
    ('one_shot', [settings.Settings]),
    ('sparse_training', [sparse_settings.SparseSettings]),
    ('continual', [continual_settings.ContinualSettings]),
    ('stream', [stream_settings.StreamSettings]),
    ('generative', [generative_settings.GenerativeSettings]),
  ):
    _, _, whole, real, several = _EXPERIMENTS[experiment]
    for kind in kinds:
      for name, annotation in kind.__annotations__.items():
        if annotation in (int, float):
          assert name in (*whole, *real), name
        elif annotation == tuple[float, ...]:
          assert name in several, name


_EVERY = 'adaptive_powerprop'


@pytest.mark.parametrize(
  'experiment, fields, parts',
  [
    ('one_shot', {'network_kwargs': {'init_scale': _NAN}}, ['init_scale']),
    ('one_shot', {'network_kwargs': {'init_scale': True}}, ['init_scale']),
    ('one_shot', {'network_kwargs': {'with_bias': 1}}, ['with_bias is 1']),
    ('one_shot', {'network_kwargs': {'hidden': (8, _NAN)}}, ['hidden is nan']),
    (
      'one_shot',
      {'optimizer_kwargs': {'momentum': _NAN}},
      ['optimizer_kwargs.momentum is nan'],
    ),
    *(
      (
        'one_shot',
        {'transforms': _EVERY, 'transform_kwargs': {_EVERY: {'every': value}}},
        [f'transform_kwargs.{_EVERY}.every is {value!r}', 'a whole number'],
      )
      for value in (2.5, True, '3', 10**20)
    ),
    (
      'one_shot',
      {'transforms': _EVERY, 'transform_kwargs': {_EVERY: {'factor': _INF}}},
      [f'transform_kwargs.{_EVERY}.factor is inf', 'a number'],
    ),
    ('one_shot', {'transform_kwargs': {_EVERY: 3}}, ['a dict']),
    *(
      (
        'one_shot',
        {'learning_rate_schedule': {'kind': 'piecewise', 'boundaries': (5,)}}
        | {'learning_rate_schedule': schedule},
        ['learning_rate_schedule', part],
      )
      for schedule, part in (
        ({'kind': 'cosine', 'warmup': 2.5}, 'whole numbers of steps'),
        ({'kind': 'cosine', 'warmup': True}, 'whole numbers of steps'),
        ({'kind': 'piecewise', 'boundaries': (2.5,)}, 'whole numbers'),
        ({'kind': 'cosine', 'final': _NAN}, 'final is nan'),
        ({'kind': 'cosine', 'final': _INF}, 'finite and at least 0'),
        (
          {'kind': 'piecewise', 'boundaries': (5,), 'factor': _INF},
          'finite and above 0',
        ),
      )
    ),
    *(
      (
        'sparse_training',
        {'methods': 'rigl', 'method_kwargs': {'rigl': {name: value}}},
        [f'method_kwargs.rigl.{name} is {value!r}'],
      )
      for name, value in (
        ('every', True),
        ('every', 10**20),
        ('end', False),
        ('end', 10**400),
        ('regrow', _INF),
        ('regrow', True),
        ('decay', True),
      )
    ),
    *(
      (
        'continual',
        {'methods': 'vcl', 'method_kwargs': {'vcl': {name: value}}},
        [f'method_kwargs.vcl.{name} is {value!r}'],
      )
      for name, value in (
        ('coreset', 10**20),
        ('coreset_steps', True),
        ('prior_std', _INF),
      )
    ),
    (
      'continual',
      {'methods': 'l2', 'method_kwargs': {'l2': {'coefficient': True}}},
      ['method_kwargs.l2.coefficient is True', 'a number'],
    ),
    (
      'continual',
      {'methods': 'l2', 'method_kwargs': {'l2': {'coefficient': 1e39}}},
      ['method_kwargs.l2.coefficient is 1e+39', 'finite in float32'],
    ),
    (
      'sparse_training',
      {'layer_densities': (('hidden', True),)},
      ["layer_densities['hidden'] is True", 'a number in (0, 1]'],
    ),
    (
      'sparse_training',
      {'training_multiplier': 1e30},
      ['steps times training_multiplier 1e+30', 'at most 2147483647'],
    ),
  ],
  ids=lambda x: str(x)[:70],
)
def test_a_number_among_arguments(experiment, fields, parts):
  config, check, *_ = _EXPERIMENTS[experiment]
  with pytest.raises(settings.ConfigError) as error:
    check(config(**fields))
  text = str(error.value)
  assert all(part in text for part in parts), text
  assert text.endswith('.') and '\n' not in text, text
