"""CLNP where no unit is free any more: with one head and with several."""

import haiku as hk
import jax
import numpy as np

from experiments.report import weights
import powerprop
from tests import continual_run_tiny

_NAME = 'clnp/powerprop/alpha_1/coefficient_1e-05/lr_0.1/seed_0'


def normalised(num_classes):
  """Two hidden layers under batch normalisation."""

  def net(image, is_training):
    x = image.reshape(len(image), -1)
    for name, size in (('a', 9), ('b', 2)):
      x = hk.Linear(size, name=name)(x)
      norm = powerprop.BatchNorm(True, True, 0.9, name=f'{name}_norm')
      x = powerprop.publish(name, jax.nn.relu(norm(x, is_training)))
    return hk.Linear(num_classes, name='output')(x)

  return hk.transform_with_state(net)


def _run(folder, scenario, **fields):
  return continual_run_tiny.run(
    folder,
    methods='clnp',
    method_kwargs={'clnp': {'margin': 0.0, 'average_examples': 20}},
    scenario=scenario,
    forward_transfer=False,
    **fields,
  )


def _rows(results):
  return [r for r in results['rows'] if not r['search']]


def test_a_single_head_stops_when_the_last_layer_is_full(tmp_path, caplog):
  """Each task adds at least one unit of two, and the third finds none.

  Under batch normalisation, and of two α in one program.
  """
  results = _run(
    tmp_path,
    'domain',
    network=f'{__name__}:normalised',
    network_kwargs={},
    executor='vmap',
  )
  for alpha in (1.0, 2.0):
    rows = [row for row in _rows(results) if row['alpha'] == alpha]
    assert 1 <= len(rows) < 3
    last = rows[-1]
    assert last['full_layers'][-1] == 'b'
    assert last['units_by_layer']['b']['used'] == 2
    assert all(row['unchanged'] and not row['failed'] for row in rows)
    (told,) = (x for x in results['stopped'] if f'alpha_{alpha:g}/' in x)
    assert f'no free units are left after task {len(rows)} of 3' in told
    # A net of one unit is told of.
    for row in rows:
      words = f'b task {row["task"] + 1} keeps a single unit'
      member = f'alpha_{alpha:g}/'
      found = any(words in x and member in x for x in caplog.messages)
      assert found == (row['units_by_layer']['b']['new'] == 1)
  name = _NAME.replace('alpha_1', 'alpha_2')
  with np.load(tmp_path / 'records.npz') as records:
    assert records[f'{name}/accuracy'].shape == (len(rows),) * 2
  net = weights.of_run(tmp_path, name, len(rows) - 1)
  average = net.state['a_norm/~/mean_ema']
  assert average['frozen'].dtype == bool
  assert average['average'].shape == (1, 9)


def test_several_heads_go_on_alone_when_all_layers_are_full(tmp_path, caplog):
  """A layer keeps a unit, which here is all that it has."""
  results = _run(
    tmp_path,
    'task',
    network_kwargs={'hidden': (1, 1)},
    alphas=(1.0,),
    executor='map',
  )
  rows = _rows(results)
  assert [row['task'] for row in rows] == [0, 1, 2]
  assert results['stopped'] == []
  assert [row['new_weights'] for row in rows] == [2, 0, 0]
  assert all(row['unchanged'] and not row['failed'] for row in rows)
  assert 'heads alone are trained' in caplog.text
  nets = [weights.of_run(tmp_path, _NAME, t).params for t in range(3)]
  for net in nets[1:]:
    for module in ('hidden_0', 'hidden_1'):
      for leaf, value in nets[0][module].items():
        np.testing.assert_array_equal(net[module][leaf], value)
  # Every head has learned: biases start at 0.
  assert np.all(nets[2]['output']['b'] != 0)
