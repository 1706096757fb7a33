"""What a sparse training will cost, and what is left of every layer.

Known before the first step: the masks' sizes follow from the target and from
the method's schedule alone.
"""

from collections.abc import Iterator, Mapping
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import costs
from powerprop import trees
from powerprop.methods.targets import Target
from powerprop.types import Method, Params

_HEADERS = (
  'layer',
  'shape',
  'parameters',
  'kept',
  'density',
  'dense FLOPs',
  'sparse FLOPs',
)
_AT_ONCE = 1 << 20  # steps whose costs are in memory
_PREFIXES = (('T', 1e12), ('G', 1e9), ('M', 1e6), ('k', 1e3))


class Row(NamedTuple):
  """One layer of a plan.

  Attributes:
    layer: its path, 'module/name'.
    shape: of its weights; () where it is not known, or for several layers.
    parameters: how many it has.
    kept: how many of them are left at the end.
    density: kept / parameters; 1 for layers that no method governs.
    dense_flops: of a dense forward pass.
    sparse_flops: of a forward pass at the end.
  """

  layer: str
  shape: tuple[int, ...]
  parameters: int
  kept: int
  density: float
  dense_flops: float
  sparse_flops: float


class Plan(NamedTuple):
  """What a training will cost; FLOPs are those of one call of the traced net.

  Attributes:
    rows: the layers, in the order in which the net uses them; last, if there
      are such, 'others': parameters that are no weights, and products of
      activations.
    pooled: whether layers compete for what is kept. What is kept of each is
      then not known before training, and rows hold equal shares.
    inference_ratio: FLOPs of the net at the end, relative to the dense one.
    training_ratio: FLOPs of the training, relative to a dense one of as many
      steps.
  """

  rows: tuple[Row, ...]
  pooled: bool
  inference_ratio: float
  training_ratio: float

  @property
  def total(self) -> Row:
    """The sum of all rows."""
    parameters = sum(r.parameters for r in self.rows)
    kept = sum(r.kept for r in self.rows)
    return Row(
      'total',
      (),
      parameters,
      kept,
      kept / max(parameters, 1),
      sum(r.dense_flops for r in self.rows),
      sum(r.sparse_flops for r in self.rows),
    )

  def layers(self) -> str:
    """A table of the layers in Markdown, with a total."""
    rows = [_cells(r, self.pooled and r.density < 1) for r in self.rows]
    text = _markdown([*rows, _cells(self.total, False)])
    if not self.pooled:
      return text
    return (
      f'{text}\n\nThe layers compete for what is kept: ≈ is what each would'
      ' have in equal shares.'
    )

  def table(self) -> str:
    """The plan in Markdown: the layers, and the ratios."""
    return (
      f'{self.layers()}\n\nFLOPs relative to dense: inference'
      f' {self.inference_ratio:.3f}×, training {self.training_ratio:.3f}×.'
    )


def plan(
  layer_flops: Mapping[str, float],
  params: Params = (),
  *,
  target: Target | None = None,
  method: Method | None = None,
  steps: int = 0,
) -> Plan:
  """Plans a training.

  With r the FLOPs that the target leaves of a forward pass, and p, q the
  shares of the way to it that the forward and the backward masks have gone,

  .. math::
    f_t = 1 − p_t (1 − r),  b_t = 1 − q_t (1 − r)

  and the ratio of training is the mean of cost(f_t, b_t, due_t)/3 over all
  steps.

  Args:
    layer_flops: what `costs.flops` returns for one example.
    params: the net's parameters, arrays or `jax.ShapeDtypeStruct`s; with them
      the plan lists layers that are not governed with their shapes as well.
    target: what the method aims at; None is a dense net.
    method: how it gets there; None is dense training.
    steps: of the training; with 0, what the first step would cost.

  Returns:
    A plan.

  Raises:
    ValueError: if layer_flops has no FLOPs.

  Example:
    >>> import jax.numpy as jnp
    >>> from powerprop import methods
    >>> params = {'a': {'w': jnp.ones((8, 8))}, 'b': {'w': jnp.ones((8, 2))}}
    >>> target = methods.make_target(params, 0.5)
    >>> made = plan({'a/w': 128.0, 'b/w': 32.0}, target=target)
    >>> made.rows[0].kept, made.rows[0].sparse_flops, made.inference_ratio
    (32, 64.0, 0.5)
  """
  rows = tuple(_rows(layer_flops, params, target))
  inference = costs.relative(layer_flops, {r.layer: r.density for r in rows})
  training = 1.0
  if method is not None:
    training = _mean_cost(method, inference, max(steps, 1)) / 3
  pooled = target is not None and target.pooled
  return Plan(rows, pooled, inference, training)


def _rows(
  layer_flops: Mapping[str, float], params: Params, target: Target | None
) -> Iterator[Row]:
  leaves = trees.weights(params, lambda *_: True)
  shapes = {
    path: tuple(x.shape)
    for path, x in leaves.items()
    if path in layer_flops or trees.is_weight(path, x)
  }
  shapes |= {} if target is None else target.shapes
  kept = {} if target is None else target.kept
  for path in dict.fromkeys([*layer_flops, *shapes]):
    if path:
      shape = shapes.get(path, ())
      size = math.prod(shape) if shape else 0
      left = kept.get(path, size)
      density = left / size if size else 1.0
      dense = layer_flops.get(path, 0.0)
      yield Row(path, shape, size, left, density, dense, density * dense)
  rest = [x.shape for path, x in leaves.items() if path not in shapes]
  size = sum(map(math.prod, rest))
  between = layer_flops.get('', 0.0)
  if size or between:
    yield Row('others', (), size, size, 1.0, between, between)


def _mean_cost(method: Method, inference: float, steps: int) -> float:
  def cost(step):
    gone = method.progress(step)
    forward, backward = (1 - share * (1 - inference) for share in gone)
    due = False if method.change is None else method.change.due(step)
    return jnp.asarray(method.cost(forward, backward, due), jnp.float32)

  every = jax.jit(jax.vmap(cost))
  total = 0.0
  for i in range(0, steps, _AT_ONCE):
    part = every(jnp.arange(i, min(i + _AT_ONCE, steps)))
    total += len(part) * float(np.mean(np.asarray(part, np.float64)))
  return total / steps


def _cells(row: Row, approximate: bool) -> list[str]:
  about = '≈ ' if approximate else ''
  known = bool(row.parameters)
  return [
    row.layer,
    '×'.join(map(str, row.shape)),
    _human(row.parameters) if known else '',
    about + _human(row.kept) if known else '',
    f'{about}{100 * row.density:.1f}%' if known else '',
    _human(row.dense_flops),
    about + _human(row.sparse_flops),
  ]


def _markdown(rows: list[list[str]]) -> str:
  """The cells below their headers: two columns of words, then numbers."""
  widths = [
    max(len(header) + 2, *map(len, column))
    for header, *column in zip(_HEADERS, *rows, strict=True)
  ]

  def text(cells):
    aligned = [
      f'{cell:{"<" if i < 2 else ">"}{width}}'
      for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f'| {" | ".join(aligned)} |'

  rule = '|'.join('-' * (width + 2) for width in widths)
  return '\n'.join([text(_HEADERS), f'|{rule}|', *map(text, rows)])


def _human(x: float) -> str:
  """Three digits and a prefix: 25502912 is 25.5M."""
  x = float(f'{x:.3g}')
  for prefix, size in _PREFIXES:
    if x >= size:
      return f'{x / size:.3g}{prefix}'
  return f'{x:.3g}'
