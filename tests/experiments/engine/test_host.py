"""A life on the host, whose states are numbers: nothing is compiled."""

import threading
import time
import types
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import host
from experiments.engine import runs
from experiments.engine import settings
from powerprop.types import Hyper, Score
from tests import tiny

_STEPS = 40


def _settings(**fields):
  return settings.check(tiny.config(steps=_STEPS, **fields))


class _Life:
  """A state that adds up the steps that it has been through."""

  def __init__(self, folder, restarts=False, **fields):
    self.signals = []
    self.world = host.World(self.signals, host.Clock())
    self.said = []
    self.host = host.Host(
      self.world,
      folder,
      jnp.zeros(2),
      _settings(**fields),
      lambda: self.said,
      restarts,
    )
    self.said = self.host.remembered or []

  def chunk(self, state, step, number):
    del number
    return np.asarray(state) * np.float32(1.5) + np.float32(step), step

  def live(self, chunk=None, **kwargs):
    with self.host as life:
      span = life.step, _STEPS
      life.steps(
        chunk or self.chunk, life.state, span, self.said.append, **kwargs
      )
      life.write([])
      life.save()
      life.stop_if_asked()
    return life.state


def _whole(folder):
  return _Life(folder).live()


@pytest.mark.parametrize('broken', [False, True])
def test_a_signal_saves_what_is_done_and_the_life_goes_on(tmp_path, broken):
  first = _Life(tmp_path / 'life', checkpoint_seconds=1e9)

  def chunk(state, step, number):
    if step == 20:
      first.signals.append(15)
      if broken:  # in its midst: it is done again
        return None
    return first.chunk(state, step, number)

  with pytest.raises(runs.Interrupted) as stopped:
    first.live(chunk)
  assert stopped.value.signum == 15
  again = _Life(tmp_path / 'life')
  assert again.host.step == again.host.saved == (20 if broken else 30)
  assert again.said == ([0, 10] if broken else [0, 10, 20])
  np.testing.assert_array_equal(again.live(), _whole(tmp_path / 'whole'))
  assert again.said == [0, 10, 20, 30]


def test_what_a_life_does_not_go_on_from_is_not_saved(tmp_path):
  """As in a retraining: a signal comes back to before it."""
  first = _Life(tmp_path)
  with first.host as life:
    life.task, life.step = 1, _STEPS

    def chunk(state, step, number):
      first.signals.append(15)
      return first.chunk(state, step, number)

    with pytest.raises(runs.Interrupted):
      life.steps(chunk, life.state, (0, 20), lambda _: None, keeps=False)
  again = _Life(tmp_path).host
  again.close()
  assert (again.task, again.step) == (1, _STEPS)
  np.testing.assert_array_equal(again.state, np.zeros(2))


@pytest.mark.parametrize('saves', [True, False])
def test_a_later_try_is_not_saved(tmp_path, saves):
  life = _Life(tmp_path, checkpoint_seconds=1e9)
  life.signals.append(15)
  with pytest.raises(runs.Interrupted):
    life.live(saves=saves)
  assert _Life(tmp_path).host.saved == (10 if saves else None)


def test_checkpoints_come_when_they_are_due(tmp_path):
  often = _Life(tmp_path / 'often', checkpoint_seconds=0.0)
  often.live()
  seldom = _Life(tmp_path / 'seldom', checkpoint_seconds=1e9)
  seldom.live()
  steps = lambda name: sorted(
    int(p.name) for p in (tmp_path / name / 'checkpoints').iterdir()
  )
  assert steps('often') == [30, 40] and steps('seldom') == [40]
  seldom = _Life(tmp_path / 'seldom')
  seldom.host.forget()
  seldom.host.close()
  assert steps('seldom') == []


class _Member(NamedTuple):
  name: str
  learning_rate: float


def _cell(rates):
  """Members at these rates, of whom nothing else is asked."""
  members = tuple(_Member(f'net{i}', r) for i, r in enumerate(rates))
  nothing = np.zeros(len(rates))
  hyper = Hyper(nothing, nothing, np.array(rates, np.float32), nothing)
  return types.SimpleNamespace(members=members, hyper=hyper, stacked=True)


def _train(life, cell, retries=3):
  """Each member adds its rate in each step, and fails above a sum of 5."""
  heard = []

  def chunk(state, hyper, step, number):
    del step
    return np.asarray(state) + number * np.asarray(hyper.learning_rate), 0.0

  def judge(state):
    score = Score(state, state, None)
    return score, ['too much' if x > 5 else '' for x in state]

  with life.host as on_host:
    on_host.start = on_host.state
    tries = on_host.train(
      cell, chunk, _STEPS, judge, heard.append, retries, 0.5
    )
  return tries, heard


def test_those_that_fail_try_again_with_a_lower_rate(tmp_path, caplog):
  life = _Life(tmp_path, restarts=True)
  tries, heard = _train(life, _cell([0.1, 0.3]))
  np.testing.assert_array_equal(tries.number, [1, 3])
  np.testing.assert_array_equal(tries.factor, [1, 0.25])
  np.testing.assert_array_equal(tries.failed, [False, False])
  # The first keeps what it has learned.
  np.testing.assert_allclose(life.host.state, [4, 3], rtol=1e-6)
  np.testing.assert_array_equal(tries.score.value, life.host.state)
  assert len(heard) == 3 * 4
  told = [r.getMessage() for r in caplog.records]
  assert told == [
    f'net1 too much in task 1 at learning rate {rate}: it is tried again with'
    ' a lower one.'
    for rate in ('0.3', '0.15')
  ]


def test_who_fails_to_the_last_is_given_up(tmp_path, caplog):
  life = _Life(tmp_path, restarts=True)
  tries, _ = _train(life, _cell([0.1, 9.0]), retries=1)
  np.testing.assert_array_equal(tries.number, [1, 2])
  np.testing.assert_array_equal(tries.failed, [False, True])
  assert 'at learning rate 4.5: it is given up' in caplog.text


def test_the_start_of_a_task_is_saved_for_a_later_try(tmp_path):
  first = _Life(tmp_path, restarts=True)
  with first.host as life:
    life.state, life.start = jnp.ones(2), jnp.full(2, 0.5)
    life.step = 10
    life.save()
  again = _Life(tmp_path, restarts=True).host
  again.close()
  np.testing.assert_array_equal(again.state, np.ones(2))
  np.testing.assert_array_equal(again.start, np.full(2, 0.5))


def test_one_that_fails_stops_the_others_at_their_next_chunk():
  stopped, there = [], threading.Event()

  def waits(world):
    there.set()
    until = time.monotonic() + 60
    while not world.signals and time.monotonic() < until:
      time.sleep(0.01)
    stopped.extend(world.signals)

  def fails(world):
    del world
    assert there.wait(60)
    raise runs.RunError('no space')

  world = host.World([], host.Clock())
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(host.population, 'workers', lambda: 2)
    with pytest.raises(runs.RunError, match='no space'):
      host.side_by_side([waits, fails], world, 'learning', 2, 'task')
  assert stopped == [0]


def test_side_by_side_gives_what_lives_give_in_their_order():
  world = host.World([], host.Clock())
  lives = [lambda world, i=i: (world.progress.add(), i)[1] for i in range(5)]
  got = host.side_by_side(lives, world, 'learning', 5, 'task')
  assert got == [0, 1, 2, 3, 4]
  assert host.side_by_side([], world, 'learning', 0, 'task') == []


def test_wall_time_of_a_run_is_not_the_sum_of_its_lives(monkeypatch):
  """Two that ran side by side until a kill; 5 s after it."""
  now = [7.0]
  fake = types.SimpleNamespace(monotonic=lambda: now[0])
  monkeypatch.setattr(host, 'time', fake)
  clock = host.Clock()
  clock.after(100.0)
  now[0] += 5.0
  clock.after(90.0)
  assert clock.seconds() == 105.0
