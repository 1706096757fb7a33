"""What the sparse methods have in common: filling in `Method`, regrowing."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import costs
from powerprop import reparam
from powerprop import trees
from powerprop.methods import magnitude
from powerprop.methods import targets
from powerprop.methods.targets import Target
from powerprop.psi import Psi
from powerprop.types import Change, Event, Masks, Method, Params

CRITERIA = ('magnitude', 'random', 'saliency')


class Brief(NamedTuple):
  """What every sparse method is told.

  Attributes:
    target: which weights it governs, and how many of them are to be left.
    steps: optimisation steps of the training, > 0.
    l2: coefficient of ½‖w‖² in the loss.
  """

  target: Target
  steps: int
  l2: float = 0.0


class Window(NamedTuple):
  """When masks change: at `begin`, and every `every` steps before `end`."""

  begin: int
  end: int
  every: int

  def due(self, step: jax.Array) -> jax.Array:
    """Whether `step` is one of them."""
    inside = (step >= self.begin) & (step < self.end)
    return inside & ((step - self.begin) % self.every == 0)


def window(brief: Brief, begin: int, end: int | None, every: int) -> Window:
  """A checked window.

  Args:
    brief: of the method.
    begin: first step, ≥ 0.
    end: its end, a step of the training; None is three quarters of it, as
      RigL's protocol nearly has it (25,000 of 32,000 steps).
    every: steps between two changes, ≥ 1.

  Returns:
    A window.

  Raises:
    ValueError: if it is not within the training.
  """
  end = brief.steps * 3 // 4 if end is None else end
  if every < 1:
    raise ValueError(f'every is {every} but must be at least 1 step')
  if not 0 <= begin <= end:
    raise ValueError(
      f'the mask window [{begin}, {end}] is empty: begin must be in [0, end]'
    )
  if end >= brief.steps:
    raise ValueError(
      f'the mask window ends at step {end}, past the end of training, whose'
      f' last step is {brief.steps - 1}: lower end or raise steps'
    )
  return Window(begin, end, every)


def method(
  init: Callable[..., tuple[Params, Any]],
  masks: Callable[[Any], Masks] = lambda state: Masks(state, state),
  *,
  gradients: Callable[..., Params] | None = None,
  observe: Callable[[Params, Any], Any] = lambda dense, state: state,
  change: Change | None = None,
  progress: Callable[[Any], tuple[Any, Any]] = lambda step: (1.0, 1.0),
  cost: Callable[..., Any] = costs.masked_cost,
  clock: Callable[[Any], Any] = lambda step: step,
  constant_alpha: bool = True,
) -> Method:
  """A `Method` that masks: w = θ ⊙ A, and only weights of B ⊇ A move.

  The gradient at w is dense. What reaches the optimiser is its part in B, with
  the weights of B as its params, and whatever the optimiser makes of it
  (momentum and decay move weights without a gradient) is masked again.

  Args:
    init: see `types.Method`, as for the others.
    masks: state -> its masks; by default the state is the masks of A = B.
    gradients: by default the dense gradient ⊙ B.
    observe: by default looks away.
    change: by default none.
    progress: by default at the target from the first step.
    cost: by default 2 f_A + f_B.
    clock: by default the step.
    constant_alpha: by default it is needed.

  Returns:
    A method.
  """

  def at_backward(dense, theta, state):
    del theta
    return magnitude.prune(dense, masks(state).backward)

  return Method(
    init=init,
    masks=masks,
    weights=lambda theta, state: magnitude.prune(theta, masks(state).forward),
    gradients=at_backward if gradients is None else gradients,
    constrain=lambda u, state: magnitude.prune(u, masks(state).backward),
    observe=observe,
    change=change,
    progress=progress,
    cost=cost,
    clock=clock,
    constant_alpha=constant_alpha,
  )


def fixed(brief: Brief, criterion: str) -> Method:
  """Masks chosen before the first step, by a criterion, and kept."""

  def init(key, phi, psi, gradient):
    dense = gradient(psi.to_theta(phi)) if criterion == 'saliency' else phi
    ranks = scores(brief, criterion, key, phi, psi, dense)
    return phi, targets.select(brief.target, ranks, 1.0)

  return method(init)


def everything(target: Target) -> dict[str, jax.Array]:
  """Masks that keep all weights."""
  return {name: jnp.ones(s, bool) for name, s in target.shapes.items()}


def leaves(target: Target, tree: Params) -> dict[str, jax.Array]:
  """The leaves that the target governs, by path."""
  return trees.weights(tree, lambda path, _: path in target.shapes)


def in_phi(stored: dict[str, jax.Array], psi: Psi) -> dict[str, jax.Array]:
  """Leaves as φ of one α, so that they can be ranked together.

  Args:
    stored: leaves of φ, by path; a governed leaf may not be under Ψ.
    psi: of φ.

  Returns:
    By path, φ as it is, and Ψ⁻¹ of leaves that are not under Ψ if others are.
  """
  under = {name: psi.where(name, x) for name, x in stored.items()}
  if not any(under.values()):
    return stored
  return {
    name: x if under[name] else reparam.inverse_power(trees.wide(x), psi.alpha)
    for name, x in stored.items()
  }


def scores(
  brief: Brief,
  criterion: str,
  key: jax.Array,
  phi: Params,
  psi: Psi,
  dense: Params,
) -> dict[str, jax.Array]:
  """By what weights are ranked; the smallest go first.

  Args:
    brief: which weights.
    criterion: 'magnitude': |φ|, whose order is that of |θ| but which does not
      underflow; |θ| where a layer's pattern adds up several weights.
      'saliency': |θ ∂L/∂w|.
      'random': uniform.
    key: for 'random'.
    phi: stored parameters.
    psi: with which to read them; a leaf that is not under Ψ counts as θ.
    dense: ∂L/∂w; only for 'saliency'.

  Returns:
    Float arrays by layer path.

  Reference: Lee et al., SNIP, ICLR 2019, eq. (6), for the saliency.
  """
  target = brief.target
  stored = leaves(target, phi)
  if criterion == 'random':
    # From 1 to 2: none is zero, and all have the same number of digits.
    return {name: 1 + x for name, x in uniform(key, stored).items()}
  if criterion == 'magnitude' and target.pooled:
    return in_phi(stored, psi)
  wide = {name: trees.wide(x) for name, x in stored.items()}
  theta = psi.to_theta(wide)
  if criterion == 'saliency':
    grads = leaves(target, dense)
    return {name: x * trees.wide(grads[name]) for name, x in theta.items()}
  return {
    name: x
    if target.patterns[name].kind in ('unstructured', 'n_m')
    else theta[name]
    for name, x in stored.items()
  }


def check_criterion(criterion: str) -> None:
  """Raises ValueError where there is no such criterion."""
  if criterion not in CRITERIA:
    raise ValueError(
      f'criterion is {criterion!r} but must be one of {", ".join(CRITERIA)}'
    )


def unstructured_only(brief: Brief, name: str) -> None:
  """Raises ValueError for a pattern: single weights are dropped and grown."""
  for layer, pattern in brief.target.patterns.items():
    if pattern.kind != 'unstructured':
      raise ValueError(
        f'{name} drops and grows single weights and cannot keep the pattern'
        f' {pattern.kind} of layer {layer}: use one_shot, iterative, top_kast,'
        ' static, snip or ac_dc, or leave the pattern out'
      )


def check_regrow(scale: float) -> None:
  """Raises ValueError if new weights would start against their direction."""
  if not 0 <= scale < np.inf:
    raise ValueError(f'regrow is {scale} but must be finite and at least 0')


def regrow(
  phi: dict[str, jax.Array],
  new: dict[str, jax.Array],
  kept: dict[str, jax.Array],
  direction: dict[str, jax.Array],
  psi: Psi,
  scale: float,
) -> dict[str, jax.Array]:
  r"""Gives new weights the value that they start from.

  The papers start them at θ = 0. That works for α = 1 alone: for α > 1 a weight
  at zero has slope zero and never moves. There a new weight starts at

  .. math::
    φ = ±\text{scale} · \text{mean}_{i ∈ kept} |φ_i|

  of its layer: in θ it is scale^α of a common weight, with a slope to move by.
  (A share of the smallest weight that was kept is no start:
  the new ones are then the smallest at the next change, and so every change
  starts them lower.) The rule and its default are ours: Powerpropagation was
  published with methods alone that do not grow weights from zero.

  Args:
    phi: stored weights by layer path.
    new: bool arrays, the weights that start anew.
    kept: bool arrays, those that were kept.
    direction: arrays whose sign a new weight takes.
    psi: of φ; in a layer that is not under it new weights start at zero.
    scale: ≥ 0, of a common weight; 0 starts at zero for every α.

  Returns:
    φ by layer path.
  """

  def layer(x, start, stay, sign):
    total = jnp.sum(jnp.where(stay, trees.wide(jnp.abs(x)), 0))
    value = scale * total / jnp.maximum(jnp.sum(stay), 1)
    value = jnp.where(jnp.asarray(psi.alpha) > 1, value, 0).astype(x.dtype)
    return jnp.where(start, jnp.where(sign < 0, -value, value), x)

  out = {}
  for name, x in phi.items():
    if psi.where(name, x):
      out[name] = layer(x, new[name], kept[name], direction[name])
    else:
      out[name] = jnp.where(new[name], jnp.zeros((), x.dtype), x)
  return out


def check_share(name: str, value: float) -> None:
  """Raises ValueError if a share is outside [0, 1]."""
  if not 0 <= value <= 1:
    raise ValueError(f'{name} is {value} but must be in [0, 1]')


def signs_of(numbers: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """±1 by the last bits of random numbers, of which their order tells nothing.

  Args:
    numbers: float32 arrays of `scores` by the criterion 'random'.

  Returns:
    Arrays of the same shapes.
  """
  last = lambda x: jax.lax.bitcast_convert_type(x, jnp.uint32) & 1
  return {n: 1.0 - 2.0 * last(x) for n, x in numbers.items()}


def uniform(
  key: jax.Array, like: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Random numbers in [0, 1) for every weight, float32.

  All are drawn at once: a generator for each layer took longer to compile than
  all the rest of a change of masks.
  """
  sizes = [x.size for x in like.values()]
  parts = jnp.split(
    jax.random.uniform(key, (sum(sizes),), jnp.float32),
    np.cumsum(sizes)[:-1].tolist(),
  )
  return {
    name: part.reshape(x.shape)
    for part, (name, x) in zip(parts, like.items(), strict=True)
  }


def event_scores(brief: Brief, criterion: str, event: Event) -> Any:
  """`scores` of an event."""
  return scores(
    brief,
    criterion,
    jax.random.fold_in(event.key, 0),
    event.phi,
    event.psi,
    event.dense,
  )
