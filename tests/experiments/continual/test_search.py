"""What competes on validation data, who wins, and what is run of it."""

import json
import types
from typing import Any

import numpy as np
import pytest

from experiments.continual import analysis as continual_analysis
from experiments.continual import run as continual_training
from experiments.continual import search
from experiments.continual import settings as continual_settings
from experiments.continual import tables as continual_tables
from experiments.continual.cells import Key
from experiments.report import weights
from tests import continual_run_tiny
from tests import continual_tiny

_FIELDS = {
  'methods': ('naive', 'l2', 'packnet'),
  'method_kwargs': {'l2': {'coefficient': (4.0, 0.0, 8.0)}},
  'method_training': {'l2': {'learning_rate': (0.3, 0.1), 'alphas': (1.0,)}},
  'learning_rate': (0.1, 0.2),
  'choose_learning_rate': True,
}


def _settings(**fields):
  """Settings, and as much of the plans as a search looks at."""
  s = continual_settings.check(continual_run_tiny.config(**_FIELDS | fields))
  plans = {
    name: types.SimpleNamespace(settings=continual_settings.of_method(s, name))
    for name in s.methods
  }
  return s, plans


def _pairs(chosen, method='l2'):
  return {
    (key.alpha, key.learning_rate, c)
    for key, several in chosen.items()
    for c in several
    if key.method == method
  }


def _rows(*found, alpha=1.0):
  """Rows of l2's search: rate, coefficient, validation accuracy, failed."""
  return [
    row | {'failed': failed}
    for rate, c, accuracy, failed in found
    for row in continual_tiny.member(
      'l2', alpha, c, rate, tasks=2, search=True, validation=accuracy
    )[0]
  ]


def test_rates_and_coefficients_compete_for_one_place():
  s, plans = _settings()
  contests = search.contests(s, plans)
  # α = 1 and 2, but for L2.
  assert len(contests) == 2 + 1 + 2
  candidates = search.candidates(contests)
  assert _pairs(candidates, 'naive') == {
    (alpha, rate, 0.0) for alpha in (1.0, 2.0) for rate in (0.1, 0.2)
  }
  assert _pairs(candidates) == {
    (1.0, rate, c) for rate in (0.3, 0.1) for c in (4.0, 0.0, 8.0)
  }
  # The protocol's is the first of each.
  (mine,) = (c for c in contests if next(iter(c)).method == 'l2')
  assert mine == {
    Key('l2', 'powerprop', 1.0, rate): (4.0, 0.0, 8.0) for rate in (0.3, 0.1)
  }
  assert _pairs(search.chosen(s, contests, [])) == {(1.0, 0.3, 4.0)}
  # At most two of each place are run; of method, α and transform, 5.
  assert sum(map(len, search.at_most(s, contests).values())) == 10
  s = s._replace(run_protocol=False)
  assert sum(map(len, search.at_most(s, contests).values())) == 5


def test_without_it_each_rate_has_a_place_of_its_own():
  s, plans = _settings(choose_learning_rate=False)
  contests = search.contests(s, plans)
  assert len(contests) == 2 * (2 + 1 + 2)
  assert {key.method for key in search.candidates(contests)} == {'l2'}
  rows = _rows((0.3, 8.0, 0.6, False), (0.3, 0.0, 0.5, False))
  rows += _rows((0.1, 0.0, 0.9, False), (0.1, 8.0, 0.5, False))
  chosen = search.chosen(s, contests, rows)
  assert chosen[Key('l2', 'powerprop', 1.0, 0.3)] == (4.0, 8.0)
  assert chosen[Key('l2', 'powerprop', 1.0, 0.1)] == (4.0, 0.0)
  assert chosen[Key('naive', 'powerprop', 2.0, 0.2)] == (0.0,)


def test_the_best_pair_is_run_beside_the_protocols():
  s, plans = _settings()
  contests = search.contests(s, plans)
  rows = _rows((0.3, 4.0, 0.5, False), (0.1, 8.0, 0.7, False))
  rows += _rows((0.1, 0.0, 0.6, False))
  both = {(1.0, 0.3, 4.0), (1.0, 0.1, 8.0)}
  assert _pairs(search.chosen(s, contests, rows)) == both
  alone = search.chosen(s._replace(run_protocol=False), contests, rows)
  assert _pairs(alone) == {(1.0, 0.1, 8.0)}


@pytest.mark.parametrize(
  ('rows', 'winner'),
  [
    # Of equals the first, not the smallest.
    ([(0.3, 4.0, 0.5, False), (0.1, 0.0, 0.5, False)], (1.0, 0.3, 4.0)),
    ([(0.1, 8.0, 0.5, False), (0.1, 0.0, 0.5, False)], (1.0, 0.1, 8.0)),
    # What failed a task, or diverged, does not win.
    ([(0.3, 4.0, 0.5, False), (0.1, 0.0, 0.9, True)], (1.0, 0.3, 4.0)),
    ([(0.3, 0.0, None, False), (0.1, 0.0, 0.2, False)], (1.0, 0.1, 0.0)),
    # Nobody is left: the protocol's.
    ([(0.3, 0.0, None, False), (0.1, 0.0, 0.2, True)], (1.0, 0.3, 4.0)),
  ],
)
def test_who_wins(rows, winner):
  s, plans = _settings(run_protocol=False)
  chosen = search.chosen(s, search.contests(s, plans), _rows(*rows))
  assert _pairs(chosen) == {winner}


def _masked(*found):
  """Rows of PackNet's search: rate, validation accuracy, before, used."""
  return [
    row
    | {
      'validation_before_pruning': np.float32(before).item(),
      'used_weights': used,
      'failed': bool(failed),
    }
    for rate, accuracy, before, used, *failed in found
    for row in continual_tiny.member(
      'packnet', 1.0, 0.0, rate, tasks=1, search=True, validation=accuracy
    )[0]
  ]


@pytest.mark.parametrize(
  ('margin', 'winner'),
  [
    (0.0, 0.1),  # the best, whatever it uses
    (0.02, 0.2),  # the sparsest of those that are good enough
    (0.03, 0.2),  # not one that was so before pruning alone
    (0.05, 0.3),  # a wider one lets it in, at its very edge too
    (0.001, 0.1),  # after pruning none is good enough: the best
  ],
)
def test_of_candidates_within_the_margin_the_sparsest_wins(margin, winner):
  rows = _masked(
    (0.1, 0.90, 0.91, 0.5),
    (0.2, 0.89, 0.89, 0.2),
    (0.3, 0.86, 0.88, 0.1),
    (0.4, 0.89, 0.90, 0.2),  # an equal: the first is taken
    (0.5, 0.90, 0.91, 0.0, True),  # failed, and so is not chosen
  )
  s, plans = _settings(
    methods=('packnet',),
    learning_rate=(0.1, 0.2, 0.3, 0.4, 0.5),
    alphas=(1.0,),
    choose_margin=margin,
    run_protocol=False,
  )
  chosen = search.chosen(s, search.contests(s, plans), rows)
  assert _pairs(chosen, 'packnet') == {(1.0, winner, 0.0)}
  # Tables say by which rule, and figures show what it has chosen.
  whole = [row | {'search': False} for row in rows]
  results = {**continual_tiny.run([(rows + whole, {})])[0]}
  text = continual_tables.markdown(results | {'choose_margin': margin})
  assert ('the fewest weights in use' in text) == bool(margin)
  search_part = text[text.index('The search') :]
  (line,) = (x for x in search_part.splitlines() if ' chosen' in x and '|' in x)
  assert f' {winner:g} ' in line
  if margin:
    used = {0.1: '50.00', 0.2: '20.00', 0.3: '10.00'}[winner]
    assert f' {used} ' in line
  (key,) = continual_analysis.shown(rows + whole, margin)
  assert key[4] == winner


def test_methods_without_masks_go_by_accuracy_alone():
  s, plans = _settings(run_protocol=False, choose_margin=0.3)
  rows = _rows((0.3, 4.0, 0.5, False), (0.1, 8.0, 0.7, False))
  chosen = search.chosen(s, search.contests(s, plans), rows)
  assert _pairs(chosen) == {(1.0, 0.1, 8.0)}


def test_the_edge_of_a_grid_is_told():
  grid = [(r, c, 0.5, False) for r in (0.1, 0.2, 0.3) for c in (0.0, 1.0, 2.0)]

  def edges(rate, coefficient, rows=grid):
    best = _rows((rate, coefficient, 0.9, False))[0]
    return continual_analysis.at_edge(best, _rows(*rows))

  assert edges(0.2, 1.0) == []
  assert edges(0.2, 0.0) == []  # there is nothing below
  assert edges(0.2, 2.0) == ['coefficient']
  assert edges(0.1, 1.0) == ['learning_rate']
  assert edges(0.3, 2.0) == ['coefficient', 'learning_rate']
  # What was tried alone was no choice; what failed was tried.
  assert edges(0.1, 1.0, [(0.1, 1.0, 0.5, False)]) == []
  assert edges(0.2, 1.0, [*grid[:5], (0.2, 3.0, None, True)]) == [
    'learning_rate'
  ]


# A run: of three rates one diverges and one is too small to learn anything.
_RUN: dict[str, Any] = {
  'methods': ('naive', 'l2'),
  'method_kwargs': {'l2': {'coefficient': (1e30, 0.0)}},
  'learning_rate': (1e-4, 0.3, 1e30),
  'choose_learning_rate': True,
  'run_protocol': False,
  'alphas': (1.0,),
  'num_tasks': 2,
  'search_tasks': 2,
  'executor': 'map',
  'forward_transfer': False,
}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run with such a search."""
  folder = tmp_path_factory.mktemp('search')
  return folder, continual_run_tiny.run(folder, **_RUN)


def test_a_run_learns_with_what_was_chosen_alone(whole):
  _, results = whole
  tried = {
    (r['method'], r['learning_rate'], r['coefficient'])
    for r in results['rows']
    if r['search']
  }
  rates = _RUN['learning_rate']
  assert tried == {('naive', rate, 0.0) for rate in rates} | {
    ('l2', rate, c) for rate in rates for c in (1e30, 0.0)
  }
  for row in results['rows']:
    assert row['attempts'] == 1  # a candidate is not tried at a lower rate
    diverges = row['learning_rate'] == 1e30 or (
      row['coefficient'] == 1e30 and row['task'] == 1
    )
    assert row['failed'] == diverges
    if not row['search']:
      assert (row['learning_rate'], row['coefficient']) == (0.3, 0.0)
  assert len([r for r in results['rows'] if not r['search']]) == 4
  assert [c['coefficients'] for c in results['chosen']] == [(0.0,), (0.0,)]
  assert [c['learning_rate'] for c in results['chosen']] == [0.3, 0.3]
  assert results['default_rates'] == {'naive': 1e-4, 'l2': 1e-4}
  assert results['defaults'] == {'naive': 0.0, 'l2': 1e30}
  selected = [
    (e['learning_rate'], e['coefficient']) for e in results['selected']
  ]
  assert selected == [(0.3, 0.0)] * 2


def test_its_tables_say_what_was_tried(whole):
  text = continual_tables.markdown(whole[1])
  line = lambda *cells: [
    [c.strip() for c in x.strip('|').split('|')]
    for x in text.splitlines()
    if [c.strip() for c in x.strip('|').split('|')][: len(cells)] == [*cells]
  ]
  budget = text[text.index('What each was given.') :]
  assert (
    '| fine-tuning | 1 | 3 ' in budget and '| L2          | 1 | 6 ' in budget
  )
  (cells,) = line('fine-tuning', '1', '', '0.3', '2')
  assert cells[-1] == 'chosen'
  (cells,) = line('fine-tuning', '1', '', '1e+30', '2')
  assert cells[-2].startswith('failed') or cells[-2].endswith('(failed a task)')
  main = text[: text.index('All in percent')]
  assert 'validation' in main and 'default' not in main


def test_it_goes_on_and_its_nets_are_found(whole):
  folder, results = whole
  saved = (folder / 'results.json').read_bytes()
  (folder / 'results.json').unlink()
  again = continual_run_tiny.run(folder, **_RUN)
  for name in ('rows', 'chosen', 'selected', 'default_rates', 'efforts'):
    assert json.loads(json.dumps(again[name])) == json.loads(saved)[name]
  name = 'l2/powerprop/alpha_1/coefficient_0/lr_0.3/seed_0'
  assert name in weights.names(folder)
  assert weights.of_run(folder, name, 1).alpha == 1
  assert len(results['chosen']) == 2


@pytest.mark.parametrize(('run_protocol', 'number'), [(False, 11), (True, 13)])
def test_what_it_will_take_is_known_before(run_protocol, number):
  """9 candidates of two tasks, and one of each method, or two."""
  config = continual_run_tiny.config(**_RUN | {'run_protocol': run_protocol})
  s = continual_settings.check(config)
  sequence, plans, _ = continual_training._prepare(s, None)
  found = continual_training._estimate(s, sequence, plans, exact=False)
  assert found.trainings == number
  assert found.steps == number * sum(plans['naive'].steps)
