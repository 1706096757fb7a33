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
      ["output_layer is 'output'", 'no such layer', 'of linear, logits.'],
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


def _deep(num_classes):
  def net(image, is_training):
    del is_training
    return hk.nets.MLP([4, num_classes], name='output')(image[:, 0, :, 0])

  return hk.transform_with_state(net)


def mixed(num_classes):
  """An `output` of the right width that another layer comes after."""
  return _net(num_classes, finish=lambda x: hk.Linear(x.shape[-1])(x))


def two_of_them(num_classes):
  """`first/output` and `last/output`; only the second gives the logits."""

  class Named(hk.Module):
    def __call__(self, x):
      return hk.Linear(num_classes, name='output')(x)

  def net(image, is_training):
    del is_training
    hidden = Named('first')(image.reshape(image.shape[0], -1))
    return Named('last')(jax.nn.relu(hidden))

  return hk.transform_with_state(net)


@pytest.mark.parametrize(
  'network, layer, wanted',
  [
    ('deep', 'linear_1', ['output/~/linear_1/b', 'output/~/linear_1/w']),
    (
      'deep',
      'output',
      'no such layer.*of output/~/linear_0, output/~/linear_1',
    ),
    ('deep', 'linear_0', r"'output/~/linear_0/b' of shape \[4\].* 10 logits"),
    (':two_of_them', 'output', 'several, first/output, last/output: give more'),
    (':two_of_them', 'last/output', ['last/output/b', 'last/output/w']),
    (':two_of_them', 'first/output', 'are not the logits, each by itself'),
    (':mixed', 'output', 'are not the logits, each by itself'),
    (':mixed', 'linear_1', ['linear_1/b', 'linear_1/w']),
  ],
)
def test_which_layer_gives_the_logits(monkeypatch, network, layer, wanted):
  monkeypatch.setitem(networks.NETWORKS, 'deep', _deep)
  network = f'{__name__}{network}' if network[0] == ':' else network
  given = {'network': network, 'network_kwargs': {}, 'output_layer': layer}

  def heads():
    config = continual_run_tiny.config(
      methods='naive', method_kwargs={}, scenario='task', **given
    )
    s = continual_settings.check(config)
    # Tasks of two classes share ten outputs among them, as one task has.
    return _plan(s._replace(sequence='split', num_tasks=5))

  def pruned():
    checked = settings.check(tiny.config(output_density_factor=2.0, **given))
    fitting.check_data(checked, data.load('digits'))

  if isinstance(wanted, str):
    for make in (heads, pruned):
      with pytest.raises(settings.ConfigError, match=wanted):
        make()
  else:
    pruned()
    assert heads().recipe.problem.own == tuple(wanted)


def _plan(s):
  sequence = continual_settings.make_sequence(s, data.load('digits'))
  return continual_cells.make_plan(s, 'naive', sequence)


def test_without_need_of_it_no_layer_is_asked_for(monkeypatch):
  monkeypatch.setitem(networks.NETWORKS, 'bare', lambda n: _net(n, 'logits'))
  given = {'network': 'bare', 'network_kwargs': {}}
  checked = settings.check(tiny.config(output_density_factor=1.0, **given))
  fitting.check_data(checked, data.load('digits'))
  config = continual_run_tiny.config(methods='naive', method_kwargs={}, **given)
  s = continual_settings.check(config)
  assert _plan(s).recipe.problem.own == ()
  for scenario in ('task', 'class'):
    with pytest.raises(settings.ConfigError, match="output_layer is 'output'"):
      _plan(s._replace(scenario=scenario))
