"""One step of a sparse training: the optimiser's update, or new masks."""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from powerprop import reparam
from powerprop import trees
from powerprop.psi import Psi
from powerprop.transforms import target_propagation as target
from powerprop.types import Event, Method, Params

_TINY_SLOPE = 1e-12  # squared


def make_event(
  tx: optax.GradientTransformation,
  key: jax.Array,
  step: jax.Array,
  psi: Psi,
  dense: Params,
  coefficient: Any = 0.0,
  plain: Params = None,
) -> Event:
  """What a method may need to know of a step; φ and moments come later.

  Args:
    tx: `psi.optimizer` of an optax optimiser.
    key: a random key of this step.
    step: int32 scalar, from 0; under vmap the same for all.
    psi: the Ψ that φ is read with.
    dense: ∂L/∂w at the masked weights, for all weights.
    coefficient: of the method's penalty.
    plain: `dense` without what an L2 term of the loss adds; None where there is
      no such term.

  Returns:
    An event for `take_step`.
  """
  reset = functools.partial(reset_moments, tx)
  plain = dense if plain is None else plain
  return Event(key, step, (), psi, (), dense, reset, coefficient, plain)


def take_step(
  method: Method,
  tx: optax.GradientTransformation,
  event: Event,
  theta: Params,
  carry: tuple[Params, Any, Any],
  measure: tuple[Callable[[Any], Any], Any] = (lambda state: (), ()),
) -> tuple[tuple[Params, Any, Any], Any]:
  """Δφ = M_B ⊙ tx(M_B ⊙ ∂L/∂w, M_B ⊙ φ), and new masks where they are due.

  Args:
    method: how the net becomes sparse.
    tx: as in `make_event`.
    event: of `make_event`.
    theta: Ψ(φ).
    carry: φ, the optimiser's state and the method's state.
    measure: a function of the method's state and its last value; it is called
      where masks change.

  Returns:
    The new carry, and what is measured of it.

  Raises:
    ValueError: if α moves, by a schedule or as it adapts, while the method
      holds weights, or if `tx` was made for another α than the event's Ψ.
  """
  phi, opt, state = carry
  if target.moves(opt) and _holds(method, phi, state):
    raise ValueError(
      'alpha follows a schedule or adapts, which re-maps all of φ, but the'
      ' method masks, freezes or keeps weights, which must not move: give'
      ' powerprop a constant alpha.'
    )
  told = event.psi.alpha
  for kept in target.alphas(opt) if isinstance(told, int | float) else ():
    if isinstance(kept, float) and kept != told:
      raise ValueError(
        f'the optimiser was made for alpha = {kept:g} but psi has alpha ='
        f' {told:g}: make it by psi.optimizer.'
      )
  measure_fn, last = measure
  state = method.observe(event.dense, state)

  def learn(phi, opt):
    grads = method.gradients(event.dense, theta, state)
    if method.continual.penalty is not None:
      pull = penalty_gradient(method, phi, theta, event.psi, state)
      grads = jax.tree.map(
        lambda g, p: (g + event.coefficient * p).astype(g.dtype), grads, pull
      )
    # What does not learn must not matter: a trust ratio has norms of layers.
    learning = method.constrain(phi, state)
    updates, opt = tx.update(grads, opt, learning)
    new = optax.apply_updates(phi, method.constrain(updates, state))
    if method.continual.track is None:
      return new, opt, state, last
    after = event.psi.to_theta(new)
    kept = method.continual.track(event.plain, theta, after, state)
    return new, opt, kept, last

  change = method.change
  if change is None:
    *carry, seen = learn(phi, opt)
    return tuple(carry), seen

  def update(phi, opt):
    new = change.update(event._replace(phi=phi, opt=opt), state)
    return *new, measure_fn(new[2])

  if change.replaces_step:
    due = change.due(event.step)
    *carry, seen = jax.lax.cond(due, update, learn, phi, opt)
  else:
    phi, opt, _, _ = learn(phi, opt)
    *carry, seen = jax.lax.cond(
      change.due(event.step), update, lambda p, o: (p, o, state, last), phi, opt
    )
  return tuple(carry), seen


def _holds(method: Method, phi: Params, state: Any) -> bool:
  """Whether a method relies on φ that stand for the same θ at all times."""
  # Heads at rest, or a method's own word; where all weights move, these are the
  # very arrays.
  pairs = zip(
    jax.tree.leaves(phi),
    jax.tree.leaves(method.constrain(phi, state)),
    strict=True,
  )
  return method.constant_alpha or any(x is not y for x, y in pairs)


def penalty_gradient(
  method: Method, phi: Params, theta: Params, psi: Psi, state: Any
) -> Params:
  r"""∂P/∂θ of a method's penalty, as the optimiser wants it.

  Of a penalty on φ it is (∂P/∂φ)/s with the slope s = α|φ|^(α−1), which is
  infinite at φ = 0; what is given there is (∂P/∂φ) s/(s² + 10⁻¹²).

  Args:
    method: with a penalty.
    phi: stored parameters.
    theta: Ψ(φ).
    psi: of φ.
    state: the method's.

  Returns:
    A tree like `theta`, float32 or wider.
  """
  penalty = method.continual.penalty
  assert penalty is not None
  if penalty.space == 'theta':
    return jax.grad(penalty.value)(jax.tree.map(trees.wide, theta), state)

  def through(g, x):
    s = reparam.slope(x, psi.alpha)
    return g * s / (s * s + _TINY_SLOPE)

  phi = jax.tree.map(trees.wide, phi)
  pull = jax.grad(penalty.value)(phi, state)
  return trees.map_where(through, psi.where, pull, phi)


class _Moments:
  """What an optimiser keeps of all weights, a tree like φ, as one leaf."""

  def __init__(self, tree: Any):
    self.tree = tree


def _apart(tx: optax.GradientTransformation, state: Any) -> Any:
  """An optimiser's state with each tree that is like φ as `_Moments`."""
  try:
    return optax.tree.map_params(tx, _Moments, state, is_leaf=lambda _: True)
  except (ArithmeticError, LookupError, TypeError, ValueError) as e:
    raise ValueError(
      'moments are to be reset, but which part of the state of this optimiser'
      ' they are cannot be told, as its init fails on a tree without leaves'
      f' ({e}), as that of optax.flatten does: use one without such a part.'
    ) from e


def _by_path(tree: Any, is_leaf: Any = None) -> dict[tuple[Any, ...], Any]:
  return dict(jax.tree_util.tree_flatten_with_path(tree, is_leaf)[0])


def _owner(path: tuple[Any, ...], weights: Any) -> tuple[Any, ...] | None:
  """The weight of a moment: SM3 keeps a list where a weight has an array."""
  starts = (path[:n] for n in range(len(path), -1, -1))
  return next((start for start in starts if start in weights), None)


def reset_moments(
  tx: optax.GradientTransformation,
  opt: Any,
  phi: Params,
  chosen: Mapping[str, jax.Array] | None,
) -> Any:
  """Sets an optimiser's moments of some weights to what they are at the start.

  Of all weights (`chosen` None), what is kept beside the moments in the same
  node of the state starts again with them, as Adam's correction needs its
  count (and as optax.MultiSteps' counts do). All else goes on: the count of a
  learning rate's schedule, hyperparameters that are injected, and α.

  Args:
    tx: the optimiser.
    opt: its state.
    phi: the parameters.
    chosen: by path, boolean arrays of the weights in question; None is all of
      them.

  Returns:
    A state like `opt`. Where some weights are chosen, moments that are not per
    weight (those that a factored optimiser keeps) stay as they are; see
    `shared_moments`.
  """
  weights = _by_path(phi)
  is_ours = lambda x: isinstance(x, target.PowerpropState)
  ours = {path for path, x in _by_path(opt, is_ours).items() if is_ours(x)}
  old = _apart(tx, opt)
  # Entries of a tuple are the states of a chain: they are not one another's.
  beside = {
    path[:-1]
    for path, x in _by_path(old).items()
    if isinstance(x, _Moments)
    and path
    and not isinstance(path[-1], jax.tree_util.SequenceKey)
  } - ours

  def moment(path, x, start):
    if chosen is None:
      return start
    owner = _owner(path, weights)
    if owner is None or x.shape != weights[owner].shape:
      return x
    mark = chosen.get(trees.path_name(owner))
    return x if mark is None else jnp.where(mark, start, x)

  def part(path, x, start):
    if isinstance(x, _Moments):
      return jax.tree_util.tree_map_with_path(moment, x.tree, start.tree)
    return start if chosen is None and path[:-1] in beside else x

  fresh = _apart(tx, tx.init(phi))
  return jax.tree_util.tree_map_with_path(part, old, fresh)


def shared_moments(tx: optax.GradientTransformation, phi: Params) -> list[str]:
  """Weights of which an optimiser keeps moments in another shape.

  Factored moments (Adafactor's rows and columns) belong to many weights at
  once: they are left alone where the moments of single weights are reset.

  Args:
    tx: an optimiser.
    phi: parameters, or their shapes.

  Returns:
    Paths, each once.
  """
  weights = _by_path(phi)
  found: dict[str, None] = {}
  for part in jax.tree.leaves(_apart(tx, jax.eval_shape(tx.init, phi))):
    if not isinstance(part, _Moments):
      continue
    for path, moment in _by_path(part.tree).items():
      owner = _owner(path, weights)
      # Moments that are kept in another way have a dummy of one entry here.
      if owner is None or moment.size <= 1:
        continue
      if moment.shape != weights[owner].shape:
        found[trees.path_name(owner)] = None
  return list(found)
