"""What a sparse net costs: FLOPs of its traced products, and of its training.

A training step is a forward pass and two backward ones, each about as dear:
the gradient with respect to the activations takes the weights of the forward
pass, and the gradient with respect to the weights is taken where they are
updated. Costs of training are relative to a dense forward pass, per example,
so dense training costs 3. Of the gradient with respect to the weights the cost
is what a sparse implementation needs, whatever the device in fact computes.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, NamedTuple

import jax
from jax.extend import core
import jax.numpy as jnp

from powerprop import trees
from powerprop.types import Masks, Params, Work

_PRODUCTS = ('dot_general', 'conv_general_dilated')


class _Origin(NamedTuple):
  """Which parameters a value is made of.

  Attributes:
    shares: by path, the share of the value's entries; {} where there is none.
    size: how many entries come from parameters, before they are broadcast.
    pure: whether nothing but parameters and constants took part.
  """

  shares: dict[str, float]
  size: int
  pure: bool


_CONSTANT = _Origin({}, 0, True)
_DATA = _Origin({}, 0, False)
_Counts = dict[str, float]


def flops(
  fn: Callable[..., Any], params: Params, *args: Any
) -> dict[str, float]:
  """FLOPs of one call, by the parameter that they are spent on.

  Matrix products and convolutions are counted, 2 for each product of two
  numbers, one to multiply and one to add. A convolution counts output × kernel,
  padded borders included, as in the numbers that RigL publishes; a transposed
  one input × kernel. Elementwise work, pooling and solvers are not counted, and
  of a `shard_map` what one device does.

  A parameter is followed from `params` through reshapes, slices, masks, powers
  and calls to the product that uses it. One that is used twice counts twice, in
  a scan as often as it runs; of a cond the dearest branch counts. Where a
  factor is made of several parameters, as in `w * scale`, the largest is
  charged, and of concatenated ones each with its share.

  Args:
    fn: a pure function; its arrays are only traced, never computed.
    params: a pytree of arrays or of `jax.ShapeDtypeStruct`.
    *args: pytrees of the same kind; what the net is fed with, such as images.

  Returns:
    By path ('module/name'), in the order of first use; products in which no
    parameter takes part, as in attention, under ''.

  Raises:
    ValueError: if a product is in a loop of unknown length, or inside of an
      operation that cannot be read.

  Reference: Evci et al., "Rigging the Lottery" (2020), appendix H.

  Example:
    >>> import jax.numpy as jnp
    >>> params = {'layer': {'w': jnp.ones((3, 4)), 'b': jnp.ones(4)}}
    >>> net = lambda p, x: x @ p['layer']['w'] + p['layer']['b']
    >>> flops(net, params, jnp.ones((1, 3)))
    {'layer/w': 24.0}
  """
  jaxpr = jax.make_jaxpr(fn)(params, *args).jaxpr
  paths = list(trees.weights(params, lambda *_: True))
  origins = [
    _Origin({path: 1.0}, _size(v), True)
    for path, v in zip(paths, jaxpr.invars, strict=False)
  ]
  origins += [_DATA] * (len(jaxpr.invars) - len(paths))
  counts, _ = _walk(jaxpr, origins, frozenset(trees.weights(params)))
  return counts


def relative(
  layer_flops: Mapping[str, float], densities: Mapping[str, float]
) -> float:
  """FLOPs of a sparse forward pass relative to the dense one.

  Σ_l d_l f_l / Σ_l f_l

  Args:
    layer_flops: as `flops` returns them.
    densities: share kept in [0, 1] by path; layers without one are dense.

  Returns:
    A number in [0, 1].

  Raises:
    ValueError: if there are no FLOPs at all.

  Example:
    >>> relative({'a/w': 30.0, 'b/w': 10.0}, {'a/w': 0.5})
    0.625
  """
  total = sum(layer_flops.values())
  if not total:
    raise ValueError(
      'no layer has any FLOPs; trace a function that uses its parameters in'
      ' matrix products or convolutions.'
    )
  return sum(f * densities.get(p, 1.0) for p, f in layer_flops.items()) / total


def masked_cost(forward: Any, backward: Any, due: Any) -> Any:
  """2 f_A + f_B: forward over A, gradients of activations, and weights in B.

  Static masks, SNIP, SET, iterative pruning and AC/DC have A = B, and with it
  3 f_A; Top-KAST has B ⊇ A, dense at a backward sparsity of zero.

  Args:
    forward: FLOPs of a forward pass over A; a float or an array.
    backward: the same over B.
    due: whether the masks change at this step; makes no difference here.

  Returns:
    FLOPs of a training step per example, in units of the dense forward pass.

  Reference: Evci et al. (2020), appendix H; Jayakumar et al., "Top-KAST"
    (2020), section 2.2.
  """
  del due
  return 2 * forward + backward


def rigl_cost(forward: Any, backward: Any, due: Any) -> Any:
  """3 f_S, and 2 f_S + f_D where RigL asks for the gradient of all weights.

  Args:
    forward: f_S, FLOPs of a forward pass over the masked weights.
    backward: not used: the updated weights are those of the forward pass.
    due: bool, whether the masks change at this step; an array or a Python one.

  Returns:
    FLOPs of a training step per example, in units of the dense forward pass.

  Reference: Evci et al. (2020), appendix H.
  """
  del backward
  return jnp.where(due, 2 * forward + 1, 3 * forward)


def snfs_cost(forward: Any, backward: Any, due: Any) -> Any:
  """2 f_S + f_D: the momentum of all weights is kept at every step.

  Args:
    forward: f_S, FLOPs of a forward pass over the masked weights.
    backward: not used.
    due: not used.

  Returns:
    FLOPs of a training step per example, in units of the dense forward pass.

  Reference: Dettmers and Zettlemoyer, "Sparse networks from scratch" (2019);
    Evci et al. (2020), appendix H.
  """
  del backward, due
  return 2 * forward + 1


def work(
  layer_flops: Mapping[str, float], masks: Masks, training: jax.Array
) -> Work:
  """What masks cost, as a training's state has it.

  Args:
    layer_flops: of `flops`, or {}.
    masks: which weights take part.
    training: FLOPs of the steps so far, relative to dense.

  Returns:
    The FLOPs of a forward pass over the masks' sets, and their density.
  """
  total = sum(layer_flops.values())

  def of(chosen):
    saved = [
      layer_flops.get(name, 0.0) * (1 - jnp.mean(mask))
      for name, mask in chosen.items()
    ]
    return jnp.asarray(1 - sum(saved) / total if total else 1.0, jnp.float32)

  kept = [jnp.sum(m, dtype=jnp.int32) for m in masks.forward.values()]
  size = sum(m.size for m in masks.forward.values())
  return Work(
    density=jnp.asarray(sum(kept) / size if size else 1.0, jnp.float32),
    forward=of(masks.forward),
    backward=of(masks.backward),
    training=jnp.asarray(training, jnp.float32),
  )


def _size(v: Any) -> int:
  return math.prod(getattr(v.aval, 'shape', ()))


def _rank(origin: _Origin) -> tuple[bool, int, int]:
  """What decides whose a value is; a mask cut from many leaves comes last."""
  return origin.pure, origin.size, -len(origin.shares)


def _mix(
  origins: Sequence[_Origin], size: int, weights: frozenset[str]
) -> _Origin:
  """The origin of a value of `size` entries that is made of several."""
  pure = all(o.pure for o in origins)
  # Data are no parameter for having met one: of what is made of both, only a
  # weight that the data fit into, as they do when they are a mask or an α, goes
  # on. A bias or a scale, or a weight spread over a batch, does not.
  known = [
    o
    for o in origins
    if o.shares and (pure or (o.size >= size and weights.issuperset(o.shares)))
  ]
  if not known:
    return _CONSTANT if pure else _DATA
  best = max(known, key=_rank)
  return best._replace(size=min(best.size, size), pure=pure)


def _add(total: _Counts, counts: _Counts, times: float = 1.0) -> None:
  for path, n in counts.items():
    total[path] = total.get(path, 0.0) + times * n


def _walk(
  jaxpr: Any, origins: Sequence[_Origin], weights: frozenset[str]
) -> tuple[_Counts, list[_Origin]]:
  """Counts of a jaxpr and the origins of what it returns."""
  env = dict(zip(jaxpr.invars, origins, strict=True))
  total: _Counts = {}

  def read(atom: Any) -> _Origin:
    if isinstance(atom, core.Literal):
      return _CONSTANT
    return env.get(atom, _CONSTANT)  # what is not in it is a captured constant

  for eqn in jaxpr.eqns:
    counts, outs = _equation(eqn, [read(v) for v in eqn.invars], weights)
    _add(total, counts)
    for v, o in zip(eqn.outvars, outs, strict=True):
      env[v] = o._replace(size=min(o.size, _size(v)))
  return total, [read(v) for v in jaxpr.outvars]


def _equation(
  eqn: Any, ins: list[_Origin], weights: frozenset[str]
) -> tuple[_Counts, list[_Origin]]:
  name, outvars = eqn.primitive.name, eqn.outvars
  bodies = list(core.jaxprs_in_params(eqn.params))
  if name in _PRODUCTS:
    return _product(eqn, ins, weights)
  if name == 'scan':
    return _scan(eqn, ins, weights)
  if name == 'while':
    if any(map(_has_products, bodies)):
      raise ValueError(
        'a while loop holds a product, and how often it runs is unknown; give a'
        ' fori_loop fixed bounds, or use a scan.'
      )
    consts = eqn.params['cond_nconsts']
    body = eqn.params['body_jaxpr'].jaxpr
    split = consts + eqn.params['body_nconsts']
    return _loop(body, ins[consts:split], ins[split:], [], weights)
  if name == 'cond':
    branches = [_walk(body, ins[1:], weights) for body in bodies]
    counts = max((c for c, _ in branches), key=lambda c: sum(c.values()))
    by_output = zip(outvars, *(outs for _, outs in branches), strict=True)
    return counts, [_mix(o, _size(v), weights) for v, *o in by_output]
  for body in bodies:  # jit, checkpoint, custom derivatives
    if (len(body.invars), len(body.outvars)) == (len(ins), len(outvars)):
      return _walk(body, ins, weights)
  if any(map(_has_products, bodies)):
    raise ValueError(
      f'the products inside of {name!r} cannot be counted; trace the net'
      ' without it.'
    )
  if [_size(v) for v in eqn.invars] == [_size(v) for v in outvars]:
    return {}, ins  # one by one, as an optimisation barrier
  if name == 'concatenate':
    return {}, [_concatenated(eqn, ins, weights)]
  return {}, [_mix(ins, _size(v), weights) for v in outvars]


def _concatenated(
  eqn: Any, ins: list[_Origin], weights: frozenset[str]
) -> _Origin:
  if not all(o.pure for o in ins):
    return _mix(ins, _size(eqn.outvars[0]), weights)
  # Constants, such as a padding, own nothing.
  owned = [(o, _size(v)) for o, v in zip(ins, eqn.invars, strict=True)]
  total = sum(n for o, n in owned if o.shares)
  shares: dict[str, float] = {}
  for o, n in owned:
    _add(shares, o.shares, n / max(total, 1))
  return _Origin(shares, sum(o.size for o in ins), True)


def _product(
  eqn: Any, ins: list[_Origin], weights: frozenset[str]
) -> tuple[_Counts, list[_Origin]]:
  (out,) = eqn.outvars
  left, right = (v.aval for v in eqn.invars)
  numbers = eqn.params['dimension_numbers']
  if eqn.primitive.name == 'dot_general':
    (contracted, _), _ = numbers
    n = _size(out) * math.prod(left.shape[i] for i in contracted)
  else:
    outputs, inputs = (right.shape[i] for i in numbers.rhs_spec[:2])
    if max(eqn.params['lhs_dilation'], default=1) > 1:
      groups = (
        eqn.params['feature_group_count'] * eqn.params['batch_group_count']
      )
      n = left.size * right.size // (inputs * groups)
    else:
      n = _size(out) * right.size // outputs
  owner = max((o for o in ins if o.shares), key=_rank, default=None)
  shares = {'': 1.0} if owner is None else owner.shares
  made_of_parameters = all(o.shares and o.pure for o in ins)
  origin = _mix(ins, _size(out), weights) if made_of_parameters else _DATA
  return {path: 2.0 * n * share for path, share in shares.items()}, [origin]


def _scan(
  eqn: Any, ins: list[_Origin], weights: frozenset[str]
) -> tuple[_Counts, list[_Origin]]:
  body = eqn.params['jaxpr'].jaxpr

  def is_stacked(outer: Any, inner: Any) -> bool:
    return len(outer.aval.shape) > len(inner.aval.shape)

  # JAX has changed the parameters that say so; the shapes say it as well.
  num_xs = sum(map(is_stacked, eqn.invars, body.invars))
  num_carry = len(eqn.outvars) - sum(map(is_stacked, eqn.outvars, body.outvars))
  num_consts = len(ins) - num_xs - num_carry
  sliced = [
    o._replace(size=min(o.size, _size(v)))
    for o, v in zip(ins, body.invars, strict=True)
  ]
  counts, outs = _loop(
    body,
    sliced[:num_consts],
    sliced[num_consts : num_consts + num_carry],
    sliced[num_consts + num_carry :],
    weights,
  )
  total: _Counts = {}
  _add(total, counts, eqn.params['length'])
  return total, outs


def _loop(
  body: Any,
  consts: list[_Origin],
  carry: list[_Origin],
  xs: list[_Origin],
  weights: frozenset[str],
) -> tuple[_Counts, list[_Origin]]:
  """Counts of one round, once the origins of what it carries have settled."""
  carried = body.invars[len(consts) : len(consts) + len(carry)]
  while True:
    counts, outs = _walk(body, [*consts, *carry, *xs], weights)
    settled = [
      _mix(pair, _size(v), weights)
      for v, *pair in zip(carried, carry, outs[: len(carry)], strict=True)
    ]
    if settled == carry:
      return counts, [*carry, *outs[len(carry) :]]
    carry = settled


def _has_products(jaxpr: Any) -> bool:
  return any(
    eqn.primitive.name in _PRODUCTS
    or any(map(_has_products, core.jaxprs_in_params(eqn.params)))
    for eqn in jaxpr.eqns
  )
