"""Elastic weight consolidation: held by the Fisher information."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from powerprop.methods.continual import anchors
from powerprop.methods.continual import fisher as fishers
from powerprop.methods.continual.sequential import Tasks
from powerprop.types import Ending, Method, Params


def ewc(
  tasks: Tasks,
  *,
  space: str = 'theta',
  fisher: str = 'batch',
  labels: str = 'argmax',
  fisher_examples: int = 0,
) -> Method:
  """Elastic weight consolidation, with an anchor for every task.

  The penalty is Σ_t Σ F_t (p − p_t)² up to a constant. It is kept as one
  quadratic, Σ F (p − m)² with F = Σ_t F_t and m = Σ_t F_t p_t / F, which has
  the same gradient and needs no memory for each task. (ΣF_t p_t itself, in
  float32, would cancel against F p.)

  Args:
    tasks: of the sequence.
    space: 'theta' or 'phi': which parameters are held.
    fisher: 'batch' or 'example', see `fisher.diagonal`.
    labels: 'argmax', 'sampled' or 'true', see there.
    fisher_examples: of each task, for F; 0 is all.

  Returns:
    A method.

  Raises:
    ValueError: for options that do not exist.

  Reference: Kirkpatrick et al., PNAS 2017, eq. (3), as Hsu et al. 2018 run it:
  without its ½, F from minibatches. Its coefficient is in
  `anchors.COEFFICIENTS`.
  """
  measure = _measure(tasks, space, fisher, labels, fisher_examples)

  def update(ending, phi, params, state):
    new = measure(ending, phi)
    importance = anchors.add(state.importance, new)

    def towards(mean, p, part, whole):
      share = jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 1)
      return mean + share * (p - mean)

    return anchors.Anchor(
      importance, jax.tree.map(towards, state.anchor, params, new, importance)
    )

  return anchors.method(tasks, update, space)


def online_ewc(
  tasks: Tasks,
  *,
  space: str = 'theta',
  decay: float = 1.0,
  fisher: str = 'batch',
  labels: str = 'argmax',
  fisher_examples: int = 0,
) -> Method:
  """Online elastic weight consolidation: Ω ← decay · Ω + F, one anchor.

  Args:
    tasks: of the sequence.
    space: 'theta' or 'phi': which parameters are held.
    decay: in [0, 1], what earlier tasks count for; 1 as Hsu et al. have it.
    fisher: 'batch' or 'example', see `fisher.diagonal`.
    labels: 'argmax', 'sampled' or 'true', see there.
    fisher_examples: of each task, for F; 0 is all.

  Returns:
    A method.

  Raises:
    ValueError: for options that do not exist.

  Reference: Schwarz et al., Progress & Compress, ICML 2018, eq. (9), as Hsu et
  al. 2018 run it. Its coefficient is in `anchors.COEFFICIENTS`.
  """
  if not 0 <= decay <= 1:
    raise ValueError(f'decay is {decay} but must be in [0, 1]')
  measure = _measure(tasks, space, fisher, labels, fisher_examples)

  def update(ending, phi, params, state):
    new = measure(ending, phi)
    return anchors.Anchor(anchors.add(state.importance, new, decay), params)

  return anchors.method(tasks, update, space)


def online_laplace(
  tasks: Tasks,
  *,
  space: str = 'theta',
  prior_precision: float = 1.0,
  fisher: str = 'example',
  labels: str = 'sampled',
  fisher_examples: int = 1000,
) -> Method:
  r"""Bayes' rule with a Gaussian posterior of diagonal precision Λ.

  .. math::
    Λ_t = Λ_{t−1} + N_t F_t, \quad Λ_0 = \text{prior precision}

  The posterior of the last task is the prior of the next, whose penalty is
  ½ Σ Λ (p − p*)² / N as the loss is a mean over the N examples of that task.
  The first task has no penalty.

  Args:
    tasks: of the sequence.
    space: 'theta' or 'phi': which parameters are held.
    prior_precision: Λ_0 ≥ 0.
    fisher: 'batch' or 'example', see `fisher.diagonal`.
    labels: 'argmax', 'sampled' or 'true', see there.
    fisher_examples: of each task, for F; 0 is all. The default is ours, for
      the cost of gradients of single examples.

  Returns:
    A method.

  Raises:
    ValueError: for options that do not exist.

  Reference: Ritter et al., Online structured Laplace approximations, NeurIPS
  2018, eq. (8), with a diagonal; Huszár, PNAS 2018. Bayes' coefficient is 1.
  """
  if not prior_precision >= 0:
    raise ValueError(
      f'prior_precision is {prior_precision} but must be at least 0'
    )
  measure = _measure(tasks, space, fisher, labels, fisher_examples)

  def update(ending, phi, params, state):
    size = ending.sizes['train']
    held = sum(jnp.sum(x) for x in jax.tree.leaves(state.importance))
    prior = jnp.where(held == 0, prior_precision, 0.0)
    importance = jax.tree.map(
      lambda old, new: old + size * new + prior,
      state.importance,
      measure(ending, phi),
    )
    return anchors.Anchor(importance, params)

  return anchors.method(
    tasks, update, space, scale=0.5 / tasks.num_train, per_example=True
  )


def _measure(
  tasks: Tasks, space: str, kind: str, labels: str, num_examples: int
) -> Callable[[Ending, Params], Any]:
  """A function of (ending, phi) that gives F of the space."""
  fishers.check(kind, labels, num_examples)

  def measure(ending, phi):
    found = fishers.diagonal(
      ending,
      tasks,
      ending.psi.to_theta(phi),
      kind=kind,
      labels=labels,
      num_examples=num_examples,
    )
    return anchors.by_slope(found, phi, ending.psi, space, 2)

  return measure
