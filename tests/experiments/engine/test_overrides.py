"""Fields of a config: which there are, and giving them on the command line."""

import math
import pathlib

import ml_collections
import pytest

from configs import digits
from experiments.continual import settings as continual_settings
from experiments.engine import cli
from experiments.engine import config_files
from experiments.engine import fields
from experiments.engine import overrides
from experiments.engine import settings
from experiments.engine.config_files import CommandError
from experiments.generative import settings as generative_settings
from experiments.sparse_training import plan as sparse_plan
from experiments.sparse_training import settings as sparse_settings
from experiments.stream import settings as stream_settings

ROOT = pathlib.Path(__file__).resolve().parents[3]
_BINARIES = sorted(fields.BINARIES)
_CHECKS = {
  'one_shot': settings.check,
  'sparse_training': sparse_settings.check,
  'continual': continual_settings.check,
  'stream': stream_settings.check,
  'generative': generative_settings.check,
  'plan': sparse_plan.of_config,
}


def _parse(*arguments, binary='one_shot'):
  return cli.parse(binary, arguments)


def _small(binary):
  """A config of a binary; one whose plan takes no time."""
  config = config_files.read(config_files.find(fields.BINARIES[binary].config))
  if binary == 'plan':
    config.update(network='mlp', methods=('dense',), image_shape=(2, 2, 1))
  return config


# Fields.


@pytest.mark.parametrize('binary', _BINARIES)
def test_fields_are_those_that_the_check_takes(binary):
  found, config = fields.of(binary), _small(binary)
  assert all(f.meaning for f in found.values())
  for name, field in found.items():
    if name not in config:
      assert not field.required
      config[name] = field.default
  _CHECKS[binary](config)  # all of them together are right
  every = {
    name
    for c in (
      settings.Settings,
      sparse_settings.SparseSettings,
      continual_settings.ContinualSettings,
      stream_settings.StreamSettings,
      sparse_plan.Net,
    )
    for name in c._fields
  }
  for name in every - {*found}:
    with pytest.raises(settings.ConfigError, match=f'{name!r} is unknown'):
      _CHECKS[binary](ml_collections.ConfigDict({**_small(binary), name: 0}))
  for name, field in found.items():
    if field.required:
      config = _small(binary)
      del config[name]
      with pytest.raises(settings.ConfigError, match=f'no field {name!r}'):
        _CHECKS[binary](config)


def test_every_config_is_listed_by_the_binary_that_it_is_for():
  listed = {p: b for b in _BINARIES for p, _ in config_files.of_binary(b)}
  there = sorted((ROOT / 'configs').glob('[!_]*.py'))
  assert listed == {
    f'configs/{p.name}': fields.fitting(config_files.read(p)) for p in there
  }


# Overrides: (binary, argument, path, value).
_OVERRIDES = [
  # A number or several, whatever the file has.
  ('one_shot', '--config.alphas=2', 'alphas', (2,)),
  ('one_shot', '--config.alphas=(1,2.5)', 'alphas', (1, 2.5)),
  ('one_shot', '--config.alphas=[1,3]', 'alphas', (1, 3)),
  ('one_shot', '-config.learning_rate=0.1', 'learning_rate', (0.1,)),
  ('one_shot', '--config.transforms=chain_rule', 'transforms', ('chain_rule',)),
  ('sparse_training', '--config.methods=set,rigl', 'methods', ('set', 'rigl')),
  ('sparse_training', "--config.methods=('set',)", 'methods', ('set',)),
  # By what one would call a single value.
  ('sparse_training', '--config.method=set', 'methods', ('set',)),
  ('sparse_training', '--config.alpha=1.5', 'alphas', (1.5,)),
  ('sparse_training', '--config.distribution=erk', 'distributions', ('erk',)),
  ('sparse_training', '--config.sparsity=0.9', 'densities', (0.1,)),
  ('sparse_training', '--config.sparsity=0.8,0.95', 'densities', (0.2, 0.05)),
  ('sparse_training', '--config.multiplier=2', 'training_multiplier', 2.0),
  # Types are those of the documentation.
  ('one_shot', '--config.checkpoint_seconds=5', 'checkpoint_seconds', 5.0),
  ('one_shot', '--config.dataset=mnist', 'dataset', 'mnist'),
  ('one_shot', "--config.dataset='mnist'", 'dataset', 'mnist'),
  ('one_shot', '--config.steps=1_000', 'steps', 1000),
  ('continual', '--config.reset_optimizer', 'reset_optimizer', True),
  ('continual', '--noconfig.reset_optimizer', 'reset_optimizer', False),
  ('continual', '--config.reset_optimizer=true', 'reset_optimizer', True),
  # Fields that the file leaves out.
  ('one_shot', '--config.l2=1e-4', 'l2', 1e-4),
  ('one_shot', '--config.l2=0', 'l2', 0.0),
  ('one_shot', '--config.l2=inf', 'l2', math.inf),
  ('one_shot', '--config.l2=1' + 400 * '0', 'l2', math.inf),
  ('one_shot', '--config.augment=crop_flip', 'augment', 'crop_flip'),
  (
    'one_shot',
    '--config.learning_rate_schedule.kind=cosine',
    'learning_rate_schedule',
    {'kind': 'cosine'},
  ),
  # Within dicts, also what is not there.
  (
    'one_shot',
    '--config.network_kwargs.hidden=7',
    'network_kwargs',
    {'hidden': (7,)},
  ),
  (
    'one_shot',
    '--config.optimizer_kwargs.momentum=0.9',
    'optimizer_kwargs',
    {'momentum': 0.9},
  ),
  (
    'one_shot',
    "--config.optimizer_kwargs={'nesterov':True}",
    'optimizer_kwargs',
    {'nesterov': True},
  ),
  (
    'sparse_training',
    '--config.method_kwargs.ac_dc.begin=10',
    'method_kwargs.ac_dc',
    {'begin': 10},
  ),
  (
    'continual',
    '--config.method_kwargs.ewc.coefficient=(1,2)',
    'method_kwargs.ewc',
    {'coefficient': (1, 2)},
  ),
  (
    'sparse_training',
    "--config.layer_densities=(('hidden_.*',0.1),)",
    'layer_densities',
    (('hidden_.*', 0.1),),
  ),
]


@pytest.mark.parametrize('binary, argument, path, value', _OVERRIDES)
def test_a_field_is_overridden(binary, argument, path, value):
  config = _parse(argument, binary=binary).config
  for name in path.split('.'):
    got = config = config[name]
  if isinstance(got, ml_collections.ConfigDict):
    got = got.to_dict()
  assert got == value and type(got) is type(value)


def test_overrides_add_up_and_change_no_other_field():
  command = _parse('--config.alphas=1', '--config.alphas', '3', '--config.l2=1')
  wanted = digits.get_config().to_dict() | {'alphas': (1, 3), 'l2': 1.0}
  assert command.config.to_dict() == wanted
  assert command.config.is_locked
  with pytest.raises(AttributeError):
    command.config.steeps = 3
  settings.check(command.config)


def test_a_sparsity_that_is_none():
  with pytest.raises(CommandError, match='sparsity is high but must be a numb'):
    overrides.split(['--config.sparsity=high'], fields.of('sparse_training'))
  # A field of that name is itself.
  known = fields.of('one_shot') | {'method': fields.of('one_shot')['dataset']}
  assert overrides.split(['--config.method=a'], known)[0] == [('method', 'a')]


def test_fields_with_several_types_are_open_in_every_file():
  config = digits.get_config()
  with config.ignore_type():
    config.alphas = 1.0  # a scalar in this file
  given, _ = overrides.split(['--config.alphas=(1,2)'], fields.of('one_shot'))
  overrides.apply(config, given, fields.of('one_shot'))
  assert config.alphas == (1, 2)
