"""A network of one's own that is not as the experiments call it."""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

from experiments import data
from experiments.continual import cells as continual_cells
from experiments.continual import settings as continual_settings
from experiments.engine import fitting
from experiments.engine import networks
from experiments.engine import settings
from tests import continual_run_tiny
from tests import tiny


def _net(
  num_classes,
  name='output',
  transform=hk.transform_with_state,
  finish=lambda x: x,
  noise=False,
):
  def net(image, is_training):
    x = jax.nn.relu(hk.Linear(4)(image.reshape(image.shape[0], -1)))
    if noise:  # whatever is_training says
      x += jax.random.normal(hk.next_rng_key(), x.shape)
    del is_training
    return finish(hk.Linear(num_classes, name=name)(x))

  return transform(net)


def _without_is_training(num_classes):
  return hk.transform_with_state(
    lambda image: hk.Linear(num_classes, name='output')(image[:, 0, :, 0])
  )


def _growing(num_classes):
  def net(image, is_training):
    seen = hk.get_state('seen', (1,), init=jnp.zeros)
    hk.set_state('seen', jnp.concatenate([seen, seen]))
    return hk.Linear(num_classes, name='output')(image[:, 0, :, 0])

  return hk.transform_with_state(net)


_SAYS_HOW = 'docs/experiments.md'


@pytest.mark.parametrize(
  'make, parts',
  [
    (_without_is_training, ['does not take is_training', _SAYS_HOW]),
    (
      lambda n: _net(n, transform=hk.transform),
      ['gives a Transformed', 'hk.transform_with_state', _SAYS_HOW],
    ),
    (lambda n: lambda image: image, ['gives a function', _SAYS_HOW]),
    (
      lambda n: _net(n, name='logits'),
      ['output_density_factor is 2', "no layer 'output'", 'linear/w, logits/w'],
    ),
    (lambda n: _net(n + 1), ['gives float32[1, 11]', 'float32[1, 10]']),
    (
      lambda n: _net(n, finish=lambda x: jnp.argmax(x, -1)),
      ['gives int32[1]', 'logits'],
    ),
    (lambda n: _net(n, finish=lambda x: (x, x)), ['an error', 'logits']),
    (
      lambda n: _net(n, noise=True),
      ['is_training is False', 'an error', 'PRNGKey', 'logits'],
    ),
    (_growing, ['changes the shape of its state']),
  ],
)
def test_a_network_is_not_as_it_is_called(monkeypatch, make, parts):
  monkeypatch.setitem(networks.NETWORKS, 'mine', make)
  checked = settings.check(tiny.config(network='mine', network_kwargs={}))
  with pytest.raises(settings.ConfigError) as error:
    fitting.check_data(checked, data.load('digits'))
  text = str(error.value)
  assert all(part in text for part in ["network 'mine'", *parts]), text
  assert text.endswith('.') and '\n' not in text and len(text) < 500, text


def test_the_output_layer_may_lie_deeper_or_not_be_needed(monkeypatch):
  def deep(num_classes):
    def net(image, is_training):
      del is_training
      return hk.nets.MLP([4, num_classes], name='output')(image[:, 0, :, 0])

    return hk.transform_with_state(net)

  monkeypatch.setitem(networks.NETWORKS, 'deep', deep)
  monkeypatch.setitem(networks.NETWORKS, 'bare', lambda n: _net(n, 'logits'))
  digits = data.load('digits')
  for name, factor in (('deep', 2.0), ('bare', 1.0)):
    checked = settings.check(
      tiny.config(network=name, network_kwargs={}, output_density_factor=factor)
    )
    fitting.check_data(checked, digits)


@pytest.mark.parametrize('scenario', ['task', 'class'])
def test_tasks_with_outputs_of_their_own_need_the_layer(monkeypatch, scenario):
  monkeypatch.setitem(networks.NETWORKS, 'mine', lambda n: _net(n, 'logits'))

  def plan(scenario):
    s = continual_settings.check(
      continual_run_tiny.config(
        network='mine',
        network_kwargs={},
        methods='naive',
        method_kwargs={},
        scenario=scenario,
      )
    )
    sequence = continual_settings.make_sequence(s, data.load('digits'))
    return continual_cells.make_plan(s, 'naive', sequence)

  assert plan('domain').recipe.problem.own == ()
  with pytest.raises(
    settings.ConfigError, match='with 30 units: give its last'
  ):
    plan(scenario)
