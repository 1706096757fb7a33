"""Lines of progress where there is no terminal, and a bar where there is."""

import io
import types

import pytest

from experiments.report import progress
from experiments.report import style


@pytest.fixture
def now(monkeypatch):
  """A clock that a test moves; no real time plays a part."""
  at = [0.0]
  fake = types.SimpleNamespace(monotonic=lambda: at[0])
  monkeypatch.setattr(progress, 'time', fake)
  return at


def test_a_line_now_and_then_and_at_the_end(now, capsys):
  with progress.Progress('learning', 10, 'task', done=2) as bar:
    bar.skip(2)
    for told in ('a', 'b', '', 'd', 'e', 'f'):
      now[0] += 10.0
      bar.add(1, told)
  # The pace is that of what was not done before.
  assert capsys.readouterr().err.splitlines() == [
    'learning: 6 of 10 tasks, 40 s to go; b',
    'learning: 8 of 10 tasks, 20 s to go; d',
    'learning: 10 of 10 tasks, 0 s to go; f',
  ]


def test_nothing_is_said_of_what_takes_no_time(now, capsys):
  with progress.Progress('drawing', None, 'figure') as bar:
    bar.add(1, 'figure1')
  assert capsys.readouterr().err == ''


def test_a_bar_on_a_terminal(monkeypatch):
  terminal = io.StringIO()
  terminal.isatty = lambda: True
  monkeypatch.setattr('sys.stderr', terminal)
  with progress.Progress('training', 4, 'step') as bar:
    bar.add(4, 'loss 0.1')
  assert 'training: 100%' in terminal.getvalue()
  assert '4/4' in terminal.getvalue() and 'loss 0.1' in terminal.getvalue()


def test_drawing_tells_each_figure(now, tmp_path, capsys):
  def figures():
    for name in ('first', 'second'):
      now[0] += 20.0
      yield name, style.Figure(figsize=(1, 1))

  paths = style.save_all(figures(), tmp_path)
  assert [p.name for p in paths] == [
    f'{name}.{kind}' for name in ('first', 'second') for kind in ('png', 'pdf')
  ]
  assert capsys.readouterr().err.splitlines() == [
    'drawing: 1 figure; first',
    'drawing: 2 figures; second',
  ]
