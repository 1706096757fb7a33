"""What a run will take: counted by hand, refused, and shown by --dry_run."""

import jax
import pytest

from experiments.continual import run as continual_training
from experiments.continual import settings as continual_settings
from experiments.engine import cli
from experiments.engine import estimates
from experiments.engine import settings
from experiments.one_shot import run as one_shot_lib
from experiments.sparse_training import run as sparse_lib
from experiments.sparse_training import settings as sparse_settings
from tests import continual_run_tiny
from tests import generative_tiny
from tests import sparse_tiny
from tests import stream_tiny
from tests import tiny

# 64·8 + 8 and 8·10 + 10 weights; a forward pass is 2·(64·8 + 8·10) FLOPs.
_PARAMETERS, _FORWARD = 610, 1_184
_PICTURES = (1_257 + 180) * (64 + 4)


def _one_shot(**fields):
  s = settings.check(tiny.config(**fields))
  recipe, members, cells, dataset = one_shot_lib._prepare(s, None)
  return one_shot_lib._estimate(s, recipe, cells, dataset), members


@pytest.mark.parametrize('executor, programs', [('map', 2), ('vmap', 1)])
def test_an_estimate_by_hand(executor, programs):
  e, members = _one_shot(executor=executor, optimizer='adam')
  assert e.trainings == len(members) == 4 and e.programs == programs
  assert e.parameters == _PARAMETERS and e.steps == 160
  assert e.flops == 3 * _FORWARD * 60 * 160
  states = 4 * 3 * 4 * _PARAMETERS  # φ and Adam's two moments
  small = 4 * 64  # counts, flags
  assert states <= e.disk_bytes / 2 <= states + small
  on_device = e.device_bytes - _PICTURES - 2 * states
  assert 0 < on_device <= 2 * small + 4 * 4 * 10 * 60


def test_masks_are_bits_in_checkpoints():
  config = sparse_tiny.config(
    methods='static', method_kwargs={}, densities=0.1, alphas=2.0, seeds=1
  )
  s = sparse_settings.check(config)
  made = sparse_lib._prepare(s, None)
  e = sparse_lib._estimate(s, made)
  weights = 64 * 8 + 8 * 10
  states = 2 * 4 * _PARAMETERS  # with momentum
  assert (e.trainings, e.programs, e.steps) == (1, 1, 40)
  assert states + weights / 8 <= e.disk_bytes / 2 <= states + weights / 8 + 64
  assert e.device_bytes > _PICTURES + 2 * (states + weights)


def test_an_estimate_of_sequences():
  s = continual_settings.check(
    continual_run_tiny.config(
      method_kwargs={
        'efficient_packnet': continual_run_tiny.PACKING,
        'l2': {'coefficient': (1.0, 2.0, 3.0)},
      },
      methods=('efficient_packnet', 'l2'),
      search_tasks=2,
    )
  )
  sequence, plans, _ = continual_training._prepare(s, None)
  t = s.training._replace(executor='map')
  one_by_one = s._replace(training=t)
  e = continual_training._estimate(one_by_one, sequence, plans, exact=False)
  assert e.programs == 2 * 2  # by method and α: searches have the same
  e = continual_training._estimate(s, sequence, plans, exact=True)
  # Two α: one sequence with masks, two at most with a penalty, three searches.
  assert e.trainings == 2 * (1 + 2 + 3) and e.programs == 3
  assert e.steps == 6 * 2 * (3 * 3 + 3 * 2)
  assert e.flops == 3 * _FORWARD * 60 * e.steps
  assert e.disk_bytes > 2 * 2 * 4 * _PARAMETERS * e.trainings
  least = continual_training._estimate(s, sequence, plans, exact=False)
  assert least.device_bytes < e.device_bytes
  assert least[:5] == e[:5]  # all but the bytes


@pytest.mark.parametrize(
  'fields, parts',
  [
    (
      {'network_kwargs': {'hidden': (1_000_000_000,)}},
      ['hidden', '75,000,000,010 parameters need', '600 GB', 'smaller'],
    ),
    ({'seeds': 100_000}, ['seeds is 100000', '200,000 trainings', 'lower']),
    ({'seeds': 2_000_000_000}, ['seeds is 2000000000', 'lower seeds']),
  ],
  ids=str,
)
def test_a_run_that_is_too_large(tmp_path, monkeypatch, fields, parts):
  """Before anything is compiled."""
  monkeypatch.setattr(estimates, 'memory', lambda: 10**11)
  monkeypatch.setattr(jax, 'jit', None)
  with pytest.raises(settings.ConfigError) as error:
    tiny.run(tmp_path, **fields)
  text = str(error.value)
  assert all(part in text for part in parts), text
  assert text.endswith('.') and '\n' not in text, text
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']


def test_a_population_that_is_too_large(tmp_path, monkeypatch):
  monkeypatch.setattr(estimates, 'memory', lambda: 100_000)
  with pytest.raises(settings.ConfigError, match='4 trainings of a net'):
    tiny.run(tmp_path)
  monkeypatch.setattr(estimates, 'memory', lambda: 10**9)
  with pytest.raises(settings.ConfigError, match='num_tasks is 10000000'):
    continual_run_tiny.run(tmp_path / 'tasks', num_tasks=10_000_000)
  with pytest.raises(settings.ConfigError, match='search_seeds is 99999999'):
    continual_run_tiny.run(tmp_path / 'search', search_seeds=99_999_999)
  with pytest.raises(settings.ConfigError, match='number of epochs is 1e'):
    continual_run_tiny.run(tmp_path / 'epochs', epochs=1e20)


def test_a_run_that_is_too_long_is_warned_of(monkeypatch, caplog):
  monkeypatch.setattr(estimates, 'matrix_product_rate', lambda: 1e9)
  e, _ = _one_shot(steps=2_000_000_000)
  estimates.check(e)
  assert 'this run will take' in caplog.text and 'days' in caplog.text
  assert '8,000,000,000 steps' in caplog.text
  caplog.clear()
  estimates.check(_one_shot()[0])
  assert not caplog.text


def test_a_period_longer_than_the_training_is_warned_of(caplog):
  adaptive = 'adaptive_powerprop'
  _one_shot(
    transforms=adaptive,
    transform_kwargs={adaptive: {'every': 41}},
    alphas=2.0,
  )
  config = sparse_tiny.config(
    methods=('rigl', 'set', 'snip'), method_kwargs={'set': {'every': 40}}
  )
  sparse_lib._prepare(sparse_settings.check(config), None)
  told = [r.getMessage() for r in caplog.records]
  assert [t.split(' but ')[0] for t in told] == [
    f'transform_kwargs.{adaptive}.every is 41',
    'method_kwargs.rigl.every is 100',  # its default
  ]
  assert all('40 steps' in t and t.endswith('raise steps.') for t in told)


@pytest.mark.parametrize(
  'binary, config',
  [
    ('one_shot', tiny.config),
    ('sparse_training', sparse_tiny.config),
    ('continual', continual_run_tiny.config),
    ('stream', stream_tiny.config),
    ('generative', generative_tiny.config),
  ],
)
def test_a_dry_run_shows_it(monkeypatch, capsys, binary, config):
  monkeypatch.setattr(estimates, 'matrix_product_rate', lambda: 5e10)
  cli.run_or_show(binary, config(), None, None)
  out = capsys.readouterr().out
  for name in ('trainings', 'programs', 'parameters', 'steps', 'FLOPs', 'time'):
    assert f'| {name}' in out
  assert '50 GFLOP/s' in out and 'Nothing was trained' in out
  assert max(map(len, out.splitlines())) <= 100


def test_the_flag(tmp_path):
  flags = ['--config=digits', f'--workdir={tmp_path}/run', '--dry_run']
  given = []
  cli._run(lambda *args: given.append(args), cli.parse('one_shot', flags))
  assert [(workdir, data_dir) for _, workdir, data_dir in given] == [
    (None, None)
  ]
  assert not cli.parse('one_shot', flags[:2]).dry_run
  assert list(tmp_path.iterdir()) == []
