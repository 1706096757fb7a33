"""Configs of sparse trainings: what they mean, and what is wrong with them."""

import jax
import numpy as np
import pytest

from configs import digits_sparse
from configs import fig3_cifar10
from configs import table1_cifar10
from experiments import data
from experiments.engine import classification
from experiments.engine import fitting
from experiments.engine import making
from experiments.engine import settings
from experiments.sparse_training import settings as sparse_settings
from powerprop import methods
from powerprop import train
from powerprop import trees
from tests import sparse_tiny
from tests import tiny


def _checked(config):
  """Settings, targets and methods of a config; nothing is computed."""
  s = sparse_settings.check(config)
  dataset = _dataset(s.training.dataset)
  fitting.check_data(s.training, dataset)
  recipe = classification.make_recipe(s.training, dataset)
  shapes, _ = jax.eval_shape(lambda: train.initial_theta(recipe, 0))
  aims = sparse_settings.make_targets(s, shapes, {})
  return s, aims, sparse_settings.make_methods(s, aims)


def _dataset(name):
  """The data set, or one with pictures of its size."""
  if name == 'digits':
    return data.load(name)
  if name == 'imagenet2012':
    return making.dataset(
      'synthetic', None, {'size': 64, 'sizes': (8_192, 8, 8)}
    )
  shape = {'cifar10': (32, 32, 3), 'mnist': (28, 28, 1)}[name]
  split = data.Split(np.zeros((128, *shape), np.uint8), np.zeros(128, np.int32))
  return data.Dataset(name, split, split, split, 10, 1 / 255)


_CONFIGS = sorted(
  path.stem
  for path in (tiny.ROOT / 'configs').glob('*.py')
  if 'experiments.sparse_training' in path.read_text()
)


def test_the_configs_are_found():
  assert {
    'digits_sparse',
    'fig2_cifar10',
    'fig3_cifar10',
    'table1_cifar10',
    'table1_cifar10_small',
  } <= set(_CONFIGS)


@pytest.mark.parametrize('name', _CONFIGS)
def test_a_config_fits_its_net(name):
  module = __import__(f'configs.{name}', fromlist=['get_config'])
  s, aims, made = _checked(module.get_config())
  t = s.training
  assert len(aims) == len(s.distributions) * len(t.densities)
  for (distribution, density), target in aims.items():
    sizes = {n: int(np.prod(shape)) for n, shape in target.shapes.items()}
    if distribution == 'uniform':  # every layer has it; a stem may be dense
      whole = {n: trees.kept(size, density) for n, size in sizes.items()}
      others = [n for n in sizes if target.kept[n] != whole[n]]
      assert [target.kept[n] for n in others] == [sizes[n] for n in others]
      assert len(others) <= 1
    else:
      total = trees.kept(sum(sizes.values()), density)
      assert sum(target.kept.values()) == total
    assert all(target.kept[n] >= 1 for n in target.shapes)
  wanted = set(s.methods) - set(sparse_settings.DENSE)
  assert {variant.method for variant in made} == wanted
  assert len(made) == len(wanted) * len(aims)


def test_the_cifar10_configs_are_rigls_protocol():
  """What its paper and the defaults of its public code have in common."""
  table1, fig3 = table1_cifar10.get_config(), fig3_cifar10.get_config()
  protocol = {
    'steps': 97_656,
    'batch_size': 128,
    'l2': 5e-4,
    'learning_rate': (0.1,),
    'optimizer_kwargs': {'momentum': 0.9, 'nesterov': True},
    'seeds': 3,
  }
  for config in (table1.to_dict(), fig3.to_dict()):
    assert {name: config[name] for name in protocol} == protocol
    schedule = config['learning_rate_schedule']
    assert schedule['boundaries'] == (30_000, 60_000, 90_000)
    assert schedule['factor'] == pytest.approx(1 / 5)
    window = {'begin': 20_000, 'end': 75_000, 'every': 1_000}
    assert config['method_kwargs']['iterative'] == window
  for method in ('set', 'snfs', 'rigl'):
    window = {'begin': 0, 'end': 75_000, 'every': 100, 'fraction': 0.3}
    assert table1.method_kwargs[method].to_dict() == window
  # Uniform is the code's default, ERK the paper's.
  assert table1.distributions == ('uniform', 'erk')
  differ = {n for n, value in fig3.items() if value != table1[n]}
  parts = {'methods', 'method_kwargs', 'densities', 'distributions'}
  assert differ == parts
  for config in (table1, fig3):
    _, aims, _ = _checked(config)
    for target in aims.values():
      # All layers but the stem are governed, the last one too.
      assert len(target.shapes) == 22 and 'output/w' in target.shapes
      assert 'conv/w' not in target.shapes


def test_digits_sparse_has_every_method():
  config = digits_sparse.get_config()
  assert sorted(config.methods) == sparse_settings.method_names()
  assert set(sparse_settings.method_names()) == {
    *{'dense', 'one_shot', 'fine_tune', 'lottery', 'iterative', 'static'},
    *{'snip', 'set', 'rigl', 'snfs', 'dsr', 'top_kast', 'ac_dc'},
  }
  assert list(config.alphas) == [1, 2] and config.seeds == 5


def test_extended_training_stretches_steps_but_no_periods():
  every = {
    'rigl': {'begin': 4, 'end': 30, 'every': 5, 'fraction': 0.25},
    'iterative': {'begin': None, 'end': 24},
    'fine_tune': {'at': 14},
    'lottery': {'rewind': 2},
  }
  s = sparse_settings.check(
    sparse_tiny.config(
      training_multiplier=1.5,
      methods=tuple(every),
      method_kwargs=every,
      learning_rate_schedule={
        'kind': 'piecewise',
        'warmup': 6,
        'boundaries': (10, 20),
        'factor': 0.5,
      },
    )
  )
  assert s.training.steps == 60
  assert s.training.learning_rate_schedule == {
    'kind': 'piecewise',
    'warmup': 9,
    'boundaries': (15, 30),
    'factor': 0.5,
  }
  assert s.method_kwargs == {
    'rigl': {'begin': 6, 'end': 45, 'every': 5, 'fraction': 0.25},
    'iterative': {'begin': None, 'end': 36},
    'fine_tune': {'at': 21},
    'lottery': {'rewind': 3},
  }
  assert s.training.chunk_steps == 10  # as often as before


@pytest.mark.parametrize(
  'multiplier, default, given', [(1, 30, 20), (2, 60, 40)]
)
def test_extended_training_moves_the_masks_changes(multiplier, default, given):
  """Defaults too: they are shares of the stretched training."""
  _, _, made = _checked(
    sparse_tiny.config(
      training_multiplier=multiplier,
      densities=0.1,
      methods=('rigl', 'set'),
      method_kwargs={'rigl': {'every': 5}, 'set': {'every': 5, 'end': 20}},
    )
  )
  due = {
    variant.method: [step for step in range(80) if method.change.due(step)]
    for variant, method in made.items()
  }
  assert due == {
    'rigl': list(range(0, default, 5)),
    'set': list(range(0, given, 5)),
  }


def test_rules_keep_the_order_of_pairs_and_dots():
  fields = {
    'layer_densities': (('h.*_0/w$', 0.5), ('.', 0.2)),
    'patterns': (('hidden.*', '2:4'),),
    'methods': ('iterative', 'top_kast'),
    'method_kwargs': {},
  }
  s, aims, _ = _checked(sparse_tiny.config(**fields))
  assert list(s.layer_densities) == ['h.*_0/w$', '.']
  for target in aims.values():
    assert target.kept == {'hidden_0/w': 256, 'output/w': 16}
    assert target.patterns['hidden_0/w'].kind == 'n_m'


# What is given, and what the sentence must have in it.


def _option(method, **kwargs):
  return {'methods': method, 'method_kwargs': {method: kwargs}}


_PIECES = 'learning_rate_schedule'
_ADAPTS = 'adaptive_powerprop'
_CHANNEL = {'patterns': {'hidden': 'channel'}, 'method_kwargs': {}}

_BAD = [
  # Names.
  ({'methods': 'rigel'}, ["method 'rigel'", "mean 'rigl'", 'top_kast']),
  ({'methods': 'select'}, ["method 'select'", 'choose one of']),
  ({'methods': ()}, ['methods is ()', 'a name or']),
  ({'methods': ('rigl', 3)}, ["methods is ('rigl', 3)", 'a name or']),
  ({'distributions': 'erdos'}, ["'erdos'", "mean 'erdos_renyi'", 'global']),
  ({'distributions': ()}, ['distributions is ()', 'a name or']),
  ({'patern': {}}, ["config field 'patern'", "mean 'patterns'"]),
  ({'output_density_factor': 2.0}, ["field 'output_density_factor'"]),
  ({'augment': 'flip'}, ["augment 'flip'", "mean 'crop_flip'"]),
  # Rules by regular expressions.
  ({'exclude': 'stem'}, ["exclude has 'stem'", 'no layer', 'hidden_0/w']),
  ({'exclude': '.'}, ['no layer is left', 'exclude fewer']),
  ({'exclude': '('}, ["exclude has '('", 'no regular expression']),
  ({'patterns': {'x': '2:4'}}, ["patterns has 'x'", 'layers are', 'output/w']),
  ({'patterns': (('*', '2:4'),)}, ["patterns has '*'", 'no regular']),
  ({'patterns': '2:4'}, ["patterns is '2:4'", 'a dict']),
  ({'patterns': (('a', '2:4', 1),)}, ['patterns is', 'pairs']),
  ({'patterns': ((1, '2:4'),)}, ['patterns is', 'pairs']),
  ({'layer_densities': {'x': 0.5}}, ["layer_densities has 'x'", 'no layer']),
  ({'layer_densities': {'out': 1.5}}, ["['out'] is 1.5", '(0, 1]']),
  ({'layer_densities': {'out': 'a'}}, ["['out'] is 'a'", '(0, 1]']),
  ({'layer_densities': 0.5}, ['layer_densities is 0.5', 'a dict']),
  # Patterns.
  ({'patterns': {'hid': '4:2'}}, ["pattern '4:2'", "'2:4'", 'block:4x4']),
  ({'patterns': {'hid': 'blocks'}}, ["pattern 'blocks'", 'choose']),
  (
    {'patterns': {'hidden': '2:5'}},
    ['hidden_0/w', '64x8', '2 of every 5', '5 does not divide 64', 'another'],
  ),
  (
    {'patterns': {'hidden': '2:4'}},
    ['hidden_0/w', '2:4', 'keeps 0.5', '0.2773', 'layer_densities'],
  ),
  (
    {'patterns': {'hidden': 'block:3x4'}},
    ['hidden_0/w', 'blocks of 3x4', 'do not divide 64x8', 'another pattern'],
  ),
  (
    {'patterns': {'hidden': 'channel'}, 'distributions': 'global'},
    ["distribution is 'global'", 'choose another distribution'],
  ),
  (
    {'layer_densities': {'hidden': 0.5}, 'distributions': 'global'},
    ["distribution is 'global'", 'leave out layer_densities'],
  ),
  *(
    ({'methods': name, **_CHANNEL}, [name, 'channel', 'hidden_0/w', 'top_kast'])
    for name in ('set', 'rigl', 'snfs', 'dsr')
  ),
  # Densities.
  ({'densities': 0.0}, ['densities is 0', '(0, 1]']),
  ({'densities': (0.5, 1.5)}, ['densities is 1.5', '(0, 1]']),
  ({'densities': 1e-4}, ['0.0001', '1 of 592 weights for 2 layers', 'raise']),
  (
    _option('top_kast', backward_density=0.05),
    ['backward_density is 0.05', '[0.3007, 1]', 'forward'],
  ),
  # Options of methods.
  (_option('rigl', evry=3), ["option of rigl 'evry'", "mean 'every'"]),
  (_option('rigl', brief=3), ["option of rigl 'brief'", 'choose one of']),
  ({'method_kwargs': {'rigl': {'foo': 3}}}, ["option of rigl 'foo'"]),
  ({'method_kwargs': {'rigel': {}}}, ["method 'rigel'", "mean 'rigl'"]),
  ({'method_kwargs': {'rigl': 3}}, ['method_kwargs.rigl is 3', 'a dict']),
  ({'method_kwargs': 3}, ['method_kwargs is 3', 'a dict']),
  (_option('one_shot', foo=1), ['one_shot', "{'foo': 1}", 'remove it']),
  (_option('static', foo=1), ['static', "{'foo': 1}", 'remove it']),
  (_option('rigl', every=2.5), ['rigl.every is 2.5', 'whole number']),
  (_option('rigl', end='x'), ["rigl.end is 'x'", 'whole number or None']),
  (_option('rigl', end=float('nan')), ['rigl.end is nan', 'whole number']),
  (_option('rigl', fraction='x'), ["rigl.fraction is 'x'", 'a number']),
  (_option('rigl', fraction=float('nan')), ['fraction is nan', 'a number']),
  (_option('rigl', decay=3), ['rigl.decay is 3', 'a name']),
  (_option('rigl', every=0), ['every is 0', 'at least 1']),
  (_option('rigl', fraction=2.0), ['fraction is 2.0', '[0, 1]']),
  (_option('rigl', decay='exp'), ["decay is 'exp'", 'cosine']),
  *(
    (_option(name, regrow=-1.0), ['regrow is -1.0', 'at least 0'])
    for name in ('set', 'rigl', 'snfs', 'dsr', 'ac_dc')
  ),
  (_option('iterative', criterion='x'), ["criterion is 'x'", 'saliency']),
  # Windows.
  *(
    (_option(name, end=40), [f'{name} is', 'step 40', 'step is 39', 'lower'])
    for name in ('set', 'rigl', 'snfs', 'dsr', 'iterative', 'ac_dc')
  ),
  (_option('fine_tune', at=40), ['step 40', 'step is 39', 'lower']),
  (_option('lottery', at=41), ['at is 41', 'steps = 40']),
  (_option('lottery', rewind=20), ['rewind is 20', 'at is 20']),
  (_option('iterative', begin=31), ['window [31, 30] is empty', 'begin must']),
  (_option('rigl', begin=-1), ['window [-1, 30]', 'begin must']),
  # Steps and schedules.
  ({'steps': 0}, ['steps is 0', 'leaves no step', 'raise']),
  ({'training_multiplier': 0.0}, ['training_multiplier is 0', 'above 0']),
  ({'training_multiplier': -1.0}, ['training_multiplier is -1', 'above 0']),
  ({'training_multiplier': float('inf')}, ['multiplier is inf', 'finite']),
  ({'training_multiplier': 'x'}, ["training_multiplier is 'x'", 'a finite']),
  (
    {'training_multiplier': 0.01},
    ['steps is 40', 'training_multiplier is 0.01', 'raise'],
  ),
  (
    {
      'training_multiplier': 0.1,
      _PIECES: {'kind': 'piecewise', 'boundaries': (10, 11)},
    },
    ['(1, 1)', 'training_multiplier 0.1', 'must rise'],
  ),
  (
    {_PIECES: {'kind': 'piecewise', 'boundaries': (50,)}},
    ['boundaries is (50,)', 'within [0, steps = 40]'],
  ),
  ({_PIECES: {'kind': 'poly'}}, ["kind is 'poly'", 'cosine']),
  ({_PIECES: {'kind': 'cosine', 'warmup': 50}}, ['warmup is 50', '40']),
  ({'l2': -1.0}, ['l2 is -1.0', 'at least 0']),
  ({'label_smoothing': 1.0}, ['label_smoothing is 1.0', '[0, 1)']),
  ({'labels': 'RigL'}, ["labels is 'RigL'", 'a dict']),
  ({'labels': {'rigll': 'RigL'}}, ["'rigll' is unknown", "mean 'rigl'"]),
  ({'labels': {'rigl': ' '}}, ["labels.rigl is ' '", 'a line of text']),
  ({'labels': {'rigl': 'a\nb'}}, ['labels.rigl', 'a line of text']),
  ({'labels': {'rigl': 3}}, ['labels.rigl is 3', 'a line of text']),
  (
    {'labels': {'rigl': 'it', 'set': 'it'}},
    ["labels.rigl is 'it'", 'that of set', 'different'],
  ),
  (
    {
      'transforms': _ADAPTS,
      'transform_kwargs': {_ADAPTS: {'every': 5}},
      'alphas': 2.0,
    },
    [_ADAPTS, 'constant alpha', 'choose powerprop'],
  ),
]


@pytest.mark.parametrize('fields, parts', _BAD, ids=lambda x: str(x)[:60])
def test_a_config_is_wrong(fields, parts):
  with pytest.raises(settings.ConfigError) as error:
    _checked(sparse_tiny.config(**fields))
  text = str(error.value)
  assert all(part in text for part in parts), text
  assert text.endswith('.') and '\n' not in text and len(text) < 500, text


@pytest.mark.parametrize(
  'name', ['methods', 'patterns', 'exclude', 'method_kwargs', 'l2']
)
def test_a_config_may_leave_out_only_what_has_a_default(name):
  config = sparse_tiny.config()
  with config.unlocked():
    del config[name]
  if name == 'l2':
    assert sparse_settings.check(config).training.l2 == 0
    return
  with pytest.raises(settings.ConfigError, match=f'no field {name!r}; add it'):
    sparse_settings.check(config)


@pytest.mark.parametrize(
  'fields',
  [
    {'methods': 'rigl', 'method_kwargs': {'rigl': {'every': 3, 'regrow': 0}}},
    {'densities': 1},
    {'exclude': 'output', 'methods': 'snip'},
    {'steps': 0, 'methods': ('dense', 'one_shot')},
    {
      'patterns': {'hidden': '2:4'},
      'layer_densities': {'hidden': 0.5},
      'methods': ('static', 'snip', 'iterative', 'ac_dc', 'lottery'),
    },
    {'patterns': {'hidden': 'block:8x4'}, 'methods': 'top_kast'},
    {'training_multiplier': 2},
    {'augment': 'crop_flip'},
    {
      'transforms': _ADAPTS,
      'transform_kwargs': {_ADAPTS: {'every': 5}},
      'alphas': 2.0,
      'methods': ('dense', 'one_shot'),
    },
  ],
  ids=str,
)
def test_handy_things_are_right(fields):
  fields = {'method_kwargs': {}} | fields
  s, aims, made = _checked(sparse_tiny.config(**fields))
  wanted = set(s.methods) - set(sparse_settings.DENSE)
  assert len(made) == len(wanted) * len(aims)


def test_who_needs_a_constant_alpha_goes_by_no_list_of_names(monkeypatch):
  monkeypatch.setattr(methods, 'masks', methods.rigl, raising=False)
  monkeypatch.setattr(methods, 'none', methods.dense, raising=False)
  fields = {
    'transforms': _ADAPTS,
    'transform_kwargs': {_ADAPTS: {'every': 5}},
    'alphas': 2.0,
    'method_kwargs': {},
  }
  _, aims, made = _checked(sparse_tiny.config(methods='none', **fields))
  assert len(made) == len(aims)
  with pytest.raises(settings.ConfigError, match='masks masks weights, which'):
    _checked(sparse_tiny.config(methods=('none', 'masks'), **fields))


def test_remedies_of_patterns_help():
  """What the sentence about 2:4 says to do is enough."""
  fields = {'patterns': {'hidden': '2:4'}, 'methods': 'iterative'}
  with pytest.raises(settings.ConfigError, match='to 0.5 in layer_densities'):
    _checked(sparse_tiny.config(**fields))
  _, aims, _ = _checked(
    sparse_tiny.config(layer_densities={'hidden': 0.5}, **fields)
  )
  assert {t.kept['hidden_0/w'] for t in aims.values()} == {256}
