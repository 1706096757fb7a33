"""Hidden units of a net: what they answer, and which of its leaves are theirs.

A net says what its units are, by passing the activations of every hidden layer
through `publish`. Which leaves make them and which read them is read off the
traced program, so that no layer needs a certain name.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import trees
from powerprop.types import Params

_local = threading.local()


class Layer(NamedTuple):
  """A hidden layer.

  Attributes:
    size: number C of units; of a convolution, its channels.
    kernel: path of the weights that make them, [..., inputs, C]. Inputs are the
      units of the layer before, or several of each one after a flattening: i is
      then of unit i mod C'.
    own: paths of the leaves [..., C] beside it: biases, scales, offsets.
    state: paths of such leaves in the net's state: moving averages.
    frozen: the modules of these that can be frozen, see `freezes`.
  """

  size: int
  kernel: str
  own: tuple[str, ...]
  state: tuple[str, ...]
  frozen: tuple[str, ...] = ()


class Units(NamedTuple):
  """The hidden units of a net, layer by layer from the input.

  Attributes:
    layers: by the name that it was published under.
    output: path of the kernel that reads the last of them.
    output_own: paths of the leaves beside it, such as the outputs' biases.
  """

  layers: dict[str, Layer]
  output: str
  output_own: tuple[str, ...] = ()


def publish(name: str, x: jax.Array) -> jax.Array:
  """Says that x are the activations of a hidden layer's units; changes nothing.

  Call it where the net is traced, and not within a `jit` or a checkpoint of the
  net's own.

  Args:
    name: of the layer.
    x: [batch, ..., C], after the non-linearity.

  Returns:
    x, which the net has to go on with.

  Raises:
    ValueError: if there is such a layer already.
  """
  found = getattr(_local, 'found', None)
  if found is not None:
    if name in found:
      raise ValueError(f'two layers are published as {name!r}: name one anew')
    found[name] = x
  return x


def freezes(module: str) -> None:
  """Says that a module's averages stay where its state has 'frozen', bool [C].

  `powerprop.BatchNorm` does. Call it where its averages are read.

  Args:
    module: as the net's state names it.
  """
  freezing = getattr(_local, 'freezing', None)
  if freezing is not None:
    freezing.add(module)


@contextlib.contextmanager
def _listening() -> Iterator[dict[str, jax.Array]]:
  names = ('found', 'freezing')
  before = {name: getattr(_local, name, None) for name in names}
  _local.found, _local.freezing = {}, set()
  try:
    yield _local.found
  finally:
    vars(_local).update(before)


def with_activations(fn: Callable[..., Any]) -> Callable[..., Any]:
  """fn, which calls a net, with the net's activations beside what it returns.

  Args:
    fn: any function; it is to call one net once.

  Returns:
    (*args) -> (what fn returns, activations [batch, ..., C] by layer).
  """

  def both(*args, **kwargs):
    with _listening() as found:
      out = fn(*args, **kwargs)
    return out, dict(found)

  return both


def find(
  apply: Callable[[Params, Any, Any], jax.Array],
  params: Params,
  state: Any,
  x: Any,
) -> Units:
  """The units of a net whose layers follow one another.

  Args:
    apply: (params, state, x) -> outputs [batch, n].
    params: of the net, or their shapes.
    state: of the net, or its shapes; its leaves have paths like params'.
    x: a batch of inputs, or its shape.

  Returns:
    Its units.

  Raises:
    ValueError: if nothing is published, or a layer does not hang on the one
      before alone, through one kernel: then a unit could not be cut off by
      severing weights.
  """
  order: list[str] = []
  freezing: set[str] = set()

  def both(params, state, x):
    with _listening() as found:
      out = apply(params, state, x)
      freezing.update(_local.freezing)
    order[:] = found  # a pytree of them has them by name
    return out, list(found.values())

  traced, (_, answers) = jax.make_jaxpr(both, return_shape=True)(
    params, state, x
  )
  if not order:
    raise ValueError(
      'the net publishes no activations: pass those of every hidden layer'
      ' through powerprop.publish'
    )
  every = lambda tree: trees.weights(tree, lambda *_: True)
  shapes = {n: leaf.shape for n, leaf in every(params).items()}
  kernels = {n for n, leaf in every(params).items() if trees.is_weight(n, leaf)}
  names = [
    *(f'params:{n}' for n in shapes),
    *(f'state:{n}' for n in every(state)),
    *['input:'] * len(jax.tree.leaves(x)),
  ]
  sources, early = _sources(traced.jaxpr, names, order)
  layers: dict[str, Layer] = {}
  before, size, seen = 'input:', 1, set[str]()
  for name in [*order, '']:
    what = f'the layer {name!r}' if name else 'the output'
    of = lambda kind, name=name: sorted(
      n.partition(':')[2] for n in sources[name] if n.startswith(f'{kind}:')
    )
    made = [n for n in of('params') if n in kernels]
    odd = sources[name] & {'input:', *(f'units:{n}' for n in layers)} - {before}
    if odd or before not in sources[name] or len(made) != 1:
      raise ValueError(
        f'{what} must be made by one kernel out of {before} alone, but is made'
        f' of {", ".join([*made, *sorted(odd)]) or "nothing"}: publish every'
        ' hidden layer, and take a net without short cuts'
      )
    (kernel,) = made
    width = answers[len(layers)].shape[-1] if name else shapes[kernel][-1]
    own = tuple(n for n in of('params') if n != kernel)
    if shapes[kernel][-2] % size or any(
      shapes[n][-1:] != (width,) for n in (kernel, *own)
    ):
      raise ValueError(
        f'{what} has {width} units and the leaf {kernel!r} of shape'
        f' {list(shapes[kernel])} after {size} units, which do not fit: the'
        ' last axis of what makes a layer must be its units, the one before'
        ' its inputs'
      )
    if twice := seen.intersection((kernel, *own)):
      raise ValueError(
        f'{", ".join(sorted(twice))} makes several layers: units that share'
        ' weights cannot be cut off one by one'
      )
    if mixed := early.get(kernel, set()):
      raise ValueError(
        f'{", ".join(sorted(mixed))} acts on what the kernel {kernel!r} reads,'
        ' and so is of the units before it: publish these after it'
      )
    seen |= {kernel, *own}
    if name:
      averages = tuple(of('state'))
      modules = dict.fromkeys(n.rpartition('/')[0] for n in averages)
      frozen = tuple(n for n in modules if n in freezing)
      layers[name] = Layer(width, kernel, own, averages, frozen)
    before, size = f'units:{name}', width
  _check_at_zero(both, (params, state, x), order)
  units = Units(layers, kernel, own)
  _check_inputs(both, (params, state, x), units)
  return units


def _check_at_zero(
  both: Callable[..., Any], args: Any, order: list[str]
) -> None:
  """Raises ValueError if units without weights answer anything but 0."""
  for name, answer in zip(order, both(*_filled(args, 0))[1], strict=True):
    if jnp.any(answer != 0):
      raise ValueError(
        f'units of the layer {name!r} do not answer 0 when all their weights'
        ' are 0, so that they cannot be cut off: take a non-linearity that is 0'
        ' at 0, as ReLU is'
      )


def _filled(tree: Any, value: float) -> Any:
  """A tree of arrays like these (or these shapes), all of one value."""
  return jax.tree.map(lambda a: jnp.full(a.shape, value, a.dtype), tree)


def _readers(units: Units) -> dict[str, str]:
  """By layer, the path of the kernel that reads it."""
  made = [layer.kernel for layer in units.layers.values()]
  return dict(zip(units.layers, [*made[1:], units.output], strict=True))


def _check_inputs(both: Callable[..., Any], args: Any, units: Units) -> None:
  """Raises ValueError if an input is not of the unit that `Layer` says.

  Where a flattening lies between, some units alone answer, by the bits of their
  number: of the inputs of others none may.
  """
  shapes = trees.weights(args[0], lambda *_: True)
  for after, (name, reader) in enumerate(_readers(units).items(), 1):
    layer, inputs = units.layers[name], shapes[reader].shape[-2]
    if inputs == layer.size:
      continue
    reached = _reached(both, args, (layer.kernel, *layer.own), reader, after)
    places = np.arange((layer.size - 1).bit_length())
    bits = np.arange(layer.size) >> places[:, None] & 1
    for kept in np.concatenate([bits, 1 - bits]).astype(bool):
      if np.any(reached(kept) & ~np.tile(kept, inputs // layer.size)):
        raise ValueError(
          f'the {inputs} inputs of the kernel {reader!r} are not in the order'
          f' of the {layer.size} units of the layer {name!r}, each one after'
          ' the other, again and again: flatten with the units as the last axis'
        )


def _reached(
  both: Callable[..., Any],
  args: Any,
  own: tuple[str, ...],
  reader: str,
  after: int,
) -> Callable[[np.ndarray], jax.Array]:
  """Which units answer -> which inputs of the next kernel are not 0.

  Args:
    both: (params, state, x) -> (outputs, answers of all layers).
    args: its arguments, or their shapes.
    own: paths of the leaves that make the units.
    reader: path of the next kernel.
    after: number of the layer that it makes; the outputs are the last.
  """
  params, state, x = _filled(args[0], 0.01), _filled(args[1], 0), args[2]
  # All positive, so that nothing is cut off; a sum is no larger than a term.
  params = jax.tree.map(lambda a: a / a.shape[-2] if a.ndim > 1 else a, params)
  leaves = trees.weights(params, lambda *_: True)

  def reached(kept):
    mine = {n: jnp.where(kept, leaves[n], 0) for n in own}

    def answer(kernel):
      mixed = trees.replace_weights(params, {**mine, reader: kernel})
      out, answers = both(mixed, state, _filled(x, 1))
      return jnp.sum([*answers, out][after])

    slopes = jax.grad(answer)(leaves[reader])
    others = tuple(a for a in range(slopes.ndim) if a != slopes.ndim - 2)
    return jnp.any(slopes != 0, axis=others)

  return reached


def _sources(
  jaxpr: Any, names: list[str], published: list[str]
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
  """What each published layer, and the output (''), is computed from.

  Not through other layers: these are sources of their own, units:NAME. The
  second dict has by path of a leaf that is multiplied, or so, with what comes
  from them the other leaves that come with it.
  """
  known = {v: {n} for v, n in zip(jaxpr.invars, names, strict=True)}
  first = jaxpr.outvars[0]
  layers = dict(zip(jaxpr.outvars[1:], published, strict=True))
  fed = lambda sources: any(n.startswith(('units:', 'input:')) for n in sources)
  leaves = lambda sources: {
    n.partition(':')[2] for n in sources if n.startswith('params:')
  }
  out: dict[str, set[str]] = {}
  early: dict[str, set[str]] = {}
  for eqn in jaxpr.eqns:
    read = [known.get(v, set()) for v in eqn.invars if not hasattr(v, 'val')]
    here: set[str] = set().union(*read)
    for mine in read:
      if len(mine) == 1 and not fed(mine):
        for leaf in leaves(mine):
          others = set().union(*(x for x in read if fed(x)))
          early.setdefault(leaf, set()).update(leaves(others))
    for v in eqn.outvars:
      known[v] = here
      if v in layers:
        out[layers[v]] = here
        known[v] = {f'units:{layers[v]}'}
  out[''] = known[first]
  if lost := [n for n in published if n not in out]:
    raise ValueError(
      f'the layer {lost[0]!r} is the input, or published twice: publish what'
      ' a layer answers, once'
    )
  return out, early


def narrow(
  units: Units, kept: dict[str, Any], params: Params, state: Any = ()
) -> tuple[Params, Any]:
  """The smaller net of some units, for the same net made with fewer.

  Args:
    units: of `find`.
    kept: by layer, bool [C], which units stay; at least one of each.
    params: of the net, in which the others answer 0 or are read by nobody.
    state: of the net.

  Returns:
    Params and state. What makes a layer has its last axis shortened, what reads
    it the axis before.

  Raises:
    ValueError: if a layer would have no unit.
  """
  taken: dict[str, dict[int, np.ndarray]] = {}
  every = trees.weights(params, lambda *_: True)
  own_state = trees.weights(state, lambda *_: True)
  for name, reader in _readers(units).items():
    layer = units.layers[name]
    which = np.asarray(kept[name], bool)
    if not which.any():
      raise ValueError(f'kept[{name!r}] has no unit, but a layer needs one')
    # With an average goes what it is computed from.
    modules = {n.rpartition('/')[0] for n in layer.state}
    beside = [
      n
      for n, x in own_state.items()
      if n.rpartition('/')[0] in modules and x.shape[-1:] == (layer.size,)
    ]
    for path in (layer.kernel, *layer.own, *beside):
      taken.setdefault(path, {})[-1] = np.flatnonzero(which)
    read = np.tile(which, every[reader].shape[-2] // layer.size)
    taken.setdefault(reader, {})[-2] = np.flatnonzero(read)

  def leaf(path, x):
    for axis, rows in taken.get(trees.path_name(path), {}).items():
      x = jnp.take(x, rows, axis)
    return x

  smaller = functools.partial(jax.tree_util.tree_map_with_path, leaf)
  return smaller(params), smaller(state)


def hold_frozen(state: Any, kept: Any) -> Any:
  """A net's state in which what another has frozen is as it is there.

  Args:
    state: of the net, by module, as Haiku has it.
    kept: likewise; of a module that has 'frozen', bool [C], those channels of
      all leaves [..., C] are kept, and 'frozen' itself.

  Returns:
    The state.
  """
  held = {}
  for module, old in kept.items() if isinstance(kept, Mapping) else ():
    if isinstance(old, Mapping) and 'frozen' in old:
      which = old['frozen']
      held[module] = {
        n: jnp.where(which, old[n], x) if x.shape[-1:] == which.shape else x
        for n, x in state[module].items()
        if n != 'frozen'
      } | {'frozen': jnp.copy(which)}
  return {**state, **held} if held else state
