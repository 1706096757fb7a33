"""CLNP where no unit is free any more: with one head and with several."""

import numpy as np

from experiments.report import weights
from tests import continual_run_tiny

_NAME = 'clnp/powerprop/alpha_1/coefficient_1e-05/lr_0.1/seed_0'


def _run(folder, scenario, hidden):
  return continual_run_tiny.run(
    folder,
    methods='clnp',
    method_kwargs={'clnp': {'margin': 0.0}},
    scenario=scenario,
    network_kwargs={'hidden': hidden},
    alphas=(1.0,),
    forward_transfer=False,
    executor='map',
  )


def _rows(results):
  return [r for r in results['rows'] if not r['search']]


def test_a_single_head_stops_when_the_last_layer_is_full(tmp_path):
  """Each task adds at least one unit of two, and the third finds none."""
  results = _run(tmp_path, 'domain', (40, 2))
  rows = _rows(results)
  assert 1 <= len(rows) < 3
  last = rows[-1]
  assert last['full_layers'][-1] == 'hidden_1'
  # Not all are: it is this one that a task cannot do without.
  assert last['units_by_layer']['hidden_1']['used'] == 2
  assert all(row['unchanged'] and not row['failed'] for row in rows)
  (told,) = results['stopped']
  assert f'no free weights are left after task {len(rows)} of 3' in told
  with np.load(tmp_path / 'records.npz') as records:
    assert records[f'{_NAME}/accuracy'].shape == (len(rows),) * 2


def test_several_heads_go_on_alone_when_all_layers_are_full(tmp_path, caplog):
  """A layer keeps a unit, which here is all that it has."""
  results = _run(tmp_path, 'task', (1, 1))
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
