"""The plan: its rows and table, and the published costs of ResNet-50."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import networks
from powerprop import costs
from powerprop import methods
from powerprop import planning
from powerprop import trees
from powerprop.types import Change

_STEPS = 32_000


def _shape(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


_PARAMS = {
  'conv': {'w': _shape(3, 3, 2, 10), 'b': _shape(10)},
  'hidden': {'w': _shape(10, 20), 'b': _shape(20)},
  'output': {'w': _shape(20, 5), 'b': _shape(5)},
  'unused': {'w': _shape(10, 10)},
}
_FLOPS = {'conv/w': 7000.0, 'hidden/w': 2000.0, '': 300.0, 'output/w': 700.0}


def _target(density, distribution='uniform', **kwargs):
  return methods.make_target(_PARAMS, density, distribution, **kwargs)


def test_rows():
  target = _target(0.5, exclude=['^conv/', '^unused/'])
  plan = planning.plan(_FLOPS, _PARAMS, target=target)
  assert plan.rows == (
    # As the net uses them, and what it does not use after that.
    ('conv/w', (3, 3, 2, 10), 180, 180, 1.0, 7000.0, 7000.0),
    ('hidden/w', (10, 20), 200, 100, 0.5, 2000.0, 1000.0),
    ('output/w', (20, 5), 100, 50, 0.5, 700.0, 350.0),
    ('unused/w', (10, 10), 100, 100, 1.0, 0.0, 0.0),
    ('others', (), 35, 35, 1.0, 300.0, 300.0),
  )
  assert plan.total == ('total', (), 615, 465, 465 / 615, 10_000.0, 8650.0)
  assert plan.inference_ratio == pytest.approx(0.865)
  assert plan.training_ratio == 1  # without a method, training is dense
  assert not plan.pooled


def test_without_parameters_there_are_the_governed_layers_and_the_flops():
  target = _target(0.5, exclude=['^conv/', '^unused/'])
  with_params = planning.plan(_FLOPS, _PARAMS, target=target)
  plan = planning.plan(_FLOPS, target=target)
  assert plan.inference_ratio == with_params.inference_ratio
  assert [r.layer for r in plan.rows] == [
    'conv/w',
    'hidden/w',
    'output/w',
    'others',
  ]
  assert plan.rows[0] == ('conv/w', (), 0, 0, 1.0, 7000.0, 7000.0)
  assert plan.rows[1] == with_params.rows[1]


def test_a_vector_that_is_used_in_a_product_is_a_row_once():
  params = {'a': {'w': _shape(8, 4), 'v': _shape(4)}}
  plan = planning.plan({'a/w': 64.0, 'a/v': 8.0}, params)
  assert [(r.layer, r.parameters) for r in plan.rows] == [
    ('a/w', 32),
    ('a/v', 4),
  ]


def test_table():
  target = _target(0.5, exclude=['^conv/', '^unused/'])
  flops = {path: 1e6 * n for path, n in _FLOPS.items()}
  lines = planning.plan(flops, _PARAMS, target=target).table().splitlines()
  cells = [[c.strip() for c in line.split('|')[1:-1]] for line in lines]
  assert cells[2] == ['conv/w', '3×3×2×10', '180', '180', '100.0%', '7G', '7G']
  assert cells[3] == ['hidden/w', '10×20', '200', '100', '50.0%', '2G', '1G']
  assert cells[6] == ['others', '', '35', '35', '100.0%', '300M', '300M']
  assert cells[7] == ['total', '', '615', '465', '75.6%', '10G', '8.65G']
  assert lines[-1] == (
    'FLOPs relative to dense: inference 0.865×, training 1.000×.'
  )
  assert not any('≈' in line for line in lines)


def test_a_pooled_target_says_that_layers_are_not_known():
  target = _target(0.1, 'global')
  plan = planning.plan(_FLOPS, _PARAMS, target=target)
  assert plan.pooled
  assert sum(r.kept for r in plan.rows if r.layer in target.kept) == 58
  table = plan.table()
  assert '≈ 20' in table and '≈ 10.0%' in table
  assert 'The layers compete' in table
  # What is known is not called approximate: the total, and what is not pruned.
  exact = [
    line for line in table.splitlines() if line[2:8] in ('total ', 'others')
  ]
  assert len(exact) == 2 and not any('≈' in line for line in exact)


@pytest.mark.parametrize(
  'x, text',
  [
    (0, '0'),
    (7, '7'),
    (999, '999'),
    (1000, '1k'),
    (999_499, '999k'),
    (999_600, '1M'),
    (25_502_912, '25.5M'),
    (8.178e9, '8.18G'),
  ],
)
def test_human_numbers(x, text):
  assert planning._human(x) == text


def _method(progress, cost=costs.masked_cost, due=None):
  change = None if due is None else Change(due, lambda event, state: event)
  return methods.dense()._replace(progress=progress, cost=cost, change=change)


def test_training_is_the_mean_over_steps():
  target = _target(0.5)
  inference = planning.plan(_FLOPS, _PARAMS, target=target).inference_ratio
  plan = functools.partial(planning.plan, _FLOPS, _PARAMS, target=target)

  halves = _method(lambda step: (step >= 5, step >= 5))
  found = plan(method=halves, steps=10).training_ratio
  assert found == pytest.approx((1 + inference) / 2)

  # The backward masks stay dense.
  found = plan(method=_method(lambda step: (1.0, 0.0)), steps=3).training_ratio
  assert found == pytest.approx((2 * inference + 1) / 3)

  # One step in four is due, and dense where it asks for the gradient.
  due = lambda step: step % 4 == 0
  rigl = _method(lambda step: (1.0, 1.0), costs.rigl_cost, due)
  found = plan(method=rigl, steps=8).training_ratio
  assert found == pytest.approx((3 * 3 * inference + 2 * inference + 1) / 12)

  assert plan(method=methods.dense(), steps=7).training_ratio == 1
  assert plan(method=methods.dense(), steps=0).training_ratio == 1


@pytest.fixture(scope='module')
def resnet50():
  """FLOPs for a picture, and parameters, of which only shapes are made."""
  net = networks.resnet50(1000)
  image = _shape(1, 224, 224, 3)
  init = functools.partial(net.init, is_training=True)
  params, state = jax.eval_shape(init, jax.random.key(0), image)

  def apply(params, state, image):
    return net.apply(params, state, None, image, is_training=False)[0]

  return costs.flops(apply, params, state, image), params


def test_dense_resnet50(resnet50):
  layer_flops, params = resnet50
  assert sum(layer_flops.values()) == pytest.approx(8.178e9, rel=1e-3)
  assert set(layer_flops) == set(trees.weights(params))
  plan = planning.plan(layer_flops, params)
  assert plan.total.parameters == 25_557_032  # the number that all quote
  assert plan.inference_ratio == plan.training_ratio == 1
  assert plan.rows[0].layer == 'conv/w'
  assert plan.rows[-2].layer == 'output/w'


# Against RigL's publication, with a dense stem where layers are uniform.
@pytest.mark.parametrize(
  'distribution, density, wanted',
  [
    ('uniform', 0.2, 0.223),
    ('uniform', 0.1, 0.126),
    ('uniform', 0.05, 0.077),
    ('erk', 0.2, 0.414),
    ('erk', 0.1, 0.242),
    ('erk', 0.05, 0.122),
  ],
)
def test_forward_cost_of_resnet50(resnet50, distribution, density, wanted):
  layer_flops, params = resnet50
  target = methods.make_target(params, density, distribution)
  plan = planning.plan(layer_flops, params, target=target)
  assert plan.inference_ratio == pytest.approx(wanted, abs=0.002)
  dense = sum(r.density == 1 for r in plan.rows if r.layer != 'others')
  assert (
    dense
    == {'uniform': 1, 'erk': {0.2: 8, 0.1: 1}.get(density, 0)}[distribution]
  )


def _training(resnet50, name, density, distribution, times=1.0, **options):
  """FLOPs relative to dense training once, `times` as long."""
  layer_flops, params = resnet50
  steps = round(times * _STEPS)
  target = methods.make_target(params, density, distribution)
  method = getattr(methods, name)(methods.Brief(target, steps), **options)
  plan = planning.plan(layer_flops, target=target, method=method, steps=steps)
  return times * plan.training_ratio


@pytest.mark.parametrize('density, wanted', [(0.2, 0.559), (0.1, 0.504)])
def test_cost_of_iterative_pruning(resnet50, density, wanted):
  """Published with the smooth schedule; in steps of 1,000 the masks lag."""
  options = {'begin': 10_000, 'end': 25_000}
  train = functools.partial(_training, resnet50, 'iterative', density)
  assert train('uniform', every=1, **options) == pytest.approx(wanted, abs=0.01)
  lag = train('uniform', every=1000, **options) - train(
    'uniform', every=1, **options
  )
  # Half an interval of the time in which the cost falls from 1 to r.
  fall = 1 - {0.2: 0.223, 0.1: 0.126}[density]
  assert lag == pytest.approx(0.5 * 1000 / _STEPS * fall, rel=0.05)


# The bracketed numbers of the paper's Table 2, in dense trainings of 32,000
# steps. Left out: RigL 5× uniform at 90%, 0.52, for which a dense stem gives
# 0.64 (RigL's own Table 4 says 0.66). The 0.76 of iterative pruning belongs to
# the usual schedule stretched to 1.5; ending at 36,000 steps, as others report
# for it, costs 0.72.
@pytest.mark.parametrize(
  'name, density, distribution, times, wanted, options',
  [
    ('top_kast', 0.2, 'erk', 2, 1.21, {'backward_density': 1.0}),
    ('top_kast', 0.1, 'erk', 2, 0.97, {'backward_density': 1.0}),
    ('top_kast', 0.2, 'erk', 3, 1.81, {'backward_density': 1.0}),
    ('top_kast', 0.1, 'erk', 3, 1.46, {'backward_density': 1.0}),
    ('rigl', 0.2, 'uniform', 5, 1.14, {'end': 125_000}),
    ('rigl', 0.2, 'erk', 5, 2.09, {'end': 125_000}),
    ('rigl', 0.1, 'erk', 5, 1.23, {'end': 125_000}),
    ('iterative', 0.2, 'uniform', 1.5, 0.84, {'begin': 15_000, 'end': 37_500}),
    ('iterative', 0.1, 'uniform', 1.5, 0.76, {'begin': 15_000, 'end': 37_500}),
    (
      'iterative',
      0.2,
      'uniform',
      1.5,
      0.84,
      {'begin': 12_500, 'end': 40_000, 'every': 2_000},
    ),
  ],
)
def test_published_costs_of_extended_training(
  resnet50, name, density, distribution, times, wanted, options
):
  found = _training(resnet50, name, density, distribution, times, **options)
  assert found == pytest.approx(wanted, abs=0.03)


def test_other_costs_of_resnet50(resnet50):
  train = functools.partial(_training, resnet50, density=0.2)
  static = train('static', distribution='erk')
  assert static == pytest.approx(0.414, abs=0.002)
  snfs = train('snfs', distribution='erk')
  assert snfs == pytest.approx((2 * static + 1) / 3, abs=1e-5)
  assert np.isclose(train('dense', distribution='uniform'), 1)
