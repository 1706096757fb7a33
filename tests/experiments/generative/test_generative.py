"""Characters drawn in turn: what is measured, tables, figures, bad input."""

import json
import math

import ml_collections
import numpy as np
import pytest

from experiments import data
from experiments.continual import learner
from experiments.engine import autoencoder
from experiments.engine import making
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
    rows = _rows(results, method)
    number = 2 if method == 'naive' else 3  # as its method_training has it
    assert len(rows) == number
    drawn = records[f'{name}/drawn']
    assert drawn.shape == (number, number, measuring.DRAWN, 8, 8)
    likelihoods = records[f'{name}/likelihoods']
    assert np.isnan(likelihoods[np.triu_indices(number, 1)]).all()
    assert (likelihoods[np.tril_indices(number)] < 0).all()
    last = number - 1
    same = [np.array_equal(drawn[last, t], drawn[t, t]) for t in range(last)]
    if method == _PACK:
      assert all(same) and all(row['unchanged'] for row in rows)
      for t in range(3):
        assert len({*likelihoods[t:, t]}) == 1
    else:
      assert not any(same) and not rows[0]['unchanged']
  # A network of every task has its own digit: they are not alike.
  assert not np.array_equal(drawn[1, 0], drawn[1, 1])


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
  # Two methods of three tasks: 6 times 3 samples of 5 pictures, 3 times 7; and
  # one of two.
  of = lambda samples: autoencoder.marginal_flops(net, 5, samples)
  expected = 2 * (6 * of(3) + 3 * of(7)) + 3 * of(3) + 2 * of(7)
  assert found.measured == expected
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
  entry = {'method': 'online_ewc_phi', 'alpha': 1.5}
  known = {'dataset': 'mnist', 'stands_for': {'online_ewc_phi': 'online_ewc'}}
  assert tables.published_of(entry, known) == -96.72


def test_importance_by_the_size_of_weights(whole):
  theta = {'layer': {'w': np.arange(-10.0, 10.0)[:, None], 'b': np.ones(1)}}
  strength = {'layer': {'w': np.zeros((20, 1)), 'b': np.ones(1)}}
  shares, whole_strength = measuring.by_size(theta, strength)
  assert np.isnan(shares).all() and whole_strength == 0
  strength['layer']['w'][[0, 10, 9]] = [[6.0], [1.0], [1.0]]  # of -10, 0, -1
  found, whole_strength = measuring.by_size(theta, strength)
  np.testing.assert_allclose(found, [0.25, *[0] * 8, 0.75])
  assert whole_strength == 8
  results, records = files.load(whole[0])
  (name,) = [n for n in records if n.endswith('/importance')]
  assert name.startswith('ewc/') and records[name].shape == (3, 10)
  np.testing.assert_allclose(records[name].sum(axis=1), 1, rtol=1e-5)
  net = name.removesuffix('/importance')
  last = records[name][-1], records[f'{net}/strength'][-1]
  (told,) = [results['importance'][net]]
  np.testing.assert_allclose(told['shares'], last[0])
  assert told['sum'] == pytest.approx(last[1]) and told['sum'] > 0
  line = ' | '.join(f'{100 * x:.1f}' for x in told['shares'])
  cells = tables.importance_table(results).replace('  ', ' ')
  assert line in cells.replace('  ', ' ').replace('  ', ' ')


def _rows_of(method, alpha, nats, **fields):
  """A row of each seed, with so many nats on test data."""
  return [
    {
      **{'method': method, 'transform': 'powerprop', 'alpha': alpha},
      **{'coefficient': 0.0, 'learning_rate': 0.1, 'search': False},
      **{'failed': False, 'unchanged': False, 'reached': None, 'task': 0},
      **dict.fromkeys(analysis.NAMES.values(), -5.0),
      **{'seed': seed, 'used_weights': None, 'log_likelihood': x},
      **{'log_likelihood_error': 1.0},
      **fields,
    }
    for seed, x in enumerate(nats)
  ]


def test_which_orders_of_the_paper_hold():
  better = {'final_validation_elbo': -4.0}
  rows = [
    *_rows_of('naive', 1.0, (-150.0, -151.0)),
    *_rows_of('ewc', 1.0, (-104.0, -100.0)),
    *_rows_of('ewc', 1.5, (-95.0, -101.0), **better),
    *_rows_of('ewc', 2.0, (-99.0, -90.0)),  # worse on validation data
    *_rows_of('vcl', 1.0, (-160.0, -161.0)),
    *_rows_of('vcl', 2.0, (-10.0, -10.0)),  # not in the paper
    *_rows_of('mine', 1.0, (-1.0, -1.0)),
  ]
  found = analysis.orders(rows, {'mine': 'ewc'}, 'mnist')
  # The paper: VCL -94.27, EWC with Powerprop -95.79, EWC -105.78, none -258.40.
  assert [(o.better[0], o.worse[0]) for o in found] == [
    *(('vcl', 'ewc'), ('vcl', 'ewc'), ('vcl', 'naive')),
    *(('ewc', 'ewc'), ('ewc', 'naive'), ('ewc', 'naive')),
  ]
  powerprop = found[3]
  assert (powerprop.better, powerprop.worse) == (('ewc', True), ('ewc', False))
  assert powerprop.paper == pytest.approx(105.78 - 95.79)
  assert (powerprop.found.mean, powerprop.found.ahead) == (4.0, 1)
  results = {'rows': rows, 'stands_for': {'mine': 'ewc'}, 'dataset': 'mnist'}
  text = tables.order_table(results)
  assert '6 in all: 2 holds, 3 the other way round, 1 seeds differ' in text
  assert analysis.orders(rows, {}, 'digits') == []
  longer = [*rows, *[r | {'task': 1} for r in rows if r['method'] == 'vcl']]
  assert {o.better[0] for o in analysis.orders(longer, {}, 'mnist')} == {'ewc'}


def test_a_likelihood_that_overflowed_is_the_lowest():
  rows = [
    *_rows_of('naive', 1.0, (-150.0, None)),
    *_rows_of('naive', 2.0, (-160.0, -140.0)),
    *_rows_of('ewc', 1.0, (-104.0, -100.0)),
    *_rows_of('vcl', 1.0, (None, None)),
  ]
  orders = analysis.orders(rows, {}, 'mnist')
  # The paper: VCL, then EWC, then none.
  counts = [(o.found.ahead, o.found.behind, o.found.n) for o in orders]
  assert counts == [(0, 2, 2), (0, 1, 2), (2, 0, 2)]
  results = {'rows': rows, 'dataset': 'mnist'}
  text = tables.order_table(results)
  assert '1 holds, 1 the other way round, 1 seeds differ' in text
  assert '| – 2/2' in text and 'nan' not in text and 'overflowed' in text
  assert '| – 1/2' in tables.difference_table(results)
  (naive, *_) = tables.main_table(results | {'dataset': 'digits'}).split('EWC')
  assert '-150.00 (1 of 2)' in naive and '-150.00 ± 14.14' in naive
  exploded = {'n': 2, 'elbo_mean': -2.5e25, 'elbo_std': 3e25}
  assert tables.main_table(
    {'rows': [], 'dataset': 'digits', 'summary': [{**rows[0], **exploded}]}
  ).count('| -2.5e+25 ± 3e+25 |')
  figure = plots.table3(results)
  names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
  assert 'fine-tuning, α = 1 (1 of 2)' in names


def test_what_is_held_in_phi_is_compared_with_alpha_1():
  rows = [
    *_rows_of('ewc', 1.0, (-9.0, -8.0, -7.0)),
    *_rows_of('ewc_phi', 2.0, (-7.0, -6.0, -5.0)),
  ]
  results = {'rows': rows, 'stands_for': {'ewc_phi': 'ewc', 'ewc': 'ewc'}}
  text = tables.difference_table(results)
  assert 'EWC' in text and '+2.00 ± 0.00* 3/3' in text


@pytest.mark.parametrize('cut', [False, True])
def test_a_cut_bar_and_a_cut_number_of_the_paper_are_told(cut):
  rows = [
    *_rows_of('naive', 1.0, (-900.0 if cut else -120.0,)),
    *_rows_of('ewc', 1.0, (-100.0,)),
  ]
  figure = plots.table3({'rows': rows, 'dataset': 'mnist'})
  told = {text.get_text() for text in figure.axes[0].texts}
  assert told == ({'-258', '-900'} if cut else {'-258'})


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
      {'method_kwargs': {_PACK: {'gamma': None, 'coefficient': (0.9, 1.5)}}},
      [f'{_PACK}.coefficient is 1.5', 'in (0, 1]', 'gamma is None'],
    ),
    (
      {'methods': _PACK, 'method_kwargs': {_PACK: {'gamma': None}}},
      [f'{_PACK}.coefficient is 0', 'in (0, 1]'],
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
    ({'num_tasks': 11}, ['num_tasks is 11', 'at most 10', "'digits'"]),
  ],
)
def test_what_does_not_fit(fields, parts):
  s = settings.check(generative_tiny.config(**fields))
  with pytest.raises(ConfigError) as error:
    generative_run._prepare(s, None)
  _sentence(error, *parts)


def test_pictures_in_colour_are_refused_at_once(monkeypatch):
  s = settings.check(generative_tiny.config())
  grey = making.dataset('digits', None, {})
  colour = lambda split: split._replace(image=split.image.repeat(3, axis=-1))
  dataset = grey._replace(
    **{name: colour(getattr(grey, name)) for name in data.SPLITS}
  )
  monkeypatch.setattr(making, 'dataset', lambda *_: dataset)
  with pytest.raises(ConfigError) as error:
    generative_run._prepare(s, None)
  _sentence(error, "dataset is 'digits'", '3 channels', 'grey')


def test_a_config_with_defaults_is_the_same_config():
  given = generative_tiny.config().to_dict()
  resolved = settings.resolved(given)
  assert settings.resolved(resolved) == resolved
  assert 'network' not in resolved and 'sequence' not in resolved
  assert settings.check(ml_collections.ConfigDict(resolved))
