"""Configs of continual learning: what they mean, what is wrong with them."""

import functools
from typing import Any

import haiku as hk
import jax
import numpy as np
import pytest

from configs import digits_continual
from experiments import data
from experiments.continual import cells as continual_cells
from experiments.continual import settings as continual_settings
from experiments.engine import config_files
from experiments.engine import networks
from experiments.engine import settings
import powerprop
from powerprop import methods
from tests import continual_run_tiny
from tests import tiny

_PACK = 'efficient_packnet'


def _checked(config):
  """Settings, sequence and plans of a config; nothing is computed."""
  s = continual_settings.check(config)
  sequence = continual_settings.make_sequence(s, _dataset(s.training.dataset))
  plans = {
    name: continual_cells.make_plan(s, name, sequence) for name in s.methods
  }
  return s, sequence, plans


def _tiny(**fields):
  return _checked(continual_run_tiny.config(**fields))


def _dataset(name):
  """The data set, or one with pictures of its size."""
  if name == 'digits':
    return data.load(name)
  if name == 'cifar10+cifar100':
    label = np.arange(45_000, dtype=np.int32)
    label = np.concatenate([label % 10, 10 + label % 100])
    # Of the size of the real ones, but one picture in memory.
    image = np.broadcast_to(np.uint8(0), (len(label), 32, 32, 3))
    split = data.Split(image, label)
    return data.Dataset(name, split, split, split, 110, 1 / 255)
  assert name == 'mnist'
  split = data.Split(
    np.zeros((640, 28, 28, 1), np.uint8), np.arange(640, dtype=np.int32) % 10
  )
  return data.Dataset(name, split, split, split, 10, 1 / 255)


_CONFIGS = sorted(
  path.stem
  for path in (tiny.ROOT / 'configs').glob('*.py')
  if 'experiments.continual' in path.read_text()
)


@functools.cache
def _of_config(name):
  module = __import__(f'configs.{name}', fromlist=['get_config'])
  return _checked(module.get_config())


def test_the_configs_are_found():
  assert {'digits_continual', 'fig4_permuted_mnist'} <= set(_CONFIGS)


@pytest.mark.parametrize('name', _CONFIGS)
def test_a_config_fits_its_data_and_net(name):
  s, sequence, plans = _of_config(name)
  assert sequence.num_tasks == s.num_tasks and list(plans) == list(s.methods)
  # The name of a method of ours means that method.
  ours = continual_settings.method_names()
  for method in {*s.methods, *s.method_kwargs}.intersection(ours):
    assert continual_settings.method_of(s, method) == method
  for plan in plans.values():
    assert min(plan.steps) >= 1 and plan.num_tasks <= s.num_tasks


def test_split_cifar_is_as_its_paper_has_it():
  narrow, sequence, plans = _of_config('split_cifar_narrow')
  assert sequence.num_outputs == 60
  assert sequence.sizes['train'].tolist() == [45_000, *[4_500] * 5]
  assert plans['clnp_4'].steps == (10_500, *[1_020] * 5)
  assert plans['clnp_4'].retrain_steps == (3_500, *[340] * 5)
  assert continual_cells.retrain_schedule(plans['clnp_4'])(0) == 0.1
  assert plans['clnp_1'].layer_sizes == (32, 32, 64, 64, 512)
  assert continual_settings.coefficients(narrow, 'clnp_2') == (5e-5,)
  # Every rival has as many candidates: coefficients times learning rates.
  rivals = ('efficient_packnet', 'ewc', 'si')
  number = [
    len(continual_settings.coefficients(narrow, n))
    * len(plans[n].settings.training.learning_rate)
    for n in rivals
  ]
  assert number == [6, 6, 6]
  _, sequence, plans = _of_config('split_cifar_wide')
  assert (sequence.num_outputs, sequence.num_tasks) == (10, 11)
  assert plans['clnp'].layer_sizes == (128, 256, 512, 1024, 2048)
  assert plans['clnp'].method.continual.needed == 'conv_4'
  joint, sequence, plans = _of_config('split_cifar_joint')
  assert plans['joint'].steps == (*[1] * 9, 54_000)
  assert plans['joint'].method.continual.shares == (5, *[1] * 9)
  assert plans['joint'].recipe.problem.own == ('output/b', 'output/w')


def test_clnps_table_1_is_as_its_paper_has_it():
  s, _, plans = _of_config('clnp_table1')
  for name, alpha in (('clnp', 1.0), ('clnp_powerprop', 1.5)):
    shapes = plans[name].shapes
    assert shapes['hidden_0']['w'].shape == (784, 2000)
    assert shapes['hidden_1']['w'].shape == (2000, 2000)
    assert plans[name].settings.training.alphas == (alpha,)
    assert len(continual_settings.coefficients(s, name)) == 3
  # As many nets of one task as the paper's table has tasks; none gives up.
  more = s._replace(num_tasks=30)
  assert continual_settings.of_method(more, 'single').num_tasks == 10
  assert s.failure_accuracy == 0


def test_heads_that_do_not_fit_the_data(monkeypatch):
  """A net with a number of outputs of its own; tasks of more classes."""
  monkeypatch.setitem(networks.NETWORKS, 'fixed', lambda n: networks.mlp(10))
  with pytest.raises(settings.ConfigError) as error:
    _tiny(network='fixed', network_kwargs={}, scenario='task')
  text = str(error.value)
  assert "network 'fixed' gives float32[1, 10]" in text
  assert 'must give logits, float32[1, 30]' in text
  with pytest.raises(settings.ConfigError, match='per_task is 4 but 3 tasks'):
    _tiny(sequence='split', sequence_kwargs={'per_task': 4})


def test_what_a_plan_is_made_of():
  """Steps, layers and heads, by hand: 1,257 pictures, 20 batches of 60."""
  s, sequence, plans = _tiny(
    epochs=0.5,
    retrain_epochs=0.25,
    scenario='task',
    methods=('naive', 'packnet', 'efficient_packnet', 'mine', 'single'),
    method_kwargs={
      _PACK: continual_run_tiny.PACKING,
      'mine': {
        'method': _PACK,
        'biases': 'per_task',
        **continual_run_tiny.PACKING,
      },
    },
    method_training={
      'mine': {'epochs': 2, 'retrain_epochs': 0, 'num_tasks': 2},
      'single': {'batch_size': 1_257, 'epochs': 3.0, 'num_tasks': 9},
    },
  )
  for plan in plans.values():  # tasks are of one size
    assert len({*plan.steps}) == len({*plan.retrain_steps}) == 1
    assert len(plan.steps) == 3 and not plan.recipe.unequal
  steps = {n: (p.steps[0], p.retrain_steps[0]) for n, p in plans.items()}
  assert steps == {
    'naive': (10, 0),  # it has no retraining
    'packnet': (10, 5),
    'efficient_packnet': (10, 5),
    'mine': (40, 0),
    'single': (3, 0),
  }
  assert {name: p.num_tasks for name, p in plans.items()} == {
    **dict.fromkeys(plans, 3),
    'mine': 2,
  }
  assert sequence.num_outputs == 30
  for name, plan in plans.items():
    assert plan.recipe.problem.own == ('output/b', 'output/w')
    packs = name in ('packnet', 'efficient_packnet', 'mine')
    assert plan.layers == (('hidden_0/w',) if packs else ())
    assert plan.layer_sizes == ((64 * 8,) if packs else ())
  assert continual_settings.method_of(s, 'mine') == 'efficient_packnet'
  _, _, plans = _tiny()
  assert plans['efficient_packnet'].layers == ('hidden_0/w', 'output/w')
  assert plans['efficient_packnet'].layer_sizes == (512, 80)


def test_tasks_may_have_epochs_of_their_own():
  """And a retraining its own learning rate, whatever the schedule is."""
  schedule = {'kind': 'cosine'}
  s, sequence, plans = _tiny(
    task_epochs=(0.5, 1e-6, 2.0),
    retrain_epochs=0.5,
    methods=('naive', 'packnet', 'mine', 'slower'),
    method_kwargs={n: {'method': 'packnet'} for n in ('mine', 'slower')},
    method_training={
      'mine': {'task_epochs': (), 'retrain_factor': 0.1},
      'slower': {'retrain_factor': 0.1, 'learning_rate_schedule': schedule},
    },
  )
  assert plans['naive'].steps == (10, 1, 40)
  assert plans['naive'].recipe.task_steps == (10, 1, 40)
  assert plans['mine'].steps == (6, 6, 6)
  made = {n: continual_cells.retrain_schedule(p) for n, p in plans.items()}
  assert made['naive'] is None and made['packnet'] is None
  assert made['mine'](3) == 0.1
  np.testing.assert_allclose(made['slower'](5), 0.1 * 0.5, rtol=1e-6)
  with pytest.raises(settings.ConfigError, match='each of the 3 tasks'):
    _tiny(task_epochs=(1.0, 2.0))


def test_coefficients_are_the_protocols_unless_given():
  s, _, _ = _tiny(
    methods=('naive', 'ewc', 'l2', 'strong', 'si'),
    method_kwargs={
      'l2': {'coefficient': 3},
      'strong': {'method': 'l2', 'coefficient': [0.5, 0, 2.0]},
      'si': {'damping': 1},
    },
  )
  got = {name: continual_settings.coefficients(s, name) for name in s.methods}
  assert got == {
    'naive': (0.0,),
    'ewc': (150.0,),
    'l2': (3.0,),
    'strong': (0.5, 0.0, 2.0),
    'si': (10.0,),
  }


def test_every_method_has_a_plan():
  names = continual_settings.method_names()
  assert {'naive', 'joint', 'single', 'ewc', 'vcl', 'a_gem'} <= set(names)
  assert not {'rigl', 'static', 'one_shot'} & set(names)
  s, _, plans = _tiny(methods=tuple(names))
  assert list(plans) == list(s.methods) == names
  kept = {m for m in names if plans[m].layers}
  assert kept == {'clnp', 'packnet', 'efficient_packnet'}


def test_the_population():
  """By hand: α = 1 under one transform alone; methods' own α and rates."""
  s, sequence, plans = _tiny(
    transforms=('powerprop', 'chain_rule'),
    methods=('naive', 'l2'),
    method_kwargs={'l2': {'coefficient': (0.5, 2.0)}},
    method_training={'l2': {'alphas': (1.0,), 'learning_rate': (0.1, 0.2)}},
    seeds=2,
    search_seeds=3,
  )
  keys = continual_cells.keys(s, plans)
  assert [tuple(k) for k in keys] == [
    ('naive', 'powerprop', 1.0, 0.1),
    ('naive', 'powerprop', 2.0, 0.1),
    ('naive', 'chain_rule', 2.0, 0.1),
    ('l2', 'powerprop', 1.0, 0.1),
    ('l2', 'powerprop', 1.0, 0.2),
  ]
  options = {k: continual_settings.coefficients(s, k.method) for k in keys}
  members = continual_cells.make_members(s, plans, options, False)
  assert len(members) == len(set(members)) == 2 * (3 + 2 * 2)
  assert len({m.name for m in members}) == len(members)
  searching = {k: c for k, c in options.items() if len(c) > 1}
  candidates = continual_cells.make_members(s, plans, searching, True)
  assert len(candidates) == 3 * 2 * 2
  assert {m.variant.method for m in candidates} == {'l2'}
  assert all(m.name.startswith('search/l2/') for m in candidates)
  for executor, number in (('vmap', 3), ('map', len(members))):
    cells = continual_cells.make_cells(plans, members, executor, 2)
    assert len(cells) == number and {c.plan.num_tasks for c in cells} == {2}
    assert len({c.name for c in cells}) == number
    assert [m for c in cells for m in dict.fromkeys(c.members)] == members


# What is given, and what the sentence must have in it.


def _option(name, **kwargs):
  return {'methods': name, 'method_kwargs': {name: kwargs}}


def _training(**fields):
  return {'method_training': {'naive': fields}}


def two_layers(num_classes):
  """A net of which one layer is not published."""

  def net(image, is_training):
    x = jax.nn.relu(hk.Linear(4, name='first')(image.reshape(len(image), -1)))
    x = jax.nn.relu(hk.Linear(4, name='second')(x))
    x = powerprop.publish('second', x)
    return hk.Linear(num_classes, name='output')(x)

  return hk.transform_with_state(net)


def other_norm(num_classes):
  """A net whose averages go on whatever a method says."""

  def net(image, is_training):
    x = hk.Linear(4, name='first')(image.reshape(len(image), -1))
    x = hk.BatchNorm(True, True, 0.9)(x, is_training)
    x = powerprop.publish('first', jax.nn.relu(x))
    return hk.Linear(num_classes, name='output')(x)

  return hk.transform_with_state(net)


_NO_KWARGS: dict[str, Any] = {'network_kwargs': {}}
_NAN = float('nan')
_INF = float('inf')
_SCHEDULE = 'learning_rate_schedule'
_BAD = [
  # Names.
  ({'methods': 'naiv'}, ["method 'naiv'", "mean 'naive'", 'a_gem']),
  ({'methods': 'rigl'}, ["method 'rigl'", 'choose one of']),
  ({'methods': ()}, ['methods is ()', 'a name or']),
  ({'methods': ('ewc', 3)}, ["methods is ('ewc', 3)", 'a name or']),
  ({'sequence': 'permutted'}, ["sequence 'permutted'", "mean 'permuted'"]),
  ({'scenario': 'classes'}, ["scenario 'classes'", "mean 'class'"]),
  ({'num_task': 3}, ["config field 'num_task'", "mean 'num_tasks'"]),
  ({'steps': 3}, ["config field 'steps'", '--help lists']),
  ({'densities': 0.5}, ["config field 'densities'"]),
  ({'dataset': 'digit'}, ["data set 'digit'", "mean 'digits'"]),
  ({'network': 'mpl'}, ["network 'mpl'", "mean 'mlp'"]),
  ({'optimizer': 'sdg'}, ["optimizer 'sdg'", "mean 'sgd'"]),
  ({'transforms': 'powerpop'}, ["transform 'powerpop'", "'powerprop'"]),
  (
    {
      'transforms': ('powerprop', 'adaptive_powerprop'),
      'transform_kwargs': {'adaptive_powerprop': {'every': 5}},
    },
    ['adaptive_powerprop', 'constant alpha', 'choose powerprop'],
  ),
  ({'alphas': 0.5}, ['alphas is 0.5', 'at least 1']),
  # Numbers.
  *(
    ({name: value}, [f'{name} is {value}', 'a whole number', f'least {low}'])
    for name, low in (
      ('num_tasks', 1),
      ('search_tasks', 1),
      ('search_seeds', 1),
      ('evaluate_every', 1),
      ('retries', 0),
    )
    for value in (low - 1, 1.5, 'x')
  ),
  *(
    ({name: value}, [f'{name} is {value!r}', must])
    for name, must, values in (
      ('epochs', 'a number above 0', (0.0, -1.0, _NAN, _INF, 'x')),
      ('retrain_epochs', 'at least 0', (-0.5, _NAN, _INF, 'x')),
      ('clip_norm', 'at least 0', (-1.0, _NAN, _INF, None)),
      ('retry_factor', 'in (0, 1)', (0.0, 1.0, 2, _NAN, 'x')),
      ('retrain_factor', 'a number above 0', (0.0, -1.0, _NAN, 'x')),
      ('task_epochs', 'a number above 0 for each', ((0.0, 1.0), (1.0, 'x'))),
      ('task_epochs', 'a tuple', (3.0,)),
      ('failure_accuracy', 'in [0, 1)', (-0.1, 1.0, _NAN, 'x')),
    )
    for value in values
  ),
  ({'reset_optimizer': 1}, ['reset_optimizer is 1', 'True or False']),
  ({'forward_transfer': 'no'}, ["forward_transfer is 'no'", 'True or']),
  ({'optimizer': 'rprop'}, ['retries is 2', "'rprop'", 'retries to 0']),
  (
    {'methods': ('naive',), **_training(optimizer='rprop')},
    ['retries is 2', "optimizer 'rprop', of naive", 'retries to 0'],
  ),
  # Options of methods.
  ({'method_kwargs': 3}, ['method_kwargs is 3', 'a dict']),
  ({'method_kwargs': {'ewc': 3}}, ['method_kwargs is', 'a dict of dicts']),
  ({'method_kwargs': {'ewk': {}}}, ["method 'ewk'", "mean 'ewc'"]),
  (_option('mine', method='ewk'), ["method 'ewk'", "mean 'ewc'"]),
  (_option('mine', method=3), ['method 3', 'choose one of']),
  (_option(_PACK, gama=1), [f"option of {_PACK} 'gama'", "mean 'gamma'"]),
  (_option(_PACK, tasks=1), [f"option of {_PACK} 'tasks'", 'choose one']),
  (
    _option('mine', method=_PACK, gama=1),
    [f"option of {_PACK} 'gama'", "mean 'gamma'"],
  ),
  (_option('naive', gamma=0.9), ["option of naive 'gamma'"]),
  (_option(_PACK, gamma='x'), [f"{_PACK}.gamma is 'x'", 'a number']),
  (_option(_PACK, gamma=_NAN), [f'{_PACK}.gamma is nan', 'a number']),
  (_option(_PACK, gamma=True), [f'{_PACK}.gamma is True', 'a number']),
  (_option(_PACK, reuse=1), [f'{_PACK}.reuse is 1', 'True or False']),
  (_option(_PACK, search=3), [f'{_PACK}.search is 3', 'a name']),
  (
    _option(_PACK, curvature_examples=2.5),
    [f'{_PACK}.curvature_examples is 2.5', 'a whole number'],
  ),
  (_option(_PACK, gamma=0.0), ['gamma is 0.0', '(0, 1]']),
  (_option(_PACK, gamma=1.1), ['gamma is 1.1', '(0, 1]']),
  (_option(_PACK, rates=(0.5, 0.2)), ['rates is (0.5, 0.2)', 'must rise']),
  (_option(_PACK, rates=(0.5, 0.5)), ['rates is (0.5, 0.5)', 'must rise']),
  (_option(_PACK, rates=(0.5, 1.5)), ['rates has [1.5]', '(0, 1]']),
  (_option(_PACK, rates=(0.0, 0.5)), ['rates has [0.0]', '(0, 1]']),
  (_option(_PACK, rates=()), ['rates', '(0, 1]']),
  (_option(_PACK, rates=(0.001,)), ['rates begins with 0.001', '592']),
  (_option(_PACK, rates=0.5), [f'method_kwargs.{_PACK}', 'rates']),
  (_option(_PACK, rates=('x',)), [f'method_kwargs.{_PACK}', 'rates']),
  (_option(_PACK, search='quick'), ["search is 'quick'", 'taylor']),
  (_option(_PACK, biases='own'), ["biases is 'own'", 'per_task']),
  (_option(_PACK, curvature_examples=0), ['examples is 0', 'at least 1']),
  (_option('packnet', biases='x'), ["biases is 'x'", 'frozen']),
  (_option('ewc', space='psi'), ["space is 'psi'", "'phi'"]),
  (_option('si', damping=-1), ['damping is -1']),
  (
    _option('a_gem', memory_size=2),
    ['memory_size is 2', 'at least the number of tasks, 3'],
  ),
  (_option('vcl', prior_std=0), ['prior_std is 0', 'above 0']),
  (_option('clnp', margin=1.0), ['margin is 1.0', '[0, 1)']),
  (_option('clnp', margin=-0.1), ['margin is -0.1', '[0, 1)']),
  (_option('clnp', margin=_NAN), ['margin is nan', 'a number']),
  (_option('clnp', thresholds='all'), ["thresholds is 'all'", 'shared, layer']),
  (_option('clnp', thresholds=0.5), ['thresholds is 0.5', 'a name']),
  (_option('clnp', l1={'hiden': 1.0}), ["l1 has 'hiden'"]),
  (_option('clnp', average_examples=-1), ['average_examples is -1']),
  (
    _option('clnp') | {'network': f'{__name__}:two_layers', **_NO_KWARGS},
    ['clnp', 'made of first/w, second/w', 'publish every hidden layer'],
  ),
  (
    _option('clnp')
    | {'network': 'wide_resnet', 'network_kwargs': {'depth': 10, 'width': 1}},
    ['clnp', 'publishes no activations', 'powerprop.publish'],
  ),
  (
    _option('clnp') | {'network': f'{__name__}:other_norm', **_NO_KWARGS},
    ['clnp', 'cannot be frozen', 'powerprop.BatchNorm'],
  ),
  (
    _option('clnp')
    | {'network': f'{__name__}:two_layers', 'output_layer': 'second'}
    | {'scenario': 'task', **_NO_KWARGS},
    ['output_layer', "'second'", 'logits'],
  ),
  # The coefficient.
  (_option('l2', coefficient=-1), ['l2.coefficient is -1', 'at least 0']),
  (_option('l2', coefficient=_NAN), ['l2.coefficient is nan', 'finite']),
  (_option('l2', coefficient=(1, _INF)), ['l2.coefficient is inf', 'finite']),
  (_option('l2', coefficient=()), ['l2.coefficient is empty', 'at least one']),
  (_option('l2', coefficient=(1, 2, 1)), ['coefficient is (1, 2, 1)', 'once']),
  (_option('l2', coefficient='x'), ["coefficient is 'x'", 'a number']),
  # What goes with what.
  *(
    (
      {
        'scenario': 'class',
        'methods': ('naive', name),
        'method_kwargs': {_PACK: continual_run_tiny.PACKING},
      },
      ["scenario is 'class'", name, "scenario 'task' or 'domain'"],
    )
    for name in ('packnet', _PACK, 'single')
  ),
  (
    {'scenario': 'class', **_option('mine', method='packnet')},
    ["scenario is 'class'", 'mine must know'],
  ),
  (
    {'sequence': 'split', 'num_tasks': 11},
    ['num_tasks is 11', 'the 10 classes of digits', 'lower it to 10'],
  ),
  (
    {'sequence': 'split', 'sequence_kwargs': {'classes': [[1, 10], [2], [3]]}},
    ['classes is [[1, 10], [2], [3]]', 'classes of digits, which are 0 to 9'],
  ),
  (
    {'sequence': 'split', 'sequence_kwargs': {'clases': [[1]]}},
    ["option of split 'clases'", "mean 'classes'"],
  ),
  (
    {'sequence_kwargs': {'classes': [[1]]}},
    ["option of permuted 'classes'", 'choose one of padded'],
  ),
  (
    _option('naive', gamma=0.9),
    ["option of naive 'gamma'", 'naive has no options'],
  ),
  ({'sequence_kwargs': 3}, ['sequence_kwargs is 3', 'a dict']),
  ({'batch_size': 1_258}, ['batch_size is 1258', 'at most 1257']),
  (
    {'sequence': 'split', 'num_tasks': 5, 'batch_size': 1_000},
    ['batch_size is 1000', 'the smallest task'],
  ),
  # What a method has otherwise.
  ({'method_training': 3}, ['method_training is 3', 'a dict of dicts']),
  (
    {'method_training': {'naiv': {}}},
    ["method of method_training 'naiv'", "mean 'naive'"],
  ),
  (
    {'method_training': {'mine': {'epochs': 1}}},
    ["method of method_training 'mine'", 'choose one of'],
  ),
  (_training(epoch=1), ["field of method_training.naive 'epoch'", "'epochs'"]),
  (_training(seeds=3), ["field of method_training.naive 'seeds'", 'choose']),
  (_training(epochs=0), ['method_training.naive: epochs is 0', 'above 0']),
  (_training(num_tasks=0), ['naive: num_tasks is 0', 'at least 1']),
  (_training(alphas=0.5), ['naive: alphas is 0.5', 'at least 1']),
  (_training(optimizer='sdg'), ["naive: optimizer 'sdg'", "mean 'sgd'"]),
  (_training(learning_rate=-1), ['naive: learning_rate is -1', 'least 0']),
  (_training(reset_optimizer=2), ['naive: reset_optimizer is 2', 'True']),
  (_training(clip_norm=-1), ['naive: clip_norm is -1', 'at least 0']),
  (_training(batch_size=1_258), ['batch_size is 1258', 'at most 1257']),
  (_training(evaluate_every=0), ['naive: evaluate_every is 0', 'at least 1']),
  (_training(network_kwargs={'deep': 3}), ['naive: network_kwargs', "'deep'"]),
  # Schedules: a task has six steps.
  ({_SCHEDULE: {'kind': 'poly'}}, ["kind is 'poly'", 'cosine']),
  (
    {_SCHEDULE: {'kind': 'piecewise', 'boundaries': (50,)}},
    ['boundaries is (50,)', 'steps = 6'],
  ),
  (
    {_SCHEDULE: {'kind': 'cosine', 'warmup': 50}},
    ['warmup is 50', '6'],
  ),
  ({'labels': {'rigl': 'RigL'}}, ["label of 'rigl' is unknown", 'naive']),
]


@pytest.mark.parametrize('fields, parts', _BAD, ids=lambda x: str(x)[:60])
def test_a_config_is_wrong(fields, parts):
  with pytest.raises(settings.ConfigError) as error:
    _tiny(**fields)
  text = str(error.value)
  assert all(part in text for part in parts), text
  assert text.endswith('.') and '\n' not in text and len(text) < 700, text


@pytest.mark.parametrize(
  'name', ['sequence', 'methods', 'method_kwargs', 'epochs', 'retries']
)
def test_a_config_may_leave_out_only_what_has_a_default(name):
  config = continual_run_tiny.config()
  with config.unlocked():
    del config[name]
  if name == 'retries':
    assert continual_settings.check(config).retries == 2
    return
  with pytest.raises(settings.ConfigError, match=f'no field {name!r}; add it'):
    continual_settings.check(config)


@pytest.mark.parametrize(
  'fields',
  [
    {'methods': 'naive'},
    {'labels': {'si': 'SI, as it was', 'powerprop': 'ours'}},
    {'epochs': 1, 'retrain_epochs': 0, 'clip_norm': 1, 'retries': 0},
    _option('l2', coefficient=0),
    _option('l2', coefficient=[1, 2]),
    _option(_PACK, gamma=1, rates=[0.5, 1]),
    # What a run leaves out may stay in its config.
    {'scenario': 'class', 'methods': 'naive'}
    | {'method_kwargs': {_PACK: {}}, 'method_training': {'ewc': {'epochs': 3}}},
    _option('si', damping=1),
    {'sequence': 'split', 'num_tasks': 5, 'scenario': 'class'}
    | {'methods': ('naive', 'joint', 'ewc', 'a_gem')},
    {'batch_size': 1_257},
    {'num_tasks': 1, 'evaluate_every': 7, 'search_tasks': 9},
    # As many steps as a task has, and not as any other number.
    {'epochs': 100.0}
    | {_SCHEDULE: {'kind': 'piecewise', 'boundaries': (1_500,)}},
    _training(batch_size=20, **{_SCHEDULE: {'kind': 'cosine', 'warmup': 10}}),
  ],
  ids=lambda x: str(x)[:60],
)
def test_handy_things_are_right(fields):
  s, _, plans = _tiny(**fields)
  assert list(plans) == list(s.methods)


def test_tasks_of_different_sizes_take_steps_of_their_own():
  """1,257 digits, of which the classes have 122 to 129; 60 in a batch."""
  groups = {'classes': [[0, 1, 2, 3], [4], [5, 9]]}
  _, sequence, plans = _tiny(
    sequence='split',
    sequence_kwargs=groups,
    scenario='task',
    epochs=2.0,
    methods=('naive', 'packnet'),
    retrain_epochs=1.0,
  )
  assert sequence.num_classes == (4, 1, 2)
  plan = plans['packnet']
  assert plan.steps == (16, 4, 8) and plan.retrain_steps == (8, 2, 4)
  assert plan.recipe.unequal and plan.recipe.task_steps == (16, 4, 8)
  assert plans['naive'].retrain_steps == (0, 0, 0)
  found = continual_cells.efforts(plans)['packnet']
  assert (found['steps'], found['retrain_steps']) == (9, 5)


def test_options_that_let_earlier_tasks_be_forgotten():
  _, _, plans = _tiny(
    methods=('packnet', 'mine', _PACK, 'ewc'),
    method_kwargs={
      'packnet': {'biases': 'per_task'},
      'mine': {'method': 'packnet', 'biases': 'free'},
      _PACK: continual_run_tiny.PACKING,
    },
  )
  assert continual_cells.forgetting(plans) == ['mine']


def _named_anew(monkeypatch, name):
  """A method under a name that the experiments have never heard of."""
  made = getattr(methods, name)
  monkeypatch.setattr(methods, 'users_own', made, raising=False)
  monkeypatch.delattr(methods, name)


def test_what_a_method_is_goes_by_what_it_says_and_not_by_its_name(monkeypatch):
  _named_anew(monkeypatch, _PACK)
  fields = {
    'methods': ('naive', 'users_own'),
    'method_kwargs': {'users_own': {**continual_run_tiny.PACKING}},
  }
  _, _, plans = _tiny(**fields)
  assert plans['users_own'].layers == ('hidden_0/w', 'output/w')
  assert plans['users_own'].layer_sizes == (512, 80)
  assert plans['naive'].layers == () and not continual_cells.forgetting(plans)
  fields['method_kwargs']['users_own'] |= {'biases': 'free'}
  assert continual_cells.forgetting(_tiny(**fields)[2]) == ['users_own']
  with pytest.raises(settings.ConfigError, match='users_own must know which'):
    _tiny(scenario='class', **fields)
  adapts = {
    'transforms': 'adaptive_powerprop',
    'transform_kwargs': {'adaptive_powerprop': {'every': 5}},
    'alphas': 2.0,
  }
  with pytest.raises(settings.ConfigError, match='constant alpha'):
    _tiny(**adapts, **fields)


def test_digits_continual_has_what_the_demo_shows():
  config = digits_continual.get_config()
  assert list(config.alphas) == [1, 2] and config.num_tasks == 10
  assert set(config.methods) == {'naive', 'ewc', 'efficient_packnet'}


@pytest.mark.parametrize('name', ['permuted_mnist_10_fair', 'fig4_rivals'])
def test_budgets_of_search_are_equal(name):
  s = continual_settings.check(config_files.read(config_files.find(name)))
  budgets = {
    method: len(mine.training.learning_rate)
    * len(continual_settings.coefficients(mine, method))
    for method in s.methods
    for mine in [continual_settings.of_method(s, method)]
  }
  assert {*budgets.values()} == {9}, budgets


def test_the_fair_comparison_has_the_same_number_of_steps_for_all():
  found = config_files.find('permuted_mnist_10_fair')
  s = continual_settings.check(config_files.read(found))
  epochs = {
    method: mine.epochs + mine.retrain_epochs
    for method in s.methods
    for mine in [continual_settings.of_method(s, method)]
  }
  assert {*epochs.values()} == {3.0}, epochs
