"""Leaves that belong to one task alone, which no method sees.

While a task is learned its state holds the task's private leaves and no others:
φ is a dict of what the method makes of the shared leaves and, by their paths,
of the private ones, as {'decoder': …, 'encoder/w': …}, or of VCL {'mean': …,
'spread': …, 'encoder/w': …}. So the optimiser has them all, each under the path
that Ψ's `where` knows, and a state does not grow with the number of tasks.
"""

from collections.abc import Mapping
from typing import Any

import jax

from powerprop import trees
from powerprop.types import Ending, Method, Params, Problem


def split(
  tree: Params, paths: tuple[str, ...]
) -> tuple[Params, dict[str, jax.Array]]:
  """Takes leaves out of a tree.

  Args:
    tree: of dicts in one another, such as θ.
    paths: of leaves; () takes none.

  Returns:
    The tree without them, and without the dicts that they leave empty; and the
    leaves by path.

  Raises:
    ValueError: if there is no such leaf in its dicts.
  """
  if not paths:
    return tree, {}
  left, taken = _without(tree, paths, '')
  if missing := [path for path in paths if path not in taken]:
    there = list(trees.weights(tree, lambda *_: True))
    raise ValueError(
      f'private has {", ".join(missing)} but must be of the leaves in the dicts'
      f' of the parameters, which are {", ".join(there)}'
    )
  return left, taken


def _without(tree, paths, prefix):
  left, taken = {}, {}
  for key, x in tree.items() if isinstance(tree, Mapping) else ():
    path = f'{prefix}{key}'
    if path in paths:
      taken[path] = x
    elif isinstance(x, Mapping):
      inner, more = _without(x, paths, f'{path}/')
      taken |= more
      if inner or not more:
        left[key] = inner
    else:
      left[key] = x
  return left, taken


def merged(
  like: Params, shared: Params, own: Mapping[str, jax.Array]
) -> Params:
  """The inverse of `split`, for leaves of any values.

  Args:
    like: what was split, or its shapes.
    shared: what was left of it.
    own: the leaves by path.

  Returns:
    A tree of the structure of `like`.
  """
  every = {**trees.weights(shared, lambda *_: True), **own}
  return trees.replace_weights(like, every)


def around(method: Method, problem: Problem) -> Method:
  """The same method, for all of a problem's φ: it sees the shared part alone.

  It neither penalises, masks, ranks, samples nor archives the private leaves,
  which move as in plain training.

  Args:
    method: made for the shared leaves, `split(θ, problem.private)[0]`.
    problem: that it learns.

  Returns:
    A method; of a problem without private leaves, the same.

  Raises:
    ValueError: if the method learns from examples of earlier tasks, or changes
      masks in mid-training.
  """
  paths = problem.private
  if not paths:
    return method
  check(method, problem)
  like, _ = jax.eval_shape(problem.init, jax.random.key(0))
  part = lambda tree: _parted(tree, paths)
  of_net = lambda tree: split(tree, paths)
  continual = method.continual

  def init(key, phi, psi, gradient):
    shared, own = of_net(phi)

    def of_shared(theta):
      return of_net(gradient(merged(like, theta, psi.to_theta(own))))[0]

    new, state = method.init(key, shared, psi, of_shared)
    return {**new, **own}, state

  def computing(fn):  # θ and state (or a record) -> w
    def weights(theta, state):
      shared, own = part(theta)
      return merged(like, fn(shared, state), own)

    return weights

  def gradients(dense, theta, state):
    shared, own = of_net(dense)
    return {**method.gradients(shared, part(theta)[0], state), **own}

  def constrain(tree, state):
    shared, own = part(tree)
    return {**method.constrain(shared, state), **own}

  def at_end(fn):  # `end_task` and `archive`
    def of_shared(ending, phi, state):
      shared, own = part(phi)
      seen = _ending(ending, paths, like, ending.psi.to_theta(own))
      new, state, found = fn(seen, shared, state)
      return {**new, **own}, state, found

    return of_shared

  penalty, track = continual.penalty, continual.track
  expected, again = continual.expected, continual.retraining
  if penalty is not None:
    value = penalty.value
    penalty = penalty._replace(
      value=lambda params, state: value(part(params)[0], state)
    )
  return method._replace(
    init=init,
    weights=computing(method.weights),
    gradients=gradients,
    constrain=constrain,
    observe=lambda dense, state: method.observe(of_net(dense)[0], state),
    continual=continual._replace(
      penalty=penalty,
      track=None
      if track is None
      else lambda plain, before, after, state: track(
        of_net(plain)[0], part(before)[0], part(after)[0], state
      ),
      expected=None if expected is None else computing(expected),
      end_task=at_end(continual.end_task),
      retraining=None if again is None else around(again, problem),
      archive=at_end(continual.archive),
      predict=computing(continual.predict),
    ),
  )


def check(method: Method, problem: Problem) -> None:
  """Raises ValueError if a method cannot do with private leaves."""
  continual = method.continual
  if not problem.private:
    return
  some = ', '.join(problem.private[:3])
  if continual.joint or continual.rehearsal is not None or continual.remembers:
    raise ValueError(
      'the method learns from examples of earlier tasks, whose private leaves'
      f' ({some}) are not there any more: choose one that learns each task from'
      ' its own examples, or let tasks have parts of a leaf (Problem.own)'
    )
  if method.change is not None:
    raise ValueError(
      'the method changes masks in mid-training, which is not done beside'
      f' leaves of one task alone ({some}): choose one for several tasks'
    )


def _parted(
  tree: dict[str, Any], paths: tuple[str, ...]
) -> tuple[Params, dict[str, jax.Array]]:
  """φ, or what is like it: (the method's, the private leaves by path)."""
  shared = {key: x for key, x in tree.items() if key not in paths}
  return shared, {path: tree[path] for path in paths}


def _ending(
  ending: Ending, paths: tuple[str, ...], like: Params, own: Any
) -> Ending:
  """An ending whose functions take the shared leaves of w, with these θ."""
  whole = lambda w: merged(like, w, own)
  return ending._replace(
    score=lambda w, *rest: ending.score(whole(w), *rest),
    log_likelihood=lambda w, *rest: ending.log_likelihood(whole(w), *rest),
    outputs=lambda w, batch: ending.outputs(whole(w), batch),
    activations=lambda w, batch: ending.activations(whole(w), batch),
    fresh=lambda: split(ending.fresh(), paths)[0],
  )
