"""Weights that every seed starts from, of a file."""

from collections.abc import Mapping
import os
from typing import Any

from absl import logging
import jax
import numpy as np

from experiments.engine.settings import Settings
from experiments.engine.validation import ConfigError
from experiments.report import weights as weights_lib
from powerprop import sparse_file
from powerprop import trees
from powerprop.types import Params


def read(s: Settings, params: Params, state: Any) -> tuple[Params, Any]:
  """`Recipe.start` of a config.

  Args:
    s: checked settings; `pretrained` is a file that `experiments.export` or
      `powerprop.save_sparse` has written.
    params: of the net, or their shapes.
    state: of the net, or its shapes.

  Returns:
    θ, under the masks of the file, and the net's state, in the dtypes of the
    net. The output layer is drawn where it is of another width.

  Raises:
    ConfigError: if there is no such file, it is damaged, or of another net.
  """
  sparse = s.pretrained.endswith('.safetensors')
  load: Any = sparse_file.load_sparse if sparse else weights_lib.load
  try:
    found = load(os.path.expanduser(s.pretrained))
  except FileNotFoundError:
    raise ConfigError(
      f'pretrained is {s.pretrained!r} but there is no such file: write one by'
      ' python -m experiments.export.'
    ) from None
  except (ImportError, OSError, ValueError) as e:
    raise ConfigError(f'pretrained: {str(e).rstrip(".")}.') from None
  start = (
    _matched(s, 'parameters', found.params, params),
    _matched(s, 'state', found.state, state),
  )
  _tell_of_zeros(s, start[0])
  return start


def _matched(s: Settings, what: str, given: Any, wanted: Any) -> Any:
  """The given leaves in the tree that is wanted; None where one is drawn."""
  every = lambda tree: trees.weights(tree, lambda *_: True)
  there, needed = every(given), every(wanted)
  of = f'pretrained is {s.pretrained!r}, whose {what}'
  remedy = (
    f'take a file of network {s.network!r} with the same network_kwargs, or'
    ' change these'
  )
  for name in needed:
    if name not in there:
      raise ConfigError(f'{of} lack {name!r}: {remedy}.')
  for name in there:
    if name not in needed:
      raise ConfigError(f'{of} have {name!r}, which the net has not: {remedy}.')
  out = {
    name: _leaf(s, f'{of} have {name!r}', name, there[name], x, remedy)
    for name, x in needed.items()
  }
  if drawn := [name for name, x in out.items() if x is None]:
    logging.warning(
      '%s is of another width in %s: each seed draws its own.',
      ', '.join(drawn),
      s.pretrained,
    )
  return jax.tree_util.tree_map_with_path(
    lambda path, _: out[trees.path_name(path)], wanted
  )


def _leaf(
  s: Settings, what: str, name: str, given: Any, wanted: Any, remedy: str
) -> np.ndarray | None:
  """A leaf in the dtype of the net, or None where it is to be drawn."""
  layer = name.rpartition('/')[0]
  if given.shape != wanted.shape:
    if (
      f'/{layer}'.endswith(f'/{s.output_layer}')
      and given.shape[:-1] == wanted.shape[:-1]
    ):
      return None
    raise ConfigError(
      f'{what} of shape {list(given.shape)} where the net has'
      f' {list(wanted.shape)}: {remedy}.'
    )
  out = np.asarray(given).astype(wanted.dtype)
  if not np.all(np.isfinite(out.astype(np.float32))):
    raise ConfigError(
      f'{what}, which is not finite all over: the net has diverged; take'
      ' another.'
    )
  return out


def _tell_of_zeros(s: Settings, start: Mapping[str, Any]) -> None:
  """Warns of weights that Ψ holds at zero."""
  given = trees.weights(start, lambda *_: True)
  kernels = [x for n, x in given.items() if trees.is_weight(n, x)]
  size = sum(x.size for x in kernels)
  zero = size - sum(int(np.count_nonzero(x)) for x in kernels)
  if zero and max(s.alphas) > 1:
    logging.warning(
      'pretrained is %r, in which %d of %d weights are zero: for α > 1 a weight'
      ' at zero does not move, and so stays pruned unless a method grows it.',
      s.pretrained,
      zero,
      size,
    )
