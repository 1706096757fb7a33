"""A member's life through a sequence of tasks, as pure functions."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from powerprop import private
from powerprop import train
from powerprop import trees
from powerprop.methods import step as steps_lib
from powerprop.psi import Psi
from powerprop.train import Recipe
from powerprop.train import Training
from powerprop.types import (
  Ending,
  Hyper,
  Method,
  Params,
  Problem,
  Score,
  TrainState,
)


class Life(NamedTuple):
  """The pure functions of one member; a population vmaps them.

  `source` is the problem's: it says which task. All tasks have the same
  shapes, so each function is compiled once.

  Attributes:
    start: (hyper, source) -> the state before the first task.
    begin: (state, hyper) -> the state before a task's first step.
    choose: (state, hyper, source) -> that state, with the way to learn the task
      that `Continual.trial` chooses; None where there is nothing to choose.
    chunk: (state, hyper, source, step, number of steps) -> state, mean loss;
      steps count from the task's first. See `train.Training`.
    rechunk: the same in the retraining phase; None where there is none.
    end: (state, hyper, source) -> state, report of the method.
    archive: (state, hyper, source) -> state, record of the task: what the
      method keeps, the net's own state where that is not (), and θ of the
      problem's private leaves by path, {} where it has none.
    live: (state, source, split) -> Score of the net as it is being trained.
    params_for: (state, record) -> w, the net of the task whose record it is.
    recall: (state, record, source, split) -> Score of that net.
  """

  start: Callable[..., TrainState]
  begin: Callable[..., TrainState]
  choose: Callable[..., TrainState] | None
  chunk: Callable[..., tuple[TrainState, jax.Array]]
  rechunk: Callable[..., tuple[TrainState, jax.Array]] | None
  end: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
  archive: Callable[..., tuple[TrainState, Any]]
  live: Callable[..., Score]
  params_for: Callable[..., Params]
  recall: Callable[..., Score]


class _Member(NamedTuple):
  """What the functions of one life are about; all of it is static."""

  recipe: Recipe
  psi: Psi
  method: Method
  training: Training


def make_life(
  recipe: Recipe,
  psi: Psi,
  method: Method,
  reset_optimizer: bool = False,
  retrain_schedule: Callable[[jax.Array], jax.Array] | None = None,
  retrain_steps: tuple[int, ...] = (),
) -> Life:
  """Builds the functions of one member.

  Args:
    recipe: what the population shares; its problem has several tasks.
    psi: as `train.make_training` takes it.
    method: how it learns tasks.
    reset_optimizer: whether every task begins with fresh moments; where it
      begins with a new net it does in any case.
    retrain_schedule: step -> factor on the learning rate in the retraining
      phase; None is 1.
    retrain_steps: of that phase, as `train.Recipe.task_steps`.

  Returns:
    Functions to be jitted, vmapped and sharded at will.
  """
  method = private.around(method, recipe.problem)
  training = train.make_training(recipe, psi, method)
  it = _Member(recipe, psi, method, training)
  rechunk = None
  if method.continual.retraining is not None:
    again = train.make_training(
      recipe._replace(schedule=retrain_schedule, task_steps=retrain_steps),
      psi,
      method.continual.retraining,
    )
    rechunk = functools.partial(_chunk, it._replace(training=again), 1)
  return Life(
    start=training.init,
    begin=functools.partial(_begin, it, reset_optimizer),
    choose=functools.partial(_choose, it) if method.continual.trial else None,
    chunk=functools.partial(_chunk, it, 0),
    rechunk=rechunk,
    end=functools.partial(_end, it),
    archive=functools.partial(_archive, it),
    live=functools.partial(_live, it),
    params_for=functools.partial(_params_for, it),
    recall=functools.partial(_recall, it),
  )


def _begin(
  it: _Member, reset_optimizer: bool, state: TrainState, hyper: Hyper
) -> TrainState:
  opt = state.opt
  if reset_optimizer or it.method.continual.anew:
    inner = it.recipe.optimizer(hyper.learning_rate)
    opt = train.at_start(it.psi, hyper).optimizer(inner).init(state.phi)
  return state._replace(
    opt=opt, step=jnp.zeros((), jnp.int32), finite=jnp.asarray(True)
  )


def _choose(
  it: _Member, state: TrainState, hyper: Hyper, source: Any
) -> TrainState:
  trial = it.method.continual.trial
  assert trial is not None
  way = lambda i: state._replace(method=trial.state(state.method, i))

  def loss(i):
    _, mean = _chunk(it, 0, way(i), hyper, source, 0, trial.steps)
    return jnp.where(jnp.isfinite(mean), mean, jnp.inf)

  # In turn, so that it is one program and a state at a time.
  losses = jax.lax.map(loss, jnp.arange(trial.ways, dtype=jnp.int32))
  return way(jnp.argmin(losses).astype(jnp.int32))


def _chunk(
  it: _Member,
  phase: int,
  state: TrainState,
  hyper: Hyper,
  source: Any,
  step: Any,
  num_steps: int,
) -> tuple[TrainState, jax.Array]:
  hyper = of_task(it.recipe.problem, hyper, source, phase)
  return it.training.chunk(state, hyper, source, step, num_steps)


def _end(
  it: _Member, state: TrainState, hyper: Hyper, source: Any
) -> tuple[TrainState, dict[str, jax.Array]]:
  phi, kept, report = it.method.continual.end_task(
    ending(it.recipe, it.psi, state, hyper, source, 2), state.phi, state.method
  )
  return state._replace(phi=phi, method=kept), report


def _archive(
  it: _Member, state: TrainState, hyper: Hyper, source: Any
) -> tuple[TrainState, Any]:
  continual = it.method.continual
  phi, kept, record = continual.archive(
    ending(it.recipe, it.psi, state, hyper, source, 3), state.phi, state.method
  )
  after = state._replace(phi=phi, method=kept)
  # Where a task keeps its net, the net's own state (moving averages) as well.
  net_state = state.net if jax.tree.leaves(record) else ()
  # As θ: the α that φ is read with may move on.
  paths = it.recipe.problem.private
  alone: dict[str, jax.Array] = {}
  if paths:
    theta = it.training.read(state)
    alone = trees.copied({path: theta[path] for path in paths})
  if jax.tree.leaves(net_state) and continual.average_examples:
    w = _params_for(it, after, (record, net_state, alone))
    net_state = _averaged(
      it.recipe, w, net_state, hyper, source, continual.average_examples
    )
  if continual.freeze is not None:
    own = net_state if jax.tree.leaves(record) else state.net
    after = after._replace(net=continual.freeze(state.net, own, kept))
  if continual.anew:
    seed = of_task(it.recipe.problem, hyper, source, 3).seed
    after = after._replace(net=_anew(it.recipe, jax.random.key(seed))[1])
  if paths:
    after = _drawn(it, after, hyper, source)
  return after, (record, net_state, alone)


def _drawn(
  it: _Member, state: TrainState, hyper: Hyper, source: Any
) -> TrainState:
  """The state with private leaves for the next task, and fresh moments."""
  recipe = it.recipe
  key = jax.random.key(of_task(recipe.problem, hyper, source, 3).seed)
  theta, _ = _anew(recipe, key)
  _, fresh = private.split(theta, recipe.problem.private)
  phi = {**state.phi, **it.psi.at(state.opt).to_phi(fresh)}
  inner = recipe.optimizer(hyper.learning_rate)
  tx = train.at_start(it.psi, hyper).optimizer(inner)
  every = {path: jnp.ones(x.shape, bool) for path, x in fresh.items()}
  opt = steps_lib.reset_moments(tx, state.opt, phi, every)
  return state._replace(phi=phi, opt=opt)


def _live(it: _Member, state: TrainState, source: Any, split: str) -> Score:
  w = it.training.weights(state)
  return it.recipe.problem.score(w, state.net, source, split)


def _params_for(it: _Member, state: TrainState, record: Any) -> Params:
  kept, _, own = record
  theta = it.training.read(state)
  theta = {**theta, **own} if own else theta
  return it.method.continual.predict(theta, kept)


def _recall(
  it: _Member, state: TrainState, record: Any, source: Any, split: str
) -> Score:
  kept, net_state, _ = record
  net_state = net_state if jax.tree.leaves(kept) else state.net
  w = _params_for(it, state, record)
  return it.recipe.problem.score(w, net_state, source, split)


def of_task(problem: Problem, hyper: Hyper, source: Any, phase: int) -> Hyper:
  """Each task, and each phase of it, has a seed of its own.

  Args:
    problem: what is learned.
    hyper: of the member.
    source: of the task.
    phase: 0 in training, 1 in retraining, 2 at the task's end, 3 after that, 4
      where a net's averages are made anew: a mask's are then the same when it
      is tried as when it is kept.

  Returns:
    The same hyperparameters with another seed.
  """
  key = jax.random.fold_in(jax.random.key(hyper.seed), problem.task(source))
  bits = jax.random.bits(jax.random.fold_in(key, phase), (), jnp.uint32)
  return hyper._replace(seed=bits)


def _averaged(
  recipe: Recipe,
  w: Params,
  net_state: Any,
  hyper: Hyper,
  source: Any,
  examples: int,
) -> Any:
  """The net's own state as it is for w; see `train.averaged`."""
  key = jax.random.key(of_task(recipe.problem, hyper, source, 4).seed)
  return train.averaged(recipe, w, net_state, key, source, examples)


def ending(
  recipe: Recipe,
  psi: Psi,
  state: TrainState,
  hyper: Hyper,
  source: Any,
  phase: int,
) -> Ending:
  """What a method sees at the end of a task.

  Args:
    recipe: of the training.
    psi: of the training.
    state: after the task's last step.
    hyper: of the member.
    source: of the task.
    phase: 2 or 3, of `of_task`.

  Returns:
    An ending; its functions are the problem's, at the state's net.
  """
  problem, net = recipe.problem, state.net
  key = jax.random.key(of_task(problem, hyper, source, phase).seed)

  def score(w, examples=0):
    own = _averaged(recipe, w, net, hyper, source, examples)
    return problem.score(w, own, source, 'validation').value

  return Ending(
    key=jax.random.fold_in(key, 0),
    task=problem.task(source),
    psi=psi.at(state.opt),
    batch=functools.partial(problem.batch, source),
    sizes={
      split: problem.size(source, split) for split in ('train', 'validation')
    },
    score=score,
    least=problem.least,
    log_likelihood=lambda w, *rest: problem.log_likelihood(w, net, *rest),
    outputs=lambda w, batch: problem.outputs(w, net, batch),
    recalled=lambda batch: problem.recalled(batch, source),
    fresh=lambda: _anew(recipe, key)[0],
    augment=problem.augment or (lambda key, batch: batch),
    activations=lambda w, batch: problem.activations(w, net, batch),
    coefficient=hyper.coefficient,
  )


def _anew(recipe: Recipe, key: jax.Array) -> tuple[Params, Any]:
  """θ and the net's state, drawn anew; the key is that of an ending."""
  bits = jax.random.bits(jax.random.fold_in(key, 1), (), jnp.uint32)
  return train.initial_theta(recipe, bits)
