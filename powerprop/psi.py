"""Ψ of a net, said once: its α, which leaves it is for, how steps land on φ."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from powerprop import modules
from powerprop import reparam
from powerprop import transforms
from powerprop import trees
from powerprop.types import Params, Where


class Psi(NamedTuple):
  """What forward pass, optimiser, methods and evaluation share.

  Attributes:
    alpha: a number ≥ 1 (static), or an array (traced). For `optimizer` alone it
      may be a schedule; `at` then gives the Ψ of a step. In a training of
      `powerprop.train` None takes it, traced, from the hyperparameters.
    where: `where(path, leaf)`: which leaves live under Ψ, by their paths in φ.
    transform: (inner, alpha=, where=) -> optax transformation: `powerprop`,
      `chain_rule`, or `adaptive_powerprop` with its arguments.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> psi = Psi(alpha=2.)
    >>> tx = psi.optimizer(optax.sgd(0.1))
    >>> phi = psi.to_phi({'w': jnp.array([[4., -9.]])})
    >>> phi['w'].tolist(), psi.to_theta(phi)['w'].tolist()
    ([[2.0, -3.0]], [[4.0, -9.0]])
  """

  alpha: Any
  where: Where = trees.is_weight
  transform: Callable[..., optax.GradientTransformation] = transforms.powerprop

  def to_theta(self, phi: Params) -> Params:
    """θ = Ψ(φ); see `powerprop.to_theta`."""
    return reparam.to_theta(phi, self.alpha, self.where)

  def to_phi(self, theta: Params) -> Params:
    """φ = Ψ⁻¹(θ); see `powerprop.to_phi`."""
    return reparam.to_phi(theta, self.alpha, self.where)

  def value_and_grad(
    self, fun: Callable[..., Any], has_aux: bool = False
  ) -> Callable[..., Any]:
    """∂L/∂θ of a loss of θ, at φ; see `powerprop.value_and_grad`."""
    return reparam.value_and_grad(fun, self.alpha, self.where, has_aux)

  def reparameterise(self, net: Any, chain_rule: bool = False) -> Any:
    """A Haiku net that takes φ; see `powerprop.reparameterise`."""
    return modules.reparameterise(net, self.alpha, self.where, chain_rule)

  def optimizer(
    self, inner: optax.GradientTransformation
  ) -> optax.GradientTransformationExtraArgs:
    """The optimiser of φ: `inner` under the transform."""
    return optax.with_extra_args_support(
      self.transform(inner, alpha=self.alpha, where=self.where)
    )

  def at(self, opt_state: optax.OptState) -> 'Psi':
    """The Ψ that φ is to be read with, by the state of its optimiser.

    Args:
      opt_state: of `optimizer`, or of any optax wrapper or chain around it.

    Returns:
      The same with the current α.

    Raises:
      ValueError: if the state holds no α, or several.
    """
    return self._replace(alpha=transforms.current_alpha(opt_state))
