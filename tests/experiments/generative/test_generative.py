"""Characters drawn in turn: what is measured, tables, figures, bad input."""

import json
import math

import ml_collections
import numpy as np
import pytest

from experiments.continual import learner
from experiments.engine import autoencoder
from experiments.engine import population
from experiments.engine import runs
from experiments.engine.settings import ConfigError
from experiments.generative import analysis
from experiments.generative import measuring
from experiments.generative import plots
from experiments.generative import run as generative_run
from experiments.generative import settings
from experiments.generative import tables
from experiments.report import files
from experiments.report import published
from experiments.report import weights
from tests import generative_tiny
from tests import tiny

_PACK = 'efficient_packnet'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run that nothing disturbed, and its results."""
  folder = tmp_path_factory.mktemp('whole')
  return folder, generative_tiny.run(folder)


def _rows(results, method):
  return [row for row in results['rows'] if row['method'] == method]


def test_packed_weights_draw_the_same_bits_and_fine_tuning_forgets(whole):
  folder, results = whole
  _, records = files.load(folder)
  by_method = {n.split('/')[0]: n for n in weights.names(folder)}
  assert set(by_method) == {'naive', 'ewc', _PACK}
  for method, name in by_method.items():
    drawn = records[f'{name}/drawn']
    assert drawn.shape == (3, 3, measuring.DRAWN, 8, 8)
    likelihoods = records[f'{name}/likelihoods']
    assert np.isnan(likelihoods[np.triu_indices(3, 1)]).all()
    assert (likelihoods[np.tril_indices(3)] < 0).all()
    same = [np.array_equal(drawn[2, t], drawn[t, t]) for t in range(2)]
    rows = _rows(results, method)
    if method == _PACK:
      assert all(same) and all(row['unchanged'] for row in rows)
      for t in range(3):
        assert len({*likelihoods[t:, t]}) == 1
    else:
      assert not any(same) and not rows[0]['unchanged']
  # A network of every task has its own digit: they are not alike.
  assert not np.array_equal(drawn[2, 0], drawn[2, 1])


def test_what_a_run_records(whole):
  folder, results = whole
  saved = json.loads((folder / 'results.json').read_bytes())
  assert saved == json.loads(files.to_json(results))
  _, records = files.load(folder)
  for row in results['rows']:
    assert not any('accuracy' in name for name in row)
    assert row['final_elbo'] < 0 and row['elbo_when_learned'] < 0
    assert row['log_likelihood'] < 0 < row['log_likelihood_error']
  assert results['pictures']['measured'] == [5, 5]
  assert results['stands_for'] == {
    name: name for name in ('naive', 'ewc', _PACK)
  }
  name = weights.names(folder)[0]
  kinds = {k.removeprefix(f'{name}/') for k in records if k.startswith(name)}
  assert {'elbo', 'likelihoods', 'drawn', 'log_likelihood'} <= kinds
  assert not any(k.endswith('accuracy') for k in records)
  lines = files.read_metrics(folder)
  assert {'elbo_when_learned', 'validation_elbo'} <= {*lines[0]}
  pack = _rows(results, _PACK)
  used = [row['used_weights'] for row in pack]
  assert 0 < used[0] <= used[1] <= used[2] < 1


def test_what_is_finished_but_for_its_likelihoods_goes_on(whole, tmp_path):
  """The pictures of earlier tasks come from files then: the nets are gone."""
  folder, results = whole
  again = tmp_path / 'again'
  again.mkdir()
  for path in folder.rglob('*'):
    to = again / path.relative_to(folder)
    if path.is_dir():
      to.mkdir(parents=True, exist_ok=True)
    elif path.name not in ('results.json', 'records.npz', 'lived.json'):
      to.parent.mkdir(parents=True, exist_ok=True)
      to.write_bytes(path.read_bytes())
  resumed = generative_tiny.run(again)
  drop = lambda row: {k: v for k, v in row.items() if k != 'seconds'}
  assert [*map(drop, resumed['rows'])] == [*map(drop, results['rows'])]
  _, before = files.load(folder)
  _, after = files.load(again)
  assert before.keys() == after.keys()
  for name, x in before.items():
    np.testing.assert_array_equal(after[name], x, name)


def test_stopped_in_the_midst_of_a_task_it_ends_with_the_same_bits(
  whole, tmp_path, monkeypatch
):
  real, calls = learner.Learner._window, []

  def window(self, number, steps):
    calls.append(number)
    if len(calls) == 14:  # the second half of the seventh task that is learned
      self.world.signals.append(15)
    return real(self, number, steps)

  monkeypatch.setattr(learner.Learner, '_window', window)
  monkeypatch.setattr(population, 'workers', lambda: 1)
  with pytest.raises(runs.Interrupted):
    generative_tiny.run(tmp_path)
  results = generative_tiny.run(tmp_path)
  drop = lambda row: {k: v for k, v in row.items() if k != 'seconds'}
  assert [*map(drop, results['rows'])] == [*map(drop, whole[1]['rows'])]
  _, before = files.load(whole[0])
  _, after = files.load(tmp_path)
  for name, x in before.items():
    np.testing.assert_array_equal(after[name], x, name)


def test_what_is_measured_is_in_the_estimate(whole):
  del whole  # of the same settings
  s = settings.check(generative_tiny.config())
  with tiny.prepared_once(generative_run):
    it = generative_run._prepare(s, None)
  found = generative_run._estimate(s, it, exact=False)
  net = generative_run._net(s, it.sequence)
  # Three methods of three tasks: 6 times 3 samples of 5 pictures, 3 times 7.
  of = lambda samples: autoencoder.marginal_flops(net, 5, samples)
  assert found.measured == 3 * (6 * of(3) + 3 * of(7))
  assert found.work == found.flops + found.measured
  assert 'FLOPs of what is measured' in found.markdown()


def test_a_net_of_a_task_has_its_encoder(whole):
  folder, _ = whole
  (name,) = [n for n in weights.names(folder) if n.startswith(_PACK)]
  nets = [generative_run.weights(folder, name, t).params for t in (0, 2)]
  assert {k.split('_')[0] for k in nets[0]} == {'encoder', 'head', 'shared'}
  of = lambda net: np.asarray(net['encoder_0']['w'])
  assert not np.array_equal(*map(of, nets))


def test_tables_and_figures(whole):
  folder, results = whole
  text = tables.markdown(results)
  assert '7 samples of 5 test pictures' in text and 'fine-tuning' in text
  assert 'EfficientPackNet' in text and 'accuracy' not in text
  names = {p.stem for p in plots.draw(folder)}
  assert names == {'table3', 'characters', 'importance', 'course'}
  assert all(
    e.measures['log_likelihood'] < 0 for e in analysis.entries(results)
  )


def test_published_numbers_stand_beside(whole):
  _, results = whole
  of_mnist = {**results, 'dataset': 'mnist'}
  text = tables.main_table(of_mnist)
  assert '-258.40' in text and '-94.50' in text and '-92.15' not in text
  assert published.TABLE3 in text
  assert '-258.40' not in tables.main_table(results)
  assert published.likelihood('notmnist', 'ewc', True) == -188.56
  assert published.likelihood('mnist', 'vcl', True) is None
  # A name of one's own is compared by what it stands for.
  entry = {'method': 'laplace', 'alpha': 1.5}
  known = {'dataset': 'mnist', 'stands_for': {'laplace': 'online_ewc'}}
  assert tables.published_of(entry, known) == -96.72


def test_importance_by_the_size_of_weights(whole):
  theta = {'layer': {'w': np.arange(-10.0, 10.0)[:, None], 'b': np.ones(1)}}
  strength = {'layer': {'w': np.zeros((20, 1)), 'b': np.ones(1)}}
  assert np.isnan(measuring.by_size(theta, strength)).all()
  strength['layer']['w'][[0, 10, 9]] = [[6.0], [1.0], [1.0]]  # of -10, 0, -1
  found = measuring.by_size(theta, strength)
  np.testing.assert_allclose(found, [0.25, *[0] * 8, 0.75])
  _, records = files.load(whole[0])
  (name,) = [n for n in records if n.endswith('/importance')]
  assert name.startswith('ewc/') and records[name].shape == (3, 10)
  np.testing.assert_allclose(records[name].sum(axis=1), 1, rtol=1e-5)


def test_a_sheet_has_a_row_for_each_task():
  drawn = np.zeros((2, 2, 1, 3, 4), np.uint8)
  drawn[0, 0], drawn[1, 0], drawn[1, 1] = 255, 51, 102
  drawn[0, 1] = 200  # of a task that is yet to be learned: not shown
  sheet = plots.sheet(drawn)
  assert sheet.shape == (2 * 4, 2 * 5)
  np.testing.assert_allclose(sheet[:3, :4], 1)
  np.testing.assert_allclose(sheet[4:7, :4], 0.2)
  np.testing.assert_allclose(sheet[4:7, 5:9], 0.4)
  assert not sheet[:4, 5:].any()


def test_names_there_and_back():
  row = dict.fromkeys(analysis.NAMES, -1.0) | {'task': 0}
  (named,) = analysis.named([row])
  assert not any('accuracy' in name for name in named)
  assert analysis.plain([named]) == [row]


def test_measures_are_in_nats():
  row = {
    **{'method': 'naive', 'transform': 'powerprop', 'alpha': 1.0, 'seed': 0},
    **{'coefficient': 0.0, 'learning_rate': 0.1, 'search': False},
    **dict.fromkeys(analysis.NAMES.values(), -5.0),
    **{'failed': False, 'unchanged': False, 'used_weights': None},
    **{'log_likelihood': -9.0, 'log_likelihood_error': 3.0, 'reached': None},
  }
  member = [row | {'task': 0}, row | {'task': 1, 'log_likelihood_error': 4.0}]
  name = 'naive/powerprop/alpha_1/coefficient_0/lr_0.1/seed_0'
  matrix = np.array([[-4.0, np.nan], [-10.0, -4.0]])
  found = analysis.measures(member, {f'{name}/likelihoods': matrix})
  assert found['log_likelihood'] == -9 and found['log_likelihood_error'] == 2.5
  assert found['forgetting'] == 6 and found['unchanged'] == 0
  assert math.isnan(found['used_weights'])
  assert analysis.averages(matrix).tolist() == [-4, -7]


def _sentence(error, *parts):
  message = f'{error.value}'
  assert message.endswith('.') and '\n' not in message, message
  assert all(part in message for part in parts), message


@pytest.mark.parametrize(
  ('fields', 'parts'),
  [
    ({'network': 'mlp'}, ['network']),
    ({'encoder': (16, 0)}, ['encoder is (16, 0)', 'widths']),
    ({'decoder': 'wide'}, ["decoder is 'wide'", 'whole numbers']),
    ({'powerprop_on': 'none'}, ["'none'", 'all, shared']),
    (
      {'methods': ('ewc',), 'method_kwargs': {}},
      ["ewc.labels is 'argmax' where it is not given"],
    ),
    (
      {'methods': ('si', 'ewc'), 'method_kwargs': {'ewc': {'labels': 'first'}}},
      ["method_kwargs.ewc.labels is 'first'", "'true' or 'sampled'"],
    ),
    (
      {'method_training': {'naive': {'evaluate_every': 2}}},
      ['evaluate_every', 'method_training.naive'],
    ),
  ],
)
def test_bad_settings(fields, parts):
  config = {**generative_tiny.config().to_dict(), **fields}
  with pytest.raises(ConfigError) as error:
    settings.check(ml_collections.ConfigDict(config))
  _sentence(error, *parts)


@pytest.mark.parametrize(
  ('fields', 'parts'),
  [
    ({'methods': ('joint',)}, ['methods has joint', 'earlier tasks']),
    ({'num_tasks': 11}, ['11 tasks', '10']),
  ],
)
def test_what_does_not_fit(fields, parts):
  s = settings.check(generative_tiny.config(**fields))
  with pytest.raises(ConfigError) as error:
    generative_run._prepare(s, None)
  _sentence(error, *parts)


def test_a_config_with_defaults_is_the_same_config():
  given = generative_tiny.config().to_dict()
  resolved = settings.resolved(given)
  assert settings.resolved(resolved) == resolved
  assert 'network' not in resolved and 'sequence' not in resolved
  assert settings.check(ml_collections.ConfigDict(resolved))
