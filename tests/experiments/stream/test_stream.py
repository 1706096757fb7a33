"""Streams: what they bring, what is found in them, resuming, bad input."""

import gc
import json
import shutil
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data
from experiments.continual import records as continual_records
from experiments.engine import runs
from experiments.engine import settings
from experiments.report import files
from experiments.report import weights
from experiments.stream import analysis
from experiments.stream import learner
from experiments.stream import plots
from experiments.stream import run as stream_run
from experiments.stream import settings as stream_settings
from experiments.stream import streams
from experiments.stream import tables
from tests import lifetime_tiny
from tests import stream_tiny
from tests import tiny

_PACK = 'efficient_packnet'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run that nothing disturbed, and its results."""
  folder = tmp_path_factory.mktemp('whole')
  return folder, stream_tiny.run(folder)


def _made(seed=0, steps=40, **fields):
  fields = {'order': (), 'lengths': ()} | fields
  s = stream_settings.check(stream_tiny.config(**fields))
  return streams.make(s, steps, 120, seed)


# What a stream brings.


def test_orders_have_all_tasks_in_turn_and_returns_between():
  for seed in range(20):
    order = _made(seed, returns=4).order
    assert len(order) == 7 and set(order) == {0, 1, 2}
    first = [order.index(task) for task in range(3)]
    assert first == sorted(first)
    assert all(a != b for a, b in zip(order, order[1:], strict=False))
  assert _made(returns=4).order != _made(1, returns=4).order
  assert _made().order == (0, 1, 2) and _made().begins == (0, 40, 80)
  assert _made(order=(2, 0, 1, 0)).order == (2, 0, 1, 0)


def test_unequal_lengths_are_between_half_and_three_halves():
  several = [np.diff(_made(seed, unequal=True).begins) for seed in range(9)]
  lengths = np.concatenate(several)
  assert len(set(lengths.tolist())) > 3
  assert lengths.min() >= 20 and lengths.max() <= 60
  given = _made(lengths=(30, 31, 32))
  assert given.begins == (0, 30, 61) and given.steps == 93
  assert np.bincount(given.tasks).tolist() == [30, 31, 32]


def test_examples_go_by_the_step_and_what_is_kept_was_brought():
  stream = _made()  # two batches of 60 are an epoch
  rows = stream.rows(0, 6)
  np.testing.assert_array_equal(stream.rows(3, 2), rows[3:5])
  for epoch in rows.reshape(3, 120):
    assert sorted(epoch) == list(range(120))
  kept, tasks = stream.kept(38, 43, 'train', 200)
  brought = {
    (int(row), int(task))
    for step, task in zip(range(38, 43), stream.tasks[38:43], strict=True)
    for row in stream.rows(step, 1)[0]
  }
  assert set(zip(kept.tolist(), tasks.tolist(), strict=True)) <= brought
  assert len(kept) == 200 and set(tasks.tolist()) == {0, 1}
  _, tasks = stream.kept(36, 46, 'validation', 900)
  share = np.mean(tasks == 0)  # 4 of 10 steps, whatever the learner thinks
  assert abs(share - 0.4) < 0.08


def test_a_segment_has_the_pictures_of_its_true_tasks():
  base = lifetime_tiny.sequence()
  untold = streams.untold(base, 90, 7, 5)
  rows, tasks = np.array([5, 9, 5, 119]), np.array([0, 3, 1, 2])
  true = [lifetime_tiny.source(task) for task in range(4)]
  tables = {'base': true[0].tables, 'train': (rows, tasks)}
  # Of the segment, as of `now`, nothing is asked.
  segment = data.Source(true[0].splits, tables, jnp.int32(4), jnp.int32(4))
  places = np.array([0, 1, 2, 3, 1])
  of = lambda sequence: jax.jit(
    lambda source, rows: data.examples(sequence, source, 'train', rows)
  )
  got, plain = of(untold)(segment, places), of(base)
  for i, place in enumerate(places):
    wanted = plain(true[tasks[place]], rows[[place]])
    np.testing.assert_array_equal(got.image[i], wanted.image[0])
    assert got.label[i] == wanted.label[0]


# What was found.


def test_measures():
  segments = [
    {'first': 0, 'end': 11, 'record': 0},
    {'first': 11, 'end': 15, 'record': 1},
    {'first': 15, 'end': 30, 'record': 2},
    {'first': 30, 'end': 40, 'record': 0},
  ]
  alarms = [{'step': s} for s in (8, 13, 16, 33)]
  args = (0, 1, 2, 0), (0, 10, 20, 30), 40, segments
  assert analysis.measures(*args, alarms) == {
    'true_changes': 3,
    'changes_found': 2,  # 10 and 30; nothing came after 20
    'false_alarms': 2,  # 8, and the second after 10
    'delay_mean': 3.0,
    'delay_max': 3,
    'returns': 1,
    'returns_recognised': 1,
  }
  told = analysis.measures(*args, None)
  assert told['changes_found'] == 3 and told['delay_mean'] == 0.0
  assert told['false_alarms'] == 0
  none = analysis.measures((0, 1), (0, 10), 20, [segments[0] | {'end': 20}], [])
  assert none['changes_found'] == 0 and none['delay_mean'] is None


def _state(*phi):
  return types.SimpleNamespace(phi=np.array(phi), net={}, finite=True)


def test_an_alarm_goes_back_to_weights_that_are_finite():
  fine, lost = _state(0.0, 1.0), _state(0.0, np.nan)
  kept = [(10, fine), (15, fine), (20, lost), (25, fine)]
  assert learner.go_back(kept, 1, 0) == (25, fine)
  assert learner.go_back(kept, 3, 0) == (15, fine)
  # Its loss is from before the step that made it NaN.
  assert learner.go_back(kept, 2, 0) == (15, fine)
  # A segment has a step at the least.
  kept = [(10, fine), (15, lost), (20, lost)]
  assert learner.go_back(kept, 1, 10) == (20, fine)
  assert learner.go_back(kept, 1, 0) == (10, fine)
  assert learner.go_back([(15, lost)], 1, 10) == (15, lost)
  lost = _state(0.0)
  lost.finite = False
  assert learner.go_back([(10, fine), (15, lost)], 1, 0) == (10, fine)


def test_changes_are_found_and_a_task_that_returns_is_recognised(whole):
  _, results = whole
  rows = {row['boundaries']: row for row in results['rows']}
  assert list(rows) == ['known', 'detected']
  for row in rows.values():
    assert row['steps'] == 319 and row['changes'] == [83, 161, 252]
    assert row['changes_found'] == 3 and row['false_alarms'] == 0
    assert row['opened'] == row['tasks'] == 3
    assert row['returns'] == row['returns_recognised'] == 1
    assert row['record_of_task'] == [0, 1, 2]
    assert min(row['accuracies']) > 0.5 and not row['diverged']
    used = [s['used_weights'] for s in row['segments'][:3]]
    assert 0 < used[0] < used[1] < used[2] < 1
    assert 'used_weights' not in row['segments'][3]  # nothing was learned
  assert not results['stopped']
  known, found = rows['known'], rows['detected']
  assert [s['first'] for s in known['segments']] == [0, 83, 161, 252]
  assert known['delay_max'] == 0 and not known['alarms']
  # An alarm comes at a window's end, and goes back to a window's beginning.
  for alarm, change in zip(found['alarms'], found['changes'], strict=True):
    assert alarm['step'] % 5 == 0 and alarm['change'] % 5 == 0
    assert change < alarm['step'] <= change + 15
    assert abs(alarm['change'] - change) < 10
  firsts = [s['first'] for s in found['segments']]
  assert firsts == [0, *(a['change'] for a in found['alarms'])]
  assert [s['record'] for s in found['segments']] == [0, 1, 2, 1]


def test_what_a_run_records(whole):
  folder, results = whole
  saved = json.loads((folder / 'results.json').read_bytes())
  assert saved == json.loads(files.to_json(results))
  _, records = files.load(folder)
  name = weights.names(folder)[1]
  assert 'detected' in name
  assert {k.removeprefix(f'{name}/') for k in records} == {
    'losses',
    'recent',
    'posterior',
  }
  windows = -(-319 // 5)
  assert records[f'{name}/posterior'].shape == (windows, 64)
  assert records[f'{name}/losses'].shape == (windows,)
  (entry, other) = results['summary']
  assert entry['n'] == 1 and other['opened_mean'] == 3
  assert len(analysis.entries(results)) == 2


@pytest.mark.usefixtures('sketched')
def test_tables_and_figures(whole):
  folder, _ = whole
  figures, text = files.redraw(folder)
  assert {p.name for p in figures} == {
    f'stream_{_PACK}_alpha_1.{kind}' for kind in ('png', 'pdf')
  }
  assert '3 changes, 1 returns, 319 steps' in text
  assert 'detected minus known' in text
  assert max(map(len, text.splitlines()[2:6])) <= 100


def test_a_net_of_a_true_task_is_taken_out(whole, tmp_path):
  folder, _ = whole
  known, found = weights.names(folder)
  one, two = (weights.of_run(folder, found, task) for task in (0, 1))
  assert one.masks.keys() == {'hidden_0/w', 'output/w'}
  assert any((one.masks[n] != two.masks[n]).any() for n in one.masks)
  with pytest.raises(RuntimeError, match='has 3 tasks'):
    weights.of_run(folder, known, 3)
  bare = tmp_path / 'bare'
  shutil.copytree(folder, bare, ignore=lambda *_: ['cells'])
  with pytest.raises(runs.RunError, match='checkpoints of .* were not kept'):
    weights.of_run(bare, known, 0)
  assert not (bare / 'cells').exists()


def test_a_learner_that_is_done_is_freed(whole, monkeypatch):
  """At once: its arrays would wait for the garbage collector."""
  made = []

  class Watched(learner.Learner):
    def __init__(self, *args):
      super().__init__(*args)
      made.append(weakref.ref(self))

  monkeypatch.setattr(stream_run, 'Learner', Watched)
  gc.disable()
  try:
    with tiny.prepared_once(stream_run):
      weights.of_run(whole[0], weights.names(whole[0])[0], 0)
    assert [ref() for ref in made] == [None]
  finally:
    gc.enable()


# A stop in the midst of a task saves none of its steps: where the last
# checkpoint is of its beginning, and where there was none before.
@pytest.mark.parametrize('checkpoint_seconds', [0.0, 1e9])
def test_stopped_and_started_again_is_the_same_run(
  tmp_path, whole, monkeypatch, checkpoint_seconds
):
  real, calls = learner.Learner._note, []

  def note(self, *args):
    real(self, *args)
    calls.append(args)
    if len(calls) == 40:  # in the midst of the third task
      self.world.signals.append(15)

  monkeypatch.setattr(learner.Learner, '_note', note)
  monkeypatch.setattr(stream_run.population, 'workers', lambda: 1)
  often = {'checkpoint_seconds': checkpoint_seconds}
  with pytest.raises(runs.Interrupted):
    stream_tiny.run(tmp_path, **often)
  got = stream_tiny.run(tmp_path, **often)
  # The windows since the task began are gone through again.
  assert calls[40][0] < calls[39][0] < calls[-1][0] == 319
  same = lambda results: [
    {k: v for k, v in row.items() if k != 'seconds'} for row in results['rows']
  ]
  assert same(got) == same(whole[1])
  for name, array in files.load(whole[0])[1].items():
    np.testing.assert_array_equal(array, files.load(tmp_path)[1][name])
  with pytest.raises(runs.RunError, match='window was 5 and is now 6'):
    stream_tiny.run(tmp_path, window=6)


def test_without_masks_every_segment_is_learned(tmp_path):
  results = stream_tiny.run(
    tmp_path,
    methods='naive',
    boundaries='detected',
    retrain_epochs=0.0,
    learning_rate=(0.1, 1e30),
  )
  row, lost = results['rows']
  assert row['changes_found'] == 3 and row['opened'] == 4
  assert row['returns_recognised'] == 0
  assert row['accuracies'][1] > row['accuracies'][0]  # the last that it saw
  # One that diverges is marked, and left out of all means.
  assert lost['diverged'] and not row['diverged']
  assert [e['learning_rate'] for e in results['summary']] == [0.1]
  (entry,) = analysis.entries(results)
  assert entry.setting['learning_rate'] == 0.1
  assert 'Diverged, and left out: ' in tables.markdown(results)
  assert 'lr 1e+30, detected, seed 0.' in tables.markdown(results)
  plots.course(results, files.load(tmp_path)[1], lost)


def test_where_all_learners_diverge_the_run_fails(tmp_path, monkeypatch):
  def live(cell, *_):
    rows = [{'diverged': True, 'steps': 319}]
    return continual_records.Lived(cell.name, rows, {}, 0.0, [])

  monkeypatch.setattr(stream_run, 'live', live)
  with pytest.raises(runs.RunError, match='every learner diverged'):
    stream_tiny.run(tmp_path)
  assert not (tmp_path / 'results.json').exists()


def test_a_full_net_opens_no_more_tasks(tmp_path):
  results = stream_tiny.run(
    tmp_path,
    num_tasks=2,
    order=(0, 1),
    lengths=(83, 78),
    method_kwargs={_PACK: {'gamma': 0.9, 'rates': (1.0,)}},
  )
  for row in results['rows']:
    assert row['changes_found'] == 1 and row['opened'] == 1
    first, second = row['segments']
    assert first['used_weights'] == 1 and first['reached']
    assert second['record'] == 0 and 'used_weights' not in second
    assert row['record_of_task'] == [0, 0]
  assert len(results['stopped']) == 2
  assert all('left after task 1, which' in text for text in results['stopped'])


def test_nothing_tells_tasks_apart_but_their_examples(tmp_path):
  """Where these are the same, the true tasks' numbers change no bit."""
  found = []
  for order in ((0, 1, 2, 1), (0, 2, 1, 2)):
    folder = tmp_path / str(order[1])
    results = stream_tiny.run(
      folder,
      sequence='tests.stream_tiny:alike',
      boundaries='detected',
      order=order,
    )
    (row,) = results['rows']
    assert row['true_changes'] == 3 and row['opened'] == 1
    assert row['changes_found'] == row['false_alarms'] == 0
    assert row['record_of_task'] == [0, 0, 0]
    found.append(files.load(folder)[1])
  assert found[0].keys() == found[1].keys() and len(found[0]) == 3
  for name, array in found[0].items():
    np.testing.assert_array_equal(array, found[1][name])


@pytest.mark.parametrize('name', ['stream_digits', 'stream_permuted_mnist'])
def test_a_config_fits_its_data_and_net(monkeypatch, name):
  module = __import__(f'configs.{name}', fromlist=['get_config'])
  s = stream_settings.check(module.get_config())
  if s.training.training.dataset == 'mnist':
    split = data.Split(
      np.zeros((1280, 28, 28, 1), np.uint8), np.zeros(1280, np.int32)
    )
    fake = data.Dataset('mnist', split, split, split, 10, 1 / 255)
    monkeypatch.setattr(stream_run.making, 'dataset', lambda *_: fake)
  _, cells = stream_run._prepare(s, None)
  assert len(cells) == 6 and len({id(c.programs) for c in cells}) == 1
  assert cells[0].plan.layers and cells[0].plan.recipe.schedule is None


# Bad input.


@pytest.mark.parametrize(
  'fields, says',
  [
    ({'hazard': 0.0}, 'hazard is 0.0 but must be a number above 0'),
    ({'hazard': 5.0}, 'hazard is 5 but must be above window, which is 5'),
    ({'threshold': 1.0}, 'threshold is 1.0 but must be a number in (0, 1)'),
    ({'threshold': 0.0}, 'threshold is 0.0 but must be a number in (0, 1)'),
    ({'window': 68}, 'window is 68 but must be at most 67, the steps'),
    ({'lengths': (9, 9)}, 'lengths is 2 numbers but must be 4, the steps'),
    ({'lengths': (9, 9, 0.5, 9)}, 'must be whole numbers of at least 1'),
    ({'unequal': True}, 'unequal is True but must be False where'),
    ({'order': (0, 1, 3)}, 'must be of all tasks, 0 to 2'),
    ({'order': (0, 1, 1, 2)}, 'such that no task follows itself'),
    ({'returns': 2}, 'returns is 2 but must be 0 where there is an order'),
    ({'num_tasks': 1, 'order': (0,)}, 'num_tasks is 1 but must be at least 2'),
    ({'boundaries': 'unknown'}, "boundaries 'unknown' is unknown"),
    ({'unequal': 1}, 'unequal is 1 but must be True or False'),
    (
      {'methods': 'ewc', 'method_kwargs': {'ewc': {'coefficient': (1, 2)}}},
      'method_kwargs.ewc.coefficient is (1.0, 2.0) but must be one number',
    ),
    ({'retries': 2}, "config field 'retries' is unknown"),
  ],
  ids=str,
)
def test_a_field_that_is_wrong(fields, says):
  with pytest.raises(settings.ConfigError) as error:
    stream_settings.check(stream_tiny.config(**fields))
  text = str(error.value)
  assert says in text and text.endswith('.') and '\n' not in text, text


@pytest.mark.parametrize(
  'fields, says',
  [
    ({'methods': 'joint'}, 'methods has joint, which learns from all tasks'),
    (
      {'method_kwargs': {_PACK: {'trial_steps': 3, 'without': ('.',)}}},
      f'methods has {_PACK}, which tries ways',
    ),
    (
      {'methods': 'packnet', 'method_kwargs': {}},
      'methods has packnet, which shares the net out among a number of tasks',
    ),
    (
      {'methods': 'vcl', 'method_kwargs': {'vcl': {'coreset': 5}}},
      'methods has vcl, which has coresets for a number of tasks',
    ),
    (
      {'lengths': (), 'epochs': 0.4, 'window': 9},
      'window is 9 but must be at most 8',
    ),
    (
      {'sequence': 'split', 'lengths': (), 'hazard': 900.0},
      'where nobody tells the task all must have as many',
    ),
  ],
  ids=str,
)
def test_what_does_not_fit_the_data_or_the_method(fields, says):
  s = stream_settings.check(stream_tiny.config(**fields))
  with pytest.raises(settings.ConfigError) as error:
    stream_run._prepare(s, None)
  assert says in str(error.value) and str(error.value).endswith('.')
