"""How far something is: a bar, or lines where there is no terminal."""

import sys
import threading
import time
from typing import Self

import tqdm

_LINE_SECONDS = 15.0  # between lines


class Progress:
  """Counts what is done, and tells it on stderr; threads may share it.

  With it as a context, the bar ends with the block.
  """

  def __init__(
    self, what: str, total: int | None, unit: str, done: int = 0
  ) -> None:
    """Starts to count.

    Args:
      what: is being done.
      total: of how many; None where that is not known.
      unit: of one of them, in the singular.
      done: those of an earlier start.
    """
    self._what, self._total, self._unit = what, total, unit
    self._done = self._before = done
    self._begun = self._told = time.monotonic()
    self._lock = threading.Lock()
    self._bar = tqdm.tqdm(
      total=total,
      initial=done,
      desc=what,
      unit=unit,
      unit_scale=(total or 0) >= 10_000,
      dynamic_ncols=True,
      mininterval=0.5,
      disable=not sys.stderr.isatty(),
    )

  def skip(self, number: int) -> None:
    """Some that an earlier start has done: they say nothing of the pace."""
    with self._lock:
      self._done += number
      self._before += number
      self._bar.update(number)

  def add(self, number: int = 1, told: str = '') -> None:
    """Some are done.

    Args:
      number: how many.
      told: what else is to be said.
    """
    with self._lock:
      self._done += number
      if told:
        self._bar.set_postfix_str(told, refresh=False)
      self._bar.update(number)
      now = time.monotonic()
      late = now - self._told >= _LINE_SECONDS or self._done == self._total
      if self._bar.disable and late:
        self._told = now
        print(self._line(now, told), file=sys.stderr, flush=True)

  def _line(self, now: float, told: str) -> str:
    line = f'{self._what}: {self._done:,}'
    if self._total is None:
      line += f' {self._unit}' + ('s' if self._done > 1 else '')
    else:
      pace = (now - self._begun) / (self._done - self._before)
      left = pace * (self._total - self._done)
      line += f' of {self._total:,} {self._unit}s, {left:.0f} s to go'
    return f'{line}; {told}' if told else line

  def close(self) -> None:
    """Ends the bar."""
    self._bar.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *unused_exception: object) -> None:
    self.close()
