"""Top-KAST: the largest weights compute, a larger set of them learns."""

import math

import jax
import jax.numpy as jnp

from powerprop import trees
from powerprop.methods import masked
from powerprop.methods import targets
from powerprop.methods.targets import Target
from powerprop.types import Change, Event, Masks, Method, Params


def top_kast(
  brief: masked.Brief,
  *,
  backward_density: float = 1.0,
  every: int = 1,
  exploration: float | None = None,
  norm: str = 'l2',
) -> Method:
  """Top-K always sparse training.

  The forward pass uses A, the largest weights of each layer; gradients reach
  B ⊇ A, a larger top-k. The loss has the penalty

  .. math::
    ½c (‖θ_A‖² + ‖θ_{B∖A}‖²/D)  or  c (|θ_A| + |θ_{B∖A}|/D)

  with D the density of A in the layer. It replaces the L2 term of the loss.
  Weights outside B keep their value.

  Args:
    brief: target (that of A) and length of the training.
    backward_density: share of all weights in B, from the target's density to
      1, which is '*' in the paper's tables; '†' is 0.5. Layers lie between
      their share of A and 1 in the same proportion.
    every: refresh period in steps. The paper refreshes at each step and reports
      100 to be as good on ImageNet. On a small CIFAR-10 net training diverged
      with 100 and not with 25 or 1 (docs/results): weights outside A learn for
      so long without being used.
    exploration: c; None is the coefficient of the L2 term. The paper's value
      and norm could not be had: defaults of ours.
    norm: 'l2' or 'l1'.

  Returns:
    A method; training costs 2 f_A + f_B. Moments are kept.

  Raises:
    ValueError: if a value is out of range, or B would be smaller than A.

  Reference: Jayakumar et al., Top-KAST, NeurIPS 2020, section 2, eq. (3).
  """
  share = _share(brief.target, backward_density)
  if every < 1:
    raise ValueError(f'every is {every} but must be at least 1 step')
  if norm not in ('l1', 'l2'):
    raise ValueError(f"norm is {norm!r} but must be 'l1' or 'l2'")
  c = brief.l2 if exploration is None else exploration
  if c < 0:
    raise ValueError(f'exploration is {c} but must be at least 0')

  def init(key, phi, psi, gradient):
    del gradient
    ranks = masked.scores(brief, 'magnitude', key, phi, psi, phi)
    return phi, choose(brief.target, ranks, share)

  def update(event: Event, state):
    del state
    ranks = masked.event_scores(brief, 'magnitude', event)
    return event.phi, event.opt, choose(brief.target, ranks, share)

  return masked.method(
    init,
    masks,
    gradients=lambda dense, theta, state: regularised(
      brief, c, norm, dense, theta, masks(state)
    ),
    change=Change(lambda step: (step + 1) % every == 0, update),
    progress=lambda step: (1.0, share),
  )


def _share(target: Target, backward_density: float) -> float:
  """How far B is on the way from dense to the target, in [0, 1]; checked."""
  total = sum(math.prod(s) for s in target.shapes.values())
  density = sum(target.kept.values()) / total
  if not density - 1e-6 <= backward_density <= 1:
    raise ValueError(
      f'backward_density is {backward_density:g} but must be in'
      f' [{density:.4g}, 1]: the forward pass has that density, and its'
      ' weights are among those that learn'
    )
  share = (1 - backward_density) / (1 - density) if density < 1 else 0.0
  return min(1.0, share)


def choose(
  target: Target, ranks: dict[str, jax.Array], share: float
) -> dict[str, jax.Array]:
  """Both masks in a byte: 1 for B, 2 more for A.

  Args:
    target: that of A.
    ranks: float arrays by layer path; the largest are chosen.
    share: in [0, 1], how far B is on the way from dense to A.

  Returns:
    uint8 arrays by layer path; `masks` takes them apart.
  """
  forward = targets.select(target, ranks, 1.0)
  backward = (
    targets.select(target, ranks, share) if share else masked.everything(target)
  )
  return {
    name: backward[name].astype(jnp.uint8) + 2 * a.astype(jnp.uint8)
    for name, a in forward.items()
  }


def masks(state: dict[str, jax.Array]) -> Masks:
  """A and B of what `choose` gives."""
  return Masks(
    {name: x >= 2 for name, x in state.items()},
    {name: x >= 1 for name, x in state.items()},
  )


def regularised(
  brief: masked.Brief,
  c: float,
  norm: str,
  dense: Params,
  theta: Params,
  sets: Masks,
) -> Params:
  """The gradient in B, with that of the penalty.

  Args:
    brief: of the method; the loss has its L2 term of A already.
    c: coefficient of the penalty, ≥ 0.
    norm: 'l2' or 'l1'.
    dense: ∂L/∂w.
    theta: Ψ(φ).
    sets: A and B.

  Returns:
    A tree like `dense`, zero outside B in the governed layers.
  """
  out = masked.leaves(brief.target, dense)
  for name, x in masked.leaves(brief.target, theta).items():
    a, b = sets.forward[name], sets.backward[name]
    pull = c * (x if norm == 'l2' else jnp.sign(x))
    inverse = x.size / brief.target.kept[name]
    pull = jnp.where(a, pull - brief.l2 * x, inverse * pull)
    out[name] = jnp.where(b, out[name] + pull, 0)
  return trees.replace_weights(dense, out)
