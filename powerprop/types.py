"""The core types. Imports jax only."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax

# A pytree of arrays: φ, θ, gradients, masks. Structure is the caller's.
Params: TypeAlias = Any
Updates: TypeAlias = Any
# α ≥ 1: a Python number is static (compiled in), an array is traced.
Alpha: TypeAlias = float | jax.Array
Schedule: TypeAlias = Callable[[jax.Array], jax.Array]
# `where(path, leaf)`: does this leaf live under Ψ? `path` is 'module/name'.
Where: TypeAlias = Callable[[str, Any], bool]


class Hyper(NamedTuple):
  """What differs between the members of a population; all may be traced.

  Attributes:
    seed: int32, decides the initial θ and the order of the batches.
    alpha: the power α ≥ 1 (at the start, where a transform adapts it).
    learning_rate: float ≥ 0, the inner optimiser's.
    coefficient: float ≥ 0, what the method's penalty is multiplied by.
  """

  seed: Any
  alpha: Any
  learning_rate: Any
  coefficient: Any = 0.0


class Work(NamedTuple):
  """What a net costs, relative to the dense one; float32 scalars.

  Attributes:
    density: share of the governed weights in the forward pass.
    forward: FLOPs of a forward pass.
    backward: FLOPs of a forward pass over the weights that are updated.
    training: FLOPs of a training step, the mean of all steps so far.
  """

  density: jax.Array
  forward: jax.Array
  backward: jax.Array
  training: jax.Array


class TrainState(NamedTuple):
  """Everything that a training needs to go on, for one member.

  Attributes:
    phi: stored parameters φ.
    net: the net's own state (moving averages), {} where it has none.
    opt: the optimiser's state; it also says which α φ is to be read with.
    method: the method's state, its masks among it; () when dense.
    work: what the net costs, and what its training has cost.
    step: int32, the number of steps done.
    finite: bool, whether every loss so far was finite.
  """

  phi: Params
  net: Any
  opt: Any
  method: Any
  work: Work
  step: jax.Array
  finite: jax.Array


class Masks(NamedTuple):
  """Which weights take part, by layer path; layers without an entry are dense.

  Attributes:
    forward: bool arrays, the set A that the forward pass uses.
    backward: bool arrays, the set B ⊇ A that is updated.
  """

  forward: dict[str, jax.Array]
  backward: dict[str, jax.Array]


class Event(NamedTuple):
  """What a method sees when its masks are due for a change.

  Attributes:
    key: a random key of this step.
    step: int32, the step that is being done, from 0.
    phi: stored parameters φ.
    alpha: the α that φ is to be read with.
    opt: the optimiser's state.
    dense: ∂L/∂w of this step's batch, for all weights, masked ones as well.
    reset: (opt, φ, {path: bool array}) -> opt with the moments of those
      weights set to what they are at the start; None is all of them.
    coefficient: what the method's penalty is multiplied by.
  """

  key: jax.Array
  step: jax.Array
  phi: Params
  alpha: Alpha
  opt: Any
  dense: Params
  reset: Callable[[Any, Params, dict[str, jax.Array] | None], Any]
  coefficient: Any = 0.0


class Examples(NamedTuple):
  """Labelled pictures of one task, as a method sees them.

  Attributes:
    image: uint8 [B, H, W, C].
    label: int32 [B], the outputs that are right.
    visible: bool [outputs], those that take part; [B, outputs] where the
      examples are of several tasks.
  """

  image: jax.Array
  label: jax.Array
  visible: jax.Array


class Ending(NamedTuple):
  """What a method sees at the end of a task.

  Attributes:
    key: a random key of this member and task.
    task: int32, the task's number from 0.
    alpha: the α that φ is to be read with.
    examples: (split, rows) -> Examples of this task; split is 'train' or
      'validation', rows int32 [B] in [0, the task's number of them).
    sizes: by split, int32, the task's number of examples.
    apply: (w, Examples) -> logits, as in evaluation; −inf where not visible.
    accuracy: w -> share of the validation examples that are right.
    fresh: () -> θ, drawn anew by the net's own law.
  """

  key: jax.Array
  task: jax.Array
  alpha: Alpha
  examples: Callable[[str, jax.Array], Examples]
  sizes: dict[str, jax.Array]
  apply: Callable[[Params, Examples], jax.Array]
  accuracy: Callable[[Params], jax.Array]
  fresh: Callable[[], Params]


class Method(NamedTuple):
  """A way to train a net on one task or on several, as pure functions.

  `powerprop.methods.masked` fills in what a method does not care for.

  Attributes:
    init: (key, phi, alpha, gradient) -> (phi, state). `gradient(theta)` is
      ∂L/∂θ on a training batch.
    masks: state -> Masks.
    weights: (theta, state) -> w, what the forward pass sees.
    gradients: (dense, theta, state) -> ∂L/∂θ, what the optimiser sees.
    constrain: (tree, state) -> the tree with zeros for all that is not to
      move. It is called with updates, and with φ: what the optimiser sees as
      its params.
    observe: (dense, state) -> state, at every step, before all else.
    due: step -> bool: whether `update` runs at this step; None is never. It
      must not depend on anything but the step.
    update: (Event, state) -> (phi, opt, state), after the optimiser's update.
    replaces_step: whether `update` runs instead of the optimiser's update.
    progress: step -> (forward, backward), the shares in [0, 1] of the way
      from dense to the target that both masks have gone when the step begins.
    cost: (forward, backward, due) -> training FLOPs of an example. `forward`
      and `backward` are the FLOPs of a forward pass over A and over B; both
      relative to the dense forward pass, as is what comes out: 3 when dense.
    clock: step -> step for the learning rate's schedule.
    where: which leaves live under Ψ, as the brief has it.

  What several tasks need; the rest may leave it out:

  Attributes:
    penalty: (params, state) -> scalar that the training's coefficient times
      is added to the loss; None is none.
    space: 'theta' or 'phi': which parameters the penalty is of.
    memory: (state, key) -> Examples to rehearse; None is none.
    rehearse: (dense, remembered, state) -> dense, from the gradients on the
      batch and on the memory's examples.
    track: (dense, before, after, state) -> state, with θ before and after the
      optimiser's update; None looks away.
    expected: (theta, state) -> w to evaluate in mid-training, where `weights`
      are drawn at random; None is `weights`.
    end_task: (Ending, phi, state) -> (phi, state, report), after the last step
      of a task; the report is a dict of arrays of the same shapes every time.
    retraining: how to train on, under the new masks, before `archive`; None is
      not at all. Its state is this method's.
    archive: (Ending, phi, state) -> (phi, state, record): makes ready for the
      next task, and gives what is kept of this one: arrays of the same shapes
      for all tasks.
    predict: (theta, record) -> w of the task whose record it is.
    joint: whether batches come from all tasks so far.
  """

  init: Callable[..., tuple[Params, Any]]
  masks: Callable[[Any], Masks]
  weights: Callable[[Params, Any], Params]
  gradients: Callable[[Updates, Params, Any], Updates]
  constrain: Callable[[Updates, Any], Updates]
  observe: Callable[[Updates, Any], Any]
  due: Callable[[jax.Array], jax.Array] | None
  update: Callable[[Event, Any], tuple[Params, Any, Any]]
  replaces_step: bool
  progress: Callable[[jax.Array], tuple[Any, Any]]
  cost: Callable[[Any, Any, Any], Any]
  clock: Callable[[jax.Array], jax.Array]
  where: Where
  penalty: Callable[[Params, Any], jax.Array] | None = None
  space: str = 'theta'
  memory: Callable[[Any, jax.Array], Examples] | None = None
  rehearse: Callable[..., Updates] = lambda dense, remembered, state: dense
  track: Callable[..., Any] | None = None
  expected: Callable[[Params, Any], Params] | None = None
  end_task: Callable[..., Any] = lambda ending, phi, state: (phi, state, {})
  retraining: Any = None
  archive: Callable[..., Any] = lambda ending, phi, state: (phi, state, ())
  predict: Callable[[Params, Any], Params] = lambda theta, record: theta
  joint: bool = False
