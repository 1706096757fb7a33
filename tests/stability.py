"""Whether what is trained hangs on rounding: the same from a nudged start."""

from collections.abc import Callable, Iterator
import contextlib
import io

import haiku as hk
import jax.numpy as jnp
import pytest


@contextlib.contextmanager
def nudged(size: float = 1e-6) -> Iterator[None]:
  """Moves the weights that Haiku's layers draw by up to `size` of themselves.

  A net that is trained at the edge of stability ends elsewhere then, as it does
  on another processor, whose sums are rounded in another order.

  Args:
    size: relative; float32 rounds to 6e-8.
  """
  draw = hk.initializers.TruncatedNormal.__call__

  def call(self, shape, dtype):
    x = draw(self, shape, dtype)
    turn = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    return x * (1 + size * turn)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(hk.initializers.TruncatedNormal, '__call__', call)
    yield


@contextlib.contextmanager
def printed() -> Iterator[Callable[[], str]]:
  """Gives a function that returns what was printed since it was last called."""
  out = io.StringIO()

  def read() -> str:
    text = out.getvalue()
    out.seek(0)
    out.truncate()
    return text

  with contextlib.redirect_stdout(out):
    yield read
