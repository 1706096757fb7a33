"""What rounding decides: an experiment from weights moved by a millionth.

  python -m benchmarks.nudged continual --config=configs/digits_continual.py \
    --workdir=runs/nudged/digits_continual

runs `python -m experiments.continual` with these flags, but that the weights
which Haiku's layers draw are moved by up to 1e-6 of themselves. Where its
results are others than those of the plain run, the last bit of a processor's
sums decides them.
"""

from collections.abc import Iterator
import contextlib
import sys
from unittest import mock

import haiku as hk
import jax.numpy as jnp

from experiments.engine import cli


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

  with mock.patch.object(hk.initializers.TruncatedNormal, '__call__', call):
    yield


if __name__ == '__main__':
  _, binary, *flags = sys.argv
  sys.argv = [binary, *flags]
  with nudged():
    cli.main(binary, __doc__)
